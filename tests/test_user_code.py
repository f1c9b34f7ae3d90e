"""Failures of the user's code: where they are in it, said once."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest

import peerage
from peerage import session
from peerage.cli import main
from peerage.config import Config, RunConfig
from peerage.errors import UserError
from peerage.runs.listeners import MetricRow

pytestmark = pytest.mark.usefixtures("no_reports")

SOURCE = """
import gymnasium
import numpy as np

class Falls(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    taken = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.taken += 1
        if self.taken == 30:
            self.fall()
        return np.zeros(2, np.float32), 0.0, self.taken % 10 == 0, False, {}

    def fall(self):
        np.ones(2) @ np.ones(3)

class Advises:
    def suggest(self, obs, rows, first, rng):
        return {}["up"]

def made():
    return gymnasium.make("CartPole-v1")
"""
SETTINGS = {
    "n-peers": 1, "total-timesteps": 60, "learning-starts": 9, "eval-freq": 0, "log-dir": ".", "exp-name": "run",
}  # fmt: skip
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "falls", raising=False)
    Path("falls.py").write_text(SOURCE)


@pytest.mark.parametrize("verbose", ["1", "2"])
def test_a_failure_names_the_line_once(capsys, verbose):
    assert main(["train", "--env", "falls:Falls", *FLAGS, "--verbose", verbose]) == 2
    said = capsys.readouterr()
    message = "falls:Falls, environment 0, step 30: the environment raised ValueError: matmul"
    assert message in said.err and "(falls.py, line 21); after fixing this" in said.err
    assert (said.out + said.err).count(message) == 1 and "\nFAILED\n" in said.out
    failed = json.loads(Path("run/FAILED").read_text())
    assert failed["traceback"].startswith("Traceback") and "np.ones(2) @ np.ones(3)" in failed["traceback"]
    assert failed["why"] in said.err and ("Traceback" in said.err) == (verbose == "2")


def test_a_failure_of_an_adviser_names_the_line():
    adviser = importlib.import_module("falls").Advises()
    with pytest.raises(UserError, match=r"Advises failed in suggest, step 1: KeyError: 'up' \(falls.py, line 25"):
        more = {"learning_starts": 0, "total_timesteps": 9, "verbose": 0, "log_dir": ".", "exp_name": "run"}
        peerage.train("Room-v6", advisers=[adviser], **more)
    assert "{}[\"up\"]" in json.loads(Path("run/FAILED").read_text())["traceback"]


def test_a_run_that_exists_is_refused_before_anything_is_built(capsys, monkeypatch):
    built: list[int] = []
    monkeypatch.setattr(session, "Trainer", lambda *args, **more: built.append(1))
    Path("run").mkdir()
    with pytest.raises(UserError, match="run exists: --overwrite replaces it"):
        session.run_training(Config(run=RunConfig(log_dir=".", exp_name="run")))
    assert not built


class CtrlC(peerage.Listener):
    """Sends the signal of Ctrl-C to this process at some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_metrics(self, step: int, rows: Sequence[MetricRow]) -> None:
        if step in self.steps:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_python_says_how_to_continue():
    more = {"learning_starts": 9, "total_timesteps": 60, "eval_freq": 0, "verbose": 0, "log_dir": ".", "n_peers": 1}
    more["log_freq"] = 20
    with pytest.raises(KeyboardInterrupt) as caught:
        peerage.train("Room-v6", exp_name="my run", listeners=[CtrlC(20)], **more)
    assert str(caught.value) == 'interrupted; `peerage.resume("my run")` continues from step 20'
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count('File "') == 2 and "api.py" in shown  # this function and the interface, no frame inside Peerage
    with pytest.raises(KeyboardInterrupt, match="continues from step 40"):
        peerage.resume("my run", listeners=[CtrlC(40)])
    assert peerage.resume("my run").metrics["step"].max() == 60


def test_the_start_shows_the_function_and_the_environment_that_it_makes(capsys):
    more = {"learning_starts": 9, "total_timesteps": 20, "eval_freq": 0, "log_dir": ".", "n_peers": 1}
    for env, shown in (("falls:made", "falls:made (makes CartPole-v1)"), ("falls:Falls", "falls:Falls")):
        peerage.train(env, exp_name="by-name", overwrite=True, **more)
        assert f"{shown} · dqn" in capsys.readouterr().out
    made = importlib.import_module("falls").made
    peerage.train(lambda: made(), exp_name="lambda", **more)
    assert "lambda (makes CartPole-v1) · dqn" in capsys.readouterr().out
