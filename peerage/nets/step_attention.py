"""Attention of one query over the steps of a window, without computing a token for every step.

A token is linear in its step, `W step_t + b + p_t` with a learned position `p_t`. So keys and values need no tokens:
the matrices of keys and tokens are applied to the query instead, and those of tokens and values to the weighted sums of
steps and of positions. Exact; equations: docs/methods/attention.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerage.nets.blocks import masking, project
from peerage.nets.dropout import Mask
from peerage.nets.layers import linear
from peerage.nets.stack import Weights
from peerage.nets.workers import WORKERS


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
    """`peerage.nets.blocks.attend` of `query [s, 1, B, D]` over the tokens of `steps [s, T, B, width]`, whose layer is
    `step` and whose positions are `position`: `[s, 1, B, D]`."""
    s, t, b, width = steps.shape
    d_model = query.shape[-1]
    d = d_model // heads
    weight, bias = w[f"{name}.in.weight"].unflatten(2, (3, heads, d)), w[f"{name}.in.bias"]
    keys, values = weight[:, :, 1:].permute(2, 0, 3, 1, 4).reshape(2, s * heads, d_model, d).unbind()
    q = project(w, name, query, 0, 1).view(s * heads, d, b) * d**-0.5
    folded = torch.bmm(keys, q).view(s, heads, d_model, b).transpose(1, 2).reshape(s, d_model, heads * b)
    table = torch.cat((w["step.weight"], w["position.weight"][:, -t:]), dim=1)  # [s, width + T, D]
    of_step, of_position = torch.bmm(table, folded).view(s, width + t, heads, b).split((width, t), dim=1)
    x, bias_of_tokens = steps.mT, None if valid is None else masking(valid, steps.dtype).unsqueeze(2)
    if mask is None:
        sums, weights = _WeighSteps.apply(x, of_step, of_position, bias_of_tokens)
        used = weights
    else:
        sums, weights, used = plain_weigh_steps(x, of_step, of_position, bias_of_tokens, mask)
    if keep is not None:
        keep.append(weights.permute(0, 3, 2, 1).unsqueeze(3))
    sums = torch.cat((sums, used), dim=1).view(s, width + t, heads * b)
    mixed = torch.bmm(table.mT, sums).view(s, d_model, heads, b)
    mixed = mixed + w["step.bias"].mT.unsqueeze(3) * used.sum(1).unsqueeze(1)  # the weights sum to 1, but for dropout
    found = torch.bmm(values.mT, mixed.transpose(1, 2).reshape(s * heads, d_model, b)).view(s, d_model, b)
    found = found + bias[..., 2 * d_model :].mT
    return linear(w, f"{name}.out", found.mT.unsqueeze(1))


def plain_weigh_steps(
    x: Tensor, of_step: Tensor, of_position: Tensor, bias: Tensor | None, mask: Mask | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference for `_WeighSteps`: steps `x [s, T, width, B]`, `of_step [s, width, heads, B]`,
    `of_position [s, T, heads, B]` and `bias [s, T, 1, B]` -> weighted sums of steps `[s, width, heads, B]`, weights
    `[s, T, heads, B]`, and the weights after dropout."""
    logits = (x.unsqueeze(3) * of_step.unsqueeze(1)).sum(2) + of_position
    weights = torch.softmax(logits if bias is None else logits + bias, dim=1)
    used = weights if mask is None else weights * mask(tuple(weights.shape))
    return (used.unsqueeze(2) * x.unsqueeze(3)).sum(1), weights, used


class _WeighSteps(torch.autograd.Function):
    """`plain_weigh_steps` without dropout and without a gradient of `x`, row by row and number by number of a step: the
    products of one row stay in the cache."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, of_step: Tensor, of_position: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous().unsqueeze(3)  # [s, T, width, 1, B]
        weights, sums = torch.empty_like(of_position), torch.empty_like(of_step)

        def forward(row: int) -> None:
            logits = of_position[row].clone() if bias is None else of_position[row] + bias[row]
            for k in range(x.shape[2]):
                logits.addcmul_(x[row, :, k], of_step[row, k])
            torch.softmax(logits, 0, out=weights[row])
            for k in range(x.shape[2]):
                torch.sum(weights[row] * x[row, :, k], 0, out=sums[row, k])

        WORKERS.run(forward, len(x))
        ctx.save_for_backward(x, weights)
        return sums, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        of_sums, of_weights = grads
        of_step, of_position = torch.empty_like(of_sums), torch.empty_like(weights)

        def backward(row: int) -> None:
            of_logits = of_weights[row].clone()
            for k in range(x.shape[2]):
                of_logits.addcmul_(x[row, :, k], of_sums[row, k])
            of_logits.mul_(weights[row])
            of_logits.addcmul_(weights[row], of_logits.sum(0, keepdim=True), value=-1)
            of_position[row] = of_logits
            for k in range(x.shape[2]):
                torch.sum(of_logits * x[row, :, k], 0, out=of_step[row, k])

        WORKERS.run(backward, len(x))
        return None, of_step, of_position, None
