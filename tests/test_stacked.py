"""The members of a stack do not affect each other: in any grouping, with different settings, with a diverged member."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transitions import transition

from peerage.config import AdviceConfig
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.dqn import DQN
from peerage.learners.group import Group
from peerage.learners.sac import SAC
from peerage.learners.streams import StreamKey
from peerage.learners.td3 import TD3
from peerage.nets import native
from peerage.nets.adam import StackedAdam
from peerage.nets.stacked import StackedMLP
from peerage.nets.workers import WORKERS
from peerage.sharing.advice import Advice
from peerage.sharing.none import NoSharing

F64 = torch.float64
OBS = 7
BOX = Space(OBS, 3, low=np.array([-2, -1, 0], np.float32), high=np.array([2, 1, 5], np.float32))
DISCRETE = Space(OBS, 1, n_actions=5)

pytestmark = pytest.mark.usefixtures("one_thread")


# --- learners ----------------------------------------------------------------------

CASES = {
    "dqn": ("dqn", {"target_update_interval": 1}),
    "dqn-imitates": ("dqn", {"target_update_interval": 1, "imitates": True}),
    "sac": ("sac", {"target_update_interval": 1}),
    "sac-fixed": ("sac", {"ent_coef": "0.1", "target_update_interval": 1}),
    "sac-gsde": ("sac", {"use_sde": True, "target_update_interval": 1}),
    "td3": ("td3", {}),
    "sac-imitates": ("sac", {"target_update_interval": 1, "imitates": True}),
    "td3-imitates": ("td3", {"imitates": True}),
}


def make(case, members, updates=6, capacity=40, spoil=()):
    """A learner of `members`, each with its own stream key, settings and data, after `updates` gradient steps.

    `spoil`: members whose rewards are NaN from transition 20 on, which is after the first three updates.
    """
    algorithm, extra = CASES[case]
    settings = [
        replace(
            default_settings(algorithm),
            net_arch=(33, 20),
            batch_size=16,
            buffer_size=capacity,
            learning_starts=0,
            train_freq=1,
            gradient_steps=1,
            learning_rate=1e-3 * (i + 1),
            gamma=1 - 0.1 * i,
            tau=0.01 * (i + 1),
            max_grad_norm=0.3 * i,
            **extra,
        )
        for i in members
    ]
    space = DISCRETE if algorithm == "dqn" else BOX
    cls = {"dqn": DQN, "sac": SAC, "td3": TD3}[algorithm]
    learner = cls(settings, [StreamKey(3, 0, i) for i in members], space, 1000)
    rngs = [np.random.default_rng(i) for i in members]

    def draw(size):
        return torch.tensor(np.stack([rng.normal(size=size) for rng in rngs]), dtype=torch.float32)

    step = 0
    for t in range(capacity):
        actions = draw(1).abs().clamp(max=4).floor() if space.discrete else draw(3)
        rewards = draw(1)[:, 0] * 5
        for row, i in enumerate(members):
            if i in spoil and t >= 20:
                rewards[row] = math.nan
        obs, next_obs = draw(OBS), draw(OBS)
        made = transition(obs, actions, rewards, next_obs, terminated=draw(1)[:, 0] > 1)
        if settings[0].imitates:  # every third transition has no label
            weight = draw(1)[:, 0].abs().clamp(max=1) if t % 3 else torch.full((len(members),), -1.0)
            made.label, made.label_weight = actions.flip(1), weight
        learner.observe(made)
        if t == 19 or t >= capacity - updates + 3:
            for _ in range(3 if t == 19 else 1):
                step += 1
                learner.learn(step)
    return learner


def everything(learner, row):
    """All that a member has learned."""
    parts = [values[row] for values in learner.parameters().values()]
    for optimizer in learner.optimizers.values():
        parts += [optimizer.exp_avg[row], optimizer.exp_avg_sq[row]]
    return torch.cat([p.flatten() for p in parts])


def acts(learner, row):
    """A member's sampled action for one observation, and its value of that action."""
    rows, obs = len(learner.settings), torch.linspace(-1, 1, OBS)
    noise = torch.linspace(-1, 1, learner.space.act_dim).expand(rows, 1, -1)
    actions = learner.suggest(obs.expand(rows, 1, -1), noise)
    return torch.cat((actions[row].flatten(), learner.action_value(obs.expand(rows, 1, -1), actions)[row]))


@pytest.mark.parametrize("case", CASES)
def test_a_member_learns_the_same_in_any_stack(case):
    """A row has the same bits in stacks of two to five rows. Alone, or in another row, it has the same numbers up to
    rounding: the row decides the alignment of its memory, and with it the last bits of small matrix products."""
    whole = make(case, range(5))
    start = make(case, range(5), updates=0)
    assert not torch.allclose(everything(whole, 0), everything(start, 0), atol=1e-3)  # learning changed it
    for members in ([0, 1], [0, 1, 2], [0, 1, 2, 3]):
        part = make(case, members)
        for row, i in enumerate(members):
            assert torch.equal(everything(part, row), everything(whole, i)), (members, i)
            assert torch.equal(acts(part, row), acts(whole, i)), (members, i)
    for members in ([4, 2], [3, 0, 1], [1, 2, 3, 4], [0], [1], [2], [3], [4]):
        part = make(case, members)
        for row, i in enumerate(members):
            torch.testing.assert_close(everything(part, row), everything(whole, i), rtol=1e-3, atol=2e-5)
            torch.testing.assert_close(acts(part, row), acts(whole, i), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_member_with_nan_rewards_is_frozen_and_the_others_are_not_affected(case):
    healthy, broken = make(case, range(3)), make(case, range(3), spoil=[1])
    assert healthy.active.tolist() == [True] * 3 and broken.active.tolist() == [True, False, True]
    for i in (0, 2):
        assert torch.equal(everything(broken, i), everything(healthy, i))
    # Every update after transition 20 saw NaNs, so the member still has the parameters from before.
    before = make(case, range(3), updates=3, capacity=20)
    for name, values in broken.parameters().items():
        ours, earlier, changed = (made.parameters()[name].view(3, -1)[1] for made in (broken, before, healthy))
        if "target" not in name:
            assert torch.equal(ours, earlier), name
        if name in ("actor", "critic", "q"):
            assert not torch.equal(ours, changed), name
        assert values.isfinite().all()


# --- layers and Adam ----------------------------------------------------------------------


def torch_mlp(net, row):
    """The network of one row, made of torch's own layers."""
    layers: list[nn.Module] = []
    for layer, (fan_in, fan_out) in enumerate(zip(net.sizes[:-1], net.sizes[1:])):
        linear = nn.Linear(fan_in, fan_out, dtype=F64)
        with torch.no_grad():
            linear.weight.copy_(net.constants[f"{layer}.weight"][row].T)
            linear.bias.copy_(net.constants[f"{layer}.bias"][row, 0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_layers_equal_those_of_torch():
    net = StackedMLP(3, (4, 6, 5, 2), dtype=F64)
    net.init_([np.random.default_rng(i) for i in range(3)])
    x = torch.randn(3, 8, 4, dtype=F64)
    out = net(x, grad=True)
    (out.square().sum(dim=(1, 2)) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    for row in range(3):
        own = torch_mlp(net, row)
        expected = own(x[row])
        torch.testing.assert_close(out[row], expected)
        (expected.square().sum() * (row + 1)).backward()
        grads = [(p.grad.T if p.ndim == 2 else p.grad).flatten() for p in own.parameters()]
        torch.testing.assert_close(net.grad[row], torch.cat(grads))
    assert torch.equal(net.tail(net.trunk(x)), net(x))
    assert torch.equal(net(x[::2], rows=slice(None, None, 2)), net(x)[::2])
    assert not net(x).requires_grad


def test_without_grad_only_the_input_gets_a_gradient():
    net = StackedMLP(2, (3, 4, 1), dtype=F64)
    net.init_([np.random.default_rng(i) for i in range(2)])
    x = torch.randn(2, 5, 3, dtype=F64, requires_grad=True)
    net(x).sum().backward()
    assert (net.grad == 0).all() and x.grad is not None and (x.grad != 0).any()


def test_initial_values_are_distributed_as_in_torch():
    sizes = (16, 100, 49, 30)
    net = StackedMLP(4, sizes)
    net.init_([StreamKey(0, 0, i).generator("init") for i in range(4)])
    for layer, fan_in in enumerate(sizes[:-1]):
        bound = 1 / math.sqrt(fan_in)
        values = net.constants[f"{layer}.weight"]
        assert values.abs().max() <= bound and values.abs().max() > 0.99 * bound
        assert abs(values.mean()) < 0.03 * bound
        assert abs(values.std() - bound / math.sqrt(3)) < 0.03 * bound  # of a uniform distribution
        bias = net.constants[f"{layer}.bias"]
        assert bias.abs().max() <= bound and bias.abs().max() > 0.9 * bound and bias.std() > 0.45 * bound
    reference = nn.Linear(100, 49)
    assert reference.weight.abs().max() <= 0.1 and reference.bias.abs().max() <= 0.1  # torch has the same bounds
    assert len({row.sum().item() for row in net.flat}) == 4
    other = StackedMLP(2, sizes)
    other.init_([StreamKey(0, 0, i).generator("init") for i in (3, 1)])
    assert torch.equal(other.flat, net.flat[[3, 1]])  # a row depends only on its own generator


def adam_case(dtype, clip=None, rows=4, size=50):
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(rows, size, generator=generator, dtype=dtype)
    lr = torch.tensor([1e-4, 1e-2, 0.3, 0.0][:rows], dtype=dtype).unsqueeze(1)
    limit = None if clip is None else torch.tensor(clip, dtype=dtype).unsqueeze(1)
    grads = [
        torch.randn(rows, size, generator=generator, dtype=dtype)
        * torch.tensor([1.0, 1e-6, 100.0, 1.0][:rows], dtype=dtype).unsqueeze(1)
        for _ in range(8)
    ]
    grad = torch.zeros_like(flat)
    return StackedAdam(flat.clone(), grad, lr, max_grad_norm=limit), grads


@pytest.mark.parametrize("clip", [None, [0.5, 1e-7, 1e3, math.inf]])
def test_every_row_equals_an_adam_of_torch(clip):
    stacked, grads = adam_case(F64, clip)
    rows = [nn.Parameter(row.clone()) for row in stacked.flat]
    own = [torch.optim.Adam([p], lr=stacked.lr[i].item()) for i, p in enumerate(rows)]
    for grad in grads:
        stacked.zero_grad()
        stacked.grad += grad
        stacked.step(torch.ones(4, dtype=torch.bool))
        assert torch.equal(stacked.grad, grad)  # clipping does not change the gradients in place
        for i, (row, optimizer) in enumerate(zip(rows, own)):
            row.grad = grad[i].clone()
            if clip is not None:
                nn.utils.clip_grad_norm_([row], clip[i])
            optimizer.step()
            moments = optimizer.state[row]
            tight = {"rtol": 1e-12, "atol": 1e-16}
            torch.testing.assert_close(stacked.exp_avg[i], moments["exp_avg"], **tight)
            torch.testing.assert_close(stacked.exp_avg_sq[i], moments["exp_avg_sq"], rtol=1e-12, atol=1e-25)
            torch.testing.assert_close(stacked.flat[i], row.detach(), **tight)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_frozen_row_keeps_its_bits_and_does_not_affect_the_others(bad):
    with_it, grads = adam_case(torch.float32, clip=[1.0, 1e-6, 5.0, 2.0])
    without, _ = adam_case(torch.float32, clip=[1.0, 1e-6, 5.0, 2.0])
    active = torch.ones(4, dtype=torch.bool)
    kept = None
    for k, grad in enumerate(grads):
        without.grad.copy_(grad)
        without.step(torch.ones(4, dtype=torch.bool))
        with_it.grad.copy_(grad)
        if k == 3:
            kept = with_it.flat[1].clone()
            with_it.grad[1, 7] = bad
        assert with_it.finite().tolist() == [True, k != 3, True, True]
        active &= with_it.finite()
        with_it.step(active)
    assert kept is not None and torch.equal(with_it.flat[1], kept)
    for row in (0, 2, 3):
        assert torch.equal(with_it.flat[row], without.flat[row])
    assert not torch.equal(without.flat[1], kept)


def test_a_row_with_both_infinities_is_not_finite():
    stacked, _ = adam_case(torch.float32)
    stacked.grad[2, 0], stacked.grad[2, 1] = math.inf, -math.inf
    assert stacked.finite().tolist() == [True, True, False, True]


def test_adam_continues_from_a_state():
    one, grads = adam_case(torch.float32)
    two, _ = adam_case(torch.float32)
    active = torch.ones(4, dtype=torch.bool)
    for k, grad in enumerate(grads):
        one.grad.copy_(grad)
        one.step(active)
        if k == 4:
            two.flat.copy_(one.flat)
            two.load_state({name: value.clone() for name, value in one.state().items()})
        if k > 4:
            two.grad.copy_(grad)
            two.step(active)
    assert torch.equal(one.flat, two.flat)


def test_soft_update_is_a_weighted_mean():
    target, online = (StackedMLP(3, (4, 6, 2), dtype=F64) for _ in range(2))
    target.init_([np.random.default_rng(i) for i in range(3)])
    online.init_([np.random.default_rng(9 + i) for i in range(3)])
    tau = torch.tensor([[0.005], [0.6], [1.0]], dtype=F64)
    expected = (1 - tau) * target.flat + tau * online.flat
    online_before = online.flat.clone()
    target.lerp_(online, tau)
    torch.testing.assert_close(target.flat, expected, rtol=1e-13, atol=1e-15)
    assert torch.equal(target.flat[2], online.flat[2])  # tau 1 copies
    assert torch.equal(online.flat, online_before)


# --- groups ----------------------------------------------------------------------


class World:
    """Deterministic environments, one per member, made of rational functions so that each has the same bits in any
    group. An episode has 17 steps; every second one ends in a terminal state."""

    def __init__(self, stream_keys):
        rngs = [np.random.default_rng([s.replica, s.member]) for s in stream_keys]
        self.start = np.stack([rng.normal(size=OBS) for rng in rngs]).astype(np.float32)
        self.obs, self.count = self.start.copy(), 0

    def step(self, actions):
        moved = self.obs[:, ::-1] * np.float32(1.5) + actions[:, :1] * np.float32(0.7) - actions[:, -1:]
        next_obs = (moved / (1 + np.abs(moved))).astype(np.float32)
        rewards = next_obs[:, 0] - next_obs[:, 1] * next_obs[:, 1]
        self.count += 1
        over = self.count % 17 == 0
        terminated = np.full(len(rewards), self.count % 34 == 0, np.float32)
        self.obs = self.start.copy() if over else next_obs
        return next_obs, rewards, terminated, over


def small(algorithm, **kwargs):
    base = {"net_arch": (24, 16), "batch_size": 12, "buffer_size": 90, "learning_starts": 15, "train_freq": 2}
    base |= {"gradient_steps": 1, "learning_rate": 3e-3, "tau": 0.02}
    base |= {} if algorithm == "td3" else {"target_update_interval": 1}
    return replace(default_settings(algorithm), **(base | kwargs))


def live(members, replicas, *, advice=None, steps=200, seed=5):
    """Train. Returns {(replica, member): its observations, actions, parameters and trust as one vector}, and the
    sharing."""
    space = DISCRETE if members[0].algorithm == "dqn" else BOX
    group = Group(members, replicas, seed, space, steps)
    sharing = NoSharing(group) if advice is None else Advice(advice, group, [], seed=seed, epoch_length=40)
    world, start, log = World(group.stream_keys), True, []
    for step in range(1, steps + 1):
        host = world.obs
        obs = torch.from_numpy(host.copy())
        actions = sharing.act(obs, host, np.full(group.M, start), step)
        first = start
        next_obs, rewards, terminated, start = world.step(actions.numpy())
        step_made = transition(
            obs, actions, rewards, next_obs, terminated=terminated, first=first, followed=sharing.followed
        )
        group.observe(step_made)
        sharing.observe(step_made)
        sharing.after_step(step)
        group.learn(step)
        log.append(torch.cat((obs, actions), dim=1))
    whole = torch.stack(log, dim=1)  # [M, steps, obs + act]
    ages = torch.arange(group.recent.size).expand(group.M, -1)
    history = group.recent_transitions(ages).followed  # [M, steps]
    out = {}
    for stack in group.stacks:
        for row, m in enumerate(stack.index.tolist()):
            parts = [whole[m].flatten(), everything(stack.learner, row)]
            if isinstance(sharing, Advice):
                if sharing.signals["td"].trust is not None:
                    parts.append(sharing.signals["td"].trust.values[m])
                if sharing.signals["td"].agents is not None:
                    parts.append(sharing.signals["td"].agents.values[m // group.N])
                parts += [history[m].float(), torch.as_tensor(sharing.counts[m]).float()]
                parts.append(sharing.last["score"][m])
            out[m // group.N, m % group.N] = torch.cat(parts)
    return out, sharing


def same_bits(one, two):
    common = one.keys() & two.keys()
    for key in common:
        assert torch.equal(one[key], two[key]), key
    assert len({v.sum().item() for v in one.values()}) == len(one)  # members differ
    assert all(v.isfinite().all() for v in one.values())
    return len(common)


@pytest.mark.parametrize("algorithm", ["dqn", "sac", "td3"])
def test_without_sharing_a_member_does_not_depend_on_the_size_of_the_group(algorithm):
    """Members 0 and 1 have the same bits in groups of two to four, with other replicas or without."""
    member = small(algorithm)
    four, _ = live([member] * 4, 1)
    for n, replicas in ((2, 1), (3, 1), (2, 3)):
        other, _ = live([member] * n, replicas)
        assert same_bits(other, four) == n
    two_by_two, _ = live([member] * 2, 2)
    assert same_bits(other, two_by_two) == 4


ADVICE = AdviceConfig(
    temperature=(0.5,), lr=0.05, epsilon=0.05, self_share=0.1, follow_steps=4, use_advantage=True, init_trust_values=9.0
)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("algorithm", ["dqn", "sac", "td3"])
def test_a_group_of_one_with_advice_trains_like_a_single_agent(algorithm, replicas):
    member = small(algorithm)
    alone, _ = live([member], replicas)
    advised, sharing = live([member], replicas, advice=ADVICE)
    assert sharing.signals["td"].trust is None and sharing.signals["td"].agents is None
    for key, mine in alone.items():
        assert torch.equal(advised[key][: len(mine)], mine)


def test_warm_up_is_uniform_over_the_box():
    group = Group([small("sac")] * 2, 1, 0, BOX, 100)
    drawn = torch.cat([group.warmup_actions() for _ in range(3000)])
    low, high = torch.tensor(BOX.low), torch.tensor(BOX.high)
    assert (drawn >= low).all() and (drawn <= high).all()
    scaled = (drawn - low) / (high - low)
    assert (scaled.mean(dim=0) - 0.5).abs().max() < 0.02 and (scaled.var(dim=0) - 1 / 12).abs().max() < 0.005
    discrete = Group([small("dqn")] * 2, 1, 0, DISCRETE, 100)
    seen = torch.cat([discrete.warmup_actions() for _ in range(3000)]).flatten().long()
    assert (torch.bincount(seen, minlength=5) / len(seen) - 0.2).abs().max() < 0.03 and seen.max() == 4


@pytest.mark.parametrize("way", ["oneDNN", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
def test_wide_layers_row_by_row_are_the_same_function(threads, way, monkeypatch):
    """Wide layers row by row give the values and gradients of the batched computation, and the same bits with any
    number of threads and any other rows."""
    if way == "oneDNN" and not native.available("onednn_linear"):
        pytest.skip("torch has no onednn_linear")
    torch.manual_seed(0)
    net = StackedMLP(3, (5, 128, 128, 2))
    net.flat.copy_(0.1 * torch.randn_like(net.flat))
    x = torch.randn(3, 64, 5, requires_grad=True)
    seen = []
    WORKERS.set_threads(threads)
    for used in (way, None):
        monkeypatch.setattr(native, "row_products", lambda used=used: used)
        net.grad.zero_()
        x.grad = None
        out = net(x, grad=True)
        out.square().sum().backward()
        seen.append((out.detach().clone(), net.grad.clone(), x.grad.clone()))
    monkeypatch.setattr(native, "row_products", lambda: way)
    WORKERS.set_threads(1)
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    alone = StackedMLP(1, (5, 128, 128, 2))
    alone.flat.copy_(net.flat[:1])
    assert torch.equal(alone(x[:1].detach()), seen[0][0][:1])
