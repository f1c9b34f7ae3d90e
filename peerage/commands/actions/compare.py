"""`peerage compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.commands.console import print_json, print_table
from peerage.reports.comparison_page import write_comparison
from peerage.statistics import compare as comparing
from peerage.statistics.formats import as_json, as_latex, as_text
from peerage.statistics.sensitivity import sensitivity
from peerage.statistics.sources import find_runs


def compare(args: argparse.Namespace, command: Sequence[str]) -> None:
    if args.sensitivity:
        _print_sensitivity(args.runs, args.json)
        return
    found = comparing.compare(
        args.runs,
        by=args.by,
        reference=args.reference,
        metric=args.metric,
        measure=args.measure,
        mode=args.mode,
        threshold=args.threshold,
        target=args.target,
        paired=args.paired,
        across_tasks=args.across_tasks,
        stability=args.stability,
    )
    if args.json or args.latex:
        print(as_json(found) if args.json else as_latex(found), end="")
        return
    print(as_text(found))
    print(f"page:    {write_comparison(found, args.out, command)}")


def _print_sensitivity(names: Sequence[str], as_data: bool) -> None:
    """`names`: one sweep, or runs and patterns of runs."""
    is_sweep = len(names) == 1 and not (Path(names[0]) / "config.yaml").exists() and "*" not in names[0]
    found = sensitivity(names[0] if is_sweep else [source.folder for source in find_runs(names)])
    if as_data:
        print_json({"settings": found.records(), "notes": found.notes})
        return
    print_table(found.records())
    print("".join(f"\n{note}" for note in found.notes))
