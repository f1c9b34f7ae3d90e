"""Registration of a user's own methods: `peerage.register_learner`, `register_trust` and `register_exchange`.

A class with the same module and name can be registered again under its name, for example when a notebook cell runs
twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from peerage.config.fields import hints
from peerage.config.methods import (
    EXCHANGES,
    LEARNERS,
    TRUST,
    ExchangeMethod,
    LearnerMethod,
    LearnerSettings,
    TrustMethod,
    methods_with_parts,
)
from peerage.config.tree import Config

M = TypeVar("M", LearnerMethod, TrustMethod, ExchangeMethod)

NEEDS = ("td", "action_value")
"""What a kind of trust can need."""


def register_learner(
    name: str, build: str | Callable[..., Any], settings: type[LearnerSettings] = LearnerSettings, **capabilities: Any
) -> None:
    """Make a learner available as `--algorithm NAME`; its settings become flags and YAML keys.

    `build(settings, stream_keys, space, total_steps, *, device, dtype)` returns a `peerage.Learner`; it is usually a
    subclass. A string `"module:attribute"` is imported when a run is built. `capabilities` are fields of
    `LearnerMethod`: `actions` (default both kinds), `on_policy`, `has_action_value` (default False here),
    `takes_critic`, `offline`, `takes_target`, `about`. Raises ValueError for an invalid argument or a name that is
    taken.
    """
    method = _described(LearnerMethod, name, build, settings, {"has_action_value": False, **capabilities})
    if not method.actions or not set(method.actions) <= {"discrete", "box"}:
        raise ValueError(f"actions of the learner {name!r} must be discrete, box or both, not {method.actions!r}")
    LEARNERS.register(method)


def register_trust(name: str, build: str | Callable[..., Any], settings: type | None = None, **about: Any) -> None:
    """Make a kind of trust available as `--trust NAME`.

    `build(context)` returns a `peerage.Signal` for a `peerage.trust.context.TrustContext`. `settings`, a frozen
    dataclass, becomes a part of the configuration. `about` are fields of `TrustMethod`: `part` (default: the name of
    the method), `needs`, `columns` and `asker_columns` (columns that the signal's `report` adds to advice.csv, with
    their titles in figures), `curves` (metrics of the signal), `stands_alone`, `uses_threads`, `resolve`, `about`.
    Raises ValueError for an invalid argument or a name or column that is taken.
    """
    method = _described(TrustMethod, name, build, settings, {"part": _default_part(name, settings), **about})
    if unknown := [need for need in method.needs if need not in NEEDS]:
        raise ValueError(f"the kind of trust {name!r} cannot need {unknown[0]!r}: known are {', '.join(NEEDS)}")
    _check_part(method)
    TRUST.register(method)


def register_exchange(name: str, build: str | Callable[..., Any], settings: type | None = None, **about: Any) -> None:
    """Make an exchange available as `--exchange NAME`.

    `build(settings, group, every)` returns a `peerage.Exchange`. `settings`, a frozen dataclass, becomes a part of the
    configuration. `about` are fields of `ExchangeMethod`: `part` (default: the name of the method), `critic` (a
    `peerage.learners.critics.CriticFactory` for the members' critics), `about`. Raises ValueError for an invalid
    argument or a name that is taken.
    """
    method = _described(ExchangeMethod, name, build, settings, {"part": _default_part(name, settings), **about})
    _check_part(method)
    EXCHANGES.register(method)


def _described(kind: type[M], name: str, build: Any, settings: Any, about: dict[str, Any]) -> M:
    known = [field.name for field in fields(kind) if field.name not in ("name", "build", "settings")]
    if unknown := [given for given in about if given not in known]:
        raise ValueError(f"{name!r} has an unknown argument {unknown[0]!r}: known are {', '.join(known)}")
    return kind(name, build, settings, **about)


def _default_part(name: str, settings: type | None) -> str:
    return "" if settings is None else name.replace("-", "_")


def _check_part(method: TrustMethod | ExchangeMethod) -> None:
    part = method.part
    if not part:
        return
    if not part.isidentifier() or part in hints(Config):
        raise ValueError(f"{part!r} cannot be a part of the configuration: choose another `part` for {method.name!r}")
    others = [other for other in methods_with_parts() if other.name != method.name]
    if any(other.part == part and other.settings is not method.settings for other in others):
        raise ValueError(f"the part {part!r} has other settings: choose another `part` for {method.name!r}")
