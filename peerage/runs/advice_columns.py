"""The columns of advice.csv: those that every file has, and those of kinds of trust."""

from __future__ import annotations

from collections.abc import Iterable

from peerage.config.methods import ADVICE_COLUMNS, TRUST

COLUMNS = {
    "step": "int",
    "replica": "int",
    "asker": "str",
    "adviser": "str",
    "chosen": "int",
    "score": "float",
    "trust_td": "float",
    "trust_attention": "float",
    "agent_value": "float",
    "critic": "float",
    "confidence": "float",
    "omega": "float",
    "in_context": "float",
}
"""The columns of every advice.csv in order, with their types; tools rely on them. Further kinds of trust append theirs,
which hold numbers."""
ADVICE_SIGNALS = {"agent_value": "agent value", "critic": "critic"}
"""Columns with a value for every asker and adviser that do not belong to a kind of trust, and their titles."""


def further_columns(trust: str | None) -> tuple[str, ...]:
    """The columns that a run with this kind of trust appends to `COLUMNS`."""
    if trust is None:
        return ()
    method = TRUST[trust]
    return tuple(name for name in (*method.columns, *method.asker_columns) if name not in COLUMNS)


def asker_columns() -> dict[str, str]:
    """Columns with a number about the asker, of all registered kinds of trust, and their titles."""
    return {name: title for method in TRUST.methods.values() for name, title in method.asker_columns.items()}


def signal_titles(columns: Iterable[str]) -> dict[str, str]:
    """Those of `columns` with a value for every asker and adviser, the score aside, and their titles in figures.

    A column that no registered kind of trust has is titled by its name.
    """
    known = {name: title for method in TRUST.methods.values() for name, title in method.columns.items()}
    known |= ADVICE_SIGNALS
    given = set(columns)
    unknown = given - {*known, *ADVICE_COLUMNS, *asker_columns()}
    titles = {name: title for name, title in known.items() if name in given}
    return titles | {name: name.replace("_", " ") for name in sorted(unknown)}
