"""PPO and attention: trains the runs of docs/results/ppo.md and writes the page.

    python -m benchmarks.attention_results run [NAME ...]    train missing runs, e.g. marked-attention or 'marked-*'
    python -m benchmarks.attention_results page              tables and figures from the run folders

Each run is one member with `replicas` seeds, on one thread. Networks of a task have equal numbers of parameters, within
2%: the widths of the perceptrons are chosen for it. `benchmarks.sb3_runs` trains Stable-Baselines3 in the same
environments with the same start states of evaluations.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch

from benchmarks import runs
from benchmarks.trust_probes import with_part
from peerage.envs.cues import marked
from peerage.envs.make import EnvMaker
from peerage.envs.vector import EnvGroup
from peerage.evaluation.alone import GroupActor
from peerage.evaluation.evaluate import Evaluator, episode_seeds
from peerage.evaluation.importance import importance
from peerage.runs.tables import read_evaluations
from peerage.statistics import tests
from peerage.statistics.summaries import spread
from peerage.training.restore import restore

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path("experiments/ppo")
DOCS = Path("docs/results")
CARTPOLE = "--config ppo-cartpole"
CUE = (
    "--algorithm ppo --sharing none --n-envs 8 --n-steps 36 --batch-size 288 --update-epochs 10 --learning-rate 1e-3 "
    "--ent-coef 0.01 --eval-freq 1440 --n-eval-episodes 100 --log-freq 1440 --total-timesteps 20160"
)
ASKED = f"{CUE} --env AskedCue-v0 --env-args history=9 --total-timesteps 43200 --eval-freq 4320"
BLIND = f"{CARTPOLE} --env CartPoleNoVelocities-v0 --target-kl 0.02 --ent-coef 0.005"
SHUFFLED = f"{CARTPOLE} --env CartPoleShuffled-v0 --total-timesteps 300000 --eval-freq 30000"
NOISE = f"{CARTPOLE} --env CartPoleDistractors-v0"
POOL = "--net attention --n-layers 0"


@dataclass(frozen=True)
class Experiment(runs.Experiment):
    root = FOLDER
    task: str
    way: str
    label: str
    flags: str
    replicas: int = 10

    @property
    def name(self) -> str:
        return f"{self.task}-{self.way}"

    def settings(self) -> list[str]:
        return [*self.flags.split(), "--n-peers", "1", "--replicas", str(self.replicas)]


EXPERIMENTS = [
    Experiment("cartpole", "peerage", "Peerage", CARTPOLE),
    Experiment("mountaincar", "peerage", "Peerage", "--config ppo-mountaincar"),
    Experiment("acrobot", "peerage", "Peerage", "--config ppo-acrobot"),
    Experiment("marked", "none", "no memory", f"{CUE} --env MarkedCue-v0 --net-arch 80,80"),
    Experiment("marked", "stack", "stack of steps", f"{CUE} --env MarkedCue-v0 --env-args history=9 --net-arch 56,56"),
    Experiment("marked", "attention", "attention", f"{CUE} --env MarkedCue-v0 --env-args history=9 {POOL}"),
    Experiment("plain", "none", "no memory", f"{CUE} --env PlainCue-v0 --net-arch 80,80"),
    Experiment("plain", "stack", "stack of steps", f"{CUE} --env PlainCue-v0 --env-args history=9 --net-arch 56,56"),
    Experiment("plain", "attention", "attention", f"{CUE} --env PlainCue-v0 --env-args history=9 {POOL}"),
    Experiment("asked", "stack", "stack of steps", f"{ASKED} --net-arch 42,42"),
    Experiment("asked", "attention", "attention", f"{ASKED} {POOL}"),
    Experiment("novelocities", "none", "no memory", f"{BLIND} --net-arch 80,80"),
    Experiment("novelocities", "stack", "stack of steps", f"{BLIND} --env-args history=8 --net-arch 61,61"),
    Experiment("novelocities", "attention", "attention", f"{BLIND} --env-args history=8 {POOL}"),
    Experiment("features", "mlp", "perceptron", f"{CARTPOLE} --net-arch 57,57"),
    Experiment("features", "attention", "pooling of features", f"{CARTPOLE} {POOL}"),
    Experiment("distractors", "mlp", "perceptron", f"{NOISE} --net-arch 57,57"),
    Experiment("distractors", "attention", "pooling of features", f"{NOISE} {POOL}"),
    Experiment("shuffled", "stack", "stack of steps",
               f"{SHUFFLED} --env-args orders=train history=8 --net-arch 109,109", 5),
    Experiment("shuffled", "attention", "sensors without identity",
               f"{SHUFFLED} --env-args orders=train history=8 --tokens set {POOL}", 5),
]  # fmt: skip


def train(experiment: Experiment) -> tuple[bool, str]:
    return runs.train(experiment.settings(), experiment.folder, (experiment.replicas, _steps(experiment)))


def _steps(experiment: Experiment) -> int:
    words = experiment.settings()
    if "--total-timesteps" in words:
        return int(words[words.index("--total-timesteps") + 1])
    return 100_000 if "ppo-cartpole" in words else 1_000_000


def returns(experiment: Experiment) -> pd.DataFrame:
    """Mean return of the evaluation episodes: one row per step, one column per replica."""
    return read_evaluations(experiment.folder).pivot_table(index="step", columns="replica", values="return")


# --- the page -------------------------------------------------------------------------------------------------

TASKS = {  # title, threshold of the return, reference, question
    "cartpole": ("CartPole-v1", 475.0, "sb3", "PPO beside Stable-Baselines3: RL Zoo's settings"),
    "mountaincar": ("MountainCar-v0", -120.0, "sb3", ""),
    "acrobot": ("Acrobot-v1", -90.0, "sb3", ""),
    "marked": ("MarkedCue-v0", 0.96, "stack", "Where something must be selected"),
    "plain": ("PlainCue-v0", 0.96, "stack", "Control: memory without selection"),
    "asked": ("AskedCue-v0", 0.96, "stack", "The question names the key of a value"),
    "novelocities": ("CartPoleNoVelocities-v0", 475.0, "stack", "Memory of the last steps"),
    "features": ("CartPole-v1", 475.0, "mlp", "A plain task"),
    "distractors": ("CartPoleDistractors-v0", 475.0, "mlp", "Twelve features of noise"),
    "shuffled": ("CartPoleShuffled-v0", 300.0, "stack", "Features in another order in every episode"),
}
EXTERNAL = [Experiment(t, "sb3", "Stable-Baselines3", "", 0) for t in ("cartpole", "mountaincar", "acrobot")]
UNSEEN_SEED = 5_000_000
"""First seed of the episodes with unseen orders of features."""


def interval(values: np.ndarray, digits: int) -> str:
    """Mean and 95% t-interval over replicas."""
    s = spread(values)
    return f"{float(s.mean):.{digits}f} [{float(s.low):.{digits}f}, {float(s.high):.{digits}f}]"


def parameters(experiment: Experiment) -> str:
    """Number of parameters of the actor and the critic of a member."""
    if experiment in EXTERNAL:
        return ""
    trainer = restore(experiment.folder, "policies").trainer
    found = sum(values.shape[1] for values in trainer.group.stacks[0].learner.exchanged().values())
    trainer.close()
    return f"{found:,}"


def unseen(experiment: Experiment) -> np.ndarray:
    """Mean return `[R]` with the orders of features that were not used in training."""
    trainer = restore(experiment.folder, "policies").trainer
    config = trainer.config
    maker = EnvMaker(config.env, {**config.env_args, "orders": "test"})
    evaluator = Evaluator([maker] * trainer.group.M, episode_seeds(config, 20, UNSEEN_SEED))
    played = evaluator.run(GroupActor(trainer.group)) or []
    evaluator.close()
    trainer.close()
    table = pd.DataFrame([(replica, episode.return_) for replica, _, episode in played], columns=["replica", "return"])
    return table.groupby("replica")["return"].mean().to_numpy()


def selection(experiment: Experiment, episodes: int = 2000) -> str:
    """Whether the answers in MarkedCue depend on the marked value alone, as a sentence: the share of questions whose
    answer changes if the marked value is flipped, the share whose answer stays if any other value is flipped, and the
    attention weight on the marked step."""
    trainer = restore(experiment.folder, "policies").trainer
    group, config = trainer.group, trainer.config
    envs = EnvGroup([EnvMaker(config.env, config.env_args)] * (group.M * episodes), [*range(episodes)] * group.M)
    layout, actor = envs.spec.history, GroupActor(group)
    assert layout is not None
    obs = envs.reset()
    for _ in range(layout.length - 1):
        obs = envs.step(actor.act(obs)).obs
    envs.close()

    def answers(windows: np.ndarray) -> np.ndarray:
        return actor.act(windows).reshape(group.M, episodes)

    where = marked(layout.tokens(obs)).reshape(group.M, episodes)
    changed = np.zeros((layout.length - 1, group.M, episodes), bool)
    for slot in range(layout.length - 1):
        flipped = obs.copy()
        flipped[:, slot * layout.width] *= -1
        changed[slot] = answers(flipped) != answers(obs)
    of_marked = np.take_along_axis(changed, where[None], axis=0)[0]
    of_others = (changed.sum(0) - of_marked) > 0
    windows = torch.as_tensor(obs).view(group.M, episodes, -1)
    weights = group.stacks[0].learner.net.attention(windows, rows=slice(0, None, 2))["present"]  # of the actors
    of_slots = weights[..., 0, :].mean(2).numpy()  # [M, episodes, slots], mean over heads
    on_marked = np.take_along_axis(of_slots, where[..., None], axis=2)
    trainer.close()
    changes, stays = 100 * of_marked.mean(), 100 * (1 - of_others.mean())
    return (
        f"In {episodes:,} questions per replica, flipping the marked value changes the answer in {changes:.1f}%, and "
        f"the answer stays in {stays:.1f}% whichever other value is flipped. The weight on the marked step is "
        f"{on_marked.mean():.2f} on average over heads; a uniform weight is {1 / layout.length:.2f}."
    )


def importances(of: list[Experiment]) -> list[str]:
    """A Markdown table of the importance of the features of CartPoleDistractors, relative to the sum over all features:
    the share of the four features of CartPole, and the features that a measure ranks first."""
    lines = ["| | measure | share of the four features of CartPole | first in rank |", "| --- | --- | --: | --- |"]
    sentences = []
    for e in of:
        found = [importance(e.folder, replica=r, deletion=False) for r in range(e.replicas)]
        real = np.array([not name.startswith("noise") for name in found[0].names])
        for measure in found[0].measures:
            values = np.stack([f.measures[measure] / f.measures[measure].sum() for f in found])  # [R, features]
            first = Counter(found[0].names[k] for k in values.argmax(1))
            most = ", ".join(f"{name} ({count})" for name, count in first.most_common())
            lines.append(f"| {e.label} | {measure} | {interval(100 * values[:, real].sum(1), 1)}% | {most} |")
        if "weight" in found[0].measures:
            agreement = interval(np.array([f.correlations["weight, occlusion"] for f in found]), 2)
            sentences.append(
                f"Spearman's rank correlation of weight and occlusion over the features: {agreement}. Uniform weights "
                f"would give the four features {100 * real.mean():.0f}%."
            )
    return [*lines, "", *sentences]


def table(task: str) -> list[str]:
    """A Markdown table of the finished runs of a task, and a sentence for each comparison with the reference."""
    title, threshold, reference, _ = TASKS[task]
    of = [e for e in [*EXPERIMENTS, *EXTERNAL] if e.task == task and e.done]
    digits = 3 if task in ("marked", "asked", "plain") else 1
    heads = ["replicas", "parameters", "return at the end", "area under the curve", f"steps to {threshold:g}"]
    heads += ["unseen orders"] if task == "shuffled" else []
    lines = [f"| {title} | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(heads)]
    curves = {e.way: returns(e) for e in of}
    areas = {way: tests.area_under_curve(c.index.to_numpy(), c.to_numpy().T) for way, c in curves.items()}
    for e in of:
        curve = curves[e.way]
        reached = tests.steps_to_threshold(curve.index.to_numpy(), curve.to_numpy().T, threshold)
        known = reached[np.isfinite(reached)]
        when = f"{np.median(known):,.0f} ({len(known)} of {len(reached)})" if len(known) else f"none of {len(reached)}"
        cells = [str(curve.shape[1]), parameters(e), interval(curve.iloc[-1].to_numpy(), digits)]
        cells += [interval(areas[e.way], digits), when]
        cells += [interval(unseen(e), digits)] if task == "shuffled" else []
        lines.append(f"| {e.label} | " + " | ".join(cells) + " |")
    sentences = []
    for e in of:
        if e.way != reference and reference in areas and e.way != "none":
            p = tests.permutation_p(areas[e.way], areas[reference])
            difference = tests.difference(areas[e.way], areas[reference])
            other = next(o.label for o in of if o.way == reference)
            sentences.append(
                f"Area under the curve, {e.label} against {other}: {difference.estimate:+.{digits}f} "
                f"[{difference.low:.{digits}f}, {difference.high:.{digits}f}], p = {p:.2g}."
            )
    if task == "marked" and (found := next((e for e in of if e.way == "attention"), None)):
        sentences.append(selection(found))
    if task == "distractors":
        sentences += ["", *importances(of)]
    return [*lines, "", *sentences]


def figure(tasks: list[str], path: Path) -> None:
    """Return over steps, mean and 95% t-interval over replicas; one panel for each task."""
    drawn, panels = plt.subplots(1, len(tasks), figsize=(4.3 * len(tasks), 3.4), squeeze=False, layout="constrained")
    colours = {"sb3": "#6B705C", "peerage": "#0072B2", "none": "#9A9A9A", "stack": "#E3B505", "mlp": "#E3B505",
               "attention": "#0072B2"}  # fmt: skip
    for task, panel in zip(tasks, panels[0]):
        for e in [*EXPERIMENTS, *EXTERNAL]:
            if e.task != task or not e.done:
                continue
            curve = returns(e)
            s = spread(curve.to_numpy())
            panel.plot(curve.index / 1000, s.mean, color=colours[e.way], label=e.label, linewidth=1.8)
            panel.fill_between(curve.index / 1000, s.low, s.high, color=colours[e.way], alpha=0.15, linewidth=0)
        panel.set(title=TASKS[task][0], xlabel="thousands of steps")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, loc="best")
    panels[0, 0].set_ylabel("return")
    drawn.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(drawn)


def page() -> None:
    """Write the tables between the markers of the page, whose other text is kept, and the figures."""
    path = DOCS / "ppo.md"
    text = path.read_text(encoding="utf-8")
    for task in TASKS:
        if any(e.done for e in [*EXPERIMENTS, *EXTERNAL] if e.task == task) and f"<!-- {task} -->" in text:
            text = with_part(text, task, table(task))
    path.write_text(text, encoding="utf-8")
    figure(["cartpole", "mountaincar", "acrobot"], DOCS / "ppo-stable-baselines3.png")
    figure(["marked", "asked", "plain", "novelocities"], DOCS / "ppo-memory.png")
    figure(["features", "distractors"], DOCS / "ppo-features.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_results", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", default=["*"])
    args = parser.parse_args()
    chosen = [e for e in EXPERIMENTS if any(fnmatch(e.name, pattern) for pattern in args.names)]
    if args.command == "run":
        runs.train_all(chosen, 1, train)
    else:
        page()


if __name__ == "__main__":
    main()
