"""A feature family of one's own: CartPole with three blocks and three phases.

python examples/custom_features.py
"""

import gymnasium as gym
import numpy as np

from peerage.envs.make import check_env_id
from peerage.trust.features import ADVISER, Family, Past, columns, make_features, one_hot, register_features


def phases(past: Past) -> np.ndarray:
    """0 balanced; 1 leaning; 2 running out of room."""
    place, angle = past.obs[..., 0], past.obs[..., 2]
    return np.where(np.abs(place) > 1.5, 2, np.where(np.abs(angle) > 0.05, 1, 0))


def extract(past: Past) -> dict[str, np.ndarray]:
    angle, spin = past.obs[..., 2], past.obs[..., 3]
    return {
        "pole": columns(angle / 0.2, spin, np.abs(angle) > 0.1, past.std_of_last(angle, 20)),
        "action": columns(one_hot(past.action, 2), past.changed(past.action)),
        "reward": past.mean_reward(20),
    }


def pole(spec) -> Family:
    return Family(
        name="pole",
        blocks=(("pole", 4), ("action", 3), ADVISER, ("reward", 1)),
        extract=extract,
        phases=phases,
        phase_names=("balanced", "leaning", "at the edge"),
    )


register_features("CartPole-v1", pole)  # under the name of the environment, so `auto` finds it

if __name__ == "__main__":
    features = make_features("auto", check_env_id("CartPole-v1", {}), n_members=1, n_advisers=3)
    print(features.width, "features:", {name: (block.start, block.stop) for name, block in features.slices.items()})

    env, rng = gym.make("CartPole-v1"), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    steps, first = [], True
    for _ in range(200):
        action = int(obs[2] + obs[3] > 0) if rng.random() < 0.8 else int(rng.integers(2))
        after, reward, terminated, truncated, _ = env.step(action)
        steps.append((obs, action, reward, rng.integers(3), first))
        first = terminated or truncated
        obs = env.reset()[0] if first else after

    # [steps, ...] -> [1 member, steps, ...]: the features of all steps in one call
    values, phase = features.extend(*(np.array(column)[None] for column in zip(*steps)))
    print("the last step:")
    for name, block in features.slices.items():
        print(f"  {name}:", *(f"{value:.2f}" for value in values[0, -1, block]))
    print("phases:", dict(zip(features.phase_names, np.bincount(phase[0], minlength=3).tolist())))
