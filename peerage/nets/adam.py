"""Adam for stacks of models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from peerage.nets import native


class StackedAdam:
    """Adam (arXiv 1412.6980, Algorithm 1) on `flat [S, P]` with gradients `grad [S, P]`, where every row has its own
    learning rate and limit of the gradient norm and can be frozen.

    With `decay [S, P]`, the weight decay of every parameter, it is AdamW (arXiv 1711.05101): a step first multiplies
    the parameters by `1 - lr decay`.

    `lr [S, 1]`; `max_grad_norm [S, 1]` (infinite: no clipping). The parameters of a row that is not active in
    `step(active)` keep their bits, whatever its gradients are. With `row_steps`, each row counts its own steps, for
    learners whose rows skip steps; otherwise a row that is inactive once remains inactive, and all rows share one
    count.
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
        row_steps: bool = False,
        decay: Tensor | None = None,
    ) -> None:
        self.decay = decay
        self.flat, self.grad = flat, grad
        self.max_grad_norm = max_grad_norm
        self.betas, self.eps = betas, eps
        self.exp_avg = torch.zeros_like(flat)
        self.exp_avg_sq = torch.zeros_like(flat)
        self.steps = 0
        self.steps_of_row = np.zeros(len(flat), np.int64) if row_steps else None
        self.set_lr(lr)

    def set_lr(self, lr: Tensor) -> None:
        """Set the learning rates `[S, 1]`."""
        self.lr = lr
        # The fused kernel receives every row as a separate tensor, so that a row's bits do not depend on other rows,
        # and the rows with the same rate in one call.
        self.rows_by_lr: dict[float, list[int]] = {}
        if self.flat.device.type == "cpu" and native.available("fused_adam"):
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
        if self.steps_of_row is not None:
            self.steps_of_row += active.cpu().numpy()
        if self.decay is not None:
            self.flat.mul_(1 - self.lr * self.decay * active.unsqueeze(1))
        if self.rows_by_lr:
            self._fused_step(active.tolist())
        else:
            self._plain_step(active.unsqueeze(1))

    def _plain_step(self, active: Tensor) -> None:
        """The equations, for all rows at once; `active [S, 1]`."""
        beta1, beta2 = self.betas
        grad = self._clipped(torch.where(active, self.grad, 0.0))
        if self.steps_of_row is None:
            self.exp_avg.lerp_(grad, 1 - beta1)
            self.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        else:  # a row that skips a step keeps its moments
            self.exp_avg.lerp_(grad, (1 - beta1) * active.to(grad.dtype))
            decayed = beta2 * self.exp_avg_sq + (1 - beta2) * grad * grad
            self.exp_avg_sq.copy_(torch.where(active, decayed, self.exp_avg_sq))
        step_size = torch.where(active, self.lr / self._bias_correction(beta1), 0.0)
        correction = self._bias_correction(beta2)
        root = math.sqrt(correction) if isinstance(correction, float) else correction.sqrt()
        denominator = self.exp_avg_sq.sqrt().div_(root).add_(self.eps)
        self.flat.sub_(torch.div(self.exp_avg, denominator, out=denominator).mul_(step_size))

    def _bias_correction(self, beta: float) -> float | Tensor:
        """`1 - beta^t`: a number, or a column `[S, 1]` if rows count their own steps."""
        if self.steps_of_row is None:
            return 1 - beta**self.steps
        corrections = 1 - beta ** np.maximum(self.steps_of_row, 1).astype(np.float64)
        return torch.from_numpy(corrections).to(self.flat).unsqueeze(1)

    def _fused_step(self, active: Sequence[bool]) -> None:
        columns = [x.unbind() for x in (self.flat, self._clipped(self.grad), self.exp_avg, self.exp_avg_sq)]
        for lr, rows in self.rows_by_lr.items():
            for step, learning in self._by_step([row for row in rows if active[row]]):
                tensors = ([column[row] for row in learning] for column in columns)
                native.fused_adam_(*tensors, step=step, lr=lr, betas=self.betas, eps=self.eps)

    def _by_step(self, rows: list[int]) -> Iterable[tuple[int, list[int]]]:
        """The number of the step, and the rows that perform it."""
        if self.steps_of_row is None:
            return [(self.steps, rows)] if rows else []
        found: dict[int, list[int]] = {}
        for row in rows:
            found.setdefault(int(self.steps_of_row[row]), []).append(row)
        return found.items()

    def _clipped(self, grad: Tensor) -> Tensor:
        """The gradients, scaled down in rows whose norm exceeds the limit: a new tensor, or `grad` without limits."""
        if self.max_grad_norm is None:
            return grad
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)  # [S, 1]
        return grad * (self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0)

    def state(self) -> dict[str, Tensor]:
        """The moments `[S, P]` and the number of steps, `[S]` if rows count their own."""
        steps = self.steps if self.steps_of_row is None else self.steps_of_row.copy()
        return {
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "steps": torch.as_tensor(steps, dtype=torch.int64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.exp_avg.copy_(state["exp_avg"])
        self.exp_avg_sq.copy_(state["exp_avg_sq"])
        if self.steps_of_row is None:
            self.steps = int(state["steps"])
        else:
            self.steps_of_row[:] = state["steps"].numpy()
