"""The page, a Streamlit script: `peerage app` runs it with the log folder as its argument."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

from peerage.app import attention_tab, evaluate_tab, train_tab
from peerage.app.markdown import plain
from peerage.errors import UserError
from peerage.text import one_line

STYLE = """<style>
.block-container { padding-top: 2.2rem; padding-bottom: 3rem; }
[data-testid="stProgress"] p { font-variant-numeric: tabular-nums; }
@media (max-width: 640px) { .block-container { padding-left: 0.8rem; padding-right: 0.8rem; } }
</style>"""


def show(log_dir: Path) -> None:
    """The page for the runs in a folder. Only the open tab is computed."""
    st.set_page_config(page_title="Peerage", layout="wide")
    st.html(STYLE)
    st.caption(f"**Peerage** · runs in {plain(log_dir.name or log_dir)}")
    tabs = {"Train": train_tab, "Attention": attention_tab, "Evaluate": evaluate_tab}
    for tab, part in zip(st.tabs(list(tabs), on_change="rerun", key="tab", bind="query-params"), tabs.values()):
        if tab.open:
            with tab:
                try:
                    part.show(log_dir)
                except (UserError, OSError) as error:  # such as a run that was removed in the meantime
                    st.error(plain(one_line(error)))


if __name__ == "__main__":
    # Streamlit puts the folder of this file first, where its modules would hide others of the same name
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    show(Path(sys.argv[1]))
