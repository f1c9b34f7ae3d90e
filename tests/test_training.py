"""Whole trainings, small and real: what a user runs, with nothing replaced by a stand-in but the task."""

from __future__ import annotations

import filecmp
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import peerage
import peerage.api
import peerage.config.file
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.file import load
from peerage.config.presets import preset_names
from peerage.errors import UserError
from peerage.runs import checkpoint
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener
from peerage.training.runner import Runner
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")


class Match(gym.Env):
    """Say the number you see: reward 1 for the right one. The optimum is 1 a step."""

    observation_space = gym.spaces.Box(0, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self):
        self.number = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.number]

    def step(self, action):
        reward = float(action == self.number)
        self.steps += 1
        return self._draw(), reward, False, self.steps == 10, {}


class Copy(gym.Env):
    """Give back the number you see, in [-2, 2]: reward -(a - s)^2. The optimum is 0."""

    observation_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self):
        self.number = self.np_random.uniform(-2, 2, 1).astype(np.float32)
        return self.number

    def step(self, action):
        reward = -float((action[0] - self.number[0]) ** 2)
        self.steps += 1
        return self._draw(), reward, False, self.steps == 10, {}


def small(**changes) -> Config:
    """A group on Room-v6 that trains in a second."""
    learner = LearnerConfig(
        learning_starts=(20,), batch_size=(16,), net_arch=((16,),), train_freq=(4,), gradient_steps=(1,)
    )
    base = Config(
        env="Room-v6",
        n_peers=2,
        advisers=("expert",),
        total_timesteps=300,
        learner=learner,
        run=RunConfig(eval_freq=100, n_eval_episodes=2, log_freq=100, verbose=0),
    )
    return replace(base, **changes)


def final_return(run: peerage.Run) -> float:
    """Mean of the worst member in the last evaluation."""
    last = run.evaluations[run.evaluations["step"] == run.evaluations["step"].max()]
    return float(last.groupby(["replica", "member"])["return"].mean().min())


# --- learning -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_dqn_learns_the_trivial_task(tmp_path):
    run = peerage.train(
        Match, n_peers=2, total_timesteps=1500, gamma=0.0, learning_rate=3e-3, learning_starts=100, eval_freq=1500,
        log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip
    assert final_return(run) == 10.0  # every number of every episode, every member


@pytest.mark.long
@pytest.mark.parametrize(
    "settings", [{"algorithm": "sac"}, {"algorithm": "sac", "use_sde": True}, {"algorithm": "td3"}]
)
def test_sac_and_td3_learn_the_trivial_task(tmp_path, settings):
    run = peerage.train(
        Copy, n_peers=2, total_timesteps=1200, gamma=0.0, learning_rate=3e-3, learning_starts=100, net_arch=(64, 64),
        batch_size=64, tau=0.05, eval_freq=1200, log_dir=str(tmp_path), verbose=0, **settings,
    )  # fmt: skip
    assert final_return(run) > -0.2  # ten steps; doing nothing gives about -13


@pytest.mark.long
def test_a_group_solves_room_v6(tmp_path):
    run = peerage.train(
        "Room-v6", n_peers=2, advisers=["expert"], total_timesteps=12000, learning_rate=1e-3, gamma=0.9,
        eval_freq=12000,
        n_eval_episodes=20, learning_starts=100, log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip
    assert final_return(run) > 0.95 * 47.10  # the optimum by enumeration


# --- sameness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["Room-v6", "Pendulum-v1"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, env):
    config = small(env=env, advisers=("random",), run=replace(small().run, log_dir=str(tmp_path)))
    runs = [peerage.train(config=config, exp_name=name).folder for name in ("a", "b")]
    for name in ("metrics.csv", "evaluations.csv", "advice.csv"):
        assert filecmp.cmp(runs[0] / name, runs[1] / name, shallow=False), name
    other = peerage.train(config=config, exp_name="c", seed=1).folder
    assert not filecmp.cmp(runs[0] / "metrics.csv", other / "metrics.csv", shallow=False)


class Record(Listener):
    def __init__(self):
        self.metrics, self.advice = [], []

    def on_metrics(self, step, rows):
        self.metrics += [(step, *row) for row in rows]

    def on_advice(self, step, rows):
        self.advice += [(step, *row.items()) for row in rows]


def record(config: Config, **kwargs) -> Record:
    trainer = Trainer(config, **kwargs)
    heard = Record()
    Runner(trainer, heard).run()
    trainer.close()
    return heard


def test_one_member_with_advice_is_a_single_agent():
    alone = replace(small(), n_peers=1, advisers=())
    with_advice = record(alone)
    without = record(replace(alone, advice=AdviceConfig(sharing="none")))
    strip = [row for row in with_advice.metrics if not row[3].startswith("advice/")]
    assert strip == without.metrics and any(row[3] == "loss/critic" for row in strip)


# --- ways of stopping and going on ----------------------------------------------------------------------------


class StopAt(Listener):
    essential = True

    def __init__(self, step):
        self.step = step

    def on_metrics(self, step, rows):
        if step == self.step:
            raise KeyboardInterrupt


def test_resume_continues_from_the_checkpoint(tmp_path):
    config = small(run=replace(small().run, log_dir=str(tmp_path), checkpoint_freq=100, log_freq=50))
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, exp_name="run", listeners=[StopAt(250)])
    run = peerage.load(tmp_path / "run")
    assert (run.folder / "FAILED").exists() and run.metrics["step"].max() == 250
    run = peerage.resume(run)
    assert (run.folder / "DONE").exists() and not (run.folder / "FAILED").exists()
    assert sorted(run.metrics["step"].unique()) == [50, 100, 150, 200, 250, 300]
    assert sorted(run.evaluations["step"].unique()) == [0, 100, 200, 300]
    counts = run.evaluations.groupby(["step", "replica", "member"])["episode"].count()
    assert (counts == 2).all()  # what was written after the checkpoint is not there twice
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.*")}
    peerage.resume(run)  # finished: nothing changes
    before.pop(run.folder / ".lock", None)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_checkpoints_are_found_in_order(tmp_path):
    from peerage.runs.checkpoint import checkpoints

    whole = ("step_1500000000", "step_000000005", "step_999999999")
    for name in (*whole, "step_000000007.tmp", ".step_000000009.partial"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000000005", "step_999999999", "step_1500000000"]


@pytest.mark.parametrize("trust", ["td", "hybrid", "in-context"])
def test_a_checkpoint_restores_every_number(trust, begin, same, tmp_path):
    """Two trainers in the same state do the same, weights, streams, trust, buffers and running episodes included; and
    reading a state, at any step, changes nothing."""
    advice = AdviceConfig(trust=trust, choice="standardised", use_critic=True, use_agent_values=True, follow_steps=2)
    config = small(total_timesteps=200, advice=advice, learner=replace(small().learner, buffer_size=(50,)))
    first, unseen = begin(config), begin(config, 181)
    after = None
    for _ in range(121):  # in the middle of an episode, of a block of trust updates and of features not made yet
        first.advance()
        after = checkpoint.save(tmp_path, first.step, first.state(), after=after)
    second = Trainer(config)
    assert second.load_state(checkpoint.load(after)) == [] and not second.first.all()
    for _ in range(60):
        one, two = first.advance(), second.advance()
        assert np.array_equal(one.next_obs, two.next_obs)
    same(first.state(), second.state())
    same(first.state(), unseen.state())
    rows = [trainer.sharing.advice_rows(trainer.names) for trainer in (first, second, unseen)]
    assert rows[0] == rows[1] == rows[2] and any(row["chosen"] for row in rows[0])
    column = {"td": "trust_td", "hybrid": "trust_attention", "in-context": "in_context"}[trust]
    assert len({row[column] for row in rows[0]}) > 2
    second.close()


@pytest.mark.parametrize("trust", ["td", "in-context"])
def test_a_diverged_member_is_frozen_and_the_others_continue_to_train(tmp_path, trust):
    class Poison(Listener):
        """Spoils one member's network half-way, as a too large step would."""

        trainer: Trainer

        def on_metrics(self, step, rows):
            if step == 100:
                self.trainer.group.stacks[0].learner.q.flat[1] = torch.nan

        def on_message(self, step, text):
            self.text = text

    poison = Poison()
    trainer = poison.trainer = Trainer(small(advice=AdviceConfig(trust=trust)))
    folder = RunFolder.create(tmp_path, "run", "run", {"env": "Room-v6"})
    Runner(trainer, poison, folder=folder).run()
    assert trainer.group.active().tolist() == [True, False]
    assert "member-1 of replica 0 is frozen" in poison.text
    assert trainer.group.stacks[0].learner.q.flat[0].isfinite().all()
    assert trainer.sharing.last["score"][0].isfinite().all()
    assert len(list((folder.path / "dumps").iterdir())) == 1


def test_ctrl_c_saves_and_resumes(tmp_path):
    """A real signal, at the earliest point at which the loop can handle it."""
    import os
    import signal

    class CtrlC(Listener):
        def on_metrics(self, step, rows):
            if step == 100:
                os.kill(os.getpid(), signal.SIGINT)

    config = small(run=replace(small().run, log_dir=str(tmp_path), checkpoint_freq=0))
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, exp_name="run", listeners=[CtrlC()])
    run = peerage.resume(tmp_path / "run", verbose=0)
    assert run.metrics["step"].max() == 300
    assert run.evaluations.groupby(["step", "replica", "member"])["episode"].count().max() == 2
    assert len((run.folder / "command.txt").read_text().splitlines()) == 2


def test_a_run_started_with_other_settings_can_be_read(tmp_path):
    config = small(n_peers=1, advice=AdviceConfig(only_follow_others=True))
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="1e3", overwrite=True)
    assert len(run.evaluate(2)) == 2
    again = peerage.config.file.load(run.folder)  # a name that looks like a number is read as a name
    assert again.run.exp_name == "1e3" and not again.run.overwrite


# --- presets and groups ---------------------------------------------------------------------------------------


def shrunk(config: Config) -> Config:
    """The same experiment with tiny networks and batches, just long enough to learn once."""
    if "ppo" in config.learner.algorithm:
        learner = replace(config.learner, n_envs=(2,), n_steps=(2,), batch_size=(4,), net_arch=((4,),))
        return replace(config, total_timesteps=12, learner=learner, run=RunConfig(eval_freq=0))
    learner = replace(
        config.learner, learning_starts=(4,), batch_size=(4,), net_arch=((4,),), buffer_size=(64,), train_freq=(4,),
        gradient_steps=(1,),
    )  # fmt: skip
    return replace(config, total_timesteps=12, learner=learner, run=RunConfig(eval_freq=0))


def test_every_preset_is_built_and_stepped():
    for name in preset_names():
        if name in ("corl-dt", "seed-dt"):  # they need a dataset: test_dt.py
            continue
        trainer = Trainer(shrunk(load(name)))
        trainer.begin()
        while trainer.step < 12:
            trainer.advance()
        losses = {"loss/critic", "loss/value"}  # of off-policy learners and PPO
        assert all(losses & stack.learner.metrics().keys() for stack in trainer.group.stacks), f"{name} did not learn"
        trainer.close()


@pytest.mark.parametrize("n", [1, 3, 64])
def test_groups_of_any_size(n):
    trainer = Trainer(shrunk(small(n_peers=n, advisers=())))
    trainer.begin()
    for _ in range(12):
        trainer.advance()
    trainer.close()


def test_sac_and_td3_advise_each_other():
    learner = LearnerConfig(algorithm=("sac", "td3", "sac"), net_arch=((8,), (8,), (12,)), learning_starts=(10,))
    config = Config(env="Pendulum-v1", n_peers=3, total_timesteps=60, learner=learner, run=RunConfig(eval_freq=0))
    trainer = Trainer(config)
    assert len(trainer.group.stacks) == 3
    trainer.begin()
    for _ in range(60):
        trainer.advance()
    counts = trainer.sharing.counts
    assert counts.sum(axis=1).min() >= 5 and (counts.sum(axis=0) > 0).sum() >= 2
    assert trainer.sharing.last["score"].isfinite().all()
    trainer.close()


def test_envs_with_arguments():
    """terminate_when_unhealthy=false is passed to the environment: the episode of a fallen hopper continues."""
    config = Config(
        env="Hopper-v4", env_args={"terminate_when_unhealthy": False}, n_peers=1, total_timesteps=300,
        learner=LearnerConfig(learning_starts=(300,), net_arch=((4,),)), run=RunConfig(eval_freq=0),
    )  # fmt: skip
    trainer = Trainer(config)
    trainer.begin()
    assert not any(trainer.advance().terminated.any() for _ in range(300))
    trainer.close()


# --- from Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trust_buffer_size": 5, "trust": "td"}, "trust_batch_size"),
        ({"advisers": [object()]}, "not an adviser"),
        ({"n_peers": 64, "buffer_size": 10**13, "total_timesteps": 10**13}, "memory"),
        ({"env": "Rom-v21"}, "Room"),
        ({"algorithm": "sac"}, "Discrete"),
        ({"n_peers": 0}, "n_peers"),
        ({"total_timesteps": -5}, "total_timesteps"),
        ({"advisers": ["expertt"]}, "did you mean 'expert'"),
        ({"advisers": ["adversary"], "env": "CartPole-v1"}, "adversary"),
        ({"advisers": ["negated:"]}, "negated"),
        ({"learning_rate": (1e-3, 1e-3, 1e-3)}, "3 values"),
        ({"learnin_rate": 1e-3}, "learning_rate"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"load_paths": "nowhere.zip"}, "nowhere.zip"),
        ({"advisers": ["constant:9"]}, "constant:9"),
        ({"exp_name": "../out"}, "exp_name"),
    ],
)
def test_invalid_input_gives_a_one_line_error_and_nothing_is_written(tmp_path, settings, words):
    defaults = {"env": "Room-v6", "n_peers": 2, "total_timesteps": 100, "log_dir": str(tmp_path / "logs")}
    with pytest.raises(UserError) as error:
        peerage.train(**{**defaults, **settings})
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "logs").exists()


def test_tensorboard_and_wandb_log_a_training(tmp_path, monkeypatch):
    """The real packages, W&B offline."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = small(run=replace(small().run, log_dir=str(tmp_path), use_tensorboard=True, use_wandb=True))
    run = peerage.train(config=config, exp_name="logged")
    assert list((run.folder / "tensorboard").glob("events*")) and list(run.folder.glob("wandb/offline-run-*/*.wandb"))


def test_an_environment_that_gives_nan_is_named_with_the_step(tmp_path):
    class Broken(Match):
        def step(self, action):
            obs, *rest = super().step(action)
            return (obs * np.nan if self.steps == 7 else obs), *rest

    with pytest.raises(UserError, match=r"step 7.*not finite"):
        peerage.train(
            Broken, n_peers=1, total_timesteps=50, learning_starts=20, eval_freq=0, log_dir=str(tmp_path), verbose=0
        )
    assert (next(tmp_path.iterdir()) / "FAILED").exists()


@pytest.mark.report
@pytest.mark.long
def test_the_examples_run(tmp_path, monkeypatch):
    """As a user runs them, but shorter."""
    import runpy
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    real = peerage.api.train
    shorter = {"total_timesteps": 300, "learning_starts": 50, "eval_freq": 100, "n_eval_episodes": 1, "verbose": 0}

    def train(*args, **settings):
        skipped = ["learning_starts"] if "data" in settings else []
        return real(*args, **{**settings, **{k: v for k, v in shorter.items() if k not in skipped}})

    monkeypatch.setattr(peerage, "train", train, raising=False)
    examples = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
    assert len(examples) >= 2
    for example in examples:
        runpy.run_path(str(example), run_name="__main__")
    assert len(list((tmp_path / "experiments").glob("*/report.html"))) == len(examples)
