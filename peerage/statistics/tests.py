"""Statistics of replicas: estimates and intervals (made in `intervals.py`), comparisons, tests, profiles and curves.

Everything is a pure function of arrays: no files, no state; what draws random numbers takes a seed, and the same seed
gives the same bits. A sample is `x [n]`, one number for each replica of a group. ValueError for NaN and for what has no
meaning. How well each interval covers: docs/statistics.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

from peerage.statistics.intervals import (
    ROUNDING,
    Interval,
    Middle,
    Statistic,
    band,
    check_level,
    chunks,
    difference,
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
    "paired_t",
    "percentile_interval",
    "performance_profile",
    "probability_of_improvement",
    "smallest_detectable_difference",
    "steps_to_threshold",
    "welch",
]

EXACT = 50
"""Values in both samples together up to which the Mann–Whitney test counts all divisions, ties or not."""
PAIRED_R = 0.9
"""How close the two values of a seed go together where the power of pairs is asked for; docs/statistics.md: Power."""


@dataclass(frozen=True)
class Test:
    """A two-sided test of no difference."""

    p: float
    """NaN where the samples are too small for the test, or hold what it cannot judge."""
    statistic: float
    smallest_p: float
    """The smallest p that samples of these sizes can give at all: a test whose smallest p is above the level says
    nothing, whatever the data."""


UNKNOWN = Test(math.nan, math.nan, math.nan)
"""What a test says of samples that it cannot judge."""


# --- is B better than A? --------------------------------------------------------------------------


def probability_of_improvement(b: Any, a: Any, *, level: float = 0.95, seed: int = 0) -> Interval:
    """`P(B > A) + P(B = A) / 2` of a replica of each, over `b [n_b]` and `a [n_a]`.

    Estimate: the share of all pairs, U / (n_a n_b) (Agarwal et al. 2021). Interval: Newcombe's (2006, Statistics in
    Medicine 25:559, method 5), all θ with `(θ − estimate)² ≤ z² V(θ)`,
    `V = θ (1 − θ) (1 + N (1 − θ) / (2 − θ) + N θ / (1 + θ)) / (n_a n_b)`, `N = (n_a + n_b) / 2 − 1`: it stays within
    0 and 1 and has a width where the samples do not overlap, where bootstraps and Brunner and Munzel's have none.
    Where the exact Mann–Whitney test does not reject at 1 − level the interval takes in 1/2 (three a side never can).
    Nothing is drawn: `seed` is there so that all intervals are called alike.
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
    """The limits of `probability_of_improvement` from the share of pairs that B wins."""
    z, m = stats.norm.ppf((1 + level) / 2), (n_a + n_b) / 2 - 1

    def beyond(p: float) -> float:
        variance = p * (1 - p) * (1 + m * (1 - p) / (2 - p) + m * p / (1 + p)) / (n_a * n_b)
        return float((p - share) ** 2 - z**2 * variance)

    # beyond is zero at share = 0 and 1 itself, so the search ends just beside them.
    low = 0.0 if share <= 0 else optimize.brentq(beyond, 0.0, min(share, 1 - 1e-9), xtol=1e-12)
    high = 1.0 if share >= 1 else optimize.brentq(beyond, max(share, 1e-9), 1.0, xtol=1e-12)
    return float(low), float(high)


def welch(b: Any, a: Any) -> Test:
    """Welch's t test (1947) of equal means of `b [n_b]` and `a [n_a]`.

    NaN with fewer than two replicas, with infinities, and where neither sample has more spread than rounding makes: t
    would be infinite and p zero, but three replicas that all succeed beside three that all fail are no rare chance.
    What is left then is `mann_whitney`.
    """
    before, after = sample_of(a), sample_of(b)
    if not _judged(np.concatenate([after, before]), after, before):
        return UNKNOWN
    parts = [part for x in (after, before) for part in (x.mean(), x.std(ddof=1), len(x))]
    found = stats.ttest_ind_from_stats(*parts, equal_var=False)
    return Test(float(found.pvalue), float(found.statistic), 0.0)


def paired_t(b: Any, a: Any) -> Test:
    """Student's t test of differences `b - a` `[n]` with mean zero, for replicas that are pairs.

    NaN with fewer than two pairs, with infinities, and where all differences are the same up to rounding (as `welch`).
    """
    before, after = sample_of(a), sample_of(b)
    with np.errstate(invalid="ignore"):
        gaps = after - before
    if not _judged(np.concatenate([after, before]), gaps):
        return UNKNOWN
    found = stats.ttest_1samp(gaps, 0.0)
    return Test(float(found.pvalue), float(found.statistic), 0.0)


def _judged(values: np.ndarray, *samples: np.ndarray) -> bool:
    """Whether a t test of these samples means anything; `values` are what was measured, and say what rounding makes."""
    if min(map(len, samples)) < 2 or not np.isfinite(values).all():
        return False
    return bool(max(np.ptp(x) for x in samples) > ROUNDING * np.abs(values).max())


def mann_whitney(b: Any, a: Any) -> Test:
    """The Mann–Whitney test (1947) of `b [n_b]` and `a [n_a]`; its statistic U counts pairs with b > a, ties half.

    Exact for up to 50 values in all, with ties too: the share of all divisions of the values into two such samples
    that are as far from the middle or farther. Beyond, the normal approximation with the correction for ties and
    continuity. With n a side and no ties no p is below `2 / C(2n, n)`: 0.1 for three, 0.029 for four, 0.008 for five.
    Infinities are values ("never reached").
    """
    before, after = sample_of(a), sample_of(b)
    n, total = len(after), len(after) + len(before)
    ranks = stats.rankdata(np.concatenate([after, before]))
    u = float(ranks[:n].sum() - n * (n + 1) / 2)
    smallest = min(1.0, 2 / math.comb(total, n))
    if total <= EXACT:
        counts = _divisions(tuple(sorted((2 * ranks).astype(int).tolist())), n)
        middle = n * (total + 1)  # twice the rank sum, as all here: half ranks stay integers
        far = np.abs(np.arange(len(counts)) - middle) >= abs(2 * ranks[:n].sum() - middle)
        return Test(float(counts[far].sum() / counts.sum()), u, smallest)
    if ranks.min() == ranks.max():
        return Test(1.0, u, smallest)
    return Test(float(stats.mannwhitneyu(after, before, method="asymptotic").pvalue), u, smallest)


@functools.lru_cache(maxsize=256)
def _divisions(ranks: tuple[int, ...], n: int) -> np.ndarray:
    """How many of the subsets of n of these integers have each sum: `[1 + Σ ranks]`. Exact: C(50, 25) < 2^53."""
    ways = np.zeros((n + 1, sum(ranks) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    return ways[n]


def holm(p: Sequence[float]) -> list[float]:
    """p values of several comparisons, corrected by Holm (1979): `max over j ≤ i of (m − j + 1) p_(j)`, at most 1.

    The chance of *any* false claim stays below the level at which they are read. NaN (a test that said nothing) stays
    NaN and does not count as one of the m.
    """
    values = np.asarray(p, dtype=float)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p values lie between 0 and 1")
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
    """The smallest true difference that these numbers of replicas show with probability `power`, in sd's unit.

    `sd`: standard deviation over replicas, taken as the same in both; a pooled one of the two samples. Shown is what
    Welch's interval of the difference of means puts above zero; with "iqm" both that and the interval of IQMs, as
    `peerage compare` asks for. `paired`: n pairs, `sd` of their differences; that of IQMs grows with the correlation of
    the two values of a pair, and is the one at PAIRED_R. By simulation of normal samples: a shift δ of B is shown by
    those whose lower limit without it is above −δ. Infinite with fewer than two replicas. It is for planning; the power
    for the difference that was found says nothing that p does not.
    """
    check_level(level)
    if not 0.5 <= power < 1:
        raise ValueError(f"a power is at least 0.5 and below 1, as 0.8, not {power}")
    if not sd >= 0 or math.isinf(sd):
        raise ValueError(f"a standard deviation is a number from 0 on, not {sd}")
    if paired and n_a != n_b:
        raise ValueError(f"pairs are as many on both sides, not {n_a} and {n_b}")
    if statistic not in ("mean", "iqm"):
        raise ValueError(f"there is a power of differences of mean and iqm, not of {statistic!r}")
    return math.inf if min(n_a, n_b) < 2 else sd * _detectable(n_a, n_b, level, power, paired, statistic, seed)


@functools.lru_cache(maxsize=256)
def _detectable(
    n_a: int, n_b: int, level: float, power: float, paired: bool, statistic: Middle, seed: int
) -> float:
    rng = np.random.default_rng([seed, n_a, n_b])
    asked: tuple[Middle, ...] = ("mean",) if statistic == "mean" else ("mean", "iqm")
    needed = []
    for size in chunks(normal_samples(n_a + n_b), n_a + n_b):
        a, b = rng.standard_normal((size, n_a)), rng.standard_normal((size, n_b))
        if paired:  # with correlation PAIRED_R, and 1 for the standard deviation of their differences
            b = PAIRED_R * a + math.sqrt(1 - PAIRED_R**2) * b
            a, b = (x / math.sqrt(2 - 2 * PAIRED_R) for x in (a, b))
        lows = [differences(b, a, name, paired=paired, level=level, seed=seed)[1] for name in asked]
        needed.append(-np.min(lows, axis=0))
    return max(float(np.quantile(np.concatenate(needed), power)), 0.0)


# --- profiles and curves --------------------------------------------------------------------------


def performance_profile(
    x: Any, thresholds: Any, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of replicas of `x [n]` above each of T thresholds: share, low, high `[T]`.

    Limits by Clopper and Pearson (1934), which cover at least `level` at each threshold (not at all of them at once)
    and have a width where all replicas are on one side, where a bootstrap has none. NaN limits with one replica.
    """
    sample, tau = sample_of(x), np.asarray(thresholds, dtype=float).ravel()
    check_level(level)
    if np.isnan(tau).any():
        raise ValueError("a threshold is NaN")
    n, count = len(sample), (sample[:, None] > tau).sum(axis=0)  # [T]
    share, tail = count / n, (1 - level) / 2
    if n < 2:
        return share, np.full(len(tau), math.nan), np.full(len(tau), math.nan)
    low = np.where(count > 0, stats.beta.ppf(tail, count, n - count + 1), 0.0)
    high = np.where(count < n, stats.beta.ppf(1 - tail, count + 1, n - count), 1.0)
    return share, low, high


def steps_to_threshold(steps: Any, curves: Any, threshold: float) -> np.ndarray:
    """The first of `steps [T]` at which each of `curves [n, T]` is at least `threshold`: `[n]`, infinite if none is.

    In the unit of steps, at the resolution of the evaluations: nothing is interpolated, as a curve between two
    evaluations is not known. A missing evaluation (NaN) has not reached it. Sample efficiency over replicas is then
    `interval(steps_to_threshold(...), "iqm")`; it is infinite where too many never get there.
    """
    time, x = _curves(steps, curves)
    reached = x >= threshold
    return np.where(reached.any(axis=1), time[reached.argmax(axis=1)], math.inf)


def area_under_curve(steps: Any, curves: Any) -> np.ndarray:
    """The mean height of each of `curves [n, T]` over `steps [T]`: `[n]`, in the unit of the curves.

    The area by trapezia divided by `steps[-1] − steps[0]`, so that runs that are evaluated at other moments, and other
    lengths, compare; with a single step, the value there. NaN where an evaluation is missing.
    """
    time, x = _curves(steps, curves)
    if len(time) == 1:
        return x[:, 0].copy()
    return np.trapezoid(x, time, axis=1) / (time[-1] - time[0])


def _curves(steps: Any, curves: Any) -> tuple[np.ndarray, np.ndarray]:
    time, x = np.asarray(steps, dtype=float), np.asarray(curves, dtype=float)
    if x.ndim != 2 or time.shape != x.shape[1:] or not x.size:
        raise ValueError(f"curves are [replicas, steps] with a value at each step, not {x.shape} and {time.shape}")
    if not (np.diff(time) > 0).all() or not np.isfinite(time).all():
        raise ValueError("steps grow from evaluation to evaluation")
    return time, x
