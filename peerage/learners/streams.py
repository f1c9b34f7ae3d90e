"""Random streams, one per member and purpose, so that a member's random numbers do not depend on other members.

A stream is keyed by (seed, replica, member, purpose). Numbers are drawn in blocks, so that the Python loop over members
does not run in every step.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StreamKey:
    """The key of a member's random streams. `member` is its number in the group, and `offset` the number that member 0
    of the group has in the random streams."""

    seed: int
    replica: int
    member: int
    offset: int = 0

    def generator(self, purpose: str) -> np.random.Generator:
        """A new generator for this member and `purpose`."""
        key = [self.seed, self.replica, self.offset + self.member, zlib.crc32(purpose.encode())]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


class Streams:
    """Random numbers for the members of a stack: `next()` returns `[S, *shape]`.

    `kind` is `normal` (mean 0, variance 1) or `uniform` ([0, 1), in float64). A member's numbers do not depend on the
    size of the blocks or on other members.
    """

    def __init__(
        self,
        stream_keys: Sequence[StreamKey],
        purpose: str,
        shape: tuple[int, ...],
        kind: Literal["normal", "uniform"],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.generators = [key.generator(purpose) for key in stream_keys]
        self.kind, self.device = kind, device
        self.dtype = torch.float64 if kind == "uniform" else dtype
        # About 16,000 numbers per member and block: large enough to amortise the loop, small enough for the cache
        self.block = max(1, min(1024, 16_384 // max(1, int(np.prod(shape)))))
        width = np.float64 if self.dtype == torch.float64 else np.float32
        self.buffer = np.empty((len(stream_keys), self.block, *shape), width)
        self.tensor: Tensor | None = None
        self.position = self.block
        self.starts: list[dict[str, Any]] = [dict(g.bit_generator.state) for g in self.generators]

    def _refill(self) -> None:
        self.starts = [dict(g.bit_generator.state) for g in self.generators]
        for row, rng in zip(self.buffer, self.generators, strict=True):
            if self.kind == "normal":
                rng.standard_normal(out=row, dtype=row.dtype)
            else:
                rng.random(out=row)
        self.tensor = torch.from_numpy(self.buffer).to(self.device)
        if self.tensor.data_ptr() == self.buffer.ctypes.data:
            self.tensor = self.tensor.clone()  # refilling the buffer must not change tensors returned earlier
        self.position = 0

    def next(self) -> Tensor:
        """The next numbers of every member, `[S, *shape]`."""
        if self.position == self.block or self.tensor is None:
            self._refill()
        assert self.tensor is not None
        out = self.tensor[:, self.position]
        self.position += 1
        return out

    def take(self, n: int) -> Tensor:
        """The results of `n` calls of `next`, `[S, n, *shape]`."""
        if self.tensor is not None and self.position + n <= self.block:
            out = self.tensor[:, self.position : self.position + n]
            self.position += n
            return out
        return torch.stack([self.next() for _ in range(n)], dim=1)

    def state(self) -> dict[str, Any]:
        """JSON-able: the states of the generators before the current block, and the position in the block."""
        return {"starts": self.starts, "position": self.position if self.tensor is not None else -1}

    def load_state(self, state: dict[str, Any]) -> None:
        if len(state["starts"]) != len(self.generators):
            raise ValueError("the stream has another number of members")
        for rng, start in zip(self.generators, state["starts"], strict=True):
            rng.bit_generator.state = start
        self.tensor, self.position = None, self.block
        if state["position"] >= 0:
            self._refill()
            self.position = int(state["position"])
