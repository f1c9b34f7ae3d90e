"""What is known, on one page: docs/results/README.md and its figure, from the run folders.

    python -m benchmarks.results_page                          print the page
    python -m benchmarks.results_page --write-docs             write it, and overview.png beside it
    python -m benchmarks.results_page ... --without NAME ...   leave trials out; the page says which

A trial is some ways of training on one task, the first of them the reference. All numbers are those of
`peerage.evaluation`, over replicas of a group; all sentences about what is known are made of the verdicts. A run that
is missing is named, with the command that makes it, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import open_questions, peer_learning, trust_counts, trust_lunarlander, trust_probes
from peerage.configfile import load
from peerage.errors import UserError
from peerage.evaluation import statistics
from peerage.evaluation.compare import FEW, compare, in_brackets
from peerage.evaluation.statistics import Interval
from peerage.runs.text import listing, number

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path("docs/results")
BETTER, WORSE, PERHAPS_BETTER, PERHAPS_WORSE = "**better**", "**worse**", "perhaps better", "perhaps worse"
UNSEEN = "not told apart"
COLOURS = {BETTER: "#0072B2", PERHAPS_BETTER: "#56B4E9", WORSE: "#D55E00", PERHAPS_WORSE: "#E69F00", UNSEEN: "#9A9A9A"}

RETURN, TRAINING = "return alone at the end", "training return over the whole run"
LATE, TURN = "% of right choices in the last 2,000 steps", "% of right choices in the 2,000 steps after the turn"
EXPERT = "% of choices for the expert in steps 2,000–5,000"


def _right(window: Callable[[trust_counts.Replica], trust_counts.Window]) -> Callable[[Path], list[float]]:
    return lambda folder: [100 * trust_counts.share(r, "right", window(r)) for r in trust_counts.read(folder)]


MEASURES: dict[str, Callable[[Path], Iterable[float]]] = {  # a number for each replica; RETURN is that of `compare`
    LATE: _right(trust_counts.late),
    TURN: _right(trust_counts.turning),
    TRAINING: lambda folder: [trust_counts.training(r, (0, r.steps[-1])) for r in trust_counts.read(folder)],
    EXPERT: lambda folder: 100 * peer_learning.shares(str(folder.absolute()), 2000, 5000)["expert"],
}


@dataclass(frozen=True)
class Trial:
    name: str
    title: str
    maker: str
    """The command that makes its runs, up to their names."""
    ways: dict[Path, str]
    """Run folder -> label; the first is the reference."""
    measures: tuple[str, ...] = (RETURN,)


@dataclass(frozen=True)
class Question:
    title: str
    page: str
    """The longer page, in docs/results."""
    trials: tuple[Trial, ...]
    note: str = ""


# --- the questions --------------------------------------------------------------------------------------------


def _learning(family: str, title: str, names: str, *measures: str) -> Trial:
    ways = {peer_learning.FOLDER / name: peer_learning.EXPERIMENTS[name].label for name in names.split()}
    return Trial(family, title, "python -m benchmarks.peer_learning run", ways, measures or (RETURN,))


def _probes(probe: str, variants: Iterable[str], *measures: str, name: str = "") -> Iterable[Trial]:
    for env, title in trust_probes.ENVS.items():
        ways = {trust_probes.Experiment(env, probe, v).folder: trust_probes.LABELS[v] for v in variants}
        maker = f"python -m benchmarks.trust_probes run --replicas {5 if env == 'room' else 3} --only"
        yield Trial(f"{name}{probe}-{env}", f"{title}, {probe}", maker, ways, measures)


def _open(question: str) -> Question:
    title, presets = open_questions.QUESTIONS[question]
    parts: dict[str, list[open_questions.Experiment]] = {}
    for preset in presets:
        name = preset.rsplit("-", 1)[0] if question == "size" else preset
        parts.setdefault(name, []).append(open_questions.Experiment(preset, False))
    trials = []
    for name, groups in parts.items():
        maker = f"python -m benchmarks.open_questions run --scale {0.06 if name == 'size-lunarlander' else 0.3} --only"
        ways = {groups[0].counterpart.folder: "single agents"}
        ways |= {g.folder: f"group of {g.name.rsplit('-', 1)[1]}" if question == "size" else "group" for g in groups}
        what = "" if question == "size" else f", {name.rsplit('-', 1)[0].replace('-', ' ')}"
        trials.append(Trial(name, load(f"open-{groups[0].name}").env + what, maker, ways))
    note = ""
    if question == "frozen":
        note = "In frozen members the frozen one (`peerage train --config open-pretrain-room`) counts in the means "
        note += "on both sides; [open-questions.md](open-questions.md) leaves it out."
    return Question(title, "open-questions.md", tuple(trials), note)


def _lander(name: str, title: str, *names: str) -> Trial:
    ways = {trust_lunarlander.FOLDER / n: trust_lunarlander.LABELS[n] for n in names}
    return Trial(name, title, "python -m benchmarks.trust_lunarlander run --only", ways)


def _seen(title: str, probe: str, measure: str, *more: Trial) -> Question:
    note = f"The probe “{probe}” has {trust_probes.PROBES[probe]}. Uniform is a choice by lot."
    return Question(title, TRUST, (*_probes(probe, trust_probes.VARIANTS, measure, RETURN), *more), note)


TRUST = "transformer-trust.md"
KINDS = ("td-critic", "td", "hybrid", "in-context", "in-context-critic")
WORTH = [trial for p in trust_probes.PROBES for trial in _probes(p, KINDS, TRAINING, name="worth-")]
QUESTIONS = (
    Question("Does advice help against single agents?", "peer-learning.md", (
        _lander("lander-100k", "LunarLander-v3, 4 members", *trust_lunarlander.RUNS),
        _learning("room", "Room-v21, 2 members", "room-single room-random room-early room-paper room-ours"),
        _learning("lander", "LunarLander-v3, our settings", "lander-single lander-peer lander-paper"),
    )),
    _seen("Does the rule find the expert?", "plain", LATE, _learning(
        "choice", "Room-v21, 50,000 steps", "choice-paper choice-ours in-context-choice", EXPERT, RETURN)),
    _seen("Does it notice an adviser who turns his coat?", "turncoat", TURN),
    _seen("Does it see that advice is good in one region only?", "regional", LATE),
    Question("Which kind of trust is worth more?", TRUST, (
        *WORTH, _lander("worth-100k", "LunarLander-v3, 100,000 steps", "td", "hybrid", "in-context"),
    ), "Training return is what members earn while they may follow others; alone they are as in the tables above."),
    *(_open(question) for question in open_questions.QUESTIONS),
)  # fmt: skip


# --- from run folders to findings -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """One way of training under one measure of its trial."""

    trial: Trial
    way: str
    measure: str
    step: int
    iqm: Interval
    replicas: int
    """Of this way or the reference, whichever has fewer."""
    difference: Interval | None = None
    """IQM less the reference's; the reference has none of these three."""
    improvement: Interval | None = None
    p: float = math.nan
    """Welch's, not corrected; NaN too where there are too few replicas."""
    known: bool = False
    """Beyond chance after Holm's correction over all comparisons of the page."""

    @property
    def verdict(self) -> str:
        d = self.difference
        if d is None or self.replicas < FEW:
            return "too few replicas" if d else "reference"
        if d.low <= 0 <= d.high:
            return "the same" if d.low == d.high else UNSEEN
        return (BETTER if self.known else PERHAPS_BETTER) if d.low > 0 else WORSE if self.known else PERHAPS_WORSE


def findings(trial: Trial) -> tuple[list[Found], list[str]]:
    """What a trial shows, by measure and way, and what makes its comparison doubtful; UserError if it is unreadable."""
    whole = compare([str(folder) for folder in trial.ways])
    task = whole.tasks[0]
    if [side.runs for side in task.sides] != [(folder,) for folder in trial.ways]:
        raise UserError(f"the runs of {trial.name} are not {len(trial.ways)} ways on one task: train them anew")
    found = []
    for measure in trial.measures:
        if measure == RETURN:
            x = [side.until(task.step)[1][:, -1] for side in task.sides]
            iqms, against = [row.iqm for row in task.rows], [(v.difference, v.improvement) for v in task.versus]
        else:
            x = [np.array(list(MEASURES[measure](folder)), float) for folder in trial.ways]
            for folder, sample in zip(trial.ways, x):
                if np.isnan(sample).any():
                    raise UserError(f"{folder}: a replica has no {measure}; was the run long enough?")
            iqms, better = [statistics.interval(y) for y in x], statistics.probability_of_improvement
            against = [(statistics.difference(y, x[0]), better(y, x[0])) for y in x[1:]]
        of = [Found(trial, way, measure, task.step, iqm, iqm.n) for way, iqm in zip(trial.ways.values(), iqms)]
        found.append(of[0])
        for f, y, (difference, improvement) in zip(of[1:], x[1:], against):
            n, p = min(len(y), len(x[0])), statistics.welch(y, x[0]).p
            found.append(replace(f, replicas=n, difference=difference, improvement=improvement, p=p))
    return found, list(whole.warnings)


def judged(found: Sequence[Found]) -> list[Found]:
    """The same with `known`: Welch's p is below .05 after Holm over all of them, and the interval excludes zero."""
    corrected = statistics.holm([f.p for f in found])
    return [replace(f, known=f.verdict.startswith("perhaps") and p < 0.05) for f, p in zip(found, corrected)]


# --- words ----------------------------------------------------------------------------------------------------


def grouped(found: Iterable[Found], *names: str) -> list[list[Found]]:
    """Findings that have the same `names` (of what Found has) together, references left out."""
    parts: dict[str, list[Found]] = {}
    for f in found:
        if f.difference is not None:
            parts.setdefault(repr([getattr(f, name) for name in names]), []).append(f)
    return list(parts.values())


def told(found: Sequence[Found], *verdicts: str) -> list[str]:
    """A sentence for each trial, measure and verdict, of those that are among `verdicts`."""
    lines = []
    for some in grouped([f for f in found if f.verdict in verdicts], "trial", "measure", "verdict"):
        ways = []
        for f in some:
            assert f.difference is not None
            sign = "+" if f.difference.estimate > 0 else ""
            ways.append(f"{f.way} ({sign}{number(f.difference.estimate)} {in_brackets(f.difference)})")
        f, reference = some[0], next(iter(some[0].trial.ways.values()))
        lines.append(f"{f.trial.title}, {f.measure}: {f.verdict} than {reference}: {listing(ways)}.")
    return lines


def unknown(found: Sequence[Found]) -> list[str]:
    """A sentence for each measure, on the trials in which nothing is better than the reference beyond chance."""
    lines = []
    for of_measure in grouped(found, "measure"):
        trials = [some for some in grouped(of_measure, "trial") if all(f.verdict != BETTER for f in some)]
        if some := [f for part in trials for f in part]:
            where = listing(list(dict.fromkeys(f.trial.title for f in some)))
            reference = " or ".join(dict.fromkeys(next(iter(f.trial.ways.values())) for f in some))
            perhaps = [f"{f.way} on {f.trial.title}" for f in some if f.verdict == PERHAPS_BETTER]
            size = f"{len(some)} comparisons" if len(some) > 1 else "1 comparison"
            also = f"; perhaps {listing(perhaps)}" if perhaps else ""
            measure = some[0].measure[0].upper() + some[0].measure[1:]
            lines.append(f"{measure}: nothing is better than {reference} beyond chance on {where} ({size}{also}).")
    return lines


# --- the page -------------------------------------------------------------------------------------------------


def table(found: Sequence[Found]) -> list[str]:
    """A row for every way of training, under one measure."""
    heads = ("environment", "way of training", "replicas", "steps", f"{found[0].measure}, IQM", "less the reference")
    lines = [f"| {' | '.join((*heads, 'P(improvement)', 'verdict'))} |", "| --- | --- |" + " --: |" * 5 + " --- |"]
    for f in found:
        cells = [f.trial.title, f.way, f"{f.iqm.n}", f"{f.step:,}"]
        cells += [f"{number(i.estimate)} {in_brackets(i)}" if i else "" for i in (f.iqm, f.difference)]
        p = f.improvement
        cells += [f"{p.estimate:.2f} {in_brackets(p, '.2f')}" if p else "", f.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(question: Question, found: Sequence[Found], doubts: Iterable[str]) -> list[str]:
    """All that the page says about a question; of trials without findings, that they are not counted."""
    lines = [f"## {question.title}", ""]
    good, bad = told(found, BETTER, PERHAPS_BETTER), [*told(found, WORSE, PERHAPS_WORSE), *unknown(found)]
    for part, heading in ((good, "What works, or perhaps does"), (bad, "What does not, or cannot be told")):
        lines += [f"**{heading}**", "", *(f"- {line}" for line in part), ""] if part else []
    lines += [*([question.note, ""] if question.note else []), *(f"Doubt: {line}.\n" for line in doubts)]
    for measure in dict.fromkeys(f.measure for f in found):
        lines += [*table([f for f in found if f.measure == measure]), ""]
    there = [trial for trial in question.trials if trial.name in {f.trial.name for f in found}]
    commands = []
    for folder, maker in {folder: f"{t.maker} {folder.name}" for t in there for folder in t.ways}.items():
        command = (folder / "command.txt").read_text(encoding="utf-8").strip()
        commands.append(maker if "(from Python)" in command else command)
    commands += [f"peerage compare {' '.join(map(str, trial.ways))}" for trial in there if RETURN in trial.measures]
    if there:
        lines += ["<details><summary>The commands that made these rows</summary>", "", "```", *commands, "```", ""]
        lines += ["</details>", ""]
    for t in (trial for trial in question.trials if trial not in there):
        made = f"`{t.maker} {' '.join(folder.name for folder in t.ways)}`"
        lines += [f"Not counted: {t.title} ({'; '.join(t.ways.values())}). Left out; {made} makes the runs.", ""]
    return [*lines, f"More: [{question.page}]({question.page}).", ""]


def made_on(folders: Iterable[Path]) -> list[str]:
    """Commits, hardware and versions, from the environment.json of the runs."""
    counted: dict[str, Counter[str]] = {"Commit": Counter(), "Hardware": Counter(), "Versions": Counter()}
    for folder in folders:
        e = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        git, hard = e.get("git") or {}, e.get("hardware") or {}
        counted["Commit"][str(git.get("commit"))[:7] + (" and changes" if git.get("modified") else "")] += 1
        counted["Hardware"][f"{hard.get('cpu')}, {hard.get('cores')} cores; trained on {hard.get('device')}"] += 1
        counted["Versions"][", ".join(f"{name} {value}" for name, value in e.get("versions", {}).items())] += 1
    return [f"- {name}: {'; '.join(f'{v} ({n} runs)' for v, n in c.most_common())}" for name, c in counted.items()]


def figure(found: Sequence[Found], path: Path) -> None:
    """A forest plot: every way's probability of improvement over its reference, under its trial's first measure."""
    parts = [some for some in grouped(found, "trial", "measure") if some[0].measure == some[0].trial.measures[0]]
    ends = np.cumsum([len(some) + 1.7 for some in parts])
    cut = int(np.searchsorted(ends, ends[-1] / 2)) + 1
    drawn, columns = plt.subplots(1, 2, figsize=(14, 0.09 * ends[-1] + 1), layout="constrained")
    for axes, mine in zip(columns, (parts[:cut], parts[cut:])):
        y, ticks = 0.0, dict[float, str]()
        for some in mine:
            reference = next(iter(some[0].trial.ways.values()))
            title = axes.text(-0.5, y, f"{some[0].trial.title}: {some[0].measure}, against {reference}")
            title.set(fontsize=8, fontweight="bold", va="center", in_layout=False)
            for f in some:
                y += 1
                assert f.improvement is not None
                colour = COLOURS.get(f.verdict, COLOURS[UNSEEN])
                axes.plot([f.improvement.low, f.improvement.high], [y, y], color=colour, linewidth=1.8)
                axes.plot(f.improvement.estimate, y, "o", color=colour, markersize=4.5)
                ticks[y] = f.way
            y += 1.7
        axes.axvline(0.5, color="0.6", linewidth=1, linestyle=":", zorder=0)
        axes.set(xlim=(-0.02, 1.02), ylim=(y - 0.7, -1), xlabel="probability of improvement, with its 95% interval")
        axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    handles = [plt.Line2D([], [], color=c, marker="o", label=v.strip("*")) for v, c in COLOURS.items()]
    drawn.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    drawn.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(drawn)


TOP = """# What is known, and what is not

Written from run folders by `python -m benchmarks.results_page --write-docs{without}`: every sentence about
results is made of the numbers in the tables.

## What is known

{known}

## What is not known

{unknown}

## How to read this page

- **The unit is the replica**, a group with a seed of its own: members of a replica learn from each other, so their
  mean is one number. Three or five are few: "{unseen}" means that they cannot tell, not that nothing is there.
- IQM is the interquartile mean over replicas, brackets are 95% intervals, P(improvement) is the chance that a replica
  is above one of the reference, whose row comes first. How they are made, how well they cover:
  [statistics](../statistics.md).
- **Better** and **worse** are beyond chance: the interval of the difference excludes zero, and Welch's p is below .05
  after Holm's correction over all {comparisons} comparisons of this page. *Perhaps*: the interval alone does.
- Return alone is that of greedy episodes without advisers, a mean over members. A choice is right if it follows an
  adviser who acts as the expert there.

![Every way's probability of improvement over its reference](overview.png)

## What the runs were made on

{made_on}

"""


def page(questions: Sequence[Question], without: Sequence[str] = ()) -> tuple[str, list[Found]]:
    """The page, and the findings it tells. UserError with a line for each run that is missing."""
    trials = [trial for question in questions for trial in question.trials if trial.name not in without]
    makers = {folder: f"{trial.maker} {folder.name}" for trial in trials for folder in trial.ways}
    if gone := [f"{folder} is missing: {maker}" for folder, maker in makers.items() if not (folder / "DONE").exists()]:
        raise UserError("\n".join([*gone, f"{len(gone)} of {len(makers)} runs are missing: nothing is written"]))
    parts = {trial.name: findings(trial) for trial in trials}
    found = judged([f for some, _ in parts.values() for f in some])
    sections, left = [], []
    for question in questions:
        names = [trial.name for trial in question.trials if trial.name in parts]
        mine = [f for f in found if f.trial.name in names]
        left += [f"- **{question.title}** {' '.join(lines)}"] if (lines := unknown(mine)) else []
        sections += section(question, mine, dict.fromkeys(line for name in names for line in parts[name][1]))
    text = TOP.format(
        without=f" --without {' '.join(without)}" if without else "",
        known="\n".join(f"- {line}" for line in told(found, BETTER, WORSE)) or "Nothing is beyond chance.",
        unknown="\n".join(left) or "Everywhere something is better than the reference.", unseen=UNSEEN,
        comparisons=sum(f.difference is not None for f in found), made_on="\n".join(made_on(makers)),
    )  # fmt: skip
    return text + "\n".join(sections), found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.results_page", description="What is known, on one page.")
    names = [trial.name for question in QUESTIONS for trial in question.trials]
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCS / 'README.md'} and its figure")
    parser.add_argument("--without", nargs="+", default=[], choices=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args(arguments)
    try:
        text, found = page(QUESTIONS, args.without)
    except UserError as error:
        raise SystemExit(str(error)) from error
    if not args.write_docs:
        return print(text)
    figure(found, DOCS / "overview.png")
    half = DOCS / "README.md.tmp"
    half.write_text(text, encoding="utf-8")
    os.replace(half, DOCS / "README.md")


if __name__ == "__main__":
    main()
