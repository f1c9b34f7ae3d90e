"""A strict YAML reader and writer for plain data.

Tags, aliases and duplicate keys are errors. Loading a file cannot create objects or run code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from peerage.errors import UserError

# PyYAML implements YAML 1.1, which reads 1e-3 and 1.e-3 as text, `no` as false, 010 as 8 and 1:30 as 90.
# These rules follow YAML 1.2.
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
    """Reads plain data only and rejects duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Tags can name types, and aliases can make a small file expand without bound. Configurations need neither.
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem="tags and aliases are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_whole(self, node: Any) -> int:
        # PyYAML would read 010 as octal; int() reads it as 10.
        return int(node.value.replace("_", ""))


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or this reader would not read as text. Writes lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> Any:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Loader.yaml_implicit_resolvers = {}  # remove the resolvers of YAML 1.1
for _name, (_pattern, _first) in _RULES.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Dumper.add_representer(list, _Dumper.represent_list)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def parse(text: str, source: str) -> Any:
    """Parse YAML text to plain data. Raises UserError, which starts with `source`."""
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
    """Parse one word of the command line by the rules of the YAML reader."""
    for name, (pattern, _) in _RULES.items():
        if pattern.match(text):
            return parse(text, repr(text)) if name != "null" else None
    return None if text.lower() == "none" else text


def short(value: object) -> str:
    """`repr(value)`, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def to_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, in the order of its keys."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=100
    )
