"""Stacked multilayer perceptrons: one pass computes the networks of all members."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from peerage.nets import kernels
from peerage.nets.kernels import Activation
from peerage.nets.layers import linear_part, orthogonal_part
from peerage.nets.stack import Part, Stack, Weights

ALL_ROWS = slice(None)
Rows = slice | Tensor
"""Some rows of a stack: a slice, or an index `[s]` of type long, which copies their parameters."""


def build_mlp(rows: int, inputs: int, outputs: int, settings: Any, *, window: Any = None, **more: Any) -> StackedMLP:
    """The networks of PPO (`peerage.config.methods.NetMethod`): tanh, and orthogonal weights with gain sqrt(2) in
    hidden layers. A window of steps is a flat observation."""
    sizes = (inputs, *settings.net_arch, outputs)
    gains = [math.sqrt(2)] * (len(sizes) - 2) + [1.0]
    return StackedMLP(rows, sizes, activation="tanh", gains=gains, **more)


class StackedMLP(Stack):
    """`S` multilayer perceptrons of one shape, with an `activation` after every layer but the last.

    `sizes` are the widths from input to output, at least two. Layer n has the parameters `{n}.weight [S, in, out]` and
    `{n}.bias [S, 1, out]`, drawn as `torch.nn.Linear` does. With `gains`, one per layer, the weights of layer n are
    instead orthogonal with this gain, as `torch.nn.init.orthogonal_` draws them, and the biases are 0: for PPO
    `sqrt(2)` in hidden layers, 0.01 in the last layer of a policy and 1 in that of a value. `extra` names further
    parameters, zero at first, with their shape per row (gSDE's log standard deviation).

    `constants` and `parameters` are the parameters by name, without and with gradients (see `Stack.weights`).
    """

    def __init__(
        self,
        rows: int,
        sizes: Sequence[int],
        *,
        activation: Activation = "relu",
        gains: Sequence[float] | None = None,
        extra: dict[str, tuple[int, ...]] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sizes, self.activation = tuple(sizes), activation
        if gains is not None and len(gains) != len(sizes) - 1:
            raise ValueError(f"gains has {len(gains)} values, but there are {len(sizes) - 1} layers")
        parts: dict[str, Part] = {}
        for n, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            if gains is None:
                parts |= linear_part(str(n), fan_in, fan_out)
            else:
                parts |= orthogonal_part(str(n), fan_in, fan_out, gains[n])
        parts |= {name: Part(shape, constant=0.0) for name, shape in (extra or {}).items()}
        super().__init__(rows, parts, device=device, dtype=dtype)
        self.constants, self.parameters = self.weights(), self.weights(grad=True)
        self._without_grad, self._with_grad = self._layers_of(self.constants), self._layers_of(self.parameters)

    @property
    def head(self) -> str:
        """The name of the last layer."""
        return str(self.layers - 1)

    @property
    def activations(self) -> int:
        """The number of inputs and outputs of all layers of all rows, for one input each."""
        return self.rows * sum(self.sizes)

    @property
    def layers(self) -> int:
        """The number of linear layers."""
        return len(self.sizes) - 1

    def __call__(self, x: Tensor, *, grad: bool = False, rows: Rows = slice(None)) -> Tensor:
        """`x [s, B, in]` -> `[s, B, out]`, for all rows of the stack, a slice of them or, without `grad`, those of an
        index `[s]`. With `grad`, the backward pass adds the parameters' gradients to `self.grad`."""
        return kernels.run(x, self._layers(grad, rows))

    def tape(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The output, and a function that takes the output's gradient and adds the parameters' gradients to
        `self.grad`: differentiation without autograd."""
        return kernels.tape(x, self._with_grad)

    def trunk(self, x: Tensor, *, grad: bool = False, rows: Rows = slice(None)) -> Tensor:
        """All layers but the last, with their activations: `x [s, B, in]` -> `[s, B, hidden]`."""
        return kernels.run(x, self._layers(grad, rows)[:-1]) if self.layers > 1 else x

    def tail(self, x: Tensor, *, grad: bool = False, rows: Rows = slice(None)) -> Tensor:
        """The last layer: `x [s, B, hidden]` -> `[s, B, out]`."""
        return kernels.run(x, self._layers(grad, rows)[-1:])

    def _layers(self, grad: bool, rows: Rows) -> list[kernels.Layer]:
        if isinstance(rows, Tensor):
            assert not grad, "an index of rows copies their parameters, which collect no gradients"
            return [layer.select(rows) for layer in self._without_grad]
        if rows == ALL_ROWS:
            return self._with_grad if grad else self._without_grad
        return self._layers_of(self.weights(rows, grad=grad))

    def _layers_of(self, w: Weights) -> list[kernels.Layer]:
        return [w.layer(str(n), self.activation if n < self.layers - 1 else None) for n in range(self.layers)]
