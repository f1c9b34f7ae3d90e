"""Analysis of attention: episodes with weights, importance of features, deletion curves, the command."""

from __future__ import annotations

import numpy as np
import pytest

import peerage
from peerage import session
from peerage.errors import UserError
from peerage.evaluation.attention import play_episode

SMALL = {
    "total_timesteps": 64,
    "n_steps": 32,
    "batch_size": 32,
    "eval_freq": 64,
    "n_eval_episodes": 1,
    "sharing": "none",
    "verbose": 0,
}
RUNS = {
    "features": {"env": "CartPole-v1", "net": "attention", "n_peers": 2, "normalize_obs": True},
    "both": {"env": "CartPole-v1", "net": "attention", "tokens": "both", "env_args": {"history": 3}},
    "set": {"env": "CartPole-v1", "net": "attention", "tokens": "set", "n_queries": 2},
    "mlp": {"env": "Pendulum-v1", "env_args": {"max_episode_steps": 20}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained PPO members by name; nothing here changes the runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_report", lambda run: run / "report.html")
        made = {
            name: peerage.train(**settings, algorithm="ppo", **SMALL, log_dir=str(folder), exp_name=name)
            for name, settings in RUNS.items()
        }
        dqn = {"total_timesteps": 64, "learning_starts": 16, "eval_freq": 64, "n_eval_episodes": 1, "verbose": 0}
        made["dqn"] = peerage.train("CartPole-v1", **dqn, log_dir=str(folder), exp_name="dqn")
    return made


def test_an_episode_is_that_of_an_evaluation_and_has_policy_and_weights_of_every_step(runs):
    run = runs["features"]
    episode = play_episode(run.folder, member=1, seed=7, frames=True)
    evaluated = run.evaluate(1, seed=7, members=[1])
    assert episode.ended and episode.rewards.sum() == evaluated["return"].item()
    assert (episode.probabilities.argmax(axis=1) == episode.actions[:, 0]).all()
    np.testing.assert_allclose(episode.probabilities.sum(axis=1), 1, atol=1e-6)
    assert episode.names == ["position", "velocity", "angle", "angular velocity"]
    steps = len(episode.obs)
    assert len(episode.frames) == steps and episode.frames[0].shape == (400, 600, 3)
    assert {name: w.shape for name, w in episode.weights.items()} == {"0": (steps, 4, 4, 4), "pool": (steps, 4, 1, 4)}
    np.testing.assert_allclose(episode.weights["0"].sum(axis=-1), 1, atol=1e-5)
    assert np.ptp(episode.weights["pool"], axis=0).max() > 0  # the weights depend on the state
    assert episode.tokens["pool"] == (["query"], episode.names)
    other = play_episode(run.folder, member=0, seed=7).weights["pool"]
    assert not np.allclose(other[0], episode.weights["pool"][0])  # of another member in the same first state
    cut = play_episode(run.folder, member=1, seed=7, max_steps=3)
    assert not cut.ended and (cut.obs == episode.obs[:3]).all() and cut.frames is None


def test_an_episode_of_each_kind_of_policy_and_tokens(runs):
    both = play_episode(runs["both"].folder)
    assert both.weights["number.pool"].shape[1:] == (3, 4, 1, 7) and both.weights["present"].shape[1:] == (4, 1, 3)
    assert both.tokens["present"] == (["t"], ["t-2", "t-1", "t"])
    assert both.names[:7] + both.names[-3:-1] == [
        *(f"t-2: {name}" for name in ("position", "velocity", "angle", "angular velocity")),
        *("t-2: action[0]", "t-2: action[1]", "t-2: reward", "t: action[1]", "t: reward"),
    ]
    assert (both.weights["present"][0, :, 0, :2] == 0).all()  # before the episode
    assert play_episode(runs["set"].folder).weights["pool"].shape[1:] == (4, 2, 4)
    mlp = play_episode(runs["mlp"].folder)
    assert mlp.weights == {} and mlp.probabilities is None and mlp.mean.shape == mlp.std.shape == (20, 1)
    np.testing.assert_allclose(mlp.actions, mlp.mean.clip(-2, 2), rtol=1e-4)
    dqn = play_episode(runs["dqn"].folder)
    assert dqn.probabilities is None and (dqn.values.argmax(axis=1) == dqn.actions[:, 0]).all()


def test_episodes_of_missing_members_are_refused(runs):
    with pytest.raises(UserError, match="members 0 to 1 and replicas 0 to 0"):
        play_episode(runs["features"].folder, member=2)
    with pytest.raises(UserError, match="max_steps"):
        play_episode(runs["features"].folder, max_steps=0)
