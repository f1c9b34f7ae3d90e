"""A complete training: connects a runner with the run folder, the loggers and the report."""

from __future__ import annotations

import contextlib
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from peerage.config import RESUMABLE, Config
from peerage.config.check import refuse_imitation_alone, refuse_unused_trust_settings
from peerage.config.file import to_dict, validate
from peerage.envs.catalogue import is_known
from peerage.envs.make import Spec
from peerage.envs.names import recorded_name
from peerage.envs.vector import Maker
from peerage.errors import Terminated, UserError, nearest
from peerage.evaluation.actors import Evaluations
from peerage.evaluation.evaluate import SEED, Evaluator, episode_seeds
from peerage.evaluation.targets import targets_of
from peerage.learners.defaults import check_learning
from peerage.loading import deferred
from peerage.nets import workers
from peerage.nets.native import row_products
from peerage.offline.preprocessing import described
from peerage.offline.trajectories import Trajectories
from peerage.runs import checkpoint
from peerage.runs.advice_columns import further_columns
from peerage.runs.callbacks import load_callbacks
from peerage.runs.display import Display
from peerage.runs.folder import RunFolder, default_name
from peerage.runs.listeners import EvaluationRow, Listener, Listeners
from peerage.runs.loggers import TensorBoardLog, WandbLog
from peerage.runs.tables import CsvLog, check_offsets
from peerage.sharing.adviser import Suggests
from peerage.sharing.targeted import check_length
from peerage.sharing.transports.folder import claim, refuse_used_name
from peerage.training.budget import guard
from peerage.training.build import build_trainer
from peerage.training.extend import command_of, describe_extension, extend, is_complete, steps_to_extend
from peerage.training.machine import describe, device_name, differences
from peerage.training.restore import Restored, check_budget, restore
from peerage.training.runner import Runner
from peerage.training.trainer import Trainer

# pandas, SciPy and Matplotlib are imported when a report is made, not before the first step of a training
write_report = deferred("peerage.reports.report:write_report")
fresh_figures = deferred("peerage.reports.figures:fresh_figures")


class Evaluated(NamedTuple):
    """An evaluation of a run's newest checkpoint."""

    step: int
    """Steps of training until the checkpoint."""
    rows: list[EvaluationRow]


def run_training(
    config: Config,
    command: Sequence[str] = (),
    *,
    given: Sequence[str] = (),
    env: Maker | None = None,
    advisers: Sequence[str | Suggests] | None = None,
    listeners: Sequence[Listener] = (),
    spec: Spec | None = None,
    data: Trajectories | None = None,
) -> Path:
    """Train with `config` and return the run folder. `given`: keys of the settings that the user gave; those without
    effect are refused. `spec`: the result of `check_env_id`, if it is known. `data`: the episodes of an offline
    training, if `config` results from `peerage.offline.configured.load_configured`. Raises UserError; invalid settings
    are reported before any file is written."""
    if config.run.exp_name is not None:  # an existing run is refused before anything is built
        RunFolder.plan(config.run.log_dir, config.run.exp_name, "run", config.run.overwrite)
    refuse_used_name(config)
    if env is not None:
        config = replace(config, env=recorded_name(env))
    with guard():
        trainer = build_trainer(config, env=env, advisers=advisers, spec=spec, data=data, keep_env="env" in given)
    config = trainer.config
    try:
        refuse_unused_trust_settings(config.advice, given, len(trainer.names))
        refuse_imitation_alone(config.advice, len(trainer.names))
        targets_of(trainer.group, trainer.config)
        for name, adviser in trainer.fixed.items():
            check_length(adviser.max_steps, trainer.spec, name)
        if problem := trainer.environment_problem():
            raise UserError(problem)
    except UserError:
        trainer.close()
        raise
    fingerprint = _confirmed_fingerprint(trainer)
    messages = [*_remarks(trainer, fingerprint), *check_budget(trainer, Path(config.run.log_dir))]
    algorithms = [s.algorithm for s in trainer.group.settings]
    default = default_name(trainer.spec.id, algorithms, config.n_peers, config.seed, config.data)
    planned = RunFolder.plan(config.run.log_dir, config.run.exp_name, default, config.run.overwrite)
    loggers = loggers_for(config, planned.path)  # a missing package is reported before anything is written
    messages += check_learning(trainer.group.settings, trainer.steps)
    overwrite = config.run.overwrite  # not stored in config.yaml, so that repeating the run does not overwrite it
    config = replace(config, run=replace(config.run, exp_name=planned.path.name, overwrite=False))
    trainer.set_run_config(config.run)

    def write(made: RunFolder) -> None:
        data = {} if trainer.data is None else described(trainer.data)
        made.write_environment(trainer.spec.id, device_name(trainer.device), row_products(), fingerprint, data)
        made.write_command(command or ["peerage", "train", "(from Python)"])
        claim(config)

    name, settings = planned.path.name, to_dict(config)
    with RunFolder.create(config.run.log_dir, name, default, settings, overwrite=overwrite, write=write) as folder:
        log = CsvLog(folder.path, further_columns(config.advice.trust))
        return finish(trainer, _runner(trainer, folder, log, [*loggers, *listeners], messages), folder)


def _confirmed_fingerprint(trainer: Trainer) -> dict[str, Any]:
    """The fingerprint of the environment, without entries that differ for a second environment from the same maker."""
    found, maker = dict(trainer.spec.fingerprint), trainer.evaluation_makers[0]
    if isinstance(maker.env, str) and is_known(maker.env):
        return found
    again = maker.spec().fingerprint
    return {name: value for name, value in found.items() if again.get(name) == value}


def _remarks(trainer: Trainer, fingerprint: Mapping[str, Any]) -> list[str]:
    """Remarks about the environment, one line each, for the start of a training."""
    spec, remarks = trainer.spec, []
    if spec.max_episode_steps is None:
        by_id = isinstance(trainer.evaluation_makers[0].env, str) and ":" not in trainer.config.env
        how = "--env-args max_episode_steps=N" if by_id else "gymnasium.wrappers.TimeLimit"
        remarks.append(f"{trainer.env_name} has no time limit: if its episodes may never end, add one with {how}")
    if not spec.repeats or len(fingerprint) < len(spec.fingerprint):
        remarks.append(
            f"two episodes of {trainer.env_name} with the same seed and actions differ: another run with this seed "
            "will differ, and a resumed run is not bit-identical"
        )
    return remarks


def _runner(
    trainer: Trainer, folder: RunFolder, log: CsvLog, listeners: Sequence[Listener], messages: list[str]
) -> Runner:
    """The runner of a training in a run folder. Evaluations use the environment without perturbations, so that
    evaluations of different runs are comparable."""
    run = trainer.config.run
    seeds = episode_seeds(trainer.config, run.n_eval_episodes)
    evaluator = Evaluator(trainer.evaluation_makers, seeds, run.success, run.max_eval_steps)
    members, targets = trainer.names[: trainer.N], targets_of(trainer.group, trainer.config)
    test = Evaluator(trainer.test_makers, seeds, run.success, run.max_eval_steps) if trainer.test_makers else None
    evaluations = Evaluations(
        evaluator,
        trainer.group,
        trainer.sharing,
        members,
        run.eval_modes,
        targets,
        all_targets_at=trainer.steps,
        test=test,
    )
    return Runner(
        trainer,
        Listeners([log, *listeners]),
        folder=folder,
        evaluation=evaluations,
        offsets=log.offsets,
        about=describe(trainer.device, trainer.threads),
        messages=[*messages, *targets.messages],
    )


def loggers_for(config: Config, folder: Path) -> list[Listener]:
    """The display, the loggers and the callbacks selected by the configuration. Raises UserError for a package that is
    missing and for a callback that cannot be loaded."""
    loggers: list[Listener] = [Display(config.run.verbose)]
    if config.run.use_tensorboard:
        loggers.append(TensorBoardLog(folder, fresh_figures))
    if config.run.use_wandb:
        loggers.append(WandbLog(config.run.wandb_project, fresh_figures))
    return [*loggers, *load_callbacks(config.run.callback)]


def resume(
    run: Path | str,
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Suggests] | None = None,
    listeners: Sequence[Listener] = (),
    command: Sequence[str] = (),
    device: str | None = None,
    threads: int | None = None,
    total_timesteps: int | None = None,
    stretch_schedules: bool = False,
    say: Callable[[str], None] = print,
    **overrides: Any,
) -> Path:
    """Continue a run from its newest intact checkpoint and return the run folder. The result is bit-identical to an
    uninterrupted run on the same machine, device and number of threads; docs/crashes.md describes the exceptions.

    A finished run stays as it is, and `say` receives a line about it unless `verbose` is 0.

    `total_timesteps` extends the run, finished or not, to this number of steps per member. A run with schedules that
    depend on its length is extended only with `stretch_schedules`, which computes them for the new length from now on.
    `overrides`: fields of `RunConfig` that do not affect the training (`peerage.config.RESUMABLE`). Raises UserError.
    """
    for name in overrides:
        if name not in RESUMABLE:
            can = ", ".join(RESUMABLE)
            raise UserError(f"{name!r} cannot be changed on resuming{nearest(name, RESUMABLE)}: only {can} can")
    with RunFolder.open(run) as folder:
        longer = steps_to_extend(folder, total_timesteps)
        if longer is None and is_complete(folder):
            if folder.report_is_due():  # the run was killed while its report was drawn
                with _trained(folder):
                    write_report(folder.path)
            elif overrides.get("verbose", folder.resolved().run.verbose) != 0:
                say(f"{run} is finished: there is nothing to resume (a larger --total-timesteps extends it)")
            return folder.path
        restored = restore(
            run,
            env=env,
            advisers=advisers,
            device=device,
            threads=threads,
            total_timesteps=longer,
            stretch=stretch_schedules,
        )
        trainer = restored.trainer
        try:
            known = {key: value for key, value in overrides.items() if value is not None}
            trainer.set_run_config(validate(replace(trainer.config, run=replace(trainer.config.run, **known))).run)
            loggers = loggers_for(trainer.config, folder.path)
            offsets = restored.runner["offsets"] if restored.checkpoint else None
            if offsets is not None:
                check_offsets(folder.path, offsets)  # before any file is changed
            log = CsvLog(folder.path, further_columns(trainer.config.advice.trust))
            if longer is not None:
                stretched = trainer.schedules() if trainer.step else []
                restored.messages.append(describe_extension(folder.resolved().steps, longer, stretched))
                restored.messages += [
                    f"{name} has no method `schedules`: if it depends on the length of the run, the result differs "
                    f"from that of a run with {longer:,} steps from the start"
                    for name in trainer.undeclared()
                    if trainer.step
                ]
                extend(folder, longer, trainer.step, stretched)
            for damaged in restored.damaged:
                checkpoint.retire(damaged)
            log.truncate(offsets)
        except BaseException:
            trainer.close()
            raise
        folder.reopen()
        folder.write_command(command or command_of(run, longer, stretch_schedules))
        _note_differences(restored, folder)
        if problem := trainer.environment_problem():  # of a run that an older version started
            restored.messages.append(problem)
        runner = _runner(trainer, folder, log, [*loggers, *listeners], restored.messages)
        if restored.checkpoint is not None:
            runner.resume(restored.runner, restored.checkpoint)
        return finish(trainer, runner, folder)


def _note_differences(restored: Restored, folder: RunFolder) -> None:
    """Record the machine on which the run continues, and add a message if it differs from before."""
    now = describe(restored.trainer.device, restored.trainer.threads)
    newest = restored.checkpoint
    before = checkpoint.read_manifest(newest).about if newest is not None else now
    different = differences(before, now)
    folder.note_resume(restored.trainer.step, now, different)
    if different:
        restored.messages.append(f"the resumed run is not bit-identical: {'; '.join(different)}")


def evaluate_run(
    run: Path | str,
    episodes: int = 10,
    seed: int | None = None,
    members: Sequence[int] | None = None,
    *,
    max_steps: int | None = None,
    target_return: float | Sequence[float] = (),
    clip_targets: bool = False,
    env: Maker | None = None,
    which: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Evaluated:
    """Evaluate the newest intact checkpoint of a run, or another one: `which` is `best` or the number of a step.
    Returns its step and rows; their mode is `alone`, for the second and later target returns `targets`.

    `say` receives messages: the step of the checkpoint, newer checkpoints that are damaged, and truncated episodes.
    `members` selects members of each replica by number; by default all. `max_steps`: the longest episode; by default
    that of the run's evaluations. `target_return` and `clip_targets`: as of `RunConfig`; by default those of the run.
    Raises UserError for a member that does not exist, and for targets that have no effect.
    """
    restored = restore(run, "policies", env=env, which=which)
    trainer = restored.trainer
    workers.configure(trainer.threads)
    seeds = episode_seeds(trainer.config, episodes, SEED if seed is None else seed)
    longest = max_steps or trainer.config.run.max_eval_steps
    evaluator = Evaluator(trainer.evaluation_makers, seeds, trainer.config.run.success, longest)
    names = trainer.names[: trainer.N]
    try:
        targets = targets_of(trainer.group, trainer.config, target_return, clip=clip_targets)
        evaluations = Evaluations(evaluator, trainer.group, trainer.sharing, names, ("alone",), targets)
        if unknown := [i for i in members or [] if not 0 <= i < trainer.N]:
            raise UserError(f"{run} has no member {unknown[0]}: its members are 0 to {trainer.N - 1}")
        for line in restored.messages:
            say(line)
        say(f"after {trainer.step:,} of {trainer.steps:,} steps")
        rows = evaluations.rows(trainer.step) or []
        for line in (*targets.messages, *evaluations.messages):
            say(line)
        evaluations.close()
    finally:
        trainer.close()
        evaluator.close()
    kept = None if members is None else {trainer.names[i] for i in members}
    return Evaluated(trainer.step, [row for row in rows if kept is None or row[1] in kept])


def finish(trainer: Trainer, runner: Runner, folder: RunFolder) -> Path:
    """Run to the end, or until a listener asks to stop, record the final status in the folder, and write the report
    with its figures.

    Raises a one-line UserError for errors that the user can fix: a full disk, too little memory, an environment or
    adviser that failed.
    """
    try:
        runner.run()
        status, why = ("STOPPED", runner.stopped) if runner.stopped else ("DONE", "finished")
        folder.finish(status, why, trainer.step)
    except BaseException as error:
        reported = _as_user_error(error, runner, folder)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            error.then = _how_to_resume(runner, folder)  # type: ignore[union-attr]  # printed by the command line
        why = str(reported) if isinstance(reported, UserError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt | SystemExit):
            why = "interrupted"
        _end(runner, "FAILED", why)
        details = _traceback_of(error)
        if details and trainer.config.run.verbose >= 2:
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed
                print(details, end="", file=sys.stderr)
        with contextlib.suppress(OSError):  # if the disk is full, the status stays RUNNING
            folder.finish("FAILED", why, trainer.step, details)
        if reported is error:
            raise
        raise reported from error
    finally:
        trainer.close()
        runner.close()
    with _trained(folder):
        _end(runner, status, why)
        try:
            write_report(folder.path)
        except Exception as error:  # an error in the report is not a failure of the training
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed
                print(f"peerage: no report: {type(error).__name__}: {error}", file=sys.stderr)
    return folder.path


@contextlib.contextmanager
def _trained(folder: RunFolder) -> Iterator[None]:
    """Context after the training is finished: on Ctrl-C, the message says that only the report is missing."""
    try:
        yield
    except KeyboardInterrupt as error:
        command = f"`peerage report {shlex.quote(str(folder.path))}`"
        error.then = f"the training is finished, but its report is not: run {command}"  # type: ignore[attr-defined]
        raise


STATE_ERRORS = (LookupError, ValueError, TypeError, RuntimeError)
"""Exceptions that can follow from a restored state with the right shapes but invalid numbers."""


def _end(runner: Runner, status: str, why: str) -> None:
    """Notify the listeners. Their errors are ignored, because the training has already ended."""
    with contextlib.suppress(Exception):
        runner.listener.on_end(status, why)


def _traceback_of(error: BaseException) -> str:
    """The traceback of the exception behind `error`: of the user's code, or of a bug; empty for other errors."""
    source: BaseException | None = error
    while isinstance(source, UserError):
        source = source.__cause__
    if source is None or isinstance(source, MemoryError | KeyboardInterrupt | Terminated):
        return ""
    return "".join(traceback.format_exception(source))


def _as_user_error(error: BaseException, runner: Runner, folder: RunFolder) -> BaseException:
    """The error to show to the user, with instructions to resume; `error` itself if it is not a user's error."""
    then = _how_to_resume(runner, folder)
    if isinstance(error, UserError):
        return UserError(f"{error}; after fixing this, {then}")
    if isinstance(error, OSError):
        place = f" {error.filename}" if error.filename else ""
        why = f"cannot write to the run folder{place}: {error.strerror or error}"
        return UserError(f"{why}; after fixing this, {then}")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return UserError(f"the run does not fit into memory: free some memory, or use a larger machine; {then}")
    if runner.checkpoint is not None and runner.resumed and isinstance(error, STATE_ERRORS):
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return UserError(f"the run cannot continue from {runner.checkpoint}: {what}")
    return error


def _how_to_resume(runner: Runner, folder: RunFolder) -> str:
    """The command that resumes the run, and the step from which it continues."""
    at = f" from step {checkpoint.step_of(runner.checkpoint):,}" if runner.checkpoint is not None else ""
    return f"`peerage resume {shlex.quote(str(folder.path))}` continues{at}"
