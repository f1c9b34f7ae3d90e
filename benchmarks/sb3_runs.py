"""Trains Stable-Baselines3's PPO with the settings of a preset, and writes the evaluations as a run folder.

    python -m benchmarks.sb3_runs ppo-cartpole OUT [--replicas 10] [--total-timesteps N]

The folder OUT can be given to `peerage compare`: it has the configuration of the preset with one member, and the same
environments, start states and numbers of episodes as a run of Peerage. Finished replicas are kept, so an interrupted
command continues with the next one. One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from peerage.config import Config
from peerage.config.file import load, to_dict
from peerage.envs.make import EnvMaker, check_env_id
from peerage.evaluation.evaluate import Actor, Evaluator, episode_seeds
from peerage.learners.defaults import member_settings, resolve
from peerage.learners.ppo_settings import PPOSettings
from peerage.runs.folder import RunFolder, write_atomically
from peerage.runs.tables import CsvLog
from peerage.trust.resolve import resolve_trust

MEMBER = "member-0"


class Sb3Actor(Actor):
    """A model of Stable-Baselines3; observations are normalised by its statistics if it has any."""

    def __init__(self, model: Any, statistics: VecNormalize | None) -> None:
        self.model, self.statistics = model, statistics

    def act(self, obs: np.ndarray) -> np.ndarray:
        actions = self.model.predict(
            obs if self.statistics is None else self.statistics.normalize_obs(obs), deterministic=True
        )[0]
        return np.asarray(actions)


class Evaluations(BaseCallback):
    """Evaluates at the start, every `freq` steps and at the end."""

    def __init__(self, evaluator: Evaluator, freq: int, statistics: VecNormalize | None) -> None:
        super().__init__()
        self.evaluator, self.freq, self.statistics = evaluator, freq, statistics
        self.rows: dict[int, list[tuple[int, float, int]]] = {}

    def evaluate(self) -> None:
        played = self.evaluator.run(Sb3Actor(self.model, self.statistics))
        assert played is not None
        self.rows[self.num_timesteps] = [(number, e.return_, e.length) for _, number, e in played]

    def _on_training_start(self) -> None:
        self.evaluate()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.freq < self.training_env.num_envs:
            self.evaluate()
        return True

    def _on_training_end(self) -> None:
        if self.num_timesteps not in self.rows:
            self.evaluate()


def linear(initial: float) -> Any:
    return lambda remaining: remaining * initial


def train(config: Config, s: PPOSettings, replica: int) -> dict[str, Any]:
    """One replica: step -> (episode, return, length), and the CPU seconds."""
    vec: Any = DummyVecEnv([lambda: gymnasium.make(config.env)] * s.n_envs)
    statistics = None
    if s.normalize_obs or s.normalize_reward:
        vec = statistics = VecNormalize(vec, norm_obs=s.normalize_obs, norm_reward=s.normalize_reward, gamma=s.gamma)
    model = sb3.PPO(
        "MlpPolicy",
        vec,
        learning_rate=linear(s.learning_rate) if s.anneal_lr else s.learning_rate,
        n_steps=s.n_steps,
        batch_size=s.batch_size,
        n_epochs=s.update_epochs,
        gamma=s.gamma,
        gae_lambda=s.gae_lambda,
        clip_range=linear(s.clip_range) if s.anneal_clip else s.clip_range,
        ent_coef=float(s.ent_coef),
        vf_coef=s.vf_coef,
        max_grad_norm=s.max_grad_norm,
        policy_kwargs={"net_arch": list(s.net_arch)},
        seed=replica,
        device="cpu",
    )
    seeds = episode_seeds(config, config.run.n_eval_episodes)[replica]
    evaluator = Evaluator([EnvMaker(config.env)], [seeds])
    callback = Evaluations(evaluator, config.run.eval_freq, statistics)
    start = time.process_time()
    model.learn(config.steps, callback=callback)
    evaluator.close()
    return {"rows": callback.rows, "cpu_seconds": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sb3_runs", description=__doc__.split("\n")[0])
    parser.add_argument("preset")
    parser.add_argument("out", type=Path)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--total-timesteps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(load(args.preset), n_peers=1, replicas=args.replicas)
    config = replace(config, total_timesteps=args.total_timesteps or config.steps)
    config = replace(config, run=replace(config.run, exp_name=args.out.name, log_dir=str(args.out.parent)))
    spec = check_env_id(config.env, config.env_args)
    config = resolve_trust(resolve(config, spec.discrete), spec)
    (settings,) = member_settings(config, spec.discrete)
    assert isinstance(settings, PPOSettings)
    parts = args.out.parent / f".{args.out.name}"
    parts.mkdir(parents=True, exist_ok=True)
    for replica in range(args.replicas):
        file = parts / f"{config.steps}-{replica}.json"
        if not file.exists():
            write_atomically(file, json.dumps(train(config, settings, replica)))
            print(f"replica {replica}: trained", flush=True)
    found = [json.loads((parts / f"{config.steps}-{replica}.json").read_text()) for replica in range(args.replicas)]

    def write(made: RunFolder) -> None:
        made.write_environment(spec.id, "cpu", "stable-baselines3", spec.fingerprint)
        made.write_command(["python", "-m", "benchmarks.sb3_runs", args.preset, str(args.out)])

    with RunFolder.create(config.run.log_dir, args.out.name, args.out.name, to_dict(config), write=write) as folder:
        log = CsvLog(folder.path)
        for step in found[0]["rows"]:
            for replica, part in enumerate(found):
                rows = [(replica, MEMBER, n, r, length, None, "alone") for n, r, length in part["rows"][step]]
                log.on_evaluations(int(step), rows)
        log.close()
        folder.finish("DONE", f"{sum(part['cpu_seconds'] for part in found):.0f} CPU seconds", config.steps)


if __name__ == "__main__":
    main()
