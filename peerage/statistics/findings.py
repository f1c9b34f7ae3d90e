"""What an analysis found: its measures with their intervals, as JSON-able data and as tables of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peerage.config.methods import TRUST
from peerage.statistics import summaries
from peerage.statistics.measures import finite, mean
from peerage.text import count, number


@dataclass(frozen=True)
class Measure:
    """One quantity, for every replica and asker."""

    key: str
    title: str
    askers: tuple[str, ...]
    """Members, or `all members` for what is counted over all of them together."""
    values: np.ndarray
    """`[R, A]`; NaN: not defined."""
    reason: str = ""
    """Why all values are NaN, if they are."""

    @property
    def undefined(self) -> str:
        """The reason why nothing is defined; nothing if something is."""
        return "" if np.isfinite(self.values).any() else self.reason

    def overall(self) -> summaries.Spread:
        """Mean over askers, then over the replicas that have a value."""
        return _estimate(np.array([mean(row) for row in self.values]))

    def of(self, asker: str) -> summaries.Spread:
        """One asker's mean over the replicas that have a value."""
        return _estimate(self.values[:, self.askers.index(asker)])


@dataclass(frozen=True)
class Analysis:
    """What `analyse` found. Matrices are askers x advisers, means over replicas unless they say otherwise."""

    run: str
    steps: int
    """The last step of the run's files."""
    replicas: int
    askers: tuple[str, ...]
    advisers: tuple[str, ...]
    trust: str
    """What stands for trust: a column of advice.csv, a kind of trust that combines several, or nothing."""
    measures: dict[str, Measure]
    counts: pd.DataFrame
    """Choices, summed over the run and over replicas."""
    shares: pd.DataFrame
    """Share of the asker's choices."""
    differences: pd.DataFrame
    """Advisers x advisers: the row's share of choices minus the column's, shares averaged over askers."""
    moves: pd.DataFrame
    """`movement` of each pair."""
    entropies: pd.DataFrame
    """Entropy of choices: a row for each window of time (its last step), a column for each asker."""

    def to_dict(self) -> dict[str, Any]:
        """The whole as JSON-able data; what is not defined is None."""
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
        whole = {**facts, "trust": self.trust or None, "measures": measures}
        return _plain(whole | {name: getattr(self, name).T.to_dict() for name in matrices})

    def rows(self, most: int = 8) -> tuple[list[str], list[list[str]]]:
        """Head and rows of a table of text: mean, interval, and every asker's mean (their range if over `most`)."""
        kinds = {kind for m in self.measures.values() if (kind := m.overall().kind)}
        kind = "95% t-interval" if "95% t-interval" in kinds else "".join(sorted(kinds)[:1])
        names = list(self.askers) if len(self.askers) <= most else ["lowest and highest asker"]
        names = names if len(self.askers) > 1 else []
        rows = []
        for m in self.measures.values():
            whole = m.overall()
            row = [m.title, number(float(whole.mean))]
            if kind:
                row.append(_interval(whole) + (f" ({whole.kind})" if whole.kind not in ("", kind) else ""))
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
        """A line on what stands for trust, and one for every reason why measures are not defined."""
        reasons: dict[str, list[str]] = {}
        for m in self.measures.values():
            if m.undefined:
                reasons.setdefault(m.undefined, []).append(m.title)
        combined = TRUST[self.trust].combined if self.trust in TRUST else ""
        lines = [f"Trust here is {combined or f'the column {self.trust}'}."] if self.trust else []
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
    """`summaries.spread` over the replicas that have a value: those without say nothing about its spread."""
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


def _plain(value: Any) -> Any:
    """Dicts, lists and finite numbers, as JSON has them; what is not finite is None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
