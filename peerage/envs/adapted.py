"""Spaces that Peerage converts, so that learners see flat observations and Discrete or Box actions.

A `Dict` of flat boxes is flattened by `gymnasium.wrappers.FlattenObservation`. A `MultiDiscrete` action with few
combinations becomes one Discrete action, the index of the combination. `Conversion` converts observations and actions
between the environment and the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, flatten
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import FlattenObservation

SMALLEST_IMAGE = 36
"""The minimum height and width of images, which the convolutions require."""
MAX_COMBINATIONS = 64
"""MultiDiscrete actions with more combinations are refused."""


class CombinedAction(gymnasium.ActionWrapper, RecordConstructorArgs):
    """An environment with MultiDiscrete actions as one with Discrete actions 0 to n - 1: action k is combination k in
    the order of `numpy.unravel_index`, in which the last number changes fastest."""

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        assert isinstance(env.action_space, MultiDiscrete)
        self.combined = env.action_space
        self.action_space = Discrete(combinations(self.combined))

    def action(self, action: Any) -> np.ndarray:
        return combination(self.combined, int(action))


def combinations(space: MultiDiscrete) -> int:
    """The number of actions of `space`."""
    return int(np.prod(space.nvec, dtype=object))


def combination(space: MultiDiscrete, number: int) -> np.ndarray:
    """The action `[parts]` of `space` with this index."""
    return (np.array(np.unravel_index(number, space.nvec)) + space.start).astype(space.dtype)


def adapted(env: gymnasium.Env) -> gymnasium.Env:
    """`env` with its spaces converted, if there is a conversion."""
    if _is_dict_of_flat_boxes(env.observation_space) or is_image(env.observation_space):
        env = FlattenObservation(env)
    space = env.action_space
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1 and 1 <= combinations(space) <= MAX_COMBINATIONS:
        env = CombinedAction(env)
    return env


def is_image(space: Space[Any]) -> bool:
    """Whether observations are images: bytes of the shape `[height, width, channels]` or `[channels, height, width]`,
    large enough for the convolutions."""
    if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    first, middle, last = space.shape
    height, width = (middle, last) if first < last else (first, middle)  # as in `peerage.nets.cnn.Image.of`
    return min(height, width) >= SMALLEST_IMAGE


def _is_dict_of_flat_boxes(space: Space[Any]) -> bool:
    if not isinstance(space, Dict) or not space.spaces:
        return False
    return all(
        _is_dict_of_flat_boxes(part) or (isinstance(part, Box) and len(part.shape) == 1)
        for part in space.spaces.values()
    )


@dataclass(frozen=True, eq=False)
class Conversion:
    """How the spaces of an environment were converted; None: they were not."""

    observation_space: Dict | Box | None = None
    action_space: MultiDiscrete | None = None

    @staticmethod
    def of(env: gymnasium.Env) -> Conversion:
        """The conversions that `adapted` has made, which may be inside other wrappers."""
        observation_space, action_space = None, None
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, FlattenObservation):
                inner = env.env.observation_space
                if isinstance(inner, Dict) or (isinstance(inner, Box) and is_image(inner)):
                    observation_space = inner
            if isinstance(env, CombinedAction):
                action_space = env.combined
            env = env.env
        return Conversion(observation_space, action_space)

    @property
    def image(self) -> tuple[int, int, int] | None:
        """The shape of observations that are images."""
        shape = self.observation_space.shape if isinstance(self.observation_space, Box) else ()
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    def flat(self, obs: Any) -> np.ndarray:
        """An observation of the environment, `[obs]`; one that is flat already is returned unchanged."""
        if self.image is not None:
            shaped = np.asarray(obs)
            return shaped.reshape(*shaped.shape[:-3], -1) if shaped.shape[-3:] == self.image else shaped
        if self.observation_space is not None and isinstance(obs, dict):
            return np.asarray(flatten(self.observation_space, obs))
        return np.asarray(obs)

    def action(self, number: int) -> int | np.ndarray:
        """The environment's action for a Discrete action of the library."""
        return number if self.action_space is None else combination(self.action_space, number)


UNCHANGED = Conversion()


def help_with_observations(space: Space[Any]) -> str:
    """The wrapper that makes observations usable, for an error message."""
    if isinstance(space, Box) and space.dtype == np.uint8:
        return (
            f"three dimensions, as [height, width, channels], of at least {SMALLEST_IMAGE} by {SMALLEST_IMAGE} pixels "
            "(gymnasium.wrappers.ResizeObservation, GrayscaleObservation with keep_dim, FrameStackObservation)"
        )
    return "gymnasium.wrappers.FlattenObservation"
