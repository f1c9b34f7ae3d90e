"""Exchanges between processes through a folder that all of them can read and write. Details: docs/federation.md.

    FOLDER/
      alice/                              written by the participant alice alone
        fedformer-00000001.safetensors    its message in round 1
        fedformer-00000002.present.json   only if one was missing: whose messages it used in round 2
      bob/
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peerage.config import Config
from peerage.config.roster import Roster, roster_of
from peerage.errors import UserError
from peerage.runs import disk
from peerage.sharing.transports import messages
from peerage.sharing.transports.base import SENDS, Stopped, Transport, Waiting
from peerage.sharing.transports.messages import Malformed
from peerage.text import count, listing

POLL_SECONDS = 0.05
SAY_AFTER = 10.0
"""Seconds of waiting after which the user gets a message; the next ones follow after twice the time each."""


def refuse_used_name(config: Config) -> None:
    """Raise UserError for a new run if the folder of the federation has messages of its participant, or of a
    participant that it does not know."""
    roster = roster_of(config)
    if roster is None:
        return
    if strangers := _strangers(Path(config.federation), roster):
        raise UserError(
            f"{config.federation} has messages of {listing(strangers)}, who is not among --participants: use the same "
            "--participants in all processes, or another --federation folder"
        )
    if (own := Path(config.federation) / roster.own).exists():
        raise UserError(
            f"{own} exists: the federation has a run of {roster.own} already; resume it, or use another --federation "
            "folder"
        )


def claim(config: Config) -> None:
    """Make the participant's folder in the federation. Raises OSError if it exists."""
    if (roster := roster_of(config)) is not None:
        Path(config.federation).mkdir(parents=True, exist_ok=True)
        (Path(config.federation) / roster.own).mkdir()


def _strangers(folder: Path, roster: Roster) -> list[str]:
    """Participants that have sent messages and that the roster does not name."""
    there = sorted(path.name for path in folder.glob("*") if any(path.glob("*.safetensors")))
    return [name for name in there if name not in roster.members]


class Folder(Transport):
    """Messages in a shared folder, one file for each participant and round, which are never changed.

    A round waits until the messages of all participants are there. If at least `least` are, it waits at most `timeout`
    seconds for the others, and not at all for those that were missing in the round before. Whose messages were used is
    then written down, so that a resume uses the same ones.
    """

    def __init__(
        self, folder: Path, roster: Roster, exchange: str, waiting: Waiting, least: int | None, timeout: float
    ) -> None:
        self.folder, self.roster, self.name, self.waiting = folder, roster, exchange, waiting
        self.least, self.timeout = len(roster.members) if least is None else least, timeout
        self.round = 0
        """The last round."""
        self.heard = dict.fromkeys(roster.others, 0)
        """Other participant -> the last round in which its message was used; 0: none."""
        self._dropped: set[tuple[str, int, int]] = set()
        self._strange: set[str] = set()

    def exchange(self, round: int, outgoing: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if strangers := [name for name in _strangers(self.folder, self.roster) if name not in self._strange]:
            self._strange |= set(strangers)
            self.waiting.say(f"{self.folder} has messages of {listing(strangers)}, who is not among --participants")
        mine = {name: _where_sent(x, outgoing[SENDS]).cpu() for name, x in outgoing.items()}
        self._send(round, mine)
        found = {self.roster.own: mine, **self._receive(round, mine)}
        self.round = round
        self.heard |= {name: round for name in found if name in self.heard}
        for name in self.roster.others:
            found.setdefault(name, {key: torch.zeros_like(x) for key, x in self._expected(name, mine).items()})
        return {
            key: torch.cat([found[name][key] for name in self.roster.members], dim=1).to(x.device)
            for key, x in outgoing.items()
        }

    def labels(self, n: int) -> list[str]:
        """`0` to `n - 1`, and `NAME:0`, `NAME:1`, ... for the members of other participants."""
        members = self.roster.members.items()
        return [str(i) if name == self.roster.own else f"{name}:{i}" for name, count in members for i in range(count)]

    def metrics(self) -> dict[str, float]:
        """`EXCHANGE/age_NAME`: the number of rounds since the last message of another participant."""
        return {f"{self.name}/age_{name}": float(self.round - heard) for name, heard in self.heard.items()}

    def state(self) -> dict[str, Any]:
        return {"round": self.round, "heard": dict(self.heard)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.round = int(state["round"])
        self.heard = {name: int(state["heard"][name]) for name in self.heard}

    # --- one round ------------------------------------------------------------------------------------------

    def _send(self, round: int, mine: Mapping[str, Tensor]) -> None:
        """Write the message of this participant, unless a process that was killed has written it: other participants
        may have read that one."""
        path, labels = self._path(self.roster.own, round), messages.label(self.roster.own, self.name, round)
        try:
            sent = messages.read(path, mine, labels)
        except Malformed as error:
            self.waiting.say(f"{path} is written again: {error}")
            sent = None
        if sent is None:
            messages.write(path, mine, labels)
        elif any(not torch.equal(sent[name], x) for name, x in mine.items()):
            self.waiting.say(f"{path} is kept, but this run computes other numbers now")

    def _receive(self, round: int, mine: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The messages of the other participants that are used in this round."""
        found: dict[str, dict[str, Tensor]] = {}
        wanted = self._used_before(round)
        began, next_say = time.monotonic(), SAY_AFTER
        while True:
            names = self.roster.others if wanted is None else wanted
            for name in names:
                if name not in found and (message := self._read(name, round, mine)) is not None:
                    found[name] = message
            missing = [name for name in names if name not in found]
            if not missing:
                return found
            waited = time.monotonic() - began
            hopeless = waited >= self.timeout or not any(self._took_part(name, round - 1) for name in missing)
            if hopeless and wanted is None and len(found) + 1 >= self.least:
                self._write_used(round, sorted(found))
                return found
            if self.waiting.stop():
                raise Stopped
            if waited >= next_say:
                next_say = 2 * waited
                self.waiting.say(self._progress(round, missing, len(found) + 1, wanted is not None))
            time.sleep(POLL_SECONDS)

    def _progress(self, round: int, missing: list[str], there: int, again: bool) -> str:
        known = f"{there} of {count(len(self.roster.members), 'participant')} are there"
        needed = "" if again or there >= self.least else f", {self.least} are needed"
        return f"round {round} of {self.name} waits for {listing(missing)}: {known}{needed} (Ctrl-C stops)"

    def _read(self, name: str, round: int, mine: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The message of a participant; None if it is not there, or is malformed: it may be replaced by a valid one."""
        path = self._path(name, round)
        try:
            return messages.read(path, self._expected(name, mine), messages.label(name, self.name, round))
        except Malformed as error:
            known = _identity(path)
            if known not in self._dropped:
                self._dropped.add(known)
                self.waiting.say(f"{path} is dropped: {error}")
            return None

    def _expected(self, name: str, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Arrays of the shapes and types that a participant sends, without memory."""
        n = self.roster.members[name]
        return {key: x[:, :1].expand(x.shape[0], n, *x.shape[2:]) for key, x in mine.items()}

    def _took_part(self, name: str, round: int) -> bool:
        return round < 1 or self._path(name, round).exists()

    def _path(self, name: str, round: int) -> Path:
        return self.folder / name / f"{self.name}-{round:08d}.safetensors"

    # --- rounds without some participants -------------------------------------------------------------------

    def _used(self, round: int) -> Path:
        return self.folder / self.roster.own / f"{self.name}-{round:08d}.present.json"

    def _used_before(self, round: int) -> list[str] | None:
        """Whose messages this round has used before the run was resumed; None: those of all, or the round is new."""
        path = self._used(round)
        try:
            names = json.loads(path.read_text())
            if not isinstance(names, list) or not set(names) <= set(self.roster.others):
                raise ValueError
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged: restore it, or train a new federation") from error
        return names

    def _write_used(self, round: int, names: list[str]) -> None:
        path = self._used(round)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(names))
        disk.sync(partial)
        os.replace(partial, path)
        disk.sync(path.parent)


def _where_sent(values: Tensor, sends: Tensor) -> Tensor:
    """`values [R, n, ...]`, with zeros for members that do not take part."""
    return torch.where(sends.view(*sends.shape, *[1] * (values.dim() - 2)), values, torch.zeros_like(values))


def _identity(path: Path) -> tuple[str, int, int]:
    """Tells one version of a file from another."""
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), stat.st_mtime_ns, stat.st_size
