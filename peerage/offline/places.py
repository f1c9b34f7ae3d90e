"""Where datasets are: Minari's folder for names, any folder or file for paths.

A name is an id of Minari, `[namespace/]name-v0`. Without a version, the newest one is meant. A path begins with `./`,
`../`, `~` or `/`, or names something that exists.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from peerage.errors import UserError, nearest
from peerage.text import short

DATA = "data"
"""The subfolder of a Minari dataset that contains its files."""
METADATA = "metadata.json"
NAME = re.compile(r"(?:[-\w]{2,}/)*[-\w]*?\w(-v(?P<version>\d{1,9}))?", re.ASCII)


def minari_root() -> Path:
    """The folder of Minari's local datasets: MINARI_DATASETS_PATH, or ~/.minari/datasets. It may not exist."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root) if root else Path.home() / ".minari" / "datasets"


def is_path(text: str) -> bool:
    """Whether a text has the form of a path rather than of a name."""
    return text.startswith(("./", "../", "~")) or text in (".", "..") or os.path.isabs(text)


def local_names() -> list[str]:
    """The names of the datasets in Minari's folder, sorted."""
    root = minari_root()
    found = []
    for folder, below, _ in os.walk(root):
        if DATA in below:
            if os.path.isfile(os.path.join(folder, DATA, METADATA)):
                found.append(Path(folder).relative_to(root).as_posix())
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found)


def expanded(path: str) -> Path:
    """A path with `~` replaced. Raises UserError for the home of an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{short(path, 100)}: there is no such home folder") from error


def find(name_or_path: str) -> Path:
    """The folder or file of a dataset.

    Raises UserError if there is none, and names the nearest local dataset.
    """
    if not name_or_path or "\0" in name_or_path:
        raise UserError("the name of a dataset is empty or invalid")
    given = expanded(name_or_path)
    try:
        there = given.exists()
    except OSError:  # a name that is too long, for example
        there = False
    if is_path(name_or_path) or there:
        if not there:
            raise UserError(f"no dataset at {short(name_or_path, 100)}: there is no such file or folder")
        return given
    names = local_names()
    if name_or_path in names:
        return minari_root() / name_or_path
    versions = {
        int(match["version"]): name
        for name in names
        if (match := NAME.fullmatch(name)) and match["version"] and name.rpartition("-v")[0] == name_or_path
    }
    if versions:
        return minari_root() / versions[max(versions)]
    hint = nearest(name_or_path, names) or (f"; there are {_some(names)}" if names else "; there is none")
    raise UserError(f"no dataset {short(name_or_path, 100)!r} in {minari_root()}{hint}; `peerage data` lists them")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def is_minari(path: Path) -> bool:
    """Whether a folder is a Minari dataset, or its subfolder `data`."""
    return data_folder(path) is not None


def data_folder(path: Path) -> Path | None:
    """The folder with the files of the Minari dataset `path`; None if it is not one."""
    return next((folder for folder in (path / DATA, path) if (folder / METADATA).is_file()), None)
