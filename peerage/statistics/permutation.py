"""The permutation test of equal interquartile means, and the interval of all differences that it does not reject.

If two methods have the same distribution of results, every division of the replicas into two groups of these sizes is
equally probable. The p value is the share of divisions whose statistic is at least as far from zero as the observed
one, so false alarms are limited to the level for any distribution and for unequal numbers of replicas (except for the
smallest samples, see `p_values`). The statistic is Yuen's (1974) t with a part of the pooled variance added, which
raises the power for five replicas and fewer:

    T = (IQM(b) − IQM(a)) / √(v(b) + v(a) + v₀ / 4)

`v` is Yuen's squared standard error of an IQM, and `v₀` the same for a difference, from all values of both groups
together. A studentised statistic limits the false alarms if the spreads of the groups differ (Janssen 1997). The IQM
ignores the most extreme values, so several divisions can have the same T; among these the difference of the means
decides.

`b [..., n_b]` and `a [..., n_a]` are samples of replicas, or many pairs of samples.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from peerage.statistics.intervals import ROUNDING, calibrated_p, chunks, iqms, winsorised_squares

DIVISIONS = 10_000
"""The number of divisions: all if there are not more, else this number of random ones."""
POOLED = 0.25
"""The part of the pooled variance in the statistic."""
EXPANSIONS = 20
"""A limit beyond this number of doublings of the first guess is infinite."""
BISECTIONS = 14
"""The number of bisections for a limit: it is exact to 1 / 16,000 of the first guess of the interval's width."""


def p_values(
    b: np.ndarray, a: np.ndarray, *, paired: bool = False, seed: int = 0, divisions: int = DIVISIONS
) -> np.ndarray:
    """The p values `[...]` of the two-sided test for pairs of samples `b [..., n_b]` and `a [..., n_a]`.

    `paired`: `b[k]` and `a[k]` belong together, and a division exchanges the values of some pairs. The smallest
    possible p is one or two in the number of divisions: 0.1 for three replicas each, 0.06 for five pairs. For samples
    that reach it, the p value of the calibrated t (`intervals.interval`) is used if it is smaller: otherwise three
    replicas could never show a difference, and five replicas could not in seven comparisons. The t is therefore used
    for three against three replicas that do not overlap, and for three to five pairs whose differences have the same
    sign. Its false alarms are at most 5% for normal samples and can be more for others (docs/statistics.md).
    """
    shares, extreme = _shares(b, a, paired, seed, divisions)
    if extreme.any():
        shares = np.where(extreme, np.fmin(shares, calibrated_p(b, a, paired=paired, seed=seed)), shares)
    return shares


def limits(
    b: np.ndarray, a: np.ndarray, *, paired: bool = False, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The smallest and the largest difference of `b [n_b]` and `a [n_a]` that the test does not reject at `1 − level`.

    The interval excludes zero exactly if the p value is below `1 − level`. NaN if a limit is infinite: with fewer than
    two replicas, an infinite IQM, or too few replicas without any spread.
    """
    middle = float(iqms(b) - iqms(a))
    if min(len(a), len(b)) < 2 or not math.isfinite(middle):
        return math.nan, math.nan
    if paired and np.array_equal(a, b):
        return 0.0, 0.0

    def rejects(difference: float) -> bool:
        return bool(p_values(b - difference, a, paired=paired, seed=seed) < 1 - level)

    finite = np.concatenate([x[np.isfinite(x)] for x in (a, b)])
    width = float(np.ptp(finite)) / 4 + abs(middle) / 4
    if width <= ROUNDING * np.abs(finite).max(initial=0.0):
        return middle, middle
    zero_rejected = rejects(0.0)
    found = []
    for sign in (-1, 1):
        inside, outside = middle, middle + sign * width
        if sign * -middle > 0:  # zero is on this side of the estimate
            inside, outside = (middle, 0.0) if zero_rejected else (0.0, sign * width)
        for _ in range(EXPANSIONS):
            if rejects(outside):
                break
            inside, outside = outside, outside + 2 * (outside - inside)
        else:
            return math.nan, math.nan
        for _ in range(BISECTIONS):
            between = (inside + outside) / 2
            inside, outside = (inside, between) if rejects(between) else (between, outside)
        found.append((inside + outside) / 2)
    return found[0], found[1]


def _shares(
    b: np.ndarray, a: np.ndarray, paired: bool, seed: int, divisions: int
) -> tuple[np.ndarray, np.ndarray]:
    """The shares of divisions at least as extreme as the observed one, and whether none is more extreme: `[...]`."""
    many, n_b, n_a = b.shape[:-1], b.shape[-1], a.shape[-1]
    after, before = b.reshape(-1, n_b), a.reshape(-1, n_a)
    to_b, to_a = _exchanges(n_b, divisions, seed) if paired else _divisions(n_b, n_a, divisions, seed)
    values = np.concatenate([after, before], axis=1)
    pooled = _pooled(after, before, paired)
    counts = []
    start = 0
    for size in chunks(len(values), 4 * to_b.shape[0] * values.shape[1]):
        some, scale = values[start : start + size], pooled[start : start + size, None]
        found = _statistics(some[:, to_b], some[:, to_a], scale, paired)
        own = _statistics(after[start : start + size, None], before[start : start + size, None], scale, paired)
        counts.append(_as_extreme(found, own).sum(axis=1))
        start += size
    count = np.concatenate(counts)
    mirrored = 2 if paired or n_a == n_b else 1  # exchanging the groups changes the sign only
    return (count / len(to_b)).reshape(many), (count <= mirrored).reshape(many)


def _statistics(b: np.ndarray, a: np.ndarray, pooled: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """T and the difference of means, both as distances from zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gap, means = np.abs(iqms(b) - iqms(a)), np.abs(b.mean(axis=-1) - a.mean(axis=-1))
        spread = winsorised_squares(b, a) if paired else winsorised_squares(b) + winsorised_squares(a)
        error = np.sqrt(spread + POOLED * pooled)
        ratio = np.where(error > 0, gap / error, np.where(gap > 0, np.inf, 0.0))
    return np.where(np.isnan(ratio), np.where(np.isinf(gap), np.inf, 0.0), ratio), means


def _as_extreme(found: tuple[np.ndarray, np.ndarray], own: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    (t, mean), (own_t, own_mean) = found, own
    with np.errstate(invalid="ignore"):
        equal = (t == own_t) | (np.abs(t - own_t) <= 1e-9 * own_t)
        return np.where(equal, ~(mean < own_mean * (1 - 1e-9)), t > own_t)


def _pooled(b: np.ndarray, a: np.ndarray, paired: bool) -> np.ndarray:
    """v₀ `[S]`: equal for all divisions, 0 where it is not finite. Of pairs, the mean square of the differences."""
    n_b, n_a = b.shape[1], a.shape[1]
    with np.errstate(invalid="ignore"):
        if paired:
            found = ((b - a) ** 2).sum(axis=1) / n_b**2
        else:
            n = n_b + n_a
            found = winsorised_squares(np.concatenate([b, a], axis=1)) * n * (1 / n_b + 1 / n_a)
    return np.where(np.isfinite(found), found, 0.0)


@functools.lru_cache(maxsize=32)
def _divisions(n_b: int, n_a: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divisions of `n_b + n_a` values: their indices `[divisions, n_b]` and `[divisions, n_a]`, the observed one
    first."""
    n = n_b + n_a
    if math.comb(n, n_b) <= count:
        first = np.array(list(itertools.combinations(range(n), n_b)))
    else:
        first = np.random.default_rng([seed, n_b, n_a]).random((count, n)).argsort(axis=1)[:, :n_b]
        first[0] = np.arange(n_b)
    in_b = np.zeros((len(first), n), dtype=bool)
    np.put_along_axis(in_b, first, True, axis=1)
    return np.nonzero(in_b)[1].reshape(-1, n_b), np.nonzero(~in_b)[1].reshape(-1, n_a)


@functools.lru_cache(maxsize=32)
def _exchanges(n: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices `[divisions, n]` of both groups after some of the n pairs exchanged their values."""
    if 2**n <= count:
        exchanged = np.array(list(itertools.product((False, True), repeat=n)))
    else:
        exchanged = np.random.default_rng([seed, n]).random((count, n)) < 0.5
        exchanged[0] = False
    own, other = np.arange(n), np.arange(n, 2 * n)
    return np.where(exchanged, other, own), np.where(exchanged, own, other)
