"""The vector of environments: autoreset, seeds, restoring, and environments that misbehave."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError


class Counter(gymnasium.Env):
    """Shows how many steps were made; terminates after `end`, truncates after `cut`; reward = action."""

    def __init__(self, end=3, cut=99, bad=None, at=2, start=0):
        self.observation_space = gymnasium.spaces.Box(-9, 99, (2,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(5, start=start)
        self.end, self.cut, self.bad, self.at = end, cut, bad, at
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.episode = 0, self.episode + 1
        bad = self.bad == "reset" and self.episode == 2
        return np.array([np.nan if bad else 0.0, self.episode]), {}

    def step(self, action):
        self.count += 1
        now = self.count == self.at
        if self.bad == "raise" and now:
            raise RuntimeError("out of\nfuel")
        if self.bad == "shape" and now:
            return np.zeros(3), 0.0, False, False, {}
        value = np.inf if self.bad == "obs" and now else float(self.count)
        reward = np.nan if self.bad == "reward" and now else action * 0.5
        over = self.count >= self.end
        info = {"is_success": np.bool_(action == 4)} if over else {}
        return np.array([value, self.episode]), reward, over, self.count >= self.cut, info


def group_of(env, args: dict, seeds: list[int], **settings) -> EnvGroup:
    """Environments of one kind."""
    return EnvGroup([EnvMaker(env, args)] * len(seeds), seeds, **settings)


def test_reset_in_the_same_step():
    lengths = iter([3, 2])
    group = group_of(lambda: Counter(end=next(lengths)), {}, [0, 1])
    assert (group.n, group.obs_dim, group.n_actions, group.act_dim, group.discrete) == (2, 2, 5, 1, True)
    assert group.reset().tolist() == [[0, 1], [0, 1]]

    one = group.step(np.array([2, 1]))
    assert one.obs.tolist() == one.next_obs.tolist() == [[1, 1], [1, 1]]
    assert one.reward.tolist() == [1.0, 0.5] and one.episodes == [] and not one.done.any()
    assert one.obs.dtype == one.next_obs.dtype == one.reward.dtype == np.float32

    two = group.step(np.array([2, 4]))
    assert two.next_obs.tolist() == [[2, 1], [2, 1]]  # what truly followed
    assert two.obs.tolist() == [[2, 1], [0, 2]]  # where environment 1 goes on
    assert two.terminated.tolist() == two.done.tolist() == [False, True] and not two.truncated.any()
    assert two.episodes == [(1, 2.5, 2, True)]

    three = group.step(np.array([0, 0]))
    assert three.next_obs.tolist() == [[3, 1], [1, 2]] and three.obs.tolist() == [[0, 2], [1, 2]]
    assert three.episodes == [(0, 2.0, 3, False)]
    assert group.step(np.array([0, 1])).episodes == [(1, 0.5, 2, False)]  # the next episode counts from 0
    # Earlier steps are still what they were: the arrays are new each time.
    assert one.obs.tolist() == [[1, 1], [1, 1]] and two.obs.tolist() == [[2, 1], [0, 2]]
    three.obs[:] = 7
    assert three.next_obs.max() == 3


def test_terminated_and_truncated():
    for end, cut, expected in [(2, 9, (True, False)), (9, 2, (False, True)), (2, 2, (True, True))]:
        group = group_of(Counter, {"end": end, "cut": cut}, [0])
        group.reset()
        group.step(np.array([0]))
        step = group.step(np.array([0]))
        assert (step.terminated[0], step.truncated[0], step.done[0]) == (*expected, True)
        assert step.episodes[0].success is (False if end == 2 else None)
    group = group_of("Room-v3", {}, [0])
    group.reset()
    for i in range(20):
        step = group.step(np.array([i % 2]))
    assert step.truncated[0] and not step.terminated[0] and step.episodes[0].length == 20
    assert type(step.episodes[0].success) is bool


def test_a_reset_drops_the_episode():
    group = group_of(Counter, {}, [0])
    group.reset()
    group.step(np.array([4]))
    assert group.reset().tolist() == [[0, 2]]
    for _ in range(3):
        step = group.step(np.array([2]))
    assert step.episodes == [(0, 3.0, 3, False)]


def test_actions_counted_from_zero():
    group = group_of(Counter, {"start": 10}, [0])
    group.reset()
    assert group.step(np.array([3])).reward.tolist() == [6.5]
    for bad in (np.array([1, 2]), np.array([[1]]), np.array(1)):
        with pytest.raises(ValueError, match="shape"):
            group.step(bad)


class Greedy(gymnasium.Env):
    """Changes the action that it is given."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-2, 2, (3,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert action.dtype == np.float32
        action *= 0
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_actions_of_the_caller_are_left_alone():
    group = group_of(Greedy, {}, [0, 1])
    group.reset()
    actions = np.full((2, 3), 5.0, np.float32)  # passed on as given, bounds or not
    group.step(actions)
    assert (actions == 5).all()
    assert group.act_dim == 3 and group.n_actions == 0 and group.action_high.tolist() == [2, 2, 2]


@pytest.mark.parametrize("env_id", ["Room-v21", "LunarLander-v3", "Hopper-v4"])
def test_seeds_decide_everything(env_id):
    def trace(seeds):
        group = group_of(env_id, {"max_episode_steps": 10}, seeds)
        rng = np.random.default_rng(0)
        parts = [group.reset()]
        for _ in range(35):
            if group.discrete:
                actions = rng.integers(0, group.n_actions, group.n)
            else:
                actions = rng.uniform(group.action_low, group.action_high, (group.n, group.act_dim))
            parts.append(group.step(actions).obs)
        group.close()
        return np.stack(parts)

    first, again = trace([1, 2]), trace([1, 2])
    assert (first == again).all()
    assert (first[:, 0] != first[:, 1]).any()
    assert (trace([7, 2])[:, 1] == first[:, 1]).all()  # whatever runs beside it
    assert len({row.tobytes() for row in first[::11, 0]}) > 1  # later episodes differ


@pytest.mark.parametrize(
    "bad, message",
    [
        ("obs", "an observation that is not finite"),
        ("reward", "a reward that is not finite"),
        ("raise", "raised RuntimeError: out of"),
        ("shape", "an observation of shape (3,), not (2,)"),
        ("reset", "an observation that is not finite"),
    ],
)
def test_misbehaviour_names_environment_and_step(bad, message):
    made = iter([None, bad, None])

    def counter():
        return Counter(end=2 if bad == "reset" else 9, bad=next(made))

    group = group_of(counter, {}, [0, 1, 2])
    group.reset()
    group.step(np.zeros(3, np.int64))
    with pytest.raises(UserError) as caught:
        group.step(np.zeros(3, np.int64))
    assert str(caught.value).startswith("counter, environment 1, step 2: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.__cause__ is not None) == (bad == "raise")


def test_groups_that_cannot_be():
    shared = Counter()
    with pytest.raises(UserError, match="same environment twice"):
        group_of(lambda: shared, {}, [0, 1])
    starts = iter([0, 1])
    with pytest.raises(UserError, match="different spaces"):
        group_of(lambda: Counter(start=next(starts)), {}, [0, 1])
    with pytest.raises(UserError, match="at least one"):
        group_of(Counter, {}, [])
    with pytest.raises(UserError, match="takes no argument 'ende' \\(did you mean 'end'"):
        group_of(Counter, {"ende": 3}, [0])
