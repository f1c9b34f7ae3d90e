"""Is B better than A? Runs in; a table, a verdict in words and warnings out.

The first side is what all others are compared with. Intervals and tests are those of `peerage.evaluation.statistics`;
the unit is the replica of a group. What a verdict rests on, and when there is none: docs/statistics.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from peerage.errors import UserError
from peerage.evaluation import samples, statistics
from peerage.evaluation.samples import Metric, Side
from peerage.evaluation.statistics import Interval
from peerage.runs.text import listing, number

Measure = Literal["final", "area"]
MEASURES: dict[str, str] = {
    "final": "at the last evaluation",
    "area": "over the whole run (area under the curve / steps)",
}
FEW = 3
"""Fewer replicas than this have no interval."""


@dataclass(frozen=True)
class Row:
    """One side by itself."""

    side: str
    replicas: int
    iqm: Interval
    mean: Interval
    median: float
    area: Interval
    """Mean height of the learning curve: what was had on the way."""
    threshold: tuple[int, float] | None
    """How many replicas reached the threshold, and after how many steps (median; infinite: fewer than half did)."""
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
    """Probability that a replica of b beats one of a."""
    welch: float
    """p of Welch's t test, or of the paired one, after Holm's correction over all comparisons; NaN: there is none."""
    mann_whitney: float
    """The same; NaN too where so few replicas cannot reach .05."""
    smallest: float
    """The smallest p that a Mann-Whitney test with so many replicas can give."""
    detectable: float
    """The smallest difference that so many replicas would show in about four of five cases."""
    winner: str | None
    """Who is better beyond chance, if anybody: the interval of the difference lies on one side of zero, and if there
    are more comparisons, Welch's p is below .05 after Holm's correction."""
    verdict: str
    """In words."""


@dataclass(frozen=True)
class Task:
    """All sides on one environment."""

    name: str
    step: int
    """The last step that all were evaluated at."""
    sides: tuple[Side, ...]
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


def compare(
    words: Sequence[str],
    *,
    metric: Metric = "return",
    measure: Measure = "final",
    threshold: float | None = None,
    target: float | None = None,
    paired: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare the runs that `words` name (see `peerage.evaluation.samples.find`).

    `threshold`: also the steps until the mean of a replica's members first reaches it; `target`: also the optimality
    gap below it; `paired`: replicas with the same seed are pairs (all sides must have the same ones). UserError, naming
    the run, for what cannot be read, and if there is nothing to compare.
    """
    sides = samples.read_sides(samples.find(words), metric)
    if len(sides) < 2:
        runs = f"{len(sides[0].runs)} runs of one kind" if len(sides[0].runs) > 1 else "one run"
        raise UserError(f"that is {runs}, and nothing to compare it with: name another run")
    tasks: list[Task] = []
    warnings = samples.missing(words)
    for name, some in samples.tasks(sides).items():
        if len(some) < 2:
            warnings.append(f"{some[0].name} is alone on {name}: nothing to compare it with")
            continue
        if paired and any(side.seeds != some[0].seeds for side in some):
            raise UserError(f"--paired on {name}: the sides do not have the same seeds and replicas")
        tasks.append(_task(name, some, measure, threshold, target, paired, seed))
        warnings += samples.warnings(some)
    if not tasks:
        raise UserError("no two of these runs are of the same environment: name runs that share one")
    tasks = _corrected(tasks)
    kept = [side for task in tasks for side in task.sides]
    once = tuple(dict.fromkeys(warnings))
    return Comparison(metric, measure, threshold, target, tuple(tasks), _overall(tasks), _differences(kept), once)


# --- numbers --------------------------------------------------------------------------------------------------


def _task(
    name: str,
    sides: list[Side],
    measure: Measure,
    threshold: float | None,
    target: float | None,
    paired: bool,
    seed: int,
) -> Task:
    common = set.intersection(*(set(side.steps.tolist()) for side in sides))
    if not common:
        listed = listing([side.name for side in sides])
        raise UserError(f"{listed} were never evaluated at the same step: train them with the same --eval-freq")
    step = max(common)
    if step == 0 and any(side.steps[-1] > 0 for side in sides):
        listed = listing([side.name for side in sides])
        raise UserError(f"{listed} have only step 0 in common: train them with the same --eval-freq")
    values, rows = [], []
    for side in sides:
        steps, curves = side.until(step)
        area = statistics.area_under_curve(steps, curves)
        final = curves[:, -1]
        reached = statistics.steps_to_threshold(steps, curves, threshold) if threshold is not None else None
        values.append(final if measure == "final" else area)
        rows.append(
            Row(
                side=side.name,
                replicas=side.n,
                iqm=_interval(final, "iqm", seed),
                mean=_interval(final, "mean", seed),
                median=statistics.median(final),
                area=_interval(area, "iqm", seed),
                threshold=None if reached is None else (int(np.isfinite(reached).sum()), float(np.median(reached))),
                gap=None if target is None else _interval(final, "optimality_gap", seed, target),
            )
        )
    versus = [_versus(sides[0], side, values[0], x, paired, seed) for side, x in zip(sides[1:], values[1:])]
    return Task(name, step, tuple(sides), tuple(rows), tuple(versus))


def _interval(x: np.ndarray, statistic: Any, seed: int, target: float | None = None) -> Interval:
    found = statistics.interval(x, statistic, seed=seed, target=target)
    return found if len(x) >= FEW else replace(found, low=math.nan, high=math.nan)


def _versus(a: Side, b: Side, x: np.ndarray, y: np.ndarray, paired: bool, seed: int) -> Versus:
    nobody = math.nan
    enough = min(len(x), len(y)) >= 2
    t = (statistics.paired_t(y, x) if paired else statistics.welch(y, x)).p if enough else nobody
    ranks = statistics.mann_whitney(y, x)
    spread = nobody
    if enough:
        spread = math.sqrt(np.var(y - x, ddof=1) if paired else (np.var(x, ddof=1) + np.var(y, ddof=1)) / 2)
    power = statistics.smallest_detectable_difference
    return Versus(
        a=a.name,
        b=b.name,
        replicas=(len(x), len(y)),
        paired=paired,
        difference=statistics.difference(y, x, "iqm", paired=paired, seed=seed),
        improvement=statistics.probability_of_improvement(y, x, seed=seed),
        welch=t,
        mann_whitney=nobody if paired else ranks.p,  # of pairs it knows nothing
        smallest=ranks.smallest_p,
        detectable=power(len(x), len(y), spread, paired=paired, statistic="iqm") if enough else nobody,
        winner=None,
        verdict="",
    )


def _corrected(tasks: list[Task]) -> list[Task]:
    """The same with p values after Holm's correction over all comparisons, and verdicts."""
    all_of = [versus for task in tasks for versus in task.versus]
    corrected: dict[str, list[float]] = {}
    for name in ("welch", "mann_whitney"):
        p = [getattr(v, name) for v in all_of]
        known = [value for value in p if not math.isnan(value)]
        adjusted = iter(statistics.holm(known) if known else [])
        corrected[name] = [math.nan if math.isnan(value) else next(adjusted) for value in p]
    index = 0
    out = []
    for task in tasks:
        versus = []
        for v in task.versus:
            useful = v.smallest <= 0.05
            changes = {
                "welch": corrected["welch"][index],
                "mann_whitney": corrected["mann_whitney"][index] if useful else math.nan,
            }
            v = Versus(**{**vars(v), **changes})
            winner = _winner(v)
            survives = len(all_of) == 1 or v.welch < 0.05  # NaN does not
            said = _verdict(v, winner, survives, task, len(all_of))
            versus.append(Versus(**{**vars(v), "winner": winner if survives else None, "verdict": said}))
            index += 1
        out.append(Task(task.name, task.step, task.sides, task.rows, tuple(versus)))
    return out


def _winner(v: Versus) -> str | None:
    """Whose interval of the difference lies on one side of zero."""
    d = v.difference
    if math.isnan(d.low) or d.low <= 0 <= d.high:
        return None
    return v.b if d.low > 0 else v.a


# --- words ----------------------------------------------------------------------------------------------------


def _verdict(v: Versus, winner: str | None, survives: bool, task: Task, comparisons: int) -> str:
    """`survives`: beyond chance even after the correction for `comparisons`."""
    d, n = v.difference, v.replicas
    each = f"{n[0]} replicas each" if n[0] == n[1] else f"{n[0]} and {n[1]} replicas"
    if min(n) < FEW:
        return (
            f"{v.b} against {v.a}: {_signed(d.estimate)}; {each} cannot say anything about chance: "
            f"train at least {FEW}, better 5 or more (--replicas)"
        )
    shown = f"{each} can show differences above {number(v.detectable)}"
    curves = [side.curves for side in task.sides if side.name in (v.a, v.b)]
    if curves[0].shape == curves[1].shape and np.array_equal(curves[0], curves[1]):
        return f"{v.b} and {v.a} are the same numbers: no difference"
    if winner is None:
        return f"no difference between {v.b} and {v.a} can be seen: {_signed(d.estimate)} {in_brackets(d)}; {shown}"
    loser, sign = (v.a, 1) if winner == v.b else (v.b, -1)
    ahead, low, high = sign * d.estimate, *sorted((sign * d.low, sign * d.high))
    p = v.improvement if sign > 0 else Interval(**{**vars(v.improvement), **_turned(v.improvement)})
    tests = [f"{'paired t' if v.paired else 'Welch'} p = {_p(v.welch)}"]
    if not math.isnan(v.mann_whitney):
        tests.append(f"Mann–Whitney p = {_p(v.mann_whitney)}")
    elif not v.paired:
        tests.append(f"a Mann–Whitney test with {each} cannot fall below {_p(v.smallest)}")
    after = f", after Holm over {comparisons} comparisons" if comparisons > 1 else ""
    beats = "beats" if survives else "would by itself beat"
    but = "" if survives else ", but not one of so many: no difference is beyond chance"
    return (
        f"{winner} {beats} {loser} on IQM by {number(ahead)} [{number(low)}, {number(high)}], "
        f"probability of improvement {p.estimate:.2f} {in_brackets(p, '.2f')}; {', '.join(tests)}{after}{but}; {each}"
    )


def _turned(p: Interval) -> dict[str, float]:
    return {"estimate": 1 - p.estimate, "low": 1 - p.high, "high": 1 - p.low}


def _overall(tasks: Sequence[Task]) -> tuple[str, ...]:
    """What holds over several environments: won and lost, and the mean probability of improvement."""
    if len(tasks) < 2:
        return ()
    found: dict[tuple[str, str], list[Versus]] = {}
    for task in tasks:
        for v in task.versus:
            found.setdefault((v.a, v.b), []).append(v)
    lines = []
    for (a, b), some in found.items():
        better, worse = (sum(v.winner == name for v in some) for name in (b, a))
        mean = float(np.mean([v.improvement.estimate for v in some]))
        lines.append(
            f"{b} against {a}: better on {better}, worse on {worse} of {len(some)} environments; "
            f"mean probability of improvement {mean:.2f}"
        )
    return tuple(lines)


def _differences(sides: Sequence[Side]) -> dict[str, dict[str, Any]]:
    settings = {side.name: samples.flat(side.config) for side in sides}
    names = dict.fromkeys(name for flat in settings.values() for name in flat)
    found = {}
    for name in names:
        values = {side: flat.get(name) for side, flat in settings.items()}
        if name not in ("seed", "replicas") and len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
            found[name] = values
    return found


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def in_brackets(interval: Interval, spec: str | None = None) -> str:
    """`[low, high]`, or a dash where there is no interval."""
    if math.isnan(interval.low):
        return "[–]"
    low, high = (format(x, spec) if spec else number(x) for x in (interval.low, interval.high))
    return f"[{low}, {high}]"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")
