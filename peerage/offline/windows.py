"""Batches of windows for sequence models: K consecutive steps of an episode, with the return-to-go of each.

    windows = Windows(data, length=20, scale=1000.0)
    batch = windows.sample(torch.Generator().manual_seed(0), 64)
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from peerage.offline.trajectories import Trajectories

MUJOCO_SCALE = 1000.0
"""The scale of returns that the Decision Transformer uses for MuJoCo."""
SMALLEST_STD = 1e-6
"""Numbers of an observation that vary less than this are constant; they are not scaled."""


class Batch(NamedTuple):
    """Windows of K steps. The steps after the end of an episode are padding: zero, with `mask` False. `...` are the
    dimensions of the drawn indices, such as [B] or [S, B]."""

    states: Tensor
    """[..., K, obs], standardised"""
    actions: Tensor
    """[..., K, act], in the environment's units; Discrete: the index"""
    rtg: Tensor
    """[..., K, 1]: return-to-go divided by the scale"""
    timesteps: Tensor
    """int64 [..., K]: steps since the start of the episode"""
    mask: Tensor
    """bool [..., K]"""


class Windows:
    """Windows of `length` steps of all episodes of `data`. A window starts at any step and never crosses the end of an
    episode.

    `scale` divides returns; `gamma` discounts them (1: the sum of all later rewards). Everything is computed once, so
    that a batch is one gather.

    Attributes: `state_mean, state_std` float32 [obs], of the observations of the data; `returns_to_go` float32 [T],
    not divided by the scale.
    """

    def __init__(
        self,
        data: Trajectories,
        length: int,
        scale: float = 1.0,
        gamma: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if length < 1 or not scale > 0 or not 0 <= gamma <= 1:
            raise ValueError(f"windows of length {length}, scale {scale} and gamma {gamma}")
        self.length, self.scale, self.gamma, self.steps = length, scale, gamma, data.steps
        self.state_mean, self.state_std = statistics(data)
        to_go = returns_to_go(data, gamma)
        self.returns_to_go = to_go.astype(np.float32)

        def put(array: np.ndarray) -> Tensor:
            return torch.tensor(array, device=device)  # a copy: the arrays of the data are read-only

        self._states = put((data.obs - self.state_mean) / self.state_std)
        self._actions = put(data.actions)
        self._rtg = put((to_go / scale).astype(np.float32)[:, None])
        self._timesteps = put(data.timesteps)
        self._ends = put(np.repeat(data.starts[1:], data.lengths))
        self._offsets = torch.arange(length, device=device)

    def sample(self, source: torch.Generator | Tensor | np.ndarray, batch: int | None = None) -> Batch:
        """A batch. `source`: a generator, which draws `batch` first steps uniformly; or integers [...] in 0 ... T - 1,
        the first steps of the windows, such as `(uniform * windows.steps).long()`."""
        if isinstance(source, torch.Generator):
            if batch is None:
                raise ValueError("a generator needs the number of windows")
            source = torch.randint(self.steps, (batch,), generator=source, device=source.device)
        first = torch.as_tensor(source, device=self._offsets.device)
        at = first.unsqueeze(-1) + self._offsets
        mask = at < self._ends[first].unsqueeze(-1)
        at = torch.where(mask, at, first.unsqueeze(-1))
        inside = mask.unsqueeze(-1)
        return Batch(
            states=self._gathered(self._states, at) * inside,
            actions=self._gathered(self._actions, at) * inside,
            rtg=self._gathered(self._rtg, at) * inside,
            timesteps=self._timesteps[at] * mask,
            mask=mask,
        )

    @staticmethod
    def _gathered(values: Tensor, at: Tensor) -> Tensor:
        return values.index_select(0, at.reshape(-1)).view(*at.shape, values.shape[1])


def statistics(data: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the observations, float32 [obs]. The deviation of constant numbers is 1."""
    mean = data.obs.mean(axis=0, dtype=np.float64)
    std = np.sqrt(((data.obs - mean) ** 2).mean(axis=0))
    return mean.astype(np.float32), np.where(std < SMALLEST_STD, 1.0, std).astype(np.float32)


def returns_to_go(data: Trajectories, gamma: float = 1.0) -> np.ndarray:
    """float64 [T]: the sum of the reward of each step and all later ones of its episode, discounted by `gamma`."""
    found = data.rewards.astype(np.float64)
    if data.episodes < data.lengths.max():  # one call for each episode, otherwise one operation for each step
        from scipy.signal import lfilter  # takes a second to import, which other trainings do not need

        for start, end in pairwise(data.starts.tolist()):
            found[start:end] = lfilter([1.0], [1.0, -gamma], found[start:end][::-1])[::-1]
        return found
    for back in range(2, int(data.lengths.max()) + 1):
        at = data.starts[1:][data.lengths >= back] - back
        found[at] += gamma * found[at + 1]
    return found


def default_scale(data: Trajectories) -> float:
    """A scale of returns: 1,000 for Gymnasium's MuJoCo environments; otherwise the largest absolute return-to-go of the
    data, 1 if all are 0."""
    spec = gymnasium.registry.get(data.source.env)
    if spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
        return MUJOCO_SCALE
    return float(np.abs(returns_to_go(data)).max()) or 1.0
