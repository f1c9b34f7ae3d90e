"""Evaluation: every member by itself, on environments of its own, with seeds that are the same in every run.

Members act by the mode of their policy and ask nobody, so that two runs, and two members, compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from peerage.envs.catalogue import is_known
from peerage.envs.vector import EnvGroup, Episode, Maker
from peerage.errors import UserError
from peerage.learners.group import Group

SEED = 1_000_003
"""Episode e of an evaluation is seeded with SEED + e, for every member, evaluation and run."""

MAX_STEPS = 100_000
"""An episode that is longer than this is taken for one that never ends."""


class Evaluator:
    """`episodes` episodes of each of the `M` members of a group, all at once: one batched forward a step."""

    def __init__(self, env: Maker, env_args: dict[str, Any], group: Group, episodes: int, seed: int = SEED) -> None:
        self.env, self.env_args, self.group, self.episodes, self.seed = env, env_args, group, episodes, seed
        self.envs: EnvGroup | None = None

    def run(
        self, trained: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> list[tuple[int, int, Episode]] | None:
        """(member, episode number, episode) for every member and episode; None if `stop()` became true under way.

        An environment that changes under way is what it is after `trained` steps of training, for the whole evaluation.
        """
        try:
            return self._run(trained, stop)
        except UserError as error:
            raise UserError(f"in an evaluation after {trained:,} steps: {error}") from error

    def _run(self, trained: int, stop: Callable[[], bool]) -> list[tuple[int, int, Episode]] | None:
        M, E = self.group.M, self.episodes
        if self.envs is not None and not is_known(self.envs.spec.id):
            self.envs.close()  # it may remember its earlier episodes, and a resumed run would not
            self.envs = None
        if self.envs is None:
            self.envs = EnvGroup(self.env, self.env_args, [self.seed + e for e in range(E)] * M)
        self.envs.set_clock(trained, running=False)
        obs = self.envs.reset(reseed=True)
        pending, steps = np.ones(M * E, bool), 0
        results: list[tuple[int, int, Episode]] = []
        while pending.any():
            if stop():
                return None
            tensor = torch.as_tensor(obs, device=self.group.device, dtype=self.group.dtype).view(M, E, -1)
            actions = self.group.mode(tensor).view(M * E, -1).cpu().numpy()
            step = self.envs.step(actions[:, 0].astype(np.int64) if self.envs.discrete else actions, only=pending)
            for episode in step.episodes:
                pending[episode.env] = False
                results.append((episode.env // E, episode.env % E, episode))
            obs, steps = step.obs, steps + 1
            if steps == MAX_STEPS and pending.any():
                raise UserError(
                    f"an evaluation episode of {self.envs.spec.id} has not ended after {MAX_STEPS:,} steps: "
                    "give the environment a time limit, or use --eval-freq 0"
                )
        return sorted(results, key=lambda row: row[:2])

    def close(self) -> None:
        if self.envs is not None:
            self.envs.close()
