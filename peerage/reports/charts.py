"""The charts of the report of a run: the numbers that `plots` and `matrix` draw, from its CSV files.

Every function takes DataFrames as from `tables` and returns HTML, empty without data. In long runs neighbouring rows
are merged into their mean (choices: their sum), so that the page stays small.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from peerage.reports import matrix, page, plots
from peerage.reports.drawing import MAX_MEMBERS, OTHER_COLOURS, adviser_colour
from peerage.reports.heatmaps import capital
from peerage.reports.over_time import OverTime
from peerage.reports.plots import Look, Series
from peerage.runs.listeners import is_member
from peerage.statistics import summaries
from peerage.statistics.advice_log import signals_in_use, trust_curves
from peerage.statistics.calibration import Calibration, histogram
from peerage.text import count, listing, number

POINTS = 120
"""Largest number of points of a curve: enough for its shape, with several episodes per point."""
AREA_POINTS = 60
"""Largest number of points of the stacked areas: each sums several rows of the log, which reduces the noise."""
TRACE_NUMBERS = 24_000
"""Largest number of values in all traces of single askers together, about 14 bytes each."""
BUNDLE_COLOUR = "#8fa6b8"
"""Colour of the lines of single members in a large group."""
START_NOTE = "Initial values far from the learned ones are outside the axes."


# --- learning -------------------------------------------------------------------------------------


def learning(evaluations: pd.DataFrame, metrics: pd.DataFrame) -> str:
    """Return and success of evaluations, and return of training episodes."""
    success = summaries.success_values(evaluations)
    success["value"] *= 100
    greedy, training = summaries.member_values(evaluations, "return"), summaries.metric(metrics, "train/return")
    target = summaries.for_target(evaluations)
    note = f"Members act{target}." if target else ""
    known = int(evaluations["success"].notna().sum())
    partly = ""
    if 0 < known < len(evaluations):
        only = f"{known:,} of {len(evaluations):,} evaluation episodes"
        what = f"The environment reported success in {only} only: the success rate is unknown."
        partly = page.paragraph(what, dim=True)
    parts = [
        curve(greedy, "Evaluation return", "return of episodes without exploration and advice", note),
        curve(success, "Success in evaluations", "share of these episodes with success", "", _percent(), (0, 100)),
        partly,
        curve(training, "Training return", "return of training episodes"),
    ]
    return "\n".join(filter(None, parts))


def test_split(evaluations: pd.DataFrame) -> str:
    """Return and success of the evaluations of the mode test."""
    success = summaries.success_values(evaluations)
    success["value"] *= 100
    values = summaries.member_values(evaluations, "return")
    parts = [
        curve(values, "Test return", "return of evaluations on the test split"),
        curve(success, "Success on the test split", "share of these episodes with success", "", _percent(), (0, 100)),
    ]
    return "\n".join(filter(None, parts))


def offline(metrics: pd.DataFrame) -> str:
    """Loss and error of the actions of members that learn from a dataset."""
    error = summaries.metric(metrics, "error/action")
    if error.empty:
        return ""
    note = "Box: mean absolute error, with actions scaled to [-1, 1]; Discrete: share of other actions."
    look = Look(ylim=(0.0, None))
    return "\n".join(
        (
            curve(summaries.metric(metrics, "loss/actor"), "Loss of the policy", "loss on batches of the data"),
            curve(error, "Error of the actions", "difference from the actions of the data", note, look),
        )
    )


def targets(found: Calibration | None) -> str:
    """Achieved return against target return, and how often the data has such returns."""
    if found is None:
        return ""
    targets, result = found.targets, found.spread
    identity = Series("achieved = target", targets, targets, colour="#888888", dash=True, thin=True)
    series = [identity, Series("achieved return", targets, result.mean, *_band(result))]
    text = f"Mean return over episodes and members for each target return, after {found.step:,} steps."
    if result.kind:
        text += f" The band is the {result.kind} over {result.replicas} replicas."
    if len(found.returns):
        low, high = found.returns[0], found.returns[-1]
        text += f" The returns of the data are between {number(low)} and {number(high)}."
    if math.isfinite(found.correlation):
        text += f" Over the targets inside the data, the correlation is {found.correlation:.2f}"
        text += f" and the mean error {found.error:.0%} of this range." if math.isfinite(found.error) else "."
    ends = [targets.min(), targets.max(), *found.returns[[0, -1]]] if len(found.returns) else [targets.min()]
    look = Look(xlabel="target return", xlim=(float(min(ends)), float(max(*ends, targets.max()))))
    parts = [plots.curves(series, "achieved return", "Achieved and target return", caption=text, look=look)]
    if len(found.returns) and found.returns[0] < found.returns[-1]:
        edges, shares = histogram(found.returns)
        bars = Series("episodes of the data", np.repeat(edges, 2)[1:-1], np.repeat(100 * shares, 2))
        words = f"Returns of the episodes of the data, in {len(shares)} bins."
        shape = Look(unit="%", xlabel="return", xlim=look.xlim, ylim=(0.0, None))
        parts.append(plots.curves([bars], "share of episodes", "Returns of the data", caption=words, look=shape))
    return "\n".join(parts)


def curve(
    values: pd.DataFrame,
    title: str,
    ylabel: str,
    note: str = "",
    look: Look = plots.PLAIN,
    within: summaries.Within = summaries.ANYTHING,
) -> str:
    """Mean over replicas of the mean over members, its band over replicas, and a thin line per member.

    `values` has step, replica, member, value, as from `summaries.metric`; `within` are its possible values; `note` is
    appended to the caption.
    """
    if values.empty:
        return ""
    series, caption = lines(values, within)
    return plots.curves(series, ylabel, title, caption=f"{title}: {caption}{note and f' {note}'}", look=look)


def lines(values: pd.DataFrame, within: summaries.Within = summaries.ANYTHING) -> tuple[list[Series], str]:
    """The lines of `curve`, and the caption that explains them; no lines without values."""
    if values.empty:
        return [], ""
    thinned = summaries.member_values(summaries.thin(values, POINTS), "value")
    replicas, members = summaries.by_replica(thinned), summaries.by_member(thinned)
    result = summaries.spread(replicas.to_numpy(), within)
    # With one trust model for the group the lines of all members coincide.
    alike = members.shape[1] > 1 and members.nunique(axis=1).max() == 1
    number_of = 1 if alike else members.shape[1]
    series = []
    for k, member in enumerate(members.columns if number_of > 1 else []):
        line = members[member].dropna()
        if number_of > MAX_MEMBERS:
            line = line.iloc[:: math.ceil(len(line) / 60)]
            series.append(Series(member, line.index, line, colour=BUNDLE_COLOUR, thin=True, unlabelled=True))
        else:
            dash = k % 4 >= 2  # colours repeat in lighter and darker shades
            series.append(Series(member, line.index, line, colour=adviser_colour(member), dash=dash, thin=True))
    alone = number_of == 1 and result.replicas == 1
    name = str(members.columns[0]) if alone and not alike else "mean"
    series.append(Series(name, replicas.index, result.mean, *_band(result)))
    over = [count(number_of, "member")] if number_of > 1 else []
    over += [f"{result.replicas} replicas"] if result.replicas > 1 else []
    single = "the same for all members" if alike else str(members.columns[0])
    text = f"mean over {' and '.join(over)}{', the same for all members' if alike else ''}" if over else single
    if result.kind:
        text += f"; the band is the {result.kind} over replicas"
        text += ", at steps where all have a value" if replicas.isna().to_numpy().any() else ""
    if number_of > 1:
        text += "; thin lines are single members"
        text += ", mean over the members with the same number in all replicas" if result.replicas > 1 else ""
    return series, f"{text}.{_thinned(values)}"


def _thinned(values: pd.DataFrame, points: int = POINTS) -> str:
    steps = values["step"].nunique()
    return f" Each point is the mean of about {round(steps / points)} rows of the log." if steps >= 1.5 * points else ""


def _percent() -> Look:
    return Look(unit="%", ylim=(0.0, 100.0))


# --- who follows whom -----------------------------------------------------------------------------


def listeners(advice: pd.DataFrame) -> str:
    """The matrix of askers and advisers over time, with choices and every signal that was computed.

    In a group of more than MAX_MEMBERS members the advisers are pooled by their role for the asker.
    """
    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return ""
    source, advisers = _pooled(advice[advice["step"] >= advice["step"][advice["chosen"] > 0].min()])
    signals = _signals(source)
    over_time = OverTime(source, advisers, 1 + len(signals))
    grouped = over_time.source.groupby(["replica", "step", "asker", "adviser"])
    chosen = grouped["chosen"].sum()
    total = chosen.groupby(level=["replica", "step", "asker"]).transform("sum")
    choices = over_time.array(100 * chosen / total.where(total > 0))
    columns = [matrix.Column("choices", "share of choices (%)", choices, share=True)]
    for name, title in signals.items():
        columns.append(matrix.Column(title, title, over_time.array(grouped[name].mean())))
    caption = (
        "Rows are asking members, columns their advisers; framed cells are members that follow themselves. Choices are "
        f"counted, and signals averaged, since the step before. Random choice would give each of "
        f"{advice['adviser'].nunique()} advisers {100 / advice['adviser'].nunique():.0f}% of the choices."
    )
    if len(signals):
        caption += " Each signal has its own colour scale: blue for high values, orange for values below zero."
    if len(advisers) < advice["adviser"].nunique():
        caption += " Members are pooled into two advisers: the asker itself, and all others."
    return over_time.draw(columns, "Step by step", caption)


def shares(advice: pd.DataFrame) -> str:
    """Stacked areas, a panel per asker: the share of each adviser in its choices."""
    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return ""
    source, names = _pooled(advice)
    many = source is not advice
    source, palette = summaries.thin(source, AREA_POINTS), _palette(names)
    steps, tables = np.unique(source["step"]), 100 * summaries.choice_shares(source, pool=many)
    panels = {}
    for asker in sorted(map(str, tables.index.unique("asker")), key=summaries.natural):
        table = tables.loc[[asker]].droplevel("asker").reindex(columns=names).fillna(0.0)
        table = table.reindex(steps)  # a gap where it made no choice
        panels[asker] = [Series(name, table.index, table[name], colour=palette[name]) for name in names]
    over = ["replicas"] if advice["replica"].nunique() > 1 else []
    over += [f"all {advice['asker'].nunique()} members"] if many else []
    caption = "Advisers that each member chose to follow" + (f", mean over {listing(over)}." if over else ".")
    if len(tables) < len(steps) * len(panels):
        caption += " Gaps are steps without choices, for example before learning starts."
    return plots.areas(panels, "share of choices", "Whom the members follow", caption=caption)


def right_wrong(metrics: pd.DataFrame) -> str:
    """Share of choices that followed a fixed adviser acting as the expert, and as the adversary."""
    series, result = [], None
    for name, label, kind in (
        ("advice/right", "right: acts as the expert", "expert"),
        ("advice/wrong", "wrong: acts as the adversary", "adversary"),
    ):
        values = summaries.metric(metrics, name)
        if len(values):
            table = 100 * summaries.by_replica(summaries.member_values(summaries.thin(values, POINTS), "value"))
            result = summaries.spread(table.to_numpy(), (0, 100))
            dash, colour = kind == "adversary", adviser_colour(kind)
            series.append(Series(label, table.index, result.mean, *_band(result), colour, dash))
    if result is None:
        return ""
    caption = "Share of choices that followed a fixed adviser acting as expert or adversary, mean over members. "
    caption += f"The bands are the {result.kind} over {result.replicas} replicas. " if result.kind else ""
    caption += "The other choices are neither."
    return plots.curves(series, "share of choices", "Right and wrong choices", caption=caption, look=_percent())


def entropy(metrics: pd.DataFrame, advice: pd.DataFrame) -> str:
    """Entropy of the distribution over advisers in a choice; ln K for a random choice."""
    advisers = advice["adviser"].nunique()
    if advisers < 2:
        return ""
    random_choice = (math.log(advisers), f"random choice: ln {advisers} = {math.log(advisers):.2f}")
    note = f"0: always the same adviser; ln {advisers}: random choice among {advisers} advisers."
    values = summaries.metric(metrics, "advice/choice_entropy")
    look = Look(reference=random_choice, ylim=(0.0, None))
    return curve(values, "Choice entropy", "entropy (nats)", note, look, within=(0.0, random_choice[0]))


# --- the signals behind the scores ----------------------------------------------------------------


def signals(advice: pd.DataFrame) -> str:
    """A panel per signal: mean over askers of self, other members and each fixed adviser, with bands."""
    present = _signals(advice)
    if not present or advice["adviser"].nunique() < 2:
        return ""
    source = summaries.thin(summaries.with_roles(advice), POINTS)
    names, panels, result = summaries.legend_order(source), {}, None
    palette = _palette(names)
    for column, title in present.items():
        known = source[["step", "replica", "adviser", column]].dropna()
        tables = known.groupby(["adviser", "step", "replica"])[column].mean().unstack("replica")
        lines = []
        for name in names:
            if name in tables.index:
                table = tables.loc[name]
                result = summaries.spread(table.to_numpy())
                lines.append(_line(name, palette[name], table.index, result.mean, result))
        panels[capital(title)] = lines
    caption = "The score and the signals behind it, by the role of the adviser; mean over members"
    if result is not None and result.kind:
        caption += f", with the {result.kind} over {result.replicas} replicas"
    look = Look(separate_scales=True, skip_start=True)
    return plots.multiples(panels, "", "Every signal over time", caption=f"{caption}. {START_NOTE}", look=look)


def trust_model(metrics: pd.DataFrame, advice: pd.DataFrame) -> str:
    """Metrics of the kinds of trust over time, each in a panel with a line per member."""
    panels, caption = {}, ""
    for title, values, _ in trust_curves(metrics, advice):
        panels[capital(title)], caption = lines(values)
    look = Look(separate_scales=True, skip_start=True)
    words = f"Metrics of the trust model: {caption} {START_NOTE}"
    return plots.multiples(panels, "", "The trust model", caption=words, look=look)


def traces(advice: pd.DataFrame) -> str:
    """A figure per signal with a panel per asker and a line per adviser; only for up to MAX_MEMBERS members."""
    present = _signals(advice)
    askers = sorted(set(advice["asker"]), key=summaries.natural)
    names = summaries.legend_order(advice)
    palette = _palette(names)
    if not present or len(names) < 2 or len(askers) > MAX_MEMBERS:
        return ""
    points = max(24, min(POINTS, TRACE_NUMBERS // (len(present) * len(askers) * len(names))))
    source, figures = summaries.thin(advice, points), []
    for column, words in present.items():
        values = summaries.pair_means(source, column)
        shown = askers
        agree = len(askers) > 1 and values.groupby(level="step").nunique().to_numpy().max() == 1
        if agree:  # agent values are shared by the group
            shown = askers[:1]
        panels = {}
        for asker in shown:
            if asker in values.index.get_level_values("asker"):
                table = values.loc[[asker]].droplevel("asker")
                title = "The same for every asking member" if agree else f"{asker} asks"
                panels[title] = [_line(n, palette[n], table.index, table[n]) for n in names if n in table]
        mean = ", mean over replicas" if advice["replica"].nunique() > 1 else ""
        caption = f"{capital(words)} of every adviser as computed by each member{mean}. {START_NOTE}"
        title = f"{capital(words)} by asking member"
        figures.append(plots.multiples(panels, "", title, caption=caption, look=Look(skip_start=True)))
    return "\n".join(filter(None, figures))


# --- shared ---------------------------------------------------------------------------------------


def _signals(advice: pd.DataFrame) -> dict[str, str]:
    """The score and the signals behind it that were computed, and their titles."""
    score = {"score": "score"} if advice["score"].notna().any() else {}
    return score | signals_in_use(advice)


def _pooled(advice: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows, in a large group with roles as advisers, and the advisers in the order of the legend."""
    source = summaries.with_roles(advice) if advice["asker"].nunique() > MAX_MEMBERS else advice
    return source, summaries.legend_order(source)


def _palette(names: list[str]) -> dict[str, str]:
    """Adviser -> colour; where two have the same, the second gets an unused one if there is any."""
    palette: dict[str, str] = {}
    for name in names:
        colour, taken = adviser_colour(name), palette.values()
        free = [other for other in OTHER_COLOURS if other not in taken]
        palette[name] = free[0] if colour in taken and free else colour
    return palette


def _line(name: str, colour: str, steps: Any, values: Any, result: summaries.Spread | None = None) -> Series:
    """The line of an adviser; fixed advisers are dashed, to be distinguishable from members without colour."""
    dash = not (is_member(name) or name in ("self", "other members"))
    return Series(name, steps, values, *(_band(result) if result else (None, None)), colour, dash)


def _band(result: summaries.Spread) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The limits of the band; None with a single replica."""
    return (result.low, result.high) if result.kind else (None, None)
