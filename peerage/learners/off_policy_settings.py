"""The settings common to off-policy learners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peerage.config.fields import limited
from peerage.config.methods import LearnerSettings


@dataclass(frozen=True)
class OffPolicySettings(LearnerSettings):
    """Settings of a learner with a replay buffer and target networks."""

    normalize_obs: bool = False
    """Normalise observations by the member's running mean and standard deviation, clipped to [-10, 10]
    (docs/normalisation.md)."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the member's discounted return, clipped to [-10, 10]."""

    batch_size: int = limited(256, "[1, inf)")
    """Transitions per gradient step. Typical: 32 to 512."""
    buffer_size: int = limited(1_000_000, "[1, inf)")
    """Capacity of each member's replay buffer, in transitions; limited to total_timesteps."""
    train_freq: int = limited(1, "[1, inf)")
    """Environment steps between rounds of gradient steps."""
    gradient_steps: int = limited(1, "[1, inf)")
    """Gradient steps per round."""
    tau: float = limited(0.005, "(0, 1]")
    """Soft update of the target networks: target += tau (online - target); 1 copies the online network."""

    imitation_weight: float = limited(1.0, "[0, inf)")
    """Weight of the loss on the suggestions of trusted advisers (--imitate trusted); 0: the member does not imitate."""

    @property
    def stack_key(self) -> tuple[Any, ...]:
        """Members with and without normalisation cannot share a stack."""
        return (*super().stack_key, self.normalize_obs, self.normalize_reward, self.imitates)
