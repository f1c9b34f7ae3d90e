"""Training of the Decision Transformer: the loss, AdamW with its schedule, runs from data, and one trajectory that it
replays."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from small_data import cart_and_swing, write_dataset

import peerage
from peerage.cli import main
from peerage.learners.base import Space
from peerage.learners.dt import DT
from peerage.learners.dt_settings import DTSettings
from peerage.learners.streams import StreamKey
from peerage.nets.gpt import Sequences, StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.episodes import Episode
from peerage.offline.prepared import preprocessing_of
from peerage.offline.trajectories import load_data, trajectories
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener

pytestmark = pytest.mark.usefixtures("no_reports")

TINY = {"gpt_d_model": 16, "gpt_n_layers": 2, "gpt_context_length": 5, "batch_size": 8, "n_peers": 1, "verbose": 0}
SHORT = {"total_timesteps": 40, "eval_freq": 20, "n_eval_episodes": 2, "log_freq": 10, "checkpoint_freq": 10}
TORQUES = Space(3, 1, 0, np.full(1, -2, np.float32), np.full(1, 2, np.float32))
POLE = Space(4, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of Minari's datasets for this file: `cart` and `swing`."""
    return cart_and_swing(tmp_path_factory.mktemp("datasets"), 20, 30)


@pytest.fixture(autouse=True)
def names(folder, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))


def train(log_dir: Path, name: str, algorithm: object = "dt", data: str = "cart-v0", **settings) -> peerage.Run:
    more = {**SHORT, **TINY, **settings}
    return peerage.train(algorithm=algorithm, data=data, log_dir=str(log_dir), exp_name=name, **more)


def learned(run: peerage.Run) -> tuple:
    """The tables and the state of the last checkpoint."""
    tables = [(run.folder / table).read_bytes() for table in ("metrics.csv", "evaluations.csv")]
    return tables, checkpoint.load_one(run.folder, "")[1]["trainer"]


class Kill(Listener):
    """Ends the training after some step as a kill would: without a checkpoint."""

    def on_metrics(self, step, rows) -> None:
        if step == 30:
            raise KeyboardInterrupt


def learner_of(data, space, rows: int = 1, algorithm: str = "dt", dropout: float = 0.0, **settings) -> DT:
    gpt = GPTSettings(context_length=5, d_model=16, n_layers=2, dropout=dropout, max_ep_len=40)
    made = DTSettings(algorithm, net_settings=gpt, batch_size=8, **settings)
    keys = [StreamKey(0, r, 0) for r in range(rows)]
    return DT([made] * rows, keys, space, 20, data=data, dtype=torch.float64)


# --- gradient steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["dt", "ddt"])
@pytest.mark.parametrize("name, space", [("cart-v0", POLE), ("swing-v0", TORQUES)])
def test_gradient_steps_follow_their_equations(name, space, algorithm) -> None:
    """Four steps in float64 equal torch's AdamW, with clipping, warm-up and decay of matrices and embeddings, on the
    loss of windows that are cut out of the episodes by hand."""
    data = load_data(name)
    settings = {"learning_rate": 0.01, "weight_decay": 0.1, "warmup_ratio": 0.1, "anneal_lr": True}
    learner = learner_of(data, space, algorithm=algorithm, max_grad_norm=0.25, return_scale=10, **settings)
    sizes = learner.net.obs, learner.net.act, learner.net.settings
    net = StackedGPT(1, *sizes, tanh=not space.discrete, dtype=torch.float64)
    net.copy_(learner.net)
    parts = {n: torch.nn.Parameter(w[0].clone()) for n, w in learner.net.weights().items()}
    plain = [n for n in parts if "norm" in n or n.endswith("bias")]
    assert len(plain) > 10 and {"timestep.weight", "position.weight", "out.weight"} <= parts.keys() - set(plain)
    groups = [{"params": [p for n, p in parts.items() if (n in plain) == no], "weight_decay": 0.0 if no else 0.1}
              for no in (True, False)]  # fmt: skip
    adamw = torch.optim.AdamW(groups, lr=0.01)
    uniform = learner.stream_keys[0].generator("data")
    obs = (data.obs - data.obs.astype(float).mean(0)) / data.obs.astype(float).std(0)
    for step in range(1, 5):
        index = (uniform.random(8) * data.steps).astype(int)
        shapes = (space.obs_dim, space.n_actions or 1, 1)
        states, actions, rtg = (torch.zeros(1, 8, 5, n, dtype=torch.float64) for n in shapes)
        timesteps, mask = torch.zeros(1, 8, 5, dtype=torch.long), torch.zeros(1, 8, 5, dtype=torch.bool)
        for b, first in enumerate(index):
            begin, end = next((s, e) for s, e in pairwise(data.starts) if s <= first < e)
            for k, t in enumerate(range(first, min(first + 5, end))):
                states[0, b, k], timesteps[0, b, k], mask[0, b, k] = torch.tensor(obs[t]), t - begin, True
                rtg[0, b, k] = float(data.rewards[t:end].astype(float).sum()) / 10
                if space.discrete:
                    actions[0, b, k, int(data.actions[t, 0])] = 1
                else:
                    actions[0, b, k] = torch.tensor(data.actions[t].astype(float)) / 2
        net.grad.zero_()
        out = net.forward(net.weights(grad=True), Sequences(states, actions, rtg, timesteps, mask))[mask]
        wanted = actions[mask]
        loss = -(out.log_softmax(1) * wanted).sum(1).mean() if space.discrete else (out - wanted).square().mean()
        loss.backward()
        for n, p in parts.items():
            p.grad = net.grads()[n][0].clone()
        torch.nn.utils.clip_grad_norm_(parts.values(), 0.25)
        for group in adamw.param_groups:  # 20 steps, of which the first two warm up
            group["lr"] = 0.01 * {1: 0.0, 2: 0.5, 3: 1.0, 4: 17 / 18}[step]
        adamw.step()
        for n, w in net.weights().items():
            w[0].copy_(parts[n].detach())
        learner.learn(step)
        assert learner.means.take()["loss/actor"].item() == pytest.approx(loss.item(), rel=1e-5)
    for n, w in learner.net.weights().items():
        torch.testing.assert_close(w[0], parts[n].detach(), rtol=1e-4, atol=1e-6, msg=n)


def test_rows_do_not_depend_on_each_other(same) -> None:
    """With dropout: the first rows of a larger stack have the same bits, and another row draws other numbers."""
    data = load_data("swing-v0")
    small, large = (learner_of(data, TORQUES, rows, dropout=0.1) for rows in (2, 3))
    for step in (1, 2, 3):
        small.learn(step), large.learn(step)
    same(small.net.flat, large.net.flat[:2])
    assert not torch.equal(large.net.flat[1], large.net.flat[2])


def test_the_statistics_of_the_data_by_hand() -> None:
    """Rewards 1 2 3 and 5: returns-to-go 6 5 3 and 5, with gamma 0.5 2.75 3.5 3 and 5."""
    data = trajectories([
        Episode(np.array([[0.0], [2], [4], [9]]), np.zeros((3, 1)), np.array([1.0, 2, 3]), True),
        Episode(np.array([[6.0], [9]]), np.zeros((1, 1)), np.array([5.0]), False),
    ])  # fmt: skip
    found = preprocessing_of(data, 5, np.full(1, -2, np.float32), np.full(1, 2, np.float32))
    assert (found.state_mean, found.state_std) == (3, np.float32(np.sqrt(5))) and found.bounded
    assert found.rtg_low.tolist() == [5, 5, 3, 3, 3] and found.rtg_high.tolist() == [6, 5, 3, 3, 3]
    assert found.scale == 6 and found.largest == 6 and found.returns[[0, 50]].tolist() == [5, 5.5]
    halved = preprocessing_of(data, 3, scale=4, gamma=0.5)
    assert halved.rtg_low.tolist() == [2.75, 3.5, 3] and halved.rtg_high.tolist() == [5, 3.5, 3]
    assert halved.scale == 4 and halved.gamma == 0.5
    found.check()


def test_the_published_settings_train(tmp_path) -> None:
    """120 passes over 8 episodes in batches of 64 are 120 steps; a smaller network takes less time."""
    words = ["--data", "cart-v0", "--gpt-d-model", "8", "--gpt-n-layers", "1", "--eval-freq", "0", "--verbose", "0"]
    assert main(["train", "--config", "seed-dt", *words, "--log-dir", str(tmp_path)]) == 0
    run = peerage.load(tmp_path / "seed-dt-seed-0")
    assert run.config.total_timesteps == 120 and run.config.env == "CartPole-v1"
    losses = run.metrics.query("name == 'loss/actor'")["value"]
    assert len(losses) == 1 and losses.iloc[0] < 0.7


# --- runs -----------------------------------------------------------------------------------------


def test_a_killed_run_resumes_bit_for_bit(tmp_path, same) -> None:
    """dt and ddt in one group of two replicas. They act without the data, for targets, and know its statistics."""
    settings = {"algorithm": ("dt", "ddt"), "n_peers": 2, "replicas": 2}
    whole = train(tmp_path, "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "killed", **settings, listeners=[Kill()])
    peerage.resume(tmp_path / "killed")
    same(learned(peerage.load(tmp_path / "killed")), learned(whole))
    assert whole.config.gpt.max_ep_len == 20 and not whole.config.gpt.decoupled
    kept = learned(whole)[1]["group"]["stacks"]["0"]["learner"]["parameters"]
    assert kept["returns"][0, -1] == load_data("cart-v0").returns.max() and kept["rtg_low"].shape == (2, 20)
    found = whole.evaluations
    assert found.query("mode == 'alone'")["target"].unique().tolist() == [load_data("cart-v0").returns.max()]
    assert found.query("mode == 'targets'")["step"].unique().tolist() == [40]
    assert found.query("mode == 'targets'")["target"].max() == pytest.approx(1.2 * kept["returns"][0, -1].item())
    assert len(whole.evaluate(1, members=[1])) >= 2


class Wave(gymnasium.Env):
    """A point that is to move as a wave does: the observation is its position, the reward 1 minus the distance of the
    move from the right one. All episodes are alike, and the right move follows from the steps before alone."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.place = 0, np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action):
        wanted = 0.8 * np.sin(1.7 * self.time)
        self.time, self.place = self.time + 1, np.clip(self.place + action, -9, 9).astype(np.float32)
        return self.place, 1 - float(abs(action[0] - wanted)), False, self.time == 12, {}


def test_one_trajectory_is_replayed(tmp_path) -> None:
    """After overfitting, both models repeat the only episode of their data, whose return is 12."""
    env = Wave()
    data = write_dataset(
        tmp_path / "one-v0", env, lambda *_: np.array([0.8 * np.sin(1.7 * env.time)], np.float32), 1
    )
    run = train(
        tmp_path, "run", ("dt", "ddt"), data=str(data), env=Wave, n_peers=2, total_timesteps=150, eval_freq=150,
        n_eval_episodes=1, gpt_dropout=0.0, learning_rate=5e-3, gpt_context_length=4,
    )  # fmt: skip
    returns = run.evaluations.query("mode == 'alone'").pivot(index="step", columns="member", values="return")
    assert returns.loc[0].max() < 9 and returns.loc[150].min() > 11.5
    assert run.config.env.endswith(":Wave")


@pytest.mark.parametrize("words, message", [
    ("--max-ep-len 15", "--max-ep-len 15 is less than the 20 steps of CartPole-v1"),
    ("--gpt-d-model 15 --gpt-n-heads 2", "n_heads 2 does not divide d_model 15"),
    ("--gamma 0", "--gamma must be above 0 for dt"),
    ("--batch-size 0", "--batch-size must be at least 1"),
    ("--d-model 16", "--d-model has no effect without --net attention"),
    ("--net-arch 16", "--net-arch has no effect: dt does not have this setting"),
    ("--target-return best", "--target-return"),
])  # fmt: skip
def test_refusals_are_one_line_and_write_nothing(tmp_path, capsys, words, message) -> None:
    given = ["train", "--algorithm", "dt", "--data", "cart-v0", "--log-dir", str(tmp_path / "runs"), *words.split()]
    assert main(given) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not (tmp_path / "runs").exists()
    assert main(["train", "--gpt-d-model", "16", "--log-dir", str(tmp_path / "runs")]) == 2
    assert "--gpt-d-model is for --algorithm dt or ddt" in capsys.readouterr().err
