"""The live page: the form, the runs that it finds, the processes that it starts, and the pages themselves."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import peerage
from peerage import session
from peerage.app import attention_tab, form, processes, runs
from peerage.app.markdown import plain
from peerage.cli import main
from peerage.commands import app as app_command
from peerage.config import Config
from peerage.config.file import from_dict, with_members
from peerage.config.flags import train_flags
from peerage.config.plain_yaml import parse
from peerage.errors import UserError
from peerage.evaluation.architecture import layer_sizes
from peerage.evaluation.attention import play_episode
from peerage.evaluation.importance import importance
from peerage.evaluation.policy import policy_of
from peerage.runs import tables
from peerage.runs.folder import RunFolder
from peerage.runs.progress import progress, trainer
from peerage.statistics import formats
from peerage.statistics.compare import compare

TINY = {"n_eval_episodes": 1, "learning_starts": 10, "log_freq": 20, "eval_freq": 40, "verbose": 0}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log folder with small runs: a group with advice, one without, and one of attention PPO."""
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_report", lambda path: (path / "report.html").touch())
        where = {"log_dir": str(folder), **TINY}
        peerage.train("Room-v3", n_peers=2, advisers=["expert"], total_timesteps=80, exp_name="advised", **where)
        peerage.train("Room-v3", n_peers=2, sharing="none", total_timesteps=80, exp_name="alone", **where)
        of_ppo = {"n_steps": 20, "batch_size": 20, "total_timesteps": 80, "replicas": 3, "learning_starts": 0}
        peerage.train(
            "CartPole-v1", n_peers=2, sharing="none", algorithm="ppo", net="attention", exp_name="ppo",
            **{**where, **of_ppo},
        )  # fmt: skip
    return folder


def page(log_dir: Path, tab: str = "Train") -> AppTest:
    """The page after its first run, with one tab open."""
    code = f"from pathlib import Path\nfrom peerage.app.main import show\nshow(Path({str(log_dir)!r}))"
    test = AppTest.from_string(code, default_timeout=120)
    test.session_state["tab"] = tab
    return run(test)


def run(test: AppTest) -> AppTest:
    test.run()
    assert not test.exception, test.exception
    return test


def figures(test: AppTest) -> dict[str, list[dict[str, Any]]]:
    """Title of a chart -> its traces."""
    specs = [json.loads(chart.proto.spec) for chart in test.get("plotly_chart")]
    return {spec["layout"]["title"].get("text", ""): [decoded(trace) for trace in spec["data"]] for spec in specs}


def decoded(trace: dict[str, Any]) -> dict[str, Any]:
    """A trace with its arrays, which Plotly writes as base64."""

    def read(value: Any) -> Any:
        if not (isinstance(value, dict) and "bdata" in value):
            return value
        array = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return array.reshape([int(n) for n in str(value["shape"]).split(",")]) if "shape" in value else array

    return {name: read(value) for name, value in trace.items()}


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not until():
        assert time.monotonic() < end
        time.sleep(0.1)


# --- the form -------------------------------------------------------------------------------------------------


def test_the_form_of_a_preset_gives_its_configuration() -> None:
    """Every setting of every preset survives as an entry, and the YAML of the page loads as the same configuration."""
    for name in form.presets():
        base = form.base_config(name)
        if base.learner.algorithm == ("dt",):  # the preset is to be added to a dataset
            base = replace(base, data="a-dataset-v0")
        entries = {each.name: form.entry_of(each, base) for each in train_flags()}
        assert form.entries_to_config(base, entries) == form.entries_to_config(base, {})
        for each in train_flags():
            value = getattr(getattr(base, each.part) if each.part else base, each.setting.name)
            if entries[each.name] != "":
                assert form._value(each, entries[each.name]) == value, (name, each.name)
        data = parse(form.yaml_of(base), "page")
        assert with_members(partial(from_dict, data)) == base


def test_entries_are_words_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    entries: dict[str, form.Entry] = {
        "env": "Room-v3", "n_peers": "2", "env_args": "history=3", "net_arch": "32, 64,64", "use_critic": "off",
        "use_trust": False, "advisers": "expert adversary",
    }  # fmt: skip
    config = form.entries_to_config(Config(), entries)
    assert config.learner.net_arch == ((32,), (64, 64)) and config.env_args == {"history": 3}
    assert config.advice.use_critic is False and config.advice.use_trust is False
    assert config.advisers == ("expert", "adversary")
    for name, entry in {"n_peers": "0", "gamma": "7", "env_args": "x", "trust": "magic", "d_model": "64"}.items():
        with pytest.raises(UserError) as error:
            form.entries_to_config(Config(), {name: entry})
        assert main(["train", f"--{name.replace('_', '-')}", entry]) == 2
        assert capsys.readouterr().err.strip().startswith(f"peerage: {error.value}"[:60])
    with pytest.raises(UserError, match="no closing quotation"):
        form.entries_to_config(Config(), {"advisers": '"'})
    assert form.entries_to_config(form.base_config("ppo-cartpole"), {"n_epochs": "2"}).steps == 2000


# --- runs -----------------------------------------------------------------------------------------------------


def test_foreign_folders_are_left_out(tmp_path: Path, logs: Path) -> None:
    outside, log_dir = tmp_path / "outside", tmp_path / "logs"
    log_dir.mkdir()
    RunFolder.create(tmp_path, "outside", "outside", {"env": "Room-v3"}).unlock()
    RunFolder.create(log_dir, "good", "good", {"env": "Room-v3"}).unlock()
    (log_dir / "link").symlink_to(outside)
    (log_dir / "data").mkdir()
    (log_dir / "data" / "config.yaml").write_text("a: 1\n")
    (log_dir / ".half.1.partial").mkdir()
    (log_dir / "sweep").mkdir()
    (log_dir / "sweep" / "sweep.yaml").write_text("runs: 3\n")
    (log_dir / "pipe").mkdir()
    os.mkfifo(log_dir / "pipe" / "config.yaml")
    assert [run.name for run in runs.find(log_dir)] == ["good"]
    assert runs.find(tmp_path / "nowhere") == []
    for name in ("../outside", "link", str(outside), ".", "", "good/../../outside", "a\0b", "data", "x" * 5000):
        with pytest.raises(UserError):
            runs.open_run(log_dir, name)
    assert runs.open_run(log_dir, "good").path == log_dir / "good"
    test = page(log_dir)  # a configuration without settings, and no tables
    test.query_params["run"] = "../outside"
    assert run(test).selectbox(key="watch").value == "good"
    (log_dir / "good" / "config.yaml").write_text((log_dir / "good" / "config.yaml").read_text() + "gama: 1\n")
    assert "unknown key" in run(test).error[0].value
    for tab in ("Attention", "Evaluate"):
        page(log_dir, tab)


# --- processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def ended() -> Iterator[None]:
    """Processes that a test started are ended after it."""
    yield
    for started in processes._started.values():
        if started.popen.poll() is None:
            started.popen.kill()
        started.popen.wait()
    processes._started.clear()


def test_only_the_training_of_the_folder_is_stopped(tmp_path: Path) -> None:
    """A lock file may name a process that has nothing to do with the run any more."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with RunFolder.create(tmp_path, "run", "run", {"env": "Room-v3"}) as folder:
            assert trainer(folder.path) == os.getpid()
            assert processes.state_of(folder.path).kind == "training"
            lock = folder.path / ".lock"
            named = lock.read_text()
            lock.write_text(named.replace(str(os.getpid()), str(other.pid)))
            assert trainer(folder.path) is None and not processes.stop(folder.path)
            lock.write_text(named.replace(" on ", " on another-"))
            assert trainer(folder.path) is None
            lock.write_text(named)
        assert trainer(folder.path) is None and processes.state_of(folder.path).kind == "lost"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_training_is_started_stopped_and_resumed_from_the_page(tmp_path: Path, ended: None) -> None:
    RunFolder.create(tmp_path, "another", "another", {"env": "Room-v3"}).unlock()
    test = page(tmp_path)
    settings = {"env": "Room-v3", "n_peers": "1", "total_timesteps": "300000", "gamma": "7"}
    for name, entry in settings.items():
        known = {box.key: box for box in (*test.text_input, *test.selectbox)}
        known[f"/{name}"].set_value(entry)
    assert run(test).error[0].value == r"--gamma must be in \[0, 1\], got 7"
    assert not [button for button in test.button if button.key == "start"]
    test.text_input(key="/gamma").set_value("0.9")
    run(test).text_input(key="new-name").set_value("mine")
    assert "gamma: [0.9]" in run(test).code[0].value
    test.button(key="start").click()
    run(test)
    folder, file = tmp_path / "mine", tmp_path / ".app" / "mine.yaml"
    assert test.selectbox(key="watch").value == "mine"
    assert any(each.value.endswith(f"--config {file}") for each in test.code)
    assert from_dict(parse(file.read_text(), "file")).learner.gamma == (0.9,)
    with pytest.raises(UserError, match=r"already being started|exists"):
        processes.start(from_dict(parse(file.read_text(), "file")), "mine")
    assert "Starting" in test.info[0].value or folder.exists()
    wait(lambda: folder.exists() and progress(folder, 300_000).step > 0)
    assert processes.state_of(folder).kind == "training"
    assert os.getsid(trainer(folder) or 0) != os.getsid(0)
    run(test).button(key="stop").click()
    run(test)
    wait(lambda: not processes.state_of(folder).active)
    assert RunFolder(folder).status()[1]["why"] == "interrupted"
    assert "was interrupted" in run(test).warning[0].value
    before = RunFolder(folder).status()[1]["step"]
    test.button(key="resume").click()
    run(test)
    wait(lambda: progress(folder, 300_000).step > before)
    with pytest.raises(UserError, match="being started"):
        processes.resume(tmp_path, folder)
    assert processes.stop(folder)
    wait(lambda: not processes.state_of(folder).active)
    assert {path.name for path in (tmp_path / ".app").iterdir()} == {"mine.yaml", "mine.log"}


def test_a_refused_training_shows_its_line(tmp_path: Path, ended: None) -> None:
    """An error that only the process finds: the environment of a module that does not exist."""
    config = form.named(form.entries_to_config(Config(), {"env": "no_such_module:make"}), str(tmp_path), "bad")
    folder = processes.start(config, "bad")
    wait(lambda: not processes.state_of(folder).active)
    state = processes.state_of(folder)
    assert state.kind == "refused" and "no_such_module" in state.line and not folder.exists()
    test = page(tmp_path)
    assert "no\\_such\\_module" in test.error[0].value


# --- the other tabs ------------------------------------------------------------------------------------------


def test_runs_are_compared_as_on_the_command_line(logs: Path) -> None:
    test = page(logs, "Evaluate")
    assert test.multiselect(key="compared").value == ["ppo"]  # the newest, and no other run on its environment
    test.multiselect(key="compared").set_value(["alone", "advised"])
    test.selectbox(key="measure").set_value("area")
    run(test)
    found = compare([str(logs / "alone"), str(logs / "advised")], measure="area")
    _, rows = formats.table(found, found.tasks[0])
    assert test.dataframe[0].value.to_numpy().tolist() == rows
    assert any(plain(found.tasks[0].versus[0].verdict) in each.value for each in test.markdown)
    assert [each.value for each in test.warning] == [plain(f"{line}.") for line in found.warnings]
    test.multiselect(key="compared").set_value(["ppo", "advised"])
    assert "No comparison" in run(test).warning[0].value
    assert len(test.get("plotly_chart")) == 1 and len(test.get("download_button")) == 2


def test_an_episode_is_stepped_through_with_its_attention(logs: Path) -> None:
    """The numbers on the page are those of `play_episode` and `importance`; the run folder is only read."""
    before = {path: path.stat().st_mtime_ns for path in sorted(logs.rglob("*"))}
    test = page(logs, "Attention")
    assert test.selectbox(key="attention-run").value == "ppo"
    test.selectbox(key="member").set_value(1)
    test.selectbox(key="replica").set_value(2)
    test.number_input(key="episode-seed").set_value(5)
    run(test)
    episode = play_episode(logs / "ppo", member=1, replica=2, seed=5, max_steps=attention_tab.MAX_STEPS)
    slider = next(each for each in test.slider if each.label == "Step of the episode")
    assert slider.max == len(episode.rewards) - 1 > 2
    slider.set_value(3)
    charts = figures(run(test))
    assert list(charts["Action probabilities"][0]["y"]) == pytest.approx(episode.probabilities[3], abs=1e-6)
    assert list(charts["Observation"][0]["y"]) == pytest.approx(episode.obs[3], abs=1e-6)
    for head in range(4):
        drawn = np.array(charts[f"head {head}"][0]["z"])
        assert np.allclose(drawn, episode.weights["0"][3, head], atol=1e-6)
    pooled = np.array(charts["Attention to features during the episode"][0]["z"])
    assert np.allclose(pooled, episode.weights["pool"].mean(axis=(1, 2)).T, atol=1e-6)
    assert np.allclose(charts["Attention to features"][0]["z"], episode.weights["pool"][3, :, 0], atol=1e-6)
    assert not any("Without images" in each.value for each in test.caption)
    next(button for button in test.button if button.label == "Compute").click()
    found = importance(logs / "ppo", member=1, replica=2, episodes=3, deletion=False)
    charts = figures(run(test))
    assert list(charts["Mean attention weight"][0]["x"]) == pytest.approx(found.weight)
    assert list(charts["Occlusion (KL divergence)"][0]["x"]) == pytest.approx(found.occlusion)
    assert {path: path.stat().st_mtime_ns for path in sorted(logs.rglob("*"))} == before


def test_attention_to_past_steps_is_a_matrix_of_layers_and_steps(tmp_path: Path) -> None:
    peerage.train(
        "MarkedCue-v0", env_args={"history": 9}, n_peers=1, algorithm="ppo", net="attention", n_heads=2, d_model=8,
        n_steps=20, batch_size=20, update_epochs=1, total_timesteps=20, n_eval_episodes=1, exp_name="cue",
        log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip
    test = page(tmp_path, "Attention")
    episode = play_episode(tmp_path / "cue", max_steps=attention_tab.MAX_STEPS)
    next(each for each in test.slider if each.label == "Step of the episode").set_value(4)
    charts = figures(run(test))
    steps = [*(f"t-{age}" for age in range(8, 0, -1)), "t"]
    drawn = charts["Attention to past steps"][0]
    expected = np.concatenate([episode.weights["0"][4, :, -1], episode.weights["present"][4, :, 0]])
    assert np.allclose(drawn["z"], expected, atol=1e-6) and list(drawn["x"]) == steps
    assert list(drawn["y"]) == [f"{layer}, head {k}" for layer in ("self-attention 0", "present step") for k in (0, 1)]
    seen = charts["Observation: past steps"][0]
    assert np.allclose(np.array(seen["z"]).T.ravel(), episode.obs[4]) and list(seen["x"]) == steps
    assert list(seen["y"]) == ["value", "mark", "question", "action[0]", "action[1]", "reward", "valid"]
    during = charts["Attention to past steps during the episode"][0]
    assert np.allclose(during["z"], episode.weights["present"].mean(axis=(1, 2)).T, atol=1e-6)


def test_trust_and_choices_of_a_group(logs: Path) -> None:
    test = page(logs, "Attention")
    test.selectbox(key="attention-run").set_value("advised")
    charts = figures(run(test))
    assert "Action values (Q)" in charts and "head 0" not in charts
    assert any("no attention" in each.value for each in test.caption)
    shares = np.array(charts["Choices (%)"][0]["z"])
    assert shares.shape == (2, 3) and np.allclose(shares.sum(axis=1), 100)
    advice = tables.read_advice(logs / "advised")
    last = advice[(advice["step"] == 80) & (advice["asker"] == "member-0")].set_index("adviser")["chosen"]
    assert shares[0].tolist() == pytest.approx((100 * last / last.sum())[["member-0", "member-1", "expert"]].tolist())
    test.selectbox(key="asker/advised").set_value("member-1")
    assert "Member-1: whom it follows" in figures(run(test))
    test.selectbox(key="attention-run").set_value("alone")
    assert "Choices (%)" not in figures(run(test))


def test_layers_have_the_parameters_of_the_checkpoint(logs: Path) -> None:
    for name in ("advised", "ppo"):
        sizes = layer_sizes(logs / name)
        learner = policy_of(logs / name, 0, 0).group.stacks[0].learner
        everything = sum(values.shape[1] for values in learner.parameters().values())
        assert sum(size.parameters for size in sizes) == everything > 1000
        assert {size.members for size in sizes} == {(0, 1)}
    assert {size.copies for size in sizes} == {2} and {size.network for size in sizes} == {"net"}


# --- the command ----------------------------------------------------------------------------------------------


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    (tmp_path / "file").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words, line in {
            (str(tmp_path / "file"),): "is not a folder",
            (str(tmp_path / "nowhere"),): "there is no folder",
            (str(tmp_path), "--port", "65536"): "at most 65535",
            (str(tmp_path), "--host", "127.0.0.1", "--port", port): "choose another --port",
            (str(tmp_path), "--host", "no such host"): "choose another --port or --host",
        }.items():
            assert main(["app", *words]) == 2
            error = capsys.readouterr().err
            assert line in error and error.count("\n") == 1
    monkeypatch.setattr(app_command.importlib.util, "find_spec", lambda name: None)
    assert main(["app", str(tmp_path)]) == 2
    assert 'pip install "peerage[app]"' in capsys.readouterr().err
