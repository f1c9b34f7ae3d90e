"""Trained Decision Transformers outside of their training: export, adviser, video, perturbed evaluation, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from small_data import balance, write_dataset

import peerage
from peerage.cli import main
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.evaluation.evaluate import Evaluator
from peerage.evaluation.targets import targets_of
from peerage.interop.hf_dt import read_hf
from peerage.interop.sequence_models import load_sequence_model
from peerage.sharing.advisers import make_adviser
from peerage.text import number
from peerage.training.restore import restore

pytestmark = pytest.mark.usefixtures("no_reports", "one_thread")

LIMIT = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the dataset `cart` and the run `run` of two members in two replicas."""
    made = tmp_path_factory.mktemp("dt")
    write_dataset(made / "cart-v0", "CartPole-v1", balance, 8, max_episode_steps=LIMIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peerage.session.write_report", lambda folder: folder)
        peerage.train(
            algorithm="dt", data=str(made / "cart-v0"), log_dir=str(made), exp_name="run", total_timesteps=6, verbose=0,
            gpt_d_model=8, gpt_n_layers=1, gpt_context_length=4, batch_size=8, n_peers=2, replicas=2, eval_freq=0,
            learning_rate=0.01, threads=1,
        )  # fmt: skip
    return made


def test_a_member_is_exported_to_hugging_face_and_read_back(place, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "model"
    words = ["export", str(place / "run"), "--to", "hf"]
    assert main([*words, "--member", "1", "--replica", "1", "--out", str(out)]) == 0
    capsys.readouterr()
    model = read_hf(out)
    learner = restore(place / "run", "policies").trainer.group.stacks[0].learner
    assert np.array_equal(model.net.flat[0].numpy(), learner.net.flat[3].numpy())
    assert model.preprocessing.state() == learner.conditioned(1).preprocessing.state()
    assert model.env == "CartPole-v1" and model.env_args["max_episode_steps"] == LIMIT
    theirs = transformers.DecisionTransformerModel.from_pretrained(out)
    assert not theirs.config.action_tanh and theirs.config.act_dim == 2
    assert main([*words, "--member", "1", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--stats-from", "cart", "--out", str(tmp_path / "no")]) == 2
    assert "--stats-from has no effect on a run" in capsys.readouterr().err
    assert load_sequence_model(f"{place / 'run'}:1").net.settings == model.net.settings
    assert main(["export", str(place / "run")]) == 2  # sb3 has no Decision Transformer
    assert main([*words]) == 0
    assert (place / "run" / "export" / "member-0-replica-0" / "model.safetensors").is_file()


def test_a_folder_is_evaluated_as_the_member_that_it_is_from(place, tmp_path, capsys):
    assert main(["export", str(place / "run"), "--to", "hf", "--member", "1", "--out", str(tmp_path / "model")]) == 0
    own = peerage.load(place / "run").evaluate(2, target_return=[7, 15], seed=5)
    own = own[(own["replica"] == 0) & (own["member"] == "member-1")]
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "model"), "--episodes", "2", "--seed", "5", "--target-return", "7", "15"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["episodes"]
    columns = ["episode", "return", "length", "mode", "target"]
    assert [[row[name] for name in columns] for row in found] == own[columns].to_numpy().tolist()
    for more, text in (
        (["--env", "Pendulum-v1"], "observations of 4 numbers and 2 discrete actions; Pendulum-v1 has obs"),
        (["--members", "0"], "is a folder with a single model"),
        (["--advised"], "is not a run: remove"),
    ):
        assert main([*words, *more]) == 2
        assert text in capsys.readouterr().err
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "peerage": {**config["peerage"], "env": "hostile_module:make"}}))
    assert main(words) == 2
    assert "names the environment hostile_module:make, which would execute code: add" in capsys.readouterr().err
    assert main([*words, "--env", "CartPole-v1"]) == 2  # its episodes are longer than the model's
    assert "timesteps for 20 steps (max_ep_len)" in capsys.readouterr().err


def test_a_foreign_folder_is_completed_by_the_statistics_of_a_dataset(place, tmp_path, capsys):
    assert main(["export", str(place / "run"), "--to", "hf", "--out", str(tmp_path / "foreign")]) == 0
    path = tmp_path / "foreign" / "config.json"
    config = json.loads(path.read_text())
    complete = read_hf(tmp_path / "foreign").preprocessing.state()
    for name in ("state_mean", "state_std", "scale", "peerage"):
        del config[name]
    path.write_text(json.dumps(config))
    words = ["export", str(tmp_path / "foreign"), "--to", "hf", "--out", str(tmp_path / "own")]
    assert main(words) == 2
    assert "complete it with `peerage export" in capsys.readouterr().err
    assert main([*words, "--stats-from", str(place / "cart-v0")]) == 0
    found = read_hf(tmp_path / "own")
    state = found.preprocessing.state()
    longest = len(state["rtg_low"])
    assert {**state, "rtg_low": 0, "rtg_high": 0} == {**complete, "rtg_low": 0, "rtg_high": 0}
    assert state["rtg_low"] == complete["rtg_low"][:longest] and found.env == "CartPole-v1"
    assert main([*words[:2], "--stats-from", "cart-v0"]) == 2


def test_a_member_of_a_run_is_an_adviser(place, tmp_path, capsys):
    words = ["train", "--env", "CartPole-v1", "--env-args", f"max_episode_steps={LIMIT}", "--total-timesteps", "60"]
    words += ["--algorithm", "dqn", "--learning-starts", "10", "--batch-size", "8", "--n-peers", "2", "--verbose", "0"]
    words += ["--eval-freq", "0", "--log-dir", str(tmp_path), "--log-freq", "20", "--advisers"]
    assert main([*words, f"dt:{place / 'run'}:1@20"]) == 0
    [run] = tmp_path.iterdir()
    assert (peerage.load(run).advice["adviser"] == f"dt:{place / 'run'}:1@20").any()
    own = f"{place / 'run'}:1"
    endless = f"has timesteps for {LIMIT} steps (max_ep_len), but CartPole-v1 has no time limit: shorten its episodes"
    longer = "but episodes of CartPole-v1 have up to 21"
    for name, limit, text in (
        (f"dt:{place / 'run'}:7", LIMIT, "has no member 7"),
        (f"dt:{run}", LIMIT, "learns with dqn and is not a Decision Transformer"),
        *((name, -1, f"{name} {endless} with --env-args max_episode_steps={LIMIT}")
          for name in (f"dt:{own}", f"checkpoint:{own}", f"noise:0.1:dt:{own}", f"negated:checkpoint:{own}")),
        *((f"{kind}:{own}", LIMIT + 1, longer) for kind in ("dt", "checkpoint")),
    ):  # fmt: skip
        changed = ["--env-args", f"max_episode_steps={limit}", "--exp-name", "refused"]
        assert main([*words, name, *changed]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    sweep = tmp_path / "sweep.yaml"
    common = {"env": "CartPole-v1", "env_args": {"max_episode_steps": -1}, "n_peers": 2, "advisers": [f"dt:{own}"]}
    sweep.write_text(json.dumps({"common": {**common, "total_timesteps": 20}, "axes": {"gamma": [0.9, 0.99]}}))
    assert main(["sweep", str(sweep), "--dry-run"]) == 2
    assert endless in capsys.readouterr().err


def test_a_member_as_adviser_keeps_its_target_when_its_run_changes(place, tmp_path):
    """The largest return of the data of the first run, and its network, in the episodes after a resume."""
    spec = check_env_id("CartPole-v1", {"max_episode_steps": LIMIT})
    shutil.copytree(place / "run", tmp_path / "run")
    name = f"checkpoint:{tmp_path / 'run'}:1"
    adviser, rng, first, row = make_adviser(name, spec), np.random.default_rng(0), np.array([True]), np.array([0])
    obs = rng.normal(size=(1, 4)).astype(np.float32)
    action = adviser.suggest(obs, row, first, rng)
    state = adviser.state()
    assert adviser.target == adviser.episodes.left[0] == LIMIT
    other = peerage.train(
        config=peerage.load(tmp_path / "run").config, data=str(write_falling(tmp_path / "falls-v0")),
        exp_name="other", log_dir=str(tmp_path), max_ep_len=LIMIT,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "run")
    other.folder.rename(tmp_path / "run")
    restored = make_adviser(name, spec)
    assert restored.target < LIMIT
    restored.load_state(state)
    assert np.array_equal(restored.suggest(obs, row, first, rng), action)
    assert restored.target == restored.episodes.left[0] == LIMIT
    with pytest.raises(UserError, match="changed since the run was started: its activation was gelu and is now relu"):
        restored.load_state({**state, "settings": {**state["settings"], "activation": "gelu"}})


def write_falling(folder):
    return write_dataset(folder, "CartPole-v1", lambda obs, episode, rng: 1, 4, max_episode_steps=LIMIT)


def test_members_are_shown_and_evaluated_with_their_targets(place, tmp_path, capsys):
    """A video shows the episodes of the evaluation of this member for this target."""
    table = peerage.load(place / "run").evaluate(2, target_return=[7])
    own = table[(table["replica"] == 1) & (table["member"] == "member-1")]["return"].tolist()
    words = ["video", str(place / "run"), "--out", str(tmp_path / "a.gif"), "--member", "1", "--replica", "1"]
    assert main([*words, "--target-return", "7", "--episodes", "2", "--max-frames", "100"]) == 0
    assert f"return {' '.join(map(number, own))}" in capsys.readouterr().out
    assert main(["evaluate", str(place / "run"), "--perturb", "observation_noise=0.1", "--episodes", "1"]) == 0


def test_episodes_without_a_time_limit_end_with_the_timesteps_of_the_model(place, tmp_path, capsys):
    """In evaluations during and after the training, alone and with advice, in videos and in recorded data."""
    write_dataset(tmp_path / "short-v0", "CartPole-v1", balance, 4, max_episode_steps=5)  # the pole stays up longer
    small = {"env_args": {"max_episode_steps": -1}, "log_dir": str(tmp_path), "n_peers": 1, "replicas": 1, "threads": 1}
    run = peerage.train(
        "CartPole-v1", algorithm="dt", data=str(tmp_path / "short-v0"), exp_name="run", total_timesteps=2, eval_freq=2,
        gpt_d_model=8, gpt_n_layers=1, gpt_context_length=4, batch_size=8, n_eval_episodes=2, verbose=1, **small,
    )  # fmt: skip
    note = "truncated after 5 steps: the model has timesteps for no more (max_ep_len)"
    printed = capsys.readouterr().out
    assert set(run.evaluations["length"]) == {5} and printed.count(note) == 1
    network = "gpt_context_length 4, gpt_d_model 8, gpt_n_layers 1, gpt_n_heads 1, gpt_dropout 0.1, "
    assert network in next(line for line in printed.splitlines() if line.startswith("member-0: dt, "))
    evaluate = ["evaluate", str(run.folder), "--episodes", "2"]
    for more in ([], ["--max-eval-steps", "9"], ["--perturb", "observation_noise=0.1"]):
        assert main([*evaluate, *more]) == 0
        assert note in (found := capsys.readouterr()).out + found.err
    assert main([*evaluate, "--max-eval-steps", "4"]) == 0
    assert "after 4 steps (--max-eval-steps sets this limit)" in (found := capsys.readouterr()).out + found.err
    assert main(["video", str(run.folder), "--episodes", "1", "--out", str(tmp_path / "a.gif")]) == 0
    data = peerage.collect(run.folder, tmp_path / "data", episodes=3, noise=0.1)
    assert data.lengths.tolist() == [5, 5, 5] and not data.terminated.any()
    assert main(["export", str(run.folder), "--to", "hf", "--out", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "model"), "--episodes", "2"]) == 0
    assert note in (found := capsys.readouterr()).out + found.err
    group = peerage.train(
        "CartPole-v1", algorithm="dqn", exp_name="group", total_timesteps=20, eval_freq=0, learning_starts=10,
        batch_size=4, net_arch=(8,), advisers=["random"], verbose=0, **small,
    )  # fmt: skip
    capsys.readouterr()
    assert main(["evaluate", str(group.folder), "--episodes", "1", "--advised", "--advisers", f"dt:{run.folder}"]) == 0
    assert note in (found := capsys.readouterr()).out + found.err


@pytest.mark.parametrize("algorithm", ["dt", "rvs"])
def test_one_member_is_evaluated_without_the_others(place, tmp_path, algorithm):
    """Its episodes are those of the evaluation of all members."""
    run = peerage.train(
        algorithm=algorithm, data=str(place / "cart-v0"), log_dir=str(tmp_path), total_timesteps=3, n_peers=2,
        replicas=2, eval_freq=0, batch_size=8, threads=1, verbose=0, learning_rate=0.1,
        **({"gpt_d_model": 8, "gpt_n_layers": 1} if algorithm == "dt" else {"net_arch": (8,)}),
    )  # fmt: skip
    trainer = restore(run.folder, "policies").trainer
    targets = targets_of(trainer.group, trainer.config)
    maker = trainer.evaluation_makers[0]
    together = Evaluator([maker] * 4, [[3, 4]] * 4).run(targets.alone(2))
    alone = targets.member(2)
    found = Evaluator([maker], [[3, 4]]).run(alone)
    assert alone.conditioned.n == 2  # episodes, not four times as many
    assert [e.return_ for _, _, e in found] == [e.return_ for row, _, e in together if row == 2]


def test_what_needs_a_function_of_one_observation_refuses_members_with_memory(place, capsys):
    with pytest.raises(UserError, match=r"members of dt act for a target return, .*: use run.evaluate\(target_return"):
        peerage.load(place / "run").policy(0)
    assert main(["attention", str(place / "run")]) == 2
    assert "act for a target return" in capsys.readouterr().err
