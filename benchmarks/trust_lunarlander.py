"""Compares kinds of trust on LunarLander-v3: four members, 100,000 steps, the published learners' settings.

    python -m benchmarks.trust_lunarlander run [--only NAME ...] [--replicas 3]
    python -m benchmarks.trust_lunarlander page     write the part of docs/results/transformer-trust.md

There is no expert: four members learn from scratch. The runs differ only in their use of advice and the kind of trust.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import runs
from benchmarks import trust_counts as counts
from benchmarks.trust_probes import PAGE, SKELETON, interval, with_part
from peerage.config.file import load
from peerage.runs.tables import read_evaluations
from peerage.statistics.summaries import spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("experiments/trust-lunarlander")
STEPS = 100_000
RUNS = {  # flags in addition to `--config seed-td-lunarlander`
    "single": "--sharing none",
    "td": "",
    "hybrid": f"--trust hybrid --use-phase-aware --warmup-steps {STEPS}",
    "in-context": "--trust in-context --choice standardised --temperature 0.1 --no-use-critic --no-use-agent-values "
    "--no-follow-across-episodes",
}
LABELS = {
    "single": "every member alone", "td": "td, the published settings",
    "hybrid": "hybrid, the published settings, causal wiring", "in-context": "in-context (the default)",
}  # fmt: skip
COLOURS = {"single": "#6B705C", "td": "#56B4E9", "hybrid": "#CC79A7", "in-context": "#009E73"}


def run(names: list[str], replicas: int) -> None:
    for name in names:
        size = f"--replicas {replicas} --total-timesteps {STEPS} --eval-freq 10000 --n-eval-episodes 5"
        settings = f"--config seed-td-lunarlander {RUNS[name]} {size} --checkpoint-freq 0".split()
        well, line = runs.train(settings, FOLDER / name, (replicas, STEPS))
        print(line, flush=True)
        if not well:
            raise SystemExit(1)


def returns(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps after 0, and the mean evaluation return over the members of each replica `[R, steps]`."""
    table = read_evaluations(FOLDER / name)
    table = table[table["step"] > 0]
    wide = table.groupby(["replica", "step"])["return"].mean().unstack("step")
    return wide.columns.to_numpy(), wide.to_numpy()


def page() -> None:
    missing = [name for name in RUNS if not (FOLDER / name / "DONE").exists()]
    if missing:
        raise SystemExit(f"missing runs: {', '.join(missing)}")
    configs = [load(FOLDER / name / "config.yaml") for name in RUNS]
    if len({(c.replicas, c.steps) for c in configs}) > 1:
        raise SystemExit("the runs differ in replicas or steps: remove the wrong ones")
    config = configs[0]
    hours = sum(counts.hours(FOLDER / name) for name in RUNS)
    drawn, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    rows: list[str] = []
    means: list[float] = []  # determine the axis; the bands of three replicas are too wide
    for name in RUNS:
        steps, values = returns(name)
        s = spread(values.T)
        axes.plot(steps / 1000, s.mean, color=COLOURS[name], label=LABELS[name], linewidth=1.5)
        axes.fill_between(steps / 1000, s.low, s.high, color=COLOURS[name], alpha=0.12, linewidth=0)
        means += s.mean.tolist()
        half = values[:, steps >= STEPS / 2].mean(axis=1)
        rows.append(
            f"| {LABELS[name]} | {interval(values[:, -1])} | {interval(half)} | {interval(values.mean(axis=1))} | "
            f"{counts.hours(FOLDER / name):.2g} |"
        )
    margin = 0.5 * float(np.ptp(means))
    axes.set_ylim(min(means) - margin, max(means) + margin)
    axes.set(xlabel="thousands of steps of every member", ylabel="return alone")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    path = PAGE.parent / "transformer-trust-lunarlander.png"
    drawn.savefig(path, dpi=110, metadata={"Software": None})
    flags = [f"- {LABELS[name]}: `--config seed-td-lunarlander {flags}`" for name, flags in RUNS.items()]
    lines = [
        f"{config.replicas} replicas of 4 DQN members, {STEPS:,} steps each, the published learners' settings; "
        f"{hours:.2g} hours in total, one thread per run. Greedy return of every member without advisers, averaged "
        "over the members of a replica; mean and 95% t-interval over replicas.",
        "",
        f"![Return alone over time]({path.name})",
        "",
        "| | at the end | second half of the run | whole run | hours |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        *flags,
    ]
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else SKELETON
    PAGE.write_text(with_part(text, "lunarlander-100k", lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust_lunarlander", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--replicas", type=int, default=3)
    args = parser.parse_args()
    if args.command == "run":
        run(args.only, args.replicas)
    else:
        page()


if __name__ == "__main__":
    main()
