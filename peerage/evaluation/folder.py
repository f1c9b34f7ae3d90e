"""Evaluation of a Decision Transformer in a folder of Hugging Face, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from peerage.envs.make import EnvMaker, Maker
from peerage.envs.vector import Step
from peerage.errors import UserError
from peerage.evaluation.evaluate import SEED, Actor, Evaluator
from peerage.interop.sequence_models import load_sequence_model
from peerage.offline.model import SequenceModel
from peerage.runs.listeners import EvaluationRow
from peerage.sharing.decision_transformer import check_spaces
from peerage.text import number


class SequenceActor(Actor):
    """A Decision Transformer acts for the target returns `targets`, one for each row."""

    def __init__(self, model: SequenceModel, targets: Sequence[float], *, clip: bool = False) -> None:
        self.model, self.targets, self.clip = model, np.asarray(targets, np.float64), clip
        self.max_steps = model.net.settings.max_ep_len

    def begin(self, n: int) -> None:
        self.contexts = self.model.contexts(n, clip=self.clip)
        self.contexts.begin(np.arange(n), self.targets)
        self.running = np.ones(n, bool)

    def act(self, obs: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(self.running)
        self.obs, self.actions = obs, np.zeros((len(obs), self.model.preprocessing.act_dim), np.float32)
        self.actions[rows] = self.contexts.act(obs[rows], rows)
        return self.actions[:, 0].astype(np.int64) if self.model.preprocessing.n_actions else self.actions

    def observe_step(self, step: Step) -> None:
        self.running &= ~step.done
        self.contexts.observe(self.obs, self.actions, step.reward, step.done)


def model_and_environment(folder: Path | str, env: Maker | None = None) -> tuple[SequenceModel, EnvMaker]:
    """The model in a folder and its environment: `env`, or the one that the folder names. Raises UserError for a folder
    without an environment, for one that the folder names as `module:function`, which would execute code that it
    chooses, and for one with other spaces."""
    model = load_sequence_model(str(folder))
    if not env and (not model.env or ":" in model.env):
        what = f"the environment {model.env[:60]}, which would execute code" if model.env else "no environment"
        raise UserError(f"{folder} names {what}: add --env ID")
    maker = EnvMaker(env) if env else EnvMaker(model.env, model.env_args)
    check_spaces(model, maker.spec(), str(folder))
    return model, maker


def _targets(
    folder: Path | str, model: SequenceModel, targets: Sequence[float], clip: bool, say: Callable[[str], None]
) -> list[float]:
    """The chosen targets, or those of the data. Raises UserError if there are none."""
    prepared = model.preprocessing
    values = list(dict.fromkeys(map(float, targets))) or prepared.targets()
    if not values:
        raise UserError(f"{folder} does not know the returns of its data: choose targets with --target-return")
    if clip:
        values = list(dict.fromkeys(min(value, prepared.largest) for value in values))
    elif targets and max(values) > prepared.largest:
        highest, known = number(max(values)), number(prepared.largest)
        say(f"the target return {highest} exceeds the largest return of the data, {known}")
    return values


def acting_for(
    folder: Path | str, model: SequenceModel, target: float | None, *, clip: bool, say: Callable[[str], None]
) -> SequenceActor:
    """The model acting for one target; by default the largest return of its data."""
    values = _targets(folder, model, [] if target is None else [target], clip, say)
    return SequenceActor(model, values[:1], clip=clip)


def evaluate_folder(
    folder: Path | str,
    env: str = "",
    episodes: int = 10,
    seed: int | None = None,
    *,
    targets: Sequence[float] = (),
    clip: bool = False,
    max_steps: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[EvaluationRow]:
    """Play `episodes` episodes for each target, all in one batch, with the same start states for every target.

    `env`: by default the environment that the folder names. `targets`: by default the largest return of the data, its
    10, 50 and 90% quantiles, and 1.2 times the largest one. `clip`: as of `RunConfig.clip_targets`. `say` receives
    messages. Raises UserError for a folder without targets, and as `model_and_environment`.
    """
    model, maker = model_and_environment(folder, env)
    values = _targets(folder, model, targets, clip, say)
    first = SEED if seed is None else seed
    seeds = [first + e for e in range(episodes)] * len(values)
    evaluator = Evaluator([maker], [seeds], max_steps=max_steps)
    try:
        played = evaluator.run(SequenceActor(model, np.repeat(values, episodes).tolist(), clip=clip)) or []
    finally:
        evaluator.close()
    if evaluator.note:
        say(evaluator.note)
    rows = []
    for _, place, e in played:
        which, episode = divmod(place, episodes)
        success, mode = None if e.success is None else float(e.success), "targets" if which else "alone"
        rows.append(EvaluationRow(0, "member-0", episode, e.return_, e.length, success, mode, values[which]))
    return rows
