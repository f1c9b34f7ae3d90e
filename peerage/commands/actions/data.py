"""`peerage collect` and `peerage data`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from peerage.commands.console import print_json, print_table
from peerage.config.sources import adviser_kinds, parse_source
from peerage.envs.make import check_env_id
from peerage.envs.scripted import expert_for
from peerage.errors import UserError
from peerage.loading import deferred
from peerage.offline.listing import list_data
from peerage.offline.places import minari_root
from peerage.offline.trajectories import Trajectories
from peerage.offline.writing import target
from peerage.text import count, number

# Both import torch, which takes seconds
record = deferred("peerage.evaluation.collect:collect")
from_replay = deferred("peerage.evaluation.replayed:from_replay")

NAMES = ("episodes", "env", "env_args", "seed", "noise", "sample", "max_episode_steps", "n_envs")


def collect(args: argparse.Namespace, command: Sequence[str]) -> None:
    target(args.out, args.overwrite)
    if args.from_replay is not None:
        more = {"replica": args.replica or 0, "episodes": args.episodes, "env": args.env}
        data, note = from_replay(args.from_replay, args.out, overwrite=args.overwrite, **more)
        print(note) if note else None
    else:
        kinds = {kind for source in args.sources for kind in adviser_kinds(parse_source(source))}
        if args.env is not None and "expert" in kinds:
            spec = check_env_id(args.env, args.env_args or {})
            expert_for(spec.id, spec)
        given: dict[str, Any] = {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
        with _progress() as progress:
            data = record(args.sources, args.out, overwrite=args.overwrite, progress=progress, **given)
    print(_summary(data))


def print_data(args: argparse.Namespace, command: Sequence[str]) -> None:
    rows = list_data(args.names)
    if args.json:
        print_json(rows)
    elif not rows:
        print(f"there are no datasets in {minari_root()}; `peerage collect` makes one")
    else:
        if readable := [row for row in rows if not row["error"]]:
            print_table([{_title(key): cell for key, cell in row.items() if key != "error"} for row in readable])
        for row in rows if not args.names else ():
            if row["error"]:
                print(f"{row['name']} cannot be read: {row['error']}")
    if args.names and (errors := [row["error"] for row in rows if row["error"]]):
        raise UserError("; ".join(errors))


def _title(key: str) -> str:
    """The heading of a column: `return 10%` for `return_10`."""
    name, _, quantile = key.partition("_")
    return f"{name} {quantile}%" if quantile else key


def _summary(data: Trajectories) -> str:
    low, middle, high, top = map(number, data.quantiles())
    returns = f"return quantiles 10% {low}, 50% {middle}, 90% {high}, 100% {top}"
    return f"{data.source.name}: {count(data.episodes, 'episode')}, {count(data.steps, 'step')}, {returns}"


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress bar in a terminal; nothing elsewhere. Yields `progress(done, total)`."""
    console = Console(stderr=True)
    if not (console.is_terminal and sys.stderr is not None):
        yield lambda done, total: None
        return
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("episodes", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
