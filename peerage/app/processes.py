"""Starts, stops and resumes trainings, each in a process of its own that does not depend on the page.

The process runs `peerage train --config FILE` or `peerage resume RUN`. FILE and the output are in the folder `.app` of
the log folder.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peerage.app import form
from peerage.config import Config
from peerage.errors import UserError
from peerage.runs.folder import RunFolder, write_atomically
from peerage.runs.progress import trainer

FOLDER = ".app"
"""The folder of the page in the log folder."""
OUTPUT_BYTES = 20_000
"""The end of an output that is read."""


@dataclass
class _Started:
    popen: subprocess.Popen[bytes]
    output: Path


_started: dict[Path, _Started] = {}
"""Run folder -> the process that this server started last."""
_lock = threading.Lock()


@dataclass(frozen=True)
class State:
    """What happens to a run."""

    kind: Literal["starting", "training", "reporting", "ended", "lost", "refused"]
    """starting: the process does not train yet; training; reporting: the training has ended, its report has not; ended:
    DONE, STOPPED or FAILED; lost: the training was killed, or another machine trains the run; refused: the process
    ended with an error."""
    line: str = ""
    """With `refused`: the line that the process printed."""

    @property
    def active(self) -> bool:
        """Whether a process of this machine works on the run."""
        return self.kind in ("starting", "training", "reporting")


def config_file(log_dir: Path, name: str) -> Path:
    """The configuration of the training `name` that the page writes."""
    return log_dir / FOLDER / f"{name}.yaml"


def train_command(log_dir: Path, name: str) -> list[str]:
    """The command that `start` runs."""
    return ["peerage", "train", "--config", str(config_file(log_dir, name))]


def resume_command(folder: Path) -> list[str]:
    """The command that `resume` runs."""
    return ["peerage", "resume", str(folder)]


def start(config: Config, name: str) -> Path:
    """Start a training and return its run folder, which may not exist yet. `config` is complete and names the run
    `name`. Raises UserError for a run that exists, or is being started."""
    log_dir = Path(config.run.log_dir)
    folder = RunFolder.plan(log_dir, name, name).path
    _refuse_second(folder)
    _own_folder(log_dir)
    file = config_file(log_dir, name)
    write_atomically(file, f"# Written by `peerage app`.\n{form.yaml_of(config)}")
    _launch(folder, train_command(log_dir, name), file.with_suffix(".log"))
    return folder


def resume(log_dir: Path, folder: Path) -> None:
    """Continue a run in a new process. Raises UserError if a process works on it."""
    _refuse_second(folder)
    if (pid := trainer(folder)) is not None:
        raise UserError(f"{folder.name} is being trained by process {pid}: wait until it ends, or stop it")
    _own_folder(log_dir)
    name = "--".join(folder.relative_to(log_dir).parts)
    _launch(folder, resume_command(folder), log_dir / FOLDER / f"{name}.log")


def stop(folder: Path) -> bool:
    """Ask the training of a run to write a checkpoint and end (SIGTERM). Only a process that holds the lock of this run
    folder, or one that this server started for it, gets the signal. False if there is none."""
    pid = trainer(folder)
    if pid is not None and hasattr(os, "pidfd_open"):
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if trainer(folder) == pid:  # again: now the handle cannot become that of another process
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                return True
        except OSError:
            return False
        finally:
            os.close(handle)
    elif pid is not None:
        os.kill(pid, signal.SIGTERM)
        return True
    if (started := _started.get(folder.resolve())) and started.popen.poll() is None:
        started.popen.terminate()
        return True
    return False


def state_of(folder: Path) -> State:
    """What happens to a run, whoever started it."""
    status, pid, started = RunFolder(folder).status()[0], trainer(folder), _started.get(folder.resolve())
    if pid is not None and started is not None and started.popen.pid != pid:
        _started.pop(folder.resolve(), None)  # another process continues the run
        started = None
    code = started.popen.poll() if started is not None else 0
    if pid is not None or code is None:
        if status in ("DONE", "STOPPED"):
            return State("reporting")
        return State("training" if pid is not None and status == "RUNNING" else "starting")
    failed = started is not None and status not in ("DONE", "STOPPED")
    if started is not None and failed and (code in (1, 2) or (code and not folder.exists())):
        line = "".join(output_lines(started.output)[-1:])
        return State("refused", line.removeprefix("peerage: ") if code in (1, 2) else f"ended with status {code}")
    return State("lost" if status == "RUNNING" else "ended")


def pending(log_dir: Path) -> list[str]:
    """The trainings that this server started in a log folder and that have no run folder, the newest first."""
    folders = [folder for folder in list(_started) if not folder.exists() and folder.parent == log_dir.resolve()]
    return [folder.name for folder in reversed(folders)]


def output_of(folder: Path) -> list[str]:
    """The last lines that the process printed which this server started last for a run; empty without one."""
    started = _started.get(folder.resolve())
    return output_lines(started.output) if started else []


def output_lines(file: Path) -> list[str]:
    """The last lines of an output."""
    try:
        with file.open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_BYTES))
            return [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []


def _refuse_second(folder: Path) -> None:
    started = _started.get(folder.resolve())
    if started is not None and started.popen.poll() is None:
        raise UserError(f"{folder.name} is already being started")


def _own_folder(log_dir: Path) -> None:
    """Make the folder of the page. UserError if it is a link or a file."""
    folder = log_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    if folder.is_symlink():
        raise UserError(f"{folder} must be a folder, not a link: remove it")


def _launch(folder: Path, command: Sequence[str], output: Path) -> None:
    """Start a command of Peerage in a session of its own, so that neither Ctrl-C nor a closed terminal ends it."""
    with _lock:
        _refuse_second(folder)
        output.unlink(missing_ok=True)  # a link is not followed
        with output.open("xb") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            popen = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _started[folder.resolve()] = _Started(popen, output)
