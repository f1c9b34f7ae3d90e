"""Trust and choices in a group with advice: matrices at one time, and the choices of one member over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from peerage.app import curves, tables
from peerage.app.markdown import plain
from peerage.reports.drawing import MAX_MEMBERS, adviser_colour
from peerage.reports.heatmaps import capital
from peerage.statistics import summaries
from peerage.statistics.advice_log import trust_in_use
from peerage.text import short, thousands

BINS = 40
"""Largest number of moments on the slider."""


def show(folder: Path, name: str) -> None:
    """Whom the members trust and follow; nothing for a run without advice."""
    advice = tables.advice(folder)
    if advice["adviser"].nunique() < 2:
        return
    st.subheader("Trust and advice")
    source = summaries.with_roles(advice) if advice["asker"].nunique() > MAX_MEMBERS else advice
    shares = summaries.choice_shares(source, bins=BINS)
    if shares.empty:
        st.caption("No member has chosen an adviser yet.")
        return
    steps = sorted(int(step) for step in shares.index.unique("step"))

    @st.fragment
    def at_one_time() -> None:
        step = steps[-1]
        if len(steps) > 1:
            about = "Steps of the training. Choices are those since the moment before."
            key = f"moment/{name}"
            step = int(st.select_slider("Moment", steps, steps[-1], key=key, help=about, format_func=thousands))
        _show_matrices(source, shares, step, name)

    at_one_time()
    _show_choices(shares, summaries.legend_order(source), name)


def _show_matrices(source: pd.DataFrame, shares: pd.DataFrame, step: int, name: str) -> None:
    askers = sorted(set(source["asker"]), key=summaries.natural)
    advisers = summaries.legend_order(source)
    left, right = st.columns(2)
    column, title, values = trust_in_use(source)
    if column:
        known = source[["step", "asker", "adviser"]].assign(trust=values).dropna()
        known = known[known["step"] <= step]
        known = known[known["step"] == known["step"].max()]
        table = known.groupby(["asker", "adviser"])["trust"].mean().unstack("adviser")
        matrix = table.reindex(index=askers, columns=advisers).to_numpy(dtype=float)
        with left:
            made = curves.heatmap(matrix, askers, _short(advisers), limits=_limits(matrix), title=f"Trust: {title}")
            curves.show(made, f"trust/{name}", alt="Trust of each member in each adviser")
    chosen = shares[shares.index.get_level_values("step") == step].droplevel("step")
    matrix = 100 * chosen.reindex(index=askers, columns=advisers).to_numpy(dtype=float)
    with right:
        made = curves.heatmap(matrix, askers, _short(advisers), limits=(0.0, 100.0), title="Choices (%)", digits=0)
        curves.show(made, f"choices/{name}", alt="Share of the choices of each member that went to each adviser")
    st.caption(plain(f"Rows are asking members, columns their advisers, at step {step:,}; mean over replicas."))


def _show_choices(shares: pd.DataFrame, advisers: list[str], name: str) -> None:
    askers = sorted((str(each) for each in shares.index.unique("asker")), key=summaries.natural)
    asker = str(st.selectbox("Asking member", askers, key=f"asker/{name}"))
    table = 100 * shares.loc[[asker]].droplevel("asker").reindex(columns=advisers, fill_value=0.0).fillna(0.0)
    made = go.Figure()
    for adviser in advisers:
        made.add_scatter(
            x=table.index,
            y=table[adviser],
            name=short(adviser),
            stackgroup="all",
            line={"width": 0.5, "color": adviser_colour(adviser)},
        )
    curves.lay_out(made, f"{capital(asker)}: whom it follows", "share of choices (%)")
    made.update_yaxes(range=[0, 100])
    curves.show(made, f"follow/{name}", alt=f"Share of the choices of {asker} that went to each adviser, over time")


def _short(names: list[str]) -> list[str]:
    return [short(each) for each in names]


def _limits(matrix: np.ndarray) -> tuple[float, float] | None:
    """Limits of the colours, symmetric around zero for values of both signs."""
    known = matrix[np.isfinite(matrix)]
    if not len(known) or known.min() >= 0 or known.max() <= 0:
        return None
    largest = float(np.abs(known).max())
    return -largest, largest
