"""The experts, datasets, offline runs and groups of novices of the page that `benchmarks.offline_results` writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import runs
from peerage.config.methods import LEARNERS
from peerage.offline.places import is_minari
from peerage.runs import checkpoint


@dataclass(frozen=True)
class Size:
    """How much is trained, and where the runs are."""

    folder: Path
    replicas: int = 5
    episodes: int = 100
    """Of each dataset."""
    expert_share: float = 1.0
    """Of the steps of an expert."""
    step_share: float = 1.0
    """Of the gradient steps of an offline run."""
    eval_episodes: int = 20
    flags: str = ""
    """Further flags of the offline runs."""


FULL = Size(Path("experiments/offline"))
QUICK = Size(Path("experiments/offline-quick"), 2, 6, 0.02, 0.003, 2, "--batch-size 8")


@dataclass(frozen=True)
class Task:
    """An environment, and the expert that makes its data."""

    name: str
    env: str
    flags: str
    steps: int
    """Of the expert."""
    mixed: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of the expert's steps after which its checkpoints act in mixed data; multiples of the first one."""


TD3 = "--algorithm td3 --learning-starts 1000 --log-freq 1000"
TASKS = {
    task.name: task
    for task in (
        Task("halfcheetah", "HalfCheetah-v5", f"--env HalfCheetah-v5 {TD3}", 40_000),
        Task("hopper", "Hopper-v5", f"--env Hopper-v5 {TD3}", 60_000),
        Task("cartpole", "CartPole-v1", "--config ppo-cartpole", 40_000, (1 / 16, 1 / 8, 1 / 4, 1)),
    )
}
METHODS = {  # label, flags, gradient steps
    "dt": ("Decision Transformer", "--algorithm dt --learning-rate 1e-3", 2_000),
    "ddt": ("Decoupled DT", "--algorithm ddt --learning-rate 1e-3", 2_000),
    "bc": ("behaviour cloning", "--algorithm bc", 20_000),
    "bc10": ("10%-BC", "--algorithm bc --data-fraction 0.1", 20_000),
    "rvs": ("return-conditioned MLP", "--algorithm rvs", 20_000),
    "td3bc": ("TD3+BC", "--algorithm td3bc", 40_000),
}
BOX_ONLY = ("td3bc",)
REFERENCE = "bc"
DATA = ("expert", "mixed")
NOISE = 0.1
"""Exploration noise of all data."""
NOVICES = {  # flags, steps per member
    "cartpole": ("--env CartPole-v1 --algorithm dqn", 20_000),
    "halfcheetah": (f"--env HalfCheetah-v5 {TD3}", 20_000),
}
"""Tasks in which groups of novices get advice."""
WAYS = {  # label, sharing, method of the run that advises
    "alone": ("alone", "none", ""),
    "each-other": ("each other", "advice", ""),
    "dt": ("each other and a Decision Transformer", "advice", "dt"),
    "bc": ("each other and a clone (bc)", "advice", "bc"),
}
N_NOVICES = 4


class Made(runs.Experiment):
    """Something that the script makes in the folder of its `size`. Subclasses have a field `size`."""

    size: Size

    @property
    def folder(self) -> Path:
        return self.size.folder / self.name


@dataclass(frozen=True)
class Expert(Made):
    task: Task
    size: Size

    @property
    def name(self) -> str:
        return f"{self.task.name}-online"

    def make(self) -> tuple[bool, str]:
        steps = max(1024, round(self.size.expert_share * self.task.steps / 1024) * 1024)
        first = self.task.mixed[0]
        more = f"--n-peers 1 --sharing none --total-timesteps {steps} --checkpoint-freq {round(first * steps)}"
        more += f" --keep-checkpoints {round(1 / first)} --eval-freq {steps // 4}"
        more += f" --n-eval-episodes {self.size.eval_episodes}"
        return runs.train([*self.task.flags.split(), *more.split()], self.folder, (1, steps))


@dataclass(frozen=True)
class Dataset(Made):
    task: Task
    kind: str
    size: Size

    @property
    def name(self) -> str:
        return f"{self.task.name}-{self.kind}-data"

    @property
    def done(self) -> bool:
        return is_minari(self.folder)

    def make(self) -> tuple[bool, str]:
        if self.done:
            return True, f"{self.name}: already collected"
        expert = Expert(self.task, self.size)
        found = sorted(checkpoint.step_of(folder) for folder in checkpoint.checkpoints(expert.folder))
        steps = [found[max(1, round(share * len(found))) - 1] for share in self.task.mixed]
        sources = [str(expert.folder)] if self.kind == "expert" else [f"{expert.folder}@{step}" for step in steps]
        sources += ["random"] if self.kind == "mixed" else []
        words = [*sources, "--episodes", str(self.size.episodes), "--noise", str(NOISE), "--out", f"./{self.folder}"]
        ended = subprocess.run([sys.executable, "-m", "peerage", "collect", *words], capture_output=True, text=True)
        said = (ended.stderr if ended.returncode else ended.stdout).strip() or "failed"
        return not ended.returncode, f"{self.name}: {said.splitlines()[-1]}"


@dataclass(frozen=True)
class Experiment(Made):
    data: Dataset
    method: str
    size: Size

    @property
    def name(self) -> str:
        return f"{self.data.task.name}-{self.data.kind}-{self.method}"

    @property
    def label(self) -> str:
        return METHODS[self.method][0]

    @property
    def steps(self) -> int:
        return max(20, round(self.size.step_share * METHODS[self.method][2]))

    def make(self) -> tuple[bool, str]:
        more = f"--n-peers 1 --replicas {self.size.replicas} --n-eval-episodes {self.size.eval_episodes}"
        more += f" --total-timesteps {self.steps} --eval-freq {self.steps // 4} --log-freq {max(1, self.steps // 40)}"
        more += f" {self.size.flags}"
        settings = [*METHODS[self.method][1].split(), "--data", str(self.data.folder), *more.split()]
        return runs.train(settings, self.folder, (self.size.replicas, self.steps))


@dataclass(frozen=True)
class Novices(Made):
    """A group of members that learn online, with or without a member of a run on the mixed data as an adviser."""

    task: Task
    way: str
    size: Size

    @property
    def name(self) -> str:
        return f"{self.task.name}-novices-{self.way}"

    def make(self) -> tuple[bool, str]:
        flags, steps = NOVICES[self.task.name]
        steps = max(1200, round(self.size.expert_share * steps))
        _, sharing, method = WAYS[self.way]
        more = f"--n-peers {N_NOVICES} --replicas {self.size.replicas} --total-timesteps {steps} --sharing {sharing}"
        more += f" --eval-freq {steps // 10} --n-eval-episodes {self.size.eval_episodes}"
        adviser = Experiment(Dataset(self.task, "mixed", self.size), method, self.size).folder if method else None
        words = ["--advisers", f"checkpoint:{adviser}"] if adviser else []
        return runs.train([*flags.split(), *more.split(), *words], self.folder, (self.size.replicas, steps))


Step = Expert | Dataset | Experiment | Novices


def everything(size: Size) -> list[Step]:
    """All experts, datasets, offline runs and groups of novices, each after what it needs."""
    steps: list[Step] = []
    for task in TASKS.values():
        steps.append(Expert(task, size))
        for kind in DATA:
            data = Dataset(task, kind, size)
            steps += [data, *(Experiment(data, method, size) for method in methods(task))]
        if task.name in NOVICES:
            known = [way for way, (_, _, method) in WAYS.items() if not method or method in methods(task)]
            steps += [Novices(task, way, size) for way in known]
    return steps


def methods(task: Task) -> list[str]:
    """The methods that are registered and learn the task's kind of actions."""
    discrete = task.env == "CartPole-v1"
    known = [name for name, (_, flags, _) in METHODS.items() if flags.split()[1] in LEARNERS.methods]
    return [name for name in known if not (discrete and name in BOX_ONLY)]


def make(size: Size, patterns: list[str], refuse: Callable[[str], object]) -> None:
    """Make what is missing of the chosen steps. A step that needs a failed one fails."""
    chosen = runs.chosen(everything(size), patterns, refuse)
    runs.train_all(chosen, 1, lambda step: step.make())
