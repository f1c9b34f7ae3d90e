"""Reads Parquet files with one trajectory in each row, in the layout of the Decision Transformer's datasets on Hugging
Face: `observations list<list<float>>`, `actions list<list<float>>` (Discrete: `list<int>`), `rewards list<float>`,
`dones list<bool>`. `next_observations`, like observations, is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peerage.errors import UserError
from peerage.extras import optional
from peerage.offline.episodes import Episode, Recording
from peerage.text import listing, one_line

COLUMNS = ("observations", "actions", "rewards", "dones")
NEXT = "next_observations"


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a dataset, sorted: `path` itself, or those in a folder and its subfolders."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*.parquet") if file.is_file())
    return [path] if path.suffix.lower() == ".parquet" and path.is_file() else []


def read_parquet(path: Path) -> Recording:
    """The episodes of a Parquet file, or of all files in a folder. The environment and the bounds of actions are
    unknown. Raises UserError, in one line, for a damaged file and for another layout."""
    parquet = optional("pyarrow.parquet", "offline", "a Parquet dataset")
    episodes: list[Episode] = []
    discrete: bool | None = None
    for file in parquet_files(path):
        try:
            with parquet.ParquetFile(file) as opened:
                names = opened.schema_arrow.names
                if missing := [name for name in COLUMNS if name not in names]:
                    raise ValueError(f"it has no column {listing(missing)}; it needs {listing(list(COLUMNS))}")
                table = opened.read(columns=[*COLUMNS, *([NEXT] if NEXT in names else [])])
            kind = table.schema.field("actions").type
            scalar = _depth(kind) == 1 and "int" in str(kind.value_type)
            if discrete not in (None, scalar):
                raise ValueError("its actions have another type than those of the other files")
            discrete = scalar
            for row in range(table.num_rows):
                episodes.append(_episode({name: table[name][row] for name in table.column_names}, row))
        except MemoryError as error:
            raise UserError(f"{file} does not fit into the memory") from error
        except Exception as error:  # a damaged file can raise anything
            raise UserError(f"{file} is not a readable dataset: {one_line(error)[:200]}") from error
    return Recording(episodes, discrete=bool(discrete))


def _episode(cells: dict[str, Any], row: int) -> Episode:
    """The trajectory in one row. Raises ValueError."""
    arrays = {name: _array(cell, f"{name} of row {row}") for name, cell in cells.items()}
    obs, dones = arrays["observations"], arrays["dones"]
    if len(dones) != len(arrays["rewards"]):
        raise ValueError(f"row {row} has {len(arrays['rewards'])} rewards and {len(dones)} dones")
    if dones[:-1].any():
        raise ValueError(f"row {row} ends at step {int(np.argmax(dones)) + 1:,} but has {len(dones):,} steps")
    if len(arrays.get(NEXT, ())) not in (0, len(obs)):
        raise ValueError(f"row {row} has {len(obs)} observations and {len(arrays[NEXT])} {NEXT}")
    if NEXT in arrays and len(arrays[NEXT]):
        obs = np.concatenate([obs, arrays[NEXT][-1:]])
    actions = arrays["actions"]
    if actions.ndim == 1 and np.issubdtype(actions.dtype, np.floating):
        actions = actions[:, None]  # Box actions of one number
    return Episode(obs, actions, arrays["rewards"], bool(len(dones) and dones[-1]))


def _array(cell: Any, what: str) -> np.ndarray:
    """A list of numbers as `[T]`, or a list of lists of numbers as `[T, width]`."""
    values = cell.values
    if values is None:
        raise ValueError(f"{what} is empty")
    if values.null_count:
        raise ValueError(f"{what} has missing values")
    depth = _depth(values.type)
    if depth == 0:
        return values.to_numpy(zero_copy_only=False)
    if depth > 1:
        raise ValueError(f"{what} is not flat: its elements are lists of lists")
    flat, steps = values.flatten(), len(values)
    if flat.null_count:
        raise ValueError(f"{what} has missing values")
    widths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
    if len(widths) > 1:
        raise ValueError(f"{what} has elements of several sizes: {widths[:3].tolist()}")
    return flat.to_numpy(zero_copy_only=False).reshape(steps, -1 if steps else 0)


def _depth(kind: Any) -> int:
    """How many lists are around the numbers."""
    depth = 0
    while hasattr(kind, "value_type"):
        kind, depth = kind.value_type, depth + 1
    return depth
