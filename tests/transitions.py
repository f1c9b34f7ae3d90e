"""Transitions made by hand, for tests of objects that observe them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.transition import HostTransition, Transition


def transition(
    obs: Any,
    actions: Any = 0.0,
    rewards: Any = 0.0,
    next_obs: Any = None,
    *,
    terminated: Any = False,
    truncated: Any = False,
    first: Any = False,
    followed: Any = 0,
    chose: Any = False,
) -> Transition:
    """A step of all `M` members.

    `obs, next_obs [M, obs]` (by default the same) and `actions [M, act]` are tensors or arrays; everything else is
    `[M]`, or one value for all members. The dtype on the device is that of `obs`.
    """
    obs = torch.as_tensor(obs)
    actions = torch.as_tensor(actions, dtype=obs.dtype).expand(len(obs), -1) if np.ndim(actions) else obs[:, :1] * 0
    next_obs = obs if next_obs is None else torch.as_tensor(next_obs, dtype=obs.dtype)

    def array(values: Any, dtype: type) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype), (len(obs),)).copy()

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=obs.dtype)

    rewards, over, cut = array(rewards, float), array(terminated, bool), array(truncated, bool)
    whom = array(followed, np.int64)
    return Transition(
        obs=obs,
        actions=actions,
        chosen=actions,
        rewards=tensor(rewards),
        next_obs=next_obs,
        terminated=tensor(over),
        followed=torch.as_tensor(whom),
        host=HostTransition(
            obs=obs.numpy(),
            actions=actions.numpy(),
            rewards=rewards,
            next_obs=next_obs.numpy(),
            terminated=over,
            truncated=cut,
            done=over | cut,
            first=array(first, bool),
            followed=whom,
            chose=array(chose, bool),
        ),
    )
