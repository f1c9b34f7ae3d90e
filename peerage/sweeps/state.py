"""What there is of a sweep already, and how long the rest will take. Only reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peerage.config import ELSEWHERE, PARTS, RESUMABLE, Config
from peerage.configfile import from_dict, short, to_dict
from peerage.errors import UserError
from peerage.runs.folder import RunFolder, cpu_model
from peerage.sweeps.plan import PlannedRun, Sweep

try:
    import fcntl
except ImportError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

What = Literal["train", "resume", "done", "differs", "elsewhere"]
FREE = {"exp_name", "log_dir", "overwrite", *RESUMABLE, *ELSEWHERE}
"""Fields in which a run may differ from what is asked for: they do not change what is trained or logged."""


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
        different = differences(from_dict(there.config()), run.resolved)
    except UserError as error:
        return State("differs", str(error))
    if different:
        more = f" and {len(different) - 2} more" if len(different) > 2 else ""
        return State("differs", f"{'; '.join(different[:2])}{more}")
    step, _ = timing(folder)
    if who := holder(folder):
        return State("elsewhere", who, step)
    if there.status()[0] == "DONE":
        return State("done", step=run.resolved.steps)
    return State("resume", step=step)


def differences(there: Config, asked: Config) -> list[str]:
    """`learning_rate is 0.001 there and 0.0005 in the sweep`, for each field that matters."""
    before, now = _flat(to_dict(there)), _flat(to_dict(asked))
    return [
        f"{name} is {short(_shown(before[name]))} there and {short(_shown(now[name]))} in the sweep"
        for name in now
        if name not in FREE and before[name] != now[name]
    ]


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: value for part in PARTS if part for name, value in tree[part].items()}
    return {**{name: value for name, value in tree.items() if name not in PARTS}, **inner}


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


def timing(folder: Path) -> tuple[int, float]:
    """Steps that a run has made and the seconds it took for them, over all its resumes; from timing.csv.

    Importing, the last evaluation and the report are not in it.
    """
    try:
        lines = (folder / "timing.csv").read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    except (OSError, UnicodeError):
        return 0, 0.0
    step, total, before = 0, 0.0, 0.0
    for line in lines:
        cells = line.split(",")
        try:
            if line.endswith("\n"):  # otherwise it is being written
                at, seconds = int(cells[0]), float(cells[1])
                total += seconds - before if seconds >= before else seconds  # the clock begins anew at a resume
                step, before = at, seconds
        except (ValueError, IndexError):
            continue
    return step, total


# --- how long -----------------------------------------------------------------------------------------------


def kind(config: Config) -> tuple[Any, ...]:
    """What runs of one speed share, of a resolved configuration: environment, learners, group, sharing, threads."""
    learner, advice = config.learner, config.advice
    shares = (advice.trust, advice.use_trust, advice.use_critic) if advice.sharing == "advice" else ()
    return (
        (config.env, str(config.env_args), config.n_peers, config.advisers, config.replicas, config.threads),
        (learner.algorithm, learner.net_arch, learner.batch_size, learner.train_freq, learner.gradient_steps),
        shares,
    )


class Pace:
    """Seconds per step of every kind of run, from runs that were trained on this processor or from measurements."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], dict[Path, tuple[int, float]]] = {}
        self._measured: dict[tuple[Any, ...], dict[str, float]] = {}
        self._cpu = cpu_model()

    def see(self, config: Config, folder: Path) -> None:
        """Learn from a run of the resolved `config`; again while it goes on."""
        step, seconds = timing(folder)
        here = RunFolder(folder).environment().get("hardware", {})
        if step and isinstance(here, dict) and here.get("cpu") == self._cpu:
            self._seen.setdefault(kind(config), {})[folder] = (step, seconds)

    def see_all(self, sweep: Sweep, states: Mapping[str, State]) -> None:
        """Learn from the runs of a sweep, and from those beside its folder that are of the same kind."""
        for run in sweep.runs:
            if states[run.name].what in ("done", "resume", "elsewhere"):
                self.see(run.resolved, sweep.folder(run))
        kinds = {kind(run.resolved) for run in sweep.runs}
        first = tuple({f"\nenv: {run.config.env}\n" for run in sweep.runs})  # YAML takes time to read
        for path in sorted(sweep.where.parent.glob("*/config.yaml")):
            try:
                text = path.read_text(encoding="utf-8")
                if any(line in text for line in first) and (path.parent / "timing.csv").is_file():
                    config = from_dict(RunFolder(path.parent).config())
                    if kind(config) in kinds:
                        self.see(config, path.parent)
            except (OSError, UnicodeError, UserError):
                continue  # whatever else lies there

    def measured(self, config: Config, answer: dict[str, float]) -> None:
        """Learn from `peerage.sweeps.worker.measure`."""
        self._measured[kind(config)] = answer

    def known(self, config: Config) -> bool:
        return self.seconds(config, 0) is not None

    def seconds(self, config: Config, step: int) -> float | None:
        """For the steps of a run from `step` to its end; None: nobody knows."""
        left = max(0, config.steps - step)
        if seen := self._seen.get(kind(config)):
            return left * sum(s for _, s in seen.values()) / sum(n for n, _ in seen.values())
        if answer := self._measured.get(kind(config)):
            every = config.run.eval_freq
            evaluations = left // every + (step == 0) if every else 0
            return left * answer["step"] + evaluations * answer["evaluation"]
        return None


def together(seconds: Iterable[float], jobs: int) -> float:
    """How long runs of these lengths take, in their order, `jobs` at the same time.

    >>> together([3, 1, 1, 1], 2)
    3.0
    """
    ends = [0.0] * jobs
    for length in seconds:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
