"""Behaviour cloning for all members of a stack at once: supervised learning of the actions of a dataset.

Equations and settings: docs/methods/offline.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from peerage.learners.base import BoxScale, Space
from peerage.learners.bc_settings import BCSettings
from peerage.learners.offline import Data, OfflineLearner, fixed_statistics
from peerage.learners.streams import StreamKey
from peerage.nets.stacked import Rows, StackedMLP
from peerage.offline.trajectories import Trajectories


class BC(OfflineLearner):
    """`S` cloned policies. The network's outputs are actions in [-1, 1] for Box, and the logits of Discrete actions."""

    settings: Sequence[BCSettings]

    def __init__(
        self,
        settings: Sequence[BCSettings],
        stream_keys: Sequence[StreamKey],
        space: Space,
        total_steps: int,
        *,
        data: Trajectories | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(settings, stream_keys, space, total_steps, data=data, device=device, dtype=dtype)
        inputs = None if data is None else self.inputs(data)
        width = self.inputs_width()
        sizes = (width, *settings[0].net_arch, space.n_actions if space.discrete else space.act_dim)
        self.net = StackedMLP(self.rows, sizes, device=device, dtype=dtype)
        self.net.init_([key.generator("init") for key in stream_keys])
        self.optimizer = self.adam("policy", self.net.flat, self.net.grad)
        if settings[0].normalize_obs:
            self.normalisation = fixed_statistics(inputs, width, self.net.flat)
        if not space.discrete:
            self.box = BoxScale(space, device, dtype)
        if data is not None and inputs is not None:
            self.data = Data(device, dtype, inputs=inputs, actions=data.actions)

    def inputs(self, data: Trajectories) -> np.ndarray:
        """The inputs of the network in every step of the data, `[T, width]`."""
        return data.obs

    def inputs_width(self) -> int:
        """The number of inputs of the network."""
        return self.space.obs_dim

    @torch.no_grad()
    def suggest(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The cloned action `[S, B, act]`; for Discrete actions the one with the largest logit. `noise` is not used."""
        return self.suggest_rows(obs, noise, slice(None))

    @torch.no_grad()
    def suggest_rows(self, obs: Tensor, noise: Tensor | None, rows: Rows) -> Tensor:
        return self.acted(obs, rows)

    @torch.no_grad()
    def acted(self, inputs: Tensor, rows: Rows = slice(None)) -> Tensor:
        """The actions of the members `rows` for `inputs [s, B, width]` of their networks: `[s, B, act]`."""
        out = self.net(self.normalised(inputs, rows), rows=rows)
        if self.space.discrete:
            return out.argmax(dim=-1, keepdim=True).to(self.dtype)
        return self.box.to_env(out.clamp(-1, 1))

    def learn(self, step: int) -> None:
        batch = self.data.sample(self.streams["data"].next())
        self.update(self.normalised(batch["inputs"]), batch["actions"])

    def loss(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """The loss `[S]` for normalised `inputs [S, B, width]` and the actions of the data `[S, B, act]`: mean squared
        error of the actions in [-1, 1], or mean cross-entropy."""
        out = self.net(inputs, grad=True)
        if self.space.discrete:
            index = actions[..., 0].long()
            self.means.add("error/action", (out.detach().argmax(dim=-1) != index).to(out.dtype).mean(dim=1))
            return F.cross_entropy(out.flatten(0, 1), index.flatten(), reduction="none").view(index.shape).mean(dim=1)
        error = out - self.box.from_env(actions)
        self.means.add("error/action", error.detach().abs().mean(dim=(1, 2)))
        return error.square().mean(dim=(1, 2))

    def update(self, inputs: Tensor, actions: Tensor) -> None:
        """One gradient step; `inputs` and `actions` as in `loss`."""
        loss = self.loss(inputs, actions)
        self.step(self.optimizer, loss)
        self.means.add("loss/actor", loss)

    def batch_floats(self) -> int:
        return self.settings[0].batch_size * (2 * self.net.activations + self.rows * self.inputs_width())

    def parameters(self) -> dict[str, Tensor]:
        return {**super().parameters(), "policy": self.net.flat}
