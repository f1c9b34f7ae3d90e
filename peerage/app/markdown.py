"""Text and layout for Streamlit, which reads Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

SPECIAL = "\\`*_[]<>#$~:|"
T = TypeVar("T")


def plain(text: object) -> str:
    """Text with the special characters of Markdown escaped, so that it is shown as it is."""
    return "".join(f"\\{c}" if c in SPECIAL else c for c in str(text))


def pairs(items: Sequence[T]) -> list[Sequence[T]]:
    """The items two by two; the last pair may be a single one."""
    return [items[k : k + 2] for k in range(0, len(items), 2)]
