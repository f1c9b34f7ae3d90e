"""Functions of torch that are not part of its public API, each with a check and a public equivalent.

`available(name)` is the only check. It runs the function once on a tiny input, at the first use, and says whether the
result is right. The equivalents are slower: `kernels` uses `baddbmm` instead of `onednn_linear`, `relu_backward` uses
`masked_fill`, `tanh_backward` uses `addcmul`, and `StackedAdam` uses its own elementwise formula instead of
`fused_adam_`. `row_products` says whether this machine uses oneDNN at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from peerage.processor import cpu_vendor


def row_products() -> Literal["oneDNN", "torch"] | None:
    """How this machine computes the products of one row of a wide layer; None: it does not compute row by row.

    torch's own products (MKL) are faster on Intel processors, oneDNN's on AMD's, where MKL does not use AVX-512
    (docs/performance.md). The vendor decides, not a measurement, so that a resumed run uses the same products.
    """
    if cpu_vendor() == "Intel":
        return "torch"
    return "oneDNN" if available("onednn_linear") else None


def onednn_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Literal["relu", "tanh"] | None = None
) -> Tensor:
    """oneDNN's `x weight^T + bias`, with an optional activation: `x [N, in]`, `weight [out, in]`, `bias [out]` ->
    `[N, out]`. Float32 on a CPU only; not differentiable."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation or "none", [], "")
    return out


def relu_backward(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient of a ReLU's input, given the gradient of its output `out`: a new tensor."""
    if available("threshold_backward"):
        return threshold_backward(grad, out)
    return grad.masked_fill(out <= 0, 0.0)


def threshold_backward(grad: Tensor, out: Tensor) -> Tensor:
    """`grad` where `out` is not <= 0, else 0."""
    result: Tensor = torch.ops.aten.threshold_backward.default(grad, out, 0)
    return result


def tanh_backward(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient of a tanh's input, `grad (1 - out^2)`, given the gradient of its output `out`: a new tensor."""
    if available("fused_tanh_backward"):
        return fused_tanh_backward(grad, out)
    return torch.addcmul(grad, grad * out, out, value=-1)


def fused_tanh_backward(grad: Tensor, out: Tensor) -> Tensor:
    """`grad (1 - out^2)` in one pass over the memory."""
    result: Tensor = torch.ops.aten.tanh_backward.default(grad, out)
    return result


def fused_adam_(
    flat: list[Tensor],
    grad: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Adam's step number `step` (1, 2, ...), in place, for several tensors on a CPU. It reads and writes each tensor
    once; the elementwise formula does so about ten times."""
    count = torch.tensor(float(step))
    torch._fused_adam_(
        flat,
        grad,
        exp_avg,
        exp_avg_sq,
        [],
        [count] * len(flat),
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


@cache
def available(name: str) -> bool:
    """Whether this version of torch has the private function behind `name` (a key of `CHECKS`) and it computes the
    expected result. Raises KeyError for another name."""
    check = CHECKS[name]
    try:
        return check()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def _check_onednn_linear() -> bool:
    x = torch.tensor([[2.0, 3.0]])
    return bool(torch.backends.mkldnn.is_available()) and onednn_linear(x, x, x[0, :1], "relu").tolist() == [[15.0]]


def _check_threshold_backward() -> bool:
    return threshold_backward(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])).tolist() == [0.0, 3.0]


def _check_fused_tanh_backward() -> bool:
    return fused_tanh_backward(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 0.5])).tolist() == [2.0, 2.25]


def _check_fused_adam() -> bool:
    flat, grad, exp_avg, exp_avg_sq = torch.tensor([1.0]), torch.tensor([2.0]), torch.zeros(1), torch.zeros(1)
    fused_adam_([flat], [grad], [exp_avg], [exp_avg_sq], step=1, lr=0.5, betas=(0.5, 0.5), eps=0.0)
    return flat.tolist() == [0.5] and exp_avg.tolist() == [1.0] and exp_avg_sq.tolist() == [2.0]


CHECKS: dict[str, Callable[[], bool]] = {
    "onednn_linear": _check_onednn_linear,
    "threshold_backward": _check_threshold_backward,
    "fused_tanh_backward": _check_fused_tanh_backward,
    "fused_adam": _check_fused_adam,
}
