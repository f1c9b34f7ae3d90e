"""The run folder, its CSV files and listeners. `make_run` makes an artificial run, for other tests too."""

from __future__ import annotations

import json
import math
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from peerage.config import Config
from peerage.config.tree import learner_part
from peerage.errors import UserError
from peerage.learners.defaults import resolve
from peerage.runs import (
    CsvLog,
    Listener,
    Listeners,
    RunFolder,
    RunInfo,
    default_name,
    read_advice,
    read_evaluations,
    read_metrics,
    read_timing,
)
from peerage.runs.progress import progress, update_cycle
from peerage.runs.tables import COLUMNS, check_offsets


def make_info(
    folder: Path | None, n: int = 2, fixed: tuple[str, ...] = (), replicas: int = 1, steps: int = 10_000
):
    members = tuple(f"member-{i}" for i in range(n))
    config = {"env": "Room-v21", "n_peers": n, "learner": {"algorithm": ["dqn"]}}
    return RunInfo(folder, "Room-v21", ("dqn",), members, members + fixed, replicas, steps, 0, config)


def make_run(
    log_dir: Path,
    n: int = 2,
    fixed: tuple[str, ...] = ("expert", "adversary"),
    replicas: int = 3,
    steps: int = 10_000,
    rows: int = 20,
    name: str = "run",
    listeners: tuple[Listener, ...] = (),
) -> Path:
    """A run folder like that of a training in which members improve and learn to follow the expert."""
    info = make_info(None, n, fixed, replicas, steps)
    config = {**info.config, "advisers": fixed, "replicas": replicas, "seed": 0, "total_timesteps": steps}
    run = RunFolder.create(log_dir, name, "run", config)
    run.write_environment("Room-v21", "cpu")
    run.write_command(["peerage", "train", "--env", "Room-v21", "--n-peers", str(n)])
    info = replace(info, folder=run.path, config=config)
    out = Listeners([CsvLog(run.path), *listeners])
    rng = random.Random(0)
    skill = {(r, m): rng.gauss(1.0, 0.15) for r in range(replicas) for m in info.members}
    out.on_start(info)
    for k in range(1, rows + 1):
        step, t = steps * k // rows, k / rows
        level = {key: 80 * value * (1 - math.exp(-4 * t)) for key, value in skill.items()}
        metrics, evaluations, advice = [], [], []
        for (r, m), value in level.items():
            metrics.append((r, m, "train/return", value + rng.gauss(-5, 6)))
            metrics.append((r, m, "loss/critic", math.exp(-t) + 0.1 * rng.random()))
            if k % 2 == 0:
                evaluations += [(r, m, e, value + rng.gauss(0, 8), 40 + e, None, "alone") for e in range(3)]
            if len(info.advisers) > 1:
                trust = {}
                for a in info.advisers:
                    base = {"expert": 1.5, "adversary": -2.0}.get(
                        a, 0.6 if a == m else 0.2 * skill.get((r, a), 0)
                    )
                    trust[a] = base * t + rng.gauss(0, 0.12)
                weights = {a: math.exp(2 * v) for a, v in trust.items()}
                total = sum(weights.values())
                drawn = rng.choices(info.advisers, list(weights.values()), k=50)
                entropy = -sum(w / total * math.log(w / total) for w in weights.values())
                metrics.append((r, m, "advice/choice_entropy", entropy))
                for a in info.advisers:
                    advice.append(
                        {
                            "replica": r,
                            "asker": m,
                            "adviser": a,
                            "chosen": drawn.count(a),
                            "score": trust[a],
                            "trust_td": 200 * math.exp(-2 * t) + 60 * trust[a],
                            "critic": 40 * t + 10 * trust[a],
                            "agent_value": 150 * math.exp(-t) if a.startswith("member") else 80 * trust[a],
                        }
                    )
        out.on_metrics(step, metrics)
        if evaluations:
            out.on_evaluations(step, evaluations)
        if advice:
            out.on_advice(step, advice)
        out.on_timing(step, 0.01 * step, 1234.5)
        out.on_progress(step, 0.01 * step)
    out.on_end("DONE", "all steps done")
    run.finish("DONE", "all steps done", steps)
    run.unlock()
    return run.path


# --- folders --------------------------------------------------------------------------------------


def test_a_new_run_folder(tmp_path):
    path = make_run(tmp_path)
    run = RunFolder.open(path)
    assert run.config()["advisers"] == ["expert", "adversary"]
    environment = run.environment()
    assert environment["versions"]["python"] and environment["versions"]["torch"]
    assert environment["env"] == "Room-v21" and environment["hardware"]["cores"] == os.cpu_count()
    assert run.commands() == ["peerage train --env Room-v21 --n-peers 2"]
    run.write_command(["peerage", "resume", "a b"])
    assert run.commands()[1:] == ["peerage resume 'a b'"]
    status, why = run.status()
    assert status == "DONE" and why["why"] == "all steps done" and why["step"] == 10_000
    run.finish("FAILED", "no\nreason", 7)
    assert run.status()[0] == "FAILED" and not (path / "DONE").exists()
    assert len((path / "FAILED").read_text().splitlines()) == 1
    run.reopen()
    assert run.status() == ("RUNNING", {})
    assert not [p for p in path.iterdir() if p.name.endswith(".tmp")]


def test_an_existing_run_is_refused_before_anything_is_written(tmp_path):
    path = make_run(tmp_path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"--overwrite.*peerage resume"):
        RunFolder.create(tmp_path, "run", "x", {})
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_overwrite_replaces_only_runs(tmp_path):
    path = make_run(tmp_path)
    (path / "old").touch()
    run = RunFolder.create(tmp_path, "run", "x", {"env": "new"}, overwrite=True)
    assert sorted(p.name for p in run.path.iterdir()) == [".lock", "config.yaml"] and run.config() == {"env": "new"}
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path, "empty", "x", {}, overwrite=True).config() == {}

    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "config.yaml").write_text("env: mine\n")  # a config.yaml of another program
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("thesis", "file", "link", "dangling"):
        with pytest.raises(UserError, match="is not a run"):
            RunFolder.create(tmp_path, name, "x", {}, overwrite=True)
    assert (thesis / "config.yaml").read_text() == "env: mine\n" and (path / "config.yaml").exists()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../../x", "/etc", "a\\b", "a\0b", "a\nb", "-x", " x", "x.", "é" * 101, "c:x"],
)
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="--exp-name"):
        RunFolder.create(tmp_path / "logs", name, "x", {}, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_default_names(tmp_path):
    assert default_name("Room-v21", ["sac", "sac"], 4, 3) == "Room-v21_sac_4_seed3"
    assert default_name("../ALE/Pong v5", ["sac", "dqn"], 1, 0) == "ALE-Pong-v5_sac+dqn_1_seed0"
    names = [RunFolder.create(tmp_path, None, "d", {}).path.name for _ in range(3)]
    assert names == ["d", "d-2", "d-3"]
    assert RunFolder.create(tmp_path, None, "d", {}, overwrite=True).path.name == "d"


def test_paths_that_are_not_a_folder_or_a_run(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not a folder"):
        RunFolder.create(tmp_path / "file" / "deep", "run", "x", {})
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="tags and aliases are not supported"):
        RunFolder.open(tmp_path).config()


# --- CSV ------------------------------------------------------------------------------------------


def test_csv_round_trip(tmp_path):
    log = CsvLog(tmp_path)
    small = 0.1 + 0.2
    log.on_metrics(500, [(0, "member-0", "loss/critic", small), (1, "member-1", "q/mean", math.nan)])
    first = (0, "member-0", 3, -math.inf, 200, None, "alone")
    log.on_evaluations(500, [first, (0, "member-1", 3, 1e9 / 3, 1, True, "alone")])
    log.on_advice(
        500, [{"replica": 0, "asker": "member-0", "adviser": 'nan, "x"\n$a$', "chosen": 7, "score": None}]
    )
    log.on_timing(500, 1.25, 4000.0)
    # Readable while the log is open.
    for name, columns in COLUMNS.items():
        assert (tmp_path / name).read_text().splitlines()[0] == ",".join(columns)
    metrics = read_metrics(tmp_path)
    assert metrics["value"][0] == pytest.approx(small, rel=1e-9) and math.isnan(metrics["value"][1])
    evaluations = read_evaluations(tmp_path)
    assert evaluations["return"].tolist() == [-math.inf, 333333333.0]
    assert math.isnan(evaluations["success"][0]) and evaluations["success"][1] == 1
    advice = read_advice(tmp_path)
    assert advice["adviser"].tolist() == ['nan, "x" $a$'] and advice["score"].isna().all()
    assert advice["chosen"].dtype == "int64" and advice["trust_td"].dtype == "float64"
    assert read_timing(tmp_path).iloc[0].tolist() == [500, 1.25, 4000.0]
    with pytest.raises(ValueError, match="no column 'trsut'"):
        log.on_advice(500, [{"replica": 0, "trsut": 1}])


def test_float32_round_trip_is_exact(tmp_path):
    import numpy as np

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) * np.float32(1e-3)
    CsvLog(tmp_path).on_metrics(1, [(0, "m", "x", v) for v in values])
    assert (read_metrics(tmp_path)["value"].to_numpy().astype(np.float32) == values).all()


def test_incomplete_lines_are_left_out(tmp_path):
    path = make_run(tmp_path, rows=3)
    whole = read_metrics(path)
    data = (path / "metrics.csv").read_bytes()
    for cut in range(len(data) - 40, len(data)):
        (path / "metrics.csv").write_bytes(data[:cut])
        got = read_metrics(path)
        assert got.equals(whole.iloc[: len(got)]) and len(whole) - 3 <= len(got) < len(whole)
    for start in (b"", b"step,rep"):
        (path / "metrics.csv").write_bytes(start)
        assert len(read_metrics(path)) == 0
    (path / "metrics.csv").unlink()
    assert list(read_metrics(path).columns) == list(COLUMNS["metrics.csv"])
    for damage in (b"step,replica\n1,2\n", data + b"x,y\n", data + b"1,x,member-0,loss,0.5\n", b"\xff\xfe\n"):
        (path / "metrics.csv").write_bytes(damage)
        with pytest.raises(UserError, match=r"metrics\.csv"):
            read_metrics(path)


def test_resume_writes_the_same_bytes_again(tmp_path):
    """Log 1 2 3, take offsets, log 4 and half of 5, truncate, log 4 5: the same bytes as without the interruption."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def rows(log, steps):
        for step in steps:
            log.on_metrics(step, [(0, "member-0", "q/mean", step / 7)])
            log.on_timing(step, step / 3, 1.0)

    straight = CsvLog(tmp_path / "a")
    rows(straight, range(1, 6))
    first = CsvLog(tmp_path / "b")
    rows(first, [1, 2, 3])
    offsets = json.loads(json.dumps(first.offsets()))
    rows(first, [4])
    first.close()
    with (tmp_path / "b" / "metrics.csv").open("ab") as file:
        file.write(b"5,0,memb")
    check_offsets(tmp_path / "b", offsets)
    again = CsvLog(tmp_path / "b")
    again.truncate(offsets)
    rows(again, [4, 5])
    for name in COLUMNS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for wrong in ({**offsets, "timing.csv": 10**6}, {**offsets, "timing.csv": offsets["timing.csv"] - 3}, {}):
        with pytest.raises(UserError, match="does not fit the checkpoint"):
            check_offsets(tmp_path / "b", wrong)
    assert (tmp_path / "a" / "timing.csv").read_bytes() == (tmp_path / "b" / "timing.csv").read_bytes()


# --- listeners ------------------------------------------------------------------------------------


class Broken(Listener):
    def __init__(self, essential: bool = False) -> None:
        self.essential = essential
        self.calls = 0

    def on_metrics(self, step, rows):
        self.calls += 1
        raise ConnectionError("quota\nexceeded")


class Counting(Listener):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_metrics(self, step, rows):
        self.steps.append(step)


def test_a_listener_that_raises_is_dropped_with_one_line(capsys):
    broken, counting = Broken(), Counting()
    listeners = Listeners([broken, counting])
    for step in (1, 2, 3):
        listeners.on_metrics(step, [])
    assert broken.calls == 1 and counting.steps == [1, 2, 3]
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Broken is switched off" in error and "quota exceeded" in error


def test_the_csv_log_is_essential(tmp_path):
    counting = Counting()
    with pytest.raises(ConnectionError):
        Listeners([Broken(essential=True), counting]).on_metrics(1, [])
    assert counting.steps == [1]  # the other listener was called
    log = CsvLog(tmp_path)
    log.close()
    with pytest.raises(ValueError, match="closed"):
        Listeners([log]).on_metrics(1, [(0, "member-0", "x", 1.0)])


def test_listeners_override_every_method():
    methods = {name for name in vars(Listener) if name.startswith("on_")}
    assert methods and methods <= set(vars(Listeners))


def test_importing_display_and_loggers_is_light():
    import subprocess
    import sys

    code = (
        "import sys, peerage.runs.display, peerage.runs.loggers; "
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'scipy', 'rich', 'wandb') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_the_speed_of_a_run_with_long_updates(tmp_path):
    """Rollouts of 2,048 steps take 2 s each and their updates 40 s; timing.csv has a row every 500 steps."""

    def seconds(step: int) -> float:
        return 2 * step / 2048 + 40 * (step // 2048)

    log = CsvLog(tmp_path)
    expected = 2048 / 42
    for step in range(500, 10_001, 500):
        log.on_timing(step, seconds(step), 1.0)
        found = progress(tmp_path, 100_000, cycle=2048)
        assert found.step == step
        if step < 2048:
            assert found.rate is None and found.seconds_left is None  # nothing is known about the update
        else:  # the row after an update is up to 500 steps late
            assert abs(found.rate / expected - 1) < 0.25
    assert abs(found.rate / expected - 1) < 0.1
    ppo = learner_part()(algorithm=("ppo",), n_steps=(32, 64), n_envs=(2,))
    assert update_cycle(resolve(Config(env="CartPole-v1", n_peers=2, learner=ppo), True)) == 128
    assert update_cycle(resolve(Config(env="CartPole-v1"), True)) == 1
