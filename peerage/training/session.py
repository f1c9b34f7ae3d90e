"""A training from its beginning or its middle to its end: the run folder, the logs and the report around the loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peerage.config import Config
from peerage.configfile import from_dict, to_dict, validate
from peerage.envs.vector import Maker
from peerage.errors import UserError, nearest
from peerage.evaluation.evaluate import SEED
from peerage.runs.display import Display
from peerage.runs.folder import RunFolder, default_name
from peerage.runs.listeners import EvaluationRow, Listener, Listeners
from peerage.runs.loggers import TensorBoardLog, WandbLog
from peerage.runs.report import write_report
from peerage.runs.tables import CsvLog
from peerage.sharing.advisers import Adviser
from peerage.training import checkpoint
from peerage.training.loop import Trainer, device_name

RESUMABLE = ("checkpoint_freq", "use_tensorboard", "use_wandb", "wandb_project", "verbose")


def run_training(
    config: Config,
    command: Sequence[str] = (),
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Adviser] | None = None,
    listeners: Sequence[Listener] = (),
) -> Path:
    """Train as `config` says and return the run folder. Raises UserError before anything is written."""
    trainer = Trainer(config, env=env, advisers=advisers)
    config = trainer.config
    algorithms = [s.algorithm for s in trainer.group.settings]
    default = default_name(trainer.spec.id, algorithms, config.n_peers, config.seed)
    planned = RunFolder.plan(config.run.log_dir, config.run.exp_name, default, config.run.overwrite)
    loggers = loggers_for(config, planned.path)  # a package that is missing is said before anything is written
    overwrite = config.run.overwrite  # not for config.yaml: whoever repeats the run must ask again
    config = replace(config, run=replace(config.run, exp_name=planned.path.name, overwrite=False))
    trainer.config = config
    folder = RunFolder.create(config.run.log_dir, planned.path.name, default, to_dict(config), overwrite=overwrite)
    folder.write_environment(trainer.spec.id, device_name(trainer.device))
    folder.write_command(command or ["peerage", "train", "(from Python)"])
    log = CsvLog(folder.path)
    trainer.read_offsets = log.offsets
    trainer.listeners = Listeners([log, *loggers, *listeners])
    return finish(trainer, folder)


def loggers_for(config: Config, folder: Path) -> list[Listener]:
    """The display and whatever else the configuration asks for."""
    loggers: list[Listener] = [Display(config.run.verbose)]
    if config.run.use_tensorboard:
        loggers.append(TensorBoardLog(folder))
    if config.run.use_wandb:
        loggers.append(WandbLog(config.run.wandb_project))
    return loggers


def restore(
    run: Path | str,
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Adviser] | None = None,
    device: str | None = None,
    policies_only: bool = False,
) -> tuple[list[str], Trainer]:
    """A trainer in the state of the run's newest sound checkpoint, and a line for each damaged one passed over.

    `env` and `advisers` are what the run was begun with, where those were objects. With `policies_only` the members
    are restored and nothing around them, so that no adviser is needed.
    """
    folder = RunFolder.open(run)
    config = from_dict(folder.config())
    if policies_only:
        config = replace(config, device="cpu", advisers=(), advice=replace(config.advice, sharing="none"))
    elif device is not None:
        config = replace(config, device=device)
    state, passed_over = checkpoint.load_latest(folder.path)
    try:
        trainer = Trainer(config, env=env, advisers=() if policies_only else advisers, pretrained=False)
    except UserError as error:
        if folder.commands() and "(from Python)" in folder.commands()[0]:
            hint = "begun from Python, with objects? `peerage.load(folder, env=..., advisers=...)` takes them"
            raise UserError(f"{error} ({hint})") from error
        raise
    try:
        trainer.load_state(state, policies_only=policies_only)
    except (KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        trainer.close()
        raise UserError(f"the checkpoint of {run} does not fit its config.yaml: {error}") from error
    return passed_over, trainer


def resume(
    run: Path | str,
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Adviser] | None = None,
    listeners: Sequence[Listener] = (),
    command: Sequence[str] = (),
    device: str | None = None,
    **overrides: Any,
) -> Path:
    """Go on with an interrupted run from its newest sound checkpoint. `overrides` are those fields of `RunConfig` that
    do not change what is trained (`RESUMABLE`).

    Everything but the episodes under way is restored; those begin anew.
    """
    for name in overrides:
        if name not in RESUMABLE:
            can = ", ".join(RESUMABLE)
            raise UserError(f"{name!r} cannot be changed in a resume{nearest(name, RESUMABLE)}: {can} can")
    folder = RunFolder.open(run)
    passed_over, trainer = restore(run, env=env, advisers=advisers, device=device)
    if trainer.step >= trainer.steps:
        trainer.close()
        raise UserError(f"{run} is finished: nothing to resume (`peerage report {run}` makes its report)")
    known = {key: value for key, value in overrides.items() if value is not None}
    trainer.config = validate(replace(trainer.config, run=replace(trainer.config.run, **known)))
    loggers = loggers_for(trainer.config, folder.path)
    log = CsvLog(folder.path)
    log.truncate(trainer.offsets)
    trainer.read_offsets = log.offsets
    folder.reopen()
    folder.write_command(command or ["peerage", "resume", str(run)])
    trainer.listeners = Listeners([log, *loggers, *listeners])
    for line in passed_over:
        trainer.listeners.on_message(trainer.step, line)
    return finish(trainer, folder)


def evaluate_run(
    run: Path | str,
    episodes: int = 10,
    seed: int | None = None,
    members: Sequence[int] | None = None,
    *,
    env: Maker | None = None,
) -> list[EvaluationRow]:
    """Evaluate the newest checkpoint of a run: rows of (replica, member, episode, return, length, success).

    `members` picks some of each replica. Raises UserError for a member that the group has not.
    """
    _, trainer = restore(run, env=env, policies_only=True)
    try:
        if unknown := [i for i in members or [] if not 0 <= i < trainer.N]:
            raise UserError(f"{run} has no member {unknown[0]}: its members are 0 to {trainer.N - 1}")
        trainer.evaluator.episodes = episodes
        trainer.evaluator.seed = SEED if seed is None else seed
        rows = trainer.evaluation_rows()
    finally:
        trainer.close()
    kept = None if members is None else {trainer.names[i] for i in members}
    return [row for row in rows if kept is None or row[1] in kept]


def finish(trainer: Trainer, folder: RunFolder) -> Path:
    """Run, and leave a folder that says how it ended, with figures and a report."""
    try:
        trainer.run(folder)
    except BaseException as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
        trainer.listeners.on_end("FAILED", why)
        folder.finish("FAILED", why, trainer.step)
        raise
    finally:
        trainer.close()
    folder.finish("DONE", "finished", trainer.step)
    trainer.listeners.on_end("DONE", "finished")
    try:
        write_report(folder.path)
    except Exception as error:  # a picture that cannot be drawn must not look like a failed training
        print(f"peerage: no report: {type(error).__name__}: {error}", file=sys.stderr)
    return folder.path
