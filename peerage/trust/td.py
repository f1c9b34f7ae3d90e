"""Trust by temporal differences (arXiv 2312.09950, Eq. 4, 5 and 8): one value per asker and adviser."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_TARGET = 1e30
"""The mean of a batch of larger targets may be infinite in float32."""


def targets(rewards: Tensor, terminated: Tensor, gamma: Tensor, next_value: Tensor, value: Tensor | None) -> Tensor:
    """What following an adviser was worth, all `[M, B]` (`gamma [M, 1]`).

    `r + gamma (1 - terminated) V(s')`; with `value` the advantage over the asker's own `V(s)` (Eq. 8). Nothing is
    bootstrapped past a terminal state.
    """
    target = rewards + gamma * (1 - terminated) * next_value
    return target if value is None else target - value


class TDTable:
    """`v_j += alpha (mean target_j - v_j)` for the advisers in the batch; the others keep their value (Eq. 5, 7).

    `values [X, K]`: a row per asker for trust, a row per replica for agent values. `lr` is alpha, in (0, 1].
    """

    def __init__(self, rows: int, n_advisers: int, initial: float, lr: float, like: Tensor) -> None:
        self.values = torch.full((rows, n_advisers), initial, device=like.device, dtype=like.dtype)
        self.lr = lr
        self.advisers = torch.arange(n_advisers, device=like.device)

    def update(self, target: Tensor, adviser: Tensor, valid: Tensor) -> None:
        """One update after the other for each of `U` batches. `target, adviser, valid [X, U, B]`: what was gained,
        whom it was gained with (index), and whether the sample counts. A target beyond `MAX_TARGET` (its asker has
        diverged) does not: no table ever holds what is not finite."""
        valid = valid & (target.abs() <= MAX_TARGET)
        one_hot = ((adviser.unsqueeze(-1) == self.advisers) & valid.unsqueeze(-1)).to(target.dtype)  # [X, U, B, K]
        count = one_hot.sum(dim=2)  # [X, U, K]
        total = (torch.where(valid, target, 0.0).unsqueeze(-1) * one_hot).sum(dim=2)
        mean = total / count.clamp(min=1)
        weight = self.lr * (count > 0).to(mean.dtype)
        for batch_mean, batch_weight in zip(mean.unbind(1), weight.unbind(1)):
            self.values = self.values.lerp(batch_mean, batch_weight)
