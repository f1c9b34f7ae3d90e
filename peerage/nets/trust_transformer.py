"""The trust transformer: predicts the reward of each step in a window of a member's steps.
Equations and settings: docs/methods/transformer-trust.md.

features -> Linear, LayerNorm, ReLU, dropout -> sinusoidal positions -> 2 post-norm encoder layers -> mean and max
pooling over the valid steps, fused 128 -> 64 -> outcome predictor 64 -> 32 -> 1 per step. The phase-aware model adds
an embedding of each step's phase, a scale of the attention logits for each layer, head and phase of the query, and a
classifier of phases.

There are two wirings with the same parameters:

`seed`    As published. Attention goes in both directions, and the predictor reads only the pooled vector, which is the
          same for all steps. It cannot fit rewards step by step. It also sees the reward of step t when it predicts
          it, because the features of step t + 1 hold that reward.
`causal`  A step attends to itself and to earlier steps, the pools are running ones, and the predictor reads the sum of
          the step and the fused pool. (A sum is as expressive as a concatenation, because the fusion is an
          unconstrained linear layer.) Later steps do not affect the prediction for a step, in particular not through
          its own reward in later features.

Measured for 4 members on 32 windows of 50 steps: a training step takes 61 ms of CPU time, which two threads share
(seed 56, phase-aware 66), 7 of them for dropout; the 16 counterfactual windows take 4 ms.
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
MAX_STEPS = 200  # the longest window
DROPOUT = 0.1
PHASE_WEIGHT = 0.3  # weight of the phases' cross-entropy in the loss


class Windows(NamedTuple):
    """Windows of steps. Steps that are not valid are padding; their contents are ignored, NaN included."""

    features: Tensor  # [S, B, T, F]
    valid: Tensor  # [S, B, T] bool
    phases: Tensor | None = None  # [S, B, T] long, for a phase-aware model

    def of(self, rows: slice) -> Windows:
        """The windows of some rows."""
        return Windows(self.features[rows], self.valid[rows], None if self.phases is None else self.phases[rows])


class TrustTransformer:
    """`S` trust transformers with the parameters `stack.flat [S, P]`. With `n_phases` 0 it is the base model, otherwise
    the phase-aware one."""

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
        """Draw every row from its own generator: torch's defaults, and 1 (neutral) for the scales of phases."""
        self.stack.init_(generators)

    def predict(
        self, windows: Windows, *, members: Sequence[int] | None = None, attention: list[Tensor] | None = None
    ) -> Tensor:
        """The predicted reward of each step, without dropout and gradients: `[S, B, T]`, arbitrary at padding.

        `members`: the rows of the stack that the windows belong to, in this order (None: all). `attention` receives the
        attention weights of this pass, one tensor `[S, B, heads, T, T]` per layer.
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
        """Add the gradients of the loss for `rewards [S, B, T]` to `stack.grad` and return the losses `[S]`.

        The loss is the mean over the valid steps of `(prediction - reward)^2`; the phase-aware model adds 0.3 times the
        cross-entropy of their phases.
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
        """The predictions `[s, B, T]` and, if phase-aware, the logits of the phases `[s, B, T, n_phases]`, of the rows
        with the parameters `w`. `mask` draws dropout's factors; `keep` receives the attention weights."""
        features, valid, phases = windows
        s, b, t, _ = features.shape
        x = features.masked_fill(~valid.unsqueeze(-1), 0.0)  # padding may hold NaN
        x = layer_norm(w, "project.norm", linear(w, "project", x)).relu()  # [s, B, T, 64]
        place = self.positions[:t]
        x = x + place if mask is None else torch.addcmul(place, x, mask(x.shape))
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
        seen, low = valid.unsqueeze(2), x.masked_fill(~valid.unsqueeze(-1), MASKED)
        if self.wiring == "seed":
            top = low.amax(dim=2, keepdim=True)
        else:
            seen = seen & torch.ones(x.shape[2], x.shape[2], dtype=torch.bool, device=x.device).tril_()
            top = low.cummax(dim=2).values
        count = seen.sum(dim=-1, keepdim=True)  # [s, B, 1 or T, 1]
        # The running mean as a product: the gradient of a cumulative sum goes over the memory several times.
        mean = (seen / count.clamp(min=1)).to(x.dtype) @ x
        pooled = linear(w, "fuse", torch.cat((mean, top.masked_fill(count == 0, 0.0)), dim=-1))
        return pooled if self.wiring == "seed" else x + pooled


def mean_valid(outcome: Tensor, valid: Tensor) -> Tensor:
    """`v_attn`, the mean over the valid steps: `[..., T]` -> `[...]`, 0 where no step is valid."""
    return torch.where(valid, outcome, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)


def _loss(windows: Windows, outcome: Tensor, logits: Tensor | None, rewards: Tensor) -> Tensor:
    """The loss that `TrustTransformer.learn` describes, `[s]`."""
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
