"""The charts of one run's report: from its CSV files to the numbers that `plots` and `matrix` draw.

Every function takes DataFrames as `tables` reads them and returns HTML, empty where there is nothing to show.
Long runs are thinned out: neighbouring rows become their mean (choices: their sum), so that a page stays small.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from peerage.reports import matrix, plots
from peerage.reports.drawing import MANY, OTHER_COLOURS, adviser_colour
from peerage.reports.heatmaps import capital
from peerage.reports.plots import Look, Series
from peerage.runs.listeners import is_member
from peerage.statistics import summaries
from peerage.statistics.advice_log import signals_in_use, trust_curves
from peerage.text import count, listing

POINTS = 120
"""Points of a curve at most: enough for its shape, and few enough that each is a mean over several episodes."""
AREA_POINTS = 60
"""Points of the stacked areas: fewer than the log has, so that counts are not mere noise."""
TRACE_NUMBERS = 24_000
"""Values of all traces of single askers together at most, some 14 bytes each."""
MATRIX_NUMBERS = 90_000
"""Values of the matrix at most, some 5 bytes each."""
MATRIX_STEPS = (12, 50)
"""Moments of the matrix: few of them at least, and at most."""
FAINT = "#8fa6b8"
"""Lines of a bundle that is known by its number alone."""
START = "Initial values far from what is learned lie outside the picture."


def thin(frame: pd.DataFrame, points: int) -> pd.DataFrame:
    """The same rows on at most so many steps: each is the last of those that it now stands for."""
    steps = np.unique(frame["step"].to_numpy())
    if len(steps) <= points:
        return frame
    ends = steps[:: -math.ceil(len(steps) / points)][::-1]
    return frame.assign(step=ends[np.searchsorted(ends, frame["step"].to_numpy())])


# --- learning -------------------------------------------------------------------------------------


def learning(evaluations: pd.DataFrame, metrics: pd.DataFrame) -> str:
    """Return and success of evaluations, and return while training."""
    success = summaries.member_values(evaluations, "success")
    success["value"] *= 100
    greedy, training = summaries.member_values(evaluations, "return"), summaries.metric(metrics, "train/return")
    parts = [
        curve(greedy, "Evaluation return", "return of greedy episodes, alone and without advice"),
        curve(success, "Success in evaluations", "share of greedy episodes with success", "", _percent(), (0, 100)),
        curve(training, "Training return", "return of the episodes that the members learned from"),
    ]
    return "\n".join(filter(None, parts))


def curve(
    values: pd.DataFrame,
    title: str,
    ylabel: str,
    note: str = "",
    look: Look = plots.PLAIN,
    within: summaries.Within = summaries.ANYTHING,
) -> str:
    """Mean over replicas of the mean over members, its band over replicas, and a thin line per member.

    `values` has step, replica, member, value, as `summaries.metric` gives, and lies `within`; `note` ends the caption.
    """
    if values.empty:
        return ""
    series, caption = _curve(values, within)
    return plots.curves(series, ylabel, title, caption=f"{title}: {caption}{note and f' {note}'}", look=look)


def _curve(values: pd.DataFrame, within: summaries.Within = summaries.ANYTHING) -> tuple[list[Series], str]:
    """The lines of `curve`, and what they are."""
    thinned = summaries.member_values(thin(values, POINTS), "value")
    replicas, members = summaries.by_replica(thinned), summaries.by_member(thinned)
    result = summaries.spread(replicas.to_numpy(), within)
    # One trust model for the whole group: its lines are all the same
    alike = members.shape[1] > 1 and members.nunique(axis=1).max() == 1
    number_of = 1 if alike else members.shape[1]
    series = []
    for k, member in enumerate(members.columns if number_of > 1 else []):
        line = members[member].dropna()
        if number_of > MANY:
            line = line.iloc[:: math.ceil(len(line) / 60)]
            series.append(Series(member, line.index, line, colour=FAINT, thin=True, silent=True))
        else:
            dash = k % 4 >= 2  # their colours repeat as lighter and darker ones
            series.append(Series(member, line.index, line, colour=adviser_colour(member), dash=dash, thin=True))
    alone = number_of == 1 and result.replicas == 1
    name = str(members.columns[0]) if alone and not alike else "mean"
    series.append(Series(name, replicas.index, result.mean, *_band(result)))
    whole = [count(number_of, "member")] if number_of > 1 else []
    whole += [f"{result.replicas} replicas"] if result.replicas > 1 else []
    who = "the same for all members" if alike else str(members.columns[0])
    text = f"mean over {' and '.join(whole)}{', the same for all members' if alike else ''}" if whole else who
    if result.kind:
        text += f"; the band is the {result.kind} over replicas"
        text += ", where all of them have a value" if replicas.isna().to_numpy().any() else ""
    if number_of > 1:
        text += "; thin lines are single members"
        text += ", mean over those of the same number in every replica" if result.replicas > 1 else ""
    return series, f"{text}.{_thinned(values)}"


def _thinned(values: pd.DataFrame, points: int = POINTS) -> str:
    steps = values["step"].nunique()
    return f" Each point is the mean of about {round(steps / points)} rows of the log." if steps >= 1.5 * points else ""


def _percent() -> Look:
    return Look(unit="%", ylim=(0.0, 100.0))


# --- who listens to whom --------------------------------------------------------------------------


def listeners(advice: pd.DataFrame) -> str:
    """The matrix of askers and advisers over time: choices, and every signal that was computed.

    In a group of more than MANY members the advisers are pooled by what they are to the asker.
    """
    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return ""
    source, advisers = _pooled(advice[advice["step"] >= advice["step"][advice["chosen"] > 0].min()])
    askers = sorted(set(source["asker"]), key=summaries.natural)
    replicas = sorted(set(source["replica"]))
    signals = _signals(source)
    a_moment = len(askers) * len(advisers) * (1 + len(signals))
    one_by_one = 1 < len(replicas) <= MATRIX_NUMBERS // (a_moment * MATRIX_STEPS[0]) - 1
    views = 1 + len(replicas) if one_by_one else 1
    most = max(MATRIX_STEPS[0], min(MATRIX_STEPS[1], MATRIX_NUMBERS // (a_moment * views)))
    source = thin(source, most)
    steps = np.unique(source["step"].to_numpy())

    def array(values: pd.Series) -> np.ndarray:
        """[V, T, A, K] of a series with index (replica, step, asker, adviser)."""
        keys: list[Any] = [replicas, steps, askers, advisers]
        whole = values.reindex(pd.MultiIndex.from_product(keys)).to_numpy(dtype=float)
        whole = whole.reshape([len(key) for key in keys])
        mean = summaries.spread(np.moveaxis(whole, 0, -1)).mean[None]
        return np.concatenate([mean, whole]) if one_by_one else mean

    grouped = source.groupby(["replica", "step", "asker", "adviser"])
    chosen = grouped["chosen"].sum()
    total = chosen.groupby(level=["replica", "step", "asker"]).transform("sum")
    choices = array(100 * chosen / total.where(total > 0))
    columns = [matrix.Column("choices", "share of choices (%)", choices, share=True)]
    for name, title in signals.items():
        columns.append(matrix.Column(title, title, array(grouped[name].mean())))
    average = "one replica" if len(replicas) == 1 else f"mean of {len(replicas)} replicas"
    caption = (
        "Rows ask, columns advise; the framed cells are members that listen to themselves. Choices are counted, "
        f"and signals averaged, since the step before. By lot, each of {advice['adviser'].nunique()} advisers would "
        f"get {100 / advice['adviser'].nunique():.0f}% of the choices."
    )
    if len(signals):
        caption += " A signal's colours say how high it is (blue), or below zero (orange), on a scale of its own."
    if len(advisers) < advice["adviser"].nunique():
        caption += " Advisers that are members are pooled: the asker itself, and all others."
    if len(replicas) > 1:
        caption += " The matrix is the mean over replicas" + (", or one of them." if one_by_one else ".")
    views_named = [average, *(f"replica {r}" for r in replicas)] if one_by_one else [average]
    return matrix.listeners(
        steps.tolist(), askers, advisers, columns, views=views_named, title="Step by step", caption=caption
    )


def shares(advice: pd.DataFrame) -> str:
    """Stacked areas, a panel per asker: how its choices are shared out among the advisers."""
    if advice["adviser"].nunique() < 2 or advice["chosen"].sum() == 0:
        return ""
    source, names = _pooled(advice)
    many = source is not advice
    source, palette = thin(source, AREA_POINTS), _palette(names)
    steps, tables = np.unique(source["step"]), 100 * summaries.choice_shares(source, pool=many)
    panels = {}
    for asker in sorted(map(str, tables.index.unique("asker")), key=summaries.natural):
        table = tables.loc[[asker]].droplevel("asker").reindex(columns=names).fillna(0.0)
        table = table.reindex(steps)  # a gap where it chose nobody
        panels[asker] = [Series(name, table.index, table[name], colour=palette[name]) for name in names]
    over = ["replicas"] if advice["replica"].nunique() > 1 else []
    over += [f"all {advice['asker'].nunique()} members"] if many else []
    caption = "Whom each member chose to follow" + (f", mean over {listing(over)}." if over else ".")
    if len(tables) < len(steps) * len(panels):
        caption += " Where nothing is drawn nobody chose, as before learning begins."
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
            table = 100 * summaries.by_replica(summaries.member_values(thin(values, POINTS), "value"))
            result = summaries.spread(table.to_numpy(), (0, 100))
            dash, colour = kind == "adversary", adviser_colour(kind)
            series.append(Series(label, table.index, result.mean, *_band(result), colour, dash))
    if result is None:
        return ""
    caption = "Share of choices that followed a fixed adviser that was right or wrong there, mean over members. "
    caption += f"The bands are the {result.kind} over {result.replicas} replicas. " if result.kind else ""
    return plots.curves(
        series, "share of choices", "Right and wrong choices", caption=f"{caption}The rest is neither.", look=_percent()
    )


def entropy(metrics: pd.DataFrame, advice: pd.DataFrame) -> str:
    """Entropy of the choice's distribution over advisers; ln K would be choice by lot."""
    advisers = advice["adviser"].nunique()
    if advisers < 2:
        return ""
    lot = (math.log(advisers), f"by lot: ln {advisers} = {math.log(advisers):.2f}")
    note = f"0: always the same adviser; ln {advisers}: by lot among {advisers} advisers."
    values = summaries.metric(metrics, "advice/choice_entropy")
    look = Look(reference=lot, ylim=(0.0, None))
    return curve(values, "Choice entropy", "entropy (nats)", note, look, within=(0.0, lot[0]))


# --- the signals behind the scores ----------------------------------------------------------------


def signals(advice: pd.DataFrame) -> str:
    """A panel per signal: mean over askers of self, other members and each fixed adviser, with bands."""
    present = _signals(advice)
    if not present or advice["adviser"].nunique() < 2:
        return ""
    source = thin(summaries.with_roles(advice), POINTS)
    names, panels, result = _order(source), {}, None
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
    caption = "The score and what it is made of, by what the adviser is to the asker; mean over members"
    if result is not None and result.kind:
        caption += f", with the {result.kind} over {result.replicas} replicas"
    look = Look(apart=True, late=True)
    return plots.multiples(panels, "", "Every signal over time", caption=f"{caption}. {START}", look=look)


def trust_model(metrics: pd.DataFrame, advice: pd.DataFrame) -> str:
    """What kinds of trust report about themselves over time, each in a panel with a line per member."""
    panels, caption = {}, ""
    for title, values, _ in trust_curves(metrics, advice):
        panels[capital(title)], caption = _curve(values)
    look = Look(apart=True, late=True)
    words = f"What the trust model reports about itself: {caption} {START}"
    return plots.multiples(panels, "", "The trust model", caption=words, look=look)


def traces(advice: pd.DataFrame) -> str:
    """A figure per signal with a panel per asker and a line per adviser; for groups of up to MANY members."""
    present = _signals(advice)
    askers = sorted(set(advice["asker"]), key=summaries.natural)
    names = _order(advice)
    palette = _palette(names)
    if not present or len(names) < 2 or len(askers) > MANY:
        return ""
    points = max(24, min(POINTS, TRACE_NUMBERS // (len(present) * len(askers) * len(names))))
    source, figures = thin(advice, points), []
    for column, words in present.items():
        values = summaries.pair_means(source, column)
        shown = askers
        agree = len(askers) > 1 and values.groupby(level="step").nunique().to_numpy().max() == 1
        if agree:  # the group's agent values are one vector
            shown = askers[:1]
        panels = {}
        for asker in shown:
            if asker in values.index.get_level_values("asker"):
                table = values.loc[[asker]].droplevel("asker")
                title = "The same for every asking member" if agree else f"{asker} asks"
                panels[title] = [_line(n, palette[n], table.index, table[n]) for n in names if n in table]
        mean = ", mean over replicas" if advice["replica"].nunique() > 1 else ""
        caption = f"{capital(words)} of every adviser in the eyes of each member{mean}. {START}"
        title = f"{capital(words)} by asking member"
        figures.append(plots.multiples(panels, "", title, caption=caption, look=Look(late=True)))
    return "\n".join(filter(None, figures))


# --- shared ---------------------------------------------------------------------------------------


def _signals(advice: pd.DataFrame) -> dict[str, str]:
    """The score and the signals behind it that were computed, and their titles."""
    score = {"score": "score"} if advice["score"].notna().any() else {}
    return score | signals_in_use(advice)


def _pooled(advice: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows, with roles for advisers in a large group, and the advisers in their order."""
    source = summaries.with_roles(advice) if advice["asker"].nunique() > MANY else advice
    return source, _order(source)


def _order(source: pd.DataFrame) -> list[str]:
    """Names in the order of a legend: members or roles first, then the fixed advisers."""
    names = summaries.advisers_of(source)
    roles = [name for name in ("self", "other members") if name in names]
    return roles + [name for name in names if name not in roles]


def _palette(names: list[str]) -> dict[str, str]:
    """Everybody's own colour; a second one of that colour gets one that nobody has, as long as there is any."""
    palette: dict[str, str] = {}
    for name in names:
        colour, taken = adviser_colour(name), palette.values()
        free = [other for other in OTHER_COLOURS if other not in taken]
        palette[name] = free[0] if colour in taken and free else colour
    return palette


def _line(name: str, colour: str, steps: Any, values: Any, result: summaries.Spread | None = None) -> Series:
    """An adviser's line: fixed ones are dashed, so that they differ from members without colour too."""
    dash = not (is_member(name) or name in ("self", "other members"))
    return Series(name, steps, values, *(_band(result) if result else (None, None)), colour, dash)


def _band(result: summaries.Spread) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Low and high, where there are replicas."""
    return (result.low, result.high) if result.kind else (None, None)
