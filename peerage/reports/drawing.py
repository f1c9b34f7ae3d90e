"""Common parts of all figures of a run: colours, scales, learning curves and PNG output."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from peerage.reports.plot_scales import STEPS
from peerage.runs.listeners import is_member
from peerage.statistics import summaries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_MEMBERS = 8
"""Up to this many members have a colour and a panel each; a larger group is summarised."""
WIDTH = 8.0
"""Width in inches; 1200 pixels at `DPI`."""
DPI = 150

MEMBER_COLOURS = ("#0072B2", "#CC79A7", "#56B4E9", "#5B2A86", "#1B3A8A", "#E0A3D8", "#2F9BB5", "#9F77D4")
FIXED_COLOURS = {
    "expert": "#009E73",
    "adversary": "#D55E00",
    "random": "#9A9A9A",
    "checkpoint": "#E3B505",
    "dt": "#4D7C0F",
    "constant": "#8C6D46",
    "negated": "#A63A1E",
    "sign-flip": "#CC3311",
    "colluding": "#882255",
    "noise": "#6B705C",
    "turncoat": "#BC6C25",
    "convert": "#66A61E",
    "regional": "#999933",
}
OTHER_COLOURS = ("#66A61E", "#B8860B", "#6B705C", "#BC6C25")
ROLE_COLOURS = {"self": "#0072B2", "other members": "#9CCBEA"}

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "white",
    "axes.axisbelow": True,
    # Names of advisers may contain $.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Draft:
    """A figure that is not saved."""

    name: str
    title: str
    caption: str
    figure: Figure
    section: str = "Learning"
    """Section: Learning, Trust or Signals."""


@contextlib.contextmanager
def common_style() -> Iterator[None]:
    """A context in which matplotlib uses the style of the report instead of the user's settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def png(figure: Figure) -> bytes:
    """The figure as PNG, without the name and version of matplotlib, so that equal figures have equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


# --- learning curves ------------------------------------------------------------------------------


def curve(
    name: str,
    title: str,
    ylabel: str,
    values: pd.DataFrame,
    reference: tuple[float, str] | None = None,
    within: summaries.Within = summaries.ANYTHING,
) -> Draft | None:
    """Mean over replicas of the mean over members, its interval over replicas, and a thin line per member.

    `values` has step, replica, member, value; `within` are its possible values. `reference`: the height and label of a
    dotted line. None without data.
    """
    if values.empty:
        return None
    figure = new_figure(4.2)
    axes = figure.subplots()
    scale = StepScale(float(values["step"].max()))
    result = draw_curve(axes, scale, values, within)
    members = summaries.by_member(values)
    if reference:
        axes.axhline(reference[0], color="#888888", ls=":", lw=1.5, label=reference[1])
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left", fontweight="bold")
    scale.label(axes)
    legend(figure, *axes.get_legend_handles_labels())
    if members.shape[1] == 1:
        caption = f"{title} of {members.columns[0]}" + (", mean over" if result.replicas > 1 else "")
    else:
        caption = f"{title}: mean over {members.shape[1]} members" + (" and" if result.replicas > 1 else "")
    if result.replicas > 1:
        caption += f" {result.replicas} replicas; the band is their {result.kind}"
    if members.shape[1] > 1:
        caption += "; thin lines are single members" + (", mean over replicas" if result.replicas > 1 else "")
    return Draft(name, title, caption + ".", figure)


def draw_curve(
    axes: Axes, scale: StepScale, values: pd.DataFrame, within: summaries.Within = summaries.ANYTHING
) -> summaries.Spread:
    """Draw the lines of `curve` in one panel, with labels for the legend; returns mean and interval over replicas."""
    replicas = summaries.by_replica(values)
    members = summaries.by_member(values)
    result = summaries.spread(replicas.to_numpy(), within)
    x = scale(replicas.index)
    marker = "o" if len(x) == 1 else None
    many = members.shape[1] > MAX_MEMBERS
    if members.shape[1] > 1:
        for place, member in enumerate(members.columns):
            line = members[member].dropna()
            colour = "#9BB4C7" if many else adviser_colour(member)
            label = member if not many else f"each of {members.shape[1]} members" if place == 0 else None
            width = 0.6 if many else 1.1
            axes.plot(scale(line.index), line, color=colour, lw=width, alpha=0.8, marker=marker, label=label)
    if result.kind:
        label = f"{result.kind} over {result.replicas} replicas"
        axes.fill_between(x, result.low, result.high, color="#222222", alpha=0.15, lw=0, label=label)
    label = "mean" if members.shape[1] > 1 or result.replicas > 1 else str(members.columns[0])
    axes.plot(x, result.mean, color="#222222", lw=2.2, marker=marker, label=label)
    return result


# --- shared by all figures ------------------------------------------------------------------------


def new_figure(height: float) -> Figure:
    """An empty figure of the common width and this height in inches, without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class StepScale:
    """The scale of the x axis: steps, thousands or millions of steps, depending on the last step of the run."""

    def __init__(self, last: float) -> None:
        self.last = last
        self.unit, self.name = 1.0, "steps"
        if last >= 3e6:
            self.unit, self.name = 1e6, "million steps"
        elif last >= 3e3:
            self.unit, self.name = 1e3, "k steps"

    def __call__(self, steps: Any) -> np.ndarray:
        return np.asarray(steps, dtype=float) / self.unit

    def label(self, axes: Axes) -> None:
        axes.set_xlabel(f"{STEPS}{f' ({self.name})' if self.unit > 1 else ''}")
        axes.set_xlim(left=0, right=None if self.last <= 0 else self.last / self.unit * 1.01)


def adviser_colour(name: str) -> str:
    """The colour of an adviser in all figures; a second adviser of a kind has a lighter one."""
    if name in ROLE_COLOURS:
        return ROLE_COLOURS[name]
    if is_member(name):
        return MEMBER_COLOURS[int(name.removeprefix("member-")) % len(MEMBER_COLOURS)]
    stem, _, number = name.rpartition("-")
    kind, copy = (stem, int(number)) if stem and number.isdigit() else (name, 1)
    kind = kind.partition(":")[0]
    # Not hash(), which differs between processes.
    colour = FIXED_COLOURS.get(kind) or OTHER_COLOURS[sum(kind.encode()) % len(OTHER_COLOURS)]
    return lighter(colour, 1 - 0.6 ** (copy - 1))


def lighter(colour: str, share: float) -> str:
    """A colour moved towards white, by at most 70%."""
    share = min(share, 0.7)
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def line_style(name: str) -> str:
    """Fixed advisers are dashed, so that they are distinguishable from members without colour."""
    return "-" if is_member(name) or name in ROLE_COLOURS else "--"


def legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """One legend below the panels, in as many columns as fit the width."""
    if not handles:
        return
    columns = max(1, min(len(handles), int(84 / (max(len(label) for label in labels) + 7))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
