"""The state of a training as a file can hold it: trees of tensors, and whether one is of the right shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peerage.append_buffer import AppendBuffer
from peerage.errors import UserError
from peerage.runs.chunks import Chunk, read_entries


def flatten(tree: Any, place: str, tensors: dict[str, torch.Tensor], buffers: dict[str, AppendBuffer]) -> Any:
    """Replace the tensors, arrays and buffers of a nested dict or list by `{"$tensor": place}` and the like, and
    collect them. A key that begins with $ gets another one, so that nothing looks like these by chance."""
    if isinstance(tree, torch.Tensor):
        tensors[place] = tree.detach().contiguous().cpu()
        return {"$tensor": place}
    if isinstance(tree, np.ndarray):  # of an adviser, say
        tensors[place] = torch.from_numpy(np.ascontiguousarray(tree))
        return {"$array": place}
    if isinstance(tree, AppendBuffer):
        buffers[place] = tree
        return {"$buffer": place, "start": tree.start, "stop": tree.stop}
    if isinstance(tree, dict):
        inside = {}
        for key, value in tree.items():
            name = str(key).replace("~", "~0").replace("/", "~1")
            where = f"{place}/{name}" if place else name
            inside["$" * str(key).startswith("$") + str(key)] = flatten(value, where, tensors, buffers)
        return inside
    if isinstance(tree, list | tuple):
        return [flatten(value, f"{place}/{i}", tensors, buffers) for i, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    if tree is None or isinstance(tree, str | int | float):
        return tree
    kind = type(tree).__name__
    raise UserError(f"a checkpoint cannot hold {place}, a {kind}: use numbers, text, lists, dicts and arrays")


def unflatten(tree: Any, tensors: dict[str, torch.Tensor], chunks: dict[str, list[Chunk]] | None, folder: Path) -> Any:
    """The inverse. Without `chunks` there is None in place of every buffer."""
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        if "$array" in tree:
            return tensors[tree["$array"]].numpy()
        if "$buffer" in tree:
            start, stop = tree["start"], tree["stop"]
            return None if chunks is None else read_entries(chunks[tree["$buffer"]], start, stop, folder)
        return {
            key[1:] if key.startswith("$$") else key: unflatten(value, tensors, chunks, folder)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [unflatten(value, tensors, chunks, folder) for value in tree]
    return tree


VARIES = {"means", "pending", "episodes", "advisers", "offsets", "begun", "generators", "starts", "rngs", "actions",
          "features", "environments", "exchanges"}  # fmt: skip
"""Parts of a state whose shapes or keys depend on what happened; whoever loads them looks at them."""


def misfit(expected: Any, found: Any, place: str = "") -> str | None:
    """Where a state is of another shape than one that is known to be sound, in words; None if nowhere."""
    if place.rpartition("/")[2] in VARIES:
        return None
    if isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor):
            return f"{place} is no tensor"
        if (expected.shape, expected.dtype) != (found.shape, found.dtype):
            return f"{place} is {list(found.shape)} of {found.dtype}, not {list(expected.shape)} of {expected.dtype}"
    elif isinstance(expected, AppendBuffer):
        if not isinstance(found, AppendBuffer) or not all(isinstance(n, int) for n in (found.start, found.stop)):
            return f"{place} is no buffer"
        if not 0 <= found.start <= found.stop:
            return f"{place} holds entries {found.start} to {found.stop}"
    elif isinstance(expected, dict):
        if not isinstance(found, dict) or expected.keys() != found.keys():
            return f"{place or 'the state'} has other entries"
        return next(filter(None, (misfit(v, found[k], f"{place}/{k}") for k, v in expected.items())), None)
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(expected) != len(found):
            return f"{place} has another length"
        parts = enumerate(zip(expected, found))
        return next(filter(None, (misfit(x, y, f"{place}/{i}") for i, (x, y) in parts)), None)
    elif type(expected) is not type(found):
        return f"{place} is {type(found).__name__}, not {type(expected).__name__}"
    return None
