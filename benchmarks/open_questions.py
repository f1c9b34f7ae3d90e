"""Runs and results for the paper's open questions (the presets open-...).

    python -m benchmarks.open_questions run [--jobs 1] [--only NAME ...] [--replicas 3] [--scale 1.0]
    python -m benchmarks.open_questions table     print tables from the run folders and write them to tables.md there
    python -m benchmarks.open_questions page      write tables and figures to docs/results/open-questions.md

`run` trains missing runs, each in a separate process. Finished runs are kept; interrupted runs are restarted. NAME is
the name of a run folder, such as size-cartpole-8, or a pattern, such as 'change-*'. `--scale` multiplies the steps of
every run and the step of a change. Every group has a baseline of single agents (NAME-single, with `--sharing none`);
groups of different sizes share a baseline of eight agents. benchmarks/open_numbers.py computes the statistics.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import open_numbers as numbers
from benchmarks import results_numbers, runs
from benchmarks.open_numbers import Part
from benchmarks.trust_counts import hours
from benchmarks.trust_probes import interval, with_part
from peerage.config import Config
from peerage.config.file import load
from peerage.config.presets import describe
from peerage.statistics.summaries import spread

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("experiments/open-questions")
PAGE = Path("docs/results/open-questions.md")
SIZES = (2, 4, 8, 16, 32)
QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "size": (
        "Does the size of the group matter?",
        tuple(f"size-{task}-{n}" for task in ("room-v6", "cartpole", "lunarlander") for n in SIZES),
    ),
    "change": (
        "What if rewards, goals or physics change during the training?",
        ("change-goals-room", "change-reward-room", "change-physics-cartpole", "change-physics-lunarlander"),
    ),
    "mixed": (
        "Can different algorithms and networks learn from each other?",
        ("mixed-algorithms-pendulum", "mixed-networks-cartpole"),
    ),
    "frozen": (
        "Do novices benefit from an expert that does not learn?",
        ("frozen-expert-lunarlander", "frozen-members-room"),
    ),
    "hard": (
        "Does it help with sparse rewards, or with many observations and actions?",
        ("sparse-hallway", "sparse-mountaincar", "highdim-humanoid"),
    ),
}
SKELETON = """# The open questions: first answers

First answers to the paper's open questions (arXiv 2312.09950), from short runs with a few replicas. The runs are
trained by `python -m benchmarks.open_questions run`; `… page` writes this page from the run folders.

"Alone" is the return of greedy episodes without advisers, averaged over members. The unit of statistics is the replica
of a group: tables show the mean and the 95% t-interval over replicas. A group is compared with single agents with the
same seeds (`--sharing none`), paired by replica, by the difference of interquartile means (with three replicas: of
means), as on [the page of comparisons](comparisons.md). "Perhaps" is the result of the single comparison, without the
correction for the number of comparisons on that page. "No significant difference" does not mean that there is no
difference, only that these replicas do not show one. "Better advisers" is the share of choices (%) that follow an
adviser whose last evaluation was better than the asker's, and "uniform choices" is the expected share for uniform
choices; both are approximate, because evaluations have few episodes. With a scripted expert, it is the share of
choices that follow the expert. Queries are the suggestions that a member requests from others per step. An interval
misses the true value in 5% of cases, so some of the many comparisons are wrong.
"""


@dataclass(frozen=True)
class Experiment(runs.Experiment):
    root = FOLDER
    preset: str
    """The preset's name without `open-`."""
    single: bool

    @property
    def name(self) -> str:
        if not self.single:
            return self.preset
        task = self.preset.rsplit("-", 1)[0] if self.preset.startswith("size-") else self.preset
        return f"{task}-single"

    @property
    def counterpart(self) -> Experiment:
        task = self.preset.rsplit("-", 1)[0]
        return Experiment(f"{task}-8" if self.preset.startswith("size-") else self.preset, True)

    def settings(self, replicas: int, scale: float) -> list[str]:
        """The flags of `peerage train`, without those of the run folder."""
        config = load(f"open-{self.preset}")
        evaluations = config.steps // config.run.eval_freq
        every = max(1, round(scale * config.run.eval_freq))
        steps = every * evaluations
        flags = ["--config", f"open-{self.preset}", "--replicas", str(replicas), "--total-timesteps", str(steps)]
        log_freq = max(1, every * config.run.log_freq // config.run.eval_freq)
        flags += ["--eval-freq", str(every), "--log-freq", str(log_freq)]
        if "change_at" in config.env_args:
            flags += ["--env-args", f"change_at={steps * config.env_args['change_at'] // config.steps}"]
        if self.preset == "frozen-members-room":
            flags += ["--load-paths", f"{PRETRAIN.folder}:0", "none", "none", "none"]
        if self.single:
            flags += ["--sharing", "none"]
            if config.advisers:
                flags += ["--advisers"]
        return flags

    def command(self, replicas: int, scale: float) -> list[str]:
        return runs.command(self.settings(replicas, scale), self.folder)


PRETRAIN = Experiment("pretrain-room", False)  # always one replica of full length


def experiments_of(question: str) -> list[Experiment]:
    """The groups of a question and their baselines."""
    groups = [Experiment(preset, False) for preset in QUESTIONS[question][1]]
    return list(dict.fromkeys(e for group in groups for e in (group, group.counterpart)))


EXPERIMENTS = [e for question in QUESTIONS for e in experiments_of(question)]


def train(experiment: Experiment, replicas: int, scale: float) -> tuple[bool, str]:
    settings = experiment.settings(replicas, scale)
    return runs.train(settings, experiment.folder, (int(settings[3]), int(settings[5])))


# --- results --------------------------------------------------------------------------------------------------


@lru_cache
def read(folder: Path) -> list[Part]:
    return numbers.read(folder)


def verdict(label: str, group: np.ndarray, singles: np.ndarray) -> str:
    """A sentence that compares the return alone at the end `[R]` of a group with single agents with the same seeds, by
    the rules of docs/results/comparisons.md."""
    found = results_numbers.against(group, singles)
    word = found.verdict()
    if word == "too few replicas":
        return f"{label}: {found.difference.n} replicas are too few for an interval."
    if word == "the same":
        return f"{label}: the group and single agents are the same in every replica."
    than = "from" if word == results_numbers.UNSEEN else "than"
    return f"{label}: {word} {than} single agents, {results_numbers.in_words(found.difference)}."


def about_trust(label: str, part: Part) -> str:
    """A sentence on whether better advisers were chosen more often than with uniform choices."""
    gain = 100 * (part.better - part.uniform)
    if np.isnan(gain).any():
        return f"{label}: no choices were made."
    s = spread(gain)
    said = f"{label}: the share of choices for better advisers minus that of uniform choices is {interval(gain)} points"
    if s.replicas < 3 or s.low <= 0 <= s.high:
        return f"{said}: no significant difference."
    return f"{said}: {'more' if s.mean > 0 else 'less'} than with uniform choices."


def rows(question: str) -> tuple[list[str], list[str]]:
    """A Markdown table of the finished runs of a question, and a sentence for each comparison."""
    changes = question == "change"
    moments = ["before the change", "right after it", "at the end"] if changes else ["at the end"]
    heads = [f"alone {m}" for m in moments] + [f"single agents {m}" for m in moments]
    heads += ["better advisers", "uniform choices", "queries per step"]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    said = []
    for preset in QUESTIONS[question][1]:
        group = Experiment(preset, False)
        if not (group.done and group.counterpart.done):
            continue
        singles = {part.label: part for part in read(group.counterpart.folder)}
        for part in read(group.folder):
            label = f"{preset}{', ' + part.label if part.label else ''}"
            single = singles[part.label]
            if part.steps != single.steps or len(part.end) != len(single.end):
                raise SystemExit(f"{group.folder} and {group.counterpart.folder} differ in replicas or steps")
            cells = [interval(values) for p in (part, single) for values in p.moments(changes)]
            cells += [interval(100 * part.better), interval(100 * part.uniform), interval(part.queries, 2)]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
            said += [f"- {verdict(label, part.end, single.end)}", f"- {about_trust(label, part)}"]
    return (lines, said) if said else ([], [])


def panels(question: str) -> dict[str, list[tuple[str, Experiment]]]:
    """Title -> curves, for the figure of a question."""
    found: dict[str, list[tuple[str, Experiment]]] = {}
    for preset in QUESTIONS[question][1]:
        group = Experiment(preset, False)
        if question == "size":
            task, size = preset.removeprefix("size-").rsplit("-", 1)
            found.setdefault(task, [("single agents", group.counterpart)]).append((f"{size} members", group))
        else:
            found[preset] = [("single agents", group.counterpart), ("group", group)]
    return found


def figure(question: str) -> str:
    """Plot the return alone over time, one panel per task; returns the Markdown of the image."""
    found = panels(question)
    drawn, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.8), squeeze=False, layout="constrained")
    for (title, curves), panel in zip(found.items(), axes[0]):
        tints = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, max(1, len(curves) - 1)))
        for (label, experiment), colour in zip(curves, ["#6B705C", *tints]):
            if not experiment.done:
                continue
            curve = read(experiment.folder)[0].curve  # the first part contains all learners
            s = spread(curve.to_numpy())
            style = "--" if experiment.single else "-"
            panel.plot(curve.index / 1000, s.mean, style, color=colour, label=label, linewidth=1.6)
            if len(curves) == 2:
                panel.fill_between(curve.index / 1000, s.low, s.high, color=colour, alpha=0.12, linewidth=0)
            if (at := read(experiment.folder)[0].change_at) is not None and experiment.single:
                panel.axvline(at / 1000, color="0.5", linewidth=1, linestyle=":")
        panel.set(title=title, xlabel="thousands of steps of every member")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel("return alone")
    path = PAGE.parent / f"open-questions-{question}.png"
    drawn.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(drawn)
    return f"![{QUESTIONS[question][0]}]({path.name})"


def table(question: str) -> list[str]:
    lines, said = rows(question)
    return [f"## {QUESTIONS[question][0]}", "", *lines, "", *said] if lines else []


# --- the page -------------------------------------------------------------------------------------------------


def part_of_page(question: str) -> list[str]:
    """The generated part of the page for a question."""
    presets = QUESTIONS[question][1]
    experiments = experiments_of(question)
    configs: dict[str, Config] = {e.name: load(e.folder / "config.yaml") for e in experiments}
    if len({config.replicas for config in configs.values()}) > 1:
        raise SystemExit(f"the runs of {question!r} differ in replicas: remove the wrong ones")
    lines, said = rows(question)
    lengths = [f"- `open-{name}`: {describe(f'open-{name}')}; {configs[name].steps:,} steps" for name in presets]
    size = f"{configs[presets[0]].replicas} replicas, {len(experiments)} runs, "
    spent = sum(hours(e.folder) for e in experiments)
    return [f"{size}{spent:.2g} hours in total, one thread per run.", "", figure(question), "", *lines, "", *said, "",
            *lengths]  # fmt: skip


def page() -> None:
    """Update the part between the markers for every question whose runs are all finished; keep the other text."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else SKELETON
    whole = 0
    for question, (title, _) in QUESTIONS.items():
        if names := [e.name for e in experiments_of(question) if not e.done]:
            print(f"{question} is not updated, missing runs: {', '.join(names)}")
            continue
        whole += 1
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        if f"<!-- {question} -->" not in text:
            text = f"{text.rstrip()}\n\n## {title}\n"
        text = with_part(text, question, part_of_page(question))
    if not whole:
        raise SystemExit("no question has all its runs, so nothing was written")
    PAGE.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_questions", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train missing runs")
    run.add_argument("--jobs", type=int, default=1, help="parallel runs")
    run.add_argument("--only", nargs="+", metavar="NAME", default=["*"], help="names of runs, or patterns")
    run.add_argument("--replicas", type=int, default=3)
    run.add_argument("--scale", type=float, default=1.0, help="factor for the steps of every run")
    commands.add_parser("table", help="print tables from the run folders")
    commands.add_parser("page", help="write tables and figures to the docs")
    args = parser.parse_args(arguments)
    if args.command == "page":
        return page()
    if args.command == "table":
        text = "\n\n".join("\n".join(lines) for question in QUESTIONS if (lines := table(question)))
        if not text:
            raise SystemExit(f"no group and its baseline in {FOLDER} are finished yet")
        (FOLDER / "tables.md").write_text(text + "\n", encoding="utf-8")
        return print(text)
    if args.jobs < 1 or args.replicas < 1 or not args.scale > 0:
        parser.error("--jobs, --replicas and --scale must be above 0")
    chosen = runs.chosen(EXPERIMENTS, args.only, parser.error)
    if any(e.preset == "frozen-members-room" and not e.done for e in chosen):
        well, line = train(PRETRAIN, 1, 1.0)
        print(line, flush=True)
        if not well:
            raise SystemExit("the expert of frozen-members-room could not be trained")
    runs.train_all(chosen, args.jobs, lambda e: train(e, args.replicas, args.scale))


if __name__ == "__main__":
    main()
