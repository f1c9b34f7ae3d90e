"""The memory of decisions: sums, ends, rings and their order, by hand and against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peerage.trust.decisions import Decisions


def memory(members=2, replicas=1, capacity=4, gamma=0.5, n_advisers=3) -> Decisions:
    gammas = np.broadcast_to(np.array(gamma), (members,))
    return Decisions(members, replicas, n_advisers, 1, 1, capacity, gammas)


def who(d: Decisions, *members: int) -> np.ndarray:
    out = np.zeros(d.M, bool)
    out[list(members)] = True
    return out


def begin(d: Decisions, members, step, obs=0.0, followed=0):
    """`obs` and `followed` of all members; adviser j suggests `10 obs + j`."""
    states = np.broadcast_to(np.array(obs, float).reshape(-1, 1), (d.M, 1))
    suggestions = 10 * states[:, None] + np.arange(d.K)[:, None]
    d.begin(who(d, *members), states, suggestions, np.broadcast_to(followed, (d.M,)), step)


def finish(d: Decisions, members, step, end=0.0, terminated=()):
    d.finish(who(d, *members), np.full((d.M, 1), end), who(d, *terminated), step)


def test_rewards_are_summed_with_the_members_own_gamma():
    """gamma = 0.5: 1 + 2/2 + 4/4 = 3, then 0.125; gamma = 0.9: 1 + 0.9 + 0.81 = 2.71, then 0.729."""
    d = memory(gamma=(0.5, 0.9))
    begin(d, (0, 1), step=7, obs=[3.0, 4.0], followed=[2, 1])
    for rewards in ([1.0, 1.0], [2.0, 1.0], [4.0, 1.0]):
        d.advance(np.array(rewards))
    finish(d, (0, 1), step=9, end=5.0)
    np.testing.assert_allclose(d.kept["reward"][:, 0], [3.0, 2.71], rtol=1e-12)
    np.testing.assert_allclose(d.kept["discount"][:, 0], [0.125, 0.729], rtol=1e-12)
    assert d.kept["obs"][:, 0, 0].tolist() == [3.0, 4.0] and d.kept["end"][:, 0, 0].tolist() == [5.0, 5.0]
    assert d.kept["suggestions"][:, 0, :, 0].tolist() == [[30.0, 31.0, 32.0], [40.0, 41.0, 42.0]]
    assert d.kept["followed"][:, 0].tolist() == [2, 1]
    assert d.kept["begun"][:, 0].tolist() == [7, 7] and d.kept["ended"][:, 0].tolist() == [9, 9]
    assert not d.open.any() and d.count.tolist() == [1, 1]


def test_rewards_before_a_decision_do_not_count():
    d = memory(members=1)
    d.advance(np.array([100.0]))
    begin(d, (0,), step=2)
    d.advance(np.array([1.0]))
    finish(d, (0,), step=2)
    begin(d, (0,), step=3)
    d.advance(np.array([8.0]))
    finish(d, (0,), step=3)
    assert d.kept["reward"][0, :2].tolist() == [1.0, 8.0] and d.kept["discount"][0, :2].tolist() == [0.5, 0.5]


def test_a_terminal_state_has_no_value_and_a_truncation_is_not_terminal():
    """Three members end after two steps: in a terminal state, at a truncation, and not at all."""
    d = memory(members=3)
    begin(d, (0, 1, 2), step=1)
    for _ in range(2):
        d.advance(np.full(3, 2.0))
    finish(d, (0, 1), step=2, end=9.0, terminated=(0, 2))  # member 2 is terminated in another decision's time
    assert d.kept["discount"][:, 0].tolist() == [0.0, 0.25, 0.0]  # the last has nothing stored at all
    assert d.kept["reward"][:, 0].tolist() == [3.0, 3.0, 0.0]
    assert d.count.tolist() == [1, 1, 0] and d.open.tolist() == [False, False, True]
    assert d.running["discount"][2] == 0.25  # continues
    d.advance(np.full(3, 4.0))
    finish(d, (0, 1, 2), step=3)
    assert d.count.tolist() == [1, 1, 1]  # the others have no open decision that could end twice
    assert d.kept["reward"][2, 0] == 4.0 and d.kept["discount"][2, 0] == 0.125
    assert d.finished(0, 10).tolist() == [0, 4, 8]  # member * capacity


def test_rings_wrap():
    d = memory(members=1, capacity=3)
    for n in range(5):
        begin(d, (0,), step=n + 1, obs=n)
        d.advance(np.array([float(n)]))
        finish(d, (0,), step=n + 1)
    assert d.kept["reward"][0].tolist() == [3.0, 4.0, 2.0]
    assert d.finished(0, 10).tolist() == [2, 0, 1] and d.finished(0, 2).tolist() == [0, 1]
    assert d.kept["obs"][0, d.finished(0, 10), 0].tolist() == [2.0, 3.0, 4.0]


def end_of(d: Decisions, members, step):
    begin(d, members, step)
    finish(d, members, step)


def test_order_within_a_replica():
    """Two replicas of two members, capacity 4: entries are 4 m + slot."""
    d = memory(members=4, replicas=2)
    end_of(d, (1, 2, 3), 1)  # those that end together come in the order of members
    end_of(d, (0, 1), 2)
    end_of(d, (2,), 3)
    assert d.finished(0, 10).tolist() == [4, 0, 5] and d.finished(1, 10).tolist() == [8, 12, 9]
    assert d.finished(0, 2).tolist() == [0, 5] and d.finished(1, 1).tolist() == [9]
    assert d.ordered.tolist() == [3, 3]


def test_a_member_that_decides_more_often_overwrites_its_own_sooner():
    """Capacity 2, member 0 decides once, member 1 five times: its entries are 2 and 3."""
    d = memory(capacity=2)
    end_of(d, (0,), 1)
    for step in (2, 3, 4):
        end_of(d, (1,), step)
    # ended: 0, 2 (gone: 2 has been used again), 3, 2
    assert d.finished(0, 10).tolist() == [0, 3, 2]
    assert d.kept["ended"].ravel()[d.finished(0, 10)].tolist() == [1, 3, 4]
    # The order keeps four places: with the fifth end the first decision is no longer in it
    end_of(d, (1,), 5)
    assert d.finished(0, 10).tolist() == [2, 3]
    assert d.kept["ended"].ravel()[d.finished(0, 10)].tolist() == [4, 5]
    assert d.finished(0, 1).tolist() == [3]


def test_dropped():
    d = memory()
    begin(d, (0, 1), step=1)
    d.advance(np.array([1.0, 1.0]))
    d.drop(who(d, 0))
    finish(d, (0, 1), step=1)
    assert d.count.tolist() == [0, 1] and d.finished(0, 10).tolist() == [4]
    begin(d, (0,), step=2)  # it may choose again
    d.advance(np.array([6.0, 6.0]))
    finish(d, (0, 1), step=2)
    assert d.count.tolist() == [1, 1] and d.kept["reward"][0, 0] == 6.0


def test_a_choice_before_the_end_replaces_the_open_decision():
    d = memory()
    begin(d, (0,), step=1, followed=1)
    d.advance(np.ones(2))
    begin(d, (0,), step=2, followed=2)
    d.advance(np.ones(2))
    finish(d, (0,), step=2)
    assert d.count[0] == 1 and d.kept["followed"][0, 0] == 2 and d.kept["reward"][0, 0] == 1.0


class Lists:
    """The same in plain Python: decisions as dicts, kept for ever."""

    def __init__(self, d: Decisions) -> None:
        self.d, self.done, self.open = d, [[] for _ in range(d.R)], {}

    def finished(self, replica: int, last: int) -> list[dict]:
        ended = self.done[replica]
        newest = {m: [e for e in ended if e["member"] == m][-self.d.capacity :] for m in range(self.d.M)}
        within = ended[-min(last, self.d.N * self.d.capacity) :]
        return [e for e in within if any(e is kept for kept in newest[e["member"]])]


def simulate(d: Decisions, lists: Lists, rng: np.random.Generator, steps: range) -> None:
    """Members choose, are thrown out and come to ends at random, some more often than others."""
    often = np.linspace(0.3, 0.9, d.M)
    for step in steps:
        obs, rewards, followed = rng.normal(size=d.M), rng.normal(size=d.M), rng.integers(d.K, size=d.M)
        chooses, done = rng.random(d.M) < often, rng.random(d.M) < 0.2
        terminated, dropped = done & (rng.random(d.M) < 0.5), rng.random(d.M) < 0.05
        finish(d, np.flatnonzero(chooses), step - 1, end=step)
        begin(d, np.flatnonzero(chooses), step, obs, followed)
        d.drop(dropped)
        d.advance(rewards)
        d.finish(done, np.full((d.M, 1), -step), terminated, step)

        def end(m: int, where: float, now: int, terminal: bool) -> None:
            e = lists.open.pop(m, None)
            if e is not None:
                n = len(e["rewards"])
                discount = 0.0 if terminal else d.gamma[m] ** n
                total = sum(r * d.gamma[m] ** k for k, r in enumerate(e["rewards"]))
                lists.done[m // d.N].append(e | {"end": where, "ended": now, "discount": discount, "reward": total})

        for m in range(d.M):
            if chooses[m]:
                end(m, step, step - 1, False)
        for m in range(d.M):
            if chooses[m]:
                lists.open[m] = {"member": m, "obs": obs[m], "followed": followed[m], "begun": step, "rewards": []}
            if dropped[m]:
                lists.open.pop(m, None)
            if m in lists.open:
                lists.open[m]["rewards"].append(rewards[m])
        for m in range(d.M):
            if done[m]:
                end(m, -step, step, terminated[m])


def check(d: Decisions, lists: Lists, last: int) -> None:
    for r in range(d.R):
        entries, expected = d.finished(r, last), lists.finished(r, last)
        assert (entries // d.capacity).tolist() == [e["member"] for e in expected]
        for name in ("obs", "end", "followed", "reward", "discount", "begun", "ended"):
            ours = d.kept[name].reshape(d.M * d.capacity, -1)[entries, 0]
            np.testing.assert_allclose(ours, [e[name] for e in expected], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("members", "replicas", "capacity"), [(4, 2, 5), (3, 1, 2), (2, 2, 50)])
def test_decisions_equal_those_of_plain_lists(members, replicas, capacity):
    d = memory(members, replicas, capacity, gamma=np.linspace(0.5, 1.0, members))
    lists, rng = Lists(d), np.random.default_rng(members)
    for part in range(20):
        simulate(d, lists, rng, range(6 * part + 1, 6 * part + 7))
        for last in (1, 4, 1000):
            check(d, lists, last)
    assert min(len(done) for done in lists.done) > 20  # something happened
    if capacity < 50:
        assert d.count.max() > 3 * capacity


def test_state():
    """A copy continues as the original does, and neither changes the other or the saved state."""
    first, rng = memory(4, 2, 3), np.random.default_rng(1)
    simulate(first, Lists(first), rng, range(1, 30))
    assert first.open.any() and first.count.max() > 3
    saved = first.state()
    frozen = {part: {n: x.clone() for n, x in values.items()} for part, values in saved.items()}
    second = memory(4, 2, 3)
    second.load_state(frozen)
    entries = first.finished(0, 100).tolist()
    before = {n: x.copy() for n, x in second.kept.items()}
    simulate(first, Lists(first), np.random.default_rng(2), range(30, 60))
    for name, value in before.items():
        np.testing.assert_array_equal(second.kept[name], value)
    assert second.finished(0, 100).tolist() == entries
    simulate(second, Lists(second), np.random.default_rng(2), range(30, 60))
    for part, values in first.state().items():
        for name, value in values.items():
            assert torch.equal(value, second.state()[part][name]), (part, name)
    for r in range(2):
        assert second.finished(r, 100).tolist() == first.finished(r, 100).tolist()
    assert any(not torch.equal(x, first.state()["kept"][n]) for n, x in frozen["kept"].items())
