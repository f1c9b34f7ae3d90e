"""The first steps of an environment with a fixed seed and fixed actions: its identity, and whether the seed determines
its episodes."""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from peerage.envs.own_random import Source, global_state, seed_global, set_global_state, spaces_of
from peerage.errors import Terminated
from peerage.text import is_installed

SEED = 0
STEPS = 8
MAX_NUMBERS = 10**6
"""Maximum size of an observation or action whose space is described in a file."""

NEUTRAL = ("OrderEnforcing", "PassiveEnvChecker", "OwnRandom")
"""Wrappers that change neither observations nor rewards."""


@dataclass(frozen=True)
class Trial:
    """Two episodes with the same seed and actions."""

    steps: list[list[float]] | None
    """`[reward, number computed from the observation, 1 if the episode ended]` of the reset and of each step of the
    first episode, at most `1 + STEPS`; None if it failed or gave values that are not finite numbers."""
    repeats: bool
    """Whether the second episode was equal to the first one."""
    draws: frozenset[Source]
    """From which of `random`, `numpy` and `spaces` it drew random numbers."""


def run_trial(env: gymnasium.Env) -> Trial:
    """Play both episodes in `env`. The global random generators are restored afterwards.

    An environment that fails gives a trial without steps: the training reports the failure.
    """
    before, spaces = global_state(), spaces_of(env)
    generators = [space._np_random for space in spaces]
    for space in spaces:
        space.seed(SEED)
    of_spaces = [_state_of(space) for space in spaces]
    seed_global(SEED, SEED)  # so that the result does not depend on what the process has drawn
    python, numpy = map(_text, global_state())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training shows them
            first = _play(env)
            python_now, numpy_now = map(_text, global_state())
            drawn: dict[Source, bool] = {
                "random": python_now != python,
                "numpy": numpy_now != numpy,
                "spaces": of_spaces != [_state_of(space) for space in spaces],
            }
            draws = frozenset(source for source, some in drawn.items() if some)
            return Trial(first, first is None or first == _play(env), draws)
    finally:
        set_global_state(before)
        for space, generator in zip(spaces, generators):
            space._np_random = generator


def _play(env: gymnasium.Env) -> list[list[float]] | None:
    try:
        seen, _ = env.reset(seed=SEED)
        rows = [[0.0, _summary(seen), 0.0]]
        for action in _actions(env.action_space):
            seen, reward, terminated, truncated, _ = env.step(action)
            over = bool(terminated or truncated)
            rows.append([_rounded(float(reward)), _summary(seen), float(over)])
            if over:
                break
    except Terminated:
        raise
    except (Exception, SystemExit):
        return None
    return rows if all(math.isfinite(number) for row in rows for number in row) else None


def _actions(space: gymnasium.Space[Any]) -> Iterator[Any]:
    rng = np.random.default_rng(SEED)
    for _ in range(STEPS):
        if isinstance(space, Discrete):
            yield int(space.start + rng.integers(space.n))
        else:
            assert isinstance(space, Box)
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            middle = low / 2 + high / 2  # half of the box, so that rounding does not leave it
            yield (middle + (high / 4 - low / 4) * rng.uniform(-1, 1, space.shape)).astype(np.float32)


def _summary(seen: Any) -> float:
    """A number that depends on every number of an observation."""
    numbers = np.asarray(seen, np.float64).ravel()
    return _rounded(float(numbers @ np.cos(np.arange(1, len(numbers) + 1))))


def _rounded(number: float) -> float:
    return float(f"{number:.9g}")


def _state_of(space: gymnasium.Space[Any]) -> Any:
    return space.np_random.bit_generator.state


def _text(state: Any) -> str:
    """The state of a global generator in a form that can be compared."""
    return json.dumps(state, default=np.ndarray.tolist)


# --- fingerprints -----------------------------------------------------------------------------------------------


def fingerprint(
    env: gymnasium.Env, maker: Any, max_episode_steps: int | None, steps: list[list[float]] | None
) -> dict[str, Any]:
    """The identity of the environment as plain data for environment.json. `maker`: its id, or the function that builds
    it."""
    spec = env.spec
    plain = (bool, int, float, str, type(None))
    arguments = spec.kwargs if spec is not None else {}
    *wrappers, core = _layers(env)
    return {
        "id": None if spec is None else spec.id,
        "arguments": {name: value for name, value in sorted(arguments.items()) if isinstance(value, plain)},
        "wrappers": [*(n for layer in wrappers if (n := type(layer).__name__) not in NEUTRAL), type(core).__qualname__],
        "max_episode_steps": max_episode_steps,
        "observations": describe_space(env.observation_space),
        "actions": describe_space(env.action_space),
        "packages": packages_of(env, maker),
        "steps": steps,
    }


def packages_of(env: gymnasium.Env, maker: Any) -> dict[str, str]:
    """Name -> version of the installed packages that define the environment, its wrappers, their base classes and the
    function that builds it. A module that belongs to no installed package is left out."""
    makers = [maker, env.spec.entry_point if env.spec is not None else None]
    names = {str(getattr(cls, "__module__", "")) for layer in _layers(env) for cls in type(layer).__mro__}
    names |= {one if isinstance(one, str) and ":" in one else str(getattr(one, "__module__", "")) for one in makers}
    modules = {re.split(r"[.:]", name)[0] for name in names} - sys.stdlib_module_names - {""}
    return dict(sorted(filter(None, map(_package, modules))))


@cache
def _package(module: str) -> tuple[str, str] | None:
    """The name and version of the installed package that contains a top-level module."""
    try:
        return module, metadata.version(module)
    except (metadata.PackageNotFoundError, ValueError):
        pass
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not is_installed(file):
        return None
    names = metadata.packages_distributions().get(module)  # slow, but few packages have another name than their module
    return (names[0], metadata.version(names[0])) if names else None


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """The wrappers, from the outermost one, and the environment itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def describe_space(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """A Box or Discrete space as plain data; a bound that is the same everywhere is one number, infinity is text."""
    if isinstance(space, Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    assert isinstance(space, Box)
    bounds = {name: _short_bound(bound) for name, bound in (("low", space.low), ("high", space.high))}
    return {"shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def described_space(description: Any) -> Box | Discrete:
    """The space that `describe_space` described. Raises KeyError, TypeError or ValueError for other data."""
    if "n" in description:
        return Discrete(int(description["n"]), start=int(description["start"]))
    shape, dtype = tuple(map(int, description["shape"])), np.dtype(str(description["dtype"]))
    if dtype.kind not in "fiu" or math.prod(shape) > MAX_NUMBERS:
        raise ValueError("not the description of a space")
    low, high = (np.broadcast_to(np.array(description[name], dtype), shape) for name in ("low", "high"))
    return Box(low, high, shape=shape, dtype=dtype.type)


def _short_bound(bound: np.ndarray) -> Any:
    values = [number if math.isfinite(number) else str(number) for number in map(float, bound.ravel())]
    return values[0] if len(set(values)) == 1 else values
