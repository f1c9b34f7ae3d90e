"""The progress of a sweep: in a terminal a live line per running run, elsewhere plain lines."""

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
    """Prints progress. With `verbose` 0 it prints errors only, on stderr."""

    def __init__(self, verbose: int, console: Console | None = None) -> None:
        self.verbose = verbose
        self._console = console
        self._live: Live | None = None
        self._began = time.monotonic()
        self._shown = -math.inf

    def start(self) -> None:
        """Begin the live display, in a terminal."""
        self._shown = self._began = time.monotonic()
        if self.verbose:
            if self._console is None:
                from rich.console import Console

                self._console = Console()
            if self._console.is_terminal:
                from rich.live import Live

                self._shown = -math.inf
                self._live = Live("", console=self._console, auto_refresh=False, transient=True)
                with self._ignore_closed_output():
                    self._live.start()

    def say(self, text: str) -> None:
        """Print a permanent line."""
        with self._ignore_closed_output():
            if not self.verbose:
                return
            if self._live is not None and self._console is not None:
                self._console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def say_error(self, text: str) -> None:
        """Print a permanent line about an error."""
        self.say(text)
        if not self.verbose:  # possibly set to 0 by `say`, when stdout was closed
            with contextlib.suppress(OSError, ValueError):
                print(text, file=sys.stderr, flush=True)

    def show(self, lines: Callable[[], list[str]]) -> None:
        """Update the display if it is time to; only then `lines` is called. Without a terminal updates are rare."""
        if not self.verbose:
            return
        now = time.monotonic()
        pause = LIVE_SECONDS if self._live else max(LINE_SECONDS, 0.01 * (now - self._began))
        if now - self._shown < pause:
            return
        self._shown = now
        shown = lines()
        with self._ignore_closed_output():
            if self._live is not None:
                from rich.text import Text

                self._live.update(Text("\n".join(shown)), refresh=True)
            else:
                for line in shown:
                    print(line, flush=True)

    def stop(self) -> None:
        """End the live display; a second call does nothing."""
        live, self._live = self._live, None
        if live is not None:
            with self._ignore_closed_output():
                live.stop()

    @contextlib.contextmanager
    def _ignore_closed_output(self) -> Iterator[None]:
        """If the output is closed (`| head`, a closed terminal) or the disk is full, continue as with `verbose` 0."""
        try:
            yield
        except (OSError, ValueError):
            self.verbose, self._live = 0, None


def share(run: PlannedRun, step: int) -> str:
    """The share of its steps that a run has completed: `50%`."""
    return f"{min(1.0, step / run.resolved.steps):.0%}"


def summary_of(states: Mapping[str, State]) -> str:
    """`4 runs: 1 done, 3 to train`."""
    found = [state.status for state in states.values()]
    words = {
        "done": "done",
        "resume": "to resume",
        "train": "to train",
        "elsewhere": "trained by another process",
        "differs": "left unchanged, as they differ from the sweep",
    }
    parts = [f"{found.count(status)} {text}" for status, text in words.items() if status in found]
    return f"{count(len(found), 'run')}: {', '.join(parts)}"
