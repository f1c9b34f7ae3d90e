"""Runs a training to its end, with logging, evaluations and checkpoints.

The runner is independent of environments. It runs a `Trainable`: `peerage.training.trainer.Trainer`, or a training from
data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from peerage.config import Config
from peerage.config.file import to_dict
from peerage.nets import workers
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import AdviceRow, EvaluationRow, Listener, MetricRow, RunInfo
from peerage.sharing.transports.base import Stopped, Waiting
from peerage.training.machine import give_memory_back, trim_interval
from peerage.training.signals import Interrupt

PROGRESS_SECONDS = 0.2
UPDATE_PROGRESS_SECONDS = 0.05
"""Progress is reported before and after the updates of rollouts that take longer than this."""


class Trainable(Protocol):
    """A training that a runner can run. Steps are numbered 1, 2, ..., `steps`."""

    config: Config
    names: list[str]
    """Members, then fixed advisers."""
    N: int
    R: int
    steps: int
    threads: int
    """Number of CPU threads."""
    step: int
    """The number of completed steps."""
    stride: int
    """The number of steps that `advance` performs; `steps` is a multiple of it."""
    begun: bool
    waiting: Waiting
    """What an exchange with other processes asks and tells while it waits."""

    def begin(self) -> None:
        """Prepare the first step; then `begun` is true."""
        ...

    def advance(self) -> object:
        """Perform the next `stride` steps."""
        ...

    def metrics(self) -> list[MetricRow]: ...

    def advice_rows(self) -> list[AdviceRow]: ...

    def notes(self) -> list[str]:
        """Messages for the user, each returned once."""
        ...

    def diverged(self, known: np.ndarray) -> np.ndarray:
        """Rows `[n]` of members that stopped learning because an update was not finite, without those that are already
        `known [R N]` (bool)."""
        ...

    def member_state(self, m: int) -> dict[str, Any]:
        """The data to save of a member that has diverged."""
        ...

    def run_info(self) -> dict[str, Any]:
        """The fields `env` and `algorithms` of `RunInfo`, and `cycle` if there are long updates."""
        ...

    def state(self) -> dict[str, Any]: ...


class Evaluation(Protocol):
    """How a runner evaluates."""

    def rows(self, step: int, stop: Callable[[], bool]) -> list[EvaluationRow] | None:
        """The rows of an evaluation after `step` steps; None if `stop()` became true during it."""
        ...

    messages: list[str]
    """New messages for the user; the runner passes them on and removes them."""

    def close(self) -> None: ...


class Runner:
    """Runs `trainable` and reports to `listener`.

    Checkpoints are written to `folder` (None: no checkpoints). `evaluation` performs the evaluations (None: no
    evaluations). `offsets` returns the lengths of the CSV files, and `about` the entries of the manifest, for
    checkpoints. `messages` are sent to the listener when the training starts.
    """

    def __init__(
        self,
        trainable: Trainable,
        listener: Listener,
        *,
        folder: RunFolder | None = None,
        evaluation: Evaluation | None = None,
        offsets: Callable[[], dict[str, int]] = dict,
        about: Mapping[str, Any] | None = None,
        messages: list[str] | None = None,
    ) -> None:
        self.trainable, self.listener, self.folder, self.evaluation = trainable, listener, folder, evaluation
        self.offsets, self.about, self.messages = offsets, dict(about or {}), list(messages or [])
        self.evaluated_at = -1
        self.frozen = np.zeros(trainable.N * trainable.R, bool)  # members that have been reported as diverged
        self.checkpoint: Path | None = None
        """The last checkpoint that was written or resumed from."""
        self.resumed = False
        self.stopped = ""
        """Why a listener has stopped the training before its end; empty if none has."""
        self.best: dict[str, Any] | None = None
        """Step and mean return of the best evaluation, with `keep_best`."""
        self._saved: tuple[int, int] | None = None  # step and last evaluation of that checkpoint

    def resume(self, state: Mapping[str, Any], folder: Path) -> None:
        """Continue from the runner's part of a checkpoint; the trainable has loaded its own."""
        self.evaluated_at = int(state["evaluated_at"])
        self.frozen = np.array(state["frozen"], bool)
        self.checkpoint, self.resumed = folder, True
        self.best = checkpoint.read_manifest(folder).about.get("best")
        if saved := state.get("listeners"):
            self.listener.load_state(saved)
        self._saved = (self.trainable.step, self.evaluated_at)

    @property
    def evaluation_due(self) -> bool:
        """Whether an evaluation after this step is scheduled and has not been made yet."""
        freq, step = self.trainable.config.run.eval_freq, self.trainable.step
        due = bool(freq) and (step == self.trainable.steps or self._passed(freq))
        return self.evaluation is not None and due and self.evaluated_at < step

    def _passed(self, freq: int) -> bool:
        """Whether the last steps reached a multiple of `freq`; at step 0, which is one, they did."""
        return self.trainable.step % freq < self.trainable.stride

    @property
    def finished(self) -> bool:
        """Whether all steps and evaluations are done."""
        return self.trainable.step >= self.trainable.steps and not self.evaluation_due

    def run(self) -> None:
        """Train to the end, or until a listener asks to stop (`Listener.stop`): then it finishes the step and writes a
        checkpoint.

        After Ctrl-C, SIGTERM or SIGHUP, it finishes the step, writes a checkpoint and raises the error of
        `peerage.training.signals.Interrupt`. A second signal raises the error immediately.
        """
        workers.configure(self.trainable.threads)
        with Interrupt() as interrupt:
            self._run(interrupt)

    def _run(self, interrupt: Interrupt) -> None:
        t, run = self.trainable, self.trainable.config.run
        info = self._info()
        t.waiting.stop = lambda: interrupt.asked
        t.waiting.say = lambda text: self.listener.on_message(t.step, text)
        self.listener.on_start(info)
        for text in self.messages:
            self.listener.on_message(t.step, text)
        if not t.begun:
            t.begin()
            self.save()  # before the first evaluation, so that it can be resumed from step 0
        trim_freq = trim_interval(t.N * t.R, run.log_freq)
        began = shown = logged_at = time.perf_counter()
        logged_step = t.step
        self._evaluate_if_due(interrupt)
        self._leave_if_asked(interrupt)
        updated = time.perf_counter()
        paused = updated - began  # evaluation and checkpoints do not count as training time
        self.listener.on_progress(t.step, paused)
        while t.step < t.steps and not self.listener.stop_reason:
            try:
                t.advance()
            except Stopped:  # this step is incomplete: a resume repeats it
                raise interrupt.error() from None
            now = time.perf_counter()
            ended = t.step % info.cycle == 0 or t.step == t.steps
            ends = ended or (t.step + t.stride) % info.cycle == 0 or t.step + t.stride >= t.steps
            beside_update = info.cycle > 1 and ends and now - updated > UPDATE_PROGRESS_SECONDS
            if now - shown > PROGRESS_SECONDS or beside_update:
                self.listener.on_progress(t.step, now - began)
                shown = now
                updated = now if ended else updated
            if t.step == t.steps or self._passed(run.log_freq):
                self.log()
                seconds = now - logged_at - paused
                rate = (t.step - logged_step) * t.N * t.R / max(seconds, 1e-9)
                self.listener.on_timing(t.step, now - began, rate)
                logged_at, logged_step, paused = now, t.step, 0.0
            if self._passed(trim_freq):
                give_memory_back()
            pause = time.perf_counter()
            self._evaluate_if_due(interrupt)
            self._leave_if_asked(interrupt)
            if run.checkpoint_freq and self._passed(run.checkpoint_freq) and t.step < t.steps:
                self.save()
            paused += time.perf_counter() - pause
        self.stopped = "" if self.finished else self.listener.stop_reason
        self.save()

    def _info(self) -> RunInfo:
        t = self.trainable
        return RunInfo(
            folder=self.folder.path if self.folder else None,
            members=tuple(t.names[: t.N]),
            advisers=tuple(t.names),
            replicas=t.R,
            total_steps=t.steps,
            start_step=t.step,
            resumed=self.resumed,
            stride=t.stride,
            config=to_dict(t.config),
            **t.run_info(),
        )

    def log(self) -> None:
        """Report metrics and advice since the last call, and members that have diverged."""
        step = self.trainable.step
        advice = self.trainable.advice_rows()
        self.listener.on_metrics(step, self.trainable.metrics())
        if advice:
            self.listener.on_advice(step, advice)
        for text in self.trainable.notes():
            self.listener.on_message(step, text)
        if self.folder is not None:
            self._report_diverged(self.folder)

    def _report_diverged(self, folder: RunFolder) -> None:
        """Report members that have diverged since the last call, and save their networks and last transitions."""
        t = self.trainable
        for m in t.diverged(self.frozen).tolist():
            self.frozen[m] = True
            r, i = divmod(m, t.N)
            name = f"diverged-replica-{r}-member-{i}-step-{t.step}"
            text = f"{t.names[i]} of replica {r} is frozen: its update was not finite"
            try:
                text += f" (saved in {checkpoint.dump(folder.path, name, t.member_state(m)).name})"
            except OSError as error:
                text += f" (its state cannot be saved: {error.strerror or error})"
            self.listener.on_message(t.step, text)

    def _evaluate_if_due(self, interrupt: Interrupt) -> None:
        if self.evaluation_due and self.evaluation is not None:
            rows = self.evaluation.rows(self.trainable.step, lambda: interrupt.asked)
            if rows is not None:  # otherwise a resumed run makes the evaluation
                self.evaluated_at = self.trainable.step
                self.listener.on_evaluations(self.trainable.step, rows)
                if self.trainable.config.run.keep_best:
                    self._keep_if_best(rows)
            for text in self.evaluation.messages:
                self.listener.on_message(self.trainable.step, text)
            self.evaluation.messages.clear()

    def _keep_if_best(self, rows: list[EvaluationRow]) -> None:
        """Write a checkpoint if the mean return of the episodes `alone`, over members and replicas, is the highest so
        far. Among equal ones the first is the best."""
        returns = [row[3] for row in rows if row[6] == "alone"]
        mean = sum(returns) / len(returns)
        if math.isfinite(mean) and (self.best is None or mean > self.best["return"]):
            self.best = {"step": self.trainable.step, "return": mean}
            self.save()

    def _leave_if_asked(self, interrupt: Interrupt) -> None:
        if interrupt.asked:
            self.save()
            raise interrupt.error()

    def close(self) -> None:
        """Close the environments of the evaluations."""
        if self.evaluation is not None:
            self.evaluation.close()

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint: everything that a resume needs."""
        return {
            "runner": {
                "evaluated_at": self.evaluated_at,
                "frozen": self.frozen.tolist(),
                "offsets": self.offsets(),
                "listeners": self.listener.state() or {},
            },
            "trainer": self.trainable.state(),
        }

    def save(self) -> None:
        """Write a checkpoint if there is a folder and the state has changed since the last one."""
        now = (self.trainable.step, self.evaluated_at)
        if self.folder is None or self._saved == now:
            return
        best = {} if self.best is None else {"best": self.best}
        self.checkpoint = checkpoint.save(
            self.folder.path,
            self.trainable.step,
            self.state(),
            about={**self.about, "config": to_dict(self.trainable.config), **best},
            after=self.checkpoint,
            keep=self.trainable.config.run.keep_checkpoints,
            best=self.best["step"] if self.best else None,
        )
        self._saved = now
        give_memory_back()
