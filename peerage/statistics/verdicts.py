"""What a comparison decides, and what it says in words: verdicts, and what makes them doubtful."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from peerage.statistics import tests
from peerage.statistics.comparison import Measure, Task, Versus
from peerage.statistics.samples import Metric, Side, budget, common_steps, identity
from peerage.statistics.tests import Interval
from peerage.text import listing, number

FEW = 3
"""Fewer replicas than this have no interval."""
LEVEL = 0.05
"""A difference is beyond chance where p is below."""


def subject(metric: Metric, measure: Measure, step: int) -> str:
    """What is compared: `return at step 6,000`."""
    if measure == "final":
        return f"{metric} at step {step:,}"
    return f"mean {metric} up to step {step:,} (area under the learning curve)"


def words(metric: Metric) -> tuple[str, str]:
    """What a side that is above another is, and what that other is."""
    return ("longer", "shorter") if metric == "length" else ("better", "worse")


def share(metric: Metric) -> str:
    """What `Versus.improvement` is called."""
    return "probability of being longer" if metric == "length" else "probability of improvement"


# --- verdicts -------------------------------------------------------------------------------------------------


def decided(tasks: Sequence[Task], metric: Metric, measure: Measure) -> list[Task]:
    """The same with p values after Holm's correction over all comparisons, and with who is above whom.

    What decides is Welch's p (that of the paired test), and where there is no spread Mann and Whitney's (not of pairs).
    A comparison that neither can decide is none of those that the correction counts.
    """
    every = [v for task in tasks for v in task.versus]
    single = [v.mann_whitney if math.isnan(v.welch) else v.welch for v in every]
    deciding, ranks = iter(tests.holm(single)), iter(tests.holm([v.mann_whitney for v in every]))
    tested = sum(not math.isnan(p) for p in single)
    before = iter(single)
    out = []
    for task in tasks:
        versus = []
        for v in task.versus:
            alone, p, rank = next(before), next(deciding), next(ranks)
            v = replace(v, mann_whitney=p) if math.isnan(v.welch) else replace(v, welch=p, mann_whitney=rank)
            seen = _higher(v)
            higher = seen if p < LEVEL else None  # NaN is not
            said = _verdict(v, seen, alone, p, task, tested, metric, measure)
            winner = None if metric == "length" else higher
            versus.append(replace(v, higher=higher, winner=winner, verdict=said))
        out.append(replace(task, versus=tuple(versus)))
    return out


def _higher(v: Versus) -> str | None:
    """Who is above, if the interval of the difference lies on one side of zero."""
    d = v.difference
    return v.b if d.low > 0 else v.a if d.high < 0 else None  # NaN is neither


def _verdict(
    v: Versus, seen: str | None, alone: float, p: float, task: Task, comparisons: int, metric: Metric, measure: Measure
) -> str:
    """Who is better, by how much and how sure that is. `seen`: who is above by the interval; `alone`, `p`: the deciding
    p before and after the correction for `comparisons`."""
    of = "" if measure == "final" else f" of the mean {metric} up to step {task.step:,}"
    on = f" on IQM{of}" if of else ""
    d, n = v.difference, v.replicas
    each = f"{n[0]} replicas each" if n[0] == n[1] else f"{n[0]} and {n[1]} replicas"
    if min(n) < FEW:
        return (
            f"{v.b} against {v.a}{on}: {_signed(d.estimate)}; {each} cannot say anything about chance: "
            f"train at least {FEW}, better 5 or more (--replicas)"
        )
    curves = [side.curves for side in task.sides if side.name in (v.a, v.b)]
    if curves[0].shape == curves[1].shape and np.array_equal(curves[0], curves[1]):
        return f"{v.b} and {v.a} are the same numbers: no difference"
    shown = f"{each} can show differences above {number(v.detectable)}" if not math.isnan(v.welch) else each
    after = f", after Holm over {comparisons} comparisons" if comparisons > 1 else ""
    tests = _tests(v, each)
    none = f"no difference between {v.b} and {v.a} can be seen{on}: {_signed(d.estimate)} {in_brackets(d)}"
    if seen is None:
        return f"{none}; {shown}"
    if not alone < LEVEL:  # NaN too
        return f"{none} without zero, but {', '.join(tests)}{after}: not beyond chance; {shown}"
    loser, sign = (v.a, 1) if seen == v.b else (v.b, -1)
    ahead, low, high = sign * d.estimate, *sorted((sign * d.low, sign * d.high))
    better = v.improvement if sign > 0 else _turned(v.improvement)
    survives = p < LEVEL
    if metric == "length":
        verb = "has longer episodes than" if survives else "would by itself have longer episodes than"
    else:
        verb = "beats" if survives else "would by itself beat"
    but = "" if survives else ", but not one of so many: no difference is beyond chance"
    return (
        f"{seen} {verb} {loser} on IQM{of} by {number(ahead)} [{number(low)}, {number(high)}], {share(metric)} "
        f"{better.estimate:.2f} {in_brackets(better, '.2f')}; {', '.join(tests)}{after}{but}; {each}"
    )


def _tests(v: Versus, each: str) -> list[str]:
    """The tests and their p values."""
    t = "paired t" if v.paired else "Welch"
    tests = [f"no spread to judge by ({t})" if math.isnan(v.welch) else f"{t} {_equals(v.welch)}"]
    if not math.isnan(v.mann_whitney):
        tests.append(f"Mann–Whitney {_equals(v.mann_whitney)}")
    elif not v.paired:
        tests.append(f"a Mann–Whitney test with {each} cannot fall below {_p(v.smallest)}")
    return tests


def _turned(p: Interval) -> Interval:
    return replace(p, estimate=1 - p.estimate, low=1 - p.high, high=1 - p.low)


def overall(tasks: Sequence[Task], metric: Metric) -> tuple[str, ...]:
    """What holds over several tasks: won and lost, and the mean probability of improvement."""
    if len(tasks) < 2:
        return ()
    what = "environments" if len({task.sides[0].env for task in tasks}) == len(tasks) else "tasks"
    found: dict[tuple[str, str], list[Versus]] = {}
    for task in tasks:
        for v in task.versus:
            found.setdefault((v.a, v.b), []).append(v)
    lines = []
    for (a, b), some in found.items():
        above, below = (sum(v.higher == name for v in some) for name in (b, a))
        more, less = words(metric)
        mean = float(np.mean([v.improvement.estimate for v in some]))
        won = f"{b} against {a}: {more} on {above}, {less} on {below} of {len(some)} {what}"
        lines.append(f"{won}; mean {share(metric)} {mean:.2f}")
    return tuple(lines)


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def in_brackets(interval: Interval, spec: str | None = None) -> str:
    """`[low, high]`, or a dash where there is no interval."""
    if math.isnan(interval.low):
        return "[–]"
    low, high = (format(x, spec) if spec else number(x) for x in (interval.low, interval.high))
    return f"[{low}, {high}]"


def _equals(p: float) -> str:
    return f"p {_p(p)}" if p < 0.001 else f"p = {_p(p)}"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


# --- doubts ---------------------------------------------------------------------------------------------------


def doubts(sides: Sequence[Side]) -> list[str]:
    """What makes a comparison of these sides doubtful, a line each. Every run counts, also within a side."""
    lines = [line for side in sides for line in side.doubts]

    def differ(what: str, values: Sequence[Sequence[Any]], why: str) -> None:
        """`values`: of every run of each side."""
        told = [list(dict.fromkeys(map(_told, some))) for some in values]
        if len({text for some in told for text in some} - {_told(None)}) > 1:  # of what is not known nothing follows
            listed = ", ".join(f"{side.name}: {listing(some)}" for side, some in zip(sides, told))
            lines.append(f"{what} differ ({listed}): {why}")

    def setting(name: str) -> list[list[Any]]:
        return [[config[name] for config in side.configs] for side in sides]

    def about(part: str, name: str) -> list[list[Any]]:
        return [[_part(environment, part).get(name) for environment in side.environments] for side in sides]

    differ("environments", setting("env"), "their returns are not on one scale")
    differ("environment arguments", setting("env_args"), "it is not the same task")
    budgets = [[budget(config) for config in side.configs] for side in sides]
    differ("budgets", budgets, "schedules depend on the length of a run")
    last = [[int(side.steps[-1])] for side in sides]
    differ("last evaluations", last, "compared at the last step that all have")
    for i, side in enumerate(sides):
        for other in sides[:i]:
            if identity(side.config) == identity(other.config) and set(side.seeds) & set(other.seeds):
                lines.append(f"{side.name} and {other.name} are the same training, settings and seed: not two samples")
    episodes = [[config["run"]["n_eval_episodes"] for config in side.configs] for side in sides]
    differ("evaluation episodes", episodes, "unequal noise")
    rules = [[config["run"]["success"] for config in side.configs] for side in sides]
    differ("rules of success", rules, "the same episode succeeds by one and fails by the other")
    lines += _grids(sides)
    for side in sides:
        if not all(_part(environment, "versions") for environment in side.environments):
            lines.append(f"{side.name}: environment.json does not say what it was trained with")
    differ("git commits", [[_commit(e) for e in side.environments] for side in sides], "the code is not the same")
    for package in ("gymnasium", "mujoco", "box2d", "torch", "numpy", "python", "peerage"):
        why = "trajectories differ" if package in ("gymnasium", "mujoco", "box2d") else "a small matter, mostly"
        differ(f"versions of {package}", about("versions", package), why)
    for part, what in (("cpu", "processors"), ("device", "devices")):
        differ(what, about("hardware", part), "results do not depend on it, times do")
    for side in sides:
        resumed = [some for e in side.environments if isinstance(some := e.get("resumed"), list)]
        for entry in (entry for some in resumed for entry in some if isinstance(entry, Mapping)):
            if isinstance(different := entry.get("different"), list) and different:
                where = f"{side.name} went on elsewhere at step {entry.get('step')}"
                lines.append(f"{where}: {'; '.join(map(str, different))}")
    return lines


def _grids(sides: Sequence[Side]) -> list[str]:
    """A line if runs were not evaluated at the same steps, up to the last one that all have."""
    common = common_steps(sides)
    up_to = [[grid[grid <= common[-1]] for grid in side.grids] for side in sides]
    if all(np.array_equal(grid, common) for some in up_to for grid in some):
        return []
    numbers = [listing(list(dict.fromkeys(f"{len(grid)}" for grid in some))) for some in up_to]
    listed = ", ".join(f"{side.name}: {told}" for side, told in zip(sides, numbers))
    what = f"numbers of evaluations up to step {common[-1]:,} differ, or their steps do ({listed})"
    return [f"{what}: area and steps to a threshold are those of the {len(common)} that all have"]


def _part(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of environment.json; empty where it is missing or somebody has put something else."""
    value = environment.get(name)
    return value if isinstance(value, Mapping) else {}


def _commit(environment: Mapping[str, Any]) -> str | None:
    git = _part(environment, "git")
    commit = git.get("commit")
    return None if commit is None else f"{str(commit)[:12]}{' with changes' if git.get('modified') else ''}"


def _told(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
