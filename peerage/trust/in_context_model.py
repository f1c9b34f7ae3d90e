"""The model of in-context trust: a kernel estimate that a small transformer corrects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from peerage.nets.attention import MASKED
from peerage.nets.layers import layer_norm, linear, linear_part, norm_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.trust.decision_tokens import Columns

WIDTH, HEADS, HIDDEN, LAYERS = 32, 4, 64, 2


class InContextModel:
    """`R` models, one per replica, with parameters in `stack`."""

    def __init__(
        self,
        columns: Columns,
        estimator: Literal["both", "kernel", "transformer"],
        generators: Sequence[np.random.Generator],
        **like: Any,
    ) -> None:
        """`generators` draw the initial values of each replica's model; `like`: device and dtype."""
        self.columns, self.estimator = columns, estimator
        parts = linear_part("embed", columns.width, WIDTH) | linear_part("fact", WIDTH, WIDTH)
        for n in range(LAYERS):
            parts |= linear_part(f"{n}.kv", WIDTH, 2 * WIDTH) | linear_part(f"{n}.q", WIDTH, WIDTH)
            parts |= linear_part(f"{n}.out", WIDTH, WIDTH) | norm_part(f"{n}.norm1", WIDTH)
            parts |= linear_part(f"{n}.ff1", WIDTH, HIDDEN) | linear_part(f"{n}.ff2", HIDDEN, WIDTH)
            parts |= norm_part(f"{n}.norm2", WIDTH)
        parts |= linear_part("head", WIDTH, WIDTH)
        # The correction is 0 at first
        parts |= {"out.weight": Part((WIDTH, 1), constant=0.0), "out.bias": Part((1, 1), constant=0.0)}
        self.stack = Stack(len(generators), parts, **like)
        self.stack.init_(generators)

    def kernel_estimate(self, tokens: Tensor) -> Tensor:
        """The mean advantage of following the candidate, plus that of doing what it suggested, over past decisions in
        similar states: `tokens [..., L, width]` -> `[...]`."""
        query, near = tokens[..., -1, :], self.columns.near
        return query[..., near.mean_if_followed] + query[..., near.mean_if_agrees]

    def predict(self, weights: Weights, tokens: Tensor, valid: Tensor, keep: list[Tensor] | None = None) -> Tensor:
        """The query's advantage in standard deviations, `[s, B]`: `tokens [s, B, L, width]`, `valid [s, B, L]`, the
        query last. The attention weights of each layer, `[s, B, L, heads]`, are appended to `keep`."""
        prior = self.kernel_estimate(tokens)
        if self.estimator == "kernel":
            return prior
        x = linear(weights, "fact", linear(weights, "embed", tokens, relu=True), relu=True)  # [s, B, L, W]
        bias = torch.zeros(valid.shape, device=x.device, dtype=x.dtype).masked_fill_(~valid, MASKED)
        q = x[:, :, -1]  # [s, B, W]: only the query attends, so the cost is linear in L
        for n in range(LAYERS):
            q = layer_norm(weights, f"{n}.norm1", q + self._attend(weights, n, q, x, bias, keep))
            hidden = linear(weights, f"{n}.ff1", q, relu=True)
            q = layer_norm(weights, f"{n}.norm2", q + linear(weights, f"{n}.ff2", hidden))
        correction = linear(weights, "out", linear(weights, "head", q, relu=True))[..., 0]
        return correction if self.estimator == "transformer" else prior + correction

    def _attend(
        self, weights: Weights, n: int, q: Tensor, x: Tensor, bias: Tensor, keep: list[Tensor] | None
    ) -> Tensor:
        """Attention of layer `n` from the query `q [s, B, W]` to the tokens `x [s, B, L, W]`: `[s, B, W]`."""
        s, b, length, width = x.shape
        d = width // HEADS
        keys, values = linear(weights, f"{n}.kv", x).view(s * b, length, 2, HEADS, d).unbind(2)  # [sB, L, H, d]
        scaled = linear(weights, f"{n}.q", q).view(s * b, 1, HEADS, d) * d**-0.5
        logits = (scaled * keys).sum(-1) + bias.view(s * b, length, 1)  # [sB, L, H]
        attention = torch.softmax(logits, dim=1)
        if keep is not None:
            keep.append(attention.view(s, b, length, HEADS))
        found = (attention.unsqueeze(-1) * values).sum(1)  # [sB, H, d]
        return linear(weights, f"{n}.out", found.view(s, b, width))
