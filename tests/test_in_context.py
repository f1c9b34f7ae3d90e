"""In-context trust: its numbers by hand, hidden inputs, what it must learn, and the whole system with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transitions import transition

from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.learners.base import Learner, Space
from peerage.learners.defaults import default_settings
from peerage.learners.group import Group
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener
from peerage.training.runner import Runner
from peerage.trust.in_context import MIN_DECISIONS, InContextTrust
from peerage.trust.in_context_model import HEADS, LAYERS
from peerage.trust.in_context_settings import ContextSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

F64 = torch.float64
NEVER = 10**9


pytestmark = pytest.mark.usefixtures("one_thread")


class Critics:
    """Critics that are easy to compute by hand: member m values a state by `V = slope[m] s` and an action in it by
    `Q = s + a / 10`; gamma = 0.5, actions in [-10, 10]."""

    has_action_value = True
    action_values = Learner.action_values

    def __init__(self, n=2, replicas=1, slope=None):
        self.N, self.R, self.M = n, replicas, n * replicas
        self.device, self.dtype = torch.device("cpu"), F64
        self.space = Space(1, 1, low=np.array([-10], np.float32), high=np.array([10], np.float32))
        self.slope = torch.zeros(self.M, 1, dtype=F64) if slope is None else torch.tensor(slope, dtype=F64).unsqueeze(1)

    def gamma(self):
        return torch.full((self.M, 1), 0.5, dtype=F64)

    def state_value(self, obs, noise):
        return self.slope * obs[..., 0]

    def action_value(self, obs, actions):
        return obs[..., 0] + actions[..., 0] / 10


class Indifferent(Critics):
    """Critics that know nothing: everything is worth 0."""

    def action_value(self, obs, actions):
        return torch.zeros_like(obs[..., 0])


def trust_of(group, n_advisers=3, *, seed=0, follow_steps=10, total_steps=4000, **settings) -> InContextTrust:
    settings = {"context_length": 30, "context_update_freq": NEVER} | settings
    return InContextTrust(
        ContextSettings(**settings), group, n_advisers, seed=seed, follow_steps=follow_steps, total_steps=total_steps
    )


def choose(trust, obs, suggestions, step, who=None):
    """What the members `who` (all) see at a choice: `[M, K]`."""
    M = trust.M
    obs = torch.tensor(obs, dtype=trust.group.dtype).reshape(M, -1)
    said = torch.tensor(suggestions, dtype=trust.group.dtype).expand(M, -1, -1)
    due = np.ones(M, bool) if who is None else who
    return trust.values(obs, said, due, step)["in_context"]


def act(trust, obs, followed, rewards, *, chose=True, next_obs=None, terminated=False, done=False):
    """One step of all members."""
    M = trust.M
    obs = np.asarray(obs, np.float32).reshape(M, -1)
    after = obs if next_obs is None else np.asarray(next_obs, np.float32).reshape(M, -1)
    truncated = np.array(done) & ~np.array(terminated)
    trust.observe(
        transition(
            obs, 0.0, rewards, after, terminated=terminated, truncated=truncated, followed=followed, chose=chose
        )
    )
    trust.after_step(trust.step)


class World:
    """Members follow random advisers from random states in [-1, 1]; a decision is worth `reward(state, adviser)` and
    noise. The places of the fixed advisers can be permuted: adviser `places[j]` is passed and chosen as `j`."""

    def __init__(self, trust, seed=0, places=None, noise=0.3):
        self.trust, self.rng, self.noise = trust, np.random.default_rng(seed), noise
        self.places = np.arange(trust.K) if places is None else np.array(places)
        self.said = np.linspace(-10, 10, trust.K)

    def suggestions(self):
        return self.said[self.places].reshape(1, -1, 1)

    def play(self, steps, reward, unit=1.0, origin=0.0):
        """`steps` decisions of every member; states `[steps, M]` and what was seen at the choices `[steps, M, K]`.
        Trust receives `unit * state + origin`."""
        t, states, seen = self.trust, [], []
        for _ in range(steps):
            obs = self.rng.uniform(-1, 1, t.M)
            adviser = self.rng.integers(t.K, size=t.M)  # before they are permuted
            told = unit * obs + origin
            seen.append(choose(t, told, self.suggestions(), t.step + 1).numpy())
            rewards = np.array([reward(x, j) for x, j in zip(obs, adviser, strict=True)])
            act(t, told, np.argsort(self.places)[adviser], rewards + self.noise * self.rng.normal(size=t.M))
            states.append(obs)
        return np.array(states), np.array(seen)


def only(good):
    return lambda x, j: float(j == good)


def say(trust, seed=1):
    """Give a model that has learned nothing something to say."""
    trust.model.stack.flat.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))


# --- the value of decisions, by hand --------------------------------------------------------------------------


def test_valuation_by_hand():
    """V_0(s) = s, V_1(s) = 2 s, Q = s + a / 10, gamma = 0.5. Two steps from 1 to 4 and from 2 to 6: rewards 1 and 3,
    2 and -2. A_0 = 1 + 3/2 + 4/4 - 1 = 2.5, A_1 = 2 - 1 + 12/4 - 4 = 0. Of suggestions 0, 5, 10 the critics say
    s + a/10 - V(s) = 0, 0.5, 1 and -2, -1.5, -1."""
    trust = trust_of(Critics(slope=[1.0, 2.0]), follow_steps=2)
    choose(trust, [1.0, 2.0], [[[0.0], [5.0], [10.0]]], 1)
    act(trust, [1.0, 2.0], [1, 2], [1.0, 2.0])
    act(trust, [3.0, 3.0], [1, 2], [3.0, -2.0], chose=False)
    choose(trust, [4.0, 6.0], [[[0.0], [5.0], [10.0]]], 3)
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], [2.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(trust.valuation.critic[:, 0], [[0.0, 0.5, 1.0], [-2.0, -1.5, -1.0]], atol=1e-12)
    # exp(-4 d / 20): 5 and 10 apart of 20 are e^-1 and e^-2
    near, far = math.exp(-1), math.exp(-2)
    np.testing.assert_allclose(trust.valuation.agreement[:, 0], [[near, 1, near], [far, near, 1]], rtol=1e-6)
    assert trust.decisions.kept["ended"][:, 0].tolist() == [2, 2]


def test_valuation_at_the_end_of_an_episode():
    """In a terminal state (member 0) nothing follows; a truncation (member 1) goes by its true last state:
    A_0 = 4 - 1 = 3, A_1 = 4 + 0.5 * 2 * 7 - 2 = 9."""
    trust = trust_of(Critics(slope=[1.0, 2.0]), follow_steps=5)
    choose(trust, [1.0, 1.0], [[[0.0]] * 3], 1)
    act(trust, [1.0, 1.0], [0, 1], [4.0, 4.0], next_obs=[7.0, 7.0], terminated=[True, False], done=True)
    choose(trust, [0.0, 0.0], [[[0.0]] * 3], 2)  # the new episode
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], [3.0, 9.0], atol=1e-12)
    assert trust.decisions.count.tolist() == [1, 1]


def test_the_value_of_a_terminal_state_is_not_asked():
    """As above, with critics that say NaN of the state 7: it takes away what goes by it, and A_0 = 3 does not."""

    class Broken(Critics):
        def state_value(self, obs, noise):
            return torch.where(obs[..., 0] == 7, torch.nan, super().state_value(obs, noise))

    trust = trust_of(Broken(slope=[1.0, 2.0]), follow_steps=5)
    choose(trust, [1.0, 1.0], [[[0.0]] * 3], 1)
    act(trust, [1.0, 1.0], [0, 1], [4.0, 4.0], next_obs=[7.0, 7.0], terminated=[True, False], done=True)
    choose(trust, [0.0, 0.0], [[[0.0]] * 3], 2)
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], [3.0, 0.0], atol=1e-12)


def test_decisions_are_valued_again_with_the_current_critics():
    group = Critics(slope=[1.0, 2.0])
    trust = trust_of(group)
    choose(trust, [1.0, 1.0], [[[0.0]] * 3], 1)
    act(trust, [1.0, 1.0], 0, 0.0)
    choose(trust, [2.0, 2.0], [[[0.0]] * 3], 2)
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], [0.5 * 2 - 1, 0.5 * 4 - 2], atol=1e-12)
    group.slope = -group.slope
    choose(trust, [2.0, 2.0], [[[0.0]] * 3], 3)  # nothing has ended since: nothing is looked at
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], 0.0, atol=1e-12)
    trust.value_decisions(5, np.array([False, True]))
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], [0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(trust.valuation.critic[:, 0, 0], [0.0, 3.0], atol=1e-12)  # 1 - V: member 1 only


def test_valuation_with_real_critics():
    """DQN without hidden layers: Q_0 = (s, 2 s, 3), Q_1 = (-s, 0, s); from 1 to 4 at gamma 0.5 and a reward of 1.
    V_0: 3, 8; V_1: 1, 4. A = 1 + 4 - 3 = 2 and 1 + 2 - 1 = 2."""
    member = replace(default_settings("dqn"), net_arch=(), buffer_size=10, batch_size=2, gamma=0.5)
    group = Group([member] * 2, 1, 0, Space(1, 1, n_actions=3), 100, dtype=F64)
    q = group.stacks[0].learner.q
    for row, (slopes, biases) in enumerate((([1.0, 2.0, 0.0], [0.0, 0.0, 3.0]), ([-1.0, 0.0, 1.0], [0.0] * 3))):
        q.constants["0.weight"][row] = torch.tensor([slopes], dtype=F64)
        q.constants["0.bias"][row, 0] = torch.tensor(biases, dtype=F64)
    trust = trust_of(group, 4)
    choose(trust, [1.0, 1.0], [[[0.0], [1.0], [2.0], [1.0]]], 1)
    act(trust, [1.0, 1.0], [3, 0], 1.0)
    choose(trust, [4.0, 4.0], [[[0.0]] * 4], 2)
    np.testing.assert_allclose(trust.valuation.advantage[:, 0], [2.0, 2.0], atol=1e-12)
    np.testing.assert_allclose(trust.valuation.critic[:, 0], [[-2, -1, 0, -1], [-2, -1, 0, -1]], atol=1e-12)
    assert trust.valuation.agreement[:, 0].tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]


def test_a_diverged_critic_does_not_affect_other_members():
    """Member 0's critic returns NaN, then infinity: its decisions count as 0, those of the other member are
    unchanged."""
    group = Critics(slope=[1.0, 2.0])
    trust = trust_of(group, context_update_freq=2)
    World(trust).play(40, only(2))
    known = trust.valuation.advantage[1, :39].copy()
    for slope in (math.nan, math.inf):
        group.slope = torch.tensor([[slope], [2.0]], dtype=F64)
        trust.value_decisions(100, np.ones(2, bool))
        assert not trust.valuation.advantage[0, :39].any() and not trust.valuation.critic[0, :39].any()
        np.testing.assert_allclose(trust.valuation.advantage[1, :39], known)
        before = trust.updates.copy()
        _, seen = World(trust, seed=1).play(10, only(2))
        assert np.isfinite(seen).all() and np.abs(seen[:, 1]).max() > 0
        assert (trust.updates > before).all() and trust.active.all() and trust.model.stack.flat.isfinite().all()


def test_decisions_without_a_choice_are_dropped():
    """A member that follows another adviser without a choice has no open decision any more. Neither has one whose
    decision has lasted `follow_steps` steps."""
    trust = trust_of(Critics(), follow_steps=2)
    choose(trust, [0.0, 0.0], [[[0.0]] * 3], 1)
    act(trust, [0.0, 0.0], [1, 1], 1.0)
    act(trust, [0.0, 0.0], [1, 0], 1.0, chose=False)  # member 1 is back with itself
    choose(trust, [0.0, 0.0], [[[0.0]] * 3], 3)
    assert trust.decisions.count.tolist() == [1, 0]
    for n in range(3):
        act(trust, [0.0, 0.0], [0, 0], 1.0, chose=n == 0)
    choose(trust, [0.0, 0.0], [[[0.0]] * 3], 6)
    assert trust.decisions.count.tolist() == [1, 0]


# --- tokens ---------------------------------------------------------------------------------------------------


def test_tokens_by_hand():
    """Two members, two decisions of theirs, and member 1's query in step 7 (follow_steps 2) about adviser 1."""
    trust = trust_of(Critics(), 3, follow_steps=2, context_length=4, context_identity=True)
    d = trust.decisions
    d.kept["obs"][0, 0], d.kept["followed"][0, 0], d.kept["ended"][0, 0] = 0.0, 1, 4
    d.kept["obs"][1, 0], d.kept["followed"][1, 0], d.kept["ended"][1, 0] = -1.0, 0, 6
    trust.valuation.advantage[:, 0], trust.valuation.scale[:] = [3.0, -40.0], [2.0, 4.0]
    trust.valuation.critic[:, 0] = [[2.0, 4.0, 0.0], [4.0, 8.0, -12.0]]
    trust.valuation.agreement[:, 0] = [[0.5, 1.0, 0.0], [1.0, 0.25, 0.75]]
    entries, valid = np.array([[0, 0, d.capacity]]), np.array([[False, True, True]])
    tokens = trust.tokens.make(
        entries, valid, np.array([1]), np.array([[1]]), np.array([7]), np.array([[1.0]]), np.array([[4.0, 8.0, 0.0]])
    )[0, 0]
    near = dict(rtol=1e-5, atol=1e-6)
    facts = tokens[:, list(trust.tokens.columns.facts)]
    assert not tokens[0].any()
    # the states 0 and -1 have mean -0.5 and deviation 0.5
    np.testing.assert_allclose(tokens[:, 0], [0, 1, -1, 3], **near)
    # followed; A / scale; that if followed; critic of it and of all; agrees; A if so; mine; log(1 + 3 / 2) / 4
    np.testing.assert_allclose(facts[1], [1, 1.5, 1.5, 2, 1, 1, 1.5, 0, math.log(2.5) / 4, 0, 0, 0], **near)
    # -40 / 4 is cut to -5; log(1 + 1 / 2) / 4
    np.testing.assert_allclose(facts[2], [0, -5, 0, 2, 0, 0.25, -1.25, 1, math.log(1.5) / 4, 0, 0, 0], **near)
    # the query: critic 8 / 4 and the mean of 1, 2, 0; adviser 1 is member 1 itself; no past
    np.testing.assert_allclose(facts[3], [0, 0, 0, 2, 1, 0, 0, 0, 0, 1, 1, 1], **near)
    columns = trust.tokens.columns
    assert tokens[3, columns.identity].tolist() == [0, 1, 0] and not tokens[:3, columns.overall[0] :].any()
    sums = tokens[3, [*columns.overall, *columns.near]]
    # over both: followed once, 1.5 / 2; it agrees 1 + 0.25 times: (1.5 - 1.25) / 2.25; critics (2 + 2) / 3
    np.testing.assert_allclose(sums[:4], [0.75, math.log(2) / 4, 0.25 / 2.25, 4 / 3], **near)
    # near s = 1: 2 and 4 deviations off
    a, b = math.exp(-2 * 2**2), math.exp(-2 * 4**2)
    expected = [a * 1.5 / (a + 1), math.log1p(a) / 4, (a * 1.5 - b * 1.25) / (a + b / 4 + 1), (a + b) * 2 / (a + b + 1)]
    np.testing.assert_allclose(sums[4:], expected, **near)
    estimate = trust.model.kernel_estimate(torch.as_tensor(tokens)).item()
    assert estimate == pytest.approx(expected[0] + expected[2], rel=1e-3)


def test_kernel_estimate_by_hand():
    """In one and the same state all weights are 1: adviser 0 was followed twice (A = 2, 4), adviser 1 once (-3), and
    they never agreed: 6 / 3 and -3 / 2, twice each, for the means of following and of agreeing are the same."""
    trust = trust_of(Critics(), 3, context_length=4, context_critics=False)
    d = trust.decisions
    d.kept["followed"][0, :3], trust.valuation.advantage[0, :3] = [0, 0, 1], [2.0, 4.0, -3.0]
    trust.valuation.agreement[0, :3] = np.eye(3)[[0, 0, 1]]
    tokens = trust.tokens.make(
        np.array([[0, 1, 2]]), np.ones((1, 3), bool), np.array([0]), np.arange(3)[None], np.array([9]),
        np.zeros((1, 1)), np.zeros((1, 3)),
    )  # fmt: skip
    estimate = trust.model.kernel_estimate(torch.as_tensor(tokens))[0]
    np.testing.assert_allclose(estimate, [4.0, -3.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("unit, origin", [(300.0, 0.0), (1e-3, 0.0), (300.0, 9000.0), (1e30, 0.0)])
def test_the_unit_and_origin_of_observations_have_no_effect(unit, origin):
    """Adviser 1 is right for states below 0, adviser 2 above: the values are those of states in [-1, 1], while the
    model learns."""
    found = []
    for arguments in ((1.0, 0.0), (unit, origin)):
        trust = trust_of(Indifferent(), context_update_freq=20)
        states, seen = World(trust).play(150, lambda x, j: float(j == 1 + (x > 0)), *arguments)
        found.append(seen)
        assert (trust.updates > 0).all()
    right = np.where(states[-50:] > 0, seen[-50:, :, 2] - seen[-50:, :, 1], seen[-50:, :, 1] - seen[-50:, :, 2])
    assert right.mean() > 0.5
    np.testing.assert_allclose(found[1], found[0], atol=0.05)


@pytest.mark.parametrize("critics", [True, False])
def test_critics_can_be_left_out(critics):
    trust = trust_of(Critics(slope=[1.0, 2.0]), context_critics=critics)
    World(trust).play(30, only(2))
    tokens, _ = ask(trust)
    c = trust.tokens.columns
    columns = [c.facts.critic, c.facts.mean_critic, c.overall.mean_critic, c.near.mean_critic]
    assert [bool(tokens[..., column].any()) for column in columns] == [critics] * 4


def ask(trust, x=0.3):
    """The queries of all members from the state `x`, without ending anybody's decision."""
    obs = torch.full((trust.M, 1), x, dtype=trust.group.dtype)
    said = torch.as_tensor(np.linspace(-10, 10, trust.K).reshape(1, -1, 1), dtype=obs.dtype).expand(trust.M, -1, -1)
    return trust.queries(np.arange(trust.M), obs.numpy(), obs, said, trust.step + 1)


# --- what it may not see --------------------------------------------------------------------------------------


class Scripted:
    """A random generator that draws every finished decision once, in their order."""

    def random(self, n):
        return (np.arange(n) + 0.5) / n


def every_window(trust):
    """All finished decisions of replica 0 as queries: their entries, and tokens, valid, outcome of `windows`."""
    finished = trust.decisions.finished(0, NEVER)
    trust.config = replace(trust.config, context_batch_size=len(finished))
    trust.rngs = [Scripted()]
    tokens, valid, outcome = trust.windows(np.array([True]))
    return finished, tokens[0], valid[0], outcome[0]


def test_the_outcome_of_the_query_is_hidden():
    """With another reward of the decision a window asks about, its tokens are the same; later ones are not."""
    trust = trust_of(Critics(slope=[1.0, 2.0]), context_length=12)
    World(trust).play(25, only(2))
    finished, tokens, _, outcome = every_window(trust)
    for n in (0, 7, 30, len(finished) - 1):
        entry = finished[n]
        trust.decisions.kept["reward"].reshape(-1)[entry] += 1.5
        trust.value_decisions(100, np.ones(2, bool))
        _, changed, _, now = every_window(trust)
        assert np.array_equal(changed[n], tokens[n]) and now[n] != outcome[n]
        later = np.flatnonzero((changed != tokens).any(axis=(1, 2)))
        assert (later > n).all() and (n > len(finished) - 3 or len(later) >= 8)
        trust.decisions.kept["reward"].reshape(-1)[entry] -= 1.5
        trust.value_decisions(100, np.ones(2, bool))


def uneven(trust, steps=60, seed=3):
    """Members whose decisions last for one to six steps, each for itself; what they saw at every choice."""
    rng, M = np.random.default_rng(seed), trust.M
    seen, left = {}, np.zeros(M, int)
    followed = np.zeros(M, int)
    for _ in range(steps):
        obs, due = rng.integers(-64, 65, M) / 64, left == 0  # exact in single precision
        if due.any():
            choose(trust, obs, np.linspace(-10, 10, trust.K).reshape(1, -1, 1), trust.step + 1, due)
            rows = np.flatnonzero(due & (trust.decisions.ordered >= MIN_DECISIONS).repeat(trust.N))
            if len(rows):
                state = torch.as_tensor(obs).unsqueeze(1)
                said = torch.as_tensor(trust.asked, dtype=F64)
                tokens, valid = trust.queries(rows, state.numpy().astype(np.float32), state, said, trust.step + 1)
                seen |= {(m, trust.step + 1): (tokens[n], valid[n]) for n, m in enumerate(rows)}
            followed = np.where(due, rng.integers(trust.K, size=M), followed)
            left = np.where(due, rng.integers(1, 7, M), left)
        done = rng.random(M) < 0.05
        act(trust, obs, followed, rng.normal(size=M), chose=due, done=done, next_obs=rng.integers(-64, 65, M) / 64)
        left = np.where(done, 0, left - 1)
    return seen


def test_the_context_ends_before_the_query_begins():
    trust = trust_of(Critics(3), context_length=6, follow_steps=6)
    uneven(trust)
    d = trust.decisions
    finished = d.finished(0, NEVER)
    begun, ended = d.kept["begun"].ravel(), d.kept["ended"].ravel()
    entries, filled = trust.tokens.context(begun[finished], finished)
    lasted = (ended - begun)[finished]
    assert lasted.max() >= 4 and len(finished) > 40
    for n, entry in enumerate(finished):
        expected = [e for e in finished if ended[e] < begun[entry]][-5:]
        assert entries[n][filled[n]].tolist() == expected and entry not in expected
        assert not filled[n][: 5 - len(expected)].any()
    # some of those that were over before the query was: they are left out
    assert any(ended[e] < ended[q] for q in finished for e in finished if ended[e] >= begun[q] and e != q)


def test_a_query_recomputed_from_memory_is_the_same():
    """Tokens at the choice and later, in training: the same bits while critics and scales are the same."""
    trust = trust_of(Critics(3, slope=[1.0, 2.0, 0.0]), context_length=9, follow_steps=6)
    made = uneven(trust)
    finished, tokens, valid, _ = every_window(trust)
    d, compared = trust.decisions, 0
    for n, entry in enumerate(finished):
        m, slot = divmod(int(entry), d.capacity)
        if (m, d.kept["begun"][m, slot]) in made:
            then, filled = made[m, d.kept["begun"][m, slot]]
            assert np.array_equal(then[d.kept["followed"][m, slot]], tokens[n]) and np.array_equal(filled, valid[n])
            compared += 1
    assert compared > 10


# --- no names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [False, True])
def test_values_follow_a_permutation_of_the_advisers(identity):
    """The same history with the fixed advisers in other places: the values change places with them. With names to
    remember they need not."""
    places = [0, 1, 4, 2, 3]
    seen = []
    for order in (None, places):
        trust = trust_of(Critics(slope=[1.0, 2.0]), 5, context_identity=identity)
        say(trust)
        seen.append(World(trust, places=order).play(40, only(3))[1])
    assert np.abs(seen[0][-1]).min() > 1e-3
    same = np.allclose(seen[0][:, :, places], seen[1], rtol=1e-5, atol=1e-6)
    assert same != identity


@pytest.mark.parametrize("hide", [0.0, 0.5, 1.0])
def test_identities_are_hidden_in_a_share_of_the_windows(hide):
    """The query names whom it asks about, in training the one who was followed, but for a share of the windows."""
    trust = trust_of(Critics(), 3, context_identity=True, context_hide_identity=hide, context_batch_size=200)
    World(trust).play(40, only(2))
    tokens, _, _ = trust.windows(np.array([True]))
    names = tokens[0, :, -1, trust.tokens.columns.identity]
    assert names.shape == (200, 3) and not tokens[0, :, :-1, trust.tokens.columns.identity].any()
    hidden = (names == 0).all(axis=1)
    assert (names[~hidden].sum(axis=1) == 1).all() and abs(hidden.mean() - hide) < 0.1
    if hide < 1:
        assert (names[~hidden].sum(axis=0) > 10).all()
    assert (ask(trust)[0][:, :, -1, trust.tokens.columns.identity] == np.eye(3)).all()  # never hidden at a choice


def test_tokens_mark_the_asker_and_the_members():
    """The tokens identify the asker among the advisers, and the learners."""
    trust = trust_of(Critics(2, 2), 4)
    World(trust).play(30, only(3))
    tokens, _ = ask(trust)  # [4, 4, L, width]
    facts = trust.tokens.columns.facts
    assert tokens[:, :, -1, facts.is_self].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]] * 2
    assert tokens[:, :, -1, facts.is_member].tolist() == [[1, 1, 0, 0]] * 4


# --- estimators -----------------------------------------------------------------------------------------------


def last_values(estimator, steps=40, **settings):
    trust = trust_of(Critics(slope=[1.0, 2.0]), 4, context_estimator=estimator, **settings)
    return trust, World(trust).play(steps, only(2))[1][-1]


def test_before_learning_both_is_the_kernel_and_the_transformer_is_zero():
    kernel, both, transformer = (last_values(name)[1] for name in ("kernel", "both", "transformer"))
    assert np.array_equal(kernel, both) and np.abs(kernel).min() > 0.01
    assert not transformer.any()


def test_the_kernel_never_learns_but_keeps_its_values_up_to_date():
    trust, _ = last_values("kernel", context_update_freq=2)
    before = trust.model.stack.flat.clone()
    assert trust.updates.tolist() == [0] and "trust/loss" not in trust.metrics()
    trust.group.slope = 10 * trust.group.slope
    advantage, scale = trust.valuation.advantage.copy(), trust.valuation.scale.copy()
    World(trust).play(2, only(2))
    assert torch.equal(trust.model.stack.flat, before) and trust.updates.tolist() == [0]
    assert (trust.valuation.scale > 2 * scale).all() and (trust.valuation.advantage[:, :30] != advantage[:, :30]).all()


def test_the_transformer_alone_leaves_the_kernel_out():
    trust, _ = last_values("both")
    say(trust)
    tokens, valid = ask(trust)
    x, v = torch.as_tensor(tokens, dtype=F64).flatten(0, 1)[None], torch.as_tensor(valid).repeat_interleave(4, 0)[None]
    both = trust.model.predict(trust.model.stack.weights(), x, v)
    trust.model.estimator = "transformer"
    alone = trust.model.predict(trust.model.stack.weights(), x, v)
    torch.testing.assert_close(both - alone, trust.model.kernel_estimate(x))
    assert alone.abs().min() > 1e-3 and trust.model.kernel_estimate(x).abs().min() > 1e-3


# --- attention ------------------------------------------------------------------------------------------------


def test_attention_of_the_query():
    """A distribution over the filled places and the query itself; the content of empty places has no effect."""
    trust, _ = last_values("both", steps=20, context_length=60)  # 38 decisions: 21 places are empty
    say(trust)
    tokens, valid = ask(trust)
    x, v = torch.as_tensor(tokens, dtype=F64).flatten(0, 1)[None], torch.as_tensor(valid).repeat_interleave(4, 0)[None]
    assert (~v).sum(dim=2).tolist() == [[21] * 8]
    keep = []
    with torch.no_grad():
        out = trust.model.predict(trust.model.stack.weights(), x, v, keep)
        assert [tuple(part.shape) for part in keep] == [(1, 8, 60, HEADS)] * LAYERS
        for part in keep:
            torch.testing.assert_close(part.sum(dim=2), torch.ones(1, 8, HEADS, dtype=F64))
            assert not part[~v].any() and (part[v] > 0).all()
        dirty = torch.where(v.unsqueeze(-1), x, 1e6)
        assert torch.equal(trust.model.predict(trust.model.stack.weights(), dirty, v), out)
        short = trust.model.predict(trust.model.stack.weights(), x[:, :, 21:], v[:, :, 21:])
    torch.testing.assert_close(short, out)
    with torch.no_grad():  # the content of filled places has
        x[:, :, 30] += 1
        assert (trust.model.predict(trust.model.stack.weights(), x, v) != out).all()


# --- it finds out ---------------------------------------------------------------------------------------------


def rightly(seen, good):
    """Share of the members' choices at which the adviser `good` had the highest value."""
    return float((seen.argmax(axis=2) == good).mean())


def test_the_kernel_finds_the_good_adviser_without_learning():
    """Adviser 3 of 5 is better by three standard deviations of the noise: in the first 20 choices after the first 32
    decisions (16 of each) its value is the highest."""
    trust = trust_of(Indifferent(), 5, context_estimator="kernel", context_length=100, context_update_freq=5)
    _, seen = World(trust).play(37, only(3))
    assert not seen[:16].any()  # zeros before
    assert rightly(seen[17:], 3) >= 0.95


@pytest.mark.long
def test_the_transformer_alone_finds_the_good_adviser_and_follows_a_change():
    """Without the kernel: right after 60 updates; as sure of another adviser in another history; and, with nothing more
    learned, right again 40 decisions (a context) after the good one has become bad and a bad one good."""
    trust = trust_of(
        Indifferent(), 5, context_estimator="transformer", context_length=40, context_update_freq=2,
    )  # fmt: skip
    world = World(trust)
    world.play(16 + 120, only(3))
    assert trust.updates.tolist() == [60]
    _, seen = world.play(50, only(3))
    assert rightly(seen, 3) >= 0.95
    world.play(400, only(3))

    trust.active[:] = False  # does not learn any more
    learned = trust.model.stack.flat.clone()
    other = trust_of(Indifferent(), 5, context_estimator="transformer", context_length=40, context_update_freq=2)
    other.model.stack.flat.copy_(learned)
    other.active[:] = False
    _, seen = World(other, seed=5).play(70, only(1))
    assert rightly(seen[40:], 1) >= 0.9

    world.play(20, only(0))
    _, seen = world.play(30, only(0))
    assert rightly(seen, 0) >= 0.95
    assert torch.equal(trust.model.stack.flat, learned) and torch.equal(other.model.stack.flat, learned)


@pytest.mark.long
def test_the_good_adviser_depends_on_the_state():
    """Adviser 2 is right for s < 0, adviser 3 for s > 0: after 100 updates the member knows whom to ask where."""
    trust = trust_of(Indifferent(), 5, context_length=60, context_update_freq=2)

    def regional(x, j):
        return float(j == (2 if x < 0 else 3))

    world = World(trust)
    world.play(16 + 200, regional)
    assert trust.updates.tolist() == [100]
    states, seen = world.play(100, regional)
    clear = np.abs(states) > 0.2
    expected = np.where(states < 0, 2, 3)
    assert (seen.argmax(axis=2) == expected)[clear].mean() >= 0.9
    assert (seen.argmax(axis=2) == 3).mean() < 0.65  # not one of them everywhere


# --- the whole system -----------------------------------------------------------------------------------------

LEARNER = LearnerConfig(learning_starts=(4,), batch_size=(8,), net_arch=((8,),), train_freq=(4,), gradient_steps=(1,))
CONTEXT = ContextSettings(context_length=12, context_update_freq=4, context_batch_size=8, context_lr=3e-3)


def small(env="Room-v6", n_peers=2, **changes) -> Config:
    """A group whose model is trained and asked within a few dozen steps."""
    base = Config(
        env=env,
        n_peers=n_peers,
        advisers=("random", "random"),
        total_timesteps=200,
        device="cpu",
        learner=LEARNER,
        advice=AdviceConfig(trust="in-context", follow_steps=3),
        methods={"context": CONTEXT},
        run=RunConfig(eval_freq=0, log_freq=20, verbose=0),
    )
    return replace(base, **changes)


def model(trainer) -> InContextTrust:
    return next(s for s in trainer.sharing.signals.values() if isinstance(s, InContextTrust))


def sound(trainer, updates=1) -> None:
    """It has learned, and its last answers are numbers, and not all the same."""
    trust = model(trainer)
    assert (trust.updates >= updates).all() and trust.active.all() and trust.model.stack.flat.isfinite().all()
    assert trust.last.isfinite().all() and trust.last.std() > 0


@pytest.mark.parametrize("late", [0, 1])
def test_a_replica_starts_to_learn_independently_of_others(late):
    """One of two replicas decides in every third step only. Replica 0 learns as it does by itself, bit for bit, whether
    it is the late one or the other."""

    def history(replicas):
        trust = trust_of(Critics(2, replicas), 4, context_update_freq=2, context_length=12, follow_steps=3)
        rng, followed, losses = np.random.default_rng(0), np.zeros(4, int), []
        for step in range(1, 91):
            obs, rewards, adviser = rng.uniform(-1, 1, 4), rng.normal(size=4), rng.integers(4, size=4)
            due = np.full(4, step % 3 == 1) | (np.arange(4) // 2 != late)
            followed = np.where(due, adviser, followed)
            m = slice(0, trust.M)
            choose(trust, obs[m], np.linspace(-10, 10, 4).reshape(1, -1, 1), step, due[m]) if due[m].any() else None
            act(trust, obs[m], followed[m], rewards[m], chose=due[m])
            if step % 30 == 0:
                losses.append(trust.metrics())
        return trust, losses

    (alone, one), (both, two) = history(1), history(2)
    assert both.updates[late] < both.updates[1 - late] - 10 and both.updates[late] > 10
    assert alone.updates[0] == both.updates[0] and torch.equal(alone.model.stack.flat[0], both.model.stack.flat[0])
    assert torch.equal(alone.last, both.last[:2]) and torch.equal(one[2]["trust/loss"], two[2]["trust/loss"][:2])
    assert two[0]["trust/loss"].isnan().tolist() == [late == 0] * 2 + [late == 1] * 2  # nothing was learned as yet


def test_sac(begin):
    trainer = begin(small("Pendulum-v1"), 90)
    sound(trainer, 5)
    assert 0 < model(trainer).valuation.agreement[:, :10].min() < 1  # of real actions: by distance


def test_sac_and_td3_in_one_group(begin):
    learner = replace(LEARNER, algorithm=("sac", "td3"))
    trainer = begin(small("Pendulum-v1", learner=learner), 90)
    assert len(trainer.group.stacks) == 2
    sound(trainer, 5)


def test_one_learner_and_two_advisers(begin):
    trainer = begin(small(n_peers=1, advisers=("expert", "adversary")), 150)
    sound(trainer, 5)
    assert model(trainer).last.shape == (1, 3)


def test_double_precision(begin):
    trainer = begin(small(), 60, dtype=F64)
    sound(trainer)
    assert model(trainer).last.dtype == F64


def test_sixty_four_members(begin):
    trainer = begin(small(n_peers=64, advisers=(), methods={"context": replace(CONTEXT, context_update_freq=8)}), 12)
    sound(trainer)
    assert model(trainer).last.shape == (64, 64)


def test_saved_and_loaded(begin, same, tmp_path):
    """From a checkpoint: the same answers to the same questions, bit for bit, and the same learning after it."""
    first = begin(small("LunarLander-v3", replicas=2), 70)
    checkpoint.save(tmp_path, first.step, first.state())
    second = begin(small("LunarLander-v3", replicas=2))
    second.load_state(checkpoint.load_latest(tmp_path)[1])
    a, b = model(first), model(second)
    same(a.state(), b.state())
    assert np.array_equal(a.valuation.valued, b.valuation.valued) and a.valuation.valued.any()
    assert a.decisions.open.any() and np.array_equal(a.decisions.open, b.decisions.open)
    rng, due = np.random.default_rng(0), np.ones(4, bool)
    for step in range(first.step + 1, first.step + 40):
        obs = torch.as_tensor(rng.normal(size=(4, 8)), dtype=torch.float32)
        said = torch.as_tensor(rng.integers(4, size=(4, 4, 1)), dtype=torch.float32)
        followed, rewards = rng.integers(4, size=4), rng.normal(size=4)
        answers = []
        for trust in (a, b):
            answers.append(trust.values(obs, said, due, step)["in_context"])
            act(trust, obs, followed, rewards)
        assert torch.equal(*answers) and answers[0].std() > 0
    assert torch.equal(a.model.stack.flat, b.model.stack.flat)
    assert np.array_equal(a.updates, b.updates) and a.updates.min() > 10
    assert torch.equal(a.metrics()["trust/loss"], b.metrics()["trust/loss"])
    b.decisions.open[:] = True
    second.sharing.reset(np.array([False, True, False, False]))  # its episode is restarted
    assert b.decisions.open.tolist() == [True, False, True, True]


def test_it_is_in_the_reports(begin):
    """advice.csv has the column once it was computed and an empty cell before; metrics.csv has the loss."""

    class Kept(Listener):
        def __init__(self):
            self.advice, self.metrics = {}, {}

        def on_advice(self, step, rows):
            self.advice[step] = rows

        def on_metrics(self, step, rows):
            self.metrics[step] = {name for _, _, name, _ in rows}

    trainer, kept = begin(small()), Kept()
    runner = Runner(trainer, kept)
    for step in range(1, 101):
        trainer.advance()
        if step in (20, 100):
            runner.log()
    assert all("in_context" not in row for row in kept.advice[20])  # 32 decisions were not over then
    last = model(trainer).last
    assert [row["in_context"] for row in kept.advice[100]] == last.flatten().tolist()
    assert "trust/loss" in kept.metrics[100] and "trust/loss" not in kept.metrics[20]
