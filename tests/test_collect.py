"""`peerage collect` and `peerage data`: recorded episodes of members, advisers and replay buffers."""

from __future__ import annotations

import json
import os
import shutil

import gymnasium
import minari
import numpy as np
import pytest
import torch
from conftest import assert_same
from test_targets import Untrained, settings

import peerage
from peerage import session
from peerage.cli import main
from peerage.config.methods import LEARNERS
from peerage.config.sources import divided, parse_source
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.evaluation.member import opened
from peerage.evaluation.replayed import cut, from_replay
from peerage.interop.pretrained import load_policy
from peerage.offline.minari_files import read_metadata
from peerage.offline.trajectories import load_data
from peerage.runs import checkpoint
from peerage.sharing.adviser import Adviser

pytestmark = pytest.mark.usefixtures("no_reports")
LIMIT = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two members with replay buffers, and checkpoints of steps 50 and 100."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_report", lambda folder: folder)  # it takes longer than the training
        peerage.train(
            "Pendulum-v1", env_args={"max_episode_steps": LIMIT}, algorithm="td3", n_peers=2, replicas=2,
            sharing="none", total_timesteps=100, learning_starts=40, net_arch=(8,), eval_freq=0, checkpoint_freq=50,
            keep_checkpoints=2, log_dir=str(folder), exp_name="run", verbose=0,
        )  # fmt: skip
    return folder / "run"


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """Minari's folder of datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


# --- sources --------------------------------------------------------------------------------------


def test_sources_and_shares(run) -> None:
    assert parse_source("random=0.5").share == 0.5 and parse_source("random=0.5").text == "random"
    assert parse_source(f"{run}:1@50=2").adviser.text == f"checkpoint:{run}:1@50"
    assert parse_source("noise:0.3:expert").adviser.inner.text == "expert"
    for text, words in (
        ("random=0", "random=0: the share after = must be a positive number"),
        ("random=x", "random=x: the share after = must be a positive number"),
        (f"{run}:1=half", "the share after = must be a positive number"),
        (f"{run}x:1", "no run folder or file"),
        (f"checkpoint:{run}x:1", "no run folder or file"),
        ("model.zip", "no run folder or file"),
        (str(run.parent), "no config.yaml"),
        ("noise:", "malformed adviser"),
    ):
        with pytest.raises(UserError, match=words):
            parse_source(text)
    assert divided(10, [1, 1, 1]) == [4, 3, 3] and divided(10, [3, 1]) == [8, 2] and divided(1, [1, 5]) == [0, 1]


# --- collecting -----------------------------------------------------------------------------------


def test_a_member_is_recorded_losslessly(run, datasets, capsys) -> None:
    """The data equals the steps of the environment with the member's policy, and what Minari reads."""
    words = [f"{run}:1@50", "--episodes", "5", "--seed", "3", "--n-envs", "2", "--out", "mine/pendulum"]
    assert main(["collect", *words]) == 0
    assert "mine/pendulum-v0: 5 episodes, 150 steps" in capsys.readouterr().out
    data = load_data("mine/pendulum")
    policy, _ = load_policy(f"{run}:1@50", *_spaces("Pendulum-v1"))
    theirs = minari.load_dataset("mine/pendulum-v0")
    env = theirs.recover_environment()
    assert env.spec.id == "Pendulum-v1" and env.spec.max_episode_steps == LIMIT
    assert len({episode.seed for episode in _metadata(theirs)}) == 5
    for number, (episode, about) in enumerate(zip(theirs, _metadata(theirs))):
        steps = slice(data.starts[number], data.starts[number + 1])
        obs, _ = env.reset(seed=about.seed)
        for t in range(LIMIT):
            assert (obs == data.obs[steps][t]).all()
            action = policy.suggest(torch.from_numpy(obs)[None, None], None)[0, 0].numpy()
            assert np.allclose(action, data.actions[steps][t], atol=1e-6)
            obs, reward, terminated, truncated, _ = env.step(data.actions[steps][t])
            assert np.float32(reward) == data.rewards[steps][t]
        assert truncated and not terminated and not data.terminated[number]
        assert (obs == data.last_obs[number]).all()
        assert (episode.observations[:-1] == data.obs[steps]).all() and (episode.actions == data.actions[steps]).all()
        assert episode.truncations.tolist() == [False] * (LIMIT - 1) + [True] and not episode.terminations.any()
        assert about.source == f"{run}:1@50"
    assert data.source.env_args == {"max_episode_steps": LIMIT} and data.source.env == "Pendulum-v1"


def test_the_data_is_determined_by_its_seed(run, tmp_path) -> None:
    def recorded(name: str, **more):
        given = {"episodes": 7, "noise": 0.2, "n_envs": 3} | more
        return peerage.collect([f"{run}:0", "random=2"], tmp_path / name, **given)

    one, again, other = recorded("a"), recorded("b"), recorded("c", seed=1)
    assert one.source.fingerprint == again.source.fingerprint == load_data(tmp_path / "a").source.fingerprint
    assert other.source.fingerprint != one.source.fingerprint
    starts = {one.obs[s].tobytes() for s in one.starts[:-1]} | {other.obs[s].tobytes() for s in other.starts[:-1]}
    assert len(starts) == 14  # all episodes start in different states
    about = read_metadata(tmp_path / "a")["peerage"]
    sources = [(source["source"], source["episodes"], source["share"]) for source in about["sources"]]
    assert sources == [(f"{run}:0", 2, 1), ("random", 5, 2)]
    assert (about["seed"], about["noise"], about["n_envs"], about["episodes"], about["steps"]) == (0, 0.2, 3, 7, 210)
    assert about["return_mean"] == pytest.approx(one.returns.mean())
    assert about["return_quantiles"]["90"] == pytest.approx(np.quantile(one.returns, 0.9))
    assert one.source.provenance == f"{run}:0 (2 episodes), random (5 episodes), noise 0.2"
    quiet = recorded("d", noise=0.0)
    member = np.arange(2 * LIMIT)
    assert not np.allclose(quiet.actions[member], one.actions[member])


class CountingSteps(Adviser):
    """Suggests the number of steps since the start of the episode, modulo 2."""

    name = "counting"

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}

    def suggest(self, obs, rows, first, rng):
        for row, new in zip(rows.tolist(), first):
            self.steps[row] = 0 if new else self.steps[row]
        return np.array([self.steps[row] % 2 for row in rows.tolist()])

    def observe(self, transition, rows):
        assert (transition.actions[:, 0] == [self.steps[row] % 2 for row in rows.tolist()]).sum() > 0
        for row in rows.tolist():
            self.steps[row] += 1


def test_episodes_of_unequal_lengths_and_advisers_with_memory(tmp_path) -> None:
    """CartPole ends early: every episode is complete, in its own order, and none is drawn by its length."""
    given = {"env": "CartPole-v1", "episodes": 11, "max_episode_steps": 40}
    data = peerage.collect(CountingSteps(), tmp_path / "data", n_envs=4, **given)
    assert data.episodes == 11 and len(set(data.lengths)) > 1 and (data.lengths <= 40).all()
    for start, stop in zip(data.starts, data.starts[1:]):
        assert data.actions[start:stop, 0].tolist() == [t % 2 for t in range(stop - start)]
    assert (data.terminated == (data.lengths < 40)).all()
    assert data.source.n_actions == 2 and data.source.provenance == "counting (11 episodes)"
    one = peerage.collect(CountingSteps(), tmp_path / "one", n_envs=1, **given)
    assert one.source.fingerprint == data.source.fingerprint  # the policy is not random


def test_members_can_sample_their_actions(run, tmp_path, capsys) -> None:
    """The mode of a new PPO policy is one action nearly everywhere; its samples are both."""
    made = peerage.train(
        "CartPole-v1", n_peers=1, algorithm="ppo", total_timesteps=8, n_steps=8, batch_size=8, eval_freq=0,
        learning_rate=1e-9, log_dir=str(tmp_path), exp_name="ppo", verbose=0,
    )  # fmt: skip
    given = {"episodes": 20, "seed": 1, "max_episode_steps": 40}
    mode, sampled, again = (
        peerage.collect(f"noise:0:checkpoint:{made.folder}", tmp_path / name, sample=sample, **given)
        for name, sample in (("mode", False), ("sampled", True), ("again", True))
    )
    drawn = policy_probabilities(made.folder, sampled.obs)
    # The share of action 1 is that of its probabilities, within 4 standard deviations
    deviation = np.sqrt((drawn * (1 - drawn)).sum())
    assert abs(sampled.actions.sum() - drawn.sum()) < 4 * deviation
    larger = policy_probabilities(made.folder, mode.obs) - 0.5
    assert ((mode.actions[:, 0] == (larger > 0)) | (np.abs(larger) < 1e-5)).all()
    assert sampled.source.fingerprint == again.source.fingerprint and "sampled" in sampled.source.provenance
    assert main(["collect", str(run), "--sample", "--out", "x"]) == 2
    assert "td3 has no policy to sample from" in capsys.readouterr().err
    assert main(["collect", "random", "--env", "CartPole-v1", "--sample", "--out", "x"]) == 2
    assert "no source is a trained member" in capsys.readouterr().err


def policy_probabilities(folder, obs: np.ndarray) -> np.ndarray:
    """The probability of action 1 of member 0."""
    with opened(folder) as member:
        return member.output(obs.copy()).p[:, 1].numpy()


def test_a_member_with_a_target_is_recorded_as_it_is_evaluated(tmp_path, monkeypatch) -> None:
    """It acts for the largest return of its data, 100, in every step of an episode; as an adviser it does the same, and
    a training with it resumes bit for bit."""
    monkeypatch.setattr(LEARNERS, "methods", dict(LEARNERS.methods))
    peerage.register_learner("untrained", Untrained, takes_target=True)
    made = peerage.train("CartPole-v1", **settings(log_dir=str(tmp_path), exp_name="run", eval_freq=0, replicas=1))
    data = peerage.collect(f"{made.folder}:1", tmp_path / "data", episodes=6, n_envs=4)
    assert peerage.collect(made.folder, tmp_path / "other", episodes=1).episodes == 1
    learner, _ = load_policy(f"{made.folder}:1", *_spaces("CartPole-v1"))
    episodes = learner.conditioned(1, clip=True)
    for start, stop in zip(data.starts, data.starts[1:]):
        episodes.begin(np.arange(1), 100.0)
        for t in range(start, stop):
            action = episodes.act(data.obs[t : t + 1])
            assert action == data.actions[t]
            episodes.observe(data.obs[t : t + 1], action, data.rewards[t : t + 1], np.zeros(1, bool))
    given = {
        "env_args": {"max_episode_steps": LIMIT}, "advisers": [f"checkpoint:{made.folder}:1"], "n_peers": 2,
        "learning_starts": 20, "batch_size": 4, "net_arch": (8,), "eval_freq": 0, "log_dir": str(tmp_path),
        "algorithm": "dqn", "seed": 3, "verbose": 0,
    }  # fmt: skip
    straight = peerage.train("CartPole-v1", total_timesteps=60, checkpoint_freq=33, exp_name="straight", **given)
    shutil.copytree(straight.folder, tmp_path / "cut")
    for path in (tmp_path / "cut" / "checkpoints").glob("step_000000060*"):
        shutil.rmtree(path)
    (tmp_path / "cut" / "DONE").unlink()
    assert [checkpoint.step_of(folder) for folder in checkpoint.checkpoints(tmp_path / "cut")] == [33]
    peerage.resume(tmp_path / "cut")
    states = [checkpoint.load_one(folder, "")[1]["trainer"] for folder in (straight.folder, tmp_path / "cut")]
    assert_same(states[0], states[1])


def made_shifted(**env_args) -> gymnasium.Env:
    env = gymnasium.make("CartPole-v1", **env_args)
    return gymnasium.wrappers.TransformAction(env, lambda action: action - 3, gymnasium.spaces.Discrete(2, start=3))


def test_an_environment_that_minari_cannot_describe(datasets) -> None:
    """A function and a Discrete space that does not start at 0; the name of the function is in the metadata."""
    data = peerage.collect("random", "shifted", env=made_shifted, env_args={"max_episode_steps": 9}, episodes=3)
    theirs = minari.load_dataset("shifted-v0")
    assert {action for episode in theirs for action in episode.actions.tolist()} == {3, 4}
    assert set(data.actions.ravel()) == {0, 1} and theirs.action_space == gymnasium.spaces.Discrete(2, start=3)
    assert theirs.env_spec is None
    assert data.source.env == "test_collect:made_shifted" and data.source.env_args == {"max_episode_steps": 9}
    again = load_data("shifted")
    assert (again.source.fingerprint, again.source.env) == (data.source.fingerprint, data.source.env)
    unnamed = peerage.collect("random", "unnamed", env=lambda: made_shifted(max_episode_steps=2), episodes=1)
    assert unnamed.source.env == ""


def test_nothing_is_overwritten_unasked_or_left_after_a_failure(datasets, tmp_path, monkeypatch, capsys) -> None:
    words = ["collect", "random", "--env", "CartPole-v1", "--episodes", "2", "--out"]
    (datasets / ".twice-v0.partial" / "data").mkdir(parents=True)  # left by a process that was killed
    assert main(["data"]) == 0 and main([*words, "twice"]) == 0
    assert [path.name for path in datasets.iterdir()] == ["twice-v0"]
    before = load_data("twice").source.fingerprint
    capsys.readouterr()
    assert main([*words, "twice", "--seed", "1"]) == 2
    assert "exists: choose another name, or replace it with --overwrite" in capsys.readouterr().err
    assert main([*words, "twice", "--seed", "1", "--overwrite"]) == 0
    assert load_data("twice").source.fingerprint != before
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    assert main([*words, str(tmp_path / "folder"), "--overwrite"]) == 2
    assert "is not a dataset" in capsys.readouterr().err and (tmp_path / "folder" / "mine.txt").exists()
    rename = os.rename

    def failing(old, new):
        if str(old).endswith(".partial"):
            raise OSError("disk failure")
        rename(old, new)

    now = load_data("twice").source.fingerprint
    monkeypatch.setattr(os, "rename", failing)
    assert main([*words, "twice", "--overwrite"]) == 2
    assert load_data("twice").source.fingerprint == now
    assert sorted(path.name for path in datasets.iterdir()) == ["twice-v0"]


@pytest.mark.parametrize("words, message", [
    (["random", "--out", "x"], "no source names the environment: add --env"),
    (["random", "--env", "CartPole-v1", "--noise", "2", "--out", "x"], "the scale is a probability"),
    (["random", "--env", "CartPole-v1", "--out", "x y"], "neither the name of a dataset"),
    (["random", "--env", "CartPole-v1", "--out", ".."], "is not a dataset"),
    (["random", "--out", "x", "--replica", "1"], "--replica has no effect without --from-replay"),
    (["--out", "x"], "there is nothing to collect"),
    (["random", "random=100", "--episodes", "10", "--out", "x"], "random gets none of 10 episodes"),
    (["random", "--from-replay", "run", "--out", "x"], "--from-replay and the source random cannot be combined"),
    (["--noise", "0.1", "--from-replay", "run", "--out", "x"], "--from-replay and --noise cannot be combined"),
    (["expert", "--env", "Pendulum-v1", "--out", "x"], "there is no expert for Pendulum-v1"),
    (["random", "--env", "MinAtar", "--out", "x"], "unknown environment"),
])  # fmt: skip
def test_mistakes_are_refused_before_anything_is_written(words, message, datasets, capsys) -> None:
    assert main(["collect", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not datasets.exists()


def test_runs_of_different_environments_are_not_mixed(run, tmp_path, datasets, capsys) -> None:
    other = peerage.train(
        "Pendulum-v1", n_peers=1, algorithm="td3", total_timesteps=5, learning_starts=4, net_arch=(8,), eval_freq=0,
        log_dir=str(tmp_path), exp_name="other", verbose=0,
    )  # fmt: skip
    assert main(["collect", str(run), str(other.folder), "--out", "x"]) == 2
    assert "choose one with --env and --env-args" in capsys.readouterr().err
    words = ["--env", "Pendulum-v1", "--env-args", "max_episode_steps=5", "--episodes", "2", "--out", "x"]
    assert main(["collect", str(run), str(other.folder), *words]) == 0
    assert load_data("x").lengths.tolist() == [5, 5]


# --- replay buffers -------------------------------------------------------------------------------


def test_replay_buffers_are_cut_by_hand() -> None:
    obs = np.array([[0], [1], [2], [0], [1], [5], [6]], float)
    next_obs = np.array([[1], [2], [3], [1], [2], [6], [7]], float)
    never = np.zeros(7, bool)
    assert cut(obs, next_obs, never, None, True) == [(0, 3), (3, 5)]
    assert cut(obs, next_obs, never, None, False) == [(3, 5)]
    assert cut(obs, next_obs, np.arange(7) == 6, None, True) == [(0, 3), (3, 5), (5, 7)]
    assert cut(obs, next_obs, never, 2, False) == [(3, 5), (5, 7)]
    same = np.zeros((6, 1))  # every episode starts where the last one ended
    assert cut(same, same, never[:6], 2, True) == [(0, 2), (2, 4), (4, 6)]
    assert cut(same, same, np.arange(6) == 2, None, True) == [(0, 3)]
    assert cut(same[:0], same[:0], never[:0], 2, True) == []


def test_the_replay_buffer_of_a_member_becomes_a_dataset(run, capsys) -> None:
    """Every transition is one of the environment, and the rows of members and replicas are not confused."""
    assert main(["collect", "--from-replay", f"{run}:1", "--replica", "1", "--out", "replay"]) == 0
    out = capsys.readouterr().out
    assert "10 steps of incomplete episodes" in out and "replay-v0: 3 episodes, 90 steps" in out
    data = load_data("replay")
    env = gymnasium.make("Pendulum-v1", max_episode_steps=LIMIT)
    env.reset(seed=0)
    for t in range(data.steps):
        cos, sin, speed = data.obs[t].astype(float)
        env.unwrapped.state = np.array([np.arctan2(sin, cos), speed])
        obs, reward, *_ = env.unwrapped.step(data.actions[t])
        assert np.allclose(obs, data.next_obs()[t], atol=1e-5) and np.isclose(reward, data.rewards[t], atol=1e-4)
    assert data.lengths.tolist() == [LIMIT] * 3 and not data.terminated.any()
    others = [from_replay(f"{run}:{m}", f"m{m}r{r}", replica=r)[0] for m in (0, 1) for r in (0, 1)]
    assert len({other.source.fingerprint for other in others}) == 4
    assert others[3].source.fingerprint == data.source.fingerprint
    newest, _ = from_replay(f"{run}:1@50", "newest", replica=1, episodes=1)
    assert newest.obs.tobytes() == data.obs[:LIMIT].tobytes()
    assert newest.source.provenance == f"replay buffer of {run}:1 at step 50"


def test_a_member_without_a_replay_buffer_is_refused(tmp_path, capsys) -> None:
    made = peerage.train(
        "CartPole-v1", n_peers=1, algorithm="ppo", total_timesteps=8, n_steps=8, batch_size=8, eval_freq=0,
        log_dir=str(tmp_path), exp_name="ppo", verbose=0,
    )  # fmt: skip
    assert main(["collect", "--from-replay", str(made.folder), "--out", "x"]) == 2
    assert "has no replay buffer: ppo keeps none" in capsys.readouterr().err
    assert main(["collect", "--from-replay", f"{made.folder}:1", "--out", "x"]) == 2
    assert "has no member 1: use 0 to 0" in capsys.readouterr().err


# --- peerage data ---------------------------------------------------------------------------------


def test_datasets_are_listed(datasets, capsys) -> None:
    assert main(["data"]) == 0 and "there are no datasets in" in capsys.readouterr().out
    peerage.collect("random", "mine/two", env="CartPole-v1", episodes=3)
    data = peerage.collect("random", "one", env="CartPole-v1", episodes=4, seed=1)
    (datasets / "mine" / "broken-v0" / "data").mkdir(parents=True)
    (datasets / "mine" / "broken-v0" / "data" / "metadata.json").write_text("{}")
    capsys.readouterr()
    assert main(["data", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["mine/broken-v0", "mine/two-v0", "one-v0"]
    assert "does not describe its spaces" in rows[0]["error"] and rows[0]["episodes"] is None
    assert rows[2]["episodes"] == 4 and rows[2]["steps"] == data.steps and rows[2]["environment"] == "CartPole-v1"
    assert [rows[2][f"return_{q}"] for q in (10, 50, 90, 100)] == data.quantiles()
    assert rows[2]["source"] == "random (4 episodes)" and rows[2]["error"] is None
    assert main(["data", "one", str(datasets / "mine" / "two-v0")]) == 0
    assert "error" not in (out := capsys.readouterr().out) and len(out.splitlines()) == 3
    assert "return 10%" in out
    assert main(["data"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("mine/broken-v0 cannot be read: ") and max(map(len, out[:-1])) < 160
    assert main(["data", "one", "nine", "mine/two", "mine/broken-v0"]) == 2
    said = capsys.readouterr()
    assert ["one" in said.out, "mine/two" in said.out, "nine" in said.out] == [True, True, False]
    assert "no dataset 'nine'" in said.err and "describe its spaces" in said.err and said.err.count("\n") == 1
    assert main(["data", "one", "nine", "--json"]) == 2
    assert [row["error"] is None for row in json.loads(capsys.readouterr().out)] == [True, False]


def test_help_texts(capsys) -> None:
    for command, words in (("collect", "SOURCE=SHARE"), ("data", "Minari's folder")):
        assert main([command, "--help"]) == 0
        assert words in capsys.readouterr().out


def _spaces(env: str):
    spec = check_env_id(env, {})
    return spec.observation_space, spec.action_space


class _About:
    def __init__(self, metadata) -> None:
        self.seed, self.source = metadata["seed"], metadata["source"]


def _metadata(dataset) -> list[_About]:
    found = dataset.storage.get_episode_metadata(range(dataset.total_episodes))
    return [_About(each) for each in found]
