"""The dry run of a sweep: the state of each run, its expected time, and what the estimate is based on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from peerage.sweeps.launch import POLL_SECONDS, LocalLauncher
from peerage.sweeps.plan import Sweep
from peerage.sweeps.progress import share, summary_of
from peerage.sweeps.state import Speeds, State, inspect_run, total_duration
from peerage.text import count, duration

MEASURED_STEPS = 300
LABELS = {"train": "train", "resume": "resume", "done": "done", "differs": "DIFFERS", "elsewhere": "under way"}


def print_plan(sweep: Sweep, slots: int, measure: bool) -> None:
    """Print the plan. With `measure`, first time one run of each kind whose speed is unknown. Writes nothing."""
    states = {run.name: inspect_run(run, sweep.folder(run)) for run in sweep.runs}
    speeds = Speeds()
    speeds.add_sweep(sweep, states)
    if measure:
        _measure(sweep, states, speeds)
    width = max(len(run.name) for run in sweep.runs)
    print(f"{'run':{width}}  {'state':9}  {'steps':>12}  time")
    lengths: list[float | None] = []
    for run in sweep.runs:
        state, left = states[run.name], None
        notes = [f"from {share(run, state.step)}"] if state.status == "resume" else []
        notes += [state.detail] if state.detail else []
        if state.status in ("train", "resume", "elsewhere"):
            lengths.append(left := speeds.remaining_seconds(run.resolved, state.step))
            unknown = "unknown" if measure else "unknown: use --measure"
            notes.append(unknown if left is None else f"about {duration(left)}, {speeds.basis(run.resolved)}")
        print(f"{run.name:{width}}  {LABELS[state.status]:9}  {run.resolved.steps:12,}  {'; '.join(notes)}".rstrip())
    print(f"\n{summary_of(states)}; {slots} at the same time, in {sweep.where}")
    if unknowns := lengths.count(None):
        print(f"the time of {count(unknowns, 'run')} is unknown: no run of this kind has been trained yet")
    if known := [length for length in lengths if length is not None]:
        print(f"training time: {'at least ' if unknowns else ''}about {duration(total_duration(known, slots))}")


def _measure(sweep: Sweep, states: Mapping[str, State], speeds: Speeds) -> None:
    """Time one run after the other."""
    for run in sweep.runs:
        if states[run.name].status not in ("train", "resume") or speeds.known(run.resolved):
            continue
        print(f"{run.name}: timing {MEASURED_STEPS} steps", flush=True)
        launcher = LocalLauncher(1, run.config.threads or 1)
        try:
            launcher.submit(sweep.task(run, measure=MEASURED_STEPS))
            while not (ended := launcher.poll()):
                time.sleep(POLL_SECONDS)
        finally:
            launcher.kill()
        if ended[0].status:
            print(f"{run.name}: cannot be timed: {ended[0].why}")
        else:
            speeds.add_measurement(run.resolved, MEASURED_STEPS, json.loads(ended[0].why))
