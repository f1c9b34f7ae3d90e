"""The Decision Transformer (Chen et al. 2021, arXiv 2106.01345) and its decoupled variant (arXiv 2601.15953) for all
members of a stack at once.

Equations and settings: docs/methods/decision-transformer.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from peerage.learners.base import Space, column
from peerage.learners.dt_settings import DTSettings
from peerage.learners.kept import KeptStatistics, first_actions
from peerage.learners.offline import OfflineLearner
from peerage.learners.streams import StreamKey
from peerage.nets.adam import StackedAdam
from peerage.nets.dropout import Dropout
from peerage.nets.gpt import Sequences, StackedGPT
from peerage.offline.context import Contexts
from peerage.offline.prepared import preprocessing_of
from peerage.offline.trajectories import Trajectories
from peerage.offline.windows import Windows


class DT(OfflineLearner):
    """`S` Decision Transformers. `data` are the episodes to learn from; None: they only act, with loaded parameters."""

    settings: Sequence[DTSettings]

    def __init__(
        self,
        settings: Sequence[DTSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        data: Trajectories | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, data=data, device=device, dtype=dtype)
        first = settings[0]
        gpt = replace(first.net_settings, decoupled=first.algorithm == "ddt")
        width = space.n_actions or space.act_dim
        self.net = StackedGPT(self.rows, space.obs_dim, width, gpt, tanh=not space.discrete, device=device, dtype=dtype)
        self.net.init_([key.generator("init") for key in stream_keys])
        self.optimizer = self._adamw()
        self.dropout = Dropout(gpt.dropout, [key.generator("dropout") for key in stream_keys], device, dtype)
        self.kept = KeptStatistics(self.rows, space, gpt.max_ep_len, device)
        if data is not None:
            self._prepare(data)

    def _adamw(self) -> StackedAdam:
        decays = torch.cat([
            torch.full((math.prod(part.shape),), float(name.endswith("weight") and "norm" not in name))
            for name, part in self.net.parts.items()
        ])  # fmt: skip
        rates = column(self.settings, lambda s: s.weight_decay, self.net.flat)
        made = StackedAdam(
            self.net.flat,
            self.net.grad,
            self.learning_rate,
            max_grad_norm=self.max_grad_norm,
            decay=rates * decays.to(self.net.flat),
        )
        self.optimizers["policy"] = made
        return made

    def _prepare(self, data: Trajectories) -> None:
        """The statistics and the windows of the data."""
        first, length = self.settings[0], self.net.settings.max_ep_len
        found = preprocessing_of(
            data, length, self.space.low, self.space.high, scale=first.return_scale, gamma=first.gamma
        )
        self.kept.set(found)
        of_model = replace(data, actions=found.to_model(data.actions))
        self.windows = Windows(of_model, self.net.settings.context_length, found.scale, found.gamma, device=self.device)

    def conditioned(self, episodes: int, *, clip: bool = False, rows: slice = slice(None)) -> Contexts:
        n = len(range(self.rows)[rows]) * episodes
        return Contexts(self.net, self.kept.preprocessing(), n, clip=clip, rows=rows)

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The actions `[S, B, act]` in the first step of episodes whose target is the largest return of the data.
        Later steps depend on the earlier ones: see `conditioned`."""
        return first_actions(self.conditioned(obs.shape[1]), obs)

    def learn(self, step: int) -> None:
        self.update(self.draw(), step)

    def draw(self) -> Sequences:
        """The next batch of windows."""
        index = (self.streams["data"].next() * self.windows.steps).long()
        found = self.windows.sample(index)
        states, actions, rtg = (x.to(self.dtype) for x in found[:3])
        return Sequences(states, actions, rtg, found.timesteps, found.mask)

    def update(self, batch: Sequences, step: int) -> None:
        """One gradient step, number `step` of the run."""
        errors = batch.states.new_empty(self.rows)

        def loss(predicted: Tensor, rows: slice) -> Tensor:
            """`[s]`: the mean of `step_loss` over valid steps."""
            wanted, mask = batch.actions[rows], batch.mask[rows].to(predicted.dtype)
            each = step_loss(predicted, wanted, self.space.discrete)
            if self.space.discrete:
                wrong = (predicted.detach().argmax(dim=-1) != wanted.argmax(dim=-1)).to(predicted.dtype)
            else:
                wrong = (predicted.detach() - wanted).abs().mean(dim=-1)
            count = mask.sum(dim=(1, 2))
            errors[rows] = (wrong * mask).sum(dim=(1, 2)) / count
            return (each * mask).sum(dim=(1, 2)) / count

        self.optimizer.zero_grad()
        losses = self.net.learn(batch, loss, self.dropout)
        self.active &= self.optimizer.finite()
        self.optimizer.set_lr(self.learning_rate * self.rates(step))
        self.optimizer.step(self.active)
        self.means.add("loss/actor", losses)
        self.means.add("error/action", errors)

    def rates(self, step: int) -> Tensor:
        """The factors `[S, 1]` of the learning rates in gradient step `step` (1, 2, ...): linear from 0 in the warm-up,
        then 1 or, with `anneal_lr`, linear to 0 at the end of the run."""

        def factor(s: DTSettings) -> float:
            done, total = step - 1, self.total_steps
            warmup = math.ceil(s.warmup_ratio * total)
            if done < warmup:
                return done / warmup
            return max(0.0, (total - done) / max(1, total - warmup)) if s.anneal_lr else 1.0

        return column(self.settings, factor, self.net.flat)

    def schedules(self) -> list[str]:
        name, found = self.settings[0].algorithm, []
        if any(s.warmup_ratio for s in self.settings):
            found.append(f"the warm-up of the learning rate of {name} (--warmup-ratio)")
        if any(s.anneal_lr for s in self.settings):
            found.append(f"the learning rate of {name} (--anneal-lr)")
        return found

    def batch_floats(self) -> int:
        """Activations of all rows that are computed at the same time; a row at a time on each thread of a CPU."""
        gpt, tokens = self.net.settings, 3 * self.net.settings.context_length
        per_token = gpt.n_layers * (16 * gpt.d_model + 3 * gpt.n_heads * tokens) + 6 * gpt.d_model
        return self.rows * self.settings[0].batch_size * tokens * per_token

    def parameters(self) -> dict[str, Tensor]:
        return {"policy": self.net.flat, **self.kept.tensors}

    def statistics(self) -> dict[str, Tensor]:
        return self.kept.tensors

    def state(self) -> dict[str, Any]:
        return {**super().state(), "dropout": self.dropout.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.dropout.load_state(state["dropout"])


def step_loss(predicted: Tensor, wanted: Tensor, discrete: bool) -> Tensor:
    """The loss of each step, `[..., out]` -> `[...]`: the cross-entropy of logits and one-hot actions, or the squared
    error averaged over the numbers of an action."""
    if discrete:
        return -(predicted.log_softmax(dim=-1) * wanted).sum(dim=-1)
    return (predicted - wanted).square().mean(dim=-1)
