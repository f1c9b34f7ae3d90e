"""Where the runs of a sweep are trained: a small interface, and the one for the processes of this machine.

Another launcher (other machines, a cluster) has the same five methods, and hands `peerage.sweeps.worker.work` the same
`Task` where it trains.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

SIGNALS = [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Those that ask for the end."""
PAUSE = 0.1
"""Seconds between two looks at what is being trained."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Whatever computes in threads of its own reads one of these."""


@dataclass(frozen=True)
class Task:
    """What a worker is to do. Plain data, so that it can be sent."""

    name: str
    folder: str
    config: dict[str, Any]
    """As in config.yaml; a run that is resumed has its own."""
    resume: bool
    threads: int
    command: tuple[str, ...] = ()
    """For command.txt."""
    measure: int = 0
    """Train nothing: time so many steps."""


@dataclass(frozen=True)
class Ended:
    """How a task ended."""

    name: str
    status: int
    """0: well."""
    why: str
    """The last line that it said, or what it answered."""

    @property
    def interrupted(self) -> bool:
        """By a signal that asks for the end: one that it obeyed, 128 + its number, or one that came before it listened,
        minus its number."""
        return self.status - 128 in SIGNALS or -self.status in SIGNALS


class Launcher(Protocol):
    """Trains tasks somewhere, at most `slots` at the same time."""

    slots: int

    def submit(self, task: Task) -> None:
        """Begin a task; called only while fewer than `slots` are running."""

    def poll(self) -> list[Ended]:
        """The tasks that ended since the last call. Does not wait."""

    def stop(self) -> None:
        """Ask all running tasks to write a checkpoint and end; `poll` tells when they have."""

    def kill(self) -> None:
        """End all running tasks at once; what they trained since their last checkpoint is lost."""

    def close(self) -> None:
        """Nothing runs any more, or is left to itself; twice is fine."""


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass
class _Process:
    task: Task
    popen: subprocess.Popen[bytes]
    said: IO[bytes]
    answered: IO[bytes]
    slot: int


class LocalLauncher:
    """A process of this machine for each task, on as many threads as the task says.

    A worker is told what to do on its standard input and then watches it: when it closes, because `stop` closes it or
    because this process is no more, the worker writes a checkpoint and ends. Workers are groups of their own, so that a
    Ctrl-C at the keyboard reaches this process alone and each worker hears of it once.
    """

    def __init__(self, slots: int, threads: int) -> None:
        self.slots = slots
        self._running: list[_Process] = []
        mine = cores()
        # Runs keep to cores of their own only where all cores are taken: with fewer, another sweep may be beside this
        # one, and both would take the same
        whole = hasattr(os, "sched_setaffinity") and slots > 1 and slots * threads == len(mine)
        self._cores = [mine[k * threads : (k + 1) * threads] for k in range(slots)] if whole else []

    def submit(self, task: Task) -> None:
        slot = min(set(range(self.slots)) - {process.slot for process in self._running})
        said, answered = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        popen = subprocess.Popen(
            [sys.executable, "-m", "peerage.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=answered,
            stderr=said,
            env={**os.environ, **dict.fromkeys(THREADS, str(task.threads))},
            start_new_session=True,
        )
        self._running.append(_Process(task, popen, said, answered, slot))
        with contextlib.suppress(OSError):  # it has ended already; `poll` says why
            if self._cores and task.threads <= len(self._cores[slot]):
                os.sched_setaffinity(popen.pid, self._cores[slot])
            assert popen.stdin is not None
            popen.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
            popen.stdin.flush()

    def poll(self) -> list[Ended]:
        ended = []
        for process in [p for p in self._running if p.popen.poll() is not None]:
            self._running.remove(process)
            self._release(process)
            status = process.popen.returncode
            why = _last_line(process.answered if status == 0 else process.said)
            if status < 0 and not why:
                why = f"ended by signal {-status}"
            process.said.close()
            process.answered.close()
            ended.append(Ended(process.task.name, status, why))
        return ended

    def stop(self) -> None:
        for process in self._running:
            self._release(process)

    def kill(self) -> None:
        for process in self._running:
            process.popen.kill()

    def close(self) -> None:
        self.stop()

    @staticmethod
    def _release(process: _Process) -> None:
        if process.popen.stdin is not None:
            with contextlib.suppress(OSError):  # what was never read
                process.popen.stdin.close()


def _last_line(file: IO[bytes]) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 10_000))
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
