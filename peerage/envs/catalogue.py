"""The environments that `peerage envs` lists."""

from __future__ import annotations

from typing import Any

import gymnasium

from peerage.envs.scripted import has_adversary, has_expert

_OURS = "peer-learning paper"
# id, observation size, actions, note. Gymnasium's registry does not hold the sizes, and building a MuJoCo environment
# to read them is slow. A test compares this table with the environments.
_TABLE: list[tuple[str, int, str, str]] = [
    *[(f"Room-v{n}", 4, "Discrete(4)", f"{n} x {n} cells; {_OURS}") for n in (3, 6, 21, 27, 33)],
    ("Hallway-v0", 1, "Discrete(2)", f"17 cells; {_OURS}"),
    ("Hallway-v1", 2, "Discrete(6)", f"17 x 7 cells, two actions without effect; {_OURS}"),
    ("CartpoleSwingUp-v0", 4, "Box(1)", f"after PILCO; {_OURS}"),
    ("MarkedCue-v0", 3, "Discrete(2)", "8 values, one is marked; needs memory and selection"),
    ("AskedCue-v0", 10, "Discrete(2)", "8 values with keys, the question is a key; needs memory and comparison"),
    ("PlainCue-v0", 3, "Discrete(2)", "a cue, asked for 8 steps later; needs memory"),
    ("MarkedFeature-v0", 16, "Discrete(2)", "8 features, one is marked; needs selection"),
    ("TMaze-v0", 3, "Discrete(4)", "corridor of 20 cells; needs memory; Bakker 2001"),
    ("CartPoleDistractors-v0", 16, "Discrete(2)", "CartPole-v1 with 12 numbers of noise"),
    ("CartPoleShuffled-v0", 4, "Discrete(2)", "CartPole-v1 with a new order of its features in every episode"),
    ("CartPoleNoVelocities-v0", 2, "Discrete(2)", "CartPole-v1 without velocities"),
    ("CartPole-v1", 4, "Discrete(2)", "classic control"),
    ("Acrobot-v1", 6, "Discrete(3)", "classic control"),
    ("MountainCar-v0", 2, "Discrete(3)", "classic control"),
    ("MountainCarContinuous-v0", 2, "Box(1)", "classic control"),
    ("Pendulum-v1", 3, "Box(1)", "classic control"),
    ("LunarLander-v3", 8, "Discrete(4)", "Box2D"),
    ("LunarLanderContinuous-v3", 8, "Box(2)", "Box2D"),
    ("Hopper-v4", 11, "Box(3)", "MuJoCo"),
    ("Hopper-v5", 11, "Box(3)", "MuJoCo"),
    ("Walker2d-v4", 17, "Box(6)", "MuJoCo"),
    ("Walker2d-v5", 17, "Box(6)", "MuJoCo"),
    ("HalfCheetah-v4", 17, "Box(6)", "MuJoCo"),
    ("HalfCheetah-v5", 17, "Box(6)", "MuJoCo"),
    ("Ant-v4", 27, "Box(8)", "MuJoCo"),
    ("Ant-v5", 105, "Box(8)", "MuJoCo; observes contact forces, unlike v4"),
    ("Humanoid-v4", 376, "Box(17)", "MuJoCo"),
    ("Humanoid-v5", 348, "Box(17)", "MuJoCo"),
    *[
        (env_id, 39, "Box(4)", "Meta-World; goals of its own for each member")
        for env_id in gymnasium.registry
        if env_id.startswith("metaworld/")
    ],
]


def is_known(env_id: str) -> bool:
    """Whether `env_id` is in the table; the episodes of these environments do not depend on earlier episodes."""
    return any(env_id == known for known, *_ in _TABLE)


def list_envs() -> list[dict[str, Any]]:
    """The environments that Peerage is tested with and that the installed Gymnasium has.

    A dictionary for each: id, obs (size of an observation), actions, horizon (steps, or None), expert and adversary
    (whether a scripted one exists), note.
    """
    return [
        {
            "id": env_id,
            "obs": size,
            "actions": actions,
            "horizon": gymnasium.registry[env_id].max_episode_steps,
            "expert": has_expert(env_id),
            "adversary": has_adversary(env_id),
            "note": note,
        }
        for env_id, size, actions, note in _TABLE
        if env_id in gymnasium.registry
    ]
