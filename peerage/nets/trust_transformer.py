"""The trust transformer predicts the outcome of each step in a window of steps with an adviser. Equations and settings:
docs/methods/transformer-trust.md.

features -> Linear, LayerNorm, ReLU, dropout -> sinusoidal positions -> 2 post-norm encoder layers -> mean and max
pooling over the valid steps, fused 128 -> 64 -> outcome predictor 64 -> 32 -> 1 per step. The phase-aware model adds
an embedding of each step's phase, a scale of the attention logits per layer, query phase and head, and a classifier of
phases.

There are two wirings with the same parameters:

`seed`    As published: attention in both directions. The predictor reads only the pooled vector, which is equal for all
          steps, so it cannot fit the rewards of single steps. The prediction for step t can also depend on step t + 1,
          whose features contain the reward of step t.
`causal`  A step attends to itself and to earlier steps, and pooling is cumulative. The predictor reads the sum of the
          step's vector and the fused pool. (A sum is as expressive as a concatenation here, because the fusion is a
          learned linear map.) Later steps, including the step's own reward in later features, cannot affect its
          prediction.

Measured for 4 members with 32 windows of 50 steps: 61 ms of CPU time per training step on two threads (seed 56 ms,
phase-aware 66 ms), of which 7 ms are dropout; the 16 counterfactual windows take 4 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from peerage.nets.attention import MASKED, attention_bias, encoder_layer, encoder_part
from peerage.nets.dropout import Dropout, Mask
from peerage.nets.layers import embedding, embedding_part, layer_norm, linear, linear_part, norm_part, positions
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.workers import by_rows

Wiring = Literal["causal", "seed"]

WIDTH, HEADS, HIDDEN, LAYERS = 64, 4, 256, 2
MAX_STEPS = 200  # number of positions
DROPOUT = 0.1
PHASE_WEIGHT = 0.3  # weight of the cross-entropy of phases in the loss


class Windows(NamedTuple):
    """Windows of steps. Steps that are not valid are padding; their values are ignored."""

    features: Tensor  # [S, B, T, F]
    valid: Tensor  # [S, B, T] bool
    phases: Tensor | None = None  # [S, B, T] long, for a phase-aware model

    def of(self, rows: slice) -> Windows:
        return Windows(self.features[rows], self.valid[rows], None if self.phases is None else self.phases[rows])


class TrustTransformer:
    """`S` trust transformers. `n_phases` 0: the base model. The parameters are `stack.flat [S, P]`."""

    def __init__(
        self,
        rows: int,
        n_features: int,
        n_phases: int = 0,
        *,
        wiring: Wiring = "causal",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.n_features, self.n_phases, self.wiring = rows, n_features, n_phases, wiring
        self.stack = Stack(rows, _parts(n_features, n_phases), device=device, dtype=dtype)
        self.positions = positions(MAX_STEPS, WIDTH, device, dtype)

    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """Initialise every row with its own generator: torch's default initialisation; phase scales are 1 (no
        effect)."""
        self.stack.init_(generators)

    def predict(
        self, windows: Windows, *, members: Sequence[int] | None = None, attention: list[Tensor] | None = None
    ) -> Tensor:
        """The predicted outcome of each step, without dropout and gradients: `[S, B, T]`. Values at padding are
        undefined.

        `members`: the rows of the stack that the windows belong to, in this order; by default all rows. The attention
        weights of each layer, `[S, B, heads, T, T]`, are appended to `attention`.
        """
        members = range(self.rows) if members is None else members
        stack = self.stack
        if stack.flat.device.type != "cpu" and list(members) != list(range(self.rows)):
            stack = stack.select(members)
            members = range(stack.rows)
        kept: list[list[Tensor]] = [[] for _ in members]

        def work(rows: slice) -> Tensor:
            first = members[rows.start]
            w = stack.weights(slice(first, first + rows.stop - rows.start))
            return self.forward(w, windows.of(rows), keep=None if attention is None else kept[rows.start])[0]

        with torch.no_grad():
            out = by_rows(work, len(members), stack.flat.device)
        if attention is not None:
            attention.extend(torch.cat(parts) for parts in zip(*(part for part in kept if part), strict=True))
        return out

    def learn(self, windows: Windows, rewards: Tensor, dropout: Dropout | None) -> Tensor:
        """Add the gradients of the loss to `stack.grad` and return the losses `[S]`.

        The loss is the mean of `(prediction - reward)^2` over the valid steps, with `rewards [S, B, T]`; for the
        phase-aware model plus 0.3 times the mean cross-entropy of the phases.
        """

        def work(rows: slice) -> Tensor:
            part, w = windows.of(rows), self.stack.weights(rows, grad=True)
            outcome, logits = self.forward(w, part, dropout.of(rows) if dropout is not None else None)
            loss = _loss(part, outcome, logits, rewards[rows])  # [s]
            loss.sum().backward()
            return loss.detach()

        with torch.enable_grad():
            return by_rows(work, self.rows, self.stack.flat.device)

    def forward(
        self, w: Weights, windows: Windows, mask: Mask | None = None, keep: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The outcome of each step `[s, B, T]` and, for the phase-aware model, the logits of phases `[s, B, T,
        n_phases]`, for rows with the parameters `w`."""
        features, valid, phases = windows
        s, b, t, _ = features.shape
        x = features.masked_fill(~valid.unsqueeze(-1), 0.0)  # padding may contain any values, including NaN
        x = layer_norm(w, "project.norm", linear(w, "project", x)).relu()  # [s, B, T, 64]
        if mask is not None:
            x = x * mask(x.shape)
        x = x + self.positions[:t]
        if self.n_phases:
            assert phases is not None, "a phase-aware model needs phases"
            x = x + embedding(w, "phase", phases)
        bias = attention_bias(valid, self.wiring == "causal", x.dtype).expand(s, b, HEADS, t, t)
        bias = bias.reshape(s, b, HEADS, t, t)
        for layer in range(LAYERS):
            scale = embedding(w, f"{layer}.scale", phases) if self.n_phases and phases is not None else None
            x = encoder_layer(w, f"{layer}", x, heads=HEADS, bias=bias, scale=scale, mask=mask, keep=keep)
        h = linear(w, "outcome1", self._pooled(w, x, valid), relu=True)  # [s, B, T or 1, 32]
        h = h.expand(s, b, t, h.shape[-1])
        if mask is not None:
            h = h * mask(h.shape)
        outcome = linear(w, "outcome2", h).squeeze(-1)
        logits = linear(w, "phase2", linear(w, "phase1", x, relu=True)) if self.n_phases else None
        return outcome, logits

    def _pooled(self, w: Weights, x: Tensor, valid: Tensor) -> Tensor:
        """The input of the predictor: `x [s, B, T, 64]` -> `[s, B, 1, 64]` (seed) or `[s, B, T, 64]` (causal)."""
        on = valid.unsqueeze(-1)
        kept, low = x * on, x.masked_fill(~on, MASKED)
        if self.wiring == "seed":
            count = on.sum(dim=2, keepdim=True)
            mean, top = kept.sum(dim=2, keepdim=True), low.amax(dim=2, keepdim=True)
        else:
            count = on.cumsum(dim=2)
            mean, top = kept.cumsum(dim=2), low.cummax(dim=2).values
        mean = mean / count.clamp(min=1)
        pooled = linear(w, "fuse", torch.cat((mean, top.masked_fill(count == 0, 0.0)), dim=-1))
        return pooled if self.wiring == "seed" else x + pooled


def mean_valid(outcome: Tensor, valid: Tensor) -> Tensor:
    """`v_attn`: the mean over the valid steps, `[..., T]` -> `[...]`; 0 without valid steps."""
    return torch.where(valid, outcome, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)


def _loss(windows: Windows, outcome: Tensor, logits: Tensor | None, rewards: Tensor) -> Tensor:
    """The loss of each row, `[s]`; see `TrustTransformer.learn`."""
    count = windows.valid.flatten(1).sum(dim=1).clamp(min=1)
    error = torch.where(windows.valid, outcome - rewards, 0.0)
    loss = error.square().flatten(1).sum(dim=1)
    if logits is not None and windows.phases is not None:
        log_p = logits.log_softmax(dim=-1).gather(-1, windows.phases.unsqueeze(-1)).squeeze(-1)
        loss = loss - PHASE_WEIGHT * torch.where(windows.valid, log_p, 0.0).flatten(1).sum(dim=1)
    return loss / count


def _parts(n_features: int, n_phases: int) -> dict[str, Part]:
    parts = linear_part("project", n_features, WIDTH) | norm_part("project.norm", WIDTH)
    for layer in range(LAYERS):
        parts |= encoder_part(f"{layer}", WIDTH, HIDDEN)
    parts |= linear_part("fuse", 2 * WIDTH, WIDTH)
    parts |= linear_part("outcome1", WIDTH, 32) | linear_part("outcome2", 32, 1)
    if n_phases:
        parts |= embedding_part("phase", n_phases, WIDTH)
        for layer in range(LAYERS):
            parts[f"{layer}.scale.weight"] = Part((n_phases, HEADS), constant=1.0)
        parts |= linear_part("phase1", WIDTH, 32) | linear_part("phase2", 32, n_phases)
    return parts
