"""The runs of the page that `benchmarks.fedformer_results` writes.

The plan. Question: do members of FedFormer reach a higher success on goals that no member has trained on than members
with federated averaging, members that learn alone, and one learner with the data of all? Measure: the area under the
curve of the success on test goals, its mean over members and over the evaluations of the run. A difference of 0.1
matters: FedFormer's critics take several times the computation of plain SAC. An update of FedFormer takes about 15
times the CPU time of one of the others, so it has 5 replicas on reach-v3 and 3 on drawer-close-v3 and window-close-v3,
and all others have 10: with a standard deviation of 0.05 over replicas, 5 against 10 detect 0.1 with a probability of
80%, and 3 against 10 detect 0.11, before the correction for several comparisons. Reach-v3 decides; the other tasks tell
whether the direction is the same. Everything else on the page is secondary. The 20,000 steps per member are those of
the presets `fedformer-small`: a replica of five members of FedFormer takes about 50 CPU minutes, and one of the others
about 10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import runs
from peerage.config.file import load

DIFFERENCE = 0.1
"""The difference that matters, in the area under the curve of success."""
TASKS = {"reach": ("reach-v3", 5), "drawer": ("drawer-close-v3", 3), "window": ("window-close-v3", 3)}
"""Environment, and replicas of FedFormer."""
OTHERS = 10
"""Replicas of the other methods."""
METHODS = {  # label, preset
    "fedformer": ("FedFormer", "fedformer-small"),
    "fedavg": ("FedAvg", "fedformer-small-fedavg"),
    "none": ("no exchange", "fedformer-small-sac"),
    "pooled": ("pooled data", "fedformer-small-pooled"),
}
REFERENCE = "fedformer"
CORRUPTED = {  # label, preset, exchanges, the same without corruption
    "fedformer-corrupted": ("FedFormer, member 0 corrupted", "fedformer-small", "corrupt fedformer", "fedformer"),
    "fedavg-corrupted": ("FedAvg, member 0 corrupted", "fedformer-small-fedavg", "corrupt fedavg", "fedavg"),
}
SIZES = {"fedformer-10": ("FedFormer", 10), "fedformer-15": ("FedFormer", 15)}
"""Larger groups: label, members."""
FEW = 2
"""Replicas of larger groups."""


@dataclass(frozen=True)
class Size:
    """How much is trained, and where the runs are."""

    folder: Path
    replicas: int | None = None
    """None: those of the plan."""
    step_share: float = 1.0
    flags: str = ""
    """Further flags of all runs."""


FULL = Size(Path("experiments/fedformer"))
QUICK = Size(
    Path("experiments/fedformer-quick"), 2, 0.01, "--batch-size 8 --n-eval-episodes 1 --max-eval-steps 20 --log-freq 40"
)


@dataclass(frozen=True)
class Experiment(runs.Experiment):
    task: str
    method: str
    size: Size

    @property
    def name(self) -> str:
        return f"{self.task}-{self.method}"

    @property
    def folder(self) -> Path:
        return self.size.folder / self.name

    @property
    def label(self) -> str:
        of = {**METHODS, **CORRUPTED, **SIZES}
        return str(of[self.method][0])

    @property
    def preset(self) -> str:
        return {**METHODS, **{name: ("", of[1]) for name, of in CORRUPTED.items()}}.get(
            self.method, METHODS[REFERENCE]
        )[1]

    @property
    def members(self) -> int:
        """The number of members whose data are learned from."""
        return SIZES[self.method][1] if self.method in SIZES else 5

    @property
    def pooled(self) -> bool:
        return self.method == "pooled"

    @property
    def replicas(self) -> int:
        planned = TASKS[self.task][1] if "fedformer" in self.method else OTHERS
        return self.size.replicas or (FEW if self.method in SIZES else planned)

    @property
    def steps(self) -> int:
        """Steps of a member, or of the pooled learner."""
        return round(self.size.step_share * load(self.preset).steps)

    @property
    def flags(self) -> list[str]:
        config, share = load(self.preset), self.size.step_share
        words = f"--config {self.preset} --env metaworld/{TASKS[self.task][0]} --replicas {self.replicas}"
        if self.method in CORRUPTED:
            words += f" --exchange {CORRUPTED[self.method][2]}"
        if self.method in SIZES:
            words += f" --n-peers {self.members}"
        if share < 1:
            words += f" --total-timesteps {self.steps} --eval-freq {self.steps // 2}"
            words += f" --learning-starts {round(share * config.learner.learning_starts[0])}"
            words += f" --exchange-freq {round(share * config.exchange_freq)}" if config.exchange else ""
        return [*words.split(), *self.size.flags.split()]

    def make(self) -> tuple[bool, str]:
        module = "benchmarks.fedformer_corrupted" if self.method in CORRUPTED else "peerage"
        return runs.train(self.flags, self.folder, (self.replicas, self.steps), module)


def everything(size: Size) -> list[Experiment]:
    """All runs in the order of their importance."""
    of_tasks = [(task, [*METHODS, *(CORRUPTED if task == "reach" else ())]) for task in TASKS]
    return [Experiment(task, name, size) for task, names in [*of_tasks, ("reach", [*SIZES])] for name in names]


def make(size: Size, patterns: list[str], refuse: Callable[[str], object]) -> None:
    """Train what is missing of the chosen runs."""
    runs.train_all(runs.chosen(everything(size), patterns, refuse), 1, lambda experiment: experiment.make())
