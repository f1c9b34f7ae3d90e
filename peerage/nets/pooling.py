"""Attention pooling: learned queries, the same for all samples, over tokens `[s, T, B, D]` (see `peerage.nets.blocks`).

Equations: docs/methods/attention.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from peerage.nets.blocks import PAIRS, masking
from peerage.nets.layers import linear, linear_part
from peerage.nets.stack import Part, Weights


def pool_part(name: str, width: int, heads: int, queries: int = 1, out: bool = True) -> dict[str, Part]:
    """The parameters of `pool`: queries, values and, with `out`, the output layer of the heads.

    Attention with a learned query needs no matrices for query and key: `query.weight [heads * n, D]` is their product.
    It needs no bias of the values either, which adds the same to every output as the bias of the output layer. The
    logits of tokens behind a layer norm have variance 1 at first.
    """
    parts = {
        f"{name}.query.weight": Part((heads * queries, width), math.sqrt(3 / width)),
        f"{name}.value.weight": Part((width, width), math.sqrt(3 / width)),
    }
    if out:
        parts |= linear_part(f"{name}.out", width, width) | {f"{name}.out.bias": Part((1, width), constant=0.0)}
    return parts


def pool(
    w: Weights,
    name: str,
    tokens: Tensor,
    *,
    heads: int,
    valid: Tensor | None = None,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """Attention of learned queries, the same for all samples: `tokens [s, T, B, D]` -> `[s, n, B, D]`.

    `softmax(query . token)` of every head, then weighted sums of values, the heads side by side; then the output layer,
    if there is one: without it, the caller's next layer is linear. Equals `torch.nn.MultiheadAttention` with `query =
    W_k^T (W_q q + b_q) / sqrt(d)` and `b_out = W_out b_v + b_o`. `valid [s, T, B]`: which tokens are attended to (None:
    all). The attention weights `[s, B, heads, n, T]` are appended to `keep`.
    """
    s, t, b, width = tokens.shape
    x = tokens.flatten(1, 2).mT  # [s, D, T B]
    logits = torch.bmm(w[f"{name}.query.weight"], x).view(s, heads, -1, t, b)
    if valid is not None:
        logits = logits + masking(valid, tokens.dtype)[:, None, None]
    weights = torch.softmax(logits, dim=3)  # [s, heads, n, T, B]
    if keep is not None:
        keep.append(weights.permute(0, 4, 1, 2, 3))
    n = weights.shape[2]
    values = torch.bmm(w[f"{name}.value.weight"].mT, x).view(s, heads, -1, t, b)
    if n * t <= PAIRS:
        found = (weights.unsqueeze(2) * values.unsqueeze(3)).sum(4)  # [s, heads, d, n, B]
        found = found.view(s, width, n * b).mT.view(s, n, b, width)
    else:
        by_sample = (x.permute(0, 1, 4, 2, 3).reshape(s * heads * b, -1, t) for x in (weights, values))
        found = torch.bmm(next(by_sample), next(by_sample).mT).view(s, heads, b, n, -1)
        found = found.permute(0, 3, 2, 1, 4).reshape(s, n, b, width)
    return linear(w, f"{name}.out", found) if f"{name}.out.weight" in w else found


def pool_numbers(
    w: Weights, name: str, x: Tensor, tables: Tensor, *, heads: int, keep: list[Tensor] | None = None
) -> Tensor:
    """`pool` with one query over the tokens `x_i direction_i + identity_i`, without computing these tokens.

    `x [s, N, F]`, `tables [s, 2, F, D]` (directions and identities) -> `[s, N, D]`. Exact: the tokens are linear in
    `x`, so the logits of a head are `x_i slope_i + offset_i` with two numbers for each feature. The attention weights
    `[s, N, heads, 1, F]` are appended to `keep`.
    """
    found, weights = _PoolNumbers.apply(x, w[f"{name}.query.weight"], w[f"{name}.value.weight"], tables.flatten(1, 2))
    if keep is not None:
        keep.append(weights.permute(0, 3, 1, 2).unsqueeze(3))
    return linear(w, f"{name}.out", found.mT) if f"{name}.out.weight" in w else found.mT


class _PoolNumbers(torch.autograd.Function):
    """`x [s, N, F]`, `query [s, heads, D]`, `value [s, D, D]`, `tables [s, 2 F, D]` -> weighted values `[s, D, N]` and
    weights `[s, heads, F, N]`, which are constants. By hand, because most of autograd's time would be overhead."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, query: Tensor, value: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        s, n, f = x.shape
        heads = query.shape[1]
        x = x.mT.contiguous().unsqueeze(1)  # [s, 1, F, N]
        slope, offset = torch.bmm(query, tables.mT).view(s, heads, 2, f, 1).unbind(2)
        weights = torch.softmax(torch.addcmul(offset, x, slope), dim=2)  # [s, heads, F, N]
        both = torch.stack((weights * x, weights), dim=2)  # [s, heads, 2, F, N]
        values = torch.bmm(value.mT, tables.mT).view(s * heads, -1, 2 * f)  # [s heads, d, 2 F]
        found = torch.bmm(values, both.view(s * heads, 2 * f, n)).view(s, -1, n)
        ctx.mark_non_differentiable(weights)
        ctx.save_for_backward(x, query, value, tables, slope, weights, both, values)
        return found, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        x, query, value, tables, slope, weights, both, values = ctx.saved_tensors
        s, heads, f, n = weights.shape
        grad = grads[0].reshape(s * heads, -1, n)
        of_scaled, of_weights = torch.bmm(values.mT, grad).view(s, heads, 2, f, n).unbind(2)
        of_values = torch.bmm(both.view(s * heads, 2 * f, n), grad.mT).view(s, heads, 2 * f, -1)
        of_values = of_values.transpose(1, 2).flatten(2)  # [s, 2 F, D]
        of_logits = torch.addcmul(of_weights, of_scaled, x).mul_(weights)
        of_logits.addcmul_(weights, of_logits.sum(2, keepdim=True), value=-1)
        of_both = torch.cat(((of_logits * x).sum(3), of_logits.sum(3)), dim=2)  # of slope and offset, [s, heads, 2 F]
        of_tables = torch.bmm(of_both.mT, query).baddbmm_(of_values, value.mT)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (of_scaled * weights).addcmul_(of_logits, slope).sum(1).mT
        return of_x, torch.bmm(of_both, tables), torch.bmm(tables.mT, of_values), of_tables
