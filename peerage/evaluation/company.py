"""Evaluation of a run's members with advice, from a checkpoint (`peerage evaluate RUN --advised`).

The group continues from its newest checkpoint as in training: members choose advisers, and trust continues to learn
from the outcomes. The members neither learn nor explore. The result shows the benefit of advice for trained members,
and whether they detect wrong advice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peerage.envs.make import EnvMaker
from peerage.envs.vector import EnvGroup, Step
from peerage.evaluation.actors import TogetherActor
from peerage.evaluation.evaluate import Played, limit_episodes, note_on_cut, play
from peerage.training.trainer import Trainer


class LearningTrustActor(TogetherActor):
    """A group that acts with advice while trust learns and the step count advances, starting after `step` steps."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.step += 1
        return super().act(obs)

    def observe_step(self, step: Step) -> None:
        self.group.observe(self.transition(step))
        super().observe_step(step)
        self.sharing.after_step(self.step)


def advised_episodes(
    trainer: Trainer,
    makers: Sequence[EnvMaker],
    episodes: int,
    seeds: Sequence[int],
    max_steps: int | None = None,
) -> tuple[Played, str]:
    """Play `episodes` episodes of every member of a restored `trainer`, which cannot be used for training afterwards.
    Returns (member, episode number, episode), and a message about truncated episodes (see `limit_episodes`) or "".

    `makers`, `seeds`: one for each of the M members. The seed is used for the first reset of the environment; later
    episodes continue its generator. Environments that change during a run stay in their state at the end of the
    training.
    """
    envs = EnvGroup(makers, seeds, success=trainer.config.run.success)
    try:
        actor = LearningTrustActor(trainer.group, trainer.sharing, trainer.step)
        limit_episodes(envs, max_steps, actor.max_steps)
        envs.set_clock(trainer.step, running=False)
        return play(envs, actor, episodes, rest=False) or [], note_on_cut(envs, actor.max_steps)
    finally:
        envs.close()
