"""Room: reach a goal at the wall of an empty square room."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from peerage.envs.draw import grid_picture


class Room(gymnasium.Env[np.ndarray, np.int64]):
    """A square grid of `length` x `length` cells.

    Observation: float32 [4] in [0, 1], (x, y, goal x, goal y) / (length - 1).
    Actions: 0 to 3 for x + 1, x - 1, y + 1, y - 1; at a wall nothing moves.
    Reward: 1 for every step that ends on the goal, otherwise -0.001. Never terminates; the registered
    horizon truncates. `info["is_success"]` of a step is True if it ended on the goal.
    Start: the middle (length // 2). Goal, drawn each episode: both coordinates uniform in 0 ... length - 2,
    then one of them, at random, set to 0 or length - 1. `reset(options={"goal": (x, y)})` sets it instead.

    Source: the peer-learning experiments (arXiv 2312.09950), with its goal distribution as published: the
    free coordinate never is length - 1. Raises ValueError for a length under 2 or an unknown action.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, length: int = 21, render_mode: str | None = None):
        if not isinstance(length, int) or length < 2:
            raise ValueError(f"length must be a whole number of at least 2, not {length!r}")
        self.length = length
        self.last = length - 1
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(4)
        self.x = self.y = length // 2
        self.goal_x = self.goal_y = 0
        self._observation = np.zeros(4, np.float32)  # `reset` writes the half that shows the goal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.y = self.length // 2
        if options and "goal" in options:
            goal = [int(coordinate) for coordinate in options["goal"]]
            if len(goal) != 2 or not all(0 <= coordinate <= self.last for coordinate in goal):
                raise ValueError(
                    f"goal must be two coordinates in 0 ... {self.last}, not {options['goal']!r}"
                )
        else:
            goal = self.np_random.integers(0, self.last, size=2).tolist()
            goal[self.np_random.integers(2)] = self.last * int(self.np_random.integers(2))
        self.goal_x, self.goal_y = goal
        self._observation[2] = self.goal_x / self.last
        self._observation[3] = self.goal_y / self.last
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        # Plain integers, because one NumPy operation takes longer than the whole step
        if action == 0:
            if self.x < self.last:
                self.x += 1
        elif action == 1:
            if self.x > 0:
                self.x -= 1
        elif action == 2:
            if self.y < self.last:
                self.y += 1
        elif action == 3:
            if self.y > 0:
                self.y -= 1
        else:
            raise ValueError(f"action must be 0, 1, 2 or 3, not {action!r}")
        on_goal = self.x == self.goal_x and self.y == self.goal_y
        return self._observe(), 1.0 if on_goal else -0.001, False, False, {"is_success": on_goal}

    def _observe(self) -> np.ndarray:
        observation = self._observation.copy()
        observation[0] = self.x / self.last
        observation[1] = self.y / self.last
        return observation

    def render(self) -> np.ndarray | None:
        """With `render_mode="rgb_array"` an image, uint8 [height, width, 3], otherwise None."""
        if self.render_mode != "rgb_array":
            return None
        middle = self.length // 2
        size, goal = (self.length, self.length), (self.goal_x, self.goal_y)
        return grid_picture(size, (middle, middle), goal, (self.x, self.y))
