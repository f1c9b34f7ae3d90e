"""Heatmaps of advice: asker x adviser, at the end of the run and during it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from peerage.reports.drawing import Draft, new_figure
from peerage.runs.listeners import is_member
from peerage.statistics import summaries
from peerage.statistics.advice_log import signals_in_use, trust_in_use
from peerage.text import short, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SNAPSHOTS = 4
"""Number of heatmaps over time: one at the end of each quarter of the run."""


# --- the figures ----------------------------------------------------------------------------------


def trust_matrix(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser: the score at the end, and the share of choices in the last fifth of the run."""
    if advice.empty:
        return None
    panels = []
    if advice["score"].notna().any():
        panels.append(("Score at the last choice", summaries.last_matrix(advice, "score")))
    shares = summaries.late_share_matrix(advice)
    if len(shares):
        panels.append(("Choices, last fifth of the run (%)", 100 * shares))
    advisers = summaries.advisers_of(advice)
    if not panels or len(advisers) < 2:
        return None
    # Panels are side by side with up to nine columns each.
    beside = len(advisers) <= 9
    percent = (0.0, 100.0) if beside else (0.0, None)
    scales = [percent if "%" in title else _scale(table) for title, table in panels]
    figure = draw(panels, scales, advice, 2 if beside and len(panels) > 1 else 1)
    caption = (
        "Rows are asking members, columns their advisers; mean over replicas. A member chooses by the score; the "
        "share of choices is the result."
    )
    return Draft("trust_matrix", "Scores and choices at the end", caption, figure, "Trust")


def components_matrix(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser at the end, a panel for each signal that was computed."""
    present = signals_in_use(advice)
    if not present or advice["adviser"].nunique() < 2:
        return None
    panels = [(capital(title), summaries.last_matrix(advice, column)) for column, title in present.items()]
    # With more than twelve rows the cells hold no numbers, so that half the width is enough.
    narrow = advice["adviser"].nunique() <= 9 or advice["asker"].nunique() > 12
    across = 2 if narrow and len(panels) > 1 else 1
    figure = draw(panels, [_scale(table) for _, table in panels], advice, across)
    caption = (
        "Every signal at the end of the run, as computed by each asking member (rows), mean over replicas. Each "
        "signal has its own scale: compare the cells of a row."
    )
    return Draft("components_matrix", "Every signal at the end", caption, figure, "Signals")


def trust_heatmaps(advice: pd.DataFrame) -> Draft | None:
    """Asker x adviser: trust at the end of each quarter of the run, on one scale."""
    name, title, values = trust_in_use(advice)
    if not name or advice["adviser"].nunique() < 2:
        return None
    known = advice[["step", "asker", "adviser"]].assign(trust=values).dropna()
    panels = snapshots(known, "trust") if len(known) else []
    if len(panels) < 2:
        return None
    low, high = _scale(pd.concat([table for _, table in panels]))
    last_low, last_high = _scale(panels[-1][1])
    # Initial values (200) far from the learned ones would otherwise use up the colours.
    if last_low < last_high and high - low > 5 * (last_high - last_low):
        low, high = last_low, last_high
    figure = draw(panels, [(low, high)] * len(panels), advice, 2, shared=True)
    caption = (
        f"Trust ({title}) during the run. Rows are asking members, columns their advisers; mean over replicas. "
        "Values outside the scale have the colour of its end."
    )
    return Draft("trust_heatmaps", "Trust during the run", caption, figure, "Trust")


def snapshots(known: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """Title and askers x advisers at the end of each quarter of the run, mean over replicas. `known` has step, asker,
    adviser and the column without missing values."""
    steps = np.unique(known["step"].to_numpy())
    wanted = float(steps.max()) * np.arange(1, SNAPSHOTS + 1) / SNAPSHOTS
    chosen = np.unique([steps[np.abs(steps - w).argmin()] for w in wanted])
    return [
        (
            f"after {thousands(int(step))} steps",
            known[known["step"] == step].groupby(["asker", "adviser"])[column].mean().unstack("adviser"),
        )
        for step in chosen
    ]


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
    figure = draw(panels, [limits] * len(panels), advice, 2, shared=True)
    caption = (
        "Share of each member's choices (rows) that went to each adviser (columns), in successive parts of the "
        "run; mean over replicas."
    )
    return Draft("follow_heatmaps", "Who follows whom during the run", caption, figure, "Trust")


def capital(words: str) -> str:
    """`words` with the first letter in upper case."""
    return words[0].upper() + words[1:]


# --- drawing --------------------------------------------------------------------------------------


def _scale(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of the colours: symmetric around zero if the values have both signs, else their smallest and largest."""
    known = table.to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (-max(-low, high), max(-low, high)) if low < 0 < high else (low, high)


def draw(
    panels: Sequence[tuple[str, pd.DataFrame]],
    scales: Sequence[tuple[float, float | None]],
    advice: pd.DataFrame,
    across: int,
    shared: bool = False,
    words: tuple[str, str] = ("asking member", "adviser"),
) -> Figure:
    """Panels of askers x advisers, `across` per row. `shared`: they have one scale and one colour bar. `words`: the
    labels of rows and columns.

    Values of both signs are blue above zero and red below; otherwise they are blue.
    """
    advisers = summaries.advisers_of(advice)
    askers = sorted(set(advice["asker"]), key=summaries.natural)
    down = math.ceil(len(panels) / across)
    # In a large group every gap-th member is labelled. Fixed advisers are gap times wider and always labelled.
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
            axes.set_xlabel(words[1])
        if place % across == 0:
            axes.set_ylabel(words[0])
        inches = 5.6 if across == 1 else 2.8 if shared else 2.1  # approximate width of a panel
        _write_cells(axes, values, image, digits[place], inches / len(advisers))
    for axes in grid.ravel()[len(panels) :]:
        axes.remove()
    if shared:
        drawn = list(grid.ravel()[: len(panels)])
        bar = figure.colorbar(image, ax=drawn, shrink=0.9, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
    return figure


def _digits(panels: Sequence[tuple[str, pd.DataFrame]], scales: Sequence[tuple[float, float | None]]) -> list[int]:
    """Decimals in the cells of each panel: about two significant figures of the range of its scale."""
    digits = []
    for (title, _), (low, high) in zip(panels, scales):
        span = 0.0 if high is None else high - low
        wanted = 1 - math.floor(math.log10(span)) if 0 < span < math.inf else 2
        digits.append(0 if "%" in title else min(3, max(0, wanted)))
    return digits


def _write_cells(axes: Axes, values: np.ndarray, image: Any, digits: int, width: float) -> None:
    """Write numbers into cells of `width` inches, white on dark cells; none if they would be too small."""
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
