"""The numbers of the probes, from the run folders: who was followed rightly and when, and what it was worth.

A learner's choice is right if the adviser it chose acts as the expert there, wrong if as an adversary, and neither if
it chose a learner or an adviser that is no probe of anything. metrics.csv has the shares (`advice/right`,
`advice/wrong`) since the last row, advice.csv the number of choices. Every number here is one replica's: a mean over
its learners, who learn from each other and are no independent sample.
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
REACTED = 500  # steps in which right must outweigh wrong
BEFORE = 1000  # steps before the turn that say how choices were until it


@dataclass(frozen=True)
class Replica:
    """One replica of a run. Counts of its `N` learners are cumulative: `right[n, t]` of learner n in steps 1 ...
    steps[t]; between the rows of the log they are taken to grow evenly."""

    steps: np.ndarray  # [T], from 0
    choices: np.ndarray  # [N, T]
    right: np.ndarray  # [N, T]
    wrong: np.ndarray  # [N, T]
    episodes: list[np.ndarray]  # of each learner [rows, 3]: step of the row, episodes that ended, their mean return
    alone: np.ndarray  # [E] return alone, at the evaluations after the start
    queries: float  # questions per step of a learner
    turn: int | None = None  # the first step after the turn


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
    """Choices since the last row, and how many were right and wrong: index (replica, member, step).

    A share that is missing is one of no choices. ValueError if there are none at all: the run has no roles.
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
    """`[rows, 3]` of one learner: step, number of episodes that ended since the last row, their mean return."""
    table = metrics.pivot_table(index="step", columns="name", values="value")
    columns = table.reindex(columns=["train/episodes", "train/return"]).dropna()
    return columns.reset_index().to_numpy(float)


def with_turn(replica: Replica, turn: int) -> Replica:
    """The curves with a kink at the turn, which falls between two rows of the log.

    In the row that it cuts, the part before it goes on as the 1,000 steps before that row did (they cannot know of
    the turn), within what the row counted; the rest is what came after the turn.
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
    """`curves [N, T]` over `steps [T]` at `step`, between two rows on the straight line: `[N]`."""
    return np.array([np.interp(step, steps, curve) for curve in curves])


# --- windows --------------------------------------------------------------------------------------------------


def early(replica: Replica) -> Window:
    """Steps 2,001 to 5,000."""
    return 2000, 5000


def late(replica: Replica) -> Window:
    """The last 2,000 steps."""
    return replica.steps[-1] - SPAN, replica.steps[-1]


def turning(replica: Replica) -> Window:
    """The 2,000 steps from the turn of this replica on."""
    assert replica.turn is not None
    return replica.turn - 1, replica.turn - 1 + SPAN


def turned(replica: Replica) -> Window:
    """The 2,000 steps after those."""
    low, high = turning(replica)
    return low + SPAN, high + SPAN


# --- measures -------------------------------------------------------------------------------------------------


def share(replica: Replica, kind: str, window: Window) -> float:
    """Share of the choices in `window` that are `kind` (right or wrong), mean over learners; NaN where there is none
    or the window is not within the run."""
    low, high = window
    if low < 0 or high > replica.steps[-1]:
        return float("nan")
    curve = getattr(replica, kind)
    part, whole = (at(replica.steps, c, high) - at(replica.steps, c, low) for c in (curve, replica.choices))
    return float(np.mean(part[whole > 0] / whole[whole > 0])) if (whole > 0).any() else float("nan")


def reaction(replica: Replica) -> tuple[float, bool]:
    """Steps from the turn to the end of the first 500 in which more than half of the choices are right, and more than
    are wrong; never under 500. If there are none in the run: the steps up to its end, and True."""
    assert replica.turn is not None
    start, last = replica.turn - 1, replica.steps[-1]
    spacing = int(np.diff(replica.steps).max())
    for end in np.arange(start + REACTED, last + 1, spacing):
        right, wrong = (share(replica, kind, (end - REACTED, end)) for kind in ("right", "wrong"))
        if right > 0.5 and right > wrong:
            return float(end - start), False
    return float(last - start), True


def training(replica: Replica, window: Window) -> float:
    """Mean return of the training episodes that ended in `window`, by the rows of the log that lie wholly in it, mean
    over learners; NaN if there are none or the window is not within the run. What came before a turn does not count
    as after it, but for the episode that was under way."""
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
    """`measure` in windows of `width` steps one after the other: their middles `[B]` and values `[B, R]`.

    From the start of the run, or, where there is a turn, before and after it, as far as all replicas go.
    """
    starts = [0 if r.turn is None else r.turn - 1 for r in replicas]
    first = min(starts) // width * width
    last = min(int(r.steps[-1]) - start for r, start in zip(replicas, starts)) // width * width
    lows = np.arange(-first, last, width)
    values = [[measure(r, (s + low, s + low + width)) for r, s in zip(replicas, starts)] for low in lows]
    return lows + width / 2, np.array(values).reshape(len(lows), len(replicas))


def hours(folder: Path) -> float:
    """Wall time of a run."""
    timing = read_timing(folder)
    return float(timing["seconds"].iloc[-1]) / 3600 if len(timing) else 0.0
