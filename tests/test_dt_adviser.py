"""A Decision Transformer as an adviser: its memory of every step, one object for all askers, resume, evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import peerage
from peerage.api import with_settings
from peerage.cli import main
from peerage.config import Config
from peerage.config.adviser_words import parse_adviser
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.interop.hf_dt import write_hf
from peerage.learners.transition import HostTransition
from peerage.nets.gpt import StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.model import SequenceModel
from peerage.offline.preprocessing import Preprocessing
from peerage.runs.listeners import Listener
from peerage.sharing.advisers import make_adviser
from peerage.sharing.decision_transformer import DecisionTransformer

pytestmark = pytest.mark.usefixtures("no_reports", "one_thread")

K = 4
ROOM = check_env_id("Room-v6", {})
PENDULUM = check_env_id("Pendulum-v1", {})


def make_model(spec=ROOM, seed=0, heads=1, **statistics):
    rng = np.random.default_rng(seed)
    bounds = {"n_actions": spec.n_actions} if spec.discrete else {"low": spec.action_low, "high": spec.action_high}
    returns = np.linspace(0, 50, 101, dtype=np.float32)
    known = {"returns": returns, "rtg_low": np.float32([-5]), "rtg_high": np.float32([60])}
    prepared = Preprocessing(
        np.full(spec.obs_dim, 0.5, np.float32), np.full(spec.obs_dim, 0.3, np.float32), 20.0, **bounds,
        **{**known, **statistics},
    )  # fmt: skip
    settings = GPTSettings(context_length=K, d_model=8, n_layers=2, n_heads=heads, max_ep_len=200)
    net = StackedGPT(1, prepared.obs_dim, prepared.width, settings, tanh=prepared.bounded)
    net.init_([rng])
    net.flat.mul_(12)  # actions that depend on the whole window, but not at the ends of the box
    net.weights()["out.weight"].mul_(0.1)
    return SequenceModel(net, prepared, spec.id)


@pytest.fixture
def folder(tmp_path):
    return write_hf(make_model(), tmp_path / "dt")


def room(**settings) -> Config:
    base = {"env": "Room-v6", "n_peers": 2, "replicas": 2, "learning_starts": 0, "train_freq": 4, "verbose": 0}
    small = {"net_arch": ((16,),), "buffer_size": 500, "batch_size": 8, "total_timesteps": 160, "eval_freq": 0}
    more = {"threads": 1, "choice": "uniform", "follow_steps": 3, "log_freq": 40}
    return with_settings(Config(), base | small | more | settings)


def random_step(rng, n, first):
    obs, next_obs = (rng.uniform(size=(n, PENDULUM.obs_dim)).astype(np.float32) for _ in range(2))
    actions, rewards = rng.uniform(-2, 2, (n, 1)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    done, none = rng.random(n) < 0.1, np.zeros(n, np.int64)
    return HostTransition(obs, actions, rewards, next_obs, done, np.zeros(n, bool), done, first, none, none > 0)


def test_one_object_equals_separate_ones_and_skipped_questions_leave_no_hole():
    """Askers that ask in some steps only get the same suggestions as from contexts that are told every step."""
    model, n, rng = make_model(PENDULUM), 6, np.random.default_rng(1)
    together, *apart = (DecisionTransformer(model, PENDULUM, 30.0) for _ in range(n + 1))
    reference = model.contexts(n, clip=True)
    reference.begin(np.arange(n), 30.0)
    first, everyone, asked = np.ones(n, bool), np.arange(n), 0
    for _ in range(60):
        step = random_step(rng, n, first)
        asking = np.flatnonzero(rng.random(n) < 0.4)
        found = together.suggest(step.obs[asking], asking, first[asking], rng)
        expected = reference.act(step.obs)
        np.testing.assert_allclose(found, expected[asking], atol=1e-5)
        for row in asking:
            alone = apart[row].suggest(step.obs[[row]], np.array([0]), first[[row]], rng)
            np.testing.assert_allclose(alone[0], expected[row], atol=1e-5)
        together.observe(step, everyone)
        for row in everyone:
            apart[row].observe(step.rows(np.array([row])), np.array([0]))
        reference.observe(step.obs, step.actions, step.rewards, step.done)
        first, asked = step.done, asked + len(asking)
    assert asked > 100 and len(np.unique(expected)) > 2


def test_the_memory_has_the_executed_actions_of_all_askers(begin, folder):
    """Whichever adviser they followed, one object for the members of both replicas; episodes of Room-v6 have at most 50
    steps."""
    trainer = begin(room(), advisers=[f"dt:{folder}@30", "random"])
    [fixed] = [f for f in trainer.sharing.fixed_advisers.advisers if isinstance(f.adviser, DecisionTransformer)]
    assert fixed.rows.tolist() == [0, 1, 2, 3]
    column, followed, steps, first = trainer.N, [], [], np.ones(4, bool)
    for _ in range(70):
        obs, result = trainer.host_obs.copy(), trainer.advance()
        followed.append(trainer.sharing.followed == column)
        steps.append((obs, trainer.sharing.following.clone(), result.reward, first))
        first = result.done
    followed = np.array(followed)
    assert 20 < followed.sum() < 200
    contexts, prepared = fixed.adviser.episodes, fixed.adviser.model.preprocessing
    states = np.array([obs for obs, *_ in steps[-K:]]).transpose(1, 0, 2)
    inside = contexts.lengths >= K
    assert inside.any()
    np.testing.assert_allclose(contexts.states[inside], prepared.states(states)[inside], atol=1e-5)
    assert (contexts.actions[inside].sum(axis=2) == 1).all()  # one-hot
    for row in np.flatnonzero(inside):
        earned = sum(rewards[row] for _, _, rewards, _ in steps[-contexts.lengths[row] :])
        assert contexts.left[row] == pytest.approx(30 - earned, abs=1e-4)


class Stop(Listener):
    def on_metrics(self, step, rows):
        if step >= 120:
            raise KeyboardInterrupt


def test_a_run_resumes_in_the_middle_of_an_episode(tmp_path, folder, capsys):
    """The model is part of the checkpoint: the folder may change. Evaluations with advice work, too."""
    names = [f"dt:{folder}", f"noise:0.3:dt:{folder}@10"]
    config = room(advisers=tuple(names), checkpoint_freq=70, log_dir=str(tmp_path), eval_freq=80, n_eval_episodes=1,
                  eval_modes=("alone", "together"))  # fmt: skip
    whole = peerage.train(config=config, exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, exp_name="run", listeners=[Stop()])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    write_hf(make_model(seed=5), folder)
    run = peerage.resume(tmp_path / "run")
    for name in ("metrics.csv", "advice.csv", "evaluations.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    advised = ["evaluate", str(whole.folder), "--advised", "--episodes", "1", "--max-eval-steps", "20"]
    assert main(advised) == 0, capsys.readouterr()
    assert main([*advised, "--advisers", f"dt:{folder}@5", "random"]) == 0, capsys.readouterr()
    assert main([*advised, "--advisers", f"dt:{folder / 'no'}", "random"]) == 2
    assert "no Decision Transformer at" in capsys.readouterr().err


def test_suggestions_depend_on_the_target_and_the_memory():
    """Otherwise the comparisons above could not fail."""
    model, rng = make_model(PENDULUM), np.random.default_rng(0)
    high, low, restored = (DecisionTransformer(model, PENDULUM, target) for target in (60.0, -60.0, 0.0))
    rows, first = np.arange(3), np.zeros(3, bool)
    assert high.target == 60 and low.target == -60
    for _ in range(3):
        for adviser in (high, low):
            adviser.observe(random_step(np.random.default_rng(2), 3, first), rows)
    step = random_step(rng, 3, first)
    suggestions = high.suggest(step.obs, rows, first, rng)
    assert not np.allclose(suggestions, low.suggest(step.obs, rows, first, rng))
    assert not np.allclose(suggestions, high.suggest(step.obs, rows, ~first, rng))  # a new episode forgets
    high.observe(step, rows)
    restored.load_state(high.state())
    step = random_step(rng, 3, first)
    assert np.array_equal(restored.suggest(step.obs, rows, first, rng), high.suggest(step.obs, rows, first, rng))


def test_another_network_with_as_many_parameters_is_refused():
    """States of older versions, without the settings, are loaded."""
    one, two = (DecisionTransformer(make_model(PENDULUM, heads=heads), PENDULUM, 1.0) for heads in (1, 2))
    state, rng, first, rows = one.state(), np.random.default_rng(0), np.ones(2, bool), np.arange(2)
    step = random_step(rng, 2, first)
    assert one.model.net.flat.shape == two.model.net.flat.shape
    with pytest.raises(UserError, match="changed since the run was started: its n_heads was 1 and is now 2"):
        two.load_state(state)
    del state["settings"]
    again = DecisionTransformer(make_model(PENDULUM, seed=3), PENDULUM, 2.0)
    again.load_state(state)
    assert np.array_equal(again.suggest(step.obs, rows, first, rng), one.suggest(step.obs, rows, first, rng))


def test_the_default_target_is_the_largest_return_of_the_data(tmp_path, folder):
    assert make_adviser(f"dt:{folder}", ROOM).target == 50
    assert make_adviser(f"dt:{folder}@-2.5", ROOM).target == -2.5
    unknown = write_hf(make_model(returns=np.zeros(0, np.float32)), tmp_path / "unknown")
    with pytest.raises(UserError, match="the returns of its data are unknown; write its target return"):
        make_adviser(f"dt:{unknown}", ROOM)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dt:{folder}@high", "the target return after @ must be a number, got 'high'"),
        ("dt:{folder}@nan", "the target return after @ must be a number"),
        ("dt:{folder}:1", "is a folder with a single model: remove :1"),
        ("dt:", r"write dt:FOLDER\[:MEMBER\]\[@TARGET\]"),
        ("dt:no/such/folder", "there is no such folder"),
    ],
)
def test_malformed_names(folder, name, says):
    with pytest.raises(UserError, match=says):
        make_adviser(name.format(folder=folder), ROOM)


def test_a_model_of_another_environment_is_refused(folder):
    model = make_model(PENDULUM)
    with pytest.raises(UserError, match=r"of 3 numbers and Box\(1\) actions; Room-v6 has .* of 4 .* 4 discrete"):
        DecisionTransformer(model, ROOM, 1.0)
    with pytest.raises(UserError, match=r"bounded by -2 to 2; .* has bounds -1 to 1"):
        DecisionTransformer(model, replace(PENDULUM, action_low=np.float32([-1]), action_high=np.float32([1])), 1.0)
    with pytest.raises(UserError, match=r"timesteps for 200 steps .* --env-args max_episode_steps=200"):
        DecisionTransformer(model, replace(PENDULUM, max_episode_steps=1000), 1.0)


def test_names_are_parsed():
    word = parse_adviser("negated:dt:runs/a:3@1e3").inner
    assert (word.kind, word.argument, word.number) == ("dt", "runs/a:3", 1000.0)
    assert parse_adviser("dt:runs@b/a").argument == "runs@b/a" and parse_adviser("dt:a").number is None
