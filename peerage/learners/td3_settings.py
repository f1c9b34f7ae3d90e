"""The settings of TD3. The defaults are those of SAC, and exploration noise."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.learners.off_policy_settings import OffPolicySettings


@dataclass(frozen=True)
class TD3Settings(OffPolicySettings):
    """Settings of TD3, named as in Stable-Baselines3."""

    structural = ("net_arch", "batch_size", "buffer_size", "learning_starts", "train_freq", "gradient_steps")

    sb3_defaults = {  # noqa: RUF012
        "learning_rate": 1e-3,
        "net_arch": (400, 300),
        "learning_starts": 100,
        "action_noise": "none",
    }

    net_arch: tuple[int, ...] = (256, 256)
    learning_starts: int = 1_000
    action_noise: float = limited(0.1, "[0, inf)")
    """Standard deviation of the exploration noise, relative to half of the action range."""


LEARNERS.register(
    LearnerMethod(
        "td3", "peerage.learners.td3:TD3", TD3Settings, actions=("box",), takes_critic=True, imitates=True
    )
)
