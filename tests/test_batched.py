"""Batched environments have the bits of the environments that they replace, in groups and after a resume."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

import peerage
from peerage.config import Config, LearnerConfig, RunConfig
from peerage.envs import stepping
from peerage.envs.batched import BatchedEnv, program_for, register_batched_env
from peerage.envs.own_random import SOURCES
from peerage.envs.stepping import BatchedStepper, LoopStepper
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError
from peerage.runs.listeners import Listener

IDS = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"]
VARIANTS = ["CartPoleDistractors-v0", "CartPoleShuffled-v0", "CartPoleNoVelocities-v0"]
PROBES = [*VARIANTS, "MarkedCue-v0", "AskedCue-v0", "PlainCue-v0"]
pytestmark = [pytest.mark.usefixtures("no_reports"), pytest.mark.filterwarnings("ignore:The environment CartPole-v0")]


def actions_for(n_actions: int, n: int, steps: int) -> np.ndarray:
    """Random actions `[steps, n]` that often repeat the one before, so that states go far."""
    rng = np.random.default_rng(1)
    drawn, kept = rng.integers(n_actions, size=(steps, n)), rng.random((steps, n)) < 0.6
    for k in range(1, steps):
        drawn[k] = np.where(kept[k], drawn[k - 1], drawn[k])
    return drawn


def group_of(env_id: str, n: int, args: dict | None = None, **settings) -> EnvGroup:
    return EnvGroup([EnvMaker(env_id, args or {})] * n, range(3, n + 3), **settings)


def assert_equal_steps(one: EnvGroup, two: EnvGroup, actions: np.ndarray, rows: np.ndarray | None = None) -> int:
    """Both groups give the same bits for `actions [steps, n]`, with `rows [steps, n]` as `only`. Returns the number of
    episodes that ended."""
    ended = 0
    for k, taken in enumerate(actions):
        only = None if rows is None else rows[k]
        a, b = one.step(taken, only), two.step(taken, only)
        for name in ("obs", "next_obs", "reward", "terminated", "truncated", "done"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), (k, name)
        assert a.episodes == b.episodes
        ended += len(a.episodes)
    return ended


@pytest.mark.parametrize(
    "env_id, steps", [("CartPole-v0", 400), *zip(IDS, (2500, 1500, 1500)), *zip(PROBES, (500,) * 6)]
)
def test_the_bits_of_gymnasium(env_id, steps):
    """Observations, rewards, ends and generators of Gymnasium's environments, for thousands of steps."""
    n = 5
    envs = [gymnasium.make(env_id, disable_env_checker=True) for _ in range(n)]
    group = group_of(env_id, n)
    assert isinstance(group._stepper, BatchedStepper) and not isinstance(group_of(env_id, 2)._stepper, BatchedStepper)
    expected = np.stack([env.reset(seed=3 + i)[0] for i, env in enumerate(envs)])
    assert group.reset().tobytes() == expected.tobytes() and expected.dtype == np.float32
    ended = 0
    for taken in actions_for(group.n_actions, n, steps):
        step = group.step(taken)
        for i, env in enumerate(envs):
            obs, reward, terminated, truncated, _ = env.step(int(taken[i]))
            assert step.next_obs[i].tobytes() == obs.tobytes()
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                obs, _ = env.reset()
                ended += 1
            assert step.obs[i].tobytes() == obs.tobytes()
    assert ended > n
    states = [env.unwrapped.np_random.bit_generator.state for env in envs]
    assert states == [generator.bit_generator.state for generator in group._stepper.program.generators]


@pytest.mark.parametrize("env_id", IDS)
def test_a_group_steps_and_resets_batched_environments(env_id):
    """Episodes, time limits of both kinds, environments that do not step, new beginnings: as in a loop."""
    for args in ({"max_episode_steps": 7}, {"max_episode_steps": -1}):
        one, two = (group_of(env_id, 4, args, batched=batched, keep=True) for batched in (False, True))
        assert one.limits == two.limits == [args["max_episode_steps"] if args["max_episode_steps"] > 0 else None] * 4
        assert (one.spec.id, one.names, one.obs_dim) == (two.spec.id, two.names, two.obs_dim)
        actions = actions_for(one.n_actions, 4, 120)
        for group in (one, two):
            group.max_steps = np.array([3, 5, 50, 1000])
        rows = np.random.default_rng(5).random((120, 4)) < 0.7
        for again in (False, True):
            assert one.reset(reseed=again).tobytes() == two.reset(reseed=again).tobytes()
            assert assert_equal_steps(one, two, actions, rows) > 20
            assert assert_equal_steps(one, two, actions) > 20
        assert one.cut == two.cut > 0
        a, b = one.state(), two.state()
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("env_id", [*IDS, *VARIANTS[:2], "MarkedCue-v0"])
@pytest.mark.parametrize("first, second", [(True, True), (False, True), (True, False)])
def test_running_episodes_move_between_both_ways(env_id, first, second):
    """By a checkpoint, whose format is the same; with episodes of different ages."""
    one = group_of(env_id, 4, keep=True, batched=first)
    two = EnvGroup([EnvMaker(env_id)] * 4, [90] * 4, keep=True, batched=second)
    actions = actions_for(one.n_actions, 4, 260)
    one.reset()
    for taken in actions[:130]:
        last = one.step(taken)
    saved = one.state()
    saved = {name: x if isinstance(x, np.ndarray) else json.loads(json.dumps(x)) for name, x in saved.items()}
    obs, restarted = two.restore(saved, 130)
    assert restarted == {} and obs.tobytes() == last.obs.tobytes() and saved["lengths"].any()
    assert_equal_steps(one, two, actions[130:])
    a, b = one.state(), two.state()
    assert all(np.array_equal(a[name], b[name]) for name in a)
    # A row that does not fit starts a new episode; the others continue
    saved["returns"][1] += 1
    assert "rewards or random numbers" in two.restore(saved, 130)[1][1]
    assert two.state()["lengths"].tolist() == [length * (i != 1) for i, length in enumerate(saved["lengths"])]


def test_success_is_reported_as_in_a_loop():
    for rule in ("last", "any"):
        for args in ({"max_episode_steps": 5}, {"n_values": 3}):
            one, two = (group_of("MarkedCue-v0", 4, args, batched=b, success=rule, keep=True) for b in (False, True))
            one.reset()
            two.reset()
            actions, rows = actions_for(2, 4, 60), np.random.default_rng(5).random((60, 4)) < 0.7
            assert assert_equal_steps(one, two, actions, rows) > 20
            known = {episode.success for taken in actions for episode in two.step(taken).episodes}
            assert known == ({None} if "max_episode_steps" in args else {True, False})


def test_wrong_actions_are_refused():
    group = group_of("CartPole-v1", 4)
    group.reset()
    for wrong in (-1, 2):
        with pytest.raises(UserError, match=r"^CartPole-v1, batched environments, step \d: .* must be in 0 ... 1, not"):
            group.step(np.array([0, 1, wrong, 0]))
        group.step(np.array([0, 1, wrong, 0]), only=np.array([True, True, False, True]))  # it is not taken
        assert not group.step(np.array([wrong] * 4), only=np.zeros(4, bool)).obs.any()


# --- which groups are batched -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "makers, is_batched",
    [
        ([EnvMaker("CartPole-v1")] * 4, True),
        ([EnvMaker("CartPole-v1", {"max_episode_steps": 9})] * 4, True),
        ([EnvMaker("MarkedCue-v0", {"n_values": 3})] * 4, True),
        ([EnvMaker("CartPoleDistractors-v0", {"k": 2})] * 4, True),
        ([EnvMaker("CartPoleShuffled-v0", {"orders": "test"})] * 4, True),
        ([EnvMaker("CartPole-v1")] * 3, False),
        ([EnvMaker("CartPole-v1")] * 3 + [EnvMaker("CartPole-v1", {"max_episode_steps": 9})], False),
        ([EnvMaker("CartPole-v1", own_random=SOURCES)] * 4, False),
        ([EnvMaker("CartPole-v1", {"sutton_barto_reward": True})] * 4, False),
        ([EnvMaker("CartPole-v1", {"length": 1.0})] * 4, False),
        ([EnvMaker("CartPole-v1", {"perturb": {"observation_noise": 0.1}})] * 4, False),
        ([EnvMaker("Room-v6")] * 4, False),
        ([EnvMaker(lambda: gymnasium.make("CartPole-v1"))] * 4, False),
    ],
)
def test_only_supported_environments_are_batched(makers, is_batched):
    group = EnvGroup(makers, range(len(makers)))
    assert isinstance(group._stepper, BatchedStepper if is_batched else LoopStepper)
    off = EnvGroup(makers, range(len(makers)), batched=False)
    assert isinstance(off._stepper, LoopStepper) and len(off.envs) == len(makers)
    assert group.reset().tobytes() == off.reset().tobytes()
    assert_equal_steps(group, off, actions_for(group.n_actions, len(makers), 30))


class Drift(gymnasium.Env):
    """Walks by its action and random numbers; `speed` is an argument."""

    observation_space = gymnasium.spaces.Box(-99, 99, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, speed=1.0, colour="red"):
        self.speed = speed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.random(2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = self.place + self.speed * action
        return self.place.astype(np.float32), float(self.place[0]), bool(self.place[1] > 2), False, {}


class BatchedDrift(BatchedEnv):
    error = 0.0

    def __init__(self, n, speed=1.0):
        super().__init__(n)
        self.places, self.speed = np.zeros((n, 2)), speed

    def reset(self, row):
        self.places[row] = self.generators[row].random(2)
        return self.places[row].astype(np.float32)

    def step(self, rows, actions):
        self.places[rows] += self.speed * actions + self.error
        now = self.places[rows].copy()
        return now.astype(np.float32), now[:, 0].copy(), now[:, 1] > 2


@pytest.fixture
def drift(monkeypatch):
    """An environment of one's own with a batched program."""
    monkeypatch.setattr(stepping, "_equal", {})
    gymnasium.register("Drift-v0", lambda **args: Drift(**args), max_episode_steps=20, kwargs={"speed": 0.5})
    register_batched_env("Drift-v0", BatchedDrift)
    yield
    del gymnasium.registry["Drift-v0"]


def test_a_registered_program(drift):
    for args, is_batched in (({}, True), ({"speed": 0.3}, True), ({"colour": "blue"}, False)):
        one, two = (group_of("Drift-v0", 4, args, batched=batched) for batched in (None, False))
        assert isinstance(one._stepper, BatchedStepper) == is_batched
        assert one.reset().tobytes() == two.reset().tobytes()
        actions = np.random.default_rng(0).uniform(-2, 2, (60, 4, 2))  # the group clips them
        assert assert_equal_steps(one, two, actions) > 8
    assert program_for("Room-v6", {}) is None


def test_a_program_that_differs_is_not_used(drift, monkeypatch):
    monkeypatch.setattr(BatchedDrift, "error", 1e-6)
    with pytest.warns(UserWarning, match="batched environments of Drift-v0 differ from it in step 1; its environments"):
        group = group_of("Drift-v0", 4)
    assert isinstance(group._stepper, LoopStepper)
    monkeypatch.setattr(BatchedDrift, "step", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(group_of("Drift-v0", 4)._stepper, LoopStepper)  # it warns once
    with pytest.warns(UserWarning, match="batched environments of Drift-v0 could not be compared: TypeError"):
        assert isinstance(group_of("Drift-v0", 4, {"speed": 0.2})._stepper, LoopStepper)


# --- training ---------------------------------------------------------------------------------------------------


class Stop(Listener):
    """Interrupts a training."""

    def on_metrics(self, step, rows):
        if step >= 90:
            raise KeyboardInterrupt


def test_a_training_has_the_same_bytes_batched_and_one_by_one_and_after_a_resume(tmp_path, monkeypatch):
    """Two replicas of two members, interrupted between two checkpoints, in the middle of episodes."""
    learner = LearnerConfig(learning_starts=(20,), batch_size=(16,), net_arch=((16,),), train_freq=(4,))
    run = RunConfig(eval_freq=70, n_eval_episodes=2, log_freq=30, checkpoint_freq=40, verbose=0, log_dir=str(tmp_path))
    config = Config(env="CartPole-v1", n_peers=2, replicas=2, total_timesteps=150, learner=learner, run=run)

    def bytes_of(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        parts = [folder / "metrics.csv", folder / "evaluations.csv", folder / "advice.csv"]
        last = sorted((folder / "checkpoints").glob("step_*"))[-1]
        return {path.name: path.read_bytes() for path in [*parts, *last.rglob("*.safetensors")]}

    used = []
    step = BatchedStepper.step
    monkeypatch.setattr(BatchedStepper, "step", lambda *given: used.append(1) or step(*given))
    peerage.train(config=config, exp_name="whole")
    assert len(used) > 150
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, exp_name="cut", listeners=[Stop()])
    peerage.resume(peerage.load(tmp_path / "cut"))
    assert bytes_of("cut") == bytes_of("whole")
    used.clear()
    monkeypatch.setattr(stepping, "FEW", 1000)
    peerage.train(config=replace(config), exp_name="loop")
    assert not used and bytes_of("loop") == bytes_of("whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, exp_name="cut-loop", listeners=[Stop()])
    monkeypatch.setattr(stepping, "FEW", 4)
    peerage.resume(peerage.load(tmp_path / "cut-loop"))
    assert used and bytes_of("cut-loop") == bytes_of("whole")
