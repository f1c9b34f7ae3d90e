"""`peerage sweep`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from peerage.commands.console import print_table
from peerage.config import Config, settings
from peerage.config.flags import override
from peerage.sweeps.drive import run
from peerage.sweeps.file import describe, sweep_names

OWN = ("file", "dry_run", "measure", "jobs", "stretch_schedules")
"""Arguments that are not settings of the runs."""


def sweep(args: argparse.Namespace, command: Sequence[str]) -> None:
    """Train the sweep; exits with the status of `peerage.sweeps.run` if that is not 0."""
    given = vars(args)
    own = {name: given.pop(name) for name in OWN if name in given}
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
