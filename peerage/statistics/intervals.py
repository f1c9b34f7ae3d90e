"""Point estimates over replicas, and intervals whose coverage is shown in docs/statistics.md.

A sample is `x [n]`, one number for each replica of a group; point estimates and the percentile bootstrap also take
`[n, tasks]`, a replica in each of several tasks, as rliable does. The replica is the unit, of resampling too: members
of a replica learn from each other, so give their mean. Values are in whatever unit the caller measures in; NaN is
refused (a replica without a value is left out by whoever knows why), infinity is a value ("never reached"). ValueError
for what has no meaning, with one line that says why.

Point estimates and the percentile bootstrap: Agarwal et al. 2021, arXiv 2108.13264, and their library rliable.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

Middle = Literal["iqm", "mean", "median"]
Statistic = Literal[Middle, "optimality_gap"]

ROUNDING = 1e-12
"""What differs by less, relative to its size, is the same up to rounding."""
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
    """The interval to report, of `x [n]`: `estimate ± t(n − 1) · se`.

    - mean, optimality gap: Student's t.
    - iqm, "calibrated t": `se² = q² max(yuen, k s² / n)`. Yuen's (1974) squared standard error of a trimmed mean is
      `Σ (w − mean w)² / (h (h − 1))`: w the Winsorised values (what was trimmed becomes the nearest that was not), h
      the number of values left; s is the standard deviation of all values. k is the variance of the IQM of normal
      samples in units of the mean's, and q makes the interval cover exactly `level` of normal samples; both come from a
      simulation with `seed`, once for each n. Why not Yuen's part alone: docs/statistics.md.
    - median: `se² = q² k s² / n`. It covers well what has one mode; the IQM is the better choice.

    An infinite value that is trimmed away leaves Yuen's part alone, with t(h − 1): Tukey and McLaughlin's (1963)
    "trimmed t". One that is not gives NaN, and so does n = 1.
    Values that are all equal give an interval of no width: they show no spread. `target`: of the optimality gap.
    """
    sample = sample_of(x)
    found = band(sample[:, None], statistic, level=level, seed=seed, target=target)
    estimate, low, high = (float(value[0]) for value in found)
    return Interval(estimate, low, high, level, _name(statistic, sample), len(sample))


def difference(
    b: Any,
    a: Any,
    statistic: Middle = "iqm",
    *,
    paired: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`statistic(b) − statistic(a)` of `b [n_b]` and `a [n_a]`.

    Unpaired: the squared standard errors of `interval` add up, degrees of freedom by Welch and Satterthwaite: the
    mean's is Welch's interval, the IQM's of the kind of Yuen's. Paired (`b[k]` and `a[k]` are replicas of one seed):
    the variance is that of the replicas' differences, for the IQM Winsorised within each sample, as Yuen's test of
    dependent groups has it. Pairing helps only where a seed's two values go together.
    """
    before, after = sample_of(a), sample_of(b)
    if paired and len(before) != len(after):
        raise ValueError(f"paired samples have a replica for each seed in both, not {len(before)} and {len(after)}")
    found = differences(after, before, statistic, paired=paired, level=level, seed=seed)
    estimate, low, high = (float(value) for value in found)
    method = ("paired " if paired else "Welch ") + _name(statistic, before, after)
    return Interval(estimate, low, high, level, method, min(len(before), len(after)))


def differences(
    b: np.ndarray, a: np.ndarray, statistic: Middle, *, paired: bool = False, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`difference` of many pairs of samples `b [..., n_b]` and `a [..., n_a]`: estimates, lows and highs `[...]`."""
    _check(statistic, level)
    before, after = _point(a, statistic), _point(b, statistic)
    # Equal as far as rounding can tell is equal: means of one number over 3 and 5 replicas differ in the last bit.
    alike = np.isfinite(after) & np.isclose(after, before, rtol=ROUNDING, atol=0)
    with np.errstate(invalid="ignore"):
        estimate = np.where(alike, 0.0, after - before)
    if paired:
        variance, df = _spread(b, statistic, *calibration(statistic, b.shape[-1], level, seed), minus=a)
    else:
        parts = [_spread(x, statistic, *calibration(statistic, x.shape[-1], level, seed)) for x in (a, b)]
        variance, df = _welch(*(np.stack(part) for part in zip(*parts)))
    return estimate, *_limits(estimate, variance, df, level)


def band(
    curves: Any, statistic: Statistic = "iqm", *, level: float = 0.95, seed: int = 0, target: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learning curves `[n, T]` as estimate, low and high `[T]`: `interval` of each column by itself.

    The level holds at each step, not for all steps at once. A column that lacks a replica (NaN) is NaN: a mean over
    those that are still there would be another sample.
    """
    x = np.asarray(curves, dtype=float)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"curves are [replicas, steps], not of shape {x.shape}")
    columns, middle = _gaps(np.ascontiguousarray(x.T), statistic, target)  # [T, n]
    _check(middle, level)
    estimate = _point(columns, middle)
    constants = calibration(middle, len(x), level, seed)
    low, high = _limits(estimate, *_spread(columns, middle, *constants), level)
    if statistic == "optimality_gap":
        low = np.maximum(low, 0.0)
    missing = np.isnan(x).any(axis=0)
    return tuple(np.where(missing, math.nan, v) for v in (estimate, low, high))  # type: ignore[return-value]


def percentile_interval(
    x: Any,
    statistic: Statistic,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    target: float | None = None,
) -> Interval:
    """The percentile bootstrap as rliable does it, of `x [n]` or `[n, tasks]`: each task is resampled by itself.

    For comparison with what others publish: of few replicas it covers far less than it says (docs/statistics.md).
    """
    sample, middle = _gaps(sample_of(x, tasks=True), statistic, target)
    _check(middle, level)
    n, rng = len(sample), np.random.default_rng(seed)
    found = []
    for size in chunks(resamples, sample.size):
        drawn = rng.integers(n, size=(size, *sample.shape))
        found.append(_of_tasks(np.take_along_axis(sample[None], drawn, axis=1), middle))
    values = np.concatenate(found)
    exact = "linear" if np.isfinite(values).all() else "nearest"  # nothing lies between a number and infinity
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method=exact) if n > 1 else (math.nan, math.nan)  # type: ignore[call-overload]
    estimate = float(_of_tasks(sample[None], middle)[0])
    return Interval(estimate, float(low), float(high), level, "percentile bootstrap", n)


# --- how they are made ----------------------------------------------------------------------------


def _estimate(x: Any, statistic: Statistic, target: float | None = None) -> float:
    sample, middle = _gaps(sample_of(x, tasks=True), statistic, target)
    return float(_of_tasks(sample[None], middle)[0])


def _gaps(x: np.ndarray, statistic: Statistic, target: float | None) -> tuple[np.ndarray, Middle]:
    """The optimality gap as the mean of each value's gap; everything else as it is."""
    if statistic != "optimality_gap":
        return x, statistic
    if target is None:
        raise ValueError("the optimality gap needs a target: the value that counts as solved")
    return target - np.minimum(x, target), "mean"


def _of_tasks(x: np.ndarray, statistic: Middle) -> np.ndarray:
    """The statistic of each of many samples, `x [S, n]` or `[S, n, tasks]`: `[S]`."""
    if x.ndim == 3 and statistic == "median":
        return np.median(x.mean(axis=1), axis=-1)
    return _point(x.reshape(len(x), -1), statistic)


def _point(x: np.ndarray, statistic: Middle) -> np.ndarray:
    """The statistic of `x [..., n]` over its last axis."""
    with np.errstate(invalid="ignore"):
        if statistic == "mean":
            return x.mean(axis=-1)
        if statistic == "median":
            return np.median(x, axis=-1)
        values, trimmed = np.sort(x, axis=-1), x.shape[-1] // 4
        return values[..., trimmed : x.shape[-1] - trimmed].mean(axis=-1)


def _winsorised(x: np.ndarray) -> np.ndarray:
    """`x [..., n]`, where what the IQM trims becomes the nearest value that it does not."""
    values, trimmed = np.sort(x, axis=-1), x.shape[-1] // 4
    return np.clip(x, values[..., trimmed, None], values[..., x.shape[-1] - trimmed - 1, None])


def _squares(x: np.ndarray) -> np.ndarray:
    """`Σ (x − mean x)²` over the last axis; exactly 0 where all are equal, NaN with infinities."""
    with np.errstate(invalid="ignore"):
        found = ((x - x.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
        return np.where((x == x[..., :1]).all(axis=-1), 0.0, found)


def _spread(
    x: np.ndarray, statistic: Middle, k: float, q: float, minus: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared standard error and degrees of freedom `[...]` of `x [..., n]`, with k and q of `interval`.

    `minus`: of the differences. NaN with a single replica and where an infinite value counts.
    """
    *many, n = x.shape
    if n < 2:
        return np.full(many, math.nan), np.full(many, math.nan)
    winsorised = _winsorised(x)
    if minus is not None:
        with np.errstate(invalid="ignore"):
            x, winsorised = x - minus, winsorised - _winsorised(minus)
    plain = q**2 * k * _squares(x) / (n - 1) / n
    if statistic != "iqm":
        return plain, np.full(many, n - 1.0)
    left = n - 2 * (n // 4)
    yuen = _squares(winsorised) / (left * (left - 1))
    known = np.isfinite(plain)
    both = np.where(known, np.fmax(q**2 * yuen, plain), yuen)
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
def calibration(statistic: Middle, n: int, level: float, seed: int) -> tuple[float, float]:
    """k and q of `interval` from normal samples `[n]`; half a second, once for each n.

    k: the statistic's variance in units of the mean's. q: what the standard error is multiplied with so that `level` of
    normal samples are covered. Means of normal samples need no calibration, and a single replica has no interval.
    """
    if statistic == "mean" or n < 2:
        return 1.0, 1.0

    def samples() -> Iterator[np.ndarray]:
        rng = np.random.default_rng([seed, n, 1])
        return (rng.standard_normal((size, n)) for size in chunks(normal_samples(n), n))

    point = np.concatenate([_point(z, statistic) for z in samples()])
    k = float(np.mean(point**2)) * n
    errors = [_spread(z, statistic, k, 1.0) for z in samples()]
    variance, df = (np.concatenate(part) for part in zip(*errors))
    ratio = np.abs(point) / np.sqrt(variance) / stats.t.ppf((1 + level) / 2, df)
    return k, float(np.quantile(ratio, level, method="higher"))


def normal_samples(n: int) -> int:
    """How many normal samples of n numbers a simulation draws."""
    return max(min(CALIBRATION // n, 200_000), 20_000)


def chunks(count: int, each: int) -> list[int]:
    """`count` samples of `each` numbers, in pieces that fit into memory."""
    size = max(CHUNK // each, 1)
    return [min(size, count - start) for start in range(0, count, size)]


def _name(statistic: Statistic, *samples: np.ndarray) -> str:
    if statistic in ("mean", "optimality_gap"):
        return "t"
    return "trimmed t" if any(np.isinf(x).any() for x in samples) else "calibrated t"


def sample_of(x: Any, *, tasks: bool = False) -> np.ndarray:
    """A sample `[n]`, checked; with `tasks` it may be `[n, tasks]`."""
    values = np.asarray(x, dtype=float)
    if values.ndim not in ((1, 2) if tasks else (1,)) or not values.size:
        shapes = "[n] or [n, tasks]" if tasks else "[n]"
        raise ValueError(f"a sample is one number for each replica, {shapes}, not of shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError(
            f"{int(np.isnan(values).sum())} of {values.size} values are NaN: leave out replicas without a value"
        )
    return values


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a level is between 0 and 1, as 0.95, not {level}")


def _check(statistic: str, level: float) -> None:
    if statistic not in get_args(Middle):
        there = ", ".join(get_args(Middle))
        raise ValueError(f"no statistic {statistic!r}: take one of {there}; of one sample also optimality_gap")
    check_level(level)
