"""The base class of offline learners: a dataset instead of environment steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Learner, Space, clip_column, column
from peerage.learners.normalisation import Normalisation, RunningMoments
from peerage.learners.replay import Replay
from peerage.learners.streams import StreamKey, Streams
from peerage.nets.adam import StackedAdam
from peerage.nets.stacked import Rows
from peerage.offline.trajectories import Trajectories


class Data:
    """Arrays with one row per step of a dataset, as tensors. All members draw from the same rows."""

    budget_part = "data"

    def __init__(self, device: torch.device | str, dtype: torch.dtype, **arrays: np.ndarray) -> None:
        self.tensors = {n: torch.tensor(x, device=device, dtype=dtype) for n, x in arrays.items()}
        self.size = len(next(iter(self.tensors.values())))

    def sample(self, uniform: Tensor) -> dict[str, Tensor]:
        """Steps drawn with replacement: `uniform [S, B]`, float64 in [0, 1) -> `[S, B, width]` for every array."""
        index = (uniform * self.size).long()
        return {name: x.index_select(0, index.view(-1)).view(*index.shape, -1) for name, x in self.tensors.items()}


def fixed_statistics(inputs: np.ndarray | None, width: int, like: Tensor) -> Normalisation:
    """Statistics for the inputs `[T, width]` of the networks of `S` members, which the training does not change.
    Without inputs, they are to be loaded. `like [S, ...]` has the device."""
    found = Normalisation(width, like.new_ones(len(like), 1), obs=True, reward=False)
    if inputs is not None and found.obs is not None:
        set_statistics(found.obs, inputs)
    return found


def set_statistics(moments: RunningMoments, inputs: np.ndarray) -> None:
    """Set the moments of all members to those of `inputs [T, width]`."""
    exact = inputs.astype(np.float64)
    moments.mean.copy_(torch.from_numpy(exact.mean(axis=0)))
    moments.var.copy_(torch.from_numpy(exact.var(axis=0)))
    moments.count.fill_(len(exact))


class DataReplay(Replay):
    """A replay buffer that contains the steps of a dataset, the same for all members. It does not change, and is not
    part of a checkpoint. `stored` converts actions of the environment as a learner stores them."""

    budget_part = "data"

    def __init__(
        self,
        data: Trajectories,
        stored: Callable[[Tensor], Tensor],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(1, data.steps, data.obs.shape[1], data.actions.shape[1], device, dtype)
        terminated = np.zeros(data.steps)
        terminated[data.starts[1:] - 1] = data.terminated
        arrays = (data.obs, data.actions, data.next_obs(), data.rewards[:, None], terminated[:, None])
        obs, actions, *rest = (torch.tensor(x, device=device, dtype=dtype) for x in arrays)
        self.data[0] = torch.cat((obs, stored(actions), *rest), dim=1)
        self.size = data.steps

    def add(self, *transition: Any) -> None:
        raise TypeError("a dataset does not change")

    def state(self) -> dict[str, Any]:
        return {"width": self.width}

    def load_state(self, state: dict[str, Any]) -> None:
        if state["width"] != self.width:
            raise ValueError("the dataset has another width")


class OfflineLearner(Learner):
    """A learner whose gradient step number `step` is `learn(step)`.

    `data` are the episodes to learn from; None: the learner only acts, with loaded parameters. The inputs of the
    networks are `width` numbers; `inputs` are those of the data, `[T, width]`.
    """

    fixed_state = True

    def __init__(
        self,
        settings: Sequence[Any],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        data: Trajectories | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        like = torch.zeros(self.rows, 1, device=device, dtype=dtype)
        self.trajectories = data
        self.learning_rate = column(settings, lambda s: s.learning_rate, like)
        self.max_grad_norm = clip_column(settings, like)
        self.normalisation: Normalisation | None = None
        self.optimizers: dict[str, StackedAdam] = {}
        """Optimizers by the name of their parameters."""
        self.streams = {"data": Streams(stream_keys, "data", (settings[0].batch_size,), "uniform", device)}
        """Random streams by name. `data` draws batches, `[S, B]` in [0, 1)."""

    def adam(self, name: str, flat: Tensor, grad: Tensor) -> StackedAdam:
        """Create the optimizer of the parameters `name`, with the members' learning rates and maximum gradient
        norms."""
        self.optimizers[name] = StackedAdam(flat, grad, self.learning_rate, max_grad_norm=self.max_grad_norm)
        return self.optimizers[name]

    def step(self, optimizer: StackedAdam, loss: Tensor) -> None:
        """A step of the members that still learn on `loss [S]`. A member whose gradient is not finite stops."""
        optimizer.zero_grad()
        loss.sum().backward()
        self.active &= optimizer.finite()
        optimizer.step(self.active)

    def normalised(self, inputs: Tensor, rows: Rows = slice(None)) -> Tensor:
        """The inputs of the networks of the members `rows`, `[s, B, width]`, standardised with the statistics of the
        data; unchanged without --normalize-obs."""
        return inputs if self.normalisation is None else self.normalisation.normalised(inputs, rows)

    def learns(self, step: int) -> bool:
        return True

    def schedules(self) -> list[str]:
        return []

    def parameters(self) -> dict[str, Tensor]:
        """The statistics of the data. Subclasses add their networks."""
        return self.statistics()

    def statistics(self) -> dict[str, Tensor]:
        return {} if self.normalisation is None else self.normalisation.tensors()

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "optimizers": {name: optimizer.state() for name, optimizer in self.optimizers.items()},
            "streams": {name: stream.state() for name, stream in self.streams.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state(state["optimizers"][name])
        for name, stream in self.streams.items():
            stream.load_state(state["streams"][name])
