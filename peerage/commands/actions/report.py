"""`peerage report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.commands.console import print_outputs
from peerage.reports.report import write_report
from peerage.statistics.analysis import analyse


def report(args: argparse.Namespace, command: Sequence[str]) -> None:
    for run in map(Path, args.run):
        write_report(run)
        print_outputs(run)
        found = analyse(run)
        if len(found.advisers) > 1:  # with a single adviser there is no choice to analyse
            print(f"\n{found.table()}")
