"""The flags of `peerage train`, generated from the configuration tree: one flag for every field.

A flag's help text is the docstring of its field.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

from peerage.config.check import flag
from peerage.config.fields import hints
from peerage.config.file import convert
from peerage.config.methods import LEARNERS
from peerage.config.perturbations import overridden
from peerage.config.plain_yaml import parse, parse_scalar, short
from peerage.config.tree import OTHER_NAMES, Config, Setting, changed, key_of, method_parts, parts, released, settings
from peerage.errors import UserError, nearest

SECTIONS: dict[str, tuple[str, str]] = {
    "group": ("environment and group", "The environment, the size of the group and the length of the run."),
    "learner": (
        "learners",
        "Named as in Stable-Baselines3. Give one value for all members, or one per member: "
        "--learning-rate 1e-3 5e-4.",
    ),
    "data": ("data", "The dataset of an offline algorithm, which learns without an environment."),
    "advice": (
        "advice",
        "How members learn from each other: every --follow-steps steps, each member chooses an adviser to follow.",
    ),
    "exchange": ("exchanges", "What members exchange after learning, in addition to advice."),
    "federation": (
        "federation",
        "Processes that exchange parameters through a shared folder, each with its own members and run folder.",
    ),
    "run": ("run", "The run folder, its contents, and the hardware."),
}
"""Heading and text of each section of the help. Other parts use their name and the first paragraph of their
docstring."""
SECTION_OF_FIELD = {
    "data": "data",
    "data_fraction": "data",
    "data_epochs": "data",
    "data_fingerprint": "data",
    "device": "run",
    "threads": "run",
    "exchange": "exchange",
    "exchange_freq": "exchange",
    "federation": "federation",
    "participant": "federation",
    "participants": "federation",
    "min_participants": "federation",
    "participant_timeout": "federation",
    "member_offset": "federation",
}
"""Top-level fields of the tree that the help lists in another section."""
METAVARS = {
    "env": "ID",
    "env_args": "NAME=VALUE",
    "data": "NAME|PATH",
    "data_fingerprint": "SHA256",
    "perturb": "NAME=VALUE",
    "byzantine_members": "MEMBER:KIND",
    "advisers": "ADVISER",
    "net_arch": "N,N,...",
    "load_paths": "PATH",
    "init_from": "PATH",
    "exp_name": "NAME",
    "federation": "FOLDER",
    "participant": "NAME",
    "participants": "NAME[:MEMBERS]",
    "log_dir": "FOLDER",
    "wandb_project": "NAME",
    "device": "DEVICE",
    "ent_coef": "COEF",
    "callback": "MODULE:CLASS",
}
CAN_BE_EMPTY = ("advisers", "callback")
"""Flags of lists that clear the list of a preset or run if they are given without values."""
REPEATABLE = ("callback",)
"""Flags of lists that may be given several times."""


MESSAGES = {
    r"argument ([^\s/]+)\S*: ignored explicit argument (.*)": r"\1 takes no value, got \2",
    r"argument ([^\s/]+)\S*: expected one argument": r"\1 needs a value",
    r"argument ([^\s/]+)\S*: expected at least one argument": r"\1 needs at least one value",
    r"argument ([^\s/]+)\S*: invalid choice: (.*) \(choose from (.*)\)": r"\1: expected one of \3, got \2",
    r"argument ([^\s/]+)\S*: ": r"\1: ",
}
"""Messages of argparse, as regular expressions -> in the words of other errors."""


class Parser(argparse.ArgumentParser):
    """An argparse parser with one-line errors that suggest the most similar flag. Abbreviations are not accepted."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, add_help=False, **settings)
        # Before Python 3.14, argparse parses a negative number with an exponent, such as -1e-3, as a flag.
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
        self.add_argument("--help", "-h", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        for pattern, replacement in MESSAGES.items():
            message = re.sub(pattern, replacement, message)
        raise UserError(f"{message}; see `{self.prog} --help`" if message.startswith("the following") else message)

    def parse(self, words: list[str]) -> argparse.Namespace:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in words:
            option = word.split("=")[0]
            if word.startswith("--") and len(word) > 2 and option not in known:
                guess = nearest(option, known)
                raise UserError(f"unknown flag {short(option)}{guess}; see `{self.prog} --help`")
        args, rest = self.parse_known_args(words)
        if rest:
            raise UserError(self._too_many(words, rest[0]))
        return args

    def _too_many(self, words: list[str], word: str) -> str:
        """The error for a word that no argument takes."""
        before = [given.split("=")[0] for given in words[: words.index(word)] if given.startswith("--")]
        action = self._option_string_actions.get(before[-1]) if before else None
        if action is None:
            return f"unexpected argument {short(word)}; see `{self.prog} --help`"
        if action.nargs == 0:
            return f"{before[-1]} takes no value, got {short(word)}: write {' or '.join(action.option_strings)}"
        return f"{before[-1]} takes one value, got {short(word)}, too"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        super().__init__(prog, max_help_position=32, width=width)


@dataclass(frozen=True)
class Flag:
    """One field of the configuration tree on the command line."""

    setting: Setting
    shows_default: bool = True

    @property
    def name(self) -> str:
        """The setting's key."""
        return self.setting.key

    @property
    def part(self) -> str:
        return self.setting.part

    @property
    def hint(self) -> Any:
        return self.setting.hint

    @property
    def default(self) -> Any:
        return self.setting.default if self.shows_default else None

    @property
    def section(self) -> str:
        """The heading in the help."""
        return SECTION_OF_FIELD.get(self.name, self.part or "group")

    @property
    def option(self) -> str:
        return flag(self.name)

    @property
    def options(self) -> tuple[str, ...]:
        """The flag, and its other spellings if there are any."""
        others = [other for other, key in OTHER_NAMES.items() if key == self.name and key_of(other) == key]
        return tuple(dict.fromkeys([self.option, *("--" + name.replace("_", "-") for name in (self.name, *others))]))

    @property
    def item(self) -> Any:
        """The type of one value: of a tuple's elements, or of an optional field's value."""
        if get_origin(self.hint) is tuple:
            return get_args(self.hint)[0]
        optional = [arg for arg in get_args(self.hint) if arg is not NoneType]
        return optional[0] if NoneType in get_args(self.hint) else self.hint

    @property
    def is_switch(self) -> bool:
        return self.item is bool

    @property
    def help(self) -> str:
        return self.setting.doc + (f" (default: {self.default_text})" if self.default_text else "")

    @property
    def default_text(self) -> str:
        if self.default == () and self.part == "learner" and self.name not in ("load_paths", "init_from"):
            return _learner_defaults(self.setting.name) if self.shows_default else ""
        if self.default is None or self.default in ((), {}):
            return ""  # the field's docstring describes the default
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return written(self.default[0] if isinstance(self.default, tuple) else self.default)

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        help = self.help.replace("%", "%%")
        if self.is_switch:
            group.add_argument(
                *self.options,
                dest=self.name,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=help,
            )
            return
        if get_origin(self.item) is Literal:
            metavar = "{" + ",".join(get_args(self.item)) + "}"
        else:
            metavar = METAVARS.get(self.name, "N" if self.item is int else "X")
        nargs = None
        if get_origin(self.hint) in (tuple, dict):
            nargs = "*" if self.name in CAN_BE_EMPTY else "+"
        action = "extend" if self.name in REPEATABLE else "store"
        group.add_argument(
            *self.options,
            dest=self.name,
            nargs=nargs,
            action=action,
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=help,
        )

    def value(self, given: Any, before: Any) -> Any:
        """The field's value from `given`, the words of the command line. `before` is the value that it replaces."""
        if self.is_switch:
            return (given,) if get_origin(self.hint) is tuple else given
        if self.name == "trust" and given == "none":  # elsewhere `none` selects the default
            raise UserError("--trust none: use --no-use-trust for scores without trust, --sharing none for no advice")
        if self.name == "env_args":
            return {**before, **convert(self.hint, _assignments(given, self.option), self.option)}
        if self.name == "perturb":
            return overridden(before, given)
        widths = [word.rstrip(",") for word in given] if self.name == "net_arch" else []
        single = not any("," in word for word in widths)  # one width each: layers of one network, or one per member?
        if len(widths) > 1 and single and not all(word.endswith(",") for word in given):
            layers, each = ",".join(widths), " ".join(f"{word}," for word in widths)
            what = f"write {layers} for {len(given)} layers"
            raise UserError(f"{self.option} {' '.join(given)}: {what}, or {each} for one layer in each member")
        data = [self._word(word) for word in given] if isinstance(given, list) else self._word(given)
        return convert(self.hint, data, self.option)

    def _word(self, word: str) -> Any:
        if get_origin(self.item) is tuple:
            return [parse_scalar(part) for part in word.removesuffix(",").split(",")]
        if self.item is str or get_origin(self.item) is Literal:
            unset = word == "none" and NoneType in get_args(self.hint) and "none" not in get_args(self.item)
            return None if unset else word
        return parse_scalar(word)


def written(value: Any) -> str:
    """A value as on the command line, with `on` and `off` for switches."""
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _learner_defaults(name: str) -> str:
    """The defaults of the learners that have the setting `name`, and those of Stable-Baselines3 that differ."""
    methods = [method for method in LEARNERS.methods.values() if name in hints(method.settings)]
    own = {method.name: written(getattr(method.settings(), name)) for method in methods}
    others = {m.name: written(m.settings.sb3_defaults[name]) for m in methods if name in m.settings.sb3_defaults}
    text = next(iter(own.values())) if len(set(own.values())) == 1 else _listed(own)
    return f"{text}; in Stable-Baselines3: {_listed(others)}" if others else text


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _assignments(words: list[str], option: str) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise UserError(f"{option}: expected name=value, got {short(word)}")
        if name in data:
            raise UserError(f"{option}: {name!r} is given twice")
        data[name] = parse(value, f"{option} {name}")
    return data


def train_flags() -> list[Flag]:
    """One flag for every field of the tree, in order."""
    return [Flag(setting) for setting in settings().values()]


def add_flags(parser: argparse.ArgumentParser, flags: list[Flag]) -> None:
    """Add the flags, grouped under headings."""
    first = [name for name in SECTIONS if name not in ("federation", "run")]
    sections = dict.fromkeys([*first, *method_parts(), "federation", "run"])
    for section in sections:
        if chosen := [one for one in flags if one.section == section]:
            title, about = SECTIONS.get(section) or _described(section)
            group = parser.add_argument_group(title, about)
            for one in chosen:
                one.add_to(group)


def _described(part: str) -> tuple[str, str]:
    paragraph = (parts()[part].__doc__ or "").strip().split("\n\n")[0]
    return part.replace("_", " "), " ".join(paragraph.split())


def override(config: Config, given: Mapping[str, Any]) -> Config:
    """`config` with fields replaced by flags of the command line. `given`: the words of each flag, by field name."""
    flags = {known.name: known for known in train_flags()}
    config = released(config, given)
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts()}
    for name, words in given.items():
        chosen = flags[name]
        part = getattr(config, chosen.part) if chosen.part else config
        changes[chosen.part][chosen.setting.name] = chosen.value(words, getattr(part, chosen.setting.name))
    return changed(config, changes)
