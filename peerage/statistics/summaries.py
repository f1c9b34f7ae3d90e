"""What the figures and the report show, as tables: means over episodes, members and replicas.

The order is the same everywhere: first over the episodes of a member, then over the members of a replica,
last over replicas. A replica is the unit of statistics: its members learn from each other, so they are not
independent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from peerage.runs.listeners import is_member, role

LATE = 0.2
"""The end of a run, for whom the members listen to: its last fifth."""


@dataclass(frozen=True)
class Spread:
    """A mean over replicas and how far it may be off. All arrays have the shape of one replica's values."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kind: str
    """What low and high are: `95% t-interval`, `min–max` (two replicas) or nothing (one)."""
    replicas: int


Within = tuple[float, float]
"""The smallest and largest that a value can be."""
ANYTHING: Within = (-np.inf, np.inf)


def spread(values: np.ndarray, within: Within = ANYTHING) -> Spread:
    """Mean over the last axis of `values` [..., R]. Where a replica has no value (NaN) the mean is that of the others,
    and there is no low and high: they would be those of another sample than the one beside it. Low and high are cut
    off at what a value can be."""
    values = np.asarray(values, dtype=float)
    replicas = values.shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis=-1) / np.sum(~np.isnan(values), axis=-1)
    if replicas < 3:
        return Spread(mean, values.min(axis=-1), values.max(axis=-1), "min–max" if replicas == 2 else "", replicas)
    half = values.std(axis=-1, ddof=1) / np.sqrt(replicas) * stats.t.ppf(0.975, replicas - 1)
    low, high = np.clip([mean - half, mean + half], *within)
    return Spread(mean, low, high, "95% t-interval", replicas)


def member_values(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Columns step, replica, member, value: the mean over what else there is (episodes)."""
    means = frame.groupby(["step", "replica", "member"], sort=True)[value].mean()
    return means.rename("value").dropna().reset_index()


def metric(metrics: pd.DataFrame, name: str) -> pd.DataFrame:
    """One metric as step, replica, member, value."""
    return member_values(metrics[metrics["name"] == name], "value")


def by_replica(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over members: a row per step, a column per replica. Takes what `member_values` gives."""
    return values.groupby(["step", "replica"])["value"].mean().unstack("replica")


def by_member(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over replicas: a row per step, a column per member."""
    table = values.groupby(["step", "member"])["value"].mean().unstack("member")
    order: list[str] = sorted((str(name) for name in table.columns), key=natural)
    return table[order]


def natural(name: str) -> tuple[bool, list[int | str]]:
    """Sorting key: members first and by number, then the rest; member-10 after member-9."""
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return not is_member(name), parts


def advisers_of(advice: pd.DataFrame) -> list[str]:
    """Members in their order, then fixed advisers in the order of the file."""
    names = list(dict.fromkeys(advice["adviser"]))
    return sorted(filter(is_member, names), key=natural) + [name for name in names if not is_member(name)]


def with_roles(advice: pd.DataFrame) -> pd.DataFrame:
    """The same rows with advisers as self, other members and the fixed ones: for large groups."""
    pairs = advice[["asker", "adviser"]].drop_duplicates()
    names = {(asker, adviser): role(asker, adviser) for asker, adviser in pairs.itertuples(index=False)}
    labels = [names[pair] for pair in zip(advice["asker"], advice["adviser"])]
    return advice.assign(adviser=labels)


def choice_shares(advice: pd.DataFrame, bins: int | None = None, pool: bool = False) -> pd.DataFrame:
    """Share of each asker's choices that went to each adviser, mean over replicas.

    Index (asker, step), a column per adviser; rows sum to 1. `bins`: at most so many steps, neighbours are
    counted together (step is the last of them). `pool`: index (`all members`, step), the mean over askers.
    Steps at which an asker chose nobody are missing.
    """
    frame = advice[["step", "replica", "asker", "adviser", "chosen"]]
    steps = np.unique(frame["step"].to_numpy())
    if bins and len(steps) > bins:
        edges = np.array([part[-1] for part in np.array_split(steps, bins)])
        frame = frame.assign(step=edges[np.searchsorted(edges, frame["step"].to_numpy())])
    sums = frame.groupby(["replica", "asker", "step", "adviser"])["chosen"].sum()
    counts = sums.unstack("adviser", fill_value=0)
    total = counts.sum(axis=1)
    shares = counts[total > 0].div(total[total > 0], axis=0)
    if pool:
        shares = shares.groupby(level=["replica", "step"]).mean()
        return pd.concat({"all members": shares.groupby(level="step").mean()}, names=["asker"])
    return shares.groupby(level=["asker", "step"]).mean()


def late(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last fifth of the run."""
    return frame[frame["step"] > (1 - LATE) * frame["step"].max()] if len(frame) else frame


def pair_means(advice: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean over replicas of a column: index (asker, step), a column per adviser."""
    known = advice[["step", "asker", "adviser", column]].dropna()
    return known.groupby(["asker", "step", "adviser"])[column].mean().unstack("adviser")


def last_matrix(advice: pd.DataFrame, column: str) -> pd.DataFrame:
    """Askers x advisers at the last step that has the column, mean over replicas."""
    known = advice[["step", "asker", "adviser", column]].dropna()
    last = known[known["step"] == known["step"].max()]
    return last.groupby(["asker", "adviser"])[column].mean().unstack("adviser")


def late_share_matrix(advice: pd.DataFrame) -> pd.DataFrame:
    """Askers x advisers: share of choices in the last fifth of the run, mean over replicas."""
    table = choice_shares(late(advice), bins=1)
    return table.droplevel("step") if len(table) else table
