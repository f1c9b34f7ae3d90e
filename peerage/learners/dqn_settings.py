"""The settings of DQN and their defaults, which were chosen by trials on Room-v21 (docs/methods/dqn.md)."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.learners.off_policy_settings import OffPolicySettings


@dataclass(frozen=True)
class DQNSettings(OffPolicySettings):
    """Stable-Baselines3's names. Stable-Baselines3 clips the gradient norm at 10, too."""

    structural = (
        "net_arch",
        "batch_size",
        "buffer_size",
        "learning_starts",
        "train_freq",
        "gradient_steps",
        "target_update_interval",
    )

    learning_rate: float = 5e-4
    max_grad_norm: float = 10.0
    learning_starts: int = 500
    batch_size: int = 128
    buffer_size: int = 100_000
    train_freq: int = 4
    gradient_steps: int = 4
    tau: float = 1.0
    target_update_interval: int = limited(250, "[1, inf)")
    """DQN: environment steps, SAC: gradient steps between two updates of the target networks."""
    exploration_fraction: float = limited(0.1, "[0, 1]")
    """Share of the run over which epsilon falls from 1 to its final value."""
    exploration_final_eps: float = limited(0.05, "[0, 1]")
    """Epsilon after that."""


LEARNERS.register(LearnerMethod("dqn", "peerage.learners.dqn:DQN", DQNSettings, actions=("discrete",), is_default=True))
