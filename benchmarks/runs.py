"""Trains missing runs, each in a separate process. Finished runs are kept; interrupted runs are restarted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar, TypeVar

from peerage.config.file import load


class Experiment:
    """A run of a script, in the folder with its `name` in `root`."""

    root: ClassVar[Path]

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def done(self) -> bool:
        return done(self.folder)


E = TypeVar("E", bound=Experiment)


def done(folder: Path) -> bool:
    return (folder / "DONE").exists()


def command(settings: Sequence[str], folder: Path, module: str = "peerage") -> list[str]:
    """The command that trains with `settings` on one thread, without output, into `folder`. `module`: a module that
    registers a method and ends with `peerage.cli.main()`."""
    where = ["--log-dir", str(folder.parent), "--exp-name", folder.name, "--threads", "1", "--verbose", "0"]
    overwrite = ["--overwrite"] if folder.exists() else []
    return [sys.executable, "-m", module, "train", *settings, *where, *overwrite]


def train(
    settings: Sequence[str], folder: Path, size: tuple[int, int], module: str = "peerage"
) -> tuple[bool, str]:
    """Train one run unless it is finished. `size`: replicas and steps; `module`: as of `command`. Returns whether it
    succeeded, and a message."""
    name = folder.name
    if done(folder):
        config = load(folder / "config.yaml")
        if (config.replicas, config.steps) == size:
            return True, f"{name}: already done"
        was = f"{config.replicas} replicas of {config.steps} steps"
        return True, f"{name}: already done, with {was}; remove {folder} to train it again"
    ended = subprocess.run(command(settings, folder, module), capture_output=True, text=True)
    if ended.returncode:
        return False, f"{name}: {(ended.stderr.strip() or 'failed').splitlines()[-1]}"
    return True, f"{name}: trained"


def chosen(experiments: Sequence[E], patterns: Sequence[str], refuse: Callable[[str], object]) -> list[E]:
    """The experiments that match any of the patterns. `refuse` (a parser's `error`) is called for a pattern without
    matches."""
    for pattern in patterns:
        if not any(fnmatch(e.name, pattern) for e in experiments):
            refuse(f"no run matches {pattern}: use {', '.join(e.name for e in experiments)}")
    return [e for e in experiments if any(fnmatch(e.name, pattern) for pattern in patterns)]


def train_all(experiments: Iterable[E], jobs: int, train_one: Callable[[E], tuple[bool, str]]) -> None:
    """Train experiments, `jobs` at a time, and print a message for each. Raises SystemExit at the end if any failed."""
    with ThreadPoolExecutor(jobs) as pool:
        results = []
        for well, line in pool.map(train_one, experiments):
            print(line, flush=True)
            results.append(well)
    if not all(results):
        raise SystemExit(f"{results.count(False)} of {len(results)} failed")
