"""Measures of choices, trust and returns, on plain arrays; formulas and examples: docs/analysis.md.

Infinite and NaN values count as missing. A measure that is not defined for the data is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from peerage.runs.concentration import finite

FEWEST = 3
"""Smallest number of advisers for a rank correlation: with two it is always -1 or 1."""

# --- distribution of trust ------------------------------------------------------------------------


def trust_shares(trust: Any) -> np.ndarray:
    """Trust `[K]` of any sign and scale as shares that sum to 1: the softmax of `(v − mean v) / std v`.

    Equal shares where all trust is equal. (Shares by rank would be useless: K ranks are always 1 … K, so their Gini is
    the same for any trust.)
    """
    v = finite(trust)
    spread = v.std() if len(v) else 0.0
    z = (v - v.mean()) / spread if spread > 1e-12 * np.abs(v).max(initial=0.0) else np.zeros_like(v)
    weights = np.exp(z - z.max(initial=0.0))
    return weights / weights.sum() if len(v) else weights


# --- agreement ------------------------------------------------------------------------------------


def spearman(trust: Any, performance: Any) -> float:
    """Spearman's rank correlation of two `[K]`: Pearson's of their ranks, ties by their mean rank.

    Advisers that lack a value are left out. NaN with fewer than three, or if either is equal for all.
    """
    return pooled_spearman([(trust, performance)])


def pooled_spearman(pairs: Iterable[tuple[Any, Any]]) -> float:
    """Rank correlation over several moments t, each with trust and performance `[K]`.

    `ρ = Σ_t Σ_j a_tj b_tj / sqrt(Σ_t Σ_j a_tj² · Σ_t Σ_j b_tj²)`, with `a_tj` and `b_tj` the ranks *within*
    moment t minus their mean, so that common growth of trust and performance does not count as agreement.
    Moments with fewer than three advisers, or at which either is equal for all (as trust at its initial values), are
    left out; NaN if none remains.
    """
    ab = aa = bb = 0.0
    for trust, performance in pairs:
        x, y = both_known(trust, performance)
        if len(x) >= FEWEST:
            a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
            if a.any() and b.any():
                ab, aa, bb = ab + float(a @ b), aa + float(a @ a), bb + float(b @ b)
    return ab / math.sqrt(aa * bb) if aa > 0 else math.nan


def kendall(before: Any, after: Any) -> float:
    """Kendall's τ-b of two `[K]`: `(C − D) / sqrt((P − P_before)(P − P_after))`.

    C and D are the numbers of pairs of advisers that keep and swap their order, P that of all pairs, P_x that of pairs
    tied in x. NaN with fewer than two advisers, or if all are tied in either.
    """
    a, b = (np.sign(v[:, None] - v[None, :]) for v in both_known(before, after))
    free = float((a * a).sum() * (b * b).sum())  # every pair counts twice, above and below the diagonal
    return float((a * b).sum()) / math.sqrt(free) if free > 0 else math.nan


def rank_stability(values: Any) -> float:
    """Mean Kendall τ-b between successive rows of `values` `[S, K]`: 1 if the order of advisers never changes."""
    rows = np.asarray(values, dtype=float)
    return mean([kendall(before, after) for before, after in itertools.pairwise(rows)])


# --- changes over time ----------------------------------------------------------------------------


def movement(values: Any) -> np.ndarray:
    """Mean change of each adviser's trust between successive rows of `values` `[S, K]`, relative to its spread.

    `m_j = mean_t |v_j(t) − v_j(t−1)| / mean_t ½ (s(t) + s(t−1))`, s(t) the standard deviation (divisor K) over
    advisers in row t: 0 if it never changes, 1 if it changes per row by as much as advisers differ. Invariant to
    shifting, scaling and negating trust. Changes from or to a row with equal trust (s = 0) are left out. NaN `[K]`
    where nothing remains, as with one adviser.
    """
    rows = np.asarray(values, dtype=float)
    rows = np.where(np.isfinite(rows), rows, np.nan)
    rows = rows[~np.isnan(rows).all(axis=1)] if rows.size else rows
    if len(rows) < 2:
        return np.full(rows.shape[-1], np.nan)
    spread = np.nanstd(rows, axis=1)
    differs = spread > 1e-12 * np.nanmax(np.abs(rows), axis=1)
    kept = differs[1:] & differs[:-1]
    moves = np.abs(np.diff(rows, axis=0))[kept]
    known = ~np.isnan(moves)
    spreads = np.where(known, ((spread[1:] + spread[:-1]) / 2)[kept][:, None], 0.0).sum(axis=0)
    return np.divide(np.nansum(moves, axis=0), spreads, out=np.full(rows.shape[1], np.nan), where=spreads > 0)


def moving_average(returns: Any, episodes: Any, window: int) -> np.ndarray:
    """Mean return of the last `window` episodes at every row, from the rows' means `[S]` and episode counts `[S]`.

    A row that is needed in part contributes its mean; with fewer episodes so far, all of them are used.
    """
    x, n = np.asarray(returns, dtype=float), np.asarray(episodes, dtype=float)
    ends = np.cumsum(n)
    result = np.full(len(x), np.nan)
    for row, end in enumerate(ends):
        weight = np.clip(ends[: row + 1] - max(end - window, 0.0), 0.0, n[: row + 1])
        result[row] = (weight * x[: row + 1]).sum() / weight.sum() if weight.sum() > 0 else math.nan
    return result


# --- learning curves ------------------------------------------------------------------------------

LATE = 0.25
"""The last share of a training, in steps, that counts as late."""
CONVERGED = 0.9
"""The share of the way from the first evaluation to the late level at which a curve has converged."""


def is_late(steps: Any) -> np.ndarray:
    """Which of `steps [T]`, ascending, are in the last quarter of the training: bool `[T]`."""
    time = np.asarray(steps, dtype=float)
    return np.asarray(time >= time[-1] - LATE * (time[-1] - time[0]))


def late_spread(steps: Any, curves: Any) -> np.ndarray:
    """The stability of each of `curves [n, T]`: the standard deviation (divisor k - 1) of its k late values, `[n]`.

    0: the value does not change any more. It contains the noise of the evaluations, which is smaller with more
    episodes, and a trend, if the curve still rises. NaN with a single late value.
    """
    x = np.asarray(curves, dtype=float)[:, is_late(steps)]
    return x.std(axis=1, ddof=1) if x.shape[1] > 1 else np.full(len(x), math.nan)


def convergence_steps(steps: Any, curves: Any) -> np.ndarray:
    """The first of `steps [T]` at which each of `curves [n, T]` is at least `first + 0.9 (late - first)`: `[n]`.

    `first` is the value at the first step and `late` the mean of the late values of the same curve. Infinite if `late`
    is not above `first`.
    """
    time, x = np.asarray(steps, dtype=float), np.asarray(curves, dtype=float)
    first, level = x[:, 0], x[:, is_late(time)].mean(axis=1)
    reached = x >= (first + CONVERGED * (level - first))[:, None]
    return np.where((level > first) & reached.any(axis=1), time[reached.argmax(axis=1)], math.inf)


# --- missing values -------------------------------------------------------------------------------


def both_known(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The values of two `[K]` where both are finite."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def mean(values: Any) -> float:
    """Mean of the finite values; NaN if there are none."""
    known = finite(values)
    return float(known.mean()) if len(known) else math.nan


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """`np.nanmean` without its warning: NaN where there are no values."""
    known = ~np.isnan(values)
    number_known = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(sums, number_known, out=np.full(sums.shape, np.nan), where=number_known > 0)
