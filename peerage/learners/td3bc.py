"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): TD3 on a dataset, with behaviour cloning in the policy loss.

Equations and settings: docs/methods/offline.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from peerage.learners.base import Space, column
from peerage.learners.offline import DataReplay, set_statistics
from peerage.learners.replay import Batch, Replay
from peerage.learners.streams import StreamKey
from peerage.learners.td3 import TD3
from peerage.learners.td3bc_settings import TD3BCSettings
from peerage.offline.trajectories import Trajectories


class TD3BC(TD3):
    """`S` TD3+BC agents. `data` are the episodes to learn from; None: they only act, with loaded parameters."""

    settings: Sequence[TD3BCSettings]

    def __init__(
        self,
        settings: Sequence[TD3BCSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        data: Trajectories | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.trajectories = data
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        self.bc_alpha = column(settings, lambda s: s.bc_alpha, self.actor.flat)[:, 0]
        self.normalises = False  # the statistics are those of the data and do not change
        if self.normalisation is not None and self.normalisation.obs is not None and data is not None:
            set_statistics(self.normalisation.obs, data.obs)

    def make_replay(self, capacity: int) -> Replay:
        if self.trajectories is None:
            return super().make_replay(capacity)
        return DataReplay(self.trajectories, self.stored, self.device, self.dtype)

    def actor_loss(self, batch: Batch) -> Tensor:
        """`L = mean_B (pi(s) - a)^2 - lambda mean_B Q_1(s, pi(s))`, `[S]`, with `lambda = alpha / mean_B |Q_1(s,
        pi(s))|`, which has no gradient, and actions in [-1, 1]."""
        actions = self.actor(batch.obs, grad=True).tanh()
        q = self.critic(torch.cat((batch.obs, actions), dim=-1), only_first=True)[:, 0]  # [S, B]
        weight = self.bc_alpha / q.detach().abs().mean(dim=1)
        cloning = (actions - batch.actions).square().mean(dim=(1, 2))
        self.means.add("loss/cloning", cloning)
        self.means.add("error/action", (actions.detach() - batch.actions).abs().mean(dim=(1, 2)))
        return cloning - weight * q.mean(dim=1)
