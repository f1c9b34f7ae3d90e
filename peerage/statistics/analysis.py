"""Measures of a run's advice: which advisers the members trusted and followed, and whether that was justified.

They are computed from the run folder alone. Every measure is computed per asker and replica, because the trust values
of two askers have no common scale; means over askers and intervals over replicas follow. No measure requires positive
trust. A measure that is not defined for the data (a single adviser, no choices, equal trust) is NaN with a reason.
Formulas and examples: docs/analysis.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from peerage.errors import UserError
from peerage.runs import tables
from peerage.runs.advice_columns import asker_columns
from peerage.runs.concentration import entropy, gini
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import is_member
from peerage.statistics import summaries
from peerage.statistics.advice_log import AdviceLog, trust_metrics
from peerage.statistics.findings import Analysis, Measure
from peerage.statistics.measures import (
    FEWEST,
    mean,
    movement,
    moving_average,
    nanmean,
    pooled_spearman,
    rank_stability,
    spearman,
    trust_shares,
)
from peerage.text import listing

REWARD_STEPS = 100_000
"""Number of first and of last steps whose returns are compared, in runs of at least twice this length."""


def analyse(folder: Path | str, returns: Mapping[str, float] | None = None) -> Analysis:
    """All measures of a run, finished or not, from its CSV files.

    `returns`: the return per episode of fixed advisers acting alone; that of members is their mean evaluation return in
    the last fifth of the run. Raises UserError if `folder` is not a run, its files are damaged, or an entry of
    `returns` is not finite or not a fixed adviser of the run.
    """
    run = RunFolder.open(folder)
    advice, metrics = tables.read_advice(run.path), tables.read_metrics(run.path)
    evaluations = tables.read_evaluations(run.path)
    advisers = tuple(summaries.advisers_of(advice))
    for name, value in (returns or {}).items():
        fixed = [adviser for adviser in advisers if not is_member(adviser)]
        if name not in fixed or not math.isfinite(value):
            known = f"its fixed advisers are {listing(fixed)}" if fixed else "it has no fixed advisers"
            raise UserError(f"returns: {name}={value} is not the return of a fixed adviser of {run.path}; {known}")
    frames = [frame for frame in (advice, metrics, evaluations) if len(frame)]
    replicas = max((int(frame["replica"].max()) + 1 for frame in frames), default=0)
    steps = max((int(frame["step"].max()) for frame in frames), default=0)
    data = AdviceLog(advice, advisers, replicas)
    moves = data.each(lambda r, a: movement(data.after_start(r, a)), len(advisers))
    measures: list[Measure] = []
    if len(advisers):
        measures += _agreement(data, evaluations, returns or {}) + _choices(data) + _stability(data, moves)
    measures += _logged(metrics, replicas) + _rewards(metrics, replicas, steps)
    totals = data.counts.sum(axis=2, keepdims=True)
    shares = np.divide(data.counts, totals, out=np.full(data.counts.shape, np.nan), where=totals > 0)
    pooled = nanmean(nanmean(shares, axis=1), axis=0)
    ends, windows = data.windows()
    entropies = data.each(lambda r, a: [entropy(counts) for counts in windows[r, a]], len(ends))
    askers, names = list(data.askers), list(advisers)
    return Analysis(
        run=run.path.resolve().name,
        steps=steps,
        replicas=replicas,
        askers=data.askers or tuple(sorted(set(metrics["member"]), key=summaries.natural)),
        advisers=advisers,
        trust=data.trust_name,
        measures={m.key: m for m in measures},
        counts=pd.DataFrame(data.counts.sum(axis=0).astype(int), index=askers, columns=names),
        shares=pd.DataFrame(nanmean(shares, axis=0), index=askers, columns=names),
        differences=pd.DataFrame(pooled[:, None] - pooled[None, :], index=names, columns=names),
        moves=pd.DataFrame(nanmean(moves, axis=0), index=askers, columns=names),
        entropies=pd.DataFrame(nanmean(entropies, axis=0).T, index=ends, columns=askers),
    )


def _agreement(data: AdviceLog, evaluations: pd.DataFrame, returns: Mapping[str, float]) -> list[Measure]:
    """The correlation of trust with performance."""
    R, _, _, K = data.shape
    means = summaries.member_values(evaluations, "return")
    moments = np.unique(means["step"].to_numpy())
    performance = np.full((R, len(moments), K), np.nan)
    for k, name in enumerate(data.advisers):
        own = means[means["member"] == name]
        performance[own["replica"], np.searchsorted(moments, own["step"]), k] = own["value"]
        if name in returns:
            performance[:, :, k] = returns[name]
    late = moments > (1 - summaries.LATE) * moments.max(initial=0)
    final = nanmean(performance[:, late], axis=1)  # [R, K]

    def at_end(r: int, a: int) -> float:
        rows = data.trust_rows(r, a)[1]
        return spearman(rows[-1], final[r]) if len(rows) else math.nan

    def over_time(r: int, a: int) -> float:
        steps, rows = data.trust_rows(r, a)
        place = np.searchsorted(steps, moments, side="right") - 1  # index of the last row up to each evaluation
        return pooled_spearman((rows[p], performance[r, e]) for e, p in enumerate(place) if p >= 0)

    known = max((int(row.sum()) for row in np.isfinite(final)), default=0)
    unknown = [name for name, column in zip(data.advisers, final.T) if not np.isfinite(column).any()]
    reason = "trust or performance is the same for all advisers"
    if not data.trust_name:
        reason = "no trust was computed"
    elif known < FEWEST:
        reason = f"it needs {FEWEST} advisers with known performance, there are {known}"
        reason += f" (unknown: {listing(unknown[:4])})" if unknown else ""
    title = "trust–performance correlation"
    return [
        Measure("correlation", f"{title}, at the end", data.askers, data.each(at_end), reason),
        Measure("correlation_over_time", f"{title}, over the run", data.askers, data.each(over_time), reason),
    ]


def _choices(data: AdviceLog) -> list[Measure]:
    """The distribution of choices and of trust over advisers."""
    counts = data.counts
    together = np.array([[gini(row.sum(axis=0))] for row in counts])
    alone = "there is a single adviser" if len(data.advisers) < 2 else ""
    no_choice, no_trust = alone or "no choices were made", alone or "no trust was computed"

    def gap(r: int, a: int) -> float:
        total = counts[r, a].sum()
        return float(np.ptp(counts[r, a]) / total) if total > 0 and len(data.advisers) > 1 else math.nan

    def trust_gini(r: int, a: int) -> float:
        rows = data.trust_rows(r, a)[1]
        return gini(trust_shares(rows[-1])) if len(rows) else math.nan

    def late(r: int, a: int) -> float:
        return entropy(np.nansum(data.chosen[r, a, data.steps > (1 - summaries.LATE) * data.steps[-1]], axis=0))

    each, askers = data.each, data.askers
    return [
        Measure("gini_choices", "Gini of choices", askers, each(lambda r, a: gini(counts[r, a])), no_choice),
        Measure("gini_choices_all", "Gini of choices, all askers together", ("all members",), together, no_choice),
        Measure("gini_trust", "Gini of trust shares, at the end", askers, each(trust_gini), no_trust),
        Measure("follow_gap", "largest minus smallest share of choices", askers, each(gap), no_choice),
        Measure("entropy", "selection entropy (0 to 1)", askers, each(lambda r, a: entropy(counts[r, a])), no_choice),
        Measure("entropy_late", "selection entropy, last fifth", askers, each(late), no_choice),
    ]


def _stability(data: AdviceLog, moves: np.ndarray) -> list[Measure]:
    """The stability of trust. `moves`: `movement` of every pair, `[R, A, K]`."""
    moved = data.each(lambda r, a: mean(moves[r, a]))
    order = data.each(lambda r, a: rank_stability(data.after_start(r, a)))
    reason = "trust was equal for all advisers, or known in fewer than two rows"
    return [
        Measure("movement", "movement of trust per row, in spreads", data.askers, moved, reason),
        Measure("rank_stability", "rank stability of trust (Kendall τ)", data.askers, order, reason),
    ]


LOGGED = {
    "advice/right": "share of choices that were right",
    "advice/wrong": "share of choices that were wrong",
    "advice/self_share": "share of choices of the asker itself",
}
"""Metrics that are reported, with those of kinds of trust, as their mean over the last fifth of the run; right and
wrong also over the whole run."""


def _logged(metrics: pd.DataFrame, replicas: int) -> list[Measure]:
    measures = []
    for name, title in (LOGGED | trust_metrics()).items():
        values = summaries.metric(metrics, name)
        if values.empty:
            continue
        key = name.partition("/")[2]
        if key in ("right", "wrong"):
            measures.append(_by_member(f"{key}_whole_run", title, values, replicas))
        key = key if name in LOGGED or key in asker_columns() else name.replace("/", "_")
        measures.append(_by_member(key, f"{title}, last fifth", summaries.late(values), replicas))
    return measures


def _by_member(key: str, title: str, values: pd.DataFrame, replicas: int) -> Measure:
    table = values.groupby(["replica", "member"])["value"].mean().unstack("member")
    members = tuple(sorted(table.columns, key=summaries.natural))
    table = table.reindex(index=range(replicas), columns=list(members))
    return Measure(key, title, members, table.to_numpy(dtype=float))


def _rewards(metrics: pd.DataFrame, replicas: int, steps: int) -> list[Measure]:
    """Training returns, weighted by the episodes behind each row: overall, recent, first, last, improvement."""
    values = summaries.metric(metrics, "train/return")
    if values.empty:
        return []
    weights = summaries.metric(metrics, "train/episodes").rename(columns={"value": "episodes"})
    values = values.merge(weights, how="left", on=["step", "replica", "member"]).fillna({"episodes": 1.0})
    span = REWARD_STEPS if steps >= 2 * REWARD_STEPS else steps / 5
    part = f"{REWARD_STEPS // 1000}k steps" if steps >= 2 * REWARD_STEPS else "fifth"
    members = tuple(sorted(set(values["member"]), key=summaries.natural))
    titles = {
        "return_mean": "training return, whole run",
        "return_last_10": "training return, last 10 episodes",
        "return_last_50": "training return, last 50 episodes",
        "return_first": f"training return, first {part}",
        "return_last": f"training return, last {part}",
        "improvement": f"improvement (last minus first {part})",
    }
    found = np.full((len(titles), replicas, len(members)), np.nan)
    for replica, member in itertools.product(range(replicas), members):
        own = values[(values["replica"] == replica) & (values["member"] == member)].sort_values("step")
        if own.empty:
            continue
        first, last = own[own["step"] <= span], own[own["step"] > steps - span]
        means = [_weighted(own)]
        means += [float(moving_average(own["value"], own["episodes"], n)[-1]) for n in (10, 50)]
        means += [_weighted(first), _weighted(last), _weighted(last) - _weighted(first)]
        found[:, replica, members.index(member)] = means
    reason = "no episode ended in this part of the run"
    return [Measure(key, title, members, found[k], reason) for k, (key, title) in enumerate(titles.items())]


def _weighted(rows: pd.DataFrame) -> float:
    total = rows["episodes"].sum()
    return float((rows["value"] * rows["episodes"]).sum() / total) if total > 0 else math.nan
