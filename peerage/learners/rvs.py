"""RvS-R (Emmons et al. 2021, arXiv 2112.10751): behaviour cloning of a network that also reads the average return per
remaining step.

Equations and settings: docs/methods/offline.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from peerage.learners.base import Learner, Space
from peerage.learners.bc import BC
from peerage.learners.kept import KeptStatistics, first_actions
from peerage.learners.rvs_settings import RvSSettings
from peerage.learners.streams import StreamKey
from peerage.nets.stacked import Rows
from peerage.offline.context import Conditioned
from peerage.offline.prepared import preprocessing_of
from peerage.offline.trajectories import Trajectories
from peerage.offline.windows import returns_to_go


class RvS(BC):
    """`S` policies for target returns. The inputs of a network are an observation and `R_t / (H - t)`."""

    settings: Sequence[RvSSettings]

    def __init__(
        self,
        settings: Sequence[RvSSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        data: Trajectories | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.horizon = settings[0].return_horizon
        super().__init__(settings, stream_keys, space, total_steps, data=data, device=device, dtype=dtype)
        self.kept = KeptStatistics(self.rows, space, self.horizon, device)
        if data is not None:
            self.kept.set(preprocessing_of(data, self.horizon, space.low, space.high))

    def inputs(self, data: Trajectories) -> np.ndarray:
        return np.column_stack((data.obs, self.per_step(returns_to_go(data), data.timesteps)))

    def inputs_width(self) -> int:
        return self.space.obs_dim + 1

    def per_step(self, to_go: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """The average return per remaining step: `R_t / (H - t)`; after the last step of an episode, `R_t`."""
        return to_go / np.maximum(self.horizon - timesteps, 1)

    def conditioned(self, episodes: int, *, clip: bool = False, rows: slice = slice(None)) -> RvSEpisodes:
        return RvSEpisodes(self, len(range(self.rows)[rows]) * episodes, clip=clip, rows=rows)

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The actions `[S, B, act]` in the first step of episodes whose target is the largest return of the data. For
        other steps and targets, see `conditioned`."""
        return first_actions(self.conditioned(obs.shape[1]), obs)

    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        return Learner.suggest_rows(self, obs, noise, rows)

    def parameters(self) -> dict[str, Tensor]:
        return {**super().parameters(), **self.kept.tensors}

    def statistics(self) -> dict[str, Tensor]:
        return {**super().statistics(), **self.kept.tensors}


class RvSEpisodes(Conditioned):
    """Acts with the policies of the members `rows` of a learner; other arguments as for `Conditioned`."""

    def __init__(self, learner: RvS, n: int, *, clip: bool = False, rows: slice = slice(None)) -> None:
        super().__init__(learner.kept.preprocessing(), n, clip=clip)
        self.learner, self.members, self.n_members = learner, rows, len(range(learner.rows)[rows])

    def choose(self, obs: np.ndarray, rows: np.ndarray, to_go: np.ndarray) -> np.ndarray:
        learner = self.learner
        inputs = np.column_stack((obs, learner.per_step(to_go, self.lengths[rows])))
        tensor = torch.as_tensor(inputs, device=learner.device, dtype=learner.dtype)
        found = learner.acted(tensor.unflatten(0, (self.n_members, -1)), self.members)
        return found.flatten(0, 1).cpu().numpy().astype(np.float32)
