"""The runner alone: what it does for a training that has no environments."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peerage.config import Config, RunConfig
from peerage.config.file import to_dict
from peerage.config.tree import learner_part
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener, Listeners
from peerage.runs.tables import CsvLog, read_evaluations, read_metrics
from peerage.session import run_training
from peerage.sharing.transports.base import Waiting
from peerage.training import machine
from peerage.training.runner import Runner

ROOT = Path(__file__).parent.parent
DATA = np.array([1.0, 2.0, 6.0])  # the best guess is the mean, 3
CONFIG = Config(
    n_peers=2,
    replicas=2,
    total_timesteps=100,
    run=RunConfig(log_freq=7, eval_freq=30, checkpoint_freq=20, keep_checkpoints=2, verbose=0),
)


class Fit:
    """Every member fits a number to data by stochastic gradient descent with momentum."""

    def __init__(self, config: Config) -> None:
        self.config, self.N, self.R, self.steps = config, config.n_peers, config.replicas, config.steps
        self.stride = 1
        self.names = [f"member-{i}" for i in range(self.N)]
        self.step, self.begun, self.threads, self.waiting = 0, False, 1, Waiting()
        self.rng = np.random.default_rng(config.seed)
        self.guess = np.zeros(self.N * self.R)
        self.velocity = np.zeros(self.N * self.R)
        self.errors: list[np.ndarray] = []  # since the last `metrics`

    def begin(self) -> None:
        self.guess, self.begun = self.rng.normal(size=len(self.guess)), True

    def advance(self) -> None:
        self.step += 1
        error = self.guess - self.rng.choice(DATA, len(self.guess))
        self.velocity = 0.9 * self.velocity + error
        self.guess = self.guess - 0.01 * self.velocity
        self.errors.append(error**2)

    def metrics(self):
        means, self.errors = np.mean(self.errors, axis=0), []
        return [(m // self.N, self.names[m % self.N], "loss/fit", float(x)) for m, x in enumerate(means)]

    def advice_rows(self):
        return []

    def notes(self):
        return []

    def diverged(self, known):
        return np.flatnonzero(~np.isfinite(self.guess) & ~known)

    def member_state(self, m):
        return {"guess": self.guess[m : m + 1]}

    def run_info(self):
        return {"env": "data", "algorithms": ("fit",) * self.N}

    def state(self):
        state = {"step": self.step, "guess": self.guess, "velocity": self.velocity, "errors": self.errors}
        return {**state, "rng": self.rng.bit_generator.state}

    def load_state(self, state) -> None:
        self.step, self.begun = state["step"], True
        self.guess, self.velocity, self.errors = state["guess"], state["velocity"], list(state["errors"])
        self.rng.bit_generator.state = state["rng"]


class OnAllData:
    """Evaluates a `Fit`: its negative squared error on all data."""

    def __init__(self, fit: Fit) -> None:
        self.fit, self.open, self.messages = fit, True, []

    def rows(self, step, stop):
        errors = ((self.fit.guess[:, None] - DATA) ** 2).mean(axis=1)
        names = self.fit.names
        return [(m // len(names), names[m % len(names)], 0, -float(x), 1, None, "alone") for m, x in enumerate(errors)]

    def close(self) -> None:
        self.open = False


class Heard(Listener):
    essential = True

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at, self.texts = stop_at, []

    def on_start(self, info):
        self.info = info

    def on_message(self, step, text):
        self.texts.append((step, text))

    def on_metrics(self, step, rows):
        if step == self.stop_at:
            raise KeyboardInterrupt


def runner_of(fit: Fit, folder: RunFolder, log: CsvLog, heard: Heard) -> Runner:
    evaluation = OnAllData(fit)
    return Runner(fit, Listeners([log, heard]), folder=folder, evaluation=evaluation, offsets=log.offsets)


def test_a_training_without_environments(tmp_path):
    folder = RunFolder.create(tmp_path, "whole", "whole", to_dict(CONFIG))
    fit, heard = Fit(CONFIG), Heard()
    runner = runner_of(fit, folder, CsvLog(folder.path), heard)
    assert not runner.finished
    runner.run()
    runner.close()
    assert runner.finished and not runner.evaluation.open
    assert (heard.info.env, heard.info.algorithms, heard.info.total_steps) == ("data", ("fit", "fit"), 100)
    assert sorted(read_metrics(folder.path)["step"].unique()) == [*range(7, 100, 7), 100]
    evaluations = read_evaluations(folder.path)
    assert sorted(evaluations["step"].unique()) == [0, 30, 60, 90, 100]
    first, last = (evaluations[evaluations["step"] == step]["return"] for step in (0, 100))
    assert (last.to_numpy() > first.to_numpy()).all() and np.abs(fit.guess - 3).max() < 1.5
    assert [path.name for path in checkpoint.checkpoints(folder.path)] == ["step_000000080", "step_000000100"]


@pytest.mark.parametrize(
    ("replicas", "log_freq", "interval"),
    [(2, 7, 7), (2, 1000, 25), (60, 7, 1)],  # of 4, 4 and 120 members, with 100 member-steps between two trims
)
def test_freed_memory_is_returned_without_checkpoints(replicas, log_freq, interval, tmp_path, monkeypatch):
    """In steps that depend on the number of members, and at least whenever the run logs."""
    at: list[int] = []
    monkeypatch.setattr(machine, "TRIM_MEMBER_STEPS", 100)
    monkeypatch.setattr("peerage.training.runner.give_memory_back", lambda: at.append(fit.step))
    run = replace(CONFIG.run, log_freq=log_freq, eval_freq=0, checkpoint_freq=0)
    config = replace(CONFIG, replicas=replicas, run=run)
    fit, folder = Fit(config), RunFolder.create(tmp_path, "run", "run", to_dict(config))
    runner_of(fit, folder, CsvLog(folder.path), Heard()).run()
    # The first and the last checkpoint, which every run writes, return their memory, too
    assert at == [0, *range(interval, 101, interval), 100]


def test_it_continues_from_a_checkpoint_to_the_same_bytes(tmp_path, same):
    """Stopped between two checkpoints, with rows that its continuation writes again."""
    folders = [RunFolder.create(tmp_path, name, name, to_dict(CONFIG)) for name in ("whole", "cut")]
    whole, fit = Fit(CONFIG), Fit(CONFIG)
    runner_of(whole, folders[0], CsvLog(folders[0].path), Heard()).run()
    with pytest.raises(KeyboardInterrupt):
        runner_of(fit, folders[1], CsvLog(folders[1].path), Heard(stop_at=77)).run()
    assert fit.step == 77 and read_metrics(folders[1].path)["step"].max() == 77

    newest, state, damaged = checkpoint.load_latest(folders[1].path)
    assert newest.name == "step_000000060" and not damaged
    again, heard, log = Fit(CONFIG), Heard(), CsvLog(folders[1].path)
    again.load_state(state["trainer"])
    log.truncate(state["runner"]["offsets"])
    runner = runner_of(again, folders[1], log, heard)
    runner.resume(state["runner"], newest)
    assert not runner.evaluation_due  # the evaluation of step 60 is in the checkpoint
    runner.run()
    assert heard.info.resumed and heard.info.start_step == 60
    same(whole.state(), again.state())
    for name in ("metrics.csv", "evaluations.csv"):
        assert (folders[0].path / name).read_bytes() == (folders[1].path / name).read_bytes(), name


def test_a_member_that_diverges_is_reported_once(tmp_path):
    class Breaks(Fit):
        def advance(self):
            super().advance()
            if self.step == 10:
                self.guess[3] = np.nan

    folder = RunFolder.create(tmp_path, "run", "run", to_dict(CONFIG))
    heard = Heard()
    Runner(Breaks(CONFIG), heard, folder=folder).run()
    ((step, text),) = heard.texts
    assert step == 14 and text.startswith("member-1 of replica 1 is frozen: its update was not finite")
    assert [path.name for path in (folder.path / "dumps").iterdir()] == [
        "diverged-replica-1-member-1-step-14.safetensors"
    ]


def test_no_code_sets_fields_of_a_trainer_or_runner():
    """Both are changed by their own methods alone."""
    for path in [*(ROOT / "peerage").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    owner = ast.unparse(target.value).rpartition(".")[2]
                    assert owner not in ("trainer", "runner", "trainable"), f"{path.name}, line {node.lineno}"


def test_progress_is_reported_before_and_after_each_rollout_update(monkeypatch, tmp_path):
    class Steps(Listener):
        def on_start(self, info):
            self.info, self.seen = info, []

        def on_progress(self, step, seconds):
            self.seen.append(step)

    monkeypatch.setattr("peerage.training.runner.UPDATE_PROGRESS_SECONDS", -1.0)  # also of updates that take no time
    steps = Steps()
    learner = learner_part()(algorithm=("ppo",), n_steps=(16,), n_envs=(2,), batch_size=(16,), update_epochs=(1,))
    config = Config(env="CartPole-v1", n_peers=1, total_timesteps=80, learner=learner)
    run_training(replace(config, run=RunConfig(log_dir=str(tmp_path), verbose=0)), listeners=[steps])
    assert (steps.info.cycle, steps.info.stride) == (32, 2)
    assert {0, 30, 32, 62, 64, 78, 80} <= set(steps.seen)
