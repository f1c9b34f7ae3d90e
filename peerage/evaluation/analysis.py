"""Whom the members trusted and followed, and whether they were right to: the measures, from a run folder alone.

Every measure is taken within one asker of one replica, because trust values of two askers have no common scale;
means over askers and intervals over replicas come last. No measure needs trust to be positive. A measure that is
not defined for the data (one adviser, nothing chosen, all trust equal) is NaN with a reason, never a number.
Formulas and examples: docs/analysis.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from peerage.errors import UserError
from peerage.runs import summaries, tables
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import is_member
from peerage.runs.text import count, listing, number

TRUST_COLUMNS = ("in_context", "trust_attention", "trust_td", "score")
"""Columns of advice.csv that can stand for trust: the first that was computed is taken."""
WINDOWS = 10
"""Windows of time for the entropy of choices: at most so many, of equally many rows."""
EARLY = 0.2
"""Stability leaves the first fifth of the run out: on their way from initial values (200, say) all values jump."""
FEWEST = 3
"""Advisers with known trust and performance that a rank correlation needs: with two it is always -1 or 1."""
REWARD_STEPS = 100_000
"""First and last steps whose returns are compared, in runs of at least twice as many."""

# --- the measures, on plain arrays ----------------------------------------------------------------


def gini(counts: Any) -> float:
    """Inequality of non-negative counts `[K]`: `G = Σ_i Σ_j |x_i − x_j| / (2 K Σ_i x_i)`.

    0: all get the same; (K − 1) / K: one gets all. NaN with nothing to share out, or nobody to share it with.
    ValueError for negative values, for which G has no meaning: trust goes through `trust_shares` first.
    """
    x = np.sort(_finite(counts))
    if (x < 0).any():
        raise ValueError("the Gini coefficient is defined for counts and shares, not for negative values")
    K = len(x)
    if K < 2 or x.sum() == 0:
        return math.nan
    # In ascending order x_i is the larger of i − 1 pairs and the smaller of K − i.
    return float(((2 * np.arange(1, K + 1) - K - 1) * x).sum() / (K * x.sum()))


def trust_shares(trust: Any) -> np.ndarray:
    """Trust `[K]` of any sign and scale as shares that sum to 1: the softmax of `(v − mean v) / std v`.

    Equal shares where all trust is equal. (Shares by rank would not do: K ranks are always 1 … K, so their Gini
    is the same for any trust.)
    """
    v = _finite(trust)
    spread = v.std() if len(v) else 0.0
    z = (v - v.mean()) / spread if spread > 1e-12 * np.abs(v).max(initial=0.0) else np.zeros_like(v)
    weights = np.exp(z - z.max(initial=0.0))
    return weights / weights.sum() if len(v) else weights


def entropy(counts: Any) -> float:
    """How spread out choices `[K]` are: `H = −Σ p_j ln p_j / ln K`, `p_j = n_j / Σ n`.

    0: always the same adviser; 1: all alike. NaN with nothing chosen or a single adviser.
    """
    n = _finite(counts)
    if len(n) < 2 or n.sum() <= 0:
        return math.nan
    p = n[n > 0] / n.sum()
    return float(abs((p * np.log(p)).sum()) / math.log(len(n)))


def spearman(trust: Any, performance: Any) -> float:
    """Spearman's rank correlation of two `[K]`: Pearson's of their ranks, ties by their mean rank.

    Advisers that lack a value are left out. NaN with fewer than three, or when either is the same for all.
    """
    return pooled_spearman([(trust, performance)])


def pooled_spearman(pairs: Iterable[tuple[Any, Any]]) -> float:
    """Rank correlation over several moments t, each with trust and performance `[K]`.

    `ρ = Σ_t Σ_j a_tj b_tj / sqrt(Σ_t Σ_j a_tj² · Σ_t Σ_j b_tj²)`, with `a_tj` and `b_tj` the ranks *within*
    moment t minus their mean: that trust and performance both grow during a run is no agreement.
    Moments with fewer than three advisers, or at which either is the same for all (trust still at its initial
    values), are left out; NaN if none remains.
    """
    ab = aa = bb = 0.0
    for trust, performance in pairs:
        x, y = np.asarray(trust, dtype=float), np.asarray(performance, dtype=float)
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() >= FEWEST:
            a, b = (rankdata(v[known]) - (known.sum() + 1) / 2 for v in (x, y))
            if a.any() and b.any():
                ab, aa, bb = ab + float(a @ b), aa + float(a @ a), bb + float(b @ b)
    return ab / math.sqrt(aa * bb) if aa > 0 else math.nan


def kendall(before: Any, after: Any) -> float:
    """Kendall's τ-b of two `[K]`: `(C − D) / sqrt((P − P_before)(P − P_after))`.

    C and D count the pairs of advisers that keep and swap their order, P all pairs, P_x those tied in x. NaN with
    fewer than two advisers, or when all are tied in either.
    """
    x, y = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    a, b = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    free = float((a * a).sum() * (b * b).sum())  # every pair stands twice, above and below the diagonal
    return float((a * b).sum()) / math.sqrt(free) if free > 0 else math.nan


def rank_stability(values: Any) -> float:
    """Mean Kendall τ-b between successive rows of `values` `[S, K]`: 1 if the order of advisers never changes."""
    rows = np.asarray(values, dtype=float)
    return _mean([kendall(before, after) for before, after in itertools.pairwise(rows)])


def movement(values: Any) -> np.ndarray:
    """How much each adviser's trust moves from row to row of `values` `[S, K]`, relative to the spread of trust.

    `m_j = mean_t |v_j(t) − v_j(t−1)| / mean_t ½ (s(t) + s(t−1))`, s(t) the standard deviation (divisor K) over
    advisers in row t: 0 if it never moves, 1 if a row moves it by as much as advisers differ. Does not change when
    trust is shifted, scaled or negated. Steps from or to a row in which all trust is equal (s = 0) are left out.
    NaN `[K]` where nothing remains, as with one adviser.
    """
    rows = np.asarray(values, dtype=float)
    rows = np.where(np.isfinite(rows), rows, np.nan)
    rows = rows[~np.isnan(rows).all(axis=1)] if rows.size else rows
    if len(rows) < 2:
        return np.full(rows.shape[-1], np.nan)
    spread = np.nanstd(rows, axis=1)
    told = spread > 1e-12 * np.nanmax(np.abs(rows), axis=1)
    kept = told[1:] & told[:-1]
    moves = np.abs(np.diff(rows, axis=0))[kept]
    known = ~np.isnan(moves)
    spreads = np.where(known, ((spread[1:] + spread[:-1]) / 2)[kept][:, None], 0.0).sum(axis=0)
    return np.divide(np.nansum(moves, axis=0), spreads, out=np.full(rows.shape[1], np.nan), where=spreads > 0)


def moving_average(returns: Any, episodes: Any, window: int) -> np.ndarray:
    """Mean return of the last `window` episodes at every row, from the rows' means `[S]` and episode counts `[S]`.

    A row that is needed in part counts with its mean; with fewer episodes so far, all of them are taken.
    """
    x, n = np.asarray(returns, dtype=float), np.asarray(episodes, dtype=float)
    ends = np.cumsum(n)
    result = np.full(len(x), np.nan)
    for row, end in enumerate(ends):
        weight = np.clip(ends[: row + 1] - max(end - window, 0.0), 0.0, n[: row + 1])
        result[row] = (weight * x[: row + 1]).sum() / weight.sum() if weight.sum() > 0 else math.nan
    return result


# --- a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One quantity, for every replica and asker."""

    key: str
    title: str
    askers: tuple[str, ...]
    """Members, or `all members` for what is counted over all of them together."""
    values: np.ndarray
    """`[R, A]`; NaN: not defined."""
    undefined: str = ""
    """Why all values are NaN."""

    def overall(self) -> summaries.Spread:
        """Mean over askers, then over the replicas that have a value."""
        return _estimate(np.array([_mean(row) for row in self.values]))

    def of(self, asker: str) -> summaries.Spread:
        """One asker's mean over the replicas that have a value."""
        return _estimate(self.values[:, self.askers.index(asker)])


@dataclass(frozen=True)
class Analysis:
    """What `analyse` found. Matrices are askers x advisers, means over replicas unless they say otherwise."""

    run: str
    steps: int
    """The last step of the run's files."""
    replicas: int
    askers: tuple[str, ...]
    advisers: tuple[str, ...]
    trust: str
    """What stands for trust: a column of advice.csv, `hybrid`, or nothing."""
    measures: dict[str, Measure]
    counts: pd.DataFrame
    """Choices, summed over the run and over replicas."""
    shares: pd.DataFrame
    """Share of the asker's choices."""
    differences: pd.DataFrame
    """Advisers x advisers: the row's share of choices minus the column's, shares averaged over askers."""
    moves: pd.DataFrame
    """`movement` of each pair."""
    entropies: pd.DataFrame
    """Entropy of choices: a row for each window of time (its last step), a column for each asker."""

    def to_dict(self) -> dict[str, Any]:
        """The whole as JSON-able data; what is not defined is None."""
        measures = {
            key: {
                "title": m.title,
                "overall": _spread_dict(m.overall()),
                "by_asker": {asker: _spread_dict(m.of(asker)) for asker in m.askers},
                "values": m.values.tolist(),
                "undefined": m.undefined or None,
            }
            for key, m in self.measures.items()
        }
        matrices = ("counts", "shares", "differences", "moves", "entropies")
        facts = {name: getattr(self, name) for name in ("run", "steps", "replicas", "askers", "advisers", "trust")}
        whole = {**facts, "trust": self.trust or None, "measures": measures}
        return _plain(whole | {name: getattr(self, name).T.to_dict() for name in matrices})

    def rows(self, most: int = 8) -> tuple[list[str], list[list[str]]]:
        """Head and rows of a table of text: mean, interval, and every asker's mean (their range if over `most`)."""
        kinds = {kind for m in self.measures.values() if (kind := m.overall().kind)}
        kind = "95% t-interval" if "95% t-interval" in kinds else "".join(sorted(kinds)[:1])
        names = list(self.askers) if len(self.askers) <= most else ["lowest and highest asker"]
        names = names if len(self.askers) > 1 else []
        rows = []
        for m in self.measures.values():
            whole = m.overall()
            row = [m.title, number(float(whole.mean))]
            if kind:
                row.append(_interval(whole) + (f" ({whole.kind})" if whole.kind not in ("", kind) else ""))
            means = {asker: float(m.of(asker).mean) for asker in m.askers}
            if len(self.askers) <= most:
                row += [number(means.get(asker)) for asker in names]
            elif names:
                known = [value for value in means.values() if not math.isnan(value)]
                together = len(means) < 2 or not known
                row.append("–" if together else f"{number(min(known))} to {number(max(known))}")
            rows.append(row)
        return ["measure", "mean", *([kind] if kind else []), *names], rows

    def notes(self) -> list[str]:
        """A line on what stands for trust, and one for every reason why measures are not defined."""
        reasons: dict[str, list[str]] = {}
        for m in self.measures.values():
            if m.undefined:
                reasons.setdefault(m.undefined, []).append(m.title)
        words = {"hybrid": "the hybrid of the columns trust_attention and trust_td, weighed by omega"}
        lines = [f"Trust here is {words.get(self.trust, f'the column {self.trust}')}."] if self.trust else []
        return lines + [f"Not defined: {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]

    def table(self) -> str:
        """The table and its notes for a terminal."""
        head, rows = self.rows(most=4)
        if not rows:
            return f"{self.run}: nothing to analyse yet\n"
        widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
        lines = [
            f"{row[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:]))
            for row in (head, *rows)
        ]
        lines.insert(1, "-" * len(lines[0]))
        title = f"{self.run}: {count(len(self.askers), 'asker')}, {count(len(self.advisers), 'adviser')}, "
        title += f"{count(self.replicas, 'replica')}, {self.steps:,} steps"
        return "\n".join([title, "", *lines, "", *self.notes()]) + "\n"


def analyse(folder: Path | str, returns: Mapping[str, float] | None = None) -> Analysis:
    """All measures of a run, from its CSV files; also of one that still goes on.

    `returns`: what fixed advisers earn per episode by themselves (the members' is measured: the mean evaluation
    return in the last fifth of the run). UserError if `folder` is not a run, its files are damaged, or `returns`
    names somebody who is not a fixed adviser of it or is not a number.
    """
    run = RunFolder.open(folder)
    advice, metrics = tables.read_advice(run.path), tables.read_metrics(run.path)
    evaluations = tables.read_evaluations(run.path)
    advisers = tuple(summaries.advisers_of(advice))
    for name, value in (returns or {}).items():
        fixed = [adviser for adviser in advisers if not is_member(adviser)]
        if name not in fixed or not math.isfinite(value):
            known = f"its fixed advisers are {listing(fixed)}" if fixed else "it has no fixed advisers"
            raise UserError(f"returns: {name}={value} is not a return of a fixed adviser of {run.path}; {known}")
    frames = [frame for frame in (advice, metrics, evaluations) if len(frame)]
    replicas = max((int(frame["replica"].max()) + 1 for frame in frames), default=0)
    steps = max((int(frame["step"].max()) for frame in frames), default=0)
    data = _Advice(advice, advisers, replicas)
    measures: list[Measure] = []
    if len(advisers):
        measures += _agreement(data, evaluations, returns or {}) + _choices(data) + _stability(data)
    measures += _logged(metrics, replicas) + _rewards(metrics, replicas, steps)
    counts = np.nansum(data.chosen, axis=2)  # [R, A, K]
    totals = counts.sum(axis=2, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    mean_shares = _nanmean(shares, axis=0)
    pooled = _nanmean(_nanmean(shares, axis=1), axis=0)
    moves = [[movement(data.after_start(r, a)) for a in range(len(data.askers))] for r in range(replicas)]
    shape = (replicas, len(data.askers), len(advisers))
    ends, windows = data.windows()
    entropies = [[[entropy(w) for w in asker] for asker in replica] for replica in windows]
    over_time = _nanmean(np.array(entropies).reshape(*windows.shape[:3]), axis=0).T
    askers, names = list(data.askers), list(advisers)
    return Analysis(
        run=run.path.resolve().name,
        steps=steps,
        replicas=replicas,
        askers=data.askers or tuple(sorted(set(metrics["member"]), key=summaries.natural)),
        advisers=advisers,
        trust=data.trust_name,
        measures={m.key: m for m in measures},
        counts=pd.DataFrame(counts.sum(axis=0).astype(int), index=askers, columns=names),
        shares=pd.DataFrame(mean_shares, index=askers, columns=names),
        differences=pd.DataFrame(pooled[:, None] - pooled[None, :], index=names, columns=names),
        moves=pd.DataFrame(_nanmean(np.array(moves).reshape(shape), axis=0), index=askers, columns=names),
        entropies=pd.DataFrame(over_time, index=ends, columns=askers),
    )


def trust_in_use(advice: pd.DataFrame) -> tuple[str, pd.Series]:
    """What stands for trust in advice.csv, and its value in every row; an empty name if nothing was computed.

    The first of in_context, trust_attention, trust_td and score that was computed. With attention, TD trust and ω
    it is the hybrid of the two: `ω norm(attention) + (1 − ω) norm(td)`, `norm(x) = x / max_j |x_j|` over the
    advisers of one asker; ω is taken for 0 as long as the transformer has said nothing.
    """
    known = [name for name in TRUST_COLUMNS if np.isfinite(advice[name]).any()]
    if not known:
        return "", pd.Series(np.nan, index=advice.index, dtype=float)
    if not (known[0] == "trust_attention" and "trust_td" in known and advice["omega"].notna().any()):
        return known[0], advice[known[0]]
    keys = [advice[name] for name in ("step", "replica", "asker")]

    def norm(values: pd.Series) -> pd.Series:
        largest = values.abs().groupby(keys).transform("max")
        return values / largest.where(largest > 0, 1.0)

    silent = advice["trust_attention"].isna()
    omega = advice["omega"].fillna(0.0).where(~silent, 0.0)
    return "hybrid", omega * norm(advice["trust_attention"]).fillna(0.0) + (1 - omega) * norm(advice["trust_td"])


class _Advice:
    """advice.csv as arrays `[R, A, S, K]`: replicas, askers, logged steps, advisers; NaN where nothing is."""

    def __init__(self, advice: pd.DataFrame, advisers: tuple[str, ...], replicas: int) -> None:
        self.askers = tuple(sorted(set(advice["asker"]), key=summaries.natural))
        self.advisers = advisers
        self.steps = np.unique(advice["step"].to_numpy())
        self._shape = (replicas, len(self.askers), len(self.steps), len(advisers))
        self._place = (
            advice["replica"].to_numpy(),
            pd.Index(self.askers).get_indexer(pd.Index(advice["asker"])),
            np.searchsorted(self.steps, advice["step"].to_numpy()),
            pd.Index(advisers).get_indexer(pd.Index(advice["adviser"])),
        )
        self.chosen = self.cube(advice["chosen"])
        self.trust_name, trust = trust_in_use(advice)
        self.trust = self.cube(trust)

    def cube(self, column: pd.Series) -> np.ndarray:
        """One column; what is infinite counts as missing."""
        cube = np.full(self._shape, np.nan)
        values = column.to_numpy(dtype=float)
        cube[self._place] = np.where(np.isfinite(values), values, np.nan)
        return cube

    def trust_rows(self, replica: int, asker: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps `[S']` and trust `[S', K]` of the rows in which the asker has any."""
        rows = self.trust[replica, asker]
        known = ~np.isnan(rows).all(axis=1)
        return self.steps[known], rows[known]

    def after_start(self, replica: int, asker: int) -> np.ndarray:
        """Trust `[S', K]` without the first fifth of the run."""
        steps, rows = self.trust_rows(replica, asker)
        return rows[steps > EARLY * self.steps[-1]] if len(steps) else rows

    def each(self, value: Any) -> np.ndarray:
        """`value(replica, asker)` for all of them, `[R, A]`."""
        R, A = self._shape[:2]
        return np.array([[value(r, a) for a in range(A)] for r in range(R)], dtype=float).reshape(R, A)

    def windows(self) -> tuple[list[int], np.ndarray]:
        """Last step of each window of time, and the choices in it `[R, A, W, K]`."""
        parts = np.array_split(np.arange(len(self.steps)), max(1, min(WINDOWS, len(self.steps))))
        parts = [part for part in parts if len(part)]
        sums = [np.nansum(self.chosen[:, :, part], axis=2) for part in parts]
        R, A, _, K = self._shape
        stacked = np.stack(sums, axis=2) if sums else np.zeros((R, A, 0, K))
        return [int(self.steps[part[-1]]) for part in parts], stacked


def _measure(key: str, title: str, askers: tuple[str, ...], values: np.ndarray, reason: str) -> Measure:
    return Measure(key, title, askers, values, "" if np.isfinite(values).any() else reason)


def _agreement(data: _Advice, evaluations: pd.DataFrame, returns: Mapping[str, float]) -> list[Measure]:
    """Do those who are trusted perform?"""
    R, _, _, K = data._shape
    means = summaries.member_values(evaluations, "return")
    moments = np.unique(means["step"].to_numpy())
    performance = np.full((R, len(moments), K), np.nan)
    for k, name in enumerate(data.advisers):
        own = means[means["member"] == name]
        performance[own["replica"], np.searchsorted(moments, own["step"]), k] = own["value"]
        if name in returns:
            performance[:, :, k] = returns[name]
    late = moments > (1 - summaries.LATE) * moments.max(initial=0)
    final = _nanmean(performance[:, late], axis=1)  # [R, K]

    def at_end(r: int, a: int) -> float:
        rows = data.trust_rows(r, a)[1]
        return spearman(rows[-1], final[r]) if len(rows) else math.nan

    def over_time(r: int, a: int) -> float:
        steps, rows = data.trust_rows(r, a)
        place = np.searchsorted(steps, moments, side="right") - 1  # the last row up to each evaluation
        return pooled_spearman((rows[p], performance[r, e]) for e, p in enumerate(place) if p >= 0)

    known = max((int(row.sum()) for row in np.isfinite(final)), default=0)
    unknown = [name for name, column in zip(data.advisers, final.T) if not np.isfinite(column).any()]
    reason = "trust or performance is the same for all advisers"
    if not data.trust_name:
        reason = "no trust was computed"
    elif known < FEWEST:
        reason = f"it needs {FEWEST} advisers whose performance is known, here {known}"
        reason += f" (not that of {listing(unknown[:4])})" if unknown else ""
    title = "trust–performance correlation"
    return [
        _measure("correlation", f"{title}, at the end", data.askers, data.each(at_end), reason),
        _measure("correlation_over_time", f"{title}, over the run", data.askers, data.each(over_time), reason),
    ]


def _choices(data: _Advice) -> list[Measure]:
    """How are choices, and trust, shared out?"""
    counts = np.nansum(data.chosen, axis=2)  # [R, A, K]
    together = np.array([[gini(row.sum(axis=0))] for row in counts])
    alone = "there is one adviser only" if len(data.advisers) < 2 else ""
    nothing, untrusted = alone or "nothing was chosen", alone or "no trust was computed"

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
        _measure("gini_choices", "Gini of choices", askers, each(lambda r, a: gini(counts[r, a])), nothing),
        _measure("gini_choices_all", "Gini of choices, all askers together", ("all members",), together, nothing),
        _measure("gini_trust", "Gini of trust shares, at the end", askers, each(trust_gini), untrusted),
        _measure("follow_gap", "largest minus smallest share of choices", askers, each(gap), nothing),
        _measure("entropy", "selection entropy (0 to 1)", askers, each(lambda r, a: entropy(counts[r, a])), nothing),
        _measure("entropy_late", "selection entropy, last fifth", askers, each(late), nothing),
    ]


def _stability(data: _Advice) -> list[Measure]:
    """How much does trust move?"""
    moved = data.each(lambda r, a: _mean(movement(data.after_start(r, a))))
    order = data.each(lambda r, a: rank_stability(data.after_start(r, a)))
    reason = "trust was the same for all advisers, or known in fewer than two rows"
    return [
        _measure("movement", "movement of trust per row, in spreads", data.askers, moved, reason),
        _measure("rank_stability", "rank stability of trust (Kendall τ)", data.askers, order, reason),
    ]


LOGGED = {
    "advice/right": "share of choices that were right",
    "advice/wrong": "share of choices that were wrong",
    "advice/self_share": "share of choices of oneself",
    "trust/confidence": "confidence in the transformer",
    "trust/omega": "weight of attention ω",
    "trust/loss": "loss of the trust model",
}
"""Metrics that are passed on: their mean over the last fifth of the run; right and wrong over all of it too."""


def _logged(metrics: pd.DataFrame, replicas: int) -> list[Measure]:
    measures = []
    for name, title in LOGGED.items():
        values = summaries.metric(metrics, name)
        if values.empty:
            continue
        key = name.partition("/")[2]
        if key in ("right", "wrong"):
            measures.append(_by_member(f"{key}_whole_run", title, values, replicas))
        key = "trust_loss" if key == "loss" else key
        measures.append(_by_member(key, f"{title}, last fifth", summaries.late(values), replicas))
    return measures


def _by_member(key: str, title: str, values: pd.DataFrame, replicas: int) -> Measure:
    table = values.groupby(["replica", "member"])["value"].mean().unstack("member")
    members = tuple(sorted(table.columns, key=summaries.natural))
    table = table.reindex(index=range(replicas), columns=list(members))
    return Measure(key, title, members, table.to_numpy(dtype=float))


def _rewards(metrics: pd.DataFrame, replicas: int, steps: int) -> list[Measure]:
    """Training returns, weighed by the episodes behind every row: overall, recent, first, last, improvement."""
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
    reason = "no episode ended in time"
    return [_measure(key, title, members, found[k], reason) for k, (key, title) in enumerate(titles.items())]


def _weighted(rows: pd.DataFrame) -> float:
    total = rows["episodes"].sum()
    return float((rows["value"] * rows["episodes"]).sum() / total) if total > 0 else math.nan


# --- small helpers --------------------------------------------------------------------------------


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]


def _mean(values: Any) -> float:
    known = _finite(values)
    return float(known.mean()) if len(known) else math.nan


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """`np.nanmean` without its warning: NaN where nothing is known."""
    known = ~np.isnan(values)
    number_known = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(sums, number_known, out=np.full(sums.shape, np.nan), where=number_known > 0)


def _estimate(values: np.ndarray) -> summaries.Spread:
    """`summaries.spread` over the replicas that have a value: those without say nothing about its spread."""
    known = _finite(values)
    if len(known) == 0:
        nan = np.array(math.nan)
        return summaries.Spread(nan, nan, nan, "", 0)
    return summaries.spread(known)


def _interval(spread: summaries.Spread) -> str:
    return f"{number(float(spread.low))} to {number(float(spread.high))}" if spread.kind else "–"


def _spread_dict(spread: summaries.Spread) -> dict[str, Any]:
    bounds = {"low": float(spread.low), "high": float(spread.high)} if spread.kind else {"low": None, "high": None}
    return {"mean": float(spread.mean), **bounds, "interval": spread.kind or None, "replicas": spread.replicas}


def _plain(value: Any) -> Any:
    """Dicts, lists and finite numbers, as JSON has them; what is not finite is None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
