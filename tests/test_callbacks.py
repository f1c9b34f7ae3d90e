"""Listeners of the user: by name on the command line, with memory, and with a request to stop."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import peerage
from peerage.cli import main
from peerage.config import Config, LearnerConfig, RunConfig
from peerage.config.file import load
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.statistics.samples import read_sides
from peerage.statistics.sources import Source

pytestmark = pytest.mark.usefixtures("no_reports")

CSV = ("metrics.csv", "evaluations.csv", "advice.csv")
MODULE = '''
import peerage

class Patience(peerage.Listener):
    """Stops at the third evaluation."""
    seen = 0
    def on_evaluations(self, step, rows):
        self.seen += 1
        if self.seen == 3:
            self.stop(f"evaluation {self.seen}\\nof three")
    def state(self):
        return {"seen": self.seen}
    def load_state(self, state):
        self.seen = state["seen"]

class Kill(peerage.Listener):
    """Ends the training as a kill would: without a checkpoint."""
    def on_metrics(self, step, rows):
        if step == 60:
            raise KeyboardInterrupt

class Broken(peerage.Listener):
    calls = 0
    def on_metrics(self, step, rows):
        type(self).calls += 1
        raise RuntimeError("the quota is exceeded")

class Forgetful(peerage.Listener):
    def state(self):
        return object()

class Careless(peerage.Listener):
    def __init__(self):
        raise OSError("no network")

def function():
    raise AssertionError("must not be called")
'''


def small(**changes) -> Config:
    learner = LearnerConfig(
        learning_starts=(20,), batch_size=(16,), net_arch=((16,),), train_freq=(4,), gradient_steps=(1,)
    )
    run = RunConfig(eval_freq=40, n_eval_episodes=1, log_freq=20, checkpoint_freq=50, verbose=0)
    base = Config(env="Room-v6", n_peers=2, advisers=("expert",), total_timesteps=120, learner=learner, run=run)
    return replace(base, **changes)


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A command line in a folder with the module above, under a unique name."""
    name = f"callbacks_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path])
    with monkeypatch.context() as patch:
        patch.setattr("peerage.session.write_report", lambda folder: folder)
        run = peerage.train(config=small(), log_dir="runs", exp_name="whole")
    return ["train", "--config", str(run.folder), "--log-dir", "runs"], name


@pytest.mark.report
def test_a_callback_stops_a_run_which_a_resume_continues_to_the_same_bytes(words, capsys):
    """Also if the run was killed before, because the memory of the callback is part of the checkpoint."""
    command, module = words
    callbacks = ["--callback", f"{module}:Patience", "--callback", f"{module}:Kill"]
    assert main([*command, "--exp-name", "run", *callbacks]) == 130
    run = RunFolder("runs/run")
    assert load(run.path).run.callback == (f"{module}:Patience", f"{module}:Kill")
    assert checkpoint.step_of(checkpoint.checkpoints(run.path)[-1]) == 50  # after two evaluations, at steps 0 and 40
    assert main(["resume", "runs/run", "--callback", f"{module}:Patience"]) == 0
    status, line = run.status()
    assert (status, line["why"], line["step"]) == ("STOPPED", "evaluation 3 of three", 80)
    assert checkpoint.step_of(checkpoint.checkpoints(run.path)[-1]) == 80
    assert "was stopped early after step 80: evaluation 3 of three" in (run.path / "report.html").read_text()
    sides, _ = read_sides([Source(run.path)])
    assert "was stopped early (evaluation 3 of three): its last evaluation is at step 80" in sides[0].warnings[0]
    assert main(["resume", "runs/run", "--callback"]) == 0  # without callbacks
    assert run.status()[0] == "DONE" and not (run.path / "STOPPED").exists()
    for name in CSV:
        assert (run.path / name).read_bytes() == (RunFolder("runs/whole").path / name).read_bytes()


def test_a_callback_that_fails_is_switched_off_with_one_warning(words, capsys):
    command, module = words
    capsys.readouterr()
    names = [f"{module}:Broken", f"{module}:Forgetful"]
    assert main([*command, "--exp-name", "run", "--callback", *names]) == 0
    error = capsys.readouterr().err
    assert error.count("Broken is switched off") == 1 and error.count("Forgetful is switched off") == 1
    assert error.count("\n") == 2
    assert __import__(module).Broken.calls == 1
    assert RunFolder("runs/run").status()[0] == "DONE"


def test_callbacks_that_cannot_be_made_are_refused_before_anything_is_written(words, tmp_path, capsys):
    command, module = words
    capsys.readouterr()
    for name, text in (
        ("no_such_module:Stop", "cannot be imported: No module named 'no_such_module'; run this command in"),
        (f"{module}:Nothing", f"{module} has no class Nothing"),
        (f"{module}:function", "function must be a subclass of peerage.Listener"),
        (f"{module}:Careless", "Careless() failed: OSError: no network"),
        ("print", "--callback must be MODULE:CLASS"),
    ):
        assert main([*command, "--exp-name", "run", "--callback", name]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and text in error
    assert not (tmp_path / "runs" / "run").exists()


def test_a_listener_object_can_be_used_again_after_it_has_stopped_a_training(tmp_path):
    class AtOnce(peerage.Listener):
        def on_evaluations(self, step, rows):
            self.stop("")

    listener = AtOnce()
    run = peerage.train(config=small(), log_dir=str(tmp_path), exp_name="run", listeners=[listener])
    assert json.loads((run.folder / "STOPPED").read_text())["why"] == "no reason was given"
    assert RunFolder(run.folder).status()[1]["step"] == 0
    assert RunFolder(peerage.resume(run, listeners=[listener]).folder).status()[1]["step"] == 40
