"""Episodes as a file contains them, before they become `peerage.offline.trajectories.Trajectories`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Episode:
    """One recorded episode of T steps."""

    obs: np.ndarray
    """[T + 1, obs]; [T, obs] where the observation after the last step is unknown."""
    actions: np.ndarray
    """[T, act]; [T] for Discrete actions, as in the file."""
    rewards: np.ndarray
    """[T]"""
    terminated: bool
    """Whether it ended in a terminal state."""


@dataclass
class Recording:
    """The episodes of a file, and what it says about the environment."""

    episodes: list[Episode]
    env: str = ""
    """The id, or `module:function`; empty where the file does not name the environment."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    discrete: bool = False
    n_actions: int = 0
    """Discrete: the number of actions; 0 where it is unknown."""
    start: int = 0
    """Discrete: the first action of the file."""
    low: np.ndarray | None = None
    """Box: [act]; None where it is unknown."""
    high: np.ndarray | None = None
    provenance: str = ""
    """What the file says about the policies that acted."""
