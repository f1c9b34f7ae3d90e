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


def if_missing(error: BaseException, module: str) -> str:
    """What to do if `error` of an import says that `module` does not exist; empty for other errors."""
    missing = isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}.")
    return f"; run this command in the folder of {module.partition('.')[0]}, or install it" if missing else ""


RUN_MARK = "# Peerage run:"
"""The beginning of config.yaml in every run folder."""


def not_a_run(folder: str | os.PathLike[str]) -> str:
    """What a folder without config.yaml is instead of a run, for an error message."""
    if os.path.isfile(os.path.join(folder, "config.json")):
        users = "`peerage evaluate`, `peerage video`, `peerage export` and the adviser dt:FOLDER take it"
        return f"{folder} is a model of Hugging Face, not a run folder: {users}"
    return f"{folder} is not a run folder: it has no config.yaml"


def is_standard(module: str) -> bool:
    """Whether a module has the name of a module of the standard library."""
    return module.partition(".")[0] in sys.stdlib_module_names


def import_here(module: str) -> ModuleType:
    """Import a module that the user, or a configuration, has named. A module of the current folder is found, too, after
    those of `sys.path`, unless the folder is a run folder: run folders contain data only.

    Raises ImportError for a module of the standard library and for `__main__` of a package, which may do anything when
    they are imported; and the errors of the import.
    """
    name, _, inside = module.partition(".")
    if is_standard(module):
        raise ImportError(f"{name} is a module of the standard library: give your own module another name")
    if "__main__" in inside.split("."):
        raise ImportError(f"{module} is a program, not a module to import")
    folder = os.getcwd()
    in_run = _is_run(folder)
    if folder not in sys.path and not in_run:
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == name and in_run:
            rule = "modules of the current folder are not imported, because it is a run folder"
            raise ImportError(f"{error}; {rule}: run this command in another folder") from error
        raise


def _is_run(folder: str) -> bool:
    config = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config):  # reading a pipe would block
        return False
    with open(config, "rb") as file:
        marked = file.read(len(RUN_MARK)) == RUN_MARK.encode()
    return marked or os.path.exists(os.path.join(folder, "environment.json"))


def deferred(name: str) -> Callable[..., Any]:
    """A function that imports the function `module:function` when it is called, and calls it."""

    def call(*args: Any, **named: Any) -> Any:
        return load_function(name)(*args, **named)

    call.__module__, _, call.__name__ = name.partition(":")
    call.is_deferred = True  # type: ignore[attr-defined]
    return call
