"""Optional packages, which are imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from peerage.errors import UserError


def optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional package. `extra` of Peerage installs it.

    Raises UserError, which begins with `purpose`, if the package is not installed: `a Minari dataset needs minari`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        hint = f'pip install "peerage[{extra}]"'
        raise UserError(f"{purpose} needs {package}, which is not installed: {hint}") from error
