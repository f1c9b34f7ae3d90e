"""The dry run of a sweep: the state of each run, its expected time, and what the estimate is based on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from peerage.sweeps.launch import POLL_SECONDS, LocalLauncher
from peerage.sweeps.plan import Sweep
from peerage.sweeps.progress import Progress, share, summary_of
from peerage.sweeps.state import Speeds, State, total_duration
from peerage.text import count, duration

MEASURED_STEPS = 300
LABELS = {"train": "train", "resume": "resume", "done": "done", "differs": "DIFFERS", "elsewhere": "under way"}


def make_plan(
    sweep: Sweep, states: Mapping[str, State], slots: int, measure: bool, progress: Progress
) -> dict[str, Any]:
    """The plan as plain data: `runs`, with the state, the steps and the estimated time of each, and the sum of them.

    With `measure`, first time one run of each kind whose speed is unknown, with a line of `progress` for each.
    Writes nothing.
    """
    speeds = Speeds()
    speeds.add_sweep(sweep, states)
    if measure:
        _measure(sweep, states, speeds, progress)
    rows: list[dict[str, Any]] = []
    lengths: list[float | None] = []
    for run in sweep.runs:
        state, seconds, basis = states[run.name], None, ""
        notes = [f"from {share(run, state.step)}"] if state.status == "resume" else []
        notes += [state.detail] if state.detail else []
        if state.status in ("train", "resume", "elsewhere"):
            lengths.append(seconds := speeds.remaining_seconds(run.resolved, state.step))
            basis = speeds.basis(run.resolved) if seconds is not None else ""
            unknown = "unknown" if measure else "unknown: use --measure"
            notes.append(unknown if seconds is None else f"about {duration(seconds)}, {basis}")
        rows.append({"run": run.name, "state": LABELS[state.status], "steps": run.resolved.steps, "done": state.step,
                     "seconds": seconds, "basis": basis, "detail": state.detail, "time": "; ".join(notes)})  # fmt: skip
    known = [length for length in lengths if length is not None]
    return {
        "runs": rows,
        "summary": f"{summary_of(states)}; {slots} at the same time, in {sweep.where}",
        "folder": str(sweep.where),
        "jobs": slots,
        "unknown": lengths.count(None),
        "seconds": total_duration(known, slots) if known else None,
    }


def print_plan(plan: Mapping[str, Any]) -> None:
    """Print the result of `make_plan` as a table."""
    width = max(len(row["run"]) for row in plan["runs"])
    print(f"{'run':{width}}  {'state':9}  {'steps':>12}  time")
    for row in plan["runs"]:
        print(f"{row['run']:{width}}  {row['state']:9}  {row['steps']:12,}  {row['time']}".rstrip())
    print(f"\n{plan['summary']}")
    if unknowns := plan["unknown"]:
        print(f"the time of {count(unknowns, 'run')} is unknown: no run of this kind has been trained yet")
    if plan["seconds"] is not None:
        print(f"training time: {'at least ' if unknowns else ''}about {duration(plan['seconds'])}")


def _measure(sweep: Sweep, states: Mapping[str, State], speeds: Speeds, progress: Progress) -> None:
    """Time one run after the other."""
    for run in sweep.runs:
        if states[run.name].status not in ("train", "resume") or speeds.known(run.resolved):
            continue
        progress.say(f"{run.name}: timing {MEASURED_STEPS} steps")
        launcher = LocalLauncher(1, run.config.threads or 1)
        try:
            launcher.submit(sweep.task(run, measure=MEASURED_STEPS))
            while not (ended := launcher.poll()):
                time.sleep(POLL_SECONDS)
        finally:
            launcher.kill()
        if ended[0].status:
            progress.say_error(f"{run.name}: cannot be timed: {ended[0].why}")
        else:
            speeds.add_measurement(run.resolved, MEASURED_STEPS, json.loads(ended[0].why))
