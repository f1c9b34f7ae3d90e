"""Whom the critics of FedFormer attend to: the metrics `fedformer/attention_*` as matrices of members, over time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from peerage.reports import heatmaps, matrix
from peerage.reports.drawing import Draft
from peerage.reports.over_time import OverTime
from peerage.statistics import summaries

PREFIX = "fedformer/attention_"
CLS = "CLS"
"""The token that asks, as one of the tokens that are attended to."""
WORDS = ("critics of", "token of")
CAPTION = (
    "Attention weights of CLS in the last layer of the critics of each member (rows), in percent: to the encoders of "
    "the members (columns), and to CLS itself. They are averaged over heads, critics and samples of the updates since "
    "the step before. Without a preference, each token would have"
)


def attention(metrics: pd.DataFrame) -> pd.DataFrame:
    """The weights as step, replica, asker, adviser, weight (percent); an adviser is `member-J`, `NAME:J` of another
    participant of a federation, or `CLS`. Empty for runs without FedFormer."""
    rows = metrics[metrics["name"].str.startswith(PREFIX)]
    token = rows["name"].str.removeprefix(PREFIX)
    adviser = ("member-" + token).where(token.str.isdecimal(), token.replace("cls", CLS))
    table = {"step": rows["step"], "replica": rows["replica"], "asker": rows["member"], "adviser": adviser}
    return pd.DataFrame({**table, "weight": 100 * rows["value"]}).dropna().reset_index(drop=True)


def over_time(metrics: pd.DataFrame) -> str:
    """The matrix with a slider as HTML, empty without FedFormer."""
    found = attention(metrics)
    if found.empty:
        return ""
    moments = OverTime(found, summaries.advisers_of(found), 1)
    weights = moments.array(moments.source.groupby(["replica", "step", "asker", "adviser"])["weight"].mean())
    column = matrix.Column("attention", "attention (%)", weights, share=True, full=float(np.nanmax(weights)))
    caption = f"{CAPTION} {_equal(found)}. Framed cells are the member's own encoder."
    return moments.draw([column], "Attention to the members' encoders", caption, " \\ ".join(WORDS))


def over_time_figure(metrics: pd.DataFrame) -> Draft | None:
    """The matrix at the end of each quarter of the run; None without FedFormer."""
    found = attention(metrics)
    if found.empty:
        return None
    panels = heatmaps.snapshots(found, "weight")
    highest = max(float(table.max().max()) for _, table in panels)
    scales = [(0.0, highest)] * len(panels)
    figure = heatmaps.draw(panels, scales, found, 2 if len(panels) > 1 else 1, shared=True, words=WORDS)
    caption = f"{CAPTION} {_equal(found)}. Mean over replicas."
    return Draft("encoder_attention", "Attention to the members' encoders", caption, figure, "Trust")


def _equal(found: pd.DataFrame) -> str:
    return f"{100 / found['adviser'].nunique():.1f}%"
