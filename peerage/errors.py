"""The exceptions that Peerage defines."""

from __future__ import annotations

import difflib


class UserError(Exception):
    """An error that the user can correct. The message is one line that describes the problem and the solution.

    The command line prints it as `peerage: <message>` and exits with status 2. Wherever possible it is raised before
    anything is written.
    """


class Terminated(SystemExit):
    """A signal asked the program to end, with status 128 + the number of the signal. Any other SystemExit comes from an
    environment, an adviser or a listener and counts as its failure."""


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`" (did you mean 'x'?)"` for the known word closest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""

