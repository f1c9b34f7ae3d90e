"""Charts as inline SVG in HTML: they scale to any size, work without a script, and show values on hover and touch.

    plots.curves([plots.Series("mean", steps, mean, low, high)], "return", "Learning curve")

The lines are stretched to the available width, and the text is HTML placed over them, so that text and line widths do
not change with the size. A page with charts needs `STYLE`; with `SCRIPT` it shows the values under the pointer or, with
the arrow keys, at a cursor. A figure without data is an empty string.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from peerage.reports import page
from peerage.reports.plot_scales import (
    STEPS,
    Axes,
    Look,
    Series,
    colours,
    gap_of,
    height,
    label,
    padded,
    reach,
    shades,
    ticks,
)
from peerage.reports.plot_script import SCRIPT, STYLE
from peerage.text import number, short

__all__ = ["SCRIPT", "STEPS", "STYLE", "Look", "Series", "areas", "curves", "intervals", "multiples"]

UNITS = 4000
"""Width and height of a chart in SVG units."""
DOTS = 12
"""A line with at most this many values has a dot at each of them."""
PLAIN = Look()


# --- the charts -----------------------------------------------------------------------------------


def curves(series: Sequence[Series], ylabel: str, title: str, *, caption: str = "", look: Look = PLAIN) -> str:
    """Lines with bands in one panel, as a figure with legend and caption."""
    return multiples({"": series}, ylabel, title, caption=caption, look=look)


def multiples(
    panels: Mapping[str, Sequence[Series]], ylabel: str, title: str, *, caption: str = "", look: Look = PLAIN
) -> str:
    """`curves` in several panels (title -> lines) with one legend."""
    panels = {name: [s for s in series if s.known.any()] for name, series in panels.items()}
    panels = {name: series for name, series in panels.items() if series}
    if not panels:
        return ""
    everything = [s for series in panels.values() for s in series]
    x = reach(everything, look)
    drawn = []
    for name, series in panels.items():
        axes = Axes(x, height(series if look.separate_scales else everything, x, look), look.log)
        drawn.append(_panel(name, "".join(_lines(s, axes) for s in series), series, axes, look))
    return _figure(title, ylabel, drawn, everything, caption, look)


def areas(panels: Mapping[str, Sequence[Series]], ylabel: str, title: str, *, caption: str = "") -> str:
    """Stacked areas in panels, in percent of the total; the series of a panel have the same steps."""
    panels = {name: series for name, series in panels.items() if series}
    if not panels:
        return ""
    look = Look(unit="%")
    everything = [s for series in panels.values() for s in series]
    axes = Axes(reach(everything, look), (0.0, 100.0))
    drawn = []
    for name, series in panels.items():
        # A row counts what happened since the row before, so its value extends back to that row.
        along, parts = axes.across([axes.x[0], *series[0].steps]), _parts(series)
        floor, shapes = np.zeros(len(along) - 1), []
        for s in series:
            top, outline = floor + np.nan_to_num(s.estimate), ""
            for a, b in parts:
                x, held = along[a : b + 1], [a, *range(a, b)]
                edges = np.concatenate([x, x[::-1]]), axes.up(np.concatenate([top[held], floor[held][::-1]]))
                outline += f"{_path(*edges)}Z"
            shapes.append(f'<path class="s area" {colours(s.colour)} d="{outline}"/>')
            floor = top
        drawn.append(_panel(name, "".join(shapes), series, axes, look, stacked=True))
    return _figure(title, ylabel, drawn, everything, caption, look, "chart shares")


def intervals(
    rows: Sequence[tuple[str, float, float, float]],
    xlabel: str,
    title: str,
    *,
    caption: str = "",
    reference: float | None = 0.0,
) -> str:
    """A row per quantity (name, estimate, low, high): a dot and its interval, for differences between groups."""
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return ""
    values = [v for row in rows for v in row[1:] if math.isfinite(v)] + ([] if reference is None else [reference])
    axes = Axes(padded(min(values), max(values)), (0.0, 1.0))

    def at(value: float) -> str:
        return f"{100 * float(axes.across([value])[0]):.2f}%"

    lines = []
    for name, estimate, low, high in rows:
        bar, text = "", number(estimate)
        if math.isfinite(low) and math.isfinite(high):
            width = 100 * float(np.diff(axes.across([low, high]))[0])
            bar = f'<i class="bar" style="left:{at(low)};width:{width:.2f}%"></i>'
            text += f" ({number(low)} to {number(high)})"
        zero = "" if reference is None else f'<i class="zero" style="left:{at(reference)}"></i>'
        track = f'<td class="track"><div>{zero}{bar}<i class="dot" style="left:{at(estimate)}"></i></div></td>'
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{track}<td>{escape(text)}</td></tr>')
    gap = gap_of(*axes.x)
    marks = "".join(f'<span style="left:{at(v)}">{escape(label(v, gap))}</span>' for v in ticks(*axes.x))
    foot = f'<td></td><td class="track"><div class="ticks">{marks}</div></td><td></td>'
    lines.append(f'<tr aria-hidden="true">{foot}</tr>')
    titles = f'<th scope="col">side</th><th scope="col" class="text">{escape(xlabel)}</th><th scope="col">value</th>'
    return (
        f'<figure class="intervals"><h3>{escape(title)}</h3><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>{_caption(caption)}</figure>"
    )


# --- parts of the charts --------------------------------------------------------------------------


def _figure(
    title: str,
    ylabel: str,
    drawn: Sequence[str],
    series: Sequence[Series],
    caption: str,
    look: Look,
    kind: str = "chart",
) -> str:
    """The panels of one figure under its title, with a legend of everything that has a name in them."""
    keys: dict[str, str] = {}
    for s in series:
        if not s.unlabelled:
            text = escape(short(s.name, 40))
            keys.setdefault(s.name, f'<li><i class="{_kind("key", s)}" {colours(s.colour)}></i>{text}</li>')
    if look.reference:
        keys[look.reference[1]] = f'<li><i class="s key dot main"></i>{escape(look.reference[1])}</li>'
    legend = f'<ul class="legend">{"".join(keys.values())}</ul>' if len(keys) > 1 else ""
    inside = drawn[0] if len(drawn) == 1 else f'<div class="panels">{"".join(drawn)}</div>'
    note = page.paragraph(ylabel, dim=True)
    return f'<figure class="{kind}"><h3>{escape(title)}</h3>{note}{inside}{legend}{_caption(caption)}</figure>'


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def _panel(
    name: str, shapes: str, series: Sequence[Series], axes: Axes, look: Look, stacked: bool = False
) -> str:
    """One set of axes with its shapes, its labels and the values that the script shows."""
    rules, labels = [], []
    for share, text in axes.yticks():
        rules.append(f'<path class="rule" d="M0 {round(UNITS * (1 - share))}H{UNITS}"/>')
        labels.append(f'<span class="y" style="bottom:{100 * share:.2f}%">{escape(text + look.unit)}</span>')
    for share, text in axes.xticks(look.xlabel):
        labels.append(f'<span class="x" style="left:{100 * share:.2f}%">{escape(text)}</span>')
    if look.reference:
        share = float(axes.up([look.reference[0]])[0])
        rules.append(f'<path class="reference" d="M0 {round(UNITS * (1 - share))}H{UNITS}"/>')
    labelled = [s for s in series if not s.unlabelled]
    grids = list(dict.fromkeys(tuple(s.steps.tolist()) for s in labelled))  # most series share theirs
    values = {
        "x": axes.x,
        "y": [page.rounded(v, 6) for v in axes.y],
        "log": look.log,
        "unit": look.unit,
        "at": "step " if look.xlabel == STEPS else "",
        "stacked": stacked,
        "grids": [[page.rounded(v, 8) for v in grid] for grid in grids],
        "series": [_numbers(s) | {"grid": grids.index(tuple(s.steps.tolist()))} for s in labelled],
    }
    top = f"<h4>{escape(name)}</h4>" if name else ""
    return (
        f'<div class="panel">{top}<div class="plot" tabindex="0" role="group" aria-roledescription="chart" '
        f'aria-label="{escape(_description(name, labelled, look))}"><div class="field">'
        f'<svg viewBox="0 0 {UNITS} {UNITS}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(rules)}{shapes}</svg>{''.join(labels)}</div>{page.data(values)}</div>"
        f'<p class="xlabel">{escape(look.xlabel)}</p></div>'
    )


def _lines(s: Series, axes: Axes) -> str:
    """The band and the line of a series."""
    known, style, band = s.known, colours(s.colour), ""
    x, y = axes.across(s.steps), axes.up(s.estimate)
    if s.low is not None and s.high is not None:
        low, high = axes.up(s.low), axes.up(s.high)
        there = np.isfinite(low) & np.isfinite(high)
        if there.sum() == 1:
            edges = _path(np.repeat(x[there], 2), np.concatenate([low[there], high[there]]))
            band = f'<path class="s whisker" {style} d="{edges}"/>'
        elif there.any():
            outline = np.concatenate([low[there], high[there][::-1]])
            edges = _path(np.concatenate([x[there], x[there][::-1]]), outline)
            band = f'<path class="s band" {style} d="{edges}Z"/>'
    if known.sum() == 1:  # a line of length zero with round ends is a dot
        return f'{band}<path class="{_kind("line", s)} point" {style} d="{_path(x[known], y[known])}h0"/>'
    line = f'{band}<path class="{_kind("line", s)}" {style} d="{_path(x[known], y[known])}"/>'
    if s.thin or known.sum() > DOTS:
        return line
    dots = "".join(f"{_path(x[k : k + 1], y[k : k + 1])}h0" for k in np.flatnonzero(known))
    return f'{line}<path class="s dot{"" if s.colour else " main"}" {style} d="{dots}"/>'


def _parts(series: Sequence[Series]) -> list[tuple[int, int]]:
    """The index ranges with values: (first, one after the last)."""
    known = np.any([s.known for s in series], axis=0)
    ends = np.flatnonzero(np.diff(known.astype(int), prepend=0, append=0)).tolist()
    return list(zip(ends[::2], ends[1::2]))


def _kind(kind: str, s: Series) -> str:
    marks = {"dash": s.dash, "thin": s.thin, "unlabelled": s.unlabelled, "main": not s.colour}
    return " ".join(["s", kind, *(name for name, there in marks.items() if there)])


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path through points given as shares of width and height, clipped far outside the chart."""
    y = np.clip(np.nan_to_num(y, nan=0.0, posinf=9, neginf=-9), -9, 9)
    points = np.rint(UNITS * np.stack([x, 1 - y], axis=1)).astype(int)
    return "M" + "L".join(f"{across} {down}" for across, down in points)


def _numbers(s: Series) -> dict[str, object]:
    """A series as data for the script."""
    parts = {"e": s.estimate}
    if s.low is not None and s.high is not None:
        parts |= {"l": s.low, "h": s.high}
    values = {key: [page.rounded(v) for v in part] for key, part in parts.items()}
    return {"name": short(s.name, 40), "colours": shades(s.colour) if s.colour else None, **values}


def _description(name: str, series: Sequence[Series], look: Look) -> str:
    """The description of a panel for screen readers: its last values."""
    last = []
    for s in series[:12]:
        known = np.flatnonzero(s.known)
        if not len(known):
            continue
        text = f"{s.name} {number(float(s.estimate[known[-1]]))}{look.unit}"
        if s.low is not None and s.high is not None and math.isfinite(low := float(s.low[known[-1]])):
            text += f" ({number(low)} to {number(float(s.high[known[-1]]))})"
        last.append(text)
    return f"{name or 'Chart'}. At the end: {', '.join(last)}. Use the arrow keys to read other points."
