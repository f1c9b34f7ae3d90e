"""Robustness tables: returns in perturbed environments, and with dropped or wrong advice.

The unit of statistics is the replica of a group: means are taken over episodes, then over members, and intervals over
replicas. `peerage.evaluation.perturbed.evaluate_perturbed` makes these tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from peerage.config.perturbations import Perturbations
from peerage.evaluation.evaluate import Played
from peerage.statistics import summaries
from peerage.text import number

Mean = tuple[float, float | None]
"""Mean return and share of successes over episodes; None unless every episode reported success."""


class Row(NamedTuple):
    """The results of a member of a replica in one case and without perturbations, with the same seeds. Means over
    episodes."""

    case: str
    """The case in the syntax of the command line; `clean` without perturbations."""
    replica: int
    member: str
    episodes: int
    clean: float
    """Return without perturbations."""
    perturbed: float
    """Return in this case."""
    clean_success: float | None
    """Share of successful episodes; None unless every episode reported success."""
    perturbed_success: float | None

    @property
    def change(self) -> float:
        """Perturbed minus clean return: negative if the perturbation lowers the return."""
        return self.perturbed - self.clean


@dataclass(frozen=True)
class Robustness:
    """The result of `peerage.evaluation.perturbed.evaluate_perturbed`."""

    rows: list[Row]

    def table(self) -> pd.DataFrame:
        """`records` as a table."""
        return pd.DataFrame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """A row for each case: return and its change (perturbed minus clean), both with an interval over replicas (see
        `interval`), and the share of successful episodes if every episode reported success. The table of a single case
        has no change."""
        known = all(row.perturbed_success is not None for row in self.rows)
        lines = []
        cases = list(dict.fromkeys(row.case for row in self.rows))
        columns = (("return", "perturbed"), ("change", "change"))[: len(cases)]
        for case in cases:
            mine = [row for row in self.rows if row.case == case]
            line: dict[str, Any] = {"case": case, "replicas": len({row.replica for row in mine})}
            for name, values in columns:
                line |= _interval(name, _per_replica(mine, values))
            if known:
                line["success"] = float(np.mean([row.perturbed_success or 0.0 for row in mine]))
            lines.append(line)
        return lines

    @property
    def interval(self) -> str:
        """The kind of the intervals [low, high]; empty with one replica, which has no interval."""
        return _kind(len({row.replica for row in self.rows}))


@dataclass(frozen=True)
class Case:
    """The disturbances of one evaluation; none by default."""

    perturbations: Perturbations = field(default_factory=Perturbations)
    byzantine_members: tuple[str, ...] = ()
    """In the syntax of `peerage.config.adviser_words.parse_members`."""
    advisers: tuple[str, ...] | None = None
    """Names of the advisers that replace the fixed advisers of the run; None keeps them."""

    def name(self, env_args: Mapping[str, Any]) -> str:
        """The case in the syntax of the command line, including the perturbations in `env_args` of the run."""
        own = Perturbations.of({**env_args.get("perturb", {}), **self.perturbations.plain()})
        company = [" ".join(("byzantine", *self.byzantine_members))] if self.byzantine_members else []
        if self.advisers is not None:
            company.append(" ".join(("advisers", *self.advisers)))
        perturbed = [] if company and not own.plain() else [str(own)]
        return ", ".join((*perturbed, *company))


def means(episodes: Played) -> dict[int, Mean]:
    """Means over the episodes of each member."""
    means: dict[int, Mean] = {}
    for m, of_member in itertools.groupby(episodes, key=lambda entry: entry[0]):
        mine = [episode for _, _, episode in of_member]
        known = [float(episode.success) for episode in mine if episode.success is not None]
        success = float(np.mean(known)) if len(known) == len(mine) else None
        means[m] = float(np.mean([e.return_ for e in mine])), success
    return means


def _per_replica(rows: Sequence[Row], name: str) -> np.ndarray:
    """`[R]`: means over members."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.replica, []).append(getattr(row, name))
    return np.array([np.mean(of_replica) for of_replica in values.values()])


def _interval(name: str, values: np.ndarray) -> dict[str, Any]:
    """Three cells: the mean of `values [n]` and the ends of its interval. A single value has no interval."""
    spread = summaries.spread(values)
    ends = (float(spread.low), float(spread.high)) if len(values) > 1 else (None, None)
    return {name: float(spread.mean), f"{name} low": ends[0], f"{name} high": ends[1]}


def _kind(n: int) -> str:
    """The kind of interval that `summaries.spread` computes for `n` values."""
    return summaries.spread(np.zeros(n)).kind


def in_words(values: Sequence[float]) -> str:
    """The mean of `values`, one per replica, and its interval, as text."""
    spread = summaries.spread(np.asarray(values, float))
    if len(values) == 1:
        return f"mean over members: {number(float(spread.mean))}; one replica, so there is no interval"
    low, high = number(float(spread.low)), number(float(spread.high))
    return f"mean over members and {len(values)} replicas: {number(float(spread.mean))} [{low}, {high}], {spread.kind}"
