"""Real faults on demand: environments and advisers that fail while a file requests it, disks of two megabytes, and
child processes with limited permissions."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest

from peerage.cli import main
from peerage.evaluation.evaluate import SEED
from peerage.runs.listeners import Listener, Listeners, RunInfo
from peerage.sharing.advisers import register_adviser

TABLES = ("metrics.csv", "evaluations.csv", "advice.csv")

# --- what fails -----------------------------------------------------------------------------------------------


class Frail(gym.Env):
    """Works unless the file `fault` contains one of `FAULTS` and a number of steps: then it fails after this number of
    steps, with `"evaluation": true` in an evaluation, otherwise in training. The environment number `rich`, in the
    order of creation, gives enormous rewards: 0 is inspected and closed, 1 is that of the first member."""

    fault: Path | None = None
    made = 0  # in this command
    observation_space = gym.spaces.Box(-9, 9, (3,), np.float32)

    def __init__(self, box: bool = False, rich: int | None = None) -> None:
        self.action_space = gym.spaces.Box(-2, 2, (2,), np.float32) if box else gym.spaces.Discrete(3)
        self.scale = 6e37 if Frail.made == rich else 1.0
        Frail.made += 1
        self.taken = self.now = 0
        self.evaluates = False

    def due(self) -> str:
        """What goes wrong now, if anything."""
        if Frail.fault is None or not Frail.fault.exists():
            return ""
        fault = json.loads(Frail.fault.read_text())
        here = fault.get("evaluation", False) == self.evaluates and self.taken >= fault["at"]
        return fault["what"] if here else ""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.evaluates = SEED <= seed < SEED + 1000  # those of training are drawn from 2**31
        self.now = 0
        if self.due() == "reset raises":
            raise RuntimeError("the robot is switched off")
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        if not np.isfinite(action).all():
            raise ValueError(f"the action {action} is not finite")
        self.taken, self.now = self.taken + 1, self.now + 1
        obs = self.np_random.normal(size=3).astype(np.float32)
        reward = self.scale * float(obs[0] - 0.1 * np.abs(action).sum())
        sound = (obs, reward, bool(self.np_random.random() < 0.05), self.now == 30, {"is_success": reward > 0})
        what = self.due()
        return FAULTS[what](*sound) if what in FAULTS else sound


def _raises(*sound: Any) -> Any:
    raise RuntimeError("the robot fell\nover")


def _exits(*sound: Any) -> Any:
    sys.exit("window closed")


def _signals(number: int) -> Callable[..., Any]:
    def step(*sound: Any) -> Any:
        signal.raise_signal(number)
        return sound

    return step


FAULTS: dict[str, Callable[..., Any]] = {
    "step raises": _raises,
    "step exits": _exits,
    "observation of NaN": lambda obs, *rest: (obs * np.nan, *rest),
    "observation of infinity": lambda obs, *rest: (obs.astype(np.float64) + 1e300, *rest),
    "reward of NaN": lambda obs, reward, *rest: (obs, np.nan, *rest),
    "reward of infinity": lambda obs, reward, *rest: (obs, -np.inf, *rest),
    "reward beyond float32": lambda obs, reward, *rest: (obs, 1e39, *rest),
    "longer observation": lambda obs, *rest: (np.append(obs, obs), *rest),
    "shorter observation": lambda obs, *rest: (obs[:1], *rest),
    "observation in a batch": lambda obs, *rest: (obs[None], *rest),
    "no observation": lambda obs, *rest: (None, *rest),
    "two rewards": lambda obs, reward, *rest: (obs, np.array([reward, reward]), *rest),
    "SIGTERM": _signals(signal.SIGTERM),
    "SIGINT": _signals(signal.SIGINT),
    "four values": lambda obs, reward, terminated, truncated, info: (obs, reward, terminated, info),
}
gym.register("Frail-v0", Frail, max_episode_steps=30)


class FrailAdviser:
    """Suggests 0, 1, 2, 0, ... to all askers and stores its position; fails if the file `fault` requests it."""

    fault: Path | None = None

    def __init__(self) -> None:
        self.count = 0

    def due(self, where: str) -> str:
        if FrailAdviser.fault is None or not FrailAdviser.fault.exists():
            return ""
        fault = json.loads(FrailAdviser.fault.read_text())
        if not fault["what"].startswith(where) or self.count < fault["at"]:
            return ""
        if fault["what"].endswith("raises"):
            raise RuntimeError("out of\nadvice")
        if fault["what"].endswith("exits"):
            sys.exit(0)
        return fault["what"]

    def suggest(self, obs, rows, first, rng):
        what = self.due("suggest")
        self.count += 1
        said = np.full(len(obs), self.count % 3)
        return {
            "suggests NaN": said * np.nan, "suggests too many": np.append(said, said), "suggests 3": said + 3,
            "suggests words": ["left"] * len(obs), "suggests nothing": None,
        }.get(what, said)  # fmt: skip

    def at(self, step: int) -> None:
        self.due("at")

    def role(self, obs):
        self.due("role")
        return np.zeros(len(obs), np.int64)

    def state(self):
        what = self.due("state")
        return {"count": self.count if what != "state of objects" else self}

    def load_state(self, state) -> None:
        self.count = state["count"]


register_adviser("frail", lambda spec: FrailAdviser())


class At(Listener):
    """Does something when the rows of `step` have been written, or at the start or end of a training (`method`)."""

    def __init__(self, step: int, call: Callable[[], Any], method: str = "on_timing") -> None:
        self.step, self.call = step, call
        setattr(self, method, self._hear)

    def _hear(self, when: Any, *rest: Any) -> None:
        if isinstance(when, RunInfo | str) or when == self.step:  # a start or an end has no step
            self.call()


# --- the command line -----------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str

    def line(self) -> str:
        """All that it said on stderr, which has to be one line."""
        assert self.err.count("\n") == 1 and self.err.startswith("peerage: "), self.err
        return self.err


def peerage(*words: object, listeners: tuple[Listener, ...] = ()) -> Ended:
    """`peerage WORDS` in this process, with additional listeners."""
    init = Listeners.__init__
    out, err = io.StringIO(), io.StringIO()
    Frail.made = 0
    if listeners:
        Listeners.__init__ = lambda self, some=(): init(self, [*some, *listeners])  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(word) for word in words])
    finally:
        Listeners.__init__ = init  # type: ignore[method-assign]
    return Ended(status, out.getvalue(), err.getvalue())


def tables(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in TABLES}


def differs(run: Path, whole: dict[str, bytes]) -> list[str]:
    """The tables that are not those of the undisturbed run."""
    return [name for name, data in tables(run).items() if data != whole[name]]


HANGS = 900
"""Seconds after which a child that has not ended ends itself. No test takes a tenth of it on a busy machine."""

# --- children -------------------------------------------------------------------------------------------------


@cache
def _server() -> Any:
    """Forks children from a process that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "peerage.cli", "peerage.session", "peerage.reports.figures"])
    return context


def start(body: Callable[..., Any], *arguments: Any, output: Path | None = None, report: bool = False) -> Any:
    """Begin `body(*arguments)`, a function of a module, in a child; `output`: where its stdout and stderr go."""
    here, there = _server().Pipe(duplex=False)
    child = _server().Process(target=_child, args=(there, body, arguments, output, report))
    child.start()
    there.close()
    child.answer = here
    return child


def end(child: Any) -> Any:
    """What the child's function returned; its failure is one of this test, its skip too."""
    kind, value = "died", None
    with contextlib.suppress(EOFError):
        kind, value = child.answer.recv()
    child.join()
    if kind == "skipped":
        pytest.skip(value)
    if kind != "returned":
        pytest.fail(f"in the child, which ended with {child.exitcode}: {kind} {value or ''}")
    return value


def in_a_child(body: Callable[..., Any], *arguments: Any, report: bool = False) -> Any:
    return end(start(body, *arguments, report=report))


def _child(answer: Any, body: Callable[..., Any], arguments: Any, output: Path | None, report: bool) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if output is not None:
        number = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(number, 1)
        os.dup2(number, 2)
    signal.alarm(HANGS)
    if not report:
        without_report()
    try:
        result = ("returned", body(*arguments))
    except SystemExit:
        raise
    except pytest.skip.Exception as skipped:
        result = ("skipped", str(skipped))
    except BaseException:
        result = ("failed", traceback.format_exc())
    answer.send(result)
    answer.close()
    sys.stdout.flush()
    sys.stderr.flush()


def without_report() -> None:
    """A second for every run; they are drawn after DONE, from the tables alone."""
    from peerage import session

    vars(session)["write_report"] = lambda run: None


# --- less than usual: a tiny disk, fewer privileges -----------------------------------------------------------

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def _libc(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def own_mounts() -> None:
    """File systems of our own from here on, for this child alone; no privilege is needed where the kernel lets
    anybody have a user namespace. Skips where it does not."""
    if sys.platform != "linux":
        pytest.skip("namespaces are Linux's")
    user, group = os.getuid(), os.getgid()
    try:
        _libc("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    except OSError as error:
        pytest.skip(f"no namespace of our own: {error}")


def mount(kind: str, path: Path, options: str = "", flags: int = 0) -> None:
    try:
        _libc("mount", kind.encode(), os.fsencode(path), kind.encode(), flags, options.encode())
    except OSError as error:
        pytest.skip(f"cannot mount: {error}")


class Disk:
    """A file system of some kilobytes at `path`, for this child alone."""

    def __init__(self, path: Path, kilobytes: int) -> None:
        own_mounts()
        path.mkdir(exist_ok=True)
        mount("tmpfs", path, f"size={kilobytes}k")
        self.path, self.ballast = path, path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Until `leave` bytes are free, in pages of 4,096."""
        with self.ballast.open("ab", buffering=0) as file:
            while (room := self.room() - leave) > 0:
                file.write(bytes(room))

    def room(self) -> int:
        at = os.statvfs(self.path)
        return at.f_bavail * at.f_frsize

    def clear(self) -> None:
        self.ballast.unlink(missing_ok=True)


def bound_by_permissions() -> None:
    """From here on permission bits bind this child, even as root: a thread without CAP_DAC_OVERRIDE is like any
    other user's before folders that it may not write."""
    if os.geteuid() != 0:
        return

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    _libc("capget", ctypes.byref(header), data)
    data[0] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    _libc("capset", ctypes.byref(header), data)


@contextlib.contextmanager
def permissions(run: Path, folder: int, file: int) -> Iterator[None]:
    """The run folder and all in it with other permission bits, and as they were afterwards."""
    set_permissions(run, folder, file)
    try:
        yield
    finally:
        set_permissions(run, 0o755, 0o644)


def set_permissions(run: Path, folder: int, file: int) -> None:
    for path in (run, *run.rglob("*")):
        path.chmod(folder if path.is_dir() else file)
