"""Stacked attention networks for flat observations: the policies and values of all members of a group.

    tokens -> `n_layers` pre-norm layers of self-attention -> one vector -> hidden layer with tanh -> Linear

The tokens are the numbers of the observation (`features`), the steps of a window (`history`), both (`both`) or sensors
without identity (`set`). Equations, settings and differences from the papers: docs/methods/attention.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peerage.errors import UserError
from peerage.nets import kernels
from peerage.nets.attention import attention_part
from peerage.nets.attention_settings import AttentionSettings
from peerage.nets.blocks import add_positions, block, block_part, positions_part
from peerage.nets.dropout import Dropout, Mask
from peerage.nets.layers import layer_norm, linear, linear_part, norm_part, orthogonal_part
from peerage.nets.pooling import pool, pool_numbers, pool_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.stacked import ALL_ROWS, Rows
from peerage.nets.step_attention import attend_steps
from peerage.nets.workers import by_rows

HIDDEN_PER_WIDTH = 2  # units of a feed-forward layer per unit of d_model
# A pass goes row by row, in the threads of `WORKERS`, from this number of multiplications per row on (measured).
ROWWISE_MIN_WORK = 1 << 25


class Window(NamedTuple):
    """The layout of an observation that is a window of steps, the newest last: `length` steps of `width` numbers each,
    in the order observation, last action, last reward, validity flag. A step is valid if its flag is positive; with
    `valid` 0 there is no flag, and all steps are valid."""

    length: int
    obs: int
    act: int = 0
    reward: int = 0
    valid: int = 1

    @property
    def width(self) -> int:
        """The numbers of a step."""
        return self.obs + self.act + self.reward + self.valid


def build_attention(
    rows: int, inputs: int, outputs: int, settings: Any, *, window: Window | None = None, **more: Any
) -> StackedAttention:
    """The networks of a learner (`peerage.config.methods.NetMethod`). Raises UserError for tokens that the observation
    does not have."""
    own: AttentionSettings = settings.net_settings
    if own.tokens in ("history", "both") and window is None:
        raise UserError(f"--tokens {own.tokens} needs a window of steps: add --env-args history=8")
    return StackedAttention(rows, inputs, outputs, own, window=window, **more)


class StackedAttention(Stack):
    """`S` attention networks of one shape: `[s, B, inputs]` -> `[s, B, out]`.

    `window`: the layout of the observation, required for the tokens history and both; for set it is optional, and
    features does not use it. `gain`: gain of the orthogonal output layer, e.g. 0.01 for a policy and 1 for a value; the
    hidden layer has the gain sqrt(2). The other layers start as those of torch. `extra` names further parameters, zero
    at first, with their shape per row.

    `constants` and `parameters` are the parameters by name, without and with gradients (see `Stack.weights`).
    Raises ValueError if the observation does not have the size of the window, or there is no window.
    """

    def __init__(
        self,
        rows: int,
        inputs: int,
        out: int,
        settings: AttentionSettings,
        *,
        window: Window | None = None,
        gain: float = 1.0,
        extra: dict[str, tuple[int, ...]] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if settings.tokens in ("history", "both") and window is None:
            raise ValueError(f"tokens={settings.tokens} needs an observation that is a window of steps")
        if window is not None and inputs != window.length * window.width:
            raise ValueError(f"an observation of {inputs} numbers is no window of {window.length} x {window.width}")
        if settings.tokens == "auto":
            settings = replace(settings, tokens="features" if window is None else "history")
        self.inputs, self.out, self.settings = inputs, out, settings
        self.window = window or Window(1, inputs, valid=0)
        parts = self._parts(gain) | {name: Part(shape, constant=0.0) for name, shape in (extra or {}).items()}
        super().__init__(rows, parts, device=device, dtype=dtype)
        self.constants, self.parameters = self.weights(), self.weights(grad=True)
        self._twice: dict[tuple[int, int, int], Weights] = {}

    def _parts(self, gain: float) -> dict[str, Part]:
        settings, window, width = self.settings, self.window, self.settings.d_model
        parts: dict[str, Part] = {}
        n_queries = 1
        if settings.tokens in ("features", "both"):
            numbers = self.inputs if settings.tokens == "features" else window.width - window.valid
            parts["number.weight"] = Part((2, numbers, width), 1.0)  # as a linear layer for each number
        if settings.tokens == "both":
            parts |= pool_part("number.pool", width, settings.n_heads)
        if settings.tokens == "history":
            parts |= linear_part("step", window.width - window.valid, width)
        if settings.tokens in ("history", "both"):
            parts |= positions_part("position", window.length, width)
        if settings.tokens == "set":
            parts |= linear_part("sensor", window.length * (1 + window.valid) + window.act, width)
            n_queries = settings.n_queries
        for n in range(settings.n_layers):
            parts |= block_part(f"{n}", width, HIDDEN_PER_WIDTH * width, settings.gate)
        if self._looks_back:
            parts |= attention_part("present", width)
        elif self._reads_present:
            parts |= block_part("present", width, HIDDEN_PER_WIDTH * width, settings.gate)
        else:
            parts |= pool_part("pool", width, settings.n_heads, n_queries, out=False)
        if (self._reads_present and not self._looks_back) or settings.n_layers:
            parts |= norm_part("norm", width)
        width *= n_queries
        if settings.readout:
            parts |= orthogonal_part("hidden", width, settings.readout, math.sqrt(2))
            width = settings.readout
        return parts | orthogonal_part("out", width, self.out, gain)

    @property
    def head(self) -> str:
        """The name of the last layer."""
        return "out"

    @property
    def _reads_present(self) -> bool:
        return self.settings.tokens in ("history", "both")

    @property
    def _looks_back(self) -> bool:
        """The attention of the present step over the window is the only layer."""
        return self.settings.tokens == "history" and not self.settings.n_layers

    @property
    def activations(self) -> int:
        """The approximate number of values that a pass keeps for its gradients, of all rows, for one input each."""
        settings, width = self.settings, self.settings.d_model
        tokens = self.window.length if self._reads_present else self.window.obs
        numbers = tokens * (self.window.width if settings.tokens == "both" else 1)
        # norms, query, key, value, found, output, feed-forward, sums; the gates
        per_token = width * (12 + 2 * HIDDEN_PER_WIDTH + (16 if settings.gate else 0)) + 3 * settings.n_heads * tokens
        queries = settings.n_queries if settings.tokens == "set" else 1
        pooled = settings.n_heads * (3 * numbers + queries * (3 * tokens + 2 * width))
        layers = settings.n_layers * tokens * per_token + (per_token if self._reads_present else 0)
        rest = self.inputs + 3 * tokens * width + queries * width + settings.readout + self.out
        return self.rows * (layers + pooled + rest)

    def __call__(self, x: Tensor, *, rows: Rows = slice(None)) -> Tensor:
        """`x [s, B, inputs]` -> `[s, B, out]` without gradients, for all rows, a slice or an index `[s]`."""
        with torch.no_grad():
            if isinstance(rows, slice) and rows == ALL_ROWS and self._by_rows(x):
                return by_rows(lambda part: self._forward(self.weights(part), x[part]), self.rows, x.device)
            if len(x) > 1:
                return self._forward(self._some(rows), x)
            # Products of a single row differ in the last bits from those of the same row beside others
            return self._forward(self._some_twice(rows), x.expand(2, *x.shape[1:]))[:1]

    def attention(self, x: Tensor, *, rows: Rows = slice(None)) -> dict[str, Tensor]:
        """The attention weights for `x [s, B, inputs]`, by the name of the layer, in the order of the layers.

        `number.pool`: of the query over the numbers of each step, `[s, B, steps, heads, 1, F]`. `0`, `1`, ...:
        self-attention, `[s, B, heads, T, T]`, the token that asks before the token that it attends to. `present`: of
        the present step over the steps of the window, `[s, B, heads, 1, T]`. `pool`: of the learned queries over the
        tokens, `[s, B, heads, queries, T]`. Each row sums to 1; steps that are not valid have 0.
        """
        found: list[Tensor] = []
        with torch.no_grad():
            self._forward(self._some(rows), x, keep=found)
        names = ["number.pool"] * (self.settings.tokens == "both") + [f"{n}" for n in range(self.settings.n_layers)]
        weights = dict(zip((*names, "present" if self._reads_present else "pool"), found, strict=True))
        if "number.pool" in weights:
            of_steps = weights["number.pool"].unflatten(1, (self.window.length, -1))
            weights["number.pool"] = of_steps.transpose(1, 2)
        return weights

    def tape(self, x: Tensor, dropout: Dropout | None = None) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The output `[S, B, out]`, and a function that takes the output's gradient and adds the parameters' gradients
        to `self.grad`. `dropout` draws the factors of dropout (None: no dropout)."""

        def work(rows: slice) -> Tensor:
            mask = None if dropout is None else dropout.of(rows)
            return self._forward(self.weights(rows, grad=True), x[rows], mask)

        with torch.enable_grad():
            out = by_rows(work, self.rows, x.device) if self._by_rows(x) else work(slice(0, self.rows))
        return out.detach(), out.backward

    def _by_rows(self, x: Tensor) -> bool:
        return x.shape[1] * self.count >= ROWWISE_MIN_WORK

    def _some(self, rows: Rows) -> Weights:
        if isinstance(rows, Tensor):
            return Weights({name: w[rows] for name, w in self.constants.items()}, {})
        return self.weights(rows)

    def _some_twice(self, rows: Rows) -> Weights:
        """The parameters of one row as if it were two."""
        key = rows.indices(self.rows) if isinstance(rows, slice) else None
        if key is None or key not in self._twice:
            found = {name: part.expand(2, *part.shape[1:]) for name, part in self._some(rows).items()}
            if key is None:
                return Weights(found, {})
            self._twice[key] = Weights(found, {})
        return self._twice[key]

    def _forward(self, w: Weights, x: Tensor, mask: Mask | None = None, keep: list[Tensor] | None = None) -> Tensor:
        """The networks of the `s` rows of `w`. `keep` receives the attention weights."""
        settings, heads = self.settings, self.settings.n_heads
        if settings.tokens == "features" and not settings.n_layers:
            return self._head(w, pool_numbers(w, "pool", x, w["number.weight"], heads=heads, keep=keep))
        if self._looks_back:
            steps, valid = self._steps(x)
            last = add_positions(w, "position", linear(w, "step", steps[:, -1:].mT))
            found = attend_steps(w, "present", last, steps, heads=heads, valid=valid, mask=mask, keep=keep)
            return self._head(w, (last + found)[:, 0])
        tokens, valid = self._tokens(w, x, keep)
        for n in range(settings.n_layers):
            tokens = block(w, f"{n}", tokens, heads=heads, valid=valid, gate=settings.gate, mask=mask, keep=keep)
        if self._reads_present:
            last, gate = tokens[:, -1:], settings.gate
            z = block(w, "present", last, context=tokens, heads=heads, valid=valid, gate=gate, mask=mask, keep=keep)
            return self._head(w, layer_norm(w, "norm", z[:, 0]))
        z = pool(w, "pool", layer_norm(w, "norm", tokens) if settings.n_layers else tokens, heads=heads, keep=keep)
        return self._head(w, z.transpose(1, 2).flatten(2))

    def _tokens(self, w: Weights, x: Tensor, keep: list[Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """The tokens `[s, T, B, D]` of observations `x [s, B, inputs]`, and which of them are valid, `[s, T, B]`
        (None: all)."""
        if self.settings.tokens == "features":
            direction, identity = w["number.weight"].unsqueeze(3).unbind(1)  # [s, F, 1, D]
            return torch.addcmul(identity, x.mT.unsqueeze(3), direction), None
        steps, valid = self._steps(x)
        steps = steps.mT
        if self.settings.tokens == "set":
            return self._sensors(w, steps, valid), None
        if self.settings.tokens == "history":
            tokens = linear(w, "step", steps)
        else:
            heads, numbers = self.settings.n_heads, steps.flatten(1, 2)
            tokens = pool_numbers(w, "number.pool", numbers, w["number.weight"], heads=heads, keep=keep)
            tokens = tokens.unflatten(1, steps.shape[1:3])
        return add_positions(w, "position", tokens), valid

    def _steps(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The steps of windows `x [s, B, inputs]` without the validity flag, `[s, T, width, B]`, and the flags
        `[s, T, B]`."""
        window = self.window
        steps = x.mT.contiguous().unflatten(1, (window.length, window.width))
        if not window.valid:
            return steps, None
        valid = steps[:, :, -1] > 0
        return steps[:, :, :-1].masked_fill(~valid.unsqueeze(2), 0.0), valid  # padding may hold anything

    def _sensors(self, w: Weights, steps: Tensor, valid: Tensor | None) -> Tensor:
        """A token for each number of the observation, `[s, F, B, D]`, computed by one layer for all of them from this
        number in all steps, the steps' validity and the last action; `steps [s, T, B, width]`."""
        window = self.window
        inputs = [steps[..., : window.obs].permute(0, 3, 2, 1)]  # [s, F, B, T]
        same = [] if valid is None else [valid.mT.to(steps.dtype)]
        same.append(steps[:, -1, :, window.obs : window.obs + window.act])
        inputs += [part.unsqueeze(1).expand(-1, window.obs, -1, -1) for part in same]
        return linear(w, "sensor", torch.cat(inputs, dim=3)).tanh()

    def _head(self, w: Weights, z: Tensor) -> Tensor:
        """`z [s, B, width]` -> `[s, B, out]`."""
        hidden = [w.layer("hidden", "tanh")] if self.settings.readout else []
        return kernels.run(z, [*hidden, w.layer("out")], rowwise=len(z) == 1)
