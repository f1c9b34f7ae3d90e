"""Peerage from Python: what the command line does, with environments and advisers as objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peerage.config import Config, changed, parts
from peerage.config import settings as known_settings
from peerage.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from peerage.envs.vector import Maker
    from peerage.runs.listeners import EvaluationRow, Listener
    from peerage.sharing.adviser import Suggests


def train(
    env: str | Maker | None = None,
    *,
    advisers: Sequence[str | Suggests] | None = None,
    config: Config | str | Path | None = None,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Train a group and return its run.

    `env`: a Gymnasium id, or a function that makes an environment. `advisers`: names as on the command line, or
    objects with a `suggest` method (`peerage.Adviser`). `config`: what to start from, a `Config`,
    a YAML file, a preset or a run folder. `settings`: any field of `peerage.config`, by its name
    (`n_peers=4, learning_rate=1e-3, choice="paper"`); one value for all members or a tuple with one for each.

    Raises UserError, before anything is written, for whatever does not fit.
    """
    from peerage.config.file import load as load_config
    from peerage.config.file import validate
    from peerage.learners.defaults import refuse_unused_settings
    from peerage.session import run_training

    start = config if isinstance(config, Config) else Config() if config is None else load_config(config)
    if isinstance(advisers, str):
        advisers = [advisers]
    if isinstance(env, str):
        settings["env"], env = env, None
    if advisers is not None and all(isinstance(a, str) for a in advisers):
        settings["advisers"], advisers = tuple(advisers), None
    checked = validate(with_settings(start, settings))
    refuse_unused_settings(checked, settings)
    folder = run_training(checked, env=env, advisers=advisers, listeners=listeners)
    return Run(folder, env=env, advisers=advisers)


def resume(run: Run | str | Path, *, listeners: Sequence[Listener] = (), **settings: Any) -> Run:
    """Go on with an interrupted run from its newest checkpoint. `settings` are fields of `RunConfig`."""
    from peerage.session import resume as resume_run

    run = run if isinstance(run, Run) else load(run)
    resume_run(run.folder, env=run.env, advisers=run.advisers, listeners=listeners, **settings)
    return run


def load(
    folder: str | Path, *, env: Maker | None = None, advisers: Sequence[str | Suggests] | None = None
) -> Run:
    """The run in `folder`. Raises UserError if there is none.

    A run that was begun with an environment or advisers as objects needs them again to act, evaluate or resume.
    """
    from peerage.runs.folder import RunFolder

    return Run(RunFolder.open(folder).path, env=env, advisers=advisers)


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """`config` with fields replaced by name, wherever in the tree they stand; lists become tuples."""
    if "n_epochs" in settings and "total_timesteps" not in settings:
        config = replace(config, total_timesteps=None)  # what was asked for last
    known = known_settings()
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts()}
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"there is no setting {name!r}{nearest(name, list(known))}")
        setting = known[name]
        changes[setting.part][setting.name] = tuple(value) if isinstance(value, list) else value
    return changed(config, changes)


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
        from peerage.runs.tables import read_evaluations

        return read_evaluations(self.folder, mode=None)

    @property
    def metrics(self) -> pd.DataFrame:
        """step, replica, member, name, value."""
        from peerage.runs.tables import read_metrics

        return read_metrics(self.folder)

    @property
    def advice(self) -> pd.DataFrame:
        """Who chose whom, and the values behind it: a row for each step, replica, asker and adviser."""
        from peerage.runs.tables import read_advice

        return read_advice(self.folder)

    def report(self) -> Path:
        """Draw the figures and write report.html; returns its path."""
        from peerage.reports.report import write_report

        return write_report(self.folder)

    def evaluate(self, episodes: int = 10) -> list[EvaluationRow]:
        """Evaluate the newest checkpoint anew: (replica, member, episode, return, length, success)."""
        from peerage.session import evaluate_run

        return evaluate_run(self.folder, episodes, env=self.env)

    def policy(self, member: int = 0, replica: int = 0) -> Policy:
        """A trained member, to act with: `action = run.policy(0)(obs)`."""
        from peerage.training.restore import restore

        trainer = restore(self.folder, "policies", env=self.env).trainer
        trainer.close()
        if not (0 <= member < trainer.N and 0 <= replica < trainer.R):
            raise UserError(f"{self.folder} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
        return Policy(trainer.group, replica * trainer.N + member)


@dataclass(frozen=True)
class Policy:
    """The mode of a member's policy."""

    group: Any
    row: int

    def __call__(self, obs: np.ndarray) -> Any:
        """`obs [obs]` -> an int for Discrete actions, `[act]` in the environment's units for Box."""
        import torch

        batch = torch.as_tensor(obs, dtype=self.group.dtype, device=self.group.device).expand(self.group.M, 1, -1)
        action = self.group.mode(batch)[self.row, 0].cpu().numpy()
        return int(action[0]) if self.group.space.discrete else action
