"""DQN, SAC and TD3 against the networks and `train()` of Stable-Baselines3, in float64.

Stable-Baselines3 gets the same weights, batches and noise. A stack holds several members with different weights,
learning rates, discounts and targets, each compared with a separate model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from transitions import transition

from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.dqn import DQN
from peerage.learners.sac import SAC
from peerage.learners.streams import StreamKey
from peerage.learners.td3 import TD3

OBS, ARCH, BATCH, TOTAL = 5, (16, 12), 8, 1000
LOW, HIGH = np.array([-3.0, 0.5], np.float32), np.array([1.0, 2.0], np.float32)
BOX = Space(OBS, 2, low=LOW, high=HIGH)
DISCRETE = Space(OBS, 1, n_actions=4)
F64 = torch.float64


def test_the_defaults_that_differ_from_stable_baselines3():
    """`sb3_defaults`, which the help shows, against the installed version."""
    for name, algorithm in (("dqn", sb3.DQN), ("sac", sb3.SAC), ("td3", sb3.TD3)):
        theirs = {p.name: p.default for p in signature(algorithm.__init__).parameters.values()}
        env = "CartPole-v1" if name == "dqn" else "Pendulum-v1"
        policy = algorithm("MlpPolicy", env, buffer_size=10, device="cpu").policy
        theirs |= {p.name: p.default for p in signature(type(policy).__init__).parameters.values() if "std" in p.name}
        theirs["net_arch"] = tuple(policy.net_arch)
        ours = vars(default_settings(name))
        known = {key: "none" if theirs[key] is None else theirs[key] for key in ours if key in theirs}
        assert {key: value for key, value in known.items() if value != ours[key]} == default_settings(name).sb3_defaults
        assert len(known) > 8


class Fake(gymnasium.Env):
    def __init__(self, discrete):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(4) if discrete else gymnasium.spaces.Box(LOW, HIGH)


class Given:
    """A stream that gives out what it was given."""

    def __init__(self, values):
        self.values = deque(values)

    def next(self):
        return self.values.popleft()


@dataclass
class Reference:
    """One Stable-Baselines3 model and what its optimisers were handed, before Adam saw it."""

    model: Any
    grads: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def spy(self, name, optimizer, layers):
        step = optimizer.step

        def spied(*args, **kwargs):
            self.grads.setdefault(name, []).append(flat(layers(), grad=True))
            return step(*args, **kwargs)

        optimizer.step = spied


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Observations stay float64 in Stable-Baselines3; one thread."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *args, **kwargs: obs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def normal_draws(monkeypatch):
    """Queues of standard normal numbers that Stable-Baselines3 draws from."""
    queues = SimpleNamespace(rsample=deque(), normal_=deque())

    def rsample(self, sample_shape=()):
        if len(sample_shape):  # gSDE's matrices for several environments, which are not used
            return torch.zeros(*sample_shape, *self.loc.shape, dtype=F64)
        return self.loc + self.scale * queues.rsample.popleft()

    def normal_(self, mean=0.0, std=1.0):
        return self.copy_(mean + std * queues.normal_.popleft())

    monkeypatch.setattr(torch.distributions.Normal, "rsample", rsample)
    monkeypatch.setattr(torch.Tensor, "normal_", normal_)
    return queues


# --- their parameters in our order: [in, out] weights ---


def linears(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def flat(parts, grad=False):
    """Layers (a Linear, a pair of Linears side by side, or a plain parameter) as one row of a stack."""
    rows = []
    for part in parts:
        if isinstance(part, nn.Parameter):
            rows.append((part.grad if grad else part).detach().clone().flatten())
            continue
        both = part if isinstance(part, tuple) else (part,)
        for name, dim in (("weight", 0), ("bias", 0)):
            tensors = [getattr(layer, name) for layer in both]
            whole = torch.cat([t.grad if grad else t for t in tensors], dim=dim).detach()
            rows.append((whole.T if name == "weight" else whole).flatten())
    return torch.cat(rows)


def sac_actor_layers(actor):
    if actor.use_sde:
        return [*linears(actor.latent_pi), *linears(actor.mu), actor.log_std]
    return [*linears(actor.latent_pi), (actor.mu, actor.log_std)]


def critic_layers(critic):
    return [*linears(critic.qf0), *linears(critic.qf1)]


def transitions(seed, space, count, reward_scale, obs_scale=1.0):
    """`count` transitions, some terminal: dict of arrays, actions in the environment's units."""
    rng = np.random.default_rng(seed)
    if space.discrete:
        actions = rng.integers(space.n_actions, size=(count, 1)).astype(float)
    else:
        actions = rng.uniform(space.low, space.high, (count, space.act_dim))
        actions[0] = space.low
        actions[1] = space.high
    return {
        "obs": rng.normal(size=(count, OBS)) * obs_scale,
        "actions": actions,
        "rewards": rng.normal(size=count) * reward_scale,
        "next_obs": rng.normal(size=(count, OBS)),
        "terminated": (np.arange(count) % 3 == 0).astype(float),
    }


def feed(learner, data, updates):
    """Store every member's transitions; update `u` then samples numbers `u B ... (u + 1) B - 1`."""
    count = updates * BATCH
    columns = [torch.tensor(np.stack([d[k] for d in data])) for k in ("obs", "actions", "rewards", "next_obs")]
    columns.append(torch.tensor(np.stack([d["terminated"] for d in data])))
    for t in range(count):
        obs, actions, rewards, next_obs, terminated = (c[:, t] for c in columns)
        learner.observe(transition(obs, actions, rewards, next_obs, terminated=terminated))
    index = torch.arange(count, dtype=F64).view(updates, 1, BATCH).expand(-1, len(data), -1)
    learner.streams["replay"] = Given((index + 0.5) / count)


def feed_reference(model, data, updates):
    batches = deque()
    for u in range(updates):
        part = slice(u * BATCH, (u + 1) * BATCH)
        actions = data["actions"][part]
        if isinstance(model.action_space, gymnasium.spaces.Box):
            actions = model.policy.scale_action(actions)  # as its collect_rollouts stores them
        columns = {
            "observations": data["obs"][part],
            "actions": actions,
            "next_observations": data["next_obs"][part],
            "dones": data["terminated"][part, None],
            "rewards": data["rewards"][part, None],
        }
        batches.append(ReplayBufferSamples(**{k: torch.tensor(v, dtype=F64) for k, v in columns.items()}))
    model.replay_buffer = SimpleNamespace(sample=lambda *args, **kwargs: batches.popleft())


def make_model(cls, discrete, seed, **kwargs):
    torch.manual_seed(seed)
    kwargs["policy_kwargs"] = {"net_arch": list(ARCH), **kwargs.pop("policy_kwargs", {})}
    model = cls("MlpPolicy", Fake(discrete), buffer_size=10, batch_size=BATCH, device="cpu", **kwargs)
    model.policy.double()
    model.set_logger(Logger(None, []))
    return model


def assert_close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def spy(optimizer):
    """The gradients `[S, P]` that our optimiser is handed, before clipping and Adam."""
    seen, step = [], optimizer.step

    def spied(active):
        seen.append(optimizer.grad.clone())
        step(active)

    optimizer.step = spied
    return seen


def compare_gradients(ours, references, name):
    for s, reference in enumerate(references):
        theirs = reference.grads[name]
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs):
            assert other.abs().max() > 1e-3  # a gradient worth comparing
            assert_close(mine[s], other)


# --- DQN ----------------------------------------------------------------------


def test_dqn_equals_sb3(monkeypatch):
    updates, interval = 3, 2
    lrs, gammas, taus, limits = [1e-3, 3e-3, 1e-2], [0.9, 0.99, 0.5], [1.0, 0.3, 0.7], [10.0, 0.5, 10.0]
    scales, sizes = [300.0, 5.0, 0.1], [100.0, 5.0, 1.0]  # clipped, clipped at another norm, not clipped
    settings = [
        replace(
            default_settings("dqn"),
            learning_rate=lrs[s],
            gamma=gammas[s],
            tau=taus[s],
            max_grad_norm=limits[s],
            net_arch=ARCH,
            batch_size=BATCH,
            learning_starts=0,
            train_freq=1,
            gradient_steps=1,
            target_update_interval=interval,
            exploration_fraction=0.2 + 0.1 * s,
            exploration_final_eps=0.02 * s,
        )
        for s in range(3)
    ]
    learner = DQN(settings, [StreamKey(0, 0, s) for s in range(3)], DISCRETE, TOTAL, dtype=F64)
    data = [transitions(10 + s, DISCRETE, updates * BATCH, scales[s], sizes[s]) for s in range(3)]
    references = []
    norms: list[list[float]] = [[], [], []]
    for s in range(3):
        model = make_model(
            sb3.DQN,
            True,
            20 + s,
            learning_rate=lrs[s],
            gamma=gammas[s],
            tau=taus[s],
            max_grad_norm=limits[s],
            target_update_interval=interval,
            exploration_fraction=0.2 + 0.1 * s,
            exploration_final_eps=0.02 * s,
        )
        other = make_model(sb3.DQN, True, 30 + s)  # a separate target network
        model.q_net_target.load_state_dict(other.q_net.state_dict())
        learner.q.flat[s] = flat(linears(model.q_net))
        learner.q_target.flat[s] = flat(linears(model.q_net_target))
        feed_reference(model, data[s], updates)
        references.append(Reference(model))
    feed(learner, data, updates)

    clip = nn.utils.clip_grad_norm_
    current: list[int] = []

    def clip_spy(parameters, limit):
        s = current[0]
        references[s].grads.setdefault("q", []).append(flat(linears(references[s].model.q_net), grad=True))
        norms[s].append(float(clip(parameters, limit)))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip_spy)
    grads = spy(learner.optimizer)
    for step in range(1, updates + 1):
        learner.learn(step)
        losses = learner.metrics()["loss/critic"]
        for s, reference in enumerate(references):
            current[:] = [s]
            model = reference.model
            model._update_current_progress_remaining(step, TOTAL)
            model._on_step()  # moves the target network, as after a step in the environment
            model.train(1, BATCH)
            assert_close(losses[s].item(), model.logger.name_to_value["train/loss"].item())
            # (it acts with this rate in the step after; we in this one)
            assert_close(learner.epsilon(step)[s].item(), model.exploration_rate)
    assert min(norms[0]) > 10 and min(norms[1]) > 0.5 and max(norms[2]) < 10
    compare_gradients(grads, references, "q")
    for s, reference in enumerate(references):
        assert_close(learner.q.flat[s], flat(linears(reference.model.q_net)), 1e-8)
        assert_close(learner.q_target.flat[s], flat(linears(reference.model.q_net_target)), 1e-8)

        obs = torch.randn(6, OBS, dtype=F64)
        q = reference.model.q_net(obs).detach()
        ours = obs.expand(3, 6, OBS)
        assert learner.suggest(ours)[s, :, 0].tolist() == q.argmax(dim=1).tolist()
        assert_close(learner.state_value(ours)[s], q.amax(dim=1), 1e-8)
        acts = torch.tensor([0.0, 1, 2, 3, 0, 2], dtype=F64).view(6, 1)
        assert_close(learner.action_value(ours, acts.expand(3, 6, 1))[s], q.gather(1, acts.long())[:, 0], 1e-8)


# --- SAC ----------------------------------------------------------------------

SAC_CASES = {
    "automatic": {"coef": ["auto", "auto_0.3", "auto_2"], "use_sde": False},
    "fixed": {"coef": ["0.2", "0.05", "1.5"], "use_sde": False},
    "gsde": {"coef": ["auto", "auto_0.3", "auto_0.5"], "use_sde": True},
}


@pytest.mark.parametrize("case", SAC_CASES)
def test_sac_equals_sb3(case, normal_draws):
    updates, coefs, use_sde = 3, SAC_CASES[case]["coef"], SAC_CASES[case]["use_sde"]
    lrs, gammas, taus = [1e-3, 3e-4, 1e-2], [0.9, 0.99, 0.5], [0.005, 0.3, 0.05]
    settings = [
        replace(
            default_settings("sac"),
            learning_rate=lrs[s],
            gamma=gammas[s],
            tau=taus[s],
            ent_coef=coefs[s],
            use_sde=use_sde,
            net_arch=ARCH,
            batch_size=BATCH,
            learning_starts=0,
            train_freq=1,
            gradient_steps=updates,
            target_update_interval=2,
            log_std_init=-1.0 - s,
        )
        for s in range(3)
    ]
    learner = SAC(settings, [StreamKey(0, 0, s) for s in range(3)], BOX, TOTAL, dtype=F64)
    data = [transitions(40 + s, BOX, updates * BATCH, 3.0) for s in range(3)]
    draw = torch.Generator().manual_seed(7)
    shape = (updates, 3, ARCH[-1], 2) if use_sde else (updates, 3, 2, BATCH, 2)
    noise = torch.randn(*shape, generator=draw, dtype=F64)
    references = []
    for s in range(3):
        normal_draws.rsample.extend(torch.zeros(ARCH[-1], 2) for _ in range(9))  # gSDE draws when it is made
        model = make_model(
            sb3.SAC,
            False,
            50 + s,
            learning_rate=lrs[s],
            gamma=gammas[s],
            tau=taus[s],
            ent_coef=coefs[s],
            use_sde=use_sde,
            target_update_interval=2,
            policy_kwargs={"log_std_init": -1.0 - s} if use_sde else {},
        )
        normal_draws.rsample.clear()
        if use_sde:
            assert_close(learner.actor.flat[s, -2 * ARCH[-1] :], model.actor.log_std.detach().flatten())
        with torch.no_grad():  # reach the limits: of log std, with gSDE of the mean
            (model.actor.mu[0] if use_sde else model.actor.log_std).bias[0] += 2.0
        other = make_target(model, 60 + s, normal_draws)
        if coefs[s].startswith("auto"):
            model.log_ent_coef = model.log_ent_coef.detach().double().requires_grad_()
            # from the number itself: theirs was rounded to float32
            start = 1.0 if coefs[s] == "auto" else float(coefs[s][5:])
            model.log_ent_coef.data.fill_(start).log_()
            model.ent_coef_optimizer = torch.optim.Adam([model.log_ent_coef], lr=lrs[s])
        else:
            model.ent_coef_tensor = torch.tensor(float(coefs[s]), dtype=F64)
        learner.actor.flat[s] = flat(sac_actor_layers(model.actor))
        learner.critic.flat[s] = flat(critic_layers(model.critic))
        learner.critic_target.flat[s] = flat(critic_layers(other))
        feed_reference(model, data[s], updates)
        reference = Reference(model)
        reference.spy("actor", model.actor.optimizer, lambda m=model: sac_actor_layers(m.actor))
        reference.spy("critic", model.critic.optimizer, lambda m=model: critic_layers(m.critic))
        if coefs[s].startswith("auto"):
            optimizer, step = model.ent_coef_optimizer, model.ent_coef_optimizer.step

            def spied(r=reference, m=model, step=step):
                r.grads.setdefault("entropy", []).append(m.log_ent_coef.grad.clone())
                step()

            optimizer.step = spied
        references.append(reference)

    feed(learner, data, updates)
    learner.streams["update"] = Given(noise)
    actor, critic = spy(learner.actor_optimizer), spy(learner.critic_optimizer)
    entropy = spy(learner.ent_coef_optimizer)
    if use_sde:
        clipped = learner.actor(torch.tensor(np.stack([d["obs"] for d in data]))).abs() > 2
        assert clipped.any() and not clipped.all()
    learner.learn(1)
    metrics = learner.metrics()
    for s, reference in enumerate(references):
        normal_draws.rsample.extend(noise[:, s] if use_sde else noise[:, s].flatten(0, 1))
        reference.model.train(updates, BATCH)
        assert not normal_draws.rsample
        log = reference.model.logger.name_to_value
        names = {"loss/critic": "critic_loss", "loss/actor": "actor_loss", "entropy_coef": "ent_coef"}
        for ours, theirs in names.items():
            assert_close(metrics[ours][s].item(), float(log[f"train/{theirs}"]))
        if case != "fixed":
            assert_close(metrics["loss/entropy"][s].item(), float(log["train/ent_coef_loss"]))
    compare_gradients(actor, references, "actor")
    compare_gradients(critic, references, "critic")
    if case == "fixed":
        assert not entropy and "loss/entropy" not in metrics
        assert_close(learner.log_ent_coef.exp().flatten(), torch.tensor([float(c) for c in coefs], dtype=F64))
    else:
        compare_gradients(entropy, references, "entropy")
    for s, reference in enumerate(references):
        model = reference.model
        assert_close(learner.actor.flat[s], flat(sac_actor_layers(model.actor)), 1e-8)
        assert_close(learner.critic.flat[s], flat(critic_layers(model.critic)), 1e-8)
        assert_close(learner.critic_target.flat[s], flat(critic_layers(model.critic_target)), 1e-8)
        if case != "fixed":
            assert_close(learner.log_ent_coef[s], model.log_ent_coef.detach(), 1e-8)

        obs = torch.randn(6, OBS, dtype=F64, generator=draw)
        acting = torch.randn(*((ARCH[-1], 2) if use_sde else (6, 2)), dtype=F64, generator=draw)
        if use_sde:
            learner.sde_draw = acting.expand(3, -1, -1)
            normal_draws.rsample.append(acting)
            model.actor.reset_noise()
        else:
            normal_draws.rsample.append(acting)
        compare_acting(learner, s, model, obs, torch.zeros(3, 6, 2) if use_sde else acting.expand(3, -1, -1))


def make_target(model, seed, normal_draws):
    """Give the model target critics that differ from its critics."""
    normal_draws.rsample.extend(torch.zeros(ARCH[-1], 2) for _ in range(9))
    other = make_model(type(model), False, seed)
    normal_draws.rsample.clear()
    model.critic_target.load_state_dict(other.critic.state_dict())
    return model.critic_target


def compare_acting(learner, s, model, obs, noise):
    """Actions in the environment's units and their values, for six observations."""
    ours = obs.expand(3, -1, -1)
    with torch.no_grad():
        mode = model.policy.unscale_action(model.actor(obs, deterministic=True).numpy())
        sampled = model.actor(obs)
        everywhere = torch.tensor(model.policy.unscale_action(sampled.numpy()))
        value = torch.cat(model.critic(obs, sampled), dim=1).amin(dim=1)
    assert_close(learner.suggest(ours, None)[s], torch.tensor(mode), 1e-8)
    assert_close(learner.suggest(ours, noise)[s], everywhere, 1e-8)
    if not getattr(learner, "use_sde", False):  # with gSDE states are valued by independent actions: test_gsde.py
        assert_close(learner.state_value(ours, noise)[s], value, 1e-8)
    assert_close(learner.action_value(ours, everywhere.expand(3, -1, -1))[s], value, 1e-7)


# --- TD3 ----------------------------------------------------------------------


def test_td3_equals_sb3(normal_draws):
    updates = 7  # three of the actor, and one more of the critics alone
    lrs, gammas, taus = [1e-3, 3e-4, 1e-2], [0.9, 0.99, 0.5], [0.005, 0.3, 0.05]
    settings = [
        replace(
            default_settings("td3"),
            learning_rate=lrs[s],
            gamma=gammas[s],
            tau=taus[s],
            net_arch=ARCH,
            batch_size=BATCH,
            learning_starts=0,
            train_freq=1,
            gradient_steps=1,
        )
        for s in range(3)
    ]
    learner = TD3(settings, [StreamKey(0, 0, s) for s in range(3)], BOX, TOTAL, dtype=F64)
    data = [transitions(70 + s, BOX, updates * BATCH, 3.0) for s in range(3)]
    noise = torch.randn(updates, 3, BATCH, 2, generator=torch.Generator().manual_seed(8), dtype=F64)
    noise[:, :, 0] = 4.0  # the smoothing is clipped at 0.5 (2.5 of its standard deviations)
    references = []
    for s in range(3):
        model = make_model(sb3.TD3, False, 80 + s, learning_rate=lrs[s], gamma=gammas[s], tau=taus[s])
        other = make_model(sb3.TD3, False, 90 + s)
        model.critic_target.load_state_dict(other.critic.state_dict())
        model.actor_target.load_state_dict(other.actor.state_dict())
        with torch.no_grad():
            linears(model.actor_target)[-1].bias[0] += 1.0  # so that target actions reach the box
        learner.actor.flat[s] = flat(linears(model.actor.mu))
        learner.critic.flat[s] = flat(critic_layers(model.critic))
        learner.actor_target.flat[s] = flat(linears(model.actor_target.mu))
        learner.critic_target.flat[s] = flat(critic_layers(model.critic_target))
        feed_reference(model, data[s], updates)
        reference = Reference(model)
        reference.spy("actor", model.actor.optimizer, lambda m=model: linears(m.actor.mu))
        reference.spy("critic", model.critic.optimizer, lambda m=model: critic_layers(m.critic))
        references.append(reference)
    feed(learner, data, updates)
    learner.streams["update"] = Given(noise)
    actor, critic = spy(learner.actor_optimizer), spy(learner.critic_optimizer)
    for step in range(1, updates + 1):
        learner.learn(step)
    metrics = learner.metrics()
    for s, reference in enumerate(references):
        normal_draws.normal_.extend(noise[:, s])
        reference.model.train(updates, BATCH)
        assert not normal_draws.normal_
        log = reference.model.logger.name_to_value
        assert_close(metrics["loss/critic"][s].item(), float(log["train/critic_loss"]))
        assert_close(metrics["loss/actor"][s].item(), float(log["train/actor_loss"]))
    assert len(actor) == 3 and len(critic) == 7
    compare_gradients(actor, references, "actor")
    compare_gradients(critic, references, "critic")
    for s, reference in enumerate(references):
        model = reference.model
        assert_close(learner.actor.flat[s], flat(linears(model.actor.mu)), 1e-8)
        assert_close(learner.critic.flat[s], flat(critic_layers(model.critic)), 1e-8)
        assert_close(learner.actor_target.flat[s], flat(linears(model.actor_target.mu)), 1e-8)
        assert_close(learner.critic_target.flat[s], flat(critic_layers(model.critic_target)), 1e-8)
        obs = torch.randn(6, OBS, dtype=F64)
        with torch.no_grad():
            scaled = model.actor(obs)
            value = torch.cat(model.critic(obs, scaled), dim=1).amin(dim=1)
        ours, acts = obs.expand(3, -1, -1), torch.tensor(model.policy.unscale_action(scaled.numpy()))
        assert_close(learner.suggest(ours)[s], acts, 1e-8)
        assert_close(learner.state_value(ours)[s], value, 1e-8)
        assert_close(learner.action_value(ours, acts.expand(3, -1, -1))[s], value, 1e-7)


def test_td3_exploration_is_noise_on_the_scaled_action_clipped_to_the_box():
    settings = [replace(default_settings("td3"), net_arch=ARCH, action_noise=s) for s in (0.1, 0.5)]
    learner = TD3(settings, [StreamKey(0, 0, 0), StreamKey(0, 0, 1)], BOX, TOTAL, dtype=F64)
    draw = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=F64)
    learner.streams["exploration"] = Given([draw])
    middle = torch.tensor([[-1.0, 1.25]] * 2, dtype=F64)  # 0 in [-1, 1]; half the ranges are 2 and 0.75
    # member 0: 0.1 (1, -2) = (0.1, -0.2) -> -1 + 0.2, 1.25 - 0.15; member 1: 0.5 (3, 0.5) = (1.5 -> 1, 0.25)
    expected = torch.tensor([[-0.8, 1.1], [1.0, 1.25 + 0.1875]], dtype=F64)
    assert_close(learner.explore(middle, 1), expected, 1e-7)


def test_dqn_explores_with_its_own_epsilon():
    """From 1 to the final value over a fraction of the run, per member; a random action is uniform."""
    arch = {"net_arch": ARCH, "exploration_fraction": 0.5}
    settings = [replace(default_settings("dqn"), exploration_final_eps=e, **arch) for e in (0.0, 0.4)]
    learner = DQN(settings, [StreamKey(0, 0, 0), StreamKey(0, 0, 1)], DISCRETE, 1000)
    greedy = torch.full((2, 1), 9.0)
    counts = {}
    for step in (0, 250, 500, 1000):
        seen = torch.cat([learner.explore(greedy, step) for _ in range(4000)], dim=1)
        counts[step] = (seen != 9).double().mean(dim=1)
        for row in seen:
            random = row[row != 9]
            if len(random) > 1000:
                share = torch.bincount(random.long(), minlength=4) / len(random)
                assert set(random.tolist()) == {0.0, 1.0, 2.0, 3.0} and (share - 0.25).abs().max() < 0.04
    assert counts[0].tolist() == [1.0, 1.0]
    assert (counts[250] - torch.tensor([0.5, 0.7])).abs().max() < 0.03
    assert (counts[500] - torch.tensor([0.0, 0.4])).abs().max() < 0.03
    assert counts[1000][0] == 0 and (counts[1000][1] - 0.4).abs() < 0.03


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_box_actions_are_stored_scaled_and_clipped(algorithm):
    settings = replace(default_settings(algorithm), net_arch=ARCH, buffer_size=10)
    cls = {"sac": SAC, "td3": TD3}[algorithm]
    learner = cls([settings] * 2, [StreamKey(0, 0, 0), StreamKey(0, 0, 1)], BOX, 10, dtype=F64)
    obs = torch.zeros(2, OBS, dtype=F64)
    # low and high are (-3, 0.5) and (1, 2): -3 -> -1, 2 -> 1; -1 -> 0, 1.25 -> 0; 5 is outside and becomes 1
    for actions in ([[-3.0, 2.0], [-1.0, 1.25]], [[5.0, 0.5], [0.0, -9.0]]):
        learner.observe(transition(obs, torch.tensor(actions, dtype=F64)))
    stored = learner.replay.recent(torch.tensor([[1, 0], [1, 0]])).actions
    assert stored.tolist() == [[[-1.0, 1.0], [1.0, -1.0]], [[0.0, 0.0], [0.5, -1.0]]]


def test_the_steps_of_updates_are_those_of_sb3():
    """Gradient steps after steps that are a multiple of train_freq and beyond learning_starts."""
    base = replace(
        default_settings("dqn"),
        net_arch=ARCH,
        batch_size=4,
        learning_starts=6,
        train_freq=3,
        gradient_steps=2,
        buffer_size=20,
    )
    learner = DQN([base] * 2, [StreamKey(0, 0, 0), StreamKey(0, 0, 1)], DISCRETE, 50)
    made = []
    learner.update = lambda batch: made.append(step)  # type: ignore[method-assign]
    for step in range(1, 14):
        learner.observe(transition(torch.zeros(2, OBS)))
        learner.learn(step)
    assert made == [9, 9, 12, 12]


def test_sac_exploration_matrix_changes_with_the_rollout_only():
    settings = replace(
        default_settings("sac"),
        net_arch=ARCH,
        batch_size=4,
        use_sde=True,
        train_freq=3,
        learning_starts=99,
        buffer_size=20,
    )
    learner = SAC([settings] * 2, [StreamKey(0, 0, 0), StreamKey(0, 0, 1)], BOX, 20)
    obs = torch.ones(2, 1, OBS)
    acts = []
    for step in range(1, 8):
        acts.append(learner.suggest(obs, torch.zeros(2, 1, 2)))
        learner.learn(step)
    same = [torch.equal(a, b) for a, b in pairwise(acts)]
    assert same == [True, True, False, True, True, False]
