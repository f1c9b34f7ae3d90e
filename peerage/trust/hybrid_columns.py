"""Hybrid trust as reports show it: computed from the columns of advice.csv, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def hybrid_of_columns(advice: pd.DataFrame) -> pd.Series:
    """`omega norm(trust_attention) + (1 - omega) norm(trust_td)` for every row of advice.csv.

    `norm(x) = x / max_j |x_j|` over the advisers of one asker in one step. omega counts as 0 where the transformer has
    given no value.
    """
    keys = [advice[name] for name in ("step", "replica", "asker")]

    def norm(values: pd.Series) -> pd.Series:
        largest = values.abs().groupby(keys).transform("max")
        return values / largest.where(largest > 0, 1.0)

    attention = advice["trust_attention"]
    omega = advice["omega"].fillna(0.0).where(attention.notna(), 0.0)
    return omega * norm(attention).fillna(0.0) + (1 - omega) * norm(advice["trust_td"])
