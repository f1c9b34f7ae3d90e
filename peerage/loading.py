"""Loads modules and functions by name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def load_function(name: str) -> Callable[..., Any]:
    """Import the module and return the function that `module:function` names, so that a module can refer to a function
    without importing its dependencies."""
    module, function = name.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def import_here(module: str) -> ModuleType:
    """Import a module that the user has named. A module of the current folder is found, too, as with `python -m`,
    unless that is a run folder: a run folder holds data, no code to import."""
    if os.getcwd() not in sys.path and not os.path.exists("config.yaml"):
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(module)


def deferred(name: str) -> Callable[..., Any]:
    """A function that imports the function `module:function` when it is called, and calls it."""

    def call(*args: Any, **named: Any) -> Any:
        return load_function(name)(*args, **named)

    call.__module__, _, call.__name__ = name.partition(":")
    call.is_deferred = True  # type: ignore[attr-defined]
    return call
