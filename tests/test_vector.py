"""The vector of environments: autoreset, seeds, success, separate makers for members, and faulty environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError


class Counter(gymnasium.Env):
    """Observes the step and the episode; terminates after `end` steps, truncates after `cut`; reward = action / 2."""

    def __init__(self, end=3, cut=99, bad=None, at=2, start=0):
        self.observation_space = gymnasium.spaces.Box(-9, 99, (2,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(5, start=start)
        self.end, self.cut, self.bad, self.at = end, cut, bad, at
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.episode = 0, self.episode + 1
        bad = self.bad == "reset" and self.episode == 2
        if self.bad == "bare reset" and self.episode == 2:
            return np.zeros(2)
        return np.array([np.nan if bad else 0.0, self.episode]), {}

    def step(self, action):
        self.count += 1
        now = self.count == self.at
        if self.bad == "raise" and now:
            raise RuntimeError("out of\nfuel")
        if self.bad in WRONG and now:
            return WRONG[self.bad]
        value = np.inf if self.bad == "obs" and now else float(self.count)
        reward = np.nan if self.bad == "reward" and now else action * 0.5
        over = self.count >= self.end
        info = {"is_success": np.bool_(action == 4)} if over else {}
        return np.array([value, self.episode]), reward, over, self.count >= self.cut, info


ZERO = np.zeros(2)
WRONG = {
    "shape": (np.zeros(3), 0.0, False, False, {}),
    "complex": (ZERO + 1j, 0.0, False, False, {}),
    "ragged": ([[1.0], [1.0, 2.0]], 0.0, False, False, {}),
    "reward of one": (ZERO, np.ones(1), False, False, {}),
    "no reward": (ZERO, None, False, False, {}),
    "huge reward": (ZERO, 10**400, False, False, {}),
    "terminated of one": (ZERO, 0.0, np.array([True]), False, {}),
    "no truncated": (ZERO, 0.0, False, None, {}),
    "no info": (ZERO, 0.0, False, False, None),
    "four values": (ZERO, 0.0, False, {}),
}
"""Results of `step` that Gymnasium does not allow."""


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
    assert two.next_obs.tolist() == [[2, 1], [2, 1]]  # the observations that followed the actions
    assert two.obs.tolist() == [[2, 1], [0, 2]]  # environment 1 has begun its next episode
    assert two.terminated.tolist() == two.done.tolist() == [False, True] and not two.truncated.any()
    assert two.episodes == [(1, 2.5, 2, True)]

    three = group.step(np.array([0, 0]))
    assert three.next_obs.tolist() == [[3, 1], [1, 2]] and three.obs.tolist() == [[0, 2], [1, 2]]
    assert three.episodes == [(0, 2.0, 3, False)]
    assert group.step(np.array([0, 1])).episodes == [(1, 0.5, 2, False)]  # starts at 0
    # Earlier results are unchanged: every step returns new arrays.
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


class InPlace(gymnasium.Env):
    """Changes its action in place."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-2, 2, (3,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert action.dtype == np.float32
        action *= 0
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_actions_of_the_caller_do_not_change():
    group = group_of(InPlace, {}, [0, 1])
    group.reset()
    actions = np.full((2, 3), 5.0, np.float32)
    group.step(actions)
    assert (actions == 5).all()
    assert group.act_dim == 3 and group.n_actions == 0 and group.action_high.tolist() == [2, 2, 2]


class Strict(gymnasium.Env):
    """Takes only actions that its space contains; the reward is the first number of the action."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, low=-0.4, high=0.4, dtype="float64"):
        self.action_space = gymnasium.spaces.Box(low, high, (2,), np.dtype(dtype))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.zeros(1, np.float32), float(action[0]), False, False, {}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("low, high", [(-0.4, 0.4), (0.1, 0.3), (-2, 2)])
def test_the_space_contains_every_action(low, high, dtype):
    """The float32 numbers nearest to 0.4 and 0.1 lie outside the float64 boxes."""
    noisy = EnvMaker(Strict, {"low": low, "high": high, "dtype": dtype, "perturb": {"action_noise": 1.0}})
    group = EnvGroup([EnvMaker(Strict, {"low": low, "high": high, "dtype": dtype}), noisy], [0, 1])
    group.reset()
    for value in (-9.0, low, np.nextafter(low, 1), 0.2, np.nextafter(high, -9), high, 9.0):
        reward = group.step(np.full((2, 2), value)).reward[0]
        assert reward == pytest.approx(np.clip(value, low, high), rel=1e-3)
    for _ in range(20):
        group.step(np.full((2, 2), high, np.float32))


def test_a_box_between_two_float32_numbers_is_refused():
    with pytest.raises(UserError, match="finite bounds, low < high"):
        EnvMaker(Strict, {"low": 1.0 + 1e-10, "high": 1.0 + 1e-7}).spec()


class Eats(gymnasium.Env):
    """Changes its arguments, and its actions after it has used them."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,))
    action_space = gymnasium.spaces.Box(-2, 2, (1,))

    def __init__(self, options, list_of):
        self.scale = options.pop("scale")
        list_of.append(self.scale)
        options["inner"]["seen"] = True

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = float(action[0]) * self.scale
        action *= 0
        return np.zeros(1, np.float32), reward, False, False, {}


def test_an_environment_gets_copies():
    given = {"options": {"scale": 2, "inner": {}}, "list_of": []}
    perturbed = EnvMaker(Eats, {**given, "perturb": {"sticky_actions": 1.0}})
    delayed = EnvMaker(Eats, {**given, "perturb": {"action_delay": 2}})
    group = EnvGroup([EnvMaker(Eats, given), perturbed, delayed], [0, 1, 2])
    assert given == {"options": {"scale": 2, "inner": {}}, "list_of": []}
    group.reset()
    rewards = [group.step(np.full((3, 1), value, np.float32)).reward.tolist() for value in (1.0, 0.5, 0.25)]
    assert rewards == [[2.0, 2.0, 2.0], [1.0, 2.0, 2.0], [0.5, 2.0, 2.0]]


@pytest.mark.parametrize("env_id", ["Room-v21", "LunarLander-v3", "Hopper-v4"])
def test_seeds_determine_everything(env_id):
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
    assert (trace([7, 2])[:, 1] == first[:, 1]).all()  # independent of the other environments
    assert len({row.tobytes() for row in first[::11, 0]}) > 1  # later episodes differ


@pytest.mark.parametrize(
    "bad, message",
    [
        ("obs", "an observation that is not finite"),
        ("reward", "a reward that is not finite"),
        ("raise", "raised RuntimeError: out of"),
        ("shape", "an observation of shape (3,), not (2,)"),
        ("complex", "an observation of type complex128; it must consist of real numbers"),
        ("ragged", "an observation that is not an array: a list of 2"),
        ("reward of one", "step must return one number as reward, not an array of shape (1,)"),
        ("no reward", "step must return one number as reward, not None"),
        ("huge reward", "a reward that is not finite"),
        ("terminated of one", "step must return True or False as terminated, not an array of shape (1,)"),
        ("no truncated", "step must return True or False as truncated, not None"),
        ("no info", "step must return a dict as info, not None"),
        ("four values", "step must return (observation, reward, terminated, truncated, info), not a tuple of 4"),
        ("bare reset", "reset must return (observation, info), not an array of shape (2,)"),
        ("reset", "an observation that is not finite"),
    ],
)
def test_errors_name_environment_and_step(bad, message):
    made = iter([None, bad, None])

    def counter():
        return Counter(end=2 if "reset" in bad else 9, bad=next(made))

    group = group_of(counter, {}, [0, 1, 2])
    group.reset()
    group.step(np.zeros(3, np.int64))
    with pytest.raises(UserError) as caught:
        group.step(np.zeros(3, np.int64))
    assert str(caught.value).startswith("counter, environment 1, step 2: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.__cause__ is not None) == (bad == "raise")


def test_groups_that_cannot_be_built():
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


# --- makers of their own ----------------------------------------------------------------------------------------


def test_members_may_have_their_own_goals():
    """One group, four tasks: goals on either side, an inverted reward, and a bigger room."""
    makers = [
        EnvMaker("Room-v6", {"goals": "left"}),
        EnvMaker("Room-v6", {"goals": "right"}),
        EnvMaker("Room-v6", {"goals": "left", "reward_scale": -1}),
        EnvMaker("Room-v21", {"max_episode_steps": 9}),
    ]
    group = EnvGroup(makers, [7, 7, 7, 7])
    sides, lengths = [], [set() for _ in makers]
    for _ in range(20):
        sides.append(group.reset()[:, 2] < 0.5)
        step = group.step(np.zeros(4, np.int64))
        assert step.reward[0] == -step.reward[2] != 0
    assert np.array(sides)[:, :3].all(axis=0).tolist() == [True, False, True]
    assert not np.array(sides)[:, 1].any() and len(set(np.array(sides)[:, 3])) == 2
    group.reset()
    for _ in range(50):
        for episode in group.step(np.zeros(4, np.int64)).episodes:
            lengths[episode.env].add(episode.length)
    assert lengths == [{50}, {50}, {50}, {9}]
    assert group.names == ["Room-v6"] * 3 + ["Room-v21"]


def test_an_error_names_the_environment_of_the_member():
    bad = EnvMaker(Counter, {"bad": "raise"})
    group = EnvGroup([EnvMaker(lambda: Counter()), bad], [0, 1])
    group.reset()
    group.step(np.zeros(2, np.int64))
    with pytest.raises(UserError, match=r"^Counter, environment 1, step 2: the environment raised RuntimeError"):
        group.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    "other, message",
    [
        ("CartPole-v1", r"Room-v6 and CartPole-v1 have different spaces: observations Box.*4.* and Box"),
        (Counter, r"Room-v6 and Counter have different spaces: observations"),
        ("Hallway-v1", r"Room-v6 and Hallway-v1 have different spaces"),
    ],
)
def test_different_spaces_are_refused_with_both_names(other, message):
    with pytest.raises(UserError, match=message) as caught:
        EnvGroup([EnvMaker("Room-v6"), EnvMaker("Room-v21"), EnvMaker(other)], [0, 1, 2])
    assert "\n" not in str(caught.value)


def test_different_actions_are_refused():
    with pytest.raises(UserError, match="Counter created environments with different spaces: actions Discrete"):
        EnvGroup([EnvMaker(Counter), EnvMaker(Counter, {"start": 1})], [0, 1])


def test_a_maker_is_a_value():
    maker = EnvMaker("Room-v6", {"max_episode_steps": 7})
    assert maker == EnvMaker("Room-v6", {"max_episode_steps": 7}) != EnvMaker("Room-v6")
    assert maker.name == "Room-v6" and EnvMaker(Counter).name == "Counter"
    assert (maker.spec().id, maker.spec().max_episode_steps) == ("Room-v6", 7)
    assert maker.make() is not maker.make()
    with pytest.raises(ValueError, match="2 environments need as many seeds, not 1"):
        EnvGroup([maker, maker], [0])


def test_a_seed_for_each_of_the_first_episodes():
    """Then the environment's own generator continues, and `reseed` starts with the first seed again."""
    makers = [EnvMaker("Room-v21", {"max_episode_steps": 2})]
    one_by_one = [group_of("Room-v21", {}, [seed]).reset()[0].tolist() for seed in (3, 8)]
    group = EnvGroup(makers, [[3, 8]])

    def starts() -> list[list[float]]:
        found = [group.reset(reseed=True)[0].tolist()]
        for _ in range(8):
            step = group.step(np.zeros(1, np.int64))
            if step.done[0]:
                found.append(step.obs[0].tolist())
        return found

    first = starts()
    assert first[:2] == one_by_one and len({tuple(start) for start in first}) > 2
    assert starts() == first
    with pytest.raises(ValueError, match="one seed for each environment"):
        EnvGroup(makers, [[3, 8]], keep=True)


# --- success ----------------------------------------------------------------------------------------------------


class Reports(gymnasium.Env):
    """Four steps; `infos[k]` is the info of step k."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, infos):
        self.infos = infos

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.full(1, self.count, np.float32), 0.0, self.count == 4, False, self.infos[self.count - 1]


YES, NO = {"success": True}, {"success": False}


@pytest.mark.parametrize(
    "infos, last, any_step",
    [
        ([NO, YES, NO, NO], False, True),
        ([NO, NO, NO, YES], True, True),
        ([NO, NO, NO, NO], False, False),
        ([{}, {}, {}, {}], None, None),
        ([{}, NO, {}, {}], None, False),
        ([{"is_success": 1.0}, {}, {}, {"is_success": np.float32(0)}], False, True),
        ([{}, {}, {}, {"success": np.bool_(True)}], True, True),
        ([{}, {}, {}, {"success": np.int64(1), "is_success": 0}], True, True),
        ([{}, {}, {}, {"success": np.array(1)}], True, True),
        # Values that are neither booleans nor 0 or 1 are unknown; the other key may be known
        ([{}, {}, {}, {"success": "yes"}], None, None),
        ([{}, {}, {}, {"success": 0.7, "is_success": True}], True, True),
        ([{}, {}, {}, {"success": None, "is_success": np.array([1.0])}], None, None),
        ([{}, {}, {}, {"success": float("nan")}], None, None),
        ([{}, {}, {}, {"success": 2}], None, None),
    ],
)
def test_success_of_the_last_step_or_of_any(infos, last, any_step):
    for rule, expected in (("last", last), ("any", any_step)):
        group = group_of(Reports, {"infos": infos}, [0], success=rule)
        group.reset()
        for _ in range(2):  # the second episode starts without a success
            for _ in range(4):
                step = group.step(np.zeros(1, np.int64))
            assert step.episodes[0].success is expected, rule


def test_a_success_belongs_to_its_episode():
    infos = iter([YES, NO, NO, NO, *[NO] * 4, *[{}] * 3, NO])
    group = group_of(Reports, {"infos": [NO] * 4}, [0, 1], success="any")
    for env in group.envs:
        env.infos = [None] * 4
    group.reset()
    found = []
    for _ in range(12):
        info = next(infos)
        for env in group.envs:
            env.infos = [info] * 4
        found += [(episode.env, episode.success) for episode in group.step(np.zeros(2, np.int64)).episodes]
    assert found == [(0, True), (1, True), (0, False), (1, False), (0, False), (1, False)]
    group.envs[0].infos = [YES] * 4
    group.step(np.zeros(2, np.int64))
    group.reset()  # drops the episode and its success
    for env in group.envs:
        env.infos = [NO] * 4
    for _ in range(4):
        step = group.step(np.zeros(2, np.int64))
    assert [episode.success for episode in step.episodes] == [False, False]


def test_a_resumed_episode_keeps_its_success():
    """Environment 0 has succeeded before it is restored, environment 1 has not, environment 2 does not report."""
    infos = ([NO, YES, {}, {}], [NO] * 4, [{}] * 4)
    makers = [EnvMaker(Seeded, {"infos": some}) for some in infos]
    one = EnvGroup(makers, [1, 2, 3], keep=True, success="any")
    one.reset()
    for _ in range(3):
        one.step(np.zeros(3, np.int64))
    state = one.state()
    assert state["success"].tolist() == [1, 0, -1]
    two = EnvGroup(makers, [7, 8, 9], keep=True, success="any")
    assert two.restore(state, clock=3)[1] == {}
    last = [group.step(np.zeros(3, np.int64)).episodes for group in (one, two)]
    assert [episode.success for episode in last[1]] == [True, False, None] and last[0] == last[1]
    assert "success" not in group_of(Seeded, {"infos": infos[0]}, [1], keep=True).state()
    # An episode that cannot be replayed loses its success with its steps
    shorter = EnvMaker(Seeded, {"infos": infos[0], "ends": 2})
    three = EnvGroup([shorter, *makers[1:]], [7, 8, 9], keep=True, success="any")
    assert set(three.restore(state, clock=3)[1]) == {0}
    three.envs[0].infos = [NO] * 4
    ended = [episode for _ in range(2) for episode in three.step(np.zeros(3, np.int64)).episodes]
    assert [(e.env, e.length, e.success) for e in ended] == [(1, 4, False), (2, 4, None), (0, 2, False)]


class Seeded(Reports):
    """The same with a generator, so that an episode can be replayed; ends after `ends` steps."""

    def __init__(self, infos, ends=4):
        super().__init__(infos)
        self.ends = ends

    def step(self, action):
        obs, _, _, truncated, info = super().step(action)
        return obs, float(self.np_random.random()), self.count >= self.ends, truncated, info
