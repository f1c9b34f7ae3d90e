"""Blocks of attention networks: attention between any two sets of tokens, pre-norm layers, gates, positions.

A function with the suffix `_part` describes the parameters for a `Stack`; the function itself takes
`w = stack.weights(rows, grad=True)` and tokens `[s, T, B, D]`: `s` rows of the stack, `T` tokens, `B` samples. The
samples come after the tokens, because operations on pairs of a few tokens are fast along a long dimension. The
post-norm layer is `peerage.nets.attention.encoder_layer`. Equations: docs/methods/attention.md.

Common arguments: `valid [s, T, B]` tells which tokens a query may attend to; at least one of each sample must be valid.
`mask` draws dropout's factors (None: no dropout). `keep` receives the attention weights before dropout,
`[s, B, heads, queries, T]`; they sum to 1 over the valid tokens and are exactly 0 elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from peerage.nets.attention import MASKED, encoder_part
from peerage.nets.dropout import Mask
from peerage.nets.layers import layer_norm, linear, linear_part
from peerage.nets.stack import Part, Weights
from peerage.nets.workers import WORKERS

# Up to this number of pairs of a query and a token, elementwise operations are faster than matrix products (measured).
PAIRS = 48
# torch's softmax over a shorter last dimension is several times slower than its formula (measured).
TORCH_SOFTMAX = 16
GATE_BIAS = 2.0


def attend(
    w: Weights,
    name: str,
    queries: Tensor,
    tokens: Tensor,
    *,
    heads: int,
    valid: Tensor | None = None,
    mask: Mask | None = None,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """Multi-head attention, as `torch.nn.MultiheadAttention`, with the parameters `attention_part(name, D)`.

    `queries [s, n, B, D]` and `tokens [s, T, B, D]` -> `[s, n, B, D]`. Self-attention if both are the same tensor.
    """
    n, t = queries.shape[1], tokens.shape[1]
    bias = None if valid is None else masking(valid, tokens.dtype)
    if n == 1 and mask is None:
        found = _folded(w, name, queries, tokens, heads, bias, keep)
    elif n * t <= PAIRS:
        found = _pairs(w, name, queries, tokens, heads, bias, mask, keep)
    else:
        found = _products(w, name, queries, tokens, heads, bias, mask, keep)
    return linear(w, f"{name}.out", found)


def _pairs(
    w: Weights,
    name: str,
    queries: Tensor,
    tokens: Tensor,
    heads: int,
    bias: Tensor | None,
    mask: Mask | None,
    keep: list[Tensor] | None,
) -> Tensor:
    """Attention by elementwise operations on all pairs of a query and a token, samples last: `[s, n, B, D]`."""
    s, t, b, width = tokens.shape
    n, d = queries.shape[1], width // heads
    q = project(w, name, queries, 0, 1).view(s, heads, d, n, b)
    kv = project(w, name, tokens, 1, 3).view(s, 2, heads, d, t, b)
    found, weights = _Pairs.apply(q, kv, bias) if mask is None else plain_pairs(q, kv, bias, mask)
    if keep is not None:
        keep.append(weights.permute(0, 4, 1, 2, 3))
    return found.view(s, width, n * b).mT.view(s, n, b, width)


def masking(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """A summand for logits: 0 at valid tokens, `MASKED` at others."""
    return torch.zeros_like(valid, dtype=dtype).masked_fill_(~valid, MASKED)


def plain_pairs(
    q: Tensor, kv: Tensor, bias: Tensor | None, mask: Mask | None = None
) -> tuple[Tensor, Tensor]:
    """The reference for `_Pairs`: `q [s, heads, d, n, B]`, keys and values `kv [s, 2, heads, d, T, B]`,
    `bias [s, T, B]` -> found values `[s, heads, d, n, B]` and weights `[s, heads, n, T, B]`."""
    k, v = kv.unbind(1)
    logits = (q.unsqueeze(4) * k.unsqueeze(3)).sum(2) * q.shape[2] ** -0.5
    weights = torch.softmax(logits if bias is None else logits + bias[:, None, None], dim=3)
    used = weights if mask is None else weights * mask(tuple(weights.shape))
    return (used.unsqueeze(2) * v.unsqueeze(3)).sum(4), weights


class _Pairs(torch.autograd.Function):
    """`plain_pairs` without dropout, row by row: the products of all pairs of one row stay in the cache."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        s, heads, d, n, b = q.shape
        found, weights = q.new_empty(s, heads, d, n, b), q.new_empty(s, heads, n, kv.shape[4], b)

        def forward(row: int) -> None:
            k, v = kv[row].unsqueeze(3)
            logits = (q[row].unsqueeze(3) * k).sum(1).mul_(d**-0.5)
            if bias is not None:
                logits += bias[row]
            torch.softmax(logits, 2, out=weights[row])
            torch.sum(weights[row].unsqueeze(1) * v, 3, out=found[row])

        WORKERS.run(forward, s)
        ctx.mark_non_differentiable(weights)
        ctx.save_for_backward(q, kv, weights)
        return found, weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        q, kv, weights = ctx.saved_tensors
        of_q, of_kv = torch.empty_like(q), torch.empty_like(kv)

        def backward(row: int) -> None:
            grad, a = grads[0][row].contiguous().unsqueeze(3), weights[row]
            k, v = kv[row].unsqueeze(3)
            torch.sum(a.unsqueeze(1) * grad, 2, out=of_kv[row, 1])
            of_logits = (grad * v).sum(1).mul_(a)
            of_logits.addcmul_(a, of_logits.sum(2, keepdim=True), value=-1).mul_(q.shape[2] ** -0.5)
            torch.sum(of_logits.unsqueeze(1) * k, 3, out=of_q[row])
            torch.sum(of_logits.unsqueeze(1) * q[row].unsqueeze(3), 2, out=of_kv[row, 0])

        WORKERS.run(backward, len(q))
        return of_q, of_kv, None


def project(w: Weights, name: str, x: Tensor, first: int, last: int) -> Tensor:
    """Queries (0), keys (1) and values (2) from `first` to before `last`, samples last: `x [s, T, B, D]` ->
    `[s, (last - first) D, T B]`."""
    width = x.shape[-1]
    weight, bias = (w[f"{name}.in.{which}"][..., first * width : last * width] for which in ("weight", "bias"))
    return torch.baddbmm(bias.mT, weight.mT, x.flatten(1, 2).mT)


def _products(
    w: Weights,
    name: str,
    queries: Tensor,
    tokens: Tensor,
    heads: int,
    bias: Tensor | None,
    mask: Mask | None,
    keep: list[Tensor] | None,
) -> Tensor:
    """Attention by matrix products for each sample and head: `[s, n, B, D]`."""
    s, t, b, width = tokens.shape
    n, d = queries.shape[1], width // heads

    def split(x: Tensor) -> Tensor:  # [s, T, B, D] -> [s * B * heads, T, d]
        return x.unflatten(3, (heads, d)).permute(0, 2, 3, 1, 4).reshape(s * b * heads, -1, d)

    if queries is tokens:
        q, k, v = (split(x) for x in linear(w, f"{name}.in", tokens).chunk(3, dim=3))
    else:
        q, k, v = (
            split(project(w, name, x, which, which + 1).mT.view(*x.shape))
            for which, x in enumerate((queries, tokens, tokens))
        )
    logits = torch.bmm(q * d**-0.5, k.mT).view(s, b, heads, n, t)
    weights = softmax(logits if bias is None else logits + bias.mT[:, :, None, None])
    if keep is not None:
        keep.append(weights)
    if mask is not None:
        weights = weights * mask(tuple(weights.shape))
    found = torch.bmm(weights.view(s * b * heads, n, t), v).view(s, b, heads, n, d)
    return found.permute(0, 3, 1, 2, 4).reshape(s, n, b, width)


def _folded(
    w: Weights, name: str, query: Tensor, tokens: Tensor, heads: int, bias: Tensor | None, keep: list[Tensor] | None
) -> Tensor:
    """Attention of one query, `[s, 1, B, D]`, without a key and a value of every token: the matrix of the keys is
    applied to the query instead, and that of the values to the weighted sum of tokens. Exact: `q . (W x) = (W^T q) . x`
    and `sum a W x = W sum a x`. The bias of the keys adds the same to all logits, so it has no effect."""
    s, t, b, width = tokens.shape
    d = width // heads
    x = tokens.transpose(1, 2).reshape(s * b, t, width)
    weight, bias_of_in = w[f"{name}.in.weight"].unflatten(2, (3, heads, d)), w[f"{name}.in.bias"]
    keys, values = weight[:, :, 1:].permute(2, 0, 3, 1, 4).reshape(2, s * heads, width, d).unbind()
    q = project(w, name, query, 0, 1).view(s * heads, d, b) * d**-0.5
    folded = torch.bmm(q.mT, keys.mT).view(s, heads, b, width).transpose(1, 2).reshape(s * b, heads, width)
    logits = torch.bmm(folded, x.mT).view(s, b, heads, t)
    weights = softmax(logits if bias is None else logits + bias.mT.unsqueeze(2))
    if keep is not None:
        keep.append(weights.unsqueeze(3))
    sums = torch.bmm(weights.view(s * b, heads, t), x).view(s, b, heads, width)
    found = torch.bmm(sums.transpose(1, 2).reshape(s * heads, b, width), values).view(s, heads, b, d)
    return (found.transpose(1, 2).flatten(2) + bias_of_in[..., 2 * width :]).unsqueeze(1)


def softmax(logits: Tensor) -> Tensor:
    """`torch.softmax(logits, dim=-1)`, contiguous, also fast for a few logits."""
    if logits.shape[-1] >= TORCH_SOFTMAX or logits.device.type != "cpu":
        return torch.softmax(logits, dim=-1).contiguous()
    weights: Tensor = _ShortSoftmax.apply(logits.contiguous())
    return weights


class _ShortSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        weights = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
        weights.div_(weights.sum(dim=-1, keepdim=True))
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        grad = grads[0] * weights
        return grad.addcmul_(weights, grad.sum(dim=-1, keepdim=True), value=-1)


# --- layers -------------------------------------------------------------------------------------------------


def block_part(name: str, width: int, hidden: int, gate: bool = False) -> dict[str, Part]:
    """As `torch.nn.TransformerEncoderLayer`; with `gate` two gates more."""
    parts = encoder_part(name, width, hidden)
    if gate:
        parts |= gate_part(f"{name}.gate1", width) | gate_part(f"{name}.gate2", width)
    return parts


def block(
    w: Weights,
    name: str,
    x: Tensor,
    *,
    heads: int,
    context: Tensor | None = None,
    valid: Tensor | None = None,
    gate: bool = False,
    mask: Mask | None = None,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """A pre-norm layer, as `torch.nn.TransformerEncoderLayer(norm_first=True)`: `x [s, n, B, D]` -> `[s, n, B, D]`.

    `y = x + attend(norm1(x), norm1(context))`, then `y + ff2(relu(ff1(norm2(y))))`. `context [s, T, B, D]`: the tokens
    that `x` attends to (None: `x`). With `gate`, `gate(x, relu(branch))` takes the place of every `x + branch`.
    """

    def add(x: Tensor, branch: Tensor, which: str) -> Tensor:
        if mask is not None:
            branch = branch * mask(tuple(branch.shape))
        return gated(w, f"{name}.{which}", x, branch.relu()) if gate else x + branch

    queries = layer_norm(w, f"{name}.norm1", x)
    tokens = queries if context is None else layer_norm(w, f"{name}.norm1", context)
    found = attend(w, f"{name}.attention", queries, tokens, heads=heads, valid=valid, mask=mask, keep=keep)
    y = add(x, found, "gate1")
    hidden = linear(w, f"{name}.ff1", layer_norm(w, f"{name}.norm2", y), relu=True, mask=mask)
    return add(y, linear(w, f"{name}.ff2", hidden), "gate2")


def gate_part(name: str, width: int) -> dict[str, Part]:
    """Linear layers of `[y, x]` for the gates r and z and the candidate h; z starts with the bias -2, so that the gate
    is near the identity."""
    parts: dict[str, Part] = {}
    for which, bias in (("r", 0.0), ("z", -GATE_BIAS), ("h", 0.0)):
        parts |= linear_part(f"{name}.{which}", 2 * width, width)
        parts[f"{name}.{which}.bias"] = Part((1, width), constant=bias)
    return parts


def gated(w: Weights, name: str, x: Tensor, y: Tensor) -> Tensor:
    """The GRU-type gate of GTrXL (arXiv 1910.06764): `x` and the branch `y`, both `[s, ..., D]` -> `[s, ..., D]`.

    `r = sigmoid(W_r [y, x])`, `z = sigmoid(W_z [y, x] - 2)`, `h = tanh(W_h [y, r x])`, `(1 - z) x + z h`.
    """
    both = torch.cat((y, x), dim=-1)
    r, z = linear(w, f"{name}.r", both).sigmoid(), linear(w, f"{name}.z", both).sigmoid()
    return torch.lerp(x, linear(w, f"{name}.h", torch.cat((y, r * x), dim=-1)).tanh(), z)


# --- positions ---------------------------------------------------------------------------------------------


def positions_part(name: str, length: int, width: int) -> dict[str, Part]:
    """Learned positions `{name}.weight [length, D]`, uniform on (-1/sqrt(D), 1/sqrt(D)). They are counted back from the
    end: the last row belongs to the newest token."""
    return {f"{name}.weight": Part((length, width), 1 / math.sqrt(width))}


def add_positions(w: Weights, name: str, tokens: Tensor) -> Tensor:
    """`tokens [s, T, B, D]` plus learned positions; T is at most their number."""
    return tokens + w[f"{name}.weight"][:, -tokens.shape[1] :].unsqueeze(2)
