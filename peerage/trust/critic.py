"""The critic term (arXiv 2312.09950, Eq. 3): what the asker's own Q-functions say of each suggestion."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Judge(Protocol):
    """Has Q-functions: `peerage.learners.group.Group`."""

    def action_value(self, obs: Tensor, actions: Tensor) -> Tensor: ...


def critic_values(judge: Judge, obs: Tensor, suggestions: Tensor) -> Tensor:
    """`v^C_ij = min_k Q_i^k(s, a_ij)`: `obs [M, obs]`, `suggestions [M, K, act]` -> `[M, K]`; for DQN the minimum is
    over its one Q-function."""
    n_advisers = suggestions.shape[1]
    return judge.action_value(obs.unsqueeze(1).expand(-1, n_advisers, -1), suggestions)
