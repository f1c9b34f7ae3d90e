"""The best checkpoint of a run, and checkpoints that are selected by name or step."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import peerage
from peerage.cli import main
from peerage.config import Config, LearnerConfig, RunConfig
from peerage.errors import UserError
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener

pytestmark = pytest.mark.usefixtures("no_reports")


class Tide(gym.Env):
    """The reward of a step is the current height, regardless of the action. Registered as Tide-v0."""

    height = 0.0
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), type(self).height, False, self.steps == 5, {}


class Moon(Listener):
    """Sets the height just before the evaluation."""

    heights = {40: 2.0, 80: 3.0, 120: 1.0, 160: 3.0, 200: 0.0}  # noqa: RUF012

    def on_metrics(self, step, rows):
        Tide.height = self.heights.get(step, Tide.height)


def small(**changes) -> Config:
    learner = LearnerConfig(
        learning_starts=(20,), batch_size=(16,), net_arch=((16,),), train_freq=(4,), gradient_steps=(1,)
    )
    run = RunConfig(
        eval_freq=40, n_eval_episodes=1, log_freq=20, checkpoint_freq=50, keep_checkpoints=1, keep_best=True, verbose=0
    )
    base = Config(env="Tide-v0", n_peers=2, total_timesteps=200, learner=learner, run=run)
    return replace(base, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose best evaluation is that of step 80."""
    gym.register("Tide-v0", entry_point=lambda **settings: Tide(**settings))
    Tide.height = 1.0
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peerage.session.write_report", lambda folder: folder)
        trained = peerage.train(config=small(), log_dir=str(folder), exp_name="run", listeners=[Moon()])
        Tide.height = 1.0  # as at the start: the environment of a run is recognised by its first steps
        yield trained
    del gym.registry["Tide-v0"]


def parameters(run, which=""):
    group = checkpoint.load_one(run.folder, which)[1]["trainer"]["group"]
    return group["stacks"]["0"]["learner"]["parameters"]["q"]


def test_the_best_checkpoint_is_kept(run):
    assert run.evaluations.groupby("step")["return"].mean().to_dict() == {
        0: 5.0, 40: 10.0, 80: 15.0, 120: 5.0, 160: 15.0, 200: 0.0,
    }  # fmt: skip
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(run.folder)] == [80, 200]
    about = checkpoint.read_manifest(checkpoint.checkpoints(run.folder)[-1]).about
    assert about["best"] == {"step": 80, "return": 15.0}
    assert not torch.equal(parameters(run, "best"), parameters(run))
    assert torch.equal(parameters(run, "best"), parameters(run, "80"))


def test_everything_that_reads_a_run_can_select_a_checkpoint(run, tmp_path, capsys):
    best = parameters(run, "best")
    obs = np.zeros(1, np.float32)
    for which in ("best", 80):
        assert torch.equal(run.policy(checkpoint=which).group.stacks[0].learner.q.flat, best)
    assert run.policy(checkpoint="best")(obs) in (0, 1)
    assert main(["evaluate", str(run.folder), "--episodes", "1"]) == 0
    assert "after 200 of 200 steps" in capsys.readouterr().out
    for words in (["evaluate", "--episodes", "1"], ["evaluate", "--episodes", "1", "--advised"]):
        assert main([words[0], str(run.folder), *words[1:], "--checkpoint", "best"]) == 0
        assert "after 80 of 200 steps" in capsys.readouterr().out
    assert main(["export", str(run.folder), "--checkpoint", "best"]) == 0
    exported = capsys.readouterr().out.strip()
    assert exported.endswith("member-0-replica-0-best.zip")
    name = f"{run.folder}:0@best"
    config = small(advisers=(f"checkpoint:{name}",), total_timesteps=21)
    config = replace(config, learner=replace(config.learner, load_paths=(name, exported)))
    other = peerage.train(config=config, log_dir=str(tmp_path), exp_name="other")
    assert torch.equal(parameters(other), best[[0, 0]])
    state = checkpoint.load_latest(other.folder)[1]["trainer"]["sharing"]["advisers"][0]["state"]
    assert torch.equal(state["q"], best[:1])
    assert f"checkpoint:{name}" in set(other.advice["adviser"])


def test_checkpoints_that_do_not_exist_are_named(run, tmp_path, capsys):
    for command in ("evaluate", "export"):
        assert main([command, str(run.folder), "--checkpoint", "77"]) == 2
        assert "has no checkpoint of step 77: it has steps 80 and 200" in capsys.readouterr().err
        assert main([command, str(run.folder), "--checkpoint", "last"]) == 2
        assert "expected best or the number of a step, got 'last'" in capsys.readouterr().err
    config = small(total_timesteps=40, run=replace(small().run, keep_best=False))
    plain = peerage.train(config=config, log_dir=str(tmp_path), exp_name="plain")
    with pytest.raises(UserError, match="has no best checkpoint: train with keep_best=True"):
        plain.evaluate(1, checkpoint="best")
    with pytest.raises(UserError, match="keep_best=True needs evaluations"):
        peerage.train(config=replace(config, run=replace(small().run, eval_freq=0)))


def test_a_killed_run_has_the_same_best_checkpoint(tmp_path):
    class Kill(Listener):
        def on_metrics(self, step, rows):
            if step == 140:
                raise KeyboardInterrupt

    config = small(env="Room-v6", advisers=("expert",))
    whole = peerage.train(config=config, log_dir=str(tmp_path), exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, log_dir=str(tmp_path), exp_name="run", listeners=[Kill()])
    run = peerage.resume(tmp_path / "run")
    names = [[path.name for path in checkpoint.checkpoints(folder)] for folder in (run.folder, whole.folder)]
    assert names[0] == names[1]
    assert torch.equal(parameters(run, "best"), parameters(whole, "best"))
    means = whole.evaluations.groupby("step")["return"].mean()
    best = checkpoint.read_manifest(checkpoint.checkpoints(run.folder)[-1]).about["best"]
    assert best["step"] == means.idxmax() and best["return"] == pytest.approx(means.max())
