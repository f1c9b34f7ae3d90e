"""Every slice of every family on numbers computed by hand, and every branch of every phase rule, in order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box

from peerage.envs.make import check_env_id
from peerage.trust.features import ant, hopper, lunarlander, make_features, room, walker2d


def features_of(env_id, obs, action, reward, adviser=None, first=None, lagged=True, advisers=2):
    """One member's steps `obs [T, obs]` ... -> its blocks {name: [T, width]} and phases [T]."""
    steps = len(obs)
    features = make_features("auto", check_env_id(env_id, {}), 1, advisers, lagged)
    result, phases = features.extend(
        obs=np.array(obs, dtype=np.float32)[None],
        action=np.array(action)[None],
        reward=np.array(reward, dtype=np.float32)[None],
        adviser=np.array([0] * steps if adviser is None else adviser)[None],
        first=np.array([i == 0 for i in range(steps)] if first is None else first)[None],
    )
    return {name: result[0][:, block] for name, block in features.slices.items()}, phases[0]


def close(actual, expected):
    np.testing.assert_allclose(actual, np.array(expected, dtype=float), rtol=1e-5, atol=1e-6)


def obs_of(size, **values):
    """Zeros but for `at_3=1.5` and the like."""
    obs = np.zeros(size, dtype=np.float32)
    for name, value in values.items():
        obs[int(name.removeprefix("at_"))] = value
    return obs


def phase_names(module, obs):
    return [module.PHASES[i] for i in module.phases(np.stack(obs))]


def flag(env_id, block, column, obs_of_value, values):
    """The flag in a column of a block, for states that differ in one value."""
    spec = check_env_id(env_id, {})
    obs = np.stack([obs_of_value(value) for value in values])
    action = np.zeros(len(obs), int) if spec.discrete else np.zeros((len(obs), spec.act_dim))
    return features_of(env_id, obs, action, np.zeros(len(obs)))[0][block][:, column].tolist()


# env_id, block, column, index in the observation, values of it, the flag; what else is not 0
FLAGS = [
    ("LunarLander-v3", "position", 3, 0, (-0.41, -0.4, 0.4, 0.41), (1, 0, 0, 1), {}),
    ("LunarLander-v3", "position", 4, 1, (0.09, 0.1), (1, 0), {}),
    ("LunarLander-v3", "position", 5, 0, (-0.2, -0.19, 0.19, 0.2), (0, 1, 1, 0), {}),
    ("LunarLander-v3", "velocity", 3, 3, (-0.51, -0.5), (1, 0), {"at_1": 0.29}),
    ("LunarLander-v3", "velocity", 3, 1, (0.29, 0.3), (1, 0), {"at_3": -0.51}),
    ("LunarLander-v3", "velocity", 4, 2, (-0.31, -0.3, 0.3, 0.31), (1, 0, 0, 1), {}),
    ("LunarLander-v3", "velocity", 6, 2, (-0.5, 0.49, 0.5), (0, 1, 0), {}),
    ("LunarLander-v3", "orientation", 2, 4, (-0.41, -0.4, 0.4, 0.41), (1, 0, 0, 1), {}),
    ("LunarLander-v3", "orientation", 3, 5, (-0.51, -0.5, 0.5, 0.51), (1, 0, 0, 1), {}),
    ("LunarLander-v3", "orientation", 4, 4, (-0.1, -0.09, 0.09, 0.1), (0, 1, 1, 0), {}),
    ("LunarLander-v3", "landing", 2, 6, (0.5, 0.51), (0, 1), {"at_7": 0.51}),
    ("LunarLander-v3", "landing", 2, 7, (0.5, 0.51), (0, 1), {"at_6": 0.51}),
    ("Hopper-v5", "position", 6, 0, (0.79, 0.8), (1, 0), {}),
    ("Hopper-v5", "position", 7, 0, (1.0, 1.01, 1.49, 1.5), (0, 1, 1, 0), {}),
    ("Walker2d-v5", "position", 9, 0, (1.0, 1.01, 1.59, 1.6), (0, 1, 1, 0), {}),
    ("Ant-v5", "position", 5, 0, (0.4, 0.41, 0.69, 0.7), (0, 1, 1, 0), {}),
]


@pytest.mark.parametrize("case", FLAGS, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}-{case[3]}")
def test_flags_change_at_their_thresholds(case):
    env_id, block, column, index, values, expected, rest = case
    size = check_env_id(env_id, {}).obs_dim
    flags = flag(env_id, block, column, lambda value: obs_of(size, **rest, **{f"at_{index}": value}), values)
    assert flags == [*expected]


# LunarLander


def test_lunarlander_state():
    blocks, _ = features_of(
        "LunarLander-v3",
        [
            [-0.5, 1.0, 0.3, -0.4, 0.5, -0.6, 0, 0],
            [0.1, 0.05, -0.4, -0.6, -0.05, 0.2, 1, 1],
            [0.2, 0.2, 0.2, 0, 0, 0, 1, 0],
        ],
        [0, 2, 2],
        [0, 0, 0],
    )
    assert list(blocks) == ["position", "velocity", "orientation", "landing", "action", "adviser", "reward"]
    close(
        blocks["position"],
        [[-0.5, 1, 0.5, 1, 0, 0], [0.1, 0.05, 0.1, 0, 1, 1], [0.2, 0.2, 0.2, 0, 0, 0]],
    )
    close(
        blocks["velocity"],
        [
            # at x < 0 a flight to the right leads to the pad; sqrt(0.09 + 0.16) = 0.5 is not below 0.5
            [0.3, -0.4, 0.5, 0, 0, 0.3, 0],
            [-0.4, -0.6, np.sqrt(0.52), 1, 1, 0.4, 0],
            [0.2, 0, 0.2, 0, 0, -0.2, 1],
        ],
    )
    close(blocks["orientation"], [[0.5, -0.6, 1, 1, 0], [-0.05, 0.2, 0, 0, 1], [0, 0, 0, 0, 1]])
    close(blocks["landing"], [[0, 0, 0, 0.95], [1, 1, 1, 0], [1, 0, 0, 0.15]])
    close(blocks["action"][:, :5], [[1, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 1, 0, 0]])


def test_lunarlander_share_of_the_advisers_last_five_actions():
    """Actions with adviser 0 and 1 in turn; a new episode forgets; 5 of them count, however long ago."""
    adviser = [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1]
    action = [2, 2, 2, 3, 2, 2, 2, 2, 2, 3, 2]
    first = [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    share = [
        0,  # nothing before
        1,  # 0 took: 2
        0,  # 1 took nothing yet
        0,  # 0: 2 2
        2 / 3,  # 0: 2 2 3
        3 / 4,  # 0: 2 2 3 2
        4 / 5,  # 0: 2 2 3 2 2
        4 / 5,  # 0: 2 3 2 2 2
        1,  # 1: 2, six steps ago
        0,  # a new episode
        0,
    ]
    obs = np.zeros((len(action), 8))
    blocks, _ = features_of("LunarLander-v3", obs, action, np.zeros(len(action)), adviser, first)
    close(blocks["action"][:, 5], share)
    close(blocks["action"][:, 4], [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1])
    close(blocks["adviser"], np.eye(2)[adviser])


def test_lunarlander_share_against_a_loop():
    rng = np.random.default_rng(0)
    steps, members, advisers = 200, 3, 5
    adviser, action = rng.integers(advisers, size=(2, members, steps))
    action %= 4
    first = rng.random((members, steps)) < 0.02
    first[:, 0] = True
    features = make_features("lunarlander", check_env_id("LunarLander-v3", {}), members, advisers)
    share = []
    for start in range(0, steps, 7):
        cut = slice(start, start + 7)
        chunk = (action[:, cut], np.zeros_like(action[:, cut]), adviser[:, cut], first[:, cut])
        share.append(features.extend(np.zeros((*chunk[0].shape, 8)), *chunk)[0][..., features.slices["action"]][..., 5])
    share = np.concatenate(share, axis=1)
    for m in range(members):
        taken: dict[int, list[int]] = {}
        for t in range(steps):
            if first[m, t]:
                taken = {}
            last = taken.setdefault(adviser[m, t], [])[-5:]
            assert share[m, t] == pytest.approx(np.mean([a == action[m, t] for a in last]) if last else 0)
            taken[adviser[m, t]].append(action[m, t])


def test_lunarlander_rewards_are_those_before():
    reward, first = [10, -2, 4, 1, 5], [1, 0, 0, 1, 0]
    obs, action = np.zeros((5, 8)), np.zeros(5, int)
    blocks, _ = features_of("LunarLander-v3", obs, action, reward, first=first)
    close(blocks["reward"], [[0, 0, 0], [10, 0, 10], [-2, -12, 4], [0, 0, 0], [1, 0, 1]])
    blocks, _ = features_of("LunarLander-v3", obs, action, reward, first=first, lagged=False)
    close(blocks["reward"], [[10, 0, 10], [-2, -12, 4], [4, 6, 4], [1, 0, 1], [5, 4, 3]])


def test_the_mean_reward_is_of_the_last_20():
    blocks, _ = features_of("LunarLander-v3", np.zeros((40, 8)), np.zeros(40, int), np.arange(40))
    close(blocks["reward"][39], [38, 1, np.mean(range(19, 39))])
    close(blocks["reward"][20], [19, 1, np.mean(range(20))])


def test_lunarlander_phases():
    def lander(x=0.0, y=1.0, vy=-0.5, left=0.0, right=0.0):
        return obs_of(8, at_0=x, at_1=y, at_3=vy, at_6=left, at_7=right)

    states = {
        lander(left=1).tobytes(): "touchdown",  # high up, but a leg says so: the first rule wins
        lander(y=0, right=1).tobytes(): "touchdown",
        lander(y=0.2, vy=-0.2).tobytes(): "landing",
        lander(x=3, y=0.2, vy=-0.2).tobytes(): "landing",  # wherever it is
        lander(left=0.51).tobytes(): "touchdown",
        lander(y=0.29, vy=-0.11).tobytes(): "landing",
        lander(y=0.3, vy=-0.11).tobytes(): "approach",
        lander(left=0.5, right=0.5).tobytes(): "cruise",
        lander(y=0.2, vy=-0.1).tobytes(): "approach",  # not falling
        lander(y=0.6).tobytes(): "approach",
        lander(y=0.7).tobytes(): "cruise",
        lander(x=-0.39, y=0.6).tobytes(): "approach",
        lander(x=-0.4, y=0.6).tobytes(): "cruise",
        lander(x=0.5, y=0.2, vy=0).tobytes(): "cruise",
    }
    assert phase_names(lunarlander, [np.frombuffer(s, np.float32) for s in states]) == list(states.values())


# Hopper


def test_hopper_slices():
    """A step in stance, a swing, a flight, a landing; then the same episode continues in stance."""
    stance = [1.2, -0.1, 0.2, -0.3, 0.4, 1.5, -0.1, 0.6, 1.0, -2.0, 4.0]
    swing = [1.1, 0.2, 0, 0.5, 0, 0, -0.2, 0, 0, 0, 0]
    flight = [1.6, 0, 0, 0, 0, 0, 2.0, 0, 0, 0, 0]
    landing = [0.7, 0, 0, 0, 0, 0, -3.0, 0, 0, 0, 0]
    action = np.array([[1, -0.5, 0.5], [1, -0.5, 0.5], [0, 0, 0], [0.6, 0, 0.8], [0.6, 0, 0.8]], np.float32)
    blocks, phases = features_of("Hopper-v5", [stance, swing, flight, landing, stance], action, [2, 4, -30, 0, 0])
    assert [hopper.PHASES[p] for p in phases] == ["stance", "swing", "flight", "landing", "stance"]
    assert list(blocks) == ["position", "joint", "gait", "action", "adviser", "performance"]
    close(
        blocks["position"][:4],
        [
            [1.2, -0.1, 0.2, -0.3, 0.4, 0.1, 0, 1],
            [1.1, 0.2, 0, 0.5, 0, 0.2, 0, 1],
            [1.6, 0, 0, 0, 0, 0, 0, 0],
            [0.7, 0, 0, 0, 0, 0, 1, 0],
        ],
    )
    # velocities 1, -2, 4: mean 1, variance (0 + 9 + 9) / 3 = 6; power 1 x 1, -0.5 x -2, 0.5 x 4
    close(blocks["joint"][0], [0.2, -0.3, 0.4, 1, -2, 4, 1, 1, 2, 1 / (1 + np.sqrt(6))])
    close(blocks["joint"][1], [0, 0.5, 0, 0, 0, 0, 0, 0, 0, 1])
    close(
        blocks["gait"],
        [
            [1, 0, 0, 0, 1, 0, 1, 1.2],
            [0, 1, 0, 0, 1 / 2, 0, 1 / 2, 1.1],
            [0, 0, 1, 0, 1 / 3, 1 / 3, 1 / 3, 1.6 / 2.1],
            [0, 0, 0, 1, 1 / 4, 1 / 4, 1 / 4, 0.7 / 3.1],
            [1, 0, 0, 0, 2 / 5, 1 / 5, 1 / 5, 1.2],
        ],
    )
    # |a| = sqrt 1.5; std of 1, -0.5, 0.5: mean 1/3, variance 1.5/3 - 1/9
    effort, spread = np.sqrt(1.5), np.sqrt(0.5 - 1 / 9)
    other = np.sqrt(1 / 3 - (1.4 / 3) ** 2)
    close(
        blocks["action"],
        [
            [1, -0.5, 0.5, effort, 1, 1 / (1 + effort * spread)],
            [1, -0.5, 0.5, effort, 1, 1 / (1 + effort * spread)],
            [0, 0, 0, 0, 1 / (1 + effort), 1],
            [0.6, 0, 0.8, 1, 1 / 2, 1 / (1 + other)],
            [0.6, 0, 0.8, 1, 1, 1 / (1 + other)],
        ],
    )
    close(blocks["performance"], [[0, 0], [0.2, 0], [0.4, 1], [-1, -30 + 8], [0, 6]])


def test_hopper_windows_are_30_and_5_long():
    """40 steps: stance up to step 9, then flight."""
    obs = np.zeros((40, 11), np.float32)
    obs[:, 0], obs[10:, 6] = 1.4, 1
    blocks, phases = features_of("Hopper-v5", obs, np.zeros((40, 3)), np.arange(40))
    assert [hopper.PHASES[p] for p in phases[[0, 9, 10, 39]]] == ["stance", "stance", "flight", "flight"]
    close(blocks["gait"][[9, 12, 14, 29, 38, 39], 4], [1, 10 / 13, 10 / 15, 10 / 30, 1 / 30, 0])
    close(blocks["gait"][[9, 12, 14], 5], [0, 3 / 5, 1])
    # the one change, from step 9 to 10, is among the last 30 while step 9 is: up to step 38
    close(blocks["gait"][[9, 10, 38, 39], 6], [1, 1 / 2, 1 / 2, 1])
    close(blocks["performance"][[4, 6, 39], 1], [1.5, 2, 2])  # 3 less the mean of 0 ... 3; then of five


def test_hopper_phases():
    def state(z=1.2, leg=0.0, vz=0.0):
        return obs_of(11, at_0=z, at_3=leg, at_6=vz)

    states = [
        state(z=1.31, leg=1, vz=0.1),  # flight before swing
        state(z=1.3, vz=0.1),
        state(z=1.4, vz=0),
        state(z=1.4, leg=1, vz=-0.3),  # landing before swing
        state(vz=-0.2),
        state(vz=-0.21),
        state(leg=-0.31),
        state(leg=0.3),
        state(z=1.0, leg=1),
    ]
    expected = ["flight", "stance", "stance", "landing", "stance", "landing", "swing", "stance", "stance"]
    assert phase_names(hopper, states) == expected


# Walker2d


def upright(z=1.25, **joints):
    """Walker2d standing straight: the soles are 1.25 - 0.2 - 0.45 - 0.5 - 0.06 = 0.04 above the floor."""
    return obs_of(17, at_0=z, **joints)


def test_walker2d_foot_heights():
    close(walker2d.foot_heights(upright()), [0.04, 0.04])
    # right thigh lifted by 60 degrees, knee bent back by as much: 0.45 (1 - cos 60) higher; the foot stays level
    bent = upright(at_2=np.pi / 3, at_3=-np.pi / 3)
    close(walker2d.foot_heights(bent), [0.04 + 0.225, 0.04])
    # left foot, toes up by 30 degrees (the ankle is lowest), then down (the toe is 0.2 sin 30 lower)
    close(walker2d.foot_heights(upright(at_7=np.pi / 6)), [0.04, 0.04])
    close(walker2d.foot_heights(upright(at_7=-np.pi / 6)), [0.04, -0.06])
    # lying on the face, the torso turned by 90 degrees: legs level behind, feet pointing down
    close(walker2d.foot_heights(upright(z=1, at_1=np.pi / 2)), [1 - 0.2 - 0.06, 1 - 0.2 - 0.06])


def test_walker2d_slices():
    double = upright(z=1.2, at_1=-0.25, at_8=1, at_11=1, at_12=-2, at_13=0.5, at_14=0, at_15=-0.5, at_16=1)
    double[2:8] = [-0.25, 0, 0, -0.25, 0, 0]  # the legs hang straight down while the torso leans
    left = upright(z=1.2, at_2=np.pi / 3, at_3=-np.pi / 3)
    flight = upright(z=2.6)
    action = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]], np.float32)
    blocks, phases = features_of("Walker2d-v5", [double, left, flight], action, [3, 20, 0])
    assert [walker2d.PHASES[p] for p in phases] == ["double_support", "left_stance", "flight"]
    assert list(blocks) == ["position", "joint", "gait", "action", "adviser", "performance"]
    third = np.pi / 3
    close(
        blocks["position"],
        [
            [1.2, -0.25, -0.25, 0, 0, -0.25, 0, 0, 0.8, 1],
            [1.2, 0, third, -third, 0, 0, 0, 0, 1, 1],
            [2.6, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        ],
    )
    close(blocks["joint"][0], [-0.25, 0, 0, -0.25, 0, 0, 1, -2, 0.5, 0, -0.5, 1])
    close(
        blocks["gait"],
        [
            [0, 0, 1, 0, 0, 1, 1, 1.2],
            [1, 0, 0, 0, 1, 1 / 2, 1 / (1 + third), 1.2],
            [0, 0, 0, 1, 0, 1 / 3, 1, 2.6 / 1.4],
        ],
    )
    close(blocks["action"], action)
    close(blocks["performance"], [[0, 0], [0.3, 3], [1, 20]])
    blocks, _ = features_of("Walker2d-v5", [double], action[:1], [3], lagged=False)
    close(blocks["performance"], [[0.3, 3 / 5]])  # |1| + |-2| + 0.5 + 0.5 + 1 = 5


def test_walker2d_double_support_of_the_last_10():
    obs = np.stack([upright(z=1.2)] * 4 + [upright(z=2)] * 12)
    blocks, _ = features_of("Walker2d-v5", obs, np.zeros((16, 6)), np.zeros(16))
    close(blocks["gait"][[3, 4, 9, 10, 12, 13], 5], [1, 4 / 5, 4 / 10, 3 / 10, 1 / 10, 0])


def test_walker2d_phases():
    lifted = {"at_2": np.pi / 3, "at_3": -np.pi / 3}, {"at_5": np.pi / 3, "at_6": -np.pi / 3}
    states = [upright(z=1.2), upright(z=1.2, **lifted[0]), upright(z=1.2, **lifted[1]), upright(z=1.25)]
    assert phase_names(walker2d, states) == ["double_support", "left_stance", "right_stance", "flight"]


# Ant


def ant_state(
    z=0.55, quaternion=(1, 0, 0, 0), hips=(0, 0, 0, 0), velocity=(0, 0, 0), spin=(0, 0, 0), hip_speeds=(0, 0, 0, 0)
):
    obs = np.zeros(27, np.float32)
    obs[0], obs[1:5], obs[5:13:2], obs[13:16], obs[16:19] = z, quaternion, hips, velocity, spin
    obs[19:27:2] = hip_speeds
    return obs


def test_ant_slices():
    first = ant_state(0.55, (0.1, 0.2, 0.3, 0.6), (0.1, 0.2, 0.3, -0.4), (3, 4, 7), (2, 3, 6), (4, 0, 0, 3))
    first[6:13:2] = [1, -1, -1.1, 1.1]  # ankles
    first[20:27:2] = [0.25, -0.5, 0.5, -0.25]
    second = ant_state(z=0.75)
    action = np.array([[7, 8, 1, 2, 3, 4, 5, 6], [0] * 8], np.float32) / 10
    blocks, phases = features_of("Ant-v4", [first, second], action, [5, 1])
    assert [ant.PHASES[p] for p in phases] == ["gallop", "stand"]
    assert list(blocks) == ["position", "joint", "locomotion", "action", "adviser", "performance"]
    # |(0.2, 0.3, 0.6)| = 0.7; mean hips: left (0.1 + 0.3) / 2, right (0.2 - 0.4) / 2
    close(blocks["position"], [[0.55, 0.1, 0.2, 0.3, 1 / 1.7, 1, 3, 1 / 1.3], [0.75, 1, 0, 0, 1, 0, 0, 1]])
    close(
        blocks["joint"][0],
        [0.1, 1, 0.2, -1, 0.3, -1.1, -0.4, 1.1, 4, 0.25, 0, -0.5, 0, 0.5, 3, -0.25],
    )
    # d1 = |0.1 + 0.4|, d2 = |0.2 - 0.3|; speeds sum to 8.5; below 0.5 are 0.25, 0, 0, 0.25; |(2, 3, 6)| = 7
    close(
        blocks["locomotion"],
        [
            [0, 0, 1, 0, 1 / 1.1, 1 / 1.4, 1 / 9.5, 4 / 8, 1 / 8, 1],
            [0, 0, 0, 1, 1, 1, 1, 1, 1, 1 / 2],
        ],
    )
    close(blocks["action"], [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0] * 8])
    # heights 0.55 and 0.75: variance 0.01; planar speeds 5 and 0; |a| = sqrt(2.04)
    effort = np.sqrt(2.04)
    close(
        blocks["performance"],
        [[0, 0, 0, 1, 5, 1], [0.5, 5, 5, 1 / 1.01, 2.5, 1 / (1 + effort)]],
    )
    blocks, _ = features_of("Ant-v4", [first], action[:1], [5], lagged=False)
    close(blocks["performance"][0, :3], [0.5, 5 / 8.5, 5 / effort])


def test_ant_v5_is_read_by_its_first_27_numbers():
    rng = np.random.default_rng(0)
    obs, action, reward = rng.normal(size=(12, 105)), rng.uniform(-1, 1, (12, 8)), rng.normal(size=12)
    v5, phases5 = features_of("Ant-v5", obs, action, reward)
    v4, phases4 = features_of("Ant-v4", obs[:, :27], action, reward)
    for name, block in v4.items():
        np.testing.assert_array_equal(v5[name], block)
    np.testing.assert_array_equal(phases4, phases5)


def test_ant_windows_are_10_5_and_30_long():
    obs = np.stack([ant_state(z=1, velocity=(1, 0, 0))] * 5 + [ant_state(z=0, hip_speeds=(2, 0, 0, 0))] * 35)
    blocks, phases = features_of("Ant-v4", obs, np.zeros((40, 8)), np.zeros(40))
    assert len(set(phases[:5])) == len(set(phases[5:])) == 1 and phases[4] != phases[5]
    close(blocks["performance"][[4, 9, 13, 14], 3], [1, 1 / 1.25, 1 / 1.09, 1])  # variances 0, 1/4, 0.1 x 0.9, 0
    close(blocks["performance"][[4, 5, 8, 9], 4], [1, 4 / 5, 1 / 5, 0])
    close(blocks["locomotion"][[4, 5, 33, 34], 9], [1, 1 / 2, 1 / 2, 1])


def test_ant_phases():
    """Hip velocities front left, front right, back left, back right."""

    def state(*speeds, ankle=0.0):
        obs = ant_state(hip_speeds=speeds)
        obs[20] = ankle
        return obs

    cases = [
        (state(0.3, 0.3, 0.3, 0.09), "stand"),  # sum 0.99
        (state(0.5, 0, 0, 0, ankle=0.5), "trot"),  # sum 1, the ankles count; diagonals 0.5 apart
        (state(2, 2, -2, -2), "trot"),  # |4 - 4| < 2, whatever the signs
        (state(-3, 1, 1, -1), "gallop"),  # 4 - 2 is not below 2; sides 2 + 0 < diagonals 4 + 2
        (state(3, 0, 0, 3), "gallop"),  # 6 - 0; sides 3 + 3, diagonals 6 + 0: as much is not more
        (state(3, 0, 1, -3), "pace"),  # 6 - 1; sides 4 + 3 > diagonals 0 + 1
        (state(3, 0, -1, 3), "gallop"),  # 6 - 1; sides 2 + 3 < diagonals 6 + 1
    ]
    assert phase_names(ant, [obs for obs, _ in cases]) == [name for _, name in cases]


# Room


def test_room_slices():
    """Three steps (right, into the wall above, back) in a room of length 11, goal at (0.5, 0.8)."""
    obs = [[0.5, 0.5, 0.5, 0.8], [0.6, 0.5, 0.5, 0.8], [0.6, 0.5, 0.5, 0.8], [0.5, 0.5, 0.5, 0.8]]
    blocks, phases = features_of("Room-v21", obs, [0, 2, 1, 3], [-0.001, 1, -5, 0])
    assert [room.PHASES[p] for p in phases] == ["navigation"] * 4
    assert list(blocks) == ["position", "goal", "movement", "action", "adviser", "reward"]
    close(blocks["position"], np.array(obs)[:, :2])
    far = np.sqrt(0.1)  # of (0.1, -0.3)
    distances = np.array([0.3, far, far, 0.3])
    close(blocks["goal"], np.column_stack(([0.5] * 4, [0.8] * 4, distances, distances / np.sqrt(2))))
    # std of x (that of y is 0, so half of it counts): 0.5 0.6 -> 0.05; 0.5 0.6 0.6 -> 0.1 sqrt(2)/3; then 0.05
    close(
        blocks["movement"],
        [
            [0, 0, 0, 0, 0],
            [0.1, 0.1, 0.025, 1, 0],
            [0, 0.05, 0.1 * np.sqrt(2) / 6, 1, 0],
            [0.1, 0.2 / 3, 0.025, 0, 0],
        ],
    )
    close(
        blocks["action"],
        [
            [1, 0, 1, 1],
            [0, 1, 1, 1 / (1 + np.sqrt(2))],
            [-1, 0, 1, 1 / (1 + np.sqrt(2))],
            [0, -1, 1, 1 / (1 + np.sqrt(2))],
        ],
    )
    close(
        blocks["reward"],
        [[0, 0, 0], [-0.001, 0, -0.001], [1, 1.001, 0.4995], [-1, -6, -4.001 / 3]],
    )


def test_room_mean_reward_is_of_the_last_20():
    blocks, _ = features_of("Room-v21", np.zeros((30, 4)), np.zeros(30, int), np.arange(30))
    close(blocks["reward"][[20, 29], 2], [np.mean(range(20)), np.mean(range(9, 29))])


def test_room_windows_are_30_positions_long():
    """Ten steps of 0.1 to the right, then no motion."""
    obs = np.zeros((50, 4), np.float32)
    obs[:, 0] = np.minimum(np.arange(50), 10) / 10
    blocks, _ = features_of("Room-v21", obs, np.zeros(50, int), np.zeros(50))
    mean, spread, straight, still = blocks["movement"][:, 1:].T
    close(mean[[1, 10, 19, 29, 30, 38, 39]], [0.1, 0.1, 1 / 19, 1 / 29, 0.9 / 29, 0.1 / 29, 0])
    close(straight[[10, 29, 38, 39]], [1, 1, 1, 0])
    # Of the steps that moved, 1 to 10, the last 29 have 3 at step 36 (0.3 / 29 > 0.01) and 2 at step 37
    np.testing.assert_array_equal(still, np.arange(50) > 36)
    close(spread[[10, 39]], [np.sqrt(10) / 20, np.std([1] * 30)])  # 0, 0.1 ... 1: variance 0.1
    assert spread[38] > 0


def test_room_phases():
    """In Room-v21 a step is 0.05: one, four and ten cells away are within the limits, whatever the rounding."""

    def names(dx, dy):
        return {
            name
            for x in range(21)
            for y in range(21)
            if 0 <= x + dx <= 20 and 0 <= y + dy <= 20
            for name in phase_names(room, [(np.array([x, y, x + dx, y + dy]) / 20).astype(np.float32)])
        }

    assert phase_names(room, [obs_of(4, at_0=0.051)]) == ["approaching"]
    assert names(0, 0) == names(1, 0) == names(0, -1) == {"goal_reached"}
    assert names(1, 1) == names(4, 0) == names(0, -4) == {"approaching"}
    assert names(1, 4) == names(10, 0) == names(-6, 8) == {"navigation"}
    assert names(1, 10) == names(20, 20) == {"exploration"}


# Generic


def test_generic_slices():
    """CartPole: position within 4.8, angle within 0.418879, speeds without bounds."""
    obs = [[2.4, 3.0, -0.20943952, -1.0], [-6.0, 0.0, 0.0, 0.0], [0.0, -0.25, 0.0, 0.0]]
    blocks, phases = features_of("CartPole-v1", obs, [1, 0, 1], [1, 3, 0])
    assert list(blocks) == ["observation", "action", "adviser", "reward"] and not phases.any()
    close(blocks["observation"], [[0.5, 0.75, -0.5, -0.5], [-1, 0, 0, 0], [0, -0.2, 0, 0]])
    close(blocks["action"], [[0, 1], [1, 0], [0, 1]])
    close(blocks["reward"], [[0, 0, 0], [0.5, 0, 0.5], [0.75, 2 / 3, 2 / 3]])  # 1; then 3, up by 2, mean 2


def test_generic_scales_box_actions():
    """Pendulum: torques within 2, speed within 8."""
    blocks, _ = features_of("Pendulum-v1", [[0.5, -1, 4]], np.array([[-1.0]]), [-3], lagged=False)
    close(blocks["observation"], [[0.5, -1, 0.5]])
    close(blocks["action"], [[-0.5]])
    close(blocks["reward"], [[-0.75, 0, -0.75]])


def test_generic_bounds_need_not_be_about_0():
    """MountainCar: place in -1.2 ... 0.6, speed within 0.07."""
    blocks, _ = features_of("MountainCar-v0", [[-1.2, 0.07], [-0.3, 0], [0.15, -0.035]], [0, 1, 2], [0, 0, 0])
    close(blocks["observation"], [[-1, 1], [0, 0], [0.5, -0.5]])
    spec = replace(
        check_env_id("Pendulum-v1", {}),
        observation_space=Box(np.array([10, -np.inf, -1000]), np.array([14, 0, 1000]), dtype=np.float64),
        action_low=np.array([0], np.float32),
        action_high=np.array([4], np.float32),
    )
    features = make_features("generic", spec, 1, 1)
    zero, one = np.zeros((1, 1), int), np.ones((1, 1), bool)
    result, _ = features.extend(np.array([[[13, -1, 4]]]), np.array([[[3]]]), zero, zero, one)
    close(result[0, 0], [0.5, -0.5, 0.8, 0.5, 1, 0, 0, 0])


def test_generic_mean_reward_is_of_the_last_20():
    blocks, _ = features_of("CartPole-v1", np.zeros((30, 4)), np.zeros(30, int), np.arange(30))
    close(blocks["reward"][29, 2], 18.5 / 19.5)  # 9 ... 28: mean 18.5
