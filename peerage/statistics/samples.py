"""Run folders as samples: group runs that differ only in their seeds into sides, with a learning curve per replica.

The unit is the replica of a group: its members learn from each other, so their mean counts as one number.
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
from peerage.runs.environment import other_environment
from peerage.runs.folder import RunFolder
from peerage.statistics import summaries
from peerage.statistics.sources import Source
from peerage.text import listing, number

if TYPE_CHECKING:
    import pandas as pd

Metric = Literal["return", "success", "length"]
RANGES: dict[Metric, tuple[float, float]] = {
    "return": (-math.inf, math.inf),
    "success": (0.0, 1.0),
    "length": (0.0, math.inf),
}
"""Metric -> its smallest and largest possible value; intervals are limited to them."""
MIN_REPLICAS = 3
"""With fewer replicas there are no intervals and no tests."""


@dataclass(frozen=True)
class Side:
    """One method: runs that differ only in their seeds."""

    name: str
    runs: tuple[Path, ...]
    configs: tuple[dict[str, Any], ...]
    """The resolved configurations of the runs as plain data; only seed, replicas, run folder and machine differ."""
    env: str
    task: str
    """The task; only sides of the same task are compared."""
    seeds: tuple[tuple[int, int], ...]
    """(seed, replica) of each sample; two sides with the same ones can be paired."""
    steps: np.ndarray
    """`[T]`: the steps at which all of its runs were evaluated."""
    curves: np.ndarray
    """`[n, T]`: a row per replica, the mean over its members and episodes."""
    grids: tuple[np.ndarray, ...]
    """The steps at which each run was evaluated."""
    environments: tuple[dict[str, Any], ...]
    """environment.json of each run."""
    warnings: tuple[str, ...]
    """A line for each run that is not DONE, for each incomplete evaluation and for each extension with stretched
    schedules."""
    stretched: tuple[tuple[int, int], ...] = ()
    """The lengths before and after each extension with stretched schedules, in steps per member. Such a run differs
    from one that was started with its final length."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the first run."""
        return self.configs[0]

    @property
    def n(self) -> int:
        """The number of replicas."""
        return len(self.curves)

    @property
    def offline(self) -> bool:
        """Whether the members learn from a dataset, so that steps are gradient steps."""
        return bool(self.config.get("data"))

    def until(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and curves up to `step`."""
        kept = self.steps <= step
        return self.steps[kept], self.curves[:, kept]

    def at(self, steps: np.ndarray) -> np.ndarray:
        """The curves at `steps`, which must be among `self.steps`: `[n, len(steps)]`."""
        return self.curves[:, np.searchsorted(self.steps, steps)]


# --- runs -> sides --------------------------------------------------------------------------------------------


class _MetricMissing(UserError):
    """A run with evaluations of which none has the metric."""


def read_sides(
    sources: Sequence[Source], metric: Metric = "return", across_tasks: bool = False, mode: str = "alone"
) -> tuple[list[Side], list[str]]:
    """Group runs into sides, in the order of `sources`; returns the sides and a message per run that is left out.

    Runs with the same settings and different seeds are replicas of one side; a run with the same settings and seed is a
    separate side, and so is a run that was extended with stretched schedules. Runs whose environments have the same
    name but different fingerprints belong to different tasks. A run whose environment does not report `metric` is left
    out if other runs have it.

    Raises UserError for a run that cannot be read or has no evaluations, if no run has `metric`, and, unless
    `across_tasks`, for two runs that would be replicas of one side but have environments with different fingerprints.
    """
    groups: list[tuple[Any, list[tuple[Source, Side]]]] = []
    without_metric: list[_MetricMissing] = []
    kinds: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for source in sources:
        try:
            side = _read(source, metric, mode)
        except _MetricMissing as error:
            without_metric.append(error)
            continue
        key = replica_key(side.config), side.stretched, side.task, source.task and source.label
        side = _told_apart(side, kinds)
        possible = [members for other, members in groups if other == key and not _seeds(members) & set(side.seeds)]
        same = [members for members in possible if members[0][1].task == side.task]
        if same:
            same[0].append((source, side))
        elif possible and not across_tasks:
            raise UserError(_not_replicas([one for _, one in possible[0]], side))
        else:
            groups.append((key, [(source, side)]))
    if without_metric and not groups:
        raise without_metric[0]
    names = _names([(m[0][1].task, [source for source, _ in m]) for _, m in groups])
    sides = [_pool(name, [side for _, side in members]) for name, (_, members) in zip(names, groups)]
    return sides, [f"{error}: left out" for error in without_metric]


def _seeds(members: Sequence[tuple[Source, Side]]) -> set[tuple[int, int]]:
    return {seed for _, member in members for seed in member.seeds}


def _not_replicas(members: Sequence[Side], side: Side) -> str:
    """The error for a side that has the settings of `members` but another environment."""
    for member in members:
        if how := other_environment(member.environments[0], side.environments[0]):
            runs = f"{member.runs[0]} and {side.runs[0]} have the same settings but different environments"
            return f"{runs} with the name {side.env} ({how}): they are not replicas of each other; leave one out"
    return f"{side.runs[0]} has another environment with the name {side.env} than runs with its settings: leave it out"


def _told_apart(side: Side, kinds: dict[tuple[str, str], list[list[dict[str, Any]]]]) -> Side:
    """The side with a task of its own if its environment has the name and arguments of another one. `kinds`: (task,
    arguments) -> the environment.json of all runs so far, in a list for each kind of environment."""
    environment = side.environments[0]
    if not environment.get("fingerprint"):
        return side  # a run of an earlier version
    # A comparison by an axis that sets arguments has different ones in a task
    known = kinds.setdefault((side.task, json.dumps(side.config["env_args"], sort_keys=True)), [])
    alike = [k for k, kind in enumerate(known) if not any(other_environment(other, environment) for other in kind)]
    if not alike:
        alike = [len(known)]
        known.append([])
    known[alike[0]].append(environment)
    return replace(side, task=f"{side.task} (environment {alike[0] + 1})") if alike[0] else side


def replica_key(config: Mapping[str, Any]) -> str:
    """A text that is equal for runs that are replicas of each other: all settings of the training except the seed."""
    plain = {name: value for name, value in config.items() if name not in ("run", "seed", "replicas", *HARDWARE_FIELDS)}
    plain["total_timesteps"], plain["n_epochs"] = budget(config), None
    return json.dumps(plain, sort_keys=True)


def budget(config: Mapping[str, Any]) -> int:
    """Environment steps per member."""
    total = config.get("total_timesteps")
    return int(config["n_epochs"]) * int(config["epoch_length"]) if total is None else int(total)


def _read(source: Source, metric: Metric, mode: str) -> Side:
    run = RunFolder.open(source.folder)
    config = to_dict(run.resolved())
    evaluations = tables.read_evaluations(run.path, mode)
    _check(run, config, evaluations, metric)
    is_success = metric == "success"
    values = summaries.success_values(evaluations) if is_success else summaries.member_values(evaluations, metric)
    if values.empty:
        if known := int(evaluations[metric].notna().sum()):
            share = f"{metric} in {known:,} of {len(evaluations):,} evaluation episodes only"
            raise _MetricMissing(
                f"{run.path}: {config['env']} reports {share}, so that its rate is unknown: report it in every "
                "episode, or compare another metric"
            )
        if len(evaluations):
            raise _MetricMissing(f"{run.path}: {config['env']} reports no {metric}")
        if mode != "alone":
            raise UserError(f"{run.path} has no evaluations of mode {mode}: train it with --eval-modes alone {mode}")
        raise UserError(f"{run.path} has no evaluations: nothing to compare (was it trained with --eval-freq 0?)")
    kept, warnings = complete_evaluations(run, config, evaluations)
    table = summaries.by_replica(values[values["step"].isin(kept)])
    status, why = run.status()
    last, args = int(table.index[-1]), config["env_args"]
    state = "is still running, or was killed" if status == "RUNNING" else f"failed ({why.get('why', 'unknown')})"
    if why.get("why") == "interrupted":
        state = "was interrupted"
    if status == "STOPPED":
        state = f"was stopped early ({why.get('why', 'unknown')})"
    if status != "DONE":
        warnings = [f"{run.path} {state}: its last evaluation is at step {last:,}", *warnings]
    stretched = tuple((int(e["from"]), e["to"]) for e in run.extensions() if e.get("stretched"))
    for before, after in stretched:
        warnings.append(
            f"{run.path} was extended from {before:,} to {after:,} steps with stretched schedules: it differs from a "
            f"run that was started with {after:,} steps"
        )
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
        warnings=tuple(warnings),
        stretched=stretched,
    )


def complete_evaluations(
    run: RunFolder, config: Mapping[str, Any], evaluations: pd.DataFrame
) -> tuple[list[int], list[str]]:
    """The steps with exactly one row per replica, member and episode, and a message for each other step: a mean over
    the rows of an incomplete evaluation would not be comparable. UserError if no evaluation is complete."""
    each = int(config["run"]["n_eval_episodes"])
    expected = int(config["replicas"]) * int(config["n_peers"]) * each
    rows = evaluations.groupby("step").size()
    different = evaluations.drop_duplicates(["step", "replica", "member", "episode"]).groupby("step").size()
    kept = [int(step) for step in rows.index if rows[step] == different[step] == expected]
    if not kept:
        raise UserError(
            f"{run.path}: no evaluation is complete yet, with {expected:,} episodes ({config['replicas']} "
            f"replicas x {config['n_peers']} members x {each})"
        )
    return kept, [
        f"{run.path}: the evaluation at step {step:,} is not complete ({rows[step]:,} rows of {expected:,}): left out"
        for step in sorted(set(map(int, rows.index)) - set(kept))
    ]


def _check(run: RunFolder, config: Mapping[str, Any], evaluations: pd.DataFrame, metric: Metric) -> None:
    """UserError for the first value that is not a number or is out of range, except an unknown success, and for a row
    of a replica or member that the run does not have."""
    numbers = {name: _member_number(name) for name in evaluations["member"].unique()}
    unknown = evaluations["member"].map(numbers).to_numpy(float) >= int(config["n_peers"])
    unknown |= evaluations["replica"].to_numpy() >= int(config["replicas"])
    if unknown.any():
        row = evaluations[unknown].iloc[0]
        raise UserError(
            f"{run.path}: evaluations.csv has a row of {row['member']} in replica {row['replica']} at step "
            f"{row['step']:,}, which the run does not have: train this run again or leave it out"
        )
    x = evaluations[metric].to_numpy(float)
    low, high = RANGES[metric]
    unknown_success = np.isnan(x) & (metric == "success")
    wrong = np.flatnonzero(~(unknown_success | (np.isfinite(x) & (low <= x) & (x <= high))))
    if not len(wrong):
        return
    row = evaluations.iloc[wrong[0]]
    value = "not a number" if math.isnan(x[wrong[0]]) else f"{number(x[wrong[0]])}, out of its range"
    raise UserError(
        f"{run.path}: the {metric} of {row['member']} in replica {row['replica']} at step {row['step']:,} is {value} "
        "(evaluations.csv): train this run again or leave it out"
    )


def _member_number(member: str) -> float:
    """3 for member-3; infinite for another name."""
    found = re.fullmatch(r"member-(\d{1,9})", member)
    return int(found[1]) if found else math.inf


def _pool(name: str, parts: list[Side]) -> Side:
    """Several runs as one side, at their common steps. Replicas are sorted by seed, so that the pairs of two sides do
    not depend on the order of the runs."""
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
        warnings=tuple(line for part in parts for line in part.warnings),
        stretched=parts[0].stretched,
    )


def _names(groups: list[tuple[str, list[Source]]]) -> list[str]:
    """A name per side, given as (task, runs): its name in the sweep, the name of its folder, or the common beginning of
    the names of its folders. Names are unique within a task."""
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


# --- tasks ----------------------------------------------------------------------------------------------------


def tasks(sides: Sequence[Side], across: bool = False) -> dict[str, list[Side]]:
    """The sides by task. `across`: all sides as one task, whatever their tasks are; sides with equal names get their
    task appended."""
    if across:
        names = [side.name for side in sides]
        apart = [replace(s, name=f"{s.name} ({s.task})") if names.count(s.name) > 1 else s for s in sides]
        return {" and ".join(dict.fromkeys(side.env for side in sides)): apart}
    found: dict[str, list[Side]] = {}
    for side in sides:
        found.setdefault(side.task, []).append(side)
    return found


def kinds_of_steps(sides: Sequence[Side]) -> str:
    """A sentence about sides whose steps are of different kinds; empty if those of all sides are of one kind."""
    offline, online = ([side.name for side in sides if side.offline == kind] for kind in (True, False))
    if not offline or not online:
        return ""
    return f"steps of {listing(offline)} are gradient steps, those of {listing(online)} are environment steps"


def common_steps(sides: Sequence[Side]) -> np.ndarray:
    """`[T]`: the steps at which all sides were evaluated; possibly empty."""
    steps = sides[0].steps
    for side in sides[1:]:
        steps = np.intersect1d(steps, side.steps)
    return steps
