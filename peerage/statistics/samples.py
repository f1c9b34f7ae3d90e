"""Run folders as samples: which runs are replicas of one way of training, and one number or curve for each of them.

The unit is the replica of a group: its members learn from each other, so their mean is one number, not several.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from peerage.config import HARDWARE_FIELDS
from peerage.config.file import to_dict
from peerage.errors import UserError
from peerage.runs import tables
from peerage.runs.folder import RunFolder
from peerage.statistics import summaries
from peerage.statistics.sources import Source
from peerage.text import number

if TYPE_CHECKING:
    import pandas as pd

Metric = Literal["return", "success", "length"]
RANGES: dict[Metric, tuple[float, float]] = {
    "return": (-math.inf, math.inf),
    "success": (0.0, 1.0),
    "length": (0.0, math.inf),
}
"""What a metric can be: no interval leaves it."""


@dataclass(frozen=True)
class Side:
    """One way of training: runs that differ in nothing but their seeds."""

    name: str
    runs: tuple[Path, ...]
    configs: tuple[dict[str, Any], ...]
    """Of every run, resolved, as plain data: they differ in seed, replicas, run folder and machine alone."""
    env: str
    task: str
    """What it is compared on: sides of different tasks are not compared."""
    seeds: tuple[tuple[int, int], ...]
    """(seed, replica) of every sample; two sides with the same ones can be paired."""
    steps: np.ndarray
    """[T] at which all of them were evaluated."""
    curves: np.ndarray
    """[n, T]: a row for every replica, the mean over its members and episodes."""
    grids: tuple[np.ndarray, ...]
    """The steps at which each run was evaluated."""
    environments: tuple[dict[str, Any], ...]
    """environment.json of every run."""
    doubts: tuple[str, ...]
    """A line for every run that is not DONE, and for every evaluation that is not whole."""

    @property
    def config(self) -> dict[str, Any]:
        """Of the first run."""
        return self.configs[0]

    @property
    def n(self) -> int:
        """Replicas."""
        return len(self.curves)

    def until(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and curves up to `step`."""
        kept = self.steps <= step
        return self.steps[kept], self.curves[:, kept]

    def at(self, steps: np.ndarray) -> np.ndarray:
        """The curves at `steps`, all of which it has: `[n, len(steps)]`."""
        return self.curves[:, np.searchsorted(self.steps, steps)]


# --- runs -> sides --------------------------------------------------------------------------------------------


class _Lacking(UserError):
    """A run that has evaluations, and none of them knows the metric."""


def read_sides(sources: Sequence[Source], metric: Metric = "return") -> tuple[list[Side], list[str]]:
    """The runs as sides, in the order in which they were named: runs with the same settings and other seeds are
    replicas of one side, a run with the same settings and the same seed is a side of its own. And a line for each run
    that is left out, since its environment does not know `metric`, where others do.

    UserError naming the run that cannot be read, has no evaluations, or if none has any of `metric`.
    """
    groups: list[tuple[Any, list[tuple[Source, Side]]]] = []
    lacking: list[_Lacking] = []
    for source in sources:
        try:
            side = _read(source, metric)
        except _Lacking as error:
            lacking.append(error)
            continue
        key = identity(side.config), source.task and (source.task, source.label)
        for other, members in groups:
            taken = {seed for _, member in members for seed in member.seeds}
            if other == key and not taken & set(side.seeds):
                members.append((source, side))
                break
        else:
            groups.append((key, [(source, side)]))
    if lacking and not groups:
        raise lacking[0]
    names = _names([(m[0][1].task, [source for source, _ in m]) for _, m in groups])
    sides = [_pooled(name, [side for _, side in members]) for name, (_, members) in zip(names, groups)]
    return sides, [f"{error}: left out" for error in lacking]


def identity(config: Mapping[str, Any]) -> str:
    """What must be equal for two runs to be replicas of each other: everything that is trained, without the seed."""
    plain = {name: value for name, value in config.items() if name not in ("run", "seed", "replicas", *HARDWARE_FIELDS)}
    plain["total_timesteps"], plain["n_epochs"] = budget(config), None
    return json.dumps(plain, sort_keys=True)


def budget(config: Mapping[str, Any]) -> int:
    """Steps of every member."""
    total = config.get("total_timesteps")
    return int(config["n_epochs"]) * int(config["epoch_length"]) if total is None else int(total)


def _read(source: Source, metric: Metric) -> Side:
    run = RunFolder.open(source.folder)
    config = to_dict(run.resolved())
    evaluations = tables.read_evaluations(run.path)
    _check(run, config, evaluations, metric)
    values = summaries.member_values(evaluations, metric)
    if values.empty:
        if len(evaluations):
            raise _Lacking(f"{run.path}: {config['env']} reports no {metric}")
        raise UserError(f"{run.path} has no evaluations: nothing to compare (was it trained with --eval-freq 0?)")
    kept, doubts = whole(run, config, evaluations)
    table = summaries.by_replica(values[values["step"].isin(kept)])
    status, why = run.status()
    last, args = int(table.index[-1]), config["env_args"]
    state = "is still running, or was killed" if status == "RUNNING" else f"failed ({why.get('why', 'unknown')})"
    if why.get("why") == "interrupted":
        state = "was interrupted"
    if status != "DONE":
        doubts = [f"{run.path} {state}: its last evaluation is of step {last:,}", *doubts]
    steps = table.index.to_numpy()
    return Side(
        name=source.folder.resolve().name,
        runs=(run.path,),
        configs=(config,),
        env=str(config["env"]),
        task=source.task or str(config["env"]) + (f" {json.dumps(args, sort_keys=True)}" if args else ""),
        seeds=tuple((int(config["seed"]), int(replica)) for replica in table.columns),
        steps=steps,
        curves=np.ascontiguousarray(table.to_numpy().T),
        grids=(steps,),
        environments=(run.environment(),),
        doubts=tuple(doubts),
    )


def whole(run: RunFolder, config: Mapping[str, Any], evaluations: pd.DataFrame) -> tuple[list[int], list[str]]:
    """The steps at which every episode of every member of every replica is there, once, and a line for each other: the
    mean of what is there would be that of other members, or of other episodes."""
    each = int(config["run"]["n_eval_episodes"])
    expected = int(config["replicas"]) * int(config["n_peers"]) * each
    rows = evaluations.groupby("step").size()
    different = evaluations.drop_duplicates(["step", "replica", "member", "episode"]).groupby("step").size()
    kept = [int(step) for step in rows.index if rows[step] == different[step] == expected]
    if not kept:
        raise UserError(
            f"{run.path}: no evaluation has reached all replicas yet, with {expected:,} episodes ({config['replicas']} "
            f"replicas x {config['n_peers']} members x {each})"
        )
    return kept, [
        f"{run.path}: the evaluation at step {step:,} is not whole ({rows[step]:,} rows of {expected:,}): left out"
        for step in sorted(set(map(int, rows.index)) - set(kept))
    ]


def _check(run: RunFolder, config: Mapping[str, Any], evaluations: pd.DataFrame, metric: Metric) -> None:
    """UserError for the first value that is no number or cannot be, as a mean without it would be of other episodes,
    and for a replica or a member that the run does not have."""
    numbers = {name: _number(name) for name in evaluations["member"].unique()}
    strange = evaluations["member"].map(numbers).to_numpy(float) >= int(config["n_peers"])
    strange |= evaluations["replica"].to_numpy() >= int(config["replicas"])
    if strange.any():
        row = evaluations[strange].iloc[0]
        raise UserError(
            f"{run.path}: there is no {row['member']} in replica {row['replica']}, as evaluations.csv has it at step "
            f"{row['step']:,}: train this run again or leave it out"
        )
    x = evaluations[metric].to_numpy(float)
    low, high = RANGES[metric]
    wrong = np.flatnonzero(~(np.isfinite(x) & (low <= x) & (x <= high)))
    if not len(wrong) or (metric == "success" and np.isnan(x).all()):  # the task has none
        return
    row = evaluations.iloc[wrong[0]]
    value = "not a number" if math.isnan(x[wrong[0]]) else f"{number(x[wrong[0]])}, which it cannot be"
    raise UserError(
        f"{run.path}: the {metric} of {row['member']} in replica {row['replica']} at step {row['step']:,} is {value} "
        "(evaluations.csv): train this run again or leave it out"
    )


def _number(member: str) -> float:
    """3 of member-3; infinite for what is none."""
    found = re.fullmatch(r"member-(\d{1,9})", member)
    return int(found[1]) if found else math.inf


def _pooled(name: str, parts: list[Side]) -> Side:
    """Runs of one kind as one side, at the steps that all of them have; its replicas in the order of their seeds, so
    that those of two sides are pairs however the runs were named."""
    steps = parts[0].steps
    for part in parts[1:]:
        steps = np.intersect1d(steps, part.steps)
    if not len(steps):
        raise UserError(f"{parts[0].runs[0]} and {parts[1].runs[0]} were never evaluated at the same step")
    seeds = [seed for part in parts for seed in part.seeds]
    order = sorted(range(len(seeds)), key=seeds.__getitem__)
    return Side(
        name=name,
        runs=tuple(run for part in parts for run in part.runs),
        configs=tuple(config for part in parts for config in part.configs),
        env=parts[0].env,
        task=parts[0].task,
        seeds=tuple(seeds[i] for i in order),
        steps=steps,
        curves=np.concatenate([part.at(steps) for part in parts])[order],
        grids=tuple(grid for part in parts for grid in part.grids),
        environments=tuple(e for part in parts for e in part.environments),
        doubts=tuple(line for part in parts for line in part.doubts),
    )


def _names(groups: list[tuple[str, list[Source]]]) -> list[str]:
    """A name for every side (its task, its runs): the sweep's, the folder's, or what the folders' names
    begin with; each once on a task."""
    names: list[str] = []
    taken: set[tuple[str, str]] = set()
    for task, sources in groups:
        labels = {source.label for source in sources}
        folders = [source.folder.resolve().name for source in sources]
        common = re.sub(r"[-_.]*(seed)?[-_.]*\d*$", "", os.path.commonprefix(folders))  # noqa: RUF071
        name = labels.pop() if len(labels) == 1 else None
        name = name or (folders[0] if len(folders) == 1 else common or folders[0])
        count, unique = 1, name
        while (task, unique) in taken:
            count += 1
            unique = f"{name} ({count})"
        taken.add((task, unique))
        names.append(unique)
    return names


# --- the same task? -------------------------------------------------------------------------------------------


def tasks(sides: Sequence[Side], strict: bool = False) -> dict[str, list[Side]]:
    """The sides by what they were trained on. Where no two share a task, but all are versions of one environment, they
    are compared as if they did (not if `strict`): somebody has asked for it, and the warnings say what is different.
    Those of one name are then told apart by their tasks."""
    found: dict[str, list[Side]] = {}
    for side in sides:
        found.setdefault(side.task, []).append(side)
    families = {re.sub(r"-v\d+$", "", side.env) for side in sides}
    if not strict and len(sides) > 1 and len(families) == 1 and all(len(some) == 1 for some in found.values()):
        names = [side.name for side in sides]
        apart = [replace(s, name=f"{s.name} ({s.task})") if names.count(s.name) > 1 else s for s in sides]
        return {" and ".join(dict.fromkeys(side.env for side in sides)): apart}
    return found


def common_steps(sides: Sequence[Side]) -> np.ndarray:
    """`[T]` at which all sides were evaluated; empty if there is none."""
    steps = sides[0].steps
    for side in sides[1:]:
        steps = np.intersect1d(steps, side.steps)
    return steps
