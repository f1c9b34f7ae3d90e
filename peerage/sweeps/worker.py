"""The process that trains one run of a sweep: `python -m peerage.sweeps.worker`, a `Task` as JSON on standard input.

When standard input is closed, by the launcher or because the process of the sweep has ended, the worker sends itself a
SIGTERM: a training finishes its step, writes a checkpoint and ends. Before the training handles signals, the SIGTERM
ends the process at once, and nothing is lost.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import torch

from peerage.config import Config
from peerage.config.file import from_dict
from peerage.errors import UserError
from peerage.runs.listeners import Listener
from peerage.session import resume, run_training
from peerage.sweeps.launch import Task
from peerage.text import one_line
from peerage.training.trainer import Trainer


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


def work(task: Task, listeners: tuple[Listener, ...] = ()) -> str:
    """Train, resume or measure; returns the line to print. Raises UserError for an error that the user can correct."""
    config = from_dict(task.config)
    if task.measure:
        return json.dumps(measure(config, task.measure))
    if task.resume:
        resume(task.folder, command=task.command, listeners=listeners, verbose=0)
    else:
        run_training(config, task.command, listeners=listeners)
    return "trained"


def measure(config: Config, steps: int) -> dict[str, float]:
    """`step`: mean seconds of a training step over `steps` steps; `evaluation`: seconds of an evaluation.

    Steps before learning begins are cheaper, so learning is made to begin after 100 steps. Writes nothing.
    """
    begin = 100
    starts = tuple(min(s, begin) for s in config.learner.learning_starts) or (begin,)
    config = replace(config, learner=replace(config.learner, learning_starts=starts))
    trainer = Trainer(config)

    def clock() -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    try:
        trainer.reset()
        for _ in range(begin + steps // 4):  # until all members have learned for a while
            trainer.advance()
        began = clock()
        for _ in range(steps):
            trainer.advance()
        trained = clock()
        if config.run.eval_freq:
            trainer.evaluation_rows()
        return {"step": (trained - began) / steps, "evaluation": clock() - trained}
    finally:
        trainer.close()


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
        print(work(task, (_StopOnClosedInput(),)))
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
