"""Is B better than A? Runs in; a table, a verdict in words and warnings out.

The first side, or the one that is asked for, is what all others are compared with. Intervals and tests are those of
`peerage.statistics.tests`; the unit is the replica of a group. What a verdict rests on, and when there is none:
docs/statistics.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from peerage.config.plain_yaml import short
from peerage.errors import UserError, nearest
from peerage.statistics import samples, sources, tests
from peerage.statistics.comparison import Comparison, Measure, Row, Task, Versus
from peerage.statistics.samples import RANGES, Metric, Side
from peerage.statistics.tests import Interval
from peerage.statistics.verdicts import FEW, LEVEL, decided, doubts, overall
from peerage.text import listing


def compare(
    words: Sequence[str],
    *,
    by: str | None = None,
    reference: str | None = None,
    metric: Metric = "return",
    measure: Measure = "final",
    threshold: float | None = None,
    target: float | None = None,
    paired: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare the runs that `words` name (see `peerage.statistics.sources.find`).

    `by`: the values of this axis of a sweep, all else being equal (see `peerage.statistics.sources.by_axis`);
    `reference`: the name of the side that all others are compared with, by default the first; `threshold`: also the
    steps until the mean of a replica's members first reaches it; `target`: also the optimality gap below it; `paired`:
    replicas with the same seed are pairs (all sides must have the same ones). UserError, naming the run, for what
    cannot be read, and if there is nothing to compare.
    """
    for flag, value in (("threshold", threshold), ("target", target)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{flag} {value} is not a number to reach")
    found = sources.find(words)
    sides, left_out = samples.read_sides(found if by is None else sources.by_axis(found, by), metric)
    by_task = samples.tasks(sides, strict=by is not None)
    names = list(dict.fromkeys(side.name for some in by_task.values() for side in some))
    if by is not None and reference is not None and (whole := f"{by}={reference}") in names:
        reference = whole  # the value says enough
    if reference is not None and reference not in names:
        guess = nearest(reference, names)
        there = listing([repr(name) for name in names])  # in quotes, as commas stand in them
        raise UserError(f"--reference {short(reference)}: there is no such side{guess}; there are {there}")
    if len(sides) < 2:
        runs = f"{len(sides[0].runs)} runs of one kind" if len(sides[0].runs) > 1 else "one run"
        raise UserError(f"that is {runs}, and nothing to compare it with: name another run")
    tasks: list[Task] = []
    warnings = [*sources.missing(words), *left_out]
    for name, some in by_task.items():
        if len(some) < 2:
            warnings.append(f"{some[0].name} is alone on {name}: nothing to compare it with")
            continue
        if reference is not None and reference not in [side.name for side in some]:
            warnings.append(f"{reference} is not there on {name}: nothing to compare the others with")
            continue
        some = sorted(some, key=lambda side: reference not in (None, side.name))  # the others stay in their order
        if paired and any(side.seeds != some[0].seeds for side in some):
            raise UserError(f"--paired on {name}: the sides do not have the same seeds and replicas")
        tasks.append(_task(name, some, metric, measure, threshold, target, paired, seed))
        warnings += doubts(some)
    if not tasks:
        raise UserError(_nothing(by, reference))
    tasks = decided(tasks, metric, measure)
    together, once = overall(tasks, metric), tuple(dict.fromkeys(warnings))
    return Comparison(metric, measure, threshold, target, tuple(tasks), together, _differences(tasks), once)


def _nothing(by: str | None, reference: str | None) -> str:
    """Why there is no task to compare on."""
    if reference is not None:
        return f"--reference {reference}: it is alone wherever it is there; name another side or more runs"
    if by is not None:
        return f"--by {by}: no two of these runs differ in it alone"
    return "no two of these runs are of the same environment: name runs that share one"


# --- numbers --------------------------------------------------------------------------------------------------


def _task(
    name: str,
    sides: list[Side],
    metric: Metric,
    measure: Measure,
    threshold: float | None,
    target: float | None,
    paired: bool,
    seed: int,
) -> Task:
    common = samples.common_steps(sides)
    if not len(common):
        listed = listing([side.name for side in sides])
        raise UserError(f"{listed} were never evaluated at the same step: train them with the same --eval-freq")
    step = int(common[-1])
    if step == 0 and any(side.steps[-1] > 0 for side in sides):
        listed = listing([side.name for side in sides])
        how = "train them with the same --eval-freq"
        if any(run_doubts := [line for side in sides for line in side.doubts]):
            how = f"{len(run_doubts)} of their runs are not at their end; `peerage resume`, or `peerage sweep`, goes on"
        raise UserError(f"{listed} have only step 0 in common: {how}")
    values, rows = [], []
    low, high = RANGES[metric]

    def interval(x: np.ndarray, statistic: Any = "iqm") -> Interval:
        found = _cut(tests.interval(x, statistic, seed=seed), low, high)
        return found if len(x) >= FEW else _estimate_alone(found)

    for side in sides:
        curves = side.at(common)  # others are evaluated more often: area and threshold would be of other moments
        final, area = curves[:, -1], tests.area_under_curve(common, curves)
        reached = None if threshold is None else np.sort(tests.steps_to_threshold(common, curves, threshold))
        x = final if measure == "final" else area
        values.append(x)
        rows.append(
            Row(
                side=side.name,
                replicas=side.n,
                iqm=interval(x),
                mean=interval(x, "mean"),
                median=tests.median(x),
                final=interval(final),
                area=interval(area),
                threshold=None if reached is None else _reached(reached),
                gap=None if target is None else _gap(x, target, low, seed),
            )
        )
    versus = [_versus(sides[0], side, values[0], x, metric, paired, seed) for side, x in zip(sides[1:], values[1:])]
    return Task(name, step, tuple(sides), tuple(values), tuple(rows), tuple(versus))


def _reached(steps: np.ndarray) -> tuple[int, float]:
    """How many of these steps `[n]`, in their order, are finite, and the one by which half of the n are there."""
    return int(np.isfinite(steps).sum()), float(steps[(len(steps) - 1) // 2])


def _gap(x: np.ndarray, target: float, low: float, seed: int) -> Interval:
    """The optimality gap; nobody can be farther below the target than `low` is."""
    found = _cut(tests.interval(x, "optimality_gap", seed=seed, target=target), 0.0, max(target - low, 0.0))
    return found if len(x) >= FEW else _estimate_alone(found)


def _cut(interval: Interval, low: float, high: float) -> Interval:
    """The part of an interval that lies within what can be; NaN stays."""
    ends = np.clip([interval.low, interval.high], low, high)
    return replace(interval, low=float(ends[0]), high=float(ends[1]))


def _estimate_alone(interval: Interval) -> Interval:
    return replace(interval, low=math.nan, high=math.nan)


def _versus(a: Side, b: Side, x: np.ndarray, y: np.ndarray, metric: Metric, paired: bool, seed: int) -> Versus:
    """Before the correction, and without a verdict. Fewer than `FEW` replicas say nothing about chance: no intervals
    and no p."""
    low, high = RANGES[metric]
    difference = _cut(tests.difference(y, x, "iqm", paired=paired, seed=seed), low - high, high - low)
    improvement = tests.probability_of_improvement(y, x, seed=seed)
    ranks = tests.mann_whitney(y, x)
    t = rank_p = detectable = math.nan
    if min(len(x), len(y)) >= FEW:
        t = (tests.paired_t(y, x) if paired else tests.welch(y, x)).p
        if not math.isnan(t):
            pooled = (np.var(x, ddof=1) * (len(x) - 1) + np.var(y, ddof=1) * (len(y) - 1)) / (len(x) + len(y) - 2)
            spread = math.sqrt(np.var(y - x, ddof=1) if paired else pooled)
            power = tests.smallest_detectable_difference
            detectable = power(len(x), len(y), spread, paired=paired, statistic="iqm")
            # Of normal samples, that is; in these ones even half of the interval would not have been seen
            detectable = max(detectable, (difference.high - difference.low) / 2)
        if ranks.smallest_p <= LEVEL and not paired:  # of pairs it knows nothing
            rank_p = ranks.p
    else:
        difference, improvement = _estimate_alone(difference), _estimate_alone(improvement)
    return Versus(
        a=a.name,
        b=b.name,
        replicas=(len(x), len(y)),
        paired=paired,
        difference=difference,
        improvement=improvement,
        welch=t,
        mann_whitney=rank_p,
        smallest=ranks.smallest_p,
        detectable=detectable,
        higher=None,
        winner=None,
        verdict="",
    )


def _differences(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Settings that are not the same on all sides of a task."""
    found: dict[str, dict[str, Any]] = {}
    for task in tasks:
        settings = {side.name: sources.flat(side.config) for side in task.sides}
        for name in dict.fromkeys(name for flat in settings.values() for name in flat):
            values = {side: flat.get(name) for side, flat in settings.items()}
            if name not in ("seed", "replicas") and len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
                found[name] = values | found.get(name, {})
    return found
