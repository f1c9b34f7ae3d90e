"""Restores a trainer from the newest intact checkpoint of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from peerage.config import FREE, Config, parts
from peerage.config.file import to_dict
from peerage.envs.vector import Maker
from peerage.errors import UserError
from peerage.runs import checkpoint
from peerage.runs.environment import other_environment, versions
from peerage.runs.folder import RunFolder
from peerage.runs.serialisation import misfit
from peerage.runs.tables import has_rows
from peerage.sharing.adviser import Suggests
from peerage.training.budget import check, estimate, guard
from peerage.training.build import build_trainer
from peerage.training.extend import is_extension, refuse_schedules
from peerage.training.trainer import Trainer

Purpose = Literal["resume", "policies", "company"]
"""The purpose of restoring a run. `resume`: continue the training. `policies`: use the members alone, without advisers.
`company`: evaluate members with trust and advisers, without their running episodes."""


@dataclass
class Restored:
    """A restored trainer, and the other parts of the run that a resume needs."""

    trainer: Trainer
    messages: list[str]
    """Messages for the user."""
    checkpoint: Path | None = None
    """None: the run was stopped before its first checkpoint, and the trainer is at step 0."""
    runner: dict[str, Any] = field(default_factory=dict)
    """The runner's part of the checkpoint, for a resume."""
    damaged: list[Path] = field(default_factory=list)
    """Newer checkpoints that were skipped because they are damaged."""


def restore(
    run: Path | str,
    purpose: Purpose = "resume",
    *,
    env: Maker | None = None,
    advisers: Sequence[str | Suggests] | None = None,
    device: str | None = None,
    threads: int | None = None,
    total_timesteps: int | None = None,
    stretch: bool = False,
    which: str = "",
) -> Restored:
    """Restore a run from its newest intact checkpoint, or from `which` (`peerage.runs.checkpoint.load_one`).

    `total_timesteps` extends the run (`peerage.training.extend`); `stretch` permits this although schedules depend on
    the length of the run. Pass `env` and `advisers` if the run was started with objects. A run that was stopped before
    its first checkpoint is resumed from step 0. Another environment than that of the training is refused for a resume
    and gives a warning for other purposes. Raises UserError, in one line.
    """
    folder = RunFolder.open(run)
    config = folder.resolved()
    extends = total_timesteps is not None
    if extends:
        config = replace(config, total_timesteps=total_timesteps)
    if purpose == "policies":
        alone = replace(config.advice, sharing="none", byzantine_members=())
        config = replace(config, device="cpu", advisers=(), perturb={}, advice=alone)
    else:
        config = replace(config, device=device or config.device, threads=threads or config.threads)
    fresh = purpose == "resume" and not checkpoint.checkpoints(folder.path) and not folder.has_ended()
    damaged: dict[Path, str] = {}
    if not fresh:
        newest, state, damaged = checkpoint.load_one(folder.path, which, buffers=purpose != "policies")
    elif has_rows(folder.path):
        raise UserError(f"{run} has rows but no checkpoint: its checkpoints were removed; train again from the start")
    try:
        with guard():
            trainer = build_trainer(
                config,
                env=env,
                advisers=() if purpose == "policies" else advisers,
                pretrained=fresh,
                learns=purpose == "resume",
            )
    except UserError as error:
        known = config.env.startswith("<")  # the message says what to do
        started = folder.commands()[0] if folder.commands() else ""
        if env is None and advisers is None and "(from Python)" in started and not known:
            hint = "started from Python, with objects? `peerage.load(folder, env=..., advisers=...)` takes them"
            raise UserError(f"{error} ({hint})") from error
        raise
    now = {"versions": versions(), "fingerprint": trainer.spec.fingerprint}
    if other := other_environment(folder.environment(), now):
        changed = f"{trainer.spec.id} is not the environment that {run} was trained on ({other})"
        if purpose == "resume":
            trainer.close()
            hint = "restore its code" if env is None else "pass the same one"
            raise UserError(f"{changed}: {hint}, or train a new run")
        warnings.warn(changed, stacklevel=2)
    if purpose == "resume":
        messages = [f"{line}; resumed from the one before" for line in damaged.values()]
        messages += check_budget(trainer, folder.path)
    else:
        messages = list(damaged.values())
    if fresh:
        messages.append("stopped before its first checkpoint: started again at step 0")
        return Restored(trainer, messages)
    runner: dict[str, Any] = {}
    try:
        if purpose == "policies":
            trainer.load_policies(state["trainer"])
        else:
            before = checkpoint.read_manifest(newest).about["config"]
            longer = trainer.steps > before["total_timesteps"] and (extends or is_extension(folder, trainer.steps))
            _refuse_changes(trainer.config, before, env, advisers, {"total_timesteps"} if longer else set())
            trainer.begin()
            if extends and not stretch and state["trainer"]["step"]:
                ended = state["trainer"]["step"] == before["total_timesteps"]
                cut = trainer.group.cut_by(before["total_timesteps"]) if ended else []
                refuse_schedules([*trainer.schedules(), *cut], run, trainer.steps)
            if longer:
                state["trainer"] = trainer.lengthened(state["trainer"], before["total_timesteps"])
            _refuse_misfit(trainer, state)
            if purpose == "company":
                trainer.load_company(state["trainer"])
            else:
                messages += trainer.load_state(state["trainer"])
                offsets = {str(name): int(offset) for name, offset in state["runner"]["offsets"].items()}
                runner = {**state["runner"], "offsets": offsets}
    except UserError:
        trainer.close()
        raise
    except FileNotFoundError as error:  # a running training has removed a chunk that newer checkpoints do not need
        trainer.close()
        raise UserError(f"{newest} was replaced by the running training: try again") from error
    except Exception as error:  # a state of another configuration can raise any exception
        trainer.close()
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"the checkpoint {newest} does not fit {folder.path / 'config.yaml'}: {what}") from error
    return Restored(trainer, messages, newest, runner, list(damaged))


def check_budget(trainer: Trainer, folder: Path) -> list[str]:
    """Check the memory and disk space that the run needs. Returns a summary and warnings, one line each. `folder` is on
    the disk to check. Raises UserError if the run cannot fit."""
    run = trainer.config.run
    budget = estimate(trainer, run.keep_checkpoints + run.keep_best)
    tight = check(budget, folder)
    return [budget.text(), *tight]


def _refuse_misfit(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raise ValueError if `state` does not have the structure and shapes of the trainer's state."""
    expected = {
        "runner": {"evaluated_at": 0, "frozen": [False] * trainer.group.M, "offsets": {}, "listeners": {}},
        "trainer": _fixed_part(trainer, trainer.state()),
    }
    runner = {"listeners": {}, **state["runner"]}  # checkpoints of earlier versions have no listeners
    found = {**state, "runner": runner, "trainer": _fixed_part(trainer, state["trainer"])}
    if why := misfit(expected, found):
        raise ValueError(why)
    if not 0 <= state["trainer"]["step"] <= trainer.steps:
        raise ValueError(f"step {state['trainer']['step']} of {trainer.steps}")


def _fixed_part(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    """A trainer's state without parts whose structure may change during a training: learners that are not
    `fixed_state` keep their parameters only, and such kinds of trust keep nothing."""
    stacks, sharing = dict(state["group"]["stacks"]), dict(state["sharing"])
    for k, stack in enumerate(trainer.group.stacks):
        if not stack.learner.fixed_state:
            part = stacks[str(k)]
            learner = {name: part["learner"][name] for name in ("parameters", "active")}
            stacks[str(k)] = {**part, "learner": learner}
    signals = trainer.sharing.signals
    if "signals" in sharing:
        fixed = {name: s for name, s in sharing["signals"].items() if name not in signals or signals[name].fixed_state}
        sharing["signals"] = fixed
    return {**state, "group": {**state["group"], "stacks": stacks}, "sharing": sharing}


def _refuse_changes(
    config: Config, before: dict[str, Any], env: Maker | None, advisers: Sequence[Any] | None, changed: set[str]
) -> None:
    """Raise UserError if config.yaml differs from the configuration of the checkpoint, except in the settings
    `changed`; names the first difference."""
    now, objects = to_dict(config), {"env": env, "advisers": advisers}
    free = FREE | changed | {name for name, given in objects.items() if given is not None}  # named after the objects
    for part, values in (("", now), *((part, now[part]) for part in now if isinstance(now[part], dict))):
        old = before if not part else before.get(part, {})
        for name, value in values.items():
            if name in free or name not in old or (not part and name in parts()):
                continue
            if json.loads(json.dumps(value)) != old[name]:
                raise UserError(
                    f"config.yaml says {f'{part}.{name}' if part else name}: {value}, but the checkpoint was written "
                    f"with {old[name]}: restore this value, or train again from the start"
                )
