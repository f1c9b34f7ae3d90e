"""The Python interface: what the command line does, and environments and advisers may also be Python objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from peerage import session
from peerage.config import Config, with_settings
from peerage.config.adviser_words import checkpoint_word
from peerage.config.file import load as load_config
from peerage.config.file import validate
from peerage.envs.actions import ActionConverter
from peerage.envs.make import Spec
from peerage.envs.vector import Maker
from peerage.errors import UserError
from peerage.evaluation import video
from peerage.learners.defaults import refuse_unused_settings
from peerage.reports.report import write_report
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import EvaluationRow, Listener
from peerage.runs.tables import read_advice, read_evaluations, read_metrics
from peerage.sharing.adviser import Suggests
from peerage.training.restore import restore

if TYPE_CHECKING:
    import pandas as pd


def train(
    env: str | Maker | None = None,
    *,
    advisers: Sequence[str | Suggests] | None = None,
    config: Config | str | Path | None = None,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Train a group and return its run.

    Args:
        env: a Gymnasium id, `module:function`, or a function or class that makes an environment. If it can be imported,
            it is recorded as `module:function`; otherwise (a lambda, a local function, one of the main program)
            `resume`, `evaluate` and `policy` need it again: `peerage.load(folder, env=...)`.
        advisers: names as on the command line, or objects with a `suggest` method
            (`peerage.Adviser`).
        config: the configuration to start from: a `Config`, a YAML file, a preset or a run folder.
        listeners: objects that receive the log of the training (`peerage.runs.Listener`).
        settings: fields of `peerage.config` by name (`n_peers=4, learning_rate=1e-3, choice="paper"`), which override
            `config`; one value for all members, or a tuple with one value per member.

    Raises UserError for an invalid setting, before anything is written.
    """
    start = config if isinstance(config, Config) else Config() if config is None else load_config(config)
    if isinstance(advisers, str):
        advisers = [advisers]
    if isinstance(env, str):
        settings["env"], env = env, None
    if advisers is not None and all(isinstance(a, str) for a in advisers):
        settings["advisers"], advisers = tuple(advisers), None
    checked = validate(with_settings(start, settings))
    refuse_unused_settings(checked, settings)
    folder = session.run_training(checked, env=env, advisers=advisers, listeners=listeners)
    return Run(folder, env=env, advisers=advisers)


def resume(
    run: Run | str | Path,
    *,
    total_timesteps: int | None = None,
    stretch_schedules: bool = False,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Continue a run from its newest checkpoint.

    Args:
        run: a `Run`, or its folder.
        total_timesteps: extends the run, finished or not, to this number of steps per member. By default an interrupted
            run is continued to the length that it was started with.
        stretch_schedules: extend the run although schedules depend on its length, such as DQN's exploration; from now
            on they are those of the new length. Without it, such a run is refused.
        listeners: as in `train`.
        settings: fields of `RunConfig` that do not affect the training, `device` and `threads`.

    Raises UserError, before anything is written.
    """
    run = run if isinstance(run, Run) else load(run)
    objects: dict[str, Any] = {"env": run.env, "advisers": run.advisers, "listeners": listeners}
    longer: dict[str, Any] = {"total_timesteps": total_timesteps, "stretch_schedules": stretch_schedules}
    session.resume(run.folder, **objects, **longer, **settings)
    return run


def load(
    folder: str | Path, *, env: Maker | None = None, advisers: Sequence[str | Suggests] | None = None
) -> Run:
    """The run in `folder`. Raises UserError if there is none.

    A run that was trained with an environment or advisers given as objects needs the same objects to act, evaluate or
    resume.
    """
    return Run(RunFolder.open(folder).path, env=env, advisers=advisers)


@dataclass(frozen=True)
class Run:
    """A training on disk. The tables are pandas DataFrames with the columns of docs/run-folder.md."""

    folder: Path
    env: Maker | None = None
    advisers: Sequence[str | Suggests] | None = None

    @property
    def evaluations(self) -> pd.DataFrame:
        """Every evaluation episode: step, replica, member, episode, return, length, success, mode (`alone` or
        `together`, see `RunConfig.eval_modes`)."""
        return read_evaluations(self.folder, mode=None)

    @property
    def metrics(self) -> pd.DataFrame:
        """The training metrics: step, replica, member, name, value."""
        return read_metrics(self.folder)

    @property
    def advice(self) -> pd.DataFrame:
        """The advice log: a row per step, replica, asker and adviser, with the choices and the values behind them."""
        return read_advice(self.folder)

    def report(self) -> Path:
        """Draw the figures and write report.html; returns its path."""
        return write_report(self.folder)

    def evaluate(self, episodes: int = 10, *, checkpoint: str | int = "") -> list[EvaluationRow]:
        """Evaluate the newest checkpoint: rows of (replica, member, episode, return, length, success, mode).
        `checkpoint`: `"best"` (see `RunConfig.keep_best`) or a step selects another one."""
        return session.evaluate_run(self.folder, episodes, env=self.env, which=checkpoint_word(checkpoint))

    def video(self, out: Path | str | None = None, *, member: int = 0, **settings: Any) -> Path:
        """Write a GIF of a member and return its path; by default member-N.gif in the run folder.

        `settings`: `replica`, `episodes`, `seed`, `max_frames`, `overwrite`, as of `peerage.evaluation.video.record`.
        """
        return video.record(self.folder, out, member=member, env=self.env, **settings).path

    def policy(self, member: int = 0, replica: int = 0, *, checkpoint: str | int = "") -> Policy:
        """The policy of a trained member: `action = run.policy(0)(obs)`. `checkpoint` as in `evaluate`."""
        trainer = restore(self.folder, "policies", env=self.env, which=checkpoint_word(checkpoint)).trainer
        trainer.close()
        if not (0 <= member < trainer.N and 0 <= replica < trainer.R):
            raise UserError(f"{self.folder} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
        return Policy(trainer.group, replica * trainer.N + member, trainer.spec)


@dataclass(frozen=True)
class Policy:
    """One member's policy without exploration."""

    group: Any
    row: int
    spec: Spec

    def __call__(self, obs: Any) -> Any:
        """`obs [obs]`, or a dictionary for Dict observations -> an action that the action space of the environment
        contains: an int for Discrete, counted from the `start` of the space; `[parts]` for MultiDiscrete; `[act]` for
        Box."""
        conversion = self.spec.conversion
        flat = torch.as_tensor(conversion.flat(obs), dtype=self.group.dtype, device=self.group.device)
        action = self.group.mode(flat.expand(self.group.M, 1, -1))[self.row, 0].cpu().numpy()
        converted = ActionConverter(self.spec.action_space)
        return conversion.action(converted(int(action[0]))) if self.spec.discrete else converted(action)
