"""Output of the commands on the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peerage.statistics.json_data import json_data


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows in aligned columns, headed by the keys of the first one."""
    rows = list(rows)
    names = list(rows[0]) if rows else []
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip())


def print_json(data: Any) -> None:
    """Print plain data as JSON; numbers that are not finite become null."""
    print(json.dumps(json_data(data), indent=2, ensure_ascii=False, allow_nan=False))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.2f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def print_outputs(run: Path) -> None:
    """Print the paths of the figures and the report of a run. A closed output is ignored: the run itself succeeded."""
    try:
        print(f"figures: {run / 'figures'}\nreport:  {run / 'report.html'}", flush=True)
    except (OSError, ValueError):
        discard_unwritten_output()


def discard_unwritten_output() -> None:
    """Flush stdout, and if that fails (a closed pipe or terminal, a full disk) discard the rest: a second failure at
    the interpreter's exit would change the exit status."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
