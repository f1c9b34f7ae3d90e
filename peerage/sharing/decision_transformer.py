"""`dt:FOLDER[:MEMBER][@TARGET]`: a Decision Transformer as a fixed adviser.

It remembers the last steps of every asker, with the actions that were executed, whichever adviser was followed, and the
rewards that were earned. One object serves the askers of all replicas with one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.learners.transition import HostTransition
from peerage.offline.context import Contexts
from peerage.offline.model import SequenceModel
from peerage.offline.preprocessing import Preprocessing
from peerage.sharing.adviser import Adviser


class DecisionTransformer(Adviser):
    """The actions of `model` for the return `target`; by default the largest return of its data.

    The model gets returns-to-go within the data's range at each timestep, because an asker that follows others may earn
    more or less than any episode of the data. Raises UserError for a model that does not fit the environment, and for
    a model without a target that does not know the returns of its data. `word` is the name in messages.
    """

    shared = True

    def __init__(self, model: SequenceModel, spec: Spec, target: float | None, word: str = "dt") -> None:
        self.model, self.discrete = model, spec.discrete
        check_spaces(model, spec, word)
        if target is None and not len(model.preprocessing.returns):
            raise UserError(f"{word}: the returns of its data are unknown; write its target return, as in {word}@1000")
        self.target = model.preprocessing.largest if target is None else target
        self.contexts = model.contexts(0, clip=True)

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        contexts = self._for(rows)
        contexts.begin(rows[first], self.target)
        actions = contexts.act(obs, rows)
        return actions[:, 0].astype(np.int64) if self.discrete else actions

    def observe(self, transition: HostTransition, rows: np.ndarray) -> None:
        contexts = self._for(rows)
        contexts.begin(rows[transition.first], self.target)
        contexts.observe(transition.obs, transition.actions, transition.rewards, transition.done, rows)

    def _for(self, rows: np.ndarray) -> Contexts:
        """The windows, with room for `rows`."""
        if len(rows) and (needed := int(rows.max()) + 1) > self.contexts.n:
            larger = self.model.contexts(needed, clip=True)
            larger.begin(np.arange(needed), self.target)
            larger.take(self.contexts)
            self.contexts = larger
        return self.contexts

    def state(self) -> dict[str, Any]:
        """The windows, and the model, because the folder that it was loaded from may have changed when the run is
        resumed."""
        prepared = self.model.preprocessing
        return {
            "parameters": self.model.net.flat,
            "preprocessing": {each.name: getattr(prepared, each.name) for each in fields(prepared)},
            "target": self.target,
            "contexts": self.contexts.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        flat = torch.as_tensor(state["parameters"])
        if flat.shape != self.model.net.flat.shape:
            raise UserError("the Decision Transformer changed since the run was started: its network has another size")
        self.model.net.flat.copy_(flat)
        self.model = replace(self.model, preprocessing=Preprocessing(**state["preprocessing"]))
        self.target = float(state["target"])
        self.contexts = self.model.contexts(len(state["contexts"]["lengths"]), clip=True)
        self.contexts.load_state(state["contexts"])


def check_spaces(model: SequenceModel, spec: Spec, word: str) -> None:
    """Raise UserError, which begins with `word` and names both sides, if a model cannot act in an environment."""
    prepared, length = model.preprocessing, model.net.settings.max_ep_len
    theirs = _sizes(prepared.obs_dim, prepared.n_actions, prepared.act_dim)
    ours = _sizes(spec.obs_dim, spec.n_actions, spec.act_dim)
    if theirs != ours:
        raise UserError(f"{word} was trained with {theirs}; {spec.id} has {ours}")
    pairs = ((prepared.low, spec.action_low), (prepared.high, spec.action_high))
    if prepared.bounded and not all(np.allclose(there, here) for there, here in pairs):
        there, here = (f"{low.min():g} to {high.max():g}" for low, high in zip(*pairs))
        raise UserError(f"{word} was trained with actions bounded by {there}; {spec.id} has bounds {here}")
    if spec.max_episode_steps is not None and spec.max_episode_steps > length:
        raise UserError(
            f"{word} has timesteps for {length:,} steps (max_ep_len), but episodes of {spec.id} have up to "
            f"{spec.max_episode_steps:,}: shorten them with --env-args max_episode_steps={length}"
        )


def _sizes(obs: int, n_actions: int, act: int) -> str:
    return f"{obs} observations and {f'{n_actions} discrete actions' if n_actions else f'Box({act}) actions'}"
