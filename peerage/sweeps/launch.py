"""Start the runs of a sweep: the interface `Launcher`, and `LocalLauncher` for processes on this machine.

A launcher for other machines or a cluster implements the same five methods and passes the `Task` to
`peerage.sweeps.work.work` where it trains.
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

STOP_SIGNALS = [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to end."""
POLL_SECONDS = 0.1
"""Seconds between two checks of the running tasks."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables with the number of threads of numerical libraries."""


@dataclass(frozen=True)
class Task:
    """The task of a worker. Plain data, so that it can be sent to another process or machine."""

    name: str
    folder: str
    config: dict[str, Any]
    """The configuration as in config.yaml; a resumed run uses the one in its folder."""
    resume: bool
    threads: int
    command: tuple[str, ...] = ()
    """The command line, for command.txt."""
    measure: int = 0
    """If not 0: time this many steps instead of training."""
    stretch: bool = False
    """With `resume`: extend the run although schedules depend on its length."""


@dataclass(frozen=True)
class Ended:
    """The end of a task."""

    name: str
    status: int
    """Exit status; 0: success."""
    why: str
    """The last line of its error output, or on success of its output."""

    @property
    def interrupted(self) -> bool:
        """Whether one of `STOP_SIGNALS` ended it: after it installed its handlers the status is 128 + the number of the
        signal, before that minus the number."""
        return self.status - 128 in STOP_SIGNALS or -self.status in STOP_SIGNALS


class Launcher(Protocol):
    """Runs tasks, at most `slots` at the same time."""

    slots: int

    def submit(self, task: Task) -> None:
        """Start a task; called only while fewer than `slots` are running."""

    def poll(self) -> list[Ended]:
        """The tasks that ended since the last call. Does not block."""

    def stop(self) -> None:
        """Ask all running tasks to write a checkpoint and end; `poll` returns them when they have."""

    def kill(self) -> None:
        """Kill all running tasks; training since their last checkpoint is lost."""

    def close(self) -> None:
        """Release all resources; a second call does nothing. Tasks that still run are asked to end."""


def cores() -> list[int]:
    """The numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass
class _Process:
    task: Task
    popen: subprocess.Popen[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]
    slot: int


class LocalLauncher:
    """Runs each task in a process on this machine, with the number of threads in the task.

    A worker reads its task from standard input and then watches it. When standard input is closed, because of `stop` or
    because this process has ended, the worker writes a checkpoint and ends. Each worker has its own session, so that
    Ctrl-C reaches this process only and each worker is stopped once.
    """

    def __init__(self, slots: int, threads: int) -> None:
        self.slots = slots
        self._running: list[_Process] = []
        mine = cores()
        # Pin runs to cores only if together they use all cores: otherwise another sweep could run at the same time
        # and pin its runs to the same cores.
        uses_all = hasattr(os, "sched_setaffinity") and slots > 1 and slots * threads == len(mine)
        self._cores = [mine[k * threads : (k + 1) * threads] for k in range(slots)] if uses_all else []

    def submit(self, task: Task) -> None:
        slot = min(set(range(self.slots)) - {process.slot for process in self._running})
        stdout, stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        popen = subprocess.Popen(
            [sys.executable, "-m", "peerage.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(task.threads))},
            start_new_session=True,
        )
        self._running.append(_Process(task, popen, stdout, stderr, slot))
        with contextlib.suppress(OSError):  # it has ended already; `poll` reports why
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
            why = _last_line(process.stdout if status == 0 else process.stderr)
            if status < 0 and not why:
                why = f"ended by signal {-status}"
            process.stdout.close()
            process.stderr.close()
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
        """Close the standard input of a worker, which makes it end."""
        if process.popen.stdin is not None:
            with contextlib.suppress(OSError):  # unread input cannot be flushed once the worker has ended
                process.popen.stdin.close()


def _last_line(file: IO[bytes]) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 10_000))
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
