"""Threads that compute the rows of a stack, and the settings of the process that a run makes for speed.

Importing this package changes nothing in the process. A run calls `configure(threads)` once, before it computes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from peerage.nets import native

KERNEL_CACHE = "256"  # compiled oneDNN kernels to keep


class Workers:
    """Threads that take rows one after the other from a common list, together with the calling thread.

    Each row is computed by one thread. Threads within a single operation would have to wait for each other hundreds of
    times per step, which is slow on a busy machine. The result does not depend on the number of threads.
    """

    def __init__(self) -> None:
        self.threads = 1
        self.pool: ThreadPoolExecutor | None = None

    def set_threads(self, threads: int) -> None:
        """Set the number of threads, the calling thread included."""
        if threads != self.threads:
            if self.pool is not None:
                self.pool.shutdown()
            self.threads = threads
            self.pool = ThreadPoolExecutor(threads - 1, "rows", self._begin) if threads > 1 else None

    @staticmethod
    def _begin() -> None:
        # Both settings are local to the new thread.
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)

    def run(self, work: Callable[[int], None], rows: int) -> None:
        """Call `work(row)` for all rows, in any order and in any thread."""
        if rows == 1 or self.pool is None:
            for row in range(rows):
                work(row)
            return
        left = deque(range(rows))

        def take_rows() -> None:
            while True:
                try:
                    row = left.popleft()
                except IndexError:
                    return
                work(row)

        helpers = [self.pool.submit(take_rows) for _ in range(min(self.threads, rows) - 1)]
        take_rows()
        for helper in helpers:
            if not helper.cancel():  # a helper that has not started has nothing left to do
                helper.result()


WORKERS = Workers()


def by_rows(work: Callable[[slice], Tensor], rows: int, device: torch.device | str) -> Tensor:
    """Call `work(slice of rows) -> [s, ...]` and concatenate the results to `[rows, ...]`.

    On a CPU every row is a separate call, in the threads of `WORKERS`, so that a row's bits do not depend on other
    rows; on other devices one call computes all rows. Gradients are recorded if the caller records them.
    """
    if torch.device(device).type != "cpu":
        return work(slice(0, rows))
    out: list[Tensor | None] = [None] * rows
    recorded = torch.is_grad_enabled()

    def one(row: int) -> None:
        with torch.set_grad_enabled(recorded):
            out[row] = work(slice(row, row + 1))

    WORKERS.run(one, rows)
    return torch.cat([part for part in out if part is not None])


def configure(threads: int) -> None:
    """Prepare this process for a run on `threads` (at least 1) CPU threads: thread counts, oneDNN's cache, memory.

    Call it before the first product: oneDNN reads the size of its cache once. Where wide layers are computed row by
    row, threads take whole rows, and every operation has one thread; otherwise every operation has all `threads`.
    """
    # oneDNN and torch's layer above it keep a compiled kernel of half a megabyte for each shape, 1,024 of them each by
    # default. A run has some tens of shapes.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNEL_CACHE)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KERNEL_CACHE)
    torch.set_num_threads(1 if native.row_products() is not None else threads)
    WORKERS.set_threads(threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the process keep the memory of freed activations.

    glibc returns freed blocks above a threshold to the kernel. Allocating them again, page by page, would cost a third
    of a training step of the trust transformer. Freeing one large block raises the threshold (mallopt(3),
    M_MMAP_THRESHOLD). With other C libraries this does nothing.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
