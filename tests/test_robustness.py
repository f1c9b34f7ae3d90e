"""Perturbed environments, dropped advice, Byzantine advisers and members, and evaluations with them."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from scipy import stats

import peerage
from peerage import cli
from peerage.api import with_settings
from peerage.config import Config
from peerage.config.adviser_words import parse_members
from peerage.config.file import dump, from_dict, parse, to_dict, validate
from peerage.config.perturbations import (
    Perturbations,
    overridden,
    parse_cases,
    parse_perturbations,
    with_perturbations,
)
from peerage.envs import scripted
from peerage.envs.changing import Changing
from peerage.envs.make import Spec, check_env_id, make_env
from peerage.envs.perturbed import Perturbed, unit
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError
from peerage.evaluation.evaluate import SEED
from peerage.evaluation.perturbed import evaluate_perturbed
from peerage.session import evaluate_run
from peerage.sharing.adviser import overrides, replica_generator
from peerage.sharing.advisers import make_adviser
from peerage.sharing.byzantine import ByzantineMembers, flipped

ROOM, LANDER = check_env_id("Room-v21", {}), check_env_id("LunarLander-v3", {})
CONTINUOUS = check_env_id("LunarLander-v3", {"continuous": True})
PENDULUM, ACROBOT = check_env_id("Pendulum-v1", {}), check_env_id("Acrobot-v1", {})


class Tiny(gymnasium.Env):
    """Always observes (1, 2, 3) and records its actions."""

    observation_space = Box(
        np.array([0, -np.inf, -1], np.float32), np.array([4, np.inf, 1e9], np.float32), dtype=np.float32
    )

    def __init__(self, discrete: bool = False, wind: float = 0.0) -> None:
        self.action_space = (
            Discrete(4, start=1) if discrete else Box(np.float32([-2, 0]), np.float32([2, 10]), dtype=np.float32)
        )
        self.wind, self.done = wind, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.done = []
        return np.array([1, 2, 3], np.float32), {}

    def step(self, action):
        self.done.append(action)
        return np.array([1, 2, 3], np.float32), 1.0, False, False, {}


def drawn(root: int, purpose: str) -> np.random.Generator:
    """The generator that docs/robustness.md promises for an episode."""
    return np.random.default_rng(np.random.SeedSequence([root, zlib.crc32(purpose.encode())]))


def group_of(env, args: dict, seeds: list[int], keep: bool = False) -> EnvGroup:
    return EnvGroup([EnvMaker(env, args)] * len(seeds), seeds, keep=keep)


def act(group: EnvGroup, rng: np.random.Generator) -> np.ndarray:
    if group.discrete:
        return rng.integers(group.n_actions, size=group.n)
    return rng.uniform(group.action_low, group.action_high, (group.n, group.act_dim)).astype(np.float32)


# --- observations and actions -----------------------------------------------------------------------------------


def test_a_unit_is_half_of_a_finite_range():
    low = np.array([0, -1, -np.inf, -3e38, 0], np.float32)
    high = np.array([4, 1, np.inf, 3e38, np.inf], np.float32)
    np.testing.assert_array_equal(unit(Box(low, high)), [2, 1, 1, 1, 1])


def test_observation_noise_is_as_documented():
    env = Perturbed(Tiny(), Perturbations(observation_noise=0.25))
    z = drawn(7, "observation noise").standard_normal((3, 3))
    expected = np.array([1, 2, 3]) + 0.25 * np.array([2, 1, 1]) * z  # [0, 4] has a unit of 2, what has no bounds of 1
    seen = [env.reset(seed=7)[0], env.step(np.zeros(2))[0], env.step(np.zeros(2))[0]]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    assert seen[0].dtype == np.float32
    # The same draws at another strength, and with other perturbations
    more = Perturbed(Tiny(), Perturbations(observation_noise=0.5, action_noise=0.3, sticky_actions=0.5))
    np.testing.assert_allclose(more.reset(seed=7)[0] - [1, 2, 3], 2 * (seen[0] - [1, 2, 3]), rtol=1e-4)


def test_observation_noise_is_normal_and_new_in_every_step_and_episode():
    env = Perturbed(Tiny(), Perturbations(observation_noise=0.1))
    env.reset(seed=1)
    noise = np.array([[env.step(np.zeros(2))[0] for _ in range(500)] for _ in range(4) if env.reset()]) - [1, 2, 3]
    for k, sd in enumerate([0.2, 0.1, 0.1]):
        assert stats.kstest(noise[..., k].ravel() / sd, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[..., 0].ravel()[:-1], noise[..., 0].ravel()[1:])[0, 1]) < 4 / math.sqrt(2000)
    assert len({episode.tobytes() for episode in noise}) == 4


def test_action_noise_in_a_box():
    env = Perturbed(Tiny(), Perturbations(action_noise=0.5))
    env.reset(seed=3)
    action = np.array([1.5, 5.0], np.float32)
    for _ in range(400):
        env.step(action)
    z = drawn(3, "action noise").standard_normal((400, 2))
    expected = np.clip(action + 0.5 * np.array([2, 5]) * z, [-2, 0], [2, 10])
    done = np.array(env.unwrapped.done)
    np.testing.assert_allclose(done, expected, rtol=1e-5)
    assert done.dtype == np.float32 and (done[:, 0] == 2).any() and action.tolist() == [1.5, 5.0]


def test_action_noise_in_discrete_actions():
    env, n, p = Perturbed(Tiny(discrete=True), Perturbations(action_noise=0.4)), 4000, 0.4
    env.reset(seed=3)
    for _ in range(n):
        env.step(2)
    counts = np.bincount(env.unwrapped.done, minlength=5)
    assert counts[0] == 0  # its actions are 1 to 4
    # The wanted one: 1 - p + p / 4, each of the others p / 4
    expected = n * np.array([p / 4, 1 - p + p / 4, p / 4, p / 4])
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 16.3  # chi square with 3 degrees of freedom, p = 0.001


def test_delayed_and_sticky_actions():
    env = Perturbed(Tiny(discrete=True), Perturbations(action_delay=2))
    for _ in range(2):  # nothing waits from one episode to the next
        env.reset(seed=0)
        for action in (4, 2, 3, 1, 1):
            env.step(action)
        assert env.unwrapped.done == [4, 4, 4, 2, 3]
    sticky = Perturbed(Tiny(discrete=True), Perturbations(sticky_actions=0.3))
    sticky.reset(seed=5)
    wanted = np.random.default_rng(0).integers(1, 5, 3000)
    for action in wanted.tolist():
        sticky.step(action)
    u, expected = drawn(5, "sticky actions").random(3000), []
    for k, action in enumerate(wanted.tolist()):
        expected.append(expected[-1] if k and u[k] < 0.3 else action)
    assert sticky.unwrapped.done == expected
    always = Perturbed(Tiny(discrete=True), Perturbations(sticky_actions=1.0))
    for first in (3, 2):  # an episode starts with the given action
        always.reset()
        always.step(first)
        always.step(1)
        assert always.unwrapped.done == [first, first]
    repeats = np.mean(np.array(expected[1:]) == expected[:-1])  # 0.3, and a quarter of the rest by chance
    assert abs(repeats - (0.3 + 0.7 / 4)) < 4 * math.sqrt(0.475 * 0.525 / 2999)


# --- physics ----------------------------------------------------------------------------------------------------


def test_a_range_is_drawn_uniformly_for_every_episode():
    env = make_env("CartPole-v1", {"perturb": {"length": [0.3, 0.7], "masspole": 0.2}})
    env.reset(seed=0)
    u = drawn(0, "length").random()
    assert env.unwrapped.length == env.shifts["length"] == pytest.approx(0.3 + 0.4 * u)
    lengths = []
    for _ in range(400):
        env.reset()
        lengths.append(env.unwrapped.length)
        assert env.unwrapped.polemass_length == pytest.approx(0.2 * lengths[-1])  # what hangs on it follows
    assert stats.kstest((np.array(lengths) - 0.3) / 0.4, "uniform").pvalue > 1e-3
    again = make_env("CartPole-v1", {"perturb": {"length": [0.3, 0.7], "gravity": [9, 10]}})
    again.reset(seed=0)
    assert again.unwrapped.length == pytest.approx(0.3 + 0.4 * u)  # regardless of other draws


def test_changed_physics_apply_from_the_first_step():
    lander = make_env("LunarLander-v3", {"perturb": {"gravity": -5.5, "enable_wind": True}})
    lander.reset(seed=0)
    assert lander.unwrapped.world.gravity.y == -5.5 and lander.unwrapped.enable_wind is True
    hopper = make_env("Hopper-v5", {"mass_scale": 3.0, "perturb": {"mass_scale": 2.0, "gravity": [-12, -8]}})
    plain = make_env("Hopper-v5", {})
    hopper.reset(seed=0)
    np.testing.assert_allclose(hopper.unwrapped.model.body_mass, 2 * plain.unwrapped.model.body_mass)
    assert -12 <= hopper.unwrapped.model.opt.gravity[2] == hopper.shifts["gravity"] < -8
    for env in (lander, hopper, plain):
        env.close()


@pytest.mark.parametrize(
    "env_id, args, says",
    [
        ("Room-v6", {"gravity": -9.0}, "or a parameter of Room-v6: reward_scale, goals, reward_at"),
        ("Room-v6", {"observation_noize": 0.1}, "did you mean 'observation_noise'"),
        ("Room-v6", {"goals": "up"}, "goals must be any, left, right"),
        ("Room-v6", {"goals": [0, 1]}, "goals has no range"),
        ("Room-v6", {"action_noise": 1.5}, "probability"),
        ("CartPole-v1", {"length": [-1, 1]}, "length must be above 0, not -1"),
        ("LunarLander-v3", {"gravity": [-12, -8]}, "gravity must be between -12 and 0, not -12"),
        ("LunarLander-v3", {"enable_wind": [0, 1]}, "enable_wind has no range"),
        ("CartPole-v1", {"gravity": -5}, r"gravity must be in \[0, 980\], not -5"),
        ("CartPole-v1", {"gravity": [9, 981]}, r"gravity must be in \[0, 980\], not 981"),
        ("Hopper-v5", {"gravity": [-10, 1]}, r"gravity must be in \[-981, 0\], not 1"),
        ("Hopper-v5", {"frame_skip": 2.5}, "frame_skip must be one whole number, not 2.5"),
        ("Hopper-v5", {"frame_skip": [2, 3]}, "frame_skip has no range"),
        ("Hopper-v5", {"frame_skip": 0}, r"frame_skip must be in \[1, 400\], not 0"),
        ("Room-v6", {"dropped_advice": 0.1}, "dropped_advice is not a property of the environment"),
    ],
)
def test_perturbations_that_an_environment_does_not_support(env_id, args, says):
    with pytest.raises(UserError, match=says) as error:
        make_env(env_id, {"perturb": args})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "env_id, args, says",
    [
        ("CartPole-v1", {"gravity": -5}, r"gravity must be in \[0, 980\], not -5"),
        ("CartPole-v1", {"change_at": 9, "change": {"gravity": 981.0}}, r"gravity must be in \[0, 980\], not 981"),
        ("Hopper-v5", {"gravity": 1}, r"gravity must be in \[-981, 0\], not 1"),
        ("Hopper-v5", {"mass_scale": 101}, r"mass_scale must be in \[0, 100\], not 101"),
        ("Hopper-v5", {"change_at": 9, "change": {"frame_skip": 2.5}}, "frame_skip must be one whole number, not 2.5"),
        ("Ant-v5", {"change_at": 9, "change": {"main_body": 2}}, "has no adjustable parameter 'main_body'"),
    ],
)
def test_given_and_changed_parameters_have_the_same_ranges(env_id, args, says):
    with pytest.raises(UserError, match=says) as error:
        make_env(env_id, args)
    assert "\n" not in str(error.value)


def test_the_ends_of_a_range_are_allowed():
    cases = [
        ("CartPole-v1", {"gravity": [0, 980]}),
        ("Hopper-v5", {"gravity": 0, "frame_skip": 2}),
        ("Pendulum-v1", {"reward_scale": -100}),
    ]
    for env_id, perturb in cases:
        env = make_env(env_id, {"perturb": perturb})
        env.reset(seed=0)
        env.step(env.action_space.sample())  # MuJoCo wants whole numbers of steps as integers
        env.close()


def test_a_parameter_that_changes_cannot_be_perturbed():
    change = {"change_at": 5, "change": {"g": 5.0}}
    with pytest.raises(UserError, match="g changes during the run"):
        make_env("Pendulum-v1", {**change, "perturb": {"g": 3.0}})
    env = make_env("Pendulum-v1", {**change, "perturb": {"m": [0.5, 2]}})
    env.reset(seed=0)
    for _ in range(5):
        *_, truncated, _ = env.step(np.zeros(1, np.float32))
    assert truncated and env.unwrapped.g == 10
    env.reset()
    assert env.unwrapped.g == 5 and env.unwrapped.m == env.shifts["m"] != 1


# --- nothing, the same episodes, and going on ---------------------------------------------------------------------


def test_zero_strengths_perturb_nothing():
    zero = {"observation_noise": 0, "action_noise": 0.0, "sticky_actions": 0, "action_delay": 0}
    assert not isinstance(make_env("Room-v6", {"perturb": zero}), Changing)
    plain, empty = make_env("Pendulum-v1", {}), make_env("Pendulum-v1", {"perturb": {"g": 10.0}})
    rng = np.random.default_rng(0)
    for episode in range(3):  # the value that it has: no draw, and no other bits
        seed = {"seed": 4} if not episode else {}
        assert plain.reset(**seed)[0].tobytes() == empty.reset(**seed)[0].tobytes()
        for _ in range(20):
            action = rng.uniform(-2, 2, 1).astype(np.float32)
            one, two = plain.step(action), empty.step(action)
            assert one[0].tobytes() == two[0].tobytes() and one[1] == two[1]


def test_a_seeded_episode_is_the_unperturbed_one_with_noise():
    clean = group_of("LunarLander-v3", {}, [3, 4])
    noisy = group_of("LunarLander-v3", {"perturb": {"observation_noise": 0.1}}, [3, 4])
    rng = np.random.default_rng(0)
    one, two = clean.reset(), noisy.reset()
    for _ in range(40):
        assert (one != two).any(axis=1).all()
        actions = act(clean, rng)
        a, b = clean.step(actions), noisy.step(actions)
        np.testing.assert_array_equal(a.reward, b.reward)
        one, two = a.obs, b.obs


@pytest.mark.parametrize(
    "env_id, perturb, steps",
    [
        ("Room-v6", {"observation_noise": 0.1, "action_noise": 0.2, "sticky_actions": 0.3, "goals": "left"}, 130),
        ("Hallway-v0", {"observation_noise": 0.1}, 230),  # which draws nothing itself
        ("LunarLander-v3", {"gravity": [-11, -6], "action_delay": 2, "action_noise": 0.1, "enable_wind": True}, 180),
        ("Hopper-v5", {"mass_scale": [0.5, 2], "observation_noise": 0.05, "action_noise": 0.2}, 120),
    ],
)
def test_a_restored_episode_continues_bit_for_bit(env_id, perturb, steps):
    args, rng = {"perturb": perturb}, np.random.default_rng(0)
    group = group_of(env_id, args, [1, 2], keep=True)
    group.reset()
    began = 0
    for _ in range(steps):
        began += group.step(act(group, rng)).done.sum()
    assert began  # beyond the seeded episodes
    state = json.loads(json.dumps({k: v for k, v in group.state().items() if not isinstance(v, np.ndarray)}))
    state |= {k: v.copy() for k, v in group.state().items() if isinstance(v, np.ndarray)}
    other = group_of(env_id, args, [1, 2], keep=True)
    obs, anew = other.restore(state, steps)
    assert anew == {} and obs.tobytes() == group.state()["obs"].tobytes()
    for _ in range(steps):
        actions = act(group, rng)
        one, two = group.step(actions), other.step(actions)
        assert one.obs.tobytes() == two.obs.tobytes() and one.reward.tobytes() == two.reward.tobytes()
    group.close()
    other.close()


@pytest.mark.filterwarnings("ignore")  # about wrappers
def test_gymnasium_accepts_it():
    env = make_env("Pendulum-v1", {"perturb": {"action_noise": 0.2, "g": [8, 12], "action_delay": 1}})
    check_env(env, skip_render_check=True)
    assert isinstance(env, Perturbed) and env.spec.id == "Pendulum-v1"
    assert isinstance(env.spec.make(), Perturbed)


# --- words ------------------------------------------------------------------------------------------------------


def test_words_become_perturbations_and_back():
    text = "observation_noise=0.1 action_noise=0.05 gravity=-11..-8 mass_scale=.8..1.2 dropped_advice=0.2"
    p = parse_perturbations([*text.split(), "enable_wind=true", "goals=left", "action_delay=2", "wind_power=1e1"])
    assert p == Perturbations(
        observation_noise=0.1,
        action_noise=0.05,
        action_delay=2,
        dropped_advice=0.2,
        physics=(
            ("enable_wind", True),
            ("goals", "left"),
            ("gravity", (-11.0, -8.0)),
            ("mass_scale", (0.8, 1.2)),
            ("wind_power", 10.0),
        ),
    )
    assert parse_perturbations(str(p).split()) == p == Perturbations.of(json.loads(json.dumps(p.plain())))
    assert p.of_environment == replace(p, dropped_advice=0.0)
    assert str(Perturbations()) == "clean" and Perturbations.of({"sticky_actions": 0}).plain() == {}
    assert overridden({"observation_noise": 0.1, "length": 2}, ["observation_noise=0", "length=1..2"]) == {
        "length": [1.0, 2.0]
    }
    assert with_perturbations({"length": 5}, Perturbations(dropped_advice=1)) == {"length": 5}


@pytest.mark.parametrize(
    "word",
    [
        "observation_noise",
        "observation_noise=",
        "=1",
        "a-b=1",
        "observation_noise=-0.1",
        "observation_noise=nan",
        "observation_noise=much",
        "observation_noise=0..1",
        "observation_noise=true",
        "sticky_actions=1.1",
        "dropped_advice=-0.1",
        "action_delay=1.5",
        "action_delay=101",
        "gravity=-8..-12",
        "gravity=1..",
        "gravity=1..2..3",
        "gravity=a..b",
        "gravity=.inf",
        "gravity=1;2",
        "gravity=none",
    ],
)
def test_malformed_words(word):
    with pytest.raises(UserError, match="--perturb") as error:
        parse_perturbations([word])
    assert "\n" not in str(error.value)


def test_the_same_word_twice_and_lists():
    with pytest.raises(UserError, match="given twice"):
        parse_perturbations(["length=1", "length=2"])
    with pytest.raises(UserError, match="only `peerage evaluate` accepts lists"):
        parse_perturbations(["length=1,2"])
    cases = parse_cases(["observation_noise=0,0.1", "length=1,2..3"])
    assert [str(case) for case in cases] == [
        "length=1",
        "length=2..3",
        "observation_noise=0.1 length=1",
        "observation_noise=0.1 length=2..3",
    ]
    assert parse_cases(["sticky_actions=0,0.5,0.5"]) == [Perturbations(sticky_actions=0.5)]
    with pytest.raises(UserError, match="121 combinations"):
        parse_cases([f"{name}={','.join(map(str, range(11)))}" for name in ("a", "b")])
    with pytest.raises(UserError, match="expected a value"):
        parse_cases(["observation_noise=0,,1"])


def test_in_the_configuration_and_on_the_command_line(capsys):
    config = validate(from_dict({"perturb": {"mass_scale": "0.8..1.2", "observation_noise": 0.1}}))
    assert from_dict(parse(dump(config), "")) == config and to_dict(config)["perturb"]["observation_noise"] == 0.1
    for data, says in [
        ({"perturb": {"sticky_actions": 2}}, "probability"),
        ({"perturb": {"dropped_advice": 0.5}, "advice": {"sharing": "none"}}, "cannot be used with --sharing none"),
        ({"advice": {"byzantine_members": ["4:random"]}}, "0 to 3"),
        ({"n_peers": 1, "advice": {"byzantine_members": ["0:random"]}}, "at least two members"),
        ({"advisers": ["sign-flip"]}, "write sign-flip:ADVISER"),
        ({"advisers": ["noise:0.5"]}, "adviser"),
    ]:
        with pytest.raises(UserError, match=says):
            validate(from_dict(data))
    assert cli.main(["train", "--env", "Room-v6", "--perturb", "gravity=3", "--verbose", "0"]) == 2
    assert "there is no perturbation 'gravity'" in capsys.readouterr().err


# --- advisers ---------------------------------------------------------------------------------------------------

OBS = {
    "Room-v21": np.random.default_rng(1).integers(0, 21, (3000, 4)).astype(np.float32) / np.float32(20),
    "LunarLander-v3": np.random.default_rng(1).normal(0, 0.5, (3000, 8)).astype(np.float32),
    "Pendulum-v1": np.random.default_rng(1).normal(0, 1, (3000, 3)).astype(np.float32),
    "Acrobot-v1": np.random.default_rng(1).normal(0, 1, (3000, 6)).astype(np.float32),
}


def adviser(name: str, spec: Spec, replica: int = 0):
    made = make_adviser(name, spec)
    made.begin(replica_generator(0, replica, 2), 1000)
    return made


def suggest(made, obs, seed: int = 0, row: int = 0):
    b = len(obs)
    return made.suggest(obs, np.full(b, row), np.zeros(b, bool), np.random.default_rng(seed))


def test_sign_flip_is_the_opposite_and_always_differs():
    obs = OBS["LunarLander-v3"]
    for spec in (LANDER, CONTINUOUS):
        said = suggest(adviser("expert", spec), obs)
        for name in ("sign-flip:expert", "negated:expert"):
            other = suggest(adviser(name, spec), obs)
            np.testing.assert_array_equal(other, scripted.opposite(spec.id, spec.action_space, said))
            assert set(adviser(name, spec).role(obs)) == {-1}
    assert flipped("Acrobot-v1", Discrete(3), np.arange(3)).tolist() == [2, 2, 0]  # 1 is its own opposite
    assert flipped("Room-v6", Discrete(4), np.arange(4)).tolist() == [1, 0, 3, 2]
    assert flipped("Any-v0", Discrete(1), np.zeros(2, int)).tolist() == [0, 0]
    mirrored = suggest(adviser("sign-flip:constant:-1.5", PENDULUM), OBS["Pendulum-v1"][:2])
    np.testing.assert_array_equal(mirrored, [[1.5], [1.5]])


def test_noise_on_top_of_an_adviser():
    obs, n = OBS["Room-v21"], 3000
    expert, noisy = suggest(adviser("expert", ROOM), obs), suggest(adviser("noise:0.4:expert", ROOM), obs)
    changed = 0.4 * 3 / 4  # a uniform action is the expert's own in one of four cases
    assert abs(np.mean(expert != noisy) - changed) < 4 * math.sqrt(changed * (1 - changed) / n)
    z = np.random.default_rng(0).standard_normal((n, 1))
    said = suggest(adviser("noise:0.5:constant:1", PENDULUM), OBS["Pendulum-v1"])
    np.testing.assert_allclose(said, np.clip(1 + 0.5 * 2 * z, -2, 2), rtol=1e-5)  # half of [-2, 2] is 2
    assert adviser("noise:expert", ROOM).scale == 0.5 and not overrides(adviser("noise:expert", ROOM), "role")
    assert adviser("noise:2:constant:1", PENDULUM).inner.value == 1  # one number is the scale, the other the constant
    turning = adviser("noise:turncoat", ROOM)
    assert turning.state() == turning.inner.state() and turning.inner.turn  # the inner adviser's


def test_colluding_advisers_agree_on_a_wrong_action():
    obs = OBS["Room-v21"]
    one, two = (suggest(adviser("colluding:a", ROOM), obs, seed, seed) for seed in (0, 1))
    np.testing.assert_array_equal(one, two)  # independent of the asker and of `rng`
    np.testing.assert_array_equal(one[17:20], suggest(adviser("colluding:a", ROOM), obs[17:20]))  # and of the batch
    expert = suggest(adviser("expert", ROOM), obs)
    assert not (one == expert).any()
    # Each of the three other actions equally often; duplicate states count once
    _, first = np.unique(obs, axis=0, return_index=True)
    steps = np.bincount((one - expert)[first] % 4, minlength=4)[1:]
    assert ((steps - steps.mean()) ** 2 / steps.mean()).sum() < 13.8  # chi square, 2 degrees of freedom, p = 0.001
    # With another name and in another replica the actions agree by chance, in one of three cases
    for made in (adviser("colluding:b", ROOM), adviser("colluding:a", ROOM, replica=1)):
        agree = np.mean((suggest(made, obs) == one)[first])
        assert abs(agree - 1 / 3) < 4 * math.sqrt(2 / 9 / len(first))
    worst = suggest(adviser("colluding", ROOM), obs)
    np.testing.assert_array_equal(worst, scripted.room_adversary(obs, np.random.default_rng(0)))
    opposed = suggest(adviser("colluding", LANDER), OBS["LunarLander-v3"])
    np.testing.assert_array_equal(opposed, suggest(adviser("negated:expert", LANDER), OBS["LunarLander-v3"]))
    assert set(adviser("colluding", ROOM).role(obs)) == set(adviser("colluding:a", ROOM).role(obs)) == {-1}


def test_colluding_without_a_built_in_expert():
    obs = OBS["Pendulum-v1"]
    said = suggest(adviser("colluding:a", PENDULUM), obs)
    assert said.shape == (3000, 1) and stats.kstest(said.ravel() / 4 + 0.5, "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(said, suggest(adviser("colluding:a", PENDULUM), obs, 3, 1))
    counts = np.bincount(suggest(adviser("colluding:a", ACROBOT), OBS["Acrobot-v1"]), minlength=3)
    assert ((counts - 1000) ** 2 / 1000).sum() < 13.8 and len(counts) == 3
    both = suggest(adviser("colluding:a", CONTINUOUS), OBS["LunarLander-v3"])
    assert abs(np.corrcoef(both.T)[0, 1]) < 4 / math.sqrt(3000)  # the two numbers of an action are independent
    zero = np.zeros((1, 3), np.float32)
    one = adviser("colluding:a", PENDULUM)
    np.testing.assert_array_equal(suggest(one, zero), suggest(one, -zero))


@pytest.mark.parametrize(
    "name, says",
    [
        ("sign-flip", "write sign-flip:ADVISER"),
        ("negated:", "write negated:ADVISER"),
        ("noise", "write noise:ADVISER"),
        ("noise:0.5", "write noise:ADVISER"),
        ("noise:1.5:expert", "probability"),
        ("colluding:a b", "letters and digits"),
    ],
)
def test_malformed_advisers(name, says):
    with pytest.raises(UserError, match=says):
        make_adviser(name, ROOM)


def test_colluding_needs_a_scripted_policy_or_a_name():
    with pytest.raises(UserError, match="use colluding:NAME"):
        make_adviser("colluding", PENDULUM)


# --- Byzantine members and dropped advice -----------------------------------------------------------------------


@pytest.fixture
def group(begin):
    """2 replicas of 3 members in an environment."""
    return lambda spec: begin(tiny(env=spec.id, n_peers=3, replicas=2, total_timesteps=10)).group


def test_a_sign_flip_member(group):
    byzantine = parse_members(["1:sign-flip"], 3)
    honest = torch.arange(18.0).view(6, 3, 1) % 4
    heard = ByzantineMembers(byzantine, group(ROOM), ROOM.id).answer(honest)
    expected = honest.clone()
    for asker in (0, 2, 3, 5):  # members 0 and 2 of both replicas; member 1 gives itself its true suggestion
        expected[asker, 1] = torch.tensor([1.0, 0, 3, 2])[int(honest[asker, 1])]
    assert torch.equal(heard, expected) and not torch.equal(heard, honest)
    box = ByzantineMembers(byzantine, group(PENDULUM), PENDULUM.id).answer(torch.full((6, 3, 1), 0.5))
    assert box[:, 1, 0].tolist() == [-0.5, 0.5, -0.5, -0.5, 0.5, -0.5] and (box[:, [0, 2]] == 0.5).all()


def test_random_and_noise_members(group):
    byzantine = parse_members(["0:random", "2:noise:0.4"], 3)
    room = group(ROOM)
    discrete = ByzantineMembers(byzantine, room, ROOM.id)
    box = ByzantineMembers(byzantine, group(PENDULUM), PENDULUM.id)
    honest = torch.full((6, 3, 1), 1.0)
    heard = torch.stack([discrete.answer(honest) for _ in range(1000)])
    state = discrete.state()
    after = discrete.answer(honest)
    again = ByzantineMembers(byzantine, room, ROOM.id)
    again.load_state(json.loads(json.dumps(state)))
    assert torch.equal(again.answer(honest), after)
    random, noisy = heard[:, [1, 2, 4, 5], 0].flatten(), heard[:, [0, 1, 3, 4], 2].flatten()  # 4,000 each
    assert (heard[:, [0, 3], 0] == 1).all() and (heard[:, [2, 5], 2] == 1).all() and (heard[:, :, 1] == 1).all()
    counts = torch.bincount(random.long(), minlength=4).numpy()
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi square with 3 degrees of freedom, p = 0.001
    expected = np.array([400.0, 2800, 400, 400])
    assert ((torch.bincount(noisy.long(), minlength=4).numpy() - expected) ** 2 / expected).sum() < 16.3
    real = torch.stack([box.answer(torch.zeros(6, 3, 1)) for _ in range(1000)])
    assert stats.kstest(real[:, 1, 0, 0] / 4 + 0.5, "uniform").pvalue > 1e-3
    assert stats.kstest(real[:, 0, 2, 0] / 0.8, "norm").pvalue > 1e-3 and real.abs().max() <= 2


@pytest.mark.parametrize("word", ["1", "x:random", "3:random", "1:lie", "1:random:2", "1:noise:x", "1:noise:"])
def test_malformed_members(word):
    with pytest.raises(UserError, match="--byzantine-members"):
        parse_members([word], 3)


def test_a_member_has_one_kind():
    with pytest.raises(UserError, match="member 1 is given twice"):
        parse_members(["1:random", "1:noise"], 3)


def tiny(**settings) -> Config:
    base = {"env": "Room-v6", "n_peers": 2, "learning_starts": 0, "train_freq": 10_000, "verbose": 0, "threads": 1}
    return with_settings(Config(), base | {"net_arch": ((16,),), "buffer_size": 500, "batch_size": 8} | settings)


QUIET = {"choice": "uniform", "epsilon": 0.0, "self_share": 0.0, "follow_steps": 1, "perturb": {"dropped_advice": 0.5}}


def test_an_adviser_that_does_not_answer_is_not_followed(begin):
    trainer = begin(tiny(**QUIET, advisers=("random",), replicas=8, total_timesteps=400))
    counts = np.zeros((2, 3))
    for _ in range(200):
        trainer.advance()
    counts += trainer.sharing.counts.reshape(8, 2, 3).sum(axis=0)
    # None, one or both of the others answer with probability 1/4, 1/2, 1/4; the asker is then one of 1, 2 or 3
    myself = 1 / 4 + 1 / 2 / 2 + 1 / 4 / 3
    for i in (0, 1):
        n = counts[i].sum()
        assert n == 1600 and abs(counts[i, i] / n - myself) < 4 * math.sqrt(myself * (1 - myself) / n)
        assert abs(counts[i, 2] / n - (1 - myself) / 2) < 4 * math.sqrt(0.21 * 0.79 / n)


def test_a_member_without_answers_follows_itself(begin):
    settings = {**QUIET, "perturb": {"dropped_advice": 1.0}}
    for only in (False, True):
        trainer = begin(tiny(**settings, only_follow_others=only, advisers=("random",)), steps=20)
        assert trainer.sharing.counts.tolist() == [[20, 0, 0], [0, 20, 0]]
    some = begin(tiny(**QUIET, only_follow_others=True, advisers=("random",)), steps=100)
    share = some.sharing.counts[0, 0] / 100  # neither of the others answers in a quarter of the cases
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 100)


def test_a_suggestion_that_was_dropped_is_not_used(begin):
    trainer = begin(tiny(perturb={"dropped_advice": 0.5}, advisers=("constant:1", "constant:2"), follow_steps=1))
    sharing, known, heard = trainer.sharing, [], []
    components, draws = sharing.components, sharing.answers.next
    sharing.components = lambda obs, said, *rest: (known.append(said.clone()), components(obs, said, *rest))[1]
    sharing.answers.next = lambda: (heard.append(draws()), heard[-1])[1]
    for _ in range(20):
        trainer.advance()
    silent = torch.stack(heard)[:, :, 2:] < 0.5  # [20, M, the two fixed advisers]
    said, own = torch.stack(known)[..., 0], torch.stack(known)[:, [0, 1], [0, 1], 0]
    assert silent.any() and (~silent).any()
    for k in (0, 1):
        assert (said[:, :, 2 + k] == torch.where(silent[:, :, k], own, 1.0 + k)).all()


def test_a_perturbed_training_resumes_bit_for_bit(begin, same):
    config = tiny(
        perturb={"observation_noise": 0.05, "action_noise": 0.1, "dropped_advice": 0.3, "goals": "left"},
        byzantine_members=("1:noise:0.3",),
        advisers=("noise:expert", "colluding:a", "colluding:a"),
        replicas=2,
        train_freq=4,
        total_timesteps=400,
    )
    trainer = begin(config, steps=90)
    other = begin(config)
    assert other.load_state(trainer.state()) == []
    for _ in range(60):
        trainer.advance()
        other.advance()
    same(trainer.state(), other.state())
    assert isinstance(trainer.envs.envs[0], Perturbed)
    # Evaluations use the unperturbed environment
    assert all(not isinstance(maker.make(), Changing) for maker in trainer.evaluation_makers)


def test_a_majority_of_colluding_advisers_is_not_followed(begin):
    """Three colluding advisers and one expert; uniform choices would give them a half and the expert a sixth."""
    advisers = ("expert", *["colluding:a"] * 3)
    settings = {"net_arch": (), "buffer_size": (), "batch_size": (), "trust": "td", "replicas": 2}
    trainer = begin(tiny(**settings, advisers=advisers, train_freq=4, total_timesteps=1500), steps=500)
    trainer.sharing.reset_counts()
    for _ in range(500):
        trainer.advance()
    chosen = trainer.sharing.counts.sum(axis=0) / trainer.sharing.counts.sum()
    assert chosen[2] > 0.5 and chosen[3:].sum() < 0.2


def test_a_byzantine_member_learns_unchanged(begin, same):
    """As long as all members follow themselves, Byzantine members change nothing."""
    settings = {"max_peer_epochs": 0, "train_freq": 4, "total_timesteps": 200}
    honest, byzantine = begin(tiny(**settings), 80), begin(tiny(**settings, byzantine_members=("1:sign-flip",)), 80)
    same(honest.group.state(), byzantine.group.state())


# --- evaluations ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {"eval_freq": 0, "replicas": 3, "total_timesteps": 600, "log_freq": 600, "target_update_interval": 20}
    learner = {"env": "Room-v3", "learning_starts": 50, "train_freq": 2, "batch_size": 32, "learning_rate": 3e-3}
    trained = tiny(**settings, **learner, log_dir=str(tmp_path_factory.mktemp("runs")), exp_name="robust")
    return peerage.train(config=trained, perturb={"observation_noise": 0.02}, advisers=["expert", "colluding:a"])


def test_cases_are_evaluated_on_the_seeds_of_the_clean_environment(run):
    cases = parse_cases(["reward_scale=-1,1", "action_noise=0,1"])
    found = evaluate_perturbed(run.folder, cases, episodes=4)
    _, clean = evaluate_run(run.folder, 4)
    assert len(found.rows) == 5 * 6  # cases, including the clean one, times replicas and members
    for row in found.rows:
        mine = [r for r in clean if (r[0], r[1]) == (row.replica, row.member)]
        assert row.clean == pytest.approx(np.mean([r[3] for r in mine])) and row.episodes == 4
        assert row.clean_success == np.mean([r[5] for r in mine])
        expected = {"clean": row.clean, "reward_scale=-1": -row.clean, "reward_scale=1": row.clean}
        if row.case in expected:  # the same episodes with negated rewards
            assert row.perturbed == pytest.approx(expected[row.case]) and row.change == row.perturbed - row.clean
    noisy = [row for row in found.rows if row.case == "action_noise=1 reward_scale=1"]
    # All actions are random, with the same draws for all members of a replica
    assert [len({row.perturbed for row in noisy if row.replica == k}) for k in range(3)] == [1, 1, 1]
    table = found.records()
    assert found.table()["case"].tolist() == ["clean", *map(str, cases)] and found.table()["change"][0] == 0
    assert [line["case"] for line in table] == ["clean", *map(str, cases)]
    assert found.interval == "95% t-interval" and table[0]["change"] == table[0]["change low"] == 0
    # The change from r to -r is -2 r; the lower end of the interval is the worse one
    undisturbed = [row for row in found.rows if row.case == "clean"]
    per_replica = [-2 * np.mean([row.clean for row in undisturbed if row.replica == k]) for k in range(3)]
    line = next(line for line in table if line["case"] == "reward_scale=-1")
    low, high = stats.t.interval(0.95, 2, np.mean(per_replica), stats.sem(per_replica))
    assert (line["change"], line["change low"], line["change high"]) == pytest.approx((np.mean(per_replica), low, high))
    assert line["change"] < 0 and not any("drop" in name for name in line)


def test_some_members_and_another_seed(run, capsys):
    cases = parse_cases(["observation_noise=0.5"])
    found = evaluate_perturbed(run.folder, cases, episodes=2, seed=5, members=[1])
    assert {row.member for row in found.rows} == {"member-1"} and len(found.rows) == 2 * 3
    again = evaluate_perturbed(run.folder, cases, episodes=2, seed=5, members=[1])
    assert again == found
    assert cli.main(["evaluate", str(run.folder), "--episodes", "1", "--perturb", "observation_noise=0,0.1,0.2"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("after ")
    assert [line.split()[0] for line in said.splitlines()[2:5]] == [
        "clean",
        "observation_noise=0.1",
        "observation_noise=0.2",
    ]
    assert "95% t-interval" in said and "  change  " in said.splitlines()[1] and "drop" not in said


def test_goals_are_on_the_given_side(run):
    """Also where the environment's own arguments restrict them to one side."""
    clean = {"goals": "right"}
    for side, args in (("left", with_perturbations({}, Perturbations(physics=(("goals", "left"),)))),
                       ("left", with_perturbations(clean, Perturbations(physics=(("goals", "left"),)))),
                       ("right", clean)):  # fmt: skip
        x = group_of("Room-v6", args, [SEED + e for e in range(10)]).reset(reseed=True)[:, 2]
        assert ((x < 0.5) == (side == "left")).all()
    rows = evaluate_perturbed(run.folder, parse_cases(["goals=left,right"])).rows
    assert {row.case for row in rows if row.change} == {"goals=left", "goals=right"}


@pytest.mark.parametrize(
    "words, says",
    [
        (["dropped_advice=0.5"], "add --advised"),
        (["observation_noise=0"], "there is no perturbation"),
        (["gravity=3"], "there is no perturbation 'gravity': use observation_noise,"),
    ],
)
def test_evaluations_that_are_refused(run, words, says):
    with pytest.raises(UserError, match=says):
        evaluate_perturbed(run.folder, parse_cases(words), episodes=1)


def test_an_unknown_member_is_refused(run):
    with pytest.raises(UserError, match="no member 2"):
        evaluate_perturbed(run.folder, parse_cases(["observation_noise=1"]), episodes=1, members=[2])
