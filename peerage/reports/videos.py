"""The videos in a run folder, as part of its report."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from peerage.reports import page

MAX_BYTES = 10_000_000
"""Larger videos are named and not embedded."""
KINDS = {".mp4": "video/mp4", ".gif": "image/gif"}


def videos(run: Path) -> str:
    """HTML with the videos that `peerage video` has written into a run folder; empty without any."""
    files = sorted(f for f in run.iterdir() if f.suffix in KINDS and f.is_file() and not f.is_symlink())
    return "\n".join(map(_figure, files))


def _figure(file: Path) -> str:
    size, name = file.stat().st_size, escape(file.name)
    if size > MAX_BYTES:
        return page.paragraph(f"{file.name} is not shown here, because it is larger than {MAX_BYTES / 1e6:.0f} MB.")
    data = f"data:{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
    if file.suffix == ".mp4":
        shown = f'<video controls loop muted src="{data}" aria-label="{name}"></video>'
    else:
        shown = f'<img src="{data}" alt="{name}">'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"
