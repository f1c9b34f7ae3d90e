"""Twin Q-functions of all members of a stack, for SAC and TD3, and the interface of critics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Space
from peerage.nets.stacked import StackedMLP

N_CRITICS = 2


class Critic(Protocol):
    """Two Q-functions per member."""

    flat: Tensor  # [S, 2 P], all parameters of a member
    grad: Tensor  # [S, 2 P]

    def __call__(self, obs_actions: Tensor, *, grad: bool = False, only_first: bool = False) -> Tensor:
        """`[S, B, obs + act]` (actions in [-1, 1]) -> `[S, 2, B]`; `[S, 1, B]`, the first critic, with `only_first`.
        With `grad`, the backward pass accumulates gradients of the parameters."""
        ...

    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        """Initialise the parameters of every member with its own generator."""
        ...

    def copy_(self, other: Any) -> None:
        """Copy the parameters of another critic of this kind."""
        ...

    def lerp_(self, online: Any, tau: Tensor) -> None:
        """Soft update `self += tau (online - self)`; `tau [S, 1]`."""
        ...


class CriticFactory(Protocol):
    """Makes the critics of `rows` members."""

    def __call__(
        self,
        rows: int,
        space: Space,
        net_arch: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Critic: ...


class TwinCritic:
    """Two Q-networks per member as one stack of `2 S` rows; row `2 s + k` is critic `k` of member `s`.

    `flat` and `grad` are `[S, 2 P]`, so that gradient norms and checks for finite values are per member, over both
    critics.
    """

    def __init__(
        self,
        rows: int,
        space: Space,
        net_arch: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows = rows
        sizes = (space.obs_dim + space.act_dim, *net_arch, 1)
        self.net = StackedMLP(rows * N_CRITICS, sizes, device=device, dtype=dtype)
        self.flat = self.net.flat.view(rows, -1)
        self.grad = self.net.grad.view(rows, -1)

    def __call__(self, obs_actions: Tensor, *, grad: bool = False, only_first: bool = False) -> Tensor:
        """`[S, B, obs + act]` (actions in [-1, 1]) -> `[S, 2, B]`; `[S, 1, B]`, the first critic, with `only_first`."""
        if only_first:
            return self.net(obs_actions, grad=grad, rows=slice(None, None, N_CRITICS)).transpose(1, 2)
        rows, size, width = obs_actions.shape
        x = obs_actions.unsqueeze(1).expand(rows, N_CRITICS, size, width).reshape(rows * N_CRITICS, size, width)
        return self.net(x, grad=grad).view(rows, N_CRITICS, size)

    def init_(self, generators: Sequence[np.random.Generator]) -> None:
        self.net.init_([rng for rng in generators for _ in range(N_CRITICS)])

    def copy_(self, other: TwinCritic) -> None:
        self.net.copy_(other.net)

    def lerp_(self, online: TwinCritic, tau: Tensor) -> None:
        """Soft update; `tau [S, 1]`."""
        self.flat.lerp_(online.flat, tau)
