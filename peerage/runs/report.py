"""report.html: one page about a run that needs nothing but itself.

It is made of the run folder alone and holds no clock times: the same folder gives the same bytes.
"""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peerage.evaluation.analysis import analyse
from peerage.evaluation.findings import Analysis
from peerage.runs import summaries, tables
from peerage.runs.figures import Drawn, make_figures
from peerage.runs.folder import RunFolder, write_atomically
from peerage.runs.listeners import is_member
from peerage.runs.text import count, listing, number

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --dim: #5d636b; --back: #f6f7f9; --card: #fff;
  --line: #dfe2e6; --accent: #0063a8; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --dim: #a0a7af; --back: #15181c;
  --card: #1e2227; --line: #353b42; --accent: #6ab7f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem;
  background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; } .dim { color: var(--dim); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.fact, figure, .scroll, pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.fact { padding: .7rem .9rem; } .fact b { display: block; font-size: 1.35rem; color: var(--accent);
  overflow-wrap: anywhere; }
.fact span { color: var(--dim); font-size: .87rem; }
.failed { border-left: 4px solid #c2410c; padding-left: .8rem; }
figure { margin: 0 0 1rem; overflow: hidden; } figure > div { background: #fff; padding: .6rem .3rem 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: .6rem .9rem; color: var(--dim); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } th { color: var(--dim); font-weight: 600; font-size: .87rem; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
td.name { white-space: normal; min-width: 10rem; font-size: .92rem; line-height: 1.3; }
pre { padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem;
  line-height: 1.45; margin: .4rem 0; }
summary { cursor: pointer; color: var(--accent); margin: .4rem 0; }
@media (max-width: 34rem) { body { padding: 1rem .5rem 3rem; } figure > div { padding: .3rem 0 0; } }
"""


def write_report(folder: Path | str) -> Path:
    """Draw the figures and write `report.html` into the run folder; returns its path.

    Works on a run that is still going on. UserError if `folder` is not a run or its files are damaged.
    """
    run = RunFolder.open(folder)
    figures = make_figures(run.path)
    path = run.path / "report.html"
    write_atomically(path, render(run, figures))
    return path


def render(run: RunFolder, figures: list[Drawn]) -> str:
    """The page as HTML."""
    config = run.config()
    evaluations, metrics = tables.read_evaluations(run.path), tables.read_metrics(run.path)
    advice = tables.read_advice(run.path)
    values = summaries.member_values(evaluations, "return")
    members = _members(config, metrics, evaluations, advice)
    name = run.path.resolve().name
    body = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{escape(_what_ran(config, members, metrics, evaluations, advice))}</p>",
        _status(run),
        _facts(values, advice),
        f"<p>{escape(_listening(advice))}</p>" if len(advice) else "",
    ]
    learning, trust, signals = (
        [_figure(drawn) for drawn in figures if drawn.section == name] for name in ("Learning", "Trust", "Signals")
    )
    if learning:
        body += ["<h2>Learning</h2>", *learning]
    if trust:
        body += ["<h2>Trust</h2>", *trust, _measures(analyse(run.path))]
    if signals:
        hidden = "\n".join(signals)
        body += [f"<details><summary>Every signal behind the scores</summary>\n{hidden}\n</details>"]
    if members:
        body += ["<h2>Members</h2>", _member_table(config, members, values, metrics, advice)]
    body += ["<h2>How to repeat it</h2>", _reproduce(run, name)]
    body += ["<h2>Configuration</h2>", _config(run), "<h2>Versions and hardware</h2>", _environment(run)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be fetched and no script may run, whatever a name in the run holds.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(name)} · Peerage</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


# --- the summary ----------------------------------------------------------------------------------


def _members(config: dict[str, Any], *frames: pd.DataFrame) -> list[str]:
    """Every member that the data knows."""
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
    n = len(members) or config.get("n_peers", 0)
    algorithms = "+".join(dict.fromkeys(name.upper() for name in _algorithms(config, max(1, n))))
    text = f"{count(n, f'{algorithms} member'.strip())}"
    fixed = [] if advice.empty else [name for name in summaries.advisers_of(advice) if not is_member(name)]
    if fixed:
        text += f" and the fixed {'adviser' if len(fixed) == 1 else 'advisers'} {listing(fixed)}"
    frames = (metrics, evaluations, advice)
    replicas = max((int(frame["replica"].max()) + 1 for frame in frames if len(frame)), default=1)
    steps = max((int(frame["step"].max()) for frame in frames if len(frame)), default=0)
    text += f" trained on {config.get('env', 'an unknown environment')} for {steps:,} steps each"
    return text + (f", in {replicas} independent replicas." if replicas > 1 else ".")


def _status(run: RunFolder) -> str:
    status, why = run.status()
    if status == "DONE":
        return ""
    if status == "FAILED":
        return f'<p class="failed">The run failed: {escape(str(why.get("why", "no reason given")))}</p>'
    return '<p class="failed">The run has not ended: this is how far it came.</p>'


def _facts(values: pd.DataFrame, advice: pd.DataFrame) -> str:
    """The three numbers on top: final return, best member, who is followed most."""
    facts = []
    if len(values):
        last = values[values["step"] == values["step"].max()]
        result = summaries.spread(summaries.by_replica(last).to_numpy()[0])
        note = f"mean return of greedy episodes, evaluation at step {int(last['step'].iloc[0]):,}"
        facts.append((_plus_minus(result), note + _spread_note(result)))
        by_member = last.groupby("member")["value"].mean()
        if len(by_member) > 1:
            best = str(by_member.idxmax())
            facts.append((best, f"best member at the end, mean return {number(by_member[best])}"))
    shares = _late_roles(advice)
    if len(shares) > 1:
        top = f"{shares.index[0]}: {shares.iloc[0]:.0%}"
        advisers = advice["adviser"].nunique()
        alike = sum(map(is_member, advice["adviser"].unique())) - 1 if shares.index[0] == "other members" else 1
        by_lot = f"by lot it would be {alike / advisers:.0%}"
        facts.append((top, f"followed most: share of all choices in the last fifth of the run; {by_lot}"))
    cells = [f'<div class="fact"><b>{escape(b)}</b><span>{escape(text)}</span></div>' for b, text in facts]
    return f'<div class="facts">{"".join(cells)}</div>' if cells else ""


def _plus_minus(result: summaries.Spread) -> str:
    mean, low, high = (float(x) for x in (result.mean, result.low, result.high))
    if not result.kind or np.isnan(low):
        return number(mean)
    if result.replicas < 3:
        return f"{number(mean)} ({number(low)} to {number(high)})"
    return f"{number(mean)} ± {number(high - mean)}"


def _spread_note(result: summaries.Spread) -> str:
    if not result.kind:
        return "; one replica, so no statement about chance"
    return f"; {'±' if result.replicas > 2 else 'range'}: {result.kind} over {result.replicas} replicas"


def _late_roles(advice: pd.DataFrame) -> pd.Series:
    """Share of choices by self, other members and fixed advisers in the last fifth, largest first."""
    late = summaries.late(advice)
    if late.empty or late["adviser"].nunique() < 2 or late["chosen"].sum() == 0:
        return pd.Series(dtype=float)
    shares = summaries.choice_shares(summaries.with_roles(late), bins=1, pool=True).iloc[0]
    return shares.sort_values(ascending=False, kind="stable")


def _listening(advice: pd.DataFrame) -> str:
    shares = _late_roles(advice)
    if len(shares) < 2:
        return ""
    words = {"self": "themselves", "other members": "other members"}
    parts = [f"{words.get(str(name), str(name))} in {share:.0%}" for name, share in shares.items()]
    shown = parts if len(parts) <= 6 else [*parts[:5], f"{len(parts) - 5} more in the rest"]
    return f"In the last fifth of the run the members followed {listing(shown)} of their choices."


# --- the parts ------------------------------------------------------------------------------------


def _figure(drawn: Drawn) -> str:
    data = base64.b64encode(drawn.path.read_bytes()).decode()
    return (
        f'<figure><div><img alt="{escape(drawn.title)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(drawn.caption)}</figcaption></figure>"
    )


def _member_table(
    config: dict[str, Any],
    members: list[str],
    values: pd.DataFrame,
    metrics: pd.DataFrame,
    advice: pd.DataFrame,
) -> str:
    """A row per member: what it is, how well it does, whom it listens to."""
    algorithms = _algorithms(config, len(members))
    last = values[values["step"] == values["step"].max()]
    replicas = max(1, last["replica"].nunique())
    training = summaries.metric(summaries.late(metrics), "train/return")
    listens = len(advice) > 0 and advice["adviser"].nunique() > 1
    shares = summaries.late_share_matrix(advice) if listens else pd.DataFrame()
    head = ["member", "algorithm", "final return"]
    head += [{1: "", 2: "range over replicas"}.get(replicas, "95% t-interval")] if replicas > 1 else []
    head += ["best evaluation", "training return*"]
    head += ["follows itself*", "follows most*"] if listens else []
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
        if listens:
            chosen = shares.loc[member] if member in shares.index else pd.Series(dtype=float)
            row.append(f"{chosen.get(member, 0.0):.0%}" if len(chosen) else "–")
            row.append(f"{chosen.idxmax()} ({chosen.max():.0%})" if len(chosen) else "–")
        rows.append(row)
    table = _table(head, rows)
    return table + '<p class="dim">* mean over the last fifth of the run. Values are means over replicas.</p>'


def _measures(analysis: Analysis) -> str:
    """The analysis in numbers; docs/analysis.md has the definitions."""
    head, rows = analysis.rows()
    notes = [
        "Every measure is taken for one asking member in one replica, then averaged over members and replicas. "
        "docs/analysis.md says what each means.",
        *analysis.notes(),
    ]
    return _table(head, rows, wrap=True) + "".join(f'<p class="dim">{escape(note)}</p>' for note in notes)


def _reproduce(run: RunFolder, name: str) -> str:
    text = f"<pre>peerage train --config {escape(str(run.path))}/config.yaml --exp-name {escape(name)}-again</pre>"
    if commands := run.commands():
        text += f"<p>It was started with</p><pre>{escape(chr(10).join(commands))}</pre>"
    return text


def _config(run: RunFolder) -> str:
    text = escape((run.path / "config.yaml").read_text(encoding="utf-8"))
    return f"<details><summary>config.yaml</summary><pre>{text}</pre></details>"


def _environment(run: RunFolder) -> str:
    environment = run.environment()
    rows = [[key, value or "not installed"] for key, value in environment.get("versions", {}).items()]
    if git := environment.get("git"):
        rows.append(["git commit", f"{git.get('commit')}{' (with changes)' if git.get('modified') else ''}"])
    rows += [[key, value] for key, value in environment.get("hardware", {}).items()]
    rows += [[key, environment[key]] for key in ("platform", "env") if key in environment]
    return _table(["what", "value"], [[str(cell) for cell in row] for row in rows], text=True)


def _table(head: list[str], rows: list[list[str]], text: bool = False, wrap: bool = False) -> str:
    """An HTML table that scrolls sideways on a narrow screen; `text`: all columns to the left.

    `wrap`: the first column holds long names and may take several lines, so that a phone shows numbers too.
    """
    kind = ' class="text"' if text else ""
    top = "".join(f"<th{kind}>{escape(cell)}</th>" for cell in head)
    kinds = [' class="name"' if wrap else kind, *[kind] * (len(head) - 1)]
    lines = ["".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kinds, row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _algorithms(config: dict[str, Any], n: int) -> list[str]:
    """The algorithm of each member, as far as the configuration says."""
    learner = config.get("learner")
    named = learner.get("algorithm") if isinstance(learner, dict) else None
    names = [str(name) for name in named] if isinstance(named, list) and named else ["?" if n else ""]
    return names if len(names) == n else [names[0]] * n
