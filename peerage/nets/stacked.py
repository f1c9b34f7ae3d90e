"""Stacked networks: the parameters of many members in one tensor, one `baddbmm` for a layer of all of them.

A stack of `S` rows keeps all parameters of a row side by side in one contiguous tensor `flat [S, P]`; layers
are views into it (`weight [S, in, out]`, `bias [S, 1, out]`). So Adam, soft target updates, gradient norms and
checkpoints are a handful of operations on one tensor, and everything per member is a column vector `[S, 1]`.
The losses of the rows are summed, so that their gradients stay independent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from peerage.nets.kernels import Layer, run, tape

# Gradients are views into one flat tensor, whose rows are longer than the view: intended, and measured faster.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


class StackedMLP:
    """`S` multilayer perceptrons of one shape, ReLU between the layers, nothing after the last.

    `sizes` are the widths from input to output. `extra` names further parameters that live in the same flat
    tensor (gSDE's log standard deviation), with their shape per row.
    """

    def __init__(
        self,
        rows: int,
        sizes: Sequence[int],
        *,
        extra: dict[str, tuple[int, ...]] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.sizes = rows, tuple(sizes)
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            shapes[f"{layer}.weight"] = (fan_in, fan_out)
            shapes[f"{layer}.bias"] = (1, fan_out)
        shapes.update(extra or {})
        total = sum(math.prod(shape) for shape in shapes.values())
        self.flat = torch.zeros(rows, total, device=device, dtype=dtype)
        self.grad = torch.zeros_like(self.flat)
        # Two views of the same memory: `parameters` collect gradients (straight into `grad`), `constants` do
        # not, for passes in which only the input's gradient is wanted.
        self.parameters: dict[str, Tensor] = {}
        self.constants: dict[str, Tensor] = {}
        start = 0
        for name, shape in shapes.items():
            part = slice(start, start + math.prod(shape))
            self.constants[name] = self.flat[:, part].view(rows, *shape)
            leaf = self.constants[name].detach().requires_grad_()
            leaf.grad = self.grad[:, part].view(rows, *shape)
            self.parameters[name] = leaf
            start = part.stop
        self._layers: dict[bool, list[Layer]] = {True: [], False: []}  # with gradients, without
        for n in range(self.layers):
            weight, bias = f"{n}.weight", f"{n}.bias"
            without = Layer(self.constants[weight], self.constants[bias], n < self.layers - 1, None, None)
            grads = self.parameters[weight].grad, self.parameters[bias].grad
            self._layers[False].append(without)
            self._layers[True].append(without._replace(weight_grad=grads[0], bias_grad=grads[1]))

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    def __call__(self, x: Tensor, *, grad: bool = False, rows: slice = slice(None)) -> Tensor:
        """`x [S, B, in]` -> `[S, B, out]`, for all rows of the stack or a slice of them. With `grad`, the
        parameters collect gradients in the backward pass."""
        return self._run(x, grad, 0, self.layers, rows)

    def tape(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The output, and a function that adds the parameters' gradients, given the output's: without autograd."""
        return tape(x, self._layers[True])

    def trunk(self, x: Tensor, *, grad: bool = False) -> Tensor:
        """All layers but the last: `x [S, B, in]` -> `[S, B, hidden]`."""
        return self._run(x, grad, 0, self.layers - 1) if self.layers > 1 else x

    def tail(self, x: Tensor, *, grad: bool = False) -> Tensor:
        """The last layer: `x [S, B, hidden]` -> `[S, B, out]`."""
        return self._run(x, grad, self.layers - 1, self.layers)

    def _run(self, x: Tensor, grad: bool, first: int, last: int, rows: slice = slice(None)) -> Tensor:
        layers = self._layers[grad][first:last]
        if rows != slice(None):
            layers = [layer.of(rows) for layer in layers]
        return run(x, layers, self.parameters[f"{first}.weight"] if grad else None)

    @torch.no_grad()
    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw every row from its own generator, as `torch.nn.Linear` does: U(-1/sqrt(in), 1/sqrt(in))."""
        for row, rng in enumerate(generators):
            for layer, fan_in in enumerate(self.sizes[:-1]):
                bound = 1 / math.sqrt(max(fan_in, 1))
                for kind in ("weight", "bias"):
                    target = self.constants[f"{layer}.{kind}"][row]
                    target.copy_(torch.from_numpy(rng.uniform(-bound, bound, size=tuple(target.shape))))

    def copy_(self, other: StackedMLP) -> None:
        """Take over the parameters of `other`."""
        self.flat.copy_(other.flat)

    def lerp_(self, online: StackedMLP, tau: Tensor) -> None:
        """Soft update `self += tau (online - self)`; `tau [S, 1]`."""
        self.flat.lerp_(online.flat, tau)


class StackedAdam:
    """Adam (arXiv 1412.6980, Algorithm 1) for a flat stack, with everything that belongs to one row kept apart:
    learning rate, gradient norm, and whether it still learns.

    `lr [S, 1]`; `max_grad_norm [S, 1]` (infinite: no clipping). `step(active)` leaves rows with `active[s] ==
    False` bit for bit as they are, whatever their gradients hold.
    """

    def __init__(
        self,
        flat: Tensor,
        grad: Tensor,
        lr: Tensor,
        *,
        max_grad_norm: Tensor | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.flat, self.grad, self.lr = flat, grad, lr
        self.max_grad_norm = max_grad_norm
        self.betas, self.eps = betas, eps
        self.exp_avg = torch.zeros_like(flat)
        self.exp_avg_sq = torch.zeros_like(flat)
        self.steps = 0
        # On a CPU torch's fused kernel goes over the memory once instead of ten times. Row by row, so that a row's
        # bits depend on no other; rows with the same rate in one call.
        self.rows_by_lr: dict[float, list[int]] = {}
        if flat.device.type == "cpu" and hasattr(torch, "_fused_adam_"):
            for row, rate in enumerate(lr.flatten().tolist()):
                self.rows_by_lr.setdefault(rate, []).append(row)

    def zero_grad(self) -> None:
        self.grad.zero_()

    @torch.no_grad()
    def finite(self) -> Tensor:
        """`[S]` bool: is every gradient of the row finite? (A sum is not finite when a term is not.)"""
        return torch.isfinite(self.grad.sum(dim=1))

    @torch.no_grad()
    def step(self, active: Tensor) -> None:
        """One step of the rows with `active [S]`."""
        self.steps += 1
        if self.rows_by_lr:
            self._fused_step(active.tolist())
            return
        beta1, beta2 = self.betas
        active = active.unsqueeze(1)
        grad = torch.where(active, self.grad, 0.0)
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # [S, 1]
            grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
        self.exp_avg.lerp_(grad, 1 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        step_size = torch.where(active, self.lr / (1 - beta1**self.steps), 0.0)
        denominator = self.exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**self.steps)).add_(self.eps)
        self.flat.sub_(torch.div(self.exp_avg, denominator, out=denominator).mul_(step_size))

    def _fused_step(self, active: Sequence[bool]) -> None:
        grad = self.grad
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # [S, 1]
            grad = grad * (self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0)
        columns = [x.unbind() for x in (self.flat, grad, self.exp_avg, self.exp_avg_sq)]
        steps = torch.tensor(float(self.steps))
        for lr, rows in self.rows_by_lr.items():
            learning = [row for row in rows if active[row]]
            if learning:
                flat, grads, first, second = ([column[row] for row in learning] for column in columns)
                torch._fused_adam_(
                    flat,
                    grads,
                    first,
                    second,
                    [],
                    [steps] * len(learning),
                    lr=lr,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    weight_decay=0.0,
                    eps=self.eps,
                    amsgrad=False,
                    maximize=False,
                )

    def state(self) -> dict[str, Tensor]:
        return {
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "steps": torch.tensor(self.steps, dtype=torch.int64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.exp_avg.copy_(state["exp_avg"])
        self.exp_avg_sq.copy_(state["exp_avg_sq"])
        self.steps = int(state["steps"])
