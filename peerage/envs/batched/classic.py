"""CartPole, Acrobot and MountainCar of Gymnasium, `n` at a time and equal to them bit for bit.

Equal bits need the same operations in the same order, and functions of NumPy whose results for arrays are those for
single numbers. This holds for `+ - * /`, `sin`, `cos` and `float_power`, but not for `**`: Gymnasium's `x ** 2` of one
number calls `pow` of the C library, which is not always the nearest number to the square, whereas an array is
multiplied by itself. `x * 0.5 * 1.0` is written as `x * 0.5`, which has the same bits.
"""

from __future__ import annotations

from math import pi

import numpy as np

from peerage.envs.batched.program import BatchedEnv, Rows

EVERY = slice(None)


class BatchedCartPole(BatchedEnv):
    """`state [4, n]`: x, its velocity, theta, its velocity."""

    FORCES = np.array([-10.0, 10.0])
    LIMITS = np.array([[2.4], [12 * 2 * pi / 360]])  # of x and theta

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.state = np.zeros((4, n))
        total, pole = 0.1 + 1.0, 0.1 * 0.5
        self.constants = [np.full(n, c) for c in (total, pole, 9.8, 0.1, 4.0 / 3.0, 0.5)]
        self.constants += [np.full((4, n), 0.02), np.repeat(self.LIMITS, n, axis=1), np.ones(n)]

    def reset(self, row: int) -> np.ndarray:
        state = self.generators[row].uniform(-0.05, 0.05, 4)
        self.state[:, row] = state
        return state.astype(np.float32)

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        state, k = self.state[:, rows], len(actions)
        # Operations with arrays of one number are twice as fast as with the number
        constants = self.constants if k == self.n else [c[..., :k] for c in self.constants]
        total, pole, gravity, pole_mass, ratio, length, tau, limits, ones = constants
        cos, sin = np.cos(state[2]), np.sin(state[2])
        temp = (self.FORCES[actions] + pole * np.square(state[3]) * sin) / total
        change = np.empty_like(state)
        change[0::2] = state[1::2]  # the positions change by the velocities before this step
        np.divide(gravity * sin - cos * temp, length * (ratio - pole_mass * np.square(cos) / total), out=change[3])
        np.subtract(temp, pole * change[3] * cos / total, out=change[1])
        state = state + tau * change
        self.state[:, rows] = state
        beyond = np.abs(state[0::2]) > limits
        return state.T.astype(np.float32, order="C"), ones, beyond[0] | beyond[1]


class BatchedMountainCar(BatchedEnv):
    """`state [2, n]`: position, velocity."""

    LOW, HIGH, GOAL, MAX_SPEED = -1.2, 0.6, 0.5, 0.07

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.state = np.zeros((2, n))

    def reset(self, row: int) -> np.ndarray:
        self.state[:, row] = self.generators[row].uniform(-0.6, -0.4), 0.0
        return self.state[:, row].astype(np.float32)

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position, velocity = self.state[:, rows]
        velocity = velocity + ((actions - 1) * 0.001 + np.cos(3 * position) * -0.0025)
        velocity = np.minimum(np.maximum(velocity, -self.MAX_SPEED), self.MAX_SPEED)
        position = np.minimum(np.maximum(position + velocity, self.LOW), self.HIGH)
        velocity[(position == self.LOW) & (velocity < 0)] = 0.0
        self.state[0, rows], self.state[1, rows] = position, velocity
        terminated = (position >= self.GOAL) & (velocity >= 0)
        return np.stack((position, velocity), axis=1).astype(np.float32), np.full(len(position), -1.0), terminated


class BatchedAcrobot(BatchedEnv):
    """`state [4, n]`: theta 1, theta 2, their velocities. Gymnasium's state after a reset is float32."""

    TORQUES = np.array([-1.0, 0.0, 1.0])
    MAX_SPEEDS = np.array([[4 * pi], [9 * pi]])
    DT = 0.2

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.state = np.zeros((4, n))
        self.constants = [np.full(n, c) for c in (0.25, 1.25, 0.5, 1.0)]
        self.constants += [np.full((2, n), pi / 2), np.repeat([[0.5], [-0.5]], n, 1)]
        self.constants += [np.repeat([[0.5 * 9.8], [1.5 * 9.8]], n, 1)]

    def reset(self, row: int) -> np.ndarray:
        state = self.generators[row].uniform(-0.1, 0.1, 4).astype(np.float32)
        self.state[:, row] = state
        one, two = state[0], state[1]  # single float32 numbers, as in Gymnasium
        return np.array([np.cos(one), np.sin(one), np.cos(two), np.sin(two), state[2], state[3]], np.float32)

    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        torque, state = self.TORQUES[actions], self.state[:, rows]
        k1 = self._change(state, torque)
        k2 = self._change(state + self.DT / 2.0 * k1, torque)
        k3 = self._change(state + self.DT / 2.0 * k2, torque)
        k4 = self._change(state + self.DT * k3, torque)
        state = state + self.DT / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles, speeds = state[:2], state[2:]
        while (over := angles > pi).any():
            angles[over] -= 2 * pi
        while (under := angles < -pi).any():
            angles[under] += 2 * pi
        np.minimum(np.maximum(speeds, -self.MAX_SPEEDS), self.MAX_SPEEDS, out=speeds)
        self.state[:, rows] = state
        obs = np.empty((len(actions), 6), np.float32)
        cos = np.cos(angles)
        obs[:, 0:4:2] = cos.T
        obs[:, 1:4:2] = np.sin(angles).T
        obs[:, 4:] = speeds.T
        terminated = -cos[0] - np.cos(angles[1] + angles[0]) > 1.0
        return obs, np.where(terminated, 0.0, -1.0), terminated

    def _change(self, state: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """The derivative of `state [4, k]`: the equations of Sutton and Barto's book, with links of 1 m and 1 kg."""
        k = len(torque)
        constants = self.constants if k == self.n else [c[..., :k] for c in self.constants]
        quarter, five_quarters, half, one, right_angle, half_mass, weight = constants
        angles = np.empty((3, k))
        angles[0] = state[1]
        np.add(state[0], state[1], out=angles[1])
        angles[2] = state[0]
        angles[1:] -= right_angle
        cosines, sin = np.cos(angles), np.sin(state[1])
        cos = cosines[0]
        d1 = quarter + (five_quarters + cos) + one + one
        d2 = quarter + half * cos + one
        turning1, turning2 = half_mass * np.float_power(state[2:], 2.0) * sin
        phi2, falling = weight * cosines[1:]
        phi1 = turning2 - state[3] * state[2] * sin + falling + phi2
        acc2 = (torque + d2 / d1 * phi1 - turning1 - phi2) / (five_quarters - np.float_power(d2, 2.0) / d1)
        change = np.empty_like(state)
        change[:2] = state[2:]
        np.divide(-(d2 * acc2 + phi1), d1, out=change[2])
        change[3] = acc2
        return change
