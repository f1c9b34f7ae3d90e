"""Every failure during a training gives a one-line error and leaves a folder that resumes to the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from faults import At, Disk, Ended, Frail, FrailAdviser, differs, end, in_a_child, peerage, start, tables

from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.file import dump
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener
from peerage.runs.tables import read_advice, read_metrics
from peerage.trust.in_context_settings import ContextSettings
from peerage.trust.transformer_settings import TrustTransformerSettings

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
FULL = "No space left on device"
PNG_END = b"IEND\xaeB`\x82"


def tiny(env: str = "Frail-v0", **changes: Any) -> Config:
    """Two seconds of nothing: 120 steps, checkpoints at 0, 40, 80 and 120, rows after every fourth step."""
    learner = {
        "net_arch": ((16,),), "batch_size": (16,), "buffer_size": (60,), "learning_starts": (20,), "train_freq": (4,),
        "gradient_steps": (1,), "target_update_interval": (7,),
    }  # fmt: skip
    base = Config(
        env=env,
        n_peers=2,
        total_timesteps=120,
        threads=1,
        device="cpu",
        advisers=("random",),
        learner=LearnerConfig(**{**learner, **changes.pop("learner", {})}),
        advice=AdviceConfig(follow_steps=4, use_agent_values=True, trust_buffer_size=50),
        methods={
            "trust_transformer": TrustTransformerSettings(
            attention_update_freq=9, attention_batch_size=4, sequence_length=8, attention_history=60,
            ),
            "context": ContextSettings(
            context_length=10, context_history=30, context_update_freq=9, context_batch_size=4,
            ),
        },
        run=RunConfig(log_freq=4, eval_freq=60, checkpoint_freq=40, n_eval_episodes=1, verbose=0),
    )  # fmt: skip
    return replace(base, **changes)


def words(place: Path, config: Config | None = None, name: str = "run") -> list[object]:
    """The command that trains `config` into `place / name`."""
    file = place / f"{name}.yaml"
    file.write_text(dump(config or tiny()))
    return ["train", "--config", file, "--log-dir", place, "--exp-name", name]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No report, unless a test is about it; and no fault, unless it asks for one."""
    monkeypatch.setattr("peerage.session.write_report", lambda run: None)
    monkeypatch.setattr(Frail, "fault", None)
    monkeypatch.setattr(FrailAdviser, "fault", None)


def scratch() -> Any:
    """A folder in memory, where there is one: these runs sync ten thousand times, and that is all they wait for."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 50_000_000
    return tempfile.TemporaryDirectory(dir=memory if fits else None, ignore_cleanup_errors=True)


@pytest.fixture
def tmp_path():
    with scratch() as place:
        yield Path(place)


@pytest.fixture(scope="session")
def reference():
    """The tables of runs that nothing disturbs, each made once."""
    made: dict[str, dict[str, bytes]] = {}

    def train(config: Config | None = None) -> dict[str, bytes]:
        key = repr(config)
        if key not in made:
            with scratch() as place:
                assert peerage(*words(Path(place), config)).status == 0
                made[key] = tables(Path(place) / "run")
        return made[key]

    return train


def goes_on(run: Path, whole: dict[str, bytes], *flags: object) -> None:
    """The run resumes, without a word, to the bytes of the undisturbed one."""
    ended = peerage("resume", run, "--verbose", 0, *flags)
    assert (ended.status, ended.err) == (0, ""), ended
    assert differs(run, whole) == [] and RunFolder(run).status()[0] == "DONE"


# --- the disk is full -----------------------------------------------------------------------------------------


def rows_on_a_full_disk(path: Path, whole: dict[str, bytes]) -> None:
    disk = Disk(path, 2048)
    said = peerage(*words(path), listeners=(At(52, disk.fill),))
    assert said.status == 2
    assert f"cannot write to the run folder: {FULL}; after fixing this" in said.line()
    assert "peerage resume" in said.err and "continues from step 40" in said.err
    assert peerage("report", path / "run").line() and peerage("evaluate", path / "run", "--episodes", 1).status == 0
    again = peerage("resume", path / "run", "--verbose", 0)  # too early
    assert again.status == 2 and "disk space" in again.line()
    disk.clear()
    goes_on(path / "run", whole)


def checkpoint_on_a_full_disk(path: Path, whole: dict[str, bytes]) -> None:
    """Whichever of its files does not fit any more: a chunk, the tensors, the rest, the manifest."""
    disk = Disk(path, 2048)
    run, command = path / "run", words(path)
    assert peerage(*command, listeners=(At(80, lambda: os.kill(os.getpid(), signal.SIGTERM)),)).status == 143
    newest = checkpoint.checkpoints(run)[-1]
    files = [*newest.iterdir(), max((newest.parent / "chunks").iterdir())]
    needs = sum(-(-file.stat().st_size // 4096) for file in files)  # pages
    command.append("--overwrite")
    for pages in (0, 1, needs // 2, needs - 3, needs - 2, needs - 1):
        said = peerage(*command, listeners=(At(76, lambda pages=pages: disk.fill(pages * 4096)),))
        assert said.status == 2, (pages, said)
        assert "cannot write to the run folder" in said.line() and FULL in said.err, (pages, said)
        assert "continues from step 40" in said.err
        disk.clear()
        goes_on(run, whole)
    ended = peerage(*command, listeners=(At(76, lambda: disk.fill((needs + 8) * 4096)), At(80, disk.clear)))
    assert ended.status == 0 and differs(run, whole) == []


def end_on_a_full_disk(path: Path, whole: dict[str, bytes]) -> None:
    """All is saved but the word that it is done: the resume has nothing else to do."""
    disk, save = Disk(path, 2048), checkpoint.save

    def then_full(run: Path, step: int, *rest: Any, **more: Any) -> Path:
        written = save(run, step, *rest, **more)
        if step == 120:
            disk.fill()
        return written

    checkpoint.save = then_full
    said = peerage(*words(path))
    checkpoint.save = save
    assert said.status == 2 and FULL in said.line() and "peerage resume" in said.err
    assert "continues from step 120" in said.err and RunFolder(path / "run").status()[0] == "RUNNING"
    disk.clear()
    goes_on(path / "run", whole)


def start_on_a_full_disk(path: Path, whole: dict[str, bytes]) -> None:
    """Too full from the beginning: there is nothing then. Filled by others in the moment in which the run begins: there
    is nothing, or a folder that resumes."""
    disk, born, create = Disk(path, 2048), 0, RunFolder.create
    disk.fill(100_000)
    said = peerage(*words(path.parent), "--log-dir", path)
    assert said.status == 2 and "disk space" in said.line() and list(path.iterdir()) == [disk.ballast]
    disk.clear()
    for pages in (0, 1, 2, 3, 4, 5, 6, 8, 10, 20, 40):

        def when_full(*arguments: Any, pages: int = pages, **more: Any) -> RunFolder:
            disk.fill(pages * 4096)
            return create(*arguments, **more)

        RunFolder.create = staticmethod(when_full)
        said = peerage(*words(path.parent), "--log-dir", path)
        RunFolder.create = staticmethod(create)
        disk.clear()
        assert said.status == 2 and FULL in said.line(), (pages, said)
        assert {file.name for file in path.iterdir()} <= {"run"}, pages
        if (path / "run").exists():
            born += 1
            goes_on(path / "run", whole)
            environment = RunFolder(path / "run").environment()
            assert environment["env"] == "Frail-v0" and "versions" in environment, pages
            shutil.rmtree(path / "run")
    assert 0 < born < 11


def report_on_a_full_disk(path: Path, whole: dict[str, bytes]) -> None:
    """The training is done all the same."""
    disk = Disk(path, 4096)
    said = peerage(*words(path), listeners=(At(0, lambda: disk.fill(100_000), "on_end"),))
    run = path / "run"
    assert said.status == 0 and "no report" in said.line() and FULL in said.err
    assert RunFolder(run).status()[0] == "DONE" and differs(run, whole) == []
    for figure in (run / "figures").glob("*"):
        assert figure.read_bytes().endswith(PNG_END), figure
    disk.clear()
    drawn = peerage("report", run)
    assert drawn.status == 0 and (run / "report.html").exists(), drawn


@pytest.mark.parametrize(
    "fault",
    [
        rows_on_a_full_disk,
        checkpoint_on_a_full_disk,
        end_on_a_full_disk,
        start_on_a_full_disk,
        report_on_a_full_disk,
    ],
)
def test_a_full_disk(tmp_path, reference, fault):
    in_a_child(fault, tmp_path / "disk", reference(), report=fault is report_on_a_full_disk)


def files_no_longer_than(size: int) -> None:
    """What writes past that gets EFBIG (Python ignores SIGXFSZ): a disk that is full, without any privilege."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def writes_that_fail(path: Path, whole: dict[str, bytes]) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    for size in (200, 4000, 30_000, 200_000):
        name = f"size-{size}"
        said = peerage(*words(path, name=name), listeners=(At(52, lambda size=size: files_no_longer_than(size)),))
        files_no_longer_than(unlimited)
        assert said.status == 2
        assert "cannot write to the run folder" in said.line() and "File too large" in said.err, said
        goes_on(path / name, whole)


def test_writes_that_fail(tmp_path, reference):
    in_a_child(writes_that_fail, tmp_path, reference())


# --- folders that may not be written --------------------------------------------------------------------------


def log_folder_that_is_read_only(path: Path, whole: dict[str, bytes]) -> None:
    faults.bound_by_permissions()
    logs = path / "logs"
    logs.mkdir()
    command = words(path)
    command[4] = logs
    with faults.permissions(logs, 0o555, 0o444):
        for place in (logs, logs / "deeper"):
            command[4] = place
            said = peerage(*command)
            assert said.status == 2
            assert f"cannot write the run folder {place / 'run'}: Permission denied" in said.line()
        assert list(logs.iterdir()) == []
    command[4] = logs
    assert peerage(*command).status == 0 and differs(logs / "run", whole) == []


def run_folder_that_becomes_read_only(path: Path, whole: dict[str, bytes]) -> None:
    """Rows are still written to the open tables; the next checkpoint detects the fault."""
    faults.bound_by_permissions()
    run = path / "run"
    said = peerage(*words(path), listeners=(At(52, lambda: faults.set_permissions(run, 0o555, 0o444)),))
    assert said.status == 2
    assert f"cannot write to the run folder {run}" in said.line() and "Permission denied" in said.err
    assert "continues from step 40" in said.err
    before = tables(run)
    refused = (["resume", run], ["report", run], [*words(path), "--overwrite"])
    for command in refused:
        again = peerage(*command)
        assert again.status == 2 and "Permission denied" in again.line() and str(run) in again.err
    assert tables(run) == before
    assert peerage("evaluate", run, "--episodes", 1).status == 0  # reading is allowed
    faults.set_permissions(run, 0o755, 0o644)
    goes_on(run, whole)


def checkpoints_that_become_read_only(path: Path, whole: dict[str, bytes]) -> None:
    """The folder of the checkpoints alone, or that of their chunks: then the run can say how it ended."""
    faults.bound_by_permissions()
    for name in ("checkpoints", "checkpoints/chunks"):
        run = path / name.replace("/", "-")
        command = words(path, name=run.name)
        said = peerage(*command, listeners=(At(52, lambda f=run / name: f.chmod(0o555)),))
        assert said.status == 2 and "Permission denied" in said.line() and "continues from step 40" in said.err, said
        assert RunFolder(run).status()[0] == "FAILED"
        (run / name).chmod(0o755)
        goes_on(run, whole)


def file_system_that_becomes_read_only(path: Path, whole: dict[str, bytes]) -> None:
    """As after a disk error, or in a container; while the run is stopped."""
    Disk(path, 4096)
    run = path / "run"
    command = words(path)
    assert peerage(*command, listeners=(At(76, lambda: os.kill(os.getpid(), signal.SIGTERM)),)).status == 143
    faults.mount("tmpfs", path, "size=4096k", faults.MS_REMOUNT | faults.MS_RDONLY)
    for refused in (["resume", run], ["report", run], [*command, "--overwrite"]):
        said = peerage(*refused)
        assert said.status == 2 and "Read-only file system" in said.line()
    assert peerage("evaluate", run, "--episodes", 1).status == 0
    faults.mount("tmpfs", path, "size=4096k", faults.MS_REMOUNT)
    goes_on(run, whole)


@pytest.mark.parametrize(
    "fault",
    [
        log_folder_that_is_read_only,
        run_folder_that_becomes_read_only,
        checkpoints_that_become_read_only,
        file_system_that_becomes_read_only,
    ],
)
def test_files_that_cannot_be_written(tmp_path, reference, fault):
    in_a_child(fault, tmp_path, reference())


def run_of_somebody_else(path: Path, whole: dict[str, bytes]) -> None:
    faults.bound_by_permissions()
    run = path / "run"
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for command in (["resume", run], ["report", run], [*words(path.parent), "--log-dir", path, "--overwrite"]):
        said = peerage(*command)
        assert said.status == 2 and "Permission denied" in said.line() and str(run) in said.err
    assert peerage("evaluate", run, "--episodes", 1).status == 0
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert [file.name for file in path.iterdir() if file.is_dir()] == ["run"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_run_of_another_user(tmp_path, reference):
    place = tmp_path / "theirs"
    place.mkdir()
    at_76 = At(76, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert peerage(*words(place), listeners=(at_76,)).status == 143
    for file in (place, *place.rglob("*")):
        os.chown(file, 65534, 65534)
    in_a_child(run_of_somebody_else, place, reference())
    for file in (place, *place.rglob("*")):
        os.chown(file, 0, 0)
    goes_on(place / "run", reference())


# --- environments ---------------------------------------------------------------------------------------------


def failing(path: Path, owner: type, monkeypatch: pytest.MonkeyPatch, **fault: Any) -> Path:
    """The file that makes `Frail` or `FrailAdviser` fail: taken away, it is mended."""
    file = path / "fault.json"
    file.write_text(json.dumps(fault))
    monkeypatch.setattr(owner, "fault", file)
    return file


RAISED = "the environment raised "
NOT_FINITE = "that is not finite"


@pytest.mark.filterwarnings("error::RuntimeWarning")  # they would be further lines
@pytest.mark.parametrize(
    "what, told",
    [
        ("step raises", f"{RAISED}RuntimeError: the robot fell"),
        ("step exits", f"{RAISED}SystemExit: window closed"),
        ("reset raises", f"{RAISED}RuntimeError: the robot is switched off"),
        ("observation of NaN", f"returned an observation {NOT_FINITE}"),
        ("observation of infinity", f"returned an observation {NOT_FINITE}"),
        ("reward of NaN", f"returned a reward {NOT_FINITE}"),
        ("reward of infinity", f"returned a reward {NOT_FINITE}"),
        ("reward beyond float32", f"returned a reward {NOT_FINITE}"),
        ("longer observation", "observation"),
        ("shorter observation", "observation"),
        ("observation in a batch", "observation"),
        ("no observation", "observation"),
        ("two rewards", "step must return one number as reward, not an array of shape (2,)"),
        ("four values", f"{RAISED}ValueError: not enough values"),
    ],
)
def test_an_environment_that_fails(tmp_path, reference, monkeypatch, what, told):
    fault = failing(tmp_path, Frail, monkeypatch, what=what, at=67)
    said = peerage(*words(tmp_path))
    assert said.status == 2 and told in said.line(), said
    assert "Frail-v0, environment " in said.err and "continues from step 40" in said.err
    if what != "reset raises":
        assert "environment 0, step 67: " in said.err
    assert RunFolder(tmp_path / "run").status()[1]["why"] == said.err[len("peerage: ") :].rstrip("\n")
    again = peerage("resume", tmp_path / "run", "--verbose", 0)  # not mended: the same, and nothing is lost
    assert again.status == 2 and told in again.line()
    fault.unlink()
    goes_on(tmp_path / "run", reference())


@pytest.mark.parametrize("what", ["step raises", "reset raises", "shorter observation"])
def test_an_environment_that_fails_in_an_evaluation(tmp_path, reference, monkeypatch, what):
    """That of step 60, after 60 steps of training and without a checkpoint there; `evaluate` fails as well."""
    fault = failing(tmp_path, Frail, monkeypatch, what=what, at=3, evaluation=True)
    config = replace(tiny(), run=replace(tiny().run, eval_freq=60))
    said = peerage(*words(tmp_path, config))
    assert said.status == 2 and "evaluation" in said.line() and "Frail-v0, environment " in said.err
    looked = peerage("evaluate", tmp_path / "run")
    assert looked.status == 2 and "Frail-v0, environment " in looked.line()
    fault.unlink()
    goes_on(tmp_path / "run", reference())


# --- advisers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what, told",
    [
        ("suggest raises", "failed in suggest"),
        ("suggest exits", "SystemExit: 0"),
        ("suggests NaN", "suggested nan, which is not a valid action"),
        ("suggests 3", "which is not a valid action"),
        ("suggests too many", "must return"),
        ("suggests words", "must return"),
        ("suggests nothing", "got None"),
        ("at raises", "failed in at"),
        ("role raises", "failed in role"),
        ("state raises", "failed in state"),
        ("state of objects", "state"),
    ],
)
def test_an_adviser_that_fails(tmp_path, reference, monkeypatch, what, told):
    config = tiny(advisers=("frail",))
    fault = failing(tmp_path, FrailAdviser, monkeypatch, what=what, at=30)
    said = peerage(*words(tmp_path, config))
    assert said.status == 2 and told in said.line() and "adviser" in said.err and "Adviser" in said.err, said
    assert ("RuntimeError: out of advice" in said.err) == ("raises" in what) and "continues from step " in said.err
    fault.unlink()
    goes_on(tmp_path / "run", reference(config))


# --- members that diverge -------------------------------------------------------------------------------------

TRUSTS = {
    "dqn": ("td", "transformer", "hybrid", "in-context"),
    "sac": ("td", "hybrid", "in-context"),
    "sde": ("td",),
    "td3": ("td", "in-context"),
}


def diverging(algorithm: str, trust: Any, rates: tuple[float, ...] = (1e-3, 1e30), **changes: Any) -> Config:
    learner = {"algorithm": ("sac" if algorithm == "sde" else algorithm,), "learning_rate": rates}
    learner["use_sde"] = (algorithm == "sde",)
    advice = replace(tiny().advice, trust=trust, use_critic=True)
    return tiny(env_args={"box": algorithm != "dqn"}, learner=learner, advice=advice, **changes)


class Heard(Listener):
    """The messages of a training."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, step, text):
        if "memory" not in text:  # what the run will take, said at its start
            self.texts.append(text)


def sound(run: Path, member: str = "member-0") -> None:
    """All that is known of a member and what it thinks of its advisers are finite numbers."""
    metrics, advice = read_metrics(run), read_advice(run)
    mine = metrics[metrics.member == member]
    assert mine.step.max() == 120 and np.isfinite(mine.value).all(), mine[~np.isfinite(mine.value)].name.unique()
    assert "trust/frozen" not in set(mine.name)
    asked = advice[advice.asker == member].select_dtypes("float64")
    assert not np.isinf(asked).any(axis=None) and asked.score.notna().any(), asked
    assert asked.abs().max(axis=None) < 1e6, asked.abs().max()


@pytest.fixture
def chances(monkeypatch):
    """The distributions over advisers of all choices, as they are drawn from."""
    from peerage.sharing import choice

    drawn: list[np.ndarray] = []
    pick = choice.pick
    monkeypatch.setattr(choice, "pick", lambda p, uniform: drawn.append(p.numpy()) or pick(p, uniform))
    return drawn


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("algorithm, trust", [(a, t) for a, some in TRUSTS.items() for t in some])
def test_a_member_that_diverges(tmp_path, reference, chances, algorithm, trust):
    """The other member continues to learn, environments receive valid actions only (`Frail` would raise), evaluations
    are made, the member is reported once, and a resume is exact."""
    config = diverging(algorithm, trust)
    whole = reference(config)
    heard, stop = Heard(), At(76, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert peerage(*words(tmp_path, config), listeners=(heard, stop)).status == 143
    assert peerage("resume", tmp_path / "run", "--verbose", 0, listeners=(heard,)).status == 0
    assert differs(tmp_path / "run", whole) == []
    sound(tmp_path / "run")
    frozen = [text for text in heard.texts if "frozen" in text]
    assert len(frozen) == 1 and frozen[0].startswith("member-1 of replica 0 is frozen")
    assert chances and all(np.isfinite(p).all() and np.allclose(p.sum(axis=1), 1) for p in chances)
    group = checkpoint.load_latest(tmp_path / "run")[1]["trainer"]["group"]
    state = group["stacks"]["0"]["learner"]
    for name, values in state["parameters"].items():  # [members, numbers]
        assert len(values) == 2 and values[0].isfinite().all(), name
    for buffer in (state["replay"]["data"], group["recent"]["data"]):
        for _, _, tensors in buffer.pieces():
            assert all(x[0].isfinite().all() for x in tensors.values())


def test_a_member_that_diverges_by_itself(tmp_path):
    """Without advice nothing at all can be seen of it in the others: their numbers are the same, every bit."""
    alone = AdviceConfig(sharing="none")
    for algorithm in ("dqn", "sac", "td3"):
        values = []
        for rate in (1e-3, 1e30):
            config = replace(diverging(algorithm, "td", (1e-3, rate)), advice=alone, advisers=())
            name = f"{algorithm}-{rate}"
            assert peerage(*words(tmp_path, config, name)).status == 0
            metrics = read_metrics(tmp_path / name)
            values.append(metrics[metrics.member == "member-0"].reset_index(drop=True))
        assert values[0].equals(values[1])


@pytest.mark.parametrize("rate", [1e3, 1e4])
def test_agent_values_ignore_a_frozen_member(tmp_path, rate):
    """Its critic stays as large as it was: what the group thinks of its advisers is no longer decided by it."""
    config = diverging("sac", "td", (1e-3, rate))
    assert peerage(*words(tmp_path, config)).status == 0
    (dump,) = (tmp_path / "run" / "dumps").iterdir()
    step = int(dump.stem.rpartition("-")[2])
    assert dump.stem == f"diverged-replica-0-member-1-step-{step}" and step < 60
    advice = read_advice(tmp_path / "run")
    values = advice[(advice.asker == "member-0") & (advice.step >= step)].pivot(columns="adviser", index="step")
    grown = values.agent_value.abs().diff()
    assert grown.max(axis=None) < 100 and grown.min(axis=None) < -100, values.agent_value


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("algorithm, trust", [("dqn", "td"), ("dqn", "in-context"), ("sac", "hybrid")])
def test_rewards_that_are_enormous(tmp_path, reference, chances, algorithm, trust):
    """In the environment of one member: as large as float32 can hold. Its sums are infinite; the other's are not."""
    config = diverging(algorithm, trust, (1e-3,))
    config = replace(config, env_args={**config.env_args, "rich": 2})
    assert peerage(*words(tmp_path, config)).status == 0
    metrics = read_metrics(tmp_path / "run")
    returns = metrics[metrics.name == "train/return"].groupby("member").value.max()
    assert returns["member-0"] < 100 and returns["member-1"] > 1e37
    sound(tmp_path / "run")
    assert chances and all(np.isfinite(p).all() and np.allclose(p.sum(axis=1), 1) for p in chances)


def test_all_members_diverge(tmp_path, reference):
    """Each is named, and the run comes to its end; it resumes exactly, and has a report."""
    config = diverging("sac", "hybrid", (1e30,))
    heard, stop = Heard(), At(76, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert peerage(*words(tmp_path, config), listeners=(heard, stop)).status == 143
    assert len(heard.texts) == len(set(heard.texts)) == 2 and all("frozen" in text for text in heard.texts)
    goes_on(tmp_path / "run", reference(config))
    assert peerage("report", tmp_path / "run").err == ""


# --- loggers --------------------------------------------------------------------------------------------------

METHODS = ("on_start", "on_metrics", "on_evaluations", "on_advice", "on_timing", "on_message", "on_progress", "on_end")


class Quota(BaseException):
    """An error as of some libraries, which `except Exception` does not catch."""


class Raises(Listener):
    """Fails in one method."""

    def __init__(self, method: str, error: type[BaseException]) -> None:
        def fail(*arguments: Any) -> None:
            raise error("the quota is\nused up")

        setattr(self, method, fail)


@pytest.mark.parametrize("error", [RuntimeError, Quota, MemoryError, SystemExit, OSError])
def test_a_listener_that_raises(tmp_path, reference, monkeypatch, error):
    """In any of its methods: one line, and the training is what it would have been. A member diverges, so that there
    are messages."""
    monkeypatch.setattr("peerage.training.runner.PROGRESS_SECONDS", 0)
    config = diverging("dqn", "td")
    for method in METHODS if error is RuntimeError else ("on_advice", "on_end"):
        name = f"{method}-{error.__name__}"
        heard = Heard()
        said = peerage(*words(tmp_path, config, name), listeners=(Raises(method, error), heard))
        assert said.status == 0 and len(heard.texts) == 1
        told = f"Raises is switched off, the training continues: {error.__name__}: the quota is used up"
        assert told in said.line()
        assert differs(tmp_path / name, reference(config)) == []
        assert RunFolder(tmp_path / name).status()[0] == "DONE"


def test_listeners_that_raise_do_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    fault = failing(tmp_path, Frail, monkeypatch, what="step raises", at=67)
    said = peerage(*words(tmp_path), listeners=(Raises("on_end", Quota),))
    assert said.status == 2 and "the robot fell" in said.err and "is switched off" in said.err
    assert said.err.count("\n") == 2 and "the robot fell" in RunFolder(tmp_path / "run").status()[1]["why"]
    fault.unlink()


def becomes_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.filterwarnings("error")  # what a thread raises is a warning here, and a traceback elsewhere
@pytest.mark.parametrize("step", [52, 120])
@pytest.mark.parametrize("fault", [shutil.rmtree, becomes_a_file])
def test_tensorboard_that_fails(tmp_path, reference, step, fault):
    """The real one, whose folder is gone; in the last moment, too."""
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    said = peerage(*words(tmp_path), "--use-tensorboard", listeners=(At(step, lambda: fault(run / "tensorboard")),))
    assert said.status == 0 and "TensorBoardLog is switched off, the training continues" in said.line(), said
    assert differs(run, reference()) == []


def test_wandb_that_fails(tmp_path, reference, monkeypatch):
    """The real W&B, offline. It writes from a separate process, whose errors do not affect the training."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    said = peerage(*words(tmp_path), "--use-wandb", listeners=(At(52, lambda: becomes_a_file(run / "wandb")),))
    assert said.status == 0 and "Traceback" not in said.err and said.err.count("peerage:") <= 1, said
    assert differs(run, reference()) == []


# --- two processes --------------------------------------------------------------------------------------------


def held_at_the_end(gate: Path, *command: object) -> Ended:
    """A training that waits near its end until the file `gate` is gone."""

    def wait() -> None:
        while gate.exists():
            time.sleep(0.01)

    return peerage(*command, listeners=(At(116, wait),))


def test_a_run_that_others_read(tmp_path, reference):
    """A second training is refused; `evaluate` and `report` always find a complete checkpoint, although it is being
    replaced, and do not affect the training. There is a checkpoint after every step, and only one is kept. The training
    does not end before all commands have run three times."""
    config = replace(tiny(), run=replace(tiny().run, checkpoint_freq=1, keep_checkpoints=1))
    run, command, gate = tmp_path / "run", words(tmp_path, config), tmp_path / "gate"
    gate.touch()
    child = start(held_at_the_end, gate, *command)
    until(lambda: checkpoint.checkpoints(run), child)
    evaluated = refused = 0
    while RunFolder(run).status()[0] == "RUNNING":
        looked = peerage("evaluate", run, "--episodes", 1)
        assert (looked.status, looked.err) == (0, ""), looked
        evaluated += 1
        for other in (["resume", run], [*command, "--overwrite"], command):
            said = peerage(*other)
            if RunFolder(run).status()[0] != "RUNNING":
                break
            assert said.status == 2 and (other is command or f"by process {child.pid} on " in said.line()), said
            refused += 1
        if evaluated == 3:
            assert peerage("report", run).status == 0
            gate.unlink()
    assert end(child) == (0, "", "")
    assert evaluated >= 3 and refused >= 9
    assert differs(run, reference()) == [] and list(tmp_path.glob(".*")) == []


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    """Between the listing of the checkpoints and the reading of the only one, the training writes the next."""
    run = tmp_path / "run"
    config = replace(tiny(), run=replace(tiny().run, keep_checkpoints=1))
    assert peerage(*words(tmp_path, config)).status == 0
    last, state, _ = checkpoint.load_latest(run)
    listing = checkpoint.checkpoints

    def listed(folder: Path) -> list[Path]:
        found = listing(folder)
        if found == [last]:
            monkeypatch.setattr(checkpoint, "checkpoints", listing)
            about = checkpoint.read_manifest(last).about
            checkpoint.save(run, 121, {**state, "step": 121}, about=about, after=last, keep=1)
        return found

    monkeypatch.setattr(checkpoint, "checkpoints", listed)
    newest, state, passed_over = checkpoint.load_latest(run)
    assert (newest.name, state["step"], list(passed_over)) == ("step_000000121", 121, [])
    monkeypatch.setattr(checkpoint, "checkpoints", listed)
    looked = peerage("evaluate", run)
    assert (looked.status, looked.err) == (0, "")


# --- signals --------------------------------------------------------------------------------------------------


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


BRIEF = replace(tiny(total_timesteps=60), run=replace(tiny().run, checkpoint_freq=20, keep_checkpoints=1))


class Second:
    """Ctrl-C at the `n`-th of the calls that bring a checkpoint to the disk, once `armed`."""

    def __init__(self, n: int) -> None:
        self.n, self.calls, self.armed = n, 0, False
        for name in ("fsync", "replace"):
            setattr(os, name, self.watched(getattr(os, name)))

    def watched(self, call: Any) -> Any:
        def watched(*arguments: Any, **more: Any) -> Any:
            self.calls += self.armed
            if self.armed and self.calls == self.n:
                self.armed = False
                interrupt()
            return call(*arguments, **more)

        return watched

    def arm(self) -> None:
        self.armed = True
        interrupt()


def two_interrupts(path: Path, whole: dict[str, bytes]) -> None:
    """The second one comes while the checkpoint that the first one asked for is written, at every moment of that."""
    calls = os.fsync, os.replace
    left = []
    for n in range(1, 30):
        run, second = path / f"{n}", Second(n)
        said = peerage(*words(path, BRIEF, run.name), listeners=(At(32, second.arm),))
        os.fsync, os.replace = calls
        assert said.status == 130 and "interrupted; `peerage resume" in said.line()
        newest = checkpoint.checkpoints(run)[-1]
        left.append(newest.name)
        goes_on(run, whole)
        assert RunFolder(run).environment()["resumed"][0]["step"] == checkpoint.step_of(newest)
        if second.armed:  # it never came
            break
    assert second.armed and left[0] == "step_000000020" and left[-1] == "step_000000032"


def two_interrupts_of_a_resume(path: Path, whole: dict[str, bytes]) -> None:
    """Before it has made a step: the only checkpoint is one of that step, and may not be lost for another one."""
    calls = os.fsync, os.replace
    assert peerage(*words(path, BRIEF, "stopped"), listeners=(At(32, interrupt),)).status == 130
    for n in range(1, 30):
        run = path / f"{n}"
        shutil.copytree(path / "stopped", run)
        second = Second(n)
        said = peerage("resume", run, listeners=(At(32, second.arm, "on_start"),))
        os.fsync, os.replace = calls
        assert said.status == 130 and "interrupted; `peerage resume" in said.line()
        goes_on(run, whole)
        resumed = RunFolder(run).environment()["resumed"]
        assert [entry["step"] for entry in resumed] == [32, 32], (n, resumed)
        if second.armed:
            break
    assert second.armed


@pytest.mark.parametrize("fault", [two_interrupts, two_interrupts_of_a_resume])
def test_two_interrupts(tmp_path, reference, fault):
    in_a_child(fault, tmp_path, reference(BRIEF))


def in_a_terminal(command: list[object], terminal: str) -> int:
    """A command as a shell runs it: its session, its stdin, its stdout and its stderr are those of a terminal."""
    os.setsid()
    number = os.open(terminal, os.O_RDWR)  # the first one that a session opens is its own
    for standard in (0, 1, 2):
        os.dup2(number, standard)
    os.close(number)
    from peerage.cli import main

    return main([str(word) for word in command])


def until(what: Callable[[], Any], child: Any) -> None:
    """Wait for something that the child does."""
    while not what():
        if not child.is_alive() and not what():
            end(child)
            pytest.fail("the child ended without it")
        time.sleep(0.005)


def test_a_terminal_that_is_closed(tmp_path):
    """SIGHUP, and then everything that is said fails: the run is in order all the same."""
    config = tiny(total_timesteps=100_000)
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    child = start(in_a_terminal, [*words(tmp_path, config), "--verbose", 1], os.ttyname(theirs))
    os.close(theirs)
    timing = tmp_path / "run" / "timing.csv"

    def has_rows() -> bool:
        with contextlib.suppress(OSError):  # a terminal that is full would hold the child up
            while os.read(ours, 65_536):
                pass
        return timing.exists() and timing.stat().st_size > 100

    until(has_rows, child)
    os.close(ours)
    assert end(child) == 129
    status, why = RunFolder(tmp_path / "run").status()
    assert status == "FAILED" and why["why"] == "interrupted" and 0 < why["step"] < 100_000
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == f"step_{why['step']:09d}"


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_while_the_report_is_drawn(tmp_path, reference, number, status):
    """The training is finished and reports it; no figure is incomplete, and a resume draws the missing ones."""
    run = tmp_path / "run"
    child = start(signal_after_a_figure, number, words(tmp_path), output=tmp_path / "said", report=True)
    child.join()
    assert child.exitcode == status and list((run / "figures").glob("*.png"))
    said = (tmp_path / "said").read_text()
    assert said.count("\n") <= 1 and said.startswith("peerage: interrupted" if status > 0 else "")
    assert RunFolder(run).status()[0] == "DONE" and differs(run, reference()) == []
    assert all(figure.read_bytes().endswith(PNG_END) for figure in (run / "figures").glob("*.png"))
    assert not (run / "report.html").exists() and in_a_child(peerage, "resume", run, report=True).err == ""
    assert (run / "report.html").exists() and peerage("resume", run).status == 0


def signal_after_a_figure(number: int, command: list[object]) -> None:
    """A command that gets a signal when its first figure is in its place."""
    move = os.replace

    def moved(source: Any, target: Any) -> None:
        move(source, target)
        if os.fspath(target).endswith(".png"):
            signal.raise_signal(number)

    os.replace = moved
    peerage_and_exit(command)


def peerage_and_exit(command: list[object]) -> None:
    """With the real stdout, stderr and exit status."""
    from peerage.cli import main

    sys.exit(main([str(word) for word in command]))


def signal_in_an_evaluation(file: Path, command: list[object]) -> None:
    """A command with environments that fail as `file` requests."""
    Frail.fault = file
    peerage_and_exit(command)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_to_evaluate(tmp_path, number, status):
    assert peerage(*words(tmp_path)).status == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    looking = ["evaluate", tmp_path / "run", "--episodes", 3000]
    fault = tmp_path / "fault.json"
    fault.write_text(json.dumps({"what": signal.Signals(number).name, "at": 5, "evaluation": True}))
    child = start(signal_in_an_evaluation, fault, looking, output=tmp_path / "said")
    child.join()
    assert child.exitcode == status
    said = (tmp_path / "said").read_text().splitlines()
    said = [line for line in said if line != "after 120 of 120 steps"]  # on stdout, whether it was flushed or not
    assert not said if status < 0 else len(said) == 1 and said[0].startswith("peerage: interrupted"), said
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == before


# --- nobody listens -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("where", ["2>&1", "2>said"])
def test_a_log_file_on_a_full_disk(tmp_path, reference, where):
    """`peerage train > log`: the training is done all the same, and if it can say so, it is one line."""
    code = "import sys, faults; from peerage.cli import main; faults.without_report(); sys.exit(main())"
    command = shlex.join([sys.executable, "-c", code, *map(str, words(tmp_path)), "--verbose", "1"])
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(f"{command} > /dev/full {where}", shell=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 0 and differs(tmp_path / "run", reference()) == []
    assert RunFolder(tmp_path / "run").status()[0] == "DONE"
    if where == "2>said":
        said = (tmp_path / "said").read_text()
        assert said.count("\n") == 1 and "Display is switched off, the training continues" in said and FULL in said


# --- no memory ------------------------------------------------------------------------------------------------


def room(megabytes: float) -> None:
    """Limit the additional memory of the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = int(pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def no_memory_at_the_start(path: Path, whole: dict[str, bytes]) -> None:
    """Networks, or a buffer, that do not fit: the setting to change is named, and nothing is there."""
    room(150)
    for flags in (["--net-arch", "4000,4000"], ["--buffer-size", 50_000_000, "--total-timesteps", 50_000_000]):
        said = peerage(*words(path), *flags)
        assert said.status == 2 and "memory" in said.line() and flags[0] in said.err, said
        assert [file.name for file in path.iterdir()] == ["run.yaml"]


WIDE = tiny(
    learner={"net_arch": ((400, 400),), "batch_size": (400,), "buffer_size": (400,), "train_freq": (8,)}
)


def no_memory_on_the_way(path: Path, whole: dict[str, bytes]) -> None:
    """Another process uses the memory."""
    hoard: list[np.ndarray] = []

    def take() -> None:
        room(0)
        for size in (2**20, 2**16):  # what the process has, and does not use
            with contextlib.suppress(MemoryError):
                while True:
                    hoard.append(np.ones(size // 8))

    said = peerage(*words(path, WIDE), listeners=(At(52, take),))
    hoard.clear()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert said.status == 2 and "does not fit into memory" in said.line() and "continues from step 40" in said.err, said
    goes_on(path / "run", whole)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
@pytest.mark.parametrize("fault", [no_memory_at_the_start, no_memory_on_the_way])
def test_no_memory(tmp_path, reference, fault):
    in_a_child(fault, tmp_path, reference(WIDE))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_no_memory_for_the_program_itself(tmp_path):
    """Too little memory to import the libraries, as in a small container."""
    limit = 250 * 2**20
    ended = subprocess.run(
        [sys.executable, "-m", "peerage", *map(str, words(tmp_path, tiny("CartPole-v1")))],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    said = Ended(ended.returncode, ended.stdout, ended.stderr)
    assert said.status == 2 and "memory" in said.line() and not (tmp_path / "run").exists(), said
