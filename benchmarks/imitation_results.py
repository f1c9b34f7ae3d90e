"""Learning from suggestions: trains the runs of docs/results/imitation.md and writes the page.

    python -m benchmarks.imitation_results run [NAME ...]    train missing runs, e.g. room-imitate or 'room-*'
    python -m benchmarks.imitation_results page              tables and the figure from the run folders

The plan, made before the runs: the measure is the return of members *alone*, without advice, as the area under the
learning curve. The smallest difference that matters is a tenth of the optimum: 8.6 on Room-v21, 50 on CartPole-v1. Ten
replicas detect it with power 0.8 if they deviate by at most 5.7 and 33 (`tests.smallest_detectable_difference`). The
p-values of the page are corrected by Holm's method.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from benchmarks import runs
from benchmarks.trust_probes import with_part
from peerage.config.file import load
from peerage.runs.tables import read_evaluations
from peerage.statistics import tests
from peerage.statistics.summaries import spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER, DOCS, PAGE = Path("experiments/imitation"), Path("docs/results"), "imitation.md"


@dataclass(frozen=True)
class Task:
    name: str
    title: str
    flags: str
    threshold: float
    """Of the return alone."""
    at: int
    """A step at which the return is reported, besides the last."""
    ways: tuple[str, ...]
    advisers: str = ""
    """Fixed advisers of all ways except `alone`."""
    alone: str = ""
    """The task with the same runs of members alone; empty: this one."""
    replicas: int = 10


ROOM = (
    "--env Room-v21 --n-peers 2 --gamma 0.95 --total-timesteps 16000 --eval-freq 2000 --n-eval-episodes 20 "
    "--log-freq 1000"
)
SCRATCH = ("alone", "follow", "imitate")
ADVISED = ("alone", "random", "follow", "imitate")
WAYS = {  # label, flags, colour
    "alone": ("alone", "--sharing none", "#6B705C"),
    "random": ("random advice", "--choice uniform", "#E3B505"),
    "follow": ("following only", "", "#D55E00"),
    "imitate": ("learning from suggestions", "--imitate trusted", "#0072B2"),
}
REFERENCES = ("alone", "follow")
TASKS = {
    task.name: task
    for task in (
        Task("room", "Room-v21, two learners, an expert, an adversary and a random adviser", ROOM, 77.4, 8000, ADVISED,
             "expert adversary random"),
        Task("regional", "Room-v21, two learners, two experts in one region each, and an adversary", ROOM, 77.4, 8000,
             SCRATCH, "regional:a regional:b adversary", "room"),
        Task("turncoat", "Room-v21, two learners, an expert that becomes an adversary, and the reverse", ROOM, 77.4,
             8000, SCRATCH, "turncoat convert", "room"),
        Task("cartpole", "CartPole-v1, four learners without advisers",
             "--env CartPole-v1 --n-peers 4 --total-timesteps 20000 --eval-freq 2000 --log-freq 1000", 475.0, 10_000,
             SCRATCH),
        Task("room-group", "Room-v21, four learners without advisers",
             ROOM.replace("--n-peers 2", "--n-peers 4").replace("16000", "30000"), 77.4, 16_000, SCRATCH),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Experiment(runs.Experiment):
    root = FOLDER
    task: Task
    way: str

    @property
    def name(self) -> str:
        task = self.task.alone if self.way == "alone" and self.task.alone else self.task.name
        return f"{task}-{self.way}"

    @property
    def label(self) -> str:
        return WAYS[self.way][0]

    def settings(self) -> list[str]:
        advisers = f"--advisers {self.task.advisers}" if self.task.advisers and self.way != "alone" else ""
        words = f"{self.task.flags} --replicas {self.task.replicas} {WAYS[self.way][1]} {advisers}"
        return words.split()

    def train(self) -> tuple[bool, str]:
        words = self.settings()
        steps = int(words[words.index("--total-timesteps") + 1])
        return runs.train(words, self.folder, (self.task.replicas, steps))


EXPERIMENTS = [Experiment(task, way) for task in TASKS.values() for way in task.ways]


def returns(experiment: Experiment) -> pd.DataFrame:
    """Mean return of the members alone: one row per step, one column per replica."""
    return read_evaluations(experiment.folder).pivot_table(index="step", columns="replica", values="return")


def interval(values: np.ndarray) -> str:
    """Mean and 95% t-interval over replicas."""
    s = spread(values)
    return f"{float(s.mean):.1f} [{float(s.low):.1f}, {float(s.high):.1f}]"


def areas(experiment: Experiment) -> np.ndarray:
    curve = returns(experiment)
    return tests.area_under_curve(curve.index.to_numpy(), curve.to_numpy().T)


def complete(task: Task) -> bool:
    """Whether learning from suggestions can be compared with something on this task."""
    done = [e.way for e in EXPERIMENTS if e.task == task and e.done]
    return "imitate" in done and len(done) > 1


def comparisons() -> list[tuple[Experiment, Experiment, float]]:
    """All comparisons of the page: the two runs and the p-value of their areas, corrected by Holm's method."""
    pairs = [
        (a, b)
        for a in EXPERIMENTS
        for b in EXPERIMENTS
        if a.task == b.task and a.way == "imitate" and b.way in REFERENCES and a.done and b.done
    ]
    found = tests.holm([tests.permutation_p(areas(a), areas(b)) for a, b in pairs])
    return [(a, b, p) for (a, b), p in zip(pairs, found)]


def table(task: Task) -> list[str]:
    """A Markdown table of the finished runs of a task, and a sentence for each comparison."""
    of = [e for e in EXPERIMENTS if e.task == task and e.done]
    last = int(returns(of[0]).index[-1])
    heads = ["replicas", f"alone at step {task.at:,}", f"at {last:,}", "area under the curve"]
    heads.append(f"steps to {task.threshold:g}")
    lines = ["| return alone | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(heads)]
    for e in of:
        curve = returns(e)
        reached = tests.steps_to_threshold(curve.index.to_numpy(), curve.to_numpy().T, task.threshold)
        known = reached[np.isfinite(reached)]
        when = f"{np.median(known):,.0f} ({len(known)} of {len(reached)})" if len(known) else f"none of {len(reached)}"
        at = curve.loc[min(s for s in curve.index if s >= task.at)]
        cells = [str(curve.shape[1]), interval(at.to_numpy()), interval(curve.iloc[-1].to_numpy()), interval(areas(e))]
        lines.append(f"| {e.label} | " + " | ".join([*cells, when]) + " |")
    sentences = []
    for a, b, p in comparisons():
        if a.task == task:
            d = tests.difference(areas(a), areas(b))
            sentences.append(
                f"Area under the curve, {a.label} against {b.label}: {d.estimate:+.1f} [{d.low:.1f}, {d.high:.1f}], "
                f"p = {p:.2g} (Holm)."
            )
    seed = load(of[0].folder / "config.yaml").seed
    return [*lines, "", *sentences, "", f"Seed {seed}, settings of the last line: `{' '.join(of[-1].settings())}`"]


def figure(tasks: Sequence[Task], path: Path) -> None:
    """Return alone over steps, mean and 95% t-interval over replicas; one panel for each task."""
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    size = (max(5.6, 4.4 * columns), 3.6 * rows)
    drawn, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in panels.flat[len(tasks) :]:
        panel.set_axis_off()
    for task, panel in zip(tasks, panels.flat):
        for e in (e for e in EXPERIMENTS if e.task == task and e.done):
            curve, colour = returns(e), WAYS[e.way][2]
            s = spread(curve.to_numpy())
            panel.plot(curve.index / 1000, s.mean, color=colour, label=e.label, linewidth=1.8)
            panel.fill_between(curve.index / 1000, s.low, s.high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(textwrap.fill(task.title, 48), fontsize=10)
        panel.set(xlabel="thousands of steps per member")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, loc="best")
    for first in panels[:, 0]:
        first.set_ylabel("return alone")
    drawn.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(drawn)


HEAD = """# Learning from suggestions: results

Tables and the figure are generated from run folders by `python -m benchmarks.imitation_results page`; `... run` trains
the runs. All returns are of members *alone*: without advice and without exploration. Members of "alone" learn by
themselves. Intervals are 95% t-intervals over replicas (means of the members); differences and p-values are those of
the permutation test of [statistics](../statistics.md), corrected by Holm's method over all comparisons of this page.
The method is described in [learning from suggestions](../methods/imitation.md).

"Following only" has the default share of own choices, `--self-share 0.1`; learning from suggestions has its default of
0.5. A control with 0.5 and without `--imitate` has only been tried with td trust and 3 replicas: 21 at step 8,000
([trials](../methods/imitation.md#trials)).

![Return alone](imitation.png)
"""


def page() -> None:
    """Write the tables between the markers of the page, whose other text is kept, and the figure."""
    path = DOCS / PAGE
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    for task in TASKS.values():
        if complete(task):
            if f"<!-- {task.name} -->" not in text:
                text = f"{text.rstrip()}\n\n## {task.title}\n"
            text = with_part(text, task.name, table(task))
    path.write_text(text, encoding="utf-8")
    figure([task for task in TASKS.values() if complete(task)], DOCS / PAGE.replace(".md", ".png"))
    if complete(TASKS["room"]):
        figure([TASKS["room"]], Path("docs/images/alone.png"))  # for the README


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imitation_results", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", default=["*"])
    args = parser.parse_args()
    if args.command == "run":
        runs.train_all(runs.chosen(EXPERIMENTS, args.names, parser.error), 1, Experiment.train)
    else:
        page()


if __name__ == "__main__":
    main()
