"""Actors of members that act alone, without advice."""

from __future__ import annotations

import numpy as np
import torch

from peerage.evaluation.evaluate import Actor
from peerage.learners.group import Group


class GroupActor(Actor):
    """Every member acts alone, with the mode of its policy. Each step is one batched forward pass for all members and
    episodes."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def act(self, obs: np.ndarray) -> np.ndarray:
        """`obs [M * E, obs]`, with the E episodes of a member in consecutive rows -> actions."""
        tensor = torch.as_tensor(obs, device=self.group.device, dtype=self.group.dtype)
        actions = self.group.mode(tensor.view(self.group.M, -1, tensor.shape[1]))
        return for_envs(actions.view(len(obs), -1).cpu().numpy(), self.group)


class MemberActor(Actor):
    """One member acts alone, with the mode of its policy. `row`: `replica * n_peers + member`."""

    def __init__(self, group: Group, row: int) -> None:
        self.group, self.row = group, row

    def act(self, obs: np.ndarray) -> np.ndarray:
        """`obs [n, obs]` -> actions."""
        batch = torch.as_tensor(obs, dtype=self.group.dtype, device=self.group.device)
        return for_envs(self.group.mode_of(self.row, batch).cpu().numpy(), self.group)


def for_envs(actions: np.ndarray, group: Group) -> np.ndarray:
    """Convert actions `[n, act]` of the group for `EnvGroup.step`."""
    return actions[:, 0].astype(np.int64) if group.space.discrete else actions
