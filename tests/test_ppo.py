"""PPO: equations by hand, `PPO.train` of Stable-Baselines3, several environments, and resuming in mid-rollout."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import Logger
from torch import nn
from transitions import transition

import peerage
from peerage.config import Config
from peerage.config.tree import learner_part
from peerage.errors import UserError
from peerage.interop.sb3 import sb3_views
from peerage.interop.sb3_export import export_member
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.policies import Categorical, DiagonalNormal
from peerage.learners.ppo import PPO
from peerage.learners.recent import RecentTransitions
from peerage.learners.rollout import advantages
from peerage.learners.streams import StreamKey
from peerage.nets.adam import StackedAdam
from peerage.training.restore import restore
from peerage.training.trainer import Trainer

F64 = torch.float64
OBS, ARCH, ENVS, STEPS, TOTAL = 5, (16, 12), 2, 9, 1000
LOW, HIGH = np.array([-3.0, 0.5], np.float32), np.array([1.0, 2.0], np.float32)
SPACES = {"discrete": Space(OBS, 1, n_actions=4), "box": Space(OBS, 2, low=LOW, high=HIGH)}


def assert_close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# --- equations ------------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    """gamma 0.5, lambda 0.5. Environment 0 terminates in its second step, environment 1 is truncated there, where the
    value of its last observation is 8."""
    rewards = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]).view(1, 3, 2)
    values = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]).view(1, 3, 2)
    next_values = torch.tensor([[2.0, 2.0], [8.0, 8.0], [6.0, 6.0]]).view(1, 3, 2)
    terminated = torch.tensor([[0.0, 0], [1, 0], [0, 0]]).view(1, 3, 2)
    truncated = torch.tensor([[0.0, 0], [0, 1], [0, 0]]).view(1, 3, 2)
    half = torch.tensor([[0.5]])
    found = advantages(rewards, values, next_values, terminated, truncated, half, half)
    # last step: 4 + 0.5 6 - 3 = 4. Second: 2 + 0 - 2 = 0, or 2 + 0.5 8 - 2 = 4; the sum ends. First: 1 + 0.5 2 - 1 = 1,
    # plus 0.25 times the second.
    assert found.view(3, 2).tolist() == [[1.0, 2.0], [0.0, 4.0], [4.0, 4.0]]


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_gradients_of_policies_equal_autograd(kind):
    torch.manual_seed(0)
    outputs = torch.randn(3, 7, 4, dtype=F64, requires_grad=True)
    log_std = torch.randn(3, 4, dtype=F64, requires_grad=True)
    d_log_prob, d_entropy = torch.randn(3, 7, dtype=F64), torch.randn(3, 7, dtype=F64)
    if kind == "categorical":
        policy, actions = Categorical(outputs), torch.randint(4, (3, 7, 1)).to(F64)
        reference = torch.distributions.Categorical(logits=outputs)
        log_prob, entropy = reference.log_prob(actions.squeeze(-1)), reference.entropy()
        found = (policy.gradient(actions, d_log_prob, d_entropy),)
    else:
        policy, actions = DiagonalNormal(outputs, log_std), torch.randn(3, 7, 4, dtype=F64)
        reference = torch.distributions.Normal(outputs, log_std.exp().unsqueeze(1))
        log_prob, entropy = reference.log_prob(actions).sum(-1), reference.entropy().sum(-1)
        found = policy.gradient(actions, d_log_prob), policy.log_std_gradient(actions, d_log_prob, d_entropy)
    assert_close(policy.log_prob(actions), log_prob)
    assert_close(policy.entropy(), entropy.expand(3, 7))
    (log_prob * d_log_prob + entropy * d_entropy).sum().backward()
    assert_close(found[0].detach(), outputs.grad)
    if kind == "normal":
        assert_close(found[1].detach(), log_std.grad)


def test_categorical_samples_by_the_inverse_of_the_distribution_function():
    policy = Categorical(torch.tensor([[[0.2, 0.5, 0.3]]]).log())
    drawn = [policy.sample(torch.tensor([[[u]]])).item() for u in (0.0, 0.19, 0.21, 0.69, 0.71, 1.0)]
    assert drawn == [0, 0, 1, 1, 2, 2]


def test_rows_of_adam_count_their_own_steps():
    """A row that skips a step continues as if the step did not exist."""
    torch.manual_seed(0)
    grads = [torch.randn(2, 5, dtype=F64) for _ in range(4)]
    start = torch.randn(2, 5, dtype=F64)
    for fused in (True, False):
        flat, grad, lr = start.clone(), torch.zeros(2, 5, dtype=F64), torch.tensor([[0.1], [0.2]], dtype=F64)
        adam = StackedAdam(flat, grad, lr, eps=1e-5, row_steps=True)
        if not fused:
            adam.rows_by_lr = {}
        for n, g in enumerate(grads):
            grad.copy_(g)
            adam.step(torch.tensor([True, n != 1]))
        for row, chosen in ((0, grads), (1, [g for n, g in enumerate(grads) if n != 1])):
            theirs = nn.Parameter(start[row].clone())
            reference = torch.optim.Adam([theirs], lr=lr[row].item(), eps=1e-5)
            for g in chosen:
                theirs.grad = g[row].clone()
                reference.step()
            assert_close(flat[row], theirs.detach())
    assert adam.state()["steps"].tolist() == [4, 3]


# --- Stable-Baselines3 ----------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_stable_baselines3():
    theirs = {p.name: p.default for p in signature(sb3.PPO.__init__).parameters.values()}
    ours = vars(default_settings("ppo"))
    same = "learning_rate n_steps batch_size gamma gae_lambda clip_range normalize_advantage vf_coef max_grad_norm"
    assert [ours[name] for name in same.split()] == [theirs[name] for name in same.split()]
    assert ours["update_epochs"] == theirs["n_epochs"]
    assert theirs["clip_range_vf"] is theirs["target_kl"] is None and float(ours["ent_coef"]) == theirs["ent_coef"]


class Fake(gymnasium.Env):
    def __init__(self, kind):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(4) if kind == "discrete" else gymnasium.spaces.Box(LOW, HIGH)


class Given:
    """A stream that returns given values."""

    def __init__(self, values):
        self.values = deque(values)

    def next(self):
        return self.values.popleft()


VARIED = {  # settings of the three members
    "learning_rate": [1e-3, 3e-3, 1e-2],
    "gamma": [0.9, 0.99, 0.5],
    "gae_lambda": [0.95, 0.8, 1.0],
    "clip_range": [0.2, 0.1, 0.3],
    "clip_range_vf": [0.0, 0.2, 0.0],
    "ent_coef": ["0.01", "0", "0.1"],
    "vf_coef": [0.5, 0.25, 1.0],
    "max_grad_norm": [0.5, 10.0, 0.1],
    "target_kl": [0.0, 0.0, 0.01],
}


@pytest.fixture
def exact(monkeypatch):
    """Observations and rollouts of Stable-Baselines3 in float64."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *args, **kwargs: obs)


def rollout_data(seed, space):
    rng = np.random.default_rng(seed)
    shape = (STEPS, ENVS)
    actions = rng.integers(4, size=(*shape, 1)) if space.discrete else rng.normal(size=(*shape, space.act_dim))
    ended = rng.choice(3, size=shape, p=[0.6, 0.2, 0.2])
    return SimpleNamespace(
        obs=rng.normal(size=(STEPS + 1, ENVS, OBS)),
        final_obs=rng.normal(size=(*shape, OBS)),
        actions=actions.astype(np.float32).astype(float),  # Stable-Baselines3 rounds them to float32
        rewards=rng.normal(size=shape),
        terminated=ended == 1,
        truncated=ended == 2,
    )


def feed(learner, data):
    """Store the rollouts of all members."""
    for t in range(STEPS):
        done = np.stack([d.terminated[t] | d.truncated[t] for d in data])[..., None]
        following = np.stack([d.obs[t + 1] for d in data])
        next_obs = np.where(done, np.stack([d.final_obs[t] for d in data]), following)
        columns = [np.stack([getattr(d, name)[t] for d in data]) for name in ("obs", "actions", "rewards")]
        obs, actions, rewards = (torch.tensor(x.reshape(len(data) * ENVS, -1)) for x in columns)
        learner.observe(
            transition(
                obs,
                actions,
                rewards[:, 0],
                next_obs.reshape(len(data) * ENVS, -1),
                terminated=np.concatenate([d.terminated[t] for d in data]),
                truncated=np.concatenate([d.truncated[t] for d in data]),
                followed=np.repeat(np.arange(len(data)), ENVS),
            )
        )


def make_reference(kind, member, settings):
    torch.manual_seed(20 + member)
    model = sb3.PPO(
        "MlpPolicy",
        sb3.common.vec_env.DummyVecEnv([lambda: Fake(kind)] * ENVS),
        learning_rate=settings.learning_rate,
        n_steps=STEPS,
        batch_size=settings.batch_size,
        n_epochs=settings.update_epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        clip_range_vf=settings.clip_range_vf or None,
        ent_coef=float(settings.ent_coef),
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        target_kl=settings.target_kl or None,
        policy_kwargs={"net_arch": list(ARCH)},
        device="cpu",
    )
    model.policy.double()
    with torch.no_grad():  # a policy whose probabilities differ
        model.policy.action_net.weight.mul_(100)
    model.set_logger(Logger(None, []))
    return model


@torch.no_grad()
def feed_reference(model, data):
    buffer = model.rollout_buffer
    buffer.reset()
    for name, values in vars(buffer).items():
        if isinstance(values, np.ndarray):
            setattr(buffer, name, values.astype(np.float64))
    starts = np.zeros(ENVS)
    for t in range(STEPS):
        obs, actions = torch.tensor(data.obs[t]), torch.tensor(data.actions[t])
        flat = actions.squeeze(1) if actions.shape[1] == 1 else actions
        values, log_prob, _ = model.policy.evaluate_actions(obs, flat)
        rewards = data.rewards[t].copy()
        last = model.policy.predict_values(torch.tensor(data.final_obs[t])).numpy()[:, 0]
        rewards += np.where(data.truncated[t], model.gamma * last, 0)  # as in its collect_rollouts
        buffer.add(data.obs[t], data.actions[t], rewards, starts, values, log_prob)
        starts = (data.terminated[t] | data.truncated[t]).astype(float)
    last = model.policy.predict_values(torch.tensor(data.obs[STEPS]))
    buffer.compute_returns_and_advantage(last, starts)


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_three_updates_equal_those_of_stable_baselines3(kind, exact, monkeypatch):
    """Three members with other settings, terminations, truncations, a KL stop and a short last minibatch."""
    space, epochs, updates = SPACES[kind], 4, 3
    settings = [
        replace(
            default_settings("ppo"), net_arch=ARCH, n_envs=ENVS, n_steps=STEPS, batch_size=7, update_epochs=epochs,
            **{name: values[s] for name, values in VARIED.items()},
        )
        for s in range(3)
    ]  # fmt: skip
    learner = PPO(settings, [StreamKey(0, 0, s) for s in range(3)], space, TOTAL, dtype=F64)
    references = [make_reference(kind, s, settings[s]) for s in range(3)]
    for s, model in enumerate(references):
        views, theirs = sb3_views(learner, s), model.policy.state_dict()
        assert views.keys() == theirs.keys()
        for name, view in views.items():
            view.copy_(theirs[name])
    count, rng, stopped = STEPS * ENVS, np.random.default_rng(5), []
    for update in range(updates):
        data = [rollout_data(10 * update + s, space) for s in range(3)]
        feed(learner, data)
        orders = [[rng.permutation(count) for _ in range(3)] for _ in range(epochs)]
        # The sum of both: the rank of transition i in the order is the number that is drawn for it
        learner.shuffle = Given([torch.tensor(np.stack([np.argsort(o) for o in epoch])) / count for epoch in orders])
        losses = []
        for s, model in enumerate(references):
            feed_reference(model, data[s])
            # Its buffer has all steps of the first environment, then those of the second
            given = iter([(epoch[s] % ENVS) * STEPS + epoch[s] // ENVS for epoch in orders])
            monkeypatch.setattr(np.random, "permutation", lambda n, given=given: next(given))
            model.train()
            losses.append(model.logger.name_to_value)
            if s == 2:
                stopped.append(len(list(given)))
        learner.update()
        for s, model in enumerate(references):
            theirs = model.policy.state_dict()
            for name, view in sb3_views(learner, s).items():
                assert_close(view, theirs[name], 1e-12)
        found = learner.metrics()
        assert_close(found["value/explained_variance"][0].item(), losses[0]["train/explained_variance"], 1e-9)
        assert_close(found["loss/value"][0].item(), losses[0]["train/value_loss"], 1e-9)
        assert_close(found["loss/policy"][0].item(), losses[0]["train/policy_gradient_loss"], 1e-9)
        assert_close(found["policy/clip_fraction"][0].item(), losses[0]["train/clip_fraction"], 1e-9)
    assert any(stopped), "the third member ends an update early"


# --- the learner ----------------------------------------------------------------------------------------------


def small(**changes):
    return replace(
        default_settings("ppo"), net_arch=(8,), n_envs=ENVS, n_steps=STEPS, batch_size=6, update_epochs=2, **changes
    )


@pytest.mark.parametrize("kind", ["discrete", "box"])
@pytest.mark.parametrize("normalise", [False, True])
def test_members_of_a_stack_learn_as_they_do_alone(kind, normalise):
    both = {"normalize_obs": normalise, "normalize_reward": normalise, "target_kl": 0.003 if normalise else 0.0}
    settings = [small(learning_rate=lr, **both) for lr in (1e-3, 1e-2, 0.1)]
    keys = [StreamKey(3, 0, s) for s in range(3)]
    together = PPO(settings, keys, SPACES[kind], TOTAL)
    alone = [PPO([settings[s]] * 2, [keys[s], StreamKey(9, 9, 9)], SPACES[kind], TOTAL) for s in range(3)]
    for update in range(3):
        data = [rollout_data(10 * update + s, SPACES[kind]) for s in range(3)]
        for d in data:
            d.obs, d.final_obs, d.rewards = (x.astype(np.float32) for x in (d.obs, d.final_obs, d.rewards))
        feed(together, data)
        together.update()
        for s, learner in enumerate(alone):
            other = rollout_data(99 + update, SPACES[kind])
            other.obs = other.obs.astype(np.float32)
            feed_own(learner, [data[s], other], [s, 9])
            learner.update()
            for name, values in together.parameters().items():
                assert values[s].tolist() == learner.parameters()[name][0].tolist(), name


def feed_own(learner, data, members):
    """`feed` for members with other numbers."""
    learner._own = torch.arange(len(members)).repeat_interleave(ENVS)
    feed(learner, data)


def test_the_first_minibatch_has_the_ratio_1():
    learner = PPO([small(), small()], [StreamKey(0, 0, s) for s in range(2)], SPACES["discrete"], TOTAL, dtype=F64)
    feed(learner, [rollout_data(s, SPACES["discrete"]) for s in range(2)])
    data = learner.prepare()
    learner._anneal(1.0)
    learner.step(data, learner.active)
    found = learner.metrics()
    assert found["policy/kl"].abs().max() < 1e-12 and found["policy/clip_fraction"].tolist() == [0, 0]


def test_steps_with_advice_are_left_out_of_the_policy_loss():
    """The policy of a member that always followed others does not change, but its value function does; with
    `advised_steps` learn, both do."""
    for way, changes in (("skip", False), ("learn", True)):
        learner = PPO([small(advised_steps=way)] * 2, [StreamKey(0, 0, s) for s in range(2)], SPACES["box"], TOTAL)
        before = {name: values.clone() for name, values in learner.parameters().items()}
        data = [rollout_data(s, SPACES["box"]) for s in range(2)]
        for d in data:
            d.obs, d.rewards = d.obs.astype(np.float32), d.rewards.astype(np.float32)
        learner._own = torch.tensor([7, 7, 1, 1])  # the number of member 0 is not that of any adviser it followed
        feed(learner, data)
        learner.update()
        after = learner.parameters()
        assert torch.equal(before["actor"][0], after["actor"][0]) != changes
        assert not torch.equal(before["actor"][1], after["actor"][1])
        assert not torch.equal(before["critic"][0], after["critic"][0])


def test_annealing_starts_at_the_given_values_and_ends_before_0():
    settings = small(anneal_lr=True, anneal_clip=True, learning_rate=0.5, clip_range=0.2)
    learner = PPO([settings] * 2, [StreamKey(0, 0, s) for s in range(2)], SPACES["discrete"], 4 * STEPS * ENVS)
    seen = []
    learner.update = lambda remaining: seen.append(remaining) or learner.rollout.clear()  # type: ignore[method-assign]
    for update in range(4):
        feed(learner, [rollout_data(s, SPACES["discrete"]) for s in range(2)])
        learner.learn((update + 1) * STEPS * ENVS)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    learner._anneal(0.25)
    assert learner.optimizer.lr.flatten().tolist() == [0.125, 0.125]
    assert learner.clip.flatten().tolist() == pytest.approx([0.05, 0.05])


# --- runs -----------------------------------------------------------------------------------------------------

TINY = {
    "algorithm": "ppo", "sharing": "none", "n_envs": 4, "n_steps": 16, "batch_size": 32, "update_epochs": 2,
    "eval_freq": 0, "log_freq": 64, "verbose": 0, "n_peers": 2,
}  # fmt: skip


@pytest.mark.usefixtures("no_reports")
def test_ppo_learns_cartpole(tmp_path):
    run = peerage.train(
        env="CartPole-v1", log_dir=str(tmp_path), **TINY | {
            "n_envs": 8, "n_steps": 32, "batch_size": 256, "update_epochs": 10, "learning_rate": 3e-3, "gamma": 0.98,
            "gae_lambda": 0.8, "total_timesteps": 12_288, "eval_freq": 12_288, "n_eval_episodes": 5,
        },
    )  # fmt: skip
    returns = run.evaluations.query("step == 12288").groupby("member")["return"].mean()
    assert returns.min() > 100, returns


@pytest.mark.usefixtures("no_reports")
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_run_stopped_in_mid_rollout_resumes_bit_for_bit(tmp_path, env):
    """The second run stops at step 104, in the middle of the second rollout. Several environments of a member may draw
    their physics."""
    varied = {"gravity": [6.0, 14.0]} if env == "CartPole-v1" else {}
    common = TINY | {"env": env, "total_timesteps": 200, "log_dir": str(tmp_path), "perturb": varied}
    common |= {"log_freq": 8, "normalize_obs": True, "normalize_reward": True}
    whole = peerage.train(exp_name="whole", **common)

    class Stop(peerage.Listener):
        def on_metrics(self, step, rows):
            if step == 104:
                self.stop("enough")

    stopped = peerage.train(exp_name="stopped", listeners=[Stop()], **common)
    assert sorted((stopped.folder / "checkpoints").iterdir())[-1].name == "step_000000104"
    peerage.resume(stopped.folder, verbose=0)
    files = [sorted((run.folder / "checkpoints").glob("step_000000200*"))[-1] for run in (whole, stopped)]
    states = [sorted(f.rglob("*.safetensors")) for f in files]
    assert [a.read_bytes() for a in states[0]] == [b.read_bytes() for b in states[1]]
    assert (whole.folder / "metrics.csv").read_text() == (stopped.folder / "metrics.csv").read_text()


ATTENTION = {"net": "attention", "env_args": {"history": 3}, "d_model": 8, "n_heads": 2, "gate": True, "dropout": 0.1}


@pytest.mark.usefixtures("no_reports")
def test_attention_resumes_bit_for_bit_and_acts_as_in_training(tmp_path):
    """With windows, gates and dropout, whose random numbers a checkpoint contains. A policy that is loaded from the run
    folder knows the layout of the windows."""
    common = TINY | ATTENTION | {"env": "CartPole-v1", "total_timesteps": 200, "log_dir": str(tmp_path), "log_freq": 8}

    class Stop(peerage.Listener):
        def on_metrics(self, step, rows):
            if step == 104:
                self.stop("enough")

    whole = peerage.train(exp_name="whole", **common)
    stopped = peerage.train(exp_name="stopped", listeners=[Stop()], **common)
    peerage.resume(stopped.folder, verbose=0)
    assert (whole.folder / "metrics.csv").read_text() == (stopped.folder / "metrics.csv").read_text()
    restored = restore(whole.folder, "policies").trainer
    obs = restored.envs.reset()
    acted = restored.group.mode(torch.as_tensor(obs).view(2, 4, -1))[1, :, 0]
    assert whole.policy(1)(obs[4:]).tolist() == acted.tolist()
    with pytest.raises(UserError, match="attention networks cannot be exported"):
        export_member(whole.folder, 0)
    other = common | {"d_model": 16, "init_from": [f"{whole.folder}:0", "none"]}
    with pytest.raises(UserError, match=r"has networks with d_model=8, but this run has 16: use d_model=8"):
        peerage.train(exp_name="other", **other)
    again = peerage.train(exp_name="again", **other | {"d_model": 8, "total_timesteps": 64})
    assert (again.folder / "DONE").exists()


@pytest.mark.usefixtures("no_reports")
def test_replicas_are_independent_and_the_last_rollout_may_be_short(tmp_path):
    """200 steps are three rollouts of 64 and a short one, from which members learn too."""
    runs = {
        replicas: peerage.train(
            env="CartPole-v1", total_timesteps=200, replicas=replicas, log_dir=str(tmp_path), exp_name=f"r{replicas}",
            **TINY,
        )
        for replicas in (1, 3)
    }  # fmt: skip
    metrics = {n: run.metrics.query("replica == 0").reset_index(drop=True) for n, run in runs.items()}
    assert metrics[1].equals(metrics[3]) and "policy/kl" in set(metrics[1].query("step == 200")["name"])


@pytest.mark.usefixtures("no_reports")
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_an_export_acts_identically_in_stable_baselines3(tmp_path, env):
    """With running statistics, which a resume and the export contain."""
    run = peerage.train(env=env, log_dir=str(tmp_path), total_timesteps=200, normalize_obs=True, **TINY)
    path = export_member(run.folder, 1)
    model = sb3.PPO.load(path, device="cpu")
    made = gymnasium.make(env)
    vec = sb3.common.vec_env.DummyVecEnv([lambda: made])
    statistics = sb3.common.vec_env.VecNormalize.load(str(path.with_suffix(".vecnormalize.pkl")), vec)
    obs = np.random.default_rng(0).normal(size=(50, made.observation_space.shape[0])).astype(np.float32)
    theirs, _ = model.predict(statistics.normalize_obs(obs), deterministic=True)
    ours = run.policy(1)(obs)
    assert all(made.action_space.contains(action) for action in ours)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert model.batch_size == 32 and model.n_steps == 64 and abs(statistics.obs_rms.mean).max() > 0
    again = peerage.train(
        env=env, log_dir=str(tmp_path), exp_name="again", total_timesteps=64, init_from=[f"{run.folder}:1", "none"],
        normalize_obs=True, **TINY,
    )  # fmt: skip
    assert again.metrics.query("step == 64 and name == 'policy/kl'").shape[0] == 2


@pytest.mark.usefixtures("no_reports")
def test_a_run_that_ended_with_a_short_rollout_is_extended_on_request_only(tmp_path):
    common = TINY | {"env": "CartPole-v1", "log_dir": str(tmp_path)}
    short = peerage.train(exp_name="short", total_timesteps=40, **common)  # shorter than a rollout of 64
    with pytest.raises(UserError, match="learned from a last rollout that was cut at step 40"):
        peerage.resume(short, total_timesteps=192)
    assert peerage.resume(short, total_timesteps=192, stretch_schedules=True).metrics["step"].max() == 192
    whole = peerage.train(exp_name="whole", total_timesteps=192, **common)
    parts = peerage.train(exp_name="parts", total_timesteps=128, **common)
    peerage.resume(parts, total_timesteps=192)
    assert parts.metrics.equals(whole.metrics)


@pytest.mark.usefixtures("no_reports")
def test_members_learn_alone_by_default_and_with_fixed_advisers_they_do_not(tmp_path):
    one = TINY | {"env": "Room-v6", "log_dir": str(tmp_path), "n_envs": 1, "batch_size": 16, "total_timesteps": 32}
    del one["sharing"]
    shared = {
        name: peerage.train(exp_name=name, **one, **more).config.advice.sharing
        for name, more in (("alone", {}), ("asked", {"advisers": ["expert"]}), ("given", {"sharing": "advice"}))
    }
    assert shared == {"alone": "none", "asked": "advice", "given": "advice"}


@pytest.mark.usefixtures("no_reports")
def test_events_take_place_at_the_first_step_at_or_after_a_multiple_of_their_frequency(tmp_path):
    """Four environments per member: steps 4, 8, 12, ..."""
    changes = {"eval_freq": 10, "log_freq": 6, "n_eval_episodes": 1, "checkpoint_freq": 10, "keep_checkpoints": 9}
    run = peerage.train(env="CartPole-v1", log_dir=str(tmp_path), total_timesteps=40, **TINY | changes)
    assert sorted(set(run.evaluations["step"])) == [0, 12, 20, 32, 40]
    logged = [int(line.split(",")[0]) for line in (run.folder / "timing.csv").read_text().splitlines()[1:]]
    assert logged == [8, 12, 20, 24, 32, 36, 40]
    assert [int(path.name[-3:]) for path in sorted((run.folder / "checkpoints").glob("step_*"))] == [0, 12, 20, 32, 40]


@pytest.mark.usefixtures("no_reports")
def test_ppo_members_follow_advice(tmp_path):
    """With td and in-context trust, which need only state values, and without advice the policy of one member is that
    of a single agent."""
    for trust in ("td", "in-context"):
        run = peerage.train(
            env="Room-v6", total_timesteps=150, advisers=["expert"], trust=trust, log_dir=str(tmp_path), exp_name=trust,
            **TINY | {"n_envs": 1, "batch_size": 16, "sharing": "advice"},
        )  # fmt: skip
        chosen = run.advice.query("adviser == 'expert'")["chosen"].sum()
        assert chosen > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"batch_size": 48},
            "batch_size=48 does not divide the rollout of ppo, 16 steps x 4 environments = 64: use 64",
        ),
        ({"n_envs": 0}, "n_envs must be in [1, 4096]"),
        ({"sharing": "advice"}, "n_envs=4 needs sharing="),
        ({"algorithm": ["ppo", "dqn"]}, "all members must have the same number of environments"),
        ({"total_timesteps": 99}, "total_timesteps=99 is not a multiple of n_envs=4: use 100"),
        ({"learning_starts": 10}, "learning_starts has no effect on ppo"),
        ({"ent_coef": "auto"}, "ent_coef auto is for sac; ppo needs a number"),
        (
            {"sharing": "advice", "n_envs": 1, "batch_size": 16, "use_critic": True},
            "use_critic=True needs Q-functions, but ppo has none",
        ),
        ({"net": "attention", "n_heads": 5}, "n_heads=5 does not divide d_model=32: choose a divisor"),
        ({"net": "attention", "tokens": "history"}, "needs a window of steps: add env_args"),
        ({"net": "attention", "env_args": {"history": 0}}, "length must be a whole number of steps, 1 to 1000, not 0"),
        ({"net": "attention", "net_arch": [[8]]}, "net_arch has no effect with net="),
        ({"net": "attention", "dropout": 0.001}, "dropout=0.001 is rounded to a multiple of 1/256"),
        ({"exchange": ["average"], "exchange_freq": 100}, "exchange_freq=100 must be a multiple of the rollout of ppo"),
        ({"n_heads": 2}, 'n_heads has no effect without net="attention"'),
        ({"buffer_size": 10}, "buffer_size has no effect: ppo does not have this setting"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path, changes, words):
    with pytest.raises(UserError) as refused:
        peerage.train(env="CartPole-v1", log_dir=str(tmp_path), **{"total_timesteps": 200, **TINY, **changes})
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not any(tmp_path.iterdir())


def test_a_new_policy_is_nearly_uniform_and_weights_are_orthogonal():
    learner = PPO([small()] * 2, [StreamKey(0, 0, s) for s in range(2)], SPACES["discrete"], TOTAL)
    weights = learner.net.weights()
    gains = [weights[f"{n}.weight"].square().sum(dim=1).sqrt() for n in range(2)]
    assert_close(gains[1][0::2], torch.full_like(gains[1][0::2], 0.01), 1e-5)
    assert_close(gains[1][1::2], torch.ones_like(gains[1][1::2]), 1e-5)
    product = weights["0.weight"][0] @ weights["0.weight"][0].T  # [obs, obs]: 5 orthogonal rows of 8 numbers
    assert_close(product, 2 * torch.eye(OBS), 1e-5)
    policy = Categorical(learner.net(torch.randn(4, 3, OBS))[0::2])
    assert (policy.p - 0.25).abs().max() < 0.01 and policy.entropy().min() > math.log(4) - 1e-3


def test_the_last_transitions_are_kept_per_member_not_per_environment(tmp_path):
    learner = learner_part()(algorithm=("ppo",), n_envs=(4,), n_steps=(16,), batch_size=(32,))
    trainer = Trainer(Config(env="CartPole-v1", n_peers=2, total_timesteps=6400, learner=learner))
    trainer.begin()
    for _ in range(3):
        trainer.advance()
    recent = trainer.group.recent
    assert recent.data.shape[:2] == (2 * 4, 254) and recent.size == 3  # 1,016 of each member
    dumped = trainer.member_state(1)["transitions"]
    assert dumped["obs"].shape == (4 * 3, 4) and torch.equal(dumped["next_obs"][::3], trainer.obs[4:])
    trainer.close()
    more, fewer = (RecentTransitions(2, kept, 3, 1, "cpu", torch.float32) for kept in (10, 4))
    for _ in range(12):
        more.add(transition(torch.randn(2, 3)))
    fewer.load_state(more.state())  # of an earlier version
    age = torch.arange(4).expand(2, -1)
    assert torch.equal(fewer.gather(age).obs, more.gather(age).obs)
