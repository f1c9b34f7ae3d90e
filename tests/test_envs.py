"""The environments of this library, and building environments from the user's specification."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import peerage.envs
from peerage.envs.catalogue import list_envs
from peerage.envs.make import check_env_id, make_env
from peerage.errors import UserError

ROOT = Path(__file__).parent.parent
OURS = [f"Room-v{n}" for n in (3, 6, 21, 27, 33)] + ["Hallway-v0", "Hallway-v1", "CartpoleSwingUp-v0"]


def registered_here() -> list[str]:
    """The ids of the environments that are part of Peerage."""
    return [key for key, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("peerage.")]


@pytest.mark.parametrize("env_id", OURS)
@pytest.mark.filterwarnings("ignore")  # about unbounded observations
def test_gymnasium_accepts_it(env_id):
    check_env(make_env(env_id, {"render_mode": "rgb_array"}).unwrapped)


def test_registered_once_and_light():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peerage.envs._register("Room-v21", "room:Room", 100, length=21)
    assert gymnasium.registry == before
    code = "import sys, peerage.envs.vector, peerage.envs.scripted; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_room_by_hand():
    env = make_env("Room-v6", {})
    obs, _ = env.reset(seed=0, options={"goal": (4, 5)})
    assert obs.dtype == np.float32
    np.testing.assert_allclose(obs, [0.6, 0.6, 0.8, 1.0], rtol=1e-6)
    seen = []
    for action in (0, 2, 2, 2, 3, 0, 0, 1):  # to the goal in three steps, against the wall, away from it, ...
        obs, reward, terminated, truncated, info = env.step(action)
        assert not terminated and not truncated
        assert info == {"is_success": reward == 1.0}
        seen.append((round(float(obs[0]) * 5), round(float(obs[1]) * 5), reward))
    off = -0.001
    assert seen == [
        (4, 3, off), (4, 4, off), (4, 5, 1.0), (4, 5, 1.0), (4, 4, off), (5, 4, off), (5, 4, off), (4, 4, off)
    ]  # fmt: skip


@pytest.mark.parametrize("length, horizon", [(3, 20), (6, 50), (21, 100), (27, 150), (33, 250)])
def test_room_horizon_and_goals(length, horizon):
    env = make_env(f"Room-v{length}", {})
    env.reset(seed=1)
    ends = [env.step(0)[2:4] for _ in range(horizon)]
    assert ends[-1] == (False, True) and not any(any(end) for end in ends[:-1])
    goals = set()
    for _ in range(2000):
        env.reset()
        goals.add((env.unwrapped.goal_x, env.unwrapped.goal_y))
    walls = {0, length - 1}
    # One coordinate is at a wall; the other one is never length - 1 unless it is the one at the wall.
    assert all((x in walls and y < length - 1) or (y in walls and x < length - 1) for x, y in goals)
    assert len(goals) == 4 * (length - 1) - 1  # the two families share the corner (0, 0)


def test_hallway_by_hand():
    env = make_env("Hallway-v0", {})
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == [6 / 16]
    rewards = [env.step(0)[1] for _ in range(12)]
    assert rewards == [-0.001] * 9 + [1.0] * 3
    env = make_env("Hallway-v1", {})
    assert env.reset(seed=0)[0].tolist() == [6 / 16, 0.5]
    for useless in (4, 5):
        assert env.step(useless)[0].tolist() == [6 / 16, 0.5]
    assert env.step(1)[0].tolist() == [5 / 16, 0.5]
    np.testing.assert_allclose(env.step(3)[0], [5 / 16, 2 / 6])
    assert [gymnasium.registry[f"Hallway-v{v}"].max_episode_steps for v in (0, 1)] == [200, 300]


def test_cartpole_swingup_by_hand():
    env = make_env("CartpoleSwingUp-v0", {})
    env.reset(seed=0)
    # Horizontal: sin 1, cos 0. x'' = (-2*.5*.6*4 + 4*10 - 4*.1) / 4 = 9.3, theta'' = 6*9.82 / (4*.6) = 24.55
    env.unwrapped.state = (0.2, 1.0, math.pi / 2, 2.0)
    obs, reward, terminated, truncated, _ = env.step(np.array([50.0], np.float32))  # clipped to 10
    np.testing.assert_allclose(obs, [0.3, 1.93, math.pi / 2 + 0.2, 4.455], rtol=1e-6)
    tip = 0.3 + 0.6 * math.cos(0.2), -0.6 * math.sin(0.2)
    squared = tip[0] ** 2 + (tip[1] - 0.6) ** 2
    assert reward == pytest.approx(math.exp(-squared / 0.125) - 1)
    assert not terminated and not truncated
    # Upright and pushed to the right: x'' = 40 / (4 - 1.5) = 16, theta'' = 60 / (2.4 - 0.9) = 40
    env.unwrapped.state = (0.0, 0.0, 0.0, 0.0)
    obs, reward, *_ = env.step(np.array([10.0], np.float32))
    np.testing.assert_allclose(obs, [0, 1.6, 0, 4.0], rtol=1e-6)
    assert reward == 0.0


def test_cartpole_swingup_starts_hanging():
    env = make_env("CartpoleSwingUp-v0", {})
    starts = np.array([env.reset(seed=seed)[0] for seed in range(400)])
    np.testing.assert_allclose(starts.mean(0), [0, 0, math.pi, 0], atol=0.005)
    np.testing.assert_allclose(starts.std(0), 0.02, rtol=0.2)


DRAWN = [name for name in registered_here() if not name.startswith("metaworld/")]  # MuJoCo renders these


@pytest.mark.parametrize("env_id", [row["id"] for row in list_envs() if row["id"] in DRAWN])
def test_rendered_images(env_id, monkeypatch):
    """Of all environments that Peerage draws, without pygame."""
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = make_env(env_id, {"render_mode": "rgb_array", "history": 2})
    env.reset(seed=3)
    first = env.render()
    action = env.action_space.low if env_id == "CartpoleSwingUp-v0" else 0 if env_id == "TMaze-v0" else 1
    env.step(action)
    env.step(action)
    second = env.render()
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert first.shape == second.shape and (first != second).any()
    assert len(np.unique(second.reshape(-1, 3), axis=0)) >= 3  # background and at least two things


@pytest.mark.parametrize(
    "env, env_args, message",
    [
        ("Room-v20", {}, "unknown environment 'Room-v20' (did you mean 'Room-v2"),
        ("LunarLander-v2", {}, "did you mean 'LunarLander-v3'?"),
        ("Hopper-v2", {}, "Hopper-v2"),
        ("no_such_module:Room-v21", {}, "No module named 'no_such_module'"),
        ("Room-v21", {"lenght": 5}, "it takes no argument 'lenght' (did you mean 'length'?)"),
        ("Hopper-v4", {"terminate_when_unhealty": False}, "(did you mean 'terminate_when_unhealthy'?)"),
        ("LunarLander-v3", {"gravity": 5.0}, "gravity"),
        ("LunarLander-v3", {"max_episode_steps": "x"}, "max_episode_steps"),
        ("Room-v21", {"length": 1}, "length must be a whole number of at least 2, not 1"),
        ("Room-v21", {"id": "Hopper-v4"}, "takes no arguments id"),
        ("FrozenLake-v1", {}, "has observations Discrete"),
        (lambda: 3, {}, "not a gymnasium.Env"),
        (lambda: 1 / 0, {}, "ZeroDivisionError"),
    ],
)
def test_bad_environments_in_one_line(env, env_args, message):
    with pytest.raises(UserError) as caught:
        check_env_id(env, env_args)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


WITHOUT_SIMULATORS = """
import json, sys
sys.modules["Box2D"] = sys.modules["mujoco"] = None  # as if they were not installed
import peerage
from peerage.cli import main
settings = {"n_peers": 2, "total_timesteps": 60, "learning_starts": 20, "eval_freq": 0, "verbose": 0}
run = peerage.train("Room-v6", log_dir=sys.argv[1], **settings)
assert (run.folder / "DONE").exists()
for env in ("LunarLander-v3", "Hopper-v5"):
    print("status", main(["train", "--env", env, "--log-dir", sys.argv[1]]), file=sys.stderr)
"""


def test_simulators_are_optional(tmp_path):
    """Other environments train without Box2D and MuJoCo; those that need them name the extra, and write nothing."""
    command = [sys.executable, "-c", WITHOUT_SIMULATORS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-4:] == [
        'peerage: LunarLander-v3 needs Box2D, which is not installed: pip install "peerage[box2d]"',
        "status 2",
        'peerage: Hopper-v5 needs MuJoCo, which is not installed: pip install "peerage[mujoco]"',
        "status 2",
    ]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_tested_versions_are_within_the_declared_ranges():
    """The default installation has no simulators; `make setup` installs all extras in these versions."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    default = [Requirement(text) for text in project["dependencies"]]
    optional = [Requirement(text) for texts in extras.values() for text in texts]
    for required in [*default, *optional]:
        if required.name != "peerage":
            assert pins[canonicalize_name(required.name)] in required.specifier, required
    assert not any(r.name in ("mujoco", "box2d") or r.extras for r in default)
    everything = {extra for text in extras["dev"] for extra in Requirement(text).extras}
    assert everything >= extras.keys() - {"dev", "bench"}


class Spaces(gymnasium.Env):
    """Has spaces and nothing else."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


FLAT = gymnasium.spaces.Box(0, 1, (2,))


@pytest.mark.parametrize(
    "observation, action",
    [
        (gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(3)}), FLAT),
        (gymnasium.spaces.Box(0, 1, (2, 2)), FLAT),
        (FLAT, gymnasium.spaces.Box(-np.inf, np.inf, (2,))),
        (FLAT, gymnasium.spaces.Box(0, 1, (2, 2))),
        (FLAT, gymnasium.spaces.Box(0, 9, (2,), np.int64)),
        (FLAT, gymnasium.spaces.MultiDiscrete([9, 9])),
    ],
)
def test_spaces_that_cannot_be_trained_on(observation, action):
    with pytest.raises(UserError, match=r"needs|must"):
        check_env_id(lambda: Spaces(observation, action), {})


def test_spec():
    spec = check_env_id("Hopper-v5", {"max_episode_steps": 7})
    assert (spec.id, spec.obs_dim, spec.act_dim, spec.discrete, spec.n_actions) == (
        "Hopper-v5",
        11,
        3,
        False,
        0,
    )
    assert spec.action_low.tolist() == [-1] * 3 and spec.action_high.dtype == np.float32
    assert spec.max_episode_steps == 7
    spec = check_env_id("Room-v6", {})
    assert (spec.n_actions, spec.act_dim, spec.discrete, spec.max_episode_steps) == (4, 1, True, 50)


@pytest.mark.filterwarnings("ignore")  # about Hopper-v4's age
def test_environment_arguments_pass_through():
    env = make_env("Hopper-v4", {"terminate_when_unhealthy": False})
    env.reset(seed=0)
    ends = [env.step(env.action_space.high)[2] for _ in range(60)]  # it falls, and the episode continues
    assert not any(ends)


def test_warnings_come_once(monkeypatch):
    monkeypatch.setattr("peerage.envs.make._shown", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for env_id in ("Hopper-v4", "Hopper-v4", "Room-v21", "Hallway-v0"):
            make_env(env_id, {}).close()
        gymnasium.make("Room-v3").close()  # as a user of Gymnasium does
        gymnasium.register("Room-v50", "peerage.envs.room:Room", kwargs={"length": 50})  # another size
        assert gymnasium.make("Room-v50").spec.id == "Room-v50"
        del gymnasium.registry["Room-v50"]
    assert len(caught) == 1 and "Hopper-v4 is out of date" in str(caught[0].message)
    assert "\x1b" not in str(caught[0].message)


def test_warnings_of_others_keep_their_kind():
    def maker():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return Spaces(FLAT, FLAT)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_env(maker, {})
        warnings.simplefilter("ignore")
        make_env(maker, {})
    assert [warning.category for warning in caught] == [DeprecationWarning]


@pytest.mark.filterwarnings("ignore")  # about the age of the v4 environments
def test_the_list_agrees_with_the_environments():
    rows = list_envs()
    assert len(rows) == 44 and len({row["id"] for row in rows}) == 44
    for row in rows:
        spec = check_env_id(row["id"], {})
        size = spec.n_actions if spec.discrete else spec.act_dim
        assert row["actions"] == f"{'Discrete' if spec.discrete else 'Box'}({size})", row
        assert (row["obs"], row["horizon"]) == (spec.obs_dim, spec.max_episode_steps), row
    assert [row["id"] for row in rows if row["adversary"]] == [f"Room-v{n}" for n in (3, 6, 21, 27, 33)]
