"""Acting with a Decision Transformer: the recursion by hand, windows, batches, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peerage.errors import UserError
from peerage.nets.gpt import StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.context import Contexts
from peerage.offline.preprocessing import Preprocessing

OBS, ACT, K, STEPS = 4, 2, 3, 12
BOX = Preprocessing(
    state_mean=np.array([1, 0, -1, 0], np.float32), state_std=np.array([2, 1, 0.5, 1], np.float32), scale=10.0,
    low=np.array([-2, 0], np.float32), high=np.array([2, 1], np.float32),
    rtg_low=np.array([0, 0, 1], np.float32), rtg_high=np.array([8, 6, 5], np.float32),
)  # fmt: skip
DISCRETE = Preprocessing(np.zeros(OBS, np.float32), np.ones(OBS, np.float32), n_actions=3)

pytestmark = pytest.mark.usefixtures("one_thread")


def make_net(preprocessing=BOX, rows=1, max_ep_len=STEPS):
    settings = GPTSettings(context_length=K, d_model=8, n_layers=2, max_ep_len=max_ep_len)
    net = StackedGPT(rows, OBS, preprocessing.width, settings, tanh=preprocessing.bounded, dtype=torch.float64)
    net.init_([np.random.default_rng(row) for row in range(rows)])
    net.flat.mul_(20)  # actions that depend on the inputs
    return net


def random_steps(n, steps, seed=0, preprocessing=BOX):
    """Observations, executed actions and rewards of `steps` steps of `n` episodes."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps, n, OBS)).astype(np.float32)
    actions = rng.uniform(0, 1, size=(steps, n, ACT)).astype(np.float32)
    if preprocessing.n_actions:
        actions = rng.integers(0, preprocessing.n_actions, size=(steps, n, 1)).astype(np.float32)
    return obs, actions, rng.normal(size=(steps, n)).astype(np.float32)


def test_actions_are_those_of_the_window_written_out():
    """Returns-to-go are the target minus the rewards, divided by the scale; the window has the last K steps."""
    net = make_net()
    contexts, none = Contexts(net, BOX, 1), np.zeros(1, bool)
    contexts.begin(np.arange(1), 7.0)
    obs, actions, _ = random_steps(1, 5)
    rewards = [1.0, 2.0, -0.5, 3.0, 0.0]
    to_go = [0.7, 0.6, 0.4, 0.45, 0.15]
    for t in range(5):
        steps = list(range(max(0, t - K + 1), t + 1))
        states = (obs[steps, 0] - [1, 0, -1, 0]) / [2, 1, 0.5, 1]
        taken = actions[steps, 0] * [0.5, 2] - [0, 1]  # [-2, 2] and [0, 1] -> [-1, 1]
        parts = (states, taken, np.array(to_go)[steps, None])
        batch = [torch.as_tensor(x, dtype=torch.float64).view(1, 1, len(steps), -1) for x in parts]
        mask = torch.ones(1, 1, len(steps), dtype=torch.bool)
        expected = net(*batch, torch.tensor([[steps]]), mask)[0, 0, -1].numpy()
        found = contexts.act(obs[t])
        assert found.dtype == np.float32 and found.shape == (1, ACT)
        assert found[0] == pytest.approx(expected * [2, 0.5] + [0, 0.5], abs=1e-6)
        assert np.array_equal(contexts.act(obs[t]), found)  # a question changes nothing
        contexts.observe(obs[t], actions[t], np.array([rewards[t]], np.float32), none)


@pytest.mark.parametrize("preprocessing", [BOX, DISCRETE])
def test_a_batch_of_episodes_equals_single_episodes(preprocessing):
    """With targets of their own, episodes that end at different steps, and two networks."""
    n, net = 6, make_net(preprocessing, rows=2)
    obs, actions, rewards = random_steps(n, STEPS, preprocessing=preprocessing)
    targets = np.arange(n) - 2.0
    done = np.array([[t % (b + 3) == b + 2 for b in range(n)] for t in range(STEPS)])

    def actions_of(contexts, rows):
        contexts.begin(np.arange(len(rows)), targets[rows])
        found = []
        for t in range(STEPS):
            found.append(contexts.act(obs[t, rows]))
            contexts.observe(obs[t, rows], actions[t, rows], rewards[t, rows], done[t, rows])
        return np.array(found)

    together = actions_of(Contexts(net, preprocessing, n), np.arange(n))
    assert len(np.unique(together)) > 2
    for b in range(n):
        single = make_net(preprocessing)
        single.flat.copy_(net.flat[b // 3 : b // 3 + 1])
        alone = actions_of(Contexts(single, preprocessing, 1), np.array([b]))
        np.testing.assert_allclose(alone[:, 0], together[:, b], atol=1e-6)
        row = slice(b // 3, b // 3 + 1)
        assert np.array_equal(actions_of(Contexts(net, preprocessing, 1, rows=row), np.array([b])), alone)


def test_some_episodes_can_ask_and_the_state_restores_all():
    net, n = make_net(), 4
    obs, actions, rewards = random_steps(n, 6)
    contexts, restored = Contexts(net, BOX, n), Contexts(net, BOX, n)
    contexts.begin(np.arange(n), 5.0)
    for t in range(5):
        contexts.observe(obs[t], actions[t], rewards[t], np.arange(n) == t)
    everyone = contexts.act(obs[5])
    asking = np.array([0, 3])
    np.testing.assert_allclose(contexts.act(obs[5, asking], asking), everyone[asking], atol=1e-6)
    restored.load_state(contexts.state())
    assert np.array_equal(restored.act(obs[5]), everyone)
    with pytest.raises(ValueError, match=r"shape \[4, 3, 4\] instead of \[2, 3, 4\]"):
        Contexts(net, BOX, 2).load_state(contexts.state())


def test_returns_to_go_are_clipped_to_the_range_of_the_data():
    contexts = Contexts(make_net(), BOX, 2, clip=True)
    contexts.begin(np.arange(2), np.array([20.0, 3.0]))
    obs, actions, _ = random_steps(2, 5)
    for t in range(5):
        contexts.observe(obs[t], actions[t], np.array([2.0, 2.0], np.float32), np.zeros(2, bool))
    # The targets minus the rewards are 16 14 12 and -1 -3 -5; the data's range from the third step on is 1 to 5.
    assert contexts.rtg.tolist() == [[5, 5, 5], [1, 1, 1]]
    assert contexts.left.tolist() == [10, -7]
    assert BOX.clipped(np.array([20.0, 20.0]), np.array([0, 1])).tolist() == [8, 6]


def test_steps_without_a_timestep_are_refused():
    contexts = Contexts(make_net(max_ep_len=2), BOX, 1)
    contexts.begin(np.arange(1), 5.0)
    obs, actions, rewards = random_steps(1, 3)
    for t in range(2):
        contexts.act(obs[t])
        contexts.observe(obs[t], actions[t], rewards[t], np.zeros(1, bool))
    with pytest.raises(UserError, match=r"step 3 of an episode: .* for 2 steps only"):
        contexts.act(obs[2])
    contexts.observe(obs[2], actions[2], rewards[2], np.ones(1, bool))
    contexts.act(obs[2])  # the first step of the next episode


def test_preprocessing_converts_actions_targets_and_itself():
    assert BOX.to_model(np.array([[2, 0.25], [-9, 1]])).tolist() == [[1, -0.5], [-1, 1]]
    assert BOX.to_env(np.array([[1, -0.5], [np.nan, 1]])).tolist() == [[2, 0.25], [0, 1]]
    assert DISCRETE.to_model(np.array([[2.0], [0.0]])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert DISCRETE.to_env(np.array([[0.1, 0.5, 0.2]])).tolist() == [[1]]
    unknown = Preprocessing(BOX.state_mean, BOX.state_std, low=np.array([-np.inf]), high=np.array([np.inf]))
    assert not unknown.bounded and unknown.to_env(np.array([[7.0]])).tolist() == [[7]]
    assert BOX.targets() == [] and BOX.largest == np.inf
    returns = np.arange(-100, 1, dtype=np.float32) - 50
    known = Preprocessing(BOX.state_mean, BOX.state_std, returns=returns)
    assert known.targets() == [-50, -140, -100, -60, -40]
    again = Preprocessing.of_state(known.state())
    assert again.targets() == known.targets() and again.state() == known.state()
