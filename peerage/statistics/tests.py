"""Statistics of replicas: comparisons, tests, profiles and curves, and the estimates and intervals of `intervals`.

All functions are pure functions of arrays. Those that draw random numbers take a seed, and the same seed gives the same
bits. A sample is `x [n]`, one number per replica of a group. ValueError is raised for NaN and for invalid arguments.
docs/statistics.md shows the coverage of each interval.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

from peerage.statistics import intervals, permutation
from peerage.statistics.intervals import (
    Interval,
    Middle,
    Statistic,
    band,
    check_level,
    chunks,
    differences,
    interval,
    iqm,
    mean,
    median,
    normal_samples,
    optimality_gap,
    percentile_interval,
    sample_of,
)

__all__ = [
    "Interval",
    "Statistic",
    "Test",
    "area_under_curve",
    "band",
    "difference",
    "holm",
    "interval",
    "iqm",
    "mann_whitney",
    "mean",
    "median",
    "optimality_gap",
    "percentile_interval",
    "performance_profile",
    "permutation_p",
    "probability_of_improvement",
    "smallest_detectable_difference",
    "steps_to_threshold",
]

MAX_EXACT = 50
"""Largest total number of values for which the Mann–Whitney test is exact."""
PAIRED_R = 0.9
"""Assumed correlation of the two values of a pair in the power of paired comparisons; docs/statistics.md: Power."""
PLANNED = 500
"""The number of samples, and of divisions of each, in the simulated power of the permutation test."""


@dataclass(frozen=True)
class Test:
    """The result of a two-sided test of no difference."""

    p: float
    """p value; NaN where the test is not applicable to the samples."""
    statistic: float
    smallest_p: float
    """The smallest p value that samples of these sizes can give: if it is above the level, the test can never be
    significant."""


# --- comparison of two samples --------------------------------------------------------------------


def difference(
    b: Any, a: Any, statistic: Middle = "iqm", *, paired: bool = False, level: float = 0.95, seed: int = 0
) -> Interval:
    """`statistic(b) − statistic(a)` of `b [n_b]` and `a [n_a]`.

    The IQM's interval contains the differences that `permutation_p` does not reject. The intervals of mean and median,
    and of IQMs of samples with infinite values, are t intervals (`intervals.differences`). `paired`: `b[k]` and `a[k]`
    have the same seed.
    """
    before, after = _two_samples(b, a, paired)
    found = differences(after, before, statistic, paired=paired, level=level, seed=seed)
    estimate, low, high = (float(value) for value in found)
    n, infinite = min(len(before), len(after)), not np.isfinite([*after, *before]).all()
    method = "trimmed t" if infinite and statistic == "iqm" else "t"
    if statistic == "iqm" and not infinite:
        method = "permutation"
        low, high = permutation.limits(after, before, paired=paired, level=level, seed=seed)
    which = "paired " if paired else "" if method == "permutation" else "Welch "
    return Interval(estimate, low, high, level, which + method, n)


def permutation_p(b: Any, a: Any, *, paired: bool = False, seed: int = 0) -> float:
    """The p value of the permutation test of equal IQMs of `b [n_b]` and `a [n_a]` (`peerage.statistics.permutation`).

    `paired`: `b[k]` and `a[k]` have the same seed. NaN with fewer than two replicas. Infinite values are allowed.
    """
    before, after = _two_samples(b, a, paired)
    if min(len(before), len(after)) < 2:
        return math.nan
    return float(permutation.p_values(after, before, paired=paired, seed=seed))


def _two_samples(b: Any, a: Any, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    before, after = sample_of(a), sample_of(b)
    if paired and len(before) != len(after):
        raise ValueError(f"paired samples must have equal sizes, got {len(before)} and {len(after)}")
    return before, after


def probability_of_improvement(b: Any, a: Any, *, level: float = 0.95, seed: int = 0) -> Interval:
    """`P(B > A) + P(B = A) / 2` of a replica of each, over `b [n_b]` and `a [n_a]`.

    Estimate: the share of all pairs, U / (n_a n_b) (Agarwal et al. 2021). Interval: Newcombe's (2006, Statistics in
    Medicine 25:559, method 5), all θ with `(θ − estimate)² ≤ z² V(θ)`,
    `V = θ (1 − θ) (1 + N (1 − θ) / (2 − θ) + N θ / (1 + θ)) / (n_a n_b)`, `N = (n_a + n_b) / 2 − 1`. It stays within
    0 and 1, and unlike bootstraps and Brunner and Munzel's interval it has a positive width for samples that do not
    overlap. If the exact Mann–Whitney test does not reject at 1 − level, the interval is extended to include 1/2; with
    three replicas per side the test never rejects. No random numbers are drawn: `seed` exists for a uniform signature.
    """
    before, after = sample_of(a), sample_of(b)
    check_level(level)
    won = (after[:, None] > before) + (after[:, None] == before) / 2  # [n_b, n_a]
    share = float(won.mean())
    low, high = newcombe(share, len(after), len(before), level)
    if mann_whitney(after, before).p > 1 - level:
        low, high = min(low, 0.5), max(high, 0.5)
    return Interval(share, low, high, level, "Newcombe", min(won.shape))


@functools.lru_cache(maxsize=4096)
def newcombe(share: float, n_b: int, n_a: int, level: float = 0.95) -> tuple[float, float]:
    """The limits of `probability_of_improvement` from the share of pairs in which B is larger."""
    z, m = stats.norm.ppf((1 + level) / 2), (n_a + n_b) / 2 - 1

    def beyond(p: float) -> float:
        variance = p * (1 - p) * (1 + m * (1 - p) / (2 - p) + m * p / (1 + p)) / (n_a * n_b)
        return float((p - share) ** 2 - z**2 * variance)

    # beyond(share) is zero at share = 0 and 1 itself, so the search starts close to them.
    low = 0.0 if share <= 0 else optimize.brentq(beyond, 0.0, min(share, 1 - 1e-9), xtol=1e-12)
    high = 1.0 if share >= 1 else optimize.brentq(beyond, max(share, 1e-9), 1.0, xtol=1e-12)
    return float(low), float(high)


def mann_whitney(b: Any, a: Any) -> Test:
    """The Mann–Whitney test (1947) of `b [n_b]` and `a [n_a]`; its statistic U counts pairs with b > a, ties half.

    Exact for up to 50 values in total, ties included: the share of all divisions of the values into two samples of
    these sizes whose U is as far from the middle or farther. Beyond 50, the normal approximation with corrections for
    ties and continuity. With n per side and no ties p is at least `2 / C(2n, n)`: 0.1 for three, 0.029 for four, 0.008
    for five. Infinite values are allowed ("never reached").
    """
    before, after = sample_of(a), sample_of(b)
    n, total = len(after), len(after) + len(before)
    ranks = stats.rankdata(np.concatenate([after, before]))
    u = float(ranks[:n].sum() - n * (n + 1) / 2)
    smallest = min(1.0, 2 / math.comb(total, n))
    if total <= MAX_EXACT:
        counts = _rank_sum_counts(tuple(sorted((2 * ranks).astype(int).tolist())), n)
        middle = n * (total + 1)  # all rank sums are doubled, so that half ranks are integers
        far = np.abs(np.arange(len(counts)) - middle) >= abs(2 * ranks[:n].sum() - middle)
        return Test(float(counts[far].sum() / counts.sum()), u, smallest)
    if ranks.min() == ranks.max():
        return Test(1.0, u, smallest)
    return Test(float(stats.mannwhitneyu(after, before, method="asymptotic").pvalue), u, smallest)


@functools.lru_cache(maxsize=256)
def _rank_sum_counts(ranks: tuple[int, ...], n: int) -> np.ndarray:
    """Number of subsets of n of these integers with each sum: `[1 + Σ ranks]`. Exact, as C(50, 25) < 2^53."""
    ways = np.zeros((n + 1, sum(ranks) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    return ways[n]


def holm(p: Sequence[float]) -> list[float]:
    """p values of several comparisons, corrected by Holm (1979): `max over j ≤ i of (m − j + 1) p_(j)`, at most 1.

    The probability of any false rejection stays below the level. NaN (a test that was not applicable) stays NaN and
    does not count in m.
    """
    values = np.asarray(p, dtype=float)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p values must be between 0 and 1")
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return [float(v) for v in corrected]


def smallest_detectable_difference(
    n_a: int,
    n_b: int,
    sd: float,
    *,
    level: float = 0.95,
    power: float = 0.8,
    paired: bool = False,
    statistic: Literal["mean", "iqm"] = "mean",
    seed: int = 0,
) -> float:
    """The smallest true difference that is detected with probability `power`, in the unit of `sd`.

    `sd`: standard deviation over replicas, assumed equal in both groups, such as the pooled one of two samples. A
    difference of means is detected if Welch's interval is above zero, one of IQMs if the permutation test finds it, as
    in `peerage compare`. `paired`: n pairs, and `sd` is that of their differences; the power for IQMs depends on the
    correlation within pairs, which is taken as PAIRED_R. Computed by simulation of normal samples. Infinite with fewer
    than two replicas. It is meant for planning; the power at an observed difference adds nothing to its p value.
    """
    check_level(level)
    if not 0.5 <= power < 1:
        raise ValueError(f"power must be in [0.5, 1), got {power}")
    if not sd >= 0 or math.isinf(sd):
        raise ValueError(f"a standard deviation must be finite and not negative, got {sd}")
    if paired and n_a != n_b:
        raise ValueError(f"paired samples must have equal sizes, got {n_a} and {n_b}")
    if min(n_a, n_b) < 2:
        return math.inf
    if statistic == "mean":
        return sd * _detectable_mean(n_a, n_b, level, power, paired, seed)
    if statistic == "iqm":
        return sd * _detectable_iqm(n_a, n_b, level, power, paired, seed)
    raise ValueError(f"statistic must be mean or iqm, got {statistic!r}")


@functools.lru_cache(maxsize=256)
def _detectable_mean(n_a: int, n_b: int, level: float, power: float, paired: bool, seed: int) -> float:
    """A shift δ of B is detected in the samples whose lower limit without it is above −δ."""
    rng = np.random.default_rng([seed, n_a, n_b])
    needed = []
    for size in chunks(normal_samples(n_a + n_b), n_a + n_b):
        b, a = _normal(rng, size, n_b, n_a, paired)
        needed.append(-differences(b, a, "mean", paired=paired, level=level, seed=seed)[1])
    return max(float(np.quantile(np.concatenate(needed), power)), 0.0)


@functools.lru_cache(maxsize=256)
def _detectable_iqm(n_a: int, n_b: int, level: float, power: float, paired: bool, seed: int) -> float:
    """The shift at which the share of detections is `power`, by bisection on the same samples."""
    b, a = _normal(np.random.default_rng([seed, n_a, n_b]), PLANNED, n_b, n_a, paired)
    low, high = 0.0, 1.0

    def detected(shift: float) -> float:
        p = permutation.p_values(b + shift, a, paired=paired, seed=seed, divisions=PLANNED)
        return float(((p < 1 - level) & (intervals.iqms(b + shift) > intervals.iqms(a))).mean())

    while detected(high) < power:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (low, middle) if detected(middle) >= power else (middle, high)
    return (low + high) / 2


def _normal(
    rng: np.random.Generator, count: int, n_b: int, n_a: int, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`count` normal samples of B and of A. Pairs have the correlation PAIRED_R, and differences with deviation 1."""
    a, b = rng.standard_normal((count, n_a)), rng.standard_normal((count, n_b))
    if paired:
        b = PAIRED_R * a + math.sqrt(1 - PAIRED_R**2) * b
        a, b = (x / math.sqrt(2 - 2 * PAIRED_R) for x in (a, b))
    return b, a


# --- profiles and curves --------------------------------------------------------------------------


def performance_profile(
    x: Any, thresholds: Any, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of replicas of `x [n]` above each of T thresholds: share, low, high `[T]`.

    Limits by Clopper and Pearson (1934), with a coverage of at least `level` at each threshold (not simultaneously).
    Unlike a bootstrap they have a positive width where all replicas are on one side. NaN limits with one replica.
    """
    sample, tau = sample_of(x), np.asarray(thresholds, dtype=float).ravel()
    check_level(level)
    if np.isnan(tau).any():
        raise ValueError("thresholds must not be NaN")
    n, count = len(sample), (sample[:, None] > tau).sum(axis=0)  # [T]
    share, tail = count / n, (1 - level) / 2
    if n < 2:
        return share, np.full(len(tau), math.nan), np.full(len(tau), math.nan)
    low = np.where(count > 0, stats.beta.ppf(tail, count, n - count + 1), 0.0)
    high = np.where(count < n, stats.beta.ppf(1 - tail, count + 1, n - count), 1.0)
    return share, low, high


def steps_to_threshold(steps: Any, curves: Any, threshold: float) -> np.ndarray:
    """The first of the `steps [T]` at which each of `curves [n, T]` is at least `threshold`: `[n]`, infinite if none
    is.

    Without interpolation between evaluations. A missing evaluation (NaN) counts as below the threshold. The sample
    efficiency over replicas is `interval(steps_to_threshold(...), "iqm")`, infinite if too many never reach it.
    """
    time, x = _curves(steps, curves)
    reached = x >= threshold
    return np.where(reached.any(axis=1), time[reached.argmax(axis=1)], math.inf)


def area_under_curve(steps: Any, curves: Any) -> np.ndarray:
    """The mean height of each of `curves [n, T]` over `steps [T]`: `[n]`, in the unit of the curves.

    The area by the trapezoidal rule divided by `steps[-1] − steps[0]`, which is comparable between runs of different
    lengths and evaluation steps; with a single step, the value there. NaN where an evaluation is missing.
    """
    time, x = _curves(steps, curves)
    if len(time) == 1:
        return x[:, 0].copy()
    return np.trapezoid(x, time, axis=1) / (time[-1] - time[0])


def _curves(steps: Any, curves: Any) -> tuple[np.ndarray, np.ndarray]:
    time, x = np.asarray(steps, dtype=float), np.asarray(curves, dtype=float)
    if x.ndim != 2 or time.shape != x.shape[1:] or not x.size:
        raise ValueError(f"curves must have shape [replicas, steps], got {x.shape} for steps of shape {time.shape}")
    if not (np.diff(time) > 0).all() or not np.isfinite(time).all():
        raise ValueError("steps must be finite and increasing")
    return time, x
