"""The process that trains one run of a sweep: `python -m peerage.sweeps.worker`, a `Task` as JSON on standard input.

When standard input closes, because it was told to stop or because the sweep is no more, it does what a SIGTERM would
have it do: finish the step, write a checkpoint, end. Before the training listens to signals, that ends it at once:
there is nothing yet that would be lost.
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
from peerage.evaluation.actors import GroupActor
from peerage.evaluation.evaluate import Evaluator
from peerage.runs.listeners import Listener
from peerage.session import resume, run_training
from peerage.sweeps.launch import Task
from peerage.training.trainer import Trainer


class _Watch(Listener):
    """Asks the training to end once standard input closes, but not when it has ended already and draws its report, and
    not a second time: then it would not wait for a checkpoint."""

    def __init__(self) -> None:
        self.over = False
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while os.read(0, 1):
            pass
        listener = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)  # a training's Interrupt
        if not self.over and not getattr(listener, "asked", False):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_end(self, status: str, reason: str) -> None:
        self.over = True


def work(task: Task, listeners: tuple[Listener, ...] = ()) -> str:
    """Train, resume or measure, and return the answer. Raises UserError for what the user can mend."""
    config = from_dict(task.config)
    if task.measure:
        return json.dumps(measure(config, task.measure))
    if task.resume:
        resume(task.folder, command=task.command, listeners=listeners, verbose=0)
    else:
        run_training(config, task.command, listeners=listeners)
    return "trained"


def measure(config: Config, steps: int) -> dict[str, float]:
    """`step`: seconds of a training step, the mean of `steps`; `evaluation`: seconds of an evaluation. Writes nothing.

    Members act at random before learning begins, which is cheaper, so it is made to begin at once.
    """
    begin = 100
    starts = tuple(min(s, begin) for s in config.learner.learning_starts) or (begin,)
    config = replace(config, learner=replace(config.learner, learning_starts=starts))
    trainer = Trainer(config)
    evaluator = Evaluator(trainer.evaluation_makers, trainer.config.run.n_eval_episodes)

    def clock() -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    try:
        trainer.begin()
        for _ in range(begin + steps // 4):  # until everybody has learned for a while
            trainer.advance()
        began = clock()
        for _ in range(steps):
            trainer.advance()
        trained = clock()
        if config.run.eval_freq:
            evaluator.run(GroupActor(trainer.group), trainer.step)
        return {"step": (trained - began) / steps, "evaluation": clock() - trained}
    finally:
        trainer.close()
        evaluator.close()


def main() -> int:
    """The exit status: 0, 2 for a mistake of the user, 128 + a signal's number, 1 for a fault of ours."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            return 2
        line += byte
    said: dict[str, Any] = json.loads(line)
    task = Task(**{**said, "command": tuple(said["command"])})
    try:
        print(work(task, (_Watch(),)))
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("PEERAGE_TRACEBACK"):
            raise
        print(" ".join(f"{type(error).__name__}: {error}".split())[:300], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
