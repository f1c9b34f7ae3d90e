"""The settings of DQN. The defaults were chosen in experiments on Room-v21 (docs/methods/dqn.md)."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.learners.off_policy_settings import OffPolicySettings


@dataclass(frozen=True)
class DQNSettings(OffPolicySettings):
    """Settings of DQN, named as in Stable-Baselines3, which also clips the gradient norm at 10."""

    structural = (
        "net_arch",
        "batch_size",
        "buffer_size",
        "learning_starts",
        "train_freq",
        "gradient_steps",
        "target_update_interval",
    )

    sb3_defaults = {  # noqa: RUF012  # a ClassVar of the base class
        "learning_rate": 1e-4,
        "learning_starts": 100,
        "batch_size": 32,
        "buffer_size": 1_000_000,
        "gradient_steps": 1,
        "target_update_interval": 10_000,
    }

    learning_rate: float = 5e-4
    max_grad_norm: float = 10.0
    learning_starts: int = 500
    batch_size: int = 128
    buffer_size: int = 100_000
    train_freq: int = 4
    gradient_steps: int = 4
    tau: float = 1.0
    target_update_interval: int = limited(250, "[1, inf)")
    """Steps between updates of the target networks; DQN: environment steps, SAC: gradient steps."""
    exploration_fraction: float = limited(0.1, "[0, 1]")
    """Share of the run over which epsilon decreases linearly from 1 to exploration_final_eps."""
    exploration_final_eps: float = limited(0.05, "[0, 1]")
    """Final value of epsilon."""


LEARNERS.register(
    LearnerMethod(
        "dqn",
        "peerage.learners.dqn:DQN",
        DQNSettings,
        actions=("discrete",),
        images=True,
        is_default=True,
        imitates=True,
    )
)
