"""Configuration as text: a strict YAML reader and writer, and the checks that need no environment.

    config = load("peer-hopper")             # a preset, a file, or a run folder
    config = validate(config)                # one-line UserErrors, nothing imported
    text = dump(config)                      # load of it gives the same configuration

Nothing is forgiven in silence: unknown keys, keys given twice, wrong types and tags are errors. Only plain
data is read, so a hostile file can do nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from peerage.config import Config
from peerage.errors import UserError, nearest

T = TypeVar("T")
MAX_BYTES = 1_000_000
MAX_INT = 2**63 - 1

# YAML 1.1, which PyYAML speaks, reads 1e-3 and 1.e-3 as text, `no` as false, 010 as eight and 1:30 as ninety.
# These are the rules of YAML 1.2.
_RULES: dict[str, tuple[re.Pattern[str], list[str]]] = {
    "null": (re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789")),
    "float": (
        re.compile(
            r"^[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
        ),
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    """Reads nothing but plain data, and no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Tags can name types and aliases can blow a small file up, and no configuration needs either.
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem="tags and aliases are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_whole(self, node: Any) -> int:
        # int() of the text, so that 010 is ten; PyYAML would read it as octal.
        return int(node.value.replace("_", ""))


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or our reader would take for something other than text. Lists go on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> Any:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1's
for _name, (_pattern, _first) in _RULES.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Dumper.add_representer(list, _Dumper.represent_list)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def parse(text: str, source: str) -> Any:
    """YAML text as plain data; `source` names it in the error message."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{source}: {line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{source}: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def parse_scalar(text: str) -> Any:
    """One word of the command line, read as the YAML reader would read it."""
    for name, (pattern, _) in _RULES.items():
        if pattern.match(text):
            return parse(text, repr(text)) if name != "null" else None
    return None if text.lower() == "none" else text


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def hints(cls: type) -> dict[str, Any]:
    """Field name -> type of a configuration class, in order."""
    resolved = get_type_hints(cls)
    return {f.name: resolved[f.name] for f in fields(cls)}


def _number(value: object, where: str, expected: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: expected {expected}, got {short(value)}")
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise UserError(f"{where}: {value.bit_length()} bits are too many for a number")
    if not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value}")
    return value


def _plain(value: object, where: str) -> Any:
    """Arguments of an environment: null, true/false, finite numbers, text, and lists and mappings of them."""
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
    """`value` as a field of type `hint`, or a UserError that starts with `where`."""
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


def _paths(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in hints(cls).items():
        if is_dataclass(hint):
            yield from _paths(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name


def _unknown(key: object, prefix: str) -> UserError:
    """The same key in another section, else the nearest one in this section, else anywhere."""
    everything = list(_paths(Config))
    path = f"{prefix}{key}"
    elsewhere = [known for known in everything if known.split(".")[-1] == key]
    here = [known for known in everything if known.rpartition(".")[0] == prefix.rstrip(".")]
    guess = nearest(elsewhere[0] if elsewhere else path, elsewhere or here) or nearest(path, everything)
    return UserError(f"unknown key {short(path)}{guess}")


def from_dict(data: Any, base: Config | None = None) -> Config:
    """`base` with the values of `data` (a nested mapping, as in the YAML file) in their place."""
    return _fill(Config() if base is None else base, data, "")


def _fill(base: T, data: Any, prefix: str) -> T:
    if data is None:
        return base  # an empty file or section
    if not isinstance(data, Mapping):
        raise UserError(f"{prefix.rstrip('.') or 'configuration'}: expected a mapping, got {short(data)}")
    known = hints(type(base))
    values: dict[str, Any] = {f: getattr(base, f) for f in known}
    for key, value in data.items():
        if not isinstance(key, str) or key not in known:
            raise _unknown(key, prefix)
        if is_dataclass(known[key]):
            values[key] = _fill(values[key], value, f"{prefix}{key}.")
        else:
            values[key] = convert(known[key], value, prefix + key)
    return type(base)(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain data, in the order of its fields."""
    return {f.name: _to_plain(getattr(config, f.name)) for f in fields(config)}


def _to_plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    return value


def dump(config: Config) -> str:
    """The configuration as YAML; `from_dict(parse(...))` of it is equal to `config`."""
    return to_yaml(to_dict(config))


def to_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=100
    )


def load(source: str | Path, base: Config | None = None) -> Config:
    """A preset's name, a YAML file, or a run folder (its config.yaml), laid over `base`."""
    from peerage.config import presets

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
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, so no configuration")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {short(str(source))}: {error}") from None
    try:
        return from_dict(parse(text, str(path)), base)
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def validate(config: Config) -> Config:
    """The configuration with every value checked; scalars given for tuples become tuples."""
    from peerage.config.check import check

    config = from_dict(to_dict(config))
    check(config)
    return config
