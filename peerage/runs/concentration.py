"""How unevenly counts are distributed: Gini coefficient and entropy. Used by the loggers and by the analysis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def gini(counts: Any) -> float:
    """Inequality of non-negative counts `[K]`: `G = Σ_i Σ_j |x_i − x_j| / (2 K Σ_i x_i)`.

    0: all counts are equal; (K − 1) / K: a single count is not zero. NaN if all counts are zero or K < 2.
    Raises ValueError for negative values, for which G is not defined: convert trust by `measures.trust_shares` first.
    """
    x = np.sort(finite(counts))
    if (x < 0).any():
        raise ValueError("the Gini coefficient is defined for counts and shares, not for negative values")
    K = len(x)
    if K < 2 or x.sum() == 0:
        return math.nan
    # In ascending order x_i is the larger of i − 1 pairs and the smaller of K − i.
    return float(((2 * np.arange(1, K + 1) - K - 1) * x).sum() / (K * x.sum()))


def entropy(counts: Any) -> float:
    """Normalised entropy of counts `[K]`: `H = −Σ p_j ln p_j / ln K`, `p_j = n_j / Σ n`.

    0: a single count is not zero; 1: all counts are equal. NaN if all counts are zero or K < 2.
    """
    n = finite(counts)
    if len(n) < 2 or n.sum() <= 0:
        return math.nan
    p = n[n > 0] / n.sum()
    return float(abs((p * np.log(p)).sum()) / math.log(len(n)))


def finite(values: Any) -> np.ndarray:
    """The finite values, flattened to one dimension."""
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]
