"""Random generators of their own for environments that draw from `random`, `numpy.random` or their spaces."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.utils import seeding

Source = Literal["reset", "random", "numpy", "spaces"]
"""A source of random numbers: the generator `np_random` that a reset seeds, Python's `random`, `numpy.random`, and the
generators of the spaces."""
SOURCES: frozenset[Source] = frozenset(("reset", "random", "numpy", "spaces"))
FIRST = (gymnasium.spaces.Box, gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)
"""Spaces that come first in the order of `spaces_of`, which decides about their seeds."""


class OwnRandom(gymnasium.Wrapper):
    """An environment for which `random`, `numpy.random` and the generators of its spaces are its own.

    Every reset seeds them, from its seed or from one number of the environment's generator `np_random`. Therefore an
    episode is determined by the state of `np_random` before its reset, also for an environment that does not pass its
    seed on to `super().reset`. The global generators of the process do not change.

    `sources`: those from which the environment draws in its steps. In a step, only they are its own, because a change
    of `numpy.random` takes 0.2 ms of CPU time.
    """

    def __init__(self, env: gymnasium.Env, sources: Collection[Source] = SOURCES) -> None:
        super().__init__(env)
        self._spaces = spaces_of(env)
        self._generators: list[np.random.Generator] = []
        self._python, self._numpy = global_state()
        self._sources = frozenset(sources)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.np_random = seeding.np_random(seed)[0]
        root = int(self.unwrapped.np_random.integers(2**32)) if seed is None else int(seed)
        children = np.random.SeedSequence(root).spawn(2 + len(self._spaces))
        self._generators = [np.random.Generator(np.random.PCG64(child)) for child in children[2:]]
        with self._own(SOURCES):
            seed_global(*(int(child.generate_state(1)[0]) for child in children[:2]))
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with self._own(self._sources):
            return self.env.step(action)

    @contextmanager
    def _own(self, sources: Collection[Source]) -> Iterator[None]:
        python, numpy = "random" in sources, "numpy" in sources
        if python:
            others = random.getstate()
            random.setstate(self._python)
        if numpy:
            numpy_others = np.random.get_state(legacy=False)  # noqa: NPY002
            np.random.set_state(self._numpy)  # noqa: NPY002
        if "spaces" in sources:
            for space, generator in zip(self._spaces, self._generators):
                space._np_random = generator  # a space of the class belongs to all environments of the class
        try:
            yield
        finally:
            if python:
                self._python = random.getstate()
                random.setstate(others)
            if numpy:
                self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002
                np.random.set_state(numpy_others)  # noqa: NPY002


def global_state() -> tuple[Any, Any]:
    """The states of the generators of `random` and `numpy.random`."""
    return random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002


def seed_global(python: int, numpy: int) -> None:
    """Seed the generators of `random` and `numpy.random`."""
    random.seed(python)
    np.random.seed(numpy)  # noqa: NPY002


def set_global_state(state: tuple[Any, Any]) -> None:
    """Restore a state from `global_state`."""
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002


def spaces_of(env: gymnasium.Env) -> list[gymnasium.Space[Any]]:
    """The spaces with a generator of the environment and of all its wrappers, each once, with the parts of spaces."""
    found: dict[int, gymnasium.Space[Any]] = {}
    while True:
        todo: list[gymnasium.Space[Any]] = [env.observation_space, env.action_space]
        for space in todo:
            todo += _parts(space)
            if not isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):  # these sample from their parts
                found[id(space)] = space
        if not isinstance(env, gymnasium.Wrapper):
            return sorted(found.values(), key=lambda space: not isinstance(space, FIRST))  # the order stays else
        env = env.env


def _parts(space: gymnasium.Space[Any]) -> list[gymnasium.Space[Any]]:
    """The spaces that a space consists of."""
    match space:
        case gymnasium.spaces.Dict():
            return list(space.spaces.values())
        case gymnasium.spaces.Tuple() | gymnasium.spaces.OneOf():
            return list(space.spaces)
        case gymnasium.spaces.Sequence():
            return [space.feature_space]
        case gymnasium.spaces.Graph():
            return [part for part in (space.node_space, space.edge_space) if part is not None]
    return []
