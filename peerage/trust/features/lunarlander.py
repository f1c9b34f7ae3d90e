"""Features of LunarLander: 31 + K, and its phases cruise, approach, landing, touchdown.

Observation (Gymnasium): x, y, vx, vy, angle, angular velocity, left leg, right leg. Actions 0 none, 1 left engine, 2
main engine, 3 right engine.

| block | features |
| --- | --- |
| position 6 | x; y; |x|; |x| > 0.4; y < 0.1; |x| < 0.2 |
| velocity 7 | vx; vy; speed; vy < -0.5 and y < 0.3; |vx| > 0.3; alignment with the pad -vx sign(x); speed < 0.5 |
| orientation 5 | angle; angular velocity; |angle| > 0.4; |angular velocity| > 0.5; |angle| < 0.1 |
| landing 4 | left; right; both (each > 0.5); max(0, y - 0.05) |
| action 6 | one-hot; differs from the last; share of the followed adviser's last 5 actions that equal it |
| adviser K | |
| reward 3 | last reward; its change; mean of the last 20, all in the environment's units |

The followed adviser's last 5 actions are those that the member took with it in this episode before the current step. If
there were fewer than 5, the share is of those, and 0 if there were none. Apart from the block `adviser`, it is the only
feature that depends on the adviser.
"""

from __future__ import annotations

import numpy as np

from peerage.envs.make import Spec
from peerage.errors import UserError
from peerage.trust.features.family import ADVISER, Family
from peerage.trust.features.feature_history import FeatureHistory, columns, one_hot

PHASES = ("cruise", "approach", "landing", "touchdown")
REMEMBERED = 5


def lunarlander(spec: Spec) -> Family:
    """The family; UserError for an environment that does not have LunarLander's 8 observations and 4 actions."""
    if not fits(spec):
        raise UserError(
            f"{spec.id} does not fit the feature family 'lunarlander': 8 observations and Discrete(4) actions"
        )
    return Family(
        name="lunarlander",
        blocks=(
            ("position", 6),
            ("velocity", 7),
            ("orientation", 5),
            ("landing", 4),
            ("action", 6),
            ADVISER,
            ("reward", 3),
        ),
        extract=extract,
        phases=lambda past: phases(past.obs),
        phase_names=PHASES,
        memory=lambda n_members, n_advisers: {"actions": np.full((n_members, n_advisers, REMEMBERED), -1)},
    )


def fits(spec: Spec) -> bool:
    return spec.obs_dim == 8 and spec.n_actions == 4


def phases(obs: np.ndarray) -> np.ndarray:
    """`obs [..., 8]` -> index into PHASES `[...]`: the first that applies of touchdown (a leg > 0.5), landing (y < 0.3,
    vy < -0.1), approach (y < 0.7, |x| < 0.4), cruise."""
    x, y, vy = obs[..., 0], obs[..., 1], obs[..., 3]
    phase = np.where((y < 0.7) & (np.abs(x) < 0.4), 1, 0)
    phase = np.where((y < 0.3) & (vy < -0.1), 2, phase)
    return np.where((obs[..., 6:8] > 0.5).any(axis=-1), 3, phase)


def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
    x, y, vx, vy, angle, spin, left, right = np.moveaxis(past.obs, 2, 0)
    far, speed = np.abs(x), np.sqrt(vx * vx + vy * vy)
    lean = np.abs(angle)
    share = np.zeros(past.age.shape, dtype=np.float32)
    share[:, -past.new :] = _share_of_same(past)
    return {
        "position": columns(x, y, far, far > 0.4, y < 0.1, far < 0.2),
        "velocity": columns(
            vx, vy, speed, (vy < -0.5) & (y < 0.3), np.abs(vx) > 0.3, -vx * np.sign(x), speed < 0.5
        ),
        "orientation": columns(angle, spin, lean > 0.4, np.abs(spin) > 0.5, lean < 0.1),
        "landing": columns(left, right, (left > 0.5) & (right > 0.5), np.maximum(0, y - 0.05)),
        "action": columns(one_hot(past.action, 4), past.changed(past.action), share),
        "reward": columns(past.reward, past.reward_change(), past.mean_reward(20)),
    }


def _share_of_same(past: FeatureHistory) -> np.ndarray:
    """The share of the last 5 actions with the followed adviser in this episode that equal the current one: `[M, T]`.

    `memory["actions"] [M, K, 5]`: the last actions with each adviser in the running episode, oldest first, -1 for
    none. They and the new steps are sorted by (episode, adviser) with a stable sort, so that the actions to compare
    with precede each step directly.
    """
    ring, new = past.memory["actions"], past.new
    n_members, n_advisers, n = ring.shape
    episode = np.cumsum(past.first[:, -new:], axis=1)  # [M, T], 0: began before this chunk
    remembered = np.where(ring >= 0, np.arange(n_advisers)[:, None], -1).reshape(n_members, -1)
    key = np.concatenate((remembered, episode * n_advisers + past.adviser[:, -new:]), axis=1)  # [M, K 5 + T]
    action = np.concatenate((ring.reshape(n_members, -1), past.action[:, -new:]), axis=1)
    order = np.argsort(key, axis=1, kind="stable")
    key, action = np.take_along_axis(key, order, axis=1), np.take_along_axis(action, order, axis=1)
    before, after, equal = np.zeros_like(key), np.zeros_like(key), np.zeros_like(key)
    for lag in range(1, n + 1):
        same_key = key[:, lag:] == key[:, :-lag]
        before[:, lag:] += same_key
        after[:, :-lag] += same_key
        equal[:, lag:] += same_key & (action[:, lag:] == action[:, :-lag])
    share = np.empty(key.shape, dtype=np.float32)
    np.put_along_axis(share, order, (equal / np.maximum(before, 1)).astype(np.float32), axis=1)

    # Store the last 5 actions of each adviser in the episode that continues: those with fewer than 5 after them.
    kept = (after < n) & (key >= 0) & (key // n_advisers == episode[:, -1:])
    member, place = np.nonzero(kept)
    ring = np.full_like(ring, -1)
    ring[member, key[member, place] % n_advisers, n - 1 - after[member, place]] = action[member, place]
    past.memory["actions"] = ring
    return share[:, -new:]
