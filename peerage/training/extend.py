"""Extends a run: more steps than it was started with.

An extension is written to the run folder in this order: an entry `extended` in environment.json, `total_timesteps` in
config.yaml; then the file DONE is removed. A resume after a kill at any point in between continues the run to the
length in config.yaml; the entry shows that the length was not changed by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peerage.config.file import convert, to_dict
from peerage.errors import UserError
from peerage.runs.folder import RunFolder


def steps_to_extend(folder: RunFolder, total_timesteps: int | None) -> int | None:
    """The new length of the run in steps per member, or None if it stays the same. Raises UserError if
    `total_timesteps` is less than the present length."""
    if total_timesteps is None:
        return None
    present, total_timesteps = folder.resolved().steps, convert(int, total_timesteps, "--total-timesteps")
    if total_timesteps < present:
        raise UserError(
            f"--total-timesteps {total_timesteps:,} is less than the {present:,} steps of {folder.path}: a run can be "
            "extended, but not shortened"
        )
    return None if total_timesteps == present else total_timesteps


def is_complete(folder: RunFolder) -> bool:
    """Whether the run is DONE and has all steps of config.yaml, which an extension may have increased since."""
    status, line = folder.status()
    if status != "DONE":
        return False
    step = line.get("step")
    return not isinstance(step, int) or step >= folder.resolved().steps


def refuse_schedules(schedules: Sequence[str], run: Path | str, steps: int) -> None:
    """Raise UserError if there are schedules that depend on the length of the run."""
    if schedules:
        raise UserError(
            f"{run} has schedules that depend on --total-timesteps: {'; '.join(schedules)}. --stretch-schedules "
            f"computes them for {steps:,} steps from here on; the result then differs from a run that was started with "
            "this length"
        )


def extend(folder: RunFolder, steps: int, step: int, stretched: Sequence[str]) -> None:
    """Set the length of the run to `steps`, after `step` of them; `stretched` describes its stretched schedules."""
    config = folder.resolved()
    folder.note_extension({"step": step, "from": config.steps, "to": steps, "stretched": list(stretched)})
    folder.write_config(to_dict(replace(config, total_timesteps=steps)))


def is_extension(folder: RunFolder, steps: int) -> bool:
    """Whether the length `steps` of the run results from an extension."""
    return any(entry["to"] == steps for entry in folder.extensions())


def describe_extension(before: int, after: int, stretched: Sequence[str]) -> str:
    """One line about an extension, for the log."""
    line = f"extended from {before:,} to {after:,} steps"
    return f"{line}; stretched schedules: {'; '.join(stretched)}" if stretched else line


def command_of(run: Path | str, steps: int | None, stretch: bool) -> list[str]:
    """The command that does what a resume from Python does."""
    flags = [] if steps is None else ["--total-timesteps", str(steps)]
    return ["peerage", "resume", str(run), *flags, *(["--stretch-schedules"] if stretch else [])]
