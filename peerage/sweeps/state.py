"""The state of the runs of a sweep, and estimates of the time that they need. Only reads files."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from peerage.config import FREE, Config, with_part
from peerage.config.file import to_dict
from peerage.config.methods import NETS
from peerage.config.plain_yaml import short
from peerage.errors import UserError
from peerage.processor import cpu_model
from peerage.runs.folder import RunFolder
from peerage.runs.progress import completed_steps, timing, training_process
from peerage.statistics.sources import dotted_settings
from peerage.sweeps.plan import PlannedRun, Sweep
from peerage.training.extend import is_complete

Status = Literal["train", "resume", "done", "differs", "elsewhere"]
"""train: not begun; resume: interrupted, or shorter than in the sweep; elsewhere: trained by another process; differs:
the folder contains other data, which is not changed."""


@dataclass(frozen=True)
class State:
    """The state of one run."""

    status: Status
    detail: str = ""
    """How it differs, or which process trains it."""
    step: int = 0
    """The steps that it has completed, according to its files."""
    extended_from: int = 0
    """The present length of a run that is shorter than in the sweep; 0 for others."""


def inspect_run(run: PlannedRun, folder: Path) -> State:
    """The state of a planned run in its folder."""
    if not folder.exists() and not folder.is_symlink():
        return State("train")
    try:
        there = RunFolder.open(folder)
        before = there.resolved()
    except UserError as error:
        return State("differs", str(error))
    starts = run.resolved.run.eval_starts
    if before.run.eval_starts != starts and "eval_starts" not in (there.config().get("run") or {}):
        before = with_part(before, "run", eval_starts=starts)  # the same training
    longer = run.resolved.steps > before.steps
    same_length = replace(before, total_timesteps=run.resolved.total_timesteps)
    if different := differences(same_length if longer else before, run.resolved):
        more = f" and {len(different) - 2} more" if len(different) > 2 else ""
        return State("differs", f"{'; '.join(different[:2])}{more}")
    step = completed_steps(folder)
    if who := training_process(folder):
        return State("elsewhere", who, step)
    if longer:
        return State("resume", f"extended from {before.steps:,} steps", step, before.steps)
    if is_complete(there) or there.status()[0] == "STOPPED":  # a callback has stopped it
        return State("done", step=run.resolved.steps)
    return State("resume", step=step)


def differences(there: Config, asked: Config) -> list[str]:
    """`learner.learning_rate is 0.001 there and 0.0005 in the sweep`, for each field that must be equal."""
    before, now = dotted_settings(to_dict(there)), dotted_settings(to_dict(asked))
    now.pop("n_epochs")  # total_timesteps overrides it
    return [
        f"{name} is {short(_shown(before[name]))} there and {short(_shown(now[name]))} in the sweep"
        for name in now
        if name.rpartition(".")[2] not in FREE and before[name] != now[name]
    ]


def _shown(value: Any) -> Any:
    """A value without the brackets of a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


# --- expected time ------------------------------------------------------------------------------------------


LEARNING = (
    "algorithm", "net", "net_arch", "batch_size", "train_freq", "gradient_steps", "n_envs", "n_steps", "update_epochs",
)  # fmt: skip
"""Settings of learners that determine the speed."""


def similar_key(config: Config) -> tuple[Any, ...]:
    """The settings of a resolved configuration that determine the time of a step of one member: environment, learners
    and their networks, sharing and device. Runs with equal keys are similar."""
    learner, advice = config.learner, config.advice
    shares = (advice.trust, advice.use_trust, advice.use_critic) if advice.sharing == "advice" else ()
    nets = [NETS[name].part for name in getattr(learner, "net", ()) if name in NETS]
    return (
        (config.env, str(config.env_args), len(config.advisers)),
        tuple(getattr(learner, name, ()) for name in LEARNING),
        tuple(str(config.methods[part]) for part in nets if part),
        shares,
        config.device,
    )


def speed_key(config: Config) -> tuple[Any, ...]:
    """The settings of a resolved configuration that determine the speed: those of `similar_key`, the size of the group,
    evaluations and threads. Runs with equal keys are of one kind."""
    run = config.run
    size = (config.n_peers, config.advisers, config.replicas, config.threads)
    return (*similar_key(config), size, (run.eval_freq, run.n_eval_episodes))


class _Timing(NamedTuple):
    """The time that a run took after learning began."""

    steps: int
    seconds: float
    finished: bool
    members: int
    """Members of all replicas."""


class Speeds:
    """Seconds per step of each kind of run, from runs trained on this model of processor or from measurements."""

    def __init__(self) -> None:
        self._timings: dict[tuple[Any, ...], dict[Path, _Timing]] = {}  # of runs of one kind, and of similar runs
        self._measured: dict[tuple[Any, ...], tuple[int, dict[str, float]]] = {}
        self._cpu = cpu_model()

    def add_run(self, config: Config, folder: Path) -> None:
        """Use the timing of a run with the resolved `config`; a later call for the same folder updates it. Steps before
        learning begins are cheaper and do not count."""
        begin = max(config.learner.learning_starts, default=0)
        rows = [(0, 0.0), *timing(folder)]
        first = [row for row in rows if row[0] <= begin < config.steps or not row[0]][-1]
        run = RunFolder(folder)
        here = run.environment().get("hardware", {})
        if (steps := rows[-1][0] - first[0]) and isinstance(here, dict) and here.get("cpu") == self._cpu:
            members = config.n_peers * config.replicas
            timing_now = _Timing(steps, rows[-1][1] - first[1], run.status()[0] == "DONE", members)
            for key in (speed_key(config), similar_key(config)):
                self._timings.setdefault(key, {})[folder] = timing_now

    def add_sweep(self, sweep: Sweep, states: Mapping[str, State]) -> None:
        """Use the timing of the sweep's runs, and of similar runs next to its folder and in other sweeps there."""
        for run in sweep.runs:
            if states[run.name].status in ("done", "resume", "elsewhere"):
                self.add_run(run.resolved, sweep.folder(run))
        kinds = {similar_key(run.resolved) for run in sweep.runs}
        first = tuple({f"\nenv: {run.config.env}\n" for run in sweep.runs})  # parsing YAML is slow
        beside = sweep.where.parent
        for path in sorted([*beside.glob("*/config.yaml"), *beside.glob("*/*/config.yaml")]):
            try:
                if path.parent.parent == sweep.where:
                    continue
                if not (path.is_file() and (path.parent / "timing.csv").is_file()):  # reading a pipe would block
                    continue
                text = path.read_text(encoding="utf-8")
                if any(line in text for line in first):
                    config = RunFolder(path.parent).resolved()
                    if similar_key(config) in kinds:
                        self.add_run(config, path.parent)
            except (OSError, UnicodeError, UserError):
                continue  # not a valid run

    def add_measurement(self, config: Config, steps: int, answer: dict[str, float]) -> None:
        """Use the result of `peerage.sweeps.work.measure` over `steps` steps."""
        self._measured[speed_key(config)] = steps, answer

    def known(self, config: Config) -> bool:
        """Whether runs of this kind have been timed."""
        return speed_key(config) in self._timings or speed_key(config) in self._measured

    def remaining_seconds(self, config: Config, step: int) -> float | None:
        """The estimate for a run from `step` to its end; None if its speed is unknown."""
        left = max(0, config.steps - step)
        if timed := self._timings.get(speed_key(config)):
            return left * sum(run.seconds for run in timed.values()) / sum(run.steps for run in timed.values())
        if measured := self._measured.get(speed_key(config)):
            every, answer = config.run.eval_freq, measured[1]
            evaluations = left // every + (step == 0) if every else 0
            return left * answer["step"] + evaluations * answer["evaluation"]
        if similar := self._timings.get(similar_key(config)):
            each = sum(run.seconds for run in similar.values()) / sum(r.steps * r.members for r in similar.values())
            return left * each * config.n_peers * config.replicas
        return None

    def basis(self, config: Config) -> str:
        """The basis of the estimate, such as `from 2 finished runs of this kind`; empty without an estimate."""
        if timed := self._timings.get(speed_key(config)):
            return f"from {_counted(timed)} of this kind"
        if measured := self._measured.get(speed_key(config)):
            return f"from {measured[0]} timed steps"
        if similar := self._timings.get(similar_key(config)):
            return f"from {_counted(similar)} of another size"
        return ""


def _counted(runs: Mapping[Path, _Timing]) -> str:
    """`2 finished and 1 unfinished runs`."""
    finished = sum(run.finished for run in runs.values())
    numbers = {"finished": finished, "unfinished": len(runs) - finished}
    parts = [f"{number} {word}" for word, number in numbers.items() if number]
    return f"{' and '.join(parts)} {'run' if len(runs) == 1 else 'runs'}"


def total_duration(seconds: Iterable[float], jobs: int) -> float:
    """The time until the last of several runs ends, if they start in this order and `jobs` run at the same time.

    >>> total_duration([3, 1, 1, 1], 2)
    3.0
    """
    ends = [0.0] * jobs
    for length in seconds:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
