"""Compares kinds of trust on the probes (the presets probe-...).

    python -m benchmarks.trust_probes run [--jobs 1|2] [--only NAME ...] [--replicas 5] [--steps 16000]
    python -m benchmarks.trust_probes table     print tables from the run folders and write them to tables.md there
    python -m benchmarks.trust_probes page      write tables and figures to docs/results/transformer-trust.md

`run` trains missing runs, each in a separate process. Finished runs are kept; interrupted runs are restarted. NAME is
the name of a run folder, such as room-turncoat-td, or a pattern, such as 'room-*'. benchmarks/trust_counts.py computes
the statistics.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import runs
from benchmarks import trust_counts as counts
from benchmarks.trust_counts import Replica
from peerage.config.file import load
from peerage.statistics.summaries import spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("experiments/trust-probes")
PAGE = Path("docs/results/transformer-trust.md")
METHOD = Path("docs/methods/in-context-trust.md")  # contains the ablation
SKELETON = "# Transformer trust: results\n\n## The probes\n"
ENVS = {"room": "Room-v21", "lunarlander": "LunarLander-v3"}
PROBES = {
    "plain": "an expert, an adversary and a random adviser",
    "turncoat": "an expert that becomes an adversary, and the reverse",
    "regional": "two advisers, each an expert in one region, and an adversary",
}
TD = "--trust td --choice standardised --no-use-agent-values"
IN_CONTEXT = "--trust in-context --choice standardised --no-use-agent-values"
# The published settings (no advantage, alpha 0.95, 100 transitions, a warm-up as long as the run) with causal wiring
SEED = (
    "--trust hybrid --choice paper --use-phase-aware --attention-lr 1e-5 --attention-update-freq 20 "
    "--sequence-length 50 --warmup-steps {steps} --temperature 1.0 --lr 0.95 --trust-buffer-size 100 "
    "--no-use-advantage --follow-across-episodes"
)
VARIANTS = {  # flags in addition to `--config probe-ENV-PROBE`
    "uniform": "--choice uniform",
    "paper": "--trust td --choice paper --use-trust --use-agent-values --use-critic",
    "td": f"{TD} --use-trust --no-use-critic",
    "critic": f"{TD} --no-use-trust --use-critic",
    "td-critic": f"{TD} --use-trust --use-critic",
    "hybrid": SEED,
    "in-context": f"{IN_CONTEXT} --use-trust --no-use-critic",
    "in-context-critic": f"{IN_CONTEXT} --use-trust --use-critic",
}
ABLATIONS = {  # variants of in-context trust, on Room only
    "in-context-kernel": f"{IN_CONTEXT} --use-trust --no-use-critic --context-estimator kernel",
    "in-context-transformer": f"{IN_CONTEXT} --use-trust --no-use-critic --context-estimator transformer",
    "in-context-blind": f"{IN_CONTEXT} --use-trust --no-use-critic --no-context-critics",
    "in-context-names": f"{IN_CONTEXT} --use-trust --no-use-critic --context-identity",
    "in-context-short": f"{IN_CONTEXT} --use-trust --no-use-critic --context-length 30",
}
LABELS = {
    "uniform": "uniform", "paper": "paper's rule", "td": "td", "critic": "critic only (Q-switch)",
    "td-critic": "td + critic", "hybrid": "hybrid, published settings",
    "in-context": "in-context",
    "in-context-critic": "in-context + critic",
    "in-context-kernel": "kernel only, no learning",
    "in-context-transformer": "transformer only",
    "in-context-blind": "without the critics' values",
    "in-context-names": "with the advisers' identities",
    "in-context-short": "context of 30 decisions",
}  # fmt: skip
COLOURS = dict(zip(VARIANTS, (
    "#E3B505", "#D55E00", "#56B4E9", "#6B705C", "#0072B2", "#CC79A7", "#009E73", "#5B2A86",
)))  # fmt: skip


@dataclass(frozen=True)
class Experiment(runs.Experiment):
    root = FOLDER
    env: str
    probe: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.env}-{self.probe}-{self.variant}"

    def settings(self, replicas: int, steps: int) -> list[str]:
        """The flags of `peerage train`, without those of the run folder."""
        flags = (VARIANTS | ABLATIONS)[self.variant].format(steps=steps).split()
        size = ["--replicas", str(replicas), "--total-timesteps", str(steps)]
        return ["--config", f"probe-{self.env}-{self.probe}", *flags, *size]

    def command(self, replicas: int, steps: int) -> list[str]:
        return runs.command(self.settings(replicas, steps), self.folder)


EXPERIMENTS = [Experiment(env, probe, variant) for env in ENVS for probe in PROBES for variant in VARIANTS]
PARTS = [Experiment("room", probe, variant) for probe in PROBES for variant in ("in-context", *ABLATIONS)]
ALL = EXPERIMENTS + [e for e in PARTS if e not in EXPERIMENTS]


def train(experiment: Experiment, replicas: int, steps: int) -> tuple[bool, str]:
    return runs.train(experiment.settings(replicas, steps), experiment.folder, (replicas, steps))


# --- tables ---------------------------------------------------------------------------------------------------


def interval(values: Iterable[float], digits: int = 1) -> str:
    """Mean and 95% t-interval over replicas as text; minimum and maximum with fewer than three replicas."""
    values = np.array(list(values), float)
    if np.isnan(values).any():  # a window outside the run, or a replica without a choice in it
        return "–"
    s = spread(values)
    middle, low, high = (f"{round(float(x), digits) + 0.0:.{digits}f}" for x in (s.mean, s.low, s.high))  # no -0.0
    return f"{middle} [{low}, {high}]"


def reaction_cell(replicas: list[Replica]) -> str:
    """Steps to react. Replicas that did not react are counted up to the end of the run and mentioned."""
    found = [counts.reaction(replica) for replica in replicas]
    never = sum(censored for _, censored in found)
    if never == len(found):
        return f"not within the run ({min(steps for steps, _ in found):.0f} steps and more)"
    cell = interval((steps for steps, _ in found), 0)
    return f"{cell}, at least: {never} of {len(found)} not within the run" if never else cell


Cell = Callable[[list[Replica]], str]


def mean(measure: Callable[[Replica], float], scale: float = 1) -> Cell:
    return lambda replicas: interval(scale * measure(replica) for replica in replicas)


def columns(probe: str) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """Heading -> cell, for the table of choices and the table of returns."""
    windows = {"steps 2,000–5,000": counts.early, "last 2,000": counts.late}
    if probe == "turncoat":
        windows = {"2,000 steps after the change": counts.turning, "the next 2,000 steps": counts.turned} | windows
    choices: dict[str, Cell] = {}
    worth: dict[str, Cell] = {
        "training return, whole run": mean(lambda r: counts.training(r, (0, r.steps[-1]))),
    }
    for title, window in windows.items():
        for kind in ("right", "wrong"):
            choices[f"{kind}, {title}"] = mean(lambda r, w=window, k=kind: counts.share(r, k, w(r)), 100)
        worth[f"training return, {title}"] = mean(lambda r, w=window: counts.training(r, w(r)))
    if probe == "turncoat":
        choices["steps to react"] = reaction_cell
    worth["alone, at the end"] = mean(lambda r: r.alone[-1])
    worth["alone, over the run"] = mean(lambda r: float(np.mean(r.alone)))
    worth["queries per step"] = mean(lambda r: r.queries)
    return choices, worth


def table(env: str, probe: str, of: list[Experiment]) -> list[str]:
    """Two Markdown tables of the finished runs of a probe: choices (%) and returns."""
    done = {e.variant: counts.read(e.folder) for e in of if (e.env, e.probe) == (env, probe) and e.done}
    if not done:
        return []
    lines = []
    for cells in columns(probe):
        lines += ["| | " + " | ".join(cells) + " |", "| --- |" + " --- |" * len(cells)]
        for variant, replicas in done.items():
            row = " | ".join(cell(replicas) for cell in cells.values())
            lines.append(f"| {LABELS[variant]} | {row} |")
        lines.append("")
    return lines[:-1]


def against_baseline(env: str, probe: str) -> list[str]:
    """In-context trust compared with td + critic: the difference in training return over the whole run, paired by
    replica (pairs share the order of advisers, the step of the change and environment seeds), also relative to the
    baseline's mean."""
    mine, other = (Experiment(env, probe, variant) for variant in ("in-context", "td-critic"))
    if not (mine.done and other.done):
        return []
    a, b = (
        np.array([counts.training(r, (0, r.steps[-1])) for r in counts.read(e.folder)]) for e in (mine, other)
    )
    line = f"In-context minus td + critic, training return over the whole run, paired by replica: {interval(a - b)}"
    if env == "room":  # in other environments, a return of zero has no meaning
        line += f", {100 * (a.mean() - b.mean()) / b.mean():+.0f}% of the baseline's mean"
    return ["", line + "."]


def tables(env: str, of: list[Experiment]) -> list[str]:
    lines = []
    for probe, title in PROBES.items():
        if rows := table(env, probe, of):
            paired = against_baseline(env, probe) if of is EXPERIMENTS else []
            lines += [f"### {ENVS[env]}, {probe}: {title}", "", *rows, *paired, ""]
    return lines[:-1]


# --- figures --------------------------------------------------------------------------------------------------


def figure(env: str) -> str:
    """Plot right and wrong shares and training return over time, one column per probe; returns the Markdown of the
    image."""
    rows = {
        "right (% of choices)": (500, lambda r, w: 100 * counts.share(r, "right", w)),
        "wrong (% of choices)": (500, lambda r, w: 100 * counts.share(r, "wrong", w)),
        "training return": (1000, counts.training),
    }
    drawn, panels = plt.subplots(
        len(rows), len(PROBES), figsize=(12, 9), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    means: list[float] = []  # means of returns determine the axis; their bands are too wide
    for column, probe in enumerate(PROBES):
        for e in EXPERIMENTS:
            if (e.env, e.probe) != (env, probe) or not e.done:
                continue
            replicas = counts.read(e.folder)
            for (width, measure), axes in zip(rows.values(), panels[:, column]):
                x, values = counts.over_time(replicas, measure, width)
                s = spread(values)
                if measure is counts.training:
                    means += s.mean[~np.isnan(s.mean)].tolist()
                axes.plot(x / 1000, s.mean, color=COLOURS[e.variant], label=LABELS[e.variant], linewidth=1.5)
                axes.fill_between(x / 1000, s.low, s.high, color=COLOURS[e.variant], alpha=0.12, linewidth=0)
        panels[0, column].set_title(probe)
        turned = probe == "turncoat"
        panels[-1, column].set_xlabel("thousands of steps " + ("since the change" if turned else "of every member"))
        for axes in panels[:, column]:
            axes.spines[["top", "right"]].set_visible(False)
            if turned:
                axes.axvline(0, color="0.5", linewidth=1, linestyle=":")
    for label, axes in zip(rows, panels[:, 0]):
        axes.set_ylabel(label)
        if "%" in label:
            axes.set_ylim(-2, 102)  # t-intervals can exceed 0 to 100
        elif means:
            axes.set_ylim(min(means) - 0.2 * np.ptp(means), max(means) + 0.2 * np.ptp(means))
    named: dict[str, object] = {}
    for axes in panels[0]:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            named.setdefault(label, handle)
    drawn.legend(list(named.values()), list(named), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    path = PAGE.parent / f"transformer-trust-probes-{env}.png"
    drawn.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(drawn)
    return f"![{ENVS[env]}: right and wrong choices and training return over time]({path.name})"


# --- the page -------------------------------------------------------------------------------------------------


def part(env: str) -> list[str]:
    """The generated part of the page for the probes of an environment."""
    experiments = [e for e in EXPERIMENTS if e.env == env and e.done]
    hours = sum(counts.hours(e.folder) for e in experiments)
    configs = [load(e.folder / "config.yaml") for e in experiments]
    if len({(c.replicas, c.steps) for c in configs}) > 1:
        raise SystemExit(f"the runs on {ENVS[env]} differ in replicas or steps: remove the wrong ones")
    config = configs[0]
    size = f"{config.replicas} replicas of {config.n_peers} learners, {config.steps:,} steps each"
    flags = [f"- {LABELS[v]} (`{v}`): `{text.format(steps=config.steps)}`" for v, text in VARIANTS.items()]
    return [
        f"{size}; {len(experiments)} runs, {hours:.2g} hours in total, one thread per run. Right and wrong are "
        "percentages of the choices; the other choices follow learners and the random adviser. Values are means with "
        "95% t-intervals over replicas.",
        "", figure(env), "", *tables(env, EXPERIMENTS), "",
        f"With `--config probe-{env}-{{{','.join(PROBES)}}}` and", "", *flags,
    ]  # fmt: skip


def page() -> None:
    """Update the part between the markers for every environment whose runs are all finished; keep the other text."""
    missing = {env: [e.name for e in EXPERIMENTS if e.env == env and not e.done] for env in ENVS}
    whole = [env for env, names in missing.items() if not names]
    for env, names in missing.items():
        if names:  # an incomplete part must not replace a complete one
            print(f"{ENVS[env]} is not updated, missing runs: {', '.join(names)}")
    if all(e.done for e in PARTS):
        rows = [f"- {LABELS[v]} (`{v}`): `{text}`" for v, text in ABLATIONS.items()]
        lines = ["As in the probes of [docs/results/transformer-trust.md](../results/transformer-trust.md):", "", *rows]
        text = with_part(METHOD.read_text(encoding="utf-8"), "ablation", [*lines, "", *tables("room", PARTS)])
        METHOD.write_text(text, encoding="utf-8")
    if not whole:
        raise SystemExit("no environment has all its runs, so nothing was written")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else SKELETON
    for env in whole:
        text = with_part(text, f"probes-{env}", part(env))
    PAGE.write_text(text, encoding="utf-8")


def with_part(text: str, name: str, lines: list[str]) -> str:
    """`text` with `lines` between the markers of `name`; missing markers are appended to the text."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, rest = text.split(begin)
    return before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust_probes", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train missing runs")
    run.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="parallel runs")
    run.add_argument("--only", nargs="+", metavar="NAME", default=["*"], help="names of runs, or patterns")
    run.add_argument("--replicas", type=int, default=5)
    run.add_argument("--steps", type=int, default=16_000)
    commands.add_parser("table", help="print tables from the run folders")
    commands.add_parser("page", help="write tables and figures to the docs")
    args = parser.parse_args()
    if args.command == "page":
        page()
    elif args.command == "table":
        text = "\n\n".join("\n".join(lines) for env in ENVS if (lines := tables(env, ALL)))
        if not text:
            raise SystemExit(f"no run in {FOLDER} is finished yet")
        (FOLDER / "tables.md").write_text(text + "\n", encoding="utf-8")
        print(text)
    else:
        chosen = runs.chosen(ALL, args.only, parser.error)
        runs.train_all(chosen, args.jobs, lambda e: train(e, args.replicas, args.steps))


if __name__ == "__main__":
    main()
