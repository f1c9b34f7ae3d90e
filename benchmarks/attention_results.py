"""PPO and attention: trains the runs of docs/results/ppo.md and writes the page.

    python -m benchmarks.attention_results run [NAME ...]    train missing runs, e.g. marked-attention or 'marked-*'
    python -m benchmarks.attention_results page              tables and figures from the run folders

Each run is one member with `replicas` seeds, on one thread. Networks of a task have equal numbers of parameters, within
2%: the widths of the perceptrons are chosen for it. `benchmarks.sb3_runs` trains Stable-Baselines3 in the same
environments with the same start states of evaluations.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch

from benchmarks import runs
from peerage.envs.make import EnvMaker
from peerage.evaluation.actors import GroupActor
from peerage.evaluation.evaluate import Evaluator, episode_seeds
from peerage.runs.tables import read_evaluations
from peerage.statistics.summaries import spread
from peerage.statistics.tests import permutation_p
from peerage.training.restore import restore

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("experiments/ppo")
DOCS = Path("docs/results")
CARTPOLE = "--config ppo-cartpole"
CUE = (
    "--algorithm ppo --sharing none --n-envs 8 --n-steps 36 --batch-size 288 --update-epochs 10 --learning-rate 1e-3 "
    "--ent-coef 0.01 --eval-freq 1440 --n-eval-episodes 100 --log-freq 1440 --total-timesteps 14400"
)
BLIND = f"{CARTPOLE} --env CartPoleNoVelocities-v0 --target-kl 0.02 --ent-coef 0.005"
SHUFFLED = f"{CARTPOLE} --env CartPoleShuffled-v0 --total-timesteps 300000 --eval-freq 30000"
NOISE = f"{CARTPOLE} --env CartPoleDistractors-v0"
POOL = "--net attention --n-layers 0"


@dataclass(frozen=True)
class Experiment:
    task: str
    way: str
    label: str
    flags: str
    replicas: int = 10

    @property
    def name(self) -> str:
        return f"{self.task}-{self.way}"

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def done(self) -> bool:
        return runs.done(self.folder)

    def settings(self) -> list[str]:
        return [*self.flags.split(), "--n-peers", "1", "--replicas", str(self.replicas)]


EXPERIMENTS = [
    Experiment("cartpole", "peerage", "Peerage", CARTPOLE),
    Experiment("mountaincar", "peerage", "Peerage", "--config ppo-mountaincar"),
    Experiment("acrobot", "peerage", "Peerage", "--config ppo-acrobot"),
    Experiment("marked", "none", "no memory", f"{CUE} --env MarkedCue-v0 --net-arch 106,106"),
    Experiment("marked", "stack", "stack of steps", f"{CUE} --env MarkedCue-v0 --env-args history=9 --net-arch 78,78"),
    Experiment("marked", "attention", "attention", f"{CUE} --env MarkedCue-v0 --env-args history=9 {POOL}"),
    Experiment("plain", "none", "no memory", f"{CUE} --env PlainCue-v0 --net-arch 106,106"),
    Experiment("plain", "stack", "stack of steps", f"{CUE} --env PlainCue-v0 --env-args history=9 --net-arch 78,78"),
    Experiment("plain", "attention", "attention", f"{CUE} --env PlainCue-v0 --env-args history=9 {POOL}"),
    Experiment("novelocities", "none", "no memory", f"{BLIND} --net-arch 104,104"),
    Experiment("novelocities", "stack", "stack of steps", f"{BLIND} --env-args history=8 --net-arch 83,83"),
    Experiment("novelocities", "attention", "attention", f"{BLIND} --env-args history=8 {POOL}"),
    Experiment("features", "mlp", "perceptron", f"{CARTPOLE} --net-arch 57,57"),
    Experiment("features", "attention", "pooling of features", f"{CARTPOLE} {POOL}"),
    Experiment("distractors", "mlp", "perceptron", f"{NOISE} --net-arch 57,57"),
    Experiment("distractors", "attention", "pooling of features", f"{NOISE} {POOL}"),
    Experiment("shuffled", "stack", "stack of steps",
               f"{SHUFFLED} --env-args orders=train history=8 --net-arch 109,109", 5),
    Experiment("shuffled", "attention", "sensors without identity",
               f"{SHUFFLED} --env-args orders=train history=8 --tokens set {POOL}", 5),
]  # fmt: skip


def train(experiment: Experiment) -> tuple[bool, str]:
    return runs.train(experiment.settings(), experiment.folder, (experiment.replicas, _steps(experiment)))


def _steps(experiment: Experiment) -> int:
    words = experiment.settings()
    if "--total-timesteps" in words:
        return int(words[words.index("--total-timesteps") + 1])
    return 100_000 if "ppo-cartpole" in words else 1_000_000


def returns(experiment: Experiment) -> pd.DataFrame:
    """Mean return of the evaluation episodes: one row per step, one column per replica."""
    return read_evaluations(experiment.folder).pivot_table(index="step", columns="replica", values="return")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_results", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", default=["*"])
    args = parser.parse_args()
    chosen = [e for e in EXPERIMENTS if any(fnmatch(e.name, pattern) for pattern in args.names)]
    if args.command == "run":
        runs.train_all(chosen, 1, train)


if __name__ == "__main__":
    main()
