"""Point estimates over replicas and their intervals; docs/statistics.md shows the coverage.

A sample is `x [n]`, one number per replica of a group; point estimates and the percentile bootstrap also take
`[n, tasks]`, as rliable does. The replica is the unit, of resampling too: members of a replica learn from each other,
so pass their mean. Values may be in any unit. NaN is refused: callers leave out replicas without a value. Infinity is
allowed ("never reached"). ValueError is raised for invalid arguments.

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
"""Values with a smaller relative difference are equal up to rounding."""
CHUNK_NUMBERS = 2_000_000
"""Largest number of drawn numbers in memory at a time: 16 MB."""
CALIBRATION = 4_000_000
"""Number of normal numbers that a calibration draws, in at most 200,000 samples: 95% is met to within 0.1%."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    """NaN, as `low`, for a sample that is too small, or with an infinite value that is not trimmed."""
    level: float
    method: str
    n: int
    """Number of replicas; for two samples, the smaller one."""

    def excludes(self, value: float) -> bool:
        """Whether `value` is outside the interval; never for NaN limits."""
        return bool(value < self.low or value > self.high)


# --- point estimates ------------------------------------------------------------------------------


def mean(x: Any) -> float:
    """Mean over replicas and tasks."""
    return _estimate(x, "mean")


def median(x: Any) -> float:
    """`[n]`: the median of replicas. `[n, tasks]`: the median over tasks of the means over replicas, as in rliable."""
    return _estimate(x, "median")


def iqm(x: Any) -> float:
    """Interquartile mean: the mean without the `floor(N / 4)` smallest and largest of all N = n · tasks values.

    If N is not a multiple of 4, less than a quarter is trimmed per side: of 5, one value; of 3, none. This agrees with
    `scipy.stats.trim_mean` and rliable.
    """
    return _estimate(x, "iqm")


def optimality_gap(x: Any, target: float = 1.0) -> float:
    """Mean distance below `target`: `target − mean(min(x, target))`. 0 is best; values above the target count as 0."""
    return _estimate(x, "optimality_gap", target)


# --- intervals ------------------------------------------------------------------------------------


def interval(
    x: Any, statistic: Statistic = "iqm", *, level: float = 0.95, seed: int = 0, target: float | None = None
) -> Interval:
    """The interval of `x [n]` to report: `estimate ± t(n − 1) · se`.

    - mean, optimality gap: Student's t.
    - iqm, "calibrated t": `se² = q² max(yuen, k s² / n)`. Yuen's (1974) squared standard error of a trimmed mean is
      `Σ (w − mean w)² / (h (h − 1))` with the Winsorised values w (trimmed values replaced by the nearest remaining
      one) and the number h of remaining values; s is the standard deviation of all values. k is the ratio of the
      variances of IQM and mean for normal samples, and q makes the coverage of normal samples exactly `level`; both
      come from a simulation with `seed`, once per n. docs/statistics.md explains why Yuen's part is not used alone.
    - median: `se² = q² k s² / n`. Its coverage is good for unimodal distributions; the IQM is the better choice.

    With an infinite value that is trimmed, only Yuen's part is used, with t(h − 1): the "trimmed t" of Tukey and
    McLaughlin (1963). An infinite value that is not trimmed gives NaN limits, and so does n = 1. Equal values give an
    interval of width zero. `target`: of the optimality gap.
    """
    sample = sample_of(x)
    found = band(sample[:, None], statistic, level=level, seed=seed, target=target)
    estimate, low, high = (float(value[0]) for value in found)
    return Interval(estimate, low, high, level, _method(statistic, sample), len(sample))


def differences(
    b: np.ndarray, a: np.ndarray, statistic: Middle, *, paired: bool = False, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`statistic(b) − statistic(a)` with t intervals, for many pairs of samples `b [..., n_b]` and `a [..., n_a]`:
    estimates, lows and highs `[...]`.

    Unpaired: the squared standard errors of `interval` are added, with degrees of freedom by Welch and Satterthwaite;
    for the mean this is Welch's interval. Paired (`b[k]` and `a[k]` have the same seed): the variance is that of the
    differences, for the IQM Winsorised within each sample as in Yuen's test of dependent groups. Pairing helps only if
    the two values of a seed are correlated.
    """
    estimate, variance, df = _difference(b, a, statistic, paired, level, seed)
    return estimate, *_limits(estimate, variance, df, level)


def calibrated_p(b: np.ndarray, a: np.ndarray, *, paired: bool = False, seed: int = 0) -> np.ndarray:
    """The two-sided p values `[...]` of the calibrated t of a difference of IQMs, that of the intervals of
    `differences` at 95%. NaN without spread."""
    estimate, variance, df = _difference(b, a, "iqm", paired, 0.95, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(variance > 0, np.abs(estimate) / np.sqrt(variance), math.nan)
    return np.asarray(2 * stats.t.sf(t, df))


def _difference(
    b: np.ndarray, a: np.ndarray, statistic: Middle, paired: bool, level: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates, squared standard errors and degrees of freedom `[...]`."""
    _check(statistic, level)
    before, after = _statistic(a, statistic), _statistic(b, statistic)
    # Treat equality up to rounding as equal: means of one number over 3 and 5 replicas differ in the last bit.
    alike = np.isfinite(after) & np.isclose(after, before, rtol=ROUNDING, atol=0)
    with np.errstate(invalid="ignore"):
        estimate = np.where(alike, 0.0, after - before)
    if paired:
        variance, df = _spread(b, statistic, *calibration(statistic, b.shape[-1], level, seed), minus=a)
    else:
        parts = [_spread(x, statistic, *calibration(statistic, x.shape[-1], level, seed)) for x in (a, b)]
        variance, df = _welch(*(np.stack(part) for part in zip(*parts)))
    return estimate, variance, df


def band(
    curves: Any, statistic: Statistic = "iqm", *, level: float = 0.95, seed: int = 0, target: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learning curves `[n, T]` as estimate, low and high `[T]`: the `interval` of each column.

    The level holds at each step, not simultaneously. A column with a missing replica (NaN) is NaN, because a mean over
    the others would be of another sample.
    """
    x = np.asarray(curves, dtype=float)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"curves must have shape [replicas, steps], got {x.shape}")
    columns, middle = _as_gaps(np.ascontiguousarray(x.T), statistic, target)  # [T, n]
    _check(middle, level)
    estimate = _statistic(columns, middle)
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
    """The percentile bootstrap of `x [n]` or `[n, tasks]` as in rliable: each task is resampled separately.

    For comparison with published results: with few replicas its coverage is far below `level` (docs/statistics.md).
    """
    sample, middle = _as_gaps(sample_of(x, tasks=True), statistic, target)
    _check(middle, level)
    n, rng = len(sample), np.random.default_rng(seed)
    found = []
    for size in chunks(resamples, sample.size):
        drawn = rng.integers(n, size=(size, *sample.shape))
        found.append(_statistic_of_samples(np.take_along_axis(sample[None], drawn, axis=1), middle))
    values = np.concatenate(found)
    exact = "linear" if np.isfinite(values).all() else "nearest"  # interpolation with infinity is undefined
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method=exact) if n > 1 else (math.nan, math.nan)  # type: ignore[call-overload]
    estimate = float(_statistic_of_samples(sample[None], middle)[0])
    return Interval(estimate, float(low), float(high), level, "percentile bootstrap", n)


# --- computation ----------------------------------------------------------------------------------


def _estimate(x: Any, statistic: Statistic, target: float | None = None) -> float:
    sample, middle = _as_gaps(sample_of(x, tasks=True), statistic, target)
    return float(_statistic_of_samples(sample[None], middle)[0])


def _as_gaps(x: np.ndarray, statistic: Statistic, target: float | None) -> tuple[np.ndarray, Middle]:
    """Express the optimality gap as the mean of the gaps of the values; other statistics are unchanged."""
    if statistic != "optimality_gap":
        return x, statistic
    if target is None:
        raise ValueError("the optimality gap needs a target")
    return target - np.minimum(x, target), "mean"


def _statistic_of_samples(x: np.ndarray, statistic: Middle) -> np.ndarray:
    """The statistic of each of many samples, `x [S, n]` or `[S, n, tasks]`: `[S]`."""
    if x.ndim == 3 and statistic == "median":
        return np.median(x.mean(axis=1), axis=-1)
    return _statistic(x.reshape(len(x), -1), statistic)


def _statistic(x: np.ndarray, statistic: Middle) -> np.ndarray:
    """The statistic of `x [..., n]` over its last axis."""
    with np.errstate(invalid="ignore"):
        if statistic == "mean":
            return x.mean(axis=-1)
        if statistic == "median":
            return np.median(x, axis=-1)
    return iqms(x)


def iqms(x: np.ndarray) -> np.ndarray:
    """The IQM of `x [..., n]` over its last axis."""
    values, trimmed = np.sort(x, axis=-1), x.shape[-1] // 4
    with np.errstate(invalid="ignore"):
        return values[..., trimmed : x.shape[-1] - trimmed].mean(axis=-1)


def winsorised_squares(x: np.ndarray, minus: np.ndarray | None = None) -> np.ndarray:
    """Yuen's squared standard error `[...]` of the IQM of `x [..., n]`: `Σ (w − mean w)² / (h (h − 1))` with the
    Winsorised values w, of which h are not trimmed. `minus`: another sample of pairs, for the difference."""
    winsorised = _winsorised(x)
    if minus is not None:
        with np.errstate(invalid="ignore"):
            winsorised = winsorised - _winsorised(minus)
    left = x.shape[-1] - 2 * (x.shape[-1] // 4)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _squares(winsorised) / (left * (left - 1))


def _winsorised(x: np.ndarray) -> np.ndarray:
    """`x [..., n]` with the values that the IQM trims replaced by the nearest remaining one."""
    values, trimmed = np.sort(x, axis=-1), x.shape[-1] // 4
    return np.clip(x, values[..., trimmed, None], values[..., x.shape[-1] - trimmed - 1, None])


def _squares(x: np.ndarray) -> np.ndarray:
    """`Σ (x − mean x)²` over the last axis; exactly 0 if all are equal, NaN with infinite values."""
    with np.errstate(invalid="ignore"):
        found = ((x - x.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
        return np.where((x == x[..., :1]).all(axis=-1), 0.0, found)


def _spread(
    x: np.ndarray, statistic: Middle, k: float, q: float, minus: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared standard error and degrees of freedom `[...]` of `x [..., n]`, with k and q of `interval`.

    `minus`: another sample of pairs, for the statistic of the differences. NaN with a single replica, and with an
    infinite value that is not trimmed.
    """
    *many, n = x.shape
    if n < 2:
        return np.full(many, math.nan), np.full(many, math.nan)
    with np.errstate(invalid="ignore"):
        plain = q**2 * k * _squares(x if minus is None else x - minus) / (n - 1) / n
    if statistic != "iqm":
        return plain, np.full(many, n - 1.0)
    left, yuen = n - 2 * (n // 4), winsorised_squares(x, minus)
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
    """k and q of `interval` from simulated normal samples `[n]`; takes half a second per n.

    k: the ratio of the variances of the statistic and the mean. q: the factor of the standard error that gives a
    coverage of `level`. Means, and IQMs of fewer than four replicas, which are means, need no calibration; a single
    replica has no interval.
    """
    if statistic == "mean" or n < 2 or (statistic == "iqm" and n < 4):
        return 1.0, 1.0

    def samples() -> Iterator[np.ndarray]:
        rng = np.random.default_rng([seed, n, 1])
        return (rng.standard_normal((size, n)) for size in chunks(normal_samples(n), n))

    point = np.concatenate([_statistic(z, statistic) for z in samples()])
    k = float(np.mean(point**2)) * n
    errors = [_spread(z, statistic, k, 1.0) for z in samples()]
    variance, df = (np.concatenate(part) for part in zip(*errors))
    ratio = np.abs(point) / np.sqrt(variance) / stats.t.ppf((1 + level) / 2, df)
    return k, float(np.quantile(ratio, level, method="higher"))


def normal_samples(n: int) -> int:
    """The number of normal samples of n numbers that a simulation draws."""
    return max(min(CALIBRATION // n, 200_000), 20_000)


def chunks(count: int, each: int) -> list[int]:
    """Split `count` samples of `each` numbers into pieces that fit into memory; returns the sizes."""
    size = max(CHUNK_NUMBERS // each, 1)
    return [min(size, count - start) for start in range(0, count, size)]


def _method(statistic: Statistic, *samples: np.ndarray) -> str:
    if statistic in ("mean", "optimality_gap"):
        return "t"
    return "trimmed t" if any(np.isinf(x).any() for x in samples) else "calibrated t"


def sample_of(x: Any, *, tasks: bool = False) -> np.ndarray:
    """A checked sample `[n]`; with `tasks` it may be `[n, tasks]`."""
    values = np.asarray(x, dtype=float)
    if values.ndim not in ((1, 2) if tasks else (1,)) or not values.size:
        shapes = "[n] or [n, tasks]" if tasks else "[n]"
        raise ValueError(f"a sample must have the shape {shapes}, one number per replica, got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(
            f"{int(np.isnan(values).sum())} of {values.size} values are NaN: leave out replicas without a value"
        )
    return values


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"a level must be between 0 and 1, such as 0.95, got {level}")


def _check(statistic: str, level: float) -> None:
    if statistic not in get_args(Middle):
        there = ", ".join(get_args(Middle))
        raise ValueError(f"no statistic {statistic!r}: use one of {there}, or for one sample optimality_gap")
    check_level(level)
