"""The advice log of a run as arrays, and the choice of its column of trust."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from peerage.statistics import summaries

TRUST_COLUMNS = ("in_context", "trust_attention", "trust_td", "score")
"""Columns of advice.csv that can serve as trust, in order of preference: the first that was computed is used."""
WINDOWS = 10
"""Largest number of time windows for the entropy of choices; all have about the same number of rows."""
EARLY = 0.2
"""Share of the run that measures of stability leave out: values first move away from their initial value (200)."""


def trust_in_use(advice: pd.DataFrame) -> tuple[str, pd.Series]:
    """The name of the trust in advice.csv, and its value in every row; an empty name if none was computed.

    The first of in_context, trust_attention, trust_td and score that was computed. With attention, TD trust and ω
    it is the hybrid of the two: `ω norm(attention) + (1 − ω) norm(td)`, `norm(x) = x / max_j |x_j|` over the
    advisers of one asker; ω counts as 0 until the transformer has made predictions.
    """
    known = [name for name in TRUST_COLUMNS if np.isfinite(advice[name]).any()]
    if not known:
        return "", pd.Series(np.nan, index=advice.index, dtype=float)
    if not (known[0] == "trust_attention" and "trust_td" in known and advice["omega"].notna().any()):
        return known[0], advice[known[0]]
    keys = [advice[name] for name in ("step", "replica", "asker")]

    def norm(values: pd.Series) -> pd.Series:
        largest = values.abs().groupby(keys).transform("max")
        return values / largest.where(largest > 0, 1.0)

    missing = advice["trust_attention"].isna()
    omega = advice["omega"].fillna(0.0).where(~missing, 0.0)
    return "hybrid", omega * norm(advice["trust_attention"]).fillna(0.0) + (1 - omega) * norm(advice["trust_td"])


class AdviceLog:
    """advice.csv as arrays `[R, A, S, K]`: replicas, askers, logged steps, advisers; NaN where there is no value."""

    def __init__(self, advice: pd.DataFrame, advisers: tuple[str, ...], replicas: int) -> None:
        self.askers = tuple(sorted(set(advice["asker"]), key=summaries.natural))
        self.advisers = advisers
        self.steps = np.unique(advice["step"].to_numpy())
        self.shape = (replicas, len(self.askers), len(self.steps), len(advisers))
        self._place = (
            advice["replica"].to_numpy(),
            pd.Index(self.askers).get_indexer(pd.Index(advice["asker"])),
            np.searchsorted(self.steps, advice["step"].to_numpy()),
            pd.Index(advisers).get_indexer(pd.Index(advice["adviser"])),
        )
        self.chosen = self.cube(advice["chosen"])
        self.counts = np.nansum(self.chosen, axis=2)  # [R, A, K], over the whole run
        self.trust_name, trust = trust_in_use(advice)
        self.trust = self.cube(trust)

    def cube(self, column: pd.Series) -> np.ndarray:
        """One column as an array; infinite values count as missing."""
        cube = np.full(self.shape, np.nan)
        values = column.to_numpy(dtype=float)
        cube[self._place] = np.where(np.isfinite(values), values, np.nan)
        return cube

    def trust_rows(self, replica: int, asker: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps `[S']` and trust `[S', K]` of the rows in which the asker has trust values."""
        rows = self.trust[replica, asker]
        known = ~np.isnan(rows).all(axis=1)
        return self.steps[known], rows[known]

    def after_start(self, replica: int, asker: int) -> np.ndarray:
        """Trust `[S', K]` without the first fifth of the run."""
        steps, rows = self.trust_rows(replica, asker)
        return rows[steps > EARLY * self.steps[-1]] if len(steps) else rows

    def each(self, value: Any, *size: int) -> np.ndarray:
        """`value(replica, asker)`, a number or an array of shape `size`, for all pairs: `[R, A, *size]`."""
        R, A = self.shape[:2]
        return np.array([[value(r, a) for a in range(A)] for r in range(R)], dtype=float).reshape(R, A, *size)

    def windows(self) -> tuple[list[int], np.ndarray]:
        """The last step of each time window, and the numbers of choices in it `[R, A, W, K]`."""
        parts = np.array_split(np.arange(len(self.steps)), max(1, min(WINDOWS, len(self.steps))))
        parts = [part for part in parts if len(part)]
        sums = [np.nansum(self.chosen[:, :, part], axis=2) for part in parts]
        R, A, _, K = self.shape
        stacked = np.stack(sums, axis=2) if sums else np.zeros((R, A, 0, K))
        return [int(self.steps[part[-1]]) for part in parts], stacked
