"""The tasks that need attention or memory: their definitions by hand, their experts, and their variants of CartPole."""

from __future__ import annotations

import itertools
import re

import gymnasium
import numpy as np
import pytest
import torch

from peerage.envs.cartpole_variants import BLOCK, ORDERS
from peerage.envs.catalogue import list_envs
from peerage.envs.cues import MARK, QUESTION, VALUE, AskedCue, MarkedCue, MarkedFeature, TMaze, answers, asked, marked
from peerage.envs.make import check_env_id, make_env
from peerage.envs.scripted import expert_for
from peerage.errors import UserError

RNG = np.random.default_rng(0)


def play(env: gymnasium.Env, policy, seed: int | None = None) -> tuple[list[np.ndarray], list[float], list[dict]]:
    """Observations, rewards and infos of an episode; the actions are `policy(obs)`."""
    obs, _ = env.reset(seed=seed)
    seen, rewards, infos, over = [obs], [], [], False
    while not over:
        obs, reward, terminated, truncated, info = env.step(policy(obs))
        assert env.observation_space.contains(obs)
        over = terminated or truncated
        seen, rewards, infos = [*seen, obs], [*rewards, reward], [*infos, info]
    return seen, rewards, infos


# --- MarkedCue and PlainCue -------------------------------------------------------------------------------------


def test_the_answer_is_the_marked_value():
    tokens = np.zeros((2, 4, 3), np.float32)
    tokens[0, :, VALUE], tokens[0, 2, MARK] = [1, 1, -1, 0], 1
    tokens[1, :, VALUE], tokens[1, 1, MARK] = [-1, 1, -1, 0], 1
    assert marked(tokens).tolist() == [2, 1] == marked(torch.from_numpy(tokens)).tolist()
    assert answers(tokens).tolist() == [0, 1]


def test_an_episode_of_marked_cue():
    env = MarkedCue(n_values=3)
    env.reset(seed=0)
    env.shown = np.array([[-1, 0, 0], [1, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    assert env.step(0)[0].tolist() == [1, 1, 0]
    assert env.step(0)[0].tolist() == [-1, 0, 0]
    obs, reward, terminated, truncated, info = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated, info) == ([0, 0, 1], 0.0, False, False, {})
    assert env.step(1)[1:] == (1.0, True, False, {"is_success": True})
    env.reset()
    env.shown = np.array([[-1, 0, 0], [1, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    for _ in range(3):
        env.step(1)
    assert env.step(0)[1:] == (-1.0, True, False, {"is_success": False})


@pytest.mark.parametrize("env_id", ["MarkedCue-v0", "PlainCue-v0"])
def test_what_the_cues_draw(env_id):
    env = make_env(env_id, {})
    marks, values, right = [], [], []
    for episode in range(400):
        seen, rewards, infos = play(env, lambda _: 1, seed=episode)
        steps = np.array(seen[:-1])  # the observation after the answer repeats the question
        assert len(rewards) == 9 and not any(rewards[:-1]) and seen[-1].tolist() == [0, 0, 1]
        assert steps[:, QUESTION].tolist() == [0] * 8 + [1] and steps[:, MARK].sum() == 1
        value = steps[marked(steps), VALUE]
        assert rewards[-1] == value and infos[-1] == {"is_success": value == 1} and answers(steps) == (value == 1)
        marks.append(int(marked(steps)))
        values.append(steps[:-1, VALUE])
        right.append(infos[-1]["is_success"])
    assert 0.42 < np.mean(right) < 0.58  # chance
    if env_id == "PlainCue-v0":
        assert set(marks) == {0} and not np.array(values)[:, 1:].any()
    else:
        assert min(np.bincount(marks)) > 25 and len(set(marks)) == 8
        assert set(np.ravel(values)) == {-1, 1} and abs(np.mean(values)) < 0.1


@pytest.mark.parametrize(
    "env_id, steps, best", [("MarkedCue-v0", 9, 1), ("AskedCue-v0", 9, 1), ("PlainCue-v0", 9, 1), ("TMaze-v0", 21, 4)]
)
def test_experts_with_memory(env_id, steps, best):
    args = {"history": steps}
    expert, env = expert_for(env_id, check_env_id(env_id, args)), make_env(env_id, args)
    for seed in range(20):
        _, rewards, infos = play(env, lambda obs: int(expert(obs[None], RNG)[0]), seed)
        assert (sum(rewards), len(rewards), infos[-1]["is_success"]) == (best, steps, True)
    with pytest.raises(UserError, match=f"the expert of {env_id} needs memory: add --env-args history=N") as caught:
        expert_for(env_id, check_env_id(env_id, {}))
    assert "\n" not in str(caught.value)


def test_an_episode_of_asked_cue():
    env = AskedCue(n_values=2)
    env.reset(seed=0)
    for question, slot in (([0, 1, 1, 0], 1), ([0, 1, 0, 1], 0)):
        env.count, env.shown[:] = 0, [[-1, 0, 0, 1], [1, 0, 1, 0], question]
        assert asked(env.shown) == slot == asked(torch.from_numpy(env.shown))
        assert env.step(0)[1:] == (0.0, False, False, {})
        assert env.step(0)[0].tolist() == question
        assert env.step(slot)[1:] == (1.0, True, False, {"is_success": True})


def test_what_asked_cue_draws():
    env = make_env("AskedCue-v0", {})
    slots, keys, right = [], [], []
    for episode in range(400):
        seen, rewards, infos = play(env, lambda _: 1, seed=episode)
        steps = np.array(seen[:-1])
        assert len(rewards) == 9 and not any(rewards[:-1]) and steps[:, 1].tolist() == [0] * 8 + [1]
        assert (steps[:-1, 2:].sum(0) == 1).all() and (steps[:, 2:].sum(1) == 1).all()
        assert rewards[-1] == steps[asked(steps), VALUE] and (steps[asked(steps), 2:] == steps[-1, 2:]).all()
        slots.append(int(asked(steps)))
        keys.append(int(steps[-1, 2:].argmax()))
        right.append(infos[-1]["is_success"])
    assert min(np.bincount(slots)) > 25 and min(np.bincount(keys)) > 25 and 0.42 < np.mean(right) < 0.58
    assert abs(np.corrcoef(slots, keys)[0, 1]) < 0.2  # the key does not say which step


# --- MarkedFeature ----------------------------------------------------------------------------------------------


def test_marked_feature():
    env = MarkedFeature(n_values=2, steps=3)
    env.reset(seed=0)
    for value, mark, action, reward in [([0.5, -0.2], 0, 1, 1.0), ([0.5, -0.2], 1, 1, -1.0), ([0.5, -0.2], 1, 0, 1.0)]:
        env.features[:] = [[v, i == mark] for i, v in enumerate(value)]
        result = env.step(action)
        assert result[1:] == (reward, env.count == 3, False, {"is_success": reward == 1})
    env = make_env("MarkedFeature-v0", {})
    expert = expert_for("MarkedFeature-v0", check_env_id("MarkedFeature-v0", {}))
    _, rewards, _ = play(env, lambda obs: int(expert(obs[None], RNG)[0]), seed=0)
    assert rewards == [1.0] * 16
    tokens = np.array([obs for k in range(40) for obs in play(env, lambda _: 0, seed=k)[0]]).reshape(-1, 8, 2)
    assert (tokens[..., MARK].sum(1) == 1).all() and set(marked(tokens)) == set(range(8))
    assert abs(tokens[..., VALUE].mean()) < 0.05 and 0.3 < tokens[..., VALUE].var() < 0.37  # uniform: 1/3


# --- TMaze ------------------------------------------------------------------------------------------------------


def test_t_maze_by_hand():
    env = TMaze(length=2)
    sign = {True: [0, 1, 1], False: [1, 1, 0]}
    for north in (True, False):
        while env.reset()[0].tolist() != sign[north]:
            pass
        corridor, junction = [1, 0, 1], [0, 1, 0]
        moves = [(1, sign[north], -0.1), (2, sign[north], -0.1), (0, corridor, 0.0), (3, corridor, -0.1)]
        moves += [(0, junction, 0.0), (0, junction, -0.1), (1, corridor, 0.0), (1, sign[north], 0.0)]
        for action, obs, reward in [*moves, (0, corridor, 0.0), (0, junction, 0.0)]:
            result = env.step(action)
            assert (result[0].tolist(), *result[1:]) == (obs, reward, False, False, {"is_success": False})
        result = env.step(2)
        assert (result[0].tolist(), *result[1:]) == (
            junction,
            4.0 if north else -0.1,
            True,
            False,
            {"is_success": north},
        )
    assert {tuple(env.reset(seed=k)[0]) for k in range(20)} == {(0, 1, 1), (1, 1, 0)}


@pytest.mark.parametrize(
    "env_id, args, message",
    [
        ("MarkedCue-v0", {"n_values": 0}, "n_values must be a whole number of at least 1, not 0"),
        ("MarkedFeature-v0", {"steps": 1.5}, "steps must be a whole number of at least 1, not 1.5"),
        ("TMaze-v0", {"length": True}, "length must be a whole number of at least 1, not True"),
        ("CartPoleDistractors-v0", {"k": 0}, "k must be a whole number of at least 1, not 0"),
        ("CartPoleShuffled-v0", {"orders": "some"}, "orders must be all, train, test, not 'some'"),
    ],
)
def test_wrong_arguments(env_id, args, message):
    with pytest.raises(UserError, match=message):
        make_env(env_id, args)


@pytest.mark.parametrize("env", [MarkedCue(), MarkedFeature(), TMaze()])
def test_wrong_actions(env):
    env.reset()
    with pytest.raises(ValueError, match="action must be"):
        env.step(int(env.action_space.n))


# --- variants of CartPole ---------------------------------------------------------------------------------------


def with_cartpole(env_id: str, args: dict, seeds: range) -> list[tuple[np.ndarray, np.ndarray]]:
    """(observations of the variant, observations of CartPole-v1) `[steps, ...]` of episodes with the same actions."""
    variant, plain = make_env(env_id, args), gymnasium.make("CartPole-v1")
    found = []
    for seed in seeds:
        rows = [(variant.reset(seed=seed)[0], plain.reset(seed=seed)[0])]
        over = False
        while not over and len(rows) < 60:
            action = int(rows[-1][1][2] + rows[-1][1][3] > 0) if len(rows) < 45 else 1
            a, b = variant.step(action), plain.step(action)
            assert a[1:] == b[1:]
            rows.append((a[0], b[0]))
            over = a[2]
        found.append(tuple(map(np.array, zip(*rows))))
    return found


def test_distractors():
    episodes = with_cartpole("CartPoleDistractors-v0", {"k": 5}, range(30))
    noise = []
    for seed, (seen, plain) in enumerate(episodes):
        assert seen.dtype == np.float32 and seen.shape[1] == 9 and (seen[:, :4] == plain).all()
        generator = gymnasium.utils.seeding.np_random(seed)[0]
        generator.uniform(size=4)  # the start
        expected = generator.standard_normal((-(-len(seen) // BLOCK) * BLOCK, 5)).astype(np.float32)
        assert (seen[:, 4:] == expected[: len(seen)]).all()
        noise.append(seen[:, 4:])
    assert len(np.unique(np.concatenate(noise))) == np.concatenate(noise).size  # new in every step
    assert check_env_id("CartPoleDistractors-v0", {}).obs_dim == 16
    expert = expert_for("CartPoleDistractors-v0", check_env_id("CartPoleDistractors-v0", {}))
    _, rewards, _ = play(make_env("CartPoleDistractors-v0", {}), lambda obs: int(expert(obs[None], RNG)[0]), seed=1)
    assert sum(rewards) == 500


def test_orders():
    names = [{tuple(order) for order in ORDERS[name]} for name in ("train", "test", "all")]
    assert [len(orders) for orders in names] == [16, 8, 24] and names[0] | names[1] == names[2]
    assert names[2] == set(itertools.permutations(range(4)))
    for name, allowed in zip(("train", "test", "all"), names):
        used = set()
        for seen, plain in with_cartpole("CartPoleShuffled-v0", {"orders": name}, range(40)):
            fits = [order for order in names[2] if (seen == plain[:, list(order)]).all()]
            assert len(fits) == 1 and fits[0] in allowed  # one order in the whole episode
            used.add(fits[0])
        assert len(used) > 5


def test_no_velocities():
    for seen, plain in with_cartpole("CartPoleNoVelocities-v0", {}, range(5)):
        assert (seen == plain[:, [0, 2]]).all() and seen.dtype == np.float32


@pytest.mark.parametrize(
    "env_id", [row["id"] for row in list_envs() if re.search("Cue|Marked|Maze|Pole.+-", row["id"])]
)
def test_seeds_determine_the_episodes(env_id):
    spec, env = check_env_id(env_id, {}), make_env(env_id, {"max_episode_steps": 30})
    assert spec.repeats and not spec.own_random
    one, two = ([play(env, lambda _: 0, seed)[0] for seed in range(4)] for _ in range(2))
    assert str(one) == str(two) and len(set(map(str, one))) > 1
