"""Checks of the return values of an environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


class WrongReturn(Exception):
    """An environment returned a value that violates Gymnasium's interface; the message describes it."""


def checked_reset(result: Any, obs_dim: int) -> np.ndarray:
    """The observation `[obs_dim]` of the result of `reset`. Raises WrongReturn."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise WrongReturn(f"reset must return (observation, info), not {_described(result)}")
    seen, info = result
    if not isinstance(info, Mapping):
        raise WrongReturn(f"reset must return a dict as info, not {_described(info)}")
    return _observation(seen, obs_dim)


def checked_step(result: Any, obs_dim: int) -> tuple[np.ndarray, float, bool, bool, Mapping[str, Any]]:
    """The result of `step`: observation `[obs_dim]`, reward, terminated, truncated, info. Numbers may be infinite or
    NaN. Raises WrongReturn."""
    if not isinstance(result, tuple) or len(result) != 5:
        form = "(observation, reward, terminated, truncated, info)"
        raise WrongReturn(f"step must return {form}, not {_described(result)}")
    seen, reward, terminated, truncated, info = result
    if type(reward) is not float:
        reward = _number("reward", reward)
    if type(terminated) is not bool:
        terminated = _flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = _flag("truncated", truncated)
    if not isinstance(info, Mapping):
        raise WrongReturn(f"step must return a dict as info, not {_described(info)}")
    return _observation(seen, obs_dim), reward, terminated, truncated, info


def _observation(seen: Any, obs_dim: int) -> np.ndarray:
    """float32 `[obs_dim]`; numbers beyond float32 become infinite."""
    if getattr(seen, "dtype", None) == np.float32 and np.shape(seen) == (obs_dim,):
        return np.asarray(seen)
    try:
        array = np.asarray(seen)
    except ValueError:  # a list of lists of different lengths
        raise WrongReturn(f"an observation that is not an array: {_described(seen)}") from None
    if array.shape != (obs_dim,):
        raise WrongReturn(f"an observation of shape {array.shape}, not {(obs_dim,)}")
    if array.dtype.kind not in "biuf":
        raise WrongReturn(f"an observation of type {array.dtype}; it must consist of real numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _number(name: str, value: Any) -> float:
    if not isinstance(value, float | int | np.integer | np.floating):
        array = np.asarray(value)
        if array.shape != () or array.dtype.kind not in "biuf":
            raise WrongReturn(f"step must return one number as {name}, not {_described(value)}")
    try:
        return float(value)
    except OverflowError:  # a large whole number
        return math.inf


def _flag(name: str, value: Any) -> bool:
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "biuf" or array not in (0, 1):
        raise WrongReturn(f"step must return True or False as {name}, not {_described(value)}")
    return bool(array)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
