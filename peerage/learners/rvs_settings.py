"""The settings of RvS."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod
from peerage.learners.bc_settings import BCSettings


@dataclass(frozen=True)
class RvSSettings(BCSettings):
    """Settings of RvS: those of behaviour cloning, and the length of episodes."""

    structural = (*BCSettings.structural, "return_horizon")

    return_horizon: int = limited(0, "[0, inf)")
    """Steps of an episode, for the average return per remaining step; 0: the time limit of the environment or the
    longest episode of the data, whichever is longer."""


LEARNERS.register(
    LearnerMethod(
        "rvs", "peerage.learners.rvs:RvS", RvSSettings, offline=True, has_action_value=False, takes_target=True
    )
)
