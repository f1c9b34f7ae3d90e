"""`peerage sweep`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from peerage.commands.console import print_json, print_table
from peerage.config import Config, settings
from peerage.config.flags import override
from peerage.sweeps.drive import run
from peerage.sweeps.file import describe, sweep_names

OWN = ("file", "dry_run", "measure", "jobs", "stretch_schedules", "json")
"""Arguments that are not settings of the runs."""


def sweep(args: argparse.Namespace, command: Sequence[str]) -> None:
    """Train the sweep; exits with the status of `peerage.sweeps.run` if that is not 0."""
    given = vars(args)
    own: dict[str, Any] = {name: given.pop(name) for name in OWN if name in given}
    if (file := own.pop("file")) is None:
        rows = [{"sweep": name, "about": describe(name)} for name in sweep_names()]
        print_json(rows) if own["json"] else print_table(rows)
        return
    if own.pop("json"):
        own["show"] = print_json
    config = override(Config(), given)
    known = settings()
    values: dict[str, Any] = {}
    for key in given:
        setting = known[key]
        values[key] = getattr(getattr(config, setting.part) if setting.part else config, setting.name)
    about = {name: values.pop(name) for name in ("log_dir", "verbose") if name in values}
    if status := run(file, **own, **about, settings=values, command=command):
        raise SystemExit(status)
