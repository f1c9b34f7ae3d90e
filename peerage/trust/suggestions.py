"""Trust and agent values by temporal differences, learned from the suggestion buffer (arXiv 2312.09950, Eq. 4-8).

Both are updated in every step. Because only choices read them, updates are deferred and made together, one after the
other: at a choice, and before the critics that value the samples change. The result is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.config import AdviceConfig
from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.learners.streams import Streams
from peerage.trust.agent_value import AgentValues, samples_per_member
from peerage.trust.signals import Signal
from peerage.trust.td import TDTable, targets

MAX_DEFERRED = 16
"""Largest number of updates that are deferred."""


class SuggestionTrust(Signal):
    """`trust [M, K]` and `agents [R, K]`, each None if the choice does not use it. The suggestion buffer is the group's
    ring of recent transitions, which holds the adviser that was followed."""

    fixed_state = True

    def __init__(
        self,
        config: AdviceConfig,
        group: Group,
        n_advisers: int,
        *,
        reads: bool = True,
        learns_trust: bool = True,
        is_component: bool = True,
    ) -> None:
        """`reads`: choices read values at all. `learns_trust`: the trust term is learned, not agent values alone.
        `is_component`: trust is a component of the choice, and not only read by another kind of trust."""
        assert config.lr is not None
        self.config, self.group, self.is_component = config, group, is_component
        self.gamma = group.gamma()
        like = torch.zeros(0, device=group.device, dtype=group.dtype)
        self.trust: TDTable | None = None
        self.agents: AgentValues | None = None
        if reads and config.use_trust and learns_trust:
            errors = config.imitate != "none"
            self.trust = TDTable(group.M, n_advisers, config.init_trust_values, config.lr, like, errors=errors)
        if reads and config.use_agent_values:
            self.agents = AgentValues(group.R, n_advisers, config.init_agent_values, config.lr, like)
        self.n_trust = config.trust_batch_size if self.trust else 0
        self.n_agents = samples_per_member(config.trust_batch_size, group.N) if self.agents else 0
        n = max(self.n_trust + self.n_agents, 1)
        # Drawn in every step, used or not, so that a member's draws do not depend on other members
        self.samples = Streams(group.stream_keys, "trust", (n,), "uniform", group.device)
        self.noise: Streams | None = None
        if (noise := group.noise_shape) is not None:
            shape = (n, noise.width)
            self.noise = Streams(group.stream_keys, "trust-noise", shape, noise.kind, group.device, group.dtype)
        kept = group.recent.capacity
        self.memory = min(config.trust_buffer_size, kept)
        if (self.trust or self.agents) and self.memory < config.trust_batch_size:
            raise UserError(
                f"--trust-batch-size {config.trust_batch_size} is more than the {self.memory} transitions that "
                "--trust-buffer-size keeps: trust could not be learned"
            )
        # The transitions of a deferred update must still be in the ring
        self.max_deferred = max(1, min(MAX_DEFERRED, kept - self.memory + 1))
        self.pending: list[np.ndarray] = []  # [M] each: transitions with advice when the update was due

    def after_step(self, step: int) -> None:
        if self.trust is None and self.agents is None:
            return  # in no step of this run are samples drawn
        self.pending.append(np.minimum(step - self.group.learning_starts, self.memory))
        if len(self.pending) >= self.max_deferred or self.group.learns(step):
            self.catch_up()

    @torch.no_grad()
    def catch_up(self) -> None:
        """Make the deferred updates."""
        if not self.pending:
            return
        stored = np.stack(self.pending, axis=1)  # [M, U]
        self.pending = []
        members, updates = stored.shape
        samples = self.samples.take(updates)  # [M, U, B]
        noise = self.noise.take(updates).flatten(1, 2) if self.noise is not None else None  # [M, U B, act]
        valid = stored >= self.config.trust_batch_size
        if not valid.any():
            return
        device = self.group.device
        available = torch.as_tensor(np.maximum(stored, 1), device=device).unsqueeze(2)
        since = torch.arange(updates - 1, -1, -1, device=device).view(1, updates, 1)  # steps since the update was due
        age = ((samples * available).long() + since).view(members, -1)  # [M, U B]
        batch = self.group.recent_transitions(age)
        next_value = self.group.state_value(batch.next_obs, noise)
        value = self.group.state_value(batch.obs, noise) if self.config.use_advantage else None
        target = targets(batch.rewards, batch.terminated, self.gamma, next_value, value).view(members, updates, -1)
        adviser = batch.followed.view(members, updates, -1)
        enough = torch.as_tensor(valid, device=device).unsqueeze(2).expand_as(target)
        n = self.n_trust
        if self.trust is not None:
            self.trust.update(target[..., :n], adviser[..., :n], enough[..., :n])
        if self.agents is not None:
            # Agent values are shared: samples of a frozen member, whose critic may be wrong, do not count
            intact = self.group.active() | self.group.pretrained  # pretrained members do not learn, but are not frozen
            counts = enough[..., n:] & torch.as_tensor(intact, device=device).view(-1, 1, 1)
            self.agents.update(target[..., n:], adviser[..., n:], counts)

    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        columns = self.report()
        return columns if self.is_component else {name: v for name, v in columns.items() if name != "trust_td"}

    def estimates(self) -> tuple[Tensor, Tensor] | None:
        return self.trust.estimates() if self.trust is not None and self.trust.evidence else None

    def report(self) -> dict[str, Tensor]:
        self.catch_up()
        columns = {}
        if self.agents is not None:
            columns["agent_value"] = self.agents.values.repeat_interleave(self.group.N, dim=0)
        if self.trust is not None:
            columns["trust_td"] = self.trust.values
        return columns

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            # Updates stay deferred: made now, in other batches, they could have other last bits
            "pending": [stored.tolist() for stored in self.pending],
            "samples": self.samples.state(),
            "noise": None if self.noise is None else self.noise.state(),
        }
        if self.trust is not None:
            state["trust"] = self.trust.values
            if self.trust.evidence:
                state["evidence"] = dict(self.trust.evidence)
        if self.agents is not None:
            state["agent_values"] = self.agents.values
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        self.samples.load_state(state["samples"])
        if self.noise is not None:
            self.noise.load_state(state["noise"])
        if self.trust is not None:
            self.trust.values = state["trust"].to(self.group.device)
            for name in self.trust.evidence:
                self.trust.evidence[name] = state["evidence"][name].to(self.group.device)
        if self.agents is not None:
            self.agents.values = state["agent_values"].to(self.group.device)
        self.pending = [np.array(stored, np.int64) for stored in state["pending"]]
