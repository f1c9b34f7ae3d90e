"""Loads a function by name, so that a module can refer to a function without importing its dependencies."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def load_function(name: str) -> Callable[..., Any]:
    """Import the module and return the function that `module:function` names."""
    module, function = name.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded
