"""The last transitions of all members, independent of the learners' buffers. Trust learns from them, and they are saved
for debugging when a member diverges."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from peerage.append_buffer import AppendBuffer
from peerage.learners.transition import Transition

PORTION = 16
"""Number of transitions that are packed at once. Packing them one by one takes ten times as long."""


class Recent(NamedTuple):
    """A batch of recent transitions of every member."""

    obs: Tensor  # [M, B, obs]
    actions: Tensor  # [M, B, act], in the environment's units
    rewards: Tensor  # [M, B]
    next_obs: Tensor  # [M, B, obs]
    terminated: Tensor  # [M, B]
    followed: Tensor  # long [M, B]


class RecentTransitions:
    """A ring buffer `data [M, capacity, D]` with a row `obs | action | next_obs | reward | terminated | followed` per
    transition."""

    def __init__(
        self, members: int, capacity: int, obs_dim: int, act_dim: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.members, self.capacity = members, capacity
        self.obs_dim, self.act_dim, self.width = obs_dim, act_dim, 2 * obs_dim + act_dim + 3
        self.data = torch.empty(members, capacity, self.width, device=device, dtype=dtype)
        self.offsets = torch.arange(members, device=device).unsqueeze(1) * capacity
        self.total = 0  # number of transitions of a member that were ever written to `data`
        self.pending: list[Transition] = []  # newer transitions, not in `data` yet

    def add(self, transition: Transition) -> None:
        """Append a transition of every member."""
        self.pending.append(transition)
        if len(self.pending) == min(PORTION, self.capacity):
            self._pack()

    @property
    def size(self) -> int:
        """Number of stored transitions per member."""
        return min(self.total + len(self.pending), self.capacity)

    def gather(self, age: Tensor) -> Recent:
        """The transitions from `age [M, B]` steps ago; 0 is the last one."""
        self._pack()
        index = (self.total - 1 - age) % self.capacity + self.offsets
        rows = self.data.view(-1, self.width).index_select(0, index.view(-1)).view(*age.shape, self.width)
        o, a = self.obs_dim, self.act_dim
        return Recent(
            obs=rows[..., :o],
            actions=rows[..., o : o + a],
            next_obs=rows[..., o + a : 2 * o + a],
            rewards=rows[..., -3],
            terminated=rows[..., -2],
            followed=rows[..., -1].long(),
        )

    def _pack(self) -> None:
        if not self.pending:
            return
        steps = [
            torch.cat(
                (t.obs, t.actions, t.next_obs, t.rewards[:, None], t.terminated[:, None], t.followed[:, None]), dim=1
            )
            for t in self.pending
        ]
        slots = torch.arange(self.total, self.total + len(steps), device=self.data.device) % self.capacity
        self.data[:, slots] = torch.stack(steps, dim=1)
        self.total += len(steps)
        self.pending = []

    def state(self) -> dict[str, Any]:
        self._pack()
        return {"data": AppendBuffer(self.total - self.size, self.total, self._read)}

    def load_state(self, state: dict[str, Any]) -> None:
        entries = state["data"]
        if entries.stop - entries.start < min(entries.stop, self.capacity):
            raise ValueError("the recent transitions have another capacity")
        for start, stop, tensors in entries.pieces():
            data = tensors["data"].to(self.data.device)
            if data.shape != (self.members, stop - start, self.width) or data.dtype != self.data.dtype:
                raise ValueError("the recent transitions have another shape or dtype")
            first = min(max(start, entries.stop - self.capacity), stop)  # a run of an earlier version may hold more
            self.data[:, torch.arange(first, stop, device=self.data.device) % self.capacity] = data[:, first - start :]
        self.total, self.pending = int(entries.stop), []

    def _read(self, start: int, stop: int) -> dict[str, Tensor]:
        return {"data": self.data[:, torch.arange(start, stop, device=self.data.device) % self.capacity]}
