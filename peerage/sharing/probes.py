"""Advisers for tests of trust: two that change their role during the run, and two that are experts in one region each.

`turncoat` is an expert until a random step of the run and an adversary afterwards; `convert` is the reverse, with the
same step. `regional:a` and `regional:b` are experts in one region of the environment and adversaries in the other
(`peerage.envs.scripted.REGIONS`). The adversary is the scripted one of the environment, or the opposite of its expert
if there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from peerage.envs import scripted
from peerage.envs.make import Spec
from peerage.sharing.adviser import Adviser


def turn_step(rng: np.random.Generator, total_steps: int) -> int:
    """Draw the first environment step (1, 2, ...) with the new role.

    The number of steps before it is uniform over the integers from 40% to 60% of `total_steps`. If there are none, in
    very short runs, it is the first integer above 40%. `rng` is the generator passed to `begin`; a fresh
    `peerage.sharing.adviser.replica_generator(seed, replica, n_peers)` reproduces the step of a run.
    """
    low = -(-2 * total_steps // 5)
    high = max(low, 3 * total_steps // 5)
    return 1 + int(rng.integers(low, high, endpoint=True))


@dataclass
class Turning(Adviser):
    """Changes its role once: from expert to adversary if `turns_bad` (`turncoat`), otherwise the reverse
    (`convert`)."""

    expert: scripted.Policy
    adversary: scripted.Policy
    turns_bad: bool
    turn: int | None = None
    """The first step with the new role; drawn in `begin`."""
    step: int = 0
    """The current environment step."""

    def begin(self, rng: np.random.Generator, total_steps: int) -> None:
        self.turn = turn_step(rng, total_steps)

    def schedule(self) -> str:
        return "the step at which it changes sides is drawn from the steps"

    def at(self, step: int) -> None:
        self.step = step

    @property
    def is_expert(self) -> bool:
        if self.turn is None:
            raise RuntimeError("begin(rng, total_steps) must be called first: it draws the step at which roles change")
        return (self.step < self.turn) == self.turns_bad

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (self.expert if self.is_expert else self.adversary)(obs, rng)

    def role(self, obs: np.ndarray) -> np.ndarray:
        return np.full(len(obs), 1 if self.is_expert else -1)

    def state(self) -> dict[str, Any]:
        return {"turn": self.turn, "step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        self.turn, self.step = state["turn"], int(state["step"])


@dataclass
class Regional(Adviser):
    """An expert at observations where `region` equals `inside`, an adversary elsewhere. Stateless if both policies are
    built in."""

    expert: scripted.Policy
    adversary: scripted.Policy
    region: scripted.Region
    inside: bool

    def __post_init__(self) -> None:
        self.stateless = scripted.is_built_in(self.expert) and scripted.is_built_in(self.adversary)

    def suggest(self, obs: np.ndarray, rows: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        good, bad = self.expert(obs.copy(), rng), self.adversary(obs.copy(), rng)  # a policy may change its argument
        is_expert = (self.region(obs) == self.inside).reshape(-1, *[1] * (good.ndim - 1))
        return np.where(is_expert, good, bad)

    def role(self, obs: np.ndarray) -> np.ndarray:
        return np.where(self.region(obs) == self.inside, 1, -1)


def make_turning(spec: Spec, *, turns_bad: bool) -> Turning:
    """Build `turncoat` (`turns_bad`) or `convert`. Raises UserError for an environment without an expert."""
    expert = scripted.expert_for(spec.id, spec)
    return Turning(expert, scripted.adversary_or_opposite(spec.id, spec), turns_bad)


def make_regional(spec: Spec, name: str) -> Regional:
    """Build `regional:a` or `regional:b`. Raises UserError for an environment without an expert or without regions."""
    expert = scripted.expert_for(spec.id, spec)
    adversary = scripted.adversary_or_opposite(spec.id, spec)
    return Regional(expert, adversary, scripted.region_for(spec.id, spec), name == "a")
