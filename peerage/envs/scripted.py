"""Scripted policies: an expert and an adversary for Room, experts for some other environments, and those registered by
users.

A policy is `policy(obs, rng) -> actions`: obs float32 [B, obs]; actions int64 [B] in 0 ... n - 1 for Discrete,
float32 [B, act] in the environment's units for Box. The built-in policies draw nothing from `rng`, so the action
for an observation does not depend on the other observations in the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from peerage.envs.cues import answers, asked_answers
from peerage.envs.make import Spec
from peerage.errors import UserError

Policy = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Region = Callable[[np.ndarray], np.ndarray]
"""`region(obs [B, obs]) -> bool [B]`: True in region a of the task, False in region b."""

MIXED = "metaworld/mt10"
"""The environment in which members have different tasks, so that there is no expert for all of them."""

_experts: dict[str, Policy] = {}
_adversaries: dict[str, Policy] = {}


def register_expert(env_id: str, policy: Policy) -> None:
    """Make `policy` the adviser `expert` of the environment `env_id`; it replaces a built-in one."""
    _experts[_bare(env_id)] = policy


def register_adversary(env_id: str, policy: Policy) -> None:
    """Make `policy` the adviser `adversary` of the environment `env_id`; it replaces a built-in one."""
    _adversaries[_bare(env_id)] = policy


def expert_for(env_id: str, spec: Spec) -> Policy:
    """The expert of an environment. Raises UserError, which names the environments with an expert, if it has none."""
    policy = _experts.get(_bare(env_id)) or _experts.get(spec.id)
    family = _family(env_id)
    if policy is None and family.startswith("metaworld/") and family != MIXED:
        policy = metaworld_expert(_bare(env_id))
    if policy is None and family in WINDOW_EXPERTS:
        return _of_window(WINDOW_EXPERTS[family], env_id, spec)
    if policy is None and family in EXPERTS:
        policy = EXPERTS[family]
    elif policy is None and _family(env_id).startswith("LunarLander"):
        policy = lunar_lander_discrete if spec.discrete else lunar_lander_continuous
    if policy is None:
        known = _none("expert", env_id, [*EXPERTS, "LunarLander", "metaworld/TASK", *WINDOW_EXPERTS, *_experts])
        raise UserError(f"{known}; use checkpoint:PATH of a trained agent, or register one (docs/environments.md)")
    return _of_present(policy, spec)


def metaworld_expert(env_id: str) -> Policy:
    """Meta-World's own scripted policy for `metaworld/TASK`: obs [B, 39] -> actions float32 [B, 4]. It succeeds at some
    step of an episode, in some tasks not at the last one."""
    from metaworld.policies import ENV_POLICY_MAP  # an optional package

    make: Any = ENV_POLICY_MAP[env_id.removeprefix("metaworld/")]
    policy = make()

    def act(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": the actions are clipped
            actions = [policy.get_action(row) for row in obs.astype(np.float64)]
        return np.clip(np.array(actions, np.float32), -1.0, 1.0)

    return act


def adversary_for(env_id: str, spec: Spec) -> Policy:
    """The adversary of an environment. Raises UserError, which names the environments with one, if it has none."""
    policy = _adversaries.get(_bare(env_id)) or _adversaries.get(spec.id)
    if policy is None and _family(env_id) == "Room":
        policy = room_adversary
    if policy is None:
        way = "use negated:expert" if has_expert(env_id) else "use negated:checkpoint:PATH"
        raise UserError(f"{_none('adversary', env_id, ['Room', *_adversaries])}; {way}")
    return _of_present(policy, spec)


def has_expert(env_id: str) -> bool:
    """Whether the environment has an expert that needs no memory."""
    family = _family(env_id)
    prefixes = ("LunarLander", "metaworld/")
    return _bare(env_id) in _experts or family in EXPERTS or (family.startswith(prefixes) and family != MIXED)


def has_adversary(env_id: str) -> bool:
    """Whether the environment has an adversary."""
    return _bare(env_id) in _adversaries or _family(env_id) == "Room"


def adversary_or_opposite(env_id: str, spec: Spec) -> Policy:
    """The adversary of an environment, or the opposite of its expert if it has none; UserError if it has neither."""
    if has_adversary(env_id):
        return adversary_for(env_id, spec)
    expert = expert_for(env_id, spec)

    def opposed(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return opposite(env_id, spec.action_space, expert(obs, rng))

    opposed.__module__ = expert.__module__  # it draws random numbers if the expert does; see `is_built_in`
    return opposed


def is_built_in(policy: Policy) -> bool:
    """Whether it is one of this file, which draw nothing from `rng`; a registered policy may."""
    return policy.__module__ == __name__


def region_for(env_id: str, spec: Spec) -> Region:
    """The regions of an environment's task. Raises UserError, which names the environments with regions, if there are
    none."""
    region = next((found for name, found in REGIONS.items() if _family(env_id).startswith(name)), None)
    if region is None:
        raise UserError(f"there are no regions for {env_id}; there are some for: {', '.join(REGIONS)}")
    layout = spec.history
    return region if layout is None else (lambda windows: region(layout.present(windows)))


def opposite(env_id: str, action_space: Space, actions: np.ndarray) -> np.ndarray:
    """The opposite actions, of the same shape and type.

    Box [B, act]: mirrored about the middle of the box. Discrete [B], counted from 0: in Room and Hallway the opposite
    direction (0 and 1, 2 and 3 are swapped); elsewhere n - 1 - a, which is only a convention.
    """
    if isinstance(action_space, Box):
        return (action_space.low + action_space.high - actions).astype(actions.dtype)
    if not isinstance(action_space, Discrete):
        raise UserError(f"actions {action_space} have no opposite")
    if _family(env_id) in ("Room", "Hallway"):
        return actions ^ 1
    return (int(action_space.n) - 1 - actions).astype(actions.dtype)


def room_expert(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take a shortest path to the goal and stay there. obs [B, 4] -> actions int64 [B]."""
    return _walk(obs[:, :2], obs[:, 2:])


def room_adversary(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Walk to the corner opposite the goal and stay there. obs [B, 4] -> actions int64 [B].

    The corner is 1 - round(goal) in units of the room; a coordinate of exactly 0.5 rounds to 0.
    """
    return _walk(obs[:, :2], 1 - np.round(obs[:, 2:]))


def _walk(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Actions int64 [B] from `position` to `target` [B, 2], both in units of the room.

    It moves along the dimension with the larger distance, x on a tie; the number of steps is the same in any order. On
    the target it moves against the adjacent wall and so stays there; goals and corners always have a wall.
    """
    way = target - position
    way[np.abs(way) < 1e-3] = 0  # rounding errors; the distance between cells is much larger in every room
    arrived = ~way.any(axis=1)
    way[arrived] = target[arrived] - 0.5  # points outwards and is largest for the coordinate at the wall
    dimension = np.abs(way).argmax(axis=1)
    step = np.take_along_axis(way, dimension[:, None], axis=1)[:, 0]
    return 2 * dimension + (step < 0)


def lunar_lander_discrete(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gymnasium's LunarLander heuristic. obs [B, 8] -> actions int64 [B]: 0 none, 1 left, 2 main, 3 right.

    Source: `gymnasium.envs.box2d.lunar_lander.heuristic`, for a batch; the results are bit-identical.
    """
    turn, lift = _lunar_lander(obs)
    actions = np.where(turn < -0.05, 3, np.where(turn > 0.05, 1, 0))
    return np.where((lift > np.abs(turn)) & (lift > 0.05), 2, actions).astype(np.int64)


def lunar_lander_continuous(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gymnasium's LunarLander heuristic. obs [B, 8] -> actions float32 [B, 2]: main engine, side engines."""
    turn, lift = _lunar_lander(obs)
    return np.clip(np.stack([lift * 20 - 1, -turn * 20], axis=1), -1, 1).astype(np.float32)


def marked_feature_expert(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The right actions of MarkedFeature. obs [B, 2 * features] -> actions int64 [B]."""
    return answers(obs.reshape(len(obs), -1, 2))


def cartpole_expert(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Balances the pole of CartPole-v1 for 500 steps. obs [B, 4 or more] -> actions int64 [B]."""
    x, x_speed, angle, spin = obs[:, :4].T
    return (0.1 * x + 0.3 * x_speed + angle + spin > 0).astype(np.int64)


def t_maze_expert(seen: np.ndarray) -> np.ndarray:
    """Walks to the junction of TMaze and turns as the sign says. seen [B, length, 3] -> actions int64 [B]."""
    north = (seen == (0, 1, 1)).all(axis=-1).any(axis=-1)
    junction = (seen[:, -1] == (0, 1, 0)).all(axis=-1)
    return np.where(junction, np.where(north, 2, 3), 0)


EXPERTS: dict[str, Policy] = {
    "Room": room_expert,
    "MarkedFeature": marked_feature_expert,
    "CartPoleDistractors": cartpole_expert,
}
"""The environment's name without its version -> its expert."""
WINDOW_EXPERTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "MarkedCue": answers,
    "AskedCue": asked_answers,
    "PlainCue": answers,
    "TMaze": t_maze_expert,
}
"""Experts with memory: `expert(seen [B, length, obs]) -> actions [B]`, for windows of all steps of the episode."""


def room_region(obs: np.ndarray) -> np.ndarray:
    """The goal is in the left half, goal x < 0.5. obs [B, 4] -> bool [B]; constant in an episode."""
    return obs[:, 2] < 0.5


def lunar_lander_region(obs: np.ndarray) -> np.ndarray:
    """The lander is left of the pad, x < 0. obs [B, 8] -> bool [B].

    The task is symmetric about x = 0, so both regions are about equally frequent under any policy: 52% of the
    heuristic's steps are on the left, 49% of its opposite's and 54% of random actions' (72 episodes each). A limit of
    the height does not have this property: y < 0.5 holds in 71%, 10% and 19% of the steps. The heuristic crosses x = 0
    0.8 times an episode, so the region may change within an episode, unlike in Room.
    """
    return obs[:, 0] < 0


REGIONS: dict[str, Region] = {"Room": room_region, "LunarLander": lunar_lander_region}
"""The start of the environment's name -> region a."""


def _lunar_lander(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How strongly to turn and to slow the descent, each [B]."""
    x, y, x_speed, y_speed, angle, spin = obs[:, :6].T
    landed = obs[:, 6:8].any(axis=1)  # a leg touches the ground: only slow the descent
    wanted_angle = np.clip(x * 0.5 + x_speed * 1.0, -0.4, 0.4)
    wanted_height = 0.55 * np.abs(x)
    turn = (wanted_angle - angle) * 0.5 - spin * 1.0
    lift = (wanted_height - y) * 0.5 - y_speed * 0.5
    return np.where(landed, 0, turn), np.where(landed, -y_speed * 0.5, lift)


def _of_present(policy: Policy, spec: Spec) -> Policy:
    """`policy`, which sees single observations, also if the environment's are windows of past steps."""
    layout = spec.history
    if layout is None:
        return policy

    def sees_present(windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return policy(layout.present(windows), rng)

    sees_present.__module__ = policy.__module__  # see `is_built_in`
    return sees_present


def _of_window(expert: Callable[[np.ndarray], np.ndarray], env_id: str, spec: Spec) -> Policy:
    layout = spec.history
    if layout is None:
        needs = "needs memory: add --env-args history=N with the number of steps of an episode"
        raise UserError(f"the expert of {env_id} {needs}")

    def sees_window(windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return expert(layout.tokens(windows)[..., : layout.obs])

    return sees_window


def _family(env_id: str) -> str:
    """`my_package:Room-v21` -> `Room`."""
    return _bare(env_id).rsplit("-v", 1)[0]


def _bare(env_id: str) -> str:
    """`my_package:Room-v21` -> `Room-v21`, without the module to import."""
    return env_id.split(":")[-1]


def _none(what: str, env_id: str, known: list[str]) -> str:
    return f"there is no {what} for {env_id}; there is one for: {', '.join(known)}"
