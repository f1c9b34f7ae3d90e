"""Learning from suggestions (--imitate): labels, their weights, the losses on them, and what members learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import assert_same
from transitions import transition

import peerage
from peerage.config import Config, RunConfig, with_settings
from peerage.envs.make import make_env
from peerage.errors import UserError
from peerage.learners import imitation
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.group import Group
from peerage.learners.replay import Batch, Replay
from peerage.sharing.labels import Labels
from peerage.training.trainer import Trainer
from peerage.trust.td import TDTable

F64 = torch.float64
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::UserWarning")]


def near(ours, expected):
    torch.testing.assert_close(torch.as_tensor(ours), torch.tensor(expected, dtype=F64), rtol=1e-6, atol=1e-9)


# --- labels -------------------------------------------------------------------------------------------------------


def test_the_adviser_with_the_highest_lower_bound_gives_the_label():
    """Three members with the advisers member 0, 1, 2, expert and adversary. Member 0: the expert is 2 better with a
    standard error of sqrt(0.36 + 0.64) = 1, so its weight is Phi(2). Member 1 is itself the best. Member 2: the expert
    has the highest mean, but a lower bound of 3 - 5; another member is 1 better with a standard error of 1."""
    labels = Labels(np.arange(3), np.ones(3, bool))
    mean = torch.tensor([[1.0, 0, 0, 3, -4], [0, 9, 0, 3, -4], [2.0, 0, 1, 3, -4]])
    error = torch.tensor([[0.6, 0.1, 0.1, 0.8, 0.1], [0.5] * 5, [0.8, 0.1, 0.6, 5, 0.1]])
    labels.choose(mean, error, np.ones(3, bool))
    assert labels.adviser.tolist() == [3, 1, 0]
    near(labels.weight, [0.977249868, 0.0, 0.841344746])
    assert labels.asked.tolist() == [3, -1, 0]
    # Other members keep their label until they choose again
    labels.choose(-mean, torch.zeros(3, 5), np.array([True, False, False]))
    assert labels.adviser.tolist() == [4, 1, 0]
    near(labels.weight, [1.0, 0.0, 0.841344746])
    labels.clear(np.array([False, False, True]))
    assert labels.asked.tolist() == [4, -1, -1] and labels.weight[2] == -1


def test_without_an_estimate_there_is_no_label():
    """Unknown are: the member itself, both advisers, one adviser; the last member does not imitate."""
    labels = Labels(np.zeros(4, int), np.array([True, True, True, False]))
    nan = math.nan
    mean = torch.tensor([[nan, 1.0, 2], [0.0, nan, nan], [0.0, nan, 2], [0.0, 1, 2]])
    labels.choose(mean, torch.full((4, 3), 0.0), np.ones(4, bool))
    assert labels.weight.tolist() == [-1, -1, 1, -1] and labels.asked.tolist() == [-1, -1, 2, -1]


def test_the_error_of_trust_by_temporal_differences():
    """Two batches with alpha 0.5. Adviser 0: targets (1, 3), then 8. Weights of the batch means 2 and 8: 0.25 and 0.5
    of a mass of 0.75, so the mean is 4.5 / 0.75 = 6. Mean squares 5 and 64: 33.25 / 0.75 - 36 = 8.3333. The mean of a
    batch of n has 1 / n of the variance: 0.25^2 / 2 + 0.5^2 / 1 = 0.28125. Adviser 1 was never followed."""
    table = TDTable(1, 2, 200.0, 0.5, torch.zeros(0, dtype=F64), errors=True)
    plain = TDTable(1, 2, 200.0, 0.5, torch.zeros(0, dtype=F64))
    batches = (
        torch.tensor([[[1.0, 3.0], [8.0, 99.0]]], dtype=F64),
        torch.tensor([[[0, 0], [0, 1]]]),
        torch.tensor([[[True, True], [True, False]]]),
    )
    for each in (table, plain):
        each.update(*batches)
    assert torch.equal(table.values, plain.values)  # the values do not depend on it
    mean, error = table.estimates()
    near(mean[0, 0], 6.0)
    near(error[0, 0], math.sqrt((33.25 / 0.75 - 36) * 0.28125) / 0.75)
    assert not torch.isfinite(mean[0, 1])


def test_the_replay_buffer_keeps_labels():
    replay, without = Replay(2, 3, 1, 1, labels=True), Replay(2, 3, 1, 1)
    for t in range(4):
        obs, reward = torch.full((2, 1), float(t)), torch.full((2,), t / 10)
        step = (obs, obs + 1, reward, obs + 2, torch.tensor([0.0, 1.0]))
        replay.add(*step, *((obs + 3, torch.tensor([0.5, 0.25])) if t % 2 else ()))
        without.add(*step)
    batch, plain = (r.recent(torch.tensor([[0, 1], [1, 2]])) for r in (replay, without))
    assert batch.label_weight.tolist() == [[0.5, -1.0], [-1.0, 0.25]]
    assert batch.label[0, 0].item() == 6 and batch.label[1, 1].item() == 4
    assert all(torch.equal(a, b) for a, b in zip(batch[:6], plain[:6])) and plain.label is None


# --- DQN's imitation head -----------------------------------------------------------------------------------------


def test_cross_entropy_of_the_imitation_head():
    """p = (0.5, 0.2, 0.3), the last for "no adviser is better". Label 0 with weight 0.75: the loss is -0.75 log 0.5 -
    0.25 log 0.3. The second transition has no label, so the mean over the batch is half of that; times 2."""
    logits = torch.tensor([0.5, 0.2, 0.3], dtype=F64).log().expand(1, 2, 3) + 7
    label, weight = torch.tensor([[[0], [1]]]), torch.tensor([[0.75, -1.0]], dtype=F64)
    loss, gradient = imitation.loss(logits, label, weight, torch.tensor([[2.0]], dtype=F64))
    near(loss, [-0.75 * math.log(0.5) - 0.25 * math.log(0.3)])
    near(gradient, [[[0.5 - 0.75, 0.2, 0.3 - 0.25], [0.0, 0.0, 0.0]]])


def test_the_head_acts_where_an_adviser_is_probably_better():
    """The probabilities of the two actions and of "no adviser is better": the actions must have more than one half
    together, and the more likely one is taken."""
    p = torch.tensor([[0.3, 0.31, 0.39], [0.24, 0.25, 0.51], [0.9, 0.05, 0.05]], dtype=F64)
    own = torch.tensor([[0], [0], [1]])
    assert imitation.act(p.log(), own)[:, 0].tolist() == [1, 0, 0]


# --- SAC and TD3 --------------------------------------------------------------------------------------------------


def test_cloning_where_the_critic_prefers_the_label():
    """The critic is Q_1(s, a) = a. The own actions are 0.5, -0.5 and 0.1, the labels 0, 0.3 and 0.5 with weights 1, 0.5
    and -1 (no label): only the second passes the filter. lambda = (0.5 + 0.5 + 0.1) / 3 / 2.5, and the mean over the
    batch is 0.5 * 0.8^2 / 3; times c = 3. The gradient of the second action is 2 * (-0.8) times the same factors."""
    own = torch.tensor([[[0.5], [-0.5], [0.1]]], dtype=F64, requires_grad=True)
    label, weight = torch.tensor([[[0.0], [0.3], [0.5]]], dtype=F64), torch.tensor([[1.0, 0.5, -1.0]], dtype=F64)
    obs, rewards = torch.zeros(1, 3, 2, dtype=F64), torch.zeros(1, 3, dtype=F64)
    batch = Batch(obs, own.detach(), torch.cat((obs, own.detach()), -1), rewards, obs, rewards, label, weight)
    kept = imitation.filtered(batch, lambda x, only_first: x[..., 2:].transpose(1, 2), own[..., 0])
    near(kept, [[0.0, 0.5, 0.0]])
    loss = imitation.cloning_loss(own, label, kept, own[..., 0], torch.tensor([[3.0]], dtype=F64))
    unit = 3 * (1.1 / 3 / 2.5) * 0.5 / 3
    near(loss.detach(), [unit * 0.64])
    loss.sum().backward()
    near(own.grad[..., 0], [[0.0, unit * 2 * -0.8, 0.0]])


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_sac_and_td3_learn_labels(algorithm):
    """Every label is the action (2, -1) in units of the environment, the upper end of both dimensions. The reward
    depends on the first number alone, so labels pass the filter, and only they teach the second number."""
    low, high = np.array([-2, -3], np.float32), np.array([2, -1], np.float32)
    space = Space(2, 2, low=low, high=high)
    distance = []
    for imitates in (True, False):
        member = replace(default_settings(algorithm), net_arch=(32,), batch_size=32, buffer_size=200, gamma=0.5)
        member = replace(member, learning_starts=0, learning_rate=3e-3, gradient_steps=2)
        member = replace(member, imitates=imitates, imitation_weight=5.0)
        group = Group([member] * 2, 1, 0, space, 200)
        rng = np.random.default_rng(0)
        for step in range(1, 121):
            obs = torch.tensor(rng.normal(size=(2, 2)), dtype=torch.float32)
            actions = torch.tensor(rng.uniform(low, high, (2, 2)), dtype=torch.float32)
            made = transition(obs, actions, rewards=actions[:, 0].numpy())
            made.label, made.label_weight = torch.tensor(high).expand(2, 2), torch.ones(2)
            group.observe(made)
            if step > 40:
                group.learn(step)
        distance.append(float(-1 - group.mode(torch.zeros(2, 1, 2))[:, 0, 1].mean()))
    assert distance[0] < 0.4 < 0.6 < distance[1], distance


# --- trainings ----------------------------------------------------------------------------------------------------

SMALL = {
    "n_peers": 2,
    "advisers": ("expert", "adversary"),
    "gamma": (0.9,),
    "learning_starts": (30,),
    "batch_size": (32,),
    "net_arch": ((32,),),
    "trust": "td",
    "follow_steps": 5,
    "device": "cpu",
    "threads": 1,
}


def trainer(steps, env="Room-v6", **changes):
    config = with_settings(Config(env=env, run=RunConfig(eval_freq=0, verbose=0)), SMALL | {"total_timesteps": steps})
    made = Trainer(with_settings(config, changes))
    made.begin()
    return made


def advance(made, steps):
    """The advisers that gave labels and the labels' weights, `[steps, M]` each, and the followed advisers."""
    seen = []
    for _ in range(steps):
        made.advance()
        labels = made.sharing.labels
        seen.append((labels.asked.copy(), labels.weight.copy(), made.sharing.followed.copy()))
    return [np.stack(column) for column in zip(*seen)]


def test_members_learn_what_the_expert_does_and_not_what_the_adversary_does():
    """The labels of the last half of the training are the expert's, also in steps in which the member follows itself,
    and the members' heads do in most labelled states what the expert does. The adversary is never imitated."""
    made = trainer(500, imitate="trusted")
    asked, weight, followed = advance(made, 500)
    late = slice(250, 500)
    labelled = weight[late] > 0.5
    expert, adversary = 2, 3
    assert (asked[late][labelled] == expert).mean() > 0.9
    assert not ((asked[late] == adversary) & labelled).any()
    assert ((followed[late] == np.arange(2)) & labelled).sum() > 30  # who acts and who is asked are two decisions
    learner = made.group.stacks[0].learner
    batch = learner.replay.recent(torch.arange(200).expand(2, -1))
    sure = batch.label_weight > 0.5
    same = learner.suggest(batch.obs) == batch.label
    assert same[sure].float().mean() > 0.7
    alone = trainer(500, imitate="none", self_share=0.5)
    for _ in range(500):
        alone.advance()
    own = alone.group.stacks[0].learner.suggest(batch.obs) == batch.label
    assert own[sure].float().mean() < same[sure].float().mean() - 0.1


@pytest.mark.parametrize("trust", ["td", "in-context"])
def test_with_weight_zero_the_training_is_the_same(trust):
    """Every bit of the state but the settings, although the labels of `imitate` ask more often."""
    states = []
    for changes in ({"imitate": "none"}, {"imitate": "trusted", "imitation_weight": (0.0,)}):
        made = trainer(80, trust=trust, self_share=0.5, advisers=("random", "expert"), **changes)
        for _ in range(80):
            made.advance()
        states.append((made.group.state(), made.sharing.state()["signals"], made.obs))
    evidence = [state[1]["td"].pop("evidence", None) for state in states if "td" in state[1]]
    assert all(e is None for e in evidence[:1])
    assert_same(*[(group, obs) for group, _, obs in states])
    assert_same(states[0][1], states[1][1])


def test_a_label_is_one_query():
    """All three advisers are asked at a choice, and in every other step the followed one and the imitated one."""
    made = trainer(200, imitate="trusted")
    queries = np.zeros(2, int)
    both = 0
    for _ in range(200):
        made.advance()
        sharing, own = made.sharing, np.arange(2)
        asked, followed = sharing.labels.asked, sharing.followed
        between = (followed != own).astype(int) + ((asked >= 0) & (asked != followed))
        queries += np.where(sharing.chose, 3, between)
        both += int((~sharing.chose & (between == 2)).sum())
    assert sharing.queries.tolist() == queries.tolist() and both > 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sharing": "none", "advisers": ()}, "imitate needs advisers|has no effect with"),
        ({"n_peers": 1, "advisers": ()}, "imitate needs advisers"),
        ({"algorithm": ("ppo",), "sharing": "advice"}, "imitate is for .*dqn.*, and ppo cannot learn"),
        ({"choice": "uniform", "trust": None}, "imitate needs scores"),
    ],
)
def test_imitation_that_cannot_work_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        settings = {name: value for name, value in SMALL.items() if name not in ("batch_size", "learning_starts")}
        peerage.train("Room-v6", **(settings | {"imitate": "trusted", "log_dir": str(tmp_path)} | changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("env", "algorithm"), [("Room-v6", "dqn"), ("Pendulum-v1", ("sac", "td3"))])
def test_members_of_a_finished_run_act_without_their_advisers(env, algorithm, tmp_path):
    """A later evaluation equals that at the end of the training, also where the imitation head acts."""
    advisers = ("expert", "adversary") if algorithm == "dqn" else ("random",)
    more = {"algorithm": algorithm, "advisers": advisers, "total_timesteps": 200, "learning_starts": 20}
    more |= {"eval_freq": 200, "net_arch": (16,), "n_eval_episodes": 2}
    more |= {"log_dir": str(tmp_path), "exp_name": "run", "verbose": 0}
    run = peerage.train(env, n_peers=2, imitate="trusted", **more)
    last = run.evaluations[run.evaluations["step"] == 200]
    again = run.evaluate(2)
    np.testing.assert_allclose(again["return"], last[last["mode"] == "alone"]["return"], rtol=1e-7)
    obs = make_env(env, {}).reset(seed=0)[0]
    assert make_env(env, {}).action_space.contains(run.policy(0)(obs))
    assert run.video(tmp_path / "film.gif", max_frames=3).exists()
