"""A custom environment, a corridor, and a custom adviser that is right in its first half.

python examples/custom_adviser.py
"""

import gymnasium as gym
import numpy as np

import peerage


class Corridor(gym.Env):
    """Walk right to the end of a corridor of length 20; every step has a small cost."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)  # left, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(10)), 0
        return np.array([self.place / 20], np.float32), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        self.steps += 1
        done = self.place == 20
        return np.array([self.place / 20], np.float32), 1.0 if done else -0.01, done, self.steps == 100, {}


class HalfTheWay(peerage.Adviser):
    """Goes right in the first half of the corridor and acts at random in the second."""

    name = "half-the-way"

    def suggest(self, obs, rows, first, rng):
        return np.where(obs[:, 0] < 0.5, 1, rng.integers(2, size=len(obs)))


if __name__ == "__main__":
    run = peerage.train(
        Corridor,
        n_peers=2,
        advisers=[HalfTheWay(), "random"],
        total_timesteps=4000,
        learning_starts=200,
        eval_freq=1000,
    )
    print(run.evaluations.groupby("step")["return"].mean())
    chosen = run.advice.groupby("adviser")["chosen"].sum()
    print((chosen / chosen.sum()).round(2))
    print(run.folder / "report.html")
