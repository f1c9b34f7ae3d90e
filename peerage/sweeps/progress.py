"""What a sweep shows while it runs: in a terminal a line for each run at work, rewritten; elsewhere plain lines."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

LIVE_SECONDS = 1.0
LINE_SECONDS = 10.0


class Progress:
    """`verbose` 0 says nothing but what went wrong, which goes to stderr."""

    def __init__(self, verbose: int, console: Console | None = None) -> None:
        self.verbose = verbose
        self._console = console
        self._live: Live | None = None
        self._began = time.monotonic()
        self._shown = -math.inf

    def start(self) -> None:
        """From now on there are lines to be rewritten."""
        self._shown = self._began = time.monotonic()
        if self.verbose:
            if self._console is None:
                from rich.console import Console

                self._console = Console()
            if self._console.is_terminal:
                from rich.live import Live

                self._shown = -math.inf
                self._live = Live("", console=self._console, auto_refresh=False, transient=True)
                self._live.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.verbose:
            return
        if self._live is not None and self._console is not None:
            self._console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def complain(self, text: str) -> None:
        """A line about what went wrong."""
        if self.verbose:
            self.say(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, lines: Callable[[], list[str]]) -> None:
        """How it stands; `lines` is called when it is time, seldom in a log file."""
        if not self.verbose:
            return
        now = time.monotonic()
        pause = LIVE_SECONDS if self._live else max(LINE_SECONDS, 0.01 * (now - self._began))
        if now - self._shown < pause:
            return
        self._shown = now
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text("\n".join(lines())), refresh=True)
        else:
            for line in lines():
                print(line, flush=True)

    def stop(self) -> None:
        """The rewritten lines go; twice is fine."""
        if self._live is not None:
            self._live.stop()
            self._live = None
