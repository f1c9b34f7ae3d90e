"""Evaluation episodes: an actor plays separate environments. The seeds of the episodes depend on the seed of the run
and on the replica alone.

    evaluator = Evaluator([EnvMaker("Room-v21")] * group.M, episode_seeds(config, episodes=10))
    for member, number, episode in evaluator.run(GroupActor(group)): ...

The `Actor` interface supports policies with memory, with targets or with advisers. The evaluator is independent of
groups and learners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from peerage.config.tree import Config
from peerage.envs.catalogue import is_known
from peerage.envs.make import EnvMaker
from peerage.envs.success import SuccessRule
from peerage.envs.vector import EnvGroup, Episode, Step
from peerage.errors import UserError

SEED = 1_000_003
"""The seed of episode e of an evaluation is SEED + e plus a multiple of SEED_STRIDE, which depends on the seed of the
run and the replica."""
SEED_STRIDE = 1_000
SEED_SLOTS = 2_000_000
"""Number of sets of start states; their seeds stay below 2^31."""

MAX_STEPS = 100_000
"""Default of the longest evaluation episode, in steps, in environments without a time limit."""

Played = list[tuple[int, int, Episode]]
"""(row, episode number from 0, episode), sorted by row and number."""


class Actor:
    """Base class of objects to evaluate: chooses the actions of `n` rows of episodes. Subclasses must implement `act`.

    The evaluator calls `begin`, then `act` and `observe` alternately until all episodes have ended.
    """

    parallel = True
    """True: the episodes of a member run in parallel, each in its own row. False: each member has one row, in which its
    episodes run one after another."""
    max_steps: int | None = None
    """The longest episode in which the actor can act, in steps; None: any. Longer episodes are truncated."""

    def begin(self, n: int) -> None:
        """Called at the start of an evaluation, when `n` rows start their first episodes."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """`obs [n, obs]` float32 -> actions for `EnvGroup.step`: int `[n]` for Discrete, float32 `[n, act]` in the
        environment's units for Box. Actions in rows that have finished are ignored."""
        raise NotImplementedError

    def observe(self, rewards: np.ndarray, done: np.ndarray) -> None:
        """Called after every step. `rewards [n]`: float32, 0 in rows that have finished. `done [n]` (bool): the episode
        in this row ended in this step, and the next observation is the first one of another episode."""

    def observe_step(self, step: Step) -> None:
        """Called after every step. Override this method instead of `observe` if the actor also needs the true next
        observations, or whether an episode terminated or was truncated."""
        self.observe(step.reward, step.done)


def play(
    envs: EnvGroup, actor: Actor, episodes: int, *, rest: bool, stop: Callable[[], bool] = lambda: False
) -> Played | None:
    """Play `episodes` episodes in every row of `envs` with the actions of `actor`. Returns None if `stop()` becomes
    true.

    With `rest`, an environment stops after its last episode. Otherwise all environments step until every row has played
    its episodes, as in training.
    """
    obs = envs.reset(reseed=True)
    actor.begin(envs.n)
    counts = np.zeros(envs.n, np.int64)
    played: Played = []
    while (pending := counts < episodes).any():
        if stop():
            return None
        step = envs.step(actor.act(obs), only=pending if rest else None)
        for episode in step.episodes:
            if pending[episode.env]:
                played.append((episode.env, int(counts[episode.env]), episode))
                counts[episode.env] += 1
        actor.observe_step(step)
        obs = step.obs
    return sorted(played, key=lambda entry: entry[:2])


def episode_seeds(config: Config, episodes: int, seed: int = SEED) -> list[list[int]]:
    """The seeds of evaluation episodes, `[M][episodes]`: consecutive numbers. Each replica of each seed of a run has
    its own, so that runs with several seeds can be pooled; with `eval_starts: shared` all have the same."""

    def first(replica: int) -> int:
        if config.run.eval_starts == "shared":
            return seed
        slot = (crc32(f"{config.seed}/{replica}".encode()) - crc32(b"0/0")) % SEED_SLOTS
        return seed + slot * SEED_STRIDE

    starts = [first(replica) for replica in range(config.replicas) for _ in range(config.n_peers)]
    return [[start + e for e in range(episodes)] for start in starts]


def limit_episodes(envs: EnvGroup, max_steps: int | None, possible: int | None = None) -> EnvGroup:
    """Make `envs` truncate its episodes after `max_steps` steps, and return it. None: after `MAX_STEPS` steps in
    environments without a time limit. `possible`: the longest episode in which the actor can act (`Actor.max_steps`);
    longer episodes are truncated in any case."""
    never = np.iinfo(np.int64).max
    limits = [max_steps or (MAX_STEPS if limit is None else never) for limit in envs.limits]
    envs.max_steps = np.minimum(np.array(limits, np.int64), possible or never)
    return envs


def note_on_cut(envs: EnvGroup, possible: int | None = None) -> str:
    """A message about the episodes that `max_steps` has truncated; empty without any. `possible`: as of
    `limit_episodes`."""
    if not envs.cut:
        return ""
    what = f"an evaluation episode of {envs.names[0]} did not end and was truncated after {envs.cut:,} steps"
    if envs.cut == possible:
        return f"{what}: the model has timesteps for no more (max_ep_len)"
    return f"{what} (--max-eval-steps sets this limit)"


class Evaluator:
    """Plays the same number of episodes of each of M members.

    `makers`: for each member, what builds its environments; `seeds [M][episodes]`: the seeds of its episodes. `success`
    is the rule that determines the success of an episode. Episodes are truncated after `max_steps` steps; None: after
    `MAX_STEPS` steps in environments without a time limit. Episodes that are too long for an actor are truncated, too.
    """

    def __init__(
        self,
        makers: Sequence[EnvMaker],
        seeds: Sequence[Sequence[int]],
        success: SuccessRule = "last",
        max_steps: int | None = None,
    ) -> None:
        self.makers, self.seeds, self.success = list(makers), [list(some) for some in seeds], success
        self.episodes, self.max_steps = len(self.seeds[0]), max_steps
        self.note = ""
        """A message about truncated episodes; empty without any."""
        self.envs: dict[bool, EnvGroup] = {}  # by `Actor.parallel`

    def run(self, actor: Actor, trained: int = 0, stop: Callable[[], bool] = lambda: False) -> Played | None:
        """Evaluate an actor. Returns (member, episode number, episode) for all members and episodes, or None if
        `stop()` became true during the evaluation.

        Environments that change during a run stay in their state after `trained` steps of training. Raises UserError if
        an environment fails.
        """
        try:
            envs = limit_episodes(self._envs(actor.parallel), self.max_steps, actor.max_steps)
            envs.set_clock(trained, running=False)
            played = play(envs, actor, 1 if actor.parallel else self.episodes, rest=actor.parallel, stop=stop)
        except UserError as error:
            raise UserError(f"in an evaluation after {trained:,} steps: {error}") from error
        self.note = self.note or note_on_cut(envs, actor.max_steps)
        if played is None or not actor.parallel:
            return played
        return [(*divmod(row, self.episodes), episode) for row, _, episode in played]

    def _envs(self, parallel: bool) -> EnvGroup:
        envs = self.envs.get(parallel)
        if envs is not None and not all(isinstance(m.env, str) and is_known(m.env) for m in self.makers):
            envs.close()  # unknown environments may keep state between evaluations, which a resume would lose
            envs = None
        if envs is None:
            if parallel:
                makers = [maker for maker in self.makers for _ in range(self.episodes)]
                envs = EnvGroup(makers, [seed for some in self.seeds for seed in some], success=self.success)
            else:
                envs = EnvGroup(self.makers, self.seeds, success=self.success)
            self.envs[parallel] = envs
        return envs

    def close(self) -> None:
        """Close the environments."""
        for envs in self.envs.values():
            envs.close()
        self.envs = {}
