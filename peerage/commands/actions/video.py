"""`peerage video` and `peerage watch`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from peerage.evaluation import video as videos
from peerage.text import number


def video(args: argparse.Namespace, command: Sequence[str]) -> None:
    which = {name: getattr(args, name) for name in ("member", "replica", "episodes", "seed", "max_frames", "overwrite")}
    film = videos.record(args.run, args.out, **which)
    print(f"{film.path}: {film.frames:,} pictures{_returns(film.returns)}")


def watch(args: argparse.Namespace, command: Sequence[str]) -> None:
    which = {name: getattr(args, name) for name in ("member", "replica", "episodes", "seed")}
    print(f"member {args.member}{_returns(videos.watch(args.run, **which))}")


def _returns(returns: Sequence[float]) -> str:
    return f", return {' '.join(map(number, returns))}" if returns else ""
