"""Buffers that are only appended to, so that a checkpoint needs to store only the entries since the previous one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class AppendBuffer:
    """Entries `start` to `stop - 1` of a buffer, numbered from the start of the run. Older entries have been dropped.

    `read(a, b)` returns the entries `a` to `b - 1` as named tensors `[rows, b - a, ...]`. `cuts` are positions between
    `start` and `stop` at which `pieces` splits the entries; in a checkpoint, they are the boundaries of its files.
    """

    start: int
    stop: int
    read: Callable[[int, int], dict[str, Tensor]]
    cuts: tuple[int, ...] = ()

    def pieces(self) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
        """All entries, oldest first, as (start, stop, tensors)."""
        for a, b in pairwise(sorted({self.start, *self.cuts, self.stop})):
            yield a, b, self.read(a, b)
