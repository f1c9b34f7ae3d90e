"""The settings of behaviour cloning, and those that all offline learners share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod, LearnerSettings


def unused(default: Any) -> Any:
    """A field of the base class that has no effect on a learner: it is not a setting of the user."""
    return field(default=default, metadata={"internal": True})


@dataclass(frozen=True)
class BCSettings(LearnerSettings):
    """Settings of behaviour cloning."""

    structural: ClassVar[tuple[str, ...]] = ("net_arch", "batch_size", "normalize_obs")

    net_arch: tuple[int, ...] = (256, 256)
    batch_size: int = limited(256, "[1, inf)")
    """Size of the batch of a gradient step: transitions of the replay buffer or the rollout, offline steps of the data,
    and for dt and ddt windows of the data. Typical: 32 to 512, offline 64 to 4096."""
    normalize_obs: bool = True
    """Standardise observations by running means and standard deviations, offline by those of the data, and clip them to
    [-10, 10] (docs/normalisation.md)."""
    gamma: float = unused(0.99)
    learning_starts: int = unused(0)
    load_paths: str = unused("none")


LEARNERS.register(LearnerMethod("bc", "peerage.learners.bc:BC", BCSettings, offline=True, has_action_value=False))
