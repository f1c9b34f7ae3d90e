"""The interface of batched environments, and their registry."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

Rows = slice | np.ndarray
"""Some of the environments: `slice(None)` for all of them, or their indices, int64 [k] in ascending order."""


class BatchedEnv(ABC):
    """`n` environments of one kind. The numbers must be those of the environment with the same id, bit for bit.

    A batched environment does not handle time limits: Peerage counts the steps, as `gymnasium.wrappers.TimeLimit` does,
    and resets the environments whose episodes have ended.

    `generators [n]` are the environments' `np_random`. Peerage seeds them before a reset that has a seed. `step` sets
    `infos` to the `info` of the environments that have one, by their indices, such as `{3: {"is_success": True}}`.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.generators: list[np.random.Generator] = [np.random.Generator(np.random.PCG64(0)) for _ in range(n)]
        self.infos: Mapping[int, Mapping[str, Any]] = {}

    @abstractmethod
    def reset(self, row: int) -> np.ndarray:
        """Begin a new episode in environment `row`. Returns its observation, float32 `[obs]`."""

    @abstractmethod
    def step(self, rows: Rows, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of the k environments `rows`; the others do not change.

        `actions`: Discrete: int64 `[k]`, valid actions of the space; Box: `[k, act]`, inside the box. Returns new
        arrays: observations float32 `[k, obs]`, rewards float64 `[k]`, terminated bool `[k]`.
        """


_programs: dict[str, Callable[..., BatchedEnv]] = {}


def register_batched_env(env_id: str, program: Callable[..., BatchedEnv]) -> None:
    """Let a group of environments `env_id` be stepped by `program(n, **arguments)`, a subclass of `BatchedEnv`.

    The arguments are those of the environment, including those that it is registered with. Environments with arguments
    that `program` does not accept are stepped one by one. A program replaces an earlier one with the same id.
    """
    _programs[env_id] = program


def program_for(env_id: str, env_args: Mapping[str, Any]) -> Callable[[int], BatchedEnv] | None:
    """A function of `n` that builds the batched environment; None if none is registered for this id and these
    arguments.

    `env_args`: as of `make_env`; a time limit (`max_episode_steps`) may be among them.
    """
    program = _programs.get(env_id)
    if program is None or env_id not in gymnasium.registry:
        return None
    arguments = {**gymnasium.registry[env_id].kwargs, **env_args}
    arguments.pop("max_episode_steps", None)
    try:
        inspect.signature(program).bind(0, **arguments)
    except TypeError:
        return None
    return lambda n: program(n, **arguments)
