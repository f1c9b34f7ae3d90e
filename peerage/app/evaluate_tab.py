"""The tab *Evaluate*: learning curves of several runs, their comparison, and the networks of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from peerage.app import curves, tables
from peerage.app.markdown import pairs, plain
from peerage.app.runs import find, open_run, version_of
from peerage.errors import UserError
from peerage.evaluation.architecture import LayerSize, layer_sizes
from peerage.reports import charts
from peerage.reports.comparison_page import COLOURS, band
from peerage.reports.plot_scales import Series
from peerage.runs.folder import RunFolder
from peerage.statistics import summaries
from peerage.statistics.compare import compare
from peerage.statistics.comparison import Comparison, Task
from peerage.statistics.formats import differing, table, title
from peerage.statistics.verdicts import improvement_name
from peerage.text import listing, number

METRICS = ("return", "success", "length")
MEASURES = {
    "": "the last evaluation",
    "area": "the area under the learning curve",
    "last": "the last evaluation of each run, whatever its step",
}
FIRST = 3
"""Runs that are chosen without asking."""


def show(log_dir: Path) -> None:
    """The tab."""
    listed = {run.name: run for run in find(log_dir)}
    if not listed:
        st.info(f"There are no runs in {plain(log_dir)} yet. The tab Train starts one.")
        return
    about = "Runs that differ only in their seed are replicas of one side. The first run is the reference."
    names = st.multiselect("Runs", list(listed), default=_comparable(log_dir, list(listed)), key="compared", help=about)
    left, middle, right = st.columns(3)
    metric = left.selectbox("Metric", METRICS, key="metric", help="Of the evaluation episodes.")
    measure = middle.selectbox("Compared quantity", list(MEASURES), format_func=MEASURES.__getitem__, key="measure")
    about = "Replicas with the same seed are pairs; all sides must have the same seeds."
    paired = right.checkbox("Paired by seed", key="paired", help=about)
    folders = []
    for name in names:
        try:
            folders.append(open_run(log_dir, name).path)
        except UserError as error:
            st.error(plain(error))
    if not folders:
        st.caption("Choose at least one run.")
        return
    if len(folders) > 1:
        try:
            _show_comparison(_comparison(folders, str(metric), str(measure), paired))
        except UserError as error:
            st.warning(plain(f"No comparison: {error}."))
            _show_single(folders, str(metric))
    else:
        _show_single(folders, str(metric))
    _show_networks(folders)
    _show_reports(folders)


def _comparable(log_dir: Path, names: Sequence[str]) -> list[str]:
    """The newest run and the next ones on the same environment."""
    found: list[tuple[str, str]] = []
    for name in names[: 4 * FIRST]:
        try:
            found.append((name, tables.config(open_run(log_dir, name).path).env))
        except UserError:
            continue
    return [name for name, env in found if env == found[0][1]][:FIRST]


# --- comparison -----------------------------------------------------------------------------------------------


def _comparison(folders: Sequence[Path], metric: Any, measure: Any, paired: bool) -> Comparison:
    version = [version_of(folder) for folder in folders]
    words = [str(folder) for folder in folders]

    def make() -> Comparison | UserError:
        try:
            return compare(words, metric=metric, measure=measure or None, paired=paired)
        except UserError as error:
            return error

    found: Comparison | UserError = tables.kept(("compare", *words, metric, measure, paired), version, make)
    if isinstance(found, UserError):
        raise found
    return found


def _show_comparison(found: Comparison) -> None:
    for line in found.overall:
        st.markdown(f"**{plain(line)}.**")
    for task in found.tasks:
        st.subheader(plain(task.name))
        series = [band(side, place, task.step, found.metric) for place, side in enumerate(task.sides)]
        made = curves.figure(series, found.metric, "Learning curves")
        curves.show(made, f"compare/{task.name}", alt="Learning curves of the runs")
        st.caption("Interquartile mean over replicas of the mean over members, with the 95% interval of each step.")
        for versus in task.versus:
            sign = ":material/check_circle:" if versus.higher else ":material/remove:"
            st.markdown(f"{sign} {plain(versus.verdict)}.")
        heads, rows = table(found, task)
        st.caption(plain(title(found, task)))
        st.dataframe(_frame([head or "side" for head in heads], rows), hide_index=True)
        _show_differences(found, task)
    if found.differences:
        with st.expander("Settings that differ"):
            st.dataframe(_frame(["setting", "values (sides)"], differing(found)), hide_index=True)
    for line in found.warnings:
        st.warning(plain(f"{line}."))


def _show_differences(found: Comparison, task: Task) -> None:
    """The interval of the difference to the reference, of every other side."""
    known = [versus for versus in task.versus if not math.isnan(versus.difference.low)]
    if not known:
        st.caption("Intervals and tests need three replicas of each side: `--replicas 3`, or runs with other seeds.")
        return
    rows = [
        {
            "side": versus.b,
            f"difference to {versus.a}": number(versus.difference.estimate),
            "95% interval": f"{number(versus.difference.low)} to {number(versus.difference.high)}",
            improvement_name(found.metric): f"{versus.improvement.estimate:.2f}",
            "p (Holm)": "–" if math.isnan(versus.p) else f"{versus.p:.3f}",
        }
        for versus in known
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def _frame(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    return pd.DataFrame([list(row) for row in rows], columns=list(heads))


def _show_single(folders: Sequence[Path], metric: str) -> None:
    """The learning curve of each run by itself, with the interval over its replicas."""
    series: list[Series] = []
    caption = ""
    for place, folder in enumerate(folders):
        evaluations = tables.evaluations(folder)
        values = summaries.success_values(evaluations) if metric == "success" else None
        lines, text = charts.lines(summaries.member_values(evaluations, metric) if values is None else values)
        if not lines:
            st.caption(plain(f"{folder.name} has no {metric} in its evaluations."))
        elif len(folders) == 1:
            series, caption = lines, text
        else:
            series.append(replace(lines[-1], name=folder.name, colour=COLOURS[place % len(COLOURS)]))
    if series:
        curves.show(curves.figure(series, metric, "Learning curves"), "single", alt="Learning curves")
        st.caption(plain(caption or "Mean over members, then over replicas, with the interval over replicas."))


# --- networks and reports -------------------------------------------------------------------------------------


def _show_networks(folders: Sequence[Path]) -> None:
    st.subheader("Networks")
    names = [folder.name for folder in folders]
    name = st.selectbox("Networks of", names, key="networks", label_visibility="collapsed")
    folder = folders[names.index(str(name))]
    try:
        sizes: list[LayerSize] = tables.kept(("layers", folder), version_of(folder), lambda: layer_sizes(folder))
    except UserError as error:
        st.warning(plain(error))
        return
    for (members, network), layers in _by_network(sizes).items():
        total, copies = sum(layer.parameters for layer in layers), layers[0].copies
        who = f"members {listing([str(member) for member in members])}" if len(members) > 1 else f"member {members[0]}"
        several = f", {copies} networks of this shape" if copies > 1 else ""
        with st.expander(f"{network}: {total:,} parameters per member ({who}{several})"):
            rows = [[each.layer, " × ".join(map(str, each.shape)), each.parameters] for each in layers]
            st.dataframe(pd.DataFrame(rows, columns=["layer", "shape", "parameters"]), hide_index=True)


def _by_network(sizes: Sequence[LayerSize]) -> dict[tuple[tuple[int, ...], str], list[LayerSize]]:
    found: dict[tuple[tuple[int, ...], str], list[LayerSize]] = {}
    for size in sizes:
        found.setdefault((size.members, size.network), []).append(size)
    return found


def _show_reports(folders: Sequence[Path]) -> None:
    st.subheader("Reports")
    for some in pairs(folders):
        for column, folder in zip(st.columns(2), some):
            report = RunFolder.open(folder).path / "report.html"
            if report.is_file():
                label, file = f"report.html of {plain(folder.name)}", f"{folder.name}.html"
                column.download_button(label, report.read_bytes(), file, "text/html", key=f"report/{folder}")
                column.caption(plain(report))
            else:
                column.caption(f"{plain(folder.name)} has no report: `peerage report {folder}` writes it.")
