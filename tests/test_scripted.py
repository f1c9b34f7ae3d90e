"""Scripted policies: optimal experts, adversaries, and registered policies."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.lunar_lander import heuristic
from gymnasium.spaces import Box, Discrete

from peerage.envs import ROOM_HORIZONS, scripted
from peerage.envs.make import check_env_id, make_env
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError

RNG = np.random.default_rng(0)
OPTIMA = {3: 19.50, 6: 47.10, 21: 85.99, 27: 131.48, 33: 226.98}


def goals(length: int) -> np.ndarray:
    """All goals, each as often as its probability says: [4 (length - 1), 2]."""
    return np.array(
        [
            (wall, free) if dimension == 0 else (free, wall)
            for dimension in (0, 1)
            for wall in (0, length - 1)
            for free in range(length - 1)
        ]
    )


@pytest.mark.parametrize("length", list(ROOM_HORIZONS))
def test_room_expert_is_optimal_for_every_goal(length):
    env_id, horizon, last = f"Room-v{length}", ROOM_HORIZONS[length], length - 1
    every = goals(length)
    distance = np.abs(every - length // 2).sum(axis=1)
    best = (horizon - distance + 1) - 0.001 * (distance - 1)
    assert best.mean() == pytest.approx(OPTIMA[length], abs=0.005)

    # All goals at once, in a NumPy version of the room ...
    expert = scripted.expert_for(env_id, check_env_id(env_id, {}))
    position, returns = np.full_like(every, length // 2), np.zeros(len(every))
    moves = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    for _ in range(horizon):
        obs = (np.concatenate([position, every], axis=1) / last).astype(np.float32)
        actions = expert(obs, RNG)
        assert actions.dtype == np.int64 and actions.shape == (len(every),)
        position = np.clip(position + moves[actions], 0, last)
        returns += np.where((position == every).all(axis=1), 1, -0.001)
    np.testing.assert_allclose(returns, best)

    # ... and some goals in the environment itself.
    env = make_env(env_id, {})
    for i in np.random.default_rng(1).choice(len(every), 4, replace=False):
        obs, _ = env.reset(seed=0, options={"goal": every[i]})
        total, truncated = 0.0, False
        while not truncated:
            obs, reward, _, truncated, info = env.step(int(expert(obs[None], RNG)[0]))
            total += reward
        assert total == pytest.approx(best[i]) and info["is_success"]


def test_room_adversary_waits_in_the_opposite_corner():
    length, env_id = 21, "Room-v21"
    adversary = scripted.adversary_for(env_id, check_env_id(env_id, {}))
    env = make_env(env_id, {})
    for goal, corner in [((0, 3), (20, 20)), ((20, 12), (0, 0)), ((10, 20), (20, 0)), ((11, 0), (0, 20))]:
        obs, _ = env.reset(seed=0, options={"goal": goal})
        for step in range(60):
            obs, reward, *_ = env.step(int(adversary(obs[None], RNG)[0]))
            assert reward == -0.001
            if step >= 2 * (length // 2) - 1:
                assert (env.unwrapped.x, env.unwrapped.y) == corner


def test_actions_do_not_depend_on_the_batch():
    obs = np.random.default_rng(0).integers(0, 33, (500, 4)).astype(np.float32) / np.float32(32)
    for policy in (scripted.room_expert, scripted.room_adversary):
        before = obs.copy()
        whole = policy(obs, RNG)
        assert (obs == before).all()
        assert (whole == np.concatenate([policy(row[None], RNG) for row in obs])).all()


@pytest.mark.parametrize("continuous", [False, True])
def test_lunar_lander_expert_is_gymnasiums_heuristic(continuous):
    env = make_env("LunarLander-v3", {"continuous": continuous})
    states = np.random.default_rng(0).normal(0, 1, (4000, 8)).astype(np.float32)
    states[:2000] *= 0.1
    states[:, 6:] = np.random.default_rng(1).random((4000, 2)) < 0.2
    expert = scripted.expert_for("LunarLander-v3", check_env_id("LunarLander-v3", {"continuous": continuous}))
    actions = expert(states, RNG)
    assert (actions == np.array([heuristic(env, state) for state in states])).all()
    assert actions.dtype == (np.float32 if continuous else np.int64)
    if not continuous:
        assert set(actions.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("continuous", [False, True])
def test_lunar_lander_expert_lands(continuous):
    group = EnvGroup([EnvMaker("LunarLander-v3", {"continuous": continuous})] * 8, seeds=range(8))
    expert = scripted.expert_for("LunarLander-v3", group.spec)
    obs, returns = group.reset(), {}
    while len(returns) < group.n:
        step = group.step(expert(obs, RNG))
        obs = step.obs
        for episode in step.episodes:
            returns.setdefault(episode.env, episode.return_)
    assert np.mean(list(returns.values())) > 200
    group.close()


def test_environments_without_an_expert_or_adversary():
    spec = check_env_id("CartPole-v1", {})
    for find in (scripted.expert_for, scripted.adversary_for):
        with pytest.raises(UserError, match=r"for CartPole-v1; there is one for: Room") as caught:
            find("CartPole-v1", spec)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="use negated:expert"):
        scripted.adversary_for("LunarLander-v3", spec)


def test_registered_policies(monkeypatch):
    monkeypatch.setattr(scripted, "_experts", {})
    monkeypatch.setattr(scripted, "_adversaries", {})
    spec = check_env_id("CartPole-v1", {})

    def lean(obs, rng):
        return (obs[:, 2] > 0).astype(np.int64)

    scripted.register_expert("CartPole-v1", lean)
    scripted.register_adversary("CartPole-v1", lean)
    assert scripted.expert_for("CartPole-v1", spec) is lean
    assert scripted.expert_for("gymnasium:CartPole-v1", spec) is lean
    assert scripted.has_expert("a_module:CartPole-v1") and scripted.has_adversary("CartPole-v1")
    assert scripted.expert_for("a_module:Room-v21", check_env_id("Room-v21", {})) is scripted.room_expert


def test_built_in_policies_and_the_opposite_of_a_registered_one(monkeypatch):
    """Only the built-in policies are known to draw nothing; the opposite of a registered one may draw as well."""
    monkeypatch.setattr(scripted, "_experts", {})
    lander = check_env_id("LunarLander-v3", {})
    assert scripted.is_built_in(scripted.room_expert)
    assert scripted.is_built_in(scripted.adversary_or_opposite("LunarLander-v3", lander))
    scripted.register_expert("LunarLander-v3", lambda obs, rng: rng.integers(4, size=len(obs)))
    assert not scripted.is_built_in(scripted.expert_for("LunarLander-v3", lander))
    assert not scripted.is_built_in(scripted.adversary_or_opposite("LunarLander-v3", lander))


def test_opposite():
    actions = np.array([0, 1, 2, 3])
    for env_id, expected in [("Room-v21", [1, 0, 3, 2]), ("LunarLander-v3", [3, 2, 1, 0])]:
        assert scripted.opposite(env_id, Discrete(4), actions).tolist() == expected
    assert scripted.opposite("Hallway-v1", Discrete(6), np.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    box = Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
    mirrored = scripted.opposite("Any-v0", box, np.array([[0.5, 1], [-1, 4]], np.float32))
    assert mirrored.tolist() == [[-0.5, 3], [1, 0]] and mirrored.dtype == np.float32
    with pytest.raises(UserError, match="have no opposite"):
        scripted.opposite("Any-v0", gymnasium.spaces.MultiDiscrete([2]), actions)
