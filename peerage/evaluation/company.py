"""Evaluation in company: what the members of a run earn while they ask each other and their fixed advisers.

The group goes on living as in its training, from its newest checkpoint: whoever may choose chooses whom to follow, and
trust goes on learning from what that brings. But nobody learns to act any more, and nobody explores in
acting. So this shows what
advice is worth to those who have learned, and whether they notice who lies to them: `peerage evaluate RUN --advised`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from peerage.envs.vector import EnvGroup, Episode, Maker
from peerage.errors import UserError
from peerage.evaluation.evaluate import MAX_STEPS

if TYPE_CHECKING:
    from peerage.training.trainer import Trainer


def advised_episodes(
    trainer: Trainer, env: Maker, env_args: Mapping[str, Any], episodes: int, seed: int
) -> list[tuple[int, int, Episode]]:
    """(member, episode number, episode) for the first `episodes` of every member of a restored `trainer`, which is no
    good for training after that. Every member's environment begins with `seed` and runs on by its own generator; one
    that changes under way is what it was when the training stopped.

    Raises UserError for episodes that do not end.
    """
    trainer.envs.close()
    trainer.envs = EnvGroup(env, dict(env_args), [seed] * trainer.group.M)
    trainer.envs.set_clock(trainer.step, running=False)
    trainer.sharing.reset(np.ones(trainer.group.M, bool))
    trainer.begin()
    found: list[list[Episode]] = [[] for _ in range(trainer.group.M)]
    steps = 0
    while min(map(len, found)) < episodes:
        for episode in trainer.advance(learn=False).episodes:
            found[episode.env].append(episode)
        steps += 1
        if steps == MAX_STEPS * episodes:
            raise UserError(
                f"{episodes} episodes of {trainer.spec.id} have not ended after {steps:,} steps: give the environment "
                "a time limit"
            )
    return [(m, e, episode) for m, mine in enumerate(found) for e, episode in enumerate(mine[:episodes])]
