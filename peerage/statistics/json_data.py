"""Plain data for JSON from tables and from the results of statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any


def json_data(value: Any) -> Any:
    """`value` with mappings as dicts with text keys, sequences as lists, and numbers that are not finite as None.
    Numbers may be those of NumPy."""
    if isinstance(value, Mapping):
        return {str(key): json_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_data(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return value
