"""Files and words that nobody of good will would write: whatever they hold, the answer is one line, and nothing that
was there is lost.

Every example runs the command line in a folder of its own, with a run in it and somebody else's files around, and
compares all of it before and after. `PEERAGE_EXAMPLES=20` looks for 20 times as long, and somewhere else every time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import peerage
from peerage.cli import COMMANDS, main
from peerage.config import AdviceConfig, AttentionConfig, Config, ContextConfig, LearnerConfig, RunConfig
from peerage.flags import train_flags
from peerage.presets import preset, preset_names
from peerage.runs.folder import HEADER
from peerage.runs.listeners import Listener
from peerage.training import checkpoint, session

MORE = int(os.environ.get("PEERAGE_EXAMPLES", 1))
SECONDS = 20
"""Nothing here takes a tenth of it: what does not end by then hangs."""
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
                attention=AttentionConfig(attention_update_freq=7, attention_batch_size=2, sequence_length=4),
            )
        case "context":
            return replace(
                room,
                advisers=("expert",),
                advice=AdviceConfig(trust="in-context", follow_steps=3),
                context=ContextConfig(context_length=5, context_batch_size=2, context_history=20),
            )
        case "single":
            return replace(room, n_peers=1, advice=AdviceConfig(sharing="none"))
    return replace(room, advisers=("turncoat", "random"))


KINDS = ("dqn", "hybrid", "context", "single")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Four runs stopped at step 50, with checkpoints of the steps 20 and 40, and `done`, which is finished."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        with pytest.raises(KeyboardInterrupt):
            peerage.train(config=config_of(kind), log_dir=str(folder), exp_name=kind, listeners=[Stop()])
    shutil.copytree(folder / "dqn", folder / "done")
    assert main(["resume", str(folder / "done"), "--verbose", "0"]) == 0
    zips(folder / "zips")
    return folder


@pytest.fixture(scope="module", autouse=True)
def guarded() -> Iterator[None]:
    """No report after a resume (pictures cost more than the training; `peerage report` has a test of its own), no
    word from W&B, and not much memory."""
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
    """Not an Exception: nobody may catch it."""


@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Before anything was done; a training that failed says how it goes on."""
        return self.status == 2 and "goes on" not in self.err


class Place:
    """A folder with `run`, a copy of one of the runs, and files of somebody else's."""

    def __init__(self, runs: Path, kind: str = "dqn") -> None:
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
        """Run a command and look at what it left behind; `may`: what it may change when it is not refused (a report
        may be, when its first pictures are drawn)."""
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
    try:
        os.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")
            for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):  # not shown
                warnings.simplefilter("ignore", category)
            status = main(list(words))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(home)
        sys.path[:] = [path for path in sys.path if path != str(folder)]
    out.flush()
    err.flush()
    answer = Answer(status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())
    assert status in (0, 2), (words, answer)
    lines = answer.err.removesuffix("\n").split("\n") if answer.err else []
    sound = all(line.startswith("peerage: ") and line.isprintable() and len(line) < 2000 for line in lines)
    assert sound, (words, answer)
    news = [line for line in lines if "checkpoint" in line.split()[1:6]]  # a damaged one was passed over
    assert len(lines) - len(news) <= 1 and len(lines) >= status // 2, (words, answer)
    return answer


# --- what nobody of good will writes ----------------------------------------------------------------------------

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
                within[last] = draw(values)
            case "drop":
                del within[last]
            case "more" if isinstance(within, dict):
                within[draw(st.text(max_size=5))] = draw(values)
            case "more":
                within.insert(last, draw(values))
            case "swap":
                other = draw(st.sampled_from(list(places_of(tree))))
                found = tree
                for key in other:
                    found = found[key]
                within[last] = json.loads(json.dumps(found))
    return tree


# --- configurations ---------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdefgh", "bcdefghi"))
SNIPPETS = (
    "env: !!python/object/apply:os.system ['touch owned']\n",
    "!!python/object/apply:os.system ['touch owned']\n",
    "env: !<tag:yaml.org,2002:python/name:os.system> x\n",
    "seed: !!int 'x'\n", "seed: !!timestamp x\n", "seed: 2024-13-45\n", "seed: 1:30:99999999\n",
    LAUGHS, "a: &a\n  b: *a\n", "env: Room-v6\nenv: Room-v6\n", "? [a]\n: b\n", "? {a: b}\n: c\n", "<<: {env: x}\n",
    "---\n---\n", "...\n", "%YAML 9.9\n---\n", "%TAG ! tag:evil,2000:\n---\nenv: !x y\n", "\t", "&", "*", "!", "\0",
    "\ufeff", "\x85", "\u2028", "# \x07\n", "'", '"', '"\\ud800"', '"\\x00"', "|", ">", "-", "- - - -", "env: |2\n x\n",
    "[" * 30_000, "{a: " * 9_000, "- " * 9_000, "".join(f"{' ' * k}a:\n" for k in range(900)), "x" * 10_000_000,
    "env: '" + "x" * 900_000 + "'\n", "seed: " + "9" * 9_000 + "\n", "seed: 1e999999999999\n", "seed: 0x10\n",
    "env_args: {x: " + "[" * 120 + "]" * 120 + "}\n",
    "env_args: {change: {reward_scale: " + "[" * 90 + "]" * 90 + "}}\n",
    "advisers: [" + "random, " * 5_000 + "]\n", "learner: {net_arch: [" + "1," * 3_000 + "]}\n",
    "learner: {net_arch: [[1000000000, 1000000000]]}\n", "learner: {batch_size: 4000000000}\n",
    "learner: {buffer_size: 4000000000}\ntotal_timesteps: 4000000000\n", "n_epochs: 9223372036854775807\n",
    "advice: {trust_batch_size: 1000000000, trust_buffer_size: 1000000000}\ntotal_timesteps: 4000000000\n",
    "advice: {trust: in-context}\ncontext: {context_history: 4000000000, context_batch_size: 4000000000}\n",
    "advice: {trust: hybrid}\nattention: {attention_history: 4000000000, attention_batch_size: 4000000000}\n"
    "total_timesteps: 4000000000\n",
)  # fmt: skip


@st.composite
def yaml_files(draw, sources: tuple[str, ...]) -> bytes:
    """A configuration in which something is wrong, most of the time."""
    source = draw(st.sampled_from(sources))
    how = draw(st.sampled_from(("tree", "tree", "tree", "snippet", "snippet", "bytes", "encoding")))
    if how == "tree":
        source = HEADER + yaml.safe_dump(draw(mutated(yaml.safe_load(source))), allow_unicode=draw(st.booleans()))
    if how == "snippet":
        snippet, lines = draw(st.sampled_from(SNIPPETS)), source.splitlines(keepends=True)
        at = draw(st.sampled_from((0, 0, len(lines) // 2, len(lines))))
        source = snippet if draw(st.booleans()) else "".join([*lines[:at], snippet, *lines[at:]])
    encoding = draw(st.sampled_from(("utf-16", "utf-32", "utf-8-sig"))) if how == "encoding" else "utf-8"
    data = bytearray(source.encode(encoding, errors="surrogatepass"))
    if how == "bytes":
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data) - 1))
            data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


PRESETS = tuple(HEADER + yaml.safe_dump(preset(name)) for name in preset_names() if "room" in name.lower())[:5]


@examples(80)
@given(data=st.data())
def test_a_configuration_to_train_with(runs, data):
    sources = (*((runs / kind / "config.yaml").read_text() for kind in KINDS), *PRESETS)
    with Place(runs) as place:
        (place.path / "mine.yaml").write_bytes(data.draw(yaml_files(sources)))
        assert place.ask("train", "--config", "mine.yaml", *place.nowhere).status == 2


COMMANDS_OF_A_RUN = (
    ("resume", "{}", "--verbose", "0"),
    ("resume", "{}", "--verbose", "0"),
    ("evaluate", "{}", "--episodes", "1", "--members", "0"),
    ("export", "{}"),
    ("train", "--env", "Room-v6", "--advisers", "checkpoint:{}"),
    ("train", "--env", "Room-v6", "--net-arch", "4", "--n-peers", "1", "--load-paths", "{}:0"),
)


def use(place: Place, command: tuple[str, ...]) -> Answer:
    """A command that reads a run: what a resume may change is the run; the others change nothing, or one file."""
    words = [word.format("experiments/run") for word in command]
    may: tuple[Path, ...] = {"resume": (place.run,), "export": (place.run / "export",)}.get(words[0], ())
    lines = {name: (place.run / name) for name in ("metrics.csv", "evaluations.csv", "advice.csv")}
    before = {name: path.read_bytes() for name, path in lines.items() if path.is_file() and not path.is_symlink()}
    answer = place.ask(*words, *(place.nowhere if words[0] == "train" else ()), may=may)
    for name, text in before.items():  # what was logged before the oldest checkpoint, of step 20, is there for ever
        kept = text.partition(b"\n30,")[0] if b"\n30," in text else text.partition(b"\n")[0]
        assert answer.refused or lines[name].read_bytes().startswith(kept), (words, answer, name)
    return answer


@examples(60)
@given(kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), data=st.data())
def test_the_configuration_of_a_run(runs, kind, command, data):
    with Place(runs, kind) as place:
        path = place.run / "config.yaml"
        path.write_bytes(data.draw(yaml_files((path.read_text(),))))
        use(place, command)


@pytest.mark.parametrize("command", COMMANDS_OF_A_RUN[1:], ids=lambda words: f"{words[0]}{words[-1]}")
def test_a_run_that_brings_code(runs, command):
    """Whoever works inside of a run folder that somebody sent must not run what lies there."""
    with Place(runs) as place:
        for name in ("payload.py", "package/__init__.py"):
            path = place.run / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("open('owned', 'w')\n")
        text = (place.run / "config.yaml").read_text()
        for env in ("payload:Room-v6", "package:Room-v6", "package.part:Room-v6"):
            (place.run / "config.yaml").write_text(text.replace("env: Room-v6", f"env: {env}"))
            words = [word.format(".") for word in command] + (place.nowhere if command[0] == "train" else [])
            ask(*words, folder=place.run)
            assert not (place.run / "owned").exists(), env


@examples(4)
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_the_report_of_a_run_with_another_configuration(runs, kind, data):
    with Place(runs, kind) as place:
        path = place.run / "config.yaml"
        path.write_bytes(data.draw(yaml_files((path.read_text(),))))
        place.ask("report", "experiments/run", may=(place.run / "figures", place.run / "report.html"))


# --- the command line -------------------------------------------------------------------------------------------


def hostile_paths(place: Place) -> list[str]:
    """Paths that are not what they should be."""
    there = place.path / "paths"
    there.mkdir(exist_ok=True)
    os.mkfifo(there / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(there / "socket"))
    (there / "loop").symlink_to(there / "loop")
    (there / "dangling").symlink_to(place.path / "made")
    (there / "link").symlink_to(place.outside)
    (there / "to-run").symlink_to(place.run)
    (there / "empty").mkdir()
    (there / "file").write_bytes(b"\x80\x02}q\x00.")
    for name in ("fifo", "socket", "empty", "file", "link", "loop"):  # runs whose config.yaml is odd
        (there / f"with-{name}").mkdir()
        (there / f"with-{name}" / "config.yaml").symlink_to(there / name)
    for path in place.zips.iterdir():
        os.link(path, there / path.name)
    names = [str(path) for path in sorted(there.iterdir())]
    return [*names, *(f"{name}:0" for name in names), *(f"{name}/" for name in names), "/dev/null", "/dev/zero",
            "/dev/zero:1", "/proc/self/mem", "/", ".", "..", "", "\0", "x" * 5_000, "/".join("x" * 2_000),
            "a\ud800b", "experiments/run", "experiments/run:7", "experiments/run:²", "experiments/run/config.yaml",
            "experiments/run/checkpoints", "outside/precious"]  # fmt: skip


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


FLAGS = tuple(flag.option for flag in train_flags())
SWITCHES = {flag.option for flag in train_flags() if flag.is_switch}
SMALL_COUNTS = {"--n-peers", "--replicas"}
"""A large group is no mistake, but building it takes its time."""
numbers = st.sampled_from(tuple(map(str, NUMBERS))) | st.integers(-3, 70).map(str)
words = st.sampled_from(TEXTS) | numbers | st.text(max_size=9)


def on_the_command_line(word: str) -> str:
    """What a shell can hand over: no surrogates but those that stand for bytes."""
    return word.replace("\ud800", "\udcff").replace("\0", "\u2400")


@st.composite
def flags_and_words(draw, options: tuple[str, ...], words: st.SearchStrategy[str]) -> list[str]:
    said: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        option = draw(st.sampled_from(options))
        if option in SWITCHES and draw(st.booleans()):
            said.append(option)
            continue
        if option in SMALL_COUNTS:
            said += [option, draw(st.sampled_from(("0", "3", "65", "99999999999", "1e400", "２", "x", "-1")))]
            continue
        count = draw(st.sampled_from((1, 1, 1, 1, 1, 1, 1, 2, 3, 0, 1_000)))
        said += [option, *([draw(words)] * count if count > 3 else [draw(words) for _ in range(count)])]
        if draw(st.integers(0, 9)) == 0:
            said[-1:] = [f"{option}={said[-1]}"]
    return said


@examples(110)
@given(env=st.sampled_from(("Room-v6", "Pendulum-v1")), data=st.data())
def test_flags_of_train(runs, env, data):
    with Place(runs) as place:
        paths = st.sampled_from(hostile_paths(place))
        if data.draw(st.booleans()):  # a value of a flag that is a path
            options: tuple[str, ...] = ("--config", "--load-paths", "--advisers", "--env-args", "--env")
            source = paths | paths.map(lambda path: f"checkpoint:{path}") | paths.map(lambda path: f"change={path}")
        else:
            options, source = FLAGS, words
        said = data.draw(flags_and_words(options, source))
        place.ask("train", "--env", env, *map(on_the_command_line, said), *place.nowhere)




ONE_LINE = {"train", "sweep"}
"""Commands that would train; they have tests of their own, here and elsewhere."""


@examples(70)
@given(command=st.sampled_from(sorted(COMMANDS.keys() - ONE_LINE)), data=st.data())
def test_words_of_the_other_commands(runs, command, data):
    """On paths that are no runs, and on a run with flags of all kinds (but no endless evaluation)."""
    options = [o for o in COMMANDS[command].parser(command)._option_string_actions if o not in ("-h", "--help")]
    with Place(runs) as place:
        paths = st.sampled_from([path for path in hostile_paths(place) if not path.rstrip("/").endswith("run")])
        source = words | paths
        said = data.draw(flags_and_words(tuple(options), source)) if options and data.draw(st.booleans()) else []
        endless = "--episodes" in said or command in ("report", "compare")
        run = data.draw(source) if endless or data.draw(st.booleans()) else "experiments/run"
        may = (place.run,) if command == "resume" else (place.run / "export", place.path)
        answer = place.ask(command, *map(on_the_command_line, [run, *said]), may=may)
        after = snapshot(place.path)
        assert command == "resume" or {p: after.get(p) for p in place.before} == place.before, (answer, run, said)


@pytest.mark.parametrize("said", [[], ["--"], ["", ""], ["train", "--"], ["-h", "x"], ["１２"], ["x" * 99_999]])
def test_words_that_are_no_command(runs, said):
    with Place(runs) as place:
        place.ask(*said)


# --- checkpoints ------------------------------------------------------------------------------------------------


def reseal(folder: Path, **manifest: Any) -> None:
    """Make the checksums right again, as somebody would who knows what he is doing."""
    old = json.loads((folder / "manifest.json").read_text())
    old.pop("seal")
    new = {**old, **manifest}
    if "files" not in manifest:
        new["files"] = {name: checkpoint._sha256(folder / name) for name in checkpoint.FILES}
    if "chunks" not in manifest:
        for chunk in (chunk for chunks in new["chunks"].values() for chunk in chunks):
            path = folder.parent / "chunks" / chunk["name"]
            chunk |= {"sha256": checkpoint._sha256(path), "size": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps({**new, "seal": checkpoint._seal(new)}))




JSON = st.sampled_from((None, True, False, *NUMBERS, "", "x", "run", [], {}, [[]], [0], {"x": 0}, {"tensor": "nowhere"},
                        {"tensor": "sharing/followed"}, {"buffer": "group/0/replay/data", "start": 0, "stop": 10**12},
                        {"buffer": "nowhere", "start": 0, "stop": 0}))  # fmt: skip


def spoiled(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor of another shape, type or content; some shapes would be broadcast without a word."""
    real, yes_or_no = x.is_floating_point(), x.dtype == torch.bool
    huge = x if real else torch.full_like(x, 1 if yes_or_no else torch.iinfo(x.dtype).max)
    return {
        "first": x.flatten()[:1].clone(), "row": x[:1].clone() if x.ndim else x[None], "empty": x.flatten()[:0].clone(),
        "scalar": x.flatten()[0].clone() if x.numel() else torch.zeros(()), "more": x.flatten().repeat(2),
        "deeper": x[None].clone(), "column": x.reshape(-1, 1).clone(), "flat": x.flatten().clone(),
        "zero-sized": torch.zeros(0, 2**40), "ones": x.reshape(*x.shape, 1).clone(),
        "float64": x.to(torch.float64), "float32": x.to(torch.float32), "float16": x.to(torch.float16),
        "bfloat16": x.to(torch.bfloat16), "int64": x.to(torch.int64), "int32": x.to(torch.int32),
        "bool": x.to(torch.bool), "zeros": torch.zeros_like(x), "huge": huge,
        "nan": torch.full_like(x, torch.nan) if real else huge, "inf": torch.full_like(x, -torch.inf) if real else huge,
        "negative": ~x if yes_or_no else -torch.ones_like(x), "plus": ~x if yes_or_no else x + 1,
    }  # fmt: skip


HOW = tuple(spoiled(torch.zeros(2)))


@examples(150)
@given(kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), data=st.data())
def test_a_state_that_is_sealed_and_makes_no_sense(runs, kind, command, data):
    with Place(runs, kind) as place:
        newest = place.newest
        if data.draw(st.booleans()):
            path = newest / "state.json"
            path.write_text(json.dumps(data.draw(mutated(json.loads(path.read_text()), JSON))))
        else:
            path = newest / "state.safetensors"
            tensors = load_file(path)
            name = data.draw(st.sampled_from(sorted(tensors)))
            tensors[name] = spoiled(tensors[name])[data.draw(st.sampled_from(HOW))]
            save_file(tensors, path)
        reseal(newest)
        use(place, command)




@examples(60)
@given(kind=st.sampled_from(KINDS), command=st.sampled_from(COMMANDS_OF_A_RUN), data=st.data())
def test_a_manifest_that_is_sealed_and_makes_no_sense(runs, kind, command, data):
    with Place(runs, kind) as place:
        newest = place.newest
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest.pop("seal")
        names = ("../../../outside/precious", "/etc/passwd", "..", "a.safetensors", "step_000000020", "config", "step",
                 "../step_000000020/state.json", "format", "about", "files", "chunks")  # fmt: skip
        manifest = data.draw(mutated(manifest, JSON | st.sampled_from(names)))
        if not isinstance(manifest, dict):
            return
        step = data.draw(st.sampled_from((40, 40, 40, 40, 60, 61, 10**9, 10**30, 0)))
        if step != 40:
            manifest["step"] = step
            newest = newest.rename(newest.with_name(f"step_{step:09d}"))
            if data.draw(st.booleans()):
                state = json.loads((newest / "state.json").read_text())
                (newest / "state.json").write_text(json.dumps({**state, "step": step}))
                manifest["files"] = {name: checkpoint._sha256(newest / name) for name in checkpoint.FILES}
        (newest / "manifest.json").write_text(json.dumps({**manifest, "seal": checkpoint._seal(manifest)}))
        use(place, command)


JUNK = (b"", b"\0", b"{}", b"[]", b"null", b"{", b'{"why": [1], "step": "x", "when": {}}', b"\xff\xfe", b"x" * 10**6,
        b'{"versions": 3, "hardware": [], "git": 7, "resumed": {}}',
        b'{"versions": {"torch": {}}, "hardware": {"a": []}}',
        b"[" * 10**5, b"step\n", b"1" * 9000)  # fmt: skip
FILES = ("DONE", "FAILED", "environment.json", "command.txt", ".lock", "metrics.csv", "evaluations.csv", "advice.csv",
         "timing.csv", "checkpoints", "checkpoints/chunks", "checkpoints/step_000000040", "checkpoints/step_000000020",
         "checkpoints/step_000000040/state.json", "checkpoints/step_000000040/manifest.json", "report.html", "figures",
         "figures/training_return.png", "export", "dumps", "tensorboard", "checkpoints/step_000000099",
         "checkpoints/step_\u0661", "checkpoints/.step_x", "checkpoints/step_000000060",
         "checkpoints/.step_000000060.partial", "checkpoints/chunks/.x", "config.yaml",
         "checkpoints/chunks/old.safetensors", ".DONE.1.tmp", "wandb_run.txt")  # fmt: skip


def replaced(path: Path, how: str, outside: Path, junk: bytes) -> None:
    """Something else in place of a file or folder of a run."""
    if how == "longer" and path.is_file():
        path.write_bytes(path.read_bytes() + junk)
        return
    if how == "shorter" and path.is_file():
        path.write_bytes(path.read_bytes()[:-3])
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    match how:
        case "junk" | "longer" | "shorter":
            path.write_bytes(junk)
        case "folder":
            (path / "full").mkdir(parents=True)
        case "fifo":
            os.mkfifo(path)
        case "link to a file":
            path.symlink_to(outside / "metrics.csv")
        case "link to a folder":
            path.symlink_to(outside / "checkpoints" if path.name == "checkpoints" else outside)
        case "link to nothing":
            path.symlink_to(outside / "made")
        case "link to itself":
            path.symlink_to(path)


REPLACED = ("junk", "longer", "shorter", "missing", "folder", "fifo", "link to a file", "link to a folder",
            "link to nothing", "link to itself")  # fmt: skip




@pytest.mark.parametrize("how", ["link to a file", "link to a folder", "link to nothing"])
def test_no_link_leads_out_of_a_run_folder(runs, how):
    """Whatever a resume writes to, cuts or removes; and nothing is waited for."""
    for name in FILES:
        with Place(runs) as place:
            replaced(place.run / name, how, place.outside, b"")
            use(place, COMMANDS_OF_A_RUN[0])


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(runs):
    """Its rows would be lost."""
    with Place(runs) as place:
        shutil.rmtree(place.run / "checkpoints")
        assert use(place, COMMANDS_OF_A_RUN[0]).refused




@examples(6)
@given(name=st.sampled_from(FILES), how=st.sampled_from(REPLACED), junk=st.sampled_from(JUNK))
def test_the_report_of_an_odd_run_folder(runs, name, how, junk):
    with Place(runs) as place:
        replaced(place.run / name, how, place.outside, junk)
        place.ask("report", "experiments/run", may=(place.run / "figures", place.run / "report.html"))
