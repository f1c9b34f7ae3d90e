"""How much of a result survives: returns in perturbed environments, and what they owe to each hyper-parameter.

    found = evaluate_perturbed("experiments/my-run", parse_cases(["observation_noise=0.1,0.2"]), episodes=20)
    found = sensitivity("experiments/my-sweep")             # its folder or its sweep.yaml, or a list of run folders
    for row in found.table(): ...

The unit of statistics is the replica of a group, as everywhere: first the mean over episodes, then over members, and
the interval over replicas.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from peerage.envs.perturbed import Perturbations, with_perturbations
from peerage.envs.vector import Maker, check_env_id
from peerage.errors import UserError
from peerage.evaluation.evaluate import SEED, Evaluator
from peerage.evaluation.samples import SweepRun, sweep_runs
from peerage.evaluation.samples import flat as flat_settings
from peerage.runs import summaries, tables
from peerage.runs.folder import RunFolder

# --- perturbed environments -------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A member of a replica in one case, beside itself on the same seeds without perturbation; means over episodes."""

    case: str
    """As on the command line; `clean` without perturbation."""
    replica: int
    member: str
    episodes: int
    clean: float
    """Return."""
    perturbed: float
    """Return."""
    clean_success: float | None
    """Share of the episodes; None where the task has none."""
    perturbed_success: float | None

    @property
    def drop(self) -> float:
        """What the perturbation costs; negative where it helps."""
        return self.clean - self.perturbed


@dataclass(frozen=True)
class Robustness:
    """What `evaluate_perturbed` found."""

    rows: list[Row]

    def table(self) -> list[dict[str, Any]]:
        """A line for every case: return and drop, each with the interval over replicas (see `interval`), and the
        share of episodes that succeeded, where the task knows success."""
        lines = []
        for case in dict.fromkeys(row.case for row in self.rows):
            mine = [row for row in self.rows if row.case == case]
            line: dict[str, Any] = {"perturbation": case, "replicas": len({row.replica for row in mine})}
            for name, values in (("return", "perturbed"), ("drop", "drop")):
                line |= _interval(name, _per_replica(mine, values))
            successes = [row.perturbed_success for row in mine if row.perturbed_success is not None]
            if successes:
                line["success"] = float(np.mean(successes))
            lines.append(line)
        return lines

    @property
    def interval(self) -> str:
        """What low and high are; empty with one replica, which says nothing about others."""
        return _kind(len({row.replica for row in self.rows}))


def evaluate_perturbed(
    run: Path | str,
    perturbations: Sequence[Perturbations],
    episodes: int = 10,
    seed: int | None = None,
    members: Sequence[int] | None = None,
    *,
    env: Maker | None = None,
) -> Robustness:
    """Evaluate the newest checkpoint of a run without perturbation and in each case of `perturbations`, on the same
    seeds: a row for every case, replica and member, those of the clean environment first.

    `episodes`, `seed`, `members` and `env` as in `peerage.training.session.evaluate_run`. Raises UserError for a member
    that the group has not, a knob that the environment has not, and dropped advice: members are evaluated alone.
    """
    from peerage.training.session import restore  # which brings torch

    if dropping := next((p for p in perturbations if p.dropped_advice), None):
        raise UserError(f"--perturb {dropping}: members are evaluated by themselves; dropped_advice is for training")
    if not perturbations:
        raise UserError("--perturb: nothing is perturbed; give a strength above 0, as in observation_noise=0.1")
    trainer = restore(run, env=env, policies_only=True)
    try:
        if unknown := [i for i in members or [] if not 0 <= i < trainer.N]:
            raise UserError(f"{run} has no member {unknown[0]}: its members are 0 to {trainer.N - 1}")
        which = [m for m in range(trainer.group.M) if members is None or m % trainer.N in members]
        maker, cases = trainer.evaluator.env, (Perturbations(), *perturbations)
        args = [with_perturbations(trainer.config.env_args, case) for case in cases]
        for arguments in args:  # what the environment cannot do is said before anything takes time
            check_env_id(maker, arguments)
        found = []
        for arguments in args:
            evaluator = Evaluator(maker, arguments, trainer.group, episodes, SEED if seed is None else seed)
            try:
                found.append(_means(evaluator.run(trainer.step) or []))
            finally:
                evaluator.close()
    finally:
        trainer.close()
    rows = []
    for case, here in zip(cases, found):
        for m in which:
            (clean, clean_success), (perturbed, success) = found[0][m], here[m]
            who = (m // trainer.N, trainer.names[m % trainer.N])
            rows.append(Row(str(case), *who, episodes, clean, perturbed, clean_success, success))
    return Robustness(rows)


def _means(episodes: Sequence[tuple[int, int, Any]]) -> dict[int, tuple[float, float | None]]:
    """member -> mean return, share of successes."""
    means: dict[int, tuple[float, float | None]] = {}
    for m, of_member in itertools.groupby(episodes, key=lambda entry: entry[0]):
        mine = [episode for _, _, episode in of_member]
        known = [float(episode.success) for episode in mine if episode.success is not None]
        means[m] = float(np.mean([e.return_ for e in mine])), float(np.mean(known)) if known else None
    return means


def _per_replica(rows: Sequence[Row], name: str) -> np.ndarray:
    """`[R]`: means over members."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row.replica, []).append(getattr(row, name))
    return np.array([np.mean(of_replica) for of_replica in values.values()])


def _interval(name: str, values: np.ndarray) -> dict[str, Any]:
    """Mean of `values [n]` and its interval as three cells; one value has none."""
    spread = summaries.spread(values)
    ends = (float(spread.low), float(spread.high)) if len(values) > 1 else (None, None)
    return {name: float(spread.mean), f"{name} low": ends[0], f"{name} high": ends[1]}


def _kind(n: int) -> str:
    """What an interval of `n` values is."""
    return summaries.spread(np.zeros(n)).kind


# --- sensitivity to hyper-parameters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One value of a hyper-parameter."""

    value: Any
    mean: float
    """Final return: mean over all replicas of all runs with this value."""
    low: float | None
    """95% t-interval over those replicas; None for fewer than three."""
    high: float | None
    replicas: int


@dataclass(frozen=True)
class Axis:
    """What a hyper-parameter does to the final return, whatever else the sweep changes beside it."""

    env: str
    name: str
    levels: tuple[Level, ...]
    """Best first."""
    effect: float
    """Range of the means over its values: best minus worst."""
    eta_squared: float
    """Share of the variance between replicas that lies between its values, `SS_between / SS_total` (one-way analysis
    of variance); NaN if all replicas are equal."""
    chance: float
    """What `eta_squared` is on average where the hyper-parameter does nothing: (values - 1) / (replicas - 1)."""

    @property
    def best(self) -> Level:
        return self.levels[0]


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found: the axes of every environment, the one that explains most first."""

    axes: list[Axis]
    notes: list[str] = field(default_factory=list)
    """Runs that do not count and why, hyper-parameters that cannot be told apart."""

    def table(self) -> list[dict[str, Any]]:
        """A line for every axis."""
        return [
            {
                "env": axis.env,
                "hyper-parameter": axis.name,
                "values": len(axis.levels),
                "replicas": sum(level.replicas for level in axis.levels),
                "effect": axis.effect,
                "eta squared": axis.eta_squared,
                "by chance": axis.chance,
                "best": _text(axis.best.value),
                "return": axis.best.mean,
                "low": axis.best.low,
                "high": axis.best.high,
            }
            for axis in self.axes
        ]


def sensitivity(source: Path | str | Sequence[Path | str]) -> Sensitivity:
    """How the final return depends on each hyper-parameter of a sweep.

    `source`: a sweep (its folder or its sweep.yaml), or run folders, whose hyper-parameters are then all settings in
    which they differ (the seed, the number of replicas, the run folder and the machine aside). The final return of a
    replica is the one of the last evaluation, mean over members and episodes. Only finished runs count. Returns of
    different environments are not compared.

    Raises UserError for what is neither, and if fewer than two values can be compared of every hyper-parameter.
    """
    runs = sweep_runs(Path(source)) if isinstance(source, str | Path) else _of_folders([Path(f) for f in source])
    notes: list[str] = []
    samples: dict[str, list[tuple[Mapping[str, Any], np.ndarray]]] = {}
    for run in runs:
        returns = _final_returns(run.folder, notes)
        if returns is not None:
            samples.setdefault(run.env, []).append((run.axes, returns))
    axes: list[Axis] = []
    for env, of_env in samples.items():
        names = sorted({name for settings, _ in of_env for name in settings})
        groups = {name: _by_value(name, of_env) for name in names}
        groups = {name: levels for name, levels in groups.items() if len(levels) > 1}
        axes += sorted((_axis(env, *item) for item in groups.items()), key=lambda a: -np.nan_to_num(a.eta_squared))
        notes += _together(env, list(groups), of_env)
    if not axes:
        why = f" ({notes[0]})" if notes else ""
        raise UserError(f"nothing to compare: no hyper-parameter has two values among the finished runs{why}")
    return Sensitivity(axes, notes)


def _axis(env: str, name: str, levels: Sequence[tuple[Any, np.ndarray]]) -> Axis:
    """From the replicas' returns at each value."""
    every = np.concatenate([values for _, values in levels])
    total = float(((every - every.mean()) ** 2).sum())
    between = float(sum(len(values) * (values.mean() - every.mean()) ** 2 for _, values in levels))
    described = []
    for value, values in levels:
        spread = summaries.spread(values)
        low, high = (float(spread.low), float(spread.high)) if len(values) > 2 else (None, None)
        described.append(Level(value, float(spread.mean), low, high, len(values)))
    described.sort(key=lambda level: -level.mean)
    return Axis(
        env=env,
        name=name,
        levels=tuple(described),
        effect=described[0].mean - described[-1].mean,
        eta_squared=between / total if total > 0 else math.nan,
        chance=(len(levels) - 1) / (len(every) - 1),
    )


def _by_value(name: str, runs: Sequence[tuple[Mapping[str, Any], np.ndarray]]) -> list[tuple[Any, np.ndarray]]:
    """value -> returns of all replicas that had it, in the order of their first runs; None where a run has none."""
    found: dict[str, tuple[Any, list[np.ndarray]]] = {}
    for settings, returns in runs:
        value = settings.get(name)
        found.setdefault(_key(value), (value, []))[1].append(returns)
    return [(value, np.concatenate(parts)) for value, parts in found.values()]


def _together(env: str, names: Sequence[str], runs: Sequence[tuple[Mapping[str, Any], np.ndarray]]) -> list[str]:
    """A line for every two hyper-parameters that change only together."""
    notes = []
    for a, b in itertools.combinations(names, 2):
        pairs = {(_key(settings.get(a)), _key(settings.get(b))) for settings, _ in runs}
        if len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs}):
            notes.append(f"{env}: {a} and {b} always change together: what one does cannot be told from the other")
    return notes


def _final_returns(folder: Path, notes: list[str]) -> np.ndarray | None:
    """`[R]`, or None and a note."""
    try:
        status, _ = RunFolder.open(folder).status()
        if status != "DONE":
            raise UserError("it is not finished")
        frame = tables.read_evaluations(folder)
        if not len(frame):
            raise UserError("it has no evaluations")
        last = summaries.by_replica(summaries.member_values(frame, "return")).iloc[-1].to_numpy(float)
        if not np.isfinite(last).all():
            raise UserError("its last evaluation is not complete")
        return last
    except UserError as error:
        notes.append(f"{folder} does not count: {error}")
        return None


def _of_folders(folders: Sequence[Path]) -> list[SweepRun]:
    """Runs with all the settings that are not the same in all of one environment."""
    apart = ("env", "seed", "replicas")
    configs = [RunFolder.open(folder).config() for folder in folders]
    flat = [{n: value for n, value in flat_settings(config).items() if n not in apart} for config in configs]
    runs = []
    for folder, config, settings in zip(folders, configs, flat):
        alike = [other for other, its in zip(flat, configs) if its.get("env") == config.get("env")]
        differ = [name for name in settings if len({_key(other.get(name)) for other in alike}) > 1]
        runs.append(SweepRun(folder, str(config.get("env")), {name: settings[name] for name in differ}))
    return runs


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _key(value)
