"""Advisers that act for a target return and remember the episodes of their askers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.learners.transition import HostTransition
from peerage.nets.gpt import StackedGPT
from peerage.offline.context import Conditioned
from peerage.sharing.adviser import Adviser


class TargetAdviser(Adviser):
    """Base class: the actions of a model for the return `target`. It follows every asker's episode, with the actions
    that were executed and the rewards that were earned, whichever adviser was followed; returns-to-go stay within the
    data's range at each timestep, because an asker that follows others may leave it.

    Subclasses implement `conditioned` and the state of their model.
    """

    shared = True

    def __init__(self, discrete: bool, target: float) -> None:
        self.discrete, self.target = discrete, target
        self.episodes = self.conditioned(0)
        self.max_steps = self.episodes.max_steps

    def conditioned(self, n: int) -> Conditioned:
        """What acts in `n` episodes."""
        raise NotImplementedError

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self._follow(rows, first)
        actions = self.episodes.act(obs, rows)
        return actions[:, 0].astype(np.int64) if self.discrete else actions

    def observe(self, transition: HostTransition, rows: np.ndarray) -> None:
        self._follow(rows, transition.first)
        t = transition
        self.episodes.observe(t.obs, t.actions, t.rewards, t.done, rows)

    def _follow(self, rows: np.ndarray, first: np.ndarray) -> None:
        """Make room for the askers `rows`, and begin the episodes in which this step is the `first`."""
        if len(rows) and (needed := int(rows.max()) + 1) > self.episodes.n:
            before, self.episodes = self.episodes, self.conditioned(needed)
            self.episodes.begin(np.arange(needed), self.target)
            self.episodes.take(before)
        self.episodes.begin(rows[first], self.target)

    def load_episodes(self, state: Mapping[str, Any]) -> None:
        """Restore a `state` of `episodes`."""
        self.episodes = self.conditioned(len(state["lengths"]))
        self.episodes.load_state(state)


class Targeted(TargetAdviser):
    """`checkpoint:PATH[:MEMBER]` for a member that acts for a target return: the largest one of its data.

    `learner` has one row and implements `conditioned`. Raises UserError if the returns of its data are unknown, and if
    it cannot act in all steps of the episodes.
    """

    def __init__(self, learner: Any, spec: Spec, word: str) -> None:
        self.learner = learner
        known = learner.conditioned(1).preprocessing
        if not len(known.returns):
            raise UserError(f"{word} acts for a target return, but the returns of its data are unknown")
        super().__init__(spec.discrete, known.largest)
        check_length(self.max_steps, spec, word, endless=True)

    def conditioned(self, n: int) -> Conditioned:
        found: Conditioned = self.learner.conditioned(n, clip=True)
        return found

    def state(self) -> dict[str, Any]:
        """The episodes, and the parameters, because the file that they were loaded from may have changed when the run
        is resumed."""
        state = {"parameters": self.learner.parameters(), "episodes": self.episodes.state()}
        net = getattr(self.learner, "net", None)
        return {**state, "settings": network_settings(net)} if isinstance(net, StackedGPT) else state

    def load_state(self, state: Mapping[str, Any]) -> None:
        if isinstance(net := getattr(self.learner, "net", None), StackedGPT):
            refuse_other_network(net, state)
        saved = state["parameters"]
        for name, values in self.learner.parameters().items():
            if name not in saved or values.shape != saved[name].shape:
                raise UserError(f"the adviser's checkpoint changed since the run was started: {name} differs")
        self.learner.load_parameters(saved)
        self.target = self.learner.conditioned(1).preprocessing.largest  # of the loaded parameters
        self.load_episodes(state["episodes"])


def check_length(longest: int | None, spec: Spec, word: str, *, endless: bool = False) -> None:
    """Raise UserError, which begins with `word`, if episodes of an environment can have more than `longest` steps
    (None: any number is possible). With `endless`, an environment without a time limit is accepted."""
    limit = spec.max_episode_steps
    if longest is None or (endless if limit is None else limit <= longest):
        return
    theirs = f"{spec.id} has no time limit" if limit is None else f"episodes of {spec.id} have up to {limit:,}"
    raise UserError(
        f"{word} has timesteps for {longest:,} steps (max_ep_len), but {theirs}: shorten its episodes with --env-args "
        f"max_episode_steps={longest}"
    )


def network_settings(net: StackedGPT) -> dict[str, Any]:
    """What determines the actions of a network besides its parameters."""
    return {**asdict(net.settings), "tanh": net.tanh}


def refuse_other_network(net: StackedGPT, state: Mapping[str, Any]) -> None:
    """Raise UserError if a `state` with `network_settings` is that of another network. Older states have no settings;
    dropout has no effect on actions."""
    own = network_settings(net)
    for name, saved in state.get("settings", {}).items():
        if name != "dropout" and own[name] != saved:
            raise UserError(
                f"the Decision Transformer of an adviser changed since the run was started: its {name} was {saved} "
                f"and is now {own[name]}"
            )
