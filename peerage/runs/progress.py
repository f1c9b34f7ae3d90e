"""The progress of a training according to its run folder. Only reads files."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from peerage.config import Config
from peerage.runs.folder import RunFolder

try:
    import fcntl
except ImportError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

RATE_SECONDS = 30.0
"""The speed of a training is computed over this many last seconds."""


def training_process(folder: Path) -> str:
    """The process that is training in a folder (`process 1234 on host`); empty if there is none."""
    if fcntl is None:
        return ""
    try:
        with (folder / ".lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(100).decode(errors="replace").strip() or "another process"
    except OSError:
        pass
    return ""


def trainer(folder: Path) -> int | None:
    """The number of the process of this machine that is training in a folder; None if there is none.

    `.lock` names the process that trained last. It counts only while it has this file open, so that a new process with
    the same number is not mistaken for it. The lock itself is not touched, except on systems without /proc.
    """
    try:
        path = folder / ".lock"
        if not path.is_file():  # reading a pipe would block
            return None
        lock = path.stat()
        named = re.match(r"process (\d+) on (.+)", path.read_text(encoding="utf-8", errors="replace"))
        if named is None or named[2].strip() != platform.node():
            return None
        if not Path("/proc/self/fd").is_dir():
            return int(named[1]) if training_process(folder) else None
        for file in Path(f"/proc/{named[1]}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed in the meantime
                if os.path.samestat(file.stat(), lock):
                    return int(named[1])
    except OSError:  # no lock, or no such process, or one of another user
        pass
    return None


def timing(folder: Path) -> list[tuple[int, float]]:
    """(step, seconds since the run began, summed over its resumes) in the order of steps, from timing.csv.

    The seconds do not include imports, the last evaluation and the report.
    """
    try:
        lines = (folder / "timing.csv").read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    except (OSError, UnicodeError):
        return []
    rows: list[tuple[int, float]] = []
    begins = _resumes(folder)
    total, before = 0.0, 0.0
    for line in lines:
        cells = line.split(",")
        try:
            if line.endswith("\n"):  # otherwise the line is incomplete
                at, seconds = int(cells[0]), float(cells[1])
                if seconds < before:  # the clock restarts at a resume
                    before = 0.0
                while begins and at > begins[0]:
                    before = 0.0
                    begins.pop(0)
                total += seconds - before
                before = seconds
                rows.append((at, total))
        except (ValueError, IndexError):
            continue
    return rows


def _resumes(folder: Path) -> list[int]:
    """The steps after which a run was resumed, ascending, from environment.json. If a later resume went back to an
    earlier step, the rows after that step were removed, so resumes after it are left out."""
    noted = RunFolder(folder).environment().get("resumed")
    steps: list[int] = []
    for entry in noted if isinstance(noted, list) else []:
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(step, int):
            steps = [*(before for before in steps if before < step), step]
    return steps


def completed_steps(folder: Path) -> int:
    """The steps that a run has completed, from timing.csv."""
    rows = timing(folder)
    return rows[-1][0] if rows else 0


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    step: int
    """Completed steps per member."""
    total: int
    """Steps per member at the end of the run."""
    rate: float | None
    """Steps per member and second over the last `RATE_SECONDS`; None if timing.csv has too few rows yet."""

    @property
    def share(self) -> float:
        """Completed share of the run, 0 to 1."""
        return min(1.0, self.step / max(1, self.total))

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time to the end in seconds; None if the speed is unknown."""
        return max(0, self.total - self.step) / self.rate if self.rate else None


def progress(folder: Path, total: int, cycle: int = 1) -> Progress:
    """The progress of a run of `total` steps, from timing.csv.

    `cycle`: the steps from one long update to the next (`RunInfo.cycle`). The speed is that of whole cycles, because
    the rows during a rollout show a much higher speed.
    """
    rows = timing(folder)
    if not rows:
        return Progress(0, total, None)
    step = rows[-1][0]
    if cycle > 1:  # the first row after each update, and the start
        first_after = {at // cycle: (at, seconds) for at, seconds in reversed([(0, 0.0), *rows])}
        rows = sorted(first_after.values())
    last, end = rows[-1]
    since = next(((at, s) for at, s in rows if s >= end - RATE_SECONDS), rows[-1])
    if since == rows[-1] and len(rows) > 1:
        since = rows[-2]
    rate = (last - since[0]) / (end - since[1]) if end > since[1] else None
    return Progress(step, total, rate)


def update_cycle(config: Config) -> int:
    """The steps per member from one long update to the next, from a resolved configuration; 1 without long updates."""
    steps, envs = (getattr(config.learner, name, ()) for name in ("n_steps", "n_envs"))
    return max((a * b for a in steps for b in envs), default=1)
