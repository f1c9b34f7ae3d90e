"""What `peerage data` prints: the local datasets and their returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peerage.errors import UserError
from peerage.offline.places import local_names
from peerage.offline.trajectories import QUANTILES, load_data

COLUMNS = [f"return_{quantile * 100:.0f}" for quantile in QUANTILES]
"""Keys of the quantiles of the returns: `return_10`, ..."""


def list_data(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each dataset: its name, environment, episodes, steps, return quantiles, lengths and source. Without
    `names`, all datasets in Minari's folder. A dataset that cannot be read has a row with its error."""
    return [_row_or_error(name) for name in names or local_names()]


def _row(name: str) -> dict[str, Any]:
    data = load_data(name)
    lengths = data.lengths
    return {
        "name": name,
        "environment": data.source.env or None,
        "episodes": data.episodes,
        "steps": data.steps,
        **dict(zip(COLUMNS, data.quantiles())),
        "length": f"{lengths.min():,} to {lengths.max():,}" if lengths.min() < lengths.max() else f"{lengths[0]:,}",
        "source": data.source.provenance or None,
        "error": None,
    }


def _row_or_error(name: str) -> dict[str, Any]:
    try:
        return _row(name)
    except UserError as error:
        empty = dict.fromkeys(("environment", "episodes", "steps", *COLUMNS, "length", "source"))
        return {"name": name, **empty, "error": str(error)}
