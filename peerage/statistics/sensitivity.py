"""How the final return of a sweep depends on each hyper-parameter.

    found = sensitivity("experiments/my-sweep")             # its folder or its sweep.yaml, or a list of run folders
    print(found.table())

The unit of statistics is the replica of a group, as everywhere. A sweep trains the same replica (seed) once per value
of its other axes: those runs are averaged first, since they are not independent replicas.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from peerage.config.file import to_dict
from peerage.errors import UserError
from peerage.runs import tables
from peerage.runs.folder import RunFolder
from peerage.statistics import summaries
from peerage.statistics.intervals import ROUNDING
from peerage.statistics.samples import MIN_REPLICAS, complete_evaluations
from peerage.statistics.sources import differing_settings, sweep_runs

Unit = tuple[int, int]
"""The seed of a run and one of its replicas."""


@dataclass(frozen=True)
class Level:
    """One value of a hyper-parameter."""

    value: Any
    mean: float
    """Final return: mean over replicas of the mean over the other axes."""
    low: float | None
    """95% t-interval over these replicas; None for fewer than three."""
    high: float | None
    replicas: int


@dataclass(frozen=True)
class Axis:
    """The effect of one hyper-parameter on the final return, averaged over the other axes."""

    env: str
    name: str
    levels: tuple[Level, ...]
    """Best first."""
    replicas: int
    """Number of different replicas over all values."""
    paired: bool
    """Whether all values have the same replicas (seeds); then each replica is compared with itself."""
    effect: float
    """Mean of the best value minus mean of the worst."""
    low: float | None
    """95% interval of `effect`, corrected for the selection of these two among all values (Tukey's range, in Kramer's
    form where the values have different numbers of replicas). None for fewer than three replicas of a value, and
    without variance within values."""
    high: float | None
    eta_squared: float
    """Share of the variance between its values, SS_between / (SS_between + SS_within) of an analysis of variance; if
    paired, with replicas as blocks, whose means are removed, otherwise one-way. NaN without variance."""
    chance: float
    """Expected `eta_squared` of a hyper-parameter without effect, df_between / (df_between + df_within): paired
    1 / replicas, otherwise (values - 1) / (replicas - 1)."""

    @property
    def best(self) -> Level | None:
        """The best value, if the effect is significant."""
        return self.levels[0] if self.low is not None and self.low > 0 else None

    @property
    def verdict(self) -> str:
        """The best value as text, or the reason why there is none."""
        if self.best is not None:
            return _text(self.best.value)
        if not self.effect:
            return "no difference"
        if min(level.replicas for level in self.levels) < MIN_REPLICAS:
            return "too few replicas"
        return "no variance" if self.low is None else "not significant"


@dataclass(frozen=True)
class Sensitivity:
    """The result of `sensitivity`: the axes of each environment, sorted by the variance that they explain."""

    axes: list[Axis]
    notes: list[str] = field(default_factory=list)
    """Runs that are left out and why; hyper-parameters whose effects cannot be separated."""

    def table(self) -> pd.DataFrame:
        """`records` as a table."""
        return pd.DataFrame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """A row per axis; low and high are the limits of the effect."""
        return [
            {
                "env": axis.env,
                "hyper-parameter": axis.name,
                "values": len(axis.levels),
                "replicas": axis.replicas,
                "effect": axis.effect,
                "low": axis.low,
                "high": axis.high,
                "eta squared": None if math.isnan(axis.eta_squared) else axis.eta_squared,
                "by chance": axis.chance,
                "best": axis.verdict,
                "return": axis.best.mean if axis.best else None,
            }
            for axis in self.axes
        ]


class _FinishedRun(NamedTuple):
    """A finished run."""

    settings: Mapping[str, Any]
    returns: Mapping[Unit, float]


def sensitivity(source: Path | str | Sequence[Path | str]) -> Sensitivity:
    """How the final return depends on each hyper-parameter of a sweep.

    `source`: a sweep (its folder or its sweep.yaml), or run folders; the hyper-parameters of run folders are the
    settings in which they differ (except seed, number of replicas, run folder and machine). The final return of a
    replica is that of the last evaluation, mean over members and episodes. Only finished runs count. Returns of
    different environments are not compared.

    Raises UserError for an invalid source, and if no hyper-parameter has two values among the finished runs.
    """
    if isinstance(source, str | Path):
        runs = sweep_runs(Path(source))
    else:
        runs = differing_settings([Path(folder) for folder in source])
    notes: list[str] = []
    finished: dict[str, list[_FinishedRun]] = {}
    for run in runs:
        returns = _final_returns(run.folder, notes)
        if returns is not None:
            finished.setdefault(run.env, []).append(_FinishedRun(run.axes, returns))
    axes: list[Axis] = []
    for env, of_env in finished.items():
        names = sorted({name for run in of_env for name in run.settings})
        groups = {name: _by_value(name, of_env) for name in names}
        groups = {name: levels for name, levels in groups.items() if len(levels) > 1}
        axes += sorted((axis_of(env, *item) for item in groups.items()), key=lambda a: -np.nan_to_num(a.eta_squared))
        notes += _confounded(env, list(groups), of_env)
    if not axes:
        why = f" ({notes[0]})" if notes else ""
        raise UserError(f"nothing to compare: no hyper-parameter has two values among the finished runs{why}")
    return Sensitivity(axes, notes)


def axis_of(env: str, name: str, levels: Sequence[tuple[Any, Mapping[Unit, float]]]) -> Axis:
    """The axis from (value, replica -> final return) of two or more values."""
    samples = [np.array([returns[unit] for unit in sorted(returns)]) for _, returns in levels]  # in equal order
    units = set().union(*(returns for _, returns in levels))
    paired = all(len(sample) == len(units) for sample in samples)
    every = np.concatenate(samples)
    close = ROUNDING * float(np.abs(every).max())
    described = []
    for (value, _), sample in zip(levels, samples):
        spread = summaries.spread(sample)
        low, high = (float(spread.low), float(spread.high)) if len(sample) >= MIN_REPLICAS else (None, None)
        described.append(Level(value, float(spread.mean), low, high, len(sample)))
    described.sort(key=lambda level: -level.mean)
    best, worst = described[0], described[-1]
    effect = best.mean - worst.mean if best.mean - worst.mean > close else 0.0

    # SS_total = SS_between + SS_within; if paired, the means of replicas are removed
    means = np.array([sample.mean() for sample in samples])
    sizes = np.array([len(sample) for sample in samples])
    between = float((sizes * (means - every.mean()) ** 2).sum())
    within = np.concatenate([sample - mean for sample, mean in zip(samples, means)])  # [values * replicas] if paired
    df_between, df_within = len(levels) - 1, len(every) - len(levels)
    if paired:
        of_unit = within.reshape(len(levels), len(units))
        within, df_within = (of_unit - of_unit.mean(axis=0)).ravel(), df_within - (len(units) - 1)
    scatters = float(np.abs(within).max()) > close
    within_squared = float((within**2).sum()) if scatters else 0.0
    ends: tuple[float, float] | tuple[None, None] = (None, None)
    if scatters and sizes.min() >= MIN_REPLICAS:
        variance = within_squared / df_within
        error = math.sqrt(variance / 2 * (1 / best.replicas + 1 / worst.replicas))
        half = error * _tukey_range(len(levels), df_within)
        ends = effect - half, effect + half
    return Axis(
        env=env,
        name=name,
        levels=tuple(described),
        replicas=len(units),
        paired=paired,
        effect=effect,
        low=ends[0],
        high=ends[1],
        eta_squared=between / (between + within_squared) if effect or scatters else math.nan,
        chance=df_between / (df_between + df_within),
    )


@cache
def _tukey_range(values: int, df: int) -> float:
    """The 95% quantile of Tukey's studentized range of `values` means, in standard errors of one mean."""
    return float(stats.studentized_range.ppf(0.95, values, df))  # takes about 50 ms


def _by_value(name: str, runs: Iterable[_FinishedRun]) -> list[tuple[Any, dict[Unit, float]]]:
    """(value, replica -> mean return over all runs of that replica with that value), in the order of the first runs.
    The value is None for runs without this setting."""
    found: dict[str, tuple[Any, dict[Unit, list[float]]]] = {}
    for settings, returns in runs:
        value = settings.get(name)
        of_value = found.setdefault(_key(value), (value, {}))[1]
        for unit, its in returns.items():
            of_value.setdefault(unit, []).append(its)
    return [(value, {unit: float(np.mean(its)) for unit, its in units.items()}) for value, units in found.values()]


def _confounded(env: str, names: Sequence[str], runs: Sequence[_FinishedRun]) -> list[str]:
    """A message for each pair of hyper-parameters that change only together."""
    notes = []
    for a, b in itertools.combinations(names, 2):
        pairs = {(_key(run.settings.get(a)), _key(run.settings.get(b))) for run in runs}
        if len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs}):
            notes.append(f"{env}: {a} and {b} always change together: their effects cannot be separated")
    return notes


def _final_returns(folder: Path, notes: list[str]) -> dict[Unit, float] | None:
    """Replica -> final return, or None with a note about the reason."""
    try:
        run = RunFolder.open(folder)
        if not run.has_ended():
            raise UserError("it is not finished")
        frame = tables.read_evaluations(folder)
        if not len(frame):
            raise UserError("it has no evaluations")
        steps, left_out = complete_evaluations(run, to_dict(run.resolved()), frame)
        if left_out and steps[-1] < frame["step"].max():
            raise UserError("its last evaluation is incomplete")
        last = summaries.by_replica(summaries.member_values(frame, "return")).iloc[-1]
        if not np.isfinite(last.to_numpy(float)).all():
            raise UserError("its last evaluation has missing returns")
        seed = run.resolved().seed
        return {(seed, int(replica)): float(value) for replica, value in last.items()}  # type: ignore[call-overload]
    except UserError as error:
        notes.append(f"{folder} is left out: {error}")
        return None


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _key(value)
