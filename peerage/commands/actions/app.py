"""`peerage app`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peerage.app.server import serve
from peerage.commands.app import LOG_DIR
from peerage.errors import UserError


def app(args: argparse.Namespace, command: Sequence[str]) -> None:
    folder = Path(args.log_dir or LOG_DIR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror or error}") from error
    serve(folder, args.host, args.port, args.browser)
