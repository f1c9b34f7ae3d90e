"""Parses the sources of `peerage collect`.

    peerage collect experiments/my-run:0@best random=0.5 --out mixed
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peerage.config.adviser_words import FORMS, AdviserWord, parse_adviser, split_checkpoint
from peerage.errors import UserError
from peerage.loading import not_a_run


@dataclass(frozen=True)
class Source:
    """A policy to record, and its share of the episodes relative to the other sources."""

    adviser: AdviserWord
    text: str
    share: float = 1.0


def parse_source(text: str) -> Source:
    """Parse `RUN[:MEMBER][@best|@STEP]`, the path of a zip file of Stable-Baselines3, or the name of an adviser; each
    may be followed by `=SHARE`. Raises UserError for a malformed text and for a path that does not exist."""
    name, equals, after = text.rpartition("=")
    share = 1.0
    if equals and not os.path.exists(text):
        is_number = re.fullmatch(r"\d+(\.\d*)?|\.\d+", after)
        if not is_number and not (name in FORMS or trained_path(name).exists()):
            name, after = text, "1"  # = is a part of a path or of the name of a registered adviser
        elif not is_number or not float(after) > 0:
            raise UserError(f"source {text}: the share after = must be a positive number")
        text, share = name, float(after)
    where = f"source {text!r}"
    kind = text.partition(":")[0]
    path = trained_path(text)
    if kind in FORMS and not (kind == text and path.exists() and (path / "config.yaml").exists()):
        word = parse_adviser(text, where)
        for inner in _chain(word):
            if inner.kind == "checkpoint" and not trained_path(inner.argument).exists():
                raise UserError(f"{where}: there is no run folder or file {str(trained_path(inner.argument))!r}")
        return Source(word, text, share)
    if path.exists():
        if path.is_dir() and not (path / "config.yaml").is_file():
            raise UserError(f"{where}: {not_a_run(path)}")
        return Source(parse_adviser(f"checkpoint:{text}", where), text, share)
    if os.sep in text or "/" in text or text.endswith(".zip"):
        raise UserError(f"{where}: there is no run folder or file {str(path)!r}")
    return Source(parse_adviser(text, where), text, share)  # a registered adviser, or an unknown one


def trained_path(text: str) -> Path:
    """The path in `PATH[:MEMBER][@best|@STEP]`."""
    if os.path.exists(text):
        return Path(text)
    rest, _ = split_checkpoint(text)
    head, colon, tail = rest.rpartition(":")
    return Path(head if colon and head and tail.isdecimal() and not os.path.exists(rest) else rest)


def runs_of(sources: Sequence[Source]) -> list[Path]:
    """The run folders that the sources name, in their order."""
    found: dict[Path, None] = {}  # used as an ordered set
    for source in sources:
        for word in _chain(source.adviser):
            if word.kind == "checkpoint" and (path := trained_path(word.argument)).is_dir():
                found[path] = None
    return list(found)


def adviser_kinds(source: Source) -> set[str]:
    """The kinds of the adviser of a source and of the advisers inside it, such as `expert`."""
    return {word.kind for word in _chain(source.adviser)}


def divided(episodes: int, shares: Sequence[float]) -> list[int]:
    """How many of the episodes each source gets: in proportion to its share, rounded by largest remainders."""
    exact = [episodes * share / sum(shares) for share in shares]
    counts = [int(part) for part in exact]
    order = sorted(range(len(shares)), key=lambda k: (counts[k] - exact[k], k))
    for k in order[: episodes - sum(counts)]:
        counts[k] += 1
    return counts


def _chain(word: AdviserWord) -> list[AdviserWord]:
    """An adviser and the advisers inside it."""
    return [word, *(_chain(word.inner) if word.inner is not None else ())]
