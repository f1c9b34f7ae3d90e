"""What there is of a sweep already, and how long the rest will take. Only reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from peerage.config import FREE, Config
from peerage.config.file import from_dict, to_dict
from peerage.config.plain_yaml import short
from peerage.errors import UserError
from peerage.runs.folder import RunFolder, cpu_model
from peerage.statistics.sources import dotted
from peerage.sweeps.plan import PlannedRun, Sweep

try:
    import fcntl
except ImportError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

What = Literal["train", "resume", "done", "differs", "elsewhere"]


@dataclass(frozen=True)
class State:
    """What is to be done with a run."""

    what: What
    about: str = ""
    """How it differs, or who trains it."""
    step: int = 0
    """It has come so far, as far as its files say."""


def look(run: PlannedRun, folder: Path) -> State:
    """The state of one run. `differs`: there is something else in its place, which stays as it is."""
    if not folder.exists() and not folder.is_symlink():
        return State("train")
    try:
        there = RunFolder.open(folder)
        different = differences(there.resolved(), run.resolved)
    except UserError as error:
        return State("differs", str(error))
    if different:
        more = f" and {len(different) - 2} more" if len(different) > 2 else ""
        return State("differs", f"{'; '.join(different[:2])}{more}")
    step = come(folder)
    if who := holder(folder):
        return State("elsewhere", who, step)
    if there.status()[0] == "DONE":
        return State("done", step=run.resolved.steps)
    return State("resume", step=step)


def differences(there: Config, asked: Config) -> list[str]:
    """`learner.learning_rate is 0.001 there and 0.0005 in the sweep`, for each field that matters."""
    before, now = dotted(to_dict(there)), dotted(to_dict(asked))
    return [
        f"{name} is {short(_shown(before[name]))} there and {short(_shown(now[name]))} in the sweep"
        for name in now
        if name.rpartition(".")[2] not in FREE and before[name] != now[name]
    ]


def _shown(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def holder(folder: Path) -> str:
    """Who trains in a folder at the moment (`process 1234 on host`); empty if nobody does."""
    if fcntl is None:
        return ""
    try:
        with (folder / ".lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(100).decode(errors="replace").strip() or "another process"
    except OSError:
        pass
    return ""


def timing(folder: Path) -> list[tuple[int, float]]:
    """(step, seconds since the run began, over all its resumes), in steps' order; from timing.csv.

    Importing, the last evaluation and the report are not in it.
    """
    try:
        lines = (folder / "timing.csv").read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    except (OSError, UnicodeError):
        return []
    rows: list[tuple[int, float]] = []
    begins = _resumes(folder)
    total, before = 0.0, 0.0
    for line in lines:
        cells = line.split(",")
        try:
            if line.endswith("\n"):  # otherwise it is being written
                at, seconds = int(cells[0]), float(cells[1])
                if seconds < before:  # the clock begins anew at a resume
                    before = 0.0
                while begins and at > begins[0]:
                    before = 0.0
                    begins.pop(0)
                total += seconds - before
                before = seconds
                rows.append((at, total))
        except (ValueError, IndexError):
            continue
    return rows


def _resumes(folder: Path) -> list[int]:
    """The steps after which a run was resumed, ascending, as far as environment.json says. One that a later resume went
    back behind is none any more: its rows are gone."""
    noted = RunFolder(folder).environment().get("resumed")
    steps: list[int] = []
    for entry in noted if isinstance(noted, list) else []:
        step = entry.get("step") if isinstance(entry, dict) else None
        if isinstance(step, int):
            steps = [*(before for before in steps if before < step), step]
    return steps


def come(folder: Path) -> int:
    """The steps that a run has made, as far as its timing.csv says."""
    rows = timing(folder)
    return rows[-1][0] if rows else 0


# --- how long -----------------------------------------------------------------------------------------------


def kind(config: Config) -> tuple[Any, ...]:
    """What runs of one speed share, of a resolved configuration: environment, learners, group, sharing, evaluations,
    device and threads."""
    learner, advice, run = config.learner, config.advice, config.run
    shares = (advice.trust, advice.use_trust, advice.use_critic) if advice.sharing == "advice" else ()
    return (
        (config.env, str(config.env_args), config.n_peers, config.advisers, config.replicas),
        (learner.algorithm, learner.net_arch, learner.batch_size, learner.train_freq, learner.gradient_steps),
        shares,
        (run.eval_freq, run.n_eval_episodes, config.device, config.threads),
    )


class _Seen(NamedTuple):
    """What a run took while it learned."""

    steps: int
    seconds: float
    finished: bool


class Pace:
    """Seconds per step of every kind of run, from runs that were trained on this processor or from measurements."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], dict[Path, _Seen]] = {}
        self._measured: dict[tuple[Any, ...], tuple[int, dict[str, float]]] = {}
        self._cpu = cpu_model()

    def see(self, config: Config, folder: Path) -> None:
        """Learn from a run of the resolved `config`; again while it goes on. Steps before learning begins are cheaper,
        so they do not count."""
        begin = max(config.learner.learning_starts, default=0)
        rows = [(0, 0.0), *timing(folder)]
        first = [row for row in rows if row[0] <= begin < config.steps or not row[0]][-1]
        run = RunFolder(folder)
        here = run.environment().get("hardware", {})
        if (steps := rows[-1][0] - first[0]) and isinstance(here, dict) and here.get("cpu") == self._cpu:
            seen = _Seen(steps, rows[-1][1] - first[1], run.status()[0] == "DONE")
            self._seen.setdefault(kind(config), {})[folder] = seen

    def see_all(self, sweep: Sweep, states: Mapping[str, State]) -> None:
        """Learn from the runs of a sweep, and from those beside its folder that are of the same kind."""
        for run in sweep.runs:
            if states[run.name].what in ("done", "resume", "elsewhere"):
                self.see(run.resolved, sweep.folder(run))
        kinds = {kind(run.resolved) for run in sweep.runs}
        first = tuple({f"\nenv: {run.config.env}\n" for run in sweep.runs})  # YAML takes time to read
        for path in sorted(sweep.where.parent.glob("*/config.yaml")):
            try:
                if not (path.is_file() and (path.parent / "timing.csv").is_file()):  # nobody may write to a pipe
                    continue
                text = path.read_text(encoding="utf-8")
                if any(line in text for line in first):
                    config = from_dict(RunFolder(path.parent).config())
                    if kind(config) in kinds:
                        self.see(config, path.parent)
            except (OSError, UnicodeError, UserError):
                continue  # whatever else lies there

    def measured(self, config: Config, steps: int, answer: dict[str, float]) -> None:
        """Learn from `peerage.sweeps.worker.measure`, which has timed so many steps."""
        self._measured[kind(config)] = steps, answer

    def known(self, config: Config) -> bool:
        return self.seconds(config, 0) is not None

    def seconds(self, config: Config, step: int) -> float | None:
        """For the steps of a run from `step` to its end; None: nobody knows."""
        left = max(0, config.steps - step)
        if seen := self._seen.get(kind(config)):
            return left * sum(run.seconds for run in seen.values()) / sum(run.steps for run in seen.values())
        if measured := self._measured.get(kind(config)):
            every, answer = config.run.eval_freq, measured[1]
            evaluations = left // every + (step == 0) if every else 0
            return left * answer["step"] + evaluations * answer["evaluation"]
        return None

    def basis(self, config: Config) -> str:
        """What `seconds` knows it from: `from 2 finished runs of this kind`; empty if it does not."""
        if seen := self._seen.get(kind(config)):
            finished = sum(run.finished for run in seen.values())
            numbers = {"finished": finished, "unfinished": len(seen) - finished}
            parts = [f"{number} {word}" for word, number in numbers.items() if number]
            return f"from {' and '.join(parts)} {'run' if len(seen) == 1 else 'runs'} of this kind"
        if measured := self._measured.get(kind(config)):
            return f"from {measured[0]} steps timed now"
        return ""


def together(seconds: Iterable[float], jobs: int) -> float:
    """How long runs of these lengths take, in their order, `jobs` at the same time.

    >>> together([3, 1, 1, 1], 2)
    3.0
    """
    ends = [0.0] * jobs
    for length in seconds:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
