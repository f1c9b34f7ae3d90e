"""Windows of past steps as observations: their parts by hand, batched and one by one, and in a training."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import peerage
from peerage.config import Config, LearnerConfig, RunConfig
from peerage.envs.history import History, HistoryLayout
from peerage.envs.make import check_env_id, make_env
from peerage.envs.scripted import expert_for, region_for
from peerage.envs.stepping import BatchedStepper, LoopStepper
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError
from peerage.runs.listeners import Listener


class Count(gymnasium.Env):
    """Observes (number of the step, 10 x that); the reward is the negative number of the step; ends after 4 steps."""

    observation_space = gymnasium.spaces.Box(1, 50, (2,), np.float64)

    def __init__(self, box=False):
        three = gymnasium.spaces.Discrete(3, start=5)
        self.action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32) if box else three

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 1
        return np.array([1.0, 10.0]), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.k += 1
        if isinstance(action, np.ndarray):
            action *= 0  # an environment may do that
        return np.array([self.k, 10.0 * self.k]), 1.0 - self.k, self.k == 5, False, {}


def test_the_slots_of_a_window():
    env = History(Count(), length=3)
    layout = env.layout
    assert (layout.length, layout.obs, layout.act, layout.reward, layout.valid) == (3, 2, 3, 1, 1)
    assert (layout.width, layout.size) == (7, 21) == (7, env.observation_space.shape[0])
    none, first = [0] * 7, [1, 10, 0, 0, 0, 0, 1]
    second, third, fourth = [2, 20, 0, 1, 0, -1, 1], [3, 30, 0, 0, 1, -2, 1], [4, 40, 1, 0, 0, -3, 1]
    start, _ = env.reset()
    assert layout.tokens(start).tolist() == [none, none, first] and start.dtype == np.float32
    one, reward, terminated, truncated, info = env.step(6)
    assert layout.tokens(one).tolist() == [none, first, second]
    assert (reward, terminated, truncated, info) == (-1.0, False, False, {})
    two = env.step(7)[0]
    assert layout.tokens(two).tolist() == [first, second, third]
    assert layout.tokens(env.step(5)[0]).tolist() == [second, third, fourth]
    assert layout.tokens(two).tolist() == [first, second, third]  # a new array in every step
    assert env.step(5)[2] and layout.tokens(env.reset()[0]).tolist() == [none, none, first]
    both = torch.from_numpy(np.stack([start, two]))
    assert layout.tokens(both).shape == (2, 3, 7) and layout.present(both).tolist() == [[1, 10], [3, 30]]
    for window in (start, one, two):
        assert env.observation_space.contains(window)


def test_parts_that_are_left_out_and_real_actions():
    env = History(Count(box=True), length=2, reward=False)
    assert (env.layout.act, env.layout.reward, env.layout.width) == (1, 0, 4)
    env.reset()
    window, *_ = env.step(np.array([1.5], np.float32))
    assert env.layout.tokens(window).tolist() == [[1, 10, 0, 1], [2, 20, 1.5, 1]]
    assert env.observation_space.low.tolist() == [0, 0, -2, 0] * 2  # 0 before the episode, though observations are not
    env = History(Count(), length=1, action=False)
    env.reset()
    assert env.step(6)[0].tolist() == [2, 20, -1, 1]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "CartPoleDistractors-v0", "MarkedCue-v0"])
@pytest.mark.parametrize("history", [5, {"length": 3, "action": False}, {"length": 2, "reward": False}])
def test_batched_windows_are_those_of_the_wrapper(env_id, history):
    maker = EnvMaker(env_id, {"history": history, "max_episode_steps": 60})
    one, two = (EnvGroup([maker] * 4, range(4), batched=batched, keep=True) for batched in (False, None))
    assert isinstance(one._stepper, LoopStepper) and isinstance(two._stepper, BatchedStepper)
    assert one.obs_dim == two.obs_dim == one.spec.history.size and one.spec.history == two.spec.history
    rng = np.random.default_rng(0)
    actions, rows = rng.integers(one.n_actions, size=(150, 4)), rng.random((150, 4)) < 0.8
    assert one.reset().tobytes() == two.reset().tobytes()
    ended = 0
    for k in range(100):
        a, b = one.step(actions[k], rows[k]), two.step(actions[k], rows[k])
        assert a.obs.tobytes() == b.obs.tobytes() and a.next_obs.tobytes() == b.next_obs.tobytes()
        ended += len(a.episodes)
    assert ended > 3
    # A state of one is continued by the other
    three = EnvGroup([maker] * 4, range(9, 13), keep=True)
    obs, restarted = three.restore(one.state(), 100)
    assert restarted == {} and obs.tobytes() == one.state()["obs"].tobytes()
    for k in range(100, 150):
        assert one.step(actions[k]).obs.tobytes() == three.step(actions[k]).obs.tobytes()


def test_the_windows_show_what_the_member_sees():
    """Perturbations and changes are inside the window: a slot does not change once it was observed."""
    args = {"history": 3, "perturb": {"observation_noise": 0.5}, "change_at": 4, "change": {"reward_scale": -1}}
    group = EnvGroup([EnvMaker("CartPole-v1", args)], [0])
    group.set_clock(0)
    layout = group.spec.history
    before = layout.tokens(group.reset())[0]
    rewards = []
    for _ in range(6):
        step = group.step(np.zeros(1, np.int64))
        now = layout.tokens(step.next_obs)[0]
        assert now[1].tolist() == before[2].tolist() and now[2, -2] == step.reward[0]
        before = layout.tokens(step.obs)[0]
        rewards.append(float(step.reward[0]))
    assert rewards == [1, 1, 1, 1, -1, -1]


def test_scripted_policies_see_the_present_step():
    spec, plain = check_env_id("Room-v21", {"history": 4}), check_env_id("Room-v21", {})
    env = make_env("Room-v21", {"history": 4})
    window, _ = env.reset(seed=1)
    rng = np.random.default_rng(0)
    expert, region = expert_for("Room-v21", spec), region_for("Room-v21", spec)
    total = 0.0
    for _ in range(100):
        now = spec.history.present(window)[None]
        action = expert(window[None], rng)
        assert action == expert_for("Room-v21", plain)(now, rng)
        assert region(window[None]) == region_for("Room-v21", plain)(now)
        window, reward, *_ = env.step(int(action[0]))
        total += float(reward)
    assert total > 70  # it reaches the goal


@pytest.mark.parametrize(
    "env, history, message",
    [
        ("CartPole-v1", 0, "history: length must be a whole number of steps, 1 to 1000, not 0"),
        ("CartPole-v1", True, "history: length must be a whole number"),
        ("CartPole-v1", "eight", "history: length must be a whole number"),
        ("CartPole-v1", {"lenght": 3}, r"history has no argument 'lenght' \(did you mean 'length'"),
        ("CartPole-v1", {"reward": 2}, "history: reward must be true or false, not 2"),
        ("FrozenLake-v1", 3, "history needs flat observations"),
    ],
)
def test_wrong_arguments(env, history, message):
    with pytest.raises(UserError, match=message) as caught:
        make_env(env, {"history": history})
    assert "\n" not in str(caught.value)


def test_images_are_refused():
    class Picture(Count):
        observation_space = gymnasium.spaces.Box(0, 255, (40, 40, 3), np.uint8)

    with pytest.raises(UserError, match="history does not take images"):
        make_env(Picture, {"history": 3})


class Stop(Listener):
    def on_metrics(self, step, rows):
        if step >= 70:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("no_reports")
def test_a_training_with_windows_resumes_to_the_same_bytes(tmp_path):
    """With the expert as adviser, which sees one step of the window."""
    learner = LearnerConfig(learning_starts=(20,), batch_size=(16,), net_arch=((16,),))
    run = RunConfig(eval_freq=50, n_eval_episodes=1, log_freq=20, checkpoint_freq=50, verbose=0, log_dir=str(tmp_path))
    args = {"history": {"length": 3}}
    config = Config(env="Room-v6", env_args=args, advisers=("expert",), total_timesteps=100, learner=learner, run=run)
    whole = peerage.train(config=config, exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, exp_name="cut", listeners=[Stop()])
    peerage.resume(peerage.load(tmp_path / "cut"))
    for name in ("metrics.csv", "evaluations.csv", "advice.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole.folder / name).read_bytes()
    layout = HistoryLayout(3, 4, 4, 1)
    assert np.shape(whole.policy(0)(np.zeros(layout.size, np.float32))) == ()
