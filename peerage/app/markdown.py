"""Text for Streamlit, which reads Markdown."""

from __future__ import annotations

SPECIAL = "\\`*_[]<>#$~:|"


def plain(text: object) -> str:
    """Text with the special characters of Markdown escaped, so that it is shown as it is."""
    return "".join(f"\\{c}" if c in SPECIAL else c for c in str(text))
