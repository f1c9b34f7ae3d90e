"""`peerage sweep`."""

from __future__ import annotations

import argparse

from peerage.commands.base import Command, add_json, number
from peerage.config.flags import Parser, add_flags, train_flags
from peerage.errors import UserError


def _sweep_arguments(parser: Parser) -> None:
    about = "a sweep file, or the name of a built-in sweep; without it the built-in sweeps are listed"
    parser.add_argument("file", metavar="FILE|NAME", nargs="?", help=about)
    about = "print the runs, the state of each and the expected time; write nothing"
    parser.add_argument("--dry-run", action="store_true", help=about)
    about = "with --dry-run: time a few hundred steps of each kind of run whose speed is unknown"
    parser.add_argument("--measure", action="store_true", help=about)
    about = "extend runs that are shorter than in the sweep even if schedules depend on their length (docs/sweeps.md)"
    parser.add_argument("--stretch-schedules", action="store_true", help=about)
    about = "number of runs that are trained at the same time (default: as many as the CPU cores allow)"
    parser.add_argument("--jobs", type=number(1), metavar="N", help=about)
    add_json(parser, "with --dry-run, or without FILE: print JSON instead of a table")
    add_flags(parser, [flag for flag in train_flags() if flag.name not in ("seed", "exp_name", "overwrite")])


def _check_sweep(args: argparse.Namespace) -> None:
    if args.json and args.file is not None and not args.dry_run:
        raise UserError("--json needs --dry-run: a sweep that trains prints no table")


SWEEP = Command(
    "[FILE|NAME] [--dry-run] [--json] [--jobs N] [flags]",
    "Train every combination of settings, environments and seeds in a sweep file; finished runs are skipped.",
    _sweep_arguments,
    "peerage.commands.actions.sweep:sweep",
    "EXAMPLES\n  peerage sweep quick\n  peerage sweep ablation --dry-run\n  peerage compare experiments/quick\n",
    _check_sweep,
)
