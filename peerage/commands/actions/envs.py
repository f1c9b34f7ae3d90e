"""`peerage envs`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from peerage.commands.console import print_json, print_table
from peerage.envs.catalogue import list_envs


def print_envs(args: argparse.Namespace, command: Sequence[str]) -> None:
    print_json(list_envs()) if args.json else print_table(list_envs())
