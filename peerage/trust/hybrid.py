"""Transformer trust and its mixture with trust by temporal differences (docs/methods/transformer-trust.md).

The weight of the transformer is computed from its losses. Each member has its own weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.learners.transition import Transition
from peerage.trust.attention import AttentionTrust
from peerage.trust.context import TrustContext
from peerage.trust.features import make_features
from peerage.trust.signals import Signal
from peerage.trust.suggestions import SuggestionTrust
from peerage.trust.transformer_settings import TrustTransformerSettings

FLOATS_PER_STEP = 6000  # memory of one step of a window in a gradient step, measured
COMPARED_LOSSES = 10  # number of latest losses that are compared with as many before them


def confidence(losses: Tensor) -> Tensor:
    """`c = 0.7 sigmoid(-dL) + 0.3 / (1 + sigma(L))`, in (0, 1): `losses [M, n]`, the oldest first -> `[M]`.

    `dL` is the mean of the last `w = min(10, n // 2)` losses minus that of the `w` before, `sigma` the standard
    population standard deviation of all `n`. The result is 0.5 with fewer than two losses and for members whose losses
    are not finite. Callers pass at most 50 losses.
    """
    n = losses.shape[1]
    if n < 2:
        return losses.new_full((losses.shape[0],), 0.5)
    w = min(COMPARED_LOSSES, n // 2)
    change = losses[:, -w:].mean(dim=1) - losses[:, -2 * w : -w].mean(dim=1)
    c = 0.7 * torch.sigmoid(-change) + 0.3 / (1 + losses.std(dim=1, correction=0))
    return torch.where(c.isfinite(), c, 0.5)


def omega(step: int, warmup_steps: int, limit: float, c: Tensor) -> Tensor:
    """The transformer's weight `min(step / warmup_steps, 1) * limit * c`, `[M]`."""
    return min(step / warmup_steps, 1.0) * limit * c


def normalised(values: Tensor) -> Tensor:
    """`x / max_j |x_j|` for each asker, `[M, K]`. A row of zeros stays zero."""
    largest = values.abs().amax(dim=1, keepdim=True)
    return torch.where(largest > 0, values / largest, 0.0)


class TransformerTrust(Signal):
    """`v = omega norm(v_attn) + (1 - omega) norm(v_td)`, or `v_attn` alone without `td`: the trust term of Eq. 9."""

    fixed_state = True

    def __init__(
        self,
        config: TrustTransformerSettings,
        group: Group,
        spec: Spec,
        n_advisers: int,
        total_steps: int,
        td: SuggestionTrust | None,
    ) -> None:
        self.config, self.group, self.K, self.td = config, group, n_advisers, td
        self.discrete = group.space.discrete
        self.features = make_features(config.features, spec, group.M, n_advisers, config.lagged_rewards)
        if config.use_phase_aware and not self.features.n_phases:
            raise UserError(
                f"--use-phase-aware: the features {self.features.family.name!r} have no phases; remove the flag, or "
                "give --features a family with phases"
            )
        self.attention = AttentionTrust(
            group.stream_keys,
            self.features.width,
            self.features.adviser,
            n_advisers,
            self.features.n_phases if config.use_phase_aware else 0,
            sequence_length=config.sequence_length,
            lr=config.attention_lr,
            update_freq=config.attention_update_freq,
            batch=config.attention_batch_size,
            capacity=config.attention_history,
            total_steps=total_steps,
            wiring=config.wiring,
            device=group.device,
            dtype=group.dtype,
        )
        # Steps whose features have not been computed yet: obs, action, reward, adviser, first
        self.pending: tuple[list[np.ndarray], ...] = ([], [], [], [], [])
        nothing = torch.full((group.M, n_advisers), torch.nan, device=group.device, dtype=group.dtype)
        self.last = {"trust_attention": nothing}
        if td is not None:
            self.last |= {name: nothing.clone() for name in ("confidence", "omega")}
        self.loss_sum = torch.zeros(group.M, device=group.device, dtype=group.dtype)
        self.loss_count = 0

    def observe(self, transition: Transition) -> None:
        t = transition.host
        actions = t.actions[:, 0].astype(np.int64) if self.discrete else t.actions
        for column, now in zip(self.pending, (t.obs, actions, t.rewards, t.followed, t.first), strict=True):
            column.append(now)

    def after_step(self, step: int) -> None:
        if self.attention.due(step):
            self._catch_up()
            before = self.attention.updates
            self.attention.train()
            if self.attention.updates > before:
                newest = before % len(self.attention.recent)
                self.loss_sum = self.loss_sum + self.attention.recent[newest]
                self.loss_count += 1

    def _catch_up(self) -> None:
        """Compute the features of the pending steps."""
        if self.pending[0]:
            columns = [np.stack(column, axis=1) for column in self.pending]
            features, phases = self.features.extend(*columns)
            self.attention.append(features, phases, columns[2], columns[4])
            for column in self.pending:
                column.clear()

    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        self._catch_up()
        asking = np.flatnonzero(due).tolist()
        v_attention = torch.zeros(self.group.M, self.K, device=self.group.device, dtype=self.group.dtype)
        v_attention[torch.as_tensor(asking, device=self.group.device)] = self.attention.values(asking)
        now = {"trust_attention": v_attention}
        component = now  # of the choice
        if self.td is not None:
            assert self.td.trust is not None
            c = confidence(self.attention.losses())
            weight = omega(step, self.config.warmup_steps, self.config.max_attention_weight, c)
            self.td.catch_up()
            mixed = torch.lerp(normalised(self.td.trust.values), normalised(v_attention), weight.unsqueeze(1))
            component = {"trust_hybrid": mixed}
            now |= {n: x.unsqueeze(1).expand(-1, self.K) for n, x in (("confidence", c), ("omega", weight))}
        mask = torch.as_tensor(due, device=self.group.device).unsqueeze(1)
        self.last = {name: torch.where(mask, now[name], old) for name, old in self.last.items()}
        return component

    def batch_floats(self, threads: int) -> dict[str, int]:
        a = self.attention
        at_once = a.history.rows if self.group.device.type == "cuda" else min(threads, a.history.rows)
        steps = at_once * a.batch * min(a.sequence_length, a.history.capacity)
        return {"trust batches": steps * FLOATS_PER_STEP}

    def report(self) -> dict[str, Tensor]:
        return dict(self.last)

    def metrics(self) -> dict[str, Tensor]:
        """The mean loss since the last call, confidence and omega at the last choice, and 1 for a frozen model."""
        out = {f"trust/{name}": self.last[name][:, 0] for name in ("confidence", "omega") if name in self.last}
        if self.loss_count:
            out["trust/loss"] = self.loss_sum / self.loss_count
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        out["trust/frozen"] = torch.where(self.attention.active, torch.nan, 1.0)
        return out

    def state(self) -> dict[str, Any]:
        return {
            # Steps stay pending: features computed in other chunks could have other last bits
            "pending": [torch.as_tensor(np.array(column)) for column in self.pending],
            # As tensors, which keep their dtype in a checkpoint
            "features": {name: torch.from_numpy(x) for name, x in self.features.state().items()},
            "attention": self.attention.state(),
            "last": self.last,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.features.load_state({name: x.cpu().numpy() for name, x in state["features"].items()})
        self.attention.load_state(state["attention"])
        self.last = {name: values.to(self.group.device) for name, values in state["last"].items()}
        self.loss_sum = state["loss_sum"].to(self.group.device)
        self.loss_count = int(state["loss_count"])
        for column, saved in zip(self.pending, state["pending"], strict=True):
            column[:] = list(saved.cpu().numpy())


def make_transformer_trust(context: TrustContext) -> TransformerTrust:
    """Transformer trust, or hybrid trust if the context has trust by temporal differences."""
    c = context
    return TransformerTrust(c.config.trust_transformer, c.group, c.spec, c.n_advisers, c.total_steps, c.td)
