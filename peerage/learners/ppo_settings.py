"""The settings of PPO. The defaults are those of Stable-Baselines3."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from peerage.config.fields import limited, one_of
from peerage.config.methods import LEARNERS, NETS, LearnerMethod, LearnerSettings
from peerage.errors import UserError


@dataclass(frozen=True)
class PPOSettings(LearnerSettings):
    """Settings of PPO, named as in Stable-Baselines3, except `update_epochs` (there `n_epochs`)."""

    structural = (
        "net",
        "net_settings",
        "net_arch",
        "n_envs",
        "n_steps",
        "batch_size",
        "update_epochs",
        "normalize_obs",
        "normalize_reward",
    )

    net: str = one_of("mlp", NETS)
    """Kind of network of the actor and the critic. cnn is for images, for which it is the default; the others are for
    flat observations."""
    max_grad_norm: float = 0.5
    n_envs: int = limited(1, "[1, 4096]")
    """Environments per member, which step together. Steps are counted over all of them: one step of each of 8
    environments is 8 steps. Values above 1 need --sharing none."""
    n_steps: int = limited(2048, "[1, inf)")
    """Steps of each environment between updates (the length of a rollout). Typical: 16 to 2048."""
    batch_size: int = limited(64, "[1, inf)")
    """Transitions per minibatch; it must divide n_steps * n_envs."""
    update_epochs: int = limited(10, "[1, inf)")
    """Passes over the rollout in each update."""
    gae_lambda: float = limited(0.95, "[0, 1]")
    """Factor of generalised advantage estimation between bias (0) and variance (1)."""
    clip_range: float = limited(0.2, "(0, inf)")
    """Clipping of the probability ratio to [1 - clip_range, 1 + clip_range]. Typical: 0.1 to 0.4."""
    clip_range_vf: float = limited(0.0, "[0, inf)")
    """Clipping of the change of the value function; 0: none. It depends on the scale of the rewards."""
    normalize_advantage: bool = True
    """Normalise the advantages of each minibatch to mean 0 and standard deviation 1."""
    ent_coef: str = "0"
    """Weight of the entropy in the loss, a number."""
    vf_coef: float = limited(0.5, "[0, inf)")
    """Weight of the value loss."""
    target_kl: float = limited(0.0, "[0, inf)")
    """A member ends an update when the approximate KL divergence of a minibatch exceeds 1.5 times this value; 0: no
    limit."""
    anneal_lr: bool = False
    """Decrease the learning rate linearly to 0 over the run."""
    anneal_clip: bool = False
    """Decrease clip_range linearly to 0 over the run."""
    log_std_init: float = 0.0
    """Initial log standard deviation of the actions (Box)."""
    normalize_obs: bool = False
    """Normalise observations by the running mean and standard deviation of the earlier rollouts, clipped to
    [-10, 10]."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return, clipped to [-10, 10]."""
    advised_steps: Literal["skip", "learn"] = "skip"
    """How the policy loss treats steps in which the member followed another adviser. skip: it leaves them out; learn:
    it treats the action as the member's own. The value function learns from all steps."""

    @property
    def rollout_size(self) -> int:
        """Steps of a member between updates."""
        return self.n_steps * self.n_envs

    def __post_init__(self) -> None:
        try:
            valid = math.isfinite(float(self.ent_coef)) and float(self.ent_coef) >= 0
        except ValueError:
            valid = False
        if not valid and not self.ent_coef.startswith("auto"):
            raise UserError(f"--ent-coef must be a number >= 0, got {self.ent_coef!r}")

    def check(self) -> None:
        if self.learning_starts:
            raise UserError("--learning-starts has no effect on ppo, which learns from its own actions: remove it")
        if self.ent_coef.startswith("auto"):
            raise UserError(f"--ent-coef {self.ent_coef} is for sac; ppo needs a number >= 0")
        rollout = self.rollout_size
        if rollout % self.batch_size:
            raise UserError(
                f"--batch-size {self.batch_size} does not divide the rollout of ppo, {self.n_steps} steps x "
                f"{self.n_envs} environments = {rollout}: use {_nearest_divisor(rollout, self.batch_size)}"
            )
        if rollout == 1 and self.normalize_advantage:
            raise UserError("a rollout of a single transition cannot be normalised: increase --n-steps")


def _nearest_divisor(number: int, near: int) -> int:
    divisors = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return min({*divisors, *(number // d for d in divisors)}, key=lambda d: (abs(d - near), -d))


LEARNERS.register(
    LearnerMethod("ppo", "peerage.learners.ppo:PPO", PPOSettings, on_policy=True, has_action_value=False, images=True)
)
