"""Trust by temporal differences (arXiv 2312.09950, Eq. 4, 5 and 8): one value per asker and adviser."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_TARGET = 1e30
"""Larger targets are ignored: the mean of a batch of them may be infinite in float32."""


def targets(rewards: Tensor, terminated: Tensor, gamma: Tensor, next_value: Tensor, value: Tensor | None) -> Tensor:
    """TD targets `r + gamma (1 - terminated) V(s')` of following an adviser, minus the asker's own `V(s)` if `value` is
    given (Eq. 8). All are `[M, B]`, `gamma [M, 1]`.
    """
    target = rewards + gamma * (1 - terminated) * next_value
    return target if value is None else target - value


class TDTable:
    """`v_j += alpha (mean target_j - v_j)` for the advisers in a batch; the others keep their value (Eq. 5, 7).

    `values [X, K]`: one row per asker for trust, one row per replica for agent values. `lr` is alpha, in (0, 1].
    """

    def __init__(
        self, rows: int, n_advisers: int, initial: float, lr: float, like: Tensor, *, errors: bool = False
    ) -> None:
        self.values = torch.full((rows, n_advisers), initial, device=like.device, dtype=like.dtype)
        self.lr = lr
        self.evidence: dict[str, Tensor] = {}
        """Only with `errors`: `means [3, X, K]`, the exponential averages of 1, of the targets and of their squares,
        and `spread [X, K]`, the variance of the second one for targets with variance 1."""
        if errors:
            self.evidence = {"means": self.values.new_zeros(3, rows, n_advisers)}
            self.evidence["spread"] = torch.zeros_like(self.values)
        self.advisers = torch.arange(n_advisers, device=like.device)

    def update(self, target: Tensor, adviser: Tensor, valid: Tensor) -> None:
        """Make one update for each of `U` batches, in order: `target, adviser, valid [X, U, B]`.

        `adviser` is the index of the adviser that was followed. Samples that are not `valid` or whose target is beyond
        `MAX_TARGET`, because the asker has diverged, do not count, so that values stay finite.
        """
        valid = valid & (target.abs() <= MAX_TARGET)
        one_hot = ((adviser.unsqueeze(-1) == self.advisers) & valid.unsqueeze(-1)).to(target.dtype)  # [X, U, B, K]
        count = one_hot.sum(dim=2)  # [X, U, K]
        total = (torch.where(valid, target, 0.0).unsqueeze(-1) * one_hot).sum(dim=2)
        mean = total / count.clamp(min=1)
        weight = self.lr * (count > 0).to(mean.dtype)
        if self.evidence:
            squares = (torch.where(valid, target, 0.0).square().unsqueeze(-1) * one_hot).sum(dim=2)
            self._collect(mean, squares / count.clamp(min=1), count, weight)
        for batch_mean, batch_weight in zip(mean.unbind(1), weight.unbind(1)):
            self.values = self.values.lerp(batch_mean, batch_weight)

    def _collect(self, mean: Tensor, square: Tensor, count: Tensor, weight: Tensor) -> None:
        """Update the averages with `U` batches of targets: their means, mean squares, numbers and weights,
        `[X, U, K]`."""
        new = torch.stack((torch.ones_like(mean), mean, square))  # [3, X, U, K]
        kept, added = (1 - weight).square(), weight.square() / count.clamp(min=1)
        means, spread = self.evidence["means"], self.evidence["spread"]
        for batch, w, k, a in zip(new.unbind(2), weight.unbind(1), kept.unbind(1), added.unbind(1)):
            means = means.lerp(batch, w.expand_as(batch))
            spread = torch.addcmul(a, k, spread)
        self.evidence = {"means": means, "spread": spread}

    def estimates(self) -> tuple[Tensor, Tensor]:
        """The mean target of each adviser without the initial value, `first / mass`, and its standard error,
        `sqrt(variance * spread) / mass`, `[X, K]`. Unknown (not finite) for an adviser that was never followed."""
        mass, first, second = self.evidence["means"]
        mean = first / mass
        variance = (second / mass - mean.square()).clamp(min=0)
        return mean, (variance * self.evidence["spread"]).sqrt() / mass
