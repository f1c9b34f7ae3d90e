"""Members that start from trained networks, members that are all frozen, and runs in which nothing is learned."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
import torch

import peerage
from peerage.cli import main
from peerage.config import Config, LearnerConfig, RunConfig
from peerage.errors import UserError
from peerage.interop.sb3_export import export_member
from peerage.learners.defaults import default_settings, first_update
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")


def small(**learner) -> Config:
    base = {
        "learning_starts": (20,), "batch_size": (16,), "net_arch": ((16,),), "train_freq": (4,), "gradient_steps": (1,),
    } | learner  # fmt: skip
    run = RunConfig(
        eval_freq=60, n_eval_episodes=1, log_freq=20, checkpoint_freq=20, keep_checkpoints=5, verbose=0
    )
    env = {"env": "Pendulum-v1", "env_args": {"max_episode_steps": 50}}
    return Config(**env, n_peers=2, total_timesteps=60, learner=LearnerConfig(**base), run=run)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # the fixture of conftest.py serves tests only
        patch.setattr("peerage.session.write_report", lambda folder: folder)
        return peerage.train(config=small(), log_dir=str(tmp_path_factory.mktemp("source")), exp_name="run")


def parameters(folder, which=""):
    group = checkpoint.load_one(folder, which)[1]["trainer"]["group"]
    return group["stacks"]["0"]["learner"]["parameters"]


class Kill(Listener):
    def on_metrics(self, step, rows):
        if step == 40:
            raise KeyboardInterrupt


def test_a_member_starts_from_a_trained_one_and_continues_to_learn(source, tmp_path):
    """Without the source, a killed run is resumed to the same bits."""
    copy = tmp_path / "copy"
    shutil.copytree(source.folder, copy)
    config = small(init_from=(f"{copy}:1@60", "none"))
    config = replace(config, seed=1, run=replace(config.run, eval_starts="shared"))  # those of seed 0, as in the source
    whole = peerage.train(config=config, log_dir=str(tmp_path), exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, log_dir=str(tmp_path), exp_name="run", listeners=[Kill()])
    shutil.rmtree(copy)
    run = peerage.resume(tmp_path / "run")
    plain = peerage.train(config=replace(small(), seed=1), log_dir=str(tmp_path), exp_name="plain")
    before, begin, end = parameters(source.folder), parameters(run.folder, "0"), parameters(run.folder)
    for name in ("actor", "critic", "critic_target", "log_ent_coef"):
        assert torch.equal(begin[name][0], before[name][1])
        assert torch.equal(begin[name][1], parameters(plain.folder, "0")[name][1])
        assert not torch.equal(end[name][0], begin[name][0])  # it learns on
        assert torch.equal(end[name], parameters(whole.folder)[name])
    old, new = source.evaluations, run.evaluations
    trained = old[(old["step"] == 60) & (old["member"] == "member-1")]["return"].tolist()
    assert new[(new["step"] == 0) & (new["member"] == "member-0")]["return"].tolist() == trained


def test_random_actions_and_a_fixed_entropy_coefficient_are_settings_of_the_member(source, tmp_path, begin):
    zipped = export_member(source.folder, 0, out=tmp_path / "member.zip")
    trainer = begin(small(init_from=(str(zipped), "none"), ent_coef=("0.2",)))
    assert trainer.group.learning_starts.tolist() == [0, 20] and trainer.group.active().all()
    learner = trainer.group.stacks[0].learner
    assert torch.allclose(learner.log_ent_coef, torch.full((2, 1), math.log(0.2)))
    assert torch.equal(learner.actor.flat[0], parameters(source.folder)["actor"][0])


def test_running_statistics_come_with_the_networks(tmp_path):
    """Networks that were trained on normalised observations need the statistics of these observations."""
    config = small(normalize_obs=(True,), normalize_reward=(True,))
    config = replace(config, run=replace(config.run, eval_freq=0))
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    trainer = Trainer(replace(config, learner=replace(config.learner, init_from=(f"{run}:1", "none"))))
    trainer.close()
    trained, here = parameters(run), trainer.group.member_parameters(0)
    assert here.keys() == trained.keys() > {"actor", "critic", "critic_target", "log_ent_coef"}
    for name in here:
        assert torch.equal(here[name], trained[name][1]), name


def test_members_that_cannot_start(source, tmp_path):
    run = str(source.folder)
    for learner, text in (
        ({"init_from": (run,), "load_paths": (run,)}, "use none for one of them"),
        ({"init_from": (run,), "net_arch": ((8,),)}, "use net_arch=16 for this member"),
        ({"init_from": (f"{run}:2",)}, "has no member 2"),
        ({"init_from": (f"{run}:x",)}, "init_from"),
        ({"init_from": (f"{run}@50",)}, "has no checkpoint of step 50: it has steps 0, 20, 40 and 60"),
    ):
        with pytest.raises(UserError, match=text):
            peerage.train(config=small(**learner), log_dir=str(tmp_path), exp_name="run")
    assert not (tmp_path / "run").exists()


@pytest.mark.report
def test_a_run_with_only_loaded_members_reports_that_no_member_learns(source, tmp_path, capsys):
    config = replace(small(load_paths=(str(source.folder),)), run=replace(small().run, verbose=2, eval_freq=0))
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run")
    assert "no member learns: all are loaded by --load-paths" in capsys.readouterr().out
    assert "No member of this run learns" in (run.folder / "report.html").read_text()


def test_settings_with_which_nothing_is_learned_are_refused(source, tmp_path, capsys):
    words = ["train", "--config", str(source.folder), "--log-dir", str(tmp_path), "--exp-name", "run"]
    for flags, text in (
        (["--learning-starts", "60"], "no member would learn in 60 steps: a member learns after step 60"),
        (["--train-freq", "61"], "every 61 steps (--train-freq)"),
        (["--learning-starts", "60", "70", "--load-paths", str(source.folder), "none"], "after step 70"),
    ):
        assert main([*words, *flags]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and text in error
    assert not (tmp_path / "run").exists()
    config = small(learning_starts=(20, 60))
    config = replace(config, run=replace(config.run, verbose=2, eval_freq=0))
    peerage.train(config=config, log_dir=str(tmp_path), exp_name="run")
    out = capsys.readouterr().out
    assert "member 1 does not learn in 60 steps: a member learns after step 60" in out and "member 0 does" not in out


@pytest.mark.parametrize("starts, every", [(0, 1), (20, 4), (57, 4), (60, 4), (0, 61)])
def test_the_first_update_is_that_of_the_learner(starts, every):
    member = replace(default_settings("sac"), learning_starts=starts, train_freq=every)
    config = small(learning_starts=(starts,), train_freq=(every,))
    trainer = Trainer(config)
    learns = [step for step in range(1, 200) if trainer.group.learns(step)]
    trainer.close()
    assert learns[0] == first_update(member)
