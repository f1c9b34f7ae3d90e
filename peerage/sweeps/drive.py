"""A sweep from its file to its end: what is missing is trained, what was interrupted resumed, what is done skipped."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from peerage.config.plain_yaml import parse, short
from peerage.errors import UserError
from peerage.runs.folder import RunFolder, is_run, write_atomically
from peerage.statistics.sources import MANIFEST
from peerage.sweeps.dry_run import print_plan
from peerage.sweeps.launch import PAUSE, Ended, Launcher, LocalLauncher, cores
from peerage.sweeps.plan import PlannedRun, Sweep, plan_sweep
from peerage.sweeps.progress import Progress, counted, share
from peerage.sweeps.state import Pace, come, holder, look, together
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
) -> int:
    """Train what a sweep asks for: `source` is the name of one that is shipped, or a file (docs/sweeps.md).

    `jobs` runs at the same time, by default as many as there are cores for. `dry_run` prints what would be done and
    writes nothing; with `measure` it times runs of unknown speed. `log_dir` is the sweep's folder instead of the
    file's `where`; `settings` are fields of `peerage.config` by name, laid over the file's. `command` is for the runs'
    command.txt. `launcher` trains somewhere else.

    Returns the exit status: 0 if all runs are done, 1 if some are not, 128 + a signal's number if one ended it.
    Raises UserError, before anything is written, for whatever does not fit.
    """
    if measure and not dry_run:
        raise UserError("--measure is for --dry-run: a sweep that runs measures itself")
    elsewhere = [] if log_dir is None else ["--log-dir", log_dir]
    command = command or ["peerage", "sweep", source, *elsewhere]
    try:
        sweep = plan_sweep(source, log_dir=log_dir, settings=settings)
        _check_place(sweep)
        slots, note = _slots(jobs, sweep.threads)
        progress = Progress(verbose)
        for line in (*sweep.notes, *filter(None, [note])):
            progress.say(line)
        if dry_run:
            print_plan(sweep, slots, measure)
            return 0
        return _train(sweep, LocalLauncher(slots, sweep.threads) if launcher is None else launcher, progress, command)
    except KeyboardInterrupt as error:  # while it plans: nobody listens to signals yet
        if not dry_run:
            error.then = f"`{shlex.join(command)}` goes on"  # type: ignore[attr-defined]  # for who tells the user
        raise


def _train(sweep: Sweep, launcher: Launcher, progress: Progress, command: Sequence[str]) -> int:
    """The exit status."""
    try:
        sweep.where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the sweep's folder {sweep.where}: {error.strerror or error}") from error
    with RunFolder(sweep.where):  # its lock: one sweep at a time
        write_atomically(sweep.where / MANIFEST, sweep.manifest())
        try:
            return _Driver(sweep, launcher, progress, command).drive()
        finally:
            progress.stop()
            launcher.close()


def _check_place(sweep: Sweep) -> None:
    """UserError if another sweep, a run or a file is in the sweep's place."""
    where = sweep.where
    for parent in (where, *where.parents):
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{where}: {parent} is not a folder; `where` or --log-dir says where the runs go")
    if is_run(where):
        raise UserError(f"{where} is a run, not a place for a sweep: use another `where` or --log-dir")
    path = where / MANIFEST
    if path.is_file():
        there = parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
        name = there.get("name") if isinstance(there, dict) else None
        if name != sweep.name:
            raise UserError(f"{where} holds the sweep {short(name)}: use another `where` or --log-dir")


def _slots(jobs: int | None, threads: int) -> tuple[int, str]:
    """How many runs at the same time, within the cores, and a line if that is fewer than was asked for."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")
    here = len(cores())
    most = max(1, here // threads)
    if jobs is None or jobs <= most:
        return jobs or most, ""
    each = f" for {count(threads, 'thread')} each" if threads > 1 else ""
    return most, f"--jobs {jobs} is more than {count(here, 'core')} can do{each}: {most} at the same time"


# --- the real one -------------------------------------------------------------------------------------------


class _Driver:
    """Hands runs to a launcher as places become free."""

    def __init__(self, sweep: Sweep, launcher: Launcher, progress: Progress, command: Sequence[str]) -> None:
        self.sweep, self.launcher, self.progress, self.command = sweep, launcher, progress, command
        self.states = {run.name: look(run, sweep.folder(run)) for run in sweep.runs}
        self.waiting = [run for run in sweep.runs if self.states[run.name].what in ("train", "resume", "elsewhere")]
        self.running: dict[str, tuple[PlannedRun, float]] = {}  # and when it began
        self.done = {run.name for run in sweep.runs if self.states[run.name].what == "done"}
        self.failed: dict[str, str] = {}
        self.pace = Pace()

    def drive(self) -> int:
        self.progress.say(f"{counted(self.states)}; {self.launcher.slots} at the same time, in {self.sweep.where}")
        for run in self.sweep.runs:
            if self.states[run.name].what == "differs":
                self._differs(run, self.states[run.name].about)
        if self.waiting and self.progress.verbose:
            self.pace.see_all(self.sweep, self.states)
        with Interrupt() as interrupt:
            try:
                self.progress.start()
                self._loop(interrupt)
            except (KeyboardInterrupt, SystemExit):  # a second signal
                self.progress.complain(f"not waiting for {count(len(self.running), 'checkpoint')}")
                self.launcher.kill()
            finally:
                self.progress.stop()
                self.launcher.stop()  # what still runs after a fault of ours
                while self.running:
                    for ended in self.launcher.poll():
                        self.running.pop(ended.name)
                    time.sleep(PAUSE)
        return self._result(interrupt.number)

    def _loop(self, interrupt: Interrupt) -> None:
        stopping = False
        while self.waiting or self.running:
            if interrupt.asked and not stopping:
                stopping, self.waiting = True, []
                self.launcher.stop()
                if self.running:
                    runs = count(len(self.running), "run")
                    self.progress.say(f"{interrupt.name}: {runs} to write a checkpoint; a second one does not wait")
            for ended in self.launcher.poll():
                self._ended(ended, stopping or interrupt.asked)  # a worker that has just begun hears the keyboard too
            if not (stopping or interrupt.asked):
                self._fill()
            if self.waiting or self.running:
                self.progress.show(self._lines)
                time.sleep(PAUSE)

    def _fill(self) -> None:
        """Begin runs while there are places; those that another process trains wait for its end."""
        for run in list(self.waiting):
            if len(self.running) >= self.launcher.slots:
                return
            folder = self.sweep.folder(run)
            if holder(folder):
                continue
            self.waiting.remove(run)
            state = look(run, folder)  # as it is by now
            if state.what == "elsewhere":
                self.waiting.append(run)
            elif state.what == "done":
                self.done.add(run.name)
                self.progress.say(f"{run.name}: done by another process")
            elif state.what == "differs":
                self._differs(run, state.about)
            else:
                what = f"resumed from {share(run, state.step)}" if state.what == "resume" else "begun"
                self.progress.say(f"{run.name}: {what}")
                self.running[run.name] = (run, time.monotonic())
                self.launcher.submit(self.sweep.task(run, resume=state.what == "resume", command=self.command))

    def _differs(self, run: PlannedRun, about: str) -> None:
        self.failed[run.name] = f"not what is asked for, left as it is: {about}"
        self.progress.complain(f"{run.name}: {self.failed[run.name]}")

    def _ended(self, ended: Ended, stopping: bool) -> None:
        run, began = self.running.pop(ended.name)
        if ended.status == 0 and RunFolder(self.sweep.folder(run)).status()[0] == "DONE":
            self.done.add(run.name)
            self.progress.say(f"{run.name}: done in {duration(time.monotonic() - began)}")
        elif stopping and (ended.interrupted or not ended.why):
            self.progress.say(f"{run.name}: interrupted")
        else:
            self.failed[run.name] = ended.why or "interrupted"
            self.progress.complain(f"{run.name}: failed: {self.failed[run.name]}")

    def _lines(self) -> list[str]:
        """One for each run that is trained, and one for the whole."""
        lines, lengths = [], []
        for run, _ in self.running.values():
            folder = self.sweep.folder(run)
            self.pace.see(run.resolved, folder)
            step = come(folder)
            lengths.append(left := self.pace.seconds(run.resolved, step))
            about = "unknown" if left is None else f"about {duration(left)}, {self.pace.basis(run.resolved)}"
            lines.append(f"{run.name}: {share(run, step)}; time left: {about}")
        lengths += [self.pace.seconds(run.resolved, self.states[run.name].step) for run in self.waiting]
        if away := [run.name for run in self.waiting if self.states[run.name].what == "elsewhere"]:
            lines.append(f"{count(len(away), 'run')} trained by another process: {short(', '.join(away))}")
        known = [length for length in lengths if length is not None]
        left_text = ""
        if known:
            at_least = "at least " if len(known) < len(lengths) else "about "
            left_text = f", {at_least}{duration(together(known, self.launcher.slots))} left"
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
            self.progress.complain(f"{name}: {done} of {runs} runs are done; `{again}` goes on")
            return 128 + signal_number
        self.progress.complain(f"{done} of {runs} runs are done, {runs - done} not; `{again}` tries those again")
        return 1
