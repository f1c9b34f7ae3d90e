"""`peerage presets`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from peerage.commands.console import print_json
from peerage.config.file import to_yaml
from peerage.config.presets import describe, preset, preset_names


def print_presets(args: argparse.Namespace, command: Sequence[str]) -> None:
    if args.json:
        names = [{"name": name, "about": describe(name)} for name in preset_names()]
        print_json(names if args.name is None else preset(args.name))
        return
    if args.name is not None:
        print(f"# {args.name}: {describe(args.name)}\n{to_yaml(preset(args.name))}", end="")
        return
    width = max(map(len, preset_names()))
    for name in preset_names():
        print(f"{name:{width}}  {describe(name)}")
