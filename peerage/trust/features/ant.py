"""Features of Ant: 48 + K, and its phases trot, pace, gallop, stand.

Observation (Gymnasium, v4, and the first 27 numbers of v5): z 0, quaternion w, x, y, z 1-4, joint angles 5-12 (hip, ankle
of the legs front left, front right, back left, back right), linear velocity 13-15, angular 16-18, joint velocities 19-26 in
the order of the angles. Actions: torques in [-1, 1], the fourth leg's first (hip_4, ankle_4, hip_1, ...).

| block | features |
| --- | --- |
| position 8 | z; quaternion w, x, y; 1 / (1 + |(x, y, z)|) of the quaternion; 0.4 < z < 0.7; vx; 1 / (1 + |mean left hip - mean right hip|) |
| joint 16 | angles 8; velocities 8 |
| locomotion 10 | phase one-hot 4; 1 / (1 + min(d1, d2)); 1 / (1 + |d1 - d2|); 1 / (1 + sum of |joint velocity|); share of joints with |velocity| < 0.5; 1 / (1 + |angular velocity|); 1 / (1 + phase changes in the last 30) |
| action 8 | torques, in the order of the joints |
| adviser K | |
| performance 6 | clip(r / 10, -1, 1); r / max(1, sum of |joint velocity|); r / max(1, |a|); 1 / (1 + var of z in the last 10); mean planar speed of the last 5; 1 / (1 + |a - a_prev|), 1 at the first step |

d1 = |FL - BR|, d2 = |FR - BL| of the hip angles. Only `r` is of the step before; what it is divided by is of this step. "The
last n" includes the current step, and fewer at the beginning of an episode.
"""  # noqa: E501

from __future__ import annotations

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.trust.features.family import ADVISER, Family
from peerage.trust.features.feature_history import FeatureHistory, columns, inverse, norm, one_hot

PHASES = ("trot", "pace", "gallop", "stand")
TROT, PACE, GALLOP, STAND = range(4)
TORQUES = [2, 3, 4, 5, 6, 7, 0, 1]  # the action's numbers in the order of the joints
OBSERVED = 27
# Without, and with, the contact forces: of v5 (78 numbers), of v4 (84). Other widths mean another layout in front.
WIDTHS = (OBSERVED, 105, 111)


def ant(spec: Spec) -> Family:
    """The family; UserError for an environment that does not have Ant's observations and 8 torques."""
    if not fits(spec):
        raise UserError(
            f"{spec.id} does not fit the feature family 'ant': 27, 105 or 111 observations and Box(8) actions"
        )
    return Family(
        name="ant",
        blocks=(("position", 8), ("joint", 16), ("locomotion", 10), ("action", 8), ADVISER, ("performance", 6)),
        extract=extract,
        phases=lambda past: phases(past.obs),
        phase_names=PHASES,
    )


def fits(spec: Spec) -> bool:
    return spec.obs_dim in WIDTHS and not spec.discrete and spec.act_dim == 8


def phases(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 27 or more]` -> index into PHASES `[...]`, from hip velocities: the first that applies of stand (sum
    of all |joint velocity| < 1), trot (||FL| + |BR| - |FR| - |BL|| < 2), pace (|FL + BL| + |FR + BR| > |FL + BR| +
    |FR + BL|), gallop. (The published rule of pace pairs other legs.)"""
    velocities = obs[..., 19:27]
    front_left, front_right, back_left, back_right = np.moveaxis(velocities[..., 0::2], -1, 0)
    sides = np.abs(front_left + back_left) + np.abs(front_right + back_right)
    diagonals = np.abs(front_left + back_right) + np.abs(front_right + back_left)
    phase = np.where(sides > diagonals, PACE, GALLOP)
    apart = np.abs(front_left) + np.abs(back_right) - np.abs(front_right) - np.abs(back_left)
    phase = np.where(np.abs(apart) < 2, TROT, phase)
    return np.where(np.abs(velocities).sum(axis=-1) < 1, STAND, phase)


def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
    obs, phase, reward = past.obs, past.phase, past.reward
    z, angles, velocities = obs[..., 0], obs[..., 5:13], obs[..., 19:27]
    front_left, front_right, back_left, back_right = np.moveaxis(angles[..., 0::2], -1, 0)
    d1, d2 = np.abs(front_left - back_right), np.abs(front_right - back_left)
    lean = np.abs((front_left + back_left) / 2 - (front_right + back_right) / 2)
    speeds = np.abs(velocities)
    motion = speeds.sum(axis=-1)
    torques = past.action[..., TORQUES]
    return {
        "position": columns(
            z, obs[..., 1:4], inverse(norm(obs[..., 2:5])), (z > 0.4) & (z < 0.7), obs[..., 13], inverse(lean)
        ),
        "joint": columns(angles, velocities),
        "locomotion": columns(
            one_hot(phase, 4),
            inverse(np.minimum(d1, d2)),
            inverse(np.abs(d1 - d2)),
            inverse(motion),
            (speeds < 0.5).mean(axis=-1),
            inverse(norm(obs[..., 16:19])),
            inverse(past.count_changes(phase, 30)),
        ),
        "action": torques,
        "performance": columns(
            np.clip(reward / 10, -1, 1),
            reward / np.maximum(1, motion),
            reward / np.maximum(1, norm(torques)),
            inverse(past.var_of_last(z, 10)),
            past.mean_of_last(norm(obs[..., 13:15]), 5),
            inverse(norm(past.change(torques))),
        ),
    }
