"""Runs that test trust with wrong and missing advice: Room-v6, two learners, an expert and three colluding advisers.

    python -m benchmarks.trust_lies run [--jobs 1] [--only NAME ...] [--replicas 5]

Trains missing runs, each in a separate process. NAME is the name of a run folder, such as liars-td, or a pattern, such
as 'silence-*'. The results are in docs/results/comparisons.md (benchmarks/results_page.py).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks import runs
from benchmarks.trust_probes import VARIANTS

FOLDER = Path("experiments/trust-lies")
STEPS = 10_000
LIARS = "--advisers expert colluding:a colluding:a colluding:a"
PLACES = {  # advisers and perturbations
    "honest": "--advisers expert",
    "liars": LIARS,
    "silence": f"{LIARS} --perturb dropped_advice=0.5",
}
LABELS = {
    "honest": "no colluding advisers", "liars": "three colluding advisers",
    "silence": "three colluding advisers, half of the answers dropped",
}  # fmt: skip
KINDS = ("uniform", "td", "in-context")


@dataclass(frozen=True)
class Experiment(runs.Experiment):
    root = FOLDER
    place: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.place}-{self.kind}"

    def settings(self, replicas: int) -> list[str]:
        """The flags of `peerage train`: the learners of the probes on Room-v6, with other advisers."""
        size = f"--replicas {replicas} --total-timesteps {STEPS}"
        flags = f"--config probe-room-plain --env Room-v6 {PLACES[self.place]} {VARIANTS[self.kind]} {size}"
        return flags.split()


EXPERIMENTS = [Experiment(place, kind) for place in PLACES for kind in KINDS if (place, kind) != ("honest", "uniform")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust_lies", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run",), help="train missing runs")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=["*"], help="names of runs, or patterns")
    parser.add_argument("--replicas", type=int, default=5)
    args = parser.parse_args(arguments)
    if args.jobs < 1 or args.replicas < 1:
        parser.error("--jobs and --replicas must be above 0")
    chosen = runs.chosen(EXPERIMENTS, args.only, parser.error)

    def train(experiment: Experiment) -> tuple[bool, str]:
        return runs.train(experiment.settings(args.replicas), experiment.folder, (args.replicas, STEPS))

    runs.train_all(chosen, args.jobs, train)


if __name__ == "__main__":
    main()
