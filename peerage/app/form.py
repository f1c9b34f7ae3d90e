"""The form of a new training: settings as the words of the command line, and the configuration that they give.

An entry of the form is a text with the words that follow the flag, or a bool for a switch. Only entries that were
changed are converted, so that the rest of a preset stays as it is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from peerage.config import Config, with_part, with_settings
from peerage.config.check import flag
from peerage.config.file import default_members, load, to_dict, validate
from peerage.config.flags import SECTIONS, Flag, train_flags
from peerage.config.plain_yaml import to_yaml
from peerage.config.presets import preset_names
from peerage.envs.catalogue import list_envs
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.learners.defaults import default_algorithm, refuse_unused_settings
from peerage.runs.folder import default_name

IMPORTANT = (
    "env", "data", "algorithm", "net", "n_peers", "sharing", "total_timesteps", "learning_rate", "gamma", "replicas",
    "seed",
)  # fmt: skip
"""Settings that are always shown, if they exist; the others are behind a heading for each section."""
OWN = ("exp_name", "log_dir", "overwrite")
"""Settings that the page chooses."""

Entry = str | bool


def flags_by_section() -> dict[str, list[Flag]]:
    """Title of a section -> its settings that are not `IMPORTANT`, in the order of `peerage train --help`."""
    flags = [each for each in train_flags() if each.name not in (*IMPORTANT, *OWN)]
    found: dict[str, list[Flag]] = {}
    for each in sorted(flags, key=lambda each: each.section == "run"):  # stable: the run is last
        title = SECTIONS[each.section][0] if each.section in SECTIONS else each.section.replace("_", " ")
        found.setdefault(title, []).append(each)
    return found


def important_flags() -> list[Flag]:
    """The settings that are always shown."""
    known = {each.name: each for each in train_flags()}
    return [known[name] for name in IMPORTANT if name in known]


def choices(of: Flag) -> list[str] | None:
    """The values to choose from, with an empty text for the default; None: any text."""
    if of.name == "env":
        return [str(row["id"]) for row in list_envs()]
    if get_origin(of.item) is Literal:
        optional = NoneType in get_args(of.hint) or of.default == ()
        return ["", *get_args(of.item)] if optional else list(get_args(of.item))
    if of.is_switch and not is_checkbox(of):
        return ["", "on", "off"]
    return None


def is_checkbox(of: Flag) -> bool:
    """Whether a setting is on or off for the whole group, without a default that depends on other settings."""
    return of.hint is bool


def entry_of(of: Flag, config: Config) -> Entry:
    """The entry of a setting in `config`: `entries_to_config` of it gives the same value."""
    value = getattr(getattr(config, of.part) if of.part else config, of.setting.name)
    if is_checkbox(of):
        return bool(value)
    return shlex.join(_words(of, value))


def _words(of: Flag, value: Any) -> list[str]:
    if value is None or value in ((), {}):
        return []
    if isinstance(value, Mapping):
        return [f"{name}={_word(item, of)}" for name, item in value.items()]
    return [_word(item, of) for item in value] if isinstance(value, tuple) else [_word(value, of)]


def _word(value: Any, of: Flag) -> str:
    if isinstance(value, tuple):  # the widths of a network; the comma separates one width from a member's value
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    if isinstance(value, bool) and of.is_switch:
        return "on" if value else "off"
    if isinstance(value, list) and of.name == "perturb":
        return "..".join(repr(end) for end in value)
    if isinstance(value, str):
        return value
    return json.dumps(value)  # numbers, and lists and mappings of env_args as YAML in one line


def _value(of: Flag, entry: Entry) -> Any:
    """The value of an entry. Raises UserError, as the command line does."""
    if isinstance(entry, bool):
        return entry
    try:
        words = shlex.split(entry)
    except ValueError as error:
        raise UserError(f"{of.option}: {str(error).lower()} in {entry[:60]!r}") from None
    if not words:
        return of.setting.default
    if of.is_switch:
        if unknown := [word for word in words if word not in ("on", "off")]:
            raise UserError(f"{of.option}: expected on or off, got {unknown[0][:40]!r}")
        found = tuple(word == "on" for word in words)
        return found if get_origin(of.hint) is tuple else found[0]
    if get_origin(of.hint) in (tuple, dict):
        return of.value(words, {})
    if len(words) > 1:
        raise UserError(f"{of.option}: expected one value, got {len(words)}")
    return of.value(words[0], None)


def entries_to_config(base: Config, entries: Mapping[str, Entry]) -> Config:
    """`base` with the entries that differ from it, checked. `entries`: name of a setting -> entry. Raises UserError
    with the line that `peerage train` prints for the first error."""
    known = {each.name: each for each in train_flags()}
    changed = {name: entry for name, entry in entries.items() if entry != entry_of(known[name], base)}
    config = validate(with_settings(base, {name: _value(known[name], entry) for name, entry in changed.items()}))
    refuse_unused_settings(config, changed)
    if config.advice.sharing == "none":
        for name in changed:
            if known[name].part == "advice" and name != "sharing":
                raise UserError(f"{flag(name)} has no effect with --sharing none: remove one of the two")
    return config


def base_config(preset: str) -> Config:
    """The configuration of a preset; empty: the defaults."""
    return load(preset) if preset else Config()


def presets() -> list[str]:
    """The names of the presets, after an empty one for the defaults."""
    return ["", *preset_names()]


def proposed_name(config: Config, preset: str) -> str:
    """The name that `peerage train` would give the run. Raises UserError for an environment that it refuses."""
    if preset:
        return f"{preset}-seed-{config.seed}"
    env, algorithms = config.env, list(config.learner.algorithm)
    if config.data:
        path = Path(config.data).expanduser()
        data = str(path.absolute()) if path.exists() else config.data
        return default_name(env, algorithms, config.n_peers, config.seed, data)
    if ":" in env:  # the module is imported by the training only
        return default_name(env, algorithms, config.n_peers, config.seed)
    name, discrete = _checked_env(env, json.dumps(config.env_args, sort_keys=True))
    algorithms = [default_algorithm(discrete) if each == "auto" else each for each in algorithms]
    return default_name(name, algorithms, config.n_peers, config.seed)


@cache
def _checked_env(env: str, env_args: str) -> tuple[str, bool]:
    """The id of an environment, and whether its actions are Discrete."""
    spec = check_env_id(env, json.loads(env_args))
    return spec.id, spec.discrete


def named(config: Config, log_dir: str, name: str) -> Config:
    """`config` with the place of its run folder."""
    return with_part(config, "run", log_dir=log_dir, exp_name=name, overwrite=False)


def yaml_of(config: Config) -> str:
    """The settings that differ from the defaults, as the YAML of `peerage train --config`."""
    usual = Config(n_peers=default_members(config))
    return to_yaml(_difference(to_dict(config), to_dict(usual)))


def _difference(data: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in data.items():
        default = usual.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping) and default:
            if inside := _difference(value, default):
                found[key] = inside
        elif value != default:
            found[key] = value
    return found
