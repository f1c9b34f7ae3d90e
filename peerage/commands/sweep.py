"""`peerage sweep`."""

from __future__ import annotations

import argparse
from typing import Any

from peerage.commands.base import Command, number, print_table
from peerage.config import Config, settings
from peerage.config.flags import Parser, add_flags, override, train_flags


def _sweep_arguments(parser: Parser) -> None:
    about = "a sweep file, or the name of a shipped one; without it those are listed"
    parser.add_argument("file", metavar="FILE|NAME", nargs="?", help=about)
    about = "print the runs, what would be done to each, and the time; write nothing"
    parser.add_argument("--dry-run", action="store_true", help=about)
    about = "with --dry-run: time some hundred steps of runs of unknown speed"
    parser.add_argument("--measure", action="store_true", help=about)
    about = "runs at the same time (default: as many as there are cores for)"
    parser.add_argument("--jobs", type=number(1), metavar="N", help=about)
    add_flags(parser, [flag for flag in train_flags() if flag.name not in ("seed", "exp_name", "overwrite")])


def _sweep(args: argparse.Namespace, command: list[str]) -> None:
    from peerage.sweeps import describe, run, sweep_names

    given = vars(args)
    own = {name: given.pop(name) for name in ("file", "dry_run", "measure", "jobs") if name in given}
    if (file := own.pop("file")) is None:
        print_table({"sweep": name, "about": describe(name)} for name in sweep_names())
        return
    config = override(Config(), given)
    known = settings()
    values: dict[str, Any] = {}
    for key in given:
        setting = known[key]
        values[key] = getattr(getattr(config, setting.part) if setting.part else config, setting.name)
    about = {name: values.pop(name) for name in ("log_dir", "verbose") if name in values}
    if status := run(file, **own, **about, settings=values, command=command):
        raise SystemExit(status)


SWEEP = Command(
    "[FILE|NAME] [--dry-run] [--jobs N] [flags]",
    "Train every combination of settings, environments and seeds that a file names: what is missing, no more.",
    _sweep_arguments,
    _sweep,
    "EXAMPLES\n  peerage sweep quick\n  peerage sweep ablation --dry-run\n  peerage compare experiments/quick\n",
)
