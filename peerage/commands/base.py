"""What the commands of the command line have in common."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peerage.config.flags import Parser
from peerage.errors import UserError


@dataclass(frozen=True)
class Command:
    """A word after `peerage`: how it is asked for, and what it does."""

    usage: str
    summary: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, list[str]], None]
    examples: str = ""

    def parser(self, name: str) -> Parser:
        parser = Parser(
            prog=f"peerage {name}",
            usage=f"peerage {name} {self.usage}".rstrip(),
            description=self.summary,
            epilog=self.examples,
        )
        self.add_arguments(parser)
        return parser


def add_run(parser: Parser, nargs: str | None = None) -> None:
    parser.add_argument("run", metavar="RUN", nargs=nargs, help="a run folder, such as experiments/my-run")


def run_folder(text: str) -> Path:
    run = Path(text)
    if not (run / "config.yaml").is_file():
        raise UserError(f"{text!r} is not a run folder: it holds no config.yaml")
    return run


def number(low: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text[:40]!r}")
        return int(text)

    return whole


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    names = list(rows[0]) if rows else []
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.2f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def say_where(run: Path, verbose: int) -> None:
    if verbose:
        try:
            print(f"figures: {run / 'figures'}\nreport:  {run / 'report.html'}", flush=True)
        except (OSError, ValueError):  # the run is there, whether anybody hears of it or not
            leave_stdout()


def leave_stdout() -> None:
    """What cannot be written (a pipe, a terminal or a disk that is gone) must not be tried again when Python ends: it
    would change the exit status."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
