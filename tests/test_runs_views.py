"""The display, the loggers, the figures and the report."""

from __future__ import annotations

import io
import math
import re
import struct
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_runs import make_info, make_run

from peerage.errors import UserError
from peerage.reports import advice_figures, heatmaps
from peerage.reports.drawing import adviser_colour
from peerage.reports.figures import fresh_figures, make_figures
from peerage.reports.report import write_report
from peerage.runs import CsvLog, RunFolder, RunInfo
from peerage.runs.concentration import entropy, gini
from peerage.runs.display import Display
from peerage.runs.loggers import ScalarLog, TensorBoardLog, WandbLog
from peerage.statistics import summaries

NAMES_WITH_ADVICE = {
    "evaluation_return",
    "training_return",
    "trust_matrix",
    "follow_over_time",
    "trust_over_time",
    "components_over_time",
    "choice_entropy",
    "trust_heatmaps",
    "follow_heatmaps",
    "components_matrix",
    "trust_td_by_asker",
    "agent_value_by_asker",
    "critic_by_asker",
}
"""The figures of a run of `make_run`."""
BY_ASKER = {name for name in NAMES_WITH_ADVICE if name.endswith("_by_asker")}


# --- display --------------------------------------------------------------------------------------


def play(display: Display, n: int = 2, fixed: tuple[str, ...] = ("expert", "adversary")) -> None:
    info = make_info(None, n, fixed, replicas=2, steps=1000)
    display.on_start(info)
    display.on_progress(0, 0.0)
    display.on_metrics(100, [(0, "member-0", "q/mean", 3.0)])
    rows = [(r, m, 0, 10.0 * k, 5, None, "alone") for r in range(2) for k, m in enumerate(info.members)]
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


def test_plain_lines_without_a_terminal():
    out = console()
    play(Display(1, out))
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "Room-v21 · dqn · 2 members + expert, adversary × 2 replicas"
    assert "step 100: evaluation 5.000 (member-0 0.000, member-1 10.0)" in lines
    assert "step 150: member-1 of replica 0 frozen: [red] a loss is not finite" in lines
    # 2 replicas x 2 members, 100 steps in 6 seconds: 67 member-steps/s, and 36 s for the rest.
    assert "step 400 of 1,000 (40%), 67 member-steps/s, 0:00:36 left" in lines
    assert lines[-1] == "DONE: all steps done" and "\x1b" not in out.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_long_updates_are_announced_and_part_of_the_speed(terminal):
    """2 replicas x 2 members; a rollout of 100 steps takes 1 s and its update 49 s: 2 steps per second."""
    out = console(terminal=terminal)
    display = Display(1, out)
    display.on_start(replace(make_info(None, 2, replicas=2, steps=1000), cycle=100, stride=4))
    display.on_progress(0, 0.0)
    for k in range(3):
        display.on_progress(100 * k + 96, 50 * k + 1.0)  # the next step contains the update
        display.on_progress(100 * k + 100, 50 * k + 50.0)
        display.on_progress(100 * k + 104, 50 * k + 50.1)
    text = out.file.getvalue()
    if terminal:
        assert "updating the networks, – member-steps/s, – left" in text
        assert "updating the networks, 8 member-steps/s, 0:06:42 left" in text
        assert " 8 member-steps/s, 0:05:50 left" in text
    else:
        assert text.splitlines()[-6:] == [
            "step 96 of 1,000 (10%), – member-steps/s, – left, updating the networks",
            "step 100 of 1,000 (10%), 8 member-steps/s, 0:07:30 left",
            "step 196 of 1,000 (20%), 8 member-steps/s, 0:06:42 left, updating the networks",
            "step 200 of 1,000 (20%), 8 member-steps/s, 0:06:40 left",
            "step 296 of 1,000 (30%), 8 member-steps/s, 0:05:52 left, updating the networks",
            "step 300 of 1,000 (30%), 8 member-steps/s, 0:05:50 left",
        ]


def test_short_updates_are_not_announced():
    out = console()
    display = Display(1, out)
    display.on_start(replace(make_info(None, 2, steps=1000), cycle=100, stride=1))
    display.on_progress(0, 0.0)
    for k in range(10):
        display.on_progress(100 * k + 99, k + 0.9)
        display.on_progress(100 * k + 100, k + 1.0)
    assert "updating" not in out.file.getvalue().partition("step 100 ")[2]


def test_verbose_0_and_2():
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
    log = TensorBoardLog(folder, fresh_figures)
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
    advice = pd.read_csv(path / "advice.csv")
    own = advice[(advice["replica"] == 1) & (advice["asker"] == "member-0")]
    trust = events.Scalars("advice_trust_td/replica-1/member-0/expert")
    assert [s.value for s in trust] == pytest.approx(own[own["adviser"] == "expert"]["trust_td"].tolist(), rel=1e-6)
    for name, measure in (("entropy", entropy), ("gini", gini)):
        counts = own.pivot(index="step", columns="adviser", values="chosen").to_numpy()
        logged = events.Scalars(f"advice_{name}/replica-1/member-0")
        assert [s.value for s in logged] == pytest.approx([measure(row) for row in counts], rel=1e-6)
    assert set(events.Tags()["images"]) == {f"figures/{name}" for name in NAMES_WITH_ADVICE}


class Kept(ScalarLog):
    """Keeps the scalars."""

    def __init__(self) -> None:
        self.kept: dict[str, float] = {}

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.kept |= values


def test_scalars_of_small_and_large_groups():
    def advice(n: int):
        names = [f"member-{i}" for i in range(n)]
        return [
            {"replica": 0, "asker": a, "adviser": b, "chosen": 0, "trust_td": -float(k), "in_context": None}
            for a in names
            for k, b in enumerate([*names, "expert"])
        ]

    log = Kept()
    log.on_advice(1, advice(7))  # 7 x 8 pairs
    assert log.kept["advice_trust_td/replica-0/member-0/member-6"] == -6
    # Without choices neither entropy nor Gini is defined; in_context was not computed.
    assert {name.partition("/")[0] for name in log.kept} == {"advice_chosen", "advice_trust_td"}
    log = Kept()
    log.on_advice(1, advice(8))  # 8 x 9 pairs: by role
    assert log.kept["advice_trust_td/replica-0/member-0/other members"] == -4
    assert log.kept["advice_trust_td/replica-0/member-0/expert"] == -8
    assert "advice_chosen/replica-0/member-0/member-6" in log.kept
    log.on_metrics(1, [(0, "member-0", name, 0.5) for name in ("advice/right", "trust/confidence", "trust/omega")])
    assert log.kept["trust/omega/replica-0/member-0"] == log.kept["advice/right/replica-0/member-0"] == 0.5


def test_a_resume_discards_tensorboard_events_after_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardLog(tmp_path)
    first.on_start(make_info(None))
    for step in (1, 2, 3):
        first.on_metrics(step, [(0, "member-0", "x", 0.0)])
    first.on_message(3, "frozen")
    first.on_end("FAILED", "killed")
    again = TensorBoardLog(tmp_path)
    again.on_start(RunInfo(**{**vars(make_info(None)), "start_step": 1, "resumed": True}))
    again.on_metrics(2, [(0, "member-0", "x", 5.0)])
    again.on_end("DONE", "")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("x/replica-0/member-0")] == [(1, 0.0), (2, 5.0)]


def test_wandb_offline(tmp_path, monkeypatch):
    """The real package in offline mode; the values are read from its file."""
    wandb = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONFIG_DIR", str(tmp_path / "c"))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    log = WandbLog("test", fresh_figures)
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


def test_spread_is_limited_to_possible_values():
    """For 0, 0 and 1: 1/3 and 4.303 x 0.577 / 1.732 = 1.434 around it."""
    result = summaries.spread(np.array([0.0, 0.0, 1.0]))
    assert (result.low, result.high) == (pytest.approx(1 / 3 - 1.434, abs=1e-3), pytest.approx(1 / 3 + 1.434, abs=1e-3))
    result = summaries.spread(np.array([0.0, 0.0, 1.0]), (0, 1))
    assert (result.mean, result.low, result.high) == (pytest.approx(1 / 3), 0, 1)


def test_spread_is_students_t_over_replicas():
    values = np.array([[1.0, 2.0, 3.0, 6.0], [1.0, np.nan, 3.0, 5.0]])
    result = summaries.spread(values)
    assert result.mean.tolist() == [3.0, 3.0] and result.kind == "95% t-interval"
    half = 3.182 * np.std(values[0], ddof=1) / 2
    assert result.high[0] - 3 == pytest.approx(half, rel=1e-3)
    assert math.isnan(result.low[1]) and math.isnan(result.high[1])  # one replica has no value
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
    # Step 1: mean of 3/4 and 0; step 2: replica 0 made no choice; step 3: always the expert.
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
    RunFolder(path).finish("DONE", "all steps done", 10_000)  # at another time
    (path / "timing.csv").write_text("step,seconds,member_steps_per_second\n1,99,1\n")
    assert write_report(path).read_bytes() == first
    assert drawn == {p.stem: p.read_bytes() for p in (path / "figures").iterdir()}
    text = first.decode()
    assert re.search(r"<b>\d+\.\d ± \d+\.\d</b>", text) and "expert: " in text
    assert not re.search(r"(https?:)?//|20\d\d-\d\d-\d\d", text)  # scripts: test_report.py


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n, replicas, rows", [(1, 1, 1), (1, 3, 4), (2, 2, 1)])
def test_groups_without_advice_and_short_runs(tmp_path, n, replicas, rows):
    path = make_run(tmp_path, n, (), replicas, rows=rows)
    names = {item.path.stem for item in make_figures(path)}
    assert "training_return" in names and ("trust_matrix" in names) == (n > 1)
    write_report(path)


@pytest.mark.filterwarnings("error")
def test_large_groups_are_summarised(tmp_path):
    path = make_run(tmp_path, 40, ("expert",), replicas=1, rows=3)
    text = write_report(path).read_text()
    assert {p.stem for p in (path / "figures").iterdir()} == NAMES_WITH_ADVICE - BY_ASKER
    assert "40 DQN members" in text and "other members" in text and '<th scope="row">member-39</th>' in text


def fill_in(path, drop: tuple[str, ...] = ()) -> None:
    """Every column of advice.csv and every metric of trust, with negative and missing values; or none of `drop`."""
    advice = pd.read_csv(path / "advice.csv")
    t = advice["step"] / advice["step"].max()
    advice["trust_attention"] = 0.1 * advice["score"]
    advice["confidence"], advice["omega"] = 0.5 + 0.2 * t, 0.3 * t
    advice["in_context"] = advice["score"].where(t > 0.3) - 1
    advice.assign(**{name: math.nan for name in drop}).to_csv(path / "advice.csv", index=False)
    rows = advice[["step", "replica", "asker"]].drop_duplicates().rename(columns={"asker": "member"})
    values = {"trust/loss": 5 / rows["step"], "advice/right": 0.6, "advice/wrong": 0.1, "trust/omega": 0.2}
    metrics = [rows.assign(name=name, value=value) for name, value in values.items()]
    pd.concat([pd.read_csv(path / "metrics.csv"), *metrics]).to_csv(path / "metrics.csv", index=False)


@pytest.mark.long
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n, replicas", [(2, 3), (6, 1), (62, 2)])
def test_every_column_has_its_figures(tmp_path, n, replicas):
    path = make_run(tmp_path, n, replicas=replicas, rows=8)
    fill_in(path)
    text = write_report(path).read_text()
    more = {"right_wrong", "trust_model"}
    each = BY_ASKER | {"trust_attention_by_asker", "in_context_by_asker"} if n <= 8 else set()
    drawn = {p.stem for p in (path / "figures").iterdir()}
    assert drawn == (NAMES_WITH_ADVICE - BY_ASKER) | more | each
    assert all(png_size(path / "figures" / f"{name}.png")[0] == 1200 for name in drawn)
    assert "Trust is the hybrid of trust_attention and trust_td, weighted by omega." in text
    assert "rank stability of trust" in text and "share of choices that were right, last fifth" in text
    assert ("lowest and highest asker" in text) == (n > 8)
    places = [f"<h2>{name}</h2>" for name in ("Learning", "Who follows whom", "Signals behind the scores")]
    assert text.index(places[0]) < text.index(places[1]) < text.index(places[2])
    assert ("Every signal, per asking member" in text) == (n <= 8)
    for words in ("Right and wrong choices", "Trust (attention)", "In-context advantage", "Loss of the trust model"):
        assert words in text


@pytest.mark.filterwarnings("error")
def test_without_signals_choices_are_shown(tmp_path):
    path = make_run(tmp_path)
    fill_in(path, tuple(pd.read_csv(path / "advice.csv").columns[5:]))
    metrics = pd.read_csv(path / "metrics.csv")
    metrics[metrics["name"] == "train/return"].to_csv(path / "metrics.csv", index=False)
    text = write_report(path).read_text()
    drawn = {p.stem for p in (path / "figures").iterdir()}
    assert drawn == {"evaluation_return", "training_return", "trust_matrix", "follow_over_time", "follow_heatmaps"}
    assert "no trust was computed" in text and "Gini of choices" in text


def test_the_same_agent_values_for_all_askers_are_drawn_once(tmp_path):
    path = make_run(tmp_path)
    advice = pd.read_csv(path / "advice.csv")
    apart = advice_figures.component_by_asker(advice, "agent_value", "agent value")
    assert len(apart.figure.axes) == 2
    group = advice["adviser"].map({"expert": 1.0, "adversary": -1.0}).fillna(0.0)
    once = advice_figures.component_by_asker(advice.assign(agent_value=group), "agent_value", "agent value")
    assert len(once.figure.axes) == 1 and len(once.figure.axes[0].lines) == 4


def test_heatmaps_have_the_colours_of_both_signs():
    """Blue above zero, red below; far initial values do not affect the scale."""
    rows = [
        {"step": s, "replica": 0, "asker": a, "adviser": b, "chosen": 1, "trust_td": 200.0 if s == 100 else v}
        for s in (100, 200, 300, 400)
        for a in ("member-0", "member-1")
        for b, v in (("member-0", 0.5), ("member-1", 0.0), ("expert", 1.0), ("adversary", -2.0))
    ]
    names = ("score", "trust_attention", "agent_value", "critic", "confidence", "omega", "in_context")
    advice = pd.DataFrame(rows).assign(**{name: math.nan for name in names})
    draft = heatmaps.trust_heatmaps(advice)
    images = [axes.images[0] for axes in draft.figure.axes if axes.images]
    assert len(images) == 4 and {image.get_clim() for image in images} == {(-2.0, 2.0)}
    assert images[-1].get_array()[0].tolist() == [0.5, 0.0, 1.0, -2.0]
    red, _, blue, _ = images[-1].cmap(images[-1].norm(-2.0))
    assert red > blue
    texts = [text.get_text() for text in draft.figure.axes[3].texts]
    assert texts == ["0.5", "0.0", "1.0", "−2.0"] * 2


def test_a_run_without_rows_or_failed(tmp_path):
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
        log.on_evaluations(step, [(0, "member-0", 0, 1.0, 1, None, "alone")])
        rows = [("member-0", 1), (name, 9)]
        log.on_advice(
            step,
            [{"replica": 0, "asker": "member-0", "adviser": a, "chosen": c, "score": c} for a, c in rows],
        )
    run.finish("FAILED", evil, 1)
    text = write_report(run.path).read_text()
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;$\\frac$_: 90%" in text
    assert "a&b'" not in text and "a&amp;b&#x27;" in text


def test_colours_of_advisers():
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
