"""Equations 2 to 9 of peer learning (arXiv 2312.09950) and the times of choices, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transitions import transition

from peerage.config import AdviceConfig
from peerage.learners.base import NoiseShape, Space
from peerage.learners.defaults import default_settings
from peerage.learners.group import Group
from peerage.learners.recent import RecentTransitions
from peerage.learners.streams import StreamKey, Streams
from peerage.sharing import choice
from peerage.sharing.advice import Advice
from peerage.sharing.adviser import Adviser
from peerage.sharing.answers import member_answers
from peerage.trust.agent_value import AgentValues, samples_per_member
from peerage.trust.critic import critic_values
from peerage.trust.td import TDTable, targets

F64 = torch.float64
PLAIN = AdviceConfig(
    choice="paper", temperature=(1.0,), lr=0.5, epsilon=0.0, self_share=0.0, use_advantage=False, follow_steps=10
)


def near(ours, expected, tolerance=1e-9):
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype), rtol=tolerance, atol=tolerance)


# --- real groups of linear networks --------------------------------------------------

LINE = Space(1, 1, low=np.array([-2], np.float32), high=np.array([2], np.float32))  # a in [-1, 1] is half the action


def linear(algorithm, n_members=2, space=LINE):
    """Networks without hidden layers, whose values are easy to compute by hand."""
    member = replace(default_settings(algorithm), net_arch=(), buffer_size=10, batch_size=2)
    group = Group([member] * n_members, 1, 0, space, 100, dtype=F64)
    return group, group.stacks[0].learner


def answers(group, obs, others_sample):
    """The answers of all members to all members, `[M, N]`; an action is one number."""
    everybody, myself = np.ones(group.M, bool), np.tile(np.arange(group.N), group.R)
    return member_answers(group, obs, everybody, myself, group.draw(), others_sample=others_sample)[..., 0]


def put(net, row, weights, biases):
    """`weights [in][out]`."""
    net.constants["0.weight"][row] = torch.tensor(weights, dtype=F64)
    net.constants["0.bias"][row, 0] = torch.tensor(biases, dtype=F64)


def set_critics(learner):
    """Member 0: Q1 = s + 3 a, Q2 = 1 - a; member 1: Q1 = Q2 = 5 s (a in [-1, 1])."""
    put(learner.critic.net, 0, [[1.0], [3.0]], [0.0])
    put(learner.critic.net, 1, [[0.0], [-1.0]], [1.0])
    put(learner.critic.net, 2, [[5.0], [0.0]], [0.0])
    put(learner.critic.net, 3, [[5.0], [0.0]], [0.0])


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_equation_3_smaller_of_two_critics(algorithm):
    group, learner = linear(algorithm)
    set_critics(learner)
    obs = torch.tensor([[2.0], [-1.0]], dtype=F64)
    # actions 2, -2, 0, -1 are a = 1, -1, 0, -0.5
    suggestions = torch.tensor([[[2.0], [-2.0], [0.0], [-1.0]]] * 2, dtype=F64)
    # member 0 at s = 2: Q1 = 5, -1, 2, 0.5 and Q2 = 0, 2, 1, 1.5; member 1 at s = -1: -5
    near(critic_values(group, obs, suggestions), [[0.0, -1.0, 1.0, 0.5], [-5.0] * 4])


def test_equation_3_of_dqn():
    """Member 0: Q = (s, 2 s, 3); member 1: Q = (-s, 0, s)."""
    group, learner = linear("dqn", space=Space(1, 1, n_actions=3))
    put(learner.q, 0, [[1.0, 2.0, 0.0]], [0.0, 0.0, 3.0])
    put(learner.q, 1, [[-1.0, 0.0, 1.0]], [0.0, 0.0, 0.0])
    obs = torch.tensor([[4.0], [4.0]], dtype=F64)
    suggestions = torch.tensor([[[0.0], [2.0], [1.0]]] * 2, dtype=F64)
    near(critic_values(group, obs, suggestions), [[4.0, 3.0, 8.0], [-4.0, 4.0, 0.0]])
    # V = max_a Q: at s = 4: 8 and 4; at s = 1: 3 and 1
    situations = torch.tensor([[[4.0], [1.0]]] * 2, dtype=F64)
    near(group.state_value(situations, torch.zeros(2, 2, 1)), [[8.0, 3.0], [4.0, 1.0]])
    # the suggestion is the action with that value, for every asker
    near(answers(group, torch.tensor([[4.0], [1.0]], dtype=F64), True), [[1.0, 2.0], [2.0, 2.0]])


def test_value_of_a_state_takes_a_sample_of_the_policy():
    """SAC: V = min_k Q(s, tanh(mean + std noise)), member 0 with mean s, std 1, member 1 with mean 0, std e."""
    group, learner = linear("sac")
    set_critics(learner)
    put(learner.actor, 0, [[1.0, 0.0]], [0.0, 0.0])
    put(learner.actor, 1, [[0.0, 0.0]], [0.0, 1.0])
    obs = torch.tensor([[[0.5], [0.5]], [[1.0], [1.0]]], dtype=F64)
    noise = torch.tensor([[[0.0], [-1.0]], [[0.0], [1.0]]], dtype=F64)
    # member 0: a = tanh(0.5) = 0.462117 and tanh(-0.5): min(0.5 + 3 a, 1 - a)
    a = math.tanh(0.5)
    near(group.state_value(obs, noise), [[1 - a, 0.5 - 3 * a], [5.0, 5.0]])
    near(learner.suggest(obs, noise)[..., 0], [[2 * a, -2 * a], [0.0, 2 * math.tanh(math.e)]])
    near(learner.suggest(obs, None)[..., 0], [[2 * a, 2 * a], [0.0, 0.0]])


def test_value_of_a_state_of_td3():
    group, learner = linear("td3")
    set_critics(learner)
    put(learner.actor, 0, [[1.0]], [0.0])
    put(learner.actor, 1, [[0.0]], [3.0])
    obs = torch.tensor([[[0.5], [-0.5]], [[1.0], [2.0]]], dtype=F64)
    a = math.tanh(0.5)
    near(group.state_value(obs, torch.full((2, 2, 1), 9.0)), [[1 - a, -0.5 - 3 * a], [5.0, 10.0]])


def test_suggestions_are_for_the_askers_observation():
    """Row = asker, column = adviser: adviser j at asker i's state, the own one sampled in any case."""
    group, learner = linear("sac")
    put(learner.actor, 0, [[1.0, 0.0]], [0.0, -30.0])  # mean s; log std -30 is cut to -20: no noise to speak of
    put(learner.actor, 1, [[-1.0, 0.0]], [0.0, -30.0])
    said = answers(group, torch.tensor([[0.5], [1.0]], dtype=F64), True) / 2
    expected = torch.tensor([[0.5, -0.5], [1.0, -1.0]], dtype=F64).tanh()
    torch.testing.assert_close(said, expected, rtol=0, atol=1e-6)

    put(learner.actor, 0, [[1.0, 0.0]], [0.0, 0.0])
    put(learner.actor, 1, [[-1.0, 0.0]], [0.0, 0.0])
    said = answers(group, torch.tensor([[0.5], [1.0]], dtype=F64), False) / 2
    assert abs(said[0, 1] - expected[0, 1]) < 1e-9 and abs(said[1, 0] - expected[1, 0]) < 1e-9  # others: the mode
    assert abs(said[0, 0] - expected[0, 0]) > 1e-3 and abs(said[1, 1] - expected[1, 1]) > 1e-3  # oneself: a sample
    said = answers(group, torch.tensor([[0.5], [1.0]], dtype=F64), True) / 2
    assert ((said - expected).abs() > 1e-3).all()


def test_answers_and_values_in_a_mixed_group_are_in_the_groups_order():
    """TD3, SAC, TD3, SAC say tanh of 1, 0.5 s, 2 s and -s; only SAC's answers to itself have noise."""
    small = {"net_arch": (), "buffer_size": 10, "batch_size": 2}
    kinds = [replace(default_settings(a), **small) for a in ("td3", "sac", "td3", "sac")]
    group = Group(kinds, 2, 0, LINE, 100, dtype=F64)
    td3, sac = (stack.learner for stack in group.stacks)
    for r in range(2):
        put(td3.actor, 2 * r, [[0.0]], [1.0])
        put(td3.actor, 2 * r + 1, [[2.0]], [0.0])
        put(sac.actor, 2 * r, [[0.5, 0.0]], [0.0, 0.0])
        put(sac.actor, 2 * r + 1, [[-1.0, 0.0]], [0.0, 0.0])
    s = torch.tensor([0.1, 0.2, 0.3, 0.4, -0.1, -0.2, -0.3, -0.4], dtype=F64)
    said = answers(group, s.unsqueeze(1), False) / 2
    expected = torch.stack((torch.ones(8, dtype=F64), 0.5 * s, 2 * s, -s), dim=1).tanh()
    noisy = (said - expected).abs() > 1e-9
    assert noisy.nonzero().tolist() == [[1, 1], [3, 3], [5, 1], [7, 3]]  # [asker, adviser]
    near(
        group.mode(s.view(8, 1, 1))[:, 0, 0] / 2,
        expected.gather(1, torch.arange(4).repeat(2).view(8, 1))[:, 0].tolist(),
    )
    # values come from the asker's own critics, in the group's order
    for m in range(8):
        learner, row = (td3, sac)[m % 2], (m // 4) * 2 + (m % 4) // 2
        for k in range(2):
            put(learner.critic.net, 2 * row + k, [[0.0], [0.0]], [float(m + 10 * k)])
    near(group.action_value(s.view(8, 1, 1), torch.zeros(8, 1, 1, dtype=F64))[:, 0], [float(m) for m in range(8)])
    near(group.state_value(s.view(8, 1, 1), torch.zeros(8, 1, 1, dtype=F64))[:, 0], [float(m) for m in range(8)])


# --- trust and agent values ----------------------------------------------------------


def test_equation_4_and_8():
    """r + gamma V(s'), without V(s') after a terminal state; the advantage takes V(s) away."""
    rewards = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    terminated = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=F64)
    gamma = torch.tensor([[0.5], [0.9]], dtype=F64)
    next_value = torch.tensor([[10.0, 100.0], [-10.0, -100.0]], dtype=F64)
    value = torch.tensor([[4.0, 5.0], [6.0, -7.0]], dtype=F64)
    # 1 + 0.5 * 10 = 6; 2; 3 - 0.9 * 10 = -6; 4
    near(targets(rewards, terminated, gamma, next_value, None), [[6.0, 2.0], [-6.0, 4.0]])
    near(targets(rewards, terminated, gamma, next_value, value), [[2.0, -3.0], [-12.0, 11.0]])


def update(table, target, adviser, valid=None):
    """One update from a batch `[X, B]`; all samples count unless said otherwise."""
    valid = torch.ones_like(adviser, dtype=torch.bool) if valid is None else valid
    table.update(target.unsqueeze(1), adviser.unsqueeze(1), valid.unsqueeze(1))


def test_equation_5():
    """Asker 0 gained 10 and 20 with adviser 1, 6 with adviser 2; asker 1 gained 8, 10 and 0 with adviser 0.
    v = 200: 200 + 0.25 (15 - 200) = 153.75; 200 + 0.25 (6 - 200) = 151.5; 200 + 0.25 (6 - 200) = 151.5."""
    table = TDTable(2, 3, 200.0, 0.25, torch.zeros(0, dtype=F64))
    target = torch.tensor([[10.0, 6.0, 20.0], [8.0, 10.0, 0.0]], dtype=F64)
    adviser = torch.tensor([[1, 2, 1], [0, 0, 0]])
    update(table, target, adviser)
    near(table.values, [[200.0, 153.75, 151.5], [151.5, 200.0, 200.0]])
    # again, with advisers 0 and 1: 200 + 0.25 (0 - 200) = 150; 153.75 + 0.25 (33.75 - 153.75) = 123.75
    target = torch.tensor([[0.0, 33.75, 33.75], [151.5, 151.5, 151.5]], dtype=F64)
    update(table, target, torch.tensor([[0, 1, 1], [0, 0, 0]]))
    near(table.values, [[150.0, 123.75, 151.5], [151.5, 200.0, 200.0]])


def test_invalid_samples_and_targets_are_left_out():
    """Invalid samples and targets that are not finite: of (10, 30, NaN, inf) with adviser 0 only 10 counts."""
    table = TDTable(2, 2, 0.0, 0.5, torch.zeros(0, dtype=F64))
    target = torch.tensor([[10.0, 30.0, math.nan, math.inf], [math.nan] * 4], dtype=F64)
    valid = torch.tensor([[True, False, True, True]] * 2)
    update(table, target, torch.zeros(2, 4, dtype=torch.long), valid)
    near(table.values, [[5.0, 0.0], [0.0, 0.0]])


def test_alpha_one_is_the_last_mean():
    table = TDTable(1, 2, 200.0, 1.0, torch.zeros(0, dtype=F64))
    target = torch.tensor([[3.0, 5.0]], dtype=F64)
    update(table, target, torch.tensor([[1, 1]]))
    near(table.values, [[200.0, 4.0]])


def test_equation_6_and_7():
    """Two replicas of two members with two samples each. Replica 0: adviser 0 was worth 2 (member 0), 4 and 6
    (member 1): mean 4, not the mean of means 3.5; adviser 1 was worth 8. Replica 1: adviser 1 alone: mean 1."""
    table = AgentValues(2, 3, 200.0, 0.5, torch.zeros(0, dtype=F64))
    target = torch.tensor([[2.0, 8.0], [4.0, 6.0], [0.0, 0.0], [0.0, 4.0]], dtype=F64)
    adviser = torch.tensor([[0, 1], [0, 0], [1, 1], [1, 1]])
    update(table, target, adviser)
    near(table.values, [[102.0, 104.0, 200.0], [200.0, 100.5, 200.0]])
    assert [samples_per_member(10, n) for n in (1, 2, 3, 4, 10, 11, 64)] == [10, 5, 3, 2, 1, 1, 1]


# --- a group whose values are given ---------------------------------------------


class Stub:
    """Member j suggests j to every asker; Q(s, a) = `opinion[m][a]`; V(s) = s + noise / 10; exploring adds 1000 and
    random actions are -1."""

    def __init__(self, n=2, replicas=1, learning_starts=0, opinion=None, gammas=(0.5,), capacity=10_000, seed=0):
        self.N, self.R, self.M = n, replicas, n * replicas
        self.device, self.dtype = torch.device("cpu"), F64
        self.stream_keys = [StreamKey(seed, r, i) for r in range(replicas) for i in range(n)]
        self.space = Space(1, 1, low=np.array([-10], np.float32), high=np.array([10], np.float32))
        self.noise_shape = NoiseShape("normal", 1)
        learner = SimpleNamespace(suggest=self._suggest, noise_shape=self.noise_shape)
        self.stacks = [SimpleNamespace(learner=learner, positions=list(range(n)))]
        self.recent = RecentTransitions(self.M, capacity, 1, 1, self.device, F64)
        self.learning_starts = np.broadcast_to(np.array(learning_starts), n) if np.ndim(learning_starts) else None
        if self.learning_starts is None:
            self.learning_starts = np.full(n, learning_starts)
        self.learning_starts = np.tile(self.learning_starts, replicas)
        self.opinion = opinion
        self.gammas = torch.tensor([[g] for g in gammas * (self.M // len(gammas))], dtype=F64)

    def gamma(self):
        return self.gammas

    pretrained = False

    def active(self):
        return np.ones(self.M, bool)

    def noise_for(self, stack, noise):
        return noise

    def draw(self):
        return None

    def _suggest(self, obs, noise):
        return torch.arange(self.N, dtype=F64).repeat(self.R).view(-1, 1, 1).expand(-1, obs.shape[1], -1).clone()

    def observe(self, step):
        self.recent.add(step)

    def learns(self, step):
        return False

    def explore(self, actions, step):
        return actions + 1000

    def warmup_actions(self):
        return torch.full((self.M, 1), -1.0, dtype=F64)

    def action_value(self, obs, actions):
        return torch.tensor(self.opinion, dtype=F64).gather(1, actions[..., 0].long())

    def state_value(self, obs, noise):
        return obs[..., 0] + noise[..., 0] / 10

    def recent_transitions(self, age):
        return self.recent.gather(age)


class Says(Adviser):
    """A fixed adviser that suggests `number` and records its askers."""

    def __init__(self, number):
        self.number, self.asked = number, []

    def suggest(self, obs, rows, first, rng):
        self.asked.append(obs[:, 0].astype(int).tolist())
        return np.full((len(obs), 1), self.number, np.float32)


@pytest.fixture
def chances(monkeypatch):
    """The distributions `[M, K]` from which choices were drawn."""
    seen = []

    def pick(p, uniform):
        seen.append(p)
        return original(p, uniform)

    original = choice.pick
    monkeypatch.setattr(choice, "pick", pick)
    return seen


def run(advice, steps, starts=(1,), first=1):
    """The adviser that each member follows `[M, steps]`, the actions `[M, steps]` and the steps of each member's
    decisions. In step t member m goes from state t + m / 8 to one higher, for a reward of t * t; every fourth step is
    terminal."""
    M = advice.M
    followed, actions, decisions = [], [], [[] for _ in range(M)]
    host = np.arange(M, dtype=np.float32).reshape(M, 1)
    for step in range(first, first + steps):
        before = advice.counts.sum(axis=1)
        start = np.full(M, step in starts)
        actions.append(advice.act(torch.zeros(M, 1, dtype=F64), host, start, step)[:, 0])
        for m in np.flatnonzero(advice.counts.sum(axis=1) - before):
            decisions[m].append(step)
        followed.append(advice.followed.copy())
        obs = (step + torch.arange(M, dtype=F64) / 8).unsqueeze(1)
        made = transition(
            obs, obs, step**2, obs + 1, terminated=step % 4 == 0, first=start, followed=advice.followed
        )
        advice.group.observe(made)
        advice.observe(made)
        advice.after_step(step)
    return np.stack(followed, axis=1), torch.stack(actions, dim=1).numpy(), decisions


def make(config, group=None, fixed=(), **kwargs):
    group = group or Stub(**kwargs)
    advisers = [[adviser] * group.R for adviser in fixed]
    return Advice(config, group, advisers, seed=0, epoch_length=10)


# --- Equation 9 and 2: components and choices ------------------------------------------

OPINION = [[1.0, -4.0, 2.0], [3.0, 0.0, 6.0]]  # what members 0 and 1 think of what 0, 1 and the expert say
TRUST = [[100.0, 200.0, 0.0], [4.0, 2.0, 1.0]]
AGENTS = [[10.0, -20.0, 5.0]]


def advised(config, **kwargs):
    advice = make(config, n=2, opinion=OPINION, fixed=[Says(2.0)], **kwargs)
    if advice.signals["td"].trust is not None:
        advice.signals["td"].trust.values = torch.tensor(TRUST, dtype=F64)
    if advice.signals["td"].agents is not None:
        advice.signals["td"].agents.values = torch.tensor(AGENTS, dtype=F64)
    return advice


def test_initial_values():
    advice = make(replace(PLAIN, init_trust_values=200.0, init_agent_values=50.0), n=2, replicas=2, fixed=[Says(2)])
    td = advice.signals["td"]
    assert td.trust.values.tolist() == [[200.0] * 3] * 4 and td.agents.values.tolist() == [[50.0] * 3] * 2
    assert AdviceConfig().init_trust_values == AdviceConfig().init_agent_values == 200.0


CRITIC_9 = [[0.25, -1.0, 0.5], [0.5, 0.0, 1.0]]  # divided by 4 and 6
TRUST_9 = [[0.5, 1.0, 0.0], [1.0, 0.5, 0.25]]  # by 200 and 4
AGENTS_9 = [[0.5, -1.0, 0.25]] * 2  # by 20, the same for both members


@pytest.mark.parametrize("use", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)])
def test_equation_9_with_any_components(use, chances):
    critic, trust, agents = map(bool, use)
    config = replace(PLAIN, use_critic=critic, use_trust=trust, use_agent_values=agents, trust_batch_size=10)
    advice = advised(config)
    run(advice, 1)
    parts = [torch.tensor(p) for p, on in zip((CRITIC_9, TRUST_9, AGENTS_9), use) if on]
    expected = torch.stack(parts).sum(dim=0).double()
    torch.testing.assert_close(advice.last["score"], expected)
    torch.testing.assert_close(chances[0], expected.exp() / expected.exp().sum(dim=1, keepdim=True))


def test_a_component_of_zeros_stays_zero(chances):
    advice = advised(PLAIN)
    advice.signals["td"].trust.values = torch.zeros(2, 3, dtype=F64)
    run(advice, 1)
    # critic and agent values: (0.75, -2, 0.75) and (1, -1, 1.25)
    near(advice.last["score"], [[0.75, -2.0, 0.75], [1.0, -1.0, 1.25]])


def test_equation_2_temperature_falls_with_the_epochs(chances):
    """Trust (4, 2, 1) / 4 of member 1; T = 0.5 exp(-ln 2 epoch): 0.5, 0.25, 0.125 in steps 1, 11 and 21. Member 0
    has T = 2 throughout."""
    config = replace(
        PLAIN,
        use_critic=False,
        use_agent_values=False,
        temperature=(2.0, 0.5),
        temperature_decay=(0.0, math.log(2)),
        trust_batch_size=1000,  # never learned
        trust_buffer_size=1000,
    )
    run(advised(config), 21)
    assert len(chances) == 3
    for epoch, temperature in enumerate((0.5, 0.25, 0.125)):
        weights = [math.exp(v / temperature) for v in (1.0, 0.5, 0.25)]
        near(chances[epoch][1], [w / sum(weights) for w in weights])
        weights = [math.exp(v / 2) for v in (0.5, 1.0, 0.0)]
        near(chances[epoch][0], [w / sum(weights) for w in weights])


def test_greedy(chances):
    """Sums of Eq. 9: (1.25, -1, 0.75) and (2, -0.5, 1.5): the first is best; 30% uniform over three."""
    run(advised(replace(PLAIN, choice="greedy", epsilon=0.3)), 1)
    near(chances[0], [[0.8, 0.1, 0.1]] * 2, 1e-6)


def test_uniform(chances):
    advice = advised(replace(PLAIN, choice="uniform"))
    assert advice.signals["td"].trust is None and advice.signals["td"].agents is None
    run(advice, 1)
    near(chances[0], [[1 / 3] * 3] * 2)


@pytest.mark.parametrize("rule", ["paper", "greedy", "standardised"])
def test_without_any_component_the_choice_is_uniform(rule, chances):
    run(make(replace(PLAIN, choice=rule, use_critic=False, use_trust=False, use_agent_values=False), n=3), 1)
    near(chances[0], [[1 / 3] * 3] * 3)


@pytest.mark.parametrize("rule", ["uniform", "paper", "greedy", "standardised"])
def test_following_others_only(rule, chances):
    advice = advised(replace(PLAIN, choice=rule, only_follow_others=True, follow_steps=1))
    followed, _, _ = run(advice, 40)
    assert set(followed[0]) <= {1, 2} and set(followed[1]) <= {0, 2}
    if rule == "uniform":
        near(chances[0], [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
        assert set(followed[0]) == {1, 2} and set(followed[1]) == {0, 2}
    for p in chances:
        assert p[0, 0] == 0 and p[1, 1] == 0


def test_self_share_and_epsilon(chances):
    """Greedy on (1.25, -1, 0.75) and (2, -0.5, 1.5); 0.2 for oneself, 0.3 uniform: 0.5 + 0.1 for the best."""
    run(advised(replace(PLAIN, choice="greedy", epsilon=0.3, self_share=0.2)), 1)
    near(chances[0], [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]], 1e-6)


@pytest.mark.parametrize("rule", ["paper", "greedy", "standardised"])
def test_only_a_member_whose_critic_diverged_chooses_uniformly(rule, chances):
    config = replace(PLAIN, choice=rule, use_trust=False, use_agent_values=False)
    advice = make(config, n=3, opinion=[[1.0, math.nan, 2.0], [3.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    run(advice, 1)
    near(chances[0][0], [1 / 3] * 3)
    assert chances[0][1].argmax() == 0 and chances[0][2].argmax() == 2


# --- learning from the suggestion buffer -------------------------------------------------


@pytest.mark.parametrize("advantage", [False, True])
@pytest.mark.parametrize("looks", [1, 20])
@pytest.mark.parametrize("memory, capacity", [(1000, 10_000), (25, 10_000), (1000, 25), (1000, 30)])
def test_trust_is_learned_from_the_followed_advisers(memory, capacity, looks, advantage):
    """Against Equations 4 to 8 written as loops over plain numbers, compared every `looks` steps; the history wraps
    around."""
    N, R, K, B, steps, alpha = 2, 2, 3, 4, 80, 0.3
    starts, gammas = [0, 7], [0.5, 0.9]
    group = Stub(N, R, learning_starts=starts, gammas=(*gammas, *gammas), capacity=capacity)
    config = replace(
        PLAIN, choice="paper", use_critic=False, lr=alpha, trust_batch_size=B, trust_buffer_size=memory,
        use_advantage=advantage, follow_steps=3, init_trust_values=20.0, init_agent_values=10.0,
    )  # fmt: skip
    advice = make(config, group, fixed=[Says(2.0)])
    n_agents = 2  # max(1, 4 // 2)
    samples = Streams(group.stream_keys, "trust", (B + n_agents,), "uniform")
    noise = Streams(group.stream_keys, "trust-noise", (B + n_agents, 1), "normal", dtype=F64)
    trust = [[20.0] * K for _ in range(N * R)]
    agents = [[10.0] * K for _ in range(R)]
    history: list[list[int]] = [[] for _ in range(N * R)]  # whom m followed in step 1, 2, ...
    kept = min(memory, capacity)
    for step in range(1, steps + 1):
        followed, _, _ = run(advice, 1, starts=(1, 40), first=step)
        u, z = samples.next(), noise.next()
        pools: list[list[list[float]]] = [[[] for _ in range(K)] for _ in range(R)]
        for m in range(N * R):
            history[m].append(followed[m, 0])
            available = min(step - starts[m % N], kept)
            if available < B:
                continue
            own: list[list[float]] = [[] for _ in range(K)]
            for b in range(B + n_agents):
                t = step - int(u[m, b] * available)
                assert t > starts[m % N]  # transitions made with advice alone
                value = t + m / 8 + z[m, b, 0].item() / 10
                target = t * t + (0 if t % 4 == 0 else gammas[m % N] * (value + 1))
                target -= value if advantage else 0
                (own if b < B else pools[m // N])[history[m][t - 1]].append(target)
            for j in range(K):
                if own[j]:
                    trust[m][j] += alpha * (sum(own[j]) / len(own[j]) - trust[m][j])
        for r in range(R):
            for j in range(K):
                if pools[r][j]:
                    agents[r][j] += alpha * (sum(pools[r][j]) / len(pools[r][j]) - agents[r][j])
        if step % looks == 0:  # in between the updates may be put off
            seen = advice.signals["td"].report()
            near(seen["trust_td"], trust)
            near(seen["agent_value"][::N], agents)
    assert len({len(set(h)) for h in history}) == 1 and set(history[0]) == {0, 1, 2}


# --- the times of choices ------------------------------------------------------------------------

UNIFORM = replace(PLAIN, choice="uniform")


def test_a_choice_every_ten_steps():
    _, _, decisions = run(make(UNIFORM, n=3), 35)
    assert decisions == [[1, 11, 21, 31]] * 3
    assert AdviceConfig().follow_steps == 10


def test_between_choices_the_adviser_stays():
    followed, _, _ = run(make(replace(UNIFORM, follow_steps=4), n=8), 40)
    blocks = followed.reshape(8, 10, 4)
    assert (blocks == blocks[:, :, :1]).all()
    assert len(np.unique(blocks[:, :, 0])) == 8


def test_a_new_episode_forces_a_choice():
    _, _, decisions = run(make(UNIFORM), 35, starts=(1, 6, 8, 30))
    assert decisions == [[1, 6, 8, 18, 28, 30]] * 2


def test_with_the_papers_setting_the_count_continues_over_episodes():
    _, _, decisions = run(make(replace(UNIFORM, follow_across_episodes=True)), 35, starts=(1, 6, 8, 30))
    assert decisions == [[1, 11, 21, 31]] * 2


def test_warm_up_is_random_and_without_choices():
    advice = make(replace(UNIFORM, follow_steps=3), learning_starts=[4, 0])
    followed, actions, decisions = run(advice, 12)
    assert decisions == [[5, 8, 11], [1, 4, 7, 10]]
    assert actions[0, :4].tolist() == [-1.0] * 4 and (actions[0, 4:] != -1).all() and (actions[1] != -1).all()
    assert followed[0, :4].tolist() == [0] * 4


def test_solo_epochs_follow_switch_ratio_peer_epochs_and_end():
    """Epochs of 10 steps, two with peers and one solo: solo in steps 21-30 and 51-60."""
    followed, actions, decisions = run(make(replace(UNIFORM, switch_ratio=2, follow_steps=4), n=4), 65)
    expected = [1, 5, 9, 13, 17, 31, 35, 39, 43, 47, 61, 65]
    assert decisions == [expected] * 4
    for solo in (slice(20, 30), slice(50, 60)):
        assert (followed[:, solo] == np.arange(4)[:, None]).all()
        assert (actions[:, solo] == 1000 + np.arange(4)[:, None]).all()  # one's own action, with exploration
    assert (followed[:, 30:50] != np.arange(4)[:, None]).any()


def test_the_count_restarts_after_a_solo_epoch():
    _, _, decisions = run(make(replace(UNIFORM, switch_ratio=2, follow_steps=7)), 45)
    assert decisions == [[1, 8, 15, 31, 38, 45]] * 2


def test_one_peer_epoch_a_solo_epoch():
    _, _, decisions = run(make(replace(UNIFORM, switch_ratio=1)), 45)
    assert decisions == [[1, 21, 41]] * 2


def test_early_advice_ends():
    followed, _, decisions = run(make(replace(UNIFORM, max_peer_epochs=2, only_follow_others=True)), 45)
    assert decisions == [[1, 11]] * 2
    assert (followed[:, :20] == [[1], [0]]).all() and (followed[:, 20:] == [[0], [1]]).all()
    _, _, never = run(make(replace(UNIFORM, max_peer_epochs=0)), 15)
    assert never == [[], []]


def test_only_members_that_follow_themselves_explore():
    """Member j suggests j, the expert 7: only members that follow themselves explore (1000 more)."""
    followed, actions, _ = run(make(replace(UNIFORM, follow_steps=2), n=2, replicas=2, fixed=[Says(7.0)]), 60)
    said = np.array([0, 1, 7])[followed]
    own = followed == np.array([0, 1, 0, 1])[:, None]
    assert (actions == said + 1000 * own).all()
    assert {0, 1, 2} == set(followed.ravel()) and own.any() and not own.all()


def test_fixed_advisers_are_asked_by_members_that_choose_or_follow_them():
    expert = Says(7.0)
    advice = make(replace(UNIFORM, follow_steps=5), n=3, fixed=[expert])
    followed, _, _ = run(advice, 40)
    asked = iter(expert.asked)
    for step in range(1, 41):
        who = [0, 1, 2] if step % 5 == 1 else np.flatnonzero(followed[:, step - 1] == 3).tolist()
        assert (next(asked) if who else []) == who
    assert next(asked, None) is None
    # a uniform choice needs no answers: one query per step for following another adviser
    others = followed != np.arange(3)[:, None]
    assert advice.queries.tolist() == others.sum(axis=1).tolist()


def test_a_member_that_scores_its_advisers_asks_all_of_them():
    """Two queries at a choice, one per step in between for following another."""
    advice = advised(replace(PLAIN, follow_steps=5))
    followed, _, _ = run(advice, 40)
    others = (followed != np.arange(2)[:, None]) & (np.arange(40) % 5 != 0)
    assert advice.queries.tolist() == (8 * 2 + others.sum(axis=1)).tolist() and others.any()


def test_a_members_choices_do_not_depend_on_other_replicas():
    """The same draws in a group with other replicas; the counts are of decisions."""
    one, _, _ = run(make(UNIFORM, n=3, replicas=1), 60)
    advice = make(UNIFORM, n=3, replicas=3)
    three, _, _ = run(advice, 60)
    assert (three[:3] == one).all()
    assert len({tuple(row) for row in three}) == 9
    assert advice.counts.sum(axis=1).tolist() == [6] * 9


def test_a_group_of_one_chooses_among_its_fixed_advisers(chances):
    advice = make(replace(UNIFORM, follow_steps=1), n=1, fixed=[Says(5.0)])
    followed, _, _ = run(advice, 50)
    near(chances[0], [[0.5, 0.5]])
    assert set(followed[0]) == {0, 1}
