"""The interface between the training loop and its logs.

The loop calls a `Listeners`, which passes every call on to the CSV log, the display and the loggers. A listener
receives numbers and names, never the objects of the training, so it cannot change the training.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peerage.errors import Terminated
from peerage.text import one_line

MetricRow = tuple[int, str, str, float]
"""replica, member, name, value."""
EvaluationRow = tuple[int, str, int, float, int, float | None, str]
"""replica, member, episode, return, length (steps), success (0 or 1; None where the task has none), mode (alone or
together)."""
AdviceRow = dict[str, Any]
"""The columns of advice.csv without `step`; a value that is missing or None was not computed."""


@dataclass(frozen=True)
class RunInfo:
    """Facts about a training, passed to every listener at the start."""

    folder: Path | None
    """The run folder; None when nothing is written."""
    env: str
    algorithms: tuple[str, ...]
    """One for each member, or one for all."""
    members: tuple[str, ...]
    """member-0, member-1, ..."""
    advisers: tuple[str, ...]
    """All advisers of a group: the members, then the fixed advisers."""
    replicas: int
    total_steps: int
    """Environment steps per member, including those before a resume."""
    start_step: int
    """0, or the step of the checkpoint that the run is resumed from."""
    config: dict[str, Any]
    """The resolved configuration as plain data."""
    resumed: bool = False
    """Whether the run is resumed, possibly from step 0."""


class Listener:
    """Base class of listeners. Every method does nothing: override those that you need.

    `step` is environment steps per member. Rows cover all replicas and members of that step.
    """

    essential = False
    """An error of an essential listener ends the training; any other listener is dropped instead."""

    def on_start(self, info: RunInfo) -> None: ...

    def on_metrics(self, step: int, rows: list[MetricRow]) -> None: ...

    def on_evaluations(self, step: int, rows: list[EvaluationRow]) -> None: ...

    def on_advice(self, step: int, rows: list[AdviceRow]) -> None: ...

    def on_timing(self, step: int, seconds: float, member_steps_per_second: float) -> None: ...

    def on_message(self, step: int, text: str) -> None: ...

    def on_progress(self, step: int, seconds: float) -> None:
        """Called several times a second, so it has to be cheap. `seconds` is wall time since the start."""

    def on_end(self, status: str, reason: str) -> None:
        """`status` is DONE or FAILED."""


class Listeners(Listener):
    """Passes every call on to all listeners, in order.

    A listener that raises an error is dropped with one line on stderr and the training continues: a full quota at a
    logging service must not end a long training. The error of an essential listener (the CSV log) is raised once the
    others have been called.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self.listeners = list(listeners)

    def _call(self, method: str, *args: Any) -> None:
        failure: BaseException | None = None
        for listener in list(self.listeners):
            try:
                getattr(listener, method)(*args)
            except (KeyboardInterrupt, Terminated):  # a second Ctrl-C or SIGTERM ends the training at once
                raise
            except BaseException as error:  # some libraries raise errors that do not derive from Exception
                if listener.essential:
                    failure = failure or error
                else:
                    self.listeners.remove(listener)
                    _warn(listener, error)
        if failure is not None:
            raise failure

    def on_start(self, info: RunInfo) -> None:
        self._call("on_start", info)

    def on_metrics(self, step: int, rows: list[MetricRow]) -> None:
        self._call("on_metrics", step, rows)

    def on_evaluations(self, step: int, rows: list[EvaluationRow]) -> None:
        self._call("on_evaluations", step, rows)

    def on_advice(self, step: int, rows: list[AdviceRow]) -> None:
        self._call("on_advice", step, rows)

    def on_timing(self, step: int, seconds: float, member_steps_per_second: float) -> None:
        self._call("on_timing", step, seconds, member_steps_per_second)

    def on_message(self, step: int, text: str) -> None:
        self._call("on_message", step, text)

    def on_progress(self, step: int, seconds: float) -> None:
        self._call("on_progress", step, seconds)

    def on_end(self, status: str, reason: str) -> None:
        self._call("on_end", status, reason)


def _warn(listener: Listener, error: BaseException) -> None:
    text = one_line(error)[:200]
    what = f"{type(listener).__name__} is switched off, the training continues: {type(error).__name__}: {text}"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
        print(f"peerage: {what}", file=sys.stderr)


def role(asker: str, adviser: str) -> str:
    """The role of an adviser for an asker in the summary of a large group: self, other members, or its name.

    >>> role("member-0", "member-0"), role("member-0", "member-1"), role("member-0", "expert")
    ('self', 'other members', 'expert')
    """
    if adviser == asker:
        return "self"
    return "other members" if is_member(adviser) else adviser


def is_member(name: str) -> bool:
    """Whether a name is that of a learning member (`member-3`)."""
    return name.startswith("member-") and name[len("member-") :].isdigit()
