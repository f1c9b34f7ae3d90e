"""Formatting of numbers, names and lists for people; used by the display, the figures, the report and messages."""

from __future__ import annotations

import math
import os
import sysconfig
import traceback
from functools import lru_cache
from pathlib import Path


def number(value: float | None) -> str:
    """A number with about four significant figures: 0.123, 12.3, 1,234; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1000 else f"{size:.1f}" if size >= 10 else f"{size:.3f}"
    return f"−{text}" if value < 0 else text


def thousands(steps: int) -> str:
    """A number of steps in short form: 5,000, 24k, 1.5M."""
    return (
        f"{steps:,}" if steps < 10_000 else f"{steps / 1000:,.4g}k" if steps < 1e6 else f"{steps / 1e6:.4g}M"
    )


def duration(seconds: float) -> str:
    """h:mm:ss; days and hours from one day on."""
    whole = round(seconds)
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def count(amount: int, word: str) -> str:
    """`1 member`, `2 members`."""
    return f"{amount:,} {word}" + ("" if amount == 1 else "s")


def short(name: str, length: int = 22) -> str:
    """A name longer than `length` (such as the path of a checkpoint), shortened to its beginning and end."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length // 2) :]}"


def listing(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def one_line(text: object) -> str:
    """The text of an error or another object with every run of white space, line breaks too, as one space."""
    return " ".join(str(text).split())


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def place(error: BaseException) -> str:
    """` (my_env.py, line 12)`: the innermost line of the user's code where `error` was raised. Without such a line, the
    innermost one outside Peerage; empty if there is no such line either."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_below(frame.filename, OURS)]
    own = [frame for frame in frames if not is_installed(frame.filename)] or frames
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


OURS = str(Path(__file__).resolve().parent)


def is_installed(file: str) -> bool:
    """Whether a file of Python code belongs to the standard library or to an installed package."""
    return _is_installed(os.path.abspath(file))


@lru_cache(maxsize=1000)  # resolving paths takes longer than building a small environment
def _is_installed(file: str) -> bool:
    folders = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return bool(packages) or any(_is_below(file, folder) for folder in folders)


def _is_below(file: str, folder: str) -> bool:
    return Path(file).resolve().is_relative_to(Path(folder).resolve())
