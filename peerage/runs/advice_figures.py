"""Figures of advice: whom the members trust, and whom they follow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from peerage.runs import summaries
from peerage.runs.figures import (
    MANY,
    Draft,
    StepScale,
    adviser_colour,
    legend,
    line_style,
    new_figure,
)
from peerage.runs.listeners import is_member
from peerage.runs.text import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPONENTS = {
    "trust_td": "trust (TD)",
    "trust_attention": "trust (attention)",
    "in_context": "in-context advantage",
    "agent_value": "agent value",
    "critic": "critic",
    "confidence": "confidence",
    "omega": "weight of attention ω",
}
"""Columns of advice.csv that explain the score, with the words of the figures."""

BINS = 50
"""Points in time of the stacked areas: fewer than the log has, so that counts are not mere noise."""


def trust_matrix(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser: the score at the end, and the share of choices in the last fifth of the run."""
    if advice.empty:
        return None
    advisers = summaries.advisers_of(advice)
    askers = sorted(set(advice["asker"]), key=summaries.natural)
    panels = []
    if advice["score"].notna().any():
        scores = summaries.last_matrix(advice, "score")
        span = float(np.nanmax(scores.to_numpy()) - np.nanmin(scores.to_numpy()))
        digits = min(3, max(0, 1 - math.floor(math.log10(span)))) if 0 < span < math.inf else 2
        panels.append(("Score at the end", scores, f"{{:.{digits}f}}", False))
    shares = summaries.late_share_matrix(advice)
    if len(shares):
        panels.append(("Choices, last fifth of the run (%)", 100 * shares, "{:.0f}", True))
    if not panels or len(advisers) < 2:
        return None
    # Side by side up to nine columns; beyond that the panels need the whole width.
    beside = len(advisers) <= 9
    cell = 3.3 / len(advisers) if beside else 6.4 / len(advisers)
    names = max(len(short(name)) for name in advisers)
    height = min(5.0, max(1.0, len(askers) * min(cell, 0.55))) + 1.3 + 0.045 * names
    figure = new_figure(height if beside else height * len(panels))
    grid = figure.subplots(1 if beside else len(panels), len(panels) if beside else 1, squeeze=False).ravel()
    # In a large group every gap-th member is labelled; every fixed adviser is, and has the room for it.
    gap = math.ceil(len(advisers) / 24)
    widths = np.array([1 if is_member(name) else gap for name in advisers])
    for axes, (title, table, form, percent) in zip(grid, panels):
        values = table.reindex(index=askers, columns=advisers).to_numpy(dtype=float)
        low, high = (0.0, 100.0 if beside else None) if percent else (None, None)
        image = axes.imshow(
            np.repeat(values, widths, axis=1), cmap="Blues", aspect="auto", vmin=low, vmax=high
        )
        figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02).outline.set_visible(False)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        places = np.cumsum(widths) - (widths + 1) / 2
        ticks = [k for k, name in enumerate(advisers) if k % gap == 0 or not is_member(name)]
        axes.set_xticks(places[ticks], [short(advisers[k]) for k in ticks])
        axes.tick_params(length=0, labelsize=10)
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set_ha("right")
            label.set_rotation_mode("anchor")
        axes.set_yticks(range(0, len(askers), gap), askers[::gap])
        axes.set_xlabel("adviser")
        if axes is grid[0] or not beside:
            axes.set_ylabel("asking member")
        if len(advisers) <= 10:
            middle = np.nanmean([image.norm.vmin, image.norm.vmax])
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    colour = "white" if value > middle else "#222222"
                    axes.text(column, row, form.format(value), ha="center", va="center", color=colour, size=9)
    caption = (
        "Who listens to whom: rows ask, columns advise, mean over replicas. The score is what the choice is "
        "made from; the share of choices is what came of it."
    )
    return Draft("trust_matrix", "Who listens to whom at the end", caption, figure)


def follow_over_time(advice: pd.DataFrame) -> Draft | None:
    """Stacked areas: how each asker's choices are shared out among the advisers."""
    from matplotlib.patches import Patch

    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return None
    many = advice["asker"].nunique() > MANY
    source = summaries.with_roles(advice) if many else advice
    shares = summaries.choice_shares(source, bins=BINS, pool=many)
    names = _order(source, many)
    scale = StepScale(float(advice["step"].max()))
    figure, grid = _panels(shares, sharey=True)
    for axes, (asker, table) in zip(grid, _askers(shares)):
        table = table.reindex(columns=names, fill_value=0.0).fillna(0.0)
        x = scale(table.index)
        # The first row counts the choices since the start: it holds back to step 0.
        x, table = np.append(0.0, x), pd.concat([table.iloc[:1], table])
        areas = axes.stackplot(
            x, 100 * table.to_numpy().T, colors=[adviser_colour(name) for name in names], lw=0.4, ec="white"
        )
        for area, name in zip(areas, names):
            # Hatched where the asker follows itself or an adversary: readable without colour too.
            if name.startswith("adversary") or name.startswith("negated"):
                area.set(hatch="////", ec="#FFFFFFAA")
            elif name == asker:
                area.set(hatch="..", ec="#FFFFFFAA")
        axes.set(ylim=(0, 100))
        axes.set_title(f"{asker} (dotted: itself)" if not many else asker, loc="left")
        scale.label(axes)
        axes.set_xlim(x[0], x[-1])
    _outer(grid, "share of choices (%)")
    handles = [Patch(color=adviser_colour(name)) for name in names]
    legend(figure, handles, [short(name) for name in names])
    caption = (
        "Whom each member chose to follow, in percent of its choices, mean over replicas"
        + (f" and over all {advice['asker'].nunique()} members" if many else "")
        + f". By lot, each of {advice['adviser'].nunique()} advisers would get an equal share."
    )
    return Draft("follow_over_time", "Whom the members follow", caption, figure)


def trust_over_time(advice: pd.DataFrame) -> Draft | None:
    """Small multiples, a panel per asker: the score of every adviser over steps."""
    if advice["score"].isna().all() or advice["adviser"].nunique() < 2:
        return None
    many = advice["asker"].nunique() > MANY
    source = summaries.with_roles(advice) if many else advice
    if many:
        source = source.assign(asker="all members")
    values = summaries.pair_means(source, "score")
    names = [name for name in _order(source, many) if name in values.columns]
    scale = StepScale(float(advice["step"].max()))
    figure, grid = _panels(values, sharey=True)
    for axes, (asker, table) in zip(grid, _askers(values)):
        lines = _lines(axes, scale, table, names)
        axes.set_title(f"{asker} scores" if not many else "mean over all members", loc="left")
    _outer(grid, "score")
    legend(figure, lines, [short(name) for name in names])
    caption = (
        "Score of every adviser in the eyes of each member, mean over replicas: the higher, the more often "
        "chosen."
    )
    return Draft("trust_over_time", "How advisers are scored", caption, figure)


def components_over_time(advice: pd.DataFrame) -> Draft | None:
    """A panel per signal that makes the score: mean over askers of self, other members, fixed advisers."""
    present = [column for column in COMPONENTS if advice[column].notna().any()]
    if not present or advice["adviser"].nunique() < 2:
        return None
    source = summaries.with_roles(advice).assign(asker="all")
    scale = StepScale(float(advice["step"].max()))
    names = _order(source, True)
    across = 1 if len(present) == 1 else 2
    down = math.ceil(len(present) / across)
    figure = new_figure(1.0 + 2.3 * down if down > 1 else 3.6)
    grid = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    handles: dict[str, object] = {}
    for axes, column in zip(grid, present):
        table = summaries.pair_means(source, column).droplevel("asker")
        shown = [name for name in names if name in table.columns]
        handles |= dict(zip(shown, _lines(axes, scale, table, shown)))
        axes.set_title(COMPONENTS[column], loc="left")
        _skip_start(axes, table)
    _trim(grid, len(present), across)
    legend(figure, list(handles.values()), [short(name) for name in handles])
    caption = (
        "The signals that scores are made of, by what the adviser is to the asker; mean over members and "
        "replicas. Initial values far from what is learned lie outside the picture."
    )
    return Draft("components_over_time", "What the scores are made of", caption, figure)


def _skip_start(axes: Axes, table: pd.DataFrame) -> None:
    """Do not let initial values (200, say) hide what was learned: scale to the last four fifths of the run."""
    late = table[table.index > 0.2 * table.index.max()]
    if not late.notna().to_numpy().any():
        return
    low, high = float(np.nanmin(late.to_numpy())), float(np.nanmax(late.to_numpy()))
    whole = float(np.nanmax(table.to_numpy()) - np.nanmin(table.to_numpy()))
    if low < high and whole > 5 * (high - low):
        margin = 0.1 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def choice_entropy(metrics: pd.DataFrame, advice: pd.DataFrame) -> Draft | None:
    """Entropy of the choice's distribution over advisers; ln K would be choice by lot."""
    from peerage.runs.figures import curve

    values = summaries.metric(metrics, "advice/choice_entropy")
    advisers = advice["adviser"].nunique()
    if values.empty or advisers < 2:
        return None
    lot = (math.log(advisers), f"by lot: ln {advisers} = {math.log(advisers):.2f}")
    draft = curve("choice_entropy", "Choice entropy", "entropy (nats)", values, reference=lot)
    if draft is None:
        return None
    caption = f"{draft.caption} 0: always the same adviser; ln {advisers}: by lot among {advisers} advisers."
    return Draft(draft.name, draft.title, caption, draft.figure)


def _order(source: pd.DataFrame, many: bool) -> list[str]:
    """Names in the order of the legend: members or roles first, then the fixed advisers."""
    names = summaries.advisers_of(source)
    roles = [name for name in ("self", "other members") if name in names]
    return roles + [name for name in names if name not in roles] if many else names


def _askers(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(asker, its rows with step as index) of a table with index (asker, step), in natural order."""
    askers = sorted(map(str, table.index.unique("asker")), key=summaries.natural)
    return [(asker, table.loc[[asker]].droplevel("asker")) for asker in askers]


def _panels(table: pd.DataFrame, sharey: bool) -> tuple[Figure, Any]:
    """Figure and axes, one for every asker, two in a row."""
    number = table.index.unique("asker").size
    across = 1 if number == 1 else 2
    down = math.ceil(number / across)
    figure = new_figure(1.2 + 2.1 * down if number > 1 else 3.8)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=sharey).ravel()
    _trim(grid, number, across)
    return figure, grid[:number]


def _trim(grid: Any, number: int, across: int) -> None:
    """Take empty axes away, and the x labels of all but the lowest of each column."""
    for place, axes in enumerate(grid):
        if place >= number:
            axes.remove()
        elif place + across >= number:
            axes.tick_params(labelbottom=True)
        else:
            axes.set_xlabel("")


def _outer(grid: Any, ylabel: str) -> None:
    across = 1 if len(grid) == 1 else 2
    for place, axes in enumerate(grid):
        axes.set_ylabel(ylabel if place % across == 0 else "")
    _trim(grid, len(grid), across)


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
