"""A training from its beginning or its middle to its end: the run folder, the logs and the report around the loop."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from peerage.config import FREE, PARTS, RESUMABLE, Config
from peerage.config.file import to_dict, validate
from peerage.envs.vector import Maker
from peerage.errors import UserError, nearest
from peerage.evaluation.evaluate import SEED
from peerage.reports.figures import fresh_figures
from peerage.reports.report import write_report
from peerage.runs import checkpoint
from peerage.runs.display import Display
from peerage.runs.folder import RunFolder, default_name
from peerage.runs.listeners import EvaluationRow, Listener, Listeners
from peerage.runs.loggers import TensorBoardLog, WandbLog
from peerage.runs.serialisation import misfit
from peerage.runs.tables import CsvLog, check_offsets, has_rows
from peerage.sharing.advisers import Adviser
from peerage.training.budget import check, estimate, guard
from peerage.training.machine import describe, device_name, differences
from peerage.training.trainer import Trainer


def run_training(
    config: Config,
    command: Sequence[str] = (),
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Adviser] | None = None,
    listeners: Sequence[Listener] = (),
) -> Path:
    """Train as `config` says and return the run folder. Raises UserError before anything is written."""
    with guard():
        trainer = Trainer(config, env=env, advisers=advisers)
    config = trainer.config
    trainer.pending_messages = _budgeted(trainer, Path(config.run.log_dir))
    algorithms = [s.algorithm for s in trainer.group.settings]
    default = default_name(trainer.spec.id, algorithms, config.n_peers, config.seed)
    planned = RunFolder.plan(config.run.log_dir, config.run.exp_name, default, config.run.overwrite)
    loggers = loggers_for(config, planned.path)  # a package that is missing is said before anything is written
    overwrite = config.run.overwrite  # not for config.yaml: whoever repeats the run must ask again
    config = replace(config, run=replace(config.run, exp_name=planned.path.name, overwrite=False))
    trainer.config = config

    def write(made: RunFolder) -> None:
        made.write_environment(trainer.spec.id, device_name(trainer.device))
        made.write_command(command or ["peerage", "train", "(from Python)"])

    name, settings = planned.path.name, to_dict(config)
    with RunFolder.create(config.run.log_dir, name, default, settings, overwrite=overwrite, write=write) as folder:
        log = CsvLog(folder.path)
        trainer.read_offsets = log.offsets
        trainer.listeners = Listeners([log, *loggers, *listeners])
        return finish(trainer, folder)


def _budgeted(trainer: Trainer, folder: Path) -> list[str]:
    """What memory and disk the run takes, in a line; UserError if it cannot fit. `folder`: where the disk is."""
    budget = estimate(trainer, trainer.config.run.keep_checkpoints)
    tight = check(budget, folder)
    return [budget.text(), *tight]


def loggers_for(config: Config, folder: Path) -> list[Listener]:
    """The display and whatever else the configuration asks for."""
    loggers: list[Listener] = [Display(config.run.verbose)]
    if config.run.use_tensorboard:
        loggers.append(TensorBoardLog(folder, fresh_figures))
    if config.run.use_wandb:
        loggers.append(WandbLog(config.run.wandb_project, fresh_figures))
    return loggers


def restore(
    run: Path | str,
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Adviser] | None = None,
    device: str | None = None,
    threads: int | None = None,
    policies_only: bool = False,
    in_company: bool = False,
) -> Trainer:
    """A trainer in the state of the run's newest sound checkpoint; its `news` name each damaged one passed over.

    `env` and `advisers` are what the run was begun with, where those were objects. With `policies_only` the members
    are restored and nothing around them, so that no adviser is needed; `in_company`, to be evaluated: with what they
    remember and whom they trust, but without their running episodes. A run that was stopped before its first
    checkpoint is at its beginning, if it is to go on.
    """
    folder = RunFolder.open(run)
    config = folder.resolved()
    if policies_only:
        alone = replace(config.advice, sharing="none", byzantine_members=())
        config = replace(config, device="cpu", advisers=(), perturb={}, advice=alone)
    else:
        config = replace(config, device=device or config.device, threads=threads or config.threads)
    to_go_on = not policies_only and not in_company
    fresh = to_go_on and not checkpoint.checkpoints(folder.path) and folder.status()[0] != "DONE"
    damaged: dict[Path, str] = {}
    if not fresh:
        newest, state, damaged = checkpoint.load_latest(folder.path, buffers=not policies_only)
    elif has_rows(folder.path):
        raise UserError(f"{run} has rows and no checkpoint: somebody has removed its checkpoints; train it anew")
    try:
        with guard():
            trainer = Trainer(config, env=env, advisers=() if policies_only else advisers, pretrained=fresh)
    except UserError as error:
        if env is None and advisers is None and folder.commands() and "(from Python)" in folder.commands()[0]:
            hint = "begun from Python, with objects? `peerage.load(folder, env=..., advisers=...)` takes them"
            raise UserError(f"{error} ({hint})") from error
        raise
    if not to_go_on:
        trainer.pending_messages = list(damaged.values())
    else:
        trainer.pending_messages = [f"{line}; gone on from the one before" for line in damaged.values()]
        trainer.pending_messages += _budgeted(trainer, folder.path)
        trainer.damaged = list(damaged)
    if fresh:
        trainer.pending_messages.append("stopped before its first checkpoint: begun at step 0")
        return trainer
    try:
        if not policies_only:
            _refuse_changes(trainer.config, checkpoint.read_manifest(newest).about["config"], env, advisers)
            trainer.reset()
            if why := misfit(trainer.state(), state):
                raise ValueError(why)
            if not 0 <= state["step"] <= trainer.steps:
                raise ValueError(f"step {state['step']} of {trainer.steps}")
        trainer.load_state(state, policies_only=policies_only, without_episodes=in_company)
    except UserError:
        trainer.close()
        raise
    except FileNotFoundError as error:  # it goes on meanwhile, and has removed a chunk that it needs no more
        trainer.close()
        raise UserError(f"{newest} was replaced just now by the training that writes it: try again") from error
    except Exception as error:  # whatever a state that was not made by this configuration leads to
        trainer.close()
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"the checkpoint {newest} does not fit {folder.path / 'config.yaml'}: {what}") from error
    trainer.checkpoint = newest
    return trainer


def _refuse_changes(config: Config, before: dict[str, Any], env: Maker | None, advisers: Sequence[Any] | None) -> None:
    """UserError if config.yaml is not the one that the checkpoint was written with, naming what differs."""
    now, objects = to_dict(config), {"env": env, "advisers": advisers}
    free = FREE | {name for name, given in objects.items() if given is not None}  # named after those
    for part, values in (("", now), *((part, now[part]) for part in now if isinstance(now[part], dict))):
        old = before if not part else before.get(part, {})
        for name, value in values.items():
            if name in free or name not in old or (not part and name in PARTS):
                continue
            if json.loads(json.dumps(value)) != old[name]:
                raise UserError(
                    f"config.yaml says {f'{part}.{name}' if part else name}: {value}, and the checkpoint was written "
                    f"with {old[name]}: put it back, or train anew"
                )


def resume(
    run: Path | str,
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Adviser] | None = None,
    listeners: Sequence[Listener] = (),
    command: Sequence[str] = (),
    device: str | None = None,
    threads: int | None = None,
    **overrides: Any,
) -> Path:
    """Go on with an interrupted run from its newest sound checkpoint, as if it had never been interrupted: bit for
    bit, on the same machine, device and number of threads. `overrides` are those fields of `RunConfig` that do not
    change what is trained (`peerage.config.RESUMABLE`). What is promised, and what is not: docs/crashes.md.
    """
    for name in overrides:
        if name not in RESUMABLE:
            can = ", ".join(RESUMABLE)
            raise UserError(f"{name!r} cannot be changed in a resume{nearest(name, RESUMABLE)}: {can} can")
    with RunFolder.open(run) as folder:
        if folder.status()[0] == "DONE":
            if not folder.report_is_due():
                raise UserError(f"{run} is finished: nothing to resume (`peerage report {run}` makes its report)")
            with _trained(folder):
                write_report(folder.path)  # killed while it was drawn
            return folder.path
        trainer = restore(run, env=env, advisers=advisers, device=device, threads=threads)
        try:
            known = {key: value for key, value in overrides.items() if value is not None}
            trainer.config = validate(replace(trainer.config, run=replace(trainer.config.run, **known)))
            loggers = loggers_for(trainer.config, folder.path)
            offsets = trainer.offsets if trainer.checkpoint is not None else None
            if offsets is not None:
                check_offsets(folder.path, offsets)  # before anything is touched
            log = CsvLog(folder.path)
            for passed_over in trainer.damaged:
                checkpoint.retire(passed_over)
            log.truncate(offsets)
        except BaseException:
            trainer.close()
            raise
        trainer.read_offsets = log.offsets
        folder.reopen()
        folder.write_command(command or ["peerage", "resume", str(run)])
        _say_what_differs(trainer, folder)
        trainer.listeners = Listeners([log, *loggers, *listeners])
        return finish(trainer, folder)


def _say_what_differs(trainer: Trainer, folder: RunFolder) -> None:
    """Note where the run goes on, and say so if that is another machine than before."""
    now = describe(trainer.device, trainer.threads)
    before = checkpoint.read_manifest(trainer.checkpoint).about if trainer.checkpoint is not None else now
    different = differences(before, now)
    folder.note_resume(trainer.step, now, different)
    if different:
        trainer.pending_messages.append(f"not bit for bit the run that was interrupted: {'; '.join(different)}")


def evaluate_run(
    run: Path | str,
    episodes: int = 10,
    seed: int | None = None,
    members: Sequence[int] | None = None,
    *,
    env: Maker | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[EvaluationRow]:
    """Evaluate the newest sound checkpoint of a run: rows of (replica, member, episode, return, length, success).

    `say` hears which one that is, and of damaged ones that are newer. `members` picks some of each replica. Raises
    UserError for a member that the group has not.
    """
    trainer = restore(run, env=env, policies_only=True)
    try:
        if unknown := [i for i in members or [] if not 0 <= i < trainer.N]:
            raise UserError(f"{run} has no member {unknown[0]}: its members are 0 to {trainer.N - 1}")
        trainer.evaluator.episodes = episodes
        trainer.evaluator.seed = SEED if seed is None else seed
        for line in trainer.pending_messages:
            say(line)
        say(f"after {trainer.step:,} of {trainer.steps:,} steps")
        rows = trainer.evaluation_rows() or []
    finally:
        trainer.close()
    kept = None if members is None else {trainer.names[i] for i in members}
    return [row for row in rows if kept is None or row[1] in kept]


def finish(trainer: Trainer, folder: RunFolder) -> Path:
    """Run, and leave a folder that says how it ended, with figures and a report.

    What ended it is a UserError of one line wherever the user can mend it: a full disk, too little memory, an
    environment or adviser that failed.
    """
    try:
        trainer.run(folder)
        folder.finish("DONE", "finished", trainer.step)
    except BaseException as error:
        told = _told(error, trainer, folder)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            error.then = _then(trainer, folder)  # type: ignore[union-attr]  # for who tells the user
        why = str(told) if isinstance(told, UserError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt | SystemExit):
            why = "interrupted"
        _end(trainer, "FAILED", why)
        with contextlib.suppress(OSError):  # the disk may be full, and then the folder says RUNNING
            folder.finish("FAILED", why, trainer.step)
        if told is error:
            raise
        raise told from error
    finally:
        trainer.close()
    with _trained(folder):
        _end(trainer, "DONE", "finished")
        try:
            write_report(folder.path)
        except Exception as error:  # a picture that cannot be drawn must not look like a failed training
            with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
                print(f"peerage: no report: {type(error).__name__}: {error}", file=sys.stderr)
    return folder.path


@contextlib.contextmanager
def _trained(folder: RunFolder) -> Iterator[None]:
    """Ctrl-C in here does not interrupt the training any more, and is told so."""
    try:
        yield
    except KeyboardInterrupt as error:
        draws = f"`peerage report {shlex.quote(str(folder.path))}` draws it"
        error.then = f"the training is finished, only its report is not: {draws}"  # type: ignore[attr-defined]
        raise


SENSELESS = (LookupError, ValueError, TypeError, RuntimeError)
"""What comes of numbers that make no sense, in a state of the right shape that this program did not write."""


def _end(trainer: Trainer, status: str, why: str) -> None:
    """Tell the listeners; whatever goes wrong there cannot change any more how the training ended."""
    with contextlib.suppress(Exception):
        trainer.listeners.on_end(status, why)


def _told(error: BaseException, trainer: Trainer, folder: RunFolder) -> BaseException:
    """The error as the user should hear it, and where the run would go on."""
    then = _then(trainer, folder)
    if isinstance(error, UserError):
        return UserError(f"{error}; once that is mended, {then}")
    if isinstance(error, OSError):
        place = f" {error.filename}" if error.filename else ""
        why = f"cannot write to the run folder{place}: {error.strerror or error}"
        return UserError(f"{why}; once that is mended, {then}")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return UserError(f"the run does not fit into memory: free some, or use a larger machine; {then}")
    if trainer.checkpoint is not None and trainer.resumed and isinstance(error, SENSELESS):
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return UserError(f"the run cannot go on from {trainer.checkpoint}: {what}")
    return error


def _then(trainer: Trainer, folder: RunFolder) -> str:
    """What goes on with the run, and from where."""
    at = f" from step {checkpoint.step_of(trainer.checkpoint):,}" if trainer.checkpoint is not None else ""
    return f"`peerage resume {shlex.quote(str(folder.path))}` goes on{at}"
