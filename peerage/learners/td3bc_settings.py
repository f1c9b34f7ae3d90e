"""The settings of TD3+BC. The defaults are those of its paper (arXiv 2106.06860)."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.learners.bc_settings import unused
from peerage.learners.td3_settings import TD3Settings


@dataclass(frozen=True)
class TD3BCSettings(TD3Settings):
    """Settings of TD3+BC: those of TD3 that do not concern environment steps, and the weight of the Q-function."""

    structural = ("net_arch", "batch_size")  # type: ignore[assignment]  # the others are not settings

    sb3_defaults = {}  # noqa: RUF012

    bc_alpha: float = limited(2.5, "[0, inf)")
    """Weight of the Q-function against behaviour cloning in the policy loss; 0: behaviour cloning alone."""
    normalize_obs: bool = True
    normalize_reward: bool = unused(False)
    buffer_size: int = unused(1)
    train_freq: int = unused(1)
    gradient_steps: int = unused(1)
    learning_starts: int = unused(0)
    action_noise: float = unused(0.0)
    load_paths: str = unused("none")


LEARNERS.register(LearnerMethod("td3bc", "peerage.learners.td3bc:TD3BC", TD3BCSettings, actions=("box",), offline=True))
