"""The runs in the log folder of the page. Only reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peerage.errors import UserError
from peerage.runs.folder import STATUSES, RunFolder, is_run
from peerage.statistics.sources import MANIFEST, sweep_runs

RESULTS = ("evaluations.csv", "metrics.csv", "advice.csv", "timing.csv", "config.yaml", *STATUSES)
"""The files from which the page is made."""


@dataclass(frozen=True)
class Listed:
    """A run in the log folder."""

    name: str
    """The path below the log folder: `NAME`, or `SWEEP/NAME` for a run of a sweep."""
    folder: Path
    status: str
    """DONE, STOPPED, FAILED, or RUNNING (or killed)."""
    changed: float
    """The time of the last change, in seconds."""


def find(log_dir: Path) -> list[Listed]:
    """The runs in a log folder and in its sweeps, the one that changed last first. Other folders are left out, and
    links that lead out of the log folder."""
    found = []
    for folder in _folders(log_dir):
        try:
            if is_run(folder) and folder.resolve().is_relative_to(log_dir.resolve()):
                times = [(folder / name).stat().st_mtime for name in RESULTS if (folder / name).exists()]
                name = str(folder.relative_to(log_dir))
                found.append(Listed(name, folder, RunFolder(folder).status()[0], max(times)))
        except (OSError, ValueError):  # removed in the meantime
            continue
    return sorted(found, key=lambda run: run.changed, reverse=True)


def _folders(log_dir: Path) -> list[Path]:
    try:
        beside = [path for path in sorted(log_dir.iterdir()) if not path.name.startswith(".") and path.is_dir()]
    except OSError:
        return []
    found = []
    for path in beside:
        if (path / MANIFEST).is_file():
            try:
                found += [run.folder for run in sweep_runs(path)]
            except UserError:
                continue
        else:
            found.append(path)
    return found


def open_run(log_dir: Path, name: str) -> RunFolder:
    """The run with a name as of `Listed`. Raises UserError for a name that leads out of the log folder, and if there is
    no run."""
    try:
        root, folder = log_dir.resolve(), (log_dir / name).resolve()
    except (OSError, ValueError, RuntimeError):
        raise UserError(f"{name[:80]!r} is not the name of a run") from None
    if root == folder or not folder.is_relative_to(root):
        raise UserError(f"{name[:80]!r} is not in {log_dir}")
    if not is_run(folder):
        raise UserError(f"{name[:80]!r} is not a run of Peerage")
    return RunFolder.open(log_dir / name)


def version_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when the results of a run change: names, sizes and times of its files."""
    found = []
    for name in RESULTS:
        try:
            about = (folder / name).stat()
        except OSError:
            continue
        found.append((name, about.st_size, about.st_mtime_ns))
    return tuple(found)
