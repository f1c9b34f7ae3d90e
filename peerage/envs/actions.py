"""Actions as an environment takes them, from those that the library works with.

Inside the library a Discrete action is counted from 0, and the numbers of a Box action are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete


def inner_bounds(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the largest box of float32 numbers inside `box`. The float32 number nearest to a bound of a float64
    box can lie outside."""
    low, high = box.low.astype(np.float32), box.high.astype(np.float32)
    low = np.where(low.astype(np.float64) < box.low, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high.astype(np.float64) > box.high, np.nextafter(high, np.float32(-np.inf)), high)
    return low, high


class ActionConverter:
    """Converts actions of the library into actions that the space contains: Discrete from 0 into Discrete from its
    `start`; numbers into a Box by clipping to it, as float32, or float16 if that is the type of the box."""

    def __init__(self, space: Box | Discrete) -> None:
        self.start = int(space.start) if isinstance(space, Discrete) else 0
        self.discrete = isinstance(space, Discrete)
        if isinstance(space, Box):
            self.low, self.high = inner_bounds(space)
            self.dtype = space.dtype if np.dtype(space.dtype).itemsize < 4 else np.dtype(np.float32)

    def __call__(self, actions: Any) -> Any:
        """An integer or integers `[...]`, or numbers `[..., act]` -> the same shape, a new array."""
        if self.discrete:
            return actions + self.start
        inside = np.minimum(np.maximum(np.asarray(actions, np.float32), self.low), self.high)
        return inside.astype(self.dtype, copy=False)
