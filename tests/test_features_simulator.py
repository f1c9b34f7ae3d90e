"""What the families believe of observations and actions, against MuJoCo and the environments themselves."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from peerage.envs.make import make_env
from peerage.trust.features import ant, room, walker2d

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

LEGS = ["thigh_joint", "leg_joint", "foot_joint"]
RIGHT_LEFT = [*LEGS, "thigh_left_joint", "leg_left_joint", "foot_left_joint"]
ANT_JOINTS = [f"{kind}_{leg}" for leg in (1, 2, 3, 4) for kind in ("hip", "ankle")]
# (index in the observation, joint) of positions and of velocities
LAYOUTS = {
    "Hopper": (["rootz", "rooty", *LEGS], ["rootx", "rootz", "rooty", *LEGS]),
    "Walker2d": (["rootz", "rooty", *RIGHT_LEFT], ["rootx", "rootz", "rooty", *RIGHT_LEFT]),
}


def built(env_id):
    env = make_env(env_id, {}).unwrapped
    env.reset(seed=0)
    return env


def moved(env, qpos=None, qvel=None):
    """Indices of the observation that change, and by how much, when one coordinate is moved by 0.01."""
    start_qpos, start_qvel = env.init_qpos.copy(), env.init_qvel.copy()
    env.set_state(start_qpos, start_qvel)
    before = env._get_obs()
    if qpos is not None:
        start_qpos[qpos] += 0.01
    if qvel is not None:
        start_qvel[qvel] += 0.01
    env.set_state(start_qpos, start_qvel)
    change = env._get_obs() - before
    indices = np.nonzero(np.abs(change) > 1e-9)[0].tolist()
    np.testing.assert_allclose(change[indices], 0.01, rtol=1e-6)
    return indices


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Hopper-v5", "Walker2d-v4", "Walker2d-v5"])
def test_layout_of_the_planar_robots(env_id):
    env = built(env_id)
    positions, velocities = LAYOUTS[env_id.split("-")[0]]
    for index, joint in enumerate(positions):
        assert moved(env, qpos=env.model.joint(joint).qposadr[0]) == [index]
    for index, joint in enumerate(velocities, start=len(positions)):
        assert moved(env, qvel=env.model.joint(joint).dofadr[0]) == [index]
    joints = positions[2:]  # the torques come in the order of the joints
    assert [env.model.joint(env.model.actuator_trnid[i, 0]).name for i in range(env.model.nu)] == joints


@pytest.mark.parametrize("env_id", ["Ant-v4", "Ant-v5"])
def test_layout_of_the_ant(env_id):
    env = built(env_id)
    root = env.model.joint("root")
    assert moved(env, qpos=root.qposadr[0] + 2) == [0]
    for i in range(3):
        assert moved(env, qvel=root.dofadr[0] + i) == [13 + i]
        assert moved(env, qvel=root.dofadr[0] + 3 + i) == [16 + i]
    for i, joint in enumerate(ANT_JOINTS):
        assert moved(env, qpos=env.model.joint(joint).qposadr[0]) == [5 + i]
        assert moved(env, qvel=env.model.joint(joint).dofadr[0]) == [19 + i]
    # the quaternion has MuJoCo's order, w first
    turn = np.array([0.5, 0.1, 0.7, 0.5]) / np.linalg.norm([0.5, 0.1, 0.7, 0.5])
    qpos = env.init_qpos.copy()
    qpos[3:7] = turn
    env.set_state(qpos, env.init_qvel)
    np.testing.assert_allclose(env._get_obs()[1:5], turn)
    actuators = [env.model.joint(env.model.actuator_trnid[i, 0]).name for i in range(env.model.nu)]
    assert [actuators[i] for i in ant.TORQUES] == ANT_JOINTS
    assert (env.model.actuator_gear[:, 0] > 0).all()


def test_legs_of_the_ant():
    """Front and back, left and right as the names in the model say: legs 1 to 4."""
    model = built("Ant-v4").model
    bodies = ["front_left_leg", "front_right_leg", "back_leg", "right_back_leg"]
    for leg, body in enumerate(bodies, start=1):
        hip = model.joint(f"hip_{leg}").id
        assert model.body(model.body_parentid[model.jnt_bodyid[hip]]).name == body


@pytest.mark.parametrize("env_id", ["Walker2d-v4", "Walker2d-v5"])
def test_foot_heights_are_the_simulators(env_id):
    """In random states: the lowest point of each foot's capsule is the lower end of its axis less its radius."""
    env, rng = built(env_id), np.random.default_rng(0)
    model, data = env.model, env.data
    feet = [model.geom("foot_geom").id, model.geom("foot_left_geom").id]
    for _ in range(200):
        qpos = env.init_qpos + rng.uniform(-1.5, 1.5, model.nq)
        env.set_state(qpos, env.init_qvel)
        expected = []
        for foot in feet:
            radius, half = model.geom_size[foot, :2]
            along = data.geom_xmat[foot].reshape(3, 3)[2, 2]  # the height of a unit of the capsule's axis
            expected.append(data.geom_xpos[foot, 2] - half * abs(along) - radius)
        np.testing.assert_allclose(walker2d.foot_heights(env._get_obs()), expected, atol=1e-9)


@pytest.mark.parametrize("env_id", ["Walker2d-v4", "Walker2d-v5"])
def test_contacts_are_the_simulators(env_id):
    env, rng = built(env_id), np.random.default_rng(0)
    model, data = env.model, env.data
    floor, feet = model.geom("floor").id, [model.geom(name).id for name in ("foot_geom", "foot_left_geom")]
    seen = set()
    for step in range(600):
        obs, _, terminated, *_ = env.step(rng.uniform(-1, 1, 6) * (0.3 if step < 300 else 1))
        mujoco.mj_forward(model, data)
        touching = {frozenset((int(c.geom1), int(c.geom2))) for c in data.contact[: data.ncon]}
        expected = tuple(frozenset((floor, foot)) in touching for foot in feet)
        if np.abs(walker2d.foot_heights(obs)).min() > 1e-6:  # float32 cannot tell any closer
            assert tuple(walker2d.contacts(obs.astype(np.float32))) == expected
        seen.add(expected)
        if terminated:
            env.reset()
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_moves_of_the_room():
    env = make_env("Room-v21", {})
    for action in range(4):
        before, _ = env.reset(seed=0)
        after, *_ = env.step(action)
        np.testing.assert_allclose(after[:2] - before[:2], room.MOVES[action] / 20, atol=1e-6)


def test_lunarlander_observations_and_actions():
    """The legs are the last two numbers, the engines push as the actions' names say, and x counts from the pad."""
    env = make_env("LunarLander-v3", {})

    def change(action):
        obs, _ = env.reset(seed=3)
        for _ in range(12):
            after, *_ = env.step(action)
        return after - obs

    nothing, left, main, right = (change(action) for action in range(4))
    assert main[3] > nothing[3] + 0.1  # vy: the main engine lifts
    assert left[5] > nothing[5] + 0.05 and right[5] < nothing[5] - 0.05  # the side engines turn it
    env.reset(seed=0)
    lander = env.unwrapped
    for leg, place in zip(lander.legs, (6, 7)):
        lander.legs[0].ground_contact = lander.legs[1].ground_contact = False
        leg.ground_contact = True
        obs, *_ = lander.step(0)
        assert obs[place] == 1 and obs[13 - place] == 0
    assert obs[0] == pytest.approx((lander.lander.position.x - 10) / 10, abs=1e-6)  # the pad is in the middle, x = 0
