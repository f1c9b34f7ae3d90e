"""Offline learning: trains the runs of docs/results/offline.md and writes the page. Nothing is downloaded.

    python -m benchmarks.offline_results run [NAME ...]    make what is missing, e.g. cartpole-mixed-bc or 'hopper-*'
    python -m benchmarks.offline_results page              tables and figures from the run folders

An expert is trained for each task, its episodes are collected as two datasets (expert and mixed), and every offline
algorithm learns from each of them with several seeds (replicas), on one thread. Groups of novices get advice of
trained members. `--quick` does the same in a few steps in another folder, to try it. An algorithm that is not
registered is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from benchmarks.offline_runs import (
    DATA,
    FULL,
    METHODS,
    QUICK,
    REFERENCE,
    TASKS,
    WAYS,
    Dataset,
    Experiment,
    Expert,
    Novices,
    Size,
    Task,
    make,
    methods,
)
from benchmarks.trust_probes import with_part
from peerage.offline.listing import list_data
from peerage.offline.trajectories import Trajectories, load_data
from peerage.runs.tables import read_evaluations
from peerage.statistics import tests
from peerage.statistics.summaries import spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAGE = "offline.md"
TOP = 0.1
"""The share of episodes in the top decile."""


def final(experiment: Experiment | Expert | Novices) -> np.ndarray:
    """Mean return of the last evaluation `[R]`, for the first target where there are targets."""
    frame = read_evaluations(experiment.folder)
    last = frame[frame["step"] == frame["step"].max()]
    return last.groupby("replica")["return"].mean().to_numpy()


def by_target(experiment: Experiment) -> pd.DataFrame:
    """The last evaluation for every target: one row per target, one column per replica; empty without targets."""
    frame = read_evaluations(experiment.folder, None)
    if "target" not in frame or frame["target"].isna().all():
        return pd.DataFrame()
    last = frame[(frame["step"] == frame["step"].max()) & frame["target"].notna()]
    return last.pivot_table(index="target", columns="replica", values="return")


def top_decile(data: Trajectories) -> float:
    """The mean return of the best tenth of the episodes."""
    best = np.sort(data.returns)[::-1]
    return float(best[: max(1, round(TOP * len(best)))].mean())


def interval(values: np.ndarray, digits: int = 1) -> str:
    """Mean and 95% t-interval over replicas; the mean alone for one replica."""
    s = spread(values)
    mean = f"{float(s.mean):,.{digits}f}"
    return mean if len(values) < 2 else f"{mean} [{float(s.low):,.{digits}f}, {float(s.high):,.{digits}f}]"


def table(dataset: Dataset, size: Size) -> list[str]:
    """A Markdown table of the finished runs on one dataset, and a sentence for each comparison with `REFERENCE`."""
    data = load_data(dataset.folder)
    row = list_data([str(dataset.folder)])[0]
    of_returns = [name for name in row if name.startswith("return_")]
    quantiles = ", ".join(f"{name.removeprefix('return_')}% {row[name]:,.0f}" for name in of_returns)
    top = top_decile(data)
    of = [e for method in methods(dataset.task) if (e := Experiment(dataset, method, size)).done]
    lines = [
        f"{data.episodes:,} episodes, {data.steps:,} steps; return quantiles {quantiles}; mean return of the best "
        f"tenth {top:,.0f}.",
        "",
        f"| {dataset.task.env}, {dataset.kind} | replicas | gradient steps | return at the end | % of the best tenth |",
        "| --- | --: | --: | --: | --: |",
    ]
    finals = {e.method: final(e) for e in of}
    for e in of:
        values = finals[e.method]
        cells = [str(len(values)), f"{e.steps:,}", interval(values), interval(100 * values / top)]
        lines.append(f"| {e.label} | " + " | ".join(cells) + " |")
    expert = Expert(dataset.task, size)
    if expert.done:
        values = final(expert)
        lines.append(f"| the expert (online) | {len(values)} | | {interval(values)} | {interval(100 * values / top)} |")
    sentences = []
    for e in of:
        if e.method != REFERENCE and REFERENCE in finals:
            p = tests.permutation_p(finals[e.method], finals[REFERENCE])
            d = tests.difference(finals[e.method], finals[REFERENCE])
            found = f"{d.estimate:+,.1f} [{d.low:,.1f}, {d.high:,.1f}], p = {p:.2g}"
            sentences.append(f"Return at the end, {e.label} against {METHODS[REFERENCE][0]}: {found}.")
    found = {e.label: achieved for e in of if len(achieved := by_target(e))}
    return [*lines, "", *sentences, *(calibration(found, data) if found else [])]


def calibration(found: dict[str, pd.DataFrame], data: Trajectories) -> list[str]:
    """A Markdown table of achieved returns by target; `found`: label -> as of `by_target`. The correlation and the
    error are over the targets within the returns of the data."""
    low, high = float(data.returns.min()), float(data.returns.max())
    targets = sorted({target for table in found.values() for target in table.index})
    heads = [f"{target:,.0f}" for target in targets] + ["correlation", "mean error, % of the range"]
    lines = ["", "Achieved return by target:", "", "| target | " + " | ".join(heads) + " |"]
    lines.append("| --- |" + " --: |" * len(heads))
    for label, achieved in found.items():
        cells = [interval(achieved.loc[t].to_numpy(), 0) if t in achieved.index else "" for t in targets]
        inside = achieved[(achieved.index >= low) & (achieved.index <= high)]
        wanted, means = inside.index.to_numpy(float), inside.mean(axis=1).to_numpy()
        error = 100 * np.abs(means - wanted).mean() / max(high - low, 1e-9) if len(wanted) else np.nan
        varied = len(wanted) > 1 and wanted.std() > 0 and means.std() > 0
        correlation = f"{np.corrcoef(wanted, means)[0, 1]:.2f}" if varied else "–"
        lines.append(f"| {label} | " + " | ".join([*cells, correlation, f"{error:.0f}"]) + " |")
    return lines


def novices(task: Task, size: Size) -> list[str]:
    """A Markdown table of the groups of novices of a task, and a sentence for each comparison with `each-other`."""
    of = [group for way in WAYS if (group := Novices(task, way, size)).done]
    curves = {
        group.way: read_evaluations(group.folder).pivot_table(index="step", columns="replica", values="return")
        for group in of
    }
    areas = {way: tests.area_under_curve(c.index.to_numpy(), c.to_numpy().T) for way, c in curves.items()}
    lines = [
        f"| {task.env}: advice of | replicas | steps per member | return alone at the end | area under the curve |",
        "| --- | --: | --: | --: | --: |",
    ]
    for group in of:
        cells = [str(size.replicas), f"{curves[group.way].index[-1]:,}", interval(final(group))]
        lines.append(f"| {WAYS[group.way][0]} | " + " | ".join([*cells, interval(areas[group.way])]) + " |")
    sentences = []
    for way, values in areas.items():
        if way != "each-other" and "each-other" in areas:
            p, d = tests.permutation_p(values, areas["each-other"]), tests.difference(values, areas["each-other"])
            found = f"{d.estimate:+,.1f} [{d.low:,.1f}, {d.high:,.1f}], p = {p:.2g}"
            sentences.append(f"Area under the curve, {WAYS[way][0]} against {WAYS['each-other'][0]}: {found}.")
    return [*lines, "", *sentences]


def figure(size: Size, path: Path) -> None:
    """Achieved return by target on the mixed data of every task, beside y = x and the histogram of the data. Nothing is
    drawn without targets."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in TASKS.values():
        of = [Experiment(Dataset(task, "mixed", size), method, size) for method in methods(task)]
        if tables := {e.label: achieved for e in of if e.done and len(achieved := by_target(e))}:
            found[task.name] = tables
    if not found:
        return
    drawn, panels = plt.subplots(1, len(found), figsize=(4.3 * len(found), 3.6), squeeze=False, layout="constrained")
    for (name, tables), panel in zip(found.items(), panels[0]):
        task = TASKS[name]
        data = load_data(Dataset(task, "mixed", size).folder)
        counts = panel.twinx()
        counts.hist(data.returns, bins=20, color="#D9D9D9", zorder=0)
        counts.set_yticks([])
        panel.set_zorder(counts.get_zorder() + 1)
        panel.patch.set_visible(False)
        ends = [float(data.returns.min()), float(data.returns.max())]
        panel.plot(ends, ends, color="#6B705C", linewidth=1, linestyle="--", label="achieved = target")
        for label, achieved in tables.items():
            s = spread(achieved.to_numpy())
            panel.errorbar(achieved.index, s.mean, [s.mean - s.low, s.high - s.mean], marker="o", label=label)
        panel.set(title=f"{task.env}, mixed", xlabel="target return")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    panels[0, 0].set_ylabel("achieved return")
    drawn.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(drawn)


HEAD = """# Offline learning: results

Tables and figures are generated from run folders by `python -m benchmarks.offline_results page`; `... run` makes the
data and trains the runs. Nothing is downloaded: an expert is trained for each task (TD3; PPO on CartPole-v1), and
`peerage collect` records its episodes with noise 0.1. Expert data is of the trained expert. Mixed data has equal
numbers of episodes of random actions, of the trained expert, and of its checkpoints at a quarter, half and three
quarters of its training (CartPole-v1, which it solves sooner: at 1/16, 1/8 and 1/4).

Every run is one member with several seeds (replicas) that learn from the same data. Intervals are 95% t-intervals over
replicas; differences and p-values are those of the permutation test of [statistics](../statistics.md). The return is
that of 20 evaluation episodes of the last checkpoint; with a target return, that for the largest return of the data,
which is chosen before the training.

Novices are groups of four members that learn online (DQN on CartPole-v1, TD3 elsewhere). A member of a run on the mixed
data is one of their advisers; returns are those of the novices alone.

These numbers cannot be compared with published ones on D4RL, whose data and environments are others.
"""


def page(size: Size, docs: Path) -> None:
    """Write the tables between the markers of the page, whose other text is kept, and the figure."""
    path = docs / PAGE
    docs.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    for task in TASKS.values():
        for kind in DATA:
            dataset = Dataset(task, kind, size)
            if dataset.done and any(Experiment(dataset, method, size).done for method in methods(task)):
                title = f"{task.name}-{kind}"
                if f"<!-- {title} -->" not in text:
                    text = f"{text.rstrip()}\n\n## {task.env}, {kind} data\n"
                text = with_part(text, title, table(dataset, size))
    for task in TASKS.values():
        if any(Novices(task, way, size).done for way in WAYS):
            title = f"{task.name}-novices"
            if f"<!-- {title} -->" not in text:
                text = f"{text.rstrip()}\n\n## {task.env}, advisers of novices\n"
            text = with_part(text, title, novices(task, size))
    image = docs / "offline-calibration.png"
    figure(size, image)
    if image.exists() and image.name not in text:
        text = f"{text.rstrip()}\n\n## Targets\n\n![Achieved return by target on mixed data]({image.name})\n"
    path.write_text(text, encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline_results", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", default=["*"], help="steps, or patterns (default: all)")
    parser.add_argument("--quick", action="store_true", help="few steps, in experiments/offline-quick")
    parser.add_argument("--docs", type=Path, help="folder of the page (default: docs/results; quick: the runs' folder)")
    args = parser.parse_intermixed_args(words)
    size = QUICK if args.quick else FULL
    if args.command == "run":
        make(size, args.names, parser.error)
    else:
        page(size, args.docs or (size.folder if args.quick else Path("docs/results")))


if __name__ == "__main__":
    main()
