"""The transitions between two updates of an on-policy learner, and generalised advantage estimation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peerage.learners.transition import Transition


class Rollout:
    """`T` steps of `E` environments of each of `S` members. Observations that are images are stored as bytes."""

    budget_part = "rollouts"

    def __init__(
        self,
        rows: int,
        steps: int,
        envs: int,
        obs_dim: int,
        act_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        images: bool = False,
    ) -> None:
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        seen: dict[str, Any] = {"device": device, "dtype": torch.uint8 if images else dtype}
        self.rows, self.steps, self.envs = rows, steps, envs
        self.obs = torch.zeros(rows, steps, envs, obs_dim, **seen)
        self.next_obs = torch.zeros(rows, steps, envs, obs_dim, **seen)
        """The observations that followed the actions: the true last ones where an episode ended."""
        self.actions = torch.zeros(rows, steps, envs, act_dim, **like)
        """The actions as chosen, before they were clipped to the box."""
        self.rewards = torch.zeros(rows, steps, envs, **like)
        self.terminated = torch.zeros(rows, steps, envs, **like)
        self.truncated = torch.zeros(rows, steps, envs, **like)
        self.own = torch.ones(rows, steps, envs, **like)
        """1 where the member followed itself."""
        self.cut: list[int] = []
        """The steps in which an episode of any member was truncated, in increasing order."""
        self.size = 0
        """Number of stored steps."""

    @property
    def full(self) -> bool:
        return self.size == self.steps

    def add(self, t: Transition, own: Tensor) -> None:
        """Append one step of all environments, `[S * E]` rows; `own` bool."""
        k, shape = self.size, (self.rows, self.envs)
        self.obs[:, k] = t.obs.view(*shape, -1)
        self.next_obs[:, k] = t.next_obs.view(*shape, -1)
        self.actions[:, k] = t.chosen.view(*shape, -1)
        self.rewards[:, k] = t.rewards.view(shape)
        self.terminated[:, k] = t.terminated.view(shape)
        self.truncated[:, k] = t.truncated.view(shape)
        self.own[:, k] = own.view(shape).to(self.own.dtype)
        if t.host.truncated.any():
            self.cut.append(k)
        self.size += 1

    def clear(self) -> None:
        self.size, self.cut = 0, []

    def state(self) -> dict[str, Any]:
        return {**self._tensors(), "size": self.size}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, values in self._tensors().items():
            values.copy_(state[name])
        self.size = int(state["size"])
        self.cut = self.truncated[:, : self.size].amax(dim=(0, 2)).nonzero().flatten().tolist()

    def _tensors(self) -> dict[str, Tensor]:
        names = "obs", "next_obs", "actions", "rewards", "terminated", "truncated", "own"
        return {name: getattr(self, name) for name in names}


def advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: Tensor,
    lam: Tensor,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, Eq. 16), all `[S, T, E]`.

    `A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}` with
    `delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)`, where `s'_t` is the observation that followed the
    action: at a truncation, the sum ends with `r_t + gamma V(s'_t) - V(s_t)`. `gamma, lam [S, 1]`.
    """
    gamma, lam = gamma.unsqueeze(2), lam.unsqueeze(2)
    delta = rewards + gamma * (1 - terminated) * next_values - values
    decay = gamma * lam * (1 - terminated) * (1 - truncated)
    out = torch.empty_like(delta)
    last = torch.zeros_like(delta[:, 0])
    steps = zip(delta.unbind(1), decay.unbind(1), out.unbind(1), strict=True)
    for delta_t, decay_t, out_t in reversed(list(steps)):
        last = torch.addcmul(delta_t, decay_t, last, out=out_t)
    return out
