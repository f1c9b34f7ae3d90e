"""Adam for stacks of models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from peerage.nets import native


class StackedAdam:
    """Adam (arXiv 1412.6980, Algorithm 1) on `flat [S, P]` with gradients `grad [S, P]`, where every row has its own
    learning rate and limit of the gradient norm and can be frozen.

    `lr [S, 1]`; `max_grad_norm [S, 1]` (infinite: no clipping). The parameters of a row that is not active in
    `step(active)` keep their bits, whatever its gradients are.
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
        # The fused kernel takes every row as a tensor of its own, so that a row's bits depend on no other row, and
        # the rows with the same rate in one call.
        self.rows_by_lr: dict[float, list[int]] = {}
        if flat.device.type == "cpu" and native.available("fused_adam"):
            for row, rate in enumerate(lr.flatten().tolist()):
                self.rows_by_lr.setdefault(rate, []).append(row)

    def zero_grad(self) -> None:
        self.grad.zero_()

    @torch.no_grad()
    def finite(self) -> Tensor:
        """`[S]` bool: whether all gradients of the row are finite. (A sum with a term that is not finite is not.)"""
        return torch.isfinite(self.grad.sum(dim=1))

    @torch.no_grad()
    def step(self, active: Tensor) -> None:
        """One step of the rows with `active [S]` (bool)."""
        self.steps += 1
        if self.rows_by_lr:
            self._fused_step(active.tolist())
        else:
            self._plain_step(active.unsqueeze(1))

    def _plain_step(self, active: Tensor) -> None:
        """The equations, for all rows at once; `active [S, 1]`."""
        beta1, beta2 = self.betas
        grad = self._clipped(torch.where(active, self.grad, 0.0))
        self.exp_avg.lerp_(grad, 1 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        step_size = torch.where(active, self.lr / (1 - beta1**self.steps), 0.0)
        denominator = self.exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**self.steps)).add_(self.eps)
        self.flat.sub_(torch.div(self.exp_avg, denominator, out=denominator).mul_(step_size))

    def _fused_step(self, active: Sequence[bool]) -> None:
        columns = [x.unbind() for x in (self.flat, self._clipped(self.grad), self.exp_avg, self.exp_avg_sq)]
        for lr, rows in self.rows_by_lr.items():
            learning = [row for row in rows if active[row]]
            if learning:
                tensors = ([column[row] for row in learning] for column in columns)
                native.fused_adam_(*tensors, step=self.steps, lr=lr, betas=self.betas, eps=self.eps)

    def _clipped(self, grad: Tensor) -> Tensor:
        """The gradients, scaled down in rows whose norm exceeds the limit: a new tensor, or `grad` without limits."""
        if self.max_grad_norm is None:
            return grad
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # [S, 1]
        return grad * (self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0)

    def state(self) -> dict[str, Tensor]:
        """The moments `[S, P]` and the number of steps."""
        return {
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "steps": torch.tensor(self.steps, dtype=torch.int64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.exp_avg.copy_(state["exp_avg"])
        self.exp_avg_sq.copy_(state["exp_avg_sq"])
        self.steps = int(state["steps"])
