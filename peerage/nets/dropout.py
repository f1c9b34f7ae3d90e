"""Dropout whose masks are cheap: on a CPU torch's random numbers cost more than a transformer's matrix products.

Measured, for the 2 million factors of one training step of the trust transformer: torch's `bernoulli_` 9 ms, this
0.7 ms. It takes the raw bytes of numpy's SFC64, one for a factor: a number is dropped when its byte is below
`round(256 p)`. So the rate is a multiple of 1/256 (26/256 = 0.1016 for p = 0.1), and what is kept is scaled by
1 / (1 - that rate), exactly, so that the mean is unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.nets.attention import Mask


class _Factors:
    """A `Mask` of some rows."""

    def __init__(self, dropout: Dropout, rows: slice) -> None:
        self.dropout, self.rows, self.scale = dropout, rows, 1 / (1 - dropout.p)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        return self.dropout.draw(self.rows, shape)


class Dropout:
    """Dropout's factors for the rows of a stack, 0 or `1 / (1 - p)`.

    On a CPU each row has its own stream, begun by its own generator, so that what is dropped in a row depends on no
    other row and on no thread. On another device all rows share torch's generator there, and `p` is exact.

    `p` is the rate asked for, in [0, 1); `self.p` the rate that is used.
    """

    def __init__(
        self,
        p: float,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"a dropout rate is in [0, 1), not {p}")
        self.device, self.dtype = torch.device(device), dtype
        seeds = [rng.integers(0, 2**32, size=4, dtype=np.uint64).tolist() for rng in generators]
        self.streams = [np.random.SFC64(seed) for seed in seeds]
        self.generator: torch.Generator | None = None
        self.threshold = round(256 * p)
        self.p = self.threshold / 256
        if self.device.type != "cpu":
            self.generator = torch.Generator(self.device)
            self.generator.manual_seed(seeds[0][0])
            self.p = p
        if p > 0 and self.p in (0, 1):
            raise ValueError(f"a dropout rate is a multiple of 1/256 here, and {p} is next to {self.p:.0f}")
        self.width = np.float64 if dtype == torch.float64 else np.float32
        self.scale = self.width(1 / (1 - self.p))

    def of(self, rows: slice) -> Mask | None:
        """For some of the rows what the blocks take as `mask`; None where nothing is dropped."""
        if self.p == 0:
            return None
        return _Factors(self, rows)

    def draw(self, rows: slice, shape: tuple[int, ...]) -> Tensor:
        """The next factors of some rows, `shape` `(s, ...)`."""
        if self.generator is not None:
            kept = torch.empty(shape, device=self.device, dtype=self.dtype)
            return kept.bernoulli_(1 - self.p, generator=self.generator).mul_(1 / (1 - self.p))
        drawn = [self._draw(stream, math.prod(shape[1:])) for stream in self.streams[rows]]
        return torch.from_numpy(drawn[0] if len(drawn) == 1 else np.concatenate(drawn)).to(self.dtype).view(shape)

    def _draw(self, stream: np.random.SFC64, count: int) -> np.ndarray:
        # Eight factors from a draw of 64 bits. numpy compares and converts bytes twenty times faster than torch,
        # and lets other threads run meanwhile.
        raw = stream.random_raw(-(-count // 8)).view(np.uint8)[:count]
        kept = np.greater_equal(raw, self.threshold).astype(self.width)
        return np.multiply(kept, self.scale, out=kept)

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        streams = []
        for stream in self.streams:
            whole: dict[str, Any] = dict(stream.state)
            streams.append({**whole, "state": {"state": whole["state"]["state"].tolist()}})
        device = None if self.generator is None else self.generator.get_state().tolist()
        return {"streams": streams, "device": device}

    def load_state(self, state: dict[str, Any]) -> None:
        if len(state["streams"]) != len(self.streams):
            raise ValueError("dropout of another number of rows")
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            whole: Any = {**saved, "state": {"state": np.array(saved["state"]["state"], dtype=np.uint64)}}
            stream.state = whole
        if self.generator is not None and state["device"] is not None:
            self.generator.set_state(torch.tensor(state["device"], dtype=torch.uint8))
