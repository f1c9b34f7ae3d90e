"""Analysis of attention: episodes with weights, importance of features, deletion curves, the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Categorical, Normal, kl_divergence

import peerage
from peerage import session
from peerage.cli import main
from peerage.envs.feature_names import feature_names
from peerage.envs.make import make_env
from peerage.errors import UserError
from peerage.evaluation.attention import play_episode
from peerage.evaluation.importance import (
    PERMUTATIONS,
    analysed,
    donors,
    gradient,
    importance,
    moments,
    occlusion,
    visited,
)
from peerage.evaluation.member import opened
from peerage.evaluation.token_weights import feature_weights, rolled_out, token_weights

SMALL = {
    "n_peers": 1,
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
    "plain": {"env": "CartPole-v1", "net_arch": (8,)},
    "mlp": {"env": "Pendulum-v1", "env_args": {"max_episode_steps": 20}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained PPO members by name; nothing here changes the runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_report", lambda run: run / "report.html")
        made = {
            name: peerage.train(**SMALL | settings, algorithm="ppo", log_dir=str(folder), exp_name=name)
            for name, settings in RUNS.items()
        }
        dqn = {"n_peers": 1, "total_timesteps": 64, "learning_starts": 16, "n_eval_episodes": 1, "verbose": 0}
        sac = {"algorithm": "sac", "net_arch": (8,), "env_args": {"max_episode_steps": 20}, **dqn}
        made["sac"] = peerage.train("Pendulum-v1", **sac, log_dir=str(folder), exp_name="sac")
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


# --- importance -------------------------------------------------------------------------------------------


def test_occlusion_and_gradient_equal_those_of_the_formulas(runs):
    """Against the network written out, torch's KL divergence and torch's autograd."""
    with opened(runs["plain"].folder) as member:
        w = member.learner.net.weights(slice(0, 1))
        w["0.weight"][0, 0] = 0  # the position has no effect
        w["1.weight"].mul_(300)  # the untrained policy is almost uniform
        states = visited(member, [5, 6])
        std = moments(member, states)[1]
        np.testing.assert_allclose(std, states.std(axis=0), rtol=1e-5)
        groups = np.eye(4, dtype=bool)

        def policy(x):
            hidden = torch.tanh(x @ w["0.weight"][0] + w["0.bias"][0])
            return Categorical(logits=(hidden @ w["1.weight"][0] + w["1.bias"][0]).double())

        x = torch.tensor(states, requires_grad=True)
        expected = np.zeros(4)
        for action in range(2):
            log_prob = policy(x).log_prob(torch.tensor(action))
            (slope,) = torch.autograd.grad(log_prob.sum(), x)
            expected += (log_prob.exp().detach()[:, None] * slope.abs()).mean(0).numpy()
        found = gradient(member, states, groups, std)
        np.testing.assert_allclose(found, expected * std, rtol=1e-2)
        assert found[0] == 0 and (found[1:] > 0).all()

        rng, total = np.random.default_rng(3), np.zeros(4)
        for _ in range(PERMUTATIONS):
            order = rng.permutation(len(states))
            other_of = dict(zip(order, np.roll(order, -1)))
            assert all(i != j for i, j in other_of.items())
            for k in range(4):
                other = torch.tensor(states)
                other[:, k] = torch.tensor([states[other_of[i], k] for i in range(len(states))])
                total[k] += kl_divergence(policy(x), policy(other)).mean().item() / PERMUTATIONS
        found = occlusion(member, states, groups, np.random.default_rng(3))
        np.testing.assert_allclose(found, total, rtol=1e-3, atol=1e-9)
        assert found[0] < 1e-12 < found[1]

    with opened(runs["mlp"].folder) as member:  # a normal distribution
        states = visited(member, [5])
        std = moments(member, states)[1]
        episode = play_episode(runs["mlp"].folder, seed=5)
        mean, spread = torch.tensor(episode.mean), torch.tensor(episode.std)
        moved = states.copy()
        moved[:, 2] += 0.01
        after = member.output(moved)
        expected = kl_divergence(Normal(mean, spread), Normal(after.mean, after.std)).sum(-1)
        torch.testing.assert_close(member.output(states).change(after), expected, atol=1e-6, rtol=1e-2)
        slope = ((after.mean - mean).abs() / 0.01 / spread).mean().item() * math.sqrt(2 / math.pi)
        found = gradient(member, states, np.eye(3, dtype=bool), std)
        assert found[2] == pytest.approx(slope * std[2], rel=0.05)


def test_deleting_what_a_controller_reads_lowers_the_return_faster_than_a_random_order(runs):
    """A policy that pushes the cart towards the falling pole; it does not read the position and the velocity."""
    with opened(runs["plain"].folder) as member:
        w = member.learner.net.weights(slice(0, 1))
        for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
            w[name].zero_()
        w["0.weight"][0, 2:, 0] = torch.tensor([0.1, 0.05])
        w["1.weight"][0, 0] = torch.tensor([-50.0, 50.0])
        found = analysed(member, list(range(100, 106)), "numbers", np.random.default_rng(0), True)
    assert found.weight is None and found.layers == {} and found.unit == "KL divergence"
    assert found.occlusion[:2].max() < 1e-12 < found.occlusion[2:].min()
    curves = found.deletion.curves
    assert found.deletion.deleted.tolist() == [0, 1, 2, 3, 4] and set(curves) == {"occlusion", "gradient", "random"}
    assert curves["random"].returns[0].mean() > 100 > 20 > curves["random"].returns[-1].mean()
    after_two = curves["occlusion"].returns[2]  # both numbers that it reads
    assert (after_two == curves["occlusion"].returns[-1]).all()
    one, rest = curves["occlusion"], curves["random"]
    shares = np.linspace(0, 1, 5)
    assert one.area == pytest.approx(np.trapezoid(one.returns.mean(axis=1), shares))
    assert one.difference == pytest.approx(one.area - rest.area) and one.high < 0
    assert rest.difference == 0
    assert found.correlations["occlusion, gradient"] == pytest.approx(1, abs=0.21)


def test_numbers_of_windows_come_from_windows_with_as_many_steps():
    strata = np.array([3, 1, 3, 2, 3, 2])
    found = np.array([donors(strata, np.random.default_rng(seed)) for seed in range(20)])
    assert (strata[found] == strata).all() and (np.sort(found, axis=1) == np.arange(6)).all()
    assert (found[:, 1] == 1).all() and (found[:, [0, 2, 3, 4, 5]] != [0, 2, 3, 4, 5]).all()
    assert len(set(found[:, 0])) == 2  # random


def test_attention_rollout_of_two_tokens():
    half, one = np.array([[0.5, 0.5], [0.5, 0.5]]), np.eye(2)
    first = np.array([[1.0, 0.0], [1.0, 0.0]])
    layers = {"0": np.stack([first, half])[None], "pool": np.array([[[[0.2, 0.8]], [[0.4, 0.6]]]])}
    # mean of the heads [[.75, .25], [.75, .25]], half of it and of the identity [[.875, .125], [.375, .625]]
    np.testing.assert_allclose(rolled_out(layers), [[0.3 * 0.875 + 0.7 * 0.375, 0.3 * 0.125 + 0.7 * 0.625]])
    np.testing.assert_allclose(rolled_out({"pool": layers["pool"]}), [[0.3, 0.7]])
    present = {"0": np.stack([one])[None], "present": np.array([[[[0.4, 0.6]]]])}
    np.testing.assert_allclose(rolled_out(present), [[0.2, 0.8]])  # half of it is the present step itself


def test_weights_of_tokens_become_weights_of_features(runs):
    with opened(runs["both"].folder) as member:
        states = visited(member, [1])
        weights = member.weights(states)
        tokens, found = token_weights(member, weights)
        by_step, by_number, by_feature = (
            feature_weights(member.names.groups(kind)[1], tokens, found, member.names.flags)
            for kind in ("steps", "numbers", "features")
        )
        assert by_step.shape[1:] == (3,) and by_number.shape[1:] == (21,) and by_feature.shape[1:] == (6,)
        for each in (by_step, by_number, by_feature):
            np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(by_step, rolled_out(weights), atol=1e-6)
        pooled = weights["number.pool"].mean(axis=2)[:, :, 0]  # [B, steps, numbers]
        np.testing.assert_allclose(by_feature[:, 1], (by_step * pooled[:, :, 1]).sum(axis=1), atol=1e-6)
        assert member.names.groups("features")[0][-2:] == ["action", "reward"]
    parts = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], bool)
    halves = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    none = np.zeros(4, bool)
    assert np.isnan(feature_weights(parts, halves, np.array([[0.3, 0.7]]), none)[0]).tolist() == [True, True, False]
    assert feature_weights(halves, parts, np.array([[0.1, 0.2, 0.7]]), none)[0].tolist() == pytest.approx([0.3, 0.7])


def test_importance_of_attention_in_windows_and_of_a_q_function(runs):
    found = importance(runs["both"].folder, episodes=2, seed=4)
    assert found.names == ["t-2", "t-1", "t"] and found.weight.sum() == pytest.approx(1, abs=1e-4)
    assert {name: w.shape for name, w in found.layers.items()} == {
        "number.pool": (4, 3, 7),
        "0": (4, 3, 3),
        "present": (4, 1, 3),
    }
    assert set(found.correlations) == {"weight, occlusion", "weight, gradient", "occlusion, gradient"}
    assert set(found.deletion.curves) == {"weight", "occlusion", "gradient", "random"}
    table = found.table()
    assert table.columns.tolist() == ["feature", "weight", "occlusion", "gradient"]
    assert table["feature"].tolist() == found.names and table["occlusion"].tolist() == found.occlusion.tolist()
    assert table.iloc[2]["feature"] == "t" and table.iloc[2]["occlusion"] > 0
    again = importance(runs["both"].folder, episodes=2, seed=4)
    assert (again.occlusion == found.occlusion).all() and again.deletion.curves["weight"] is not None
    features = importance(runs["both"].folder, episodes=1, of="features", deletion=False)
    assert features.deletion is None and features.names[:1] + features.names[-2:] == ["position", "action", "reward"]
    assert features.occlusion.shape == (6,) and (features.occlusion > 0).all()
    dqn = importance(runs["dqn"].folder, episodes=1, deletion=False)
    assert dqn.unit == "lost value" and dqn.weight is None and (dqn.occlusion >= 0).all() and dqn.gradient.max() > 0


def test_importance_refuses_what_does_not_exist(runs):
    with pytest.raises(UserError, match="history"):
        importance(runs["features"].folder, of="steps")
    with pytest.raises(UserError, match="episodes"):
        importance(runs["features"].folder, episodes=0)


# --- the command ------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_draws_figures(runs, capsys):
    run = runs["features"]
    assert main(["attention", str(run.folder), "--episodes", "2", "--member", "1"]) == 0
    printed = capsys.readouterr().out
    assert "feature           weight  occlusion  gradient" in printed and "angular velocity" in printed
    assert "rank correlations: weight, occlusion" in printed and "minus random" in printed
    folder = run.folder / "figures" / "attention-member-1-replica-0"
    assert sorted(path.name for path in folder.iterdir()) == ["deletion.png", "importance.png", "weights.png"]
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.width == 1200 and len(np.unique(np.asarray(image))) > 10
    run.report()  # keeps them
    assert (folder / "weights.png").exists()


def test_the_command_prints_json_like_python(runs, capsys, tmp_path):
    words = ["attention", str(runs["plain"].folder), "--json", "--episodes", "1", "--no-deletion", "--seed", "3"]
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    found = runs["plain"].attention(episodes=1, seed=3, deletion=False)
    assert data["features"] == found.records() and data["deletion"] is None and data["figures"] == []
    assert not (runs["plain"].folder / "figures").exists()
    assert main([*words, "--out", str(tmp_path / "new")]) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["importance.png"]  # no weights, no deletion


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--member", "9"], "members 0 to 0"),
        (["RUN", "--of", "steps"], "--env-args history=8"),
        (["RUN", "--checkpoint", "777"], "777"),
        (["RUN", "--out", "RUN/config.yaml"], "choose a folder"),
        (["nowhere"], "not a run folder"),
    ],
)
def test_mistakes_are_refused_in_one_line(runs, capsys, words, message):
    folder = runs["plain"].folder
    before = sorted(folder.rglob("*"))
    assert main(["attention", *(word.replace("RUN", str(folder)) for word in words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_importance_for_a_learner_without_probabilities_or_values(runs):
    """SAC: the distance of the actions, in half ranges of [-2, 2]."""
    found = runs["sac"].attention(episodes=1, deletion=False)
    assert found.unit == "distance of actions" and found.names == ["cos", "sin", "angular velocity"]
    with opened(runs["sac"].folder) as member:
        states = visited(member, [3])
        up, down = states.copy(), states.copy()
        up[:, 2] += 0.1
        down[:, 2] -= 0.1
        slope = np.abs(np.ravel(runs["sac"].policy()(up) - runs["sac"].policy()(down))) / 2 / 0.2
        std = moments(member, states)[1]
        assert gradient(member, states, np.eye(3, dtype=bool), std)[2] == pytest.approx(slope.mean() * std[2], rel=0.1)


def test_names_of_features():
    made = {name: make_env(f"{name}-v0", {}) for name in ("CartPoleDistractors", "AskedCue", "TMaze")}
    found = {name: feature_names(env, env.observation_space.shape[0]).numbers for name, env in made.items()}
    assert found["CartPoleDistractors"][2:6] == ["angle", "angular velocity", "noise[0]", "noise[1]"]
    assert found["AskedCue"][:3] == ["value", "question", "key[0]"]
    assert found["TMaze"] == ["obs[0]", "obs[1]", "obs[2]"]
    own = make_env("TMaze-v0", {})
    own.unwrapped.feature_names = ["north sign", "wall", "end"]
    assert feature_names(own, 3).features == ("north sign", "wall", "end")
    assert feature_names(own, 4).features[0] == "obs[0]"  # another number of names
