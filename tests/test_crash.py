"""A run that was killed and resumed is the run that was never interrupted, byte for byte (benchmarks/crash.py)."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.crash import CASES, QUICK, STATUS, differences, draw, first_difference
from peerage.runs import checkpoint

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.long, pytest.mark.skipif(not hasattr(os, "fork"), reason="the crash test forks")]


def test_twelve_kills():
    """Includes every quick case; some resumed runs are killed again. Runs in a separate process, which forks."""
    arguments = "--quick --trials 12 --jobs 2 --figures 0 --seed 4"
    command = [sys.executable, "-m", "benchmarks.crash", *shlex.split(arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.rstrip().endswith("12 of 12 survived")
    assert all(f" {name} #0: SIG" in ended.stdout for name in QUICK)
    watched = ["step", "checkpoint", "evaluation", "rows", "save_file", "write_text", "fsync", "replace", "rename"]
    known = [line for line in ended.stdout.splitlines() if " events: " in line]
    assert len(known) == len(QUICK) and all(f" of {kind}" in line for kind in watched for line in known)


# What a resume may forget, how, and where one can see it
FAULTS = [
    ("peerage.learners.streams", "Streams", "load_state", "metrics.csv from line"),
    ("peerage.learners.replay", "Replay", "load_state", "parts of the state"),
    ("peerage.envs.running", "RunningEpisodes", "replay", "metrics.csv from line"),
    ("peerage.runs.tables", "CsvLog", "truncate", "metrics.csv from line"),
]
FORGET = """
import sys
from importlib import import_module
from pathlib import Path
from benchmarks.crash import Kill, crash

def forgotten(*given):
    if name == "replay":
        return dict.fromkeys(given[2], "no")

def attempt(folder):
    (outcome,) = crash(["room-td"], 1, folder, at=[Kill("s110")], say=lambda line: None)
    print(outcome)

attempt(Path(sys.argv[1], "nothing"))
for module, owner, name, _ in FAULTS:
    owner = getattr(import_module(module), owner)
    kept = getattr(owner, name)
    setattr(owner, name, forgotten)
    attempt(Path(sys.argv[1], name + str(id(owner))))
    setattr(owner, name, kept)
"""


def test_it_detects_state_that_a_resume_does_not_restore(tmp_path):
    """The same kill, in the middle of an episode and between two checkpoints, with a part of the resume left out."""
    command = [sys.executable, "-c", f"FAULTS = {FAULTS}\n{FORGET}", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    sound, *lines = ended.stdout.splitlines()
    assert sound == "room-td #0: SIGKILL at s110, step 110 begins: the same"
    assert len(lines) == len(FAULTS)
    for line, (*_, name, seen) in zip(lines, FAULTS):
        assert "SIGKILL at s110, step 110 begins: FAILED: " in line and seen in line, (name, line)


def test_interruptions_come_before_the_end():
    events = [f"step {i // 2} begins" if i % 2 else "fsync" for i in range(100)]
    drawn = [draw(np.random.default_rng(seed), events) for seed in range(400)]
    assert {len(kills) for kills in drawn} == {1, 2, 3}
    first = [kills[0] for kills in drawn]
    assert {kill.how for kill in first} == {"KILL", *STATUS}
    assert {1, 100} < {int(kill.event) for kill in first} <= set(range(1, 101))
    assert all(int(kill.event) + int(kills[0].event) <= 100 for kills in drawn for kill in kills[1:])
    assert all("step" in events[int(kill.event) - 1] for kills in drawn for kill in kills if kill.how != "KILL")
    assert 0.4 < sum("step" in events[int(kill.event) - 1] for kill in first) / len(first) < 0.6


def test_lines_that_differ():
    assert first_difference(b"a\nb\n", b"a\nb\n") is None
    assert first_difference(b"a\nb\n", b"a\nc\n") == 2
    assert first_difference(b"a\nb\n", b"a\n") == 2
    assert first_difference(b"a\n", b"a") == 1


def test_cases_cover_what_they_should():
    """Rings that wrap round, three to six checkpoints, and frequencies of which none divides another."""
    for name, config in CASES.items():
        assert config.learner.buffer_size[0] < config.steps / 2, name
        every = (config.run.log_freq, config.run.eval_freq, config.run.checkpoint_freq)
        assert 3 <= config.steps // every[2] + 1 <= 6, name
        assert not any(a != b and a % b == 0 for a in every for b in every), name
    of_all = [config.advice.trust for config in CASES.values() if config.advice.sharing != "none"]
    assert set(of_all) == {"td", "transformer", "hybrid", "in-context"}


# --- the command line, and signals from outside -----------------------------------------------------------------

TRAIN = shlex.split(
    "train --env Room-v6 --n-peers 2 --advisers expert turncoat waiting --total-timesteps 2000 --net-arch 16,16 "
    "--seed 3 --batch-size 16 --buffer-size 700 --learning-starts 50 --context-length 20 --context-history 150 "
    "--log-freq 70 --eval-freq 700 --n-eval-episodes 2 --checkpoint-freq 270 --threads 1 --verbose 0"
)


WAITING = """
import sys, time
from pathlib import Path
import numpy as np
from peerage.cli import main
from peerage.sharing.adviser import Adviser
from peerage.sharing.advisers import register_adviser

gate = Path(sys.argv.pop(1))

class Waiting(Adviser):
    def suggest(self, obs, rows, first, rng):
        return np.zeros(len(obs))

    def at(self, step):
        while step > 1900 and gate.exists():
            time.sleep(0.01)

register_adviser("waiting", lambda spec: Waiting())
sys.exit(main())
"""
"""The command line, with an adviser that lets no training come to its end as long as a file is there."""


def peerage(gate: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WAITING, str(gate), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps(run: Path) -> int:
    """The last step that metrics.csv tells of; 0 before the first."""
    try:
        last = (run / "metrics.csv").read_bytes().rstrip(b"\n").splitlines()[-1]
    except (OSError, IndexError):
        return 0
    number = last.split(b",")[0]
    return int(number) if number.isdigit() else 0


def interrupt(process: subprocess.Popen[str], run: Path, step: int, number: int, gate: Path) -> tuple[int, str]:
    """Send the signal once the run has got as far as `step`, then take the gate away; exit status and what it said."""
    while steps(run) < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    gate.unlink()
    _, errors = process.communicate()
    return process.returncode, errors


def test_the_command_line_continues_after_every_signal(tmp_path):
    """`peerage train` ended by SIGTERM, its resumes by Ctrl-C and by kill -9: the same, figures and all."""
    moment = random.Random(7)  # a kill from outside falls where it falls
    whole, run = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    gate = tmp_path / "gate"
    uninterrupted = peerage(tmp_path / "none", *TRAIN, "--log-dir", whole.parent, "--exp-name", "run")
    gate.touch()
    process = peerage(gate, *TRAIN, "--log-dir", run.parent, "--exp-name", "run")
    for number, status, low in ((signal.SIGTERM, 143, 100), (signal.SIGINT, 130, 550), (signal.SIGKILL, -9, 1000)):
        got, errors = interrupt(process, run, moment.randrange(low, low + 400), number, gate)
        assert got == status, errors
        assert "Traceback" not in errors
        assert not (run / "DONE").exists() and (run / "FAILED").exists() == (number != signal.SIGKILL)
        if number != signal.SIGKILL:  # nothing that it did is lost
            assert checkpoint.step_of(checkpoint.checkpoints(run)[-1]) >= steps(run)
            assert len(errors.splitlines()) <= 1
        if number != signal.SIGKILL:  # the last one comes to its end
            gate.touch()
        process = peerage(gate, "resume", run, "--verbose", 0)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert uninterrupted.wait() == 0
    assert differences(whole, run, figures=True) == []
    again = peerage(gate, "resume", run)
    again.communicate()
    assert again.returncode == 0  # there is nothing to resume
