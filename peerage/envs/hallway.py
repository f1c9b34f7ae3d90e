"""Hallway: walk to the far end of a corridor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from peerage.envs.draw import grid_picture


class Hallway(gymnasium.Env[np.ndarray, np.int64]):
    """A corridor of `size` (length,) or (length, width) cells.

    Observation: float32 [1] or [2] in [0, 1], the position / (size - 1).
    Actions: 0 to 3 for x + 1, x - 1, y + 1, y - 1. Actions of a missing dimension and those from 4 on do nothing, so
    `n_actions` above 2 per dimension adds actions without effect. Reward: 1 for every step that ends on the goal,
    otherwise -0.001. Never terminates; the registered horizon truncates. `info["is_success"]` of a step is True if it
    ended on the goal. Start: two cells left of the middle (at 0 in corridors shorter than 5), in the middle of the
    width. Goal: the far end, in the middle of the width. Nothing is random.

    Source: the peer-learning experiments (arXiv 2312.09950). Raises ValueError for a size or a number of
    actions that is too small and for an unknown action.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, size: Sequence[int] = (17,), n_actions: int = 2, render_mode: str | None = None):
        if len(size) not in (1, 2) or min(size) < 2:
            raise ValueError(f"size must be one or two lengths of at least 2, not {size!r}")
        if n_actions < 2 * len(size):
            raise ValueError(f"n_actions must be at least {2 * len(size)}, not {n_actions}")
        self.dimensions = len(size)
        self.n_actions = n_actions
        self.length, self.width = size[0], size[1] if len(size) == 2 else 1
        self.start = (0 if self.length < 5 else self.length // 2 - 2, self.width // 2)
        self.goal = (self.length - 1, self.width // 2)
        self.x, self.y = self.start
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (self.dimensions,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(n_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.y = self.start
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if action == 0:
            self.x = min(self.x + 1, self.length - 1)
        elif action == 1:
            self.x = max(self.x - 1, 0)
        elif action == 2:
            self.y = min(self.y + 1, self.width - 1)
        elif action == 3:
            self.y = max(self.y - 1, 0)
        if not 0 <= action < self.n_actions:
            raise ValueError(f"action must be in 0 ... {self.n_actions - 1}, not {action!r}")
        on_goal = (self.x, self.y) == self.goal
        return self._observe(), 1.0 if on_goal else -0.001, False, False, {"is_success": on_goal}

    def _observe(self) -> np.ndarray:
        position = [self.x / (self.length - 1)]
        if self.dimensions == 2:
            position.append(self.y / (self.width - 1))
        return np.array(position, np.float32)

    def render(self) -> np.ndarray | None:
        """With `render_mode="rgb_array"` an image, uint8 [height, width, 3], otherwise None."""
        if self.render_mode != "rgb_array":
            return None
        return grid_picture((self.length, self.width), self.start, self.goal, (self.x, self.y))
