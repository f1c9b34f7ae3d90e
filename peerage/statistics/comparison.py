"""The result of a comparison as data; `compare` computes it and `verdicts` adds the sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from peerage.statistics.samples import Metric, Side
from peerage.statistics.tests import Interval

Measure = Literal["final", "area", "last"]
"""The value at the last common evaluation, the area under the learning curve, or the value at the last evaluation of
each side, whatever its step."""


@dataclass(frozen=True)
class Row:
    """The numbers of one side; `iqm`, `mean`, `median` and `gap` are those of the compared quantity."""

    side: str
    replicas: int
    iqm: Interval
    mean: Interval
    median: float
    final: Interval
    """IQM at the last common evaluation; with the measure `last` at the last one of this side."""
    area: Interval
    """IQM of the mean height of the learning curve; NaN with the measure `last`."""
    threshold: tuple[int, float] | None
    """Number of replicas that reached the threshold, and the step at which half of all had (infinite: fewer did)."""
    gap: Interval | None
    """Optimality gap: mean distance below the target."""
    late_spread: Interval | None = None
    """IQM of the standard deviation of the evaluations in the last quarter of the training; None with fewer than two
    such evaluations, or if it was not asked for."""
    convergence: tuple[int, float] | None = None
    """Number of replicas that converged, and the step at which half of all had; as `late_spread`."""


@dataclass(frozen=True)
class Versus:
    """The comparison of side `b` with the reference `a`."""

    a: str
    b: str
    replicas: tuple[int, int]
    paired: bool
    difference: Interval
    """Difference of the interquartile means, b - a."""
    improvement: Interval
    """Probability that a replica of b has a higher value than one of a."""
    p: float
    """p value of the permutation test of equal interquartile means, after Holm's correction over all comparisons; NaN
    with too few replicas."""
    detectable: float
    """The smallest difference that these replicas detect with a probability of about 0.8; NaN without a p value."""
    higher: str | None
    """The side with significantly higher values, or None: `p` is below .05."""
    winner: str | None
    """`higher`, if more is better; None for the length of episodes."""
    verdict: str
    """The result as a sentence."""


@dataclass(frozen=True)
class Task:
    """All sides on one task."""

    name: str
    step: int
    """The last step at which all sides were evaluated; with the measure `last` the largest last step of a side."""
    sides: tuple[Side, ...]
    """The reference first."""
    samples: tuple[np.ndarray, ...]
    """The compared quantity: a number per replica of each side."""
    rows: tuple[Row, ...]
    versus: tuple[Versus, ...]


@dataclass(frozen=True)
class Comparison:
    """The result of `peerage.statistics.compare.compare`."""

    metric: Metric
    measure: Measure
    mode: str
    """Of the evaluations: `alone`, `together` or `test`."""
    threshold: float | None
    target: float | None
    tasks: tuple[Task, ...]
    overall: tuple[str, ...]
    """Sentences about all tasks together; empty for a single task."""
    differences: dict[str, dict[str, Any]]
    """Setting -> side -> value, for the settings in which sides differ."""
    warnings: tuple[str, ...]
