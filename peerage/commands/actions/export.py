"""`peerage export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.errors import UserError
from peerage.interop.sb3_export import export_member
from peerage.interop.sequence_models import export_hf


def export(args: argparse.Namespace, command: Sequence[str]) -> None:
    chosen = Path(args.run), args.member, args.replica, args.out, args.checkpoint or ""
    if args.to == "hf":
        print(export_hf(*chosen, args.stats_from or ""))
        return
    if args.stats_from:
        raise UserError("--stats-from is for --to hf")
    print(export_member(*chosen))
