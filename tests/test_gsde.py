"""The values of states with gSDE: every state is valued with a separate action."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.sac import SAC
from peerage.learners.streams import StreamKey

F64 = torch.float64


def learner_of(weights: list[float], biases: list[float], std: list[float]) -> SAC:
    """One member: the latent units are `relu(weight s + bias)`, the mean before the tanh is a tenth of their sum, each
    has the standard deviation `std`, and the critics say `Q(s, a) = a`."""
    n = len(weights)
    settings = replace(default_settings("sac"), use_sde=True, net_arch=(n,), batch_size=4)
    space = Space(1, 1, low=-np.ones(1, np.float32), high=np.ones(1, np.float32))
    learner = SAC([settings], [StreamKey(0, 0, 0)], space, 10, dtype=F64)
    actor, critic = learner.actor.constants, learner.critic.net.constants
    actor["0.weight"][0] = torch.tensor([weights], dtype=F64)
    actor["0.bias"][0] = torch.tensor([biases], dtype=F64)
    actor["1.weight"].fill_(0.1)
    actor["1.bias"].zero_()
    actor["log_std"][0, :, 0] = torch.tensor(std, dtype=F64).log()
    for tensor in critic.values():
        tensor.zero_()
    critic["0.weight"][:, 1, 0] = 1.0
    critic["0.bias"][:, 0, 0] = 1.0  # relu(a + 1) - 1
    critic["1.weight"][:, 0, 0] = 1.0
    critic["1.bias"].fill_(-1.0)
    return learner


def test_by_hand():
    """Latent 3 and 5 in the states 1 and 2, standard deviation 0.2: means 0.3 and 0.5, deviations 0.6 and 1."""
    learner = learner_of([2.0], [1.0], [0.2])
    obs = torch.tensor([[[1.0], [1.0], [1.0], [2.0]]], dtype=F64)
    noise = torch.tensor([[[0.0], [1.0], [-0.5], [-1.0]]], dtype=F64)
    expected = torch.tensor([[0.3, 0.9, 0.0, -0.5]], dtype=F64).tanh()
    torch.testing.assert_close(learner.state_value(obs, noise), expected)
    torch.testing.assert_close(learner.state_value(obs), torch.tensor([[0.3, 0.3, 0.3, 0.5]], dtype=F64).tanh())


def test_the_variance_is_that_of_the_policy():
    """Latent 3 and 4 with standard deviations 0.2 and 0.1: over many matrices the action before the tanh has the
    variance 9 * 0.04 + 16 * 0.01 = 0.52, and so it has over many numbers of noise."""
    learner = learner_of([1.0, 2.0], [2.0, 2.0], [0.2, 0.1])
    obs, draw = torch.ones(1, 20_000, 1, dtype=F64), torch.Generator().manual_seed(0)
    noise = torch.randn(1, 20_000, 1, dtype=F64, generator=draw)
    valued = learner.state_value(obs, noise).atanh()
    matrices = torch.randn(20_000, 1, 2, 1, dtype=F64, generator=draw)
    acted = torch.stack([learner.policy(obs[:, :1], matrix)[0].squeeze().atanh() for matrix in matrices[:4000]])
    for u in (valued, acted):
        assert float(u.mean()) == pytest.approx(0.7, abs=0.04)
        assert float(u.var()) == pytest.approx(0.52, rel=0.06)


def test_actions_keep_the_matrix_of_the_rollout():
    learner = learner_of([2.0], [1.0], [0.2])
    obs, noise = torch.ones(1, 3, 1, dtype=F64), torch.tensor([[[0.0], [1.0], [-2.0]]], dtype=F64)
    learner.sde_draw = torch.tensor([[[0.5]]], dtype=F64)
    expected = torch.full((1, 3, 1), 0.3 + 3 * 0.2 * 0.5, dtype=F64).tanh()
    torch.testing.assert_close(learner.suggest(obs, noise), expected)
