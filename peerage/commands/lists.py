"""`peerage envs` and `peerage presets`."""

from __future__ import annotations

from peerage.commands.base import Command, add_json
from peerage.config.flags import Parser

ENVS = Command(
    "[--json]",
    "List the environments that Peerage is tested with.",
    add_json,
    "peerage.commands.actions.envs:print_envs",
)


def _presets_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the settings of this preset")
    add_json(parser, "print JSON instead of a table, and instead of YAML")


PRESETS = Command(
    "[NAME] [--json]",
    "List the presets (experiments with a name), or print the settings of one as YAML.",
    _presets_arguments,
    "peerage.commands.actions.presets:print_presets",
    "EXAMPLES\n  peerage presets peer-hopper > mine.yaml\n  peerage train --config mine.yaml\n",
)
