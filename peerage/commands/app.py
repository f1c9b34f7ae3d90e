"""`peerage app`."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from peerage.commands.base import Command, number
from peerage.config.flags import Parser
from peerage.errors import UserError

LOG_DIR = "experiments"


def _app_arguments(parser: Parser) -> None:
    about = f"the folder of the runs (default: {LOG_DIR}, which is made if it is missing)"
    parser.add_argument("log_dir", metavar="LOG_DIR", nargs="?", help=about)
    about = "name or address of this machine at which the page is served (default: localhost, for this machine only)"
    parser.add_argument("--host", default="localhost", metavar="HOST", help=about)
    parser.add_argument("--port", type=number(1), default=8501, metavar="N", help="TCP port (default: 8501)")
    about = "open the page in a browser (default: on)"
    parser.add_argument("--browser", action=argparse.BooleanOptionalAction, default=True, help=about)


def _check_app(args: argparse.Namespace) -> None:
    if missing := [name for name in ("streamlit", "plotly") if importlib.util.find_spec(name) is None]:
        raise UserError(f'peerage app needs {missing[0]}, which is not installed: pip install "peerage[app]"')
    if args.port > 65535:
        raise UserError(f"--port must be at most 65535, got {args.port}")
    folder = Path(args.log_dir or LOG_DIR)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"LOG_DIR {folder} is not a folder: name the folder that holds run folders")
    if args.log_dir is not None and not folder.exists():
        raise UserError(f"there is no folder {folder}: create it, or name the folder that holds run folders")
    if (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is a run folder: name the folder that holds it")


APP = Command(
    "[LOG_DIR] [--host HOST] [--port N] [--no-browser]",
    "Serve a page on which to start and watch trainings, look into attention, and compare runs.",
    _app_arguments,
    "peerage.commands.actions.app:app",
    "EXAMPLES\n  peerage app\n  peerage app experiments --port 8600 --no-browser\n",
    _check_app,
)
