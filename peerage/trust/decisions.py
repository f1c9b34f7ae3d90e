"""The decisions of members: the state, all suggestions, the adviser that was followed, and the rewards.

A decision begins when a member chooses an adviser. It ends when the member chooses again or the episode ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Decisions:
    """The last `capacity` finished decisions of each of `M = R * N` members, on the host.

    Per member, in a ring: `obs, end [M, C, obs]` (the first and the last state), `suggestions [M, C, K, act]`,
    `followed [M, C]`, `reward [M, C]` (`sum gamma^k r`), `discount [M, C]` (gamma^n, 0 at a terminal state), `begun,
    ended [M, C]` (steps). Per replica, the same decisions in the order in which they ended: `order [R, N C]` holds
    `member * C + slot`, and `numbers [R, N C]` the number of the decision among those of its member (0, 1, ...).
    """

    def __init__(
        self, members: int, replicas: int, n_advisers: int, obs_dim: int, act_dim: int, capacity: int, gamma: np.ndarray
    ) -> None:
        self.M, self.R, self.K, self.capacity = members, replicas, n_advisers, capacity
        self.N, self.gamma = members // replicas, gamma.astype(np.float64)  # [M]
        shape = (members, capacity)
        self.kept: dict[str, np.ndarray] = {
            "obs": np.zeros((*shape, obs_dim), np.float32),
            "end": np.zeros((*shape, obs_dim), np.float32),
            "suggestions": np.zeros((*shape, n_advisers, act_dim), np.float32),
            "followed": np.zeros(shape, np.int64),
            "reward": np.zeros(shape),
            "discount": np.zeros(shape),
            "begun": np.zeros(shape, np.int64),
            "ended": np.zeros(shape, np.int64),
        }
        self.count = np.zeros(members, np.int64)  # decisions that ended, since the start
        self.order = np.zeros((replicas, self.N * capacity), np.int64)
        self.numbers = np.zeros((replicas, self.N * capacity), np.int64)
        self.ordered = np.zeros(replicas, np.int64)  # decisions that ended in a replica, since the start
        # The unfinished decision of each member; its `discount` is gamma^k after k steps
        self.open = np.zeros(members, bool)
        self.running: dict[str, np.ndarray] = {n: np.zeros_like(x[:, 0]) for n, x in self.kept.items()}

    def begin(self, who: np.ndarray, obs: np.ndarray, suggestions: np.ndarray, followed: np.ndarray, step: int) -> None:
        """Decisions of the members `who [M]` (bool) begin in step `step`: from the states `obs [M, obs]` they follow
        `followed [M]`. `suggestions [M, K, act]`."""
        if not who.any():
            return
        self.open |= who
        self.running["obs"][who], self.running["suggestions"][who] = obs[who], suggestions[who]
        self.running["followed"][who], self.running["begun"][who] = followed[who], step
        self.running["reward"][who], self.running["discount"][who] = 0.0, 1.0

    def advance(self, rewards: np.ndarray) -> None:
        """Add the `rewards [M]` of a step."""
        self.running["reward"] += self.running["discount"] * rewards
        self.running["discount"] *= self.gamma

    def finish(self, who: np.ndarray, end: np.ndarray, terminated: np.ndarray, step: int) -> None:
        """The unfinished decisions of `who [M]` (bool) end in the states `end [M, obs]`, after step `step`."""
        rows = np.flatnonzero(who & self.open)
        if not len(rows):
            return
        self.open[rows] = False
        self.running["end"][rows] = end[rows]
        self.running["ended"][rows] = step
        self.running["discount"][rows[terminated[rows]]] = 0.0
        slots = self.count[rows] % self.capacity
        for name, kept in self.kept.items():
            kept[rows, slots] = self.running[name][rows]
        # Decisions of a replica that end in the same step are ordered by member
        replicas = rows // self.N
        nth = np.arange(len(rows)) - np.searchsorted(replicas, replicas)
        places = (self.ordered[replicas] + nth) % self.order.shape[1]
        self.order[replicas, places] = rows * self.capacity + slots
        self.numbers[replicas, places] = self.count[rows]
        self.count[rows] += 1
        np.add.at(self.ordered, replicas, 1)

    def drop(self, who: np.ndarray) -> None:
        """Discard the unfinished decisions of `who [M]` (bool)."""
        self.open &= ~who

    def finished(self, replica: int, last: int) -> np.ndarray:
        """The latest finished decisions of a replica, at most `last`, oldest first, as `member * C + slot`."""
        n, size = int(self.ordered[replica]), self.order.shape[1]
        places = np.arange(max(0, n - min(last, size)), n) % size
        entries = self.order[replica, places]
        # The ring of a member with many decisions may no longer hold all of those in `order`
        overwritten = self.numbers[replica, places] < self.count[entries // self.capacity] - self.capacity
        return entries[~overwritten]

    def state(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name) for name in ("count", "order", "numbers", "ordered", "open")}
        parts = {"kept": self.kept, "running": self.running, "arrays": arrays}
        return {part: {n: torch.as_tensor(x) for n, x in values.items()} for part, values in parts.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name in self.kept:
            self.kept[name][...] = state["kept"][name].cpu().numpy()
            self.running[name][...] = state["running"][name].cpu().numpy()
        for name, value in state["arrays"].items():
            getattr(self, name)[...] = value.cpu().numpy()

    def enlarged(self, state: dict[str, Any], capacity: int) -> dict[str, Any]:
        """A `state` with a smaller `capacity`, none of whose decisions has been overwritten, with this capacity."""
        kept = {name: pad(values, self.capacity) for name, values in state["kept"].items()}
        arrays = dict(state["arrays"])
        entries = arrays["order"]  # member * capacity + slot
        arrays["order"] = entries // capacity * self.capacity + entries % capacity
        for name in ("order", "numbers"):
            arrays[name] = pad(arrays[name], self.order.shape[1])
        return {**state, "kept": kept, "arrays": arrays}


def pad(values: torch.Tensor, size: int) -> torch.Tensor:
    """`values [rows, C, ...]` with zeros appended to `[rows, size, ...]`."""
    padded = values.new_zeros(values.shape[0], size, *values.shape[2:])
    padded[:, : values.shape[1]] = values
    return padded
