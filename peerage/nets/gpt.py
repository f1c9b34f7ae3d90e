"""The network of the Decision Transformer (arXiv 2106.01345): a stacked GPT-2 over returns-to-go, observations and
actions. Equations: docs/methods/decision-transformer.md.

    R_1 s_1 a_1 R_2 s_2 a_2 ... -> embeddings + timestep, LayerNorm -> pre-norm layers of causal self-attention
    -> LayerNorm -> Linear at each s_t: the prediction of a_t

The same weights give the same predictions as `transformers.DecisionTransformerModel`. The last layer computes only the
state tokens, because no other token is read.

The decoupled variant (arXiv 2601.15953) has the tokens s_1 a_1 s_2 a_2 ...; R_t scales and shifts the output at s_t:

    LayerNorm(x_t) (1 + gamma(R_t)) + beta(R_t) -> Linear
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from peerage.nets.attention import MASKED
from peerage.nets.dropout import Dropout, Mask
from peerage.nets.gpt_settings import GPTSettings
from peerage.nets.layers import EPS, layer_norm, linear, norm_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.workers import by_rows

STD = 0.02  # of the initial weights, as in GPT-2
HIDDEN_PER_WIDTH = 4
TOKENS = ("return", "state", "action")  # of a step


class Sequences(NamedTuple):
    """Windows of `K` steps of episodes, for `S` rows with `B` windows each. Padding steps have `mask` False; they may
    be at the start or the end of a window, and their contents are ignored."""

    states: Tensor  # [S, B, K, obs], standardised
    actions: Tensor  # [S, B, K, act]; Discrete: one-hot
    rtg: Tensor  # [S, B, K, 1], divided by the scale
    timesteps: Tensor  # [S, B, K] int64, from 0 to max_ep_len - 1
    mask: Tensor  # [S, B, K] bool

    def of(self, rows: slice) -> Sequences:
        """The windows of some rows."""
        return Sequences(*(part[rows] for part in self))

    def without_padding(self) -> Sequences:
        """The same windows with zeros in padding steps, which may hold anything."""
        padding = ~self.mask
        states, actions, rtg = (part.masked_fill(padding.unsqueeze(3), 0.0) for part in self[:3])
        return Sequences(states, actions, rtg, self.timesteps.masked_fill(padding, 0), self.mask)


class StackedGPT(Stack):
    """`S` networks of the Decision Transformer.

    `obs`, `act`: numbers of an observation and an action (Discrete: the number of actions); `out`: numbers of a
    prediction (default: `act`). `tanh`: predictions are in (-1, 1), for Box actions; otherwise they are unbounded, for
    logits. Initial weights are those of GPT-2: normal with standard deviation 0.02, the last matrices of the branches
    0.02 / sqrt(2 n_layers); biases are 0. Raises ValueError if `settings.max_ep_len` is 0.
    """

    def __init__(
        self,
        rows: int,
        obs: int,
        act: int,
        settings: GPTSettings,
        *,
        out: int | None = None,
        tanh: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not settings.max_ep_len:
            raise ValueError("the network needs a positive max_ep_len")
        self.obs, self.act, self.out = obs, act, act if out is None else out
        self.settings, self.tanh = settings, tanh
        self.tokens = TOKENS[1:] if settings.decoupled else TOKENS
        super().__init__(rows, self._parts(), device=device, dtype=dtype, bf16=settings.precision == "bf16")

    def _parts(self) -> dict[str, Part]:
        settings, width = self.settings, self.settings.d_model
        hidden, last = HIDDEN_PER_WIDTH * width, STD / math.sqrt(2 * settings.n_layers)
        parts = {"timestep.weight": Part((settings.max_ep_len, width), std=STD)}
        for name, size in (("return", 1), ("state", self.obs), ("action", self.act)):
            parts |= _linear_part(name, size, width)
        parts |= norm_part("norm", width)
        parts["position.weight"] = Part((1, width), std=STD)  # the only position that Hugging Face's model uses
        for n in range(settings.n_layers):
            parts |= norm_part(f"{n}.norm1", width)
            parts |= _linear_part(f"{n}.query", width, width) | _linear_part(f"{n}.key_value", width, 2 * width)
            parts |= _linear_part(f"{n}.found", width, width, last)
            parts |= norm_part(f"{n}.norm2", width)
            parts |= _linear_part(f"{n}.ff1", width, hidden) | _linear_part(f"{n}.ff2", hidden, width, last)
        if settings.decoupled:
            parts |= _linear_part("modulate", width, 2 * width)
        else:
            parts |= norm_part("norm_out", width)
        return parts | _linear_part("out", width, self.out)

    def __call__(
        self,
        states: Tensor,
        actions: Tensor,
        rtg: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        *,
        rows: slice = slice(None),
        newest: bool = False,
    ) -> Tensor:
        """The predictions at the state tokens, `[s, B, K, out]`, without gradients and dropout; arguments as in
        `Sequences`, for some `rows`. With `newest` only those of the last step, `[s, B, out]`."""
        batch, selected = Sequences(states, actions, rtg, timesteps, mask), range(self.rows)[rows]

        def work(part: slice) -> Tensor:
            here = slice(selected.start + part.start, selected.start + part.stop)
            return self.forward(self.weights(here), batch.of(part), newest=newest)

        with torch.no_grad():
            return by_rows(work, len(selected), states.device)

    def learn(
        self, batch: Sequences, loss: Callable[[Tensor, slice], Tensor], dropout: Dropout | None = None
    ) -> Tensor:
        """Add the gradients of all rows to `self.grad` and return the losses `[S]`.

        `loss(predictions [s, B, K, out], rows)` returns the losses `[s]` of some rows. `dropout` draws the factors of
        dropout (None: no dropout).
        """

        def work(rows: slice) -> Tensor:
            factors = None if dropout is None else dropout.of(rows)
            losses = loss(self.forward(self.weights(rows, grad=True), batch.of(rows), factors), rows)
            losses.sum().backward()
            return losses.detach()

        with torch.enable_grad():
            return by_rows(work, self.rows, self.flat.device)

    def forward(self, w: Weights, batch: Sequences, factors: Mask | None = None, *, newest: bool = False) -> Tensor:
        """The predictions of the rows with the parameters `w`, as in `__call__`. `factors` draws dropout's factors."""
        batch = batch.without_padding()
        x = self._embedded(w, batch, factors)[:, :, :-1]  # no token reads the last action
        bias = _attention_bias(batch.mask, len(self.tokens), x.dtype)
        # The tokens to compute in the last layer: the states, or the last state.
        read = slice(x.shape[2] - 1, None) if newest else slice(self.tokens.index("state"), None, len(self.tokens))
        for n in range(self.settings.n_layers):
            last = n == self.settings.n_layers - 1
            x = self._layer(w, f"{n}", x, bias, factors, read if last else slice(None))
        x = linear(w, "out", self._normed(w, x, batch.rtg[:, :, -1:] if newest else batch.rtg))
        if self.tanh:
            x = x.tanh()
        return x[:, :, 0] if newest else x

    def _embedded(self, w: Weights, batch: Sequences, factors: Mask | None) -> Tensor:
        """The tokens of all steps in turn, `[s, B, T, D]`."""
        time = _look_up(w["timestep.weight"], batch.timesteps)  # [s, B, K, D]
        inputs = {"return": batch.rtg, "state": batch.states, "action": batch.actions}
        embedded = [linear(w, name, inputs[name]) + time for name in self.tokens]
        x = layer_norm(w, "norm", torch.stack(embedded, dim=3).flatten(2, 3))
        x = x + w["position.weight"].unsqueeze(1)
        return x if factors is None else x * factors(tuple(x.shape))

    def _normed(self, w: Weights, x: Tensor, rtg: Tensor) -> Tensor:
        """The last LayerNorm of `x [s, B, n, D]`, modulated by the returns-to-go `[s, B, n, 1]` if decoupled."""
        if not self.settings.decoupled:
            return layer_norm(w, "norm_out", x)
        gamma, beta = linear(w, "modulate", F.silu(linear(w, "return", rtg))).chunk(2, dim=3)
        return torch.addcmul(beta, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + gamma)

    def _layer(self, w: Weights, name: str, x: Tensor, bias: Tensor, factors: Mask | None, read: slice) -> Tensor:
        """A pre-norm layer of GPT-2 for the tokens `read` of `x [s, B, T, D]`: `[s, B, n, D]`.

        `y = x + attention(norm1(x))`, then `y + ff2(activation(ff1(norm2(y))))`.
        """

        def add(residual: Tensor, branch: Tensor) -> Tensor:
            if factors is None:
                return residual + branch
            return torch.addcmul(residual, branch, factors(tuple(branch.shape)))

        normed = layer_norm(w, f"{name}.norm1", x)
        q, kv = linear(w, f"{name}.query", normed[:, :, read]), linear(w, f"{name}.key_value", normed)
        found = _attention(q, kv, self.settings.n_heads, bias[:, :, read], factors)
        y = add(x[:, :, read], linear(w, f"{name}.found", found))
        relu = self.settings.activation == "relu"
        hidden = linear(w, f"{name}.ff1", layer_norm(w, f"{name}.norm2", y), relu=relu)
        if not relu:
            hidden = F.gelu(hidden, approximate="tanh" if self.settings.activation == "gelu_new" else "none")
        return add(y, linear(w, f"{name}.ff2", hidden))


def _linear_part(name: str, fan_in: int, fan_out: int, std: float = STD) -> dict[str, Part]:
    return {f"{name}.weight": Part((fan_in, fan_out), std=std), f"{name}.bias": Part((1, fan_out), constant=0.0)}


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """The entries `index [s, ...]` of the tables `[s, count, D]`: `[s, ..., D]`."""
    if len(table) == 1:
        return F.embedding(index, table[0])
    rows = torch.arange(len(table), device=table.device).view(-1, *[1] * (index.dim() - 1))
    return table[rows, index]


def _attention_bias(mask: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """A summand for logits, `[s, B, T, T]` for the `T = tokens K - 1` tokens of a window without the last action: 0
    where a query may attend to a key, `MASKED` at padding and at later tokens. `mask [s, B, K]`."""
    valid = mask.repeat_interleave(tokens, dim=2)[:, :, :-1]
    t = valid.shape[2]
    seen = valid.unsqueeze(2) & torch.ones(t, t, dtype=torch.bool, device=mask.device).tril_()
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill_(~seen, MASKED)


def _attention(q: Tensor, kv: Tensor, heads: int, bias: Tensor, factors: Mask | None) -> Tensor:
    """Per head `softmax(q k^T / sqrt(d) + bias) v`: `q [s, B, n, D]`, `kv [s, B, T, 2 D]`, `bias [s, B, n, T]` ->
    `[s, B, n, D]`."""
    s, b, n, width = q.shape
    t, d = kv.shape[2], width // heads

    def split(x: Tensor) -> Tensor:  # [s, B, T, D] -> [s * B * heads, T, d]
        if heads == 1:
            return x.reshape(s * b, -1, d)
        return x.unflatten(3, (heads, d)).transpose(2, 3).reshape(s * b * heads, -1, d)

    keys, values = (split(part) for part in kv.chunk(2, dim=3))
    added = bias.unsqueeze(2).expand(s, b, heads, n, t).reshape(-1, n, t)
    logits = torch.baddbmm(added, split(q), keys.mT, alpha=d**-0.5)
    weights = torch.softmax(logits, dim=-1)
    if factors is not None:
        weights = weights * factors((s, b, heads, n, t)).view(weights.shape)
    return torch.bmm(weights, values).view(s, b, heads, n, d).transpose(2, 3).reshape(s, b, n, width)
