"""Long buffers that only grow at their end, as a checkpoint sees them: what is new since the last one is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class AppendBuffer:
    """AppendBuffer `start` to `stop - 1` of a buffer, numbered since the beginning of the run; older ones are gone.

    `read(a, b)` gives some of them as named tensors `[rows, b - a, ...]`. `cuts`: where they may be cut, if not
    everywhere (in a checkpoint they lie in several files).
    """

    start: int
    stop: int
    read: Callable[[int, int], dict[str, Tensor]]
    cuts: tuple[int, ...] = ()

    def pieces(self) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
        """Everything, oldest first, as (from, to, tensors)."""
        for a, b in pairwise(sorted({self.start, *self.cuts, self.stop})):
            yield a, b, self.read(a, b)
