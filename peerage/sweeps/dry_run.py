"""A sweep's dry run: what would be done to each run, how long it would take, and how that is known."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from peerage.sweeps.launch import PAUSE, LocalLauncher
from peerage.sweeps.plan import Sweep
from peerage.sweeps.progress import counted, share
from peerage.sweeps.state import Pace, State, look, together
from peerage.text import count, duration

MEASURE = 300
"""Steps of a measurement."""
SHORTLY = {"train": "train", "resume": "resume", "done": "done", "differs": "DIFFERS", "elsewhere": "under way"}


def print_plan(sweep: Sweep, slots: int, measure: bool) -> None:
    """Print it; `measure` times one run of each kind of which nothing is known. Writes nothing."""
    states = {run.name: look(run, sweep.folder(run)) for run in sweep.runs}
    pace = Pace()
    pace.see_all(sweep, states)
    if measure:
        _measure(sweep, states, pace)
    width = max(len(run.name) for run in sweep.runs)
    print(f"{'run':{width}}  {'what':9}  {'steps':>12}  time")
    lengths: list[float | None] = []
    for run in sweep.runs:
        state, left = states[run.name], None
        notes = [f"from {share(run, state.step)}"] if state.what == "resume" else []
        notes += [state.about] if state.about else []
        if state.what in ("train", "resume", "elsewhere"):
            lengths.append(left := pace.seconds(run.resolved, state.step))
            unknown = "unknown" if measure else "unknown: use --measure"
            notes.append(unknown if left is None else f"about {duration(left)}, {pace.basis(run.resolved)}")
        print(f"{run.name:{width}}  {SHORTLY[state.what]:9}  {run.resolved.steps:12,}  {'; '.join(notes)}".rstrip())
    print(f"\n{counted(states)}; {slots} at the same time, in {sweep.where}")
    if unknowns := lengths.count(None):
        print(f"nobody knows how long {count(unknowns, 'run')} will take: there is none of the kind yet")
    if known := [length for length in lengths if length is not None]:
        print(f"training time: {'at least ' if unknowns else ''}about {duration(together(known, slots))}")


def _measure(sweep: Sweep, states: Mapping[str, State], pace: Pace) -> None:
    """One after the other."""
    for run in sweep.runs:
        if states[run.name].what not in ("train", "resume") or pace.known(run.resolved):
            continue
        print(f"{run.name}: timing {MEASURE} steps", flush=True)
        launcher = LocalLauncher(1, run.config.threads or 1)
        try:
            launcher.submit(sweep.task(run, measure=MEASURE))
            while not (ended := launcher.poll()):
                time.sleep(PAUSE)
        finally:
            launcher.kill()
        if ended[0].status:
            print(f"{run.name}: cannot be timed: {ended[0].why}")
        else:
            pace.measured(run.resolved, MEASURE, json.loads(ended[0].why))
