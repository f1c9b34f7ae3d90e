"""`peerage export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.interop.sb3_export import export_member


def export(args: argparse.Namespace, command: Sequence[str]) -> None:
    print(export_member(Path(args.run), args.member, args.replica, args.out, args.checkpoint or ""))
