"""The run folder: its name, its creation, its lock and its small files. `tables` has the CSV files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from peerage.config import Config
from peerage.config.file import from_run
from peerage.config.plain_yaml import parse, to_yaml
from peerage.errors import UserError
from peerage.loading import RUN_MARK, not_a_run
from peerage.runs.environment import describe_environment
from peerage.text import one_line

try:
    import fcntl
except ImportError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

HEADER = f"{RUN_MARK} `peerage train --config` of this file repeats it.\n"
"""First line of every config.yaml. It marks a run folder; only a folder with it is ever replaced."""

STATUSES = ("DONE", "STOPPED", "FAILED")
"""Files that say how a training ended: finished, stopped early by a listener, or by an error or signal."""
FILES = ["config.yaml", "environment.json", "command.txt", *STATUSES, ".lock", "report.html"]
FILES += ["metrics.csv", "evaluations.csv", "advice.csv", "timing.csv", "wandb_run.txt"]
FOLDERS = ("checkpoints", "checkpoints/chunks", "figures", "dumps", "export", "tensorboard", "wandb")


def default_name(env: str, algorithms: Sequence[str], n: int, seed: int, data: str = "") -> str:
    """The name of a run without `--exp-name`: `<env>_<algorithms>_<n>_seed<k>`; for one from a dataset, its name or the
    last part of its path instead of the environment.

    >>> default_name("ALE/Pong-v5", ("dqn", "dqn"), 2, 0)
    'ALE-Pong-v5_dqn_2_seed0'
    """
    env = (os.path.basename(os.path.normpath(data)) if os.path.isabs(data) else data) or env
    name = f"{env}_{'+'.join(dict.fromkeys(algorithms))}_{n}_seed{seed}"
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", name).lstrip(".-")[:150] or "run"


def check_name(name: str) -> None:
    """UserError unless `name` names one folder directly inside the log folder."""
    if name in ("", ".", "..") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name):
        raise UserError(
            f"--exp-name {name!r} is not a valid folder name: it must not contain '..' or / \\ : * ? \" < > | "
            "(--log-dir sets the path)"
        )
    if name.startswith(("-", " ")) or name.endswith((" ", ".")) or len(name.encode()) > 200:
        raise UserError(
            f"--exp-name {name[:50]!r} must have at most 200 bytes, not start with - or a space, and "
            "not end with a space or a dot"
        )


class RunFolder:
    """A run on disk. `RunFolder.create` makes a new one, `RunFolder.open` opens an existing one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: BinaryIO | None = None

    # --- one process at a time --------------------------------------------------------------------

    def lock(self) -> None:
        """Prevent other processes from training here until `unlock` or the end of this process.

        Raises UserError if another process holds the lock. Does nothing where the system has no file locks.
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
                raise FileNotFoundError  # replaced between opening and locking
        except FileNotFoundError:
            file.close()
            raise UserError(f"{self.path} has just been replaced by another training") from None
        except BlockingIOError:
            file.seek(0)
            who = file.read(100).decode(errors="replace").strip() or "another process"
            file.close()
            raise UserError(f"{self.path} is being trained by {who}: wait until it ends, or stop it") from None
        except OSError:  # a file system without locks
            file.close()
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        file.flush()
        self._lock = file
        for name in ("config.yaml", "environment.json", "command.txt", *STATUSES):
            for left in self.path.glob(f".{name}.*.tmp"):  # left by a process that was killed
                left.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Release the lock; a second call does nothing."""
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

        `name` is chosen by the user. Without it `default` is used; if that exists, -2, -3, ... is appended, or with
        `overwrite` it is replaced. Raises UserError for an invalid name, for an existing run without `overwrite`, and
        with `overwrite` for a path that is not a run.
        """
        check_name(default if name is None else name)
        log_dir = Path(log_dir)
        if any("\ud800" <= c <= "\udfff" for c in str(log_dir)):  # undecodable bytes
            raise UserError(
                f"--log-dir {ascii(str(log_dir))[:200]} is not UTF-8, so it cannot be stored in config.yaml"
            )
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
                f"{path} exists: --overwrite replaces it, `peerage resume {shlex.quote(str(path))}` continues it, "
                "another --exp-name keeps it"
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
        """Make the folder with its config.yaml and the files that `write` adds, in one atomic step, and lock it.

        Arguments and errors as in `plan`.
        """
        path = cls.plan(log_dir, name, default, overwrite).path
        partial, old = (path.with_name(f".{path.name[:100]}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replaces = overwrite and path.exists()
            with cls(path) if replaces else contextlib.nullcontext():  # no process may be training in it
                _clear(path)
                partial.mkdir()
                made = cls(partial)
                made.lock()  # the lock stays with the file when its folder is renamed
                made.write_config(config)
                write(made)
                if replaces:
                    os.rename(path, old)
                os.rename(partial, path)  # fails if another process was faster
                _sync_folder(path.parent)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not path.exists():
                os.rename(old, path)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UserError(f"{path} has just been created by another training: choose another name") from error
            raise UserError(f"cannot write the run folder {path}: {error.strerror or error}") from error
        shutil.rmtree(old, ignore_errors=True)
        made.path = path
        return made

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """The run at `path`. Raises UserError if there is none."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise UserError(f"there is no run folder {folder.path}")
        if not (folder.path / "config.yaml").is_file():
            raise UserError(not_a_run(folder.path))
        folder._refuse_links()
        return folder

    def _refuse_links(self) -> None:
        """UserError for links and pipes: a link may lead out of the folder, and reading a pipe may block."""
        for name in FILES:
            path = self.path / name
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise UserError(f"{path} must be a regular file, not a link or a folder: restore it")
        for name in FOLDERS:
            path = self.path / name
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise UserError(f"{path} must be a folder, not a link or a file: restore it")

    # --- configuration, environment and command ---------------------------------------------------

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml from plain data; tuples become lists."""
        write_atomically(self.path / "config.yaml", HEADER + to_yaml(plain_data(config)))

    def config(self) -> dict[str, Any]:
        """config.yaml as plain data; UserError if it is damaged."""
        path = self.path / "config.yaml"
        try:
            config = parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeError) as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
        if not isinstance(config, dict):
            raise UserError(f"{path} does not contain a configuration")
        return config

    def resolved(self) -> Config:
        """config.yaml as a `Config`, complete even if an earlier version wrote it (`peerage.config.file.from_run`).
        Raises UserError that names the file if it is invalid in this version."""
        data = self.config()
        try:
            return from_run(data)
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}") from error

    def write_environment(
        self,
        env: str,
        device: str,
        products: str | None = None,
        fingerprint: Mapping[str, Any] = MappingProxyType({}),
        data: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write environment.json: versions, git commit of the current directory, hardware (with how wide layers are
        computed, see `peerage.nets.native.row_products`), environment id and its fingerprint, and a description of the
        dataset of an offline run."""
        content = describe_environment(env, device, products, fingerprint)
        if data:
            content["data"] = dict(data)
        write_atomically(self.path / "environment.json", json.dumps(content, indent=2) + "\n")

    def note_resume(self, step: int, now: Mapping[str, Any], differences: Sequence[str]) -> None:
        """Record a resume after `step` in environment.json: the machine and how it differs from the one before."""
        environment = self.environment()
        resumed = environment.get("resumed")
        entry = {"step": step, **now, "different": list(differences)}
        environment["resumed"] = [*(resumed if isinstance(resumed, list) else []), entry]
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def note_extension(self, entry: Mapping[str, Any]) -> None:
        """Record an extension of the run in environment.json: `step`, `from`, `to` (steps per member), `stretched`."""
        environment = self.environment()
        environment["extended"] = [*self.extensions(), dict(entry)]
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def extensions(self) -> list[dict[str, Any]]:
        """The extensions of the run, oldest first. Those that config.yaml does not have, because the process was killed
        in between, are left out."""
        found = self.environment().get("extended")
        known = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        if not known:
            return []
        length = self.resolved().steps
        whole = [entry for entry in known if all(isinstance(entry.get(key), int) for key in ("step", "from", "to"))]
        return [entry for entry in whole if entry["to"] <= length]

    def environment(self) -> dict[str, Any]:
        """environment.json; empty if it is missing or damaged."""
        return _read_json(self.path / "environment.json")

    def write_command(self, argv: Sequence[str]) -> None:
        """Append a line to command.txt, which has one for the training and one per resume; `argv` as in `sys.argv`."""
        line = shlex.join(argv).replace("\n", " ")
        write_atomically(self.path / "command.txt", "".join(f"{old}\n" for old in (*self.commands(), line)))

    def commands(self) -> list[str]:
        """The lines of command.txt; empty if there is none."""
        path = self.path / "command.txt"
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []

    # --- status -----------------------------------------------------------------------------------

    def finish(self, status: str, why: str, step: int, traceback: str = "") -> None:
        """Write DONE, STOPPED or FAILED: `{"why": ..., "step": ..., "when": <ISO time, UTC>}`, and `traceback` unless
        it is empty."""
        if status not in STATUSES:
            raise ValueError(f"status is one of {', '.join(STATUSES)}, not {status!r}")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.reopen()
        content = {"why": why, "step": step, "when": when} | ({"traceback": traceback} if traceback else {})
        write_atomically(self.path / status, json.dumps(content) + "\n")

    def reopen(self) -> None:
        """Remove DONE, STOPPED and FAILED, as the run continues."""
        for name in STATUSES:
            (self.path / name).unlink(missing_ok=True)

    def status(self) -> tuple[str, dict[str, Any]]:
        """DONE, STOPPED, FAILED or RUNNING (or killed), and the content of the file of this name."""
        for name in STATUSES:
            if (self.path / name).exists():
                return name, _read_json(self.path / name)
        return "RUNNING", {}

    def has_ended(self) -> bool:
        """Whether the training has ended without an error: it is finished, or a listener has stopped it."""
        return self.status()[0] in ("DONE", "STOPPED")

    def report_is_due(self) -> bool:
        """Whether a finished run has no report that was written after its end."""
        report, done = self.path / "report.html", self.path / "DONE"
        return not report.exists() or report.stat().st_mtime_ns < done.stat().st_mtime_ns


def is_run(path: Path) -> bool:
    """Whether a folder holds a config.yaml that `RunFolder` wrote."""
    try:
        if not (path / "config.yaml").is_file():  # reading a pipe would block
            return False
        with (path / "config.yaml").open(encoding="utf-8") as file:
            return file.readline() == HEADER
    except (OSError, UnicodeError):
        return False


def _clear(path: Path) -> None:
    """Remove temporary folders of processes that were killed while they created the run folder `path`."""
    for left in path.parent.iterdir():
        name, _, end = left.name.rpartition(".")
        name, _, pid = name.rpartition(".")
        ours = name == f".{path.name[:100]}" and end in ("partial", "old") and pid.isdecimal()
        if not ours or _alive(int(pid)):
            continue
        with contextlib.suppress(UserError, OSError):
            RunFolder(left).lock()  # on a shared disk the process may run on another machine
            shutil.rmtree(left)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user
        return True
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a temporary file, flush it and rename it to `path`: a reader sees the old or the new file, complete."""
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
    """Flush the entries of a folder to the disk, where the file system supports it."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def plain_data(value: Any) -> Any:
    """Tuples and mappings as lists and dicts, which YAML and JSON have."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    return value


def as_mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: the files of a run folder may have been edited."""
    return value if isinstance(value, Mapping) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
