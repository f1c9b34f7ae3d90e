"""The critic term (arXiv 2312.09950, Eq. 3): the asker's own Q-values of the suggestions."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class HasActionValue(Protocol):
    """An object with Q-functions, such as `peerage.learners.group.Group`."""

    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor: ...


def critic_values(group: HasActionValue, obs: Tensor, suggestions: Tensor) -> Tensor:
    """`v^C_ij = min_k Q_i^k(s, a_ij)`: `obs [M, obs]`, `suggestions [M, K, act]` -> `[M, K]`. DQN has one Q."""
    n_advisers = suggestions.shape[1]
    return group.action_value(obs.unsqueeze(1).expand(-1, n_advisers, -1), suggestions)
