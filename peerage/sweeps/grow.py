"""A sweep that has been trained and grows: more replicas, of which only the missing ones are planned, and longer runs.

The replicas of a run share a process and a folder, and replicas cannot be added to an existing folder. Missing replicas
are therefore trained as a separate run, `NAME_replicas5-7`, with another seed. It has the same settings and axes, so
that statistics pool it with the first one: replicas are as independent as runs with different seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from peerage.config.file import to_dict
from peerage.errors import UserError
from peerage.loading import deferred
from peerage.runs.folder import is_run
from peerage.sweeps.plan import PlannedRun, Sweep
from peerage.sweeps.state import State, inspect_run
from peerage.text import count

schedules_of = deferred("peerage.training.schedules:schedules_of")  # imports torch

SEED_STEP = 1_000_003
"""The seed of a run of additional replicas is that of the first run plus this number times the first new replica."""


def with_missing_replicas(sweep: Sweep) -> Sweep:
    """`sweep`, in which every run whose folder has fewer replicas is replaced by the run in its folder and runs of the
    missing replicas. A message says which. Reads the folders and writes nothing."""
    runs: list[PlannedRun] = []
    notes = list(sweep.notes)
    for run in sweep.runs:
        parts = _parts(run, sweep.where)
        runs += parts
        if len(parts) > 1 and not sweep.folder(parts[-1]).exists():
            have, asked = run.resolved.replicas - parts[-1].resolved.replicas, run.resolved.replicas
            notes.append(f"{run.name} has {have} of {asked} replicas: {parts[-1].name} has the others")
    return replace(sweep, runs=tuple(runs), notes=tuple(notes))


def _parts(run: PlannedRun, where: Path) -> list[PlannedRun]:
    """The runs that hold the replicas of a planned run."""
    asked, have = run.resolved.replicas, _replicas_in(run, where / run.name)
    if have is None:
        return [run]
    parts = [_with(run, run.name, run.seed, have)]
    while have < asked:
        seed, known = run.seed + SEED_STEP * have, list(where.glob(f"{_escaped(run.name)}_replicas{have}-*"))
        part = _with(run, known[0].name if known else f"{run.name}_replicas{have}-{asked - 1}", seed, asked - have)
        number = _replicas_in(part, where / part.name) or asked - have
        parts.append(_with(run, part.name, seed, number))
        have += number
    return parts


def _with(run: PlannedRun, name: str, seed: int, replicas: int) -> PlannedRun:
    config, resolved = (
        replace(c, seed=seed, replicas=replicas, run=replace(c.run, exp_name=name)) for c in (run.config, run.resolved)
    )
    return replace(run, name=name, seed=seed, config=config, resolved=resolved)


def _replicas_in(run: PlannedRun, folder: Path) -> int | None:
    """The number of replicas of the run in `folder`, if it has fewer than `run` and is equal in everything else;
    otherwise None."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8") if is_run(folder) else ""
    except (OSError, UnicodeError):
        return None
    found = re.search(r"^replicas: (\d{1,5})$", text, re.MULTILINE)  # parsing the YAML of all runs would be slow
    replicas = int(found[1]) if found else 0
    if not 1 <= replicas < run.resolved.replicas:
        return None
    return None if inspect_run(_with(run, run.name, run.seed, replicas), folder).status == "differs" else replicas


def _escaped(name: str) -> str:
    """`name` as a pattern that matches itself."""
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def refuse_schedules(sweep: Sweep, states: Mapping[str, State]) -> None:
    """Raise UserError if a run would be extended after its start and has schedules that depend on its length."""
    extended = [run for run in sweep.runs if states[run.name].extended_from and _has_begun(sweep.folder(run))]
    known: set[str] = set()
    for run in extended:
        settings = to_dict(replace(run.config, seed=0, replicas=1))
        del settings["run"]
        if (kind := json.dumps(settings)) in known:
            continue
        known.add(kind)
        if schedules := schedules_of(run.config):
            lengths = f"{states[run.name].extended_from:,} to {run.resolved.steps:,} steps"
            raise UserError(
                f"{count(len(extended), 'run')} would be extended, such as {run.name} from {lengths}, but schedules "
                f"depend on --total-timesteps: {'; '.join(schedules)}. --stretch-schedules computes them for the new "
                "length from now on; the results then differ from runs that are started with it"
            )


def _has_begun(folder: Path) -> bool:
    """Whether a checkpoint after step 0 exists: a run without one starts with its new length."""
    steps = (path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*"))
    return any(re.match(r"0*[1-9]", step) for step in steps)
