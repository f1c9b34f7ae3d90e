"""Attention of one query over the steps of a window, without computing a token for every step.

A token is linear in its step, `W step_t + b + p_t` with a learned position `p_t`, so keys and values need no tokens:
the matrices of keys and values are applied to the rows of `W` and to the positions instead, once for all samples.
Exact; equations: docs/methods/attention.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerage.nets.blocks import masking, project
from peerage.nets.dropout import Mask
from peerage.nets.layers import linear
from peerage.nets.stack import Weights

# From this number of samples on, loops over steps and their numbers are faster than one operation (measured).
LOOP_MIN_BATCH = 64


def attend_steps(
    w: Weights,
    name: str,
    query: Tensor,
    steps: Tensor,
    *,
    heads: int,
    valid: Tensor | None = None,
    mask: Mask | None = None,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """`peerage.nets.blocks.attend` of `query [s, 1, B, D]` over the tokens of `steps [s, T, width, B]`, whose layer is
    `step` and whose positions are `position`: `[s, 1, B, D]`. `valid [s, T, B]`."""
    s, t, width, b = steps.shape
    d_model = query.shape[-1]
    d = d_model // heads
    weight, bias = w[f"{name}.in.weight"][..., d_model:], w[f"{name}.in.bias"][..., 2 * d_model :]
    table = torch.cat((w["step.weight"], w["position.weight"][:, -t:]), dim=1)  # [s, width + T, D]
    both = torch.bmm(table, weight).view(s, width + t, 2, heads, d).permute(2, 0, 3, 1, 4)
    keys, values = both.reshape(2, s * heads, width + t, d).unbind()
    q = project(w, name, query, 0, 1).view(s * heads, d, b) * d**-0.5
    hidden = None if valid is None else masking(valid, steps.dtype)
    if mask is None and b >= LOOP_MIN_BATCH:
        found, weights = _AttendSteps.apply(steps, q, keys, values, hidden)
        offset = torch.baddbmm(bias, w["step.bias"], weight[..., d_model:])  # the weights sum to 1
    else:
        found, weights, total = plain_attend_steps(steps, q, keys, values, hidden, mask)
        of_tokens = torch.bmm(w["step.bias"], weight[..., d_model:]).view(s, heads, d, 1)
        found = (found.view(s, heads, d, b) + of_tokens * total.unsqueeze(2)).view(s, d_model, b)
        offset = bias
    if keep is not None:
        keep.append(weights.permute(0, 3, 1, 2).unsqueeze(3))
    return linear(w, f"{name}.out", (found.mT + offset).unsqueeze(1))


def plain_attend_steps(
    x: Tensor, q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, mask: Mask | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference for `_AttendSteps`. `x [s, T, width, B]`, queries `q [s heads, d, B]`, `keys` and `values`
    `[s heads, width + T, d]` of the numbers of a step and of the positions, and the summand `hidden [s, T, B]` of the
    logits -> found values `[s, D, B]`, weights `[s, heads, T, B]`, and the sums of the weights after dropout
    `[s, heads, B]`."""
    s, t, width, b = x.shape
    of_step, of_position = torch.bmm(keys, q).view(s, -1, width + t, b).split((width, t), dim=2)
    logits = (x.unsqueeze(1) * of_step.unsqueeze(2)).sum(3) + of_position
    weights = torch.softmax(logits if hidden is None else logits + hidden.unsqueeze(1), dim=2)
    used = weights if mask is None else weights * mask(tuple(weights.shape))
    sums = torch.cat(((used.unsqueeze(3) * x.unsqueeze(1)).sum(2), used), dim=2)
    found = torch.bmm(values.mT, sums.view(len(q), width + t, b))
    return found.view(s, -1, b), weights, used.sum(2)


class _AttendSteps(torch.autograd.Function):
    """`plain_attend_steps` without dropout and without a gradient of `x`: found values and weights, which are
    constants. The loops are over the numbers of a step and over the steps, so that no operation has a result with a
    number for every head, step and number of a step."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        s, t, width, b = x.shape
        x = x.unsqueeze(1)  # [s, 1, T, width, B]
        scores = torch.bmm(keys, q).view(s, -1, width + t, b)
        logits = scores[:, :, width:]
        if hidden is not None:
            logits += hidden.unsqueeze(1)
        for k in range(width):
            logits.addcmul_(x[:, :, :, k], scores[:, :, k : k + 1])
        sums = torch.empty_like(scores)  # the weighted sums of steps, and the weights
        weights = torch.softmax(logits, dim=2, out=sums[:, :, width:])
        of_steps = torch.mul(x[:, :, 0], weights[:, :, :1], out=sums[:, :, :width])
        for k in range(1, t):
            of_steps.addcmul_(x[:, :, k], weights[:, :, k : k + 1])
        found = torch.bmm(values.mT, sums.view(len(q), -1, b)).view(s, -1, b)
        ctx.save_for_backward(x, q, keys, values, sums)
        ctx.mark_non_differentiable(weights)
        return found, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        x, q, keys, values, sums = ctx.saved_tensors
        _, _, t, width, b = x.shape
        weights = sums[:, :, width:]
        grad = grads[0].reshape(len(q), -1, b)
        of_values = torch.bmm(sums.view(len(q), -1, b), grad.mT)
        of_sums = torch.bmm(values, grad).view(sums.shape)
        of_scores = torch.empty_like(sums)
        of_logits = of_scores[:, :, width:]
        torch.addcmul(of_sums[:, :, width:], x[:, :, :, 0], of_sums[:, :, :1], out=of_logits)
        for k in range(1, width):
            of_logits.addcmul_(x[:, :, :, k], of_sums[:, :, k : k + 1])
        of_logits.mul_(weights)
        of_logits.addcmul_(weights, of_logits.sum(2, keepdim=True), value=-1)
        of_steps = torch.mul(x[:, :, 0], of_logits[:, :, :1], out=of_scores[:, :, :width])
        for k in range(1, t):
            of_steps.addcmul_(x[:, :, k], of_logits[:, :, k : k + 1])
        of_scores = of_scores.view(len(q), -1, b)
        return None, torch.bmm(keys.mT, of_scores), torch.bmm(of_scores, q.mT), of_values, None
