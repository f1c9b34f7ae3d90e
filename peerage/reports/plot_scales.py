"""The layout of charts: ranges of axes, round values on an axis, and colours with sufficient contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.text import thousands

STEPS = "steps per member"
"""The label of most x axes: environment steps, or gradient steps of an offline run. Their values are written in short
form: 5,000, 24k, 1.5M."""
DIVERGED = 1e100
"""Larger values, from a learner that diverges, are not drawn."""


def finite(values: Any) -> np.ndarray:
    """As an array of floats, with NaN for infinite values and values beyond DIVERGED."""
    array = np.asarray(values, dtype=float)
    return np.where(np.abs(array) < DIVERGED, array, np.nan)


@dataclass(frozen=True)
class Series:
    """One line of a chart: lists, arrays or columns of pandas, `[T]` each; NaN where there is no value.

    Infinite values and values beyond DIVERGED count as missing.
    """

    name: str
    steps: Any
    """Values on the x axis, ascending; steps, or with another `Look.xlabel` another quantity."""
    estimate: Any
    low: Any = None
    high: Any = None
    colour: str = ""
    """`#rrggbb`, adapted to the background; empty: the colour of text."""
    dash: bool = False
    thin: bool = False
    """A thin line in the background, such as that of one member next to the mean."""
    unlabelled: bool = False
    """Not in the legend and not among the values under the pointer."""

    def __post_init__(self) -> None:
        for name in ("steps", "estimate", "low", "high"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, finite(values))

    @property
    def known(self) -> np.ndarray:
        """Whether there is a value, `[T]`."""
        return np.isfinite(self.estimate)


@dataclass(frozen=True)
class Look:
    """Options of a figure, the same for all its panels."""

    unit: str = ""
    """Appended to values, such as `%`."""
    xlabel: str = STEPS
    xlim: tuple[float | None, float | None] = (0.0, None)
    """Limits of the x axis; None: from the data."""
    ylim: tuple[float | None, float | None] = (None, None)
    """Limits of the y axis; None: from the data."""
    reference: tuple[float, str] | None = None
    """Height and name of a dotted line."""
    log: bool = False
    """Logarithmic y axis, for positive values."""
    skip_start: bool = False
    """Fit the y axis to the last four fifths of the run if earlier values (initial ones of 200) would hide them."""
    separate_scales: bool = False
    """Every panel has its own y axis."""


@dataclass(frozen=True)
class Axes:
    """The limits of the axes of a panel, and the positions of values on them."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def across(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Positions on the x axis as shares of the width, from the left."""
        low, high = self.x
        return (np.asarray(values, dtype=float) - low) / ((high - low) or 1.0)

    def up(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Positions on the y axis as shares of the height, from the bottom."""
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
    """Limits of the x axis."""
    low = min(float(s.steps.min()) for s in series) if look.xlim[0] is None else look.xlim[0]
    last = max(float(s.steps.max()) for s in series)
    single = all(s.known.sum() == 1 for s in series)  # leave room for dots at the edge
    high = last * (1.05 if single else 1.0) if look.xlim[1] is None else look.xlim[1]
    return low, high if high > low else low + 1.0


def height(series: Sequence[Series], x: tuple[float, float], look: Look) -> tuple[float, float]:
    """Limits of the y axis: all estimates, and as much of the bands as leaves the lines readable."""
    lines, edges, late = [], [], []
    for s in series:
        known = s.estimate[s.known]
        lines.append(known)
        late.append(known[s.steps[s.known] > x[0] + 0.2 * (x[1] - x[0])])
        edges += [edge[np.isfinite(edge)] for edge in (s.low, s.high) if edge is not None]
    values, rest = np.concatenate(lines), np.concatenate(late)
    low, high = float(values.min()), float(values.max())
    if look.log:
        return 10 ** math.floor(math.log10(low)), 10 ** (math.floor(math.log10(high)) + 1)
    if look.skip_start and len(rest) and high - low > 5 * (rest.max() - rest.min()) > 0:
        low, high = float(rest.min()), float(rest.max())
    else:
        ends = np.concatenate([*edges, values])
        room = 0.75 * (high - low) or math.inf  # a t-interval of three replicas may be very wide
        low, high = max(float(ends.min()), low - room), min(float(ends.max()), high + room)
    if look.reference:
        low, high = min(low, look.reference[0]), max(high, look.reference[0])
    low, high = padded(low, high)
    return (low if look.ylim[0] is None else look.ylim[0]), (high if look.ylim[1] is None else look.ylim[1])


def padded(low: float, high: float) -> tuple[float, float]:
    """The limits with a margin on both sides, also around a single value."""
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > 1e-9 * size else 0.1 * size or 1.0
    return low - room, high + room


# --- round values ---------------------------------------------------------------------------------


def gap_of(low: float, high: float, about: int = 5) -> float:
    """Distance of round values for about `about` intervals: 1, 2 or 5 times a power of ten."""
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
    """At most five powers of ten from `low` to `high`."""
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**k for k in range(first, last + 1, max(1, math.ceil((last - first) / 4)))]


def label(value: float, gap: float) -> str:
    """The label of a value on an axis, with enough decimals for a distance of `gap` between values."""
    if max(abs(value), gap) >= 1e7 or gap < 1e-5:
        return f"{value:.3g}".replace("-", "−")
    text = f"{value:,.{max(0, -math.floor(math.log10(gap) + 1e-9))}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


# --- colours --------------------------------------------------------------------------------------


def colours(colour: str) -> str:
    """Style attribute with both shades of a colour; empty for the colour of text."""
    if not colour:
        return ""
    light, dark = shades(colour)
    return f'style="--l:{light};--d:{dark}"'


def shades(colour: str) -> tuple[str, str]:
    """`#rrggbb` for a white and for a dark background: moved towards black or white until its contrast is at least 3:1,
    on the dark background 4:1.

    >>> shades("#E0A3D8"), shades("#1B3A8A")
    (('#b382ad', '#e0a3d8'), ('#1b3a8a', '#6b7fb3'))
    """
    return _with_contrast(colour, 1.0, 0), _with_contrast(colour, 0.0159, 255)


def _with_contrast(colour: str, background: float, towards: int) -> str:
    """The colour moved in steps of 1/20; `background`: its relative luminance by WCAG 2 (0.0159: #1e2227)."""
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
