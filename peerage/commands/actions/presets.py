"""`peerage presets`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from peerage.commands.console import print_json
from peerage.config.file import to_yaml
from peerage.config.presets import describe, preset, preset_groups, preset_names


def print_presets(args: argparse.Namespace, command: Sequence[str]) -> None:
    if args.json:
        groups = preset_groups().items()
        listed = [{"name": name, "group": group, "about": describe(name)} for group, some in groups for name in some]
        print_json(listed if args.name is None else preset(args.name))
        return
    if args.name is not None:
        print(f"# {args.name}: {describe(args.name)}\n{to_yaml(preset(args.name))}", end="")
        return
    width = max(map(len, preset_names()))
    for heading, names in preset_groups().items():
        print(heading)
        for name in names:
            print(f"  {name:{width}}  {describe(name)}")
        print()
    print("`peerage train --config NAME` trains a preset; `peerage presets NAME` prints its settings.")
