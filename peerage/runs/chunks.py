"""Files for the entries of long buffers (`AppendBuffer`). Files are added and never changed, so that a checkpoint
writes only the new entries."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from peerage.append_buffer import AppendBuffer
from peerage.runs import disk
from peerage.runs.tensor_file import save_tensors

SMALL = 1 << 20
"""A last chunk of fewer bytes is merged with the new entries, so that many checkpoints do not make many files."""
LARGE = 1 << 26
"""Bytes of the largest chunk, which limits the memory for copies."""


@dataclass(frozen=True)
class Chunk:
    """A file that holds entries `start` to `stop - 1` of a buffer."""

    start: int
    stop: int
    name: str
    size: int
    """Bytes."""
    sha256: str


def write_chunks(folder: Path, place: str, buffer: AppendBuffer, known: list[Chunk]) -> list[Chunk]:
    """Write the entries of a buffer that the chunks in `known` do not hold; returns all its chunks, oldest first.

    `place` is the buffer's key in the state and becomes part of the file names. Raises OSError.
    """
    chunks: list[Chunk] = []
    for chunk in known:
        if chunk.stop <= buffer.start and not chunks:
            continue  # all its entries have left the buffer
        path = folder / chunk.name
        follows = chunk.start == chunks[-1].stop if chunks else chunk.start <= buffer.start
        if chunk.stop > buffer.stop or not follows or not path.is_file() or path.stat().st_size != chunk.size:
            break  # the rest is written again
        chunks.append(chunk)
    if chunks and chunks[-1].size < SMALL and chunks[-1].start >= buffer.start and chunks[-1].stop < buffer.stop:
        chunks.pop()
    begin = chunks[-1].stop if chunks else buffer.start
    if begin == buffer.stop:
        return chunks
    entry = sum(x.nbytes for x in buffer.read(begin, begin + 1).values())
    step = max(1, LARGE // max(1, entry))
    for a in range(begin, buffer.stop, step):
        b = min(a + step, buffer.stop)
        name = f"{re.sub(r'[^a-z0-9_]+', '-', place.lower())}-{a:09d}-{b:09d}.safetensors"
        partial = folder / f".{name}.partial"
        save_tensors({key: x.detach().contiguous().cpu() for key, x in buffer.read(a, b).items()}, partial)
        disk.sync(partial)
        made = Chunk(a, b, name, partial.stat().st_size, disk.sha256(partial))
        os.replace(partial, folder / name)
        chunks.append(made)
    disk.sync(folder)
    return chunks


def read_entries(chunks: list[Chunk], start: int, stop: int, folder: Path) -> AppendBuffer:
    """A buffer whose entries `start` to `stop - 1` are read from files; ValueError if the chunks lack any of them."""
    cuts = [*(chunk.start for chunk in chunks), *(chunk.stop for chunk in chunks[-1:])]
    if stop > start and not (cuts and cuts[0] <= start and cuts[-1] == stop and cuts == sorted(set(cuts))):
        raise ValueError(f"chunks {cuts} for the entries {start} to {stop} of a buffer")

    def piece(a: int, b: int) -> dict[str, torch.Tensor]:
        chunk = next(c for c in chunks if c.start <= a and b <= c.stop)
        found = load_file(folder / chunk.name)
        return {key: tensor[:, a - chunk.start : b - chunk.start] for key, tensor in found.items()}

    return AppendBuffer(start, stop, piece, tuple(cut for cut in cuts if start < cut < stop))
