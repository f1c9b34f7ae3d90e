"""`checkpoint:PATH[:MEMBER]` for a member that acts for a target return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from peerage.errors import UserError
from peerage.learners.transition import HostTransition
from peerage.sharing.adviser import Adviser


class Targeted(Adviser):
    """The actions of a trained member for the largest return of its data. It follows every asker's episode, with the
    actions that were executed, whoever suggested them; returns-to-go stay within the data's range at each timestep.

    `learner` has one row and implements `conditioned`. Raises UserError if the returns of its data are unknown.
    """

    shared = True

    def __init__(self, learner: Any, discrete: bool, word: str) -> None:
        self.learner, self.discrete = learner, discrete
        self.episodes = learner.conditioned(1, clip=True)
        if not len(self.episodes.preprocessing.returns):
            raise UserError(f"{word} acts for a target return, but the returns of its data are unknown")

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
            before, self.episodes = self.episodes, self.learner.conditioned(needed, clip=True)
            self.episodes.begin(np.arange(needed), self.episodes.preprocessing.largest)
            self.episodes.take(before)
        self.episodes.begin(rows[first], self.episodes.preprocessing.largest)

    def state(self) -> dict[str, Any]:
        """The episodes, and the parameters, because the file that they were loaded from may have changed when the run
        is resumed."""
        return {"parameters": self.learner.parameters(), "episodes": self.episodes.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        saved = state["parameters"]
        for name, values in self.learner.parameters().items():
            if name not in saved or values.shape != saved[name].shape:
                raise UserError(f"the adviser's checkpoint changed since the run was started: {name} differs")
        self.learner.load_parameters(saved)
        self.episodes = self.learner.conditioned(len(state["episodes"]["lengths"]), clip=True)
        self.episodes.load_state(state["episodes"])
