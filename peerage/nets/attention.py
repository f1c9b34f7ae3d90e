"""Stacked building blocks of transformers: the parameters of many members in one tensor, attention whose weights
can be asked for.

A `Stack` keeps all parameters of a row side by side in `flat [S, P]` (as `StackedMLP` does), named and shaped by
the dicts that `linear_part`, `encoder_part`, ... return, so that `StackedAdam(stack.flat, stack.grad, ...)` steps
it. The blocks are functions of `weights = stack.weights(rows, grad=True)` and of activations `x [s, B, T, D]`, `s`
the number of those rows. Gradients go straight into `stack.grad`.

    stack = Stack(S, {**linear_part("embed", F, 64), **encoder_part("0", 64, 256)}, device=device)
    stack.init_([key.generator("init") for key in stream_keys])

    def work(rows):                                   # some of the rows, in whatever thread
        w = stack.weights(rows, grad=True)
        x = linear(w, "embed", features[rows])        # [s, B, T, 64]
        x = encoder_layer(w, "0", x, heads=4, bias=attention_bias(valid[rows], causal=True, dtype=x.dtype))
        loss = ...                                    # [s]
        loss.sum().backward()
        return loss.detach()

    losses = by_rows(work, S, device)                 # [S]

On a CPU `by_rows` computes every row by itself (rows in threads, oneDNN's matrix products, activations that stay in
the cache: measured, docs/performance.md), so a row's bits depend on no other; on other devices all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from peerage.nets import kernels

Weights = Mapping[str, Tensor]  # name -> [s, ...]

class Mask(Protocol):
    """Dropout of some rows: called with a shape `(s, ...)` it makes a new tensor of factors, 0 or `scale`."""

    scale: float  # 1 / (1 - p)

    def __call__(self, shape: tuple[int, ...]) -> Tensor: ...


MASKED = -1e30  # added to a logit: exp gives an exact 0, and a row that is masked throughout stays finite
EPS = 1e-5  # of layer norms, torch's


class Part(NamedTuple):
    """A parameter of every row: its shape and how it begins. `bound` b: U(-b, b); otherwise `constant`; a `bound`
    of None with `constant` None: N(0, 1)."""

    shape: tuple[int, ...]
    bound: float | None = None
    constant: float | None = None


def linear_part(name: str, fan_in: int, fan_out: int) -> dict[str, Part]:
    """`torch.nn.Linear`: U(-1/sqrt(in), 1/sqrt(in))."""
    bound = 1 / math.sqrt(max(fan_in, 1))
    return {f"{name}.weight": Part((fan_in, fan_out), bound), f"{name}.bias": Part((1, fan_out), bound)}


def norm_part(name: str, width: int) -> dict[str, Part]:
    """`torch.nn.LayerNorm`: ones and zeros."""
    return {f"{name}.weight": Part((1, width), constant=1.0), f"{name}.bias": Part((1, width), constant=0.0)}


def embedding_part(name: str, count: int, width: int) -> dict[str, Part]:
    """`torch.nn.Embedding`: N(0, 1)."""
    return {f"{name}.weight": Part((count, width))}


def attention_part(name: str, width: int) -> dict[str, Part]:
    """`torch.nn.MultiheadAttention`: Xavier for the projections to query, key and value, biases 0."""
    parts = linear_part(f"{name}.in", width, 3 * width) | linear_part(f"{name}.out", width, width)
    parts[f"{name}.in.weight"] = Part((width, 3 * width), math.sqrt(6 / (width + 3 * width)))
    for which, size in (("in", 3 * width), ("out", width)):
        parts[f"{name}.{which}.bias"] = Part((1, size), constant=0.0)
    return parts


def encoder_part(name: str, width: int, hidden: int) -> dict[str, Part]:
    """`torch.nn.TransformerEncoderLayer`."""
    return {
        **attention_part(f"{name}.attention", width),
        **norm_part(f"{name}.norm1", width),
        **linear_part(f"{name}.ff1", width, hidden),
        **linear_part(f"{name}.ff2", hidden, width),
        **norm_part(f"{name}.norm2", width),
    }


def _hold_memory() -> None:
    """Let the process keep the memory of freed activations.

    glibc hands freed blocks above a threshold back to the kernel, and to get them again, page by page, costs a third
    of a training step. Freeing one large block raises the threshold (mallopt(3), M_MMAP_THRESHOLD); elsewhere it does
    nothing.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


class Stack:
    """Named parameters of `S` models: `flat [S, P]` and `grad [S, P]`, each name a view `[S, *shape]`."""

    def __init__(
        self,
        rows: int,
        parts: Mapping[str, Part],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if torch.device(device).type == "cpu":
            _hold_memory()
        self.rows, self.parts = rows, dict(parts)
        self.count = sum(math.prod(part.shape) for part in parts.values())  # parameters of a row
        self.flat = torch.zeros(rows, self.count, device=device, dtype=dtype)
        self.grad = torch.zeros_like(self.flat)
        self._weights: dict[tuple[int, int, bool], dict[str, Tensor]] = {}

    def weights(self, rows: slice = slice(None), *, grad: bool = False) -> Weights:
        """The parameters of some rows by name, `[s, *shape]`: the same memory as `flat`. With `grad` they are
        leaves whose gradients are added to `self.grad`."""
        first, last, _ = rows.indices(self.rows)
        key = (first, last, grad)
        if key not in self._weights:
            made: dict[str, Tensor] = {}
            start = 0
            for name, part in self.parts.items():
                columns = slice(start, start + math.prod(part.shape))
                value = self.flat[first:last, columns].view(last - first, *part.shape).detach()
                if grad:
                    value.requires_grad_()
                    value.grad = self.grad[first:last, columns].view(value.shape)
                made[name] = value
                start = columns.stop
            self._weights[key] = made
        return self._weights[key]

    def select(self, members: Sequence[int]) -> Stack:
        """A copy of some rows, in this order."""
        out = Stack(len(members), self.parts, device=self.flat.device, dtype=self.flat.dtype)
        out.flat.copy_(self.flat[torch.as_tensor(list(members), device=self.flat.device)])
        return out

    @torch.no_grad()
    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw every row from its own generator, with torch's defaults for such layers."""
        weights = self.weights()
        for row, rng in enumerate(generators):
            for name, part in self.parts.items():
                if part.constant is not None:
                    weights[name][row].fill_(part.constant)
                    continue
                drawn = (
                    rng.uniform(-part.bound, part.bound, size=part.shape)
                    if part.bound is not None
                    else rng.standard_normal(part.shape)
                )
                weights[name][row].copy_(torch.from_numpy(drawn))


def by_rows(work: Callable[[slice], Tensor], rows: int, device: torch.device | str) -> Tensor:
    """`work(slice of rows) -> [s, ...]`, joined to `[rows, ...]`. On a CPU row by row, in `kernels.WORKERS`; whether
    gradients are recorded is as in the caller."""
    if torch.device(device).type != "cpu":
        return work(slice(0, rows))
    out: list[Tensor | None] = [None] * rows
    recorded = torch.is_grad_enabled()

    def one(row: int) -> None:
        with torch.set_grad_enabled(recorded):
            out[row] = work(slice(row, row + 1))

    kernels.WORKERS.run(one, rows)
    return torch.cat([part for part in out if part is not None])


# --- products ---------------------------------------------------------------------------------------------


def _onednn(x: Tensor) -> bool:
    """One row on a CPU in single precision: oneDNN, which is twice as fast as torch's product."""
    return kernels.ONEDNN and x.shape[0] == 1 and x.dtype == torch.float32 and x.device.type == "cpu"


def _product(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """`x [s, N, in]` -> `[s, N, out]`."""
    if _onednn(x):
        return kernels._linear(x[0], weight[0].t(), bias[0, 0], "relu" if relu else "none").unsqueeze(0)
    out = torch.baddbmm(bias, x, weight)
    return out.relu_() if relu else out


def _product_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Adds the gradients of weight and bias, if they collect any; returns the input's."""
    _collect(grad, x, weight, bias)
    return kernels._linear(grad[0], weight[0]).unsqueeze(0) if _onednn(x) else torch.bmm(grad, weight.transpose(1, 2))


def _collect(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    one = _onednn(x)
    if weight.grad is not None and bias.grad is not None:
        if not one:
            weight.grad.add_(torch.bmm(x.transpose(1, 2), grad))
        elif weight.shape[1] > weight.shape[2]:  # the faster way round, measured
            weight.grad[0].add_(kernels._linear(grad[0].t(), x[0].t()).t())
        else:
            weight.grad[0].add_(kernels._linear(x[0].t(), grad[0].t()))
        bias.grad.add_(grad.sum(dim=1, keepdim=True))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        out = _product(x, weight, bias, relu)
        ctx.x, ctx.weight, ctx.bias = x, weight, bias
        ctx.on = out > 0 if relu else None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        grad = grads[0].contiguous() if ctx.on is None else grads[0] * ctx.on
        if ctx.needs_input_grad[0]:
            return _product_backward(grad, ctx.x, ctx.weight, ctx.bias), None, None, None
        _collect(grad, ctx.x, ctx.weight, ctx.bias)
        return None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.table, ctx.index = table, index
        return table.gather(1, index.unsqueeze(2).expand(-1, -1, table.shape[2]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        # A product with the one-hot index: many times faster than adding up row by row.
        entries = torch.arange(ctx.table.shape[1], device=ctx.index.device).view(1, -1, 1)
        one_hot = (ctx.index.unsqueeze(1) == entries).to(ctx.table.dtype)  # [s, count, N]
        ctx.table.grad.add_(torch.bmm(one_hot, grads[0]))
        return None, None


def linear(w: Weights, name: str, x: Tensor, relu: bool = False) -> Tensor:
    """`x [s, ..., in]` -> `[s, ..., out]`, optionally with a ReLU."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    rows = x.reshape(x.shape[0], -1, x.shape[-1])  # [s, N, in]
    recorded = torch.is_grad_enabled()
    out: Tensor = _Linear.apply(rows, weight, bias, relu) if recorded else _product(rows, weight, bias, relu)
    return out.view(*x.shape[:-1], out.shape[-1])


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """`x [s, ..., D]`, normalised over `D`."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    if x.shape[0] == 1:
        return F.layer_norm(x, x.shape[-1:], weight[0, 0], bias[0, 0], EPS)
    shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * weight.view(shape) + bias.view(shape)


def embedding(w: Weights, name: str, index: Tensor) -> Tensor:
    """`index [s, ...]` long -> `[s, ..., D]`."""
    out: Tensor = _Embedding.apply(w[f"{name}.weight"], index.reshape(index.shape[0], -1))
    return out.view(*index.shape, out.shape[-1])


def positions(
    length: int, width: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sinusoids `[length, width]`: `sin(pos / 10000^(2i / width))` at 2i, the cosine at 2i + 1."""
    pos = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    angle = pos * torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    table = torch.stack((angle.sin(), angle.cos()), dim=2).view(length, -1)[:, :width]
    return table.to(device=device, dtype=dtype)


def attention_bias(valid: Tensor, causal: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is added to the logits: 0 where a query may look, `MASKED` at steps that are not `valid [s, B, T]` and,
    if `causal`, at later ones. `[s, B, 1, 1, T]` or `[s, B, 1, T, T]`."""
    seen = valid[:, :, None, None, :]
    if causal:
        steps = valid.shape[2]
        seen = seen & torch.ones(steps, steps, dtype=torch.bool, device=valid.device).tril_()
    return torch.zeros(seen.shape, device=valid.device, dtype=dtype).masked_fill_(~seen, MASKED)


# --- one encoder layer --------------------------------------------------------------------------------------


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

    `y = norm1(x + attention(x))`, `norm2(y + ff(y))`, with a ReLU. `bias` (`attention_bias`) is added to the logits;
    `scale [s, B, T, heads]` multiplies those of a query; `mask` makes dropout's factors (None: no dropout), used on
    the attention weights, on both branches and within the feed-forward; the attention weights before dropout,
    `[s, B, heads, T, T]`, are appended to `keep`.
    """
    if torch.is_grad_enabled() and (x.requires_grad or w[f"{name}.ff1.weight"].requires_grad):
        out: Tensor = _EncoderLayer.apply(x, scale, w[f"{name}.ff1.weight"], w, name, heads, bias, mask, keep)
        return out
    return _EncoderLayer.forward(None, x, scale, None, w, name, heads, bias, mask, keep)


class _EncoderLayer(torch.autograd.Function):
    """The layer as one node, its backward pass written out: in place where it may be, and of dropout's masks only
    the two small ones are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        anchor: Tensor | None,  # a leaf, so that the result asks for gradients when only the parameters do
        w: Weights,
        name: str,
        heads: int,
        bias: Tensor | None,
        mask: Mask | None,
        keep: list[Tensor] | None,
    ) -> Tensor:
        s, b, t, width = x.shape
        d = width // heads
        flat = x.reshape(s, b * t, width)
        # [s, B*T, 3*D] -> 3 x [s*B*heads, T, d]
        qkv = _product(flat, *_pair(w, name, "attention.in")).view(s, b, t, 3, heads, d)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).contiguous().view(3, s * b * heads, t, d)
        factor: Tensor | None = None  # of a query's logits, beside 1 / sqrt(d)
        unscaled = q.mul_(d**-0.5)
        if scale is not None:
            factor = scale.detach().permute(0, 1, 3, 2).reshape(-1, t, 1)
            q = q * factor
        if bias is None:
            attention = torch.bmm(q, k.transpose(1, 2))
        else:
            shared = bias.shape[:3] == (1, 1, 1)
            spread = bias.view(1, t, t) if shared else bias.expand(s, b, heads, t, t).reshape(s * b * heads, t, t)
            attention = torch.baddbmm(spread, q, k.transpose(1, 2))
        attention = torch.softmax(attention, dim=-1)
        if keep is not None:
            keep.append(attention.view(s, b, heads, t, t))
        dropped = attention if mask is None else mask((s, b, heads, t, t)).view(attention.shape).mul_(attention)
        context = torch.bmm(dropped, v).view(s, b, heads, t, d).transpose(2, 3).reshape(s, b * t, width)
        branch = _product(context, *_pair(w, name, "attention.out"))
        mask1 = mask2 = None
        if mask is not None:
            mask1 = mask(branch.shape)
            branch.mul_(mask1)
        y, norm1 = _norm(w, f"{name}.norm1", branch.add_(flat))
        hidden = _product(y, *_pair(w, name, "ff1"), relu=True)
        if mask is not None:
            hidden.mul_(mask(hidden.shape))
        branch = _product(hidden, *_pair(w, name, "ff2"))
        if mask is not None:
            mask2 = mask(branch.shape)
            branch.mul_(mask2)
        out, norm2 = _norm(w, f"{name}.norm2", branch.add_(y))
        if ctx is not None:
            ctx.w, ctx.name, ctx.heads, ctx.mask, ctx.shape = w, name, heads, mask, x.shape
            ctx.kept = flat, unscaled, factor, q, k, v, attention, dropped, context
            ctx.later = mask1, norm1, y, hidden, mask2, norm2
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        w, name, heads, mask = ctx.w, ctx.name, ctx.heads, ctx.mask
        flat, unscaled, factor, q, k, v, attention, dropped, context = ctx.kept
        mask1, norm1, y, hidden, mask2, norm2 = ctx.later
        del ctx.kept, ctx.later
        s, b, t, width = ctx.shape
        d = width // heads
        # y + dropout(ff2(hidden)) under norm2
        g = _norm_backward(w, f"{name}.norm2", grads[0].reshape(s, b * t, width), norm2)
        branch = g if mask2 is None else mask2.mul_(g)
        g_hidden = _product_backward(branch, hidden, *_pair(w, name, "ff2"))
        # Where hidden is not 0, the ReLU was on and dropout's factor was its scale.
        torch.ops.aten.threshold_backward.grad_input(g_hidden, hidden, 0, grad_input=g_hidden)
        if mask is not None:
            g_hidden.mul_(mask.scale)
        g = _product_backward(g_hidden, y, *_pair(w, name, "ff1")).add_(g)
        # x + dropout(attention.out(context)) under norm1
        g = _norm_backward(w, f"{name}.norm1", g, norm1)
        branch = g if mask1 is None else mask1.mul_(g)
        g_context = _product_backward(branch, context, *_pair(w, name, "attention.out"))
        g_context = g_context.view(s, b, t, heads, d).transpose(2, 3).reshape(-1, t, d)
        g_qkv = torch.empty(3, *g_context.shape, device=g.device, dtype=g.dtype)
        torch.bmm(dropped.transpose(1, 2), g_context, out=g_qkv[2])
        # Softmax p, dropped m p: dL/dlogit = m p g - p sum(m p g), which is all that is needed of the mask m.
        g_logits = torch.bmm(g_context, v.transpose(1, 2)).mul_(dropped)
        g_logits.addcmul_(attention, g_logits.sum(dim=-1, keepdim=True), value=-1)
        torch.bmm(g_logits, k, out=g_qkv[0])
        torch.bmm(g_logits.transpose(1, 2), q, out=g_qkv[1])
        g_scale = None
        if factor is not None:
            g_scale = (g_qkv[0] * unscaled).sum(dim=2).view(s, b, heads, t).permute(0, 1, 3, 2)
            g_qkv[0].mul_(factor)
        g_qkv[0].mul_(d**-0.5)
        g_qkv = g_qkv.view(3, s, b, heads, t, d).permute(1, 2, 4, 0, 3, 5).reshape(s, b * t, 3 * width)
        g_x = _product_backward(g_qkv, flat, *_pair(w, name, "attention.in")).add_(g)
        return g_x.view(s, b, t, width), g_scale, None, None, None, None, None, None, None


def _pair(w: Weights, name: str, layer: str) -> tuple[Tensor, Tensor]:
    return w[f"{name}.{layer}.weight"], w[f"{name}.{layer}.bias"]


def _norm(w: Weights, name: str, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Layer norm of `x [s, N, D]`, and what its backward pass needs."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    if x.shape[0] == 1:
        out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight[0, 0], bias[0, 0], EPS)
        return out, (x, mean, rstd)
    out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)
    return torch.addcmul(bias, out, weight), (x, mean, rstd)


def _norm_backward(w: Weights, name: str, grad: Tensor, kept: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    x, mean, rstd = kept
    collects = weight.grad is not None and bias.grad is not None
    back = torch.ops.aten.native_layer_norm_backward
    if x.shape[0] == 1:
        wanted = [True, collects, collects]
        g, g_weight, g_bias = back(grad, x, x.shape[-1:], mean, rstd, weight[0, 0], bias[0, 0], wanted)
        if weight.grad is not None and bias.grad is not None:
            weight.grad[0, 0].add_(g_weight)
            bias.grad[0, 0].add_(g_bias)
        return g
    if weight.grad is not None and bias.grad is not None:
        weight.grad.add_((grad * (x - mean) * rstd).sum(dim=1, keepdim=True))
        bias.grad.add_(grad.sum(dim=1, keepdim=True))
    return back(grad * weight, x, x.shape[-1:], mean, rstd, None, None, [True, False, False])[0]
