"""The one error that users see."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do.

    The command line prints it as `peerage: <message>` and exits with status 2. It is raised before
    anything is written, wherever that is possible.
    """


class Terminated(SystemExit):
    """A signal wants the program to end, with status 128 + its number. Any other SystemExit that comes out of an
    environment, an adviser or a listener is a failure of theirs."""


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`" (did you mean 'x'?)"` for the known word closest to `word`, or an empty string."""
    import difflib

    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""

