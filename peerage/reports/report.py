"""report.html: a self-contained page about a run.

It is made from the run folder alone and contains no clock times: the same folder gives the same bytes.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peerage.reports import charts, encoder_attention, matrix, page, plots, provenance
from peerage.reports.figures import make_figures, run_calibration
from peerage.reports.heatmaps import capital
from peerage.reports.page import Section
from peerage.reports.videos import videos
from peerage.runs import tables
from peerage.runs.disturbances import disturbances
from peerage.runs.environment import data_in_words
from peerage.runs.folder import RunFolder, as_mapping, write_atomically
from peerage.runs.listeners import is_member
from peerage.statistics import summaries
from peerage.statistics.analysis import analyse
from peerage.statistics.findings import Analysis
from peerage.text import count, listing, number, short

STYLES = (plots.STYLE, matrix.STYLE)
SCRIPTS = (plots.SCRIPT, matrix.SCRIPT)


def write_report(folder: Path | str) -> Path:
    """Draw the figures and write `report.html` into the run folder; returns its path.

    Works for unfinished runs too. Raises UserError if `folder` is not a run or its files are damaged; then nothing has
    been written.
    """
    run = RunFolder.open(folder)
    path = run.path / "report.html"
    text = render(run)
    make_figures(run.path)
    write_atomically(path, text)
    return path


def render(run: RunFolder) -> str:
    """The page as HTML, from the files of the run."""
    config = run.config()
    evaluations, metrics = tables.read_evaluations(run.path), tables.read_metrics(run.path)
    advice = tables.read_advice(run.path)
    values = summaries.member_values(evaluations, "return")
    test = tables.read_evaluations(run.path, "test")
    members = _members(metrics, evaluations, advice)
    name = run.path.resolve().name
    trust = [
        charts.listeners(advice),
        charts.shares(advice),
        charts.right_wrong(metrics),
        charts.entropy(metrics, advice),
    ]
    if any(trust):
        trust.append(page.details("Measures of advice", _measures(analyse(run.path))))
    behind = [charts.signals(advice), charts.trust_model(metrics, advice)]
    if single := charts.traces(advice):
        behind.append(page.details("Every signal, per asking member", single))
    parts = {
        "Learning": "\n".join(
            filter(None, (charts.learning(evaluations, metrics), charts.test_split(test), charts.offline(metrics)))
        ),
        "Target returns": charts.targets(run_calibration(run.path)),
        "Who follows whom": "\n".join(filter(None, trust)),
        "Attention of the critics": encoder_attention.over_time(metrics),
        "Signals behind the scores": "\n".join(filter(None, behind)),
        "Members": _member_table(config, members, values, metrics, advice) if members else "",
        "Videos": videos(run.path),
        "How to repeat the run": provenance.reproduce(run, name),
        "Settings": provenance.settings(run),
        "Versions and machine": provenance.machine(run),
    }
    top = [
        f"<h1>{escape(name)}</h1>",
        page.paragraph(_what_ran(config, members, metrics, evaluations, advice)),
        page.paragraph(f"Data: {data}.") if (data := data_in_words(as_mapping(run.environment().get("data")))) else "",
        _disturbances(config, advice),
        _all_loaded(config),
        page.state(*status_text(run)),
        page.facts(_facts(values, advice, summaries.for_target(evaluations))),
        page.paragraph(_listening(advice)) if len(advice) else "",
    ]
    sections = [Section(title, html) for title, html in parts.items() if html]
    return page.render(name, [*top, *sections], STYLES, SCRIPTS)


# --- the summary ----------------------------------------------------------------------------------


def _members(*frames: pd.DataFrame) -> list[str]:
    """The names of all members in the data."""
    names: set[str] = set()
    for frame in frames:
        names |= set(frame["member" if "member" in frame else "asker"])
    return sorted(filter(is_member, names), key=summaries.natural)


def _what_ran(
    config: dict[str, Any],
    members: list[str],
    metrics: pd.DataFrame,
    evaluations: pd.DataFrame,
    advice: pd.DataFrame,
) -> str:
    planned = config.get("n_peers")
    n = len(members) or (planned if isinstance(planned, int) else 0)
    algorithms = "+".join(dict.fromkeys(name.upper() for name in _configured_algorithms(config)))
    text = f"{count(n, f'{algorithms} member'.strip())}"
    fixed = [] if advice.empty else [name for name in summaries.advisers_of(advice) if not is_member(name)]
    if fixed:
        text += f" and the fixed {'adviser' if len(fixed) == 1 else 'advisers'} {listing(fixed)}"
    frames = (metrics, evaluations, advice)
    replicas = max((int(frame["replica"].max()) + 1 for frame in frames if len(frame)), default=1)
    steps = max((int(frame["step"].max()) for frame in frames if len(frame)), default=0)
    text += f" trained on {config.get('env', 'an unknown environment')} for {steps:,} steps{' each' if n > 1 else ''}"
    return text + (f", in {replicas} independent replicas." if replicas > 1 else ".")


def _disturbances(config: dict[str, Any], advice: pd.DataFrame) -> str:
    """A highlighted line about deliberate disturbances, so that the run is not mistaken for an undisturbed one."""
    lines = disturbances(config, [] if advice.empty else summaries.advisers_of(advice))
    return page.state(f"{'. '.join(map(capital, lines))}.") if lines else ""


def _all_loaded(config: dict[str, Any]) -> str:
    """A highlighted line if no member of the run learned."""
    paths = as_mapping(config.get("learner")).get("load_paths")
    loaded = isinstance(paths, list) and bool(paths) and "none" not in paths
    return page.state("No member of this run learns: all of them are loaded (load_paths) and frozen.") if loaded else ""


def status_text(run: RunFolder) -> tuple[str, str]:
    """The status of a run as a sentence, and its kind: `done`, `failed` or empty."""
    status, line = run.status()
    why = str(line.get("why") or "")
    if status == "FAILED" and why == "interrupted":
        return "The run was interrupted; this is its state. `peerage resume` continues it.", ""
    if status == "FAILED":
        return f"The run failed: {why or 'unknown reason'}", "failed"
    if status == "STOPPED":
        at = f" after step {step:,}" if isinstance(step := line.get("step"), int) else ""
        return f"The run was stopped early{at}: {why}. `peerage resume` continues it.", "done"
    if status == "DONE":
        return f"The run is finished{'' if why in ('', 'finished') else f': {why}'}.", "done"
    return "The run has not ended; this is its state so far.", ""


def _facts(values: pd.DataFrame, advice: pd.DataFrame, for_target: str) -> list[tuple[str, str]]:
    """The cards at the top: final return, best and worst member, and the adviser that is followed most. `for_target`:
    the target return of the evaluations in words, or empty."""
    facts = []
    if len(values):
        last = values[values["step"] == values["step"].max()]
        result = summaries.spread(summaries.by_replica(last).to_numpy()[0])
        note = f"mean return without exploration, evaluation{for_target} at step {int(last['step'].iloc[0]):,}"
        facts.append((_plus_minus(result), note + _spread_note(result)))
        facts += _best_and_worst(last)
    return facts + _followed_most(advice)


def _followed_most(advice: pd.DataFrame) -> list[tuple[str, str]]:
    """The card about the single adviser that is followed most in the last fifth of the run. `themselves` is one adviser
    of every member, so it is compared with each other member and each fixed adviser."""
    if len(_late_roles(advice)) < 2:
        return []
    shares = summaries.late_share_matrix(advice)  # askers x advisers
    own = {asker: shares.loc[asker].get(asker, 0.0) for asker in shares.index}
    means = {"themselves": float(np.mean(list(own.values())))}
    for adviser in shares.columns:
        others = shares.loc[[asker for asker in shares.index if asker != adviser], adviser]
        if len(others):
            means[str(adviser)] = float(others.mean())
    top = max(means, key=means.__getitem__)
    who = "the other members" if is_member(top) else "members"
    what = f"the single adviser that {who} follow most"
    random_choice = f"random choice would give {1 / advice['adviser'].nunique():.0%}"
    return [(f"{top}: {means[top]:.0%}", f"{what}: share of choices in the last fifth of the run; {random_choice}")]


def _best_and_worst(last: pd.DataFrame) -> list[tuple[str, str]]:
    """The card about single members, from their last evaluations (`summaries.member_values`).

    Members are ranked one by one: members with the same number in different replicas are independent of each other, so
    that a mean over them would not identify the best.
    """
    ranked = last.sort_values("value", kind="stable")
    if len(ranked) < 2:
        return []
    replicas = last["replica"].nunique()
    names = [f"replica {r}, {m}" if replicas > 1 else str(m) for r, m in zip(ranked["replica"], ranked["member"])]
    worst, best = ranked["value"].iloc[0], ranked["value"].iloc[-1]
    note = f"best {'single ' if replicas > 1 else ''}member at the end, mean return {number(best)}; "
    note += f"the worst is {names[0]} with {number(worst)}"
    within = last.groupby("replica")["value"].agg(lambda values: values.max() - values.min())
    if replicas > 1 and len(last) > replicas:
        note += f"; the mean difference of best and worst within a replica is {number(float(within.mean()))}"
    return [(names[-1], note)]


def _plus_minus(result: summaries.Spread) -> str:
    mean, low, high = (float(x) for x in (result.mean, result.low, result.high))
    if not result.kind or np.isnan(low):
        return number(mean)
    if result.replicas < 3:
        return f"{number(mean)} ({number(low)} to {number(high)})"
    text, half = number(mean), high - mean
    rounded = f"{half:,.{len(text.partition('.')[2])}f}"  # with the decimals of the mean
    return f"{text} ± {rounded if float(rounded.replace(',', '')) else number(half)}"


def _spread_note(result: summaries.Spread) -> str:
    if not result.kind:
        return "; a single replica, so no interval"
    return f"; {'±' if result.replicas > 2 else 'range'}: {result.kind} over {result.replicas} replicas"


def _late_roles(advice: pd.DataFrame) -> pd.Series:
    """Shares of choices by role (self, other members, fixed advisers) in the last fifth of the run, descending."""
    late = summaries.late(advice)
    if late.empty or late["adviser"].nunique() < 2 or late["chosen"].sum() == 0:
        return pd.Series(dtype=float)
    shares = summaries.choice_shares(summaries.with_roles(late), bins=1, pool=True).iloc[0]
    return shares.sort_values(ascending=False, kind="stable")


def _listening(advice: pd.DataFrame) -> str:
    """A sentence about the advisers that members followed at the end."""
    shares = _late_roles(advice)
    if len(shares) < 2:
        return ""
    others = sum(map(is_member, advice["adviser"].unique())) - 1
    other = "the other member" if others == 1 else f"one of {others} other members"
    words = {"self": "themselves", "other members": other}
    parts = [f"{words.get(str(name), str(name))} in {share:.0%}" for name, share in shares.items()]
    shown = parts if len(parts) <= 6 else [*parts[:5], f"{len(parts) - 5} others in the rest"]
    return f"In the last fifth of the run the members followed {listing(shown)} of their choices."


# --- tables ---------------------------------------------------------------------------------------


def _member_table(
    config: dict[str, Any],
    members: list[str],
    values: pd.DataFrame,
    metrics: pd.DataFrame,
    advice: pd.DataFrame,
) -> str:
    """A table with a row per member: algorithm, returns, and the advisers that it follows."""
    algorithms = _algorithms(config, len(members))
    last = values[values["step"] == values["step"].max()]
    replicas = max(1, last["replica"].nunique())
    training = summaries.metric(summaries.late(metrics), "train/return")
    follows = len(advice) > 0 and advice["adviser"].nunique() > 1
    shares = summaries.late_share_matrix(advice) if follows else pd.DataFrame()
    head = ["member", "algorithm", "final return"]
    head += [{1: "", 2: "range over replicas"}.get(replicas, "95% t-interval")] if replicas > 1 else []
    head += ["best evaluation", "training return*"]
    head += ["follows itself*", "follows most*"] if follows else []
    rows = []
    for place, member in enumerate(members):
        own = values[values["member"] == member]
        final = last[last["member"] == member]["value"].to_numpy()
        row = [member, algorithms[place], number(float(final.mean())) if len(final) else "–"]
        if replicas > 1:
            result = summaries.spread(final) if len(final) else None
            row.append(f"{number(float(result.low))} to {number(float(result.high))}" if result else "–")
        means = own.groupby("step")["value"].mean()
        row.append(f"{number(means.max())} at {means.index[int(means.argmax())]:,}" if len(means) else "–")
        row.append(number(training[training["member"] == member]["value"].mean()))
        if follows:
            chosen = shares.loc[member] if member in shares.index else pd.Series(dtype=float)
            row.append(f"{chosen.get(member, 0.0):.0%}" if len(chosen) else "–")
            row.append(f"{short(str(chosen.idxmax()))} ({chosen.max():.0%})" if len(chosen) else "–")
        rows.append(row)
    note = "* mean over the last fifth of the run."
    if replicas > 1:
        note += " Values are means over replicas; members with the same number have the same settings."
    return page.table(head, rows, caption="Members") + page.paragraph(note, dim=True)


def _measures(analysis: Analysis) -> str:
    """The analysis in numbers; docs/analysis.md has the definitions."""
    head, rows = analysis.rows()
    notes = [
        "Every measure is computed per asking member and replica, then averaged over members and replicas. "
        "docs/analysis.md has the definitions.",
        *analysis.notes(),
    ]
    table = page.table(head, rows, wrap=True, caption="Measures of advice and trust")
    return table + "".join(page.paragraph(note, dim=True) for note in notes)


def _algorithms(config: dict[str, Any], n: int) -> list[str]:
    """The algorithm of each member, `?` where the configuration does not name it."""
    names = _configured_algorithms(config) or ["?"]
    return names if len(names) == n else [names[0]] * n


def _configured_algorithms(config: dict[str, Any]) -> list[str]:
    """The algorithms that the configuration names: one for all members, or one for each."""
    learner = config.get("learner")
    named = learner.get("algorithm") if isinstance(learner, dict) else None
    return [str(name) for name in named] if isinstance(named, list) else []
