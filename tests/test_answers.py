"""Members' answers to each other: both ways of computing them, and what they must not depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from peerage.config import AdviceConfig
from peerage.evaluation.alone import MemberActor
from peerage.learners.base import Learner, Space
from peerage.learners.defaults import default_settings
from peerage.learners.group import Group
from peerage.sharing import answers
from peerage.sharing.advice import Advice
from peerage.sharing.answers import member_answers

BOX = Space(5, 2, 0, np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
DISCRETE = Space(5, 1, 4)


def group(algorithms: list[str], replicas: int = 2, dtype: torch.dtype = torch.float64) -> Group:
    space = DISCRETE if "dqn" in algorithms else BOX
    members = [replace(default_settings(a), net_arch=(8, 8), buffer_size=10, batch_size=2) for a in algorithms]
    return Group(members, replicas, 3, space, 100, dtype=dtype)


def situation(g: Group, seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Observations, who chooses, and whom the others follow: fixed advisers (numbers from N on) among them."""
    rng = np.random.default_rng(seed)
    obs = torch.as_tensor(rng.standard_normal((g.M, g.space.obs_dim)), dtype=g.dtype)
    return obs, rng.random(g.M) < 0.3, rng.integers(g.N + 2, size=g.M)


@pytest.mark.parametrize("others_sample", [True, False])
@pytest.mark.parametrize("algorithms", [["dqn"] * 7, ["sac"] * 7, ["sac", "td3", "sac", "td3", "td3", "sac", "sac"]])
def test_both_implementations_give_the_same_answers(monkeypatch, algorithms, others_sample):
    g = group(algorithms)
    for seed in range(5):
        obs, chooses, followed = situation(g, seed)
        noise = g.draw()
        found = []
        for limit in (100, 0):
            monkeypatch.setattr(answers, "ASK_ALL", limit)
            found.append(member_answers(g, obs, chooses, followed, noise, others_sample=others_sample))
        everything, needed = found
        for m in range(g.M):
            used = range(g.N) if chooses[m] else [f for f in (followed[m],) if f < g.N]
            for j in range(g.N):
                if j in used:
                    torch.testing.assert_close(needed[m, j], everything[m, j], rtol=1e-12, atol=1e-12)
                elif j != m % g.N:
                    assert (needed[m, j] == 0).all()


def test_only_the_followed_adviser_computes(monkeypatch):
    """In a group of 40, of which all follow member 7, one member answers 39 others."""
    g = group(["td3"] * 40, replicas=1)
    learner = g.stacks[0].learner
    computed = []

    def counted(obs, noise, rows):
        computed.append(tuple(obs.shape[:2]))
        return type(learner).suggest_rows(learner, obs, noise, rows)

    monkeypatch.setattr(learner, "suggest_rows", counted)
    obs, _, _ = situation(g)
    member_answers(g, obs, np.zeros(40, bool), np.full(40, 7), None, others_sample=True)
    assert computed == [(40, 1), (1, 39)]  # every member's own action, because member 7 follows itself


@pytest.mark.parametrize("algorithms", [["dqn"] * 3, ["sac", "td3", "sac"]])
def test_one_member_acts_without_computing_the_others(monkeypatch, algorithms):
    g = group(algorithms)
    obs = torch.randn(g.M, 4, 5, generator=torch.Generator().manual_seed(0), dtype=g.dtype)
    expected, computed = g.mode(obs), []
    for stack in g.stacks:

        def counted(obs, noise, rows, learner=stack.learner):
            computed.append(tuple(obs.shape[:2]))
            return type(learner).suggest_rows(learner, obs, noise, rows)

        monkeypatch.setattr(stack.learner, "suggest_rows", counted)
    for m in range(g.M):
        actor = MemberActor(g, m)
        acted = torch.as_tensor(actor.act(obs[m].numpy()), dtype=g.dtype).view(4, -1)
        torch.testing.assert_close(acted, expected[m], rtol=1e-12, atol=1e-12)
    assert computed == [(1, 4)] * g.M


def test_noise_belongs_to_the_asker_and_does_not_depend_on_other_members():
    """Drawn once per step for all answering members; the same numbers in a group of another size."""
    small, large = group(["sac"] * 2, 1, torch.float32), group(["sac"] * 5, 1, torch.float32)
    for _ in range(3):
        a, b = small.draw(), large.draw()
        assert a is not None and b is not None and torch.equal(a, b[:2])
    assert group(["td3"] * 2).draw() is None


def test_a_learner_that_cannot_compute_some_rows_asks_all_of_them():
    class Sums(Learner):
        def suggest(self, obs, noise):
            assert obs.shape[0] == self.rows
            return obs.sum(dim=2, keepdim=True) + (0 if noise is None else noise)

    g = group(["td3"] * 3, 1)
    learner = Sums(g.settings, g.stream_keys, Space(5, 1, 0, BOX.low[:1], BOX.high[:1]), 10)
    obs, noise = torch.arange(20.0).view(2, 2, 5), torch.ones(2, 2, 1)
    rows = torch.tensor([2, 0])
    assert torch.equal(learner.suggest_rows(obs, None, rows), obs.sum(dim=2, keepdim=True))
    assert torch.equal(learner.suggest_rows(obs, noise, rows), obs.sum(dim=2, keepdim=True) + 1)


def test_a_choice_copies_nothing_but_scores_from_the_device() -> None:
    """Tensors on the device `meta` cannot be copied to the host. A uniform choice has no scores."""
    learners = group(["dqn", "dqn", "dqn"])
    learners.device = torch.device("meta")
    config = AdviceConfig(trust="td", choice="uniform", only_follow_others=True, temperature=(1.0,), epsilon=0.1)
    config = replace(config, self_share=0.0)
    advice = Advice(config, learners, [], seed=0, epoch_length=10, total_steps=100, signals={}, dropped=0.5)
    assert advice.following.is_meta and advice.answers is not None
    suggestions = torch.zeros(learners.M, advice.K, 1, device="meta")
    heard = advice.answers.next() >= 0.5
    due = np.ones(learners.M, bool)
    for _ in range(20):
        chosen = advice._choose(suggestions, suggestions, advice.choices.next(), 1, due, heard)
        others = heard.numpy() & ~np.eye(3, dtype=bool)[np.arange(learners.M) % 3]
        assert all(others[m, chosen[m]] or not others[m].any() for m in range(learners.M))
