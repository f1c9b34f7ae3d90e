"""Names of environments: Gymnasium ids, and `module:function` for functions and classes that make an environment."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import gymnasium

from peerage.errors import Terminated, UserError, nearest
from peerage.loading import if_missing, import_here, is_standard
from peerage.text import is_installed, one_line, place

Maker = str | Callable[..., gymnasium.Env]
"""A Gymnasium id (`module:Name-v0` imports the module first), `module:function`, or a function that builds the
environment."""


def name_of(env: Maker) -> str:
    """The id, or the name of the function that builds the environment."""
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def recorded_name(env: Maker) -> str:
    """The name of an environment in config.yaml: an id; `module:function` if that names the function `env` in another
    process, too; otherwise `<function>`, which no environment has."""
    if isinstance(env, str):
        return env
    module, name = (str(getattr(env, part, "")) for part in ("__module__", "__qualname__"))
    found = _attribute(sys.modules.get(module), name)
    importable = module != "__main__" and not is_standard(module)
    if found is env and importable and _makes_environments(env) and not _is_id(name):
        return f"{module}:{name}"
    return f"<{name_of(env).strip('<>')}>"


def display_name(env: Maker, inner: str) -> str:
    """The name of an environment for people: its id; for a function the name of the function, with the id `inner` of
    the environment that it makes, as in `my_env (makes Pendulum-v1)`."""
    if not callable(imported(env)):
        return inner
    name = recorded_name(env).strip("<>")
    return inner if inner.strip("<>") in (name, name.rpartition(":")[2]) else f"{name} (makes {inner})"


def imported(env: Maker) -> Maker:
    """The function or class that `module:function` names; imports the module. Ids and functions are returned unchanged.

    A name in a configuration must not be able to call any function: allowed are subclasses of `gymnasium.Env`,
    functions whose return annotation is `gymnasium.Env` or a subclass, and functions of modules outside the standard
    library and the installed packages. Raises UserError, in one line.
    """
    if not isinstance(env, str):
        return env
    if env.startswith("<"):
        name = env.strip("<>")
        raise UserError(
            f"the environment of this run is the Python function {name!r}, which cannot be imported by name: pass it "
            "again (`peerage.load(RUN, env=...)`), or train with a named function of a module (--env MODULE:FUNCTION)"
        )
    module, colon, name = env.partition(":")
    if not colon:
        return env
    try:
        found = import_here(module)
        registered = _is_id(name)  # the import may have registered it
        made = None if registered else _attribute(found, name)
    except Terminated:
        raise
    except ImportError as error:
        raise UserError(f"{env} cannot be imported: {one_line(error)}{if_missing(error, module)}") from error
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {one_line(error)}{place(error)}"
        raise UserError(f"{env} cannot be imported: {what}") from error
    if registered:
        return env
    if made is None:
        hint = nearest(name, [*dir(found), *gymnasium.registry])
        raise UserError(f"unknown environment {env!r}{hint}: {module} has no such function and registers no such id")
    if not _makes_environments(made):
        raise UserError(
            f"{env} is not an environment: use a subclass of gymnasium.Env, or a function of your own that returns one "
            "(in an installed package, with the return annotation gymnasium.Env)"
        )
    return made


def _is_id(name: str) -> bool:
    """Whether it is a registered id; its version may be missing."""
    begin = f"{name}-v"  # this is called for every environment that is built: no regular expression
    known = gymnasium.registry
    return name in known or any(other.startswith(begin) and other[len(begin) :].isdecimal() for other in known)


def _attribute(module: Any, name: str) -> Any:
    """The attribute with a dotted `name` of a module; None if there is none."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def _makes_environments(made: Any) -> bool:
    if inspect.isclass(made):
        return issubclass(made, gymnasium.Env)
    if not inspect.isfunction(made):
        return False
    returns = made.__annotations__.get("return")
    if isinstance(returns, str):
        annotated = re.fullmatch(r"([\w.]+\.)?Env(\[.*\])?", returns) is not None
    else:
        returns = getattr(returns, "__origin__", returns)  # Env[np.ndarray, int]
        annotated = inspect.isclass(returns) and issubclass(returns, gymnasium.Env)
    return annotated or _is_own_code(made)


def _is_own_code(function: Any) -> bool:
    """Whether a function is neither of Peerage nor of the standard library nor of an installed package."""
    file = function.__code__.co_filename
    ours = function.__module__.partition(".")[0] == __name__.partition(".")[0]
    return os.path.isfile(file) and not ours and not is_installed(file)
