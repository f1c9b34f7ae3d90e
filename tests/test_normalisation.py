"""Normalisation of observations and rewards: equal to VecNormalize of Stable-Baselines3, and a part of the policy in
checkpoints, evaluations, policies, advisers, pretrained members and exports."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import peerage
from peerage import session
from peerage.config import Config, LearnerConfig
from peerage.envs.scripted import room_adversary, room_expert
from peerage.errors import UserError
from peerage.interop.pretrained import load_policy
from peerage.interop.sb3_export import export_member
from peerage.learners.dqn import DQN
from peerage.learners.dqn_settings import DQNSettings
from peerage.learners.streams import StreamKey
from peerage.runs.checkpoint import checkpoints, load_latest
from peerage.training.restore import restore
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

STEPS = 40
LEARNER = dict(
    learning_starts=(10,), batch_size=(16,), net_arch=((8,),), gamma=(0.9, 0.97), normalize_obs=(True,),
    normalize_reward=(True,),
)  # fmt: skip
RUN = dict(
    n_peers=2, replicas=2, total_timesteps=STEPS, eval_freq=0, log_freq=20, threads=1, device="cpu", verbose=0
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_reports():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "write_report", lambda folder: folder)
        yield


class Stop(Exception):
    pass


def stop_at(step):
    """`Trainer.advance` that stops a training after `step` steps."""
    advance = Trainer.advance

    def advance_or_stop(self):
        if self.step == step:
            raise Stop
        return advance(self)

    return advance_or_stop


class Odd(gym.Env):
    """Observations and rewards of very different sizes; episodes of 7 steps that terminate or are truncated."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: gym.Space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        over, reward = self.steps == 7, 50 * float(np.ravel(action)[0]) + self.np_random.normal(20, 30)
        terminated = over and bool(self.np_random.random() < 0.5)
        return self.seen(), reward, terminated, over and not terminated, {}

    def seen(self):
        return (self.np_random.normal(size=3) * [300, 1, 0.01] + [1000, 0, 0]).astype(np.float32)


class OddDiscrete(Odd):
    action_space = gym.spaces.Discrete(2)


gym.register("NormalisationOdd-v0", Odd)
gym.register("NormalisationOddDiscrete-v0", OddDiscrete)


@pytest.mark.parametrize("algorithm, env", [("sac", Odd), ("td3", Odd), ("dqn", OddDiscrete)])
def test_statistics_batches_and_values_equal_those_of_stable_baselines3(begin, algorithm, env):
    """Each member's steps are repeated in an environment with VecNormalize. The replay buffer holds what the
    environment gave; batches are normalised by the present statistics in every part; values are in the
    environment's units."""
    learner = LearnerConfig(algorithm=(algorithm,), **LEARNER)
    config = Config(n_peers=2, replicas=2, total_timesteps=STEPS, learner=learner, device="cpu", threads=1)
    trainer = begin(replace(config, advice=replace(config.advice, sharing="none")), STEPS, env=env)
    ours = trainer.group.stacks[0].learner
    batch, stored = ours.sample(), ours.replay.recent(torch.arange(STEPS - 1, -1, -1).expand(4, -1))
    normalised = ours.normalised(stored.obs)
    state, action = stored.obs[:, :5].contiguous(), stored.actions[:, :5].contiguous()
    values = ours.state_value(state, None), ours.action_value(state, action)
    for m in range(4):
        seed = int(StreamKey(0, m // 2, m % 2).generator("environment").integers(2**31))
        theirs = VecNormalize(DummyVecEnv([env]), gamma=LEARNER["gamma"][m % 2])
        theirs.seed(seed)
        theirs.reset()
        for k in range(STEPS):
            np.testing.assert_array_equal(stored.obs[m, k], theirs.get_original_obs()[0])
            taken = stored.actions[m, k].numpy()
            theirs.step(taken.astype(int) if algorithm == "dqn" else taken[None])
            assert stored.rewards[m, k] == np.float32(theirs.get_original_reward()[0])
        found = ours.normalisation
        for moments, expected in ((found.obs, theirs.obs_rms), (found.returns, theirs.ret_rms)):
            for name in ("mean", "var", "count"):
                mine, other = getattr(moments, name)[m], np.reshape(getattr(expected, name), -1)
                np.testing.assert_allclose(mine, other, rtol=1e-5)
        np.testing.assert_allclose(found.running_return[m], theirs.returns, rtol=1e-5)
        np.testing.assert_allclose(normalised[m], theirs.normalize_obs(stored.obs[m].numpy()), rtol=1e-4, atol=1e-4)
        which = (batch.obs[m, :, None] - normalised[m, None]).abs().sum(-1).argmin(-1)  # [B]
        for name, normalize in (
            ("obs", theirs.normalize_obs),
            ("next_obs", theirs.normalize_obs),
            ("rewards", theirs.normalize_reward),
        ):
            expected = normalize(getattr(stored, name)[m, which].numpy())
            np.testing.assert_allclose(getattr(batch, name)[m], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(batch.obs_actions[m], torch.cat((batch.obs[m], stored.actions[m, which]), dim=-1))
    std = ours.normalisation.returns.std()  # [4, 1]
    assert ((std > 20) & (std < 400)).all()
    ours.normalisation = None  # the networks alone
    plain = ours.state_value(normalised[:, :5], None), ours.action_value(normalised[:, :5], action)
    for value, network in zip(values, plain, strict=True):
        torch.testing.assert_close(value, (network * std).to(value.dtype))
        assert value.std() > 0


def train(place, name="run", env="NormalisationOdd-v0", **settings) -> peerage.Run:
    return peerage.train(env, log_dir=str(place), exp_name=name, **(RUN | LEARNER | settings))


def test_a_run_killed_at_any_step_ends_with_the_same_bytes(tmp_path, monkeypatch, same):
    """A group of a DQN member that normalises and one that does not, with advice."""
    more = dict(env="NormalisationOddDiscrete-v0", normalize_obs=(True, False), normalize_reward=(False, True))
    whole = train(tmp_path, "whole", **more)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", stop_at(26))
        with pytest.raises(Stop):
            train(tmp_path, "killed", checkpoint_freq=19, **more)
    killed = peerage.load(tmp_path / "killed")
    assert checkpoints(killed.folder)[-1].name == "step_000000019"
    peerage.resume(killed)
    after = [load_latest(run.folder)[1]["trainer"] for run in (whole, killed)]
    same(*after)
    first, second = (after[0]["group"]["stacks"][str(k)]["learner"] for k in (0, 1))
    assert "obs_mean" in first["parameters"] and "return_var" not in first["parameters"]
    assert "obs_mean" not in second["parameters"] and (second["parameters"]["return_var"] > 1).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("normalisation"), algorithm=("td3",))


def observations(n=32):
    env = Odd()
    env.reset(seed=1)
    return np.stack([env.seen() for _ in range(n)])


def test_policies_and_evaluations_use_the_statistics_of_the_training(run):
    """An evaluation does not change them; a policy takes observations as the environment gives them, as an export with
    VecNormalize does."""
    before = load_latest(run.folder)[1]["trainer"]["group"]
    trainer = restore(run.folder, "policies").trainer
    rows = run.evaluate(2)
    assert len(rows) == 8
    learner, obs = trainer.group.stacks[0].learner, observations()
    for m in range(4):
        policy = run.policy(m % 2, m // 2)
        path = export_member(run.folder, m % 2, m // 2)
        theirs = VecNormalize.load(str(path.with_suffix(".vecnormalize.pkl")), DummyVecEnv([Odd]))
        model = sb3.TD3.load(path, device="cpu")
        ours = np.stack([policy(o) for o in obs])
        expected, _ = model.predict(theirs.normalize_obs(obs), deterministic=True)
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        assert np.ptp(ours) > 0.01 and theirs.gamma == LEARNER["gamma"][m % 2]
        assert theirs.ret_rms.var == float(before["stacks"]["0"]["learner"]["parameters"]["return_var"][m, 0])
        # Without the statistics of this member the actions are others
        moved = learner.actor(torch.as_tensor(obs).expand(4, -1, -1)).tanh()[m].detach().numpy()
        assert np.abs(ours - moved).max() > 0.01
    trainer.close()
    with pytest.raises(UserError, match=r"vecnormalize\.pkl is a pickle.*--normalize-obs"):
        load_policy(str(path.with_suffix(".vecnormalize.pkl")), Odd.observation_space, Odd.action_space)


def test_an_adviser_and_a_pretrained_member_bring_their_statistics(run, tmp_path):
    """Neither is changed by the training; advisers get observations as the environment gives them."""
    source = load_latest(run.folder)[1]["trainer"]["group"]["stacks"]["0"]["learner"]["parameters"]
    name = f"{run.folder}:1"
    one = train(
        tmp_path, algorithm=("td3",), advisers=[f"checkpoint:{name}"], load_paths=("none", name), follow_steps=2
    )
    state = load_latest(one.folder)[1]["trainer"]
    mine = state["group"]["stacks"]["0"]["learner"]["parameters"]
    for key in ("obs_mean", "obs_var", "obs_count", "return_var", "actor"):
        for replica in range(2):
            assert torch.equal(mine[key][2 * replica + 1], source[key][1]), key
            assert not torch.equal(mine[key][2 * replica], source[key][1]) or key == "obs_count"
        assert torch.equal(state["sharing"]["advisers"][0]["state"][key], source[key][1:2]), key
    adviser, _ = load_policy(name, Odd.observation_space, Odd.action_space)
    obs = observations()
    said = adviser.suggest(torch.as_tensor(obs)[None], None)[0].numpy()
    np.testing.assert_allclose(said, np.stack([run.policy(1)(o) for o in obs]), atol=1e-5)
    for setting in ("obs", "reward"):
        with pytest.raises(UserError, match=f"member 0 .*true: use normalize_{setting}=True"):
            train(tmp_path, "other", algorithm=("td3",), load_paths=(name,), **{f"normalize_{setting}": (False,)})
    assert not (tmp_path / "other").exists()


def test_a_member_that_starts_from_a_run_continues_its_statistics(run):
    source = load_latest(run.folder)[1]["trainer"]["group"]["stacks"]["0"]["learner"]["parameters"]
    learner = LearnerConfig(algorithm=("td3",), init_from=(f"{run.folder}:1",), **LEARNER | {"gamma": (0.9,)})
    config = Config(n_peers=1, replicas=2, total_timesteps=STEPS, learner=learner, device="cpu", threads=1)
    trainer = Trainer(config, env=Odd)
    values = trainer.group.stacks[0].learner.parameters()
    for name in values:
        assert torch.equal(values[name], source[name][[1, 1]]), name
    trainer.begin()
    trainer.advance()
    assert torch.equal(values["obs_count"], source["obs_count"][[1, 1]] + 2)
    assert torch.equal(values["return_count"], source["return_count"][[1, 1]] + 1)
    trainer.close()


def test_members_that_average_their_networks_pool_the_statistics(begin):
    config = Config(n_peers=2, replicas=1, total_timesteps=STEPS, device="cpu", threads=1, exchange=("average",))
    config = replace(config, exchange_freq=STEPS, learner=LearnerConfig(algorithm=("sac",), **LEARNER))
    trainer = begin(config, STEPS, env=Odd)
    values = trainer.group.stacks[0].learner.parameters()
    assert torch.equal(values["actor"][0], values["actor"][1])
    assert torch.equal(values["obs_mean"][0], values["obs_mean"][1])
    assert torch.equal(values["return_var"][0], values["return_var"][1])


def normalised_env(kind, frozen=False):
    made = gym.wrappers.RecordEpisodeStatistics(wrapper := kind(Odd()))
    wrapper.update_running_mean = not frozen
    return made


@pytest.mark.parametrize(
    "kind, setting", [(NormalizeObservation, "normalize_obs=True"), (NormalizeReward, "normalize_reward=True")]
)
def test_wrappers_with_running_statistics_are_refused(tmp_path, kind, setting):
    with pytest.raises(UserError, match=f"wrapper {kind.__name__}.*{setting}"):
        train(tmp_path, env=lambda: normalised_env(kind))
    assert not list(tmp_path.iterdir())


def test_an_older_run_with_such_a_wrapper_resumes_with_a_message(tmp_path, monkeypatch):
    heard = []

    class Heard(peerage.runs.Listener):
        def on_message(self, step, text):
            heard.append(text)

    def env():
        return normalised_env(NormalizeObservation)

    with monkeypatch.context() as patched:
        patched.setattr("peerage.training.trainer.running_statistics", lambda env: None)
        patched.setattr(Trainer, "advance", stop_at(5))
        with pytest.raises(Stop):
            train(tmp_path, env=env, total_timesteps=15)
    peerage.resume(peerage.load(tmp_path / "run", env=env), listeners=[Heard()])
    assert sum("NormalizeObservation" in text and "--normalize-obs" in text for text in heard) == 1


def test_a_wrapper_with_frozen_statistics_is_accepted(tmp_path):
    train(tmp_path, env=lambda: normalised_env(NormalizeObservation, frozen=True), total_timesteps=15)


def test_a_learner_that_does_not_normalise_refuses_the_settings(tmp_path):
    """A subclass of an off-policy learner declares whether it normalises."""

    class Plain(DQN):
        supports_normalisation = False

    peerage.register_learner("plain", Plain, DQNSettings, actions=("discrete",), has_action_value=True)
    with pytest.raises(UserError, match="plain does not support normalize_obs=True"):
        train(tmp_path, env="NormalisationOddDiscrete-v0", algorithm=("plain",))
    assert not list(tmp_path.iterdir())


class Flashing(gym.Env):
    """Images that are black or white."""

    observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action):
        white = self.np_random.random() < 0.5
        return self.observation_space.high if white else self.observation_space.low, 0.0, False, white, {}


def test_images_are_not_normalised(begin, tmp_path):
    """Their rewards can be; no message about their size names the flag."""
    learner = {**LEARNER, "normalize_obs": (True,), "gamma": (0.9,), "batch_size": (2,), "learning_starts": (2,)}
    more = dict(env=Flashing, sharing="none", replicas=1, n_peers=1, total_timesteps=20)
    with pytest.raises(UserError, match="does not support images"):
        train(tmp_path, **learner | more)
    assert not list(tmp_path.iterdir())
    config = Config(n_peers=1, total_timesteps=20, device="cpu", threads=1)
    config = replace(config, advice=replace(config.advice, sharing="none"))
    trainer = begin(
        replace(config, learner=LearnerConfig(**{**learner, "normalize_obs": (False,)})), 12, env=Flashing
    )
    assert trainer.group.stacks[0].learner.normalisation.returns.count > 10 and trainer.notes() == []


class Scaled(gym.ObservationWrapper):
    """Room with its observations in another unit and with another origin."""

    def __init__(self, unit, origin):
        super().__init__(gym.make("Room-v6", disable_env_checker=True))
        self.unit, self.origin = unit, origin
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def observation(self, obs):
        return ((obs - 0.5) * self.unit + self.origin).astype(np.float32)


@pytest.mark.parametrize(("unit", "messages"), [(1, 0), (1000, 1)])
def test_only_few_observations_of_the_first_logs_decide_about_the_message(begin, unit, messages):
    config = Config(n_peers=3, replicas=2, total_timesteps=60, device="cpu", threads=1)
    trainer = begin(config, 50, env=lambda: Scaled(unit, 0))
    sizes, gather = [], trainer.group.recent.gather
    trainer.group.recent.gather = lambda age: (sizes.append(age.numel()), gather(age))[1]
    assert sum(len(trainer.notes()) for _ in range(15)) == messages
    assert len(sizes) == (1 if messages else 10) and set(sizes) == {6 * 34}


class Guide(peerage.Adviser):
    """The scripted expert or adversary of Room for observations of `Scaled`."""

    def __init__(self, name, policy, unit, origin):
        self.name, self.policy, self.unit, self.origin = name, policy, unit, origin

    def suggest(self, obs, rows, first, rng):
        plain = (obs.astype(np.float64) - self.origin) / self.unit + 0.5
        return self.policy(plain.round(2).astype(np.float32), rng)


def test_trust_does_not_depend_on_the_unit_of_observations(tmp_path):
    """With --normalize-obs, the default trust tells good and bad advisers apart alike in two units. Without it, a
    message names the flag."""
    shares, heard = [], []

    class Heard(peerage.runs.Listener):
        def on_message(self, step, text):
            heard.append(text)

    for number, (unit, origin, normalise) in enumerate([(1, 0.5, True), (1000, 5000, True), (1000, 5000, False)]):
        advisers = [Guide("good", room_expert, unit, origin), Guide("bad", room_adversary, unit, origin)]
        run = train(
            tmp_path, str(number), lambda u=unit, o=origin: Scaled(u, o), advisers=advisers, listeners=[Heard()],
            replicas=1, total_timesteps=400 if normalise else 20, learning_starts=(10,), net_arch=((16,),),
            follow_steps=4, log_freq=100 if normalise else 20, normalize_obs=(normalise,),
            normalize_reward=(False,), gamma=(0.95,),
        )  # fmt: skip
        chosen = run.advice.groupby("adviser")["chosen"].sum()
        shares.append(chosen / chosen.sum())
        assert sum("--normalize-obs" in text for text in heard) == (not normalise)
    assert shares[0]["good"] > 2 * shares[0]["bad"]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.03)
