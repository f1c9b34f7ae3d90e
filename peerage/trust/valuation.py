"""The value of finished decisions according to the members' current critics.

A decision of member `i` in state `s` that followed adviser `j` for `n` steps has the advantage
`A = sum_k gamma^k r_k + gamma^n V_i(s_n) - V_i(s)`. The critic term of every suggestion `a_k` in that state is
`Q_i(s, a_k) - V_i(s)`. Both change when the critics learn, so they are recomputed regularly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.group import Group
from peerage.trust.critic import critic_values
from peerage.trust.decisions import Decisions, pad

VALUED_AT_ONCE = 65_536  # suggestions of a replica in one call of the critics
ARRAYS = ("advantage", "critic", "agreement", "valued", "scale")


class Valuation:
    """`advantage [M, C]`, `critic [M, C, K]` and `agreement [M, C, K]` of the finished decisions, in the places of
    `decisions.kept`, and `scale [M]`: the root mean square of a member's latest advantages."""

    def __init__(self, decisions: Decisions, group: Group) -> None:
        members, capacity, n_advisers = decisions.M, decisions.capacity, decisions.K
        self.decisions, self.group = decisions, group
        self.advantage = np.zeros((members, capacity))
        self.critic = np.zeros((members, capacity, n_advisers))
        self.agreement = np.zeros((members, capacity, n_advisers))
        self.valued = np.zeros(members, np.int64)  # decisions that have been valued, since the start
        self.scale = np.ones(members)

    @torch.no_grad()
    def update(self, last: int, who: np.ndarray) -> None:
        """Value the `last` finished decisions of the members `who [M]` (bool) with their current critics."""
        last = min(last, self.decisions.capacity)
        # The batch size may change the last bits of a product, so it must not depend on the number of replicas.
        batch = max(8, VALUED_AT_ONCE // (self.decisions.N * self.decisions.K))
        for first in range(0, last, batch):
            self._update(np.arange(first, min(first + batch, last)), who)
        self.valued[who] = self.decisions.count[who]

    def _update(self, ages: np.ndarray, who: np.ndarray) -> None:
        """Value the decisions of some `ages [n]` (0: the latest)."""
        d, n = self.decisions, len(ages)
        like: dict[str, Any] = {"device": self.group.device, "dtype": self.group.dtype}
        rows, slots = np.arange(d.M)[:, None], (d.count[:, None] - 1 - ages) % d.capacity  # [M, n]
        kept = {name: d.kept[name][rows, slots] for name in ("obs", "end", "suggestions", "followed")}
        obs, end, suggestions = (torch.as_tensor(kept[name], **like) for name in ("obs", "end", "suggestions"))
        both = self.group.state_value(torch.cat((obs, end), dim=1), None).cpu().numpy()
        value, end_value = both[:, :n], both[:, n:]
        discount = d.kept["discount"][rows, slots]
        with np.errstate(invalid="ignore"):  # the value of a terminal state is not used, even if it is infinite
            later = np.where(discount > 0, discount * end_value, 0.0)
        due = who[:, None] & (ages < d.count[:, None])
        at = np.broadcast_to(rows, due.shape)[due], slots[due]
        with np.errstate(invalid="ignore"):  # a diverged critic may give infinite values
            self.advantage[at] = zero_if_not_finite(d.kept["reward"][rows, slots] + later - value)[due]
        self.critic[at] = self.critic_advantage(obs, suggestions, value)[due]
        self.agreement[at] = self._agreement(kept["suggestions"], kept["followed"])[due]

    def critic_advantage(self, obs: Tensor, suggestions: Tensor, value: np.ndarray) -> np.ndarray:
        """`Q(s, a_k) - V(s)`, zeros for a group without Q-functions: `obs [M, n, obs]`, `suggestions
        [M, n, K, act]`, `value [M, n]` -> `[M, n, K]`."""
        if not self.group.has_action_value:
            return np.zeros(suggestions.shape[:3])
        if obs.shape[1] == 1:
            # As K states with one action each: a forward pass of a single state has other last bits than one of K.
            q = critic_values(self.group, obs[:, 0], suggestions[:, 0]).unsqueeze(1)
        else:
            q = self.group.action_values(obs, suggestions)
        with np.errstate(invalid="ignore"):  # a diverged critic may give infinite values
            return zero_if_not_finite(q.cpu().numpy() - value[..., None])

    def _agreement(self, suggestions: np.ndarray, followed: np.ndarray) -> np.ndarray:
        """The similarity of each suggestion to the one that was followed: 1 for the same action, decreasing to 0 with
        the distance. `suggestions [..., K, act]`, `followed [...]` -> `[..., K]`."""
        taken = np.take_along_axis(suggestions, followed[..., None, None], axis=-2)  # [..., 1, act]
        space = self.group.space
        if space.discrete:
            return (suggestions == taken)[..., 0].astype(np.float64)
        assert space.low is not None and space.high is not None
        return np.exp(-4 * np.abs((suggestions - taken) / (space.high - space.low)).mean(-1))

    def measure_scale(self, last: int) -> None:
        """Compute `scale` from the `last` finished decisions of each member. It is 1 before there are any."""
        d = self.decisions
        n = min(last, d.capacity)
        rows, slots = np.arange(d.M)[:, None], (d.count[:, None] - 1 - np.arange(n)) % d.capacity
        known = np.arange(n) < d.count[:, None]
        squares = np.where(known, self.advantage[rows, slots] ** 2, 0).sum(1) / np.maximum(known.sum(1), 1)
        self.scale = np.where(d.count > 0, np.sqrt(squares) + 1e-6, 1.0)

    def state(self) -> dict[str, Any]:
        return {name: torch.as_tensor(getattr(self, name)) for name in ARRAYS}

    def load_state(self, state: dict[str, Any]) -> None:
        for name in ARRAYS:
            setattr(self, name, state[name].cpu().numpy().copy())

    def enlarged(self, state: dict[str, Any]) -> dict[str, Any]:
        """A `state` of a smaller capacity with that of `decisions`."""
        per_decision = ("advantage", "critic", "agreement")
        return {name: pad(x, self.decisions.capacity) if name in per_decision else x for name, x in state.items()}


def zero_if_not_finite(x: np.ndarray) -> np.ndarray:
    """`x`, with 0 in place of infinite values and NaN."""
    return np.where(np.isfinite(x), x, 0.0)
