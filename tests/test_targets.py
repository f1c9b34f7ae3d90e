"""Evaluations for target returns: batches, columns, refusals, old files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import peerage
from peerage.cli import main
from peerage.config.methods import LEARNERS
from peerage.envs.make import EnvMaker
from peerage.errors import UserError
from peerage.evaluation.evaluate import Evaluator
from peerage.evaluation.targets import Targets
from peerage.learners.base import Learner
from peerage.nets.gpt import StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.context import Contexts
from peerage.offline.preprocessing import Preprocessing
from peerage.reports.report import write_report
from peerage.runs.tables import CsvLog, read_evaluations
from peerage.statistics.calibration import calibration, histogram
from peerage.text import number
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports", "one_thread")

K, LIMIT = 4, 30


class Untrained(Learner):
    """A Decision Transformer for CartPole that does not learn; its actions depend on the target."""

    def __init__(self, settings, stream_keys, space, total_steps, *, device="cpu", dtype=torch.float32):
        super().__init__(settings, stream_keys, space, total_steps, device=device, dtype=dtype)
        gpt = GPTSettings(context_length=K, d_model=8, n_layers=2, max_ep_len=LIMIT)
        self.net = StackedGPT(self.rows, space.obs_dim, space.n_actions, gpt, tanh=False, dtype=dtype)
        self.net.init_([key.generator("init") for key in stream_keys])
        self.net.flat.mul_(20)
        known = {"returns": np.arange(101, dtype=np.float32), "rtg_low": np.float32([0]), "rtg_high": np.float32([100])}
        one = np.ones(space.obs_dim, np.float32)
        self.preprocessing = Preprocessing(0 * one, one, 10.0, n_actions=space.n_actions, **known)

    def suggest(self, obs, noise):
        return obs.new_zeros(*obs.shape[:2], 1)

    def conditioned(self, episodes, *, clip=False, rows=slice(None)):
        n = len(range(self.rows)[rows]) * episodes
        return Contexts(self.net, self.preprocessing, n, clip=clip, rows=rows)

    def parameters(self):
        return {"net": self.net.flat}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(LEARNERS, "methods", dict(LEARNERS.methods))
    peerage.register_learner("untrained", Untrained, takes_target=True)


def settings(**more):
    base = {"env_args": {"max_episode_steps": LIMIT}, "algorithm": "untrained", "n_peers": 2, "replicas": 2}
    small = {"total_timesteps": 40, "eval_freq": 20, "n_eval_episodes": 3, "verbose": 0, "sharing": "none"}
    return {**base, **small, "threads": 1, **more}


@pytest.fixture
def run(tmp_path):
    return peerage.train("CartPole-v1", **settings(log_dir=str(tmp_path), exp_name="run"))


def test_evaluations_of_a_training_have_targets(tmp_path, capsys):
    """The first target in every evaluation, the others at the end, with the same episodes. The lines of the display
    name the target."""
    run = peerage.train("CartPole-v1", **settings(log_dir=str(tmp_path), verbose=1))
    rows, printed = run.evaluations, capsys.readouterr().out
    means = rows[rows["step"] == 40].groupby("target")["return"].mean()
    for target, mean in means.items():
        assert f"step 40: evaluation for target {number(target)}: {number(mean)}" in printed
    assert printed.count("evaluation for target") == 2 + len(means) == 7
    assert list(rows.columns)[-2:] == ["mode", "target"]
    sizes = rows.groupby(["step", "mode", "target"]).size()
    members = 2 * 2 * 3
    assert sizes.to_dict() == {
        (0, "alone", 100): members, (20, "alone", 100): members, (40, "alone", 100): members,
        **{(40, "targets", target): members for target in (10, 50, 90, 120)},
    }  # fmt: skip
    assert read_evaluations(run.folder)["target"].unique().tolist() == [100]
    assert sorted(rows[rows["mode"] == "targets"]["episode"].unique()) == [0, 1, 2]
    last = rows[rows["step"] == 40].groupby(["replica", "member", "episode"])["return"].nunique()
    assert (last > 1).any()  # the actions depend on the target


def test_a_batch_of_targets_equals_single_episodes(run, capsys):
    """Every episode of every member and target, played alone from the same seed."""
    trainer = Trainer(run.config, pretrained=False)
    seeds = [[7, 8], [9, 10]] * 2
    maker = EnvMaker("CartPole-v1", {"max_episode_steps": LIMIT})
    targets = Targets(trainer.group, [5.0, 60.0])
    repeated = [of_member * 2 for of_member in seeds]
    together = Evaluator([maker] * 4, repeated).run(targets.actor(targets.values, 2))
    assert len(together) == 4 * 2 * 2
    learner = trainer.group.stacks[0].learner
    for m, which, episode in together:
        target, seed = [5.0, 60.0][which // 2], repeated[m][which]
        net = StackedGPT(1, learner.net.obs, learner.net.act, learner.net.settings, tanh=False)
        net.flat.copy_(learner.net.flat[m : m + 1])
        contexts, env = Contexts(net, learner.preprocessing, 1), maker.make()
        contexts.begin(np.arange(1), target)
        obs, total, length, done = env.reset(seed=seed)[0], 0.0, 0, False
        while not done:
            action = contexts.act(obs[None])
            step = env.step(int(action[0, 0]))
            contexts.observe(obs[None], action, np.array([step[1]]), np.zeros(1, bool))
            obs, total, length, done = step[0], total + step[1], length + 1, step[2] or step[3]
        assert (episode.return_, episode.length) == (total, length)
    trainer.close()


def test_evaluate_takes_targets(run, capsys):
    words = ["evaluate", str(run.folder), "--episodes", "2", "--members", "0"]
    assert main([*words, "--target-return", "50", "500"]) == 0
    out = capsys.readouterr().out
    assert "the target return 500.0 exceeds the largest return of the data, 100.0" in out
    assert "target 50.0: " in out and "target 500.0: " in out
    assert "success  target\n" in out and "alone" not in out
    assert main([*words, "--target-return", "50", "500", "--clip-targets", "--json"]) == 0
    out = capsys.readouterr().out
    assert '"target": 100.0' in out and "500" not in out
    with pytest.raises(UserError, match="target_return nan is not a finite number"):
        run.evaluate(2, target_return=[5, float("nan")])
    table = run.evaluate(2, target_return=[5, 6])
    assert table.groupby(["mode", "target"]).size().to_dict() == {("alone", 5): 8, ("targets", 6): 8}
    five = table.query("target == 5").reset_index(drop=True)
    for one in (5, np.float64(5), np.array([5])):
        pd.testing.assert_frame_equal(run.evaluate(2, target_return=one), five)
    assert main([*words, "--target-return", "nan"]) == 2
    assert "expected a number, got 'nan'" in capsys.readouterr().err
    assert main([*words, "--target-return", "5", "--perturb", "observation_noise=0.1"]) == 2


def test_algorithms_without_targets_refuse_them(tmp_path, capsys):
    train = ["train", "--env", "CartPole-v1", "--log-dir", str(tmp_path), "--algorithm", "dqn"]
    for more in (["--target-return", "5"], ["--clip-targets"]):
        assert main([*train, *more]) == 2
        err = capsys.readouterr().err
        assert f"{more[0]} is for " in err and "untrained, but this is dqn" in err
    assert not list(tmp_path.iterdir())
    base = {"n_peers": 1, "total_timesteps": 20, "eval_freq": 0, "verbose": 0, "learning_starts": 5, "batch_size": 4}
    run = peerage.train("CartPole-v1", algorithm="dqn", log_dir=str(tmp_path), exp_name="dqn", **base)
    assert main(["evaluate", str(run.folder), "--target-return", "5"]) == 2
    assert "untrained, but this is dqn" in capsys.readouterr().err
    with pytest.raises(UserError, match="target_return: expected a finite number, got nan"):
        peerage.train("CartPole-v1", **settings(target_return=[float("nan")], log_dir=str(tmp_path)))


def test_files_without_the_column_still_load_and_continue(tmp_path):
    header = b"step,replica,member,episode,return,length,success,mode\n"
    (tmp_path / "evaluations.csv").write_bytes(header + b"0,0,member-0,0,1,5,,alone\n")
    log = CsvLog(tmp_path)
    log.on_evaluations(10, [(0, "member-0", 0, 2.0, 6, None, "alone", 7.0)])
    log.close()
    assert (tmp_path / "evaluations.csv").read_bytes().endswith(b"alone\n10,0,member-0,0,2,6,,alone\n")
    table = read_evaluations(tmp_path)
    assert table["return"].tolist() == [1, 2] and table["target"].isna().all()


def test_calibration_by_hand(tmp_path):
    """Two replicas with two members; the correlation and the error leave out the target beyond the data."""
    log = CsvLog(tmp_path)
    achieved = {0.0: 10.0, 50.0: 40.0, 100.0: 90.0, 120.0: 0.0}
    for step in (10, 20):
        rows = [
            (r, f"member-{i}", 0, value + step - 20 + 4 * r + 2 * i - 3, 5, None, mode, target)
            for target, value in achieved.items() for r in range(2) for i in range(2)
            for mode in ["targets" if target else "alone"]
        ]  # fmt: skip
        log.on_evaluations(step, rows)
    log.close()
    evaluations = read_evaluations(tmp_path, mode=None)
    found = calibration(evaluations, np.linspace(0, 100, 101).tolist())
    assert found.step == 20 and found.targets.tolist() == [0, 50, 100, 120]
    assert found.achieved.to_numpy().tolist() == [[8, 12], [38, 42], [88, 92], [-2, 2]]
    assert found.correlation == pytest.approx(np.corrcoef([0, 50, 100], [10, 40, 90])[0, 1])
    assert found.error == pytest.approx(0.1)
    edges, shares = histogram(found.returns, 4)
    assert edges.tolist() == [0, 25, 50, 75, 100] and shares.tolist() == [0.25] * 4
    unknown = calibration(evaluations, "edited")
    assert not len(unknown.returns) and np.isnan(unknown.error)
    assert calibration(read_evaluations(tmp_path)) is None


def test_the_report_shows_achieved_and_target_returns(run):
    """The returns of the data come from environment.json; a file that was edited does no harm."""
    path = run.folder / "environment.json"
    environment = json.loads(path.read_text())
    for returns, text in ((np.linspace(-5, 95, 101).tolist(), "between −5.000 and 95.0"), ([None], "Target returns")):
        path.write_text(json.dumps({**environment, "data": {"returns": returns}}))
        html = write_report(run.folder).read_text()
        assert "evaluation for the target return 100.0 at step 40" in html
        assert "Members act for the target return 100.0." in html
        assert text in html and '<section id="target-returns"' in html
        assert ("Returns of the data" in html) == (len(returns) > 1)
        assert (run.folder / "figures" / "target_returns.png").stat().st_size > 1000
