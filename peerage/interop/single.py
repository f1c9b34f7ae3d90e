"""Learners of one row for inference, and the parameters of single members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from peerage.config.methods import LEARNERS
from peerage.errors import UserError
from peerage.learners.base import Learner, Space
from peerage.learners.streams import StreamKey
from peerage.nets.cnn import Image


def single(settings: Any, space: Space) -> Any:
    """A learner of one row for actions and values. It is not meant to learn: it can store one transition."""
    names = "buffer_size", "batch_size", "n_steps", "n_envs"
    smallest = {name: 1 for name in names if hasattr(settings, name)}
    settings = replace(settings, **smallest)
    return LEARNERS[settings.algorithm].load()([settings], [StreamKey(0, 0, 0)], space, 1)


def space_of(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], image: Sequence[int] | None = None
) -> Space:
    """Convert Gymnasium spaces to a `Space` for learners. `image` is the shape of observations that are flattened
    images. Raises UserError for unsupported spaces."""
    if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
        raise UserError(f"trained members need flat observations, not {observation_space}")
    layout = None if image is None else Image.of(image)
    if isinstance(action_space, gym.spaces.Discrete):
        return Space(observation_space.shape[0], 1, int(action_space.n), image=layout)
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        raise UserError(f"trained members need Discrete or flat Box actions, not {action_space}")
    low, high = (bound.astype(np.float32) for bound in (action_space.low, action_space.high))
    return Space(observation_space.shape[0], len(low), 0, low, high, layout)


def shape_of(space: Space) -> str:
    """A description of a space for error messages."""
    actions = f"{space.n_actions} discrete actions" if space.discrete else f"Box({space.act_dim}) actions"
    observations = f"{space.obs_dim} observations" if space.image is None else f"images {space.image}"
    return f"{observations} and {actions}"


@torch.no_grad()
def set_member_parameters(learner: Learner, row: int, parameters: Mapping[str, Tensor]) -> None:
    """Copy the parameters `[1, P]` of a member to the member in `row`. Raises ValueError for parameters of another
    algorithm or shape."""
    own = {name: values[row : row + 1] for name, values in learner.parameters().items()}
    if {name: x.shape for name, x in own.items()} != {name: x.shape for name, x in parameters.items()}:
        raise ValueError("the parameters belong to another algorithm or have another shape")
    for name, values in own.items():
        values.copy_(parameters[name])
