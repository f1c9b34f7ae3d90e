"""`peerage video` and `peerage watch`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peerage.errors import UserError
from peerage.evaluation import video as videos
from peerage.interop.hf_dt import is_hf
from peerage.text import number


def video(args: argparse.Namespace, command: Sequence[str]) -> None:
    more = {name: getattr(args, name) for name in ("max_frames", "overwrite")}
    recorded = videos.record(args.run, args.out, **_which(args), **more)
    print(f"{recorded.path}: {recorded.frames:,} frames{_returns(recorded.returns)}")


def watch(args: argparse.Namespace, command: Sequence[str]) -> None:
    print(f"member {args.member}{_returns(videos.watch(args.run, **_which(args)))}")


def _which(args: argparse.Namespace) -> dict[str, Any]:
    names = ("member", "replica", "episodes", "seed", "target_return", "clip_targets")
    chosen = {name: getattr(args, name) for name in names}
    if args.env and not is_hf(Path(args.run)):
        raise UserError("--env is for folders of Hugging Face; a run has its environment")
    return {**chosen, "checkpoint": args.checkpoint or "", "env": args.env}


def _returns(returns: Sequence[float]) -> str:
    return f", return {' '.join(map(number, returns))}" if returns else ""
