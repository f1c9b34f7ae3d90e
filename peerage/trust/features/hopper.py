"""Features of Hopper: 34 + K, and its phases stance, swing, flight, landing.

Observation (Gymnasium, v4 and v5): z 0, angle 1, thigh, leg and foot angle 2-4, vx 5, vz 6, angular velocity 7, velocities
of the three joints 8-10. Actions: torques of thigh, leg and foot in [-1, 1].

| block | features |
| --- | --- |
| position 8 | z; angle; three joint angles; |angle|; z < 0.8; 1.0 < z < 1.5 |
| joint 10 | angles 3; velocities 3; power torque x velocity 3; 1 / (1 + std of the three velocities) |
| gait 8 | phase one-hot 4; share of stance in the last 30; share of flight in the last 5; 1 / (1 + phase changes in the last 30); z / max(1, |vz| + 0.1) |
| action 6 | torques 3; norm; 1 / (1 + |a - a_prev|), 1 at the first step; 1 / (1 + |a| std(a)) |
| adviser K | |
| performance 2 | clip(r / 10, -1, 1); r minus the mean of the last 5 rewards, r among them |

"The last n" includes the current step, and fewer at the beginning of an episode; standard deviations are of the population.
"""  # noqa: E501

from __future__ import annotations

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.trust.features.family import ADVISER, Family
from peerage.trust.features.feature_history import FeatureHistory, columns, inverse, norm, one_hot

PHASES = ("stance", "swing", "flight", "landing")
STANCE, SWING, FLIGHT, LANDING = range(4)


def hopper(spec: Spec) -> Family:
    """The family; UserError for an environment that does not have Hopper's 11 observations and 3 torques."""
    if not fits(spec):
        raise UserError(f"{spec.id} does not fit the feature family 'hopper': 11 observations and Box(3) actions")
    return Family(
        name="hopper",
        blocks=(("position", 8), ("joint", 10), ("gait", 8), ("action", 6), ADVISER, ("performance", 2)),
        extract=extract,
        phases=lambda past: phases(past.obs),
        phase_names=PHASES,
    )


def fits(spec: Spec) -> bool:
    return spec.obs_dim == 11 and not spec.discrete and spec.act_dim == 3


def phases(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 11]` -> index into PHASES `[...]`: the first that applies of flight (z > 1.3, vz > 0), landing
    (vz < -0.2), swing (|leg angle| > 0.3, z > 1.0), stance."""
    z, leg, vz = obs[..., 0], obs[..., 3], obs[..., 6]
    phase = np.where((np.abs(leg) > 0.3) & (z > 1.0), SWING, STANCE)
    phase = np.where(vz < -0.2, LANDING, phase)
    return np.where((z > 1.3) & (vz > 0), FLIGHT, phase)


def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
    obs, action, phase = past.obs, past.action, past.phase
    z, angle, vz = obs[..., 0], obs[..., 1], obs[..., 6]
    joints, velocities = obs[..., 2:5], obs[..., 8:11]
    effort = norm(action)
    return {
        "position": columns(z, angle, joints, np.abs(angle), z < 0.8, (z > 1.0) & (z < 1.5)),
        "joint": columns(joints, velocities, action * velocities, inverse(velocities.std(axis=-1))),
        "gait": columns(
            one_hot(phase, 4),
            past.mean_of_last(phase == STANCE, 30),
            past.mean_of_last(phase == FLIGHT, 5),
            inverse(past.count_changes(phase, 30)),
            z / np.maximum(1, np.abs(vz) + 0.1),
        ),
        "action": columns(
            action, effort, inverse(norm(past.change(action))), inverse(effort * action.std(axis=-1))
        ),
        "performance": columns(np.clip(past.reward / 10, -1, 1), past.reward - past.mean_reward(5)),
    }
