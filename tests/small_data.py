"""Small datasets of real environments, written by Minari."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

Policy = Callable[[np.ndarray, int, np.random.Generator], Any]


def balance(obs: np.ndarray, episode: int, rng: np.random.Generator) -> int:
    """CartPole: a rule that balances the pole, with random actions in three of four episodes."""
    wrong = rng.random() < 0.2 * (episode % 4)
    return int(rng.integers(2)) if wrong else int(0.1 * obs[0] + 0.1 * obs[1] + obs[2] + 0.3 * obs[3] > 0)


def swing(obs: np.ndarray, episode: int, rng: np.random.Generator) -> np.ndarray:
    """Pendulum: a damped spring with noise."""
    torque = -np.arctan2(obs[1], obs[0]) - 0.5 * obs[2] + 0.1 * rng.normal()
    return np.clip([torque], -2, 2).astype(np.float32)


def write_dataset(
    folder: Path, env: str | gymnasium.Env, policy: Policy, episodes: int, seed: int = 0, **env_args: Any
) -> Path:
    """A dataset of `episodes` episodes of `policy`, which gets observation, number of the episode and a generator."""
    made = gymnasium.make(env, **env_args) if isinstance(env, str) else env
    rng = np.random.default_rng(seed)
    played = []
    for episode in range(episodes):
        obs, _ = made.reset(seed=seed + episode)
        seen, actions, rewards, ended = [obs], [], [], (False, False)
        while not any(ended):
            actions.append(policy(obs, episode, rng))
            obs, reward, *ended, _ = made.step(actions[-1])
            seen.append(obs)
            rewards.append(float(reward))
        flags = [np.arange(1, len(rewards) + 1) == len(rewards) * end for end in ended]
        played.append(EpisodeBuffer(
            id=episode, observations=np.array(seen), actions=np.array(actions), rewards=np.array(rewards),
            terminations=flags[0], truncations=flags[1],
        ))  # fmt: skip
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", made.observation_space, made.action_space, made.spec, "hdf5")
    storage.update_metadata({"dataset_id": folder.name, "minari_version": "0.5.4", "algorithm_name": "by hand"})
    storage.update_episodes(played)
    made.close()
    return folder


def cart_and_swing(folder: Path, cart_steps: int, swing_steps: int) -> Path:
    """The datasets `cart-v0`, 8 episodes of at most `cart_steps` steps, and `swing-v0`, 4 of `swing_steps`, in
    `folder`."""
    write_dataset(folder / "cart-v0", "CartPole-v1", balance, 8, max_episode_steps=cart_steps)
    write_dataset(folder / "swing-v0", "Pendulum-v1", swing, 4, max_episode_steps=swing_steps)
    return folder
