"""Charts of the page as Plotly figures. The numbers, colours and names are those of the reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from peerage.reports.plot_scales import STEPS, Series
from peerage.text import short

TEXT_COLOUR = "#6b7785"
"""The colour of lines that have none of their own, readable on white and on black."""
CONFIG = {"displayModeBar": False}
HEIGHT = 300
MARGINS = {"l": 8, "r": 8, "t": 28, "b": 8}
GAPS = 40
"""Cells of a matrix with at most this many rows or columns are separated."""
LABELS = 20
"""Letters of the labels below a matrix that fit beside each other on a narrow page; longer ones are turned."""
DOTS = 12
"""A line with at most this many values has a dot at each of them."""


def figure(series: Sequence[Series], ylabel: str, title: str = "", xlabel: str = STEPS) -> go.Figure:
    """Lines with bands."""
    made = go.Figure()
    for line in series:
        if not line.known.any():
            continue
        colour = line.colour or TEXT_COLOUR
        if line.low is not None and line.high is not None and np.isfinite(line.low).any():
            known = np.isfinite(line.low) & np.isfinite(line.high)
            x = np.concatenate([line.steps[known], line.steps[known][::-1]])
            y = np.concatenate([line.high[known], line.low[known][::-1]])
            band = {"fill": "toself", "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}, "mode": "lines"}
            made.add_scatter(x=x, y=y, hoverinfo="skip", showlegend=False, **band)
        mode = "lines+markers" if line.known.sum() <= DOTS else "lines"
        look = {"color": colour, "width": 1 if line.thin else 2.5, "dash": "dash" if line.dash else "solid"}
        made.add_scatter(
            x=line.steps,
            y=line.estimate,
            name=short(line.name, 40),
            mode=mode,
            line=look,
            marker={"size": 4 if line.thin else 6},
            showlegend=not line.unlabelled and len(series) > 1,
            hoverinfo="skip" if line.unlabelled else "all",
        )
    lay_out(made, title, ylabel, xlabel)
    return made


def lay_out(made: go.Figure, title: str, ylabel: str, xlabel: str = STEPS) -> None:
    """The layout of a figure over steps."""
    made.update_layout(
        title=_title(title),
        height=HEIGHT,
        margin=MARGINS,
        hovermode="x unified",
        legend={"orientation": "h", "y": -0.3, "yanchor": "top", "x": 0},
        xaxis={"title": {"text": xlabel, "font": {"size": 12}}, "rangemode": "tozero", "automargin": True},
        yaxis={"title": ylabel, "automargin": True},
    )


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 15}, "x": 0, "xanchor": "left"}


def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limits: tuple[float, float] | None = None,
    title: str = "",
    height: int | None = None,
    digits: int = 2,
) -> go.Figure:
    """A matrix `[rows, columns]`; the first row is at the top. `limits`: the ends of the colours; `digits`: decimals in
    the cells of a small matrix."""
    values = np.asarray(values, dtype=float)
    made = go.Figure(
        go.Heatmap(
            z=values,
            x=list(columns),
            y=list(rows),
            zmin=None if limits is None else limits[0],
            zmax=None if limits is None else limits[1],
            colorscale="RdBu" if limits is not None and limits[0] < 0 else "Blues",
            colorbar={"thickness": 10},
            texttemplate=f"%{{z:.{digits}f}}" if values.size <= 64 else None,
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
            xgap=1 if len(columns) <= GAPS else 0,
            ygap=1 if len(rows) <= GAPS else 0,
        )
    )
    made.update_layout(
        title=_title(title),
        height=height or max(130, min(420, 90 + 26 * len(rows))),
        margin=MARGINS,
        xaxis={"type": "category", "automargin": True, "tickangle": -40 if sum(map(len, columns)) > LABELS else 0},
        yaxis={"type": "category", "autorange": "reversed", "automargin": True},
    )
    return made


def bars(panels: dict[str, Sequence[float]], names: Sequence[str], title: str, ylabel: str = "") -> go.Figure:
    """Bars of several quantities side by side, a group for each name."""
    made = go.Figure([go.Bar(name=name, x=list(names), y=list(values)) for name, values in panels.items()])
    made.update_layout(
        title=_title(title),
        height=HEIGHT,
        margin=MARGINS,
        barmode="group",
        showlegend=len(panels) > 1,
        legend={"orientation": "h", "y": -0.3, "x": 0},
        xaxis={"type": "category", "automargin": True},
        yaxis={"title": ylabel, "automargin": True},
    )
    return made


def ranking(values: np.ndarray, names: Sequence[str], title: str) -> go.Figure:
    """Horizontal bars, a row for each name in the given order, the first at the top."""
    made = go.Figure(go.Bar(x=np.asarray(values, dtype=float), y=list(names), orientation="h"))
    made.update_layout(
        title=_title(title),
        height=max(160, min(700, 80 + 24 * len(names))),
        margin=MARGINS,
        yaxis={"type": "category", "autorange": "reversed", "automargin": True},
        xaxis={"rangemode": "tozero", "automargin": True},
    )
    return made


def show(made: go.Figure, key: str, alt: str = "") -> None:
    """Put a figure on the page."""
    more: dict[str, Any] = {"alt": alt} if alt else {}
    st.plotly_chart(made, key=key, config=CONFIG, **more)
