"""Signals that end a training: heard at once, obeyed when the step is finished."""

from __future__ import annotations

import signal
import threading
from typing import Any

from peerage.errors import Terminated


class Interrupt:
    """Remembers Ctrl-C, SIGTERM and SIGHUP instead of ending at once; a second one ends at once.

    Only in the main thread, which alone may listen to signals; a signal that the process was told to ignore (`nohup`)
    stays ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Has somebody asked for the end?"""
        return self.number is not None

    @property
    def name(self) -> str:
        """SIGINT, SIGTERM or SIGHUP."""
        return "" if self.number is None else signal.Signals(self.number).name

    def error(self) -> BaseException:
        """What to raise: KeyboardInterrupt after Ctrl-C, otherwise SystemExit with the status that a shell expects of
        a program that a signal ended, 128 + its number."""
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
