"""The settings of TD3. The defaults are those of Stable-Baselines3, except for 1,000 random steps at the start instead
of 100, and exploration noise."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.learners.off_policy_settings import OffPolicySettings


@dataclass(frozen=True)
class TD3Settings(OffPolicySettings):
    """Settings of TD3, named as in Stable-Baselines3."""

    structural = ("net_arch", "batch_size", "buffer_size", "learning_starts", "train_freq", "gradient_steps")

    net_arch: tuple[int, ...] = (256, 256)
    learning_starts: int = 1_000
    action_noise: float = limited(0.1, "[0, inf)")
    """Standard deviation of the exploration noise, relative to half of the action range."""


LEARNERS.register(LearnerMethod("td3", "peerage.learners.td3:TD3", TD3Settings, actions=("box",)))
