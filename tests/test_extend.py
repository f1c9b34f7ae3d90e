"""Runs that are extended: more steps than they were started with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import peerage
from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.file import load
from peerage.errors import UserError
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener
from peerage.statistics.samples import read_sides
from peerage.statistics.sources import Source
from peerage.trust.transformer_settings import TrustTransformerSettings

pytestmark = pytest.mark.usefixtures("no_reports")

CSV = ("metrics.csv", "evaluations.csv", "advice.csv")


def small(**changes) -> Config:
    """Two SAC members, whose training has no schedule."""
    learner = LearnerConfig(
        learning_starts=(20,), batch_size=(16,), net_arch=((16,),), train_freq=(4,), gradient_steps=(1,)
    )
    run = RunConfig(eval_freq=60, n_eval_episodes=1, log_freq=20, checkpoint_freq=60, verbose=0)
    short = {"max_episode_steps": 50}
    base = Config(
        env="Pendulum-v1", env_args=short, n_peers=2, advisers=("random",), total_timesteps=60, learner=learner, run=run
    )
    return replace(base, **changes)


def train(config: Config, folder: Path, **more) -> Path:
    return peerage.train(config=config, log_dir=str(folder.parent), exp_name=folder.name, **more).folder


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


class Stop(Listener):
    """Ends the process's training as a kill would: without a checkpoint."""

    def on_metrics(self, step, rows):
        if step == 80:
            raise KeyboardInterrupt


@pytest.mark.parametrize("trust", ["in-context", "hybrid"])
def test_an_extended_run_equals_a_run_of_its_length(tmp_path, trust, same):
    """Killed during the extension, before and after the run was no longer DONE, and resumed without a flag."""
    transformer = TrustTransformerSettings(attention_update_freq=20, attention_batch_size=4, sequence_length=8)
    config = small(advice=AdviceConfig(trust=trust, follow_steps=2), methods={"trust_transformer": transformer})
    whole = train(replace(config, total_timesteps=120), tmp_path / "whole")
    run = train(config, tmp_path / "run")
    done = (run / "DONE").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        peerage.resume(run, total_timesteps=120, listeners=[Stop()])
    (run / "FAILED").unlink()
    (run / "DONE").write_bytes(done)
    peerage.resume(run)
    for name in CSV:
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert load(run) == replace(load(whole), run=load(run).run)
    states = [checkpoint.load_latest(folder)[1]["trainer"] for folder in (run, whole)]
    same(*states)
    environment = RunFolder(run).environment()
    assert environment["extended"] == [{"step": 60, "from": 60, "to": 120, "stretched": []}]
    assert [entry["step"] for entry in environment["resumed"]] == [60, 60]
    assert json.loads((run / "DONE").read_text())["step"] == 120


def test_schedules_that_depend_on_the_length_are_named_and_refused_or_stretched(tmp_path, capsys):
    learner = replace(small().learner, exploration_fraction=(0.5,), exploration_final_eps=(0.0,))
    run = train(small(env="Room-v6", advisers=("turncoat",), learner=learner), tmp_path / "run")
    before = files(run)
    assert main(["resume", str(run), "--total-timesteps", "120", "--verbose", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "exploration decays over 0.5 of the steps" in error
    assert "adviser Turning: the step at which it changes sides" in error and "--stretch-schedules" in error
    assert files(run) == before
    assert main(["resume", str(run), "--total-timesteps", "120", "--stretch-schedules", "--verbose", "0"]) == 0
    metrics = peerage.load(run).metrics
    epsilon = metrics[(metrics["name"] == "exploration/epsilon") & (metrics["member"] == "member-0")]
    # 1 - step / 30 until step 60, and 1 - step / 60 from there on
    assert epsilon.set_index("step")["value"].round(3).to_dict() == {
        20: 0.333, 40: 0.0, 60: 0.0, 80: 0.0, 100: 0.0, 120: 0.0,
    }  # fmt: skip
    assert len(RunFolder(run).extensions()[0]["stretched"]) == 2
    assert "extended from 60 to 120 steps after step 60; stretched" in peerage.load(run).report().read_text()
    whole = train(replace(load(run), total_timesteps=120, seed=1), tmp_path / "whole")
    sides, _ = read_sides([Source(run), Source(whole)])
    assert len(sides) == 2  # not replicas of each other, although their settings are equal
    assert "was extended from 60 to 120 steps with stretched schedules" in sides[0].warnings[0]
    peerage.resume(run, total_timesteps=300, stretch_schedules=True)
    metrics = peerage.load(run).metrics
    epsilon = metrics[(metrics["name"] == "exploration/epsilon") & (metrics["step"] == 140)]
    assert epsilon["value"].round(3).tolist() == [0.067, 0.067]  # 1 - 140 / 150


def test_invalid_lengths_are_refused(tmp_path, capsys):
    run = train(small(run=replace(small().run, eval_freq=0)), tmp_path / "run")
    before = files(run)
    for words, text in (
        (["--total-timesteps", "59"], "can be extended, but not shortened"),
        (["--stretch-schedules"], "has no effect without --total-timesteps"),
    ):
        assert main(["resume", str(run), *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and text in error
    for words in ([], ["--total-timesteps", "60"]):  # a script can always resume
        assert main(["resume", str(run), "--verbose", "0", *words]) == 0
        assert capsys.readouterr() == ("", "")
    nothing = f"{run} is finished: there is nothing to resume (a larger --total-timesteps extends it)"
    assert main(["resume", str(run), "--verbose", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == nothing
    peerage.resume(run, verbose=1)
    assert capsys.readouterr().out == nothing.replace("--total-timesteps", "total_timesteps") + "\n"
    with pytest.raises(UserError, match="expected a whole number"):
        peerage.resume(run, total_timesteps=60.5)
    assert files(run) == before
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("total_timesteps: 60", "total_timesteps: 120"))
    with pytest.raises(UserError, match="total_timesteps: 120, but the checkpoint was written with 60"):
        peerage.resume(run)  # changed by hand


def test_an_adviser_of_the_user_may_depend_on_the_length(tmp_path):
    class Countdown(peerage.Adviser):
        def begin(self, rng, total_steps):
            self.total = total_steps

        def suggest(self, obs, rows, first, rng):
            return [[0.0]] * len(obs)

    class Independent(Countdown):
        def schedule(self):
            return ""

    config = small(run=replace(small().run, eval_freq=0))
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run", advisers=[Countdown()])
    with pytest.raises(UserError, match=r"adviser Countdown: begin\(rng, total_steps\) may depend"):
        peerage.resume(run, total_timesteps=80)
    run = peerage.load(run.folder, advisers=[Independent()])
    assert peerage.resume(run, total_timesteps=80).metrics["step"].max() == 80
