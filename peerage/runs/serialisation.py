"""Conversion of the state of a training (nested dicts and lists) to plain data and tensors, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peerage.append_buffer import AppendBuffer
from peerage.errors import UserError
from peerage.runs.chunks import Chunk, read_entries


def flatten(tree: Any, place: str, tensors: dict[str, torch.Tensor], buffers: dict[str, AppendBuffer]) -> Any:
    """Replace the tensors, arrays and buffers of a nested dict or list by references such as `{"$tensor": place}`, and
    collect them in `tensors` and `buffers`. A $ at the beginning of a key is doubled, so that no key looks like a
    reference. Raises UserError for an object of another type."""
    if isinstance(tree, torch.Tensor):
        tensors[place] = tree.detach().contiguous().cpu()
        return {"$tensor": place}
    if isinstance(tree, np.ndarray):  # such as the state of an adviser
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
    """The inverse of `flatten`. Without `chunks` every buffer is None."""
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
          "features", "environments", "exchanges", "listeners"}  # fmt: skip
"""Parts of a state whose shapes or keys change during a training; the code that loads them checks them."""


def misfit(expected: Any, found: Any, place: str = "") -> str | None:
    """A description of the first place in which `found` differs in structure, shape or type from `expected`, a valid
    state; None if there is none."""
    if place.rpartition("/")[2] in VARIES:
        return None
    if isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor):
            return f"{place} is not a tensor"
        if (expected.shape, expected.dtype) != (found.shape, found.dtype):
            return f"{place} is {list(found.shape)} of {found.dtype}, not {list(expected.shape)} of {expected.dtype}"
    elif isinstance(expected, AppendBuffer):
        if not isinstance(found, AppendBuffer) or not all(isinstance(n, int) for n in (found.start, found.stop)):
            return f"{place} is not a buffer"
        if not 0 <= found.start <= found.stop:
            return f"{place} holds entries {found.start} to {found.stop}"
    elif isinstance(expected, dict):
        if not isinstance(found, dict) or expected.keys() != found.keys():
            return f"{place or 'the state'} has different entries"
        return next(filter(None, (misfit(v, found[k], f"{place}/{k}") for k, v in expected.items())), None)
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(expected) != len(found):
            return f"{place} has a different length"
        parts = enumerate(zip(expected, found))
        return next(filter(None, (misfit(x, y, f"{place}/{i}") for i, (x, y) in parts)), None)
    elif type(expected) is not type(found):
        return f"{place} is {type(found).__name__}, not {type(expected).__name__}"
    return None
