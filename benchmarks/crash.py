"""Crash test: kills small runs at random times, resumes them, and compares them with uninterrupted runs.

    python -m benchmarks.crash                            200 trials over all cases; `make crash-test`
    python -m benchmarks.crash --quick --trials 12        only cases that take one or two seconds
    python -m benchmarks.crash --cases room-td --at 57 12      kill at event 57, and the resumed run at event 12
    python -m benchmarks.crash --cases room-td --at s97:TERM   send SIGTERM at the start of step 97

A *trial* trains a case, kills the process at a random event, resumes the run with `peerage resume`, possibly kills it
again, and compares the finished run with an uninterrupted one. The exit status is 1 if any run differs; the message of
a failed trial contains the command that repeats it.

*Events* are the start and end of every training step and of every call that changes the run folder (`Tripwire`), until
DONE is written. Half of the trials use a training step, half another event. The process sends itself SIGKILL. At some
training steps it sends SIGTERM, SIGINT or SIGHUP instead; the run must then write a checkpoint and exit with the right
status.

The following must be equal, byte for byte: metrics.csv, evaluations.csv and advice.csv; all tensors and other values of
the newest checkpoint and the content of its chunks; in some trials, the figures. Not compared are timing.csv and its
length in the checkpoint, and the boundaries of chunks, because a checkpoint after a signal ends a chunk. Every other
trial uses small chunks, so that there are many, as in long runs. The run folder must not contain leftover files.

A parent process imports all modules and forks a child for each training, because importing torch takes longer than most
of these runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

if "torch" not in sys.modules:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; a thread pool would not survive a fork

import numpy as np
import safetensors.numpy
import safetensors.torch

import peerage.reports.figures  # imported here, so that the children need not import it
import peerage.reports.report  # noqa: F401
from benchmarks.crash_cases import CASES, QUICK
from peerage import cli, session
from peerage.config.file import dump
from peerage.evaluation.evaluate import Evaluator
from peerage.runs import checkpoint, chunks
from peerage.runs.folder import RunFolder
from peerage.runs.tables import CsvLog
from peerage.training.trainer import Trainer

PATIENCE = 300
"""Time limit of a training in seconds."""
STATUS = {"TERM": 143, "INT": 130, "HUP": 129}
"""Exit status of a run after each signal."""
FILES = ("metrics.csv", "evaluations.csv", "advice.csv")

# --- a training in a child --------------------------------------------------------------------------------------


class Kill(NamedTuple):
    """The signal that a training receives, and when."""

    event: int | str
    """The number of the event, from 1 (for signals other than KILL: the first training step from there on), or `s97`
    for the start of step 97."""
    how: str = "KILL"
    """KILL, TERM, INT or HUP."""

    def __str__(self) -> str:
        return str(self.event) if self.how == "KILL" else f"{self.event}:{self.how}"

    def is_now(self, number: int, label: str) -> bool:
        if isinstance(self.event, str):
            return label == f"step {self.event[1:]} begins"
        if self.how != "KILL":  # only during the training
            return number >= self.event and label.startswith("step ")
        return number == self.event


class Tripwire:
    """Counts events in this process and sends a signal to it at one of them.

    Calls that write a file have a third event: the second half of the written data is truncated, as if the process had
    been killed while writing. The watched functions otherwise run unchanged.
    """

    def __init__(self, kill: Kill | None, mark: Path) -> None:
        self.kill, self.mark = kill, mark
        self.labels: list[str] = []
        self.step = 0
        self.over = False

    def event(self, label: str, cut: tuple[Path, int] | None = None) -> None:
        """Count an event. `cut`: the file that was written, and its length before."""
        if self.over:
            return
        self.labels.append(label)
        if self.kill is None or self.mark.exists() or not self.kill.is_now(len(self.labels), label):
            return
        if cut is not None:
            os.truncate(cut[0], (cut[1] + _size(cut[0])) // 2)
        with self.mark.open("w") as file:
            file.write(f"{self.step} {label}")
        os.kill(os.getpid(), getattr(signal, f"SIG{self.kill.how}"))

    def watch(self, owner: Any, name: str, label: Callable[..., str], file: Callable[..., Path] | None = None) -> None:
        """Count an event before and after every call of `owner.name`, and one half-way if the call writes a file.
        `label` and `file` are called with its arguments."""
        original = getattr(owner, name)

        @wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            text = label(*args, **kwargs)
            self.event(f"before {text}")
            written = None if file is None else file(*args, **kwargs)
            length = _size(written) if owner is CsvLog else 0  # only CsvLog appends to files
            result = original(*args, **kwargs)
            if written is not None:
                self.event(f"half-way in {text}", (written, length))
            self.event(f"after {text}")
            return result

        setattr(owner, name, watched)
        for module in list(sys.modules.values()):  # modules that imported the function by name
            if module.__name__.startswith("peerage.") and vars(module).get(name) is original:
                setattr(module, name, watched)

    def install(self) -> None:
        advance, finish = Trainer.advance, RunFolder.finish

        def step(trainer: Trainer) -> Any:
            self.step = trainer.step
            self.event(f"step {trainer.step + 1} begins")
            result = advance(trainer)
            self.step = trainer.step
            self.event(f"step {trainer.step} ends")
            return result

        def end(folder: RunFolder, status: str, *args: Any, **kwargs: Any) -> None:
            finish(folder, status, *args, **kwargs)
            self.over = True

        self.watch(os, "fsync", lambda fd: "fsync")
        for name in ("replace", "rename"):
            self.watch(os, name, lambda source, target, name=name, **_: f"{name} to {_last(target)}")
        for name in ("unlink", "remove"):
            self.watch(os, name, lambda path, name=name, **_: f"{name} of {_last(path)}")
        self.watch(shutil, "rmtree", lambda path, *_, **__: f"rmtree of {_last(path)}")
        for library in (safetensors.torch, safetensors.numpy):
            self.watch(library, "save_file", lambda _, path, *__, **___: f"save_file {_last(path)}", _second)
        for name in ("write_text", "write_bytes"):
            label = lambda path, *_, name=name, **__: f"{name} of {_last(path)}"  # noqa: E731
            self.watch(Path, name, label, lambda path, *_, **__: path)
        self.watch(CsvLog, "_write", lambda _, name, *__: f"rows of {name}", lambda log, name, *_: log.folder / name)
        self.watch(Evaluator, "run", lambda *_: f"evaluation of step {self.step}")
        self.watch(checkpoint, "save", lambda run, step, *_, **__: f"checkpoint of step {step}")
        for owner, name, watched in ((Trainer, "advance", step), (RunFolder, "finish", end)):
            setattr(owner, name, watched)


def _size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.exists() else 0


def _last(path: Any) -> str:
    """The file name, without the process number that some names contain."""
    return re.sub(r"\.\d+\.", ".", Path(os.fsdecode(path)).name)


def _second(_: Any, path: Any, *__: Any, **___: Any) -> Path:
    return Path(path)


@dataclass(frozen=True)
class Training:
    """One training process: its command, the signal that it receives, and the folder for its output."""

    command: tuple[str, ...]
    place: Path
    kill: Kill | None = None
    figures: bool = False
    pieces: bool = False
    """Whether checkpoints use many small chunks."""

    @property
    def mark(self) -> Path:
        return self.place / "mark"

    def start(self) -> int:
        """Fork a child that runs the training; returns its process id."""
        self.mark.unlink(missing_ok=True)
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        status = 70
        try:
            status = self._run()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _run(self) -> int:
        output = os.open(self.place / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent may ignore it
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        os.environ["PEERAGE_TRACEBACK"] = "1"
        if self.pieces:
            chunks.SMALL, chunks.LARGE = 3000, 12_000
        if not self.figures:  # figures are drawn after DONE, only from the CSV files
            vars(session)["write_report"] = lambda run: None
        wire = Tripwire(self.kill, self.mark)
        wire.install()
        status = cli.main(list(self.command))
        wire.over = True
        (self.place / "events.json").write_text(json.dumps(wire.labels))
        return status

    def output(self) -> str:
        """The last line of the process's output."""
        lines = (self.place / "output").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


Work = Generator[Training, int, Any]
"""A generator that yields trainings, receives their exit statuses, and returns a result."""


def side_by_side(works: Sequence[Work], jobs: int) -> Iterator[Any]:
    """Run `works` with up to `jobs` children at a time; yields their results as they end."""
    waiting = iter(works)
    running: dict[int, Work] = {}

    def advance(work: Work, status: int | None) -> Iterator[Any]:
        try:
            running[(next(work) if status is None else work.send(status)).start()] = work
        except StopIteration as end:
            yield end.value

    try:
        while True:
            while len(running) < jobs and (work := next(waiting, None)) is not None:
                yield from advance(work, None)
            if not running:
                return
            pid, status = os.wait()
            if pid in running:
                yield from advance(running.pop(pid), os.waitstatus_to_exitcode(status))
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


# --- trials -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run of a case, and its events."""

    case: str
    run: Path
    events: list[str]


@dataclass(frozen=True)
class Outcome:
    case: str
    number: int
    kills: list[Kill]
    where: list[str]
    faults: list[str]

    def __str__(self) -> str:
        text = "; then ".join(self.where) or "not interrupted"
        if not self.faults:
            return f"{self.case} #{self.number}: {text}: the same"
        again = f"python -m benchmarks.crash --cases {self.case} --at {' '.join(map(str, self.kills))}"
        return f"{self.case} #{self.number}: {text}: FAILED: {'; '.join(self.faults)}  [{again}]"


def begin(case: str, place: Path) -> tuple[str, ...]:
    """The command that trains `case` into `place/runs/run`."""
    place.mkdir(parents=True)
    file = place / "case.yaml"
    file.write_text(dump(CASES[case]))
    return ("train", "--config", str(file), "--log-dir", str(place / "runs"), "--exp-name", "run")


def reference(case: str, folder: Path, figures: bool) -> Work:
    place = folder / case / "reference"
    training = Training(begin(case, place), place, figures=figures)
    status = yield training
    if status:
        raise SystemExit(f"{case} cannot be trained: status {status}: {training.output()}")
    return Reference(case, place / "runs" / "run", json.loads((place / "events.json").read_text()))


def draw(rng: np.random.Generator, events: Sequence[str]) -> list[Kill]:
    """Draw one to three interruptions. Those of resumed runs are drawn among the number of events that remained after
    the first one, so that they happen before the end."""
    kills: list[Kill] = []
    last, more = len(events), 1.0
    while len(kills) < 3 and last > 0 and rng.random() < more:
        numbers = range(1, last + 1)
        steps = [i for i in numbers if events[i - 1].startswith("step ")]
        others = [i for i in numbers if not events[i - 1].startswith("step ")]
        if steps and rng.random() < 0.5:
            how = str(rng.choice(["KILL", "TERM", "INT", "HUP"], p=[0.7, 0.1, 0.1, 0.1]))
            kills.append(Kill(int(rng.choice(steps)), how))
        else:
            kills.append(Kill(int(rng.choice(others))))
        last, more = len(events) - int(kills[0].event), 0.3
    return kills


def trial(known: Reference, number: int, kills: list[Kill], folder: Path, figures: bool) -> Work:
    place = folder / known.case / str(number)
    run, command = place / "runs" / "run", begin(known.case, place)
    where: list[str] = []
    faults: list[str] = []
    for kill in (*kills, None):
        training = Training(command, place, kill, figures, number % 2 == 1)
        status = yield training
        if kill is not None and training.mark.exists():
            step, label = training.mark.read_text().split(" ", 1)
            where.append(f"SIG{kill.how} at {kill.event}, {label}")
            faults += after_signal(run, kill.how, status, int(step), training)
        elif status == 2 and (run / "DONE").exists() and "nothing to resume" in training.output():
            break
        elif status:
            faults.append(f"status {status}: {training.output()}")
        else:
            break
        if faults:
            break
        if run.exists():
            command = ("resume", str(run), "--verbose", "0")
    if not where and not faults:
        faults.append("was never interrupted")
    faults = faults or differences(known.run, run, figures)
    if not faults:
        shutil.rmtree(place)
    return Outcome(known.case, number, kills, where, faults)


def after_signal(run: Path, how: str, status: int, step: int, training: Training) -> list[str]:
    """Check how a run ended after signal `how` at step `step`; returns messages about errors."""
    if how == "KILL":
        return [] if status == -signal.SIGKILL else [f"status {status}: {training.output()}"]
    if status == 0 and (run / "DONE").exists():
        return []  # the signal arrived in the last step
    if status != STATUS[how]:
        return [f"status {status} after SIG{how}, not {STATUS[how]}: {training.output()}"]
    saved = checkpoint.checkpoints(run)
    if not saved or checkpoint.step_of(saved[-1]) < step:
        return [f"SIG{how} in step {step}, but the newest checkpoint is {saved[-1].name if saved else 'none'}"]
    return []


# --- comparison -------------------------------------------------------------------------------------------------


def differences(expected: Path, run: Path, figures: bool) -> list[str]:
    """The differences between two finished runs, one message each."""
    if not (run / "DONE").exists():
        return ["not DONE"]
    found = []
    for name in FILES:
        if (line := first_difference((expected / name).read_bytes(), (run / name).read_bytes())) is not None:
            found.append(f"{name} from line {line}")
    one, two = state(expected), state(run)
    if changed := sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key)):
        found.append(f"{len(changed)} of {len(one)} parts of the state, such as {', '.join(changed[:4])}")
    found += leftovers(run)
    if figures:
        names = {path.name for folder in (expected, run) for path in (folder / "figures").glob("*.png")}
        for name in sorted(names):
            pair = [path / "figures" / name for path in (expected, run)]
            if not all(path.is_file() for path in pair) or pair[0].read_bytes() != pair[1].read_bytes():
                found.append(f"figures/{name}")
        if not names or not (run / "report.html").is_file():
            found.append("no figures or no report")
    return found


def first_difference(one: bytes, two: bytes) -> int | None:
    """The number of the first line that differs, from 1; None if there is none."""
    a, b = one.splitlines(keepends=True), two.splitlines(keepends=True)
    same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return None if one == two else same + 1


def state(run: Path) -> dict[str, Any]:
    """All values in the newest checkpoint of a run by path, without those that may differ."""
    newest = checkpoint.checkpoints(run)[-1]
    parts: dict[str, Any] = {"step": checkpoint.step_of(newest)}  # the name differs if a resumed run ends at once
    tensors = safetensors.numpy.load_file(newest / "state.safetensors")
    flatten(json.loads((newest / "state.json").read_text()), "", parts)
    for place, held_in in json.loads((newest / "manifest.json").read_text())["chunks"].items():
        pieces = [safetensors.numpy.load_file(newest.parent / "chunks" / chunk["name"]) for chunk in held_in]
        held = int(parts[f"/{place}/start"]) - held_in[0]["start"]  # the oldest chunk can contain dropped entries
        for name in pieces[0]:
            tensors[f"chunks of {place}/{name}"] = np.concatenate([piece[name] for piece in pieces], axis=1)[:, held:]
    parts |= {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in tensors.items()}
    parts.pop("/runner/offsets/timing.csv", None)
    return parts


def flatten(tree: Any, path: str, parts: dict[str, Any]) -> None:
    """Add the leaves of nested dicts and lists to `parts`, by path."""
    if isinstance(tree, dict | list) and tree:
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            flatten(value, f"{path}/{key}", parts)
    else:
        parts[path] = repr(tree)


def leftovers(run: Path) -> list[str]:
    """Files that an interruption left behind and the resumed run did not remove."""
    odd = [path for path in run.rglob("*") if re.search(r"\.(tmp|partial|old)$", path.name)]
    odd += [path for path in (*run.parent.iterdir(), run / "FAILED") if path != run and path.exists()]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in checkpoint.checkpoints(run)]
    needed = {chunk["name"] for manifest in manifests for some in manifest["chunks"].values() for chunk in some}
    odd += [path for path in (run / "checkpoints" / "chunks").iterdir() if path.name not in needed]
    return [f"leftover files: {', '.join(str(path.relative_to(run.parent)) for path in odd)}"] if odd else []


# --- the whole test ---------------------------------------------------------------------------------------------


def crash(
    cases: Sequence[str],
    trials: int,
    folder: Path,
    *,
    seed: int = 0,
    jobs: int = 1,
    figures: int = 0,
    at: Sequence[Kill] = (),
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run `trials` trials, alternating between cases. Figures are compared in every `figures`-th trial of a case (0: in
    none). `at`: interruptions to use instead of random ones."""
    per_case = [len(range(i, trials, len(cases))) for i in range(len(cases))]
    known: dict[str, Reference] = {}
    for found in side_by_side([reference(case, folder, bool(figures)) for case in cases], jobs):
        known[found.case] = found
        kinds = Counter(re.sub(r"^(before|half-way in|after) ", "", label).split()[0] for label in found.events)
        say(f"{found.case}: {len(found.events)} events: {', '.join(f'{n} of {kind}' for kind, n in kinds.items())}")
    works = []
    for number in range(max(per_case)):
        for case, count in zip(cases, per_case):
            if number < count:
                rng = np.random.default_rng([seed, zlib.crc32(case.encode()), number])
                kills = list(at) or draw(rng, known[case].events)
                works.append(trial(known[case], number, kills, folder, bool(figures) and number % figures == 0))
    outcomes: list[Outcome] = []
    for outcome in side_by_side(works, jobs):
        outcomes.append(outcome)
        well = sum(not o.faults for o in outcomes)
        say(f"[{len(outcomes)}/{trials}, {well} survived] {outcome}")
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """A text table with a row per case, and the total."""
    lines = [f"{'case':18} trials  interruptions  survived"]
    for case in dict.fromkeys(o.case for o in outcomes):
        mine = [o for o in outcomes if o.case == case]
        well = sum(not o.faults for o in mine)
        lines.append(f"{case:18} {len(mine):6}  {sum(len(o.where) for o in mine):13}  {well:8}")
    well = sum(not o.faults for o in outcomes)
    return "\n".join([*lines, f"{well} of {len(outcomes)} survived"])


def _kill(text: str) -> Kill:
    found = re.fullmatch(rf"(s?\d+)(?::({'|'.join(['KILL', *STATUS])}))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"write 57 (an event) or s57 (a step), with :TERM, :INT or :HUP, not {text!r}")
    event, how = found.groups()
    return Kill(event if event[0] == "s" else int(event), how or "KILL")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, help="number of trials (default 200)")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", help=f"any of {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="only cases that take one or two seconds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random events (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes (default 2)")
    parser.add_argument("--figures", type=int, default=5, help="compare figures in every N-th trial (0: in none)")
    parser.add_argument("--at", type=_kill, nargs="+", default=(), metavar="EVENT", help="one trial with these kills")
    parser.add_argument("--keep", type=Path, help="an empty folder for the runs; runs that differ are kept there")
    args = parser.parse_args(arguments)
    if args.trials < 1 or args.jobs < 1 or args.figures < 0:
        parser.error("--trials and --jobs are at least 1, --figures at least 0")
    if args.keep is not None and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(f"--keep {args.keep} is not empty")
    cases = args.cases or list(QUICK if args.quick else CASES)
    trials = len(cases) if args.at else args.trials
    with tempfile.TemporaryDirectory(prefix="peerage-crash-") as made:
        outcomes = crash(
            cases[:trials], trials, args.keep or Path(made), seed=args.seed, jobs=args.jobs, figures=args.figures,
            at=args.at, say=lambda line: print(line, flush=True),
        )  # fmt: skip
    print("\n" + table(outcomes))
    raise SystemExit(any(o.faults for o in outcomes))


if __name__ == "__main__":
    main()
