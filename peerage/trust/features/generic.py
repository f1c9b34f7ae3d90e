"""Features of any environment: observation, action, adviser, reward. No phases.

| block | features |
| --- | --- |
| observation | each number in (-1, 1): by its bounds where the space has them, otherwise x / (1 + |x|) |
| action | Discrete: one-hot; Box: scaled to [-1, 1] by its bounds |
| adviser K | |
| reward 3 | last reward; its change; mean of the last 20; each as x / (1 + |x|) |

Nothing is estimated from data, so the same step always has the same features. Bounds are used where both are finite and
at most `WIDEST` apart (some environments have bounds that observations never come near); features are clipped to
[-1, 1].
"""

from __future__ import annotations

import numpy as np

from peerage.envs.make import Spec
from peerage.trust.features.family import ADVISER, Family
from peerage.trust.features.feature_history import FeatureHistory, columns, one_hot

WIDEST = 100.0


def generic(spec: Spec) -> Family:
    """The family for `spec`. It fits every environment that Peerage supports."""
    low, high = (np.asarray(x, dtype=np.float64) for x in (spec.observation_space.low, spec.observation_space.high))
    finite = np.isfinite(low) & np.isfinite(high)
    span = np.where(finite, high, 1) - np.where(finite, low, 0)
    bounded = finite & (span > 0) & (span <= WIDEST)
    middle = np.where(bounded, (np.where(finite, low, 0) + np.where(finite, high, 0)) / 2, 0).astype(np.float32)
    half = np.where(bounded, span / 2, 1).astype(np.float32)
    action_middle, action_half = (spec.action_high + spec.action_low) / 2, (spec.action_high - spec.action_low) / 2

    def extract(past: FeatureHistory) -> dict[str, np.ndarray]:
        scaled = (past.obs - middle) / half
        if spec.discrete:
            action: np.ndarray = one_hot(past.action, spec.n_actions)
        else:
            action = (past.action - action_middle) / action_half
        with np.errstate(over="ignore"):  # rewards of 1e38
            reward = columns(past.reward, past.reward_change(), past.mean_reward(20))
        return {
            "observation": np.where(bounded, np.clip(scaled, -1, 1), squash(scaled)),
            "action": action,
            "reward": squash(reward),
        }

    width = spec.n_actions if spec.discrete else spec.act_dim
    blocks = (("observation", spec.obs_dim), ("action", width), ADVISER, ("reward", 3))
    return Family(name="generic", blocks=blocks, extract=extract)


def squash(x: np.ndarray) -> np.ndarray:
    """`x / (1 + |x|)`, in [-1, 1]; infinite numbers, such as the mean of enormous rewards, become -1 or 1."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))
