"""Starts the web server of the page."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

from streamlit.web import bootstrap

from peerage.app import main
from peerage.errors import UserError

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of this machine in a browser that runs on it."""


def serve(log_dir: Path, host: str, port: int, browser: bool) -> None:
    """Serve the page until the process is asked to end. Raises UserError if the address cannot be used.

    `host`: a name or an address of this machine. `browser`: open the page in a browser.
    """
    _check_address(host, port)
    options = {
        "server_address": host,
        "server_port": port,
        "server_headless": not browser,
        "server_fileWatcherType": "none",
        "server_runOnSave": False,
        "server_enableStaticServing": False,
        "server_enableCORS": True,
        "server_enableXsrfProtection": True,
        # Against pages of other servers that pretend to be this one (DNS rebinding)
        "server_allowedHosts": sorted({host, *LOCAL}) if _is_local(host) else [],
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "minimal",
        "client_showErrorDetails": "none",
        "global_developmentMode": False,
        "runner_magicEnabled": False,
        "logger_hideWelcomeMessage": True,
    }
    bootstrap.load_config_options(options)
    shown = f"[{host}]" if ":" in host else host
    print(f"Peerage shows {log_dir} at http://{shown}:{port} (Ctrl-C ends the page; trainings continue)", flush=True)
    if not _is_local(host):
        print("Everyone who reaches this address can start trainings on this machine.", flush=True)
    bootstrap.run(main.__file__, False, [str(log_dir)], options)


def _check_address(host: str, port: int) -> None:
    """UserError if the port is taken at one of the addresses of `host`, or none of them can be used."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        errors = [_problem(*where) for where in addresses]
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot serve at {host}:{port}: {error}; choose another --port or --host") from error
    known = [error for error in errors if error is not None]
    refused = [error for error in known if error.errno in (errno.EADDRINUSE, errno.EACCES)]
    if refused or len(known) == len(addresses):
        why = (refused or known)[0].strerror
        raise UserError(f"cannot serve at {host}:{port}: {why}; choose another --port or --host")


def _problem(family: int, kind: int, protocol: int, name: str, address: Any) -> OSError | None:
    """The error of a server at an address; None if there is none."""
    try:
        with socket.socket(family, kind, protocol) as probe:
            if os.name != "nt":  # as the server does: a port that was used a moment ago is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
