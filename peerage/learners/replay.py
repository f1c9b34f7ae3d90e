"""Replay buffers of all members of a stack, one packed row per transition."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from peerage.append_buffer import AppendBuffer


class Batch(NamedTuple):
    """Sampled transitions. `terminated` is 1 if the episode terminated, so that no value is bootstrapped. A transition
    that was truncated by a time limit has 0 and its true next observation."""

    obs: Tensor  # [S, B, obs]
    actions: Tensor  # [S, B, act]; in [-1, 1] for Box, the index as a float for Discrete
    obs_actions: Tensor  # [S, B, obs + act], shares its memory with obs and actions
    rewards: Tensor  # [S, B]
    next_obs: Tensor  # [S, B, obs]
    terminated: Tensor  # [S, B]
    label: Tensor | None = None  # [S, B, act], as `actions`: the suggestion to imitate
    label_weight: Tensor | None = None  # [S, B], 0 to 1; -1: there is no label


class Replay:
    """The last `capacity` transitions of each of `rows` members.

    A transition is a row `obs | action | next_obs | reward | terminated` of the tensor `data [S, capacity, D]`, so a
    batch needs one gather, and `[obs, action]` no concatenation. With `labels`, `label | weight` come after `next_obs`.
    """

    def __init__(
        self,
        rows: int,
        capacity: int,
        obs_dim: int,
        act_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        labels: bool = False,
    ) -> None:
        self.rows, self.capacity = rows, capacity
        self.obs_dim, self.act_dim, self.labels = obs_dim, act_dim, labels
        self.width = 2 * obs_dim + act_dim + 2 + (act_dim + 1 if labels else 0)
        # empty instead of zeros: the system allocates a page only when it is written
        self.data = torch.empty(rows, capacity, self.width, device=device, dtype=dtype)
        self.flat = self.data.view(rows * capacity, self.width)
        self.offsets = torch.arange(rows, device=device).unsqueeze(1) * capacity
        self.total = 0  # number of transitions of a member that were ever added
        self.position = 0  # of the next transition
        self.size = 0

    def add(
        self,
        obs: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        label: Tensor | None = None,
        label_weight: Tensor | None = None,
    ) -> None:
        """Append one transition of every member: `obs, next_obs [S, obs]`, `actions, label [S, act]`,
        `rewards, terminated, label_weight [S]`. Without a label, its weight is -1."""
        columns = [obs, actions, next_obs]
        if self.labels:
            weight = torch.full_like(rewards, -1.0) if label_weight is None else label_weight
            columns += [actions if label is None else label, weight.unsqueeze(1)]
        row = torch.cat((*columns, rewards.unsqueeze(1), terminated.unsqueeze(1)), dim=1)
        self.data[:, self.position] = row
        self.total += 1
        self.position = self.total % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, uniform: Tensor) -> Batch:
        """Sample transitions with replacement. `uniform [S, B]`: random numbers in [0, 1)."""
        return self._gather((uniform * self.size).long())

    def recent(self, age: Tensor) -> Batch:
        """The transitions from `age [S, B]` steps ago; 0 is the last one."""
        return self._gather((self.position - 1 - age) % self.capacity)

    def _gather(self, index: Tensor) -> Batch:
        rows, size = index.shape
        index = index + self.offsets
        batch = self.flat.index_select(0, index.view(-1)).view(rows, size, self.width)
        o, a = self.obs_dim, self.act_dim
        return Batch(
            obs=batch[..., :o],
            actions=batch[..., o : o + a],
            obs_actions=batch[..., : o + a],
            next_obs=batch[..., o + a : 2 * o + a],
            label=batch[..., -3 - a : -3] if self.labels else None,
            label_weight=batch[..., -3] if self.labels else None,
            rewards=batch[..., -2],
            terminated=batch[..., -1],
        )

    def _tensors(self) -> dict[str, Tensor]:
        """The buffers `[S, capacity, ...]` by name."""
        return {"data": self.data}

    def state(self) -> dict[str, Any]:
        return {"data": AppendBuffer(self.total - self.size, self.total, self._read), "width": self.width}

    def load_state(self, state: dict[str, Any]) -> None:
        entries = state["data"]
        if state["width"] != self.width or entries.stop - entries.start != min(entries.stop, self.capacity):
            raise ValueError("the replay buffer has another width or capacity")
        for start, stop, tensors in entries.pieces():
            for name, buffer in self._tensors().items():
                found = tensors[name].to(buffer.device)
                if found.shape != (self.rows, stop - start, *buffer.shape[2:]) or found.dtype != buffer.dtype:
                    raise ValueError("the replay buffer has another shape or dtype")
                buffer[:, self._slots(start, stop)] = found
        self.total = int(entries.stop)
        self.position, self.size = self.total % self.capacity, min(self.total, self.capacity)

    def _read(self, start: int, stop: int) -> dict[str, Tensor]:
        return {name: buffer[:, self._slots(start, stop)] for name, buffer in self._tensors().items()}

    def _slots(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self.data.device) % self.capacity


class ImageReplay(Replay):
    """A replay buffer of observations with whole numbers from 0 to 255, stored as bytes: `frames [S, capacity, 2, obs]`
    holds `obs` and `next_obs`. `obs_actions` of a batch contains the actions alone."""

    def __init__(self, rows: int, capacity: int, obs_dim: int, act_dim: int, *where: Any, labels: bool = False) -> None:
        """`where`: device and dtype, as of `Replay`."""
        super().__init__(rows, capacity, 0, act_dim, *where, labels=labels)
        self.frames = torch.empty(rows, capacity, 2, obs_dim, device=self.data.device, dtype=torch.uint8)

    def add(
        self,
        obs: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        label: Tensor | None = None,
        label_weight: Tensor | None = None,
    ) -> None:
        self.frames[:, self.position] = torch.stack((obs, next_obs), dim=1).to(torch.uint8)
        super().add(obs[:, :0], actions, rewards, next_obs[:, :0], terminated, label, label_weight)

    def _gather(self, index: Tensor) -> Batch:
        batch = super()._gather(index)
        rows = (index + self.offsets).view(-1)
        frames = self.frames.flatten(0, 1).index_select(0, rows).view(*index.shape, 2, -1).to(self.data.dtype)
        return batch._replace(obs=frames[:, :, 0], next_obs=frames[:, :, 1])

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "frames": self.frames}
