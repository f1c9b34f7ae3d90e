"""The training of offline learners: gradient steps on a dataset, without environments."""

from __future__ import annotations

from typing import Any

import torch

from peerage.config.perturbations import Perturbations
from peerage.envs.make import Maker, running_statistics
from peerage.learners.group import Group
from peerage.offline.configured import check_fits
from peerage.offline.preprocessing import described
from peerage.runs.environment import data_in_words
from peerage.training.trainer import Trainer


class OfflineTrainer(Trainer):
    """A `Trainer` whose steps are gradient steps of every member on `data`. Environments are built for evaluations
    alone. Without data, the members can act, but not learn."""

    def _make_group(self, dtype: torch.dtype) -> Group:
        if self.data is not None:
            check_fits(self.data, self.spec)
        return super()._make_group(dtype)

    def _recent(self) -> int:
        return 1  # there are no transitions

    def _make_environments(self, maker: Maker, perturbations: Perturbations) -> None:
        pass

    def environment_problem(self) -> str | None:
        env = self.evaluation_makers[0].make()
        try:
            return running_statistics(env)
        finally:
            env.close()

    def run_info(self) -> dict[str, Any]:
        words = "" if self.data is None else data_in_words(described(self.data))
        return {**super().run_info(), "data": words}

    def begin(self) -> None:
        self.begun = True

    def advance(self) -> None:  # type: ignore[override]  # there is no step of environments to return
        """One gradient step of every member."""
        self.step += self.stride
        self.group.learn(self.step)

    def notes(self) -> list[str]:
        return []

    def member_state(self, m: int) -> dict[str, Any]:
        """The networks of member `m`, for debugging."""
        return {"networks": self.group.member_parameters(m)}

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "group": self.group.state(), "sharing": self.sharing.state()}

    def load_state(self, state: dict[str, Any]) -> list[str]:
        self.load_company(state)
        return []

    def close(self) -> None:
        pass
