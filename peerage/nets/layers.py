"""Building blocks of stacked networks: the parameters of a layer, and the layer as a function of them.

`linear_part`, `orthogonal_part`, `norm_part` and `embedding_part` describe parameters for a `Stack`; `linear`,
`layer_norm` and `embedding` are functions of `w = stack.weights(rows, grad=True)` and of activations `x [s, ..., D]`,
where `s` is the number of these rows:

    stack = Stack(S, {**linear_part("embed", F, 64), **encoder_part("0", 64, 256)}, device=device)
    stack.init_([key.generator("init") for key in stream_keys])

    def work(rows):                                   # some of the rows, in any thread
        w = stack.weights(rows, grad=True)
        x = linear(w, "embed", features[rows])        # [s, B, T, 64]
        x = encoder_layer(w, "0", x, heads=4, bias=attention_bias(valid[rows], causal=True, dtype=x.dtype))
        loss = ...                                    # [s]
        loss.sum().backward()
        return loss.detach()

    losses = by_rows(work, S, device)                 # [S]
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from peerage.nets import kernels
from peerage.nets.dropout import Mask
from peerage.nets.stack import Part, Weights

EPS = 1e-5  # of layer norms, as in torch


def linear_part(name: str, fan_in: int, fan_out: int) -> dict[str, Part]:
    """As `torch.nn.Linear`: uniform on (-1/sqrt(in), 1/sqrt(in))."""
    bound = 1 / math.sqrt(max(fan_in, 1))
    return {f"{name}.weight": Part((fan_in, fan_out), bound), f"{name}.bias": Part((1, fan_out), bound)}


def orthogonal_part(name: str, fan_in: int, fan_out: int, gain: float) -> dict[str, Part]:
    """As `torch.nn.init.orthogonal_` with this gain; the bias is 0."""
    return {f"{name}.weight": Part((fan_in, fan_out), gain=gain), f"{name}.bias": Part((1, fan_out), constant=0.0)}


def norm_part(name: str, width: int) -> dict[str, Part]:
    """As `torch.nn.LayerNorm`: ones and zeros."""
    return {f"{name}.weight": Part((1, width), constant=1.0), f"{name}.bias": Part((1, width), constant=0.0)}


def embedding_part(name: str, count: int, width: int) -> dict[str, Part]:
    """As `torch.nn.Embedding`: standard normal."""
    return {f"{name}.weight": Part((count, width))}


def linear(w: Weights, name: str, x: Tensor, relu: bool = False, mask: Mask | None = None) -> Tensor:
    """`x [s, ..., in]` -> `[s, ..., out]`, with an optional ReLU and dropout after it."""
    layer, rows = w.layer(name, "relu" if relu else None), x.shape[0]
    if mask is not None:
        layer = layer.with_factors(mask((rows, math.prod(x.shape[1:-1]), layer.weight.shape[2])))
    # One row means that `by_rows` is at work: the products of a row are faster than batched ones at any size.
    return kernels.run(x, [layer], rowwise=rows == 1)


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """`x [s, ..., D]`, normalised over `D`."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    if x.shape[0] == 1:
        return F.layer_norm(x, x.shape[-1:], weight.view(-1), bias.view(-1), EPS)
    shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * weight.view(shape) + bias.view(shape)


def embedding(w: Weights, name: str, index: Tensor) -> Tensor:
    """`index [s, ...]` long -> `[s, ..., D]`, for small tables.

    As a product with the one-hot index: its gradient is a product too, many times faster than summing by index.
    """
    table = w[f"{name}.weight"]  # [s, count, D]
    entries = torch.arange(table.shape[1], device=index.device)
    one_hot = (index.flatten(1).unsqueeze(2) == entries).to(table.dtype)  # [s, N, count]
    return torch.bmm(one_hot, table).view(*index.shape, table.shape[2])


def positions(
    length: int, width: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sinusoids `[length, width]`: column 2i is `sin(pos / 10000^(2i / width))`, column 2i + 1 is its cosine."""
    pos = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    angle = pos * torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    table = torch.stack((angle.sin(), angle.cos()), dim=2).view(length, -1)[:, :width]
    return table.to(device=device, dtype=dtype)
