"""A comparison as text for a terminal, as JSON, and as a LaTeX table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from peerage.statistics.comparison import Comparison, Task, Versus
from peerage.statistics.json_data import json_data
from peerage.statistics.tests import Interval
from peerage.statistics.verdicts import comparatives, improvement_name, in_brackets, subject
from peerage.text import listing, number


def _with_range(interval: Interval) -> str:
    return f"{number(interval.estimate)} {in_brackets(interval)}"


def table(comparison: Comparison, task: Task) -> tuple[list[str], list[list[str]]]:
    """The column heads and rows of the table of a task."""
    more, less = comparatives(comparison.metric)
    heads = ["", "verdict", f"P({more})", "replicas", "IQM", "mean", "median"]
    heads.append({"final": "area", "area": "IQM at the end", "last": "step"}[comparison.measure])
    heads += [f"steps to {number(comparison.threshold)}"] if comparison.threshold is not None else []
    heads += [f"gap below {number(comparison.target)}"] if comparison.target is not None else []
    has_late = any(row.late_spread is not None for row in task.rows)
    heads += ["late spread", "converged at"] if has_late else []
    rows = []
    against = {v.b: v for v in task.versus}
    for row, side in zip(task.rows, task.sides):
        v = against.get(row.side)
        word = "reference" if v is None else "no test" if math.isnan(v.p) else _word(v, more, less)
        better = "" if v is None else f"{v.improvement.estimate:.2f} {in_brackets(v.improvement, '.2f')}"
        better = "–" if v is not None and v.replicas == (1, 1) else better  # 0, 0.5 or 1, whatever the runs are
        cells = [row.side, word, better, str(row.replicas), _with_range(row.iqm), _with_range(row.mean)]
        cells.append(number(row.median))
        if comparison.measure == "last":
            cells.append(f"{side.steps[-1]:,}{' (gradient)' if side.offline else ''}")
        else:
            cells.append(_with_range(row.area if comparison.measure == "final" else row.final))
        if row.threshold is not None:
            cells.append(_reached(row.threshold, row.replicas))
        if row.gap is not None:
            cells.append(_with_range(row.gap))
        if row.late_spread is not None and row.convergence is not None:
            cells += [_with_range(row.late_spread), _reached(row.convergence, row.replicas)]
        rows.append(cells)
    return heads, rows


def _reached(reached: tuple[int, float], replicas: int) -> str:
    count, steps = reached
    return f"{'never' if math.isinf(steps) else f'{steps:,.0f}'} ({count} of {replicas})"


def _word(v: Versus, more: str, less: str) -> str:
    return more if v.higher == v.b else less if v.higher else "not significant"


def differing(comparison: Comparison) -> list[tuple[str, str]]:
    """The settings in which sides differ: (setting, its values, each with the sides that have it or their number)."""
    rows = []
    for name, values in comparison.differences.items():
        by_value: dict[str, list[str]] = {}
        for side, value in values.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            by_value.setdefault(text or "–", []).append(side)
        owners = {v: listing(sides) if len(values) <= 4 else f"{len(sides)} sides" for v, sides in by_value.items()}
        rows.append((name, "; ".join(f"{value} ({sides})" for value, sides in owners.items())))
    return rows


def title(comparison: Comparison, task: Task) -> str:
    """The title of the table of a task."""
    what = subject(comparison.metric, comparison.measure, task.step, comparison.mode)
    return f"{task.name}: {what}; 95% intervals over replicas"


def as_text(comparison: Comparison) -> str:
    """For a terminal: tables, verdicts, settings that differ, warnings."""
    lines: list[str] = []
    for task in comparison.tasks:
        heads, rows = table(comparison, task)
        widths = [max(len(line[i]) for line in [heads, *rows]) for i in range(len(heads))]
        lines += [title(comparison, task)]
        lines += ["  ".join(f"{cell:{w}}" for cell, w in zip(line, widths)).rstrip() for line in [heads, *rows]]
        lines += ["", *(f"{v.verdict}." for v in task.versus), ""]
    lines += [f"{line}." for line in comparison.overall] + ([""] if comparison.overall else [])
    if comparison.differences:
        lines.append("Settings that differ:")
        lines += [f"  {name}: {values}" for name, values in differing(comparison)]
        lines.append("")
    lines += [f"warning: {line}" for line in comparison.warnings]
    return "\n".join(lines).rstrip() + "\n"


def as_json(comparison: Comparison) -> str:
    """The whole comparison as JSON; numbers that are not finite are null."""
    tasks = []
    for task in comparison.tasks:
        sides = [
            {"name": s.name, "runs": [str(run) for run in s.runs], "env": s.env, "seeds": s.seeds,
             "steps": s.steps.tolist(), "curves": s.curves.tolist()}
            for s in task.sides
        ]  # fmt: skip
        rows, versus = [asdict(row) for row in task.rows], [asdict(v) for v in task.versus]
        tasks.append({"name": task.name, "step": task.step, "sides": sides, "rows": rows, "versus": versus})
    data = {
        "metric": comparison.metric,
        "measure": comparison.measure,
        "mode": comparison.mode,
        "threshold": comparison.threshold,
        "target": comparison.target,
        "tasks": tasks,
        "overall": comparison.overall,
        "differences": comparison.differences,
        "warnings": comparison.warnings,
    }
    return json.dumps(json_data(data), indent=1, ensure_ascii=False) + "\n"


def as_latex(comparison: Comparison) -> str:
    """A table for a paper (booktabs): a row per side, IQM and mean with their 95% intervals, the winner in bold.

    All numbers of a task have the same number of decimals, that of its largest estimate in the text, so that digits are
    aligned.
    """
    metric, measure, step = comparison.metric, comparison.measure, max(task.step for task in comparison.tasks)
    lines = [
        f"% {subject(metric, measure, step, comparison.mode)}; needs \\usepackage{{booktabs}}",
        f"% IQM and mean over replicas with 95% intervals; P: {improvement_name(metric)}, against the first row",
        *([] if metric == "length" else ["% bold: significantly better than the first row, or the first than all"]),
        r"\begin{tabular}{llrrrrrr}",
        r"\toprule",
        r"Environment & Method & $n$ & \multicolumn{2}{c}{IQM} & \multicolumn{2}{c}{Mean} & $P$ \\",
        r"\midrule",
    ]
    for k, task in enumerate(comparison.tasks):
        lines += [r"\midrule"] if k else []
        against = {v.b: v for v in task.versus}
        bold_sides = {v.b for v in task.versus if v.winner == v.b}
        bold_sides |= {v.a for v in task.versus[:1] if all(w.winner == v.a for w in task.versus)}
        largest = max((x for row in task.rows for x in (row.iqm.estimate, row.mean.estimate)), key=abs)
        digits = len(number(largest).partition(".")[2])
        for i, row in enumerate(task.rows):
            iqm = _tex_number(row.iqm.estimate, digits)
            bold = rf"\mathbf{{{iqm}}}" if row.side in bold_sides else iqm
            cells = [_tex(task.name) if i == 0 else "", _tex(row.side), str(row.replicas)]
            cells += [f"${bold}$", _tex_range(row.iqm, digits)]
            cells += [f"${_tex_number(row.mean.estimate, digits)}$", _tex_range(row.mean, digits)]
            v = against.get(row.side)
            cells.append("--" if v is None else f"${v.improvement.estimate:.2f}$")
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_range(interval: Interval, digits: int) -> str:
    if math.isnan(interval.low):
        return "--"
    low, high = (_tex_number(x, digits) for x in (interval.low, interval.high))
    return rf"{{\small $[{low}, {high}]$}}"


def _tex_number(value: float, digits: int) -> str:
    """A number for math mode, in which a bare comma would be followed by a space."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace(",", "{,}")  # + 0.0 turns -0.0 into 0.0


def _tex(text: str) -> str:
    """Text with the special characters of LaTeX escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    special |= {c: f"\\{c}" for c in "&%$#_{}"}
    return "".join(special.get(c, c) for c in text)
