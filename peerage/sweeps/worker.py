"""The process that trains one run of a sweep: `python -m peerage.sweeps.worker`, a `Task` as JSON on standard input.

When standard input is closed, by the launcher or because the process of the sweep has ended, the worker sends itself a
SIGTERM: a training finishes its step, writes a checkpoint and ends. Before the training handles signals, the SIGTERM
ends the process at once, and nothing is lost. For the same reason the worker watches standard input before it imports
torch and the rest: `WORK` names the function that does the work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from peerage.errors import UserError
from peerage.loading import load_function
from peerage.runs.listeners import Listener
from peerage.sweeps.launch import Task
from peerage.text import one_line

WORK = "peerage.sweeps.work:work"


class _StopOnClosedInput(Listener):
    """Asks the training to end when standard input is closed.

    It does not do so once the training has ended and the report is drawn, nor if the training was asked to end before:
    a second signal would end it without a checkpoint.
    """

    def __init__(self) -> None:
        self.over = False
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while os.read(0, 1):
            pass
        listener = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)  # the Interrupt of a training
        if not self.over and not getattr(listener, "asked", False):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_end(self, status: str, reason: str) -> None:
        self.over = True


def main() -> int:
    """The exit status: 0; 2 for an error of the user; 128 + the number of a signal; 1 for a bug in Peerage."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            return 2
        line += byte
    fields: dict[str, Any] = json.loads(line)
    task = Task(**{**fields, "command": tuple(fields["command"])})
    try:
        listener = _StopOnClosedInput()
        print(load_function(WORK)(task, (listener,)))
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("PEERAGE_TRACEBACK"):
            raise
        print(one_line(f"{type(error).__name__}: {error}")[:300], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
