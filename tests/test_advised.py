"""Evaluation with advice from a checkpoint: trust learns, members do not, and the run folder does not change."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import peerage
from peerage import session
from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.perturbations import Perturbations
from peerage.errors import UserError
from peerage.evaluation.alone import GroupActor
from peerage.evaluation.company import advised_episodes
from peerage.evaluation.evaluate import Evaluator
from peerage.evaluation.perturbed import evaluate_perturbed
from peerage.runs.checkpoint import checkpoints
from peerage.training.restore import restore

TINY = Config(
    env="Room-v6",
    n_peers=2,
    replicas=2,
    advisers=("expert", "adversary"),
    advice=AdviceConfig(trust="td"),
    total_timesteps=300,
    learner=LearnerConfig(learning_starts=(50,), batch_size=(8,), net_arch=((8,),), train_freq=(4,)),
    run=RunConfig(eval_freq=0, verbose=0, log_freq=100),
    threads=1,
)
FOLLOWERS = replace(TINY, advice=AdviceConfig(only_follow_others=True, use_trust=True))


@pytest.fixture(scope="module", autouse=True)
def unreported():
    """Reports take longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "write_report", lambda folder: folder)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, unreported):
    where = tmp_path_factory.mktemp("runs")
    followers = {"n_peers": 1, "advisers": ("expert",), "replicas": 1}
    for name, config in {
        "mixed": TINY,
        "one": replace(FOLLOWERS, **followers),
        "two": replace(FOLLOWERS, advisers=(), replicas=1),
        "alone": replace(TINY, advisers=(), advice=AdviceConfig(sharing="none")),
        "byzantine": replace(
            FOLLOWERS, advisers=(), replicas=1,
            advice=AdviceConfig(only_follow_others=True, byzantine_members=("1:random",)),
            perturb={"dropped_advice": 0.5, "observation_noise": 0.5}, total_timesteps=60,
        ),
    }.items():  # fmt: skip
        peerage.train(config=config, log_dir=str(where), exp_name=name)
    return where


def episodes(trainer, n, seed=7, dropped=None):
    if dropped is not None:
        trainer.sharing.disturb(dropped)
    return advised_episodes(trainer, trainer.evaluation_makers, n, [seed] * trainer.group.M)[0]


def test_without_sharing_the_first_episodes_are_those_alone(folder):
    """Both act by the mode of the policies."""
    trainer = restore(folder / "alone").trainer
    alone = Evaluator(trainer.evaluation_makers, [[7]] * trainer.group.M).run(GroupActor(trainer.group), trainer.step)
    assert [e[2][1:] for e in episodes(trainer, 1)] == [e[2][1:] for e in alone]


def test_members_follow_themselves_if_all_advice_is_dropped(folder):
    """The episodes are those of the same members without advisers."""
    without_advisers = restore(folder / "mixed", "policies").trainer
    assert episodes(restore(folder / "mixed").trainer, 3, dropped=1.0) == episodes(without_advisers, 3)


def test_policies_do_not_change_and_trust_learns(folder):
    trainer = restore(folder / "mixed").trainer
    learner = trainer.group.stacks[0].learner
    before = {name: values.clone() for name, values in learner.parameters().items()}
    td = trainer.sharing.signals["td"]
    trust = td.report()["trust_td"].clone()
    found = episodes(trainer, 4)
    assert [(m, e) for m, e, _ in found] == [(m, e) for m in range(4) for e in range(4)]
    assert all(torch.equal(values, before[name]) for name, values in learner.parameters().items())
    assert (td.report()["trust_td"] != trust).any()


def test_trust_in_an_adviser_that_became_wrong_falls(folder):
    """With its opposite in the place of the expert, trust in that place ends lower than with the expert."""
    trust = {}
    for expert in ("expert", "sign-flip:expert"):
        trainer = restore(folder / "mixed").trainer
        trainer.sharing.disturb(advisers=trainer.copies_of([expert, "adversary"]))
        episodes(trainer, 8)
        trust[expert] = trainer.sharing.signals["td"].report()["trust_td"][:, 2]
    assert (trust["expert"] > trust["sign-flip:expert"]).all()


def test_followers_of_the_expert_succeed_and_followers_of_its_opposite_fail(folder):
    found = evaluate_perturbed(folder / "one", episodes=4, advised=True, advisers=["sign-flip:expert"])
    clean, wrong = found.records()
    assert clean["case"] == "clean" and wrong["case"] == "advisers sign-flip:expert"
    assert (clean["success"], wrong["success"]) == (1.0, 0.0)
    assert wrong["change"] == wrong["return"] - clean["return"] < 0


def test_dropped_advice_of_an_evaluation(folder):
    """With all advice dropped the episodes are those of the same members without advisers."""
    found = evaluate_perturbed(folder / "mixed", [Perturbations(dropped_advice=1.0)], 3, seed=7, advised=True)
    by_hand = episodes(restore(folder / "mixed", "policies").trainer, 3)
    for row in (row for row in found.rows if row.case == "dropped_advice=1"):
        m = row.replica * 2 + int(row.member[-1])
        assert row.perturbed == np.mean([e.return_ for of, _, e in by_hand if of == m])
    assert any(row.change for row in found.rows)


def test_an_environment_that_changed_keeps_its_state(tmp_path):
    """Rewards are negative from step 40 on; the evaluation is after 60 steps."""
    turned = {"change_at": 40, "change": {"reward_scale": -1.0}}
    config = replace(FOLLOWERS, n_peers=1, advisers=("expert",), replicas=1, env_args=turned, total_timesteps=60)
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    assert evaluate_perturbed(run, episodes=2, advised=True).records()[0]["return"] < -20
    early = replace(config, env_args={**turned, "change_at": 70})
    run = peerage.train(config=early, log_dir=str(tmp_path), exp_name="early").folder
    assert evaluate_perturbed(run, episodes=4, advised=True).records()[0]["return"] > 20


def test_the_checkpoint_that_is_used_is_named(folder, tmp_path, capsys):
    """A message names a damaged checkpoint that was skipped; a run without a checkpoint is refused."""
    run = tmp_path / "run"
    shutil.copytree(folder / "mixed", run)
    newest = checkpoints(run)[-1] / "state.json"
    newest.write_text(newest.read_text() + " ")
    for said in (["--advised"], ["--perturb", "observation_noise=0.1"]):
        assert main(["evaluate", str(run), "--episodes", "1", *said]) == 0
        out = capsys.readouterr().out
        assert "state.json does not match its checksum" in out and "after 0 of 300 steps" in out
    shutil.rmtree(run / "checkpoints")
    (run / "DONE").unlink()
    for said in (["--advised"], ["--perturb", "observation_noise=0.1"], []):
        assert main(["evaluate", str(run), "--episodes", "1", *said]) == 2
        assert "has no checkpoint" in capsys.readouterr().err


def test_a_new_adviser_is_not_the_old_one(folder, tmp_path):
    """With its own weights, although it replaces another adviser."""
    old, new = f"checkpoint:{folder / 'mixed'}:0", f"checkpoint:{folder / 'two'}:1"
    config = replace(TINY, advisers=(old,), total_timesteps=60)
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    trainer = restore(run, "company").trainer
    trainer.sharing.disturb(advisers=trainer.copies_of([new]))
    weights = trainer.sharing.fixed_advisers.advisers[0].adviser.learner.parameters()["q"]
    theirs = restore(folder / "two", "policies").trainer.group.stacks[0].learner.parameters()["q"]
    assert (weights.view(-1) == theirs.view(2, -1)[1]).all()


def test_a_run_whose_advice_has_ended_is_refused(tmp_path):
    config = replace(TINY, advice=replace(TINY.advice, max_peer_epochs=1), epoch_length=30, total_timesteps=60)
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    with pytest.raises(UserError, match=r"the advice in .* ended after --max-peer-epochs"):
        evaluate_perturbed(run, advised=True)


def test_a_perturbation_that_the_environment_already_has_is_not_a_case(tmp_path):
    config = replace(TINY, env_args={"perturb": {"action_noise": 0.25}}, total_timesteps=60, replicas=1)
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    weak, strong = Perturbations(action_noise=0.25), Perturbations(action_noise=0.5)
    for cases in ([weak, strong], [strong, weak]):
        found = evaluate_perturbed(run, cases, 1)
        assert [line["case"] for line in found.records()] == ["action_noise=0.25", "action_noise=0.5"]
        assert found.records()[0]["change"] == 0


def test_the_seed_can_be_chosen(tmp_path):
    """Alone and with advice, other seeds give other episodes."""
    config = replace(TINY, env="CartPole-v1", advisers=("random",), total_timesteps=60)
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    for advised in (False, True):
        cases = [Perturbations(action_noise=0.1)]
        one, two = (evaluate_perturbed(run, cases, 2, seed=seed, advised=advised) for seed in (1, 2))
        assert [row.clean for row in one.rows] != [row.clean for row in two.rows]


def test_a_byzantine_member_changes_the_returns_of_its_followers_alone(folder):
    """The members follow each other only: the follower of the Byzantine member acts differently, its own actions follow
    the other member, which is honest."""
    found = evaluate_perturbed(folder / "two", episodes=5, advised=True, byzantine_members=["1:random"])
    change = {row.member: row.change for row in found.rows if row.case == "byzantine 1:random"}
    assert change["member-0"] != 0 and change["member-1"] == 0


def test_every_case_starts_from_the_checkpoint(folder):
    """A case does not depend on those before it, and the run folder does not change."""
    path = folder / "mixed"
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    half, noise = Perturbations(dropped_advice=0.5), Perturbations(observation_noise=0.3)
    both = evaluate_perturbed(path, [half, noise], 3, advised=True).rows
    assert [r for r in both if "noise" in r.case] == evaluate_perturbed(path, [noise], 3, advised=True).rows[4:]
    assert len({r.perturbed for r in both}) > 4  # they differ
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_disturbances_of_the_training_are_switched_off(folder):
    """The training had a Byzantine member and dropped advice; the case `clean` has neither."""
    troubled = restore(folder / "byzantine").trainer
    troubled.sharing.disturb()
    clean = evaluate_perturbed(folder / "byzantine", episodes=3, advised=True).rows
    by_hand = episodes(troubled, 3, seed=1_000_003)
    for row in clean:
        mine = [e.return_ for m, _, e in by_hand if troubled.names[m] == row.member]
        assert row.perturbed == row.clean == np.mean(mine)
    wrong = evaluate_perturbed(folder / "byzantine", episodes=3, advised=True, byzantine_members=["1:random"]).rows
    assert [r.clean for r in wrong[:2]] == [r.clean for r in clean]


def test_a_perturbation_that_is_part_of_the_environment_is_named(tmp_path):
    config = replace(TINY, env_args={"perturb": {"action_noise": 0.25}}, total_timesteps=60, replicas=1)
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run").folder
    found = evaluate_perturbed(run, [Perturbations(observation_noise=0.5)], 1)
    names = ["action_noise=0.25", "observation_noise=0.5 action_noise=0.25"]
    assert [line["case"] for line in found.records()] == names


@pytest.mark.parametrize(
    "advisers", [["random", "turncoat"], ["noise:expert", "colluding:a"], ["convert", "regional:a"]]
)
def test_replacing_advisers_may_have_a_state(folder, advisers):
    """Those of the run had none, and one object served all replicas."""
    found = evaluate_perturbed(folder / "mixed", episodes=2, advised=True, advisers=advisers)
    assert len({row.case for row in found.rows}) == 2


@pytest.mark.parametrize(
    "said, why",
    [
        (["--byzantine-members", "1:random"], "add --advised"),
        (["--perturb", "dropped_advice=0.5"], "add --advised"),
        (["--advised", "--advisers", "expert"], "has 2 (expert, adversary); give the same number"),
        (["--advised", "--advisers", "expert", "expret"], "did you mean 'expert'"),
        (["--advised", "--byzantine-members", "2:random"], "there is no such member"),
        (["--advised", "--members", "2"], "has no member 2"),
    ],
)
def test_invalid_arguments_are_refused(folder, capsys, said, why):
    assert main(["evaluate", str(folder / "mixed"), *said]) == 2
    assert why in capsys.readouterr().err


def test_a_run_without_advice_is_refused(folder):
    with pytest.raises(UserError, match="was trained without advice: remove --advised"):
        evaluate_perturbed(folder / "alone", advised=True)


def test_a_single_case_has_no_change(folder, capsys):
    assert main(["evaluate", str(folder / "mixed"), "--advised", "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "clean" in out and "change" not in out
