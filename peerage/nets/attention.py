"""Self-attention for stacked transformers: an encoder layer that can return its attention weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from peerage.nets.dropout import Mask
from peerage.nets.layers import layer_norm, linear, linear_part, norm_part
from peerage.nets.stack import Part, Weights

MASKED = -1e30  # added to a logit: exp gives an exact 0, and a fully masked row stays finite


def attention_part(name: str, width: int) -> dict[str, Part]:
    """As `torch.nn.MultiheadAttention`: Xavier for the projections to query, key and value; biases 0."""
    parts = linear_part(f"{name}.in", width, 3 * width) | linear_part(f"{name}.out", width, width)
    parts[f"{name}.in.weight"] = Part((width, 3 * width), math.sqrt(6 / (width + 3 * width)))
    for which, size in (("in", 3 * width), ("out", width)):
        parts[f"{name}.{which}.bias"] = Part((1, size), constant=0.0)
    return parts


def encoder_part(name: str, width: int, hidden: int) -> dict[str, Part]:
    """As `torch.nn.TransformerEncoderLayer`."""
    return {
        **attention_part(f"{name}.attention", width),
        **norm_part(f"{name}.norm1", width),
        **linear_part(f"{name}.ff1", width, hidden),
        **linear_part(f"{name}.ff2", hidden, width),
        **norm_part(f"{name}.norm2", width),
    }


def attention_bias(valid: Tensor, causal: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """A summand for the attention logits: 0 where a query may attend, `MASKED` at steps that are not `valid [s, B, T]`
    and, if `causal`, at later steps. `[s, B, 1, 1, T]` or `[s, B, 1, T, T]`."""
    seen = valid[:, :, None, None, :]
    if causal:
        steps = valid.shape[2]
        seen = seen & torch.ones(steps, steps, dtype=torch.bool, device=valid.device).tril_()
    return torch.zeros(seen.shape, device=valid.device, dtype=dtype).masked_fill_(~seen, MASKED)


def encoder_layer(
    w: Weights,
    name: str,
    x: Tensor,
    *,
    heads: int,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    mask: Mask | None = None,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """A post-norm layer as `torch.nn.TransformerEncoderLayer`: `x [s, B, T, D]` -> `[s, B, T, D]`.

    `y = norm1(x + attention(x))`, `norm2(y + ff2(relu(ff1(y))))`. `bias` (`attention_bias`) is added to the logits;
    `scale [s, B, T, heads]` multiplies the logits of a query. `mask` draws dropout's factors (None: no dropout) for the
    attention weights, the hidden units and both branches. The attention weights before dropout,
    `[s, B, heads, T, T]`, are appended to `keep`.
    """

    def add(residual: Tensor, branch: Tensor) -> Tensor:
        return residual + branch if mask is None else torch.addcmul(residual, branch, mask(branch.shape))

    y = layer_norm(w, f"{name}.norm1", add(x, _attention(w, f"{name}.attention", x, heads, bias, scale, mask, keep)))
    hidden = linear(w, f"{name}.ff1", y, relu=True, mask=mask)
    return layer_norm(w, f"{name}.norm2", add(y, linear(w, f"{name}.ff2", hidden)))


def _attention(
    w: Weights,
    name: str,
    x: Tensor,
    heads: int,
    bias: Tensor | None,
    scale: Tensor | None,
    mask: Mask | None,
    keep: list[Tensor] | None,
) -> Tensor:
    """Per head `softmax(scale q k^T / sqrt(d) + bias) v`, all heads projected together: `[s, B, T, D]`."""
    s, b, t, width = x.shape
    d = width // heads
    qkv = linear(w, f"{name}.in", x).view(s, b, t, 3, heads, d)
    q, k, v = (part.transpose(2, 3).reshape(s * b * heads, t, d) for part in qkv.unbind(3))
    factor = d**-0.5
    q = q * (factor if scale is None else factor * scale.transpose(2, 3).reshape(s * b * heads, t, 1))
    if bias is None:
        logits = torch.bmm(q, k.transpose(1, 2))
    else:
        logits = torch.baddbmm(bias.expand(s, b, heads, t, t).reshape(-1, t, t), q, k.transpose(1, 2))
    attention = torch.softmax(logits, dim=-1)
    if keep is not None:
        keep.append(attention.view(s, b, heads, t, t))
    if mask is not None:
        attention = attention * mask((s, b, heads, t, t)).view(attention.shape)
    found = torch.bmm(attention, v).view(s, b, heads, t, d).transpose(2, 3).reshape(s, b, t, width)
    return linear(w, f"{name}.out", found)
