"""How a group steps its environments: one by one, or all of them in one program. The results have the same bits."""

from __future__ import annotations

import copy
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from peerage.envs.batched import BatchedEnv, program_for
from peerage.envs.changing import changing_of
from peerage.envs.history import BatchedHistory, history_of
from peerage.envs.make import EnvMaker, time_limit
from peerage.envs.returned import checked_reset, checked_step
from peerage.envs.success import success_of
from peerage.errors import Terminated
from peerage.text import first_line, place

FEW = 4
"""Groups with fewer environments are stepped one by one, which is faster for them."""
TRIED = (4, 64)
"""Numbers of environments and steps in the comparison of a batched program with the environments that it replaces."""


class Stepped(NamedTuple):
    """The result of one step of all environments. The rows of environments that did not step are zero."""

    obs: np.ndarray
    """float32 [n, obs]: the observations that followed the actions."""
    reward: np.ndarray
    """float64 [n]"""
    terminated: np.ndarray
    """bool [n]"""
    truncated: np.ndarray
    """bool [n]"""
    infos: Mapping[int, Mapping[str, Any]]
    """Environment -> its info, where there is one."""


class Stepper(ABC):
    """Steps `n` environments, without resets at the ends of episodes.

    The first of `envs`, which are Gymnasium environments, describes the others.
    """

    envs: list[gymnasium.Env]
    limits: list[int | None]
    """[n]: the time limits, None without one."""
    parts: list[list[int]]
    """The indices of the environments; those in one list are replayed together."""
    at: int | None = None
    """The index of the environment that was stepped or reset last; None for all."""

    @abstractmethod
    def reset(self, i: int, seed: int | None) -> np.ndarray:
        """Begin an episode in environment i. Returns its observation, float32 `[obs]`."""

    @abstractmethod
    def step(self, actions: np.ndarray, only: np.ndarray | None) -> Stepped:
        """Step the environments, or those in `only`, bool `[n]`; `actions [n, ...]` as the environments take them."""

    @abstractmethod
    def generator(self, i: int) -> np.random.Generator | None:
        """`np_random` of environment i; None if it has no such generator."""

    @abstractmethod
    def set_clock(self, i: int, steps: int, *, running: bool) -> None:
        """Set the clock of environment i, if it changes during a run."""

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class LoopStepper(Stepper):
    """Gymnasium environments, one after the other. Raises WrongReturn, and what an environment raises."""

    def __init__(self, envs: Sequence[gymnasium.Env], obs_dim: int) -> None:
        self.envs, self.obs_dim = list(envs), obs_dim
        self.limits = [time_limit(env) for env in envs]
        self.parts = [[i] for i in range(len(self.envs))]
        self.changing = [changing_of(env) for env in envs]

    def reset(self, i: int, seed: int | None) -> np.ndarray:
        self.at = i
        return checked_reset(self.envs[i].reset(seed=seed), self.obs_dim)

    def step(self, actions: np.ndarray, only: np.ndarray | None) -> Stepped:
        n = len(self.envs)
        obs, reward = np.zeros((n, self.obs_dim), np.float32), np.zeros(n)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        infos: dict[int, Mapping[str, Any]] = {}
        batch = actions.tolist() if actions.ndim == 1 else actions
        for i in range(n) if only is None else np.flatnonzero(only).tolist():
            self.at = i
            result = self.envs[i].step(batch[i])
            obs[i], reward[i], terminated[i], truncated[i], infos[i] = checked_step(result, self.obs_dim)
        return Stepped(obs, reward, terminated, truncated, infos)

    def generator(self, i: int) -> np.random.Generator | None:
        found = getattr(self.envs[i].unwrapped, "np_random", None)
        return found if hasattr(found, "bit_generator") else None

    def set_clock(self, i: int, steps: int, *, running: bool) -> None:
        if (changing := self.changing[i]) is not None:
            changing.steps, changing.running = steps, running


class BatchedStepper(Stepper):
    """The environments of a `BatchedEnv`, with the time limit of `env`, which describes them and does not step."""

    def __init__(self, program: BatchedEnv, env: gymnasium.Env) -> None:
        self.program, self.envs = program, [env]
        self.n, self.limit = program.n, time_limit(env)
        self.limits, self.parts = [self.limit] * self.n, [list(range(self.n))]
        self.elapsed = np.zeros(self.n, np.int64)
        self.start = self.end = 0
        if isinstance(space := env.action_space, gymnasium.spaces.Discrete):
            self.start, self.end = int(space.start), int(space.n)

    def reset(self, i: int, seed: int | None) -> np.ndarray:
        if seed is not None:
            self.program.generators[i] = seeding.np_random(seed)[0]
        self.at = i
        self.elapsed[i] = 0
        return self.program.reset(i)

    def step(self, actions: np.ndarray, only: np.ndarray | None) -> Stepped:
        self.at = None
        rows = slice(None) if only is None else np.flatnonzero(only)
        taken = actions[rows]
        counted = taken - self.start if self.start else taken
        if self.end and counted.astype(np.uint64, copy=False).max(initial=0) >= self.end:  # negative ones become large
            raise ValueError(f"actions must be in {self.start} ... {self.start + self.end - 1}, not {taken}")
        obs, reward, terminated = self.program.step(rows, taken)
        self.elapsed[rows] += 1
        if only is not None:
            parts = obs, reward, terminated
            obs, reward, terminated = (np.zeros((self.n, *part.shape[1:]), part.dtype) for part in parts)
            obs[rows], reward[rows], terminated[rows] = parts
        if self.limit is None:
            truncated = np.zeros(self.n, bool)
        else:
            truncated = self.elapsed >= self.limit
            if only is not None:
                truncated &= only
        return Stepped(obs, reward, terminated, truncated, self.program.infos)

    def generator(self, i: int) -> np.random.Generator | None:
        return self.program.generators[i]

    def set_clock(self, i: int, steps: int, *, running: bool) -> None:
        """A program does not change during a run."""


def stepper_for(makers: Sequence[EnvMaker], batched: bool | None) -> Stepper | None:
    """A batched program if there is one for these environments, which must have the same id and arguments; None if they
    are to be stepped one by one. `batched`: False: never; True: also for very few environments.

    At its first use in a process, a program is compared with the environments that it replaces. If it differs, it gives
    a warning and is not used.
    """
    first = makers[0]
    if batched is False or first.own_random or not isinstance(first.env, str) or any(m != first for m in makers):
        return None
    arguments = {name: value for name, value in first.env_args.items() if name != "history"}
    program = program_for(first.env, arguments)
    if program is None or (len(makers) < FEW and not batched):
        return None
    env = first.make()
    layout = history_of(env)
    build = program if layout is None else (lambda n: BatchedHistory(program(n), layout, env.action_space))
    own = layout is None and "history" in first.env_args  # an argument of the environment itself
    if not own and _is_equal(first, build):
        return BatchedStepper(build(len(makers)), env)
    env.close()
    return None


_equal: dict[str, bool] = {}


def _is_equal(maker: EnvMaker, build: Callable[[int], BatchedEnv]) -> bool:
    """Whether a batched program has the bits of the environments: other versions of NumPy have other functions, and
    other versions of Gymnasium other environments."""
    key = f"{maker.env} {gymnasium.registry[maker.name].entry_point} {sorted(maker.env_args.items())}"
    if key not in _equal:
        envs = [maker.make() for _ in range(TRIED[0])]
        try:
            problem = _difference(build, envs)
        except Terminated:
            raise
        except Exception as error:  # of the environment, too: its group will report it
            problem = f"could not be compared: {type(error).__name__}: {first_line(error)}{place(error)}"
        finally:
            for env in envs:
                env.close()
        _equal[key] = not problem
        if problem:
            text = f"the batched environments of {maker.name} {problem}; its environments are stepped one by one"
            warnings.warn(text, UserWarning, stacklevel=2)
    return _equal[key]


def _difference(build: Callable[[int], BatchedEnv], envs: list[gymnasium.Env]) -> str:
    """How a batched program differs from `envs` in some episodes of random actions; empty if it does not."""
    obs_dim = int(np.prod(envs[0].observation_space.shape or (1,)))
    one, two = BatchedStepper(build(len(envs)), envs[0]), LoopStepper(envs, obs_dim)
    space, rng = envs[0].action_space, np.random.default_rng(0)
    seeds: dict[int, int | None] = dict(enumerate(range(len(envs))))  # of the environments that are to be reset
    for k in range(TRIED[1]):
        for i, seed in seeds.items():
            if one.reset(i, seed).tobytes() != two.reset(i, seed).tobytes():
                return f"differ from it after a reset in step {k}"
        if isinstance(space, gymnasium.spaces.Discrete):
            actions = space.start + rng.integers(space.n, size=len(envs))
        else:
            assert isinstance(space, gymnasium.spaces.Box)
            actions = rng.uniform(space.low, space.high, (len(envs), *space.shape)).astype(np.float32)
        a, b = one.step(actions, None), two.step(actions, None)
        reported = [
            {i: known for i, info in x.infos.items() if (known := success_of(info)) is not None} for x in (a, b)
        ]
        if reported[0] != reported[1] or any(x.tobytes() != y.tobytes() for x, y in zip(a[:4], b[:4])):
            return f"differ from it in step {k + 1}"
        seeds = dict.fromkeys(np.flatnonzero(a.terminated | a.truncated).tolist())
    return ""


def state_of(generator: np.random.Generator | None) -> dict[str, Any] | None:
    """The state of a generator as JSON-able data; None for None."""
    if generator is None:
        return None
    state = dict(generator.bit_generator.state)
    if state["bit_generator"] == "PCG64":  # Gymnasium's: whole numbers, and new dictionaries in every call
        return state
    found: dict[str, Any] = json.loads(json.dumps(state, default=lambda x: x.tolist()))
    return found


def set_state(generator: np.random.Generator | None, state: dict[str, Any]) -> None:
    """Restore a state from `state_of`. Raises ValueError, TypeError or KeyError if it does not fit."""
    if generator is None:
        raise ValueError("the environment has no generator np_random")
    generator.bit_generator.state = copy.deepcopy(state)
