"""Measures of choices, trust and returns, on plain arrays; formulas and examples: docs/analysis.md.

What is infinite or NaN counts as missing. A measure that is not defined for the data is NaN, never a number.
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
"""Advisers with known trust and performance that a rank correlation needs: with two it is always -1 or 1."""

# --- how choices and trust are shared out ---------------------------------------------------------


def trust_shares(trust: Any) -> np.ndarray:
    """Trust `[K]` of any sign and scale as shares that sum to 1: the softmax of `(v − mean v) / std v`.

    Equal shares where all trust is equal. (Shares by rank would not do: K ranks are always 1 … K, so their Gini
    is the same for any trust.)
    """
    v = finite(trust)
    spread = v.std() if len(v) else 0.0
    z = (v - v.mean()) / spread if spread > 1e-12 * np.abs(v).max(initial=0.0) else np.zeros_like(v)
    weights = np.exp(z - z.max(initial=0.0))
    return weights / weights.sum() if len(v) else weights


# --- do they agree? -------------------------------------------------------------------------------


def spearman(trust: Any, performance: Any) -> float:
    """Spearman's rank correlation of two `[K]`: Pearson's of their ranks, ties by their mean rank.

    Advisers that lack a value are left out. NaN with fewer than three, or when either is the same for all.
    """
    return pooled_spearman([(trust, performance)])


def pooled_spearman(pairs: Iterable[tuple[Any, Any]]) -> float:
    """Rank correlation over several moments t, each with trust and performance `[K]`.

    `ρ = Σ_t Σ_j a_tj b_tj / sqrt(Σ_t Σ_j a_tj² · Σ_t Σ_j b_tj²)`, with `a_tj` and `b_tj` the ranks *within*
    moment t minus their mean: that trust and performance both grow during a run is no agreement.
    Moments with fewer than three advisers, or at which either is the same for all (trust still at its initial
    values), are left out; NaN if none remains.
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

    C and D count the pairs of advisers that keep and swap their order, P all pairs, P_x those tied in x. NaN with
    fewer than two advisers, or when all are tied in either.
    """
    a, b = (np.sign(v[:, None] - v[None, :]) for v in both_known(before, after))
    free = float((a * a).sum() * (b * b).sum())  # every pair stands twice, above and below the diagonal
    return float((a * b).sum()) / math.sqrt(free) if free > 0 else math.nan


def rank_stability(values: Any) -> float:
    """Mean Kendall τ-b between successive rows of `values` `[S, K]`: 1 if the order of advisers never changes."""
    rows = np.asarray(values, dtype=float)
    return mean([kendall(before, after) for before, after in itertools.pairwise(rows)])


# --- from row to row ------------------------------------------------------------------------------


def movement(values: Any) -> np.ndarray:
    """How much each adviser's trust moves from row to row of `values` `[S, K]`, relative to the spread of trust.

    `m_j = mean_t |v_j(t) − v_j(t−1)| / mean_t ½ (s(t) + s(t−1))`, s(t) the standard deviation (divisor K) over
    advisers in row t: 0 if it never moves, 1 if a row moves it by as much as advisers differ. Does not change when
    trust is shifted, scaled or negated. Steps from or to a row in which all trust is equal (s = 0) are left out.
    NaN `[K]` where nothing remains, as with one adviser.
    """
    rows = np.asarray(values, dtype=float)
    rows = np.where(np.isfinite(rows), rows, np.nan)
    rows = rows[~np.isnan(rows).all(axis=1)] if rows.size else rows
    if len(rows) < 2:
        return np.full(rows.shape[-1], np.nan)
    spread = np.nanstd(rows, axis=1)
    told = spread > 1e-12 * np.nanmax(np.abs(rows), axis=1)
    kept = told[1:] & told[:-1]
    moves = np.abs(np.diff(rows, axis=0))[kept]
    known = ~np.isnan(moves)
    spreads = np.where(known, ((spread[1:] + spread[:-1]) / 2)[kept][:, None], 0.0).sum(axis=0)
    return np.divide(np.nansum(moves, axis=0), spreads, out=np.full(rows.shape[1], np.nan), where=spreads > 0)


def moving_average(returns: Any, episodes: Any, window: int) -> np.ndarray:
    """Mean return of the last `window` episodes at every row, from the rows' means `[S]` and episode counts `[S]`.

    A row that is needed in part counts with its mean; with fewer episodes so far, all of them are taken.
    """
    x, n = np.asarray(returns, dtype=float), np.asarray(episodes, dtype=float)
    ends = np.cumsum(n)
    result = np.full(len(x), np.nan)
    for row, end in enumerate(ends):
        weight = np.clip(ends[: row + 1] - max(end - window, 0.0), 0.0, n[: row + 1])
        result[row] = (weight * x[: row + 1]).sum() / weight.sum() if weight.sum() > 0 else math.nan
    return result


# --- what is known --------------------------------------------------------------------------------


def both_known(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The values of two `[K]` at the places where both are known."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def mean(values: Any) -> float:
    """Mean of all that is known; NaN of nothing."""
    known = finite(values)
    return float(known.mean()) if len(known) else math.nan


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """`np.nanmean` without its warning: NaN where nothing is known."""
    known = ~np.isnan(values)
    number_known = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(sums, number_known, out=np.full(sums.shape, np.nan), where=number_known > 0)
