"""`dt:FOLDER[:MEMBER][@TARGET]`: a Decision Transformer as a fixed adviser.

One object serves the askers of all replicas with one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.offline.context import Conditioned
from peerage.offline.model import SequenceModel
from peerage.offline.preprocessing import Preprocessing
from peerage.sharing.targeted import TargetAdviser, check_length, network_settings, refuse_other_network
from peerage.text import count


class DecisionTransformer(TargetAdviser):
    """The actions of `model` for the return `target`; by default the largest return of its data.

    Raises UserError for a model that does not fit the environment, and for a model without a target that does not know
    the returns of its data. `word` is the name in messages.
    """

    def __init__(self, model: SequenceModel, spec: Spec, target: float | None, word: str = "dt") -> None:
        self.model = model
        check_spaces(model, spec, word)
        if target is None and not len(model.preprocessing.returns):
            raise UserError(f"{word}: the returns of its data are unknown; write its target return, as in {word}@1000")
        super().__init__(spec.discrete, model.preprocessing.largest if target is None else target)

    def conditioned(self, n: int) -> Conditioned:
        return self.model.contexts(n, clip=True)

    def state(self) -> dict[str, Any]:
        """The episodes, and the model, because the folder that it was loaded from may have changed when the run is
        resumed."""
        prepared = self.model.preprocessing
        return {
            "parameters": self.model.net.flat,
            "settings": network_settings(self.model.net),
            "preprocessing": {each.name: getattr(prepared, each.name) for each in fields(prepared)},
            "target": self.target,
            "episodes": self.episodes.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        refuse_other_network(self.model.net, state)
        flat = torch.as_tensor(state["parameters"])
        if flat.shape != self.model.net.flat.shape:
            raise UserError("the Decision Transformer changed since the run was started: its network has another size")
        self.model.net.flat.copy_(flat)
        self.model = replace(self.model, preprocessing=Preprocessing(**state["preprocessing"]))
        self.target = float(state["target"])
        self.load_episodes(state["episodes"])


def check_spaces(model: SequenceModel, spec: Spec, word: str) -> None:
    """Raise UserError, which begins with `word` and names both sides, if a model cannot act in an environment."""
    prepared = model.preprocessing
    theirs = _sizes(prepared.obs_dim, prepared.n_actions, prepared.act_dim)
    ours = _sizes(spec.obs_dim, spec.n_actions, spec.act_dim)
    if theirs != ours:
        raise UserError(f"{word} was trained with {theirs}; {spec.id} has {ours}")
    pairs = ((prepared.low, spec.action_low), (prepared.high, spec.action_high))
    if prepared.bounded and not all(np.allclose(there, here) for there, here in pairs):
        there, here = (f"{low.min():g} to {high.max():g}" for low, high in zip(*pairs))
        raise UserError(f"{word} was trained with actions bounded by {there}; {spec.id} has bounds {here}")
    check_length(model.net.settings.max_ep_len, spec, word, endless=True)


def _sizes(obs: int, n_actions: int, act: int) -> str:
    actions = f"{n_actions} discrete actions" if n_actions else f"Box({act}) actions"
    return f"observations of {count(obs, 'number')} and {actions}"
