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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Space
from peerage.learners.critics import N_CRITICS
from peerage.nets import kernels
from peerage.nets.attention import encoder_part
from peerage.nets.blocks import attend
from peerage.nets.dropout import Dropout, Mask
from peerage.nets.layers import layer_norm, linear, linear_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.workers import by_rows

DEPTH = 3
"""Hidden layers of an encoder and of the decoder."""


class FedFormerCritic:
    """Two Q-functions per member, rows `2 s` and `2 s + 1` of a stack, for `rows = R * n` members of `R` replicas.

    The `n = n_peers` members of a replica are all, or in a federation those from number `offset` on of `N = total`.
    `flat` and `grad` are `[S, 2 P]`. The first `encoder_size` parameters of a row are the encoder. Online
    and target critics of a learner share `received`, one encoder for each of the `N` members and critics, `[R, N, 2,
    encoder_size]`, and `heard [R, N]` (bool): the members whose encoders have arrived. Other members are masked. A
    member attends to its own encoder as it is now.
    """

    def __init__(
        self,
        rows: int,
        space: Space,
        net_arch: Sequence[int],
        *,
        settings: Any,
        n_peers: int,
        total: int | None = None,
        offset: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        width, replicas = settings.fedformer_width, rows // n_peers
        self.rows, self.n_peers, self.total = rows, n_peers, n_peers if total is None else total
        self.federated = total is not None
        self.heads, self.layers = settings.fedformer_heads, settings.fedformer_layers
        inputs, hidden = space.obs_dim + space.act_dim, [width] * DEPTH
        encoder = _mlp_part("encoder", (inputs, *hidden, width))
        self.encoder_size = sum(math.prod(part.shape) for part in encoder.values())
        parts = encoder | {
            "cls": Part((1, width), 1 / math.sqrt(width)),
            "position": Part((self.total + 1, width), 1 / math.sqrt(width)),
        }
        for n in range(self.layers):
            parts |= encoder_part(f"{n}", width, settings.fedformer_hidden)
        parts |= _mlp_part("decoder", (2 * width, *hidden, 1))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.stack = Stack(N_CRITICS * rows, parts, **where)
        self._received = Stack(N_CRITICS * replicas * self.total, encoder, **where)
        self.received = self._received.flat.view(replicas, self.total, N_CRITICS, -1)
        self.heard = torch.zeros(replicas, self.total, dtype=torch.bool, device=device)
        self.rate = settings.fedformer_dropout
        self.dropout: Dropout | None = None
        """Of a critic that learns: targets are copies and have none."""
        self.flat, self.grad = self.stack.flat.view(rows, -1), self.stack.grad.view(rows, -1)
        of_encoder = 2 * width * (DEPTH + 1) * self.total  # received and mixed
        self.activations = self.stack.rows * (of_encoder + (self.total + 1) * width * 12 * self.layers + 8 * width)
        self._places = _places(replicas, n_peers, self.total, offset, torch.device(device))
        self._weights_sum, self._weights_count = torch.zeros(rows, self.total + 1, **where), 0

    @property
    def encoders(self) -> Tensor:
        """The members' own encoders, `[R, n, 2, encoder_size]`: a view of `flat`."""
        return self.stack.flat.view(-1, self.n_peers, N_CRITICS, self.stack.count)[..., : self.encoder_size]

    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """As torch initialises these layers, with each member's generator, which also seeds dropout the first time."""
        of_rows = [rng for rng in generators for _ in range(N_CRITICS)]
        self.stack.init_(of_rows)
        if self.rate and self.dropout is None:
            self.dropout = Dropout(self.rate, of_rows, self.flat.device, self.flat.dtype)

    def copy_(self, other: FedFormerCritic) -> None:
        """Copy the parameters of `other`, and share what it has received."""
        self.stack.flat.copy_(other.stack.flat)
        self._received, self.received, self.heard = other._received, other.received, other.heard

    def lerp_(self, online: FedFormerCritic, tau: Tensor) -> None:
        """Soft update; `tau [S, 1]`."""
        self.flat.lerp_(online.flat, tau)

    def __call__(self, obs_actions: Tensor, *, grad: bool = False, only_first: bool = False) -> Tensor:
        """`[S, B, obs + act]` (actions in [-1, 1]) -> `[S, 2, B]`; `[S, 1, B]`, the first critic, with `only_first`.

        There is dropout with `grad` (the critics' loss) and for actions with gradients (the actor's loss)."""
        dropout = self.dropout if grad or obs_actions.requires_grad else None
        rows, batch, device = self.stack.rows, obs_actions.shape[1], obs_actions.device
        others = self._others(obs_actions)  # [2 S, N - 1, B, D]
        of_row = None if others is None else others.unbind()
        heard = self.heard.repeat_interleave(N_CRITICS * self.n_peers, dim=0).gather(1, self._places.others)
        valid = torch.cat((torch.ones_like(heard[:, :1].expand(-1, 2)), heard), dim=1)  # [2 S, N + 1]
        attention: list[Tensor] = [valid] * rows  # replaced below

        def work(part: slice) -> Tensor:
            w = self.stack.weights(part, grad=grad)
            x = obs_actions[_members(part)].repeat_interleave(N_CRITICS, dim=0)[: part.stop - part.start]
            received = None if of_row is None else _stacked(of_row[part])
            kept: list[Tensor] = []
            mask = None if dropout is None else dropout.of(part)
            out = self._forward(w, x, received, self._places.of_tokens[part], valid[part], kept, mask)
            if grad:
                for row, weights in zip(range(part.start, part.stop), kept[-1].detach(), strict=True):
                    attention[row] = weights.mean(dim=(0, 1, 2))  # over samples and heads: [N + 1]
            return out

        if only_first:
            q = torch.cat([work(slice(row, row + 1)) for row in range(0, rows, N_CRITICS)])
        else:
            q = by_rows(work, rows, device)
        if grad and not only_first:
            self._count_weights(torch.stack(attention))
        return q.view(self.rows, -1, batch)

    def _count_weights(self, weights: Tensor) -> None:
        """`weights [2 S, tokens]` in the order of the tokens."""
        places = self._places.of_tokens[:, : weights.shape[1]]
        of_members = weights.new_zeros(len(weights), self.total + 1).scatter(1, places, weights)
        self._weights_sum += of_members.view(self.rows, N_CRITICS, -1).mean(dim=1)
        self._weights_count += 1

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

    def _others(self, obs_actions: Tensor) -> Tensor | None:
        """What the received encoders of the other members say of a member's samples: `[2 S, N - 1, B, D]`, for critic
        `k` of a member with the encoders of the critics `k`. None: nothing was received.

        Encoder `j` of a replica sees the samples of all other members in one product. In a federation it sees those of
        one member at a time, because the bits of a product depend on its number of samples: so the bits of a member do
        not depend on which other members are in the same process.
        """
        if not bool(self.heard.any()):
            return None
        _, batch, inputs = obs_actions.shape
        x = obs_actions.view(-1, self.n_peers, batch, inputs)[:, self._places.seen_by]  # [R, N, K, B, in]
        x = x.repeat_interleave(N_CRITICS, dim=1).flatten(0, 1)  # [2 R N, K, B, in]
        w, passes = self._received.weights(), x.shape[1]
        if self.federated:
            out = torch.stack([_mlp(w, "encoder", seen) for seen in x.unbind(dim=1)], dim=1)
        else:
            out = _mlp(w, "encoder", x.view(len(x), passes * batch, inputs))
        chosen: Tensor = _Choose.apply(out.view(len(x) * passes, batch, -1), self._places.order)
        return chosen.view(self.stack.rows, self.total - 1, batch, -1)

    def _forward(
        self,
        w: Weights,
        x: Tensor,
        others: Tensor | None,
        places: Tensor,
        valid: Tensor,
        keep: list[Tensor],
        mask: Mask | None,
    ) -> Tensor:
        """Some rows: `x [s, B, in]`, `others [s, N - 1, B, D]` -> `[s, B]`. The tokens are CLS, the member's own and
        the others; `places [s, N + 1]` are their positions, `valid [s, N + 1]` tells which of them are attended to."""
        mine = _mlp(w, "encoder", x)  # [s, B, D]
        cls = w["cls"].unsqueeze(1).expand(-1, 1, x.shape[1], -1)
        encoded = [cls, mine.unsqueeze(1)] if others is None else [cls, mine.unsqueeze(1), others]
        tokens = torch.cat(encoded, dim=1)
        count, width = tokens.shape[1], tokens.shape[3]
        position = w["position"].gather(1, places[:, :count].unsqueeze(2).expand(-1, -1, width))
        tokens = tokens + position.unsqueeze(2)  # [s, N + 1, B, D]
        seen = None if others is None else valid.unsqueeze(2).expand(-1, -1, x.shape[1])
        for n in range(self.layers):
            last = n == self.layers - 1
            queries = tokens[:, :1] if last else tokens  # the decoder reads CLS alone
            tokens = _layer(w, f"{n}", queries, tokens, self.heads, seen, keep if last else None, mask)
        return _mlp(w, "decoder", torch.cat((tokens[:, 0], mine), dim=2)).squeeze(2)


class _Places(NamedTuple):
    """Where the encodings of `R` replicas of `n` of `N` members go."""

    others: Tensor  # [2 S, N - 1]: the other members of a row's member, in order
    of_tokens: Tensor  # [2 S, N + 1]: the positions of CLS, of the row's own member and of the others
    seen_by: Tensor  # [N, K]: the members of this process whose samples an encoder sees, in K passes
    order: Tensor  # [2 S (N - 1)]: from (replica, encoder, critic, pass) to (replica, member, critic, encoder)


def _places(replicas: int, n: int, total: int, offset: int, device: torch.device) -> _Places:
    members = range(offset, offset + n)
    others = torch.tensor([[j for j in range(total) if j != i] for i in members], dtype=torch.long)  # [n, N - 1]
    others = others.view(n, total - 1)
    own = torch.arange(offset, offset + n).unsqueeze(1)
    tokens = torch.cat((torch.zeros_like(own), own + 1, others + 1), dim=1)  # [n, N + 1]
    by_row, of_tokens = (x.repeat_interleave(N_CRITICS, dim=0).repeat(replicas, 1) for x in (others, tokens))
    # An encoder sees the other members of this process in order; one that has fewer others sees member 0 again
    passes = min(n, total - 1)
    seen = [[i for i in members if i != j] for j in range(total)]
    seen_by = torch.tensor([[i - offset for i in some] + [0] * (passes - len(some)) for some in seen], dtype=torch.long)
    number = torch.arange(replicas * total * N_CRITICS * passes).view(replicas, total, N_CRITICS, passes)
    order = [
        number[:, j, :, seen[j].index(i)]  # [R, 2]
        for i in members
        for j in range(total)
        if j != i
    ]
    placed = torch.stack(order, dim=2).view(replicas, N_CRITICS, n, total - 1) if order else number.new_zeros(0)
    placed = placed.transpose(1, 2).flatten() if order else placed
    return _Places(*(x.to(device) for x in (by_row, of_tokens, seen_by.view(total, passes), placed)))


class _Choose(torch.autograd.Function):
    """`x[order]`, for an `order` without repetitions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.rows = len(x)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        shape = (ctx.rows, *grads[0].shape[1:])
        whole = grads[0].new_empty(shape) if len(order) == ctx.rows else grads[0].new_zeros(shape)
        return whole.index_copy_(0, order, grads[0]), None


def _layer(
    w: Weights,
    name: str,
    queries: Tensor,
    tokens: Tensor,
    heads: int,
    valid: Tensor | None,
    keep: list[Tensor] | None,
    mask: Mask | None,
) -> Tensor:
    """A post-norm layer as `torch.nn.TransformerEncoderLayer`, for some of the tokens: `queries [s, n, B, D]`,
    `tokens [s, T, B, D]` -> `[s, n, B, D]`. `mask` draws dropout's factors for the attention weights, the hidden units
    and both branches."""

    def add(residual: Tensor, branch: Tensor) -> Tensor:
        return residual + (branch if mask is None else branch * mask(tuple(branch.shape)))

    found = attend(w, f"{name}.attention", queries, tokens, heads=heads, valid=valid, mask=mask, keep=keep)
    y = layer_norm(w, f"{name}.norm1", add(queries, found))
    hidden = linear(w, f"{name}.ff1", y, relu=True, mask=mask)
    return layer_norm(w, f"{name}.norm2", add(y, linear(w, f"{name}.ff2", hidden)))


def _mlp_part(name: str, sizes: Sequence[int]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for n, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        parts |= linear_part(f"{name}.{n}", fan_in, fan_out)
    return parts


def _mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    """Layers with ReLU, the last one linear: `x [s, B, in]` -> `[s, B, out]`."""
    layers = [w.layer(f"{name}.{n}", "relu" if n < DEPTH else None) for n in range(DEPTH + 1)]
    return kernels.run(x, layers, rowwise=True if len(x) == 1 else None)


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """`torch.stack(rows)`, without a copy of a single row."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(tuple(rows))


def _members(part: slice) -> slice:
    """The members of some rows of critics."""
    return slice(part.start // N_CRITICS, -(-part.stop // N_CRITICS))
