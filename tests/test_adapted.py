"""Dict observations and MultiDiscrete actions: converted for the learners, and back wherever they leave the library."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

import peerage
from peerage import session
from peerage.envs.adapted import Conversion
from peerage.envs.make import check_env_id, make_env
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError
from peerage.interop.sb3_export import export_member

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

PARTS = Dict({"b": Box(-1, 1, (2,), np.float32), "a": Dict({"x": Box(-9, 9, (1,), np.float32)})})

ACTIONS = MultiDiscrete([3, 2], start=[0, 5])


class Parts(gym.Env):
    """The observation holds the last action, which must be inside the action space."""

    observation_space: gym.Space = PARTS

    def __init__(self, actions=ACTIONS, observations=PARTS):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen(0, 0), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.seen(*action), float(action[0] == 2), False, self.steps == 5, {}

    def seen(self, first, second):
        return {
            "a": {"x": np.array([first], np.float32)},
            "b": np.array([second / 6, self.np_random.uniform(-1, 1)], np.float32),
        }


gym.register("AdaptedParts-v0", Parts)


def test_every_combination_has_a_number():
    """In the order of numpy.unravel_index, with the starts of the space; the observation in the order of the Dict."""
    env = make_env("AdaptedParts-v0", {"max_episode_steps": 9})
    assert env.action_space == Discrete(6) and env.observation_space.shape == (3,)
    found = []
    for k in range(6):
        env.reset(seed=0)
        obs = env.step(k)[0]
        found.append((int(obs[0]), round(float(obs[1] * 6))))
    assert found == [(0, 5), (0, 6), (1, 5), (1, 6), (2, 5), (2, 6)]
    conversion = check_env_id("AdaptedParts-v0", {}).conversion
    assert [tuple(conversion.action(k)) for k in range(6)] == found
    seen = Parts().reset(seed=3)[0]
    assert conversion.flat(seen).tolist() == [*seen["a"]["x"], *seen["b"]]
    assert conversion.flat(conversion.flat(seen)).tolist() == conversion.flat(seen).tolist()
    perturbed = make_env("AdaptedParts-v0", {"perturb": {"action_noise": 1.0}})
    perturbed.reset(seed=0)
    assert len({int(perturbed.step(0)[0][0]) for _ in range(20)}) == 3  # the noise replaces the number


def test_a_group_trains_and_its_policy_gives_actions_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "write_report", lambda folder: folder)
    said = []

    class Second(peerage.Adviser):
        def suggest(self, obs, rows, first, rng):
            said.append(obs.shape[1])
            return np.full(len(obs), 5)

    run = peerage.train(
        "AdaptedParts-v0", advisers=[Second()], n_peers=2, total_timesteps=60, learning_starts=(10,), batch_size=(8,),
        net_arch=((8,),), eval_freq=30, n_eval_episodes=1, threads=1, device="cpu", verbose=0, log_dir=str(tmp_path),
        exploration_final_eps=(1.0,),
    )  # fmt: skip
    assert set(said) == {3} and len(run.evaluations) == 6
    env, policy = Parts(), run.policy(1)
    obs, _ = env.reset(seed=1)
    for _ in range(5):
        action = policy(obs)
        assert env.action_space.contains(action)
        assert np.array_equal(action, policy(Conversion(PARTS).flat(obs)))
        obs, *_ = env.step(action)
    with pytest.raises(UserError, match="MultiDiscrete actions, which Stable-Baselines3"):
        export_member(run.folder, 0)


SQUARE = Box(0, 1, (4, 4), np.float32)


@pytest.mark.parametrize(
    "actions, observations, message",
    [
        (MultiDiscrete([9, 9]), PARTS, "at most 64 combinations: use gymnasium.wrappers.TransformAction"),
        (MultiBinary(3), PARTS, "use gymnasium.wrappers.TransformAction"),
        (Box(-1, 1, (2, 2)), PARTS, "must be flat.*TransformAction"),
        (Box(-np.inf, 1, (2,)), PARTS, "finite bounds.*TransformAction"),
        (Discrete(2), SQUARE, "use gymnasium.wrappers.FlattenObservation"),
        (Discrete(2), Dict({"a": SQUARE}), "use gymnasium.wrappers.FlattenObservation"),
        (Discrete(2), Tuple((Discrete(2), Discrete(3))), "use gymnasium.wrappers.FlattenObservation"),
        (Discrete(2), Box(0, 255, (8, 8, 3), np.uint8), "36 by 36 pixels .gymnasium.wrappers.ResizeObservation"),
    ],
)
def test_refused_spaces_name_the_wrapper_to_use(actions, observations, message):
    with pytest.raises(UserError, match=message) as error:
        check_env_id(Parts, {"actions": actions, "observations": observations})
    assert "\n" not in str(error.value)


def test_members_with_other_combinations_cannot_share_a_group():
    makers = [EnvMaker(Parts, {"actions": MultiDiscrete(sizes)}) for sizes in ([3, 4], [2, 6])]
    with pytest.raises(UserError, match="different spaces: actions"):
        EnvGroup(makers, [0, 1])
