"""In-context trust, developed for Peerage. It estimates how much better than the asker's own value the next steps will
be if the asker follows an adviser.

A transformer reads the latest decisions of the group and a query (the current state and a candidate), and corrects a
kernel estimate computed from them. Decisions are described relative to the candidate and not by the advisers'
identities, so that experience with one adviser applies to all, and the context shows a change of an adviser. Decisions,
their valuation, tokens and the model are in separate files: `decisions`, `valuation`, `decision_tokens`,
`in_context_model`. Equations, settings and ablations: docs/methods/in-context-trust.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.group import Group
from peerage.learners.streams import StreamKey
from peerage.learners.transition import Transition
from peerage.nets.adam import StackedAdam
from peerage.nets.workers import by_rows
from peerage.trust.context import TrustContext
from peerage.trust.decision_tokens import DecisionTokens, clipped
from peerage.trust.decisions import Decisions
from peerage.trust.in_context_model import InContextModel
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.signals import Signal
from peerage.trust.valuation import Valuation

MIN_DECISIONS = 32  # finished decisions of a replica before its model learns and predicts
RECENT_CONTEXTS = 4  # number of contexts whose decisions are valued again in every update
FULL_VALUATION_FREQ = 25  # updates between valuations of all decisions
FLOATS_PER_DECISION = 600  # memory of a decision in a gradient step, measured
TENSORS = ("active", "last", "loss_sum")
ARRAYS = ("asked", "updates", "loss_count")


class InContextTrust(Signal):
    """One model per replica, `R` of them stacked. Each learns from the decisions of all `N` members of its replica, and
    every decision is valued by the critic of the member that made it."""

    budget_part = "decisions"
    fixed_state = True

    def __init__(
        self, config: ContextSettings, group: Group, n_advisers: int, *, seed: int, follow_steps: int, total_steps: int
    ) -> None:
        self.config, self.group, self.K, self.follow_steps = config, group, n_advisers, follow_steps
        self.N, self.R, self.M = group.N, group.R, group.M
        space, M, R = group.space, group.M, group.R
        like: dict[str, Any] = {"device": group.device, "dtype": group.dtype}
        gamma = group.gamma()[:, 0].cpu().numpy()
        capacity = self._capacity(total_steps)
        self.decisions = Decisions(M, R, n_advisers, space.obs_dim, space.act_dim, capacity, gamma)
        self.valuation = Valuation(self.decisions, group)
        self.tokens = DecisionTokens(config, self.decisions, self.valuation, space.obs_dim, follow_steps)
        keys = [StreamKey(seed, r, self.N) for r in range(R)]  # of the group: the number after its last member
        initial = [key.generator("in-context-init") for key in keys]
        self.model = InContextModel(self.tokens.columns, config.context_estimator, initial, **like)
        self.rngs = [key.generator("in-context-windows") for key in keys]
        stack, ones = self.model.stack, torch.ones(R, 1, **like)
        # One per replica: they start to learn at different times, and Adam counts its steps
        self.optimizers = [
            StackedAdam(flat, grad, config.context_lr * one, max_grad_norm=one)
            for flat, grad, one in zip(stack.flat.split(1), stack.grad.split(1), ones.split(1), strict=True)
        ]
        self.active = torch.ones(R, dtype=torch.bool, device=group.device)
        self.updates = np.zeros(R, np.int64)
        self.asked = np.zeros((M, n_advisers, space.act_dim), np.float32)  # suggestions at the last choice
        self.last = torch.full((M, n_advisers), torch.nan, **like)
        self.loss_sum = torch.zeros(R, **like)
        self.loss_count = np.zeros(R, np.int64)
        self.step = 0
        self.estimated: tuple[Tensor, Tensor] | None = None
        """The values at the last choice and their errors, `[M, K]` each; NaN where nothing was estimated."""

    def _capacity(self, total_steps: int) -> int:
        """Decisions to store per member: a run has no more decisions than steps."""
        return max(2, min(self.config.context_history, total_steps))

    # --- decisions ------------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        self.step += 1
        t, d = transition.host, self.decisions
        d.begin(t.chose, t.obs, self.asked, t.followed, self.step)
        # Without a choice, as in a solo epoch, a decision that changes or continues is not one of the member's
        d.drop((d.running["followed"] != t.followed) | (self.step - d.running["begun"] >= self.follow_steps))
        d.advance(t.rewards)
        if t.done.any():
            d.finish(t.done, t.next_obs, t.terminated, self.step)

    def reset(self, who: np.ndarray) -> None:
        self.decisions.drop(who)

    def value_decisions(self, last: int, who: np.ndarray) -> None:
        """Value the `last` finished decisions of the members `who [M]` (bool) with their current critics."""
        self.valuation.update(min(last, self.step), who)

    # --- learning -------------------------------------------------------------------------------------------

    def after_step(self, step: int) -> None:
        if step % self.config.context_update_freq == 0:
            self.train()

    def train(self) -> None:
        """Value the latest decisions again. Then make one gradient step of every replica's model on past decisions as
        queries, whose advantage is known now."""
        c, d, g, stack = self.config, self.decisions, self.group, self.model.stack
        recent = RECENT_CONTEXTS * c.context_length
        values_all = self.step // c.context_update_freq % FULL_VALUATION_FREQ == 0
        self.value_decisions(d.capacity if values_all else recent, np.ones(self.M, bool))
        self.valuation.measure_scale(min(recent, self.step))
        ready = d.ordered >= MIN_DECISIONS  # [R]
        if not ready.any() or c.context_estimator == "kernel":
            return
        tokens, valid, outcome = (torch.as_tensor(x, device=g.device) for x in self.windows(ready))
        tokens, outcome = tokens.to(g.dtype), outcome.to(g.dtype)
        stack.grad.zero_()

        def work(rows: slice) -> Tensor:
            error = self.model.predict(stack.weights(rows, grad=True), tokens[rows], valid[rows]) - outcome[rows]
            loss = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean(dim=1)  # Huber loss
            loss.sum().backward()
            return loss.detach()

        with torch.enable_grad():
            loss = by_rows(work, self.R, g.device)
        for r in np.flatnonzero(ready):
            self.active[r : r + 1] &= self.optimizers[r].finite()
            self.optimizers[r].step(self.active[r : r + 1])
        self.updates += ready
        self.loss_sum = self.loss_sum + torch.where(torch.as_tensor(ready, device=g.device), loss, 0.0)
        self.loss_count += ready

    def windows(self, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Random finished decisions as queries, `B` per replica, each with the context that was known when the decision
        was made: tokens `[R, B, L, width]`, valid `[R, B, L]`, outcome `[R, B]`. Replicas that are not `ready [R]` have
        empty contexts."""
        c, d, value = self.config, self.decisions, self.valuation
        B, L, columns = c.context_batch_size, c.context_length, self.tokens.columns
        drawn = []
        for r in np.flatnonzero(ready).tolist():
            rng, finished = self.rngs[r], d.finished(r, d.order.shape[1])
            entry = finished[(rng.random(B) * len(finished)).astype(np.int64)]
            hidden = rng.random(B) < c.context_hide_identity
            drawn.append((entry, hidden, *self.tokens.context(d.kept["begun"].ravel()[entry], finished)))
        entry, hidden, entries, filled = (np.concatenate(x) for x in zip(*drawn, strict=True))
        member, slot = np.divmod(entry, d.capacity)
        followed, begun, obs = (d.kept[name][member, slot] for name in ("followed", "begun", "obs"))
        critic = value.critic[member, slot]
        made = self.tokens.make(entries, filled, member, followed[:, None], begun, obs, critic)[:, 0]
        made[hidden, -1, columns.identity] = 0.0
        tokens, outcome = np.zeros((self.R, B, L, columns.width), np.float32), np.zeros((self.R, B))
        valid = np.zeros((self.R, B, L), bool)
        valid[..., -1] = True
        tokens[ready], valid[ready, :, :-1] = made.reshape(-1, B, L, columns.width), filled.reshape(-1, B, L - 1)
        outcome[ready] = clipped(value.advantage[member, slot] / value.scale[member]).reshape(-1, B)
        return tokens, valid, outcome

    # --- choices --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        d, g = self.decisions, self.group
        step = self.step + 1  # its own clock, which continues in evaluations, where the step of the training is fixed
        host = obs.cpu().numpy()
        self.asked = suggestions.cpu().numpy()
        d.finish(due, host, np.zeros(self.M, bool), step - 1)
        values = torch.zeros(self.M, self.K, device=g.device, dtype=g.dtype)
        asking = due.reshape(self.R, self.N).any(axis=1)  # [R]
        # Between two choices of its replica a member finishes at most one decision
        fresh = asking.repeat(self.N) & (d.count > self.valuation.valued)
        if fresh.any():
            self.value_decisions(1, fresh)
        errors = np.full((self.M, self.K), np.nan)
        rows = np.flatnonzero(due & (d.ordered >= MIN_DECISIONS).repeat(self.N))
        if len(rows):
            tokens, valid = self.queries(rows, host, obs, suggestions, step)
            replicas = rows // self.N
            for r in np.unique(replicas):
                asks = replicas == r
                out = self.model.predict(
                    self.model.stack.weights(slice(r, r + 1)),
                    torch.as_tensor(tokens[asks], device=g.device, dtype=g.dtype).flatten(0, 1).unsqueeze(0),
                    torch.as_tensor(valid[asks], device=g.device).repeat_interleave(self.K, dim=0).unsqueeze(0),
                )
                values[torch.as_tensor(rows[asks], device=g.device)] = out.view(-1, self.K)
            times = np.expm1(4 * tokens[:, :, -1, self.tokens.columns.near.times_followed])  # [rows, K]
            errors[rows] = 1 / np.sqrt(1 + times)
            mask = torch.zeros(self.M, 1, dtype=torch.bool)
            mask[rows] = True
            self.last = torch.where(mask.to(g.device), values, self.last)
        self.estimated = values, torch.as_tensor(errors, device=g.device, dtype=g.dtype)
        return {"in_context": values}

    def estimates(self) -> tuple[Tensor, Tensor] | None:
        """In standard deviations of the asker's advantages. The error is `1 / sqrt(1 + n)`, where `n` is the number of
        past decisions that followed the adviser in a similar state (the sum of their similarities): the standard
        deviation of a mean with the prior N(0, 1), which is also that of the kernel estimate."""
        return self.estimated

    def queries(
        self, rows: np.ndarray, host: np.ndarray, obs: Tensor, suggestions: Tensor, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The queries of the members `rows` in step `step`, one per adviser: tokens `[len(rows), K, L, width]`, valid
        `[len(rows), L]`. `obs [M, obs]`, `host` the same on the host, `suggestions [M, K, act]`."""
        now, last = np.array([step]), 2 * self.config.context_length
        contexts = {
            r: self.tokens.context(now, self.decisions.finished(r, last)) for r in np.unique(rows // self.N).tolist()
        }
        entries, filled = (np.concatenate([contexts[m // self.N][n] for m in rows]) for n in (0, 1))  # [rows, L - 1]
        value = self.group.state_value(obs.unsqueeze(1), None).cpu().numpy()
        critic = self.valuation.critic_advantage(obs.unsqueeze(1), suggestions.unsqueeze(1), value)[:, 0]  # [M, K]
        candidates = np.broadcast_to(np.arange(self.K), (len(rows), self.K))
        tokens = self.tokens.make(entries, filled, rows, candidates, now.repeat(len(rows)), host[rows], critic[rows])
        return tokens, np.concatenate((filled, np.ones((len(rows), 1), bool)), axis=1)

    def batch_floats(self, threads: int) -> dict[str, int]:
        decisions = self.R * self.config.context_batch_size * self.config.context_length
        return {"in-context batches": decisions * FLOATS_PER_DECISION}

    # --- reports and state ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Tensor]:
        return {"in_context": self.last}

    def metrics(self) -> dict[str, Tensor]:
        """The mean loss of the replica's model since the last call; 1 for a frozen model."""
        frozen = torch.where(self.active, torch.nan, 1.0).repeat_interleave(self.N)
        if not self.loss_count.any():
            return {"trust/frozen": frozen}
        count = torch.as_tensor(self.loss_count, device=self.group.device)
        loss = (self.loss_sum / count).repeat_interleave(self.N)  # NaN where there was no update
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), np.zeros_like(self.loss_count)
        return {"trust/loss": loss, "trust/frozen": frozen}

    def state(self) -> dict[str, Any]:
        return {
            "decisions": self.decisions.state(),
            "valuation": self.valuation.state(),
            **{name: getattr(self, name) for name in TENSORS},
            **{name: torch.as_tensor(getattr(self, name)) for name in ARRAYS},
            "weights": self.model.stack.flat,
            "optimizers": [optimizer.state() for optimizer in self.optimizers],
            "rngs": [rng.bit_generator.state for rng in self.rngs],
            "step": self.step,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.decisions.load_state(state["decisions"])
        self.valuation.load_state(state["valuation"])
        for name in TENSORS:
            setattr(self, name, state[name].to(self.group.device))
        for name in ARRAYS:
            setattr(self, name, state[name].cpu().numpy().copy())
        self.model.stack.flat.copy_(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state(saved)
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        self.step = int(state["step"])

    def lengthened(self, state: dict[str, Any], total_steps: int) -> dict[str, Any]:
        before = self._capacity(total_steps)
        if before == self.decisions.capacity:
            return state
        decisions = self.decisions.enlarged(state["decisions"], before)
        return {**state, "decisions": decisions, "valuation": self.valuation.enlarged(state["valuation"])}


def make_in_context_trust(context: TrustContext) -> InContextTrust:
    """In-context trust with the settings of the configuration."""
    c = context
    return InContextTrust(
        c.config.context,
        c.group,
        c.n_advisers,
        seed=c.config.seed,
        follow_steps=c.config.advice.follow_steps,
        total_steps=c.total_steps,
    )
