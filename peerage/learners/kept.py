"""The statistics of a dataset as part of the parameters of learners that act for target returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Space
from peerage.offline.context import Conditioned
from peerage.offline.preprocessing import Preprocessing

N_RETURNS = 101
"""Quantiles of the returns in a `Preprocessing`."""
NUMBERS = ("scale", "gamma")
ARRAYS = ("state_mean", "state_std", "rtg_low", "rtg_high", "returns")


class KeptStatistics:
    """A `Preprocessing` as `tensors`: name -> float64 `[S, n]`, equal for all members. `longest`: the number of
    timesteps whose range of returns-to-go is known."""

    def __init__(self, rows: int, space: Space, longest: int, device: torch.device | str) -> None:
        self.space = space
        sizes = dict(zip(ARRAYS, (space.obs_dim, space.obs_dim, longest, longest, N_RETURNS)))
        sizes |= dict.fromkeys(NUMBERS, 1)
        self.tensors: dict[str, Tensor] = {
            name: torch.ones(rows, size, dtype=torch.float64, device=device) for name, size in sizes.items()
        }

    def set(self, found: Preprocessing) -> None:
        """Keep the statistics `found`."""
        for name, values in self.tensors.items():
            values.copy_(torch.as_tensor(np.array(getattr(found, name))))

    def preprocessing(self) -> Preprocessing:
        """The statistics."""
        found: dict[str, Any] = {
            **{name: self.tensors[name][0].cpu().numpy().astype(np.float32) for name in ARRAYS},
            **{name: float(self.tensors[name][0]) for name in NUMBERS},
        }
        space = self.space
        if space.low is not None and space.high is not None:
            found |= {"low": space.low, "high": space.high}
        return Preprocessing(**found, n_actions=space.n_actions)


def first_actions(episodes: Conditioned, obs: Tensor) -> Tensor:
    """The actions `[S, B, act]` for `obs [S, B, obs]` in the first step of `S B` episodes, whose target is the largest
    return of the data."""
    episodes.begin(np.arange(episodes.n), episodes.preprocessing.largest)
    actions = episodes.act(obs.flatten(0, 1).cpu().numpy())
    return torch.as_tensor(actions, device=obs.device, dtype=obs.dtype).view(*obs.shape[:2], -1)
