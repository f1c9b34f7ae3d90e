"""The page of a comparison, and what goes beside it: learning curves as PNG, the numbers as JSON, a table for LaTeX."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from peerage.errors import UserError
from peerage.evaluation import formats, statistics
from peerage.evaluation.compare import MEASURES, Comparison, Task
from peerage.evaluation.samples import Side
from peerage.runs import page, plots
from peerage.runs.folder import write_atomically
from peerage.runs.text import count, number, short

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D46", "#56B4E9", "#5B2A86", "#B8860B")
"""Told apart by the colour-blind (after Okabe and Ito); a ninth side has the first one's, dashed."""
MARK = "comparison.json"
"""A folder with this file is a comparison, and is replaced by the next one of the same name."""
POINTS = 300
"""A curve has at most so many."""


def write_comparison(comparison: Comparison, out: Path | None, command: Sequence[str]) -> Path:
    """Write page, figures, JSON and LaTeX into `out`, by default `comparisons/A-vs-B`; returns the page's path.

    UserError if the folder holds something that is not a comparison.
    """
    folder = out or Path("comparisons") / _name(comparison)
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise UserError(f"{folder} is there and is not a comparison: give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task in comparison.tasks:
            (folder / f"{_slug(task.name)}.png").write_bytes(_png(comparison, task))
        write_atomically(folder / "table.tex", formats.as_latex(comparison))
        write_atomically(folder / "comparison.html", render(comparison, command))
        write_atomically(folder / MARK, formats.as_json(comparison))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder / "comparison.html"


def _name(comparison: Comparison) -> str:
    names = list(dict.fromkeys(side.name for task in comparison.tasks for side in task.sides))
    more = f"-and-{len(names) - 2}-more" if len(names) > 2 else ""
    runs = [str(run.resolve()) for task in comparison.tasks for side in task.sides for run in side.runs]
    what = json.dumps([runs, comparison.metric, comparison.measure, comparison.threshold, comparison.target])
    mark = hashlib.sha256(what.encode()).hexdigest()[:6]  # another comparison of the same names is another folder
    return _slug("-vs-".join(short(name, 50) for name in names[:2]) + more) + f"-{mark}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text).strip(".-")[:120] or "comparison"


# --- the page -------------------------------------------------------------------------------------------------


def render(comparison: Comparison, command: Sequence[str]) -> str:
    """The page as HTML; the same comparison gives the same bytes."""
    names = list(dict.fromkeys(side.name for task in comparison.tasks for side in task.sides))
    title = " against ".join(short(name, 40) for name in names[1::-1]) if len(names) == 2 else f"{len(names)} ways"
    where = ", ".join(task.name for task in comparison.tasks)
    parts: list[str | page.Section] = [
        f"<h1>{escape(title)}</h1>",
        page.paragraph(f"{comparison.metric} {MEASURES[comparison.measure]} on {where}; a replica counts once."),
        page.facts(_facts(comparison)),
        *(page.paragraph(f"{line}.") for line in comparison.overall),
    ]
    if comparison.warnings:
        parts.append(page.Section("Warnings", "".join(page.state(f"{line}.") for line in comparison.warnings)))
    for task in comparison.tasks:
        parts.append(page.Section(task.name, _task(comparison, task)))
    if comparison.differences:
        table = page.table(["setting", "value (of whom)"], formats.differing(comparison), text=True)
        parts.append(page.Section("Settings that differ", table))
    parts.append(page.Section("Runs", _runs(comparison)))
    again = page.code(shlex.join(command)) if command else ""
    note = "Intervals, tests and what they assume: docs/statistics.md. All numbers: comparison.json beside this page."
    parts.append(page.Section("How to repeat it", again + page.paragraph(note, dim=True)))
    return page.render(title, parts, [plots.STYLE], [plots.SCRIPT])


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What to see first: the verdicts, if they are few."""
    cards = []
    for task in comparison.tasks:
        for v in task.versus[:3]:
            word = f"{short(v.winner, 30)} is better" if v.winner else f"{short(v.b, 30)}: no difference can be seen"
            cards.append((word, f"{v.verdict}." if len(comparison.tasks) == 1 else f"{task.name}: {v.verdict}."))
    return cards[:6]


def _task(comparison: Comparison, task: Task) -> str:
    heads, rows = formats.table(comparison, task)
    parts = [page.table(heads, rows, caption=formats.title(comparison, task), wrap=True)]
    parts += [page.paragraph(f"{v.verdict}.") for v in task.versus]
    bands = [_band(side, i, task.step) for i, side in enumerate(task.sides)]
    caption = "Interquartile mean over replicas of the mean over members, with the 95% interval at each step by itself."
    parts.append(plots.curves(bands, comparison.metric, "Learning curves", caption=caption))
    rows_of = [(v.b, v.difference.estimate, v.difference.low, v.difference.high) for v in task.versus]
    against = f"difference to {task.sides[0].name}"
    caption = "Difference of interquartile means with its 95% interval; one that does not touch zero is beyond chance."
    parts.append(plots.intervals(rows_of, against, "Differences", caption=caption))
    rows_of = [(v.b, v.improvement.estimate, v.improvement.low, v.improvement.high) for v in task.versus]
    caption = f"How often a replica beats one of {task.sides[0].name}; at one half nobody does."
    parts.append(plots.intervals(rows_of, "probability", "Probability of improvement", caption=caption, reference=0.5))
    parts.append(_profile(comparison, task))
    return "\n".join(parts)


def _band(side: Side, place: int, last: int) -> plots.Series:
    steps, curves = side.until(last)
    thin = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    estimate, low, high = statistics.band(curves[:, thin], "iqm")
    colour, dashed = COLOURS[place % len(COLOURS)], place >= len(COLOURS)
    return plots.Series(short(side.name, 40), steps[thin], estimate, low, high, colour=colour, dash=dashed)


def _profile(comparison: Comparison, task: Task) -> str:
    """Which share of the replicas reached a height, over heights."""
    final = [side.until(task.step)[1][:, -1] for side in task.sides]
    if min(map(len, final)) < 3:
        return ""
    low, high = min(x.min() for x in final), max(x.max() for x in final)
    if low == high:
        return ""
    heights = np.linspace(low, high, 60)
    series = []
    for i, (side, x) in enumerate(zip(task.sides, final)):
        share, below, above = statistics.performance_profile(x, heights)
        colour, dashed = COLOURS[i % len(COLOURS)], i >= len(COLOURS)
        series.append(plots.Series(short(side.name, 40), heights, share, below, above, colour=colour, dash=dashed))
    look = plots.Look(xlabel=comparison.metric, xlim=(None, None), ylim=(0.0, 1.0))
    caption = "Share of the replicas whose last evaluation was above the height on the x axis."
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
    """Learning curves with bands, as the page has them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    from peerage.runs.figures import STYLE, WIDTH, png

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the user's own style must not change it
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for i, side in enumerate(task.sides):
            band = _band(side, i, task.step)
            label = f"{band.name} ({side.n})"
            axes.plot(band.steps, band.estimate, color=band.colour, ls="--" if band.dash else "-", label=label)
            if band.low is not None:
                axes.fill_between(band.steps, band.low, band.high, color=band.colour, alpha=0.15, lw=0)
        axes.set(xlabel=plots.STEPS, ylabel=comparison.metric, title=f"{task.name}: IQM over replicas, 95% intervals")
        axes.legend(fontsize=8)
        if comparison.threshold is not None:
            axes.axhline(comparison.threshold, color="#888888", ls=":", label=number(comparison.threshold))
        return png(figure)
