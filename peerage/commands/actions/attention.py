"""`peerage attention`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.commands.console import print_json, print_table
from peerage.evaluation.importance import Importance, importance
from peerage.reports.attention_figures import draw
from peerage.text import count, number


def attention(args: argparse.Namespace, command: Sequence[str]) -> None:
    which = args.checkpoint or ""
    found = importance(
        args.run,
        member=args.member,
        replica=args.replica,
        checkpoint=which,
        episodes=args.episodes,
        seed=args.seed,
        of=args.of,
        deletion=not args.no_deletion,
    )
    name = f"attention-member-{args.member}-replica-{args.replica}{f'-{which}' if which else ''}"
    folder = args.out or Path(args.run) / "figures" / name
    drawn = [] if args.json and args.out is None else draw(found, folder)
    if args.json:
        print_json({"run": args.run, "figures": [str(path) for path in drawn], **found.to_dict()})
        return
    print(f"member {args.member} of replica {args.replica}, after {found.step:,} steps")
    _print(found)
    print("\nfigures: " + " ".join(str(path) for path in drawn))


def _print(found: Importance) -> None:
    print(f"{count(found.states, 'state')} of {count(found.episodes, 'episode')}\n")
    print_table([{name: _short(value) for name, value in row.items()} for row in found.records()])
    print()
    if found.weight is not None:
        print("weight: mean attention weight, which is no measure of importance by itself")
    print(f"occlusion: {found.unit} if the feature comes from another state")
    print("gradient: change of the policy per standard deviation of the feature")
    print("rank correlations: " + "; ".join(f"{pair} {_short(r)}" for pair, r in found.correlations.items()))
    if found.deletion is None:
        return
    print("\nreturn while features are replaced by their means, the most important first (mean over the curve)")
    rows = []
    for order, curve in found.deletion.curves.items():
        row = {"order": order, "area": number(curve.area)}
        if order != "random":
            row |= {"minus random": number(curve.difference), "95% interval": _interval(curve.low, curve.high)}
        rows.append({"order": "", "area": "", "minus random": "", "95% interval": ""} | row)
    print_table(rows)


def _interval(low: float, high: float) -> str:
    return "" if low != low else f"[{number(low)}, {number(high)}]"


def _short(value: object) -> object:
    """A number with three significant digits; empty for NaN."""
    if not isinstance(value, float):
        return value
    return "" if value != value else f"{value:.3g}".replace("-", "−")
