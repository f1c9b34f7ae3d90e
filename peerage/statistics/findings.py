"""The result of an analysis: measures with their intervals, as plain data and as tables of text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peerage.config.methods import TRUST
from peerage.statistics import summaries
from peerage.statistics.json_data import json_data
from peerage.statistics.measures import finite, mean
from peerage.text import count, number


@dataclass(frozen=True)
class Measure:
    """One quantity, with a value per replica and asker."""

    key: str
    title: str
    askers: tuple[str, ...]
    """Members, or `all members` for a quantity of all of them together."""
    values: np.ndarray
    """`[R, A]`; NaN where it is not defined."""
    reason: str = ""
    """The reason, if all values are NaN."""

    @property
    def undefined(self) -> str:
        """`reason` if no value is defined, else empty."""
        return "" if np.isfinite(self.values).any() else self.reason

    def overall(self) -> summaries.Spread:
        """Mean over askers, then over the replicas that have a value."""
        return _estimate(np.array([mean(row) for row in self.values]))

    def of(self, asker: str) -> summaries.Spread:
        """One asker's mean over the replicas that have a value."""
        return _estimate(self.values[:, self.askers.index(asker)])


@dataclass(frozen=True)
class Analysis:
    """The result of `analyse`. Matrices are askers x advisers, means over replicas, unless stated otherwise."""

    run: str
    steps: int
    """The last step of the run's files."""
    replicas: int
    askers: tuple[str, ...]
    advisers: tuple[str, ...]
    trust: str
    """The source of trust: a column of advice.csv, a kind of trust that combines several, or empty if there is none."""
    measures: dict[str, Measure]
    counts: pd.DataFrame
    """Number of choices, summed over the run and over replicas."""
    shares: pd.DataFrame
    """Share of the asker's choices."""
    differences: pd.DataFrame
    """Advisers x advisers: the share of choices of the row minus that of the column, averaged over askers."""
    moves: pd.DataFrame
    """`movement` of each pair."""
    entropies: pd.DataFrame
    """Entropy of choices: a row per time window (index: its last step), a column per asker."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data for JSON; values that are not defined are None."""
        measures = {
            key: {
                "title": m.title,
                "overall": _spread_dict(m.overall()),
                "by_asker": {asker: _spread_dict(m.of(asker)) for asker in m.askers},
                "values": m.values.tolist(),
                "undefined": m.undefined or None,
            }
            for key, m in self.measures.items()
        }
        matrices = ("counts", "shares", "differences", "moves", "entropies")
        facts = {name: getattr(self, name) for name in ("run", "steps", "replicas", "askers", "advisers", "trust")}
        data = {**facts, "trust": self.trust or None, "measures": measures}
        return json_data(data | {name: getattr(self, name).T.to_dict() for name in matrices})

    def rows(self, most: int = 8) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of a table: mean, interval, and the mean of each asker (beyond `most`, their range)."""
        kinds = {kind for m in self.measures.values() if (kind := m.overall().kind)}
        kind = "95% t-interval" if "95% t-interval" in kinds else "".join(sorted(kinds)[:1])
        names = list(self.askers) if len(self.askers) <= most else ["lowest and highest asker"]
        names = names if len(self.askers) > 1 else []
        rows = []
        for m in self.measures.values():
            overall = m.overall()
            row = [m.title, number(float(overall.mean))]
            if kind:
                row.append(_interval(overall) + (f" ({overall.kind})" if overall.kind not in ("", kind) else ""))
            means = {asker: float(m.of(asker).mean) for asker in m.askers}
            if len(self.askers) <= most:
                row += [number(means.get(asker)) for asker in names]
            elif names:
                known = [value for value in means.values() if not math.isnan(value)]
                together = len(means) < 2 or not known
                row.append("–" if together else f"{number(min(known))} to {number(max(known))}")
            rows.append(row)
        return ["measure", "mean", *([kind] if kind else []), *names], rows

    def notes(self) -> list[str]:
        """A line about the source of trust, and one per reason why measures are not defined."""
        reasons: dict[str, list[str]] = {}
        for m in self.measures.values():
            if m.undefined:
                reasons.setdefault(m.undefined, []).append(m.title)
        combined = TRUST[self.trust].combined if self.trust in TRUST else ""
        lines = [f"Trust is {combined or f'the column {self.trust}'}."] if self.trust else []
        return lines + [f"Not defined: {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]

    def table(self) -> str:
        """The table and its notes for a terminal."""
        head, rows = self.rows(most=4)
        if not rows:
            return f"{self.run}: nothing to analyse yet\n"
        widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
        lines = [
            f"{row[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:]))
            for row in (head, *rows)
        ]
        lines.insert(1, "-" * len(lines[0]))
        title = f"{self.run}: {count(len(self.askers), 'asker')}, {count(len(self.advisers), 'adviser')}, "
        title += f"{count(self.replicas, 'replica')}, {self.steps:,} steps"
        return "\n".join([title, "", *lines, "", *self.notes()]) + "\n"


def _estimate(values: np.ndarray) -> summaries.Spread:
    """`summaries.spread` over the replicas that have a value."""
    known = finite(values)
    if len(known) == 0:
        nan = np.array(math.nan)
        return summaries.Spread(nan, nan, nan, "", 0)
    return summaries.spread(known)


def _interval(spread: summaries.Spread) -> str:
    return f"{number(float(spread.low))} to {number(float(spread.high))}" if spread.kind else "–"


def _spread_dict(spread: summaries.Spread) -> dict[str, Any]:
    bounds = {"low": float(spread.low), "high": float(spread.high)} if spread.kind else {"low": None, "high": None}
    return {"mean": float(spread.mean), **bounds, "interval": spread.kind or None, "replicas": spread.replicas}
