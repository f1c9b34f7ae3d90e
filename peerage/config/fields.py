"""Metadata of configuration fields: type, permitted values and help text."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import field, fields
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_origin, get_type_hints


def limited(default: Any, interval: str) -> Any:
    """A field whose numbers lie in `interval`, such as "(0, 1]": a bracket includes its end, a parenthesis does not."""
    return field(default=default, metadata={"interval": interval})


def one_of(default: Any, names: Iterable[str]) -> Any:
    """A field of type `str`, or a tuple of `str`, whose values are in `names`. `names` may be a registry, which can
    grow later."""
    return field(default=default, metadata={"names": names})


def intervals(cls: type) -> dict[str, str]:
    """Field name -> interval. A subclass that overrides a field's default keeps the interval of its base class."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for f in getattr(base, "__dataclass_fields__", {}).values():
            if "interval" in f.metadata:
                found[f.name] = f.metadata["interval"]
    return found


def is_inside(value: float, interval: str) -> bool:
    """Whether a number is in an interval."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def describe_interval(interval: str) -> str:
    """The interval in words: `at least 1`, `above 0` or `in (0, 1]`."""
    if interval.endswith("inf)"):
        low = interval[1:-1].split(",")[0]
        return f"at least {low}" if interval[0] == "[" else f"above {low}"
    return f"in {interval}"


_type_hints = cache(get_type_hints)


def hints(cls: type) -> dict[str, Any]:
    """Field name -> type of a configuration class, in order. The type of a field made by `one_of` is a `Literal`."""
    found: dict[str, Any] = {}
    resolved = _type_hints(cls)
    for f in fields(cls):
        if f.metadata.get("internal"):  # not a setting of the user
            continue
        found[f.name] = resolved[f.name]
        if "names" in f.metadata:
            known: Any = Literal[tuple(f.metadata["names"])]
            tuples = get_origin(resolved[f.name]) is tuple
            found[f.name] = tuple[known, ...] if tuples else known | None if f.default is None else known
    return found


def docs(cls: type) -> dict[str, str]:
    """Field name -> the docstring below the field, read from the source because Python does not keep it. A class
    without source code, such as one defined in a console, has none."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_fields__" in vars(base):
            found |= _own_docs(base)
    return found


@cache
def _own_docs(cls: Any) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    for name, below in pairwise(body):
        match name, below:
            case ast.AnnAssign(target=ast.Name(key)), ast.Expr(value=ast.Constant(value=str(text))):
                found[key] = " ".join(text.split()).replace("`", "")
    return found
