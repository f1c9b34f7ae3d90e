"""Features of Walker2d: 38 + K, and its phases left_stance, right_stance, double_support, flight.

Observation (Gymnasium, v4 and v5): z 0, angle 1, angles of right thigh, leg, foot 2-4 and of left 5-7, vx 8, vz 9, angular
velocity 10, velocities of the six joints 11-16. Actions: torques in the order of the joints, in [-1, 1].

| block | features |
| --- | --- |
| position 10 | z; angle; six joint angles; 1 / (1 + |angle|); 1.0 < z < 1.6 |
| joint 12 | angles 6; velocities 6 |
| gait 8 | phase one-hot 4; |left - right contact|; share of double support in the last 10; 1 / (1 + |right - left thigh|); z / max(1, |z - 1.3| + 0.1) |
| action 6 | torques |
| adviser K | |
| performance 2 | clip(r / 10, -1, 1); r / max(1, sum of |joint velocity|) |

Foot contact is not observed. `foot_heights` computes the height of the soles from the planar kinematics, and a foot below
0 touches the floor (MuJoCo's contacts are soft); this agrees exactly with the simulator's contacts. "The last n" includes
the current step.
"""  # noqa: E501

from __future__ import annotations

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.trust.features.family import ADVISER, Family
from peerage.trust.features.feature_history import FeatureHistory, columns, inverse, one_hot

PHASES = ("left_stance", "right_stance", "double_support", "flight")
LEFT_STANCE, RIGHT_STANCE, DOUBLE_SUPPORT, FLIGHT = range(4)

# Metres, from Gymnasium's walker2d.xml and walker2d_v5.xml (the same in both); the foot is a capsule before the ankle.
TORSO_TO_HIP, THIGH, LEG, FOOT, FOOT_RADIUS = 0.2, 0.45, 0.5, 0.2, 0.06


def walker2d(spec: Spec) -> Family:
    """The family; UserError for an environment that does not have Walker2d's 17 observations and 6 torques."""
    if not fits(spec):
        raise UserError(f"{spec.id} does not fit the feature family 'walker2d': 17 observations and Box(6) actions")
    return Family(
        name="walker2d",
        blocks=(("position", 10), ("joint", 12), ("gait", 8), ("action", 6), ADVISER, ("performance", 2)),
        extract=extract,
        phases=lambda past: phases(past.obs),
        phase_names=PHASES,
    )


def fits(spec: Spec) -> bool:
    return spec.obs_dim == 17 and not spec.discrete and spec.act_dim == 6


def foot_heights(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 17]` -> height of the lowest point of the right and the left foot above the floor `[..., 2]`, metres.

    The torso rotates about +y and every joint about -y, so a link's direction is the torso's angle minus the joint
    angles above it. A link of length l at direction d reduces the height by l cos d, the foot, which points forwards,
    by l sin d.
    """
    angle = obs[..., 1:2]
    thigh = angle - obs[..., [2, 5]]  # [..., 2]: right, left
    leg = thigh - obs[..., [3, 6]]
    foot = leg - obs[..., [4, 7]]
    ankle = obs[..., 0:1] - TORSO_TO_HIP * np.cos(angle) - THIGH * np.cos(thigh) - LEG * np.cos(leg)
    toe = ankle - FOOT * np.sin(foot)
    return np.minimum(ankle, toe) - FOOT_RADIUS


def contacts(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 17]` -> bool `[..., 2]`: whether the right and the left foot touch the floor."""
    return foot_heights(obs) < 0


def phases(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 17]` -> index into PHASES `[...]`: double_support (both feet touch the floor), flight
    (none), left_stance, right_stance."""
    return _phases(contacts(obs))


def _phases(contact: np.ndarray) -> np.ndarray:
    right, left = contact[..., 0], contact[..., 1]
    return np.where(left, np.where(right, DOUBLE_SUPPORT, LEFT_STANCE), np.where(right, RIGHT_STANCE, FLIGHT))


def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
    obs, phase = past.obs, past.phase
    z, angle, joints, velocities = obs[..., 0], obs[..., 1], obs[..., 2:8], obs[..., 11:17]
    one_foot = (phase == LEFT_STANCE) | (phase == RIGHT_STANCE)  # |left - right contact|
    return {
        "position": columns(z, angle, joints, inverse(np.abs(angle)), (z > 1.0) & (z < 1.6)),
        "joint": columns(joints, velocities),
        "gait": columns(
            one_hot(phase, 4),
            one_foot,
            past.mean_of_last(phase == DOUBLE_SUPPORT, 10),
            inverse(np.abs(joints[..., 0] - joints[..., 3])),
            z / np.maximum(1, np.abs(z - 1.3) + 0.1),
        ),
        "action": past.action,
        "performance": columns(
            np.clip(past.reward / 10, -1, 1), past.reward / np.maximum(1, np.abs(velocities).sum(axis=-1))
        ),
    }
