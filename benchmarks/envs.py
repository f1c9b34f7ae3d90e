"""Measures the speed of batched environments, compared with the same environments stepped one by one.

    python -m benchmarks.envs [ID ...]

For groups of 4, 8, 32 and 128 environments as in a training, it prints the microseconds of CPU time of one step of the
group with both methods, and their ratio. Actions are random, except for CartPole, where they balance the pole, because
random actions end an episode every 20 steps. The methods alternate, and the fastest of several repetitions counts.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from peerage.envs.vector import EnvGroup, EnvMaker

IDS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
SIZES = (4, 8, 32, 128)
TURNS = 7


def seconds(group: EnvGroup, steps: int, rng: np.random.Generator) -> float:
    """CPU time of one step of the group."""
    actions = rng.integers(group.n_actions, size=(steps, group.n))
    balance = group.spec.id.startswith("CartPole-")
    obs = group.reset()
    started = time.process_time()
    for k in range(steps):
        obs = group.step((obs[:, 2] + obs[:, 3] > 0).astype(np.int64) if balance else actions[k]).obs
    return (time.process_time() - started) / steps


def compare(env_id: str, n: int) -> tuple[float, float]:
    """CPU seconds of one step of `n` environments one by one, and batched."""
    groups = [EnvGroup([EnvMaker(env_id)] * n, range(n), keep=True, batched=batched) for batched in (False, True)]
    rng = np.random.default_rng(0)
    steps = max(32, 1000 // n)
    one, two = (min(times) for times in zip(*([seconds(g, steps, rng) for g in groups] for _ in range(TURNS))))
    return one, two


def main(ids: list[str]) -> None:
    print(f"{'environment':26}{'n':>5}{'one by one':>12}{'batched':>12}{'ratio':>8}")
    for env_id in ids or IDS:
        for n in SIZES:
            one, two = compare(env_id, n)
            print(f"{env_id:26}{n:5}{one * 1e6:9.0f} us{two * 1e6:9.0f} us{one / two:8.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
