"""The figures of `peerage attention`: attention weights, importance of features, deletion curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peerage.errors import UserError
from peerage.evaluation.deletion import Deletion
from peerage.evaluation.importance import Importance
from peerage.reports.drawing import MEMBER_COLOURS, common_style, legend, new_figure, png
from peerage.runs.folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_HEADS = 8
MAX_FEATURES = 30
"""Features in the figure of bars; of more, those with the largest occlusion."""
MAX_LABELS = 16
"""Up to this many tokens all have a label."""
MAX_WRITTEN = 24
"""Cells in a row of panels, up to which their numbers are written."""
COLOURS = {"weight": MEMBER_COLOURS[0], "occlusion": "#D55E00", "gradient": "#009E73", "random": "#777777"}


def draw(found: Importance, folder: Path) -> list[Path]:
    """Draw the figures into `folder`, which is created; returns their paths. Raises UserError if it cannot be."""
    with common_style():
        figures = {"importance": bars(found)}
        if found.layers:
            figures["weights"] = heatmaps(found)
        if found.deletion is not None:
            figures["deletion"] = curves(found.deletion)
        pictures = {folder / f"{name}.png": png(figure) for name, figure in figures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror or error}") from error
    for path, picture in pictures.items():
        write_atomically(path, picture)
    return list(pictures)


def bars(found: Importance) -> Figure:
    """The measures side by side, a bar per feature."""
    kept = np.arange(len(found.names))
    if len(kept) > MAX_FEATURES:
        kept = np.sort(np.argsort(-found.occlusion, kind="stable")[:MAX_FEATURES])
    places = np.arange(len(kept))
    figure = new_figure(1.3 + 0.3 * len(kept))
    panels = np.atleast_1d(figure.subplots(1, len(found.measures), sharey=True))
    titles = {"weight": "mean attention weight", "occlusion": f"occlusion:\n{found.unit}", "gradient": "gradient"}
    for axes, (name, values) in zip(panels, found.measures.items()):
        axes.barh(places, np.nan_to_num(values[kept]), color=COLOURS[name], height=0.7)
        axes.set_title(titles[name], loc="left")
        axes.grid(axis="y", visible=False)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlim(left=0)
        axes.set_yticks(places, [found.names[k] for k in kept])
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    return figure


def heatmaps(found: Importance) -> Figure:
    """The mean weights, a row of panels per layer and a panel per head."""
    heads = min(MAX_HEADS, max(len(weights) for weights in found.layers.values()))
    sizes = [weights.shape[1:] for weights in found.layers.values()]
    cell = 6.2 / heads / max(keys for _, keys in sizes)  # inches
    heights = [max(0.35, queries * min(cell, 0.35)) for queries, _ in sizes]
    labels = 0.085 * max(len(key) for _, keys in found.tokens.values() for key in keys) * 0.8
    figure = new_figure(sum(heights) + len(heights) * (labels + 0.45) + 0.3)
    grid = figure.subplots(len(heights), heads, squeeze=False, gridspec_kw={"height_ratios": heights})
    highest = max(float(weights[:heads].max()) for weights in found.layers.values())
    for row, (name, weights) in enumerate(found.layers.items()):
        queries, keys = found.tokens[name]
        if len(queries) != weights.shape[1]:  # number.pool has a query per step
            queries = [f"t-{age}" if age else "t" for age in reversed(range(weights.shape[1]))]
        for head, axes in enumerate(grid[row]):
            if head >= len(weights):
                axes.remove()
                continue
            image = axes.imshow(weights[head], cmap="viridis", vmin=0, vmax=highest, aspect="auto")
            axes.grid(False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0, labelsize=8)
            axes.set_title(f"{layer_title(name)}, head {head}" if head == 0 else f"head {head}", loc="left", size=9)
            gap = -(-len(keys) // MAX_LABELS)
            axes.set_xticks(range(0, len(keys), gap), keys[::gap], rotation=90)
            gap = -(-len(queries) // MAX_LABELS)
            shown = queries[::gap] if head == 0 else []
            axes.set_yticks(range(0, len(queries), gap) if head == 0 else [], shown)
            if len(keys) * heads <= MAX_WRITTEN:
                for (query, key), value in np.ndenumerate(weights[head]):
                    colour = "white" if value < 0.65 * highest else "black"
                    axes.text(key, query, f"{value:.2f}", ha="center", va="center", color=colour, size=7)
    bar = figure.colorbar(image, ax=list(grid[:, -1]), shrink=0.8, pad=0.03, aspect=20)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    return figure


def layer_title(name: str) -> str:
    """The name of a layer in words."""
    words = {"pool": "pooling", "number.pool": "pooling of a step", "present": "present step"}
    return words.get(name, f"self-attention {name}")


def curves(deletion: Deletion) -> Figure:
    """The return against the number of deleted features, a line per order."""
    figure = new_figure(3.8)
    axes = figure.subplots()
    widths = (4.0, 2.8, 1.6, 2.0)  # curves that coincide stay visible
    for width, (name, curve) in zip(widths[-len(deletion.curves) :], deletion.curves.items()):
        at_random = name == "random"
        label = f"{'random order' if at_random else f'by {name}'} (area {curve.area:.4g})"
        line, marker = ("--", None) if at_random else ("-", "o")
        returns = curve.returns.mean(axis=1)
        style: dict[str, Any] = {"lw": width, "ls": line, "marker": marker, "ms": 3 + width}
        axes.plot(deletion.deleted, returns, color=COLOURS[name], label=label, **style)
    axes.set_xlabel("features replaced by their means, the most important first")
    axes.set_ylabel("return")
    axes.locator_params(axis="x", integer=True)
    legend(figure, *axes.get_legend_handles_labels())
    return figure
