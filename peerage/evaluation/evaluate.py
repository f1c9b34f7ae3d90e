"""Evaluation episodes: an actor plays environments of its own, with seeds that are the same in every run.

    evaluator = Evaluator([EnvMaker("Room-v21")] * group.M, episodes=10)
    for member, number, episode in evaluator.run(GroupActor(group)): ...

What acts is an `Actor`, so that policies with a memory, with targets or with advisers are evaluated by the same code.
The evaluator itself does not know groups or learners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from peerage.envs.catalogue import is_known
from peerage.envs.make import EnvMaker
from peerage.envs.success import SuccessRule
from peerage.envs.vector import EnvGroup, Episode, Step
from peerage.errors import UserError

SEED = 1_000_003
"""Episode e of an evaluation is seeded with SEED + e, for every member, evaluation, mode and run."""

MAX_STEPS = 100_000
"""Steps after which an evaluation episode counts as endless."""

Played = list[tuple[int, int, Episode]]
"""(row, episode number from 0, episode), sorted by row and number."""


class Actor:
    """What is evaluated: it chooses the actions of `n` rows of episodes. Override `act`, and the rest as needed.

    The evaluator calls `begin`, then `act` and `observe` in turn until all episodes have ended.
    """

    parallel = True
    """True: the episodes of a member are independent and run at the same time, each in a row of its own. False: there
    is one row for each member, in which its episodes follow one another."""

    def begin(self, n: int) -> None:
        """An evaluation begins: `n` rows start their first episodes."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """`obs [n, obs]` float32 -> actions as `EnvGroup.step` takes them: int `[n]` for Discrete, float32 `[n, act]`
        in the environment's units for Box. Rows whose episodes are over get an action too; it is ignored."""
        raise NotImplementedError

    def observe(self, rewards: np.ndarray, done: np.ndarray) -> None:
        """The actions gave `rewards [n]` (float32; 0 in rows whose episodes are over). `done [n]` (bool): the episode
        of this row ended in this step, and the next observation is the first one of another episode."""

    def observe_step(self, step: Step) -> None:
        """Called after every step. Override this method instead of `observe` if the actor also needs the true next
        observations, or whether an episode terminated or was truncated."""
        self.observe(step.reward, step.done)


def play(
    envs: EnvGroup, actor: Actor, episodes: int, *, rest: bool, stop: Callable[[], bool] = lambda: False
) -> Played | None:
    """The first `episodes` episodes of every row of `envs`, with the actions of `actor`; None once `stop()` is true.

    `rest`: an environment stops after its last episode. Otherwise all step until every row has its episodes, as in a
    training. Raises UserError if that takes more than `MAX_STEPS` steps for each episode.
    """
    obs = envs.reset(reseed=True)
    actor.begin(envs.n)
    counts, steps = np.zeros(envs.n, np.int64), 0
    played: Played = []
    while (pending := counts < episodes).any():
        if stop():
            return None
        if steps == MAX_STEPS * episodes:
            name = envs.names[int(np.flatnonzero(pending)[0])]
            what = "an evaluation episode" if episodes == 1 else f"{episodes} evaluation episodes"
            raise UserError(
                f"{what} of {name} did not end within {steps:,} steps: give the environment a time limit, or use "
                "--eval-freq 0"
            )
        step = envs.step(actor.act(obs), only=pending if rest else None)
        for episode in step.episodes:
            if pending[episode.env]:
                played.append((episode.env, int(counts[episode.env]), episode))
                counts[episode.env] += 1
        actor.observe_step(step)
        obs, steps = step.obs, steps + 1
    return sorted(played, key=lambda entry: entry[:2])


class Evaluator:
    """Plays `episodes` episodes of each member, on environments that `makers` build: one maker for each member.

    Episode e is seeded with `seed + e`. `success` says how the success of an episode follows from its steps.
    """

    def __init__(
        self, makers: Sequence[EnvMaker], episodes: int, seed: int = SEED, success: SuccessRule = "last"
    ) -> None:
        self.makers, self.episodes, self.seed, self.success = list(makers), episodes, seed, success
        self.envs: dict[bool, EnvGroup] = {}  # by `Actor.parallel`

    def run(self, actor: Actor, trained: int = 0, stop: Callable[[], bool] = lambda: False) -> Played | None:
        """(member, episode number, episode) for every member and episode; None if `stop()` became true meanwhile.

        Environments that change during a run are in their state after `trained` steps of training, for the whole
        evaluation. Raises UserError if an environment fails or an episode does not end.
        """
        try:
            envs = self._envs(actor.parallel)
            envs.set_clock(trained, running=False)
            played = play(envs, actor, 1 if actor.parallel else self.episodes, rest=actor.parallel, stop=stop)
        except UserError as error:
            raise UserError(f"in an evaluation after {trained:,} steps: {error}") from error
        if played is None or not actor.parallel:
            return played
        return [(*divmod(row, self.episodes), episode) for row, _, episode in played]

    def _envs(self, parallel: bool) -> EnvGroup:
        envs = self.envs.get(parallel)
        if envs is not None and not all(map(is_known, envs.names)):
            envs.close()  # other environments may carry something over between evaluations, which a resume would lose
            envs = None
        if envs is None:
            seeds = [self.seed + e for e in range(self.episodes)]
            if parallel:
                makers = [maker for maker in self.makers for _ in seeds]
                envs = EnvGroup(makers, seeds * len(self.makers), success=self.success)
            else:
                envs = EnvGroup(self.makers, [seeds] * len(self.makers), success=self.success)
            self.envs[parallel] = envs
        return envs

    def close(self) -> None:
        """Close the environments."""
        for envs in self.envs.values():
            envs.close()
        self.envs = {}
