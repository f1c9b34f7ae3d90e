"""Train a sweep: missing runs are trained, interrupted ones resumed, finished ones skipped."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peerage.config.plain_yaml import parse, short
from peerage.errors import UserError
from peerage.runs.folder import RunFolder, is_run, write_atomically
from peerage.runs.progress import completed_steps, training_process
from peerage.statistics.sources import MANIFEST
from peerage.sweeps.dry_run import make_plan, print_plan
from peerage.sweeps.grow import refuse_schedules, with_missing_replicas
from peerage.sweeps.launch import POLL_SECONDS, Ended, Launcher, LocalLauncher, cores
from peerage.sweeps.plan import PlannedRun, Sweep, plan_sweep
from peerage.sweeps.progress import Progress, share, summary_of
from peerage.sweeps.state import Speeds, State, inspect_run, total_duration
from peerage.text import count, duration
from peerage.training.signals import Interrupt


def run(
    source: str,
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    measure: bool = False,
    log_dir: str | None = None,
    verbose: int = 1,
    settings: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    launcher: Launcher | None = None,
    stretch_schedules: bool = False,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Train the runs of a sweep.

    Args:
        source: the name of a built-in sweep, or a sweep file (docs/sweeps.md).
        jobs: number of runs that are trained at the same time; by default as many as the CPU cores allow.
        dry_run: print the plan and write nothing.
        measure: with `dry_run`, time runs whose speed is unknown.
        log_dir: the folder of the sweep, instead of the file's `where`.
        verbose: 0: errors only; 1: progress.
        settings: fields of `peerage.config` by name, which override the file's.
        command: the command line, for the command.txt of the runs.
        launcher: trains the runs, by default in processes on this machine.
        stretch_schedules: extend runs that are shorter than in the sweep even if schedules depend on their length
            (`peerage.resume`).
        show: with `dry_run`, called with the plan as plain data, instead of printing it.

    Returns the exit status: 0 if all runs are done, 1 if some are not, 128 + the number of a signal that ended the
    sweep. Raises UserError for an invalid sweep, before anything is written.
    """
    if measure and not dry_run:
        raise UserError("--measure needs --dry-run: a sweep that trains times its own runs")
    elsewhere = [] if log_dir is None else ["--log-dir", log_dir]
    command = command or ["peerage", "sweep", source, *elsewhere]
    try:
        sweep = with_missing_replicas(plan_sweep(source, log_dir=log_dir, settings=settings))
        _check_place(sweep)
        slots, note = _slots(jobs, sweep.threads)
        progress = Progress(verbose if show is None else 0)
        notes = [*sweep.notes, *filter(None, [note])]
        for line in notes:
            progress.say(line)
        states = {run.name: inspect_run(run, sweep.folder(run)) for run in sweep.runs}
        if not stretch_schedules:
            refuse_schedules(sweep, states)
        if dry_run:
            plan = make_plan(sweep, states, slots, measure, progress)
            print_plan(plan) if show is None else show({"notes": notes, **plan})
            return 0
        launcher = LocalLauncher(slots, sweep.threads) if launcher is None else launcher
        return _train(sweep, states, launcher, progress, command, stretch_schedules)
    except KeyboardInterrupt as error:  # while planning, before `Interrupt` handles signals
        if not dry_run:
            error.then = f"`{shlex.join(command)}` continues"  # type: ignore[attr-defined]  # printed by the command line
        raise


def _train(
    sweep: Sweep,
    states: dict[str, State],
    launcher: Launcher,
    progress: Progress,
    command: Sequence[str],
    stretch: bool,
) -> int:
    """Train the runs that are not done; returns the exit status."""
    try:
        sweep.where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the sweep's folder {sweep.where}: {error.strerror or error}") from error
    with RunFolder(sweep.where):  # locks the folder: one process at a time trains a sweep
        write_atomically(sweep.where / MANIFEST, sweep.manifest())
        try:
            return _Driver(sweep, states, launcher, progress, command, stretch).drive()
        finally:
            progress.stop()
            launcher.close()


def _check_place(sweep: Sweep) -> None:
    """UserError if the folder of the sweep is a file, a run, or the folder of another sweep."""
    where = sweep.where
    for parent in (where, *where.parents):
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{where}: {parent} is not a folder; `where` or --log-dir sets the folder of the runs")
    if is_run(where):
        raise UserError(f"{where} is a run, and a sweep needs its own folder: use another `where` or --log-dir")
    path = where / MANIFEST
    if path.is_file():
        there = parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
        name = there.get("name") if isinstance(there, dict) else None
        if name != sweep.name:
            raise UserError(f"{where} contains the sweep {short(name)}: use another `where` or --log-dir")


def _slots(jobs: int | None, threads: int) -> tuple[int, str]:
    """The number of runs at the same time, and a message if the cores allow fewer than `jobs`."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")
    here = len(cores())
    most = max(1, here // threads)
    if jobs is None or jobs <= most:
        return jobs or most, ""
    each = f" for {count(threads, 'thread')} each" if threads > 1 else ""
    return most, f"--jobs {jobs} is more than {count(here, 'core')} allow{each}: {most} at the same time"


class _Driver:
    """Submits runs to a launcher as slots become free, and keeps account of them."""

    def __init__(
        self,
        sweep: Sweep,
        states: dict[str, State],
        launcher: Launcher,
        progress: Progress,
        command: Sequence[str],
        stretch: bool = False,
    ) -> None:
        self.sweep, self.states, self.launcher, self.progress = sweep, states, launcher, progress
        self.command, self.stretch = command, stretch
        self.waiting = [run for run in sweep.runs if self.states[run.name].status in ("train", "resume", "elsewhere")]
        self.running: dict[str, tuple[PlannedRun, float]] = {}  # name -> run, start time
        self.done = {run.name for run in sweep.runs if self.states[run.name].status == "done"}
        self.failed: dict[str, str] = {}
        self.speeds = Speeds()

    def drive(self) -> int:
        """Train the waiting runs; returns the exit status."""
        self.progress.say(f"{summary_of(self.states)}; {self.launcher.slots} at the same time, in {self.sweep.where}")
        for run in self.sweep.runs:
            if self.states[run.name].status == "differs":
                self._differs(run, self.states[run.name].detail)
        if self.waiting and self.progress.verbose:
            self.speeds.add_sweep(self.sweep, self.states)
        with Interrupt() as interrupt:
            try:
                self.progress.start()
                self._loop(interrupt)
            except (KeyboardInterrupt, SystemExit):  # a second signal
                self.progress.say_error(f"not waiting for {count(len(self.running), 'checkpoint')}")
                self.launcher.kill()
            finally:
                self.progress.stop()
                self.launcher.stop()  # runs that are left after an error
                while self.running:
                    for ended in self.launcher.poll():
                        self.running.pop(ended.name)
                    time.sleep(POLL_SECONDS)
        return self._result(interrupt.number)

    def _loop(self, interrupt: Interrupt) -> None:
        stopping = False
        while self.waiting or self.running:
            if interrupt.asked and not stopping:
                stopping, self.waiting = True, []
                self.launcher.stop()
                if self.running:
                    runs = count(len(self.running), "run")
                    self.progress.say(
                        f"{interrupt.name}: {runs} to write a checkpoint; a second signal ends the sweep immediately"
                    )
            for ended in self.launcher.poll():
                self._ended(ended, stopping or interrupt.asked)  # a worker that has just started may receive Ctrl-C too
            if not (stopping or interrupt.asked):
                self._fill()
            if self.waiting or self.running:
                self.progress.show(self._lines)
                time.sleep(POLL_SECONDS)

    def _fill(self) -> None:
        """Start runs while there are free slots. A run that another process trains waits until that process ends."""
        for run in list(self.waiting):
            if len(self.running) >= self.launcher.slots:
                return
            folder = self.sweep.folder(run)
            if training_process(folder):
                continue
            self.waiting.remove(run)
            state = inspect_run(run, folder)  # its current state
            if state.status == "elsewhere":
                self.waiting.append(run)
            elif state.status == "done":
                self.done.add(run.name)
                self.progress.say(f"{run.name}: done by another process")
            elif state.status == "differs":
                self._differs(run, state.detail)
            else:
                what = f"resumed from {share(run, state.step)}" if state.status == "resume" else "started"
                self.progress.say(f"{run.name}: {what}{f', {state.detail}' if state.detail else ''}")
                self.running[run.name] = (run, time.monotonic())
                resume = state.status == "resume"
                task = self.sweep.task(run, resume=resume, command=self.command, stretch=self.stretch)
                self.launcher.submit(task)

    def _differs(self, run: PlannedRun, detail: str) -> None:
        self.failed[run.name] = f"differs from the sweep, left unchanged: {detail}"
        self.progress.say_error(f"{run.name}: {self.failed[run.name]}")

    def _ended(self, ended: Ended, stopping: bool) -> None:
        run, began = self.running.pop(ended.name)
        if ended.status == 0 and (there := RunFolder(self.sweep.folder(run))).has_ended():
            self.done.add(run.name)
            status, line = there.status()
            early = f", stopped early: {line.get('why')}" if status == "STOPPED" else ""
            self.progress.say(f"{run.name}: done in {duration(time.monotonic() - began)}{early}")
        elif stopping and (ended.interrupted or not ended.why):
            self.progress.say(f"{run.name}: interrupted")
        else:
            self.failed[run.name] = ended.why or "interrupted"
            self.progress.say_error(f"{run.name}: failed: {self.failed[run.name]}")

    def _lines(self) -> list[str]:
        """The progress: a line per running run, and one about the sweep."""
        lines, lengths = [], []
        for run, _ in self.running.values():
            folder = self.sweep.folder(run)
            self.speeds.add_run(run.resolved, folder)
            step = completed_steps(folder)
            lengths.append(left := self.speeds.remaining_seconds(run.resolved, step))
            estimate = "unknown" if left is None else f"about {duration(left)}, {self.speeds.basis(run.resolved)}"
            lines.append(f"{run.name}: {share(run, step)}; time left: {estimate}")
        lengths += [self.speeds.remaining_seconds(run.resolved, self.states[run.name].step) for run in self.waiting]
        if away := [run.name for run in self.waiting if self.states[run.name].status == "elsewhere"]:
            lines.append(f"{count(len(away), 'run')} trained by another process: {short(', '.join(away))}")
        known = [length for length in lengths if length is not None]
        left_text = ""
        if known:
            at_least = "at least " if len(known) < len(lengths) else "about "
            left_text = f", {at_least}{duration(total_duration(known, self.launcher.slots))} left"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return [*lines, f"{len(self.done)} of {count(len(self.sweep.runs), 'run')} done{failed}{left_text}"]

    def _result(self, signal_number: int | None) -> int:
        done, runs = len(self.done), len(self.sweep.runs)
        if done == runs:
            all_done = "the run is done" if runs == 1 else f"all {runs} runs are done"
            self.progress.say(f"{all_done}; `peerage compare {shlex.quote(str(self.sweep.where))}` compares them")
            return 0
        again = shlex.join(self.command)
        if signal_number is not None:
            name = signal.Signals(signal_number).name
            self.progress.say_error(f"{name}: {done} of {runs} runs are done; `{again}` continues")
            return 128 + signal_number
        left = f"{runs - done} {'is' if runs - done == 1 else 'are'} not"
        self.progress.say_error(f"{done} of {runs} runs are done, {left}; `{again}` tries again")
        return 1
