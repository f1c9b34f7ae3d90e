"""What a sweep shows while it runs: in a terminal a line for each run at work, rewritten; elsewhere plain lines."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from peerage.sweeps.plan import PlannedRun
from peerage.sweeps.state import State
from peerage.text import count

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
                with self._whoever_reads():
                    self._live.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._whoever_reads():
            if not self.verbose:
                return
            if self._live is not None and self._console is not None:
                self._console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def complain(self, text: str) -> None:
        """A line about what went wrong."""
        self.say(text)
        if not self.verbose:  # or since just now
            with contextlib.suppress(OSError, ValueError):
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
        told = lines()
        with self._whoever_reads():
            if self._live is not None:
                from rich.text import Text

                self._live.update(Text("\n".join(told)), refresh=True)
            else:
                for line in told:
                    print(line, flush=True)

    def stop(self) -> None:
        """The rewritten lines go; twice is fine."""
        live, self._live = self._live, None
        if live is not None:
            with self._whoever_reads():
                live.stop()

    @contextlib.contextmanager
    def _whoever_reads(self) -> Iterator[None]:
        """Where nobody reads any more (`| head`, a terminal or a disk that is gone) the sweep goes on, as with verbose
        0: it is not there for its lines."""
        try:
            yield
        except (OSError, ValueError):
            self.verbose, self._live = 0, None


def share(run: PlannedRun, step: int) -> str:
    """How far a run has come: `50%`."""
    return f"{min(1.0, step / run.resolved.steps):.0%}"


def counted(states: Mapping[str, State]) -> str:
    """`4 runs: 1 done, 3 to train`."""
    whats = [state.what for state in states.values()]
    words = {
        "done": "done",
        "resume": "to resume",
        "train": "to train",
        "elsewhere": "trained by another process",
        "differs": "that differ from what is asked for and stay as they are",
    }
    parts = [f"{whats.count(what)} {text}" for what, text in words.items() if what in whats]
    return f"{count(len(whats), 'run')}: {', '.join(parts)}"
