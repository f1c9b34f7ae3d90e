"""Point estimates over replicas, and intervals whose coverage is shown in docs/statistics.md.

A sample is `x [n]`, one number for each replica of a group, or `x [n, tasks]`: a replica in each of several tasks.
The replica is the unit, of resampling too: members of a replica learn from each other, so give their mean. Values are
in whatever unit the caller measures in; NaN is refused (a replica without a value is left out by whoever knows why),
infinity is a value ("never reached"). ValueError for what has no meaning, with one line that says why.

Point estimates and the percentile bootstrap: Agarwal et al. 2021, arXiv 2108.13264, and their library rliable.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

Statistic = Literal["iqm", "mean", "median", "optimality_gap"]

STUDENTS = ("mean", "optimality_gap")
"""Means of values that do not depend on the sample: Student's t needs no calibration."""
CHUNK = 2_000_000
"""Numbers that are held at a time by whatever draws samples: 16 MB."""
CALIBRATION = 4_000_000
"""Normal numbers that a calibration draws, but no more than 200,000 samples: 95% is met to within 0.1%."""


@dataclass(frozen=True)
class Interval:
    """An estimate and where its true value lies, with probability `level` over repetitions of the experiment."""

    estimate: float
    low: float
    high: float
    """NaN, as `low`, where the sample is too small to say anything, or where a value that counts is infinite."""
    level: float
    method: str
    n: int
    """Replicas; of two samples, the smaller number."""

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside. Never where the sample is too small to say anything."""
        return bool(value < self.low or value > self.high)


# --- point estimates ------------------------------------------------------------------------------


def mean(x: Any) -> float:
    """Mean over replicas and tasks."""
    return _estimate(x, "mean")


def median(x: Any) -> float:
    """`[n]`: the median of replicas. `[n, tasks]`: the median over tasks of their means over replicas, as rliable's."""
    return _estimate(x, "median")


def iqm(x: Any) -> float:
    """Interquartile mean: without the `floor(N / 4)` smallest and largest of all N = n · tasks values.

    Where N is no multiple of 4 less than a quarter goes: of 5, the smallest and the largest; of 3, none. So do
    `scipy.stats.trim_mean` and rliable.
    """
    return _estimate(x, "iqm")


def optimality_gap(x: Any, target: float = 1.0) -> float:
    """How far below `target` values are: `target − mean(min(x, target))`. 0 is best.

    What lies above the target is not counted."""
    return _estimate(x, "optimality_gap", target)


# --- intervals ------------------------------------------------------------------------------------


def interval(
    x: Any, statistic: Statistic = "iqm", *, level: float = 0.95, seed: int = 0, target: float | None = None
) -> Interval:
    """The interval to report, of `x [n]` or `[n, tasks]`: `estimate ± t(n − 1) · se`.

    - mean, optimality gap: Student's t (of several tasks: the standard errors' squares add up, degrees of freedom by
      Satterthwaite).
    - iqm, "calibrated t": `se² = q² max(yuen, k s² / n)`. Yuen's (1974) squared standard error of a trimmed mean is
      `Σ (w − mean w)² / (h (h − 1))`: w the Winsorised values (what was trimmed becomes the nearest that was not), h
      the number of values left. By itself, with t(h − 1), it is Tukey and McLaughlin's (1963) trimmed t, which has two
      degrees of freedom for five replicas and breaks down where they fall into two heaps. Beside it stands the standard
      deviation s of all values; k is the variance of the IQM of normal samples in units of the mean's, and q makes the
      interval cover exactly `level` of normal samples. k and q come from a simulation with `seed`, once for each n.
      Several tasks: Winsorised values alone, variances within tasks, as the tasks do not vary.
    - median: `se² = q² k s² / n`, one task only. It covers well what has one mode; the IQM is the better choice.

    An infinite value that is trimmed away leaves Yuen's part alone, "trimmed t"; one that is not: NaN. So does n = 1.
    Values that are all equal give an interval of no width: they show no spread. `target`: of the optimality gap.
    """
    sample = sample_of(x)
    goal = _check(statistic, level, target)
    tasks = np.ndim(x) == 2
    if statistic == "median" and tasks:
        raise ValueError("the median over tasks has no interval with known coverage: take iqm, or percentile_interval")
    estimate = float(_point(sample, statistic, goal, tasks))
    variance, df = _spread(sample, statistic, level, seed, goal)
    low, high = _limits(np.array(estimate), variance, df, level)
    if statistic == "optimality_gap":
        low, high = np.maximum(low, 0.0), np.maximum(high, 0.0)
    return Interval(estimate, float(low), float(high), level, _name(statistic, sample), len(sample))


def difference(
    b: Any,
    a: Any,
    statistic: Statistic = "iqm",
    *,
    paired: bool = False,
    level: float = 0.95,
    seed: int = 0,
    target: float | None = None,
) -> Interval:
    """`statistic(b) − statistic(a)`, of two samples with the same tasks.

    Unpaired: the squared standard errors of `interval` add up, degrees of freedom by Welch and Satterthwaite: the
    mean's is Welch's interval, the IQM's of the kind of Yuen's. Paired (`b[k]` and `a[k]` are replicas of one seed):
    the variance is that of the replicas' differences, for the IQM Winsorised within each sample, as Yuen's test of
    dependent groups has it. Pairing helps only where a seed's two values go together.
    """
    xs = sample_of(a), sample_of(b)
    goal = _check(statistic, level, target)
    tasks = np.ndim(b) == 2
    if np.ndim(a) != np.ndim(b) or xs[0].shape[1] != xs[1].shape[1]:
        raise ValueError(f"the samples have different tasks: shapes {np.shape(a)} and {np.shape(b)}")
    if paired and len(xs[0]) != len(xs[1]):
        raise ValueError(f"paired samples have a replica for each seed in both, not {len(xs[0])} and {len(xs[1])}")
    if statistic == "median" and tasks:
        raise ValueError("the median over tasks has no interval with known coverage: take iqm")
    before, after = (float(_point(x, statistic, goal, tasks)) for x in xs)
    alike = math.isfinite(after) and math.isclose(after, before, rel_tol=1e-12)  # as far as rounding can tell
    estimate = 0.0 if alike else after - before
    if paired:
        variance, df = _spread(xs[1], statistic, level, seed, goal, minus=xs[0])
    else:
        (va, da), (vb, db) = (_spread(x, statistic, level, seed, goal) for x in xs)
        variance, df = _welch(np.stack([va, vb]), np.stack([da, db]))
    low, high = _limits(np.array(estimate), variance, df, level)
    method = ("paired " if paired else "Welch ") + _name(statistic, *xs)
    return Interval(estimate, float(low), float(high), level, method, min(map(len, xs)))


def band(
    curves: Any, statistic: Statistic = "iqm", *, level: float = 0.95, seed: int = 0, target: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learning curves `[n, T]` as estimate, low and high `[T]`: `interval` of each column by itself.

    The level holds at each step, not for all steps at once. A column that lacks a replica (NaN) is NaN: a mean over
    those that are still there would be another sample. With as many columns as one likes it is `interval` of many
    samples in one go.
    """
    x = np.asarray(curves, dtype=float)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"curves are [replicas, steps], not of shape {x.shape}")
    goal = _check(statistic, level, target)
    columns = np.ascontiguousarray(x.T)[:, :, None]  # [T, n, 1]
    estimate = _point(columns, statistic, goal, tasks=False)
    low, high = _limits(estimate, *_spread(columns, statistic, level, seed, goal), level)
    if statistic == "optimality_gap":
        low, high = np.maximum(low, 0.0), np.maximum(high, 0.0)
    missing = np.isnan(x).any(axis=0)
    return tuple(np.where(missing, math.nan, v) for v in (estimate, low, high))  # type: ignore[return-value]


def percentile_interval(
    x: Any,
    statistic: Statistic | Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    target: float | None = None,
) -> Interval:
    """The percentile bootstrap as rliable does it: replicas are drawn with replacement, in each task by themselves.

    For comparison with what others publish: of few replicas it covers far less than it says (docs/statistics.md).
    `statistic` may be a function of resamples `[B, n, tasks]` that gives `[B]`.
    """
    sample = sample_of(x)
    point: Callable[[np.ndarray], np.ndarray]
    if callable(statistic):
        _check("mean", level, target)
        point = statistic
    else:
        goal = _check(statistic, level, target)
        point = functools.partial(_point, statistic=statistic, target=goal, tasks=np.ndim(x) == 2)
    n, tasks = sample.shape
    rng = np.random.default_rng(seed)
    found = []
    for size in _chunks(resamples, n * tasks):
        drawn = rng.integers(n, size=(size, n, tasks))
        found.append(point(np.take_along_axis(sample[None], drawn, axis=1)))
    values = np.concatenate(found)
    exact = "linear" if np.isfinite(values).all() else "nearest"  # nothing lies between a number and infinity
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method=exact) if n > 1 else (math.nan, math.nan)  # type: ignore[call-overload]
    return Interval(float(point(sample[None])[0]), float(low), float(high), level, "percentile bootstrap", n)


# --- how they are made ----------------------------------------------------------------------------


def _estimate(x: Any, statistic: Statistic, target: float = math.nan) -> float:
    return float(_point(sample_of(x), statistic, target, np.ndim(x) == 2))


def _point(x: np.ndarray, statistic: Statistic, target: float, tasks: bool) -> np.ndarray:
    """The statistic of `x [..., n, tasks]` over its last two axes. `tasks`: the median is one over tasks."""
    with np.errstate(invalid="ignore"):
        if statistic == "mean":
            return x.mean(axis=(-2, -1))
        if statistic == "median":
            return np.median(x.mean(axis=-2) if tasks else x[..., 0], axis=-1)
        if statistic == "optimality_gap":
            return target - np.minimum(x, target).mean(axis=(-2, -1))
        values = np.sort(x.reshape(*x.shape[:-2], -1), axis=-1)
        trimmed = values.shape[-1] // 4
        return values[..., trimmed : values.shape[-1] - trimmed].mean(axis=-1)


def _winsorised(x: np.ndarray) -> np.ndarray:
    """`x [..., n, tasks]`, where what the IQM trims becomes the nearest value that it does not."""
    values = np.sort(x.reshape(*x.shape[:-2], -1), axis=-1)
    trimmed = values.shape[-1] // 4
    low, high = values[..., trimmed, None, None], values[..., values.shape[-1] - trimmed - 1, None, None]
    return np.clip(x, low, high)


def _squares(x: np.ndarray) -> np.ndarray:
    """`Σ_k (x_k − mean x)²` over replicas, `[..., tasks]`; exactly 0 where all are equal, NaN with infinities."""
    with np.errstate(invalid="ignore"):
        found = ((x - x.mean(axis=-2, keepdims=True)) ** 2).sum(axis=-2)
        return np.where((x == x[..., :1, :]).all(axis=-2), 0.0, found)


def _spread(
    x: np.ndarray,
    statistic: Statistic,
    level: float,
    seed: int,
    target: float,
    minus: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Squared standard error and degrees of freedom `[...]` of `x [..., n, tasks]`; `minus`: of the differences.

    NaN with a single replica and where an infinite value counts.
    """
    *many, n, tasks = x.shape
    if n < 2:
        return np.full(many, math.nan), np.full(many, math.nan)
    if statistic == "optimality_gap":
        x, minus = np.minimum(x, target), None if minus is None else np.minimum(minus, target)
    winsorised = _winsorised(x) if statistic == "iqm" else x
    if minus is not None:
        with np.errstate(invalid="ignore"):
            x, winsorised = x - minus, winsorised - (_winsorised(minus) if statistic == "iqm" else minus)
    k, q = (1.0, 1.0) if statistic in STUDENTS else calibration(statistic, n, tasks, level, seed)
    return _errors(x, winsorised, statistic, k, q)


def _errors(
    x: np.ndarray, winsorised: np.ndarray, statistic: Statistic, k: float, q: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `_spread`, from the values and the Winsorised values `[..., n, tasks]`, with k and q of `interval`."""
    *many, n, tasks = x.shape
    dfs = np.full((tasks, *many), n - 1.0)
    left = n * tasks - 2 * (n * tasks // 4)
    if statistic == "iqm" and tasks > 1:
        each = q**2 * _squares(winsorised) / (n - 1) * n / left**2
        return _welch(np.moveaxis(each, -1, 0), dfs)
    plain = q**2 * k * _squares(x) / (n - 1) / n / tasks**2
    if statistic != "iqm":
        return _welch(np.moveaxis(plain, -1, 0), dfs)
    yuen = _squares(winsorised)[..., 0] / (left * (left - 1))
    known = np.isfinite(plain[..., 0])
    both = np.where(known, np.fmax(q**2 * yuen, plain[..., 0]), yuen)
    return both, np.where(known, n - 1.0, left - 1.0)


def _welch(variances: np.ndarray, dfs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of variances `[parts, ...]` and its degrees of freedom: `(Σ v)² / Σ (v² / df)` (Satterthwaite 1946)."""
    total = variances.sum(axis=0)
    fractions = np.divide(variances, total, out=np.zeros_like(variances), where=total > 0)
    weight = (fractions**2 / dfs).sum(axis=0)
    return total, np.divide(1.0, weight, out=np.ones_like(weight), where=weight > 0)


def _limits(
    estimate: np.ndarray, variance: np.ndarray, df: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance)
        half = np.where(np.isfinite(estimate) & np.isfinite(half), half, math.nan)
        return estimate - half, estimate + half


@functools.lru_cache(maxsize=1024)
def calibration(statistic: Statistic, n: int, tasks: int, level: float, seed: int) -> tuple[float, float]:
    """k and q of `interval` from normal samples `[n, tasks]`; half a second, once for each n.

    k: the statistic's variance in units of the mean's. q: what the standard error is multiplied with so that `level` of
    normal samples are covered; NaN where too many of them show no spread (two replicas in two tasks).
    """
    count = max(min(CALIBRATION // (n * tasks), 200_000), 20_000)

    def samples() -> Iterator[np.ndarray]:
        rng = np.random.default_rng([seed, n, tasks])
        return (rng.standard_normal((size, n, tasks)) for size in _chunks(count, n * tasks))

    point = np.concatenate([_point(z, statistic, math.nan, tasks=False) for z in samples()])
    k = float(np.mean(point**2)) * n * tasks
    errors = [_errors(z, _winsorised(z), statistic, k, 1.0) for z in samples()]
    variance, df = (np.concatenate(part) for part in zip(*errors))
    with np.errstate(divide="ignore"):
        ratio = np.abs(point) / np.sqrt(variance) / stats.t.ppf((1 + level) / 2, df)
    q = float(np.quantile(ratio, level, method="higher"))
    return k, q if math.isfinite(q) else math.nan


def _chunks(count: int, each: int) -> list[int]:
    """`count` samples of `each` numbers, in pieces that fit into memory."""
    size = max(CHUNK // each, 1)
    return [min(size, count - start) for start in range(0, count, size)]


def _name(statistic: Statistic, *samples: np.ndarray) -> str:
    if statistic in STUDENTS:
        return "t"
    return "trimmed t" if any(np.isinf(x).any() for x in samples) else "calibrated t"


def sample_of(x: Any) -> np.ndarray:
    """`[n, tasks]`, checked."""
    values = np.asarray(x, dtype=float)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"a sample is one number for each replica, [n] or [n, tasks], not of shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError(
            f"{int(np.isnan(values).sum())} of {values.size} values are NaN: leave out replicas without a value"
        )
    return values if values.ndim == 2 else values[:, None]


def _check(statistic: str, level: float, target: float | None) -> float:
    """The target, NaN where there is none."""
    if statistic not in get_args(Statistic):
        raise ValueError(f"no statistic {statistic!r}: take one of {', '.join(get_args(Statistic))}")
    if not 0 < level < 1:
        raise ValueError(f"a level is between 0 and 1, as 0.95, not {level}")
    if statistic == "optimality_gap" and target is None:
        raise ValueError("the optimality gap needs a target: the value that counts as solved")
    return math.nan if target is None else float(target)
