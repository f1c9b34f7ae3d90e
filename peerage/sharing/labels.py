"""Labels: the suggestions that members imitate (--imitate).

Who acts and who is asked for a label are two decisions. When a member chooses an adviser to follow, it also selects the
adviser that it imitates until its next choice, which may differ from the one that it follows. Equations:
docs/methods/imitation.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

UNKNOWN = -1.0
"""The weight of a label where there is none."""


class Labels:
    """The adviser that each of `M` members imitates, `adviser [M]`, and the weights of its suggestions, `weight [M]`,
    both on the host: how sure trust is, from 0 to 1, that the adviser is better than the member; -1 if this is not
    known. A member that imitates no adviser has its own number.

    `myself [M]` is each member's own number among the advisers; members that do not imitate (`imitates [M]`, bool) get
    no labels.
    """

    def __init__(self, myself: np.ndarray, imitates: np.ndarray) -> None:
        self.myself, self.imitates, self.rows = myself, imitates, np.arange(len(myself))
        self.adviser = myself.copy()
        self.weight = np.full(len(myself), UNKNOWN)
        self.changed = True
        """Whether `adviser` or `weight` has changed since a reader set this to False."""

    def choose(self, mean: Tensor, error: Tensor, due: np.ndarray) -> None:
        """The members `due [M]` (bool) select an adviser: the one with the highest lower bound `mean - error`, except
        themselves. `mean, error [M, K]`: the estimated value of following each adviser and its standard error; values
        that are not finite are unknown.

        The weight is the probability that this adviser is better than the member itself, if both estimates are
        independent and normally distributed; 0 if it is at most 1/2.
        """
        with np.errstate(invalid="ignore"):
            lower = (mean - error).double().cpu().numpy()
        values, errors = mean.double().cpu().numpy(), error.double().cpu().numpy()
        known = np.isfinite(lower)
        lower = np.where(known, lower, -np.inf)
        lower[self.rows, self.myself] = -np.inf
        best = lower.argmax(axis=1)
        usable = self.imitates & known[self.rows, best] & known[self.rows, self.myself] & (best != self.myself)
        weight = np.full(len(best), UNKNOWN)
        gap = values[self.rows, best] - values[self.rows, self.myself]
        spread = np.hypot(errors[self.rows, best], errors[self.rows, self.myself])
        weight[usable] = sureness(gap[usable], spread[usable])
        self.adviser = np.where(due, np.where(weight > 0, best, self.myself), self.adviser)
        self.weight = np.where(due, weight, self.weight)
        self.changed = True

    def clear(self, who: np.ndarray) -> None:
        """The members `who [M]` (bool) follow themselves without a choice, and get no labels."""
        self.adviser = np.where(who, self.myself, self.adviser)
        self.weight = np.where(who, UNKNOWN, self.weight)
        self.changed = True

    @property
    def asked(self) -> np.ndarray:
        """The adviser that each member asks for a label, `[M]`; -1: none."""
        return np.where(self.weight > 0, self.adviser, -1)

    def state(self) -> dict[str, Any]:
        return {"adviser": torch.as_tensor(self.adviser), "weight": torch.as_tensor(self.weight)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.adviser, self.weight = (state[name].cpu().numpy().copy() for name in ("adviser", "weight"))
        self.changed = True


def sureness(gap: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """`Phi(gap / spread)`, the probability that a normally distributed number with this mean and standard deviation is
    positive; 0 where it is at most 1/2. 1 for a `spread` of 0 and a positive gap."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(gap > 0, gap / spread, -np.inf)
    return torch.special.ndtr(torch.from_numpy(z)).numpy()
