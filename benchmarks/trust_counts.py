"""Statistics of the probes from the run folders: shares of right and wrong choices over time, and returns.

A learner's choice is right if the chosen adviser acts as an expert in this state, wrong if it acts as an adversary, and
neither if it is a learner or an adviser without a role. metrics.csv contains the shares (`advice/right`,
`advice/wrong`) since the previous row, advice.csv the number of choices. Every number belongs to one replica: a mean
over its learners, which are not independent samples because they learn from each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from peerage.config.file import load
from peerage.runs.tables import read_advice, read_evaluations, read_metrics, read_timing
from peerage.sharing.adviser import replica_generator
from peerage.sharing.probes import turn_step
from peerage.statistics.summaries import by_replica, member_values

Window = tuple[float, float]
"""(low, high]: the steps low + 1 ... high."""
SPAN = 2000
REACTED = 500  # steps in which there must be more right than wrong choices
BEFORE = 1000  # steps before the change that determine the rate of choices until the change


@dataclass(frozen=True)
class Replica:
    """One replica of a run. Counts of its `N` learners are cumulative: `right[n, t]` of learner n in steps 1 ...
    steps[t]. Between rows of the log, they are interpolated linearly."""

    steps: np.ndarray  # [T], from 0
    choices: np.ndarray  # [N, T]
    right: np.ndarray  # [N, T]
    wrong: np.ndarray  # [N, T]
    episodes: list[np.ndarray]  # per learner [rows, 3]: step of the row, number of finished episodes, mean return
    alone: np.ndarray  # [E] return alone at the evaluations after step 0
    queries: float  # queries per step of a learner
    turn: int | None = None  # the first step after the change


def read(folder: Path) -> list[Replica]:
    """The replicas of a run."""
    config = load(folder / "config.yaml")
    advice, metrics = read_advice(folder), read_metrics(folder)
    evaluations = by_replica(member_values(read_evaluations(folder), "return"))
    counted = decisions(advice, metrics)
    turns = any(adviser.split(":")[-1] in ("turncoat", "convert") for adviser in config.advisers)
    replicas = []
    for r, table in counted.groupby(level="replica"):
        mine = metrics[metrics["replica"] == r]
        turn = turn_step(replica_generator(config.seed, int(r), config.n_peers), config.steps) if turns else None
        columns = {name: table[name].unstack("step").sort_index() for name in ("choices", "right", "wrong")}
        asked = mine[mine["name"] == "advice/queries"].groupby("member")["value"].sum()
        replica = Replica(
            steps=np.array([0, *columns["choices"].columns]),
            **{name: np.pad(t.to_numpy(float).cumsum(axis=1), ((0, 0), (1, 0))) for name, t in columns.items()},
            episodes=[ended(rows) for _, rows in mine.groupby("member")],
            alone=evaluations.loc[evaluations.index > 0, r].to_numpy(),
            queries=float(asked.mean()) / config.steps,
        )
        replicas.append(replica if turn is None else with_turn(replica, turn))
    return replicas


def decisions(advice: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Number of choices since the previous row, and of right and wrong ones: index (replica, member, step).

    A missing share means that there were no choices. Raises ValueError if all are missing: the run has no advisers with
    roles.
    """
    keys = ["replica", "member", "step"]
    counted = advice.rename(columns={"asker": "member"}).groupby(keys)["chosen"].sum().rename("choices").to_frame()
    for kind in ("right", "wrong"):
        share = metrics[metrics["name"] == f"advice/{kind}"].set_index(keys)["value"]
        if share.empty:
            raise ValueError(f"metrics.csv has no advice/{kind}: was this a probe?")
        counted[kind] = counted["choices"] * share.reindex(counted.index).fillna(0)
    return counted


def ended(metrics: pd.DataFrame) -> np.ndarray:
    """`[rows, 3]` for one learner: step, number of episodes that ended since the previous row, their mean return."""
    table = metrics.pivot_table(index="step", columns="name", values="value")
    columns = table.reindex(columns=["train/episodes", "train/return"]).dropna()
    return columns.reset_index().to_numpy(float)


def with_turn(replica: Replica, turn: int) -> Replica:
    """Insert a point at the change, which lies between two rows of the log, into the cumulative curves.

    Up to the change, counts are extrapolated with the rate of the 1,000 steps before the previous row, and limited to
    the counts of the next row. The remaining counts of the row belong to the steps after the change.
    """
    before = turn - 1
    steps = replica.steps
    b = int(np.searchsorted(steps, before, side="right")) - 1
    if steps[b] == before or b + 1 == len(steps):
        return replace(replica, turn=turn)
    since = max(0.0, float(steps[b]) - BEFORE)
    counts = {}
    for name in ("choices", "right", "wrong"):
        curve = getattr(replica, name)
        rate = (curve[:, b] - at(steps, curve, since)) / max(steps[b] - since, 1)
        value = np.clip(curve[:, b] + rate * (before - steps[b]), curve[:, b], curve[:, b + 1])
        counts[name] = np.insert(curve, b + 1, value, axis=1)
    return replace(replica, steps=np.insert(steps, b + 1, before), turn=turn, **counts)


def at(steps: np.ndarray, curves: np.ndarray, step: float) -> np.ndarray:
    """`curves [N, T]` over `steps [T]`, linearly interpolated at `step`: `[N]`."""
    return np.array([np.interp(step, steps, curve) for curve in curves])


# --- windows --------------------------------------------------------------------------------------------------


def early(replica: Replica) -> Window:
    """Steps 2,001 to 5,000."""
    return 2000, 5000


def late(replica: Replica) -> Window:
    """The last 2,000 steps."""
    return replica.steps[-1] - SPAN, replica.steps[-1]


def turning(replica: Replica) -> Window:
    """The first 2,000 steps after the change of this replica."""
    assert replica.turn is not None
    return replica.turn - 1, replica.turn - 1 + SPAN


def turned(replica: Replica) -> Window:
    """The 2,000 steps after those of `turning`."""
    low, high = turning(replica)
    return low + SPAN, high + SPAN


# --- measures -------------------------------------------------------------------------------------------------


def share(replica: Replica, kind: str, window: Window) -> float:
    """Share of the choices in `window` that are `kind` (right or wrong), mean over learners. NaN without choices and if
    the window is not within the run."""
    low, high = window
    if low < 0 or high > replica.steps[-1]:
        return float("nan")
    curve = getattr(replica, kind)
    part, whole = (at(replica.steps, c, high) - at(replica.steps, c, low) for c in (curve, replica.choices))
    return float(np.mean(part[whole > 0] / whole[whole > 0])) if (whole > 0).any() else float("nan")


def reaction(replica: Replica) -> tuple[float, bool]:
    """Steps from the change to the end of the first window of 500 steps in which more than half of the choices are
    right and more are right than wrong; at least 500. Without such a window: the steps up to the end of the run, and
    True."""
    assert replica.turn is not None
    start, last = replica.turn - 1, replica.steps[-1]
    spacing = int(np.diff(replica.steps).max())
    for end in np.arange(start + REACTED, last + 1, spacing):
        right, wrong = (share(replica, kind, (end - REACTED, end)) for kind in ("right", "wrong"))
        if right > 0.5 and right > wrong:
            return float(end - start), False
    return float(last - start), True


def training(replica: Replica, window: Window) -> float:
    """Mean return of the training episodes that ended in `window`, from the rows of the log that lie completely in it,
    mean over learners. NaN without episodes and if the window is not within the run. Steps before a turn are not
    counted as after it, except those of the running episode."""
    low, high = window
    if low < 0 or high > replica.steps[-1]:
        return float("nan")
    means, spacing = [], float(np.diff(replica.steps).max())
    for rows in replica.episodes:
        inside = rows[(rows[:, 0] - spacing >= low) & (rows[:, 0] <= high)]
        if len(inside):
            means.append(float(np.average(inside[:, 2], weights=inside[:, 1])))
    return float(np.mean(means)) if means else float("nan")


def over_time(
    replicas: list[Replica], measure: Callable[[Replica, Window], float], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """`measure` in consecutive windows of `width` steps: their midpoints `[B]` and values `[B, R]`.

    Windows start at the start of the run or, if there is a turn, are aligned to it, within the range that all replicas
    have.
    """
    starts = [0 if r.turn is None else r.turn - 1 for r in replicas]
    first = min(starts) // width * width
    last = min(int(r.steps[-1]) - start for r, start in zip(replicas, starts)) // width * width
    lows = np.arange(-first, last, width)
    values = [[measure(r, (s + low, s + low + width)) for r, s in zip(replicas, starts)] for low in lows]
    return lows + width / 2, np.array(values).reshape(len(lows), len(replicas))


def hours(folder: Path) -> float:
    """Wall time of a run in hours."""
    timing = read_timing(folder)
    return float(timing["seconds"].iloc[-1]) / 3600 if len(timing) else 0.0
