"""The statistics of docs/results/comparisons.md, from the run folders.

A trial compares several methods on one task with a reference, the first of them. All methods use the same seeds.
A replica and the replica of the reference with the same seed share initial weights, seeds of environments and advisers,
and form a pair, here and in benchmarks/open_questions.py. The statistics are those of `peerage.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import open_numbers, peer_learning, trust_counts
from peerage.errors import UserError
from peerage.statistics import tests
from peerage.statistics.compare import compare
from peerage.statistics.tests import Interval
from peerage.statistics.verdicts import MIN_REPLICAS, SIGNIFICANCE, in_brackets
from peerage.text import number

BETTER, WORSE, PERHAPS_BETTER, PERHAPS_WORSE = "**better**", "**worse**", "perhaps better", "perhaps worse"
UNSEEN = "no significant difference"

RETURN, TRAINING = "return alone at the end", "training return over the whole run"
LEARNERS = "return alone at the end, learning members only"
LATE, TURN = "% of right choices in the last 2,000 steps", "% of right choices in the 2,000 steps after the change"
EXPERT = "% of choices for the expert in steps 2,000–5,000"


def _right(window: Callable[[trust_counts.Replica], trust_counts.Window]) -> Callable[[Path], list[float]]:
    return lambda folder: [100 * trust_counts.share(r, "right", window(r)) for r in trust_counts.read(folder)]


MEASURES: dict[str, Callable[[Path], Iterable[float]]] = {  # one number per replica; `compare` computes RETURN
    LATE: _right(trust_counts.late),
    TURN: _right(trust_counts.turning),
    TRAINING: lambda folder: [trust_counts.training(r, (0, r.steps[-1])) for r in trust_counts.read(folder)],
    EXPERT: lambda folder: 100 * peer_learning.shares(str(folder.absolute()), 2000, 5000)["expert"],
    LEARNERS: lambda folder: open_numbers.read(folder)[0].end,
}


@dataclass(frozen=True)
class Trial:
    name: str
    title: str
    maker: str
    """The command that trains the runs, without their names."""
    ways: dict[Path, str]
    """Run folder -> label; the first one is the reference."""
    measures: tuple[str, ...] = (RETURN,)


@dataclass(frozen=True)
class Against:
    """The paired comparison of a method with the reference."""

    difference: Interval
    """IQM minus that of the reference."""
    improvement: Interval
    """Probability that a replica is better than a replica of the reference."""
    p: float
    """p value of the permutation test of pairs, not corrected."""

    def verdict(self, known: bool = False) -> str:
        """A short verdict. `known`: the difference is significant after the correction for all comparisons."""
        d = self.difference
        if d.n < MIN_REPLICAS:
            return "too few replicas"
        if not self.p < SIGNIFICANCE:
            return "the same" if d.low == d.high == 0 else UNSEEN
        return (BETTER if known else PERHAPS_BETTER) if d.estimate > 0 else WORSE if known else PERHAPS_WORSE


def in_words(difference: Interval) -> str:
    """A difference and its interval as text: `+1.500 [0.500, 2.500]`."""
    return f"{'+' if difference.estimate > 0 else ''}{number(difference.estimate)} {in_brackets(difference)}"


def against(y: np.ndarray, x: np.ndarray) -> Against:
    """Compare `y [R]` with the reference `x [R]`; replicas with the same index have the same seed."""
    difference = tests.difference(y, x, paired=True)
    return Against(difference, tests.probability_of_improvement(y, x), tests.permutation_p(y, x, paired=True))


@dataclass(frozen=True)
class Found:
    """The result of one method for one measure of its trial."""

    trial: Trial
    way: str
    measure: str
    step: int
    iqm: Interval
    against: Against | None = None
    """None for the reference."""
    known: bool = False
    """Whether the difference is significant after Holm's correction over all comparisons of the page."""

    @property
    def verdict(self) -> str:
        return "reference" if self.against is None else self.against.verdict(self.known)


def findings(trial: Trial) -> tuple[list[Found], list[str]]:
    """The results of a trial by measure and method, and warnings about the comparison. Raises UserError for unreadable
    runs and for runs with different seeds."""
    whole = compare([str(folder) for folder in trial.ways], paired=True)
    task = whole.tasks[0]
    if [side.runs for side in task.sides] != [(folder,) for folder in trial.ways]:
        raise UserError(f"the runs of {trial.name} are not {len(trial.ways)} methods on one task: train them again")
    found = []
    for measure in trial.measures:
        if measure == RETURN:
            x = list(task.samples)
        else:
            x = [np.array(list(MEASURES[measure](folder)), float) for folder in trial.ways]
        for folder, sample in zip(trial.ways, x):
            if np.isnan(sample).any():
                raise UserError(f"{folder}: a replica has no {measure}; was the run long enough?")
        for way, y in zip(trial.ways.values(), x):
            pair = against(y, x[0]) if y is not x[0] else None
            found.append(Found(trial, way, measure, task.step, tests.interval(y), pair))
    return found, list(whole.warnings)


def judged(found: Sequence[Found]) -> list[Found]:
    """Set `known` of all findings, by Holm's correction over all of them."""
    corrected = tests.holm([math.nan if f.against is None else f.against.p for f in found])
    return [replace(f, known=f.verdict.startswith("perhaps") and p < SIGNIFICANCE) for f, p in zip(found, corrected)]
