"""A headless Chromium for tests, over its DevTools pipe: no port, no driver, no package."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SECONDS = 60.0


class Browser:
    """One tab. JSON messages end with a zero byte; the browser reads descriptor 3 and writes descriptor 4."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        # Out of the way of 3 and 4, which the child takes before it becomes the browser
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs, answers)]
        start = f"import os, sys; os.dup2({ours[0]}, 3); os.dup2({ours[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += [f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-c", start, PROGRAM, *flags]
        self.process = subprocess.Popen(command, pass_fds=ours, **nothing)
        for end in (theirs, answers, *ours):
            os.close(end)
        self._count, self._rest = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        """What the browser said without being asked, since the page was opened."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command of the DevTools protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._read(end)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0], "the browser says nothing"
            more = os.read(self._from, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1200, dark: bool = False, media: str = "", script: bool = True) -> None:
        """Show a file: in a window of that width, by night, on paper (`print`), or with scripts switched off."""
        self.go(path.resolve().as_uri(), width, 900, dark, media, script)

    def go(
        self,
        url: str,
        width: int = 1200,
        height: int = 900,
        dark: bool = False,
        media: str = "",
        script: bool = True,
    ) -> None:
        """Show the page at an address, as `open`."""
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._load("about:blank")
        self.events.clear()
        self._load(url)
        time.sleep(0.05)  # pending events, such as a violation of the policy, arrive before the next answer
        self.run("0")

    def _load(self, url: str) -> None:
        """Open a page and wait until it has loaded. Its events are told from those of the page before by the number of
        the loader, because they may still arrive."""
        loader = self.call("Page.navigate", url=url)["loaderId"]
        end = time.monotonic() + SECONDS

        def loaded(event: dict[str, Any]) -> bool:
            about = event.get("params", {})
            named = event.get("method") == "Page.lifecycleEvent" and about["name"] == "load"
            return named and about["loaderId"] == loader

        while not any(map(loaded, self.events)):
            self.events.append(self._read(end))

    def run(self, code: str) -> Any:
        """The value of a JavaScript expression in the page, also where its own scripts are switched off."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors, warnings and violations of the page's policy."""
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"])[:500] for event in self.events if event.get("method") in names]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself among them."""
        names = ("Network.requestWillBeSent", "Network.webSocketCreated")
        found = [event["params"] for event in self.events if event.get("method") in names]
        return [params["request"]["url"] if "request" in params else params["url"] for params in found]

    def close(self) -> None:
        """End the browser in any state."""
        try:
            self._session = None
            self.call("Browser.close")
            self.process.wait(20)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(20)
        for end in (self._to, self._from):
            os.close(end)
