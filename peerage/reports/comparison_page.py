"""The folder of a comparison: the page, learning curves as PNG, the numbers as JSON and a table for LaTeX."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from peerage.errors import UserError
from peerage.reports import drawing, page, plots
from peerage.reports.heatmaps import capital
from peerage.runs.folder import write_atomically
from peerage.statistics import formats, tests
from peerage.statistics.comparison import Comparison, Task
from peerage.statistics.samples import RANGES, Metric, Side, kinds_of_steps
from peerage.statistics.verdicts import MIN_REPLICAS, comparatives, improvement_name, subject
from peerage.text import count, listing, number, short

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D46", "#56B4E9", "#5B2A86", "#B8860B")
"""Colours of the sides, distinguishable for the colour-blind (after Okabe and Ito); from the ninth side on, dashed."""
RESULT_FILE = "comparison.json"
"""A folder with this file is a comparison and may be replaced by another comparison."""
POINTS = 300
"""Largest number of points of a curve."""
STYLE = """
.facts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); } .fact b { font-size: 1.2rem; }
.fact span { overflow-wrap: anywhere; }
.scroll table { font-size: .88rem; } .scroll th, .scroll td { padding-left: .5rem; padding-right: .5rem; }
.scroll .text { overflow-wrap: normal; }
@media (max-width: 34rem) { .intervals tr { grid-template-columns: minmax(0, 1fr) auto; } }
@media print { .scroll table { font-size: 7.5pt; } .scroll th.name { min-width: 5.5rem; }
  .scroll th, .scroll td { padding-left: .15rem; padding-right: .15rem; } }
"""
"""Tables fit the window and a printed page with all columns; long names wrap only where they may."""


def write_comparison(comparison: Comparison, out: Path | None, command: Sequence[str]) -> Path:
    """Write page, figures, JSON and LaTeX into `out`, by default `comparisons/A-vs-B`; returns the page's path.

    Raises UserError if the folder contains anything other than a comparison.
    """
    folder = out or Path("comparisons") / _name(comparison)
    if folder.exists() and not (folder.is_dir() and (_is_comparison(folder) or not any(folder.iterdir()))):
        raise UserError(f"{folder} exists and is not a comparison: choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task in comparison.tasks:
            write_atomically(folder / f"{_slug(task.name)}.png", _png(comparison, task))
        write_atomically(folder / "table.tex", formats.as_latex(comparison))
        write_atomically(folder / "comparison.html", render(comparison, command))
        write_atomically(folder / RESULT_FILE, formats.as_json(comparison))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder / "comparison.html"


def _is_comparison(folder: Path) -> bool:
    """Whether its `RESULT_FILE` has the format of a comparison."""
    try:
        data = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"metric", "measure", "tasks", "differences", "warnings"} <= data.keys()


def _name(comparison: Comparison) -> str:
    """The default name of the folder."""
    names = list(dict.fromkeys(side.name for task in comparison.tasks for side in task.sides))
    more = f"-and-{len(names) - 2}-more" if len(names) > 2 else ""
    sides = [
        (task.name, side.name, *(str(run.resolve()) for run in side.runs))
        for task in comparison.tasks
        for side in task.sides
    ]
    paired = [v.paired for task in comparison.tasks for v in task.versus]
    asked: list[Any] = [comparison.metric, comparison.measure, comparison.threshold, comparison.target]
    asked += [comparison.mode] if comparison.mode != "alone" else []
    what = json.dumps([sides, paired, asked])
    checksum = hashlib.sha256(what.encode()).hexdigest()[:6]  # separates comparisons of sides with the same names
    return _slug("-vs-".join(short(name, 50) for name in names[:2]) + more) + f"-{checksum}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text).strip(".-")[:120] or "comparison"


# --- the page -------------------------------------------------------------------------------------------------


def render(comparison: Comparison, command: Sequence[str]) -> str:
    """The page as HTML; the same comparison gives the same bytes."""
    title = _title(comparison)
    last = max(task.step for task in comparison.tasks)
    tasks = [task.name for task in comparison.tasks]
    where = listing(tasks) if len(tasks) < 5 else f"{len(tasks)} tasks"
    what = subject(comparison.metric, comparison.measure, last, comparison.mode)
    parts: list[str | page.Section] = [
        _with_breaks(f"<h1>{escape(_breakable(title))}</h1>"),
        page.paragraph(f"Compared quantity: {what}, on {where}. The unit is the replica."),
        _with_breaks(page.facts(_facts(comparison))),
        *(page.paragraph(f"{line}.") for line in comparison.overall),
    ]
    if comparison.warnings:
        parts.append(page.Section("Warnings", "".join(page.state(f"{line}.") for line in comparison.warnings)))
    for task in comparison.tasks:
        parts.append(page.Section(task.name, _task(comparison, task)))
    if comparison.differences:
        table = page.table(["setting", "values (sides)"], formats.differing(comparison), text=True)
        parts.append(page.Section("Settings that differ", table))
    parts.append(page.Section("Runs", _runs(comparison)))
    again = page.code(shlex.join(command)) if command else ""
    note = "Intervals, tests and assumptions: docs/statistics.md. All numbers: comparison.json in the same folder."
    parts.append(page.Section("How to repeat it", again + page.paragraph(note, dim=True)))
    return page.render(title, parts, [plots.STYLE, STYLE], [plots.SCRIPT])


def _breakable(text: str) -> str:
    """`text` with zero-width spaces where a long name may wrap: after = _ , . and /, not within words or numbers."""
    return re.sub(r"([=_,./]+)(?=[^\W\d])", "\\1\u200b", text)


def _with_breaks(html: str) -> str:
    """The zero-width spaces as <wbr> elements, which are not copied with the text."""
    return html.replace("\u200b", "<wbr>")


def _title(comparison: Comparison) -> str:
    names = list(dict.fromkeys(side.name for task in comparison.tasks for side in task.sides))
    if len(names) > 3:
        envs = list(dict.fromkeys(side.env for task in comparison.tasks for side in task.sides))
        return f"{len(names)} methods on {listing(envs) if len(envs) < 4 else f'{len(envs)} environments'}"
    reference, *others = (short(name, 40) for name in names)
    return f"{listing(others)} against {reference}"


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """The cards at the top: up to six verdicts, significant ones first."""
    cards = []
    for task in comparison.tasks:
        for v in sorted(task.versus, key=lambda v: v.higher is None)[:3]:
            word = f"{short(v.b, 30)}: no significant difference"
            if math.isnan(v.p):
                fewest = min(v.replicas)
                word = f"{short(v.b, 30)}: no test, {'one replica' if fewest == 1 else f'{fewest} replicas'}"
            if v.higher:
                word = f"{short(v.higher, 30)} is {comparatives(comparison.metric)[0]}"
            verdict = f"{v.verdict}." if len(comparison.tasks) == 1 else f"{task.name}: {v.verdict}."
            cards.append((_breakable(word), _breakable(verdict)))
    return cards[:6]


def _task(comparison: Comparison, task: Task) -> str:
    heads, rows = formats.table(comparison, task)
    rows = [[_breakable(row[0]), *row[1:]] for row in rows]
    parts = [_with_breaks(page.table(heads, rows, caption=formats.title(comparison, task), wrap=True))]
    parts += [page.paragraph(f"{v.verdict}.") for v in task.versus]
    metric, what = comparison.metric, subject(comparison.metric, comparison.measure, task.step, comparison.mode)
    bands = [band(side, i, task.step, metric) for i, side in enumerate(task.sides)]
    caption = "Interquartile mean over replicas of the mean over members, with the 95% interval of each step."
    if kinds := kinds_of_steps(task.sides):
        caption += f" {capital(kinds)}."
    if comparison.measure == "area":
        caption += " The compared quantity is the mean height of each replica's curve: the area under it over the"
        caption += " common steps, divided by their range."
    parts.append(plots.curves(bands, metric, "Learning curves", caption=caption))
    names = [_breakable(short(v.b, 40)) for v in task.versus]
    against = f"difference to {task.sides[0].name}"
    caption = f"Difference of interquartile means of the {what}, with its 95% interval"
    caption += ". The verdict corrects the p values for the number of comparisons; intervals are not corrected."
    differences = [(name, *_ends(v.difference)) for name, v in zip(names, task.versus)]
    parts.append(_with_breaks(plots.intervals(differences, against, "Differences", caption=caption)))
    shares = [(name, *_ends(v.improvement)) for name, v in zip(names, task.versus)]
    name = improvement_name(metric)
    caption = f"Probability that a replica is above one of {task.sides[0].name} in the {what} (0.5: no difference)."
    chart = plots.intervals(shares, "probability", name.capitalize(), caption=caption, reference=0.5)
    parts.append(_with_breaks(chart))
    parts.append(_profile(comparison, task))
    return "\n".join(parts)


def _ends(interval: tests.Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high


def band(side: Side, place: int, last: int, metric: Metric) -> plots.Series:
    """The learning curve of a side until the step `last`: the interquartile mean over replicas and its interval. The
    colour is that of the `place`, from 0."""
    steps, curves = side.until(last)
    thin = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    estimate, *limits = tests.band(curves[:, thin], "iqm")
    if side.n < MIN_REPLICAS:
        limits = [np.full(len(thin), np.nan)] * 2
    low, high = (np.clip(limit, *RANGES[metric]) for limit in limits)
    colour, dashed = COLOURS[place % len(COLOURS)], place >= len(COLOURS)
    return plots.Series(short(side.name, 40), steps[thin], estimate, low, high, colour=colour, dash=dashed)


def _profile(comparison: Comparison, task: Task) -> str:
    """The performance profile: the share of replicas above a value, over values."""
    if min(map(len, task.samples)) < MIN_REPLICAS:
        return ""
    low, high = min(x.min() for x in task.samples), max(x.max() for x in task.samples)
    if low == high:
        return ""
    heights = np.linspace(low, high, 60)
    series = []
    for i, (side, x) in enumerate(zip(task.sides, task.samples)):
        reached, low_share, high_share = tests.performance_profile(x, heights)
        colour, dashed = COLOURS[i % len(COLOURS)], i >= len(COLOURS)
        line = plots.Series(
            short(side.name, 40), heights, reached, low_share, high_share, colour=colour, dash=dashed
        )
        series.append(line)
    what = subject(comparison.metric, comparison.measure, task.step, comparison.mode)
    look = plots.Look(xlabel=what, xlim=(None, None), ylim=(0.0, 1.0))
    caption = f"Share of the replicas whose {what} is above the value on the x axis."
    return plots.curves(series, "share of replicas", "Performance profile", caption=caption, look=look)


def _runs(comparison: Comparison) -> str:
    rows = []
    for task in comparison.tasks:
        for side in task.sides:
            folders = ", ".join(str(run) for run in side.runs)
            rows.append([side.name, task.name, count(side.n, "replica"), folders])
    return page.table(["side", "environment", "replicas", "folders"], rows, text=True)


# --- for papers -----------------------------------------------------------------------------------------------


def _png(comparison: Comparison, task: Task) -> bytes:
    """The learning curves with bands, as on the page."""
    with drawing.common_style():
        figure = drawing.new_figure(4.2)
        axes = figure.add_subplot()
        for i, side in enumerate(task.sides):
            one = band(side, i, task.step, comparison.metric)
            label = f"{one.name} ({side.n})"
            if comparison.measure == "area":
                label += f", area {number(task.rows[i].iqm.estimate)}"
            axes.plot(one.steps, one.estimate, color=one.colour, ls="--" if one.dash else "-", label=label)
            if one.low is not None:
                axes.fill_between(one.steps, one.low, one.high, color=one.colour, alpha=0.15, lw=0)
        steps = f"steps ({kinds_of_steps(task.sides)})" if kinds_of_steps(task.sides) else plots.STEPS
        axes.set(xlabel=steps, ylabel=comparison.metric, title=f"{task.name}: IQM over replicas, 95% intervals")
        axes.legend(fontsize=8)
        if comparison.threshold is not None:
            axes.axhline(comparison.threshold, color="#888888", ls=":", label=number(comparison.threshold))
        return drawing.png(figure)
