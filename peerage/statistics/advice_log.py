"""The advice log of a run as arrays, and the trust that it shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from peerage.config.methods import TRUST, TrustMethod, loaded
from peerage.runs.advice_columns import asker_columns, signal_titles
from peerage.statistics import summaries

WINDOWS = 10
"""Largest number of time windows for the entropy of choices; all have about the same number of rows."""
EARLY = 0.2
"""Share of the run that measures of stability leave out: values first move away from their initial value (200)."""


class TrustInUse(NamedTuple):
    """The trust that reports show."""

    name: str
    """A column of advice.csv, the kind of trust that combines several columns, or nothing."""
    title: str
    values: pd.Series
    """A number for every row of advice.csv."""


def trust_in_use(advice: pd.DataFrame) -> TrustInUse:
    """The trust of the kind whose columns were computed, those of the kinds that it needs included. Of several such
    kinds it is the one with the most columns, and the last one registered among those. Without any it is the score."""
    computed = set(computed_columns(advice))
    fitting = [m for m in TRUST.methods.values() if (read := _columns_of(m)) and read <= computed]
    if fitting:
        method = max(reversed(fitting), key=lambda m: len(_columns_of(m)))
        if method.combine is not None:
            return TrustInUse(method.name, method.combined, loaded(method.combine)(advice))
        name, title = next(iter(method.columns.items()))
        return TrustInUse(name, title, advice[name])
    if "score" in computed:
        return TrustInUse("score", "the score", advice["score"])
    return TrustInUse("", "", pd.Series(np.nan, index=advice.index, dtype=float))


def _columns_of(method: TrustMethod) -> set[str]:
    """The columns of a kind of trust and of the kinds that it needs."""
    needed = {name for kind in method.needs if kind in TRUST for name in TRUST[kind].columns}
    return {*method.columns, *method.asker_columns, *needed} if method.columns else set()


def computed_columns(advice: pd.DataFrame) -> list[str]:
    """The columns of numbers with a finite value."""
    numbers = advice.select_dtypes("number")
    return [str(name) for name in numbers if np.isfinite(numbers[name]).any()]


def signals_in_use(advice: pd.DataFrame) -> dict[str, str]:
    """The signals behind the score that were computed, and their titles."""
    return signal_titles(name for name in advice.columns if advice[name].notna().any())


def trust_curves(metrics: pd.DataFrame, advice: pd.DataFrame) -> list[tuple[str, pd.DataFrame, bool]]:
    """Metrics of the kinds of trust over time: title, values (step, replica, member, value), and whether it is a column
    of advice.csv, too. That column stands in for a metric that is missing."""
    found = []
    for name, title in trust_metrics().items():
        column = name.removeprefix("trust/")
        in_advice = column in asker_columns()
        values = summaries.metric(metrics, name)
        if values.empty and in_advice and column in advice:
            values = summaries.member_values(advice.rename(columns={"asker": "member"}), column)
        if len(values):
            found.append((title, values, in_advice))
    return found


def trust_metrics() -> dict[str, str]:
    """Metrics of the registered kinds of trust that reports show, and their titles."""
    curves = {name: title for method in TRUST.methods.values() for name, title in method.curves.items()}
    return curves | {f"trust/{name}": title for name, title in asker_columns().items()}


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
        trust = trust_in_use(advice)
        self.trust_name = trust.name
        self.trust = self.cube(trust.values)

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
