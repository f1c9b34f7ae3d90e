"""The measurements of `benchmarks.bench`: each trains a contender in a separate process and measures steps per second.

    python -m benchmarks.contenders '{"case": "hopper-sac", "who": "peerage", "members": 4}'

prints one line of JSON. `benchmarks.bench` starts these processes; the functions can also be called directly.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

TOTAL = 100_000  # nominal length of every training, which determines exploration schedules


@dataclass(frozen=True)
class Case:
    """An environment and the settings of all contenders, named as in Stable-Baselines3."""

    env: str
    algorithm: str
    net_arch: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)


DQN = {
    "learning_rate": 5e-4,
    "buffer_size": 100_000,
    "learning_starts": 500,
    "train_freq": 4,
    "gradient_steps": 1,
    "gamma": 0.99,
    "tau": 1.0,
    "target_update_interval": 250,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.05,
    "max_grad_norm": 10.0,
}
SAC = {
    "learning_rate": 3e-4,
    "buffer_size": 100_000,
    "learning_starts": 300,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 1,
    "gamma": 0.99,
    "tau": 0.005,
    "ent_coef": "auto",
}
CASES = {
    "hopper-sac": Case("Hopper-v4", "sac", (256, 256), SAC),
    "lunarlander-dqn": Case("LunarLander-v3", "dqn", (64, 64), DQN | {"batch_size": 128}),
    "room-dqn": Case("Room-v21", "dqn", (64, 64), DQN | {"batch_size": 64}),
}


TRUSTS = ("td", "hybrid", "in-context")


@dataclass(frozen=True)
class TrustCase:
    """A preset that is measured with different kinds of trust. `learning_starts` is reduced, so that the measurement
    includes learning."""

    preset: str
    learning_starts: int
    members: tuple[int, ...]
    target: float | None = None
    """Target for `hybrid` in member-steps per second."""


TRUST_CASES = {
    "lunarlander-hybrid": TrustCase("seed-hybrid-lunarlander", 500, (4,), 500.0),
    "hopper-hybrid": TrustCase("seed-hybrid-hopper", 300, (4,), 120.0),
    "room-hybrid": TrustCase("seed-hybrid-room-v21", 200, (2, 4, 8, 16)),
}


@dataclass(frozen=True)
class Job:
    """One measurement."""

    case: str
    who: str  # peerage, sb3, sbx, environment, gemm
    members: int = 1
    threads: int | None = None  # None: the contender's own choice
    device: str = "cpu"
    warm_up: int = 100
    """Steps with learning before the measurement: compilation, caches, the first updates of trust."""
    seconds: float = 5.0
    """Duration of the measurement."""
    trust: str | None = None
    """One of TRUSTS, in a case of TRUST_CASES."""

    def key(self) -> str:
        """The key of the contender in the results."""
        threads = "" if self.threads is None else f"/threads={self.threads}"
        trust = "" if self.trust is None else f"/trust={self.trust}"
        return f"{self.case}/{self.who}/{self.members}{threads}{trust}"


def measure(job: Job) -> dict[str, Any]:
    """Run one measurement. `rate`: member-steps (steps of a single agent) per second, after `learning_starts` and the
    warm-up. For contenders that train also `cpu`: milliseconds of CPU time per member-step over all threads, which
    depends less on other load of the machine."""
    warnings.filterwarnings("ignore")
    ways = {"peerage": peerage, "sb3": sb3, "sbx": sbx, "environment": environment, "gemm": gemm}
    return ways[job.who](job)


def peerage(job: Job) -> dict[str, Any]:
    """A group of `job.members` with advice (critic, trust and agent values): environments, advice and learning, without
    evaluations and run folder."""
    import torch

    from peerage.config import AdviceConfig, Config, LearnerConfig
    from peerage.nets import workers
    from peerage.training.trainer import Trainer

    if job.case in TRUST_CASES:
        config, starts, whole = trust_config(job), TRUST_CASES[job.case].learning_starts, 20
    else:
        case = CASES[job.case]
        columns = {name: (value,) for name, value in case.settings.items()}
        config = Config(
            env=case.env,
            n_peers=job.members,
            total_timesteps=TOTAL,
            device=job.device,
            threads=job.threads,
            learner=LearnerConfig(algorithm=(case.algorithm,), net_arch=(case.net_arch,), **columns),  # type: ignore[arg-type]
            advice=AdviceConfig(sharing="advice", trust="td", use_critic=True, use_trust=True, use_agent_values=True),
        )
        starts, whole = case.settings["learning_starts"], 4
    trainer = Trainer(config)
    workers.configure(trainer.threads)  # as a runner does

    def synchronise() -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()

    trainer.begin()
    for _ in range(starts + job.warm_up):
        trainer.advance()
    synchronise()
    steps, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < job.seconds:
        for _ in range(whole):  # complete cycles of train_freq and of the trust transformer's updates
            trainer.advance()
        steps += whole
    synchronise()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    trainer.close()
    return {
        "rate": steps * job.members / seconds,
        "cpu": 1e3 * cpu / (steps * job.members),
        "steps": steps,
        "threads": trainer.threads,
    }


def trust_config(job: Job) -> Any:
    """The preset of a trust case with `job.members` members and the kind of trust `job.trust`."""
    from peerage.config import changed
    from peerage.config.file import load

    case = TRUST_CASES[job.case]
    run = {"n_peers": job.members, "total_timesteps": TOTAL, "device": job.device, "threads": job.threads}
    advice = {"trust": job.trust or "hybrid"}
    return changed(
        load(case.preset), {"": run, "learner": {"learning_starts": (case.learning_starts,)}, "advice": advice}
    )


def sb3(job: Job) -> dict[str, Any]:
    """One agent of Stable-Baselines3, trained with `model.learn`."""
    import stable_baselines3
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    case = CASES[job.case]
    build = stable_baselines3.SAC if case.algorithm == "sac" else stable_baselines3.DQN
    policy = {"net_arch": list(case.net_arch)}
    model = build(
        "MlpPolicy", make(case.env), policy_kwargs=policy, device=job.device, seed=0, **case.settings
    )
    return learn(model, job) | {"threads": torch.get_num_threads()}


def sbx(job: Job) -> dict[str, Any]:
    """One agent of SBX (Stable-Baselines3's agents in JAX)."""
    import sbx as library

    case = CASES[job.case]
    build = library.SAC if case.algorithm == "sac" else library.DQN
    policy = {"net_arch": list(case.net_arch)}
    return learn(build("MlpPolicy", make(case.env), policy_kwargs=policy, seed=0, **case.settings), job)


def learn(model: Any, job: Job) -> dict[str, Any]:
    """Train a model with Stable-Baselines3's interface; a callback measures the time."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        began = ended = cpu = 0.0
        steps = 0

        def _on_step(self) -> bool:
            now = time.perf_counter()
            if self.num_timesteps <= start:
                self.began, self.cpu = now, -time.process_time()
                return True
            self.ended, self.steps = now, self.num_timesteps - start
            if now - self.began < job.seconds:
                return True
            self.cpu += time.process_time()
            return False

    start = CASES[job.case].settings["learning_starts"] + job.warm_up
    clock = Clock()
    model.learn(TOTAL, callback=clock)
    rate = clock.steps / (clock.ended - clock.began)
    return {"rate": rate, "cpu": 1e3 * clock.cpu / clock.steps, "steps": clock.steps}


def environment(job: Job) -> dict[str, Any]:
    """Steps per second of Peerage's vectorised environments without learning, with random actions drawn in advance."""
    import numpy as np

    from peerage.envs.vector import EnvGroup, EnvMaker

    envs = EnvGroup([EnvMaker(CASES[job.case].env)] * job.members, list(range(job.members)))
    rng = np.random.default_rng(0)
    size = (1024, job.members) if envs.discrete else (1024, job.members, envs.act_dim)
    actions = (
        rng.integers(envs.n_actions, size=size)
        if envs.discrete
        else rng.uniform(envs.action_low, envs.action_high, size=size)
    )
    envs.reset()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < min(job.seconds, 2):
        envs.step(actions[steps % 1024])
        steps += 1
    seconds = time.perf_counter() - began
    envs.close()
    return {"rate": steps * job.members / seconds, "steps": steps}


def gemm(job: Job) -> dict[str, Any]:
    """`rate`: GFLOP/s of a float32 matrix product, the best of many repetitions and of torch's implementations:
    `matmul` and, on a CPU, oneDNN (`onednn`)."""
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    size = 512 if job.device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=job.device) for _ in range(2))
    ways: dict[str, Callable[[], Any]] = {"matmul": lambda: a @ b}
    if job.device == "cpu" and torch.backends.mkldnn.is_available():
        ways["onednn"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    rates = {}
    for name, product in ways.items():
        best, end = float("inf"), time.perf_counter() + min(job.seconds, 2)
        while time.perf_counter() < end:
            began = time.perf_counter()
            product()
            if a.is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
        rates[name] = 2 * size**3 / best / 1e9
    return {"rate": max(rates.values()), "threads": torch.get_num_threads()} | rates


def make(env: str) -> Any:
    """Make an environment with Gymnasium, with Peerage's environments registered."""
    import gymnasium

    import peerage.envs  # noqa: F401

    return gymnasium.make(env)


def update_flops(case: Case, obs: int, actions: int) -> float:
    """Floating-point operations of the matrix products in one gradient step of one member; a multiplication with
    addition counts as two. The passes of a layer are: forward, gradient of the weights, gradient of the input."""

    def passes(first: int, last: int, forward: int, weights: int, inputs: int, into_first: int) -> float:
        sizes = (first, *case.net_arch, last)
        products = [a * b for a, b in pairwise(sizes)]
        return (forward + weights + inputs) * sum(products) - (inputs - into_first) * products[0]

    if case.algorithm == "dqn":  # Q at s with gradients, Q_target at s'
        total = passes(obs, actions, 2, 1, 1, 0)
    else:
        # The actor at s with gradients and at s'; two critics with gradients, two targets, and two critics for the
        # actor's loss with the gradient of the actions
        total = passes(obs, 2 * actions, 2, 1, 1, 0) + 2 * passes(obs + actions, 1, 3, 1, 2, 1)
    return 2 * case.settings["batch_size"] * total


def shapes(case: Case) -> tuple[int, int]:
    """The dimensions of observations and actions (Discrete: the number of actions)."""
    env = make(case.env)
    space = env.action_space
    return env.observation_space.shape[0], int(space.n) if hasattr(space, "n") else space.shape[0]


def in_process(job: Job) -> dict[str, Any]:
    """Run `measure` in a new Python process, with the number of threads set before libraries are loaded."""
    import subprocess

    environ = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    if job.threads is not None:
        environ |= {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.contenders", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job.key()} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def available(who: str) -> bool:
    """Whether the library is installed."""
    from importlib.util import find_spec

    return who not in ("sb3", "sbx") or find_spec({"sb3": "stable_baselines3", "sbx": "sbx"}[who]) is not None


if __name__ == "__main__":
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))))
