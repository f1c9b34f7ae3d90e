"""Failures of the user's code: where they are in it, said once."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

import peerage
from peerage import session
from peerage.cli import main
from peerage.config import Config, RunConfig
from peerage.errors import UserError

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
