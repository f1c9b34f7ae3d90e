"""Attention of one query over the steps of a window, without computing a token for every step.

A token is linear in its step, `W step_t + b + p_t` with a learned position `p_t`. So keys and values need no tokens:
the matrices of keys and tokens are applied to the query instead, and those of tokens and values to the weighted sums of
steps and of positions. Exact; equations: docs/methods/attention.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peerage.nets.blocks import masking, project
from peerage.nets.dropout import Mask
from peerage.nets.layers import linear
from peerage.nets.stack import Weights


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
    x = steps.mT.unsqueeze(3)  # [s, T, width, 1, B]
    logits = (x * of_step.unsqueeze(1)).sum(2) + of_position  # [s, T, heads, B]
    if valid is not None:
        logits = logits + masking(valid, logits.dtype).unsqueeze(2)
    weights = torch.softmax(logits, dim=1)
    if keep is not None:
        keep.append(weights.permute(0, 3, 2, 1).unsqueeze(3))
    used = weights if mask is None else weights * mask(tuple(weights.shape))
    sums = torch.cat(((used.unsqueeze(2) * x).sum(1), used), dim=1).view(s, width + t, heads * b)
    mixed = torch.bmm(table.mT, sums).view(s, d_model, heads, b)
    mixed = mixed + w["step.bias"].mT.unsqueeze(3) * used.sum(1).unsqueeze(1)  # the weights sum to 1, but for dropout
    found = torch.bmm(values.mT, mixed.transpose(1, 2).reshape(s * heads, d_model, b)).view(s, d_model, b)
    found = found + bias[..., 2 * d_model :].mT
    return linear(w, f"{name}.out", found.mT.unsqueeze(1))
