"""Run folders as samples: which runs are replicas of one way of training, and one number or curve for each of them.

The unit is the replica of a group: its members learn from each other, so their mean is one number, not several.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from peerage.config import ELSEWHERE, PARTS
from peerage.configfile import from_dict, parse, to_dict
from peerage.errors import UserError
from peerage.runs import summaries, tables
from peerage.runs.folder import RunFolder, is_run

Metric = Literal["return", "success", "length"]
METRICS: tuple[Metric, ...] = ("return", "success", "length")
MANIFEST = "sweep.yaml"


@dataclass(frozen=True)
class Source:
    """A run folder to compare, as the user named it."""

    folder: Path
    label: str | None = None
    """What a sweep calls it; without one the folder's name."""


@dataclass(frozen=True)
class Side:
    """One way of training: runs that differ in nothing but their seeds."""

    name: str
    runs: tuple[Path, ...]
    config: dict[str, Any]
    """Of the first run, resolved, as plain data."""
    env: str
    seeds: tuple[tuple[int, int], ...]
    """(seed, replica) of every sample; two sides with the same ones can be paired."""
    steps: np.ndarray
    """[T] at which all of them were evaluated."""
    curves: np.ndarray
    """[n, T]: a row for every replica, the mean over its members and episodes."""
    environments: tuple[dict[str, Any], ...]
    """environment.json of every run."""
    unfinished: tuple[str, ...]
    """A line for every run that is not DONE."""

    @property
    def n(self) -> int:
        """Replicas."""
        return len(self.curves)

    def until(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and curves up to `step`."""
        kept = self.steps <= step
        return self.steps[kept], self.curves[:, kept]


# --- finding runs ---------------------------------------------------------------------------------------------


def find(words: Iterable[str]) -> list[Source]:
    """Run folders from what stands on a command line: a run, a pattern with * ? [], or a sweep (its folder or its
    sweep.yaml). UserError for a word that names none."""
    found: list[Source] = []
    for word in words:
        path = Path(word)
        manifest = path if path.name == MANIFEST else path / MANIFEST
        if is_run(path):
            found.append(Source(path))
        elif manifest.is_file():
            found += _of_sweep(manifest)
        elif glob.has_magic(word):
            runs = [Path(match) for match in sorted(glob.glob(word)) if is_run(Path(match))]
            if not runs:
                raise UserError(f"no run matches {word!r}")
            found += [Source(run) for run in runs]
        else:
            RunFolder.open(path)  # says what is missing
            raise UserError(f"{word!r} is not a run of Peerage: its config.yaml is not one of ours")
    seen: set[Path] = set()
    return [source for source in found if not ((p := source.folder.resolve()) in seen or seen.add(p))]  # type: ignore[func-returns-value]


class SweepRun(NamedTuple):
    """A run of a sweep, as its manifest names it."""

    folder: Path
    env: str
    axes: dict[str, Any]


def sweep_runs(path: Path) -> list[SweepRun]:
    """All runs of a sweep (its folder or its sweep.yaml), trained or not. UserError if it is none."""
    manifest = path / MANIFEST if path.is_dir() else path
    try:
        runs = parse(manifest.read_text(encoding="utf-8"), str(manifest))["runs"]
        return [SweepRun(manifest.parent / str(r["folder"]), str(r["env"]), dict(r["axes"])) for r in runs]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"there is no sweep at {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} is no sweep's manifest: {type(error).__name__}: {error}") from error


def missing(words: Iterable[str]) -> list[str]:
    """A line for every sweep among the words that is not trained to its end."""
    lines = []
    for word in words:
        path = Path(word)
        manifest = path if path.name == MANIFEST else path / MANIFEST
        if not is_run(path) and manifest.is_file():
            runs = sweep_runs(manifest)
            if lacking := [run for run in runs if not (run.folder / "DONE").exists()]:
                left = f"{len(lacking)} of {len(runs)} runs are not done"
                lines.append(f"{manifest.parent}: {left}; `peerage sweep` goes on")
    return lines


def _of_sweep(manifest: Path) -> list[Source]:
    there = [run for run in sweep_runs(manifest) if is_run(run.folder)]
    if not there:
        raise UserError(f"{manifest.parent}: no run of this sweep has begun yet; `peerage sweep` trains them")
    return [Source(r.folder, ", ".join(f"{name}={value}" for name, value in r.axes.items()) or None) for r in there]


# --- runs -> sides --------------------------------------------------------------------------------------------


def read_sides(sources: Sequence[Source], metric: Metric = "return") -> list[Side]:
    """The runs as sides, in the order in which they were named: runs with the same settings and other seeds are
    replicas of one side, a run with the same settings and the same seed is a side of its own.

    UserError naming the run that cannot be read, has no evaluations or none of `metric`.
    """
    groups: list[tuple[str, list[tuple[Source, Side]]]] = []
    for source in sources:
        side = _read(source, metric)
        key = identity(side.config)
        for other, members in groups:
            taken = {seed for _, member in members for seed in member.seeds}
            if other == key and not taken & set(side.seeds):
                members.append((source, side))
                break
        else:
            groups.append((key, [(source, side)]))
    names = _names([(members[0][1].env, [source for source, _ in members]) for _, members in groups])
    return [_pooled(name, [side for _, side in members]) for name, (_, members) in zip(names, groups)]


def identity(config: Mapping[str, Any]) -> str:
    """What must be equal for two runs to be replicas of each other: everything that is trained, without the seed."""
    plain = {name: value for name, value in config.items() if name not in ("run", "seed", "replicas", *ELSEWHERE)}
    plain["total_timesteps"], plain["n_epochs"] = _steps(config), None
    return json.dumps(plain, sort_keys=True)


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their dotted names, without those of the run folder."""
    told = {name: value for name, value in config.items() if name not in ("run", *ELSEWHERE)}
    parts = {name: told.pop(name) for name in PARTS if name in told}
    return told | {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def _steps(config: Mapping[str, Any]) -> int:
    total = config.get("total_timesteps")
    return int(config["n_epochs"]) * int(config["epoch_length"]) if total is None else int(total)


def _read(source: Source, metric: Metric) -> Side:
    run = RunFolder.open(source.folder)
    config = to_dict(from_dict(run.config()))
    values = summaries.member_values(tables.read_evaluations(run.path), metric)
    if values.empty:
        what = "no evaluations" if metric == "return" else f"no evaluations with {metric}"
        raise UserError(f"{run.path} has {what}: nothing to compare (was it trained with --eval-freq 0?)")
    table = summaries.by_replica(values).reindex(columns=range(int(config["replicas"])))
    table = table.dropna()  # what a replica lacks was being written
    if table.empty:
        raise UserError(f"{run.path}: no evaluation has reached all replicas yet")
    status, why = run.status()
    last = int(table.index[-1])
    state = "is still running, or was killed" if status == "RUNNING" else f"failed ({why.get('why', 'unknown')})"
    return Side(
        name=source.folder.resolve().name,
        runs=(run.path,),
        config=config,
        env=str(config["env"]),
        seeds=tuple((int(config["seed"]), int(replica)) for replica in table.columns),
        steps=table.index.to_numpy(),
        curves=np.ascontiguousarray(table.to_numpy().T),
        environments=(run.environment(),),
        unfinished=() if status == "DONE" else (f"{run.path} {state}: its last evaluation is of step {last:,}",),
    )


def _pooled(name: str, parts: list[Side]) -> Side:
    """Runs of one kind as one side, at the steps that all of them have."""
    steps = parts[0].steps
    for part in parts[1:]:
        steps = np.intersect1d(steps, part.steps)
    if not len(steps):
        raise UserError(f"{parts[0].runs[0]} and {parts[1].runs[0]} were never evaluated at the same step")
    curves = [part.curves[:, np.searchsorted(part.steps, steps)] for part in parts]
    return Side(
        name=name,
        runs=tuple(run for part in parts for run in part.runs),
        config=parts[0].config,
        env=parts[0].env,
        seeds=tuple(seed for part in parts for seed in part.seeds),
        steps=steps,
        curves=np.concatenate(curves),
        environments=tuple(e for part in parts for e in part.environments),
        unfinished=tuple(line for part in parts for line in part.unfinished),
    )


def _names(groups: list[tuple[str, list[Source]]]) -> list[str]:
    """A name for every side (its environment and runs): the sweep's, the folder's, or what the folders' names begin
    with; each once on an environment."""
    names: list[str] = []
    taken: set[tuple[str, str]] = set()
    for env, sources in groups:
        labels = {source.label for source in sources}
        folders = [source.folder.resolve().name for source in sources]
        common = re.sub(r"[-_.]*(seed)?[-_.]*\d*$", "", os.path.commonprefix(folders))  # noqa: RUF071
        name = labels.pop() if len(labels) == 1 else None
        name = name or (folders[0] if len(folders) == 1 else common or folders[0])
        number, unique = 1, name
        while (env, unique) in taken:
            number += 1
            unique = f"{name} ({number})"
        taken.add((env, unique))
        names.append(unique)
    return names


# --- the same task? -------------------------------------------------------------------------------------------


def tasks(sides: Sequence[Side]) -> dict[str, list[Side]]:
    """The sides by what they were trained on. Where no two share a task, but all are versions of one environment, they
    are compared as if they did: somebody has asked for it, and the warnings say what is different."""
    found: dict[str, list[Side]] = {}
    for side in sides:
        args = {name: value for name, value in side.config["env_args"].items()}
        key = side.env + (f" {json.dumps(args, sort_keys=True)}" if args else "")
        found.setdefault(key, []).append(side)
    families = {re.sub(r"-v\d+$", "", side.env) for side in sides}
    if len(sides) > 1 and len(families) == 1 and all(len(some) == 1 for some in found.values()):
        return {" and ".join(dict.fromkeys(side.env for side in sides)): list(sides)}
    return found


def warnings(sides: Sequence[Side]) -> list[str]:
    """What makes a comparison of these sides doubtful, a line each."""
    lines = [line for side in sides for line in side.unfinished]

    def differ(what: str, values: Mapping[str, Any], why: str) -> None:
        if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            lines.append(f"{what} differ ({listed}): {why}")

    differ("environments", {s.name: s.env for s in sides}, "their returns are not on one scale")
    differ("environment arguments", {s.name: s.config["env_args"] for s in sides}, "it is not the same task")
    differ("budgets", {s.name: _steps(s.config) for s in sides}, "schedules depend on the length of a run")
    last = {s.name: int(s.steps[-1]) for s in sides}
    differ("last evaluations", last, "compared at the last step that all have")
    for i, side in enumerate(sides):
        for other in sides[:i]:
            if identity(side.config) == identity(other.config) and set(side.seeds) & set(other.seeds):
                lines.append(f"{side.name} and {other.name} are the same training, settings and seed: not two samples")
    differ("evaluation episodes", {s.name: s.config["run"]["n_eval_episodes"] for s in sides}, "unequal noise")
    for package in ("gymnasium", "mujoco", "box2d", "torch", "peerage"):
        versions = {s.name: _told(s, "versions", package) for s in sides}
        why = "trajectories differ" if package in ("gymnasium", "mujoco", "box2d") else "a small matter, mostly"
        differ(f"versions of {package}", versions, why)
    for part, what in (("cpu", "processors"), ("device", "devices")):
        differ(what, {s.name: _told(s, "hardware", part) for s in sides}, "results do not depend on it, times do")
    for side in sides:
        resumed = [entry for e in side.environments for entry in e.get("resumed", []) if isinstance(entry, dict)]
        for entry in resumed:
            if different := entry.get("different"):
                lines.append(f"{side.name} went on elsewhere at step {entry.get('step')}: {'; '.join(different)}")
    return lines


def _told(side: Side, part: str, name: str) -> str:
    values = {str((e.get(part) or {}).get(name)) for e in side.environments}
    return "/".join(sorted(values))
