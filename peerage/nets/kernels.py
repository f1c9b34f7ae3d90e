"""The linear layers of stacked networks: a pass through consecutive layers as one node of autograd's graph.

Each layer computes `h <- activation(h W + b) * factors`, where the activation (ReLU or tanh) and dropout's factors are
optional; `plain` is that equation, and `run` computes the same faster in one of two ways:

- batched: one `baddbmm` for all rows, for small layers and on GPUs;
- row by row, for wide layers on a CPU: a row's activations stay in the cache. On Intel processors with torch's own
  `addmm`, on others with oneDNN, which has a fused bias and activation (`native.row_products`, docs/performance.md).

By default the sizes of layers and batch determine which one is used, so a row's bits do not depend on other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from peerage.nets import native
from peerage.nets.workers import WORKERS

# A pass goes row by row from this batch size on, if one of its layers has this number of weights (measured).
ROWWISE_MIN_BATCH = 32
ROWWISE_MIN_WEIGHTS = 128 * 128

Activation = Literal["relu", "tanh"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer of `S` rows."""

    weight: Tensor  # [S, in, out]
    bias: Tensor  # [S, 1, out]
    activation: Activation | None = None
    weight_grad: Tensor | None = None  # gradients are added here; None: not wanted
    bias_grad: Tensor | None = None
    factors: Tensor | None = None  # [S, B, out], of dropout; none is negative
    bf16: bool = False  # matrix products in bfloat16, for float32 parameters and activations

    def select(self, rows: Tensor) -> Layer:
        """A copy of some rows, without gradients; `rows [s]`, long."""
        return Layer(self.weight[rows].detach(), self.bias[rows].detach(), self.activation)

    @cached_property
    def detached(self) -> Layer:
        """The same layer outside of autograd's graph."""
        return replace(self, weight=self.weight.detach(), bias=self.bias.detach())

    @cached_property
    def rows(self) -> list[Layer]:
        """The detached layer for each row alone: weight `[in, out]`, bias `[out]`, factors `[B, out]`."""

        def split(x: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * len(self.weight) if x is None else x.detach().unbind()

        weights, biases = self.weight.detach().unbind(), self.bias.detach()[:, 0].unbind()
        bias_grad = None if self.bias_grad is None else self.bias_grad[:, 0]
        rest = zip(split(self.weight_grad), split(bias_grad), split(self.factors), strict=True)
        return [Layer(*pair, self.activation, *more) for pair, more in zip(zip(weights, biases), rest, strict=True)]

    def with_factors(self, factors: Tensor) -> Layer:
        """The same layer with other factors `[S, B, out]`."""
        return replace(self, factors=factors)


def plain(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The reference for `run`, differentiated by autograd: `x [S, B, in]` -> `[S, B, out]`."""
    for layer in layers:
        x = x @ layer.weight + layer.bias
        if layer.activation is not None:
            x = x.relu() if layer.activation == "relu" else x.tanh()
        if layer.factors is not None:
            x = x * layer.factors
    return x


def run(x: Tensor, layers: Sequence[Layer], *, rowwise: bool | None = None) -> Tensor:
    """`x [S, B, in]` -> `[S, B, out]`. Where the first layer's weight requires gradients, the backward pass adds the
    gradients of all layers to their `weight_grad` and `bias_grad`.

    `x` may have more dimensions, `[S, ..., in]` -> `[S, ..., out]`; all between first and last make up `B`.

    `rowwise`: row by row if this machine can (float32 on a CPU); by default the shapes decide.
    """
    products = _select_products(x, layers, rowwise)
    if torch.is_grad_enabled() and (layers[0].weight.requires_grad or x.requires_grad):
        recorded: Tensor = _Pass.apply(x, layers[0].weight, layers, products)
        return recorded
    if len(x) == 1 and not products.batched:  # less overhead than `_forward`
        one = _through(x.reshape(-1, x.shape[-1]), [layer.rows[0] for layer in layers], products, None)
        return one.unsqueeze(0) if x.dim() == 3 else one.view(*x.shape[:-1], one.shape[-1])
    out = _forward(_flat(x), layers, products, None)
    return out if x.dim() == 3 else out.view(*x.shape[:-1], out.shape[-1])


def tape(x: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, Callable[[Tensor], None]]:
    """The output of `run`, and a function that takes the output's gradient and adds the gradients of the parameters:
    differentiation without autograd. Neither `x` nor that gradient may require gradients."""
    products = _select_products(x, layers)
    kept: list[Any] = []
    out = _forward(x, layers, products, kept)

    def backward(grad: Tensor) -> None:
        _backward(grad, layers, products, kept, input_grad=False)

    return out, backward


def _select_products(x: Tensor, layers: Sequence[Layer], rowwise: bool | None = None) -> _Products:
    """How to compute a pass of `x`; `rowwise` as in `run`."""
    if rowwise is None:
        rowwise = x.shape[1] >= ROWWISE_MIN_BATCH and (
            max(layer.weight.shape[1] * layer.weight.shape[2] for layer in layers) >= ROWWISE_MIN_WEIGHTS
        )
    low = layers[0].bf16 and x.dtype == torch.float32
    if not rowwise or x.dtype != torch.float32 or x.device.type != "cpu":
        return BATCHED_BF16 if low else BATCHED
    by_row = native.row_products()
    if low:
        return BATCHED_BF16 if by_row is None else ROW_BF16
    return ROW_PRODUCTS[by_row]


class _Pass(torch.autograd.Function):
    """`plain` with a hand-written backward pass. The weight of the first layer is an input only so that the output
    requires gradients; gradients of parameters do not go through autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layers: Sequence[Layer], products: _Products) -> Tensor:
        ctx.layers, ctx.products, ctx.kept, ctx.shape = layers, products, [], x.shape
        out = _forward(_flat(x), layers, products, ctx.kept)
        # Another tensor than the one that is kept: if a node kept its own output, neither would ever be freed.
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        grad = _backward(_flat(grads[0]), ctx.layers, ctx.products, ctx.kept, input_grad=ctx.needs_input_grad[0])
        return None if grad is None else grad.view(ctx.shape), None, None, None


def _flat(x: Tensor) -> Tensor:
    """`[S, ..., width]` -> `[S, B, width]`."""
    return x if x.dim() == 3 else x.reshape(x.shape[0], -1, x.shape[-1])


def _forward(x: Tensor, layers: Sequence[Layer], products: _Products, kept: list[Any] | None) -> Tensor:
    """`kept` receives what the backward pass needs: the input and the output of every layer; for several rows row by
    row, a list of these for each row."""
    if products.batched:
        return _through(x, [layer.detached for layer in layers], products, kept)
    if len(x) == 1:
        return _through(x[0], [layer.rows[0] for layer in layers], products, kept).unsqueeze(0)
    inputs = x.unbind()
    outputs: list[Tensor] = list(inputs)
    of_row: list[list[Tensor] | None] = [None if kept is None else [] for _ in inputs]

    def forward(row: int) -> None:
        outputs[row] = _through(inputs[row], [layer.rows[row] for layer in layers], products, of_row[row])

    WORKERS.run(forward, len(inputs))
    if kept is not None:
        kept.extend(of_row)
    return torch.stack(outputs)


def _backward(
    grad: Tensor, layers: Sequence[Layer], products: _Products, kept: list[Any], *, input_grad: bool
) -> Tensor | None:
    """Adds the parameters' gradients; returns the input's if it is wanted."""
    if products.batched:
        return _back_through(grad, [layer.detached for layer in layers], products, kept, input_grad)
    grad = grad.contiguous()
    if len(grad) == 1:
        of_one = _back_through(grad[0], [layer.rows[0] for layer in layers], products, kept, input_grad)
        return None if of_one is None else of_one.unsqueeze(0)
    grads: list[Any] = list(grad.unbind())

    def backward(row: int) -> None:
        of_row = [layer.rows[row] for layer in layers]
        grads[row] = _back_through(grads[row], of_row, products, kept[row], input_grad)

    WORKERS.run(backward, len(grads))
    return torch.stack(grads) if input_grad else None


def _through(x: Tensor, layers: Sequence[Layer], products: _Products, kept: list[Tensor] | None) -> Tensor:
    if kept is not None:
        kept.append(x)
    for layer in layers:
        x = products.output(x, layer)
        if layer.factors is not None:
            x = x.mul_(layer.factors)
        if kept is not None:
            kept.append(x)
    return x


def _back_through(
    grad: Tensor, layers: Sequence[Layer], products: _Products, kept: list[Tensor], input_grad: bool
) -> Tensor | None:
    for n in reversed(range(len(layers))):
        layer = layers[n]
        grad = _before_activation(grad, layer, kept[n + 1])
        if layer.weight_grad is not None and layer.bias_grad is not None:
            products.add_gradients(kept[n], grad, layer.weight_grad, layer.bias_grad)
        if n or input_grad:
            grad = products.input_gradient(grad, layer.weight)
    return grad if input_grad else None


def _before_activation(grad: Tensor, layer: Layer, out: Tensor) -> Tensor:
    """The gradient of `h W + b`, given the layer's output and its gradient."""
    if layer.activation == "relu":
        # Where a factor is 0, so is the output: the ReLU's gradient is 0 there, and so is the true one.
        grad = native.relu_backward(grad, out)
        return grad if layer.factors is None else grad.mul_(layer.factors)
    if layer.activation == "tanh":
        if layer.factors is None:
            return native.tanh_backward(grad, out)
        # factor (1 - tanh^2), where out = factor tanh; a factor of 0 gives 0.
        tiny = torch.finfo(out.dtype).tiny
        return grad * (layer.factors - out.square() / layer.factors.clamp(min=tiny))
    return grad if layer.factors is None else grad * layer.factors


def _activate_(x: Tensor, activation: Activation | None) -> Tensor:
    if activation is None:
        return x
    return x.relu_() if activation == "relu" else x.tanh_()


class _Products(Protocol):
    """The three products of a layer: its output, the gradients of its parameters, the gradient of its input."""

    @property
    def batched(self) -> bool:
        """Whether they are those of all rows at once."""

    def output(self, x: Tensor, layer: Layer) -> Tensor: ...

    def add_gradients(self, x: Tensor, grad: Tensor, weight_grad: Tensor, bias_grad: Tensor) -> None: ...

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor: ...


class _Batched:
    """The products of all rows at once: activations are `[S, B, width]`.

    Libraries may compute a batch of one product in another way than one of several. With `pads`, one row is computed as
    two equal ones, so that its bits are those that it has in a stack of several rows.
    """

    batched = True
    pads = False

    def _padded(self, *tensors: Tensor) -> Sequence[Tensor]:
        if self.pads and len(tensors[0]) == 1:
            return [x.expand(2, *x.shape[1:]) for x in tensors]
        return tensors

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        bias, padded, weight = self._padded(layer.bias, x, layer.weight)
        return _activate_(torch.baddbmm(bias, padded, weight)[: len(x)], layer.activation)

    def add_gradients(self, x: Tensor, grad: Tensor, weight_grad: Tensor, bias_grad: Tensor) -> None:
        inputs, padded = self._padded(x, grad)
        weight_grad.add_(torch.bmm(inputs.transpose(1, 2), padded)[: len(grad)])
        bias_grad.add_(grad.sum(dim=1, keepdim=True))

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        padded, weight = self._padded(grad, weight)
        return torch.bmm(padded, weight.transpose(1, 2))[: len(grad)]


class _OneDNNRow:
    """The products of one row with oneDNN: activations are `[B, width]`."""

    batched = False

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        return native.onednn_linear(x, layer.weight.t(), layer.bias, layer.activation)

    def add_gradients(self, x: Tensor, grad: Tensor, weight_grad: Tensor, bias_grad: Tensor) -> None:
        if grad.shape[1] < max(x.shape[1], 16):  # oneDNN copies its first argument: the narrower one is faster
            weight_grad.add_(native.onednn_linear(grad.t(), x.t()).t())
        else:
            weight_grad.add_(native.onednn_linear(x.t(), grad.t()))
        bias_grad.add_(grad.sum(dim=0))

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        return native.onednn_linear(grad, weight)


class _TorchRow:
    """The products of one row with torch's own functions: activations are `[B, width]`."""

    batched = False

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        return _activate_(torch.addmm(layer.bias, x, layer.weight), layer.activation)

    def add_gradients(self, x: Tensor, grad: Tensor, weight_grad: Tensor, bias_grad: Tensor) -> None:
        weight_grad.addmm_(x.t(), grad)
        bias_grad.add_(grad.sum(dim=0))

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        return torch.mm(grad, weight.t())


@dataclass(frozen=True)
class _BF16:
    """The products in bfloat16, as of `torch.autocast`: parameters, activations and gradients stay float32."""

    batched: bool

    def output(self, x: Tensor, layer: Layer) -> Tensor:
        return _activate_((x.bfloat16() @ layer.weight.bfloat16()).float().add_(layer.bias), layer.activation)

    def add_gradients(self, x: Tensor, grad: Tensor, weight_grad: Tensor, bias_grad: Tensor) -> None:
        weight_grad.add_(x.bfloat16().mT @ grad.bfloat16())
        bias_grad.add_(grad.sum(dim=-2, keepdim=self.batched))

    def input_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        return (grad.bfloat16() @ weight.bfloat16().mT).float()


def pad_single_rows(on: bool) -> None:
    """Choose whether float32 products of one row are computed as those of two (`_Batched`), in this process."""
    BATCHED.pads = on


BATCHED = _Batched()
BATCHED_BF16, ROW_BF16 = _BF16(batched=True), _BF16(batched=False)
ROW_PRODUCTS: dict[str | None, _Products] = {"oneDNN": _OneDNNRow(), "torch": _TorchRow(), None: BATCHED}
"""By the result of `native.row_products`."""
