"""Builds the `Transition` of an environment step for learners, trust, exchanges and advisers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from peerage.envs.vector import Step
from peerage.learners.transition import HostTransition, Transition
from peerage.sharing.advice import Advice
from peerage.sharing.none import NoSharing

Sharing = Advice | NoSharing


class Before(NamedTuple):
    """The members' observations before a step."""

    obs: Tensor  # [M, obs]
    host_obs: np.ndarray  # [M, obs], the same on the host
    first: np.ndarray  # bool [M]: first step of an episode


def make_transition(
    before: Before, chosen: Tensor, actions: Tensor, host_actions: np.ndarray, step: Step, sharing: Sharing
) -> Transition:
    """The transition of all members.

    Args:
        before: the observations before the step.
        chosen: `[M, act]`, the actions chosen by `sharing`.
        actions: `[M, act]`, the actions taken, clipped to the box; `host_actions` is the copy on the host.
        step: the result of the environments.
        sharing: provides the advisers that the members followed.
    """

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=actions.device, dtype=actions.dtype)

    return Transition(
        obs=before.obs,
        actions=actions,
        chosen=chosen,
        rewards=tensor(step.reward),
        next_obs=tensor(step.next_obs),
        terminated=tensor(step.terminated),
        followed=sharing.following,
        label=sharing.label,
        label_weight=sharing.label_weight,
        host=HostTransition(
            obs=before.host_obs,
            actions=host_actions,
            rewards=step.reward,
            next_obs=step.next_obs,
            terminated=step.terminated,
            truncated=step.truncated,
            done=step.done,
            first=before.first,
            followed=sharing.followed,
            chose=sharing.chose,
        ),
    )
