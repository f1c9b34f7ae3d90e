"""The interface between the training loop and its logs.

The loop calls a `Listeners`, which passes every call on to the CSV log, the display and the loggers. A listener
receives numbers and names, never the objects of the training, so it cannot change the training.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from peerage.errors import Terminated
from peerage.text import one_line, place

MetricRow = tuple[int, str, str, float]
"""replica, member, name, value."""


class EvaluationRow(NamedTuple):
    """An episode of an evaluation."""

    replica: int
    member: str
    episode: int
    return_: float
    length: int
    """In steps."""
    success: float | None
    """0 or 1; None where the task has none."""
    mode: str
    """alone, together or targets."""
    target: float | None = None
    """The target return of a member that takes one."""


AdviceRow = dict[str, Any]
"""The columns of advice.csv without `step`; a value that is missing or None was not computed."""


@dataclass(frozen=True)
class RunInfo:
    """Facts about a training, passed to every listener at the start."""

    folder: Path | None
    """The run folder; None when nothing is written."""
    env: str
    """The id; for a function that makes an environment its name, and the id of that environment."""
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
    cycle: int = 1
    """Steps per member from one long update to the next: the rollout of PPO. 1: there are no long updates."""
    stride: int = 1
    """Steps per member that the training makes at a time: the environments of a member."""
    data: str = ""
    """The data of an offline training in words."""


class Listener:
    """Base class of listeners. Every method does nothing: override those that you need.

    `step` is environment steps per member. Rows cover all replicas and members of that step.
    """

    essential = False
    """An error of an essential listener ends the training; any other listener is dropped instead."""
    stop_reason: str = ""
    """Why the training should stop, after `stop`. Empty: it should not."""

    def stop(self, reason: str) -> None:
        """Ask the training to stop after the current step. It then writes a checkpoint, the report and the file STOPPED
        with the reason; a resume continues it."""
        self.stop_reason = one_line(reason)[:300] or "no reason was given"

    def on_start(self, info: RunInfo) -> None: ...

    def on_metrics(self, step: int, rows: list[MetricRow]) -> None: ...

    def on_evaluations(self, step: int, rows: list[EvaluationRow]) -> None: ...

    def on_advice(self, step: int, rows: list[AdviceRow]) -> None: ...

    def on_timing(self, step: int, seconds: float, member_steps_per_second: float) -> None: ...

    def on_message(self, step: int, text: str) -> None: ...

    def on_progress(self, step: int, seconds: float) -> None:
        """Called several times a second, and before and after each long update of PPO, so it must be fast. `seconds` is
        wall time since the start."""

    def on_end(self, status: str, reason: str) -> None:
        """`status` is DONE, STOPPED (a listener asked for it) or FAILED."""

    def state(self) -> Any:
        """The memory of the listener for a checkpoint, such as the best return so far: numbers, text, and lists and
        dictionaries with text keys of them. None: no memory."""
        return None

    def load_state(self, state: Any) -> None:
        """Restore the result of `state` when a run is resumed, before `on_start`. Not called if it was None."""


class Listeners(Listener):
    """Passes every call on to all listeners, in order.

    A listener that raises an error is dropped with one line on stderr and the training continues: a full quota at a
    logging service must not end a long training. The error of an essential listener (the CSV log) is raised once the
    others have been called.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self.listeners = list(listeners)

    def _call(self, method: str, *args: Any) -> None:
        self._each(lambda listener: getattr(listener, method)(*args))

    def _each(self, call: Callable[[Listener], object]) -> None:
        failure: BaseException | None = None
        for listener in list(self.listeners):
            try:
                call(listener)
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

    @property
    def stop_reason(self) -> str:  # type: ignore[override]
        """The reason of the first listener that asks to stop; empty if none does."""
        return next(filter(None, (listener.stop_reason for listener in self.listeners)), "")

    def state(self) -> dict[str, Any]:
        """Class -> the states of its listeners, in order; without listeners that have none."""
        states: dict[str, list[Any]] = {}

        def add(listener: Listener) -> None:
            state = json.loads(json.dumps(listener.state()))  # raises for what JSON cannot hold
            if state is not None:
                states.setdefault(_class_of(listener), []).append(state)

        self._each(add)
        return states

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the listeners of the same classes; others start without memory."""
        used: dict[str, int] = {}

        def restore(listener: Listener) -> None:
            name = _class_of(listener)
            number = used[name] = used.get(name, 0) + 1
            if number <= len(some := state.get(name, [])):
                listener.load_state(some[number - 1])

        self._each(restore)

    def on_start(self, info: RunInfo) -> None:
        for listener in self.listeners:
            listener.stop_reason = ""  # a request that ended an earlier training with the same object
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


def _class_of(listener: Listener) -> str:
    return f"{type(listener).__module__}:{type(listener).__qualname__}"


def _warn(listener: Listener, error: BaseException) -> None:
    text = one_line(error)[:200]
    what = f"{type(error).__name__}: {text}{place(error)}"
    what = f"{type(listener).__name__} is switched off, the training continues: {what}"
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
