"""Random generators of their own for environments that draw from `random`, `numpy.random` or their spaces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

DRAWING = (gymnasium.spaces.Box, gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)


class OwnRandom(gymnasium.Wrapper):
    """An environment for which `random`, `numpy.random` and the generators of its spaces are its own.

    Every reset seeds them, from its seed or from one number of the environment's generator `np_random`. Therefore an
    episode is determined by the state of `np_random` before its reset, also for an environment that does not pass its
    seed on to `super().reset`. The global generators of the process do not change.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._spaces = spaces_of(env)
        self._generators: list[np.random.Generator] = []
        self._state = global_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.np_random = seeding.np_random(seed)[0]
        root = int(self.unwrapped.np_random.integers(2**32)) if seed is None else int(seed)
        children = np.random.SeedSequence(root).spawn(2 + len(self._spaces))
        self._generators = [np.random.Generator(np.random.PCG64(child)) for child in children[2:]]
        with self._own():
            seed_global(*(int(child.generate_state(1)[0]) for child in children[:2]))
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with self._own():
            return self.env.step(action)

    @contextmanager
    def _own(self) -> Iterator[None]:
        others = global_state()
        set_global_state(self._state)
        for space, generator in zip(self._spaces, self._generators):
            space._np_random = generator  # a space of the class belongs to all environments of the class
        try:
            yield
        finally:
            self._state = global_state()
            set_global_state(others)


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
    """The observation and action spaces of the environment and of all its wrappers, each once."""
    found: dict[int, gymnasium.Space[Any]] = {}
    while True:
        todo = [env.observation_space, env.action_space]
        for space in todo:
            if isinstance(space, gymnasium.spaces.Dict):  # it samples from its parts
                todo += space.spaces.values()
            elif isinstance(space, DRAWING):
                found[id(space)] = space
        if not isinstance(env, gymnasium.Wrapper):
            return list(found.values())
        env = env.env
