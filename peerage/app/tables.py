"""The files of a run, read again only when they have changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from peerage.app.runs import version_of
from peerage.config import Config
from peerage.errors import UserError
from peerage.runs.folder import RunFolder
from peerage.runs.tables import read_advice, read_evaluations, read_metrics

KEPT = 24
"""Results that are kept in memory, for all visitors of the page."""
_kept: OrderedDict[tuple[Any, ...], tuple[object, Any]] = OrderedDict()
_lock = threading.Lock()


def kept(key: tuple[Any, ...], version: object, make: Callable[[], Any]) -> Any:
    """`make()`, or its result for the same key if that has the same version. The result must not be changed."""
    with _lock:
        if key in _kept and _kept[key][0] == version:
            _kept.move_to_end(key)
            return _kept[key][1]
    found = make()
    with _lock:
        _kept[key] = (version, found)
        _kept.move_to_end(key)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return found


def evaluations(folder: Path) -> pd.DataFrame:
    """evaluations.csv, mode alone. Raises UserError for a damaged file."""
    return _table(folder, "evaluations.csv", read_evaluations)


def metrics(folder: Path) -> pd.DataFrame:
    """metrics.csv. Raises UserError for a damaged file."""
    return _table(folder, "metrics.csv", read_metrics)


def advice(folder: Path) -> pd.DataFrame:
    """advice.csv. Raises UserError for a damaged file."""
    return _table(folder, "advice.csv", read_advice)


def config(folder: Path) -> Config:
    """config.yaml. Raises UserError for a damaged file."""
    found: Config = _table(folder, "config.yaml", lambda path: RunFolder.open(path).resolved())
    return found


def _table(folder: Path, name: str, read: Callable[[Path], Any]) -> Any:
    version = [entry for entry in version_of(folder) if entry[0] == name]
    try:
        return kept((name, folder), version, lambda: read(folder))
    except OSError as error:  # removed or replaced in the meantime
        raise UserError(f"cannot read {folder / name}: {error.strerror or error}") from error
