"""The configuration as plain data and as YAML, and the checks that need no environment.

    config = load("peer-hopper")             # a preset, a file, or a run folder
    config = validate(config)                # raises one-line UserErrors; imports nothing heavy
    text = dump(config)                      # loading the text gives an equal configuration

Unknown keys, duplicate keys, wrong types and tags are errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from peerage.config import presets
from peerage.config.check import check, is_offline
from peerage.config.fields import hints
from peerage.config.methods import LEARNERS, NETS, column
from peerage.config.plain_yaml import parse, short, to_yaml
from peerage.config.tree import Config, key_of, method_parts, parts, settings, with_part
from peerage.errors import UserError, nearest
from peerage.loading import RUN_MARK

T = TypeVar("T")
MAX_BYTES = 1_000_000
MAX_INT = 2**63 - 1
OFFLINE_PEERS = 1
"""Default of `n_peers` for offline learners."""


def _number(value: object, where: str, expected: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: expected {expected}, got {short(value)}")
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise UserError(f"{where}: the number is too large ({value.bit_length()} bits)")
    if not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value}")
    return value


def _plain(value: object, where: str) -> Any:
    """Check arguments of an environment: None, bool, finite numbers, str, and lists and mappings of these."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise UserError(f"{where}: names must be text, got {short(bad[0])}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    return _number(value, where, "plain data")


def convert(hint: Any, value: Any, where: str) -> Any:
    """Convert `value` to the type `hint` of a field. Raises UserError, which starts with `where`."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not NoneType)
        return None if value is None else convert(inner, value, where)
    if origin is Literal:
        known = get_args(hint)
        if value not in known:
            hint_text = nearest(str(value), known)
            raise UserError(f"{where}: expected one of {', '.join(known)}, got {short(value)}{hint_text}")
        return value
    if origin is tuple:
        item = get_args(hint)[0]
        values = list(value) if isinstance(value, list | tuple) else [value]
        if get_origin(item) is tuple and values and not any(isinstance(v, list | tuple) for v in values):
            values = [values]  # net_arch: [150, 200] is one network
        if item is str:  # ent_coef: 0.1
            values = [repr(v) if type(v) in (int, float) else v for v in values]
        return tuple(convert(item, v, where) for v in values)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a mapping of names to values, got {short(value)}")
        return _plain(value, where)
    if hint is bool and not isinstance(value, bool):
        raise UserError(f"{where}: expected true or false, got {short(value)}")
    if hint is str and not isinstance(value, str):
        raise UserError(f"{where}: expected text, got {short(value)} (quote it if it is meant as text)")
    if hint is float:
        return float(_number(value, where, "a number"))
    if hint is int:
        number = _number(value, where, "a whole number")
        if number != int(number):
            raise UserError(f"{where}: expected a whole number, got {short(value)}")
        return int(_number(int(number), where, "a whole number"))  # 1e6 is a whole number
    return value


def _unknown(key: object, prefix: str) -> UserError:
    """The error for an unknown key. It suggests the same key in another section, else the most similar key in this
    section, else the most similar key anywhere."""
    everything = [f"{s.part}.{s.name}" if s.part else s.name for s in settings().values()]
    path = f"{prefix}{key}"
    elsewhere = [known for known in everything if known.split(".")[-1] == key]
    here = [known for known in everything if known.rpartition(".")[0] == prefix.rstrip(".")]
    guess = nearest(elsewhere[0] if elsewhere else path, elsewhere or here) or nearest(path, everything)
    return UserError(f"unknown key {short(path)}{guess}")


def from_dict(data: Any, base: Config | None = None) -> Config:
    """`base` with the values of `data`, a nested mapping as in the YAML file, replaced."""
    return _fill(Config() if base is None else base, data, "")


def from_run(data: Any, base: Config | None = None) -> Config:
    """The configuration of a run from its config.yaml, on `base` as in `from_dict`. Settings that the run's version of
    Peerage did not have get the values with which it trained: the defaults of the members' learners, and `eval_starts`
    shared."""
    config = from_dict(data, base)
    given = data if isinstance(data, Mapping) else {}
    if "eval_starts" not in (given.get("run") or {}):
        config = with_part(config, "run", eval_starts="shared")
    if not set(config.learner.algorithm) <= set(LEARNERS):  # not the file of a run, which has no `auto`
        return config
    members = [LEARNERS[name].settings(algorithm=name) for name in config.learner.algorithm]
    missing = set(hints(type(config.learner))) - set(given.get("learner") or {}) - {"algorithm"}
    return with_part(config, "learner", **{name: column(members, name) for name in missing})


def _fill(base: T, data: Any, prefix: str) -> T:
    if data is None:
        return base  # an empty file or section
    if not isinstance(data, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'configuration'}: expected a mapping, got {short(data)}")
    top = isinstance(base, Config)
    known, sections = hints(type(base)), set(parts()) if top else set[str]()
    values: dict[str, Any] = {f: getattr(base, f) for f in known}
    if top:
        data = _renamed(data)
        values["methods"] = {part: getattr(base, part) for part in method_parts()}
    for key, value in data.items():
        key = key_of(key) if key_of(key) in known else key
        if top and key in sections and key:
            inside = values["methods"] if key in values["methods"] else values
            inside[key] = _fill(parts()[key](**_plain_fields(inside[key])), value, f"{prefix}{key}.")
        elif not isinstance(key, str) or key not in known or (top and key == "methods"):
            raise _unknown(key, prefix)
        else:
            values[key] = convert(known[key], value, prefix + key)
    return type(base)(**values)


def _plain_fields(part: Any) -> dict[str, Any]:
    """The fields of a part, to rebuild it with its current class: registering a learner adds fields to the class."""
    return {f.name: getattr(part, f.name) for f in fields(part)}


def _renamed(data: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """`data` with the section `attention` of Peerage 0.1, the settings of the trust transformer, under its present
    name."""
    section = data.get("attention")
    old = isinstance(section, Mapping) and any(str(key).startswith("attention_") for key in section)
    names = {"attention": "trust_transformer"} if old else {}
    return _published({names.get(key, key): value for key, value in data.items()})


def _published(data: dict[Any, Any]) -> dict[Any, Any]:
    """`data` with the layout of published files of single algorithms in that of Peerage: `env_name` becomes `env`; a
    section with the name of a learner becomes `learner`, with this algorithm and, if there is a section of a kind of
    network, this network; fields of `run` may be at the top level."""
    named = [name for name in LEARNERS if name in data and name not in parts()]
    if not named and "env_name" not in data:
        return data
    if len(named) > 1 or (named and "learner" in data):
        given = ", ".join([*named, *["learner"] * ("learner" in data)])
        raise UserError(f"{given} are sections of the same settings: keep one of them")
    if "env_name" in data:
        if "env" in data:
            raise UserError("env_name and env are the same setting: remove one of them")
        data["env"] = data.pop("env_name")
    if at_top := {name: data.pop(name) for name in hints(parts()["run"]) if name in data}:
        section = data.get("run")
        data["run"] = at_top | dict(section if isinstance(section, Mapping) else {})
    for name in named:
        section = data.pop(name)
        if section is not None and not isinstance(section, Mapping):
            raise UserError(f"{name}: expected a mapping, got {short(section)}")
        nets = [net.name for net in NETS.methods.values() if net.part and net.part in data]
        has_net = nets and "net" in hints(LEARNERS[name].settings)
        data["learner"] = {"algorithm": name, **({"net": nets[0]} if has_net else {}), **(section or {})}
    return data


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain data, in the order of its fields."""
    plain = {f.name: _to_plain(getattr(config, f.name)) for f in fields(config) if not f.metadata.get("internal")}
    if isinstance(config, Config):
        methods, run = plain.pop("methods"), plain.pop("run")
        plain |= {**methods, "run": run}
    return plain


def _to_plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    return value


def dump(config: Config) -> str:
    """The configuration as YAML. `from_dict(parse(text, source))` gives an equal configuration."""
    return to_yaml(to_dict(config))


def load(source: str | Path, base: Config | None = None) -> Config:
    """Load a preset, a YAML file, or the config.yaml of a run folder. Its values replace those of `base`. The
    config.yaml of a run, which its first line marks, keeps its meaning if an earlier version wrote it (`from_run`)."""
    if str(source) in presets.preset_names():
        return from_dict(presets.preset(str(source)), base)
    path = Path(source)
    try:
        path = path / "config.yaml" if path.is_dir() else path
        if not path.is_file():
            guess = nearest(str(source), presets.preset_names())
            name = short(str(source))
            raise UserError(f"neither a file nor a preset: {name}{guess}; see `peerage presets`")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than the maximum of {MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {short(str(source))}: {error}") from None
    try:
        read = from_run if text.startswith(RUN_MARK) else from_dict
        return read(parse(text, str(path)), base)
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def with_members(made: Callable[[Config], Config]) -> Config:
    """The configuration that `made` derives from the defaults. The default of `n_peers` is 1 for offline learners,
    whose members do not learn from each other. Raises UserError for values of wrong types."""
    config = made(Config())
    n_peers = default_members(from_dict(to_dict(config)))
    return config if n_peers == Config.n_peers else made(Config(n_peers=n_peers))


def default_members(config: Config) -> int:
    """The default of `n_peers` for the learners of a configuration."""
    return OFFLINE_PEERS if is_offline(config) else Config.n_peers


def with_sharing(config: Config) -> Config:
    """`config` with the default of `sharing` filled in."""
    if config.advice.sharing is not None:
        return config
    named = config.learner.algorithm
    methods = [LEARNERS[name] for name in named if name != "auto"]
    alone = not config.advisers and len(methods) == len(named) and all(m.on_policy or m.offline for m in methods)
    return with_part(config, "advice", sharing="none" if alone else "advice")


def validate(config: Config) -> Config:
    """Check every value and return the configuration, with scalars converted to tuples where a field is a tuple.

    Raises UserError, in one line.
    """
    config = from_dict(to_dict(config))
    check(config)
    return config
