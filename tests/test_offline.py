"""Training from a dataset: the run, its resume, and what is refused; behaviour cloning against its equations."""

from __future__ import annotations

import json
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import balance, cart_and_swing, write_dataset

import peerage
from peerage.app.form import yaml_of
from peerage.cli import main
from peerage.config import Config, with_settings
from peerage.config.file import from_dict, load, validate, with_members
from peerage.config.plain_yaml import parse
from peerage.errors import UserError
from peerage.learners.base import Space
from peerage.learners.bc import BC
from peerage.learners.bc_settings import BCSettings
from peerage.learners.rvs import RvS
from peerage.learners.rvs_settings import RvSSettings
from peerage.learners.streams import StreamKey
from peerage.learners.td3bc import TD3BC
from peerage.learners.td3bc_settings import TD3BCSettings
from peerage.offline.configured import best_episodes, load_configured
from peerage.offline.episodes import Episode
from peerage.offline.trajectories import load_data, trajectories
from peerage.runs import checkpoint
from peerage.runs.listeners import Listener
from peerage.sweeps.plan import plan_sweep
from peerage.text import number
from peerage.training.build import build_trainer

pytestmark = pytest.mark.usefixtures("no_reports")

TABLES = ("metrics.csv", "evaluations.csv")
SHORT = {"total_timesteps": 60, "eval_freq": 30, "n_eval_episodes": 2, "log_freq": 10, "checkpoint_freq": 20}
SMALL = {"net_arch": (16,), "batch_size": 32, "verbose": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of Minari's datasets for this file: `cart` and `swing`."""
    return cart_and_swing(tmp_path_factory.mktemp("datasets"), 60, 40)


@pytest.fixture(autouse=True)
def names(folder, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))


def train(log_dir: Path, name: str | None, algorithm: object = "bc", data: str = "cart-v0", **settings) -> peerage.Run:
    more = {**SHORT, **SMALL, **settings}
    return peerage.train(algorithm=algorithm, data=data, log_dir=str(log_dir), exp_name=name, **more)


def content(run: peerage.Run) -> tuple:
    """The tables, and the parameters and whole state of the last checkpoint."""
    _, state, _ = checkpoint.load_one(run.folder, "")
    return [(run.folder / table).read_bytes() for table in TABLES], state["trainer"]


class Kill(Listener):
    """Ends the training after some step as a kill would: without a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_metrics(self, step, rows) -> None:
        if step == self.step:
            raise KeyboardInterrupt


# --- runs -----------------------------------------------------------------------------------------


def test_a_killed_run_resumes_bit_for_bit(tmp_path, folder, same) -> None:
    """Members with different settings, replicas, and a kill between two checkpoints; the data is named by its path. A
    repetition from config.yaml and a longer run are the same, too. Trained members need no data."""
    mine = tmp_path / "mine"
    shutil.copytree(folder / "cart-v0", mine)
    settings = {"data": str(mine), "n_peers": 2, "replicas": 2, "learning_rate": (1e-3, 3e-3)}
    whole = train(tmp_path, "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "killed", **settings, listeners=[Kill(50)])
    killed = peerage.load(tmp_path / "killed")
    assert checkpoint.step_of(checkpoint.checkpoints(killed.folder)[-1]) == 40
    peerage.resume(killed)
    same(content(killed), content(whole))
    config = whole.config
    assert config.env == "CartPole-v1" and config.env_args == {"max_episode_steps": 60}
    assert config.data == str(mine) and len(config.data_fingerprint) == 64 and config.advice.sharing == "none"
    assert whole.evaluations["step"].unique().tolist() == [0, 30, 60] and whole.evaluations["length"].max() <= 60
    losses = whole.metrics.query("name == 'loss/actor'").pivot(index="step", columns=["replica", "member"])["value"]
    assert losses.shape == (6, 4) and (losses.iloc[-1] < losses.iloc[0]).all()
    assert len(set(losses.iloc[-1])) == 4  # every member has its own networks and draws its own batches

    again = peerage.train(config=whole.folder, log_dir=str(tmp_path), exp_name="again", verbose=0)
    same(content(again), content(whole))
    peerage.resume(again, total_timesteps=70)
    same(content(again)[1], content(train(tmp_path, "long", **settings, total_timesteps=70))[1])

    before = whole.evaluate(2), whole.policy(1)(np.zeros(4))
    shutil.rmtree(mine)
    assert before[0].equals(whole.evaluate(2)) and before[1] == whole.policy(1)(np.zeros(4))
    with pytest.raises(UserError, match="no dataset at"):
        peerage.resume(whole, total_timesteps=70)
    write_dataset(mine, "CartPole-v1", balance, 8, seed=1, max_episode_steps=60)
    now = content(whole)
    with pytest.raises(UserError, match="has changed since it was first used"):
        peerage.resume(whole, total_timesteps=70)
    same(content(whole), now)
    more = {"config": whole.folder, "log_dir": str(tmp_path), "total_timesteps": 1, "eval_freq": 0, "verbose": 0}
    with pytest.raises(UserError, match='restore it, or train a new run on the new data with data="NAME"'):
        peerage.train(**more, exp_name="other")
    other = peerage.train(**more, exp_name="other", data=str(mine)).config
    assert other.data_fingerprint == load_data(mine).source.fingerprint != config.data_fingerprint


def test_replicas_do_not_depend_on_each_other(tmp_path, same) -> None:
    """A replica of a larger run, and a member beside others, have the bits of a smaller run."""
    small = content(train(tmp_path, "small", replicas=2))[1]["group"]["stacks"]["0"]["learner"]
    large = content(train(tmp_path, "large", replicas=3))[1]["group"]["stacks"]["0"]["learner"]
    same(small["parameters"]["policy"], large["parameters"]["policy"][:2])
    other = content(train(tmp_path, "other", replicas=2, seed=1))[1]["group"]["stacks"]["0"]["learner"]
    assert not torch.equal(small["parameters"]["policy"], other["parameters"]["policy"])


@pytest.mark.report
def test_the_commands_work_on_a_run_from_data(tmp_path, capsys) -> None:
    """A cloned policy balances the pole as the one that made the data; evaluate, compare, video, sweep and another
    environment with the same spaces."""
    words = ["--batch-size", "64", "--net-arch", "32", "--learning-rate", "3e-3", "--log-dir", str(tmp_path)]
    words += ["--algorithm", "bc", "--n-eval-episodes", "2", "--data", "cart-v0"]
    assert main(["train", *words, "--exp-name", "all", "--total-timesteps", "200", "--replicas", "2"]) == 0
    best = ["--data-fraction", "0.3", "--epochs", "200", "--env", "CartPole-v1", "--env-args", "max_episode_steps=30"]
    assert main(["train", *words, "--exp-name", "best", *best]) == 0
    run, best = peerage.load(tmp_path / "all"), peerage.load(tmp_path / "best")
    assert best.config.total_timesteps == 200 and best.config.env_args == {"max_episode_steps": 30}
    assert run.config.n_peers == best.config.n_peers == 1
    assert run.evaluations.query("step == 200")["return"].min() == 60 and best.evaluations["length"].max() == 30
    printed = capsys.readouterr().out
    data = load_data("cart-v0")
    part = best_episodes(data, 0.3)
    low, high = (number(x) for x in (data.returns.min(), data.returns.max()))
    whole = f"cart-v0, 8 episodes ({data.steps} steps), returns {low} to {high}; by hand"
    size = f"{part.episodes} of 8 episodes ({100 * part.steps / data.steps:.2g}% of the steps)"
    for run_of, line in ((run, whole), (best, f"cart-v0, {size}, return {high}; by hand")):
        assert f"data: {line}\n" in printed and f"Data: {line}." in (run_of.folder / "report.html").read_text()
    assert main(["evaluate", str(run.folder), "--episodes", "3"]) == 0
    assert main(["compare", str(run.folder), str(best.folder), "--across-tasks", "--out", str(tmp_path / "c")]) == 0
    assert main(["video", str(run.folder), "--max-frames", "3"]) == 0
    found = run.attention(episodes=2, deletion=False)
    assert found.occlusion.shape == (4,) and found.occlusion[2:].max() > 0.02 and "KL" in found.unit
    assert "60.00" in capsys.readouterr().out


def test_swinging_up_is_cloned_within_the_box(tmp_path) -> None:
    run = train(tmp_path, None, data="swing-v0", learning_rate=1e-2, total_timesteps=150)
    policy = run.policy()
    assert run.folder.name == "swing-v0_bc_1_seed0"
    data = load_data("swing-v0")
    assert np.corrcoef(policy(data.obs.copy())[:, 0], data.actions[:, 0])[0, 1] > 0.95
    assert np.abs(policy(100 * data.obs)).max() == 2


def test_an_offline_run_has_one_member_by_default(tmp_path) -> None:
    """In files and sweeps, too; a given number stays, also if it is that of online runs."""
    (tmp_path / "default.yaml").write_text("data: cart-v0\nlearner: {algorithm: bc}\n")
    (tmp_path / "four.yaml").write_text("data: cart-v0\nn_peers: 4\nlearner: {algorithm: bc}\n")
    for name, size in (("default", 1), ("four", 4)):
        config = with_members(partial(load, tmp_path / f"{name}.yaml"))
        assert config.n_peers == size
        assert with_members(partial(from_dict, parse(yaml_of(config), "the live page"))).n_peers == size
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text('base: "{file}.yaml"\nwhere: runs\ncommon: {batch_size: 8}\naxes: {file: [default, four]}\n')
    epochs = {"data_epochs": 2, "exp_name": "few", "eval_freq": 0, "data_fraction": 0.2}
    config, data = load_configured(validate(with_settings(with_members(partial(load, tmp_path / "four.yaml")), epochs)))
    assert config.learner.batch_size == (data.steps,) and data.steps < 256 and config.steps == 2  # not the default 256
    assert [run.config.n_peers for run in plan_sweep(str(sweep)).runs] == [1, 4]
    assert with_members(lambda base: base).n_peers == 4


class Linear(peerage.Learner):
    """A learner of a user, as in docs/extending.md: least squares."""

    def __init__(self, *args, data=None, **where):
        super().__init__(*args, **where)
        self.trajectories = data
        self.weights = torch.zeros(self.rows, self.space.obs_dim, self.space.act_dim)

    def suggest(self, obs, noise):
        return obs @ self.weights

    def learn(self, step):
        obs, actions = (torch.tensor(x) for x in (self.trajectories.obs, self.trajectories.actions))
        self.weights[:] = torch.linalg.lstsq(obs, actions).solution

    def parameters(self):
        return {"policy": self.weights.flatten(1)}


def test_a_learner_of_a_user_learns_from_data(tmp_path, folder) -> None:
    peerage.register_learner("linear", Linear, actions=("box",), offline=True)
    settings = {"algorithm": "linear", "data": folder / "swing-v0", "verbose": 0}
    settings["log_dir"] = str(tmp_path)
    run = peerage.train(**settings, exp_name="run", total_timesteps=2, eval_freq=0)
    found = np.linalg.lstsq(load_data("swing-v0").obs, load_data("swing-v0").actions)[0]
    assert run.policy()(np.eye(3))[:, 0] == pytest.approx(found[:, 0].clip(-2, 2), abs=1e-3)
    peerage.resume(run, total_timesteps=3)
    with pytest.raises(UserError, match="linear learns from a dataset"):
        peerage.train(**{**settings, "data": ""}, exp_name="other")


@pytest.mark.parametrize("words, message", [
    ("--algorithm bc", "bc learns from a dataset: add --data"),
    ("--data cart-v0", "--data needs an offline algorithm: use --algorithm with one of bc"),
    ("--algorithm dqn --data cart-v0", "an offline algorithm, and dqn is not one"),
    ("--algorithm bc dqn --n-peers 2 --data cart-v0", "an offline algorithm, and dqn is not one"),
    ("--data-fraction 0.1", "--data-fraction has no effect without --data"),
    ("--epochs 3", "--data-epochs has no effect without --data"),
    ("--algorithm bc --data nowhere", "no dataset 'nowhere'"),
    ("--algorithm bc --data cart-v0 --env Pendulum-v1", "cart-v0 has observations of 4 numbers and 2 discrete "
     "actions, but "
     "Pendulum-v1 has observations of 3 numbers and actions of 1 number (-2 to 2): use data and an"),
    ("--algorithm bc --data swing-v0 --batch-size 9 --env MountainCarContinuous-v0",
     "but MountainCarContinuous-v0 has observations of 2 numbers"),
    ("--algorithm bc --data cart-v0 --data-fingerprint 12", "has changed since it was first used"),
    ("--algorithm bc --data cart-v0 --batch-size 4096", "--batch-size 4,096 is more than the"),
    ("--algorithm bc --data cart-v0 --data-fraction 0.1 --batch-size 200", "--batch-size 200 is more than the"),
    ("--algorithm td3bc --data cart-v0", "use --algorithm with one of bc, dt, ddt, rvs"),
    ("--algorithm bc --data cart-v0 --learning-rate 1e-3 1e-4", "2 values for 1 member; give one value"),
    ("--algorithm bc --data cart-v0 --gamma 0.9", "--gamma has no effect: bc does not have this setting"),
    ("--algorithm bc --data cart-v0 --learning-starts 9", "--learning-starts has no effect"),
    ("--algorithm bc --data cart-v0 --advisers random", "--advisers has no effect with bc"),
    ("--algorithm bc --data cart-v0 --sharing advice", "--sharing has no effect with bc"),
    ("--algorithm bc --data cart-v0 --epsilon 0.1", "--epsilon has no effect with bc"),
    ("--algorithm bc --data cart-v0 --trust td", "--trust has no effect with bc"),
    ("--algorithm bc --data cart-v0 --perturb observation_noise=1", "--perturb has no effect with bc"),
    ("--algorithm bc --data cart-v0 --n-peers 2 --exchange average", "--exchange has no effect with bc"),
    ("--algorithm bc --data cart-v0 --data-fraction 0", "--data-fraction must be in (0, 1], got 0"),
])  # fmt: skip
def test_refusals_are_one_line_and_write_nothing(tmp_path, capsys, words, message) -> None:
    assert main(["train", *words.split(), "--log-dir", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_the_module_of_an_environment_that_a_dataset_names_is_not_executed(tmp_path, monkeypatch, capsys) -> None:
    """A dataset of a stranger, with a module beside it."""
    folder = write_dataset(tmp_path / "strange-v0", "CartPole-v1", balance, 4, max_episode_steps=20)
    (tmp_path / "traps.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    metadata = folder / "data" / "metadata.json"
    about = json.loads(metadata.read_text())
    traps = {"env_spec": json.dumps({"id": "traps:CartPole-v1"})}, {"peerage": {"env": "traps:f", "env_args": {}}}
    for changes in traps:
        metadata.write_text(json.dumps(about | changes))
        assert main(["train", "--algorithm", "bc", "--data", str(folder), "--log-dir", "runs"]) == 2
        assert "whose module would be executed: add --env traps:" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists() and not (tmp_path / "runs").exists()


def test_a_name_without_a_version_stays_that_of_the_data(tmp_path, monkeypatch) -> None:
    """A run resumes although a newer version was collected."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_dataset(tmp_path / "cart-v0", "CartPole-v1", balance, 4, max_episode_steps=20)
    run = train(tmp_path, "run", data="cart", total_timesteps=20, eval_freq=0)
    write_dataset(tmp_path / "cart-v1", "CartPole-v1", balance, 4, seed=9, max_episode_steps=20)
    assert run.config.data == "cart-v0"
    peerage.resume(run, total_timesteps=30)


def test_an_environment_in_a_file_is_kept_although_it_is_the_default(tmp_path, capsys) -> None:
    file = tmp_path / "lander.yaml"
    file.write_text("env: LunarLander-v3\ndata: cart-v0\nlearner: {algorithm: bc}\n")
    assert main(["train", "--config", str(file), "--log-dir", str(tmp_path / "runs")]) == 2
    assert "but LunarLander-v3 has observations of 8 numbers" in capsys.readouterr().err


# --- data -----------------------------------------------------------------------------------------


def test_the_best_episodes_by_hand() -> None:
    """Returns 5, 2, 9, 9, 1 with lengths 2, 3, 4, 1, 10: 20 steps."""
    lengths, returns = [2, 3, 4, 1, 10], [5, 2, 9, 9, 1]
    data = trajectories([
        Episode(np.full((n + 1, 1), i), np.zeros((n, 1)), np.array([r] + [0] * (n - 1)), True)
        for i, (n, r) in enumerate(zip(lengths, returns))
    ])  # fmt: skip
    for fraction, episodes in ((0.01, [2]), (0.2, [2]), (0.25, [2, 3]), (0.35, [0, 2, 3]), (0.99, [0, 1, 2, 3])):
        assert best_episodes(data, fraction).last_obs[:, 0].tolist() == episodes
    assert best_episodes(data, 1.0) is data


# --- behaviour cloning ------------------------------------------------------------------------------


def made(algorithm, settings, space: Space, data, rows: int = 1, **where):
    return algorithm([settings] * rows, [StreamKey(0, r, 0) for r in range(rows)], space, 100, data=data, **where)


def through(weights: torch.Tensor, sizes: list[int], x: torch.Tensor) -> torch.Tensor:
    """A network with ReLU, written out: the parameters of all layers in one vector."""
    for n, (i, o) in enumerate(pairwise(sizes)):
        w, b, weights = weights[: i * o].view(i, o), weights[i * o : i * o + o], weights[i * o + o :]
        x = x @ w + b
        x = x.relu() if n < len(sizes) - 2 else x
    return x


@pytest.mark.parametrize("name, env", [("cart-v0", "CartPole-v1"), ("swing-v0", "Pendulum-v1")])
def test_a_gradient_step_of_bc_follows_its_equations(name, env) -> None:
    """Standardised inputs, the loss, and Adam's first step, in float64; the best 50% of the data."""
    data = best_episodes(load_data(name), 0.5)
    spec = build_trainer(Config(env=env)).spec
    low, high = (None, None) if spec.discrete else (spec.action_low, spec.action_high)
    space = Space(spec.obs_dim, spec.act_dim, spec.n_actions, low, high)
    settings = BCSettings("bc", net_arch=(8,), batch_size=16, learning_rate=0.01)
    learner = made(BC, settings, space, data, rows=2, dtype=torch.float64)
    sizes = [spec.obs_dim, 8, spec.n_actions or 1]
    mean, std = data.obs.astype(float).mean(0), np.sqrt(data.obs.astype(float).var(0) + 1e-8)
    index = [(key.generator("data").random(16) * data.steps).astype(int) for key in learner.stream_keys]
    before = learner.net.flat.clone()
    learner.learn(1)
    for row in range(2):
        weights = before[row].clone().requires_grad_()
        x = torch.tensor(((data.obs[index[row]] - mean) / std).clip(-10, 10))
        actions = torch.tensor(data.actions[index[row]], dtype=torch.float64)
        out = through(weights, sizes, x)
        if spec.discrete:
            loss = -out.log_softmax(1)[torch.arange(16), actions[:, 0].long()].mean()
        else:
            loss = (out - actions / 2).square().mean()
        loss.backward()
        expected = before[row] - 0.01 * weights.grad / (weights.grad.abs() + 1e-8)
        torch.testing.assert_close(learner.net.flat[row], expected, rtol=1e-9, atol=1e-12)
        assert learner.means.sums["loss/actor"][row].item() == pytest.approx(loss.item())
    obs = torch.tensor(data.obs[:5], dtype=torch.float64).expand(2, -1, -1)
    acted = learner.suggest(obs)[1]
    out = through(learner.net.flat[1], sizes, torch.tensor(((data.obs[:5] - mean) / std).clip(-10, 10)))
    assert torch.allclose(acted, out.argmax(1, True).double() if spec.discrete else out.clamp(-1, 1) * 2)


def test_a_member_that_diverges_stops_alone(folder) -> None:
    data = load_data("swing-v0")
    space = Space(3, 1, 0, np.full(1, -2, np.float32), np.full(1, 2, np.float32))
    learner = made(BC, BCSettings("bc", net_arch=(8,), batch_size=4), space, data, rows=2)
    learner.net.flat[0, 0] = float("nan")
    before = learner.net.flat.clone()
    learner.learn(1)
    assert learner.active.tolist() == [False, True]
    assert torch.equal(learner.net.flat[0].isnan(), before[0].isnan())
    assert not torch.equal(learner.net.flat[1], before[1])


# --- TD3+BC -----------------------------------------------------------------------------------------


def test_gradient_steps_of_td3bc_follow_its_equations() -> None:
    """Two steps in float64, of which the second one updates the policy: TD3's targets with smoothing, and the policy
    loss with `lambda = alpha / mean |Q|`. Two members with different alphas and streams."""
    data = load_data("swing-v0")
    space = Space(3, 1, 0, np.full(1, -2, np.float32), np.full(1, 2, np.float32))
    common = {"net_arch": (8,), "batch_size": 16, "learning_rate": 0.01}
    settings = [TD3BCSettings("td3bc", **common), TD3BCSettings("td3bc", **common, bc_alpha=0.5)]
    keys = [StreamKey(0, 0, i) for i in range(2)]
    learner = TD3BC(settings, keys, space, 100, data=data, dtype=torch.float64)
    actor_sizes, critic_sizes = [3, 8, 1], [4, 8, 1]
    start = learner.actor.flat.clone(), learner.critic.flat.clone()
    learner.learn(1)
    assert torch.equal(learner.actor.flat, start[0])
    learner.learn(2)
    mean, std = data.obs.astype(float).mean(0), np.sqrt(data.obs.astype(float).var(0) + 1e-8)
    obs, next_obs = (torch.tensor(((x - mean) / std).clip(-10, 10)) for x in (data.obs, data.next_obs()))
    actions, rewards = torch.tensor(data.actions.astype(float)) / 2, torch.tensor(data.rewards.astype(float))
    ends = np.zeros(data.steps)
    ends[data.starts[1:] - 1] = data.terminated
    for row, alpha in enumerate((2.5, 0.5)):
        actor, critics = (x[row].clone() for x in start)
        critics = critics.view(2, -1)
        actor_target, critics_target = actor.clone(), critics.clone()
        actor.requires_grad_(), critics.requires_grad_()
        of_actor, of_critics = (torch.optim.Adam([x], lr=0.01) for x in (actor, critics))
        uniform, normal = keys[row].generator("replay"), keys[row].generator("update")
        for step in (1, 2):
            i = (uniform.random(16) * data.steps).astype(int)
            noise = torch.tensor(normal.standard_normal((16, 1)))
            with torch.no_grad():
                act = through(actor_target, actor_sizes, next_obs[i]).tanh() + (0.2 * noise).clamp(-0.5, 0.5)
                x = torch.cat((next_obs[i], act.clamp(-1, 1)), 1)
                q = torch.minimum(*(through(c, critic_sizes, x)[:, 0] for c in critics_target))
                y = rewards[i] + torch.tensor(1 - ends[i]) * 0.99 * q
            x = torch.cat((obs[i], actions[i]), 1)
            of_critics.zero_grad()
            sum((through(c, critic_sizes, x)[:, 0] - y).square().mean() for c in critics).backward()
            of_critics.step()
            if step == 2:
                of_actor.zero_grad()
                act = through(actor, actor_sizes, obs[i]).tanh()
                q = through(critics[0].detach(), critic_sizes, torch.cat((obs[i], act), 1))
                weight = alpha / q.detach().abs().mean()
                ((act - actions[i]).square().mean() - weight * q.mean()).backward()
                of_actor.step()
        close = {"rtol": 1e-8, "atol": 1e-10}
        torch.testing.assert_close(learner.critic.flat[row], critics.detach().flatten(), **close)
        torch.testing.assert_close(learner.actor.flat[row], actor.detach(), **close)
        lagging = torch.lerp(actor_target, actor.detach(), 0.005)
        torch.testing.assert_close(learner.actor_target.flat[row], lagging, **close)


def test_members_with_other_algorithms_share_a_run_from_data(tmp_path, same, capsys) -> None:
    """bc and td3bc in one group, killed and resumed; td3bc's critic is there, and its statistics are the data's."""
    settings = {"algorithm": ("bc", "td3bc"), "data": "swing-v0", "n_peers": 2, "replicas": 2}
    whole = train(tmp_path, "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "killed", **settings, listeners=[Kill(50)])
    peerage.resume(tmp_path / "killed")
    same(content(peerage.load(tmp_path / "killed")), content(whole))
    assert main(["evaluate", str(whole.folder), "--advised"]) == 2
    assert "was trained without advice: remove --advised" in capsys.readouterr().err
    assert main(["evaluate", str(whole.folder), "--advisers", "random"]) == 2
    assert "was trained without advice: remove --advisers" in capsys.readouterr().err
    learner = content(whole)[1]["group"]["stacks"]["1"]["learner"]
    mean = load_data("swing-v0").obs.astype(float).mean(0)
    assert np.allclose(learner["parameters"]["obs_mean"][1], mean) and "data" not in learner["replay"]
    assert {"loss/critic", "loss/cloning", "q/mean"} <= set(whole.metrics.query("member == 'member-1'")["name"])
    assert main(["train", "--algorithm", "td3bc", "--data", "cart-v0", "--log-dir", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


# --- RvS --------------------------------------------------------------------------------------------


def test_rvs_acts_for_the_average_return_per_remaining_step(tmp_path, same) -> None:
    """The inputs of training and acting by hand; a killed and resumed run; evaluations for targets."""
    data = trajectories(
        [Episode(np.array([[0.0], [1], [2], [3]]), np.zeros((3, 1)), np.array([1.0, 2, 3]), True)],
        low=np.full(1, -1, np.float32), high=np.full(1, 1, np.float32),
    )  # fmt: skip
    settings = RvSSettings("rvs", net_arch=(8,), batch_size=4, return_horizon=5)
    space = Space(1, 1, 0, np.full(1, -1, np.float32), np.full(1, 1, np.float32))
    learner = made(RvS, settings, space, data, rows=2)
    assert learner.inputs(data).tolist() == [[0, 6 / 5], [1, 5 / 4], [2, 1]]
    seen: list[list[float]] = []
    act = learner.acted
    learner.acted = lambda inputs, rows: (seen.append(inputs[:, 0].tolist()), act(inputs, rows))[1]
    episodes = learner.conditioned(1)
    episodes.begin(np.arange(2), np.array([10.0, -10.0]))
    for reward in (2.0, 1.0):
        actions = episodes.act(np.full((2, 1), 7.0))
        episodes.observe(np.full((2, 1), 7.0), actions, np.full(2, reward), np.zeros(2, bool))
    assert seen == [[[7, 10 / 5], [7, -10 / 5]], [[7, 8 / 4], [7, -12 / 4]]]

    whole = train(tmp_path, "whole", "rvs", replicas=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "killed", "rvs", replicas=2, listeners=[Kill(50)])
    peerage.resume(tmp_path / "killed")
    same(content(peerage.load(tmp_path / "killed")), content(whole))
    assert whole.config.learner.return_horizon == (60,)
    best = load_data("cart-v0").returns.max()
    assert whole.evaluations.query("mode == 'alone'")["target"].unique().tolist() == [best]
    assert whole.evaluations.query("mode == 'targets'")["target"].max() == pytest.approx(1.2 * best)
    given = ["train", "--algorithm", "rvs", "--data", "cart-v0", "--return-horizon", "9"]
    assert main([*given, "--log-dir", str(tmp_path / "no")]) == 2 and not (tmp_path / "no").exists()


def test_rvs_follows_its_target() -> None:
    """Data in which an action is the reward of a step: the policy takes the action that the target asks for."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(-1, 1, 40)
    data = trajectories(
        [Episode(rng.normal(size=(6, 1)), np.full((5, 1), x), np.full(5, x), False) for x in levels],
        low=np.full(1, -1, np.float32), high=np.full(1, 1, np.float32),
    )  # fmt: skip
    settings = RvSSettings("rvs", net_arch=(32,), batch_size=64, return_horizon=5, learning_rate=1e-2)
    space = Space(1, 1, 0, np.full(1, -1, np.float32), np.full(1, 1, np.float32))
    learner = made(RvS, settings, space, data)
    for step in range(1, 301):
        learner.learn(step)
    episodes, targets = learner.conditioned(5), np.array([-4.0, -2, 0, 2, 4])
    episodes.begin(np.arange(5), targets)
    assert np.abs(episodes.act(rng.normal(size=(5, 1)))[:, 0] - targets / 5).max() < 0.1
