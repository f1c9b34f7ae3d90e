"""What people see of a run: the display, the loggers, the figures and the report."""

from __future__ import annotations

import io
import math
import re
import struct
import sys

import numpy as np
import pandas as pd
import pytest
from test_runs import make_info, make_run

from peerage.errors import UserError
from peerage.runs import CsvLog, RunFolder, RunInfo, summaries
from peerage.runs.display import Display
from peerage.runs.figures import adviser_colour, fresh_figures, make_figures
from peerage.runs.loggers import TensorBoardLog, WandbLog
from peerage.runs.report import write_report

NAMES_WITH_ADVICE = {
    "evaluation_return",
    "training_return",
    "trust_matrix",
    "follow_over_time",
    "trust_over_time",
    "components_over_time",
    "choice_entropy",
}


# --- display --------------------------------------------------------------------------------------


def play(display: Display, n: int = 2, fixed: tuple[str, ...] = ("expert", "adversary")) -> None:
    info = make_info(None, n, fixed, replicas=2, steps=1000)
    display.on_start(info)
    display.on_progress(0, 0.0)
    display.on_metrics(100, [(0, "member-0", "q/mean", 3.0)])
    rows = [(r, m, 0, 10.0 * k, 5, None) for r in range(2) for k, m in enumerate(info.members)]
    display.on_evaluations(100, rows)
    for replica in range(2):
        advice = [
            {"replica": r, "asker": m, "adviser": a, "chosen": 3 if a == "expert" else 1 - replica}
            for r in range(2)
            for m in info.members
            for a in info.advisers
        ]
        display.on_advice(100, advice)
    display.on_message(150, "member-1 of replica 0 frozen: [red] a loss is not finite")
    for k in range(1, 5):
        display.on_progress(100 * k, 6.0 * k)
    display.on_end("DONE", "all steps done")


def console(width: int = 80, terminal: bool = False):
    from rich.console import Console

    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def test_plain_lines_where_there_is_no_terminal():
    out = console()
    play(Display(1, out))
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "Room-v21 · dqn · 2 members + expert, adversary × 2 replicas"
    assert "step 100: evaluation 5.000 (member-0 0.000, member-1 10.0)" in lines
    assert "step 150: member-1 of replica 0 frozen: [red] a loss is not finite" in lines
    # 2 replicas x 2 members, 100 steps in 6 seconds: 67 member-steps/s, and 36 s for the rest.
    assert "step 400 of 1,000 (40%), 67 member-steps/s, 0:00:36 left" in lines
    assert lines[-1] == "DONE: all steps done" and "\x1b" not in out.file.getvalue()


def test_silence_and_every_event():
    out = console(terminal=True)
    play(Display(0, out))
    assert out.file.getvalue() == ""
    out = console()
    play(Display(2, out))
    assert "step 100: q/mean 3.000" in out.file.getvalue()


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_the_live_view_fits_80_columns(n):
    out = console(terminal=True)
    fixed = (
        ()
        if n == 1
        else ("expert", "adversary", "random", "checkpoint:/a/long/path:3", "expert-2", "expert-3")
    )
    display = Display(1, out)
    play(display, n, fixed)
    page = console()
    page.print(display._view())
    lines = page.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 20
    text = "\n".join(lines)
    assert "member-0" in text and "[red] a loss" in text
    if n > 1:
        assert display._share(["member-0"], "expert") == 1.0
    if n == 64:
        assert "57 more" in text and "others" in text


# --- loggers --------------------------------------------------------------------------------------


def test_tensorboard_files_are_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    log = TensorBoardLog(folder)
    path = make_run(tmp_path, rows=4, replicas=2, listeners=(log,))
    events = EventAccumulator(str(path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    scalars = events.Scalars("train/return/replica-1/member-0")
    metrics = summaries.metric(pd.read_csv(path / "metrics.csv"), "train/return")
    expected = metrics[(metrics["replica"] == 1) & (metrics["member"] == "member-0")]
    assert [s.step for s in scalars] == expected["step"].tolist() == [2500, 5000, 7500, 10_000]
    assert [s.value for s in scalars] == pytest.approx(expected["value"].tolist(), rel=1e-6)
    assert "evaluation/return/replica-0/member-1" in events.Tags()["scalars"]
    assert "advice_score/replica-0/member-1/expert" in events.Tags()["scalars"]
    assert set(events.Tags()["images"]) == {f"figures/{name}" for name in NAMES_WITH_ADVICE}


def test_a_resume_hides_what_tensorboard_saw_after_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardLog(tmp_path)
    first.on_start(make_info(None))
    for step in (1, 2, 3):
        first.on_metrics(step, [(0, "member-0", "x", 0.0)])
    first.on_message(3, "frozen")
    first.on_end("FAILED", "killed")
    again = TensorBoardLog(tmp_path)
    again.on_start(RunInfo(**{**vars(make_info(None)), "start_step": 1}))
    again.on_metrics(2, [(0, "member-0", "x", 5.0)])
    again.on_end("DONE", "")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("x/replica-0/member-0")] == [(1, 0.0), (2, 5.0)]


def test_wandb_offline(tmp_path, monkeypatch):
    """The real package, without a network: what it wrote is read back from its own file."""
    wandb = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONFIG_DIR", str(tmp_path / "c"))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    log = WandbLog("test")
    path = make_run(tmp_path, rows=2, replicas=1, listeners=(log,))
    assert wandb.run is None
    run_id = (path / "wandb_run.txt").read_text().strip()
    files = list((path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 1
    data = files[0].read_bytes()
    for name in (b"train/return/replica-0/member-1", b"advice_score/replica-0/member-0/expert", b"Room-v21"):
        assert name in data
    assert list((path / "wandb").glob("offline-run-*/files/media/images/figures/trust_matrix*.png"))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "peerage\[wandb\]"'):
        WandbLog("test")
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(UserError, match=r'pip install "peerage\[tensorboard\]"'):
        TensorBoardLog(tmp_path)


# --- summaries ------------------------------------------------------------------------------------


def test_spread_is_students_t_over_replicas():
    values = np.array([[1.0, 2.0, 3.0, 6.0], [1.0, np.nan, 3.0, 5.0]])
    result = summaries.spread(values)
    assert result.mean.tolist() == [3.0, 3.0] and result.kind == "95% t-interval"
    half = 3.182 * np.std(values[0], ddof=1) / 2
    assert result.high[0] - 3 == pytest.approx(half, rel=1e-3)
    assert result.low[1] == pytest.approx(3 - 4.303 * 2 / math.sqrt(3), rel=1e-3)
    two = summaries.spread(values[:, [0, 3]])
    assert (two.low.tolist(), two.high.tolist(), two.kind) == ([1, 1], [6, 5], "min–max")
    assert summaries.spread(values[:, :1]).kind == ""


def test_choice_shares():
    rows = [(1, 0, 1, 3), (1, 1, 4, 0), (2, 0, 0, 0), (2, 1, 2, 2), (3, 0, 0, 5), (3, 1, 0, 5)]
    advice = pd.DataFrame(
        [(s, r, "member-0", a, c) for s, r, x, y in rows for a, c in (("member-0", x), ("expert", y))],
        columns=["step", "replica", "asker", "adviser", "chosen"],
    )
    shares = summaries.choice_shares(advice)
    # Step 1: mean of 3/4 and 0; step 2: replica 0 chose nobody; step 3: always the expert.
    assert shares["expert"].tolist() == pytest.approx([0.375, 0.5, 1.0])
    assert summaries.choice_shares(advice, bins=1)["expert"].tolist() == pytest.approx([(8 / 9 + 7 / 13) / 2])
    roles = summaries.choice_shares(summaries.with_roles(advice), pool=True)
    assert list(roles.columns) == ["expert", "self"] and roles.index[0] == ("all members", 1)


# --- figures and report ---------------------------------------------------------------------------


def png_size(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and b"Software" not in data
    return struct.unpack(">II", data[16:24])


@pytest.mark.filterwarnings("error")
def test_figures_and_report_are_the_same_bytes_twice(tmp_path):
    path = make_run(tmp_path)
    (path / "figures").mkdir()
    (path / "figures" / "stale.png").write_bytes(b"old")
    first = write_report(path).read_bytes()
    drawn = {p.stem: p.read_bytes() for p in (path / "figures").iterdir()}
    assert set(drawn) == NAMES_WITH_ADVICE
    assert png_size(path / "figures" / "trust_matrix.png")[0] == 1200
    stamps = {p: p.stat().st_mtime_ns for p in fresh_figures(path)}
    assert stamps == {p: p.stat().st_mtime_ns for p in (path / "figures").iterdir()}  # not drawn again
    RunFolder(path).finish("DONE", "all steps done", 10_000)  # another clock time
    (path / "timing.csv").write_text("step,seconds,member_steps_per_second\n1,99,1\n")
    assert write_report(path).read_bytes() == first
    assert drawn == {p.stem: p.read_bytes() for p in (path / "figures").iterdir()}
    text = first.decode()
    assert re.search(r"<b>\d+\.\d ± \d+\.\d</b>", text) and "expert: " in text
    assert not re.search(r"(https?:)?//|<script|20\d\d-\d\d-\d\d", re.sub(r"base64,[^\"]*", "", text))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n, replicas, rows", [(1, 1, 1), (1, 3, 4), (2, 2, 1)])
def test_groups_without_advice_and_short_runs(tmp_path, n, replicas, rows):
    path = make_run(tmp_path, n, (), replicas, rows=rows)
    names = {item.path.stem for item in make_figures(path)}
    assert "training_return" in names and ("trust_matrix" in names) == (n > 1)
    write_report(path)


@pytest.mark.filterwarnings("error")
def test_large_groups_are_summed_up(tmp_path):
    path = make_run(tmp_path, 40, ("expert",), replicas=1, rows=3)
    text = write_report(path).read_text()
    assert {p.stem for p in (path / "figures").iterdir()} == NAMES_WITH_ADVICE
    assert "40 DQN members" in text and "other members" in text and "<td>member-39</td>" in text


def test_a_run_that_has_just_begun_or_failed(tmp_path):
    run = RunFolder.create(tmp_path, "new", "x", {"env": "Room-v21", "n_peers": 2})
    CsvLog(run.path)
    assert make_figures(run.path) == []
    assert "has not ended" in write_report(run.path).read_text()
    run.finish("FAILED", "disk <full>", 3)
    assert "The run failed: disk &lt;full&gt;" in write_report(run.path).read_text()
    with pytest.raises(UserError, match="not a run"):
        write_report(tmp_path)


def test_everything_is_escaped(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    run = RunFolder.create(tmp_path, "a&b'", "x", {"env": evil, "learner": {"algorithm": [evil]}})
    run.write_command(["peerage", evil])
    run.write_environment(evil, evil)
    log = CsvLog(run.path)
    name = f"{evil}$\\frac$_"
    for step in (1, 2):
        log.on_metrics(step, [(0, "member-0", "train/return", 1.0)])
        log.on_evaluations(step, [(0, "member-0", 0, 1.0, 1, None)])
        rows = [("member-0", 1), (name, 9)]
        log.on_advice(
            step,
            [{"replica": 0, "asker": "member-0", "adviser": a, "chosen": c, "score": c} for a, c in rows],
        )
    run.finish("FAILED", evil, 1)
    text = write_report(run.path).read_text()
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;$\\frac$_: 90%" in text
    assert "a&b'" not in text and "a&amp;b&#x27;" in text


def test_an_adviser_has_one_colour():
    names = [
        *(f"member-{i}" for i in range(8)),
        "expert",
        "adversary",
        "random",
        "expert-2",
        "checkpoint:a:1",
    ]
    colours = [adviser_colour(name) for name in names]
    assert len(set(colours)) == len(names) and all(re.fullmatch("#[0-9A-Fa-f]{6}", c) for c in colours)
    assert adviser_colour("my-own") == adviser_colour("my-own") and adviser_colour("checkpoint:/x-3/y:2")
