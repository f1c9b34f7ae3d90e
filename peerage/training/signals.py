"""Handling of signals that end a training: the current step is finished first."""

from __future__ import annotations

import signal
import threading
from typing import Any

from peerage.errors import Terminated


class Interrupt:
    """Records Ctrl-C, SIGTERM and SIGHUP instead of raising immediately; a second signal raises immediately.

    Works in the main thread only, because Python handles signals there. A signal that the process ignores (`nohup`)
    stays ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    @property
    def name(self) -> str:
        """The name of the signal: SIGINT, SIGTERM or SIGHUP; empty if none has arrived."""
        return "" if self.number is None else signal.Signals(self.number).name

    def error(self) -> BaseException:
        """The exception to raise: KeyboardInterrupt after Ctrl-C, otherwise SystemExit with status 128 + the signal's
        number, as shells report it."""
        if self.number in (None, signal.SIGINT):
            return KeyboardInterrupt()
        return Terminated(128 + self.number)

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: object) -> None:
        again, self.number = self.asked, number
        if again:
            raise self.error()

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
