"""No sharing: every member learns alone. The baseline for advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peerage.learners.group import Group
from peerage.learners.transition import Transition
from peerage.trust.signals import Signal


class NoSharing:
    """The interface of `peerage.sharing.advice.Advice` for members without advisers."""

    def __init__(self, group: Group) -> None:
        self.group = group
        # [M E]: every member follows itself
        self.followed = np.tile(np.arange(group.N), group.R).repeat(group.E)
        self.following = torch.tensor(self.followed, device=group.device)
        self.chose = np.zeros(group.M * group.E, bool)
        self.signals: dict[str, Signal] = {}
        self.label = self.label_weight = None

    def act(
        self, obs: Tensor, host_obs: np.ndarray, episode_start: np.ndarray, step: int, *, greedy: bool = False
    ) -> Tensor:
        """Actions `[M E, act]` for environment step `step` (1, 2, ...)."""
        if greedy:
            return self.group.mode(obs.unsqueeze(1)).squeeze(1)
        actions = self.group.own_suggestions(obs, self.group.draw())
        if self.group.E > 1:  # on-policy learners, which neither explore nor take random actions at the start
            return actions
        actions = self.group.explore(actions, step)
        warm = step <= self.group.learning_starts
        if warm.any():
            mask = torch.as_tensor(warm, device=obs.device).unsqueeze(1)
            actions = torch.where(mask, self.group.warmup_actions(), actions)
        return actions

    def observe(self, transition: Transition) -> None:
        pass

    def reset(self, who: np.ndarray) -> None:
        pass

    def after_step(self, step: int) -> None:
        pass

    def catch_up(self) -> None:
        pass

    def reset_counts(self) -> None:
        pass

    def advice_rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return []

    def metrics(self) -> list[tuple[int, int, str, float]]:
        return []

    def schedules(self) -> list[str]:
        return []

    def lengthened(self, state: dict[str, Any], total_steps: int) -> dict[str, Any]:
        return state

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass
