"""Peer learning (arXiv 2312.09950): members follow suggestions of other members and of fixed advisers.

In every step, members that are due ask all advisers (`suggestions [M, K, act]`), score them and choose one (Eq. 2-9).
All members take the action suggested by the adviser that they follow, and the signals learn from the outcome. Equations
and settings: docs/methods/peer-learning.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.config import AdviceConfig
from peerage.learners.defaults import resolve_advice
from peerage.learners.group import Group
from peerage.learners.streams import Streams
from peerage.learners.transition import Transition
from peerage.sharing import choice
from peerage.sharing.adviser import Adviser
from peerage.sharing.answers import member_answers
from peerage.sharing.byzantine import ByzantineMembers
from peerage.sharing.fixed_advisers import FixedAdvisers
from peerage.sharing.labels import Labels
from peerage.trust.critic import critic_values
from peerage.trust.signals import Signal
from peerage.trust.suggestions import SuggestionTrust


class Advice:
    """Advice among the `M = R * N` members of `group` and `F` fixed advisers; every member has `K = N + F` advisers.

    `advisers[f][r]` is fixed adviser `f` of replica `r`. `signals` provide the components of a choice in addition to
    the critic; by default trust by temporal differences with the settings of `config`. When a member chooses, each
    adviser except the member itself fails to answer with probability `dropped`. It cannot be chosen then, and its
    suggestion is replaced by the asker's own. If no adviser that may be chosen answers, the asker follows itself until
    its next choice. `byzantine` members give other members changed suggestions.
    """

    def __init__(
        self,
        config: AdviceConfig,
        group: Group,
        advisers: Sequence[Sequence[Adviser]],
        *,
        seed: int,
        epoch_length: int,
        total_steps: int = 1,
        signals: dict[str, Signal] | None = None,
        dropped: float = 0.0,
        byzantine: ByzantineMembers | None = None,
    ) -> None:
        self.config = config = resolve_advice(config)
        assert config.epsilon is not None and config.self_share is not None
        self.group, self.epoch_length = group, epoch_length
        N, R, M = group.N, group.R, group.M
        self.N, self.R, self.M, self.K = N, R, M, N + len(advisers)
        self.device, self.dtype = group.device, group.dtype
        self.self_index = np.tile(np.arange(N), R)  # [M]: each member's own number among the advisers
        self.myself = torch.tensor(self.self_index, device=self.device)
        self.rows = torch.arange(M, device=self.device)
        # What a choice reads is on the host, so that on a GPU only the scores are transferred
        self.self_one_hot = torch.nn.functional.one_hot(torch.tensor(self.self_index), self.K).to(self.dtype)
        self.epsilon = config.epsilon
        self.self_share = 0.0 if config.only_follow_others else config.self_share
        self._fixed_advisers = partial(
            FixedAdvisers, group=group, seed=seed, total_steps=total_steps, shuffle=config.shuffle_advisers
        )
        self.fixed_advisers = self._fixed_advisers(advisers)

        # The rule that computes scores. With a single adviser or a uniform choice, no scores are needed.
        self.rule = choice.RULES.get(config.choice) if self.K > 1 else None
        if signals is None:
            signals = {"td": SuggestionTrust(config, group, self.K, reads=self.rule is not None)}
        self.signals = signals
        if not (config.use_critic or config.use_trust or config.use_agent_values):
            self.rule = None  # without components, the choice is uniform
        self.labels: Labels | None = None
        if config.imitate != "none" and self.rule is not None:
            self.labels = Labels(self.self_index, np.array([s.imitates for s in group.settings] * R))
        self.label: Tensor | None = None  # of the last step, [M, act]
        self.label_weight: Tensor | None = None  # [M]
        self.label_from = self.myself  # [M]
        self.allowed = torch.ones(M, self.K, dtype=torch.bool)
        if config.only_follow_others and self.K > 1:
            self.allowed[torch.arange(M), self.self_index] = False
        per_member = (config.temperature * N if len(config.temperature) == 1 else config.temperature) * R
        decay = (config.temperature_decay * N if len(config.temperature_decay) == 1 else config.temperature_decay) * R
        self.temperature = torch.tensor(per_member, dtype=self.dtype).unsqueeze(1)
        self.decay = torch.tensor(decay, dtype=self.dtype).unsqueeze(1)
        self._cooled: tuple[int, Tensor] | None = None  # the temperature in an epoch
        # Drawn in every step, even if not needed, so that a member's draws do not depend on other members
        self.choices = Streams(group.stream_keys, "choice", (1,), "uniform")
        self.disturb(dropped, byzantine)

        self.followed = self.self_index.copy()  # [M] on the host
        self.following = self.myself.clone()  # the same on the device
        self.followed_for = np.zeros(M, dtype=np.int64)  # steps since the last choice
        self.chose = np.zeros(M, bool)  # chose in this step
        nothing = torch.full((M, self.K), torch.nan, device=self.device, dtype=self.dtype)
        self.last = {"score": nothing, "critic": nothing.clone()}
        self.reset_counts()

    def disturb(
        self,
        dropped: float = 0.0,
        byzantine: ByzantineMembers | None = None,
        advisers: Sequence[Sequence[Adviser]] | None = None,
    ) -> None:
        """Change the disturbances of advice: the probability of dropped advice, and the Byzantine members. `advisers`
        replace the fixed advisers; their number must not change."""
        if advisers is not None:
            self.fixed_advisers = self._fixed_advisers(advisers)
        self.dropped, self.byzantine = dropped, byzantine
        self.answers: Streams | None = None
        if dropped:
            self.answers = Streams(self.group.stream_keys, "dropped advice", (self.K,), "uniform")

    # --- acting ---------------------------------------------------------------------------------------------

    def act(
        self, obs: Tensor, host_obs: np.ndarray, episode_start: np.ndarray, step: int, *, greedy: bool = False
    ) -> Tensor:
        """Actions `[M, act]` for environment step `step` (1, 2, ...).

        `obs [M, obs]` and its copy `host_obs` on the host, `episode_start [M]` bool. With `greedy`, members act and
        advise with the mode of their policies, without random actions at the start, as in an evaluation.
        """
        warm = (step <= self.group.learning_starts) & (not greedy)  # [M]: uniformly random actions
        solo = self._solo(step)
        follow_self = warm | solo
        noise = None if greedy else self.group.draw()
        draw = self.choices.next()
        heard = None if self.answers is None else (self.answers.next() >= self.dropped) | (self.self_one_hot > 0)

        due = self.followed_for % self.config.follow_steps == 0
        if not self.config.follow_across_episodes:
            due |= episode_start
        due &= ~follow_self
        if follow_self.any():
            self._follow(self.self_index, follow_self)
        labels = None if greedy else self.labels
        if labels is not None and follow_self.any():
            labels.clear(follow_self)
        members = member_answers(
            self.group,
            obs,
            due,
            self.followed,
            noise,
            others_sample=self.config.sample_with_noise,
        )  # [M, N, act]
        if self.byzantine is not None:
            members = self.byzantine.answer(members)
        suggestions = members
        if self.fixed_advisers:
            self.fixed_advisers.begin_step(step)
            label_from = None if labels is None else labels.asked
            said = self.fixed_advisers.ask(host_obs, episode_start, due, self.followed, label_from)
            answers = torch.as_tensor(said, device=self.device)
            suggestions = torch.cat((members, answers.to(self.dtype)), dim=1)
        self.chose = due
        chooses = due.any()
        if chooses:
            if self.K > 1:
                self._follow(self._choose(obs, suggestions, draw, step, due, heard), due)
            self.counts[due, self.followed[due]] += 1
            if self.fixed_advisers.has_roles:
                self.roles += np.eye(3, dtype=np.int64)[self.fixed_advisers.roles(host_obs, due, self.followed)]
        elsewhere = self.followed != self.self_index
        # A uniform choice needs no suggestions, so only the suggestion of the followed adviser counts as a query
        self.queries += (due * (self.K - 1) + (~due & elsewhere)) if self.rule is not None else elsewhere
        if labels is not None:
            asked = labels.asked
            self.queries += ~due & (asked >= 0) & (asked != self.followed)
            self._label(labels, suggestions)
        self.followed_for += 1
        if chooses:
            self.followed_for[due] = 1
        if follow_self.any():
            self.followed_for[follow_self] = 0

        actions = suggestions[self.rows, self.following]  # [M, act]
        if not greedy:
            explored = self.group.explore(actions, step)
            if explored is not actions and elsewhere.any():
                explored = torch.where((self.following == self.myself).unsqueeze(1), explored, actions)
            actions = explored
        if warm.any():
            mask = torch.as_tensor(warm, device=self.device).unsqueeze(1)
            actions = torch.where(mask, self.group.warmup_actions(), actions)
        return actions

    def _solo(self, step: int) -> bool:
        """Whether all members follow themselves in this epoch: `switch_ratio` peer epochs precede each solo epoch."""
        epoch = (step - 1) // self.epoch_length
        c = self.config
        alternate = c.switch_ratio > 0 and epoch % (c.switch_ratio + 1) == c.switch_ratio
        return alternate or self.is_over(step)

    def is_over(self, step: int) -> bool:
        """Whether `max_peer_epochs` has ended before this step, so that members do not ask advisers any more."""
        last = self.config.max_peer_epochs
        return last is not None and (step - 1) // self.epoch_length >= last

    def _follow(self, adviser: np.ndarray, mask: np.ndarray) -> None:
        followed = np.where(mask, adviser, self.followed)
        if (followed != self.followed).any():
            self.followed = followed
            self.following = torch.as_tensor(followed, device=self.device)

    def components(self, obs: Tensor, suggestions: Tensor, due: np.ndarray, step: int) -> choice.Components:
        """The components of the scores for the members `due`, `[M, K]` each."""
        values = {"critic": critic_values(self.group, obs, suggestions)} if self.config.use_critic else {}
        for signal in self.signals.values():
            values |= signal.values(obs, suggestions, due, step)
        return values

    def _choose(
        self, obs: Tensor, suggestions: Tensor, draw: Tensor, step: int, due: np.ndarray, heard: Tensor | None = None
    ) -> np.ndarray:
        """The advisers that the members choose, `[M]`; only rows that are `due` are valid. `heard [M, K]` bool on the
        host: whether the adviser answered the asker; by default all did. Only the scores are copied to the host."""
        allowed = self.allowed
        if heard is not None:
            answered = heard.to(self.device)
            own = suggestions[self.rows, self.myself].unsqueeze(1)
            suggestions = torch.where(answered.unsqueeze(2), suggestions, own)
            allowed = allowed & heard
            allowed = torch.where(allowed.any(dim=1, keepdim=True), allowed, self.self_one_hot > 0)
        if self.rule is None:
            scores = torch.zeros(self.M, self.K, dtype=self.dtype)
        else:
            components = self.components(obs, suggestions, due, step)
            scores = self.rule(components)
            if self.labels is not None:
                found = (signal.estimates() for signal in self.signals.values())
                mean, error = next((e for e in found if e is not None), (scores, torch.zeros_like(scores)))
                if heard is not None:  # an adviser that did not answer gives no label
                    mean = torch.where(answered, mean, -torch.inf)
                self.labels.choose(mean, error, due)
            mask = torch.as_tensor(due, device=self.device).unsqueeze(1)
            if heard is not None:
                mask = mask & answered
            for name, values in (("score", scores), ("critic", components.get("critic"))):
                if values is not None:
                    self.last[name] = torch.where(mask, values, self.last[name])
        epoch = (step - 1) // self.epoch_length
        greedy = self.config.choice == "greedy"
        p = choice.probabilities(
            scores,
            allowed=allowed,
            temperature=None if greedy else self._temperature_in(epoch),
            epsilon=self.epsilon,
            myself=self.self_one_hot,
            self_share=self.self_share,
        )
        return choice.pick(p, draw).numpy()

    def _label(self, labels: Labels, suggestions: Tensor) -> None:
        """Set the labels of this step from the `suggestions [M, K, act]`."""
        if labels.changed or self.label_weight is None:
            self.label_from = torch.as_tensor(labels.adviser, device=self.device)
            self.label_weight = torch.as_tensor(labels.weight, device=self.device).to(self.dtype)
            labels.changed = False
        self.label = suggestions[self.rows, self.label_from]

    def _temperature_in(self, epoch: int) -> Tensor:
        """`[M, 1]` on the host; computed once per epoch."""
        if self._cooled is None or self._cooled[0] != epoch:
            self._cooled = epoch, (self.temperature * torch.exp(-self.decay * epoch)).clamp(1e-6, 1e6)
        return self._cooled[1]

    # --- learning trust --------------------------------------------------------------------------------------

    def observe(self, transition: Transition) -> None:
        """Pass the environment step of all members to the signals and the fixed advisers."""
        for signal in self.signals.values():
            signal.observe(transition)
        self.fixed_advisers.observe(transition.host)

    def reset(self, who: np.ndarray) -> None:
        """The running episodes of the members `who [M]` (bool) were aborted, and new ones started."""
        for signal in self.signals.values():
            signal.reset(who)

    def after_step(self, step: int) -> None:
        """Update trust; called before the members learn."""
        for signal in self.signals.values():
            signal.after_step(step)

    def catch_up(self) -> None:
        """Perform deferred updates of trust, because an exchange is about to change the members' networks."""
        for signal in self.signals.values():
            signal.catch_up()

    # --- reports --------------------------------------------------------------------------------------------

    def reset_counts(self) -> None:
        self.counts = np.zeros((self.M, self.K), dtype=np.int64)
        self.queries = np.zeros(self.M, dtype=np.int64)
        self.roles = np.zeros((self.M, 3), dtype=np.int64)  # choices by the role of the adviser: 0, +1, -1

    def advice_rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row of advice.csv for every asker and adviser; choices are counted since the last `reset_counts`. `names
        [K]`: the members, then the fixed advisers in their original order."""
        columns = dict(self.last)
        for signal in self.signals.values():
            columns |= signal.report()
        host = {name: values.tolist() for name, values in columns.items()}
        fixed = np.array(names[self.N :], object)[self.fixed_advisers.order]  # [R, F]
        return [
            {"replica": r, "asker": names[m % self.N], "adviser": adviser, "chosen": int(self.counts[m, k])}
            | {name: v[m][k] for name, v in host.items() if not math.isnan(v[m][k])}
            for m in range(self.M)
            for r in [m // self.N]
            for k, adviser in enumerate([*names[: self.N], *fixed[r]])
        ]

    def metrics(self) -> list[tuple[int, int, str, float]]:
        """(replica, member, name, value): queries, shares and entropy of choices since the last `reset_counts`, and the
        metrics of the signals."""
        rows = []
        from_signals = {n: v.tolist() for signal in self.signals.values() for n, v in signal.metrics().items()}
        for m in range(self.M):
            r, i = divmod(m, self.N)
            rows.append((r, i, "advice/queries", float(self.queries[m])))
            total = self.counts[m].sum()
            if total:
                share = self.counts[m] / total
                rows.append((r, i, "advice/self_share", float(share[i])))
                rows.append((r, i, "advice/choice_entropy", float(-(share * np.log(np.maximum(share, 1e-12))).sum())))
                if self.fixed_advisers.has_roles:
                    rows.append((r, i, "advice/right", float(self.roles[m, 1] / total)))
                    rows.append((r, i, "advice/wrong", float(self.roles[m, -1] / total)))
            rows += [(r, i, name, v[m]) for name, v in from_signals.items() if not math.isnan(v[m])]
        return rows

    # --- state ----------------------------------------------------------------------------------------------

    def schedules(self) -> list[str]:
        """What depends on the length of the run."""
        of_signals = [text for signal in self.signals.values() for text in signal.schedules()]
        return [*of_signals, *self.fixed_advisers.schedules()]

    def lengthened(self, state: dict[str, Any], total_steps: int) -> dict[str, Any]:
        """Convert a `state` of a run with fewer `total_steps` (`Signal.lengthened`)."""
        signals = {name: self.signals[name].lengthened(part, total_steps) for name, part in state["signals"].items()}
        return {**state, "signals": signals}

    def state(self) -> dict[str, Any]:
        return {
            "signals": {name: signal.state() for name, signal in self.signals.items()},
            "followed": torch.as_tensor(self.followed),
            "followed_for": torch.as_tensor(self.followed_for),
            "counts": torch.as_tensor(self.counts),
            "queries": torch.as_tensor(self.queries),
            "roles": torch.as_tensor(self.roles),
            "last": self.last,
            "choices": self.choices.state(),
            **({} if self.labels is None else {"labels": self.labels.state()}),
            "advisers": self.fixed_advisers.state(),
            **({} if self.answers is None else {"answers": self.answers.state()}),
            **({} if self.byzantine is None else {"byzantine": self.byzantine.state()}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name, signal in self.signals.items():
            signal.load_state(state["signals"][name])
        self.followed = state["followed"].cpu().numpy().copy()
        self.following = state["followed"].to(self.device)
        self.followed_for = state["followed_for"].cpu().numpy().copy()
        self.counts = state["counts"].cpu().numpy().copy()
        self.queries = state["queries"].cpu().numpy().copy()
        self.roles = state["roles"].cpu().numpy().copy()
        self.last = {name: values.to(self.device) for name, values in state["last"].items()}
        self.choices.load_state(state["choices"])
        if self.labels is not None:
            self.labels.load_state(state["labels"])
        self.fixed_advisers.load_state(state["advisers"])
        if self.answers is not None:
            self.answers.load_state(state["answers"])
        if self.byzantine is not None:
            self.byzantine.load_state(state["byzantine"])
