"""Figures of advice: whom the members trust, and whom they follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from peerage.evaluation.analysis import trust_in_use
from peerage.runs import summaries
from peerage.runs.figures import (
    MANY,
    Draft,
    StepScale,
    adviser_colour,
    curve,
    draw_curve,
    legend,
    line_style,
    new_figure,
)
from peerage.runs.listeners import is_member
from peerage.runs.text import short, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPONENTS = {
    "trust_td": "trust (TD)",
    "trust_attention": "trust (attention)",
    "in_context": "in-context advantage",
    "agent_value": "agent value",
    "critic": "critic",
}
"""Columns of advice.csv that explain the score of an adviser, with the words of the figures."""

BINS = 50
"""Points in time of the stacked areas: fewer than the log has, so that counts are not mere noise."""
SNAPSHOTS = 4
"""Heatmaps over time: at the end of every quarter of the run."""


def makers(metrics: pd.DataFrame, advice: pd.DataFrame) -> list[Callable[[], Draft | None]]:
    """All figures about advice in the order of the report; one without data makes None."""
    return [
        lambda: trust_matrix(advice),
        lambda: follow_over_time(advice),
        lambda: right_wrong(metrics),
        lambda: trust_over_time(advice),
        lambda: trust_model(metrics, advice),
        lambda: components_over_time(advice),
        lambda: choice_entropy(metrics, advice),
        lambda: trust_heatmaps(advice),
        lambda: follow_heatmaps(advice),
        lambda: components_matrix(advice),
        *(lambda column=column: component_by_asker(advice, column) for column in COMPONENTS),
    ]


# --- whom, at the end and at moments of the run ---------------------------------------------------


def trust_matrix(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser: the score at the end, and the share of choices in the last fifth of the run."""
    if advice.empty:
        return None
    panels = []
    if advice["score"].notna().any():
        panels.append(("Score at the end", summaries.last_matrix(advice, "score")))
    shares = summaries.late_share_matrix(advice)
    if len(shares):
        panels.append(("Choices, last fifth of the run (%)", 100 * shares))
    advisers = summaries.advisers_of(advice)
    if not panels or len(advisers) < 2:
        return None
    # Side by side up to nine columns; beyond that the panels need the whole width.
    beside = len(advisers) <= 9
    whole = (0.0, 100.0) if beside else (0.0, None)
    scales = [whole if "%" in title else _scale(table) for title, table in panels]
    figure = _heatmaps(panels, scales, advice, 2 if beside and len(panels) > 1 else 1)
    caption = (
        "Who listens to whom: rows ask, columns advise, mean over replicas. The score is what the choice is "
        "made from; the share of choices is what came of it."
    )
    return Draft("trust_matrix", "Who listens to whom at the end", caption, figure, "Trust")


def components_matrix(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser at the end, a panel for each signal that was computed."""
    present = [column for column in COMPONENTS if advice[column].notna().any()]
    if not present or advice["adviser"].nunique() < 2:
        return None
    panels = [(_title(COMPONENTS[column]), summaries.last_matrix(advice, column)) for column in present]
    # Twelve rows of names and more: nobody reads the cells, so half the width will do.
    narrow = advice["adviser"].nunique() <= 9 or advice["asker"].nunique() > 12
    across = 2 if narrow and len(panels) > 1 else 1
    figure = _heatmaps(panels, [_scale(table) for _, table in panels], advice, across)
    caption = (
        "Every signal at the end of the run, in the eyes of each asking member (rows), mean over replicas. "
        "Each has a scale of its own: compare the cells of a row."
    )
    return Draft("components_matrix", "Every signal at the end", caption, figure, "Signals")


def trust_heatmaps(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser: trust at the end of each quarter of the run, on one scale."""
    name, values = trust_in_use(advice)
    if not name or advice["adviser"].nunique() < 2:
        return None
    known = advice[["step", "asker", "adviser"]].assign(trust=values).dropna()
    steps = np.unique(known["step"].to_numpy())
    wanted = float(advice["step"].max()) * np.arange(1, SNAPSHOTS + 1) / SNAPSHOTS
    chosen = np.unique([steps[np.abs(steps - w).argmin()] for w in wanted])
    if len(chosen) < 2:
        return None
    panels = [
        (
            f"after {thousands(int(step))} steps",
            known[known["step"] == step].groupby(["asker", "adviser"])["trust"].mean().unstack("adviser"),
        )
        for step in chosen
    ]
    low, high = _scale(pd.concat([table for _, table in panels]))
    last_low, last_high = _scale(panels[-1][1])
    # Initial values (200, say) far outside of what was learned must not take the colours for themselves.
    if last_low < last_high and high - low > 5 * (last_high - last_low):
        low, high = last_low, last_high
    figure = _heatmaps(panels, [(low, high)] * len(panels), advice, 2, shared=True)
    words = {"hybrid": "the hybrid of attention and TD trust", "score": "the score", **COMPONENTS}[name]
    caption = (
        f"Trust ({words}) at moments of the run: rows ask, columns advise, mean over replicas. Values outside "
        "the scale have the colour of its end."
    )
    return Draft("trust_heatmaps", "Trust during the run", caption, figure, "Trust")


def follow_heatmaps(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser: share of choices in each quarter of the run."""
    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return None
    shares = 100 * summaries.choice_shares(advice, bins=SNAPSHOTS)
    steps = sorted(shares.index.unique("step"))
    if len(steps) < 2:
        return None
    panels = [
        (f"choices up to {thousands(int(step))} steps (%)", shares[shares.index.get_level_values("step") == step])
        for step in steps
    ]
    panels = [(title, table.droplevel("step")) for title, table in panels]
    highest = float(np.nanmax(shares.to_numpy()))
    limits = (0.0, 100.0 if advice["adviser"].nunique() <= 9 else highest)
    figure = _heatmaps(panels, [limits] * len(panels), advice, 2, shared=True)
    caption = (
        "Who follows whom: share of each member's choices (rows) that went to each adviser (columns), from one "
        "moment to the next, mean over replicas."
    )
    return Draft("follow_heatmaps", "Who follows whom during the run", caption, figure, "Trust")


def _scale(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of the colours: around zero if the values have both signs, else from the lowest to the highest."""
    known = table.to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (-max(-low, high), max(-low, high)) if low < 0 < high else (low, high)


def _heatmaps(
    panels: Sequence[tuple[str, pd.DataFrame]],
    scales: Sequence[tuple[float, float | None]],
    advice: pd.DataFrame,
    across: int,
    shared: bool = False,
) -> Figure:
    """Panels of askers x advisers, `across` in a row. `shared`: they have one scale, so one colour bar for all.

    Values of both signs are blue above zero and red below; others only blue.
    """
    advisers = summaries.advisers_of(advice)
    askers = sorted(set(advice["asker"]), key=summaries.natural)
    down = math.ceil(len(panels) / across)
    # In a large group every gap-th member is labelled; every fixed adviser is, and has the room for it.
    gap = math.ceil(len(advisers) / (24 if across == 1 else 10))
    widths = np.array([1 if is_member(name) else gap for name in advisers])
    cell = (6.4 if across == 1 else 3.0) / len(advisers)
    names = max(len(short(name)) for name in advisers)
    low, most = (0.4, 5.0) if across == 1 else (0.3, 2.6)
    body = min(most, max(0.9, len(askers) * min(max(cell, low * 0.5), 0.5)))
    labels = 0.75 + 0.045 * names
    height = down * (body + 0.45) + labels if shared else down * (body + 0.45 + labels)
    figure = new_figure(height)
    grid = figure.subplots(down, across, squeeze=False, sharex=shared, sharey=shared)
    digits = _digits(panels, scales)
    for place, (axes, (title, table), (low, high)) in enumerate(zip(grid.ravel(), panels, scales)):
        values = table.reindex(index=askers, columns=advisers).to_numpy(dtype=float)
        cmap = "RdBu" if high is not None and low < 0 < high else "Blues"
        image = axes.imshow(np.repeat(values, widths, axis=1), cmap=cmap, aspect="auto", vmin=low, vmax=high)
        if not shared:
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
        below = place + across >= len(panels)
        if shared:
            axes.tick_params(labelbottom=below)
        if below:
            axes.set_xlabel("adviser")
        if place % across == 0:
            axes.set_ylabel("asking member")
        inches = 5.6 if across == 1 else 2.8 if shared else 2.1  # width of a panel, about
        _write_cells(axes, values, image, digits[place], inches / len(advisers))
    for axes in grid.ravel()[len(panels) :]:
        axes.remove()
    if shared:
        drawn = list(grid.ravel()[: len(panels)])
        bar = figure.colorbar(image, ax=drawn, shrink=0.9, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
    return figure


def _digits(panels: Sequence[tuple[str, pd.DataFrame]], scales: Sequence[tuple[float, float | None]]) -> list[int]:
    """Decimals in the cells of each panel: about two figures of the difference between its limits."""
    digits = []
    for (title, _), (low, high) in zip(panels, scales):
        span = 0.0 if high is None else high - low
        wanted = 1 - math.floor(math.log10(span)) if 0 < span < math.inf else 2
        digits.append(0 if "%" in title else min(3, max(0, wanted)))
    return digits


def _write_cells(axes: Axes, values: np.ndarray, image: Any, digits: int, width: float) -> None:
    """Numbers in cells that are `width` inches wide, white on dark ones; none if they would be too small."""
    texts = {place: f"{x + 0.0:.{digits}f}" for place, x in np.ndenumerate(values) if not np.isnan(x)}
    zero = f"{0.0:.{digits}f}"
    texts = {place: zero if text == f"-{zero}" else text.replace("-", "−") for place, text in texts.items()}
    size = min(9.0, 72 * width / (0.62 * max(map(len, texts.values()), default=1)))
    if size < 7 or width < 0.2:
        return
    for (row, column), text in texts.items():
        red, green, blue, _ = image.cmap(image.norm(values[row, column]))
        colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "#222222"
        axes.text(column, row, text, ha="center", va="center", color=colour, size=size)


# --- over time ------------------------------------------------------------------------------------


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
    return Draft("follow_over_time", "Whom the members follow", caption, figure, "Trust")


def trust_over_time(advice: pd.DataFrame) -> Draft | None:
    """Small multiples, a panel per asker: the score of every adviser over steps."""
    caption = (
        "Score of every adviser in the eyes of each member, mean over replicas: the higher, the more often "
        "chosen."
    )
    figure = _by_asker(advice, "score", "score")
    return None if figure is None else Draft("trust_over_time", "How advisers are scored", caption, figure, "Trust")


def component_by_asker(advice: pd.DataFrame, column: str) -> Draft | None:
    """One signal as in `trust_over_time`; for groups that have a panel for each asker."""
    if advice["asker"].nunique() > MANY:
        return None  # `components_over_time` shows their mean already
    words = COMPONENTS[column]
    figure = _by_asker(advice, column, words, zoom=True)
    caption = (
        f"{_title(words)} of every adviser in the eyes of each member, mean over replicas. Initial "
        "values far from what is learned lie outside the picture."
    )
    title = f"{_title(words)} by asking member"
    return None if figure is None else Draft(f"{column}_by_asker", title, caption, figure, "Signals")


def _by_asker(advice: pd.DataFrame, column: str, words: str, zoom: bool = False) -> Figure | None:
    """A panel per asker with a line per adviser; a large group, or askers that agree, in one panel."""
    if advice[column].isna().all() or advice["adviser"].nunique() < 2:
        return None
    many = advice["asker"].nunique() > MANY
    source = summaries.with_roles(advice) if many else advice
    if many:
        source = source.assign(asker="all members")
    values = summaries.pair_means(source, column)
    agree = not many and advice["asker"].nunique() > 1 and values.groupby(level="step").nunique().to_numpy().max() == 1
    if agree:  # the group's agent values are one vector
        values = values.loc[[values.index[0][0]]]
    names = [name for name in _order(source, many) if name in values.columns]
    scale = StepScale(float(advice["step"].max()))
    figure, grid = _panels(values, sharey=True)
    for axes, (asker, table) in zip(grid, _askers(values)):
        lines = _lines(axes, scale, table, names)
        whole = "mean over all members" if many else "the same for every asking member"
        axes.set_title(whole if many or agree else f"{asker} asks", loc="left")
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
        result, x = summaries.spread(replicas.to_numpy()), scale(replicas.index)
        if result.kind:
            axes.fill_between(x, result.low, result.high, color=adviser_colour(kind), alpha=0.18, lw=0)
        marker = "o" if len(x) == 1 else None
        axes.plot(x, result.mean, color=adviser_colour(kind), ls=style, lw=2.2, marker=marker, label=label)
    axes.set(ylim=(0, 100), ylabel="share of choices (%)")
    axes.set_title("Right and wrong choices", loc="left", fontweight="bold")
    scale.label(axes)
    legend(figure, *axes.get_legend_handles_labels())
    caption = "Share of choices that followed a fixed adviser that was right or wrong there, mean over members"
    if result.kind:
        caption += f" and {result.replicas} replicas; the bands are their {result.kind}"
    return Draft("right_wrong", "Right and wrong choices", f"{caption}. The rest is neither.", figure, "Trust")


def trust_model(metrics: pd.DataFrame, advice: pd.DataFrame) -> Draft | None:
    """Loss of the trust model, confidence in it and its weight ω, each in a panel with a line per member."""
    panels = []
    for name, column, title in (
        ("trust/loss", "", "loss of the trust model"),
        ("trust/confidence", "confidence", "confidence"),
        ("trust/omega", "omega", "weight of attention ω"),
    ):
        values = summaries.metric(metrics, name)
        if values.empty and column:  # not among the metrics: it is the same for all advisers of an asker
            values = summaries.member_values(advice.rename(columns={"asker": "member"}), column)
        if len(values):
            panels.append((title, values))
    if not panels:
        return None
    across = 1 if len(panels) == 1 else 2
    down = math.ceil(len(panels) / across)
    figure = new_figure(0.9 + 2.4 * down if down > 1 else 3.6)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    scale = StepScale(max(float(values["step"].max()) for _, values in panels))
    handles: dict[str, Any] = {}
    for axes, (title, values) in zip(grid, panels):
        result = draw_curve(axes, scale, values)
        axes.set_title(title, loc="left")
        scale.label(axes)
        if title.startswith("loss"):
            if values["value"].min() > 0 and values["value"].max() > 30 * values["value"].min():
                axes.set_yscale("log")
                # matplotlib's own labels are formulas, which the style does not set.
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(lambda value, _: "")
        else:
            axes.set_ylim(0, 1 if title == "confidence" else max(0.5, 1.05 * float(values["value"].max())))
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels())}
    _trim(grid, len(panels), across)
    legend(figure, list(handles.values()), list(handles))
    caption = (
        "What the trust transformer makes of its own history: its loss, the confidence that follows from it, and "
        "the weight that attention trust gets in the hybrid"
    )
    caption += f"; the band is the {result.kind} over {result.replicas} replicas." if result.kind else "."
    return Draft("trust_model", "The trust model", caption, figure, "Trust")


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
    return Draft("components_over_time", "What the scores are made of", caption, figure, "Trust")


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
    values = summaries.metric(metrics, "advice/choice_entropy")
    advisers = advice["adviser"].nunique()
    if values.empty or advisers < 2:
        return None
    lot = (math.log(advisers), f"by lot: ln {advisers} = {math.log(advisers):.2f}")
    draft = curve("choice_entropy", "Choice entropy", "entropy (nats)", values, reference=lot)
    if draft is None:
        return None
    caption = f"{draft.caption} 0: always the same adviser; ln {advisers}: by lot among {advisers} advisers."
    return Draft(draft.name, draft.title, caption, draft.figure, "Trust")


# --- shared by the figures over time --------------------------------------------------------------


def _title(words: str) -> str:
    return words[0].upper() + words[1:]


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
