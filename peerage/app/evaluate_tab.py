"""The tab."""

from __future__ import annotations

from pathlib import Path

import streamlit as st


def show(log_dir: Path) -> None:
    """The tab."""
    st.write("soon")
