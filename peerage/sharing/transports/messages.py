"""Messages between the participants of a federation: safetensors with known arrays and nothing else.

A message that differs in any way from what is expected is not used. Reading one cannot run code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from peerage.runs import disk
from peerage.runs.tensor_file import save_tensors
from peerage.text import one_line

FORMAT = "peerage-federation-1"
HEADER_BYTES = 16_384
"""Largest header of a message."""


class Malformed(Exception):
    """A message that cannot be used, with the reason in one line."""


def label(participant: str, exchange: str, round: int) -> dict[str, str]:
    """All that a message says besides its arrays."""
    return {"format": FORMAT, "participant": participant, "exchange": exchange, "round": str(round)}


def write(path: Path, arrays: Mapping[str, Tensor], labels: dict[str, str]) -> None:
    """Write a message in one atomic step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_tensors({name: x.detach().contiguous().cpu() for name, x in arrays.items()}, partial, labels)
        disk.sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    disk.sync(path.parent)


def read(path: Path, expected: Mapping[str, Tensor], labels: dict[str, str]) -> dict[str, Tensor] | None:
    """The arrays of a message; None if it is not there yet. `expected` has the names, shapes and types that the arrays
    must have. Raises Malformed."""
    limit = HEADER_BYTES + sum(x.numel() * x.element_size() for x in expected.values())
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise Malformed("it is not a regular file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Malformed(f"it cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise Malformed(f"it is larger than {limit:,} bytes")
    try:
        length = int.from_bytes(data[:8], "little")
        found = json.loads(data[8 : 8 + length]).get("__metadata__") if length <= HEADER_BYTES else None
        # Copies: memory inside of the file is aligned differently, which changes the last bits of sums over it
        arrays = {name: x.clone() for name, x in load(data).items()} if found == labels else {}
    except (SafetensorError, ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise Malformed(f"it is damaged: {one_line(f'{type(error).__name__}: {error}')[:120]}") from error
    if found != labels:
        raise Malformed(f"it says {_shown(found)}, not {_shown(labels)}")
    if why := _misfit(arrays, expected):
        raise Malformed(why)
    return arrays


def _misfit(arrays: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """How `arrays` differ from those that are expected; empty if they do not."""
    if arrays.keys() != expected.keys():
        return f"it has the arrays {', '.join(sorted(arrays))[:200]}, not {', '.join(sorted(expected))}"
    for name, wanted in expected.items():
        found = arrays[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            return f"{name} is {list(found.shape)} of {found.dtype}, not {list(wanted.shape)} of {wanted.dtype}"
        if not bool(torch.isfinite(found).all()):
            return f"{name} has numbers that are not finite"
    return ""


def _shown(labels: object) -> str:
    """The labels of a message for an error."""
    known = labels if isinstance(labels, dict) else {}
    return one_line(", ".join(f"{name} {known.get(name)}" for name in label("", "", 0)))[:200]
