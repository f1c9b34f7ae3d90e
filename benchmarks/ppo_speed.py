"""Member-steps per second of CPU time of PPO, beside Stable-Baselines3 and SBX.

    python -m benchmarks.ppo_speed [--rounds 3] [--seconds 6] [--only cartpole] [--write-docs]

Settings are those of the presets `ppo-TASK`. Each contender runs in a separate process on one thread; contenders
alternate, and numbers are medians over rounds, so other load affects all of them alike. The floor is the time of the
matrix products of the updates alone, at the rate of a large float32 product.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.trust_probes import with_part

DOCS = Path(__file__).parent.parent / "docs" / "methods" / "ppo.md"
TASKS = ("cartpole", "acrobot", "mountaincar")
FEATURES = {"net": "attention", "n_layers": 0}
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> who, options
    "Stable-Baselines3": ("sb3", {}),
    "SBX": ("sbx", {}),
    "Peerage, 1 member": ("peerage", {"members": 1}),
    "Peerage, 4 members": ("peerage", {"members": 4}),
    "Peerage, 8 members": ("peerage", {"members": 8}),
    "Peerage, 4 members, Gymnasium's environments": ("peerage", {"members": 4, "loop": True}),
    "Peerage, 4 members, pooling of features": ("peerage", {"members": 4, "settings": FEATURES}),
    "Peerage, 4 members, self-attention and pooling": (
        "peerage", {"members": 4, "settings": {"net": "attention"}},
    ),
    "Peerage, 4 members, attention over 8 steps": (
        "peerage", {"members": 4, "settings": {**FEATURES, "env_args": {"history": 8}}},
    ),
}  # fmt: skip
ATTENTION = ("pooling", "attention")
"""Words of the contenders that are measured in the first task alone."""


def peerage_rate(task: str, seconds: float, members: int, loop: bool = False, settings: Any = None) -> float:
    import torch

    from peerage.config.file import load, validate
    from peerage.config.tree import with_settings
    from peerage.envs import stepping
    from peerage.nets import workers
    from peerage.training.trainer import Trainer

    if loop:
        stepping.FEW = sys.maxsize
    config = with_settings(load(f"ppo-{task}"), {"n_peers": members, "threads": 1, **(settings or {})})
    trainer = Trainer(validate(config))
    workers.configure(1)
    torch.set_num_threads(1)
    trainer.begin()
    rollout = trainer.group.stacks[0].learner.rollout_size
    while trainer.step < 2 * rollout:
        trainer.advance()
    began, start = trainer.step, time.process_time()
    while time.process_time() - start < seconds:
        for _ in range(rollout // trainer.stride):
            trainer.advance()
    rate = (trainer.step - began) * members / (time.process_time() - start)
    trainer.close()
    return rate


def library_rate(library: Any, task: str, seconds: float) -> float:
    import gymnasium
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from peerage.config.file import load
    from peerage.learners.defaults import member_settings

    config = load(f"ppo-{task}")
    s: Any = member_settings(config, discrete=True)[0]
    vec: Any = DummyVecEnv([lambda: gymnasium.make(config.env)] * s.n_envs)
    if s.normalize_obs:
        vec = VecNormalize(vec, gamma=s.gamma)

    class Clock(BaseCallback):
        """Measures whole rollouts with their updates, after the second one."""

        rollouts, steps = 0, 0
        start = cpu = 0.0

        def _on_rollout_start(self) -> None:
            self.rollouts += 1
            if self.rollouts == 3:
                self.start, self.steps = time.process_time(), self.num_timesteps
            self.cpu = time.process_time() - self.start
            self.done = self.num_timesteps - self.steps

        def _on_step(self) -> bool:
            return self.rollouts < 4 or self.cpu < seconds

    clock = Clock()
    model = library.PPO(
        "MlpPolicy", vec, n_steps=s.n_steps, batch_size=s.batch_size, n_epochs=s.update_epochs, gamma=s.gamma,
        gae_lambda=s.gae_lambda, learning_rate=s.learning_rate, seed=0,
    )  # fmt: skip
    model.learn(10**7, callback=clock)
    return clock.done / clock.cpu


def floor_rate(task: str) -> float:
    """Member-steps per second if only the matrix products of networks in rollout and updates took time."""
    import torch

    from peerage.config.file import load
    from peerage.envs.make import check_env_id
    from peerage.learners.defaults import member_settings

    torch.set_num_threads(1)
    config = load(f"ppo-{task}")
    s: Any = member_settings(config, discrete=True)[0]
    spec = check_env_id(config.env, {})
    sizes = (spec.obs_dim, *s.net_arch, spec.n_actions)
    products = [a * b for a, b in pairwise(sizes)]
    forward = 2 * sum(products)
    update = 2 * (3 * sum(products) - products[0])  # forward, gradients of weights and of all inputs but the first
    flops = forward + 2 * forward + 2 * s.update_epochs * update  # acting; values and log-probabilities; updates
    a = torch.randn(512, 512)
    best = float("inf")
    for _ in range(50):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best / flops


def measure(job: dict[str, Any]) -> float:
    who, options = CONTENDERS[job["name"]]
    if who == "peerage":
        return peerage_rate(job["task"], job["seconds"], **options)
    import importlib

    import torch

    torch.set_num_threads(1)
    library = importlib.import_module("stable_baselines3" if who == "sb3" else "sbx")
    return library_rate(library, job["task"], job["seconds"])


def in_process(job: dict[str, Any]) -> float:
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    one |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ppo_speed", "--job", json.dumps(job)]
    done = subprocess.run(command, env={**os.environ, **one}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def table(rates: dict[str, dict[str, float]], floors: dict[str, float]) -> list[str]:
    tasks = list(floors)
    lines = ["| | " + " | ".join(f"`ppo-{task}`" for task in tasks) + " |", "| --- |" + " --: |" * len(tasks)]
    for name, of in rates.items():
        cells = []
        for task in tasks:
            ratio = f" ({of[task] / rates['Stable-Baselines3'][task]:.1f})" if task in of else ""
            cells.append(f"{of[task]:,.0f}{ratio}" if task in of else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "| floor of a member | " + " | ".join(f"{floors[task]:,.0f}" for task in tasks) + " |"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ppo_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--job", type=json.loads)
    args = parser.parse_args()
    if args.job:
        return print(measure(args.job))
    names = [name for name, (who, _) in CONTENDERS.items() if who != "sbx" or find_spec("sbx")]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for n in range(args.rounds):
        for task in args.only:
            for name in names:
                if task == TASKS[0] or not any(word in name for word in ATTENTION):
                    rate = in_process({"name": name, "task": task, "seconds": args.seconds})
                    found[name].setdefault(task, []).append(rate)
                    print(f"round {n + 1}  {task:12s} {name:50s} {rate:10,.0f}", flush=True)
    rates = {name: {task: median(values) for task, values in of.items()} for name, of in found.items()}
    lines = table(rates, {task: floor_rate(task) for task in args.only})
    print("\n".join(lines))
    if args.write_docs:
        DOCS.write_text(with_part(DOCS.read_text(encoding="utf-8"), "speed", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
