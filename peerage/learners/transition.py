"""One environment step of all members, for learners, trust, exchanges and advisers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class HostTransition(NamedTuple):
    """A step on the host. `M` rows, one per member of every replica."""

    obs: np.ndarray  # float32 [M, obs]
    actions: np.ndarray  # [M, act] as taken, in the environment's units; Discrete: the index
    rewards: np.ndarray  # float32 [M]
    next_obs: np.ndarray  # float32 [M, obs]; the true last observation if the episode ended
    terminated: np.ndarray  # bool [M]
    truncated: np.ndarray  # bool [M]
    done: np.ndarray  # bool [M]: terminated or truncated
    first: np.ndarray  # bool [M]: the first step of an episode
    followed: np.ndarray  # int64 [M]: number of the adviser that the member followed
    chose: np.ndarray  # bool [M]: the member chose that adviser in this step

    def rows(self, index: np.ndarray) -> HostTransition:
        """The step of some members."""
        return HostTransition(*(column[index] for column in self))


@dataclass
class Transition:
    """A step on the device. `M` rows, one per member; a stack of learners gets its own rows (`rows`)."""

    obs: Tensor  # [M, obs]
    actions: Tensor  # [M, act] as taken, in the environment's units; Discrete: the index as a float
    chosen: Tensor  # [M, act] as chosen, before clipping to the box
    rewards: Tensor  # [M]
    next_obs: Tensor  # [M, obs]; the true last observation if the episode ended
    terminated: Tensor  # [M], 0 or 1
    followed: Tensor  # long [M]: number of the adviser that the member followed
    host: HostTransition
    label: Tensor | None = None  # [M, act]: what the adviser trusted most suggested here; None without --imitate
    label_weight: Tensor | None = None  # [M]: how sure trust is, 0 to 1, that it is better here; -1: not asked

    @cached_property
    def truncated(self) -> Tensor:
        """`[M]`, 0 or 1: the episode was truncated, for example by a time limit."""
        return torch.as_tensor(self.host.truncated, device=self.obs.device, dtype=self.obs.dtype)

    @cached_property
    def first(self) -> Tensor:
        """bool `[M]`: the first step of an episode."""
        return torch.as_tensor(self.host.first, device=self.obs.device)

    def rows(self, index: Tensor) -> Transition:
        """The step of the members `index [S]`."""
        return Transition(
            obs=self.obs[index],
            actions=self.actions[index],
            chosen=self.chosen[index],
            rewards=self.rewards[index],
            next_obs=self.next_obs[index],
            terminated=self.terminated[index],
            followed=self.followed[index],
            host=self.host.rows(index.cpu().numpy()),
            label=None if self.label is None else self.label[index],
            label_weight=None if self.label_weight is None else self.label_weight[index],
        )
