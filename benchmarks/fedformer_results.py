"""FedFormer on Meta-World: trains the runs of docs/results/fedformer.md and writes the page.

    python -m benchmarks.fedformer_results run [NAME ...]    train what is missing, e.g. reach-fedformer or 'reach-*'
    python -m benchmarks.fedformer_results page              tables and figure from the run folders

`benchmarks/fedformer_runs.py` has the plan: what is measured, which difference matters, replicas and steps. `--quick`
does the same in a few steps in another folder, to try it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from benchmarks.fedformer_corrupted import MEMBER
from benchmarks.fedformer_runs import (
    CORRUPTED,
    DIFFERENCE,
    FULL,
    METHODS,
    QUICK,
    REFERENCE,
    SIZES,
    TASKS,
    Experiment,
    Size,
    make,
)
from benchmarks.trust_probes import with_part
from peerage.reports.encoder_attention import attention
from peerage.runs.tables import read_evaluations, read_metrics
from peerage.statistics import tests
from peerage.statistics.summaries import late, spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PAGE = "fedformer.md"
SPLITS = {"alone": "train goals", "test": "test goals"}
COLOURS = {"fedformer": "#0072B2", "fedavg": "#D55E00", "none": "#777777", "pooled": "#009E73"}
PRIMARY = ("success", "test")


def curves(experiment: Experiment, value: str, mode: str, without: Sequence[int] = ()) -> pd.DataFrame:
    """Mean over members and episodes: a row per number of steps of a member, a column per replica. `without`: members
    that do not count. The steps of the pooled learner are divided by the number of members."""
    frame = read_evaluations(experiment.folder, mode)
    frame = frame[~frame["member"].isin([f"member-{m}" for m in without])]
    table = frame.pivot_table(index="step", columns="replica", values=value)
    return table.set_axis(table.index / (experiment.members if experiment.pooled else 1))


def area(table: pd.DataFrame) -> np.ndarray:
    """The mean of each replica over the run `[R]`: the area under its curve divided by the steps."""
    return tests.area_under_curve(table.index.to_numpy(float), table.to_numpy().T)


def interval(values: np.ndarray, digits: int) -> str:
    """Mean and 95% t-interval over replicas."""
    s = spread(values)
    mean = f"{float(s.mean):,.{digits}f}"
    return mean if len(values) < 2 else f"{mean} [{float(s.low):,.{digits}f}, {float(s.high):,.{digits}f}]"


def table(of: Sequence[Experiment], without: Sequence[int] = ()) -> list[str]:
    """A Markdown table of finished runs."""
    heads = [f"{value}, {split}" for value in ("success", "return") for split in SPLITS.values()]
    heads = ["members", "replicas", *(f"area: {head}" for head in heads), *(f"end: {head}" for head in heads)]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(heads)]
    for e in of:
        measured = {
            (value, mode): curves(e, value, mode, without) for value in ("success", "return") for mode in SPLITS
        }
        digits = {"success": 3, "return": 0}
        cells = [f"1 (of {e.members})" if e.pooled else str(e.members), str(e.replicas)]
        cells += [interval(area(found), digits[value]) for (value, _), found in measured.items()]
        cells += [interval(found.iloc[-1].to_numpy(), digits[value]) for (value, _), found in measured.items()]
        lines.append(f"| {e.label} | " + " | ".join(cells) + " |")
    return lines


def comparisons(pairs: Sequence[tuple[Experiment, Experiment]], without: Sequence[int] = ()) -> list[str]:
    """A table of the differences in the area under the curve of the first of each pair from the second. p values are
    corrected by Holm over the pairs, for each measure."""
    lines = []
    for value, mode in (PRIMARY, ("success", "alone"), ("return", "test"), ("return", "alone")):
        areas = [[area(curves(e, value, mode, without)) for e in pair] for pair in pairs]
        corrected = tests.holm([tests.permutation_p(b, a) for b, a in areas])
        for (b, a), (x, y), p in zip(pairs, areas, corrected, strict=True):
            d, digits = tests.difference(x, y), 3 if value == "success" else 0
            said = f"{d.estimate:+,.{digits}f} [{d.low:+,.{digits}f}, {d.high:+,.{digits}f}]"
            if (value, mode) == PRIMARY:
                sd = float(np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)) if min(len(x), len(y)) > 1 else np.nan
                detected = tests.smallest_detectable_difference(len(x), len(y), sd, statistic="iqm")
                said, detect = f"**{said}**", f"{detected:.{digits}f}"
            else:
                detect = ""
            cells = [f"{b.label} against {a.label}", f"{value}, {SPLITS[mode]}", said, f"{p:.2g}", detect]
            lines.append("| " + " | ".join(cells) + " |")
    heads = ["area under the curve", "measure", "difference", "p (Holm)", "detectable"]
    return ["| " + " | ".join(heads) + " |", "| --- | --- | --: | --: | --: |", *lines]


def of_task(task: str, size: Size) -> list[str]:
    """Methods on one task; FedFormer against all others."""
    of = [e for method in METHODS if (e := Experiment(task, method, size)).done]
    reference = [e for e in of if e.method == REFERENCE]
    pairs = [(reference[0], e) for e in of if reference and e.method != REFERENCE]
    return [*table(of), *(["", *comparisons(pairs)] if pairs else [])]


def corrupted(size: Size) -> list[str]:
    """Runs with a corrupted member, without it in returns and success, and the attention to it."""
    runs_of = {name: Experiment("reach", name, size) for name in (*CORRUPTED, *METHODS)}
    done = {name: e for name, e in runs_of.items() if e.done and not e.pooled}
    shown = [e for name, e in done.items() if name in CORRUPTED or name in ("fedformer", "fedavg", "none")]
    pairs = [(done[name], done[of[3]]) for name, of in CORRUPTED.items() if name in done and of[3] in done]
    lines = [*table(shown, [MEMBER]), *(["", *comparisons(pairs, [MEMBER])] if pairs else [])]
    rows = [
        f"| {done[name].label} | " + " | ".join(interval(x, 1) for x in attention_to(done[name])) + " |"
        for name in ("fedformer", "fedformer-corrupted")
        if name in done
    ]
    heads = ["attention in the last fifth (%)", "to member 0", "to each other member", "to itself", "to CLS"]
    return [*lines, "", "| " + " | ".join(heads) + " |", "| --- |" + " --: |" * 4, *rows] if rows else lines


def attention_to(experiment: Experiment) -> list[np.ndarray]:
    """The attention of members other than member 0 to member 0, to each of the others, to themselves and to CLS, mean
    over the last fifth of the run `[R]`, in percent."""
    found = late(attention(read_metrics(experiment.folder)))
    name = f"member-{MEMBER}"
    found = found[found["asker"] != name]
    itself = found["asker"] == found["adviser"]
    parts = [found["adviser"] == name, ~itself & ~found["adviser"].isin([name, "CLS"]), itself]
    return [found[rows].groupby("replica")["weight"].mean().to_numpy() for rows in (*parts, found["adviser"] == "CLS")]


def sizes(size: Size) -> list[str]:
    """FedFormer with more members."""
    return table([e for name in (REFERENCE, *SIZES) if (e := Experiment("reach", name, size)).done])


def figure(size: Size, path: Path) -> None:
    """Success on train and test goals over steps, a column of panels for each task."""
    done = {task: [e for name in METHODS if (e := Experiment(task, name, size)).done] for task in TASKS}
    done = {task: of for task, of in done.items() if of}
    drawn, panels = plt.subplots(
        2, len(done), figsize=(4 * len(done), 6), squeeze=False, sharey=True, layout="constrained"
    )
    for column, (task, of) in zip(panels.T, done.items()):
        for axes, (mode, split) in zip(column, SPLITS.items()):
            for e in of:
                found = curves(e, "success", mode)
                s, x = spread(found.to_numpy(), (0, 1)), found.index
                axes.plot(x, s.mean, color=COLOURS[e.method], label=e.label, ls="--" if e.pooled else "-")
                if s.kind:
                    axes.fill_between(x, s.low, s.high, color=COLOURS[e.method], alpha=0.15, lw=0)
            axes.set(title=f"{TASKS[task][0]}, {split}", ylim=(0, 1))
            axes.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel("steps per member")
    for axes in panels[:, 0]:
        axes.set_ylabel("success")
    panels[0, 0].legend(frameon=False, fontsize=8)
    drawn.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(drawn)


HEAD = f"""# FedFormer: results

Tables and figure are generated from run folders by `python -m benchmarks.fedformer_results page`; `... run` trains the
runs. Groups of five SAC members learn a task of Meta-World, each with five train goals of its own, and are evaluated on
them and on test goals that no member has trained on: [FedFormer](../methods/fedformer.md), federated averaging of all
networks, no exchange, and one learner with the goals, steps and updates of all five members. Settings are those of the
presets `fedformer-small`: small networks and 20,000 steps per member, while the paper has larger networks, more steps,
and another version of the physics. Only the direction of its results can be compared.

The plan was made before the runs. The primary measure is the area under the curve of success on test goals: the mean
over members and over the evaluations of the run. A difference of {DIFFERENCE} matters. Success is success at any step
of an episode. The unit is the replica; intervals are 95% t-intervals over replicas, differences and p values those of
the permutation test of [statistics](../statistics.md), corrected by Holm over the comparisons of a task. *Detectable*
is the smallest true difference that is found with a probability of 80% at the measured spread. The other measures are
secondary. All replicas have the same goals, so the intervals do not include the choice of goals. The steps of the
pooled learner are divided by the number of members.
"""


def page(size: Size, docs: Path) -> None:
    """Write the tables between the markers of the page, whose other text is kept, and the figure."""
    path = docs / PAGE
    docs.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    parts = {task: (name, of_task(task, size)) for task, (name, _) in TASKS.items()}
    parts["corrupted"] = ("A corrupted member (reach-v3)", [])
    parts["sizes"] = ("Larger groups (reach-v3)", [])
    if any(Experiment("reach", name, size).done for name in CORRUPTED):
        about = "Member 0 gives away new random networks at every exchange. It does not count in success and return."
        parts["corrupted"] = (parts["corrupted"][0], [about, "", *corrupted(size)])
    if any(Experiment("reach", name, size).done for name in SIZES):
        parts["sizes"] = (parts["sizes"][0], sizes(size))
    for name, (title, lines) in parts.items():
        if len(lines) > 2:
            text = text if f"<!-- {name} -->" in text else f"{text.rstrip()}\n\n## {title}\n"
            text = with_part(text, name, lines)
    image = docs / "fedformer.png"
    if any(Experiment(task, name, size).done for task in TASKS for name in METHODS):
        figure(size, image)
        if image.name not in text:
            text = f"{text.rstrip()}\n\n## Over time\n\n![Success on train and test goals over steps]({image.name})\n"
    path.write_text(text, encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fedformer_results", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", default=["*"], help="runs, or patterns (default: all)")
    parser.add_argument("--quick", action="store_true", help="few steps, in experiments/fedformer-quick")
    parser.add_argument("--docs", type=Path, help="folder of the page (default: docs/results; quick: the runs' folder)")
    args = parser.parse_intermixed_args(words)
    size = QUICK if args.quick else FULL
    if args.command == "run":
        make(size, args.names, parser.error)
    else:
        page(size, args.docs or (size.folder if args.quick else Path("docs/results")))


if __name__ == "__main__":
    main()
