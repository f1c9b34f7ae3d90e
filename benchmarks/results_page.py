"""Generates the page of comparisons, docs/results/comparisons.md, and its figure from the run folders.

    python -m benchmarks.results_page                          print the page
    python -m benchmarks.results_page --write-docs             write the page and overview.png
    python -m benchmarks.results_page ... --without NAME ...   exclude trials; the page lists them
    python -m benchmarks.results_page ... --available          exclude trials whose runs are missing

benchmarks/results_trials.py defines the comparisons, and results_numbers.py computes the statistics. All statements on
the page are generated from the verdicts. If runs are missing, their commands are printed and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.results_numbers import (
    BETTER,
    PERHAPS_BETTER,
    PERHAPS_WORSE,
    RETURN,
    UNSEEN,
    WORSE,
    Found,
    findings,
    in_words,
    judged,
)
from benchmarks.results_trials import QUESTIONS, Question
from benchmarks.runs import done
from peerage.errors import UserError
from peerage.statistics.verdicts import SIGNIFICANCE, in_brackets
from peerage.text import count, listing, number

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS, PAGE = Path("docs/results"), "comparisons.md"
COLOURS = {BETTER: "#0072B2", PERHAPS_BETTER: "#56B4E9", WORSE: "#D55E00", PERHAPS_WORSE: "#E69F00", UNSEEN: "#9A9A9A"}


# --- sentences ------------------------------------------------------------------------------------------------


def grouped(found: Iterable[Found], *names: str) -> list[list[Found]]:
    """Findings grouped by the attributes `names`, without references."""
    parts: dict[str, list[Found]] = {}
    for f in found:
        if f.against is not None:
            parts.setdefault(repr([getattr(f, name) for name in names]), []).append(f)
    return list(parts.values())


def sentences(found: Sequence[Found], *verdicts: str) -> list[str]:
    """A sentence for each trial, measure and verdict, for findings with one of the `verdicts`."""
    lines = []
    for some in grouped([f for f in found if f.verdict in verdicts], "trial", "measure", "verdict"):
        ways = []
        for f in some:
            assert f.against is not None
            ways.append(f"{f.way} ({in_words(f.against.difference)})")
        f, reference = some[0], next(iter(some[0].trial.ways.values()))
        lines.append(f"{f.trial.title}, {f.measure}: {f.verdict} than {reference}: {listing(ways)}.")
    return lines


def unknown(found: Sequence[Found]) -> list[str]:
    """A sentence for each measure about the trials in which nothing is significantly better than the reference, without
    findings that are worse or perhaps worse."""
    lines = []
    for of_measure in grouped(found, "measure"):
        trials = [some for some in grouped(of_measure, "trial") if all(f.verdict != BETTER for f in some)]
        if some := [f for part in trials for f in part if f.verdict not in (WORSE, PERHAPS_WORSE)]:
            where = listing(list(dict.fromkeys(f.trial.title for f in some)))
            reference = " or ".join(dict.fromkeys(next(iter(f.trial.ways.values())) for f in some))
            perhaps = [f"{f.way} on {f.trial.title}" for f in some if f.verdict == PERHAPS_BETTER]
            also = f"; perhaps {listing(perhaps)}" if perhaps else ""
            size = count(len(some), "comparison")
            measure = some[0].measure[0].upper() + some[0].measure[1:]
            lines.append(f"{measure}: no method is significantly better than {reference} on {where} ({size}{also}).")
    return lines


def counts(found: Sequence[Found]) -> list[str]:
    """A table of the number of each verdict, by measure."""
    verdicts = (BETTER, PERHAPS_BETTER, UNSEEN, PERHAPS_WORSE, WORSE)
    lines = [f"| measure | {' | '.join(verdicts)} |", f"| --- |{' --: |' * len(verdicts)}"]
    for some in grouped(found, "measure"):
        given = Counter(f.verdict if f.verdict in verdicts else UNSEEN for f in some)  # the same; too few
        lines.append(f"| {some[0].measure} | {' | '.join(str(given[v]) for v in verdicts)} |")
    return lines


def without_better(found: Sequence[Found]) -> list[str]:
    """A sentence for each measure with several comparisons of which none is significantly better."""
    some = [part for part in grouped(found, "measure") if len(part) > 1 and all(f.verdict != BETTER for f in part)]
    begin = "**No method is significantly better in any of the"
    return [f"{begin} {len(part)} comparisons of the {part[0].measure}.**" for part in some]


# --- the page -------------------------------------------------------------------------------------------------


def table(found: Sequence[Found]) -> list[str]:
    """A table with a row for every method, for one measure."""
    heads = ("environment", "method", "replicas", "steps", f"{found[0].measure}, IQM", "minus the reference")
    lines = [f"| {' | '.join((*heads, 'P(improvement)', 'verdict'))} |", "| --- | --- |" + " --: |" * 5 + " --- |"]
    for f in found:
        cells = [f.trial.title, f.way, f"{f.iqm.n}", f"{f.step:,}"]
        difference, p = (f.against.difference, f.against.improvement) if f.against else (None, None)
        cells += [f"{number(i.estimate)} {in_brackets(i)}" if i else "" for i in (f.iqm, difference)]
        cells += [f"{p.estimate:.2f} {in_brackets(p, '.2f')}" if p else "", f.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(question: Question, found: Sequence[Found], warnings: Iterable[str]) -> list[str]:
    """The section of a question. Trials without findings are listed as not included."""
    lines = [f"## {question.title}", ""]
    good, bad = sentences(found, BETTER, PERHAPS_BETTER), [*sentences(found, WORSE, PERHAPS_WORSE), *unknown(found)]
    for part, heading in ((good, "What works or may work"), (bad, "What does not work or is not known")):
        lines += [f"**{heading}**", "", *(f"- {line}" for line in part), ""] if part else []
    lines += [*([question.note, ""] if question.note else []), *(f"Warning: {line}.\n" for line in warnings)]
    for measure in dict.fromkeys(f.measure for f in found):
        lines += [*table([f for f in found if f.measure == measure]), ""]
    there = [trial for trial in question.trials if trial.name in {f.trial.name for f in found}]
    commands = []
    for folder, maker in {folder: f"{t.maker} {folder.name}" for t in there for folder in t.ways}.items():
        command = (folder / "command.txt").read_text(encoding="utf-8").strip()
        commands.append(maker if "(from Python)" in command else command)
    alone = [trial for trial in there if RETURN in trial.measures]
    commands += [f"peerage compare {' '.join(map(str, trial.ways))} --paired" for trial in alone]
    if there:
        lines += ["<details><summary>Commands for these rows</summary>", "", "```", *commands, "```", ""]
        lines += ["</details>", ""]
    for t in (trial for trial in question.trials if trial not in there):
        made = f"`{t.maker} {' '.join(folder.name for folder in t.ways)}`"
        lines += [f"Not included: {t.title} ({'; '.join(t.ways.values())}). {made} trains the runs.", ""]
    return [*lines, f"More: [{question.page}]({question.page}).", ""]


def made_on(folders: Iterable[Path]) -> list[str]:
    """A list of commits, hardware and versions, from the environment.json of the runs."""
    counted: dict[str, Counter[str]] = {"Commit": Counter(), "Hardware": Counter(), "Versions": Counter()}
    for folder in folders:
        e = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        git, hard = e.get("git") or {}, e.get("hardware") or {}
        counted["Commit"][str(git.get("commit"))[:7] + (" and changes" if git.get("modified") else "")] += 1
        counted["Hardware"][f"{hard.get('cpu')}, {hard.get('cores')} cores; trained on {hard.get('device')}"] += 1
        counted["Versions"][", ".join(f"{name} {value}" for name, value in e.get("versions", {}).items())] += 1
    return [f"- {name}: {'; '.join(f'{v} ({n} runs)' for v, n in c.most_common())}" for name, c in counted.items()]


def figure(found: Sequence[Found], path: Path) -> None:
    """A forest plot of the probability of improvement over the reference, for the first measure of each trial."""
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
                assert f.against is not None
                colour, p = COLOURS.get(f.verdict, COLOURS[UNSEEN]), f.against.improvement
                axes.plot([p.low, p.high], [y, y], color=colour, linewidth=1.8)
                axes.plot(p.estimate, y, "o", color=colour, markersize=4.5)
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


TOP = """# Comparisons of advice and trust

This page is generated by `python -m benchmarks.results_page --write-docs --available` from run folders; all statements
are derived from the numbers in the tables. Methods of learning in groups are compared with a reference, on small tasks
and in short runs, by their return (return alone: without advisers; training return: with advisers) and by their choices
of advisers. {without}The verdicts of {comparisons} comparisons:

{counts}

## What works

{works}

## What did not work

{failed}

*Perhaps* is the result of a single comparison, without a correction for the number of comparisons. Without any real
differences, about {chance} of {comparisons} comparisons would have this result.

## What is not known

{unknown}

## How to read this page

- **The unit is the replica**, a group with its own seed. Members of a replica learn from each other, so their mean is
  one sample. Three or five replicas are few: "{unseen}" does not mean that there is no difference,
  only that these replicas do not show one.
- All methods of a comparison use the same seeds, and a replica is paired with the replica of the reference with the
  same seed. [The open questions](open-questions.md) are evaluated in the same way.
- IQM is the interquartile mean over replicas (with three replicas, their mean), brackets are 95% intervals, and
  P(improvement) is the probability that a replica is better than a replica of the reference, regardless of seeds. The
  reference is the first row. Methods and coverage: [statistics](../statistics.md).
- **Better** and **worse** are significant: the interval of the difference excludes zero, and the p value of the
  permutation test of the pairs is below .05 after Holm's correction over all {comparisons} comparisons of this page.
  *Perhaps*: without the correction.
- Return alone is the return of greedy episodes without advisers, averaged over members. All evaluations of a task start
  their few episodes from the same seeds, so intervals do not include the variation between starts. A choice is right if
  it follows an adviser that acts as an expert in this state.

![Probability of improvement over the reference](overview.png)

## Hardware and software of the runs

{made_on}

"""


def page(questions: Sequence[Question], without: Sequence[str] = ()) -> tuple[str, list[Found]]:
    """The text of the page and its findings. Raises UserError with a line for each missing run."""
    known = [trial for question in questions for trial in question.trials]
    trials = [trial for trial in known if trial.name not in without]
    makers = {folder: f"{trial.maker} {folder.name}" for trial in trials for folder in trial.ways}
    if gone := [f"{folder} is missing: {maker}" for folder, maker in makers.items() if not done(folder)]:
        raise UserError("\n".join([*gone, f"{len(gone)} of {len(makers)} runs are missing: nothing is written"]))
    parts = {trial.name: findings(trial) for trial in trials}
    found = judged([f for some, _ in parts.values() for f in some])
    sections, left, failed = [], [], [f"- {line}" for line in without_better(found)]
    comparisons = sum(f.against is not None for f in found)
    for question in questions:
        names = [trial.name for trial in question.trials if trial.name in parts]
        mine = [f for f in found if f.trial.name in names]
        left += [f"- **{question.title}** {' '.join(lines)}"] if (lines := unknown(mine)) else []
        some = sentences(mine, WORSE, PERHAPS_WORSE)
        failed += [f"- **{question.title}** {' '.join(some)}"] if some else []
        sections += section(question, mine, dict.fromkeys(line for name in names for line in parts[name][1]))
    text = TOP.format(
        without=f"Trials left out, without runs of this version: {len(without)} of {len(known)}. " if without else "",
        comparisons=comparisons, chance=round(SIGNIFICANCE * comparisons), counts="\n".join(counts(found)),
        works="\n".join(f"- {line}" for line in sentences(found, BETTER)) or "No method is significantly better.",
        failed="\n".join(failed) or "No method is worse than its reference.",
        unknown="\n".join(left) or "None.", unseen=UNSEEN,
        made_on="\n".join(made_on(makers)),
    )  # fmt: skip
    return text + "\n".join(sections), found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.results_page", description="Generate the page of results.")
    names = [trial.name for question in QUESTIONS for trial in question.trials]
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCS / PAGE} and its figure")
    parser.add_argument(
        "--without", nargs="+", default=[], choices=names, metavar="NAME", help=f"exclude trials: {', '.join(names)}"
    )
    parser.add_argument("--available", action="store_true", help="exclude trials whose runs are missing")
    args = parser.parse_args(arguments)
    missing = [t.name for q in QUESTIONS for t in q.trials if not all(done(folder) for folder in t.ways)]
    try:
        text, found = page(QUESTIONS, [*args.without, *(missing if args.available else [])])
    except UserError as error:
        raise SystemExit(str(error)) from error
    if not args.write_docs:
        return print(text)
    figure(found, DOCS / "overview.png")
    half = DOCS / f"{PAGE}.tmp"
    half.write_text(text, encoding="utf-8")
    os.replace(half, DOCS / PAGE)


if __name__ == "__main__":
    main()
