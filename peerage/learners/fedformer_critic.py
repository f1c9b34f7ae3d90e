"""The critics of FedFormer (Hebert et al. 2022, arXiv 2205.13697): Q-functions that attend over the encoders of all
members of a group.

    e_j = Enc_j(s, a),     h = Transformer([CLS, e_1, ..., e_N] + P),     Q_i(s, a) = Dec([h_CLS, e_i])

Each member learns its own encoder, transformer and decoder. The other members' encoders are *received* through the
exchange `fedformer` and are frozen. Equations, settings and differences from the paper: docs/methods/fedformer.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Space
from peerage.learners.critics import N_CRITICS
from peerage.nets import kernels
from peerage.nets.attention import encoder_part
from peerage.nets.blocks import attend
from peerage.nets.layers import layer_norm, linear, linear_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.workers import by_rows

DEPTH = 3
"""Hidden layers of an encoder and of the decoder."""


class FedFormerCritic:
    """Two Q-functions per member, rows `2 s` and `2 s + 1` of a stack, for `rows = R * N` members of `R` replicas.

    `flat` and `grad` are `[S, 2 P]`. The first `encoder_size` parameters of a row are the encoder. Online and target
    critics of a learner share `received`, one encoder per member and critic, `[R, N, 2, encoder_size]`, and `heard
    [R, N]` (bool): the members whose encoders have arrived. Other members are masked. A member attends to its own
    encoder as it is now.
    """

    def __init__(
        self,
        rows: int,
        space: Space,
        net_arch: Sequence[int],
        *,
        settings: Any,
        n_peers: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        width = settings.fedformer_width
        self.rows, self.n_peers = rows, n_peers
        self.heads, self.layers = settings.fedformer_heads, settings.fedformer_layers
        inputs, hidden = space.obs_dim + space.act_dim, [width] * DEPTH
        encoder = _mlp_part("encoder", (inputs, *hidden, width))
        self.encoder_size = sum(math.prod(part.shape) for part in encoder.values())
        parts = encoder | {
            "cls": Part((1, width), 1 / math.sqrt(width)),
            "position": Part((n_peers + 1, width), 1 / math.sqrt(width)),
        }
        for n in range(self.layers):
            parts |= encoder_part(f"{n}", width, settings.fedformer_hidden)
        parts |= _mlp_part("decoder", (2 * width, *hidden, 1))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.stack = Stack(N_CRITICS * rows, parts, **where)
        self._received = Stack(N_CRITICS * rows, encoder, **where)
        self.received = self._received.flat.view(rows // n_peers, n_peers, N_CRITICS, -1)
        self.heard = torch.zeros(rows // n_peers, n_peers, dtype=torch.bool, device=device)
        self.flat, self.grad = self.stack.flat.view(rows, -1), self.stack.grad.view(rows, -1)
        of_encoder = 2 * width * (DEPTH + 1) * n_peers  # received and mixed
        self.activations = self.stack.rows * (of_encoder + (n_peers + 1) * width * 12 * self.layers + 8 * width)
        own = torch.eye(n_peers, dtype=torch.bool, device=device).repeat(rows // n_peers, 1)
        self._own = own.repeat_interleave(N_CRITICS, dim=0)  # [2 S, N]: the member's own place
        self._weights_sum, self._weights_count = torch.zeros(rows, n_peers + 1, **where), 0

    @property
    def encoders(self) -> Tensor:
        """The members' own encoders, `[R, N, 2, encoder_size]`: a view of `flat`."""
        return self.stack.flat.view(*self.received.shape[:3], -1)[..., : self.encoder_size]

    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """As torch initialises these layers, with each member's generator."""
        self.stack.init_([rng for rng in generators for _ in range(N_CRITICS)])

    def copy_(self, other: FedFormerCritic) -> None:
        """Copy the parameters of `other`, and share what it has received."""
        self.stack.flat.copy_(other.stack.flat)
        self._received, self.received, self.heard = other._received, other.received, other.heard

    def lerp_(self, online: FedFormerCritic, tau: Tensor) -> None:
        """Soft update; `tau [S, 1]`."""
        self.flat.lerp_(online.flat, tau)

    def __call__(self, obs_actions: Tensor, *, grad: bool = False, only_first: bool = False) -> Tensor:
        """`[S, B, obs + act]` (actions in [-1, 1]) -> `[S, 2, B]`; `[S, 1, B]`, the first critic, with `only_first`."""
        others = self._others(obs_actions)  # [2 S, N, B, D]
        rows, batch = self.stack.rows, obs_actions.shape[1]
        valid = torch.cat((torch.ones_like(self._own[:, :1]), self._valid()), dim=1)  # [2 S, N + 1]
        attention: list[Tensor | None] = [None] * rows

        def work(part: slice) -> Tensor:
            w = self.stack.weights(part, grad=grad)
            x = obs_actions[_members(part)].repeat_interleave(N_CRITICS, dim=0)[: part.stop - part.start]
            kept: list[Tensor] = []
            received = None if others is None else others[part]
            out = self._forward(w, x, received, self._own[part], valid[part], kept)
            if grad:
                for row, weights in zip(range(part.start, part.stop), kept[-1].detach(), strict=True):
                    attention[row] = weights.mean(dim=(0, 1, 2))  # over samples and heads: [N + 1]
            return out

        if only_first:
            chosen = range(0, rows, N_CRITICS)
            q = torch.cat([work(slice(row, row + 1)) for row in chosen])
        else:
            q = by_rows(work, rows, obs_actions.device)
        if grad:
            weights = torch.stack([row for row in attention if row is not None])
            self._weights_sum += weights.view(self.rows, -1, self.n_peers + 1).mean(dim=1)
            self._weights_count += 1
        return q.view(self.rows, -1, batch)

    def take_attention(self) -> Tensor | None:
        """The mean attention weights of CLS in the last layer `[S, N + 1]` (CLS, members), over the updates since the
        last call; None if there was none."""
        if not self._weights_count:
            return None
        mean = self._weights_sum / self._weights_count
        self._weights_sum, self._weights_count = torch.zeros_like(mean), 0
        return mean

    def attention_state(self) -> dict[str, Any]:
        """What `take_attention` needs after a resume."""
        return {"sum": self._weights_sum, "count": self._weights_count}

    def load_attention_state(self, state: dict[str, Any]) -> None:
        self._weights_sum, self._weights_count = state["sum"].to(self.flat), int(state["count"])

    def _valid(self) -> Tensor:
        """Which members' encoders a critic attends to: its own and those that it has heard of, `[2 S, N]`."""
        return self._own | self.heard.repeat_interleave(N_CRITICS * self.n_peers, dim=0)

    def _others(self, obs_actions: Tensor) -> Tensor | None:
        """What the received encoders of all members say of the samples of every member: `[2 S, N, B, D]`, for critic
        `k` of a member with the encoders of the critics `k`. None: nothing was received.

        Encoder `j` of a replica sees the samples of all its members in one product.
        """
        if not bool(self.heard.any()):
            return None
        n, (_, batch, inputs) = self.n_peers, obs_actions.shape
        x = obs_actions.view(-1, 1, n * batch, inputs).expand(-1, N_CRITICS * n, -1, -1)
        out = _mlp(self._received.weights(), "encoder", x.reshape(self.stack.rows, n * batch, inputs))
        by_encoder = out.view(-1, n, N_CRITICS, n, batch, out.shape[-1])  # [R, encoder, critic, member, B, D]
        return by_encoder.permute(0, 3, 2, 1, 4, 5).reshape(self.stack.rows, n, batch, -1)

    def _forward(
        self, w: Weights, x: Tensor, others: Tensor | None, own: Tensor, valid: Tensor, keep: list[Tensor]
    ) -> Tensor:
        """Some rows: `x [s, B, in]`, `others [s, N, B, D]` -> `[s, B]`. `own [s, N]`, `valid [s, N + 1]`."""
        mine = _mlp(w, "encoder", x)  # [s, B, D]
        place = own[:, :, None, None]
        encoded = mine.unsqueeze(1) * place if others is None else torch.where(place, mine.unsqueeze(1), others)
        cls = w["cls"].unsqueeze(1).expand(-1, 1, x.shape[1], -1)
        tokens = torch.cat((cls, encoded), dim=1) + w["position"].unsqueeze(2)  # [s, N + 1, B, D]
        seen = valid.unsqueeze(2).expand(-1, -1, x.shape[1])
        for n in range(self.layers):
            last = n == self.layers - 1
            queries = tokens[:, :1] if last else tokens  # the decoder reads CLS alone
            tokens = _layer(w, f"{n}", queries, tokens, self.heads, seen, keep if last else None)
        return _mlp(w, "decoder", torch.cat((tokens[:, 0], mine), dim=2)).squeeze(2)


def _layer(
    w: Weights, name: str, queries: Tensor, tokens: Tensor, heads: int, valid: Tensor, keep: list[Tensor] | None
) -> Tensor:
    """A post-norm layer as `torch.nn.TransformerEncoderLayer`, for some of the tokens: `queries [s, n, B, D]`,
    `tokens [s, T, B, D]` -> `[s, n, B, D]`."""
    found = attend(w, f"{name}.attention", queries, tokens, heads=heads, valid=valid, keep=keep)
    y = layer_norm(w, f"{name}.norm1", queries + found)
    hidden = linear(w, f"{name}.ff1", y, relu=True)
    return layer_norm(w, f"{name}.norm2", y + linear(w, f"{name}.ff2", hidden))


def _mlp_part(name: str, sizes: Sequence[int]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for n, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        parts |= linear_part(f"{name}.{n}", fan_in, fan_out)
    return parts


def _mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    """Layers with ReLU, the last one linear: `x [s, B, in]` -> `[s, B, out]`."""
    layers = [w.layer(f"{name}.{n}", "relu" if n < DEPTH else None) for n in range(DEPTH + 1)]
    return kernels.run(x, layers, rowwise=True if len(x) == 1 else None)


def _members(part: slice) -> slice:
    """The members of some rows of critics."""
    return slice(part.start // N_CRITICS, -(-part.stop // N_CRITICS))
