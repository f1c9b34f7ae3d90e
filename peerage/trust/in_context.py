"""In-context trust (ours): how much better than my own value will the next steps be if I follow this adviser now?

A transformer reads the last decisions of the group and a query (the state now and a candidate) and corrects what a
kernel makes of them. Nobody has a name in it: every decision is told from the candidate's side, so that what is
learned about one adviser serves for all, and an adviser that changes is seen to change. Equations, settings and what
each part brings: docs/methods/in-context-trust.md.
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
from peerage.nets.attention import MASKED
from peerage.nets.layers import layer_norm, linear, linear_part, norm_part
from peerage.nets.stack import Part, Stack, Weights
from peerage.nets.workers import by_rows
from peerage.trust.context import TrustContext
from peerage.trust.decisions import Decisions
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.signals import Signal

WIDTH, HEADS, HIDDEN, LAYERS = 32, 4, 64, 2
MIN_DECISIONS = 32  # finished decisions of a replica before anything is learned or said
CLIP = 5.0  # advantages beyond so many standard deviations say no more
SHARPNESS = 2.0  # of the kernel, in squared standard deviations of the states
LOOK_BACK = 4  # contexts whose decisions are valued anew in every update; all of them every so many updates:
LOOK_FAR = 25
DECISION_FLOATS = 600  # numbers that a decision of a window takes in a gradient step, measured
PART = 65_536  # suggestions of a replica that are valued at once
TENSORS = ("active", "last", "loss_sum")
ARRAYS = ("advantage", "critic", "agree", "looked", "scale", "asked", "updates", "loss_count")

# A token: the state, then these facts (of a decision told from the candidate's side; * the query has it too)
FACTS = (
    "followed",  # was it the candidate that was followed?
    "advantage",  # of the decision, in standard deviations of its member's
    "advantage if followed",
    "critic of candidate",  # * Q(s, what the candidate suggested) - V(s), likewise
    "critic of all",  # * the mean over the advisers
    "agrees",  # did the candidate suggest what the one followed did?
    "advantage if it agrees",
    "mine",  # the querying member's own decision
    "age",  # log(1 + steps since / follow_steps) / 4
    "is myself",  # * the candidate is the member itself
    "is a member",  # * the candidate is a learner
    "query",  # *
)
# The query also has what a kernel makes of its context: over all decisions and, the second four, over similar states
SUMS = ("mean if followed", "times followed", "mean if it agrees", "mean critic")


class InContextTrust(Signal):
    """One model per replica, `R` stacked; it reads and learns from the decisions of
    all `N` members of the group, each valued by its own critic."""

    budget_part = "decisions"

    def __init__(
        self, config: ContextSettings, group: Group, n_advisers: int, *, seed: int, follow_steps: int, total_steps: int
    ) -> None:
        self.config, self.group, self.K, self.follow_steps = config, group, n_advisers, follow_steps
        self.N, self.R, self.M = group.N, group.R, group.M
        space, M, R = group.space, group.M, group.R
        gamma = group.gamma()[:, 0].cpu().numpy()
        capacity = max(2, min(config.context_history, total_steps))
        self.decisions = Decisions(M, R, n_advisers, space.obs_dim, space.act_dim, capacity, gamma)
        # Of the finished decisions, by the critics of the last look
        self.advantage = np.zeros((M, capacity))
        self.critic = np.zeros((M, capacity, n_advisers))  # Q(s, suggestion) - V(s)
        self.agree = np.zeros((M, capacity, n_advisers))
        self.looked = np.zeros(M, np.int64)  # decisions that have been looked at
        self.scale = np.ones(M)  # root mean square of a member's advantages
        self.facts = space.obs_dim
        self.sums = self.facts + len(FACTS)
        self.names = self.sums + 2 * len(SUMS)
        self.width = self.names + (n_advisers if config.context_identity else 0)
        parts = linear_part("embed", self.width, WIDTH) | linear_part("fact", WIDTH, WIDTH)
        for n in range(LAYERS):
            parts |= linear_part(f"{n}.kv", WIDTH, 2 * WIDTH) | linear_part(f"{n}.q", WIDTH, WIDTH)
            parts |= linear_part(f"{n}.out", WIDTH, WIDTH) | norm_part(f"{n}.norm1", WIDTH)
            parts |= linear_part(f"{n}.ff1", WIDTH, HIDDEN) | linear_part(f"{n}.ff2", HIDDEN, WIDTH)
            parts |= norm_part(f"{n}.norm2", WIDTH)
        parts |= linear_part("head", WIDTH, WIDTH)
        # Begins with no correction at all
        parts |= {"out.weight": Part((WIDTH, 1), constant=0.0), "out.bias": Part((1, 1), constant=0.0)}
        self.stack = Stack(R, parts, device=group.device, dtype=group.dtype)
        stream_keys = [StreamKey(seed, r, self.N) for r in range(R)]  # the group's own, behind its members'
        self.stack.init_([key.generator("in-context-init") for key in stream_keys])
        self.rngs = [key.generator("in-context-windows") for key in stream_keys]
        ones = torch.ones(R, 1, device=group.device, dtype=group.dtype)
        # One a replica: they begin to learn at different times, and Adam counts its steps
        self.optimizers = [
            StackedAdam(flat, grad, config.context_lr * one, max_grad_norm=one)
            for flat, grad, one in zip(self.stack.flat.split(1), self.stack.grad.split(1), ones.split(1), strict=True)
        ]
        self.active = torch.ones(R, dtype=torch.bool, device=group.device)
        self.updates = np.zeros(R, np.int64)
        self.asked = np.zeros((M, n_advisers, space.act_dim), np.float32)  # suggestions at the last choice
        self.last = torch.full((M, n_advisers), torch.nan, device=group.device, dtype=group.dtype)
        self.loss_sum = torch.zeros(R, device=group.device, dtype=group.dtype)
        self.loss_count = np.zeros(R, np.int64)
        self.step = 0

    # --- what happened --------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        self.step += 1
        t, d = transition.host, self.decisions
        d.begin(t.chose, t.obs, self.asked, t.followed, self.step)
        # An adviser that was followed without a choice, as in a solo epoch, says nothing about it
        d.drop((d.running["followed"] != t.followed) | (self.step - d.running["begun"] >= self.follow_steps))
        d.advance(t.rewards)
        if t.done.any():
            d.finish(t.done, t.next_obs, t.terminated, self.step)

    def reset(self, who: np.ndarray) -> None:
        self.decisions.drop(who)

    def after_step(self, step: int) -> None:
        if step % self.config.context_update_freq == 0:
            self.train()

    @torch.no_grad()
    def look_back(self, last: int, who: np.ndarray) -> None:
        """Value the last finished decisions of the members `who [M]` (bool) by the critics of today:
        `A = sum gamma^k r + gamma^n V(s_n) - V(s)`, and `Q(s, a_j) - V(s)` of every suggestion."""
        d = self.decisions
        # In parts that fit into memory. Their sizes depend on no other replica: a product's size can be in its bits
        last, part = min(last, d.capacity, self.step), max(8, PART // (self.N * self.K))
        for first in range(0, last, part):
            self._look(np.arange(first, min(first + part, last)), who)
        self.looked[who] = d.count[who]

    def _look(self, ages: np.ndarray, who: np.ndarray) -> None:
        """The same for the decisions of some `ages [n]` (0: the last)."""
        d, g, n = self.decisions, self.group, len(ages)
        rows, slots = np.arange(self.M)[:, None], (d.count[:, None] - 1 - ages) % d.capacity  # [M, n]
        kept = {name: d.kept[name][rows, slots] for name in ("obs", "end", "suggestions", "followed")}
        obs, end, suggestions = (
            torch.as_tensor(kept[name], device=g.device, dtype=g.dtype) for name in ("obs", "end", "suggestions")
        )
        both = g.state_value(torch.cat((obs, end), dim=1), None).cpu().numpy()
        value, end_value = both[:, :n], both[:, n:]
        discount = d.kept["discount"][rows, slots]
        with np.errstate(invalid="ignore"):  # V of a terminal state counts for nothing, whatever it is
            later = np.where(discount > 0, discount * end_value, 0.0)
        seen = who[:, None] & (ages < d.count[:, None])
        at = np.broadcast_to(rows, seen.shape)[seen], slots[seen]
        with np.errstate(invalid="ignore"):  # a diverged critic's infinities
            self.advantage[at] = _finite(d.kept["reward"][rows, slots] + later - value)[seen]
        self.critic[at] = self._critics(obs, suggestions, value)[seen]
        self.agree[at] = self._agreement(kept["suggestions"], kept["followed"])[seen]

    def _critics(self, obs: Tensor, suggestions: Tensor, value: np.ndarray) -> np.ndarray:
        """`Q(s, a_j) - V(s)`: `obs [M, n, obs]`, `suggestions [M, n, K, act]`, `value [M, n]` -> `[M, n, K]`; K > 1."""
        M, n, K, act = suggestions.shape
        if not self.group.has_action_value:
            return np.zeros((M, n, K))
        if self.group.space.discrete and n > 1:  # one pass says what all actions are worth in a state
            q = self.group.action_value(obs, suggestions[..., 0])
        else:
            q = self.group.action_value(obs.repeat_interleave(K, dim=1), suggestions.reshape(M, n * K, act))
            q = q.view(M, n, K)
        with np.errstate(invalid="ignore"):  # a diverged critic's infinities
            return _finite(q.cpu().numpy() - value[..., None])

    def _agreement(self, suggestions: np.ndarray, followed: np.ndarray) -> np.ndarray:
        """1 where an adviser suggests what the one followed does, falling to 0 with the distance: `[..., K]`."""
        taken = np.take_along_axis(suggestions, followed[..., None, None], axis=-2)  # [..., 1, act]
        space = self.group.space
        if space.discrete:
            return (suggestions == taken)[..., 0].astype(np.float64)
        assert space.low is not None and space.high is not None
        return np.exp(-4 * np.abs((suggestions - taken) / (space.high - space.low)).mean(-1))

    def _measure(self) -> None:
        """The scale of every member's advantages, from its last decisions; 1 before there are any."""
        d = self.decisions
        n = min(LOOK_BACK * self.config.context_length, d.capacity, self.step)
        rows, slots = np.arange(self.M)[:, None], (d.count[:, None] - 1 - np.arange(n)) % d.capacity
        known = np.arange(n) < d.count[:, None]
        squares = np.where(known, self.advantage[rows, slots] ** 2, 0).sum(1) / np.maximum(known.sum(1), 1)
        self.scale = np.where(d.count > 0, np.sqrt(squares) + 1e-6, 1.0)

    # --- tokens -----------------------------------------------------------------------------------------------

    def _context(self, now: np.ndarray, finished: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For queries in the steps `now [B]`: the last of the decisions `finished` that had ended before,
        `[B, L - 1]`, and which of these places are filled."""
        ended = self.decisions.kept["ended"].ravel()[finished]
        places = np.searchsorted(ended, now)[:, None] + np.arange(1 - self.config.context_length, 0)
        return finished[np.maximum(places, 0)], places >= 0

    def tokens(
        self,
        entries: np.ndarray,  # [B, L - 1] finished decisions, `member * C + slot`, the oldest first
        valid: np.ndarray,  # [B, L - 1]
        asker: np.ndarray,  # [B] members
        candidates: np.ndarray,  # [B, c] advisers
        now: np.ndarray,  # [B] steps
        obs: np.ndarray,  # [B, obs]
        critic: np.ndarray,  # [B, K] of the query
    ) -> np.ndarray:
        """`[B, c, L, width]` float32, the query last: what `c` queries say that differ in the candidate alone."""
        d, obs_dim = self.decisions, self.facts
        member, slot = np.divmod(entries, d.capacity)
        j = candidates[:, None]  # [B, 1, c]
        out = np.zeros((*candidates.shape, entries.shape[1] + 1, self.width), np.float32)
        past, query = out[:, :, :-1], out[:, :, -1]
        states, state = _squash(d.kept["obs"][member, slot]), _squash(obs)
        past[..., :obs_dim], query[..., :obs_dim] = states[:, None], state[:, None]

        scale = self.scale[member]
        advantage = np.clip(self.advantage[member, slot] / scale, -CLIP, CLIP)[:, None]  # [B, 1, L - 1]
        follows = d.kept["followed"][member, slot][:, None] == candidates[..., None]  # [B, c, L - 1]
        agrees = _of(self.agree[member, slot], j)  # [B, c, L - 1]
        critics = np.clip(self.critic[member, slot] / scale[..., None], -CLIP, CLIP)
        critic_j = _of(critics, j)
        age = np.log1p(np.maximum(now[:, None] - d.kept["ended"][member, slot], 0) / self.follow_steps) / 4
        columns = (
            follows, advantage, advantage * follows, critic_j, critics.mean(-1)[:, None], agrees, advantage * agrees,
            (member == asker[:, None])[:, None], age[:, None],
        )  # fmt: skip
        for n, column in enumerate(columns):
            past[..., obs_dim + n] = column
        if not valid.all():
            past[np.broadcast_to(~valid[:, None], past.shape[:3])] = 0.0
        own = np.clip(critic / self.scale[asker][:, None], -CLIP, CLIP)
        facts = query[..., obs_dim : self.sums]
        facts[..., 3], facts[..., 4] = np.take_along_axis(own, candidates, axis=1), own.mean(-1, keepdims=True)
        facts[..., 9], facts[..., 10] = candidates == asker[:, None] % self.N, candidates < self.N
        facts[..., 11] = 1.0
        for n, weight in enumerate((valid.astype(np.float64), valid * _kernel(states, state, valid))):
            sums, weight = query[..., self.sums + n * len(SUMS) :], weight[:, None]
            followed, agreed = weight * follows, weight * agrees
            times = followed.sum(-1)
            # one more in the denominator: what has hardly been tried is worth nothing, neither good nor bad
            sums[..., 0] = (followed * advantage).sum(-1) / (times + 1)
            sums[..., 1] = np.log1p(times) / 4
            sums[..., 2] = (agreed * advantage).sum(-1) / (agreed.sum(-1) + 1)
            sums[..., 3] = (weight * critic_j).sum(-1) / (weight.sum(-1) + 1)
        if not self.config.context_critics:
            past[..., obs_dim + 3 : obs_dim + 5] = facts[..., 3:5] = 0.0
            query[..., [self.sums + 3, self.sums + 7]] = 0.0
        if self.config.context_identity:
            np.put_along_axis(query[..., self.names :], candidates[..., None], 1.0, axis=2)
        return out

    def kernel_estimate(self, tokens: Tensor) -> Tensor:
        """What past decisions in similar states say: the mean advantage of following the candidate, and of doing what
        it suggested. `tokens [..., L, width]` -> `[...]`."""
        near = tokens[..., -1, self.sums + len(SUMS) :]
        return near[..., 0] + near[..., 2]

    # --- the model --------------------------------------------------------------------------------------------

    def predict(self, weights: Weights, tokens: Tensor, valid: Tensor, keep: list[Tensor] | None = None) -> Tensor:
        """The query's advantage in standard deviations, `[s, B]`: `tokens [s, B, L, width]`, `valid [s, B, L]`. What
        the query attends to, `[s, B, L, heads]`, is appended to `keep`."""
        estimator = self.config.context_estimator
        prior = self.kernel_estimate(tokens)
        if estimator == "kernel":
            return prior
        x = linear(weights, "fact", linear(weights, "embed", tokens, relu=True), relu=True)  # [s, B, L, W]
        bias = torch.zeros(valid.shape, device=x.device, dtype=x.dtype).masked_fill_(~valid, MASKED)
        q = x[:, :, -1]  # [s, B, W]: only the query asks, so the cost grows with L and not with its square
        for n in range(LAYERS):
            q = layer_norm(weights, f"{n}.norm1", q + self._read(weights, n, q, x, bias, keep))
            hidden = linear(weights, f"{n}.ff1", q, relu=True)
            q = layer_norm(weights, f"{n}.norm2", q + linear(weights, f"{n}.ff2", hidden))
        correction = linear(weights, "out", linear(weights, "head", q, relu=True))[..., 0]
        return correction if estimator == "transformer" else prior + correction

    def _read(
        self, weights: Weights, n: int, q: Tensor, x: Tensor, bias: Tensor, keep: list[Tensor] | None
    ) -> Tensor:
        """What the query `q [s, B, W]` finds among the tokens `x [s, B, L, W]`: `[s, B, W]`."""
        s, b, length, width = x.shape
        d = width // HEADS
        keys, values = linear(weights, f"{n}.kv", x).view(s * b, length, 2, HEADS, d).unbind(2)  # [sB, L, H, d]
        asked = linear(weights, f"{n}.q", q).view(s * b, 1, HEADS, d) * d**-0.5
        logits = (asked * keys).sum(-1) + bias.view(s * b, length, 1)  # [sB, L, H]
        attention = torch.softmax(logits, dim=1)
        if keep is not None:
            keep.append(attention.view(s, b, length, HEADS))
        found = (attention.unsqueeze(-1) * values).sum(1)  # [sB, H, d]
        return linear(weights, f"{n}.out", found.view(s, b, width))

    def train(self) -> None:
        """Value the last decisions anew, then one gradient step of every replica's model on queries of the past whose
        outcome is known by now."""
        c, d, g = self.config, self.decisions, self.group
        far = self.step // c.context_update_freq % LOOK_FAR == 0
        self.look_back(d.capacity if far else LOOK_BACK * c.context_length, np.ones(self.M, bool))
        self._measure()
        ready = d.ordered >= MIN_DECISIONS  # [R]
        if not ready.any() or c.context_estimator == "kernel":
            return
        tokens, valid, outcome = (torch.as_tensor(x, device=g.device) for x in self._windows(ready))
        tokens, outcome = tokens.to(g.dtype), outcome.to(g.dtype)
        self.stack.grad.zero_()

        def work(rows: slice) -> Tensor:
            weights = self.stack.weights(rows, grad=True)
            error = self.predict(weights, tokens[rows], valid[rows]) - outcome[rows]
            loss = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean(dim=1)  # Huber's
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

    def _windows(self, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Random finished decisions as queries, `B` a replica, each with what was known when it was made: tokens
        `[R, B, L, width]`, valid `[R, B, L]`, outcome `[R, B]`; nothing but a query where a replica is not `ready`."""
        c, d = self.config, self.decisions
        B, L = c.context_batch_size, c.context_length
        parts = []
        for r in np.flatnonzero(ready).tolist():
            rng, finished = self.rngs[r], d.finished(r, d.order.shape[1])
            entry = finished[(rng.random(B) * len(finished)).astype(np.int64)]
            hidden = rng.random(B) < c.context_hide_identity
            parts.append((entry, hidden, *self._context(d.kept["begun"].ravel()[entry], finished)))
        entry, hidden, entries, filled = (np.concatenate(x) for x in zip(*parts, strict=True))
        member, slot = np.divmod(entry, d.capacity)
        followed, begun, obs = (d.kept[name][member, slot] for name in ("followed", "begun", "obs"))
        made = self.tokens(entries, filled, member, followed[:, None], begun, obs, self.critic[member, slot])[:, 0]
        made[hidden, -1, self.names :] = 0.0
        tokens, outcome = np.zeros((self.R, B, L, self.width), np.float32), np.zeros((self.R, B))
        valid = np.zeros((self.R, B, L), bool)
        valid[..., -1] = True
        tokens[ready], valid[ready, :, :-1] = made.reshape(-1, B, L, self.width), filled.reshape(-1, B, L - 1)
        outcome[ready] = np.clip(self.advantage[member, slot] / self.scale[member], -CLIP, CLIP).reshape(-1, B)
        return tokens, valid, outcome

    # --- the choice -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> dict[str, Tensor]:
        d, g = self.decisions, self.group
        host = obs.cpu().numpy()
        self.asked = suggestions.cpu().numpy()
        d.finish(due, host, np.zeros(self.M, bool), step - 1)
        values = torch.zeros(self.M, self.K, device=g.device, dtype=g.dtype)
        asking = due.reshape(self.R, self.N).any(axis=1)  # [R]
        # What has ended since the last look, in the replicas that ask: between two choices a member ends one at most
        fresh = asking.repeat(self.N) & (d.count > self.looked)
        if fresh.any():
            self.look_back(1, fresh)
        rows = np.flatnonzero(due & (d.ordered >= MIN_DECISIONS).repeat(self.N))
        if len(rows):
            tokens, valid = self.queries(rows, host, obs, suggestions, step)
            replicas = rows // self.N
            for r in np.unique(replicas):
                asks = replicas == r
                out = self.predict(
                    self.stack.weights(slice(r, r + 1)),
                    torch.as_tensor(tokens[asks], device=g.device, dtype=g.dtype).flatten(0, 1).unsqueeze(0),
                    torch.as_tensor(valid[asks], device=g.device).repeat_interleave(self.K, dim=0).unsqueeze(0),
                )
                values[torch.as_tensor(rows[asks], device=g.device)] = out.view(-1, self.K)
            mask = torch.zeros(self.M, 1, dtype=torch.bool)
            mask[rows] = True
            self.last = torch.where(mask.to(g.device), values, self.last)
        return {"in_context": values}

    def queries(
        self, rows: np.ndarray, host: np.ndarray, obs: Tensor, suggestions: Tensor, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the members `rows` ask in step `step` about every adviser: tokens `[len(rows), K, L, width]`, valid
        `[len(rows), L]`."""
        now, last = np.array([step]), 2 * self.config.context_length
        contexts = {r: self._context(now, self.decisions.finished(r, last)) for r in np.unique(rows // self.N).tolist()}
        entries, filled = (np.concatenate([contexts[m // self.N][n] for m in rows]) for n in (0, 1))  # [rows, L - 1]
        value = self.group.state_value(obs.unsqueeze(1), None).cpu().numpy()
        critic = self._critics(obs.unsqueeze(1), suggestions.unsqueeze(1), value)[:, 0]  # [M, K]
        candidates = np.broadcast_to(np.arange(self.K), (len(rows), self.K))
        tokens = self.tokens(entries, filled, rows, candidates, now.repeat(len(rows)), host[rows], critic[rows])
        return tokens, np.concatenate((filled, np.ones((len(rows), 1), bool)), axis=1)

    def batch_floats(self, threads: int) -> dict[str, int]:
        decisions = self.R * self.config.context_batch_size * self.config.context_length
        return {"in-context batches": decisions * DECISION_FLOATS}

    # --- reports ----------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Tensor]:
        return {"in_context": self.last}

    def metrics(self) -> dict[str, Tensor]:
        """The group's mean loss since the last call; 1 for a frozen model."""
        frozen = torch.where(self.active, torch.nan, 1.0).repeat_interleave(self.N)
        if not self.loss_count.any():
            return {"trust/frozen": frozen}
        count = torch.as_tensor(self.loss_count, device=self.group.device)
        loss = (self.loss_sum / count).repeat_interleave(self.N)  # NaN where nothing was learned
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), np.zeros_like(self.loss_count)
        return {"trust/loss": loss, "trust/frozen": frozen}

    def state(self) -> dict[str, Any]:
        return {
            "decisions": self.decisions.state(),
            **{name: getattr(self, name) for name in TENSORS},
            **{name: torch.as_tensor(getattr(self, name)) for name in ARRAYS},
            "weights": self.stack.flat,
            "optimizers": [optimizer.state() for optimizer in self.optimizers],
            "rngs": [rng.bit_generator.state for rng in self.rngs],
            "step": self.step,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.decisions.load_state(state["decisions"])
        for name in TENSORS:
            setattr(self, name, state[name].to(self.group.device))
        for name in ARRAYS:
            setattr(self, name, state[name].cpu().numpy().copy())
        self.stack.flat.copy_(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state(saved)
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        self.step = int(state["step"])


def _finite(x: np.ndarray) -> np.ndarray:
    """Nothing is known where a critic has diverged."""
    return np.where(np.isfinite(x), x, 0.0)


def _squash(obs: np.ndarray) -> np.ndarray:
    return np.sign(obs) * np.log1p(np.abs(obs))


def _of(table: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The columns of `candidates [B, 1, c]` in `table [B, L - 1, K]`: `[B, c, L - 1]`."""
    return np.ascontiguousarray(np.take_along_axis(table, candidates, axis=2).swapaxes(1, 2))


def _kernel(states: np.ndarray, state: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """`exp(-sharpness * d^2)`, `d^2` the mean over the state's numbers of the squared distance in standard deviations
    of the context: `states [B, L - 1, obs]`, `state [B, obs]` -> `[B, L - 1]`."""
    weight = valid[..., None]
    count = np.maximum(valid.sum(1), 1)[:, None, None]
    mean = (states * weight).sum(1, keepdims=True) / count
    spread = np.sqrt((((states - mean) ** 2) * weight).sum(1, keepdims=True) / count) + 1e-3
    return np.exp(-SHARPNESS * (((states - state[:, None]) / spread) ** 2).mean(-1))


def make_in_context_trust(context: TrustContext) -> InContextTrust:
    """In-context trust as the configuration asks for it."""
    c = context
    return InContextTrust(
        c.config.context,
        c.group,
        c.n_advisers,
        seed=c.config.seed,
        follow_steps=c.config.advice.follow_steps,
        total_steps=c.total_steps,
    )
