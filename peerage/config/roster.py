"""The participants of a federation: processes that exchange parameters, each with members of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from peerage.config.tree import Config
from peerage.errors import UserError
from peerage.text import count

MAX_MEMBERS = 1000
"""Largest number of members of all participants together."""


@dataclass(frozen=True)
class Roster:
    """The participants in the order of their names, which is the order of their members."""

    own: str
    """The name of this process."""
    members: Mapping[str, int]
    """Name -> number of members per replica, sorted by name."""

    @property
    def total(self) -> int:
        """The number of members of all participants."""
        return sum(self.members.values())

    @property
    def offset(self) -> int:
        """The number of members of the participants before this one."""
        return sum(n for name, n in self.members.items() if name < self.own)

    @property
    def others(self) -> list[str]:
        """The other participants."""
        return [name for name in self.members if name != self.own]


def roster_of(config: Config) -> Roster | None:
    """The participants of a valid configuration; None without a federation."""
    if not config.federation:
        return None
    return Roster(config.participant, dict(sorted(map(_parsed, config.participants))))


def _parsed(text: str) -> tuple[str, int]:
    """`NAME` or `NAME:MEMBERS`."""
    found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})(?::([1-9][0-9]{0,3}))?", text)
    if found is None:
        raise UserError(
            f"--participants {text[:80]!r}: expected NAME or NAME:MEMBERS; a name consists of letters, digits, _, - "
            "and ."
        )
    return found[1], int(found[2] or 1)


def check_federation(config: Config) -> None:
    """Raise UserError if the settings of the federation are incomplete or contradict each other or `n_peers`."""
    named = {
        "--federation": config.federation,
        "--participant": config.participant,
        "--participants": config.participants,
    }
    given, missing = [k for k, v in named.items() if v], [k for k, v in named.items() if not v]
    if not given:
        if config.min_participants is not None:
            raise UserError("--min-participants has no effect without --federation")
        return
    if missing:
        raise UserError(f"{given[0]} needs {' and '.join(missing)}: a federation has a folder and named participants")
    if "\0" in config.federation or not config.federation.strip():
        raise UserError("--federation cannot be a path")
    if not config.exchange:
        raise UserError("--federation needs --exchange: average, fedavg or fedformer")
    names = [_parsed(text)[0] for text in config.participants]
    if len({name.lower() for name in names}) < len(names):
        raise UserError("--participants names the same participant twice (case does not count)")
    if config.participant not in names:
        raise UserError(f"--participant {config.participant[:64]} is not among --participants {' '.join(names)}")
    roster = roster_of(config)
    assert roster is not None
    if roster.total < 2:
        raise UserError("--participants has one member in all: a federation needs at least two")
    if roster.members[roster.own] != config.n_peers:
        raise UserError(
            f"--participants gives {roster.own} {count(roster.members[roster.own], 'member')}, but --n-peers is "
            f"{config.n_peers}: use --n-peers {roster.members[roster.own]}, or {roster.own}:{config.n_peers}"
        )
    if roster.total > MAX_MEMBERS:
        raise UserError(f"--participants has {roster.total} members in all: at most {MAX_MEMBERS} are possible")
    if config.member_offset not in (None, roster.offset):
        raise UserError(
            f"--member-offset {config.member_offset} contradicts --participants, by which it is {roster.offset}: leave "
            "it out"
        )
    if config.min_participants is not None and config.min_participants > len(names):
        raise UserError(f"--min-participants {config.min_participants} is more than the {len(names)} of --participants")
