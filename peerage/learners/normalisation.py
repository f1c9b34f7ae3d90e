"""Normalisation of observations and rewards by running statistics, as in VecNormalize of Stable-Baselines3.

Each member of each replica has its own statistics. They are part of its policy: checkpoints contain them, and only
training changes them. See docs/normalisation.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerage.learners.replay import Batch
from peerage.nets.stacked import Rows

CLIP = 10.0
"""Normalised observations and rewards are clipped to [-CLIP, CLIP]."""
EPSILON = 1e-8
"""Added to variances."""
INITIAL_COUNT = 1e-4
"""Weight of the initial mean 0 and variance 1, in samples."""


class RunningMoments:
    """The mean and variance of all samples so far of each of `S` members: `mean, var [S, D]`, `count [S, 1]`, all
    float64."""

    def __init__(self, rows: int, width: int, device: torch.device | str = "cpu") -> None:
        like: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.mean, self.var = torch.zeros(rows, width, **like), torch.ones(rows, width, **like)
        self.count = torch.full((rows, 1), INITIAL_COUNT, **like)

    def update(self, samples: Tensor, who: Tensor) -> None:
        """Add `samples [S, B, D]` of the members `who [S]` (bool) by the parallel update of Chan, Golub and LeVeque
        (1979)."""
        samples, size = samples.to(torch.float64), samples.shape[1]
        delta, total = samples.mean(dim=1) - self.mean, self.count + size
        squares = self.var * self.count + samples.var(dim=1, correction=0) * size
        squares += delta.square() * self.count * size / total
        who = who.unsqueeze(1)
        # In place: `tensors` are views
        self.mean.copy_(torch.where(who, self.mean + delta * size / total, self.mean))
        self.var.copy_(torch.where(who, squares / total, self.var))
        self.count.copy_(torch.where(who, total, self.count))

    def std(self) -> Tensor:
        """Standard deviations `[S, D]`, float64."""
        return (self.var + EPSILON).sqrt()

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {f"{name}_mean": self.mean, f"{name}_var": self.var, f"{name}_count": self.count}


class Normalisation:
    """Running statistics of the observations, the discounted returns, or both, of the `S` members of a stack.

    `obs`: normalise observations, `(o - mean) / std`. `reward`: divide rewards by the standard deviation of the running
    return `G = gamma G + r`, which starts again with each episode. `gamma [S, 1]`. Each member has
    `envs` environments.
    """

    def __init__(self, obs_dim: int, gamma: Tensor, *, obs: bool, reward: bool, envs: int = 1) -> None:
        rows, device = len(gamma), gamma.device
        self.obs = RunningMoments(rows, obs_dim, device) if obs else None
        self.returns = RunningMoments(rows, 1, device) if reward else None
        self.gamma = gamma.to(torch.float64)
        self.running_return = torch.zeros(rows, envs, dtype=torch.float64, device=device)

    def see(self, obs: Tensor, rewards: Tensor | None, done: Tensor | None, who: Tensor) -> None:
        """Update the statistics of the members `who [S]` (bool) with the observations that they act on next, `obs
        [S, obs]`, and the result of the step before, `rewards [S]` and `done [S]` (bool); None before the first
        step."""
        if self.obs is not None:
            self.obs.update(obs.unsqueeze(1), who)
        if self.returns is not None and rewards is not None and done is not None:
            self.running_return = self.running_return * self.gamma + rewards.unsqueeze(1)
            self.returns.update(self.running_return.unsqueeze(1), who)
            self.running_return = torch.where(done.unsqueeze(1), 0.0, self.running_return)

    def see_obs(self, obs: Tensor, who: Tensor) -> None:
        """Update the statistics of observations with `obs [S, B, obs]` of the members `who [S]` (bool)."""
        if self.obs is not None:
            self.obs.update(obs, who)

    def see_rewards(self, rewards: Tensor, done: Tensor, who: Tensor) -> Tensor:
        """Update the statistics of returns with the next steps of all environments, `rewards [S, T, E]` and
        `done [S, T, E]` (bool), and return the normalised rewards; `who` as in `see_obs`."""
        if self.returns is None:
            return rewards
        running, seen = self.running_return, []
        for reward, ended in zip(rewards.unbind(1), done.unbind(1), strict=True):
            running = running * self.gamma + reward
            seen.append(running)
            running = torch.where(ended, 0.0, running)
        self.running_return = running
        self.returns.update(torch.stack(seen, dim=1).flatten(1).unsqueeze(2), who)
        return (rewards / self.returns.std().unsqueeze(2)).clamp_(-CLIP, CLIP).to(rewards.dtype)

    def normalised(self, obs: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Normalised observations of the members `rows`: `obs [s, B, obs]` -> `[s, B, obs]`."""
        if self.obs is None:
            return obs
        mean, std = self.obs.mean[rows].unsqueeze(1), self.obs.std()[rows].unsqueeze(1)
        return ((obs - mean) / std).clamp_(-CLIP, CLIP).to(obs.dtype)

    def normalise_(self, batch: Batch) -> Batch:
        """Normalise the observations and rewards of a batch in place."""
        if self.obs is not None:
            batch.obs.copy_(self.normalised(batch.obs))
            batch.next_obs.copy_(self.normalised(batch.next_obs))
        if self.returns is not None:
            batch.rewards.copy_((batch.rewards / self.returns.std()).clamp_(-CLIP, CLIP))
        return batch

    def in_reward_units(self, values: Tensor) -> Tensor:
        """Values of normalised rewards in the units of the environment's rewards: `values [S, ...]`."""
        if self.returns is None:
            return values
        return (values * self.returns.std().view(-1, *[1] * (values.ndim - 1))).to(values.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """The statistics by name, as views `[S, D]`."""
        of_obs = {} if self.obs is None else self.obs.tensors("obs")
        return of_obs | ({} if self.returns is None else self.returns.tensors("return"))
