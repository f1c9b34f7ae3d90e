"""Parses the names of advisers on the command line and in YAML into plain data.

    peerage train --advisers expert noise:0.5:expert checkpoint:experiments/my-run:0
    peerage train --n-peers 3 --byzantine-members 1:sign-flip 2:noise:0.3

`FORMS` lists the built-in kinds; `peerage.sharing.advisers` builds the advisers. Names registered with
`peerage.register_adviser` are checked when the group is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from peerage.errors import UserError, nearest

FORMS = {
    "expert": "expert",
    "adversary": "adversary",
    "random": "random",
    "constant": "constant or constant:NUMBER",
    "checkpoint": "checkpoint:PATH[:MEMBER][@best|@STEP]",
    "dt": "dt:FOLDER[:MEMBER][@TARGET]",
    "turncoat": "turncoat",
    "convert": "convert",
    "regional": "regional:a or regional:b",
    "negated": "negated:ADVISER",
    "sign-flip": "sign-flip:ADVISER",
    "noise": "noise:ADVISER or noise:SCALE:ADVISER",
    "colluding": "colluding or colluding:NAME",
}
"""Built-in kind -> its syntax. `_read_argument` parses the text after the first colon."""
MEMBER_KINDS = ("sign-flip", "noise", "random")
"""Kinds of Byzantine members."""
DEFAULT_NOISE_SCALE = 0.5
MAX_COLONS = 16
"""Maximum number of colons in an adviser's name; limits the depth of nesting."""


@dataclass(frozen=True)
class AdviserWord:
    """The parsed name of an adviser."""

    text: str
    """The name as given."""
    kind: str
    """The part before the first colon: a key of `FORMS`, or a registered name."""
    argument: str = ""
    """checkpoint: `PATH[:MEMBER][@best|@STEP]`; dt: `FOLDER[:MEMBER]`; regional: `a` or `b`; colluding: the name;
    otherwise empty."""
    number: float | None = None
    """constant: the action, if given; dt: the target return, if given; noise: the scale."""
    inner: AdviserWord | None = None
    """negated, sign-flip, noise: the adviser whose suggestions are changed."""


def parse_adviser(text: str, where: str = "") -> AdviserWord:
    """Parse the name of an adviser.

    Raises UserError, which starts with `where`, for an invalid name and for a built-in kind whose argument is
    malformed. A valid name that is not built in is accepted.
    """
    where = where or f"adviser {text!r}"
    kind, colon, rest = text.partition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", kind):
        raise UserError(f"{where}: not the name of an adviser: use {', '.join(FORMS)}, or a registered name")
    if text.count(":") > MAX_COLONS and kind not in ("checkpoint", "dt"):
        raise UserError(f"{where}: advisers are nested too deeply")
    word = AdviserWord(text, kind)
    return _read_argument(word, bool(colon), rest, where) if kind in FORMS else word


def _read_argument(word: AdviserWord, colon: bool, rest: str, where: str) -> AdviserWord:
    """`word` with the fields parsed from `rest`, the text after the first colon. `colon`: whether there is a colon."""
    malformed = UserError(f"{where}: malformed adviser, write {FORMS[word.kind]}")
    match word.kind:
        case "negated" | "sign-flip" if rest:
            return replace(word, inner=parse_adviser(rest, where))
        case "noise" if rest:
            first, _, inner = rest.partition(":")
            scale = _scale(first)
            if scale is None:
                scale, inner = DEFAULT_NOISE_SCALE, rest
            if inner:
                return replace(word, number=scale, inner=parse_adviser(inner, where))
        case "checkpoint" if rest:
            check_trained(rest, where)
            return replace(word, argument=rest)
        case "dt" if rest:
            path, at, target = rest.rpartition("@")
            number = _finite(target) if at else None
            if at and number is None and "/" not in target:
                raise UserError(f"{where}: the target return after @ must be a number, got {target[:40]!r}")
            path = rest if number is None else path
            check_trained(path, where)
            return replace(word, argument=path, number=number)
        case "regional" if rest in ("a", "b"):
            return replace(word, argument=rest)
        case "colluding" if rest:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", rest):
                raise UserError(f"{where}: the name after colluding: must consist of letters and digits, got {rest!r}")
            return replace(word, argument=rest)
        case "constant" if rest:
            number = _finite(rest)
            if number is not None:
                return replace(word, number=number)
        case "expert" | "adversary" | "random" | "turncoat" | "convert" | "colluding" | "constant" if not colon:
            return word
    raise malformed


def split_checkpoint(text: str) -> tuple[str, str]:
    """Split the checkpoint from a trained member: `RUN:0@best` -> `("RUN:0", "best")`. Empty: the newest.

    >>> split_checkpoint("RUN@5000"), split_checkpoint("a@b/RUN:1")
    (('RUN', '5000'), ('a@b/RUN:1', ''))
    """
    rest, _, which = text.rpartition("@")
    return (rest, which) if rest and is_checkpoint(which) else (text, "")


def is_checkpoint(text: str) -> bool:
    """Whether a text selects a checkpoint: `best`, or the number of a step."""
    return text == "best" or (text.isdecimal() and text.isascii() and len(text) < 19)


def checkpoint_word(given: str | int) -> str:
    """`given` as a text that selects a checkpoint; empty: the newest. Raises UserError for another text."""
    word = str(given)
    if word and not is_checkpoint(word):
        raise UserError(f"a checkpoint is best or the number of a step, got {word[:40]!r}")
    return word


def check_trained(text: str, where: str) -> None:
    """Check the form `PATH[:MEMBER][@best|@STEP]` of a trained member. The path itself is checked when it is read."""
    text, _ = split_checkpoint(text)
    path, colon, member = text.rpartition(":")
    if not colon:
        path = text
    elif not member.isdecimal() and "/" not in member and "\\" not in member:
        raise UserError(f"{where}: a member's number must follow the last colon, got {member!r}")
    if not path.strip() or "\0" in text:
        raise UserError(f"{where}: the path is empty or invalid")


def parse_members(words: Sequence[str], n_members: int) -> dict[int, tuple[str, float]]:
    """Byzantine members, as in `1:sign-flip 2:noise:0.5`: member -> kind and scale; UserError if malformed."""
    found: dict[int, tuple[str, float]] = {}
    for word in words:
        number, _, how = word.partition(":")
        kind, colon, scale = how.partition(":")
        where = f"--byzantine-members {word!r}"
        if not number.isdecimal() or not how:
            raise UserError(f"{where}: write MEMBER:KIND, as in 1:sign-flip")
        if int(number) >= n_members:
            raise UserError(f"{where}: there is no such member; they are 0 to {n_members - 1}")
        if int(number) in found:
            raise UserError(f"{where}: member {int(number)} is given twice")
        if kind not in MEMBER_KINDS:
            raise UserError(f"{where}: unknown kind{nearest(kind, MEMBER_KINDS)}: use one of {', '.join(MEMBER_KINDS)}")
        value = _scale(scale) if colon else DEFAULT_NOISE_SCALE
        if value is None or (colon and kind != "noise"):
            raise UserError(f"{where}: only noise takes a number, its scale, as in 1:noise:0.5")
        found[int(number)] = kind, value
    return found


def _scale(text: str) -> float | None:
    """A number without a sign; None if `text` is something else."""
    return float(text) if re.fullmatch(r"(\d+(\.\d+)?|\.\d+)([eE][-+]?\d+)?", text) else None


def _finite(text: str) -> float | None:
    """A finite number; None if `text` is something else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
