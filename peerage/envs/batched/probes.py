"""Tasks of Peerage that need attention or memory, `n` at a time."""

from __future__ import annotations

import numpy as np

from peerage.envs.batched.classic import BatchedCartPole
from peerage.envs.batched.program import BatchedEnv, Rows
from peerage.envs.cartpole_variants import BLOCK, draw_noise, orders_of
from peerage.envs.cues import answers, asked_answers, draw_cues, draw_keys


class BatchedCartPoleNoVelocities(BatchedCartPole):
    def reset(self, row: int) -> np.ndarray:
        return super().reset(row)[::2].copy()

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        obs, reward, terminated = super().step(rows, actions)
        return obs[:, ::2].copy(), reward, terminated


class BatchedCartPoleShuffled(BatchedCartPole):
    """`order [n, 4]`: the orders of the features in these episodes."""

    def __init__(self, n: int, orders: str = "all") -> None:
        super().__init__(n)
        self.orders = orders_of(orders)
        self.order = np.zeros((n, 4), np.int64)

    def reset(self, row: int) -> np.ndarray:
        obs = super().reset(row)
        self.order[row] = self.orders[self.generators[row].integers(len(self.orders))]
        return obs[self.order[row]]

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        obs, reward, terminated = super().step(rows, actions)
        return np.take_along_axis(obs, self.order[rows], axis=1), reward, terminated


class BatchedCartPoleDistractors(BatchedCartPole):
    """`noise [n, BLOCK, k]`: the distractors that were drawn last; the first `used [n]` of them were observed."""

    def __init__(self, n: int, k: int = 12) -> None:
        super().__init__(n)
        self.noise, self.used = np.zeros((n, BLOCK, k), np.float32), np.zeros(n, np.int64)
        self.indices = np.arange(n)

    def reset(self, row: int) -> np.ndarray:
        obs = super().reset(row)
        self._draw(row)
        return np.append(obs, self.noise[row, 0])

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        obs, reward, terminated = super().step(rows, actions)
        indices, used = self.indices[rows], self.used[rows] % BLOCK
        for row in indices[used == 0].tolist():  # all were observed
            self._draw(row)
        noise = self.noise[indices, used]
        self.used[rows] = used + 1
        return np.concatenate((obs, noise), axis=1), reward, terminated

    def _draw(self, row: int) -> None:
        self.noise[row], self.used[row] = draw_noise(self.generators[row], self.noise.shape[2]), 1


class BatchedMarkedCue(BatchedEnv):
    """`shown [n, n_values + 1, obs]`: the observations of these episodes; `count [n]`: their steps."""

    def __init__(self, n: int, n_values: int = 8, plain: bool = False) -> None:
        super().__init__(n)
        self.n_values, self.plain = n_values, plain
        self.shown = np.stack([self._draw(row) for row in range(n)])
        self.count, self.indices = np.zeros(n, np.int64), np.arange(n)

    def reset(self, row: int) -> np.ndarray:
        self.shown[row], self.count[row] = self._draw(row), 0
        return self.shown[row, 0].copy()

    def _draw(self, row: int) -> np.ndarray:
        return draw_cues(self.generators[row], self.n_values, self.plain)

    def _answers(self, shown: np.ndarray) -> np.ndarray:
        return answers(shown)

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indices, count = self.indices[rows], self.count[rows] + 1
        self.count[rows] = count
        terminated, reward = count > self.n_values, np.zeros(len(count))
        self.infos = {}
        if len(asked := np.flatnonzero(terminated)):
            right = actions[asked] == self._answers(self.shown[indices[asked]])
            reward[asked] = np.where(right, 1.0, -1.0)
            self.infos = {i: {"is_success": r} for i, r in zip(indices[asked].tolist(), right.tolist())}
        return self.shown[indices, np.minimum(count, self.n_values)], reward, terminated


class BatchedAskedCue(BatchedMarkedCue):
    def __init__(self, n: int, n_values: int = 8) -> None:
        super().__init__(n, n_values)

    def _draw(self, row: int) -> np.ndarray:
        return draw_keys(self.generators[row], self.n_values)

    def _answers(self, shown: np.ndarray) -> np.ndarray:
        return asked_answers(shown)
