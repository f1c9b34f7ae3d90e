"""Evaluation with advice from a checkpoint: what the members of a run earn while they ask each other and their fixed
advisers (`peerage evaluate RUN --advised`).

The group continues from its newest checkpoint as in its training: members choose whom to follow, and their trust goes
on learning from the outcome. The members themselves neither learn nor explore. So the result shows what advice is worth
to trained members, and whether they detect advisers that give wrong advice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peerage.envs.make import EnvMaker
from peerage.envs.vector import EnvGroup, Step
from peerage.evaluation.actors import TogetherActor
from peerage.evaluation.evaluate import Played, play
from peerage.training.trainer import Trainer


class LearningTrustActor(TogetherActor):
    """A group that acts together while its trust learns and its clock runs; `step` steps were made before."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.step += 1
        return super().act(obs)

    def observe_step(self, step: Step) -> None:
        self.group.observe(self.transition(step))
        super().observe_step(step)
        self.sharing.after_step(self.step)


def advised_episodes(trainer: Trainer, makers: Sequence[EnvMaker], episodes: int, seed: int) -> Played:
    """(member, episode number, episode) for the first `episodes` episodes of every member of a restored `trainer`,
    which cannot be used for training afterwards.

    `makers`: one for each of the M members. The environment of every member starts with `seed` and continues its own
    generator; environments that change during a run are in their state at the end of the training. Raises UserError
    for episodes that do not end.
    """
    envs = EnvGroup(makers, [seed] * trainer.group.M, success=trainer.config.run.success)
    try:
        envs.set_clock(trainer.step, running=False)
        actor = LearningTrustActor(trainer.group, trainer.sharing, trainer.step)
        return play(envs, actor, episodes, rest=False) or []
    finally:
        envs.close()
