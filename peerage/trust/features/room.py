"""Features of Room (2-D): 18 + K, and its phases exploration, navigation, approaching, goal_reached.

Observation: own position 2, goal 2, in units of the room. Actions 0 to 3: x + 1, x - 1, y + 1, y - 1.

| block | features |
| --- | --- |
| position 2 | x, y |
| goal 4 | goal 2; distance; distance / sqrt 2 |
| movement 5 | last step's length; mean step length of the last 30; mean over x and y of the std of the last 30 positions; net displacement / path length over the last 30; mean step < 0.01 |
| action 4 | signed displacement 2; its norm; 1 / (1 + |a - a_prev|), 1 at the first step |
| adviser K | |
| reward 3 | clip(r, -1, 1); its change; mean of the last 20 |

Lengths are in units of the room. "The last 30" are 30 positions, including the current one, with 29 steps between them, or
fewer at the beginning of an episode. Before the first step lengths are 0 and the flag "mean step < 0.01" is 0; net / path
is 0 for a path of length 0.
"""  # noqa: E501

from __future__ import annotations

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.trust.features.family import ADVISER, Family
from peerage.trust.features.feature_history import FeatureHistory, columns, inverse, norm

PHASES = ("exploration", "navigation", "approaching", "goal_reached")
EXPLORATION, NAVIGATION, APPROACHING, GOAL_REACHED = range(4)
MOVES = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
# Distances are multiples of a grid width, in Room-v21 exactly 0.05. A distance that exceeds a limit only by rounding
# counts as within it.
ROUNDING = 1e-6


def room(spec: Spec) -> Family:
    """The family; UserError for an environment that does not have Room's 4 observations and 4 actions."""
    if not fits(spec):
        raise UserError(f"{spec.id} does not fit the feature family 'room': 4 observations and Discrete(4) actions")
    return Family(
        name="room",
        blocks=(("position", 2), ("goal", 4), ("movement", 5), ("action", 4), ADVISER, ("reward", 3)),
        extract=extract,
        phases=lambda past: phases(past.obs),
        phase_names=PHASES,
    )


def fits(spec: Spec) -> bool:
    return spec.obs_dim == 4 and spec.n_actions == 4


def phases(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 4]` -> index into PHASES `[...]` by the distance from the goal: goal_reached (at most 0.05),
    approaching (0.2), navigation (0.5), exploration."""
    distance = norm(obs[..., :2] - obs[..., 2:4]) - ROUNDING
    phase = np.where(distance <= 0.5, NAVIGATION, EXPLORATION)
    phase = np.where(distance <= 0.2, APPROACHING, phase)
    return np.where(distance <= 0.05, GOAL_REACHED, phase)


def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
    position, goal, move = past.obs[..., :2], past.obs[..., 2:4], MOVES[past.action]
    distance = norm(position - goal)
    step = norm(past.change(position))  # [M, S], 0 at the first step of an episode
    mean_step = past.mean_of_last(step, 29, skip=1)
    path = past.sum_of_last(step, 29, skip=1)
    net = norm(position - past.value_before(position, 29))
    straight = np.where(path > 0, net / np.where(path > 0, path, 1), 0)
    return {
        "position": position,
        "goal": columns(goal, distance, distance / np.float32(np.sqrt(2))),
        "movement": columns(
            step,
            mean_step,
            past.std_of_last(position, 30).mean(axis=-1),
            straight,
            past.has_previous & (mean_step < 0.01),
        ),
        "action": columns(move, norm(move), inverse(norm(past.change(move)))),
        "reward": columns(np.clip(past.reward, -1, 1), past.reward_change(), past.mean_reward(20)),
    }
