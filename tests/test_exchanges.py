"""The exchange of parameters: the mean by hand, identical members, order, and state that is not exchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import peerage
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.errors import UserError
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.group import Group
from peerage.sharing.exchanges.average import Average, mean_of_members, pooled_moments
from peerage.sharing.exchanges.average_settings import AverageSettings
from peerage.sharing.exchanges.fedavg import FedAvg
from peerage.sharing.exchanges.fedavg_settings import FedAvgSettings
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")

BOX = Space(3, 2, 0, -np.ones(2, np.float32), np.ones(2, np.float32))


def group(algorithm: str = "sac", n: int = 3, replicas: int = 2) -> Group:
    settings = replace(default_settings(algorithm), net_arch=(4,), batch_size=2)
    sizes = {"n_steps": 4, "normalize_obs": True} if algorithm == "ppo" else {"buffer_size": 8}
    settings = replace(settings, **sizes)
    return Group([settings] * n, replicas, 0, Space(3, 1, 4) if algorithm == "dqn" else BOX, 50)


def copies(g: Group) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in g.stacks[0].learner.parameters().items()}


def test_the_mean_by_hand():
    values = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]], [[5.0, 1.0], [7.0, 1.0], [99.0, 99.0]]])
    active = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.equal(mean_of_members(values, active), torch.tensor([[3.0, 30.0], [6.0, 1.0]]))


def test_pooled_statistics_by_hand():
    """Samples 0, 2 (mean 1, variance 1), and 3, 5, 7, 9 (mean 6, variance 5): of all six mean 13 / 3 and variance
    168 / 6 - (26 / 6)^2 = 83 / 9. The third member does not learn."""
    mean = torch.tensor([[[1.0], [6.0], [77.0]]], dtype=torch.float64)
    var = torch.tensor([[[1.0], [5.0], [77.0]]], dtype=torch.float64)
    count = torch.tensor([[[2.0], [4.0], [77.0]]], dtype=torch.float64)
    active = torch.tensor([[True, True, False]])
    pooled = [x.item() for x in pooled_moments(mean, var, count, active)]
    assert pooled == pytest.approx([26 / 6, 168 / 6 - (26 / 6) ** 2, 3.0])
    drawn = torch.rand(1, 5, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same = drawn[:, :1].expand(1, 7, 100).contiguous()
    counts, every = torch.full((1, 7, 1), 0.3, dtype=torch.float64), torch.ones(1, 7, dtype=torch.bool)
    found = pooled_moments(same, same, counts, every)
    assert torch.equal(found[0], same[:, 0]) and torch.equal(found[1], same[:, 0])


def test_members_that_average_have_the_same_statistics():
    g = group("ppo")
    learner = g.stacks[0].learner
    for values in learner.statistics().values():
        values.add_(torch.rand(values.shape, dtype=torch.float64))
    Average(AverageSettings(), g, 10).after_learning(g, 10)
    for name, values in learner.statistics().items():
        of_members = values.view(g.R, g.N, -1)
        assert torch.equal(of_members[:, 0], of_members[:, 2]), name
        assert not torch.equal(of_members[0], of_members[1])
    assert len(learner.statistics()) == 3


def test_identical_members_stay_identical_to_the_bit():
    """In float32 the mean of seven equal numbers is another one for many numbers; summed in float64 it is not."""
    row = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    values = row.expand(1, 7, -1).contiguous()
    assert torch.equal(mean_of_members(values, torch.ones(1, 7, dtype=torch.bool))[0], row)
    in_float32 = values.sum(dim=1) / 7
    assert not torch.equal(in_float32[0], row)


def test_the_order_of_members_does_not_matter():
    """Numbers of very different size: their sum in float64 depends on the order unless it is fixed."""
    generator = torch.Generator().manual_seed(2)
    size = 10.0 ** torch.randint(-20, 20, (1, 9, 4000), generator=generator)
    values = torch.randn(1, 9, 4000, generator=generator) * size
    active = torch.ones(1, 9, dtype=torch.bool)
    for seed in range(5):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(mean_of_members(values[:, order], active), mean_of_members(values, active))


@pytest.mark.parametrize("algorithm", ["dqn", "sac", "td3"])
def test_every_member_gets_the_mean_of_its_replica(algorithm):
    g = group(algorithm)
    before = copies(g)
    Average(AverageSettings(), g, 10).after_learning(g, 10)
    for name, values in g.stacks[0].learner.parameters().items():
        for r in range(2):
            mean = before[name][3 * r : 3 * r + 3].double().mean(dim=0)
            torch.testing.assert_close(values[3 * r : 3 * r + 3].double(), mean.expand(3, -1), rtol=1e-6, atol=1e-7)
        assert not torch.equal(values[0], values[3]) or name == "log_ent_coef"


def test_targets_can_be_copies_of_the_averaged_networks():
    g = group("dqn")
    learner = g.stacks[0].learner
    learner.q_target.flat.add_(1.0)
    Average(AverageSettings(average_targets="copy"), g, 10).after_learning(g, 10)
    assert torch.equal(learner.q_target.flat, learner.q.flat)


def test_members_that_do_not_learn_are_left_out():
    """A diverged or pretrained member neither gives nor takes."""
    g = group("td3")
    learner = g.stacks[0].learner
    learner.active[1] = False
    learner.actor.flat[1] = torch.nan
    before = copies(g)
    Average(AverageSettings(), g, 10).after_learning(g, 10)
    after = learner.parameters()["actor"]
    assert after[1].isnan().all() and torch.equal(after[0], after[2])
    torch.testing.assert_close(after[0], (before["actor"][0] + before["actor"][2]) / 2)


def test_a_fixed_entropy_coefficient_is_not_averaged():
    """It is a setting of the member; one that is learned is averaged."""
    settings = replace(default_settings("sac"), net_arch=(4,), buffer_size=8, batch_size=2)
    for coefficients, averaged in ((("0.1", "0.4"), False), (("auto_0.1", "auto_0.4"), True)):
        members = [replace(settings, ent_coef=c) for c in coefficients]
        g = Group(members, 1, 0, BOX, 50)
        Average(AverageSettings(), g, 10).after_learning(g, 10)
        learned = [stack.learner.log_ent_coef for stack in g.stacks]
        assert len(learned) == 1
        expected = [0.2, 0.2] if averaged else [0.1, 0.4]
        torch.testing.assert_close(learned[0].exp().view(-1), torch.tensor(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exchange_freq": 50}, "^exchange_freq has no effect without exchange"),
        ({"average_targets": "copy"}, "^average_targets has no effect without exchange=.average."),
    ],
)
def test_settings_of_an_exchange_that_is_not_used_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        peerage.train("Room-v6", n_peers=2, total_timesteps=10, log_dir=str(tmp_path), verbose=0, **changes)
    assert not list(tmp_path.iterdir())


def test_moments_and_replay_are_not_exchanged(begin):
    config = Config(
        env="Room-v6", n_peers=2, replicas=2, total_timesteps=60, device="cpu", exchange=("average",),
        exchange_freq=40, advice=AdviceConfig(sharing="none"), run=RunConfig(eval_freq=0),
        learner=LearnerConfig(learning_starts=(5,), batch_size=(4,), net_arch=((8,),)),
    )  # fmt: skip
    trainer, alone = begin(config), begin(replace(config, exchange=()))
    for _ in range(39):
        trainer.advance()
        alone.advance()
    for state in (trainer, alone):
        state.advance()
    a, b = (t.group.stacks[0].learner for t in (trainer, alone))
    assert torch.equal(a.q.flat[0], a.q.flat[1]) and not torch.equal(b.q.flat[0], b.q.flat[1])
    assert torch.equal(a.optimizer.exp_avg, b.optimizer.exp_avg)
    assert torch.equal(a.replay.data[:, :40], b.replay.data[:, :40])
    torch.testing.assert_close(a.q.flat[0], b.q.flat[:2].double().mean(dim=0).float())


def test_an_exchange_takes_place_only_when_it_is_due(begin):
    config = Config(
        env="Room-v6", n_peers=2, total_timesteps=30, device="cpu", exchange=("average",), exchange_freq=7,
        run=RunConfig(eval_freq=0), learner=LearnerConfig(learning_starts=(2,), batch_size=(2,), net_arch=((4,),)),
    )  # fmt: skip
    trainer = begin(config)
    equal = []
    for step in range(1, 30):
        trainer.advance()
        flat = trainer.group.stacks[0].learner.q.flat
        if torch.equal(flat[0], flat[1]):
            equal.append(step)
    assert [step for step in equal if step % 7 == 0] == [7, 14, 21, 28]
    assert not {6, 13, 20, 27} & set(equal)  # they learn every 4 steps, each from its own memory


def test_an_exchange_works_with_and_without_advice(tmp_path, capsys):
    for sharing in ("none", "advice"):
        run = peerage.train(
            "Room-v6", n_peers=2, sharing=sharing, exchange=("average",), exchange_freq=50, total_timesteps=100,
            learning_starts=10, eval_freq=50, n_eval_episodes=1, log_dir=str(tmp_path), exp_name=sharing, verbose=1,
            env_args={"max_episode_steps": 60},
        )  # fmt: skip
        assert "\nexchange: average every 50 steps\n" in capsys.readouterr().out
        obs = np.random.default_rng(0).random((50, 4), np.float32)
        assert [run.policy(0)(o) for o in obs] == [run.policy(1)(o) for o in obs]
        assert "exchange: [average]" in (run.folder / "config.yaml").read_text()


def test_groups_that_cannot_be_averaged_give_a_one_line_error(tmp_path):
    mixed = Config(env="Pendulum-v1", n_peers=2, exchange=("average",), learner=LearnerConfig(algorithm=("sac", "td3")))
    with pytest.raises(UserError, match="--exchange average needs members with the same --algorithm"):
        Trainer(mixed)
    with pytest.raises(UserError, match="--exchange needs at least two members"):
        Trainer(Config(env="Room-v6", n_peers=1, exchange=("average",)))


@pytest.mark.parametrize(
    ("algorithm", "networks", "averaged"),
    [
        ("sac", "all", {"actor", "critic", "critic_target"}),
        ("sac", "critics", {"critic", "critic_target"}),
        ("td3", "critics", {"critic", "critic_target"}),
        ("dqn", "critics", {"q", "q_target"}),
        ("ppo", "critics", {"critic"}),
    ],
)
def test_federated_averaging_changes_the_chosen_networks_alone(algorithm, networks, averaged):
    g = group(algorithm)
    learner = g.stacks[0].learner
    for values in learner.parameters().values():
        values.add_(torch.rand(values.shape, generator=torch.Generator().manual_seed(0)))
    before = copies(g)
    FedAvg(FedAvgSettings(networks), g, 10).after_learning(g, 10)
    for name, values in learner.parameters().items():
        if name in averaged:
            mean = mean_of_members(before[name].view(2, 3, -1), torch.ones(2, 3, dtype=torch.bool))
            assert torch.equal(values, mean.repeat_interleave(3, dim=0)) and not torch.equal(values, before[name])
        else:
            assert torch.equal(values, before[name]), name
    assert averaged < set(before) or algorithm == "dqn"


def test_federated_averaging_of_identical_members_changes_no_bit():
    g = group("sac")
    learner = g.stacks[0].learner
    for values in learner.parameters().values():
        values.copy_(values[:1].expand_as(values).clone())
    before = copies(g)
    FedAvg(FedAvgSettings(), g, 10).after_learning(g, 10)
    assert all(torch.equal(values, before[name]) for name, values in learner.parameters().items())
