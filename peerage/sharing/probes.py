"""Advisers that put a way of trusting to the proof: two that change sides, and two that know half of the task each.

`turncoat` is the expert until a moment of the run and the adversary from then on, `convert` the other way round, at
the same moment. `regional:a` and `regional:b` are the expert in one region of the task and the adversary in the other
(`peerage.envs.scripted.REGIONS`). The adversary is the environment's own, and where it has none the opposite of the
expert's actions. `role` says who is right where; only the metrics ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.envs import scripted
from peerage.envs.make import Spec
from peerage.errors import UserError


def turn_step(rng: np.random.Generator, total_steps: int) -> int:
    """The environment step (1, 2, ...) from which on the sides are changed.

    The steps before it are uniform among the whole numbers from 40% to 60% of `total_steps` (rounded inwards; where
    there is none, in runs of a few steps, the first after 40%). `rng` is the replica's, as `begin` gets it: a fresh
    `peerage.sharing.advisers.replica_generator(seed, replica, n_peers)` gives the step of a run again.
    """
    low = -(-2 * total_steps // 5)
    high = max(low, 3 * total_steps // 5)
    return 1 + int(rng.integers(low, high, endpoint=True))


@dataclass
class Turning:
    """`turns_bad`: the expert before the turn and the adversary from it on (`turncoat`); else the reverse (`convert`).

    Keeps the moment of its turn and the step it was told last.
    """

    expert: scripted.Policy
    adversary: scripted.Policy
    turns_bad: bool
    turn: int | None = None
    """First step after the change of sides; drawn by `begin`."""
    step: int = 0

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        self.turn = turn_step(rng, total_steps)

    def at(self, step: int) -> None:
        self.step = step

    @property
    def is_expert(self) -> bool:
        if self.turn is None:
            raise RuntimeError("an adviser that turns was asked before begin(rng, total_steps)")
        return (self.step < self.turn) == self.turns_bad

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`obs [B, obs]` -> actions `[B]` or `[B, act]`."""
        return (self.expert if self.is_expert else self.adversary)(obs, rng)

    def role(self, obs: np.ndarray) -> np.ndarray:
        """int64 `[B]`."""
        return np.full(len(obs), 1 if self.is_expert else -1)

    def state(self) -> dict[str, Any]:
        return {"turn": self.turn, "step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        self.turn, self.step = state["turn"], int(state["step"])


@dataclass
class Regional:
    """The expert where `region` is `inside`, the adversary elsewhere. Remembers nothing."""

    expert: scripted.Policy
    adversary: scripted.Policy
    region: scripted.Region
    inside: bool

    @property
    def stateless(self) -> bool:
        """Our policies draw nothing; of a registered one we cannot know."""
        return all(policy.__module__ == scripted.__name__ for policy in (self.expert, self.adversary))

    def suggest(
        self, obs: np.ndarray, asker: np.ndarray, episode_start: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """`obs [B, obs]` -> actions `[B]` or `[B, act]`."""
        good, bad = self.expert(obs, rng), self.adversary(obs, rng)
        here = (self.region(obs) == self.inside).reshape(-1, *[1] * (good.ndim - 1))
        return np.where(here, good, bad)

    def role(self, obs: np.ndarray) -> np.ndarray:
        """int64 `[B]`."""
        return np.where(self.region(obs) == self.inside, 1, -1)


def make_turning(spec: Spec, *, turns_bad: bool) -> Turning:
    """`turncoat` (`turns_bad`) or `convert`. Raises UserError for an environment without an expert."""
    expert = scripted.expert_for(spec.id, spec)
    return Turning(expert, scripted.adversary_or_opposite(spec.id, spec), turns_bad)


def make_regional(spec: Spec, name: str) -> Regional:
    """`regional:a` or `regional:b`. Raises UserError for another name, or an environment without expert or regions."""
    if name not in ("a", "b"):
        raise UserError(f"malformed adviser {'regional:' + name!r}: write regional:a or regional:b")
    expert = scripted.expert_for(spec.id, spec)
    adversary = scripted.adversary_or_opposite(spec.id, spec)
    return Regional(expert, adversary, scripted.region_for(spec.id), name == "a")
