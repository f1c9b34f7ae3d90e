"""The matrix products of stacked networks: a whole pass through all layers as one node of the graph.

Two ways, chosen by shapes alone. Small layers: one `baddbmm` for all rows. Wide ones on a CPU: row after row with
oneDNN, which has a fused bias and ReLU, keeps a row's activations in the cache, and on AMD processors is twice as
fast as MKL, which torch's own matrix product uses (docs/performance.md). A row's bits depend on no other row.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

ONEDNN_MIN_WEIGHTS = 128 * 128  # weights of a layer from which oneDNN pays, measured
ONEDNN_MIN_BATCH = 32


class Layer(NamedTuple):
    """One layer of all rows of a stack."""

    weight: Tensor  # [S, in, out]
    bias: Tensor  # [S, 1, out]
    relu: bool
    weight_grad: Tensor | None  # where gradients are added, None: not wanted
    bias_grad: Tensor | None

    def of(self, rows: slice) -> Layer:
        """The same of some of the rows."""
        grads = self.weight_grad, self.bias_grad
        return Layer(self.weight[rows], self.bias[rows], self.relu, *(g if g is None else g[rows] for g in grads))


def run(x: Tensor, layers: Sequence[Layer], anchor: Tensor | None) -> Tensor:
    """`x [S, B, in]` -> `[S, B, out]`. `anchor` is a leaf that asks for gradients of the parameters, which the
    backward pass then adds to the layers' `weight_grad` and `bias_grad`."""
    if torch.is_grad_enabled() and (anchor is not None or x.requires_grad):
        out: Tensor = _Pass.apply(x, anchor, layers)
        return out
    return (_rowwise if _is_wide(x, layers) else _batched)(x, layers, None)


def tape(x: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, Callable[[Tensor], None]]:
    """The output, and a function that takes the output's gradient and adds those of the parameters."""
    wide = _is_wide(x, layers)
    kept: list[Any] = []
    out = (_rowwise if wide else _batched)(x, layers, kept)
    back = _rowwise_backward if wide else _batched_backward

    def backward(grad: Tensor) -> None:
        back(grad, kept, layers, False)

    return out, backward


def _is_wide(x: Tensor, layers: Sequence[Layer]) -> bool:
    return (
        ONEDNN
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[1] >= ONEDNN_MIN_BATCH
        and max(layer.weight.shape[1] * layer.weight.shape[2] for layer in layers) >= ONEDNN_MIN_WEIGHTS
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, after: str = "none") -> Tensor:
    """oneDNN's `after(x weight^T + bias)` of two matrices, weight `[out, in]`."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "")
    return out


def _find_onednn() -> bool:
    """Is oneDNN's linear layer there, as we know it?"""
    try:
        x = torch.tensor([[2.0, 3.0]])
        return bool(torch.backends.mkldnn.is_available()) and _linear(x, x, x[0, :1], "relu").tolist() == [[15.0]]
    except (AttributeError, RuntimeError, TypeError):
        return False


# oneDNN and what torch lays over it keep a compiled kernel of half a megabyte for every shape they ever met, up to
# 1,024 each; a run has some tens of shapes. Read at their first use.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
os.environ.setdefault("LRU_CACHE_CAPACITY", "256")
ONEDNN = _find_onednn()


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, layers: Sequence[Layer]) -> Tensor:
        ctx.layers, ctx.wide, ctx.kept = layers, _is_wide(x, layers), []
        out = (_rowwise if ctx.wide else _batched)(x, layers, ctx.kept)
        return out.view_as(out)  # not the tensor kept above, or node and tensor would keep each other alive

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        back = _rowwise_backward if ctx.wide else _batched_backward
        return back(grads[0], ctx.kept, ctx.layers, ctx.needs_input_grad[0]), None, None


# --- all rows at once ---------------------------------------------------------------------------------------


def _batched(x: Tensor, layers: Sequence[Layer], kept: list[Any] | None) -> Tensor:
    """`kept` receives the input and the output of every layer."""
    if kept is not None:
        kept.append(x)
    for layer in layers:
        x = torch.baddbmm(layer.bias, x, layer.weight)
        if layer.relu:
            x = x.relu_()
        if kept is not None:
            kept.append(x)
    return x


def _batched_backward(grad: Tensor, kept: list[Any], layers: Sequence[Layer], input_grad: bool) -> Tensor | None:
    for n in reversed(range(len(layers))):
        layer, x = layers[n], kept[n]
        if layer.relu:
            grad = torch.ops.aten.threshold_backward(grad, kept[n + 1], 0)
        if layer.weight_grad is not None and layer.bias_grad is not None:
            layer.weight_grad.add_(torch.bmm(x.transpose(1, 2), grad))
            layer.bias_grad.add_(grad.sum(dim=1, keepdim=True))
        if n or input_grad:
            grad = torch.bmm(grad, layer.weight.transpose(1, 2))
    return grad if input_grad else None


# --- row after row ------------------------------------------------------------------------------------------


class Workers:
    """Threads that take rows one after the other, beside the caller.

    Each computes its rows by itself: unlike the threads within an operation they need not wait for each other
    hundreds of times a step, which on a machine that does something else as well costs more than they bring;
    and the result is the same with any number of them.
    """

    def __init__(self) -> None:
        self.threads = 1
        self.pool: ThreadPoolExecutor | None = None

    def set_threads(self, threads: int) -> None:
        """How many work, the caller included."""
        if threads != self.threads:
            if self.pool is not None:
                self.pool.shutdown()
            self.threads = threads
            self.pool = ThreadPoolExecutor(threads - 1, "rows", self._begin) if threads > 1 else None

    @staticmethod
    def _begin() -> None:
        torch.set_num_threads(1)  # of the operations in this thread; so is the following
        torch.set_grad_enabled(False)

    def run(self, work: Callable[[int], None], rows: int) -> None:
        """`work(row)` for all rows, in whatever order and thread."""
        left = deque(range(rows))

        def some() -> None:
            while True:
                try:
                    row = left.popleft()
                except IndexError:
                    return
                work(row)

        helpers = [self.pool.submit(some) for _ in range(min(self.threads, rows) - 1)] if self.pool else []
        some()
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()


WORKERS = Workers()


def _rowwise(x: Tensor, layers: Sequence[Layer], kept: list[Any] | None) -> Tensor:
    """`kept` receives a list a row: the input and the output of every layer."""
    inputs = x.unbind()
    states: list[list[Tensor]] = [[h] for h in inputs]

    def forward(row: int) -> None:
        h = inputs[row]
        for layer in layers:
            h = _linear(h, layer.weight[row].t(), layer.bias[row, 0], "relu" if layer.relu else "none")
            states[row].append(h)

    WORKERS.run(forward, len(inputs))
    if kept is not None:
        kept.extend(states)
    return torch.stack([state[-1] for state in states])


def _rowwise_backward(grad: Tensor, kept: list[Any], layers: Sequence[Layer], input_grad: bool) -> Tensor | None:
    grads = list(grad.unbind())

    def backward(row: int) -> None:
        g, states = grads[row], kept[row]
        for n in reversed(range(len(layers))):
            layer, x = layers[n], states[n]
            if layer.relu:
                g = torch.ops.aten.threshold_backward(g, states[n + 1], 0)
            if layer.weight_grad is not None and layer.bias_grad is not None:
                if g.shape[1] < 16:  # a narrow head: the product the other way round is faster
                    layer.weight_grad[row].add_(_linear(g.t(), x.t()).t())
                else:
                    layer.weight_grad[row].add_(_linear(x.t(), g.t()))
                layer.bias_grad[row].add_(g.sum(dim=0))
            if n or input_grad:
                g = _linear(g, layer.weight[row])
        grads[row] = g

    WORKERS.run(backward, len(grads))
    return torch.stack(grads) if input_grad else None
