"""Peer learning (arXiv 2312.09950): members ask each other and fixed advisers what they would do, and follow.

One group step: everybody's situation goes to all advisers (`suggestions [M, K, act]`), members whose turn it is
score the advisers and choose one (Eq. 2-9), all act as the adviser they follow suggests, and trust is learned from
what that was worth. Equations and settings: docs/methods/peer-learning.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.config import AdviceConfig
from peerage.errors import UserError
from peerage.learners.defaults import resolve_advice
from peerage.learners.streams import Seat, Streams
from peerage.sharing import choice
from peerage.sharing.advisers import Adviser
from peerage.sharing.group import Group
from peerage.trust.agent_value import AgentValues, samples_per_member
from peerage.trust.critic import critic_values
from peerage.trust.td import TDTable, targets


@dataclass
class Desk:
    """One fixed adviser of one replica, or of all replicas if it is stateless."""

    adviser: Adviser
    number: int  # its place among all K advisers
    replicas: range
    rng: np.random.Generator


class Advice:
    """Sharing by advice among the `M = R * N` members of `group` and `F` fixed advisers, `K = N + F`.

    `advisers[f][r]` is fixed adviser `f` of replica `r`.
    """

    def __init__(
        self,
        config: AdviceConfig,
        group: Group,
        advisers: Sequence[Sequence[Adviser]],
        *,
        seed: int,
        epoch_length: int,
    ) -> None:
        self.config = config = resolve_advice(config)
        assert config.lr is not None and config.epsilon is not None and config.self_share is not None
        self.group, self.epoch_length = group, epoch_length
        N, R, M = group.N, group.R, group.M
        self.N, self.R, self.M, self.K = N, R, M, N + len(advisers)
        self.device, self.dtype = group.device, group.dtype
        self.gamma = group.gamma()
        self.self_index = np.tile(np.arange(N), R)  # [M]: everybody's own number among the advisers
        self.myself = torch.tensor(self.self_index, device=self.device)
        self.rows = torch.arange(M, device=self.device)
        self.self_one_hot = torch.nn.functional.one_hot(self.myself, self.K).to(self.dtype)
        self.epsilon = config.epsilon
        self.self_share = 0.0 if config.only_follow_others else config.self_share
        self.desks = []
        for f, copies in enumerate(advisers):
            shared = getattr(copies[0], "stateless", False)
            for r in range(1 if shared else R):
                rng = Seat(seed, r, N + f).generator("adviser")
                self.desks.append(Desk(copies[r], N + f, range(R) if shared else range(r, r + 1), rng))

        # What a choice is made of. With one adviser, or a uniform choice, nobody reads values.
        self.rule = choice.RULES.get(config.choice) if self.K > 1 else None
        read = self.rule is not None
        like = torch.zeros(0, device=self.device, dtype=self.dtype)
        self.trust: TDTable | None = None
        self.agents: AgentValues | None = None
        if read and config.use_trust:
            self.trust = TDTable(M, self.K, config.init_trust_values, config.lr, like)
        if read and config.use_agent_values:
            self.agents = AgentValues(R, self.K, config.init_agent_values, config.lr, like)
        if read and not (config.use_critic or self.trust or self.agents):
            self.rule = None  # no component at all: a uniform choice
        self.allowed = torch.ones(M, self.K, dtype=torch.bool, device=self.device)
        if config.only_follow_others and self.K > 1:
            self.allowed[torch.arange(M), self.myself] = False
        per_member = (config.temperature * N if len(config.temperature) == 1 else config.temperature) * R
        decay = (config.temperature_decay * N if len(config.temperature_decay) == 1 else config.temperature_decay) * R
        self.temperature = torch.tensor(per_member, device=self.device, dtype=self.dtype).unsqueeze(1)
        self.decay = torch.tensor(decay, device=self.device, dtype=self.dtype).unsqueeze(1)

        # Streams are drawn in every step, needed or not, so that a member's draws depend on nothing beside it.
        self.n_trust = config.trust_batch_size if self.trust else 0
        self.n_agents = samples_per_member(config.trust_batch_size, N) if self.agents else 0
        samples = self.n_trust + self.n_agents
        self.choices = Streams(group.seats, "choice", (1,), "uniform", self.device)
        self.trust_samples = Streams(group.seats, "trust", (max(samples, 1),), "uniform", self.device)
        self.trust_noise = Streams(
            group.seats, "trust-noise", (max(samples, 1), group.space.act_dim), "normal", self.device, self.dtype
        )
        # The suggestion buffer: the last transitions stand in the replay buffer, beside them whom we followed
        smallest = min(stack.learner.replay.capacity for stack in group.stacks)
        self.memory = min(config.trust_buffer_size, smallest)
        if (self.trust or self.agents) and self.memory < config.trust_batch_size:
            raise UserError(
                f"--trust-batch-size {config.trust_batch_size} is more than the {self.memory} transitions that "
                "--trust-buffer-size and --buffer-size keep: trust would never be learned"
            )
        self.history = torch.zeros(M, self.memory, dtype=torch.long, device=self.device)
        self.history_position = 0

        self.followed = self.self_index.copy()  # [M] on the host
        self.following = self.myself.clone()  # the same on the device
        self.followed_for = np.zeros(M, dtype=np.int64)  # steps since the last choice
        nothing = torch.full((M, self.K), torch.nan, device=self.device, dtype=self.dtype)
        self.last_scores, self.last_critic = nothing, nothing.clone()
        self.reset_counts()

    # --- acting ---------------------------------------------------------------------------------------------

    def act(self, obs: Tensor, host_obs: np.ndarray, episode_start: np.ndarray, step: int) -> Tensor:
        """Actions `[M, act]` for environment step `step` (1, 2, ...).

        `obs [M, obs]` and the same on the host, `episode_start [M]` bool.
        """
        warm = step <= self.group.learning_starts  # [M]: before that, uniformly random actions
        solo = self._solo(step)
        follow_self = warm | solo
        members = self.group.member_suggestions(obs, self.config.sample_with_noise)  # [M, N, act]
        draw = self.choices.next()

        due = self.followed_for % self.config.follow_steps == 0
        if not self.config.follow_across_episodes:
            due |= episode_start
        due &= ~follow_self
        if follow_self.any():
            self._follow(self.self_index, follow_self)
        suggestions = self._ask_fixed(members, host_obs, episode_start, due) if self.desks else members
        if due.any() and self.K > 1:
            chosen = self._choose(obs, suggestions, draw, step, due)
            self._follow(chosen, due)
        elsewhere = self.followed != self.self_index
        self.counts[due, self.followed[due]] += 1
        self.queries += due * (self.K - 1) + (~due & elsewhere)
        self.followed_for += 1
        self.followed_for[due], self.followed_for[follow_self] = 1, 0

        actions = suggestions[self.rows, self.following]  # [M, act]
        explored = self.group.explore(actions, step)
        if elsewhere.any():
            explored = torch.where((self.following == self.myself).unsqueeze(1), explored, actions)
        actions = explored
        if warm.any():
            mask = torch.as_tensor(warm, device=self.device).unsqueeze(1)
            actions = torch.where(mask, self.group.warmup_actions(), actions)
        return actions

    def _solo(self, step: int) -> bool:
        """Does everybody follow itself in this epoch? `switch_ratio` peer epochs come before each solo epoch."""
        epoch = (step - 1) // self.epoch_length
        c = self.config
        alternate = c.switch_ratio > 0 and epoch % (c.switch_ratio + 1) == c.switch_ratio
        return alternate or (c.max_peer_epochs is not None and epoch >= c.max_peer_epochs)

    def _follow(self, adviser: np.ndarray, mask: np.ndarray) -> None:
        followed = np.where(mask, adviser, self.followed)
        if (followed != self.followed).any():
            self.followed = followed
            self.following = torch.as_tensor(followed, device=self.device)

    def _ask_fixed(self, members: Tensor, obs: np.ndarray, episode_start: np.ndarray, due: np.ndarray) -> Tensor:
        """Add the fixed advisers' suggestions: for members who choose now from all, for the others from the one
        they follow. `[M, N, act]` -> `[M, K, act]`; what was not asked is 0."""
        answers = np.zeros((self.M, self.K - self.N, members.shape[2]), np.float32)
        for desk in self.desks:
            rows = np.arange(desk.replicas.start * self.N, desk.replicas.stop * self.N)
            rows = rows[due[rows] | (self.followed[rows] == desk.number)]
            if len(rows):
                said = desk.adviser.suggest(obs[rows], rows % self.N, episode_start[rows], desk.rng)
                answers[rows, desk.number - self.N] = self._checked(said, len(rows), desk)
        return torch.cat((members, torch.as_tensor(answers, device=self.device, dtype=self.dtype)), dim=1)

    def _checked(self, said: Any, rows: int, desk: Desk) -> np.ndarray:
        """An adviser's answer as `[rows, act]`; what lies outside a box is clipped to it."""
        space, name = self.group.space, type(desk.adviser).__name__
        try:
            actions = np.asarray(said, np.float32).reshape(rows, space.act_dim)
        except (TypeError, ValueError):
            raise UserError(f"adviser {name} must answer {rows} askers with {rows} actions, not {said!r:.80}") from None
        if space.discrete:
            wrong = ~np.isin(actions, np.arange(space.n_actions))
        else:
            wrong = ~np.isfinite(actions)
            actions = np.clip(actions, space.low, space.high)
        if wrong.any():
            raise UserError(f"adviser {name} suggested {actions[wrong][0]:g}, which is no action here")
        return actions

    def components(self, obs: Tensor, suggestions: Tensor) -> choice.Components:
        """The values a choice is made of, `[M, K]` each."""
        values = {}
        if self.config.use_critic:
            values["critic"] = critic_values(self.group, obs, suggestions)
        if self.agents is not None:
            values["agent_value"] = self.agents.values.repeat_interleave(self.N, dim=0)
        if self.trust is not None:
            values["trust_td"] = self.trust.values
        return values

    def _choose(self, obs: Tensor, suggestions: Tensor, draw: Tensor, step: int, due: np.ndarray) -> np.ndarray:
        """Whom the members choose now, `[M]`; the rows that are not `due` mean nothing."""
        mask = torch.as_tensor(due, device=self.device).unsqueeze(1)
        if self.rule is None:
            scores = torch.zeros(self.M, self.K, device=self.device, dtype=self.dtype)
        else:
            components = self.components(obs, suggestions)
            scores = self.rule(components)
            self.last_scores = torch.where(mask, scores, self.last_scores)
            if "critic" in components:
                self.last_critic = torch.where(mask, components["critic"], self.last_critic)
        epoch = (step - 1) // self.epoch_length
        greedy = self.config.choice == "greedy"
        p = choice.probabilities(
            scores,
            allowed=self.allowed,
            temperature=None if greedy else (self.temperature * torch.exp(-self.decay * epoch)).clamp(1e-6, 1e6),
            epsilon=self.epsilon,
            myself=self.self_one_hot,
            self_share=self.self_share,
        )
        return choice.pick(p, draw).cpu().numpy()

    # --- learning whom to trust -----------------------------------------------------------------------------

    def observe(self) -> None:
        """Remember whom everybody followed in the transition just stored."""
        self.history[:, self.history_position] = self.following
        self.history_position = (self.history_position + 1) % self.memory

    def after_step(self, step: int) -> None:
        """Update trust and agent values from the suggestion buffers (Eq. 4-8)."""
        if self.trust is None and self.agents is None:
            return  # for the whole run: nobody misses the draws
        samples, noise = self.trust_samples.next(), self.trust_noise.next()
        stored = np.minimum(step - self.group.learning_starts, self.memory)  # [M] transitions made with advice
        valid = stored >= self.config.trust_batch_size
        if not valid.any():
            return
        available = torch.as_tensor(np.maximum(stored, 1), device=self.device).unsqueeze(1)
        age = (samples * available).long()  # [M, B]
        batch = self.group.recent(age)
        adviser = self.history.gather(1, (self.history_position - 1 - age) % self.memory)
        next_value = self.group.state_value(batch.next_obs, noise)
        value = self.group.state_value(batch.obs, noise) if self.config.use_advantage else None
        target = targets(batch.rewards, batch.terminated, self.gamma, next_value, value)
        enough = torch.as_tensor(valid, device=self.device).unsqueeze(1).expand_as(target)
        n = self.n_trust
        if self.trust is not None:
            self.trust.update(target[:, :n], adviser[:, :n], enough[:, :n])
        if self.agents is not None:
            self.agents.update(target[:, n:], adviser[:, n:], enough[:, n:])

    # --- reports --------------------------------------------------------------------------------------------

    def reset_counts(self) -> None:
        self.counts = np.zeros((self.M, self.K), dtype=np.int64)
        self.queries = np.zeros(self.M, dtype=np.int64)

    def advice_rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row of advice.csv for every asker and adviser; choices are counted since the last call."""
        columns = {"score": self.last_scores, "critic": self.last_critic}
        if self.trust is not None:
            columns["trust_td"] = self.trust.values
        if self.agents is not None:
            columns["agent_value"] = self.agents.values.repeat_interleave(self.N, dim=0)
        host = {name: values.tolist() for name, values in columns.items()}
        return [
            {"replica": m // self.N, "asker": names[m % self.N], "adviser": names[k], "chosen": int(self.counts[m, k])}
            | {name: v[m][k] for name, v in host.items() if not math.isnan(v[m][k])}
            for m in range(self.M)
            for k in range(self.K)
        ]

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """(replica, member, name, value) since the last `reset_counts`: queries, own share, entropy of choices."""
        rows = []
        for m in range(self.M):
            r, i = divmod(m, self.N)
            rows.append((r, i, "advice/queries", float(self.queries[m])))
            total = self.counts[m].sum()
            if total:
                share = self.counts[m] / total
                rows.append((r, i, "advice/self_share", float(share[i])))
                rows.append((r, i, "advice/choice_entropy", float(-(share * np.log(np.maximum(share, 1e-12))).sum())))
        return rows

    # --- state ----------------------------------------------------------------------------------------------

    def _streams(self) -> dict[str, Streams]:
        return {"choice": self.choices, "trust": self.trust_samples, "trust-noise": self.trust_noise}

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "history": self.history,
            "history_position": self.history_position,
            "followed": torch.as_tensor(self.followed),
            "followed_for": torch.as_tensor(self.followed_for),
            "counts": torch.as_tensor(self.counts),
            "queries": torch.as_tensor(self.queries),
            "last_scores": self.last_scores,
            "last_critic": self.last_critic,
            "streams": {name: stream.state() for name, stream in self._streams().items()},
            "advisers": [
                {"rng": d.rng.bit_generator.state, "state": d.adviser.state() if hasattr(d.adviser, "state") else None}
                for d in self.desks
            ],
        }
        if self.trust is not None:
            state["trust"] = self.trust.values
        if self.agents is not None:
            state["agent_values"] = self.agents.values
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        self.history.copy_(state["history"])
        self.history_position = int(state["history_position"])
        self.followed = state["followed"].cpu().numpy().copy()
        self.following = state["followed"].to(self.device)
        self.followed_for = state["followed_for"].cpu().numpy().copy()
        self.counts = state["counts"].cpu().numpy().copy()
        self.queries = state["queries"].cpu().numpy().copy()
        self.last_scores = state["last_scores"].to(self.device)
        self.last_critic = state["last_critic"].to(self.device)
        for name, stream in self._streams().items():
            stream.load_state(state["streams"][name])
        for desk, saved in zip(self.desks, state["advisers"], strict=True):
            desk.rng.bit_generator.state = saved["rng"]
            if saved["state"] is not None and hasattr(desk.adviser, "load_state"):
                desk.adviser.load_state(saved["state"])
        if self.trust is not None:
            self.trust.values = state["trust"].to(self.device)
        if self.agents is not None:
            self.agents.values = state["agent_values"].to(self.device)
