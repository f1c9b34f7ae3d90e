"""CartpoleSwingUp: swing a hanging pole up by pushing its cart, and keep it upright."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from peerage.envs.draw import bar

GRAVITY, FRICTION, DT = 9.82, 0.1, 0.1  # m/s², N s/m, s
CART_MASS, POLE_MASS, POLE_LENGTH = 0.5, 0.5, 0.6  # kg, kg, m
TOTAL_MASS = CART_MASS + POLE_MASS
FORCE, REWARD_WIDTH = 10.0, 0.25  # N, m


class CartpoleSwingUp(gymnasium.Env[np.ndarray, np.ndarray]):
    """A cart and a pole of 0.5 kg each; the pole is 0.6 m long and has uniform density.

    Observation: float32 [4], (x, dx/dt, theta, dtheta/dt) in m, m/s, rad, rad/s; theta = 0 is upright, pi
    hanging, and it is not wrapped. Unbounded: the track has no ends.
    Action: float32 [1], the force on the cart in newtons, clipped to [-10, 10].
    Reward: -(1 - exp(-d² / (2 · 0.25²))) in [-1, 0] after the step, d the distance in metres of the point
    (x + l sin theta, l cos theta) from (0, l). Never terminates; the registered horizon truncates.
    Start: (0, 0, pi, 0) plus Gaussian noise of standard deviation 0.02 on each.

    Source: the peer-learning experiments (arXiv 2312.09950), after PILCO's task, with its
    equations of motion and theta counted from upright. In these equations theta grows to the *left*, so the tip of
    the pole is at x - l sin theta, whereas the published reward uses x + l sin theta. The best state (x = 0, upright)
    is the same. This class keeps the published reward and draws the true tip.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gymnasium.spaces.Box(-FORCE, FORCE, (1,), np.float32)
        self.state = (0.0, 0.0, math.pi, 0.0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        noise = self.np_random.normal(0.0, 0.02, 4).tolist()
        self.state = (noise[0], noise[1], math.pi + noise[2], noise[3])
        return np.array(self.state, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        force = min(max(float(action[0]), -FORCE), FORCE)
        x, x_dot, theta, theta_dot = self.state
        sin, cos = math.sin(theta), math.cos(theta)
        m, length, total = POLE_MASS, POLE_LENGTH, TOTAL_MASS
        push = force - FRICTION * x_dot
        spin = m * length * theta_dot**2 * sin
        x_acceleration = (-2 * spin + 3 * m * GRAVITY * sin * cos + 4 * push) / (4 * total - 3 * m * cos**2)
        theta_acceleration = (-3 * spin * cos + 6 * total * GRAVITY * sin + 6 * push * cos) / (
            4 * length * total - 3 * m * length * cos**2
        )
        # Explicit Euler: positions are integrated with the velocities before the step.
        x, theta = x + DT * x_dot, theta + DT * theta_dot
        x_dot, theta_dot = x_dot + DT * x_acceleration, theta_dot + DT * theta_acceleration
        self.state = (x, x_dot, theta, theta_dot)

        d_squared = (x + length * math.sin(theta)) ** 2 + (length * math.cos(theta) - length) ** 2
        reward = math.exp(-d_squared / (2 * REWARD_WIDTH**2)) - 1
        return np.array(self.state, np.float32), reward, False, False, {}

    def render(self) -> np.ndarray | None:
        """With `render_mode="rgb_array"` an image, uint8 [300, 600, 3], otherwise None.

        5 m wide with a mark per metre; the view follows the cart when it leaves the middle.
        """
        if self.render_mode != "rgb_array":
            return None
        width, ground, scale = 600, 190, 120
        dark, light = (58, 62, 72), (250, 249, 246)
        x, _, theta, _ = self.state
        left = x - min(max(x, -1.5), 1.5) - width / scale / 2  # of the view, in metres
        picture = np.empty((300, width, 3), np.uint8)
        picture[:] = light
        picture[ground + 12 : ground + 15] = dark
        for metre in range(math.ceil(left), math.floor(left + width / scale) + 1):
            column, tall = (metre - left) * scale, 36 if metre == 0 else 28
            bar(picture, (column, ground + 22), (column, ground + tall), 1.5, dark)
        goal = -left * scale, ground - POLE_LENGTH * scale
        bar(picture, goal, goal, 9, (76, 175, 106))
        cart = (x - left) * scale
        tip = cart - POLE_LENGTH * math.sin(theta) * scale, ground - POLE_LENGTH * math.cos(theta) * scale
        bar(picture, (cart - 20, ground), (cart + 20, ground), 11, dark)
        bar(picture, (cart, ground), tip, 4, (205, 92, 58))
        bar(picture, (cart, ground), (cart, ground), 3, light)
        return picture
