"""Tables for the figures and the report: means over episodes, members and replicas.

The order is the same everywhere: first over the episodes of a member, then over the members of a replica, last over
replicas. The replica is the unit of statistics: its members learn from each other, so they are not independent.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from peerage.runs.listeners import is_member, role
from peerage.text import number

LATE = 0.2
"""Share of a run, at its end, over which choices are averaged: the last fifth."""


@dataclass(frozen=True)
class Spread:
    """A mean over replicas with its interval. All arrays have the shape of one replica's values."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kind: str
    """The meaning of low and high: `95% t-interval`, `min–max` (two replicas) or empty (one)."""
    replicas: int


Within = tuple[float, float]
"""The smallest and the largest possible value."""
ANYTHING: Within = (-np.inf, np.inf)


def spread(values: np.ndarray, within: Within = ANYTHING) -> Spread:
    """Mean over the last axis of `values` [..., R], and its interval limited to `within`.

    Where a replica has no value (NaN) the mean is that of the others, and low and high are NaN, because they would
    describe another sample than their neighbours."""
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
    """Columns step, replica, member, value: the mean over all other columns (episodes)."""
    means = frame.groupby(["step", "replica", "member"], sort=True)[value].mean()
    return means.rename("value").dropna().reset_index()


def for_target(evaluations: pd.DataFrame) -> str:
    """` for the target return 50`, the target of the last evaluation; empty for members that take none."""
    targets = evaluations["target"].dropna()
    return f" for the target return {number(float(targets.iloc[-1]))}" if len(targets) else ""


def success_values(evaluations: pd.DataFrame) -> pd.DataFrame:
    """The share of successful episodes, in the columns of `member_values`.

    Empty unless every episode reported success: an environment that reports it in some episodes only, such as those
    that reach the goal, has no known success rate.
    """
    return member_values(evaluations[:0] if evaluations["success"].isna().any() else evaluations, "success")


def thin(frame: pd.DataFrame, points: int) -> pd.DataFrame:
    """The rows with their steps merged to at most `points`: each step becomes the last of its neighbours."""
    steps = np.unique(frame["step"].to_numpy())
    if len(steps) <= points:
        return frame
    ends = steps[:: -math.ceil(len(steps) / points)][::-1]
    return frame.assign(step=ends[np.searchsorted(ends, frame["step"].to_numpy())])


def metric(metrics: pd.DataFrame, name: str) -> pd.DataFrame:
    """One metric as step, replica, member, value."""
    return member_values(metrics[metrics["name"] == name], "value")


def by_replica(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over members of a table from `member_values`: a row per step, a column per replica."""
    return values.groupby(["step", "replica"])["value"].mean().unstack("replica")


def by_member(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over replicas of a table from `member_values`: a row per step, a column per member."""
    table = values.groupby(["step", "member"])["value"].mean().unstack("member")
    order: list[str] = sorted((str(name) for name in table.columns), key=natural)
    return table[order]


def natural(name: str) -> tuple[bool, list[int | str]]:
    """Sorting key: members first, by number (member-10 after member-9), then other names."""
    parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return not is_member(name), parts


def advisers_of(advice: pd.DataFrame) -> list[str]:
    """The advisers: members by number, then fixed advisers in the order of the file."""
    names = list(dict.fromkeys(advice["adviser"]))
    return sorted(filter(is_member, names), key=natural) + [name for name in names if not is_member(name)]


def with_roles(advice: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the roles self and other members in place of members as advisers: for large groups."""
    pairs = advice[["asker", "adviser"]].drop_duplicates()
    names = {(asker, adviser): role(asker, adviser) for asker, adviser in pairs.itertuples(index=False)}
    labels = [names[pair] for pair in zip(advice["asker"], advice["adviser"])]
    return advice.assign(adviser=labels)


def choice_shares(advice: pd.DataFrame, bins: int | None = None, pool: bool = False) -> pd.DataFrame:
    """Share of each asker's choices that went to each adviser, mean over replicas.

    Index (asker, step), a column per adviser; rows sum to 1. `bins`: the largest number of steps; neighbouring steps
    are counted together under the last of them. `pool`: index (`all members`, step), the mean over askers.
    Steps without a choice of an asker are missing.
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
    """Askers x advisers at the last step with a value of the column, mean over replicas."""
    known = advice[["step", "asker", "adviser", column]].dropna()
    last = known[known["step"] == known["step"].max()]
    return last.groupby(["asker", "adviser"])[column].mean().unstack("adviser")


def late_share_matrix(advice: pd.DataFrame) -> pd.DataFrame:
    """Askers x advisers: share of choices in the last fifth of the run, mean over replicas."""
    table = choice_shares(late(advice), bins=1)
    return table.droplevel("step") if len(table) else table


def legend_order(advice: pd.DataFrame) -> list[str]:
    """The advisers in the order of a legend: roles (`with_roles`) or members first, then fixed advisers."""
    names = advisers_of(advice)
    roles = [name for name in ("self", "other members") if name in names]
    return roles + [name for name in names if name not in roles]
