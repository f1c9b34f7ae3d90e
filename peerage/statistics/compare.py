"""Compare runs: intervals and tests for each side, verdicts and warnings.

All sides are compared with the reference, by default the first side. Intervals and tests are those of
`peerage.statistics.tests`; the unit is the replica of a group. docs/statistics.md explains the verdicts.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from peerage.config.plain_yaml import short
from peerage.errors import UserError, nearest
from peerage.statistics import measures, samples, sources, tests
from peerage.statistics.comparison import Comparison, Measure, Row, Task, Versus
from peerage.statistics.samples import MIN_REPLICAS, RANGES, Metric, Side
from peerage.statistics.tests import Interval
from peerage.statistics.verdicts import overall, task_differences, warnings_about, with_verdicts
from peerage.text import listing

SAME_STEPS = "train them with the same --eval-freq and --total-timesteps, or use --measure last"


def compare(
    words: Sequence[str],
    *,
    by: str | None = None,
    reference: str | None = None,
    metric: Metric = "return",
    measure: Measure | None = None,
    mode: str = "alone",
    threshold: float | None = None,
    target: float | None = None,
    paired: bool = False,
    across_tasks: bool = False,
    stability: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare the runs that `words` name (see `peerage.statistics.sources.find_runs`).

    Args:
        by: compare the values of this axis of a sweep, other settings fixed (`peerage.statistics.sources.by_axis`).
        reference: name of the side that all others are compared with, by default the first.
        metric: metric of the evaluation episodes.
        measure: `final`: compare the last evaluation that all sides have; `area`: the area under the learning curve;
            `last`: the last evaluation of each side, whatever its step. Default: `last` if offline and online runs are
            compared on a task, whose steps are of different kinds, otherwise `final`.
        mode: of the evaluations: alone, together or test (`RunConfig.eval_modes`).
        threshold: also report the steps until the mean of a replica's members first reaches it.
        target: also report the optimality gap below it.
        paired: treat replicas with the same seed as pairs; all sides must have the same seeds.
        across_tasks: compare all sides with each other although their environments, or the arguments or fingerprints of
            these, differ; otherwise only sides with the same task are compared.
        stability: also report the spread of the evaluations late in the training, and when replicas converged.
        seed: seed of the simulations behind intervals and power.

    Raises UserError that names the run if one cannot be read, and if there is nothing to compare: no two sides have the
    same task, for example.
    """
    for flag, value in (("threshold", threshold), ("target", target)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{flag} must be finite, got {value}")
    if across_tasks and by is not None:
        raise UserError("--by and --across-tasks cannot be combined: remove one of them")
    found = sources.find_runs(words)
    chosen = found if by is None else sources.by_axis(found, by)
    sides, left_out = samples.read_sides(chosen, metric, across_tasks, mode)
    by_task = samples.tasks(sides, across_tasks)
    names = list(dict.fromkeys(side.name for some in by_task.values() for side in some))
    if by is not None and reference is not None and (full_name := f"{by}={reference}") in names:
        reference = full_name  # the value of the axis is enough
    if reference is not None and reference not in names:
        guess = nearest(reference, names)
        there = listing([repr(name) for name in names])  # in quotes, as names may contain commas
        raise UserError(f"--reference {short(reference)}: there is no such side{guess}; the sides are {there}")
    kinds = next(filter(None, (samples.kinds_of_steps(some) for some in by_task.values())), "")
    measure = measure or ("last" if kinds else "final")
    _refuse_common_steps(kinds, measure, threshold, stability)
    if len(sides) < 2:
        runs = f"{len(sides[0].runs)} runs with the same settings" if len(sides[0].runs) > 1 else "one run"
        raise UserError(f"there is nothing to compare {runs} with: name another run")
    tasks: list[Task] = []
    warnings = [*sources.unfinished_sweeps(words), *left_out]
    for name, some in by_task.items():
        if len(some) < 2:
            warnings.append(f"{some[0].name} is the only side on {name}: not compared")
            continue
        if reference is not None and reference not in [side.name for side in some]:
            warnings.append(f"the reference {reference} has no runs on {name}: not compared")
            continue
        some = sorted(some, key=lambda side: reference not in (None, side.name))  # stable: the others keep their order
        if paired:
            _refuse_unpaired(name, some)
        tasks.append(_task(name, some, metric, measure, threshold, target, paired, stability, seed))
        warnings += warnings_about(some, measure)
        if stability and tasks[-1].rows[0].late_spread is None:
            warnings.append(_too_few_late(name, samples.common_steps(some)))
    if not tasks:
        raise UserError(_why_no_task(sides, by, reference))
    tasks = with_verdicts(tasks, metric, measure)
    together, once = overall(tasks, metric), tuple(dict.fromkeys(warnings))
    return Comparison(metric, measure, mode, threshold, target, tuple(tasks), together, _differences(tasks), once)


def _refuse_common_steps(kinds: str, measure: Measure, threshold: float | None, stability: bool) -> None:
    """Raise UserError for what needs common steps, if steps are of different `kinds` or the measure is `last`."""
    if kinds and measure != "last":
        raise UserError(f"--measure {measure} needs steps of one kind, but {kinds}: use --measure last")
    for flag, given in (("threshold", threshold is not None), ("stability", stability)):
        if given and measure == "last":
            why = f"steps of one kind, but {kinds}" if kinds else "common steps, which --measure last does not use"
            raise UserError(f"--{flag} needs {why}: remove {'it' if kinds else 'one of the two'}")


def _too_few_late(task: str, steps: np.ndarray) -> str:
    """Why there are no numbers of `--stability` on a task whose sides were all evaluated at `steps`."""
    first, last, late = int(steps[0]), int(steps[-1]), int(measures.is_late(steps).sum())
    needed = "--stability needs two evaluations in the last quarter of the training that all sides have"
    if first == last:
        return f"{task}: {needed}, but they have only step {last:,} in common: train them with the same --eval-freq"
    freq = max(1, int(measures.LATE * (last - first)))
    return (
        f"{task}: {needed}, but there is {late} from step {last - measures.LATE * (last - first):,.0f} on: train with "
        f"--eval-freq {freq} or less"
    )


def _refuse_unpaired(task: str, sides: Sequence[Side]) -> None:
    """Raise UserError if a replica of one side has no partner with its seed and number in another side."""
    for a, b in itertools.permutations(sides, 2):
        if lacking := sorted(set(a.seeds) - set(b.seeds)):
            seed, replica = lacking[0]
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise UserError(
                f"--paired on {task}: {b.name} ({b.n} replicas) has no partner for seed {seed}, replica {replica}"
                f"{more} of {a.name} ({a.n} replicas): train it, or compare without --paired"
            )


def _why_no_task(sides: Sequence[Side], by: str | None, reference: str | None) -> str:
    """Why there is no task with sides to compare."""
    if reference is not None:
        return f"--reference {reference}: no other side has runs on its tasks; name another side or more runs"
    if by is not None:
        return f"--by {by}: no two of these runs differ only in it"
    difference = task_differences(sides)[0]
    return f"no two of these runs have the same task: {difference}; --across-tasks compares them all the same"


# --- numbers --------------------------------------------------------------------------------------------------


def _task(
    name: str,
    sides: list[Side],
    metric: Metric,
    measure: Measure,
    threshold: float | None,
    target: float | None,
    paired: bool,
    stability: bool,
    seed: int,
) -> Task:
    last = measure == "last"
    common = samples.common_steps(sides) if last else _common_steps(sides)
    step = max(int(side.steps[-1]) for side in sides) if last else int(common[-1])
    values, rows = [], []
    low, high = RANGES[metric]

    def interval(x: np.ndarray, statistic: Any = "iqm") -> Interval:
        found = _clip(tests.interval(x, statistic, seed=seed), low, high)
        return found if len(x) >= MIN_REPLICAS else _without_limits(found)

    for side in sides:
        curves = side.at(common)  # at common steps: area and threshold depend on the steps
        final = side.curves[:, -1] if last else curves[:, -1]
        area = np.full(side.n, math.nan) if last else tests.area_under_curve(common, curves)
        reached = None if threshold is None else np.sort(tests.steps_to_threshold(common, curves, threshold))
        x = area if measure == "area" else final
        late = stability and int(measures.is_late(common).sum()) > 1
        spread = tests.interval(measures.late_spread(common, curves), "iqm", seed=seed) if late else None
        converged = np.sort(measures.convergence_steps(common, curves)) if late else None
        values.append(x)
        rows.append(
            Row(
                side=side.name,
                replicas=side.n,
                iqm=interval(x),
                mean=interval(x, "mean"),
                median=tests.median(x),
                final=interval(final),
                area=replace(_without_limits(interval(final)), estimate=math.nan) if last else interval(area),
                threshold=None if reached is None else _reached(reached),
                gap=None if target is None else _optimality_gap(x, target, low, seed),
                late_spread=None if spread is None else _of_spread(spread, side.n),
                convergence=None if converged is None else _reached(converged),
            )
        )
    versus = [_versus(sides[0], side, values[0], x, metric, paired, seed) for side, x in zip(sides[1:], values[1:])]
    return Task(name, step, tuple(sides), tuple(values), tuple(rows), tuple(versus))


def _common_steps(sides: Sequence[Side]) -> np.ndarray:
    """The steps at which all sides were evaluated. Raises UserError if there is none, or only step 0."""
    common, listed = samples.common_steps(sides), listing([side.name for side in sides])
    if not len(common):
        raise UserError(f"{listed} were never evaluated at the same step: {SAME_STEPS}")
    if common[-1] == 0 and any(side.steps[-1] > 0 for side in sides):
        how = SAME_STEPS
        if any(run_warnings := [line for side in sides for line in side.warnings]):
            how = f"{len(run_warnings)} of their runs are incomplete; continue them (`peerage resume`, `peerage sweep`)"
        raise UserError(f"{listed} have only step 0 in common: {how}")
    return common


def _reached(steps: np.ndarray) -> tuple[int, float]:
    """`steps [n]`, ascending: the number of finite ones, and the step by which half of the n reached the threshold."""
    return int(np.isfinite(steps).sum()), float(steps[(len(steps) - 1) // 2])


def _optimality_gap(x: np.ndarray, target: float, low: float, seed: int) -> Interval:
    """The optimality gap below `target` of a metric whose smallest possible value is `low`."""
    found = _clip(tests.interval(x, "optimality_gap", seed=seed, target=target), 0.0, max(target - low, 0.0))
    return found if len(x) >= MIN_REPLICAS else _without_limits(found)


def _of_spread(spread: Interval, replicas: int) -> Interval:
    found = _clip(spread, 0.0, math.inf)
    return found if replicas >= MIN_REPLICAS else _without_limits(found)


def _clip(interval: Interval, low: float, high: float) -> Interval:
    """An interval limited to the possible values; NaN stays NaN."""
    ends = np.clip([interval.low, interval.high], low, high)
    return replace(interval, low=float(ends[0]), high=float(ends[1]))


def _without_limits(interval: Interval) -> Interval:
    return replace(interval, low=math.nan, high=math.nan)


def _versus(a: Side, b: Side, x: np.ndarray, y: np.ndarray, metric: Metric, paired: bool, seed: int) -> Versus:
    """The comparison before the correction and without a verdict. With fewer than `MIN_REPLICAS` replicas there are no
    intervals and no p values."""
    low, high = RANGES[metric]
    difference = _clip(tests.difference(y, x, "iqm", paired=paired, seed=seed), low - high, high - low)
    improvement = tests.probability_of_improvement(y, x, seed=seed)
    p = detectable = math.nan
    if min(len(x), len(y)) >= MIN_REPLICAS:
        p = tests.permutation_p(y, x, paired=paired, seed=seed)
        pooled = (np.var(x, ddof=1) * (len(x) - 1) + np.var(y, ddof=1) * (len(y) - 1)) / (len(x) + len(y) - 2)
        spread = math.sqrt(np.var(y - x, ddof=1) if paired else pooled)
        if spread > 0:
            detectable = tests.smallest_detectable_difference(len(x), len(y), spread, paired=paired, statistic="iqm")
            # The power is that of normal samples. At least: half the width of the interval of these samples.
            detectable = np.fmax(detectable, (difference.high - difference.low) / 2)
    else:
        difference, improvement = _without_limits(difference), _without_limits(improvement)
    return Versus(
        a=a.name,
        b=b.name,
        replicas=(len(x), len(y)),
        paired=paired,
        difference=difference,
        improvement=improvement,
        p=p,
        detectable=float(detectable),
        higher=None,
        winner=None,
        verdict="",
    )


def _differences(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Setting -> side -> value, for the settings in which sides of a task differ."""
    found: dict[str, dict[str, Any]] = {}
    for task in tasks:
        settings = {side.name: sources.compared_settings(side.config) for side in task.sides}
        for name in dict.fromkeys(name for of_side in settings.values() for name in of_side):
            values = {side: of_side.get(name) for side, of_side in settings.items()}
            if name not in ("seed", "replicas") and len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
                found[name] = values | found.get(name, {})
    if "data" in found:  # the fingerprint follows from it
        found.pop("data_fingerprint", None)
    return found
