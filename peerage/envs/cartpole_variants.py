"""CartPole-v1 with other observations: with distractors, in changing orders, and without velocities.

Dynamics, rewards, ends and the draws of the start are those of Gymnasium's CartPole-v1.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box

from peerage.envs.draw import cartpole_picture

BLOCK = 16
"""Steps whose distractors are drawn at once."""
_ALL = np.array(list(itertools.permutations(range(4))))
_TEST = np.arange(len(_ALL)) % 3 == 2
ORDERS = {"all": _ALL, "train": _ALL[~_TEST], "test": _ALL[_TEST]}
"""Orders of the four features, int64 `[24, 4]`, `[16, 4]` and `[8, 4]`: observed number i is feature `order[i]`. Train
and test have none in common."""


class CartPoleVariant(CartPoleEnv):
    """CartPole-v1 with other observations: `_begin` follows every reset, and `_seen` changes every observation."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)
        self._begin()
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return self._seen(obs), reward, terminated, truncated, info

    def render(self) -> Any:
        """With `render_mode="rgb_array"` an image, uint8 [300, 600, 3], drawn without pygame; otherwise as CartPole."""
        if self.render_mode != "rgb_array" or self.state is None:
            return super().render()
        return cartpole_picture(float(self.state[0]), float(self.state[2]))

    def _begin(self) -> None:
        pass

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class CartPoleDistractors(CartPoleVariant):
    """CartPole-v1 with `k` numbers of noise after its four features: float32 [4 + k].

    The noise is standard normal and new in every step. It comes from the environment's generator, `BLOCK` steps at a
    time: at the start of an episode, after the numbers of the start, and whenever it is used up.
    """

    def __init__(self, k: int = 12, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number of at least 1, not {k!r}")
        self.k, self._noise, self._used = k, np.zeros((BLOCK, k), np.float32), BLOCK
        inner, far = self.observation_space, np.full(k, np.inf, np.float32)
        assert isinstance(inner, Box)
        self.observation_space = Box(np.append(inner.low, -far), np.append(inner.high, far), dtype=np.float32)

    def _begin(self) -> None:
        self._used = BLOCK

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        if self._used == BLOCK:
            self._noise, self._used = draw_noise(self.np_random, self.k), 0
        self._used += 1
        return np.append(obs, self._noise[self._used - 1])


def draw_noise(generator: np.random.Generator, k: int) -> np.ndarray:
    """The distractors of `BLOCK` steps, float32 `[BLOCK, k]`."""
    return generator.standard_normal((BLOCK, k)).astype(np.float32)


class CartPoleShuffled(CartPoleVariant):
    """CartPole-v1 whose four features have another order in every episode; the observation does not say which.

    The order is drawn uniformly, after the numbers of the start, from `ORDERS[orders]`; `order` is that of the episode.
    `orders`: "all" 24, "train" 16 or "test" the other 8. Raises ValueError for another word.
    """

    def __init__(self, orders: str = "all", render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.orders = orders_of(orders)
        self.order = self.orders[0]
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float32)

    def _begin(self) -> None:
        self.order = self.orders[self.np_random.integers(len(self.orders))]

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        return obs[self.order]


def orders_of(name: str) -> np.ndarray:
    """The orders with this name, int64 `[orders, 4]`. Raises ValueError for an unknown name."""
    if name not in ORDERS:
        raise ValueError(f"orders must be {', '.join(ORDERS)}, not {name!r}")
    return ORDERS[name]


class CartPoleNoVelocities(CartPoleVariant):
    """CartPole-v1 without velocities: float32 [2], the position of the cart and the angle of the pole."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        inner = self.observation_space
        assert isinstance(inner, Box)
        self.observation_space = Box(inner.low[::2], inner.high[::2], dtype=np.float32)

    def _seen(self, obs: np.ndarray) -> np.ndarray:
        return obs[::2].copy()
