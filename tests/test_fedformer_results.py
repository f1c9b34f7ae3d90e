"""The page about FedFormer: its runs can be trained, its numbers are those of the runs, and its corrupted member."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_compare import make
from test_fedformer import exchange, group

from benchmarks import fedformer_results as results
from benchmarks import fedformer_runs as script
from benchmarks.fedformer_corrupted import Corrupt, register
from peerage.config.file import load, validate
from peerage.config.flags import Parser, add_flags, override, train_flags
from peerage.config.methods import EXCHANGES
from peerage.sharing.exchanges.fedavg import FedAvg


def test_the_settings_of_all_runs_are_valid_and_fair(monkeypatch) -> None:
    monkeypatch.setattr(EXCHANGES, "methods", dict(EXCHANGES.methods))
    register()
    for size in (script.FULL, script.QUICK):
        for e in script.everything(size):
            parser = Parser(prog="peerage train")
            add_flags(parser, train_flags())
            words = e.flags
            preset = words[words.index("--config") + 1]
            config = validate(override(load(preset), vars(parser.parse(words[2:]))))
            assert config.env == f"metaworld/{script.TASKS[e.task][0]}" and config.steps == e.steps
            assert config.n_peers == (1 if e.pooled else e.members) and config.env_args["goals"] == 5
            assert config.env_args.get("pooled", 0) == (e.members if e.pooled else 0)
            assert e.steps * config.n_peers == (20_000 * e.members if size is script.FULL else 200 * e.members)
            corrupted = e.method in script.CORRUPTED
            assert (config.exchange[:1] == ("corrupt",)) == corrupted and len(config.exchange) <= 1 + corrupted
    names = [e.name for e in script.everything(script.FULL)]
    assert len(set(names)) == len(names) == 16 and names[0] == "reach-fedformer"
    replicas = {e.name: e.replicas for e in script.everything(script.FULL)}
    assert replicas["reach-fedformer"] == replicas["reach-fedformer-corrupted"] == 5
    assert replicas["reach-fedformer-15"] == 2
    assert replicas["window-fedformer"] == 3 and replicas["window-none"] == replicas["reach-fedavg-corrupted"] == 10


def test_a_corrupted_member_gives_away_random_networks():
    g = group(replicas=2)
    learner = g.stacks[0].learner
    critic, corrupt = learner.critic, Corrupt(None, g, 10)
    before = {name: values.clone() for name, values in learner.parameters().items()}
    first = critic.encoders[:, 0].clone()
    sent = []
    for step in (10, 20):
        corrupt.after_learning(g, step)
        exchange(g).after_learning(g, step)
        assert torch.equal(critic.received, critic.encoders)
        sent.append(critic.received[:, 0].clone())
    for name, values in learner.parameters().items():
        assert torch.equal(values.view(2, 3, -1)[:, 1:], before[name].view(2, 3, -1)[:, 1:]), name
    for one, other in ((first, sent[0]), (sent[0], sent[1]), (sent[0][:1], sent[0][1:])):
        assert (one - other).std() > 0.5 * first.std()
    assert torch.equal(learner.critic_target.flat[0], critic.flat[0])
    FedAvg(SimpleNamespace(fedavg_networks="all"), g, 10).after_learning(g, 20)
    assert torch.equal(learner.actor.flat[0], learner.actor.flat[1])
    assert not torch.allclose(learner.actor.flat[1], before["actor"][1])


def by_hand(experiment: script.Experiment, success: list[float]) -> None:
    """A run with the success of its replicas, equal on train goals, 0.1 lower on test goals; and attention."""
    scale = experiment.members if experiment.pooled else 1
    steps = tuple(scale * step for step in (100, 200, 300))
    make(experiment.folder, [100 * x for x in success], members=3, steps=steps, success=success)
    path = experiment.folder / "evaluations.csv"
    head, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    place = head.split(",").index("success")
    test = [[*row[:place], f"{float(row[place]) - 0.1:.3f}", *row[place + 1 :]] for row in rows]
    made = [",".join(row).replace("alone", "test") for row in test]
    path.write_text("\n".join([head, *lines, *made]) + "\n")
    weights = (0.1, 0.2, 0.3, 0.4) if "corrupted" in experiment.method else (0.1, 0.4, 0.2, 0.3)
    lines = [
        f"300,{replica},member-{m},fedformer/attention_{token},{weight}"
        for replica in range(len(success))
        for m in range(3)
        for token, weight in zip(("cls", "0", "1", "2"), weights)
    ]
    if "fedformer" in experiment.method:
        (experiment.folder / "metrics.csv").write_text("\n".join(["step,replica,member,name,value", *lines]) + "\n")


def test_the_page_of_runs_by_hand(tmp_path):
    size = script.Size(tmp_path, replicas=3)
    successes = {"fedformer": [0.7, 0.8, 0.9], "fedavg": [0.5, 0.6, 0.7], "pooled": [0.8, 0.8, 0.9]}
    for method, success in {**successes, "fedformer-corrupted": [0.4, 0.5, 0.6]}.items():
        by_hand(script.Experiment("reach", method, size), success)
    results.page(size, tmp_path / "docs")
    text = (tmp_path / "docs" / "fedformer.md").read_text()
    train, test = (results.interval(np.array([0.7, 0.8, 0.9]) - less, 3) for less in (0, 0.1))
    of_fedformer = next(line for line in text.splitlines() if line.startswith("| FedFormer | 5 | 3 |"))
    assert of_fedformer.startswith(f"| FedFormer | 5 | 3 | {train} | {test} |")
    assert f"| {train} | {test} |" in of_fedformer[80:]
    assert "| pooled data | 1 (of 5) | 3 |" in text and "| no exchange |" not in text
    assert "| FedFormer against FedAvg | success, test goals | **+0.200 [" in text
    assert "| FedFormer against pooled data | success, test goals | **-0.033 [" in text
    corrupted = text.split("<!-- corrupted -->")[1]
    assert "FedFormer, member 0 corrupted against FedFormer | success, test goals | **-0.300 [" in corrupted
    # of members 1 and 2: to member 0, to the other of them, to themselves, and to CLS
    assert f"| FedFormer | {' | '.join(results.interval(np.full(3, x), 1) for x in (40, 25, 25, 10))} |" in corrupted
    assert f"corrupted | {' | '.join(results.interval(np.full(3, x), 1) for x in (20, 35, 35, 10))} |" in corrupted
    assert "Larger groups" not in text and "drawer-close" not in text.split("<!-- reach -->")[1]
    assert (tmp_path / "docs" / "fedformer.png").exists()
    (tmp_path / "docs" / "fedformer.md").write_text(text + "\nMore text.\n")
    results.page(size, tmp_path / "docs")
    assert (tmp_path / "docs" / "fedformer.md").read_text() == text + "\nMore text.\n"


def test_the_steps_of_the_pooled_learner_are_those_of_a_member(tmp_path):
    size = script.Size(tmp_path, replicas=2)
    for method in ("none", "pooled"):
        by_hand(e := script.Experiment("reach", method, size), [0.5, 0.6])
        assert results.curves(e, "return", "test").index.tolist() == [100, 200, 300]
        np.testing.assert_allclose(results.area(results.curves(e, "return", "alone")), [100 / 3, 40], rtol=1e-6)


@pytest.mark.long
def test_a_quick_run_of_a_corrupted_member(tmp_path):
    size = script.Size(tmp_path, 1, 0.002, "--batch-size 4 --n-eval-episodes 1 --max-eval-steps 5 --log-freq 10")
    experiment = script.Experiment("reach", "fedformer-corrupted", size)
    assert experiment.make() == (True, "reach-fedformer-corrupted: trained")
    assert len(results.attention_to(experiment)) == 4 and "member 0 corrupted" in results.table([experiment])[2]
