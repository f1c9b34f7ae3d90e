"""The success of episodes, as environments report it in `info`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

SuccessRule = Literal["last", "any"]
"""last: an episode succeeds if its last step reports success; any: if at least one of its steps does."""

KEYS = ("success", "is_success")
"""Keys of `info` that may report success; the first one with a known value counts."""


def success_of(info: Any) -> bool | None:
    """Success as `info` of one step reports it.

    Known values are booleans and the numbers 0 and 1, of Python or NumPy. None if no key of `KEYS` has one. The first
    other value in a process gives a warning.
    """
    if not isinstance(info, Mapping):
        return None
    for key in KEYS:
        value = info.get(key)
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating) and value in (0, 1):
            return bool(value)
        if value is not None:
            _warn_once(key, value)
    return None


_warned: set[str] = set()


def _warn_once(key: str, value: object) -> None:
    """Warn about a value that is neither True nor False, once for each key."""
    if key not in _warned:
        _warned.add(key)
        text = " ".join(repr(value).split())[:60]
        what = "success counts as unknown; it must be True or False, or 1 or 0"
        warnings.warn(f"the environment reports info[{key!r}] = {text}: {what}", UserWarning, stacklevel=4)


def either(a: bool | None, b: bool | None) -> bool | None:
    """Success of two parts of an episode: True if one of them succeeded, None if neither is known."""
    if a is None or b is None:
        return b if a is None else a
    return a or b
