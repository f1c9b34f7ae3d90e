"""`peerage report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.commands.console import print_json, print_outputs
from peerage.reports.report import write_report
from peerage.statistics.analysis import analyse


def report(args: argparse.Namespace, command: Sequence[str]) -> None:
    data = []
    for run in map(Path, args.run):
        path = write_report(run)
        found = analyse(run)
        chooses = len(found.advisers) > 1  # with a single adviser there is no choice to analyse
        if args.json:
            figures, analysis = str(run / "figures"), found.to_dict() if chooses else None
            data.append({"run": str(run), "report": str(path), "figures": figures, "analysis": analysis})
            continue
        print_outputs(run)
        if chooses:
            print(f"\n{found.table()}")
    if args.json:
        print_json(data)
