"""The parameters of many models of one shape, side by side in one tensor.

A `Stack` of `S` rows keeps all parameters of a row in one contiguous row of `flat [S, P]`; parameters by name are
views of it. So Adam, soft target updates, gradient norms and checkpoints are a few operations on one tensor, and a
setting of one member is an entry of a column `[S, 1]`. The losses of the rows are summed, which keeps their gradients
independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from peerage.nets.kernels import Activation, Layer


class Part(NamedTuple):
    """A parameter of every row: its shape and its initial values. `constant` c: all c; `bound` b: uniform on (-b, b);
    `gain` g: g times a random orthogonal matrix (`orthogonal`); with none of them: normal with standard deviation
    `std`."""

    shape: tuple[int, ...]
    bound: float | None = None
    constant: float | None = None
    gain: float | None = None
    std: float = 1.0

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Initial values of one row."""
        if self.constant is not None:
            return np.full(self.shape, self.constant)
        if self.bound is not None:
            return rng.uniform(-self.bound, self.bound, size=self.shape)
        if self.gain is not None and len(self.shape) > 2:  # a convolution [out, in, k, k]
            matrix = self.shape[0], math.prod(self.shape[1:])
            return orthogonal(rng.standard_normal(matrix), self.gain).reshape(self.shape)
        if self.gain is not None:
            return orthogonal(rng.standard_normal(self.shape[::-1]), self.gain).T
        return self.std * rng.standard_normal(self.shape)


def orthogonal(normal: np.ndarray, gain: float) -> np.ndarray:
    """`torch.nn.init.orthogonal_` of standard normal numbers `[out, in]`: a matrix of the same shape whose rows or
    columns, whichever are fewer, are orthogonal vectors of length `gain`, distributed uniformly."""
    wide = normal.shape[0] < normal.shape[1]
    q, r = np.linalg.qr(normal.T if wide else normal)
    q = q * np.sign(np.diag(r))
    return gain * (q.T if wide else q)


class Weights(Mapping[str, Tensor]):
    """The parameters of some rows of a stack by name, each `[s, *shape]`, in the same memory as `Stack.flat`.

    If they were requested with `grad=True`, they are leaves of autograd's graph, and their gradients are added to
    `Stack.grad`; their own `.grad` is always None.
    """

    def __init__(self, tensors: dict[str, Tensor], grads: dict[str, Tensor], bf16: bool = False) -> None:
        """`grads`: for each tensor where its gradient is added; empty without gradients. `bf16`: as of `Layer`."""
        self._tensors, self._grads, self._bf16 = tensors, grads, bf16
        self._layers: dict[tuple[str, Activation | None], Layer] = {}
        for name, grad in grads.items():
            tensors[name].requires_grad_().register_post_accumulate_grad_hook(partial(_move_gradient, grad))

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def layer(self, name: str, activation: Activation | None = None) -> Layer:
        """The linear layer with the parameters `{name}.weight [s, in, out]` and `{name}.bias [s, 1, out]`."""
        key = name, activation
        if key not in self._layers:
            weight, bias = f"{name}.weight", f"{name}.bias"
            grads = self._grads.get(weight), self._grads.get(bias)
            tensors = self._tensors[weight], self._tensors[bias]
            self._layers[key] = Layer(*tensors, activation, *grads, bf16=self._bf16)
        return self._layers[key]


def _move_gradient(to: Tensor, leaf: Tensor) -> None:
    """Adds gradients to a view of `Stack.grad`. Autograd could do so, but warns that such a view is not contiguous."""
    if leaf.grad is not None:
        to.add_(leaf.grad.detach())
        leaf.grad = None


class Stack:
    """Named parameters of `S` models: `flat [S, P]` and their gradients `grad [S, P]`, both zero at first.

    `parts` gives name, shape and initial values; the columns of `flat` are in its order. `bf16`: linear layers compute
    matrix products in bfloat16.
    """

    def __init__(
        self,
        rows: int,
        parts: Mapping[str, Part],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        bf16: bool = False,
    ) -> None:
        self.rows, self.parts, self.bf16 = rows, dict(parts), bf16
        self.count = sum(math.prod(part.shape) for part in parts.values())  # parameters of a row
        self.flat = torch.zeros(rows, self.count, device=device, dtype=dtype)
        self.grad = torch.zeros_like(self.flat)
        self._weights: dict[tuple[int, int, int, bool], Weights] = {}

    def weights(self, rows: slice = slice(None), *, grad: bool = False) -> Weights:
        """The parameters of some rows by name. With `grad`, backward passes add their gradients to `self.grad`."""
        key = (*rows.indices(self.rows), grad)
        if key not in self._weights:
            grads = self._views(self.grad[rows]) if grad else {}
            self._weights[key] = Weights(self._views(self.flat[rows]), grads, self.bf16)
        return self._weights[key]

    def grads(self) -> dict[str, Tensor]:
        """The gradients by name, `[S, *shape]`, in the same memory as `self.grad`."""
        return self._views(self.grad)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        columns = flat.detach().split([math.prod(part.shape) for part in self.parts.values()], dim=1)
        return {
            name: x.detach().view(len(flat), *part.shape)
            for (name, part), x in zip(self.parts.items(), columns, strict=True)
        }

    def select(self, members: Sequence[int]) -> Stack:
        """A copy of some rows, in this order."""
        out = Stack(len(members), self.parts, device=self.flat.device, dtype=self.flat.dtype, bf16=self.bf16)
        out.flat.copy_(self.flat[torch.as_tensor(list(members), device=self.flat.device)])
        return out

    @torch.no_grad()
    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw the initial values of every row from its own generator."""
        weights = self.weights()
        for row, rng in enumerate(generators):
            for name, part in self.parts.items():
                weights[name][row].copy_(torch.from_numpy(part.draw(rng)))

    def copy_(self, other: Stack) -> None:
        """Copy the parameters of `other`, a stack of the same shape."""
        self.flat.copy_(other.flat)

    def lerp_(self, online: Stack, tau: Tensor) -> None:
        """Soft update `self += tau (online - self)`; `tau [S, 1]`."""
        self.flat.lerp_(online.flat, tau)
