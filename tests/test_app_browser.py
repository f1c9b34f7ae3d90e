"""The live page in a browser: one training, from the form to DONE."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Browser

from peerage.runs.folder import RunFolder

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (apt-get install chromium)"),
]
TEXT = "document.body.innerText"


def wait(until: Callable[[], Any], what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def shows(browser: Browser, text: str) -> None:
    wait(lambda: text in browser.run(TEXT), f"{text!r} is not on the page: {browser.run(TEXT)}")


def fill(browser: Browser, label: str, text: str) -> None:
    """Type into the field with a label, as a person does, and press Enter."""
    field = f"document.querySelector('input[aria-label={json.dumps(label)}]')"
    wait(lambda: browser.run(f"!!{field}"), f"there is no field {label}")
    box = browser.run(f"{field}.scrollIntoView({{block: 'center'}}), JSON.stringify({field}.getBoundingClientRect())")
    where = json.loads(box)
    x, y = where["x"] + where["width"] / 2, where["y"] + where["height"] / 2
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    browser.run(f"{field}.select()")
    browser.call("Input.insertText", text=text)
    for kind in ("rawKeyDown", "char", "keyUp"):
        more = {"text": "\r"} if kind == "char" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, **more)


def click(browser: Browser, name: str) -> None:
    button = f"[...document.querySelectorAll('button')].find((each) => each.innerText.trim() === {json.dumps(name)})"
    wait(lambda: browser.run(f"!!{button} && !{button}.disabled"), f"there is no button {name}")
    browser.run(f"{button}.click()")


def answer(port: int, host: str, origin: str) -> int:
    """The status with which the server answers a request for a session."""
    lines = ["GET /_stcore/stream HTTP/1.1", f"Host: {host}", f"Origin: {origin}", "Connection: Upgrade"]
    lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(200).split()[1])


def test_a_training_from_the_form_to_its_end(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "peerage", "app", str(logs), "--host", "127.0.0.1", "--port", str(port)]
    output = tmp_path / "output"
    with output.open("wb") as file:
        server = subprocess.Popen([*command, "--no-browser"], stdout=file, stderr=subprocess.STDOUT)
    browser = Browser(tmp_path / "profile")
    try:
        wait(lambda: b"started on" in output.read_bytes() or server.poll() is not None, "the server does not start")
        assert server.poll() is None, output.read_text()
        assert answer(port, f"127.0.0.1:{port}", f"http://127.0.0.1:{port}") == 101
        assert answer(port, f"evil.example:{port}", f"http://evil.example:{port}") == 403
        assert answer(port, f"127.0.0.1:{port}", "http://evil.example") == 403
        browser.go(f"http://127.0.0.1:{port}/")
        shows(browser, "Start training")
        fill(browser, "env", "Room-v3")
        shows(browser, "env: Room-v3")
        fill(browser, "n peers", "1")
        fill(browser, "total timesteps", "1500")
        shows(browser, "total_timesteps: 1500")
        fill(browser, "gamma", "7")
        shows(browser, "--gamma must be in [0, 1], got 7")
        fill(browser, "gamma", "0.95")
        # A field that is filled while the page is computed again is lost
        wait(lambda: "--gamma must be" not in browser.run(TEXT), "the message about gamma stays")
        fill(browser, "Name of the run", "clicked")
        shows(browser, "exp_name: clicked")
        shows(browser, f"peerage train --config {logs}/.app/clicked.yaml")
        click(browser, "Start training")
        shows(browser, "DONE at step 1,500 of 1,500. The run is finished.")
        run = RunFolder(logs / "clicked")
        assert run.status()[0] == "DONE" and run.resolved().learner.gamma == (0.95,)
        wait(lambda: browser.run("document.querySelectorAll('.js-plotly-plot').length") >= 3, "there are no curves")
        for tab, text in {"Evaluate": "Networks", "Attention": "Action values (Q)", "Train": "New training"}.items():
            browser.run(f"[...document.querySelectorAll('[role=tab]')].find((t) => t.innerText === '{tab}').click()")
            shows(browser, text)
        assert re.search(r"[?&]run=clicked", browser.run("location.search"))
        width = browser.run("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0
        own = rf"(http|ws)://127\.0\.0\.1:{port}/|data:|blob:"
        assert [url for url in browser.requests() if not re.match(own, url)] == []
        assert "Traceback" not in output.read_text()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0 or server.returncode == 130
    finally:
        browser.close()
        server.kill()
        server.wait()
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)
