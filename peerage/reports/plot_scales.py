"""Where values stand in a chart: ranges, round values on an axis, and colours that stand out on their background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.text import thousands

STEPS = "environment steps per member"
"""The label of most x axes, whose values are written in short: 5,000, 24k, 1.5M."""
FAR = 1e100
"""A learner that diverges gets here, and no picture does."""


def finite(values: Any) -> np.ndarray:
    """As an array of floats, with NaN for what is infinite or beyond FAR."""
    array = np.asarray(values, dtype=float)
    return np.where(np.abs(array) < FAR, array, np.nan)


@dataclass(frozen=True)
class Series:
    """One line of a chart. Lists, arrays or columns of pandas, `[T]` each; NaN where there is no value.

    What is infinite or beyond FAR is none either.
    """

    name: str
    steps: Any
    """What stands on the x axis, ascending; with another `Look.xlabel` anything else than steps."""
    estimate: Any
    low: Any = None
    high: Any = None
    colour: str = ""
    """`#rrggbb`, made lighter or darker as the background needs; nothing: the colour of text."""
    dash: bool = False
    thin: bool = False
    """A line that stands behind the others: one member beside the mean."""
    silent: bool = False
    """Neither in the legend nor among the values under the pointer."""

    def __post_init__(self) -> None:
        for name in ("steps", "estimate", "low", "high"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, finite(values))

    @property
    def known(self) -> np.ndarray:
        """Where there is a value, `[T]`."""
        return np.isfinite(self.estimate)


@dataclass(frozen=True)
class Look:
    """How values are laid out; the panels of a figure share it."""

    unit: str = ""
    """Written behind values, such as `%`."""
    xlabel: str = STEPS
    xlim: tuple[float | None, float | None] = (0.0, None)
    """Ends of the x axis; None: those of the data."""
    ylim: tuple[float | None, float | None] = (None, None)
    reference: tuple[float, str] | None = None
    """A dotted line at a height, and its name."""
    log: bool = False
    """A logarithmic height, for values above zero."""
    late: bool = False
    """The height fits the last four fifths of the run if what came before would hide them (initial values of 200)."""
    apart: bool = False
    """Every panel has a height scale of its own."""


@dataclass(frozen=True)
class Axes:
    """The ends of a panel's two axes, and where values stand between them."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def across(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shares of the width, from the left."""
        low, high = self.x
        return (np.asarray(values, dtype=float) - low) / ((high - low) or 1.0)

    def up(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shares of the height, from below."""
        low, high = self.y
        points = np.asarray(values, dtype=float)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                low, high, points = math.log10(low), math.log10(high), np.log10(points)
        return (points - low) / ((high - low) or 1.0)

    def xticks(self, xlabel: str) -> list[tuple[float, str]]:
        """Round values of the x axis as (share of the width, text)."""
        gap = gap_of(*self.x)
        texts = [(v, thousands(round(v)) if xlabel == STEPS and gap >= 1 else label(v, gap)) for v in ticks(*self.x)]
        return [(float(self.across([v])[0]), text) for v, text in texts]

    def yticks(self) -> list[tuple[float, str]]:
        """Round values of the y axis as (share of the height, text)."""
        if self.log:
            texts = [(v, f"{v:g}") for v in powers(*self.y)]
        else:
            gap = gap_of(*self.y)
            texts = [(v, label(v, gap)) for v in ticks(*self.y)]
        return [(float(self.up([v])[0]), text) for v, text in texts]


# --- ranges ---------------------------------------------------------------------------------------


def reach(series: Sequence[Series], look: Look) -> tuple[float, float]:
    """Ends of the x axis."""
    low = min(float(s.steps.min()) for s in series) if look.xlim[0] is None else look.xlim[0]
    last = max(float(s.steps.max()) for s in series)
    single = all(s.known.sum() == 1 for s in series)  # dots, which would be cut in half at the edge
    high = last * (1.05 if single else 1.0) if look.xlim[1] is None else look.xlim[1]
    return low, high if high > low else low + 1.0


def height(series: Sequence[Series], x: tuple[float, float], look: Look) -> tuple[float, float]:
    """Ends of the y axis: all estimates, and of the bands what leaves the lines readable."""
    lines, edges, late = [], [], []
    for s in series:
        values = s.estimate[s.known]
        lines.append(values)
        late.append(values[s.steps[s.known] > x[0] + 0.2 * (x[1] - x[0])])
        edges += [edge[np.isfinite(edge)] for edge in (s.low, s.high) if edge is not None]
    whole, rest = np.concatenate(lines), np.concatenate(late)
    low, high = float(whole.min()), float(whole.max())
    if look.log:
        return 10 ** math.floor(math.log10(low)), 10 ** (math.floor(math.log10(high)) + 1)
    if look.late and len(rest) and high - low > 5 * (rest.max() - rest.min()) > 0:
        low, high = float(rest.min()), float(rest.max())
    else:
        ends = np.concatenate([*edges, whole])
        room = 0.75 * (high - low) or math.inf  # a t-interval of three replicas may be huge
        low, high = max(float(ends.min()), low - room), min(float(ends.max()), high + room)
    if look.reference:
        low, high = min(low, look.reference[0]), max(high, look.reference[0])
    low, high = padded(low, high)
    return (low if look.ylim[0] is None else look.ylim[0]), (high if look.ylim[1] is None else look.ylim[1])


def padded(low: float, high: float) -> tuple[float, float]:
    """A little room above and below; something to both sides of a value that never changes."""
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > 1e-9 * size else 0.1 * size or 1.0
    return low - room, high + room


# --- round values ---------------------------------------------------------------------------------


def gap_of(low: float, high: float, about: int = 5) -> float:
    """Distance of round values that make `about` parts: 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    base = 10.0 ** math.floor(math.log10(raw))
    return next(base * k for k in (1, 2, 5, 10, 20) if base * k >= raw * 0.999)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from `low` to `high`.

    >>> ticks(0.0, 95.0), ticks(-3.0, 4.0)
    ([0.0, 20.0, 40.0, 60.0, 80.0], [-2.0, 0.0, 2.0, 4.0])
    """
    gap = gap_of(low, high, about)
    return [k * gap for k in range(math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`, five at most."""
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**k for k in range(first, last + 1, max(1, math.ceil((last - first) / 4)))]


def label(value: float, gap: float) -> str:
    """A value on an axis, with the decimals that its neighbours at a distance of `gap` need."""
    if max(abs(value), gap) >= 1e7 or gap < 1e-5:
        return f"{value:.3g}".replace("-", "−")
    text = f"{value:,.{max(0, -math.floor(math.log10(gap) + 1e-9))}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


# --- colours --------------------------------------------------------------------------------------


def colours(colour: str) -> str:
    """Style attribute with both shades of a colour; nothing for the colour of text."""
    if not colour:
        return ""
    light, dark = shades(colour)
    return f'style="--l:{light};--d:{dark}"'


def shades(colour: str) -> tuple[str, str]:
    """`#rrggbb` for a white and for a dark background: moved to black or white until it stands out, 3 to 1
    (4 to 1 on the dark one, where thin lines drown sooner).

    >>> shades("#E0A3D8"), shades("#1B3A8A")
    (('#b382ad', '#e0a3d8'), ('#1b3a8a', '#6b7fb3'))
    """
    return _away(colour, 1.0, 0), _away(colour, 0.0159, 255)


def _away(colour: str, background: float, towards: int) -> str:
    """Moved in twentieths; `background` is the relative luminance of WCAG 2 (0.0159: #1e2227)."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = parts
    for k in range(21):
        mixed = [round(part + (towards - part) * k / 20) for part in parts]
        linear = [v / 12.92 if (v := p / 255) <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for p in mixed]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        bright, dim = max(luminance, background), min(luminance, background)
        if (bright + 0.05) / (dim + 0.05) >= (3.0 if towards == 0 else 4.0):
            break
    return "#" + "".join(f"{part:02x}" for part in mixed)
