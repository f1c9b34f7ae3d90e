"""The run folder: its name, its birth, and the small files in it. The CSV files are in `tables`."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from peerage.config import Config
from peerage.config.file import from_dict
from peerage.config.plain_yaml import parse, to_yaml
from peerage.errors import UserError
from peerage.version import __version__

try:
    import fcntl
except ImportError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

HEADER = "# Peerage run: `peerage train --config` of this file repeats it.\n"
"""First line of every config.yaml: it marks a folder as ours, and only such a folder is ever replaced."""

FILES = ["config.yaml", "environment.json", "command.txt", "DONE", "FAILED", ".lock", "report.html"]
FILES += ["metrics.csv", "evaluations.csv", "advice.csv", "timing.csv", "wandb_run.txt"]
FOLDERS = ("checkpoints", "checkpoints/chunks", "figures", "dumps", "export", "tensorboard", "wandb")

PACKAGES = ("peerage", "torch", "numpy", "gymnasium", "mujoco", "box2d", "stable-baselines3")


def default_name(env: str, algorithms: Sequence[str], n: int, seed: int) -> str:
    """Name of an experiment that was given none: `<env>_<algo>_<n>_seed<k>`.

    >>> default_name("ALE/Pong-v5", ("dqn", "dqn"), 2, 0)
    'ALE-Pong-v5_dqn_2_seed0'
    """
    name = f"{env}_{'+'.join(dict.fromkeys(algorithms))}_{n}_seed{seed}"
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", name).lstrip(".-")[:150] or "run"


def check_name(name: str) -> None:
    """UserError unless `name` names one folder directly inside the log folder."""
    if name in ("", ".", "..") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name):
        raise UserError(
            f"--exp-name {name!r} is not the name of a folder: no '..' and none of / \\ : * ? \" < > | "
            "(the place belongs into --log-dir)"
        )
    if name.startswith(("-", " ")) or name.endswith((" ", ".")) or len(name.encode()) > 200:
        raise UserError(f"--exp-name {name[:50]!r} is too long (200 bytes), or starts or ends oddly")


class RunFolder:
    """One run on disk. `RunFolder.create` makes a new one, `RunFolder.open` finds an existing one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: BinaryIO | None = None

    # --- one process at a time --------------------------------------------------------------------

    def lock(self) -> None:
        """Keep other trainings away until `unlock`, or until this process has ended, however that comes about.

        Raises UserError if one is at work here.
        """
        if fcntl is None or self._lock is not None:
            return
        try:
            file = (self.path / ".lock").open("a+b")
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != (self.path / ".lock").stat().st_ino:
                raise FileNotFoundError  # replaced between the opening and the locking
        except FileNotFoundError:
            file.close()
            raise UserError(f"{self.path} was replaced by another training just now") from None
        except BlockingIOError:
            file.seek(0)
            who = file.read(100).decode(errors="replace").strip() or "another process"
            file.close()
            raise UserError(f"{self.path} is being trained by {who}: wait for its end, or stop it") from None
        except OSError:  # a file system that knows no locks
            file.close()
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        file.flush()
        self._lock = file
        for name in ("config.yaml", "environment.json", "command.txt", "DONE", "FAILED"):
            for left in self.path.glob(f".{name}.*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Let others in; twice is fine."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        self.lock()
        return self

    def __exit__(self, *error: object) -> None:
        self.unlock()

    @classmethod
    def plan(cls, log_dir: Path | str, name: str | None, default: str, overwrite: bool = False) -> RunFolder:
        """The folder that `create` with the same arguments would make; writes nothing.

        `name` is the user's, `default` is taken without one: if that exists, -2, -3, ... is appended
        (with `overwrite` it is replaced). UserError: a hostile name, an existing run without `overwrite`,
        or with it something that is not a run.
        """
        check_name(default if name is None else name)
        log_dir = Path(log_dir)
        if any("\ud800" <= c <= "\udfff" for c in str(log_dir)):  # bytes that are no text
            raise UserError(f"--log-dir {ascii(str(log_dir))[:200]} is not UTF-8: config.yaml could not name it")
        for parent in (log_dir, *log_dir.parents):
            if parent.exists() and not parent.is_dir():
                raise UserError(f"--log-dir {log_dir}: {parent} is not a folder")
        path = log_dir / (default if name is None else name)
        if name is None and not overwrite:
            count = 1
            while os.path.lexists(path):
                count += 1
                path = log_dir / f"{default}-{count}"
        if not os.path.lexists(path):
            return cls(path)
        if not overwrite:
            raise UserError(
                f"{path} exists: --overwrite replaces it, `peerage resume {shlex.quote(str(path))}` goes on "
                "with it, another --exp-name leaves it alone"
            )
        if path.is_symlink() or not path.is_dir() or not (is_run(path) or not any(path.iterdir())):
            raise UserError(f"--overwrite replaces runs only, and {path} is not a run of Peerage")
        return cls(path)

    @classmethod
    def create(
        cls,
        log_dir: Path | str,
        name: str | None,
        default: str,
        config: Mapping[str, Any],
        overwrite: bool = False,
        write: Callable[[RunFolder], None] = lambda made: None,
    ) -> RunFolder:
        """Make the folder with its config.yaml and whatever `write` puts there, all at once, and lock it. Arguments
        and errors as in `plan`."""
        path = cls.plan(log_dir, name, default, overwrite).path
        partial, old = (path.with_name(f".{path.name[:100]}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replaces = overwrite and path.exists()
            with cls(path) if replaces else contextlib.nullcontext():  # nobody is at work in what is replaced
                _clear(path)
                partial.mkdir()
                made = cls(partial)
                made.lock()  # of the file, whatever its folder will be called
                made.write_config(config)
                write(made)
                if replaces:
                    os.rename(path, old)
                os.rename(partial, path)  # fails if somebody else was quicker
                _sync_folder(path.parent)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not path.exists():
                os.rename(old, path)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UserError(f"{path} was made by another training just now: use another --exp-name") from error
            raise UserError(f"cannot write the run folder {path}: {error.strerror or error}") from error
        shutil.rmtree(old, ignore_errors=True)
        made.path = path
        return made

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run; UserError if there is none at `path`."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise UserError(f"there is no run folder {folder.path}")
        if not (folder.path / "config.yaml").is_file():
            raise UserError(f"{folder.path} is not a run: it has no config.yaml")
        folder._refuse_links()
        return folder

    def _refuse_links(self) -> None:
        """What is in a run folder is its own: a link would lead out of it, and from a pipe nobody may read."""
        for name in FILES:
            path = self.path / name
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise UserError(f"{path} is not a file: a run folder holds its own; put it back")
        for name in FOLDERS:
            path = self.path / name
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise UserError(f"{path} is not a folder: a run folder holds its own; put it back")

    # --- what was asked for -----------------------------------------------------------------------

    def write_config(self, config: Mapping[str, Any]) -> None:
        """config.yaml from plain data (tuples become lists)."""
        write_atomically(self.path / "config.yaml", HEADER + to_yaml(_plain(config)))

    def config(self) -> dict[str, Any]:
        """config.yaml as plain data; UserError if it is damaged."""
        path = self.path / "config.yaml"
        try:
            config = parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeError) as error:
            raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict):
            raise UserError(f"{path} does not hold a configuration")
        return config

    def resolved(self) -> Config:
        """config.yaml as what it configures; UserError, naming the file, if it is none of this version."""
        data = self.config()
        try:
            return from_dict(data)
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}") from error

    def write_environment(self, env: str, device: str) -> None:
        """environment.json: versions, git commit of the current directory, hardware, environment id."""
        write_atomically(
            self.path / "environment.json", json.dumps(describe_environment(env, device), indent=2) + "\n"
        )

    def note_resume(self, step: int, now: Mapping[str, Any], differences: Sequence[str]) -> None:
        """Add to environment.json that the run went on after `step`, on what, and what was different there."""
        environment = self.environment()
        resumed = environment.get("resumed")
        entry = {"step": step, **now, "different": list(differences)}
        environment["resumed"] = [*(resumed if isinstance(resumed, list) else []), entry]
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def environment(self) -> dict[str, Any]:
        """environment.json; empty if it is missing or damaged."""
        return _read_json(self.path / "environment.json")

    def write_command(self, argv: Sequence[str]) -> None:
        """command.txt: a line for the training and one for every resume; `argv` starts with the program."""
        line = shlex.join(argv).replace("\n", " ")
        write_atomically(self.path / "command.txt", "".join(f"{old}\n" for old in (*self.commands(), line)))

    def commands(self) -> list[str]:
        """The lines of command.txt; empty if there is none."""
        path = self.path / "command.txt"
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []

    # --- how it went ------------------------------------------------------------------------------

    def finish(self, status: str, why: str, step: int) -> None:
        """Write DONE or FAILED: `{"why": ..., "step": ..., "when": <ISO time, UTC>}`."""
        if status not in ("DONE", "FAILED"):
            raise ValueError(f"status is DONE or FAILED, not {status!r}")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.reopen()
        write_atomically(self.path / status, json.dumps({"why": why, "step": step, "when": when}) + "\n")

    def reopen(self) -> None:
        """Take DONE and FAILED away: the run goes on."""
        for name in ("DONE", "FAILED"):
            (self.path / name).unlink(missing_ok=True)

    def status(self) -> tuple[str, dict[str, Any]]:
        """DONE, FAILED or RUNNING (also: killed), and the JSON line with why and when."""
        for name in ("DONE", "FAILED"):
            if (self.path / name).exists():
                return name, _read_json(self.path / name)
        return "RUNNING", {}

    def report_is_due(self) -> bool:
        """Is a finished run without a report that was drawn after its end?"""
        report, done = self.path / "report.html", self.path / "DONE"
        return not report.exists() or report.stat().st_mtime_ns < done.stat().st_mtime_ns

    # --- places -----------------------------------------------------------------------------------

    @property
    def figures(self) -> Path:
        return self.path / "figures"


def is_run(path: Path) -> bool:
    """Whether a folder holds a config.yaml that `RunFolder` wrote."""
    try:
        if not (path / "config.yaml").is_file():  # a pipe would be waited for
            return False
        with (path / "config.yaml").open(encoding="utf-8") as file:
            return file.readline() == HEADER
    except (OSError, UnicodeError):
        return False


def _clear(path: Path) -> None:
    """Remove what a process that was killed while it made the run folder `path` has left beside it."""
    for left in path.parent.iterdir():
        name, _, end = left.name.rpartition(".")
        name, _, pid = name.rpartition(".")
        ours = name == f".{path.name[:100]}" and end in ("partial", "old") and pid.isdecimal()
        if not ours or _alive(int(pid)):
            continue
        with contextlib.suppress(UserError, OSError):
            RunFolder(left).lock()  # on a shared disk the process may live on another machine
            shutil.rmtree(left)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, sync, then rename over it: a reader sees the old file or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Its names to the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def describe_environment(env: str, device: str) -> dict[str, Any]:
    """What a run ran on."""
    return {
        "versions": versions(),
        "git": _git_commit(),
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "device": device},
        "platform": platform.platform(),
        "env": env,
    }


def versions() -> dict[str, str | None]:
    """Of Python and the packages that results depend on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if found["peerage"] is None:  # run from a checkout that is not installed
        found["peerage"] = __version__
    return found


def _git_commit() -> dict[str, Any] | None:
    """Commit of the checkout that the current directory belongs to, and whether tracked files differ."""
    answers = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        if done.returncode != 0:
            return None
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "modified": bool(answers[1])}


def cpu_model() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    """Tuples and mappings as the lists and dicts that YAML knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
