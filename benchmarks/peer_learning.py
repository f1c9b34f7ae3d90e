"""The experiments of docs/results/peer-learning.md: trains the runs and writes the page from their run folders.

    python -m benchmarks.peer_learning run [NAME ...]    train missing runs (`make results`), resume interrupted ones
    python -m benchmarks.peer_learning page              write tables and curves from the run folders

Every experiment uses the default settings except those in `EXPERIMENTS`; the page lists them.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

import peerage
from peerage.statistics.summaries import by_replica, member_values, metric, spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("experiments/peer-learning")
DOCS = Path("docs/results")
OPTIMUM = 85.99  # mean return of the Room-v21 expert, by enumeration

ROOM: dict[str, Any] = {
    "env": "Room-v21", "n_peers": 2, "replicas": 5, "total_timesteps": 100_000, "gamma": 0.95, "eval_freq": 5000,
    "n_eval_episodes": 20, "trust": "td",
}  # fmt: skip
LANDER: dict[str, Any] = {
    "env": "LunarLander-v3", "n_peers": 4, "replicas": 3, "total_timesteps": 100_000, "eval_freq": 10_000,
    "trust": "td",
}  # fmt: skip
EXPERT: dict[str, Any] = {"advisers": ["expert", "adversary"], "eval_freq": 5000, "n_eval_episodes": 20}
RANDOM: dict[str, Any] = {"choice": "uniform"}
EARLY: dict[str, Any] = {
    **RANDOM, "only_follow_others": True, "follow_steps": 1, "epoch_length": 100, "max_peer_epochs": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    family: str
    label: str
    settings: dict[str, Any]


# Short test of choice rules: two orders of the fixed advisers, evaluations every 500 steps
JUDGE: dict[str, Any] = {**ROOM, "total_timesteps": 5000, "eval_freq": 500}
FORWARDS, BACKWARDS = {"advisers": ["expert", "adversary"]}, {"advisers": ["adversary", "expert"], "seed": 1}

# Trust by temporal differences, except in the family `in-context`, the default of `peerage train`
EXPERIMENTS = {
    "judge-paper": Experiment("judge", "paper's rule", {**JUDGE, **FORWARDS, "choice": "paper"}),
    "judge-paper-backwards": Experiment(
        "judge", "paper's rule, other order", {**JUDGE, **BACKWARDS, "choice": "paper"}
    ),
    "judge-ours": Experiment("judge", "our rule", {**JUDGE, **FORWARDS}),
    "judge-ours-backwards": Experiment("judge", "our rule, other order", {**JUDGE, **BACKWARDS}),
    "judge-ours-gamma": Experiment("judge", "our rule, gamma 0.99", {**JUDGE, **FORWARDS, "gamma": 0.99}),
    "room-single": Experiment("room", "single agent", {**ROOM, "n_peers": 1, "sharing": "none"}),
    "room-random": Experiment("room", "random advice", {**ROOM, **RANDOM}),
    "room-early": Experiment("room", "early advice", {**ROOM, **EARLY}),
    "room-paper": Experiment("room", "peer learning, paper's rule", {**ROOM, "choice": "paper"}),
    "room-ours": Experiment("room", "peer learning, our rule", {**ROOM}),
    "choice-paper": Experiment(
        "choice", "paper's rule", {**ROOM, **EXPERT, "total_timesteps": 50_000, "choice": "paper"}
    ),
    "choice-ours": Experiment("choice", "our rule", {**ROOM, **EXPERT, "total_timesteps": 50_000}),
    "choice-no-advantage": Experiment(
        "choice", "ours, trust in returns (no Eq. 8)",
        {**ROOM, **EXPERT, "total_timesteps": 50_000, "use_advantage": False},
    ),
    "choice-no-self": Experiment(
        "choice", "ours, without self share", {**ROOM, **EXPERT, "total_timesteps": 50_000, "self_share": 0.0}
    ),
    "choice-warm": Experiment(
        "choice", "ours, T = 0.5", {**ROOM, **EXPERT, "total_timesteps": 50_000, "temperature": 0.5}
    ),
    "choice-critic": Experiment(
        "choice", "ours, critic only",
        {**ROOM, **EXPERT, "total_timesteps": 50_000, "use_trust": False, "use_agent_values": False},
    ),
    "choice-no-critic": Experiment(
        "choice", "ours, without the critic", {**ROOM, **EXPERT, "total_timesteps": 50_000, "use_critic": False}
    ),
    "in-context-judge": Experiment(
        "in-context", "in-context trust", {**JUDGE, **FORWARDS, "trust": "in-context"}
    ),
    "in-context-judge-backwards": Experiment(
        "in-context", "in-context trust, other order", {**JUDGE, **BACKWARDS, "trust": "in-context"}
    ),
    "in-context-choice": Experiment(
        "in-context", "in-context trust, 50,000 steps",
        {**ROOM, **EXPERT, "total_timesteps": 50_000, "trust": "in-context"},
    ),
    "lander-single": Experiment("lander", "single agent", {**LANDER, "n_peers": 1, "sharing": "none"}),
    "lander-peer": Experiment("lander", "peer learning, our rule", {**LANDER}),
    "lander-paper": Experiment("lander", "peer learning, paper's rule", {**LANDER, "choice": "paper"}),
}  # fmt: skip
COLOURS = ("#CC79A7", "#009E73", "#56B4E9", "#8C6D46", "#5B2A86", "#9A9A9A")
FIXED_COLOURS = {  # equal in all figures
    "single agent": "#6B705C", "random advice": "#E3B505", "paper's rule": "#D55E00", "our rule": "#0072B2",
    "peer learning, paper's rule": "#D55E00", "peer learning, our rule": "#0072B2",
}  # fmt: skip


def train(name: str) -> str:
    """Train one experiment unless it is finished; resume it if it was interrupted."""
    folder = FOLDER / name
    if (folder / "DONE").exists():
        return f"{name}: already done"
    if (folder / "checkpoints").exists():
        peerage.resume(folder, verbose=0)
    else:
        settings = {"threads": 1, "verbose": 0, "log_dir": str(FOLDER), "exp_name": name, "overwrite": folder.exists()}
        peerage.train(**settings, **EXPERIMENTS[name].settings)
    return f"{name}: trained"


# --- the page -------------------------------------------------------------------------------------------------


def evaluations(name: str) -> pd.DataFrame:
    """Mean evaluation return: one row per step, one column per replica."""
    return by_replica(member_values(peerage.load(FOLDER / name).evaluations, "return"))


def interval(values: Any) -> str:
    """Mean and 95% t-interval over replicas."""
    s = spread(values)
    return f"{float(s.mean):.1f} [{float(s.low):.1f}, {float(s.high):.1f}]"


def curve(family: str, title: str, optimum: float | None) -> str:
    """Plot the learning curves of a family; returns the Markdown of the image."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    done = [n for n, e in EXPERIMENTS.items() if e.family == family and (FOLDER / n / "DONE").exists()]
    others, lowest = iter(COLOURS), float("inf")
    for name in done:
        table, label = evaluations(name), EXPERIMENTS[name].label
        colour = FIXED_COLOURS.get(label) or next(others)
        s = spread(table.to_numpy())
        axes.plot(table.index / 1000, s.mean, color=colour, label=label, linewidth=1.8)
        axes.fill_between(table.index / 1000, s.low, s.high, color=colour, alpha=0.12, linewidth=0)
        lowest = min(lowest, *s.mean, *s.low[1:])  # without the wide band of the untrained network
    axes.set_ylim(bottom=lowest - 0.03 * (axes.get_ylim()[1] - lowest))
    if optimum is not None:
        axes.axhline(optimum, color="0.5", linewidth=1, linestyle=":", label="optimum")
    axes.set(xlabel="steps of every member (thousands)", ylabel="return alone, greedy", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path = DOCS / f"peer-learning-{family}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return f"![{title}]({path.name})"


def final_rows(family: str, window: int = 3) -> list[str]:
    """A table: return alone over the last `window` evaluations, mean over the run, worst replica."""
    rows = ["| | return alone, last three evaluations | mean over the whole run | worst replica at the end |"]
    rows.append("| --- | --- | --- | --- |")
    for name, e in EXPERIMENTS.items():
        if e.family != family or not (FOLDER / name / "DONE").exists():
            continue
        table = evaluations(name)
        last = table.iloc[-window:].mean().to_numpy()
        rows.append(f"| {e.label} | {interval(last)} | {interval(table.mean().to_numpy())} | {last.min():.1f} |")
    return rows


def shares(name: str, low: int, high: int) -> dict[str, Any]:
    """Per replica: share of choices for the expert, for the adversary and for advisers as good as the expert, and the
    training return, in steps `low + 1` to `high`."""
    run = peerage.load(FOLDER / name)
    advice = run.advice
    advice = advice[(advice["step"] > low) & (advice["step"] <= high)]
    total = advice.groupby("replica")["chosen"].sum()
    by = {k: advice[advice["adviser"] == k].groupby("replica")["chosen"].sum() / total for k in ("expert", "adversary")}
    # A learner is as good as the expert if its last evaluation before the choice was within 5% of the optimum
    level = member_values(run.evaluations, "return").rename(columns={"member": "adviser"}).sort_values("step")
    judged = pd.merge_asof(
        advice.sort_values("step"), level, on="step", by=["replica", "adviser"], allow_exact_matches=False
    )
    good = judged[judged["value"] >= 0.95 * OPTIMUM].groupby("replica")["chosen"].sum()
    learners = good.reindex(total.index, fill_value=0) / total
    training = by_replica(metric(run.metrics, "train/return"))
    training = training[(training.index > low) & (training.index <= high)].mean()
    return {**by, "as good": by["expert"] + learners, "training": training}


def choice_rows(family: str) -> list[str]:
    """A table: shares of choices and training return in steps 2,001 to 5,000."""
    long = family in ("choice", "in-context")
    rows = [
        "| | expert | adversary | as good as the expert | training return |" + (" alone at the end |" if long else ""),
        "| --- | --- | --- | --- | --- |" + (" --- |" if long else ""),
    ]
    for name, e in EXPERIMENTS.items():
        if e.family != family or not (FOLDER / name / "DONE").exists():
            continue
        early = shares(name, 2000, 5000)
        cells = [interval(100 * early[k].to_numpy()) for k in ("expert", "adversary", "as good")]
        cells.append(interval(early["training"].to_numpy()))
        if long:
            cells.append(interval(evaluations(name).iloc[-3:].mean().to_numpy()))
        rows.append(f"| {e.label} | " + " | ".join(cells) + " |")
    return rows


def described(family: str) -> list[str]:
    rows = []
    for name, e in EXPERIMENTS.items():
        if e.family == family and (FOLDER / name / "DONE").exists():
            settings = ", ".join(f"{k}={v}" for k, v in e.settings.items())
            rows.append(f"- {e.label} (`{name}`): `{settings}`")
    return rows


def unfinished(family: str) -> list[str]:
    return [n for n, e in EXPERIMENTS.items() if e.family == family and not (FOLDER / n / "DONE").exists()]


def page() -> None:
    """Update the parts between the markers of the pages for every family whose runs are all finished; keep the other
    text."""
    DOCS.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], list[str]]] = {
        "room": lambda: [curve("room", "Room-v21, two DQN members", OPTIMUM), "", *final_rows("room")],
        "choice": lambda: [
            curve("choice", "Room-v21, two DQN members, the expert and the adversary", OPTIMUM), "",
            *choice_rows("choice"),
        ],
        "judge": lambda: choice_rows("judge"),
        "in-context": lambda: choice_rows("in-context"),
        "lander": lambda: [curve("lander", "LunarLander-v3, four DQN members", None), "", *final_rows("lander")],
    }  # fmt: skip
    parts = {}
    for family, make in makers.items():
        if missing := unfinished(family):  # an incomplete part must not replace a complete one
            print(f"the part {family} is not updated, missing runs: {', '.join(missing)}")
        else:
            parts[family] = [*make(), "", *described(family)]
    if "choice" in parts:
        parts["choice-table"] = choice_rows("choice")
        picture = FOLDER / "choice-ours" / "figures" / "follow_over_time.png"
        shutil.copy(picture, "docs/images/follow.png")  # for docs/methods/peer-learning.md
    for target in (DOCS / "peer-learning.md", DOCS / "transformer-trust.md", Path("docs/methods/peer-learning.md")):
        text = target.read_text()
        for part, lines in parts.items():
            begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
            if begin in text:
                before, rest = text.split(begin)
                text = before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1]
        target.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer_learning", description=__doc__.split("\n")[0])
    parser.add_argument("command", nargs="?", choices=("run", "page"), default="run")
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments; by default all")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in EXPERIMENTS]:
        parser.error(f"unknown experiment {unknown[0]}: use {', '.join(EXPERIMENTS)}")
    if args.command == "run":
        with ProcessPoolExecutor(2) as pool:
            for line in pool.map(train, args.names or list(EXPERIMENTS)):
                print(line, flush=True)
    page()


if __name__ == "__main__":
    main()
