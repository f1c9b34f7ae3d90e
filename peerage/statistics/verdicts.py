"""The verdicts of a comparison as sentences, and warnings about differences between the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from peerage.runs.environment import other_environment
from peerage.runs.folder import as_mapping
from peerage.statistics import tests
from peerage.statistics.comparison import Measure, Task, Versus
from peerage.statistics.samples import MIN_REPLICAS, Metric, Side, budget, common_steps, kinds_of_steps, replica_key
from peerage.statistics.tests import Interval
from peerage.text import count, listing, number

SIGNIFICANCE = 0.05
"""A difference is significant if its p value is below this."""


def subject(metric: Metric, measure: Measure, step: int, mode: str = "alone") -> str:
    """The quantity that is compared, such as `return at step 6,000`. `mode` of the evaluations is named unless it is
    alone."""
    what = metric if mode == "alone" else f"{metric} (mode {mode})"
    if measure == "last":
        return f"{what} at the last evaluation of each run"
    if measure == "final":
        return f"{what} at step {step:,}"
    return f"mean {what} up to step {step:,} (area under the learning curve)"


def comparatives(metric: Metric) -> tuple[str, str]:
    """The words for a side with higher and for one with lower values."""
    return ("longer", "shorter") if metric == "length" else ("better", "worse")


def improvement_name(metric: Metric) -> str:
    """The name of `Versus.improvement`."""
    return "probability of being longer" if metric == "length" else "probability of improvement"


# --- verdicts -------------------------------------------------------------------------------------------------


def with_verdicts(tasks: Sequence[Task], metric: Metric, measure: Measure) -> list[Task]:
    """The tasks with p values after Holm's correction over all comparisons, with `higher`, `winner` and the verdict.
    A comparison without a p value does not count in the correction."""
    single = [v.p for task in tasks for v in task.versus]
    corrected = zip(single, tests.holm(single))
    tested = sum(not math.isnan(p) for p in single)
    out = []
    for task in tasks:
        versus = []
        for v in task.versus:
            alone, p = next(corrected)
            ahead = (v.b if v.difference.estimate > 0 else v.a) if alone < SIGNIFICANCE else None  # false for NaN
            higher = ahead if p < SIGNIFICANCE else None
            verdict = _verdict(replace(v, p=p), ahead, task, tested, metric, measure)
            winner = None if metric == "length" else higher
            versus.append(replace(v, p=p, higher=higher, winner=winner, verdict=verdict))
        out.append(replace(task, versus=tuple(versus)))
    return out


def _verdict(
    v: Versus, ahead: str | None, task: Task, comparisons: int, metric: Metric, measure: Measure
) -> str:
    """The sentence: which side is better, by how much, and how certain that is.

    `ahead`: the side with significantly higher values before the correction for `comparisons` comparisons; `v.p` is
    the corrected value.
    """
    of = "" if measure != "area" else f" of the mean {metric} up to step {task.step:,}"
    on = f" on IQM{of}" if of else ""
    d, n = v.difference, v.replicas
    each = f"{count(n[0], 'replica')} each" if n[0] == n[1] else f"{n[0]} and {n[1]} replicas"
    if min(n) < MIN_REPLICAS:
        few = "one replica each is" if n == (1, 1) else f"{each} are"
        return (
            f"{v.b} against {v.a}{on}: {_signed(d.estimate)}; {few} too few for a test: "
            f"train at least {MIN_REPLICAS}, better 5 or more (--replicas)"
        )
    curves = [side.curves for side in task.sides if side.name in (v.a, v.b)]
    if curves[0].shape == curves[1].shape and np.array_equal(curves[0], curves[1]):
        return f"{v.b} and {v.a} have identical results: no difference"
    after = f" after Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""
    test = f"{_equals(v.p)}{after}"
    if ahead is None:
        power = each
        if not math.isnan(v.detectable):
            power += f" detect differences above {number(v.detectable)} with a power of 80%"
        none = f"no significant difference between {v.b} and {v.a}{on}: {_signed(d.estimate)} {in_brackets(d)}"
        return f"{none}; {test}; {power}"
    behind, sign = (v.a, 1) if ahead == v.b else (v.b, -1)
    lead, low, high = sign * d.estimate, *sorted((sign * d.low, sign * d.high))
    better = v.improvement if sign > 0 else _reversed(v.improvement)
    significant = v.p < SIGNIFICANCE
    if metric == "length":
        verb = "has longer episodes than"
    else:
        verb = "beats" if significant else "is ahead of"
    but = "" if significant else ": not significant after this correction"
    return (
        f"{ahead} {verb} {behind} on IQM{of} by {number(lead)} [{number(low)}, {number(high)}], "
        f"{improvement_name(metric)} {better.estimate:.2f} {in_brackets(better, '.2f')}; {test}{but}; {each}"
    )


def _reversed(p: Interval) -> Interval:
    """The probability that b is above a, from that of a above b."""
    return replace(p, estimate=1 - p.estimate, low=1 - p.high, high=1 - p.low)


def overall(tasks: Sequence[Task], metric: Metric) -> tuple[str, ...]:
    """Sentences about several tasks together: how many each side wins, and the mean probability of improvement."""
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
        more, less = comparatives(metric)
        mean = float(np.mean([v.improvement.estimate for v in some]))
        won = f"{b} against {a}: {more} on {above}, {less} on {below} of {len(some)} {what}"
        lines.append(f"{won}; mean {improvement_name(metric)} {mean:.2f}")
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


# --- warnings -------------------------------------------------------------------------------------------------


def warnings_about(sides: Sequence[Side], measure: Measure = "final") -> list[str]:
    """A line for each difference that makes a comparison of these sides doubtful; runs of one side are checked too."""
    kinds = kinds_of_steps(sides)
    lines = [kinds] if kinds else []
    lines += [*(line for side in sides for line in side.warnings), *task_differences(sides)]

    def differ(what: str, values: Sequence[Sequence[Any]], why: str) -> None:
        lines.extend(_differ(sides, what, values, why))

    def environment(part: str, name: str) -> list[list[Any]]:
        return [[as_mapping(e.get(part)).get(name) for e in side.environments] for side in sides]

    if not kinds:
        budgets = [[budget(config) for config in side.configs] for side in sides]
        differ("budgets", budgets, "schedules depend on the length of a run")
    last = [[int(side.steps[-1])] for side in sides]
    why = "each run is compared at its own" if measure == "last" else "compared at the last common step"
    differ("last evaluations", last, why)
    for i, side in enumerate(sides):
        for other in sides[:i]:
            if replica_key(side.config) == replica_key(other.config) and set(side.seeds) & set(other.seeds):
                lines.append(f"{side.name} and {other.name} have the same settings and seed: not independent samples")
    episodes = [[config["run"]["n_eval_episodes"] for config in side.configs] for side in sides]
    differ("numbers of evaluation episodes", episodes, "the noise differs")
    starts = [[config["run"].get("eval_starts", "shared") for config in side.configs] for side in sides]
    differ("start states of evaluations", starts, "some replicas were evaluated on other episodes")
    rules = [[config["run"]["success"] for config in side.configs] for side in sides]
    differ("rules of success", rules, "the same episode can succeed under one rule and fail under the other")
    longest = [[config["run"]["max_eval_steps"] for config in side.configs] for side in sides]
    differ("limits of evaluation episodes", longest, "--max-eval-steps may have cut episodes at different steps")
    lines += [] if measure == "last" else _grids(sides)
    for side in sides:
        if not all(as_mapping(e.get("versions")) for e in side.environments):
            lines.append(f"{side.name}: environment.json does not name the versions that it was trained with")
    differ("git commits", [[_commit(e) for e in side.environments] for side in sides], "the code is different")
    for package in ("gymnasium", "mujoco", "box2d", "torch", "numpy", "python", "peerage"):
        why = "trajectories may differ" if package in ("gymnasium", "mujoco", "box2d") else "usually a small effect"
        differ(f"versions of {package}", environment("versions", package), why)
    for part, what in (("cpu", "processors"), ("device", "devices")):
        differ(what, environment("hardware", part), "affects the speed, not the results")
    for side in sides:
        resumed = [some for e in side.environments if isinstance(some := e.get("resumed"), list)]
        for entry in (entry for some in resumed for entry in some if isinstance(entry, Mapping)):
            if isinstance(different := entry.get("different"), list) and different:
                where = f"{side.name} was resumed under other conditions at step {entry.get('step')}"
                lines.append(f"{where}: {'; '.join(map(str, different))}")
    return lines


def task_differences(sides: Sequence[Side]) -> list[str]:
    """A line for each difference between the tasks of these sides."""
    envs, arguments = ([[config[name] for config in side.configs] for side in sides] for name in ("env", "env_args"))
    return [
        *_differ(sides, "environments", envs, "their returns are not comparable"),
        *_differ(sides, "environment arguments", arguments, "the tasks are different"),
        *_other_environments(sides),
    ]


def _differ(sides: Sequence[Side], what: str, values: Sequence[Sequence[Any]], why: str) -> list[str]:
    """A line if the `values` of the runs of all sides are not equal; unknown values are ignored."""
    texts = [list(dict.fromkeys(map(_value_text, some))) for some in values]
    if len({text for some in texts for text in some} - {_value_text(None)}) <= 1:
        return []
    listed = ", ".join(f"{side.name}: {listing(some)}" for side, some in zip(sides, texts))
    return [f"{what} differ ({listed}): {why}"]


def _other_environments(sides: Sequence[Side]) -> list[str]:
    """A line for each side whose environment has the name of an earlier side's environment but is another one."""
    lines, before = [], dict[str, Side]()
    for side in sides:
        first = before.setdefault(side.env, side)
        if how := other_environment(first.environments[0], side.environments[0]):
            other = f"{first.name} and {side.name} were trained on different environments with the name {side.env}"
            lines.append(f"{other} ({how}): their returns are not comparable")
    return lines


def _grids(sides: Sequence[Side]) -> list[str]:
    """A line if runs were not evaluated at the same steps, up to the last common one."""
    common = common_steps(sides)
    up_to = [[grid[grid <= common[-1]] for grid in side.grids] for side in sides]
    if all(np.array_equal(grid, common) for some in up_to for grid in some):
        return []
    numbers = [listing(list(dict.fromkeys(f"{len(grid)}" for grid in some))) for some in up_to]
    listed = ", ".join(f"{side.name}: {amount}" for side, amount in zip(sides, numbers))
    what = f"the steps of the evaluations up to step {common[-1]:,} differ (number of evaluations: {listed})"
    return [f"{what}: area and steps to a threshold use the {len(common)} common ones"]


def _commit(environment: Mapping[str, Any]) -> str | None:
    git = as_mapping(environment.get("git"))
    commit = git.get("commit")
    return None if commit is None else f"{str(commit)[:12]}{' with changes' if git.get('modified') else ''}"


def _value_text(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
