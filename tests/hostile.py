"""Common parts of the tests of hostile input: runs to corrupt, a folder for them, and malicious values.

Every example runs the command line in a separate folder, with a run in it and unrelated files next to it, and compares
all files before and after. `PEERAGE_EXAMPLES=20` runs 20 times as many examples, with other random choices every time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import peerage
from peerage import session
from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.transformer_settings import TrustTransformerSettings

MORE = int(os.environ.get("PEERAGE_EXAMPLES", 1))
SECONDS = 600
"""No example takes a tenth of it on a busy machine: one that does not end by then hangs."""
BYTES = 3 << 30
"""Address space that an example may take on top of what the process has: who wants gigabytes gets an error."""
GREW = 600 << 20
"""Memory that all examples together may really take."""


def examples(n: int) -> Callable[[Any], Any]:
    """The first example that fails is shown as it is: to shrink it, a training each, would take minutes."""
    return settings(
        max_examples=n * MORE, deadline=None, derandomize=MORE == 1, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# --- runs, and a place to spoil them in -----------------------------------------------------------------------


class Stop(Listener):
    """As Ctrl-C would, once a row of metrics is that far."""

    def on_metrics(self, step, rows):
        if step >= 50:
            raise KeyboardInterrupt


def config_of(kind: str) -> Config:
    learner = LearnerConfig(
        learning_starts=(10,), batch_size=(4,), net_arch=((4,),), train_freq=(4,), gradient_steps=(1,),
        buffer_size=(30,),
    )  # fmt: skip
    run = RunConfig(eval_freq=0, n_eval_episodes=1, log_freq=10, checkpoint_freq=20, verbose=0)
    room = Config(env="Room-v6", n_peers=2, total_timesteps=60, learner=learner, run=run, threads=1)
    match kind:
        case "hybrid":
            return replace(
                room,
                env="Pendulum-v1",
                advisers=("random",),
                learner=replace(learner, algorithm=("sac", "td3"), use_sde=(True, False)),
                advice=AdviceConfig(trust="hybrid"),
                methods={
                    "trust_transformer": TrustTransformerSettings(
                        attention_update_freq=7, attention_batch_size=2, sequence_length=4
                    )
                },
            )
        case "context":
            return replace(
                room,
                advisers=("expert",),
                advice=AdviceConfig(trust="in-context", follow_steps=3),
                methods={"context": ContextSettings(context_length=5, context_batch_size=2, context_history=20)},
            )
        case "single":
            return replace(room, n_peers=1, advice=AdviceConfig(sharing="none"))
    return replace(room, advisers=("turncoat", "random"))


KINDS = ("dqn", "hybrid", "context", "single")


@pytest.fixture(scope="module", name="runs")
def some_runs(tmp_path_factory) -> Path:
    """Four runs stopped at step 50, with checkpoints of the steps 20 and 40, and in `done` the same when finished."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        with pytest.raises(KeyboardInterrupt):
            peerage.train(config=config_of(kind), log_dir=str(folder), exp_name=kind, listeners=[Stop()])
        shutil.copytree(folder / kind, folder / "done" / kind)
        assert main(["resume", str(folder / "done" / kind), "--verbose", "0"]) == 0
    zips(folder / "zips")
    return folder


@pytest.fixture(scope="module", autouse=True)
def guarded() -> Iterator[None]:
    """No report after a resume (figures take longer than the training; `peerage report` has a separate test), no output
    of W&B, and limited memory."""
    threads, limits = torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_AS)
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_report", lambda folder: folder)
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("PEERAGE_TRACEBACK", raising=False)
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, limits[1]))
        yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    torch.set_num_threads(threads)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < GREW


class Hangs(BaseException):
    """Not an Exception, so that no code catches it."""


@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Whether the command was refused before it did anything; the message of a failed training contains the command
        that continues it, or states that it cannot continue."""
        began = re.search(r"` continues( from step|$)", self.err, re.M) or "cannot continue" in self.err
        return self.status == 2 and not began


class Place:
    """A folder with `run`, a copy of one of the runs, and unrelated files."""

    def __init__(self, runs: Path, kind: str = "dqn") -> None:
        self.done = runs / "done" / kind
        self.path, self.zips = Path(tempfile.mkdtemp(prefix="hostile-", dir=runs)), runs / "zips"
        self.run, self.outside = self.path / "experiments" / "run", self.path / "outside"
        shutil.copytree(runs / kind, self.run)
        shutil.copytree(runs / "single" / "checkpoints", self.outside / "checkpoints")
        (self.outside / "metrics.csv").write_text("step,replica,member,name,value\n" * 9)
        (self.outside / "precious").write_text("mine\n")
        self.before = snapshot(self.path)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def newest(self) -> Path:
        return checkpoint.checkpoints(self.run)[-1]

    @property
    def nowhere(self) -> list[str]:
        """Flags with which a training is refused when all has been checked and built, just before its folder is made:
        the place for it is a file. The last of two flags counts, and `--` before them is refused as well."""
        return ["--verbose", "0", "--log-dir", str(self.outside / "precious")]

    def ask(self, *words: str, may: tuple[Path, ...] = ()) -> Answer:
        """Run a command and check the files that it left; `may`: the paths that it may change if it is not refused (a
        report may be refused after it has drawn figures)."""
        self.before = snapshot(self.path)
        answer = ask(*words, folder=self.path)
        after = snapshot(self.path)
        free = () if answer.refused and words[0] != "report" else tuple(map(str, may))
        touched = {
            path
            for path in self.before.keys() | after.keys()
            if self.before.get(path) != after.get(path) and not path.startswith(free or "\0")
        } - {str(self.run / ".lock")}
        assert not touched, (words, answer, touched)
        return answer


def snapshot(folder: Path) -> dict[str, Any]:
    """Names, kinds, contents and times of everything in it; links are looked at, not followed."""
    found: dict[str, Any] = {}
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(where, name)
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    found[path] = (info.st_mtime_ns, info.st_mode, file.read())
            elif stat.S_ISLNK(info.st_mode):
                found[path] = os.readlink(path)
            else:
                found[path] = stat.S_IFMT(info.st_mode)
    return found


def ask(*words: str, folder: Path) -> Answer:
    """Run a command in `folder` and look at its answer: status 0, or 2 and one line."""

    def wake(number: int, frame: object) -> None:
        raise Hangs(words)

    # As Python opens them for a program: what cannot be written is an error in one and escaped in the other
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    before, home = signal.signal(signal.SIGALRM, wake), os.getcwd()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    datasets = os.environ.get("MINARI_DATASETS_PATH")
    try:
        os.chdir(folder)
        os.environ["MINARI_DATASETS_PATH"] = str(folder / "datasets")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("always")
            for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):  # not shown
                warnings.simplefilter("ignore", category)
            status = main(list(words))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(home)
        os.environ.pop("MINARI_DATASETS_PATH")
        os.environ |= {} if datasets is None else {"MINARI_DATASETS_PATH": datasets}
        sys.path[:] = [path for path in sys.path if path != str(folder)]
    out.flush()
    err.flush()
    answer = Answer(status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())
    assert status in (0, 2), (words, answer)
    lines = answer.err.removesuffix("\n").split("\n") if answer.err else []
    sound = all(line.startswith("peerage: ") and line.isprintable() and len(line) < 2000 for line in lines)
    assert sound, (words, answer)
    news = [line for line in lines if "checkpoint" in line.split()[1:6]]  # a damaged one was skipped
    assert len(lines) - len(news) <= 1 and len(lines) >= status // 2, (words, answer)
    return answer


# --- malicious values -------------------------------------------------------------------------------------------

NUMBERS = (0, 1, -1, 2, 3, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400,
           0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"))  # fmt: skip
TEXTS = ("", " ", "\0", "\n", "a\nb: c", "none", "auto", "auto_0", "auto_1e309", "1e309", "0x10", "１２", "-0", "+1",
         "²", "..", "../../x", "/etc/passwd", "~", "$(touch owned)", "`touch owned`", "{}", "[", 
         "!!python/object:os.system",
         "expert", "expert:1", "negated:" * 9 + "expert", "checkpoint:", "checkpoint:.", "constant:nan", "regional:c",
         "Room-v0", "Room-v99999999999", "nowhere:Room-v6", "cuda:99999999999999999999", "cpu", "dqn", "sac", "--", "-",
         "\ud800", "\u202e", "é" * 300, "x" * 100_000, "1_000", "1" * 5000, "true", ":", "a:b", "run:²")  # fmt: skip
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.text(max_size=9)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places_of(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in nested dicts and lists."""
    if path:
        yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places_of(tree[key], (*path, key))


@st.composite
def mutated(draw, tree: Any, values: st.SearchStrategy = values) -> Any:
    """`tree` with something else in one to three places, or without them, or with more."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places_of(tree))
        if not paths:
            break
        *path, last = draw(st.sampled_from(paths))
        within = tree
        for key in path:
            within = within[key]
        match draw(st.sampled_from(("put", "put", "put", "drop", "more", "swap"))):
            case "put":
                within[last] = deepcopy(draw(values))  # sampled ones are always the same object
            case "drop":
                del within[last]
            case "more" if isinstance(within, dict):
                within[draw(st.text(max_size=5))] = deepcopy(draw(values))
            case "more":
                within.insert(last, deepcopy(draw(values)))
            case "swap":
                other = draw(st.sampled_from(list(places_of(tree))))
                found = tree
                for key in other:
                    found = found[key]
                within[last] = json.loads(json.dumps(found))
    return tree


# --- commands ----------------------------------------------------------------------------------------------------

COMMANDS_OF_A_RUN = (
    ("resume", "{}", "--verbose", "0"),
    ("resume", "{}", "--verbose", "0"),
    ("evaluate", "{}", "--episodes", "1", "--members", "0"),
    ("evaluate", "{}", "--episodes", "1", "--advised", "--perturb", "dropped_advice=0.5"),
    ("export", "{}"),
    ("train", "--env", "Room-v6", "--advisers", "checkpoint:{}"),
    ("train", "--env", "Room-v6", "--net-arch", "4", "--n-peers", "1", "--load-paths", "{}:0"),
)


LINES = ("metrics.csv", "evaluations.csv", "advice.csv")


def use(place: Place, command: tuple[str, ...], *, exact: bool = False) -> Answer:
    """A command that reads a run: a resume may change the run; the other commands change nothing, or one file.

    `exact`: the corrupted part does not affect the training, so a resume that is not refused ends like the original
    run.
    """
    words = [word.format("experiments/run") for word in command]
    may: tuple[Path, ...] = {"resume": (place.run,), "export": (place.run / "export",)}.get(words[0], ())
    lines = {name: (place.run / name) for name in LINES}
    before = {name: path.read_bytes() for name, path in lines.items() if path.is_file() and not path.is_symlink()}
    answer = place.ask(*words, *(place.nowhere if words[0] == "train" else ()), may=may)
    for name, text in before.items():  # rows before the oldest checkpoint, of step 20, are never removed
        kept = text.partition(b"\n30,")[0] if b"\n30," in text else text.partition(b"\n")[0]
        assert answer.refused or lines[name].read_bytes().startswith(kept), (words, answer, name)
    if exact and words[0] == "resume" and answer.status == 0:
        for name in LINES:
            assert lines[name].read_bytes() == (place.done / name).read_bytes(), (words, answer, name)
    return answer


def zips(folder: Path) -> None:
    """Zips such as Stable-Baselines3 does not write."""
    folder.mkdir()
    for name, entries in {
        "bomb": {"data": "[" * 1_000_000, "policy.pth": bytes(30_000_000)},
        "names": {"/etc/passwd": "x", "../../outside/precious": "x", "data": "{}", "policy.pth": "x"},
        "pickle": {"data": "{}", "policy.pth": b"cos\nsystem\n(S'touch owned'\ntR."},
        "none": {},
    }.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
