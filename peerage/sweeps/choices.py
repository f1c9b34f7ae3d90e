"""The values of an axis of a sweep, converted to fields of the configuration and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peerage.config import parts, settings
from peerage.config.file import convert
from peerage.config.plain_yaml import short
from peerage.config.tree import key_of
from peerage.errors import UserError, nearest

NOT_FOR_SWEEPS = {
    "seed": "`seeds` lists the seeds",
    "exp_name": "runs are named after the axes",
    "log_dir": "`where` sets the folder of the runs",
    "overwrite": "a sweep never replaces a run",
}
"""Fields that a sweep file cannot set -> why."""


@dataclass(frozen=True)
class Choice:
    """One value of an axis, or one environment."""

    value: Any
    label: str
    """Its part of the run's name; an empty one is left out."""
    word: str | None
    """The text that replaces the braces of this axis in `base`; None: it cannot be used there."""
    settings: dict[str, Any]
    """The fields that it sets."""


def settings_of(data: Any, where: str) -> dict[str, Any]:
    """Field -> value. `data` has the fields by their names, nested as in a configuration file, or both."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: expected settings, got {short(data)}")
    found: dict[str, Any] = {}
    for key, value in data.items():
        inside = _inside(key, value, where) if isinstance(key, str) and key in parts() and key else [(key, value)]
        for name, given in inside:
            hint, field = hint_of(name, where), key_of(name)
            if field in found:
                raise UserError(f"{where}: {name} is given twice")
            found[field] = convert(hint, given, f"{where}.{name}")
    return found


def _inside(part: str, values: Any, where: str) -> Iterator[tuple[str, Any]]:
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"{where}.{part}: expected settings, got {short(values)}")
    here = {setting.name: setting.key for setting in settings().values() if setting.part == part}
    for name, value in (values or {}).items():
        field = key_of(name)
        if field not in here:
            raise UserError(f"{where}: unknown setting {short(f'{part}.{name}')}{nearest(str(name), list(here))}")
        yield here[field], value


def hint_of(name: Any, where: str, instead: str = "") -> Any:
    """The type of a field; UserError if there is no such field or a sweep cannot set it."""
    known, field = settings(), key_of(name)
    if not isinstance(name, str) or field not in known:
        guess = nearest(str(name), list(known))
        raise UserError(f"{where}: {short(name)} is not a setting{instead}{guess}")
    if name in NOT_FOR_SWEEPS:
        raise UserError(f"{where}: {name} cannot be set here: {NOT_FOR_SWEEPS[name]}")
    return known[field].hint


def named_choice(name: Any, values: Any, where: str) -> Choice:
    """A name with its settings."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"{where}: a name must be text, got {short(name)}")
    return Choice(name, name, name, settings_of(values, f"{where}.{name}"))


def word_choice(axis: str, value: Any, where: str) -> Choice:
    """A value that only selects the base."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise UserError(f"{where}: expected words or whole numbers for {{{axis}}} in `base`, got {short(value)}")
    return Choice(value, f"{axis}={value}", str(value), {})


def check_choices(choices: list[Choice], where: str) -> list[Choice]:
    """The choices; UserError if there are none, or two with the same label."""
    if not choices:
        raise UserError(f"{where}: is empty")
    labels = [choice.label for choice in choices]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"{where}: {twice[0]} is given twice")
    return choices


def label_of(value: Any) -> str:
    """A value as part of a run's name: `0.001`, `true`, `none`, `16,64x64` (networks of two members)."""
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ",".join("x".join(map(label_of, item)) if isinstance(item, tuple) else label_of(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def matching_choices(choices: list[Choice], values: Any, where: str) -> list[Choice]:
    """The choices with this value, or with one of these values. UserError for a value that no choice has."""

    def one(value: Any) -> list[Choice]:
        return [c for c in choices if isinstance(c.value, bool) == isinstance(value, bool) and c.value == value]

    if found := one(values):
        return found
    found = []
    for value in values if isinstance(values, list) else [values]:
        if not (some := one(value)):
            guess = nearest(str(value), [str(choice.value) for choice in choices])
            raise UserError(f"{where}: {short(value)} is not one of the values{guess}")
        found += some
    return found
