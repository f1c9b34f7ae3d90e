"""The commands that list what there is: `peerage envs` and `peerage presets`."""

from __future__ import annotations

import argparse

from peerage.commands.base import Command, print_table
from peerage.config.flags import Parser
from peerage.config.plain_yaml import to_yaml


def _envs(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.envs.catalogue import list_envs

    print_table(list_envs())


ENVS = Command("", "List the environments that are known to work.", lambda parser: None, _envs)


def _presets_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this preset's settings")


def _presets(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.config.presets import describe, preset, preset_names

    if args.name is not None:
        print(f"# {args.name}: {describe(args.name)}\n{to_yaml(preset(args.name))}", end="")
        return
    width = max(map(len, preset_names()))
    for name in preset_names():
        print(f"{name:{width}}  {describe(name)}")


PRESETS = Command(
    "[NAME]",
    "List the experiments that can be run by name, or print the settings of one as YAML.",
    _presets_arguments,
    _presets,
    "EXAMPLES\n  peerage presets peer-hopper > mine.yaml\n  peerage train --config mine.yaml\n",
)
