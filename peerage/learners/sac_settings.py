"""The settings of SAC. The defaults are those of Stable-Baselines3, except for 1,000 random steps at the start instead
of 100."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.errors import UserError
from peerage.learners.off_policy_settings import OffPolicySettings


@dataclass(frozen=True)
class SACSettings(OffPolicySettings):
    """Settings of SAC, named as in Stable-Baselines3."""

    structural = (
        "net_arch",
        "batch_size",
        "buffer_size",
        "learning_starts",
        "train_freq",
        "gradient_steps",
        "target_update_interval",
        "use_sde",
    )

    sb3_defaults = {"learning_starts": 100}  # noqa: RUF012

    net_arch: tuple[int, ...] = (256, 256)
    learning_starts: int = 1_000
    target_update_interval: int = limited(1, "[1, inf)")
    """Gradient steps between updates of the target networks."""
    use_sde: bool = False
    """Use generalised state-dependent exploration (gSDE)."""
    log_std_init: float = -3.0
    """Initial log standard deviation of the actions; sac: of gSDE."""
    ent_coef: str = "auto"
    """Entropy coefficient. sac: auto (learned, initially 1), auto_0.1 (learned, initially 0.1) or a fixed number; ppo:
    a fixed number."""

    def __post_init__(self) -> None:
        if not _is_ent_coef(self.ent_coef):
            raise UserError(f"--ent-coef must be auto, auto_X with X above 0, or a number >= 0, got {self.ent_coef!r}")

    @property
    def automatic_entropy(self) -> bool:
        """Whether the entropy coefficient is learned."""
        return self.ent_coef.startswith("auto")

    @property
    def initial_ent_coef(self) -> float:
        """The initial entropy coefficient: `auto` -> 1, `auto_0.1` -> 0.1, `0.2` -> 0.2."""
        return 1.0 if self.ent_coef == "auto" else float(self.ent_coef.removeprefix("auto_"))

    @property
    def stack_key(self) -> tuple[Any, ...]:
        """Members with a fixed and with an automatic entropy coefficient cannot share a stack."""
        return (*super().stack_key, self.automatic_entropy)


def _is_ent_coef(text: str) -> bool:
    if text == "auto":
        return True
    start = text.removeprefix("auto_")
    try:
        value = float(start)
    except ValueError:
        return False
    return math.isfinite(value) and (value > 0 if start != text else value >= 0)


LEARNERS.register(
    LearnerMethod(
        "sac",
        "peerage.learners.sac:SAC",
        SACSettings,
        actions=("box",),
        takes_critic=True,
        is_default=True,
        imitates=True,
    )
)
