"""The result of a comparison as data; `compare` computes it and `verdicts` adds the sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from peerage.statistics.samples import Metric, Side
from peerage.statistics.tests import Interval

Measure = Literal["final", "area"]


@dataclass(frozen=True)
class Row:
    """One side by itself; `iqm`, `mean`, `median` and `gap` are of what is compared."""

    side: str
    replicas: int
    iqm: Interval
    mean: Interval
    median: float
    final: Interval
    """IQM at the last evaluation."""
    area: Interval
    """IQM of the mean height of the learning curve: what was had on the way."""
    threshold: tuple[int, float] | None
    """How many replicas reached the threshold, and the steps by which half of them had (infinite: fewer than half)."""
    gap: Interval | None
    """Optimality gap: how far below the target, on average."""


@dataclass(frozen=True)
class Versus:
    """Side `b` against the reference `a`."""

    a: str
    b: str
    replicas: tuple[int, int]
    paired: bool
    difference: Interval
    """b - a, of the interquartile means."""
    improvement: Interval
    """Probability that a replica of b is above one of a."""
    welch: float
    """p of Welch's t test, or of the paired one, after Holm's correction over all comparisons; NaN: there is none,
    as replicas are too few or have no spread."""
    mann_whitney: float
    """The same; NaN where so few replicas cannot reach .05, and of pairs."""
    smallest: float
    """The smallest p that a Mann-Whitney test with so many replicas can give."""
    detectable: float
    """The smallest difference that so many replicas would show in about four of five cases; NaN where there is no p."""
    higher: str | None
    """Who is above the other beyond chance, if anybody: the interval of the difference lies on one side of zero, and
    Welch's p is below .05 after Holm's correction (where neither has any spread, the exact Mann–Whitney p; of pairs
    that all differ by the same nobody is)."""
    winner: str | None
    """The same, where more is better: nobody wins by the length of episodes."""
    verdict: str
    """In words."""


@dataclass(frozen=True)
class Task:
    """All sides on one environment."""

    name: str
    step: int
    """The last step that all were evaluated at."""
    sides: tuple[Side, ...]
    """The reference first."""
    samples: tuple[np.ndarray, ...]
    """What is compared: a number for every replica of each side."""
    rows: tuple[Row, ...]
    versus: tuple[Versus, ...]


@dataclass(frozen=True)
class Comparison:
    metric: Metric
    measure: Measure
    threshold: float | None
    target: float | None
    tasks: tuple[Task, ...]
    overall: tuple[str, ...]
    """Sentences about all tasks together, if there are several."""
    differences: dict[str, dict[str, Any]]
    """Setting -> side -> value, for the settings that are not the same on all sides."""
    warnings: tuple[str, ...]
