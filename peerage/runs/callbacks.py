"""Listeners of the user by name: `--callback my_module:GoodEnough`."""

from __future__ import annotations

from collections.abc import Sequence

from peerage.errors import UserError
from peerage.loading import if_missing, import_here
from peerage.runs.listeners import Listener
from peerage.text import one_line, place


def load_callbacks(names: Sequence[str]) -> list[Listener]:
    """One listener per name `MODULE:CLASS`; the class is called without arguments. A module of the current folder is
    found, too, unless that is a run folder. Raises UserError for a name that is not that of a subclass of `Listener`,
    and if the module or the class raises an error."""
    return [_load(name) for name in names]


def _load(name: str) -> Listener:
    module, _, attribute = name.partition(":")
    try:
        found = import_here(module)
    except (Exception, SystemExit) as error:
        why = f"{one_line(error)}{hint}" if (hint := if_missing(error, module)) else _in_words(error)
        raise UserError(f"--callback {name} cannot be imported: {why}") from error
    made = getattr(found, attribute, None)
    if made is None:
        raise UserError(f"--callback {name}: {module} has no class {attribute}")
    if not isinstance(made, type) or not issubclass(made, Listener):  # nothing else is called
        raise UserError(f"--callback {name}: {attribute} must be a subclass of peerage.Listener")
    try:
        return made()
    except (Exception, SystemExit) as error:
        raise UserError(f"--callback {name}: {attribute}() failed: {_in_words(error)}") from error


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"[:200] + place(error)
