"""Figures of advice over time: trust in advisers, and followed advisers. `heatmaps` has the matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from peerage.reports import heatmaps
from peerage.reports.drawing import (
    MAX_MEMBERS,
    Draft,
    StepScale,
    adviser_colour,
    curve,
    draw_curve,
    legend,
    line_style,
    new_figure,
)
from peerage.reports.heatmaps import capital
from peerage.statistics import summaries
from peerage.statistics.advice_log import signals_in_use, trust_curves
from peerage.text import count, listing, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 50
"""Largest number of points of the stacked areas and of signals: each summarises several rows of the log, which reduces
the noise."""
SCORE_POINTS = 24
"""Largest number of points of a score, which fluctuates more: a row of the log has the score of a single choice."""


def makers(metrics: pd.DataFrame, advice: pd.DataFrame) -> list[Callable[[], Draft | None]]:
    """Functions that draw the figures about advice, in the order of the report; without data they return None."""
    return [
        lambda: heatmaps.trust_matrix(advice),
        lambda: follow_over_time(advice),
        lambda: right_wrong(metrics),
        lambda: trust_over_time(advice),
        lambda: trust_model(metrics, advice),
        lambda: components_over_time(advice),
        lambda: choice_entropy(metrics, advice),
        lambda: heatmaps.trust_heatmaps(advice),
        lambda: heatmaps.follow_heatmaps(advice),
        lambda: heatmaps.components_matrix(advice),
        *(
            lambda column=column, title=title: component_by_asker(advice, column, title)
            for column, title in signals_in_use(advice).items()
        ),
    ]


# --- over time ------------------------------------------------------------------------------------


def follow_over_time(advice: pd.DataFrame) -> Draft | None:
    """Stacked areas: the share of each adviser in each asker's choices."""
    from matplotlib.patches import Patch

    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return None
    many = advice["asker"].nunique() > MAX_MEMBERS
    source = summaries.with_roles(advice) if many else advice
    shares = summaries.choice_shares(source, bins=BINS, pool=many)
    names = summaries.legend_order(source)
    scale = StepScale(float(advice["step"].max()))
    figure, grid = _panels(shares)
    for axes, (asker, table) in zip(grid, _askers(shares)):
        table = table.reindex(columns=names, fill_value=0.0).fillna(0.0)
        x = scale(table.index)
        # A row counts the choices since the row before, so the first row extends back to there.
        before = advice["step"][advice["step"] < advice["step"][advice["chosen"] > 0].min()]
        x, table = np.append(scale(before.max() if len(before) else 0), x), pd.concat([table.iloc[:1], table])
        areas = axes.stackplot(
            x, 100 * table.to_numpy().T, colors=[adviser_colour(name) for name in names], lw=0.4, ec="white"
        )
        for area, name in zip(areas, names):
            # Hatched where the asker follows itself or an adversary, to be readable without colour.
            if name.startswith(("adversary", "negated", "sign-flip", "colluding")):
                area.set(hatch="////", ec="#FFFFFFAA")
            elif name == asker:
                area.set(hatch="..", ec="#FFFFFFAA")
        axes.set(ylim=(0, 100))
        axes.set_title(f"{asker} (dotted: itself)" if not many else asker, loc="left")
        scale.label(axes)
        axes.set_xlim(0, x[-1])
    _outer(grid, "share of choices (%)")
    handles = [Patch(color=adviser_colour(name)) for name in names]
    legend(figure, handles, [short(name) for name in names])
    caption = (
        "Advisers that each member chose to follow, in percent of its choices; mean over replicas"
        + (f" and over all {advice['asker'].nunique()} members" if many else "")
        + f". Random choice would give each of {advice['adviser'].nunique()} advisers an equal share."
    )
    return Draft("follow_over_time", "Whom the members follow", caption, figure, "Trust")


def trust_over_time(advice: pd.DataFrame) -> Draft | None:
    """A panel per asker: the score of every adviser over steps."""
    steps = advice["step"].nunique()
    each = count(math.ceil(steps / SCORE_POINTS), "row")
    caption = (
        "Score that each member gave every adviser, which depends on the state at the choice: mean over replicas"
        + (f" and {each} of the log for each point" if steps > SCORE_POINTS else "")
        + ". A row has the score of the last choice before its step. The shares of choices are shown above."
    )
    figure = _by_asker(advice, "score", "score", SCORE_POINTS)
    return None if figure is None else Draft("trust_over_time", "How advisers are scored", caption, figure, "Trust")


def component_by_asker(advice: pd.DataFrame, column: str, words: str) -> Draft | None:
    """One signal as in `trust_over_time`; only for groups with a panel per asker."""
    if advice["asker"].nunique() > MAX_MEMBERS:
        return None  # `components_over_time` shows the mean
    figure = _by_asker(advice, column, words, BINS, zoom=True)
    caption = (
        f"{capital(words)} of every adviser as computed by each member, mean over replicas. Initial values far "
        "from the learned ones are outside the axes."
    )
    title = f"{capital(words)} by asking member"
    return None if figure is None else Draft(f"{column}_by_asker", title, caption, figure, "Signals")


def _by_asker(advice: pd.DataFrame, column: str, words: str, points: int, zoom: bool = False) -> Figure | None:
    """A panel per asker with a line per adviser; a large group, or askers with equal values, in one panel. Neighbouring
    rows of the log are averaged to at most `points`."""
    if advice[column].isna().all() or advice["adviser"].nunique() < 2:
        return None
    many = advice["asker"].nunique() > MAX_MEMBERS
    source = summaries.with_roles(advice) if many else advice
    if many:
        source = source.assign(asker="all members")
    values = summaries.pair_means(summaries.thin(source, points), column)
    agree = not many and advice["asker"].nunique() > 1 and values.groupby(level="step").nunique().to_numpy().max() == 1
    if agree:  # agent values are shared by the group
        values = values.loc[[values.index[0][0]]]
    names = [name for name in summaries.legend_order(source) if name in values.columns]
    scale = StepScale(float(advice["step"].max()))
    figure, grid = _panels(values)
    for axes, (asker, table) in zip(grid, _askers(values)):
        lines = _lines(axes, scale, table, names)
        pooled = "mean over all members" if many else "the same for every asking member"
        axes.set_title(pooled if many or agree else f"{asker} asks", loc="left")
    if zoom:
        _skip_start(grid[0], values.droplevel("asker"))
    _outer(grid, words)
    legend(figure, lines, [short(name) for name in names])
    return figure


def right_wrong(metrics: pd.DataFrame) -> Draft | None:
    """Share of choices that followed a fixed adviser acting as the expert, and as the adversary."""
    lines = [
        (summaries.metric(metrics, "advice/right"), "right: a fixed adviser that acts as the expert", "expert", "-"),
        (summaries.metric(metrics, "advice/wrong"), "wrong: one that acts as the adversary", "adversary", "--"),
    ]
    lines = [line for line in lines if len(line[0])]
    if not lines:
        return None
    figure = new_figure(3.8)
    axes = figure.subplots()
    scale = StepScale(max(float(values["step"].max()) for values, *_ in lines))
    for values, label, kind, style in lines:
        replicas = 100 * summaries.by_replica(values)
        result, x = summaries.spread(replicas.to_numpy(), (0, 100)), scale(replicas.index)
        if result.kind:
            axes.fill_between(x, result.low, result.high, color=adviser_colour(kind), alpha=0.18, lw=0)
        marker = "o" if len(x) == 1 else None
        axes.plot(x, result.mean, color=adviser_colour(kind), ls=style, lw=2.2, marker=marker, label=label)
    axes.set(ylim=(0, 100), ylabel="share of choices (%)")
    axes.set_title("Right and wrong choices", loc="left", fontweight="bold")
    scale.label(axes)
    legend(figure, *axes.get_legend_handles_labels())
    caption = "Share of choices that followed a fixed adviser acting as expert (right) or as adversary (wrong), "
    caption += "mean over members"
    if result.kind:
        caption += f" and {result.replicas} replicas; the bands are their {result.kind}"
    caption += ". The other choices are neither."
    return Draft("right_wrong", "Right and wrong choices", caption, figure, "Trust")


def trust_model(metrics: pd.DataFrame, advice: pd.DataFrame) -> Draft | None:
    """Metrics of the kinds of trust over time, each in a panel with a line per member."""
    panels = trust_curves(metrics, advice)
    if not panels:
        return None
    figure, grid = _grid(len(panels), lambda down: 0.9 + 2.4 * down if down > 1 else 3.6)
    scale = StepScale(max(float(values["step"].max()) for _, values, _ in panels))
    handles: dict[str, Any] = {}
    for axes, (title, values, in_advice) in zip(grid, panels):
        result = draw_curve(axes, scale, values)
        axes.set_title(title, loc="left")
        scale.label(axes)
        low, high = float(values["value"].min()), float(values["value"].max())
        if in_advice and low >= 0 and high <= 1:  # a share or a weight
            axes.set_ylim(0, 1 if high > 0.5 else 0.5)
        elif low > 0 and high > 30 * low:
            axes.set_yscale("log")
            # matplotlib's default labels are formulas, which the style disables.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels())}
    _trim(grid)
    legend(figure, list(handles.values()), list(handles))
    caption = f"Metrics of the trust model: {listing([title for title, _, _ in panels])}"
    if len(panels) == 1 and panels[0][1].groupby(["step", "replica"])["value"].nunique().max() == 1:
        caption += "; the group shares one model, so that the lines of all members coincide"
    caption += f"; the band is the {result.kind} over {result.replicas} replicas." if result.kind else "."
    return Draft("trust_model", "The trust model", caption, figure, "Trust")


def components_over_time(advice: pd.DataFrame) -> Draft | None:
    """A panel per signal behind the score: mean over askers for self, other members and each fixed adviser."""
    present = signals_in_use(advice)
    if not present or advice["adviser"].nunique() < 2:
        return None
    source = summaries.thin(summaries.with_roles(advice).assign(asker="all"), BINS)
    scale = StepScale(float(advice["step"].max()))
    names = summaries.legend_order(source)
    figure, grid = _grid(len(present), lambda down: 1.0 + 2.3 * down if down > 1 else 3.6, sharex=True)
    handles: dict[str, object] = {}
    for axes, column in zip(grid, present):
        table = summaries.pair_means(source, column).droplevel("asker")
        shown = [name for name in names if name in table.columns]
        handles |= dict(zip(shown, _lines(axes, scale, table, shown)))
        axes.set_title(present[column], loc="left")
        _skip_start(axes, table)
    _trim(grid)
    legend(figure, list(handles.values()), [short(name) for name in handles])
    caption = (
        "The signals that the score combines, by the role of the adviser; mean over members and replicas. Initial "
        "values far from the learned ones are outside the axes."
    )
    return Draft("components_over_time", "The signals behind the scores", caption, figure, "Trust")


def _skip_start(axes: Axes, table: pd.DataFrame) -> None:
    """Scale the y axis to the last four fifths of the run if initial values (200) would hide the learned ones."""
    late = table[table.index > 0.2 * table.index.max()]
    if not late.notna().to_numpy().any():
        return
    low, high = float(np.nanmin(late.to_numpy())), float(np.nanmax(late.to_numpy()))
    full_range = float(np.nanmax(table.to_numpy()) - np.nanmin(table.to_numpy()))
    if low < high and full_range > 5 * (high - low):
        margin = 0.1 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def choice_entropy(metrics: pd.DataFrame, advice: pd.DataFrame) -> Draft | None:
    """Entropy of the distribution over advisers in a choice; ln K for a random choice."""
    values = summaries.metric(metrics, "advice/choice_entropy")
    advisers = advice["adviser"].nunique()
    if values.empty or advisers < 2:
        return None
    random_choice = (math.log(advisers), f"random choice: ln {advisers} = {math.log(advisers):.2f}")
    within = (0.0, random_choice[0])
    draft = curve("choice_entropy", "Choice entropy", "entropy (nats)", values, reference=random_choice, within=within)
    if draft is None:
        return None
    caption = f"{draft.caption} 0: always the same adviser; ln {advisers}: random choice among {advisers} advisers."
    return Draft(draft.name, draft.title, caption, draft.figure, "Trust")


# --- shared by the figures over time --------------------------------------------------------------


def _askers(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(asker, its rows with step as index) of a table with index (asker, step), in natural order."""
    askers = sorted(map(str, table.index.unique("asker")), key=summaries.natural)
    return [(asker, table.loc[[asker]].droplevel("asker")) for asker in askers]


def _panels(table: pd.DataFrame) -> tuple[Figure, Any]:
    """A figure with axes on a common scale, one per asker of a table with index (asker, step)."""
    number = table.index.unique("asker").size
    return _grid(number, lambda down: 1.2 + 2.1 * down if number > 1 else 3.8, sharex=True, sharey=True)


def _grid(
    number: int, height: Callable[[int], float], sharex: bool = False, sharey: bool = False
) -> tuple[Figure, Any]:
    """A figure with `number` axes, two per row; `height`: number of rows -> height of the figure in inches."""
    across = _across(number)
    down = math.ceil(number / across)
    figure = new_figure(height(down))
    grid = figure.subplots(down, across, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for axes in grid[number:]:
        axes.remove()
    return figure, grid[:number]


def _across(number: int) -> int:
    return min(number, 2)


def _trim(grid: Any) -> None:
    """Remove the x labels of all axes except the lowest in each column."""
    for place, axes in enumerate(grid):
        if place + _across(len(grid)) >= len(grid):
            axes.tick_params(labelbottom=True)
        else:
            axes.set_xlabel("")


def _outer(grid: Any, ylabel: str) -> None:
    """Label the outer axes only."""
    for place, axes in enumerate(grid):
        axes.set_ylabel(ylabel if place % _across(len(grid)) == 0 else "")
    _trim(grid)


def _lines(axes: Axes, scale: StepScale, table: pd.DataFrame, names: list[str]) -> list[Any]:
    lines = []
    for name in names:
        known = table[name].dropna() if name in table else pd.Series(dtype=float)
        marker = "o" if len(known) == 1 else None
        lines += axes.plot(
            scale(known.index), known, color=adviser_colour(name), ls=line_style(name), lw=1.7, marker=marker
        )
    scale.label(axes)
    return lines
