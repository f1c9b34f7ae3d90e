"""Starts the web server of the page."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from streamlit.web import bootstrap

from peerage.app import main
from peerage.errors import UserError


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
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve at {host}:{port}: {reason}; choose another --port or --host") from error


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
