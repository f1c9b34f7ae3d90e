"""The tokens of in-context trust: past decisions and a query, described relative to a candidate.

A token holds the state, facts about the decision, and in a query estimates from the context. No column identifies an
adviser (except with `context_identity`): the same columns describe every candidate, so that the model applies what it
learns about one adviser to all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from peerage.trust.decisions import Decisions
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.valuation import Valuation

MAX_ADVANTAGE = 5.0  # advantages are clipped to this many standard deviations
MAX_STATE = 5.0  # numbers of a state are clipped to this many standard deviations
ROUNDING = 1e-6  # added to standard deviations, as a share of the largest absolute value
KERNEL_SHARPNESS = 2.0  # of the kernel over states, per squared standard deviation


class Facts(NamedTuple):
    """Columns of facts about a decision, for a candidate. Advantages and critic terms are in units of the member's
    `Valuation.scale`. A query has the columns marked with *, and 0 in the others."""

    followed: int
    """1 if the candidate was followed."""
    advantage: int
    """Advantage of the decision."""
    advantage_if_followed: int
    """`followed * advantage`."""
    critic: int
    """* Critic term of the candidate's suggestion."""
    mean_critic: int
    """* Mean critic term of all advisers' suggestions."""
    agrees: int
    """How close the candidate's suggestion was to the one that was followed, 0 to 1."""
    advantage_if_agrees: int
    """`agrees * advantage`."""
    is_own: int
    """1 if the querying member made the decision."""
    age: int
    """`log(1 + steps since its end / follow_steps) / 4`."""
    is_self: int
    """* 1 if the candidate is the querying member."""
    is_member: int
    """* 1 if the candidate is a learner."""
    is_query: int
    """* 1."""


class Estimates(NamedTuple):
    """Columns of weighted sums over the context, in a query. Means have 1 added to their denominator, so that a
    candidate that was rarely followed has an estimate near 0."""

    mean_if_followed: int
    """Mean advantage of the decisions that followed the candidate."""
    times_followed: int
    """`log(1 + number of these decisions) / 4`."""
    mean_if_agrees: int
    """Mean advantage, weighted by the candidate's agreement."""
    mean_critic: int
    """Mean critic term of the candidate."""


class Columns(NamedTuple):
    """The columns of a token: the state first, then these."""

    state: slice
    facts: Facts
    overall: Estimates
    """Over all decisions of the context."""
    near: Estimates
    """Over decisions in states that are similar to the query's."""
    identity: slice
    """One-hot of the candidate; empty without `context_identity`."""
    width: int

    @staticmethod
    def of(obs_dim: int, n_advisers: int, identity: bool) -> Columns:
        overall = obs_dim + len(Facts._fields)
        near = overall + len(Estimates._fields)
        end = near + len(Estimates._fields)
        width = end + (n_advisers if identity else 0)
        return Columns(
            slice(0, obs_dim),
            Facts(*range(obs_dim, overall)),
            Estimates(*range(overall, near)),
            Estimates(*range(near, end)),
            slice(end, width),
            width,
        )


class DecisionTokens:
    """Makes tokens from the decisions of a group and their valuation."""

    def __init__(
        self, config: ContextSettings, decisions: Decisions, valuation: Valuation, obs_dim: int, follow_steps: int
    ) -> None:
        self.config, self.decisions, self.valuation, self.follow_steps = config, decisions, valuation, follow_steps
        self.columns = Columns.of(obs_dim, decisions.K, config.context_identity)

    def context(self, now: np.ndarray, finished: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The contexts of queries in the steps `now [B]`: the latest of the decisions `finished` that had ended
        before, `[B, L - 1]`, and which of these places are filled (bool)."""
        ended = self.decisions.kept["ended"].ravel()[finished]
        places = np.searchsorted(ended, now)[:, None] + np.arange(1 - self.config.context_length, 0)
        return finished[np.maximum(places, 0)], places >= 0

    def make(
        self,
        entries: np.ndarray,  # [B, L - 1] finished decisions, `member * C + slot`, the oldest first
        valid: np.ndarray,  # [B, L - 1]
        asker: np.ndarray,  # [B] members
        candidates: np.ndarray,  # [B, c] advisers
        now: np.ndarray,  # [B] steps
        obs: np.ndarray,  # [B, obs]
        critic: np.ndarray,  # [B, K] critic terms in the query's state
    ) -> np.ndarray:
        """Tokens `[B, c, L, width]` float32, the query last. The `c` queries of one asker differ in the candidate."""
        d, value, columns = self.decisions, self.valuation, self.columns
        fact = columns.facts
        member, slot = np.divmod(entries, d.capacity)
        tokens = np.zeros((*candidates.shape, entries.shape[1] + 1, columns.width), np.float32)
        past, query = tokens[:, :, :-1], tokens[:, :, -1]
        states, state = standardised(d.kept["obs"][member, slot], obs, valid)
        past[..., columns.state], query[..., columns.state] = states[:, None], state[:, None]

        scale = value.scale[member]
        advantage = clipped(value.advantage[member, slot] / scale)[:, None]  # [B, 1, L - 1]
        follows = d.kept["followed"][member, slot][:, None] == candidates[..., None]  # [B, c, L - 1]
        agrees = of_candidates(value.agreement[member, slot], candidates)  # [B, c, L - 1]
        critics = clipped(value.critic[member, slot] / scale[..., None])  # [B, L - 1, K]
        candidate_critic = of_candidates(critics, candidates)
        steps_since = np.maximum(now[:, None] - d.kept["ended"][member, slot], 0)
        past[..., fact.followed] = follows
        past[..., fact.advantage] = advantage
        past[..., fact.advantage_if_followed] = advantage * follows
        past[..., fact.critic] = candidate_critic
        past[..., fact.mean_critic] = critics.mean(-1)[:, None]
        past[..., fact.agrees] = agrees
        past[..., fact.advantage_if_agrees] = advantage * agrees
        past[..., fact.is_own] = (member == asker[:, None])[:, None]
        past[..., fact.age] = (np.log1p(steps_since / self.follow_steps) / 4)[:, None]
        if not valid.all():
            past[np.broadcast_to(~valid[:, None], past.shape[:3])] = 0.0

        own = clipped(critic / value.scale[asker][:, None])  # [B, K]
        query[..., fact.critic] = own[np.arange(len(own))[:, None], candidates]
        query[..., fact.mean_critic] = own.mean(-1, keepdims=True)
        query[..., fact.is_self] = candidates == asker[:, None] % d.N
        query[..., fact.is_member] = candidates < d.N
        query[..., fact.is_query] = 1.0
        weights = (columns.overall, valid.astype(np.float64)), (columns.near, valid * similarity(states, state))
        for estimate, weight in weights:
            weight = weight[:, None]  # [B, 1, L - 1]
            followed, agreed = weight * follows, weight * agrees
            times = followed.sum(-1)
            query[..., estimate.mean_if_followed] = (followed * advantage).sum(-1) / (times + 1)
            query[..., estimate.times_followed] = np.log1p(times) / 4
            query[..., estimate.mean_if_agrees] = (agreed * advantage).sum(-1) / (agreed.sum(-1) + 1)
            query[..., estimate.mean_critic] = (weight * candidate_critic).sum(-1) / (weight.sum(-1) + 1)
        if not self.config.context_critics:
            tokens[..., [fact.critic, fact.mean_critic]] = 0.0
            query[..., [columns.overall.mean_critic, columns.near.mean_critic]] = 0.0
        if self.config.context_identity:
            np.put_along_axis(query[..., columns.identity], candidates[..., None], 1.0, axis=2)
        return tokens


def clipped(advantage: np.ndarray) -> np.ndarray:
    """Advantages in standard deviations, within the limits of the model's inputs and targets."""
    return np.clip(advantage, -MAX_ADVANTAGE, MAX_ADVANTAGE)


def standardised(states: np.ndarray, state: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`states [B, L - 1, obs]` and `state [B, obs]` minus the mean of the `valid` states, in their standard deviations
    and clipped to +-MAX_STATE. The unit and the origin of an observation have no effect.

    Each number is first divided by its largest absolute value, so that squares do not overflow.
    """
    weight = valid[..., None]
    count = np.maximum(valid.sum(1), 1)[:, None, None]
    largest = np.abs(states * weight).max(axis=1, keepdims=True)
    largest[largest == 0] = 1.0
    with np.errstate(over="ignore"):  # the query's state can be much larger than the others
        states, now = states / largest, state[:, None] / largest
    mean = (states * weight).sum(1, keepdims=True) / count
    spread = np.sqrt((((states - mean) ** 2) * weight).sum(1, keepdims=True) / count) + ROUNDING
    clipped_states, clipped_state = (np.clip((x - mean) / spread, -MAX_STATE, MAX_STATE) for x in (states, now))
    return clipped_states, clipped_state[:, 0]


def of_candidates(table: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The columns of some advisers: `table [B, L - 1, K]`, `candidates [B, c]` -> `[B, c, L - 1]`."""
    return np.ascontiguousarray(table[np.arange(len(table))[:, None], :, candidates])


def similarity(states: np.ndarray, state: np.ndarray) -> np.ndarray:
    """`exp(-KERNEL_SHARPNESS d^2)`: standardised `states [B, L - 1, obs]`, `state [B, obs]` -> `[B, L - 1]`.

    `d^2` is the mean over the state's numbers of the squared difference.
    """
    return np.exp(-KERNEL_SHARPNESS * ((states - state[:, None]) ** 2).mean(-1))
