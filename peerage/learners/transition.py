"""One environment step of all members, as learners, trust, exchanges and advisers see it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class HostTransition(NamedTuple):
    """One environment step of `M` members, or of a selection of them, as NumPy arrays."""

    obs: np.ndarray
    """float32 `[M, obs]`: before the step."""
    actions: np.ndarray
    """`[M, act]`: the actions taken, in the environment's units; Discrete: the index as a float, `[M, 1]`."""
    rewards: np.ndarray
    """`[M]`."""
    next_obs: np.ndarray
    """float32 `[M, obs]`: after the step; the true last observation where the episode ended."""
    terminated: np.ndarray
    """bool `[M]`: the episode ended in a terminal state."""
    truncated: np.ndarray
    """bool `[M]`: the episode was cut off."""
    done: np.ndarray
    """bool `[M]`: terminated or truncated."""
    first: np.ndarray
    """bool `[M]`: this was the first step of an episode."""
    followed: np.ndarray
    """int64 `[M]`: the adviser that the member followed, by its number among the `K` advisers of its group."""
    chose: np.ndarray
    """bool `[M]`: whether the member chose that adviser in this step."""

    def rows(self, index: np.ndarray) -> HostTransition:
        """The same for the members `index [B]`, with `B` as the first dimension."""
        return HostTransition(*(values[index] for values in self))
