"""Replicas do not affect each other: two replicas have the same bits with and without a third one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peerage.config import Config, RunConfig, with_settings
from peerage.runs.listeners import Listener
from peerage.training.runner import Runner
from peerage.training.trainer import Trainer

BASE: dict[str, Any] = {
    "n_peers": 2,
    "advisers": ("random", "random"),
    "total_timesteps": 90,
    "device": "cpu",
    "learning_starts": (6,),
    "batch_size": (8,),
    "net_arch": ((16,),),
    "train_freq": (2,),
    "gradient_steps": (1,),
    "follow_steps": 3,
    "trust": "td",
    "lr": 0.05,
}
TRANSFORMER: dict[str, Any] = {
    "attention_update_freq": 4, "attention_batch_size": 4, "sequence_length": 12, "warmup_steps": 40,
    "attention_lr": 1e-3,
}  # fmt: skip
IN_CONTEXT: dict[str, Any] = {
    "trust": "in-context", "context_length": 12, "context_update_freq": 4, "context_batch_size": 8, "context_lr": 3e-3,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # learners and ways of acting
    "dqn": ("Room-v6", {}),
    "dqn, the mode for others": ("Room-v6", {"choice": "paper", "sample_with_noise": False}),
    "sac": ("Pendulum-v1", {"n_peers": 3, "advisers": ()}),
    "sac, solo epochs": ("Pendulum-v1", {"sample_with_noise": False, "switch_ratio": 2, "epoch_length": 20}),
    "sac, wide layers": ("Pendulum-v1", {"net_arch": ((128, 128),), "batch_size": (40,), "total_timesteps": 30}),
    "gsde": ("Pendulum-v1", {"use_sde": (True,)}),
    "td3, odd batches": ("Pendulum-v1", {"algorithm": ("td3",), "net_arch": ((256, 256),), "batch_size": (3,)}),
    "sac and td3": ("Pendulum-v1", {"n_peers": 3, "algorithm": ("sac", "td3", "sac"), "gamma": (0.99, 0.99, 0.9)}),
    "three shapes": (
        "Pendulum-v1",
        {"n_peers": 3, "algorithm": ("sac",), "net_arch": ((16,), (9,), (16,)), "train_freq": (2, 2, 3)},
    ),
    "a large group": ("Room-v6", {"n_peers": 18, "total_timesteps": 40}),
    "a large mixed group": (
        "Pendulum-v1",
        {"n_peers": 18, "algorithm": ("sac", "td3") * 9, "total_timesteps": 30},
    ),
    "imitation": ("Room-v6", {"imitate": "trusted"}),
    "imitation, sac and td3": (
        "Pendulum-v1",
        {"algorithm": ("sac", "td3"), "imitate": "trusted", "total_timesteps": 50},
    ),
    "without sharing": ("Pendulum-v1", {"sharing": "none", "advisers": ()}),
    "exchange": ("Room-v6", {"exchange": ("average",), "exchange_freq": 7}),
    "disturbed": (
        "Pendulum-v1",
        {
            "perturb": {"dropped_advice": 0.3, "observation_noise": 0.1}, "byzantine_members": ("1:noise",),
            "shuffle_advisers": True, "advisers": ("random", "constant:1"),
        },
    ),
    # kinds of trust; in CartPole and LunarLander episodes end, and so members choose, at different times
    "transformer trust": ("CartPole-v1", {"trust": "transformer", **TRANSFORMER}),
    "hybrid trust": ("Room-v6", {"trust": "hybrid", "choice": "paper", **TRANSFORMER}),
    "hybrid trust, uneven episodes": ("CartPole-v1", {"trust": "hybrid", "choice": "paper", **TRANSFORMER}),
    "in-context trust": ("Room-v6", IN_CONTEXT),
    "in-context trust, imitation": ("Room-v6", {**IN_CONTEXT, "imitate": "trusted", "total_timesteps": 60}),
    "in-context trust, uneven episodes": (
        "LunarLander-v3",
        {**IN_CONTEXT, "learning_starts": (60,), "total_timesteps": 200},
    ),
}

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


class Record(Listener):
    def __init__(self) -> None:
        self.metrics: list[Any] = []
        self.advice: list[Any] = []

    def on_metrics(self, step, rows):
        self.metrics += [(step, *row) for row in rows]

    def on_advice(self, step, rows):
        self.advice += [(step, row) for row in rows]


def trained(config: Config) -> tuple[Trainer, Record]:
    trainer, record = Trainer(config), Record()
    Runner(trainer, record).run()
    trainer.close()
    return trainer, record


@pytest.mark.parametrize("case", CASES)
def test_replicas_do_not_affect_each_other(case):
    """Metrics, advice, the last observations and what members have learned, and what trust has."""
    env, changes = CASES[case]
    config = with_settings(Config(env=env, run=RunConfig(eval_freq=0, log_freq=15, verbose=0)), BASE | changes)
    (two, heard), (three, more) = (trained(with_settings(config, {"replicas": r})) for r in (2, 3))
    M, K = two.group.M, len(two.names)
    assert heard.metrics == [row for row in more.metrics if row[1] < 2]
    assert heard.advice == [row for row in more.advice if row[1]["replica"] < 2]
    assert torch.equal(two.obs, three.obs[:M])
    for m in range(M):
        one, other = two.group.member_parameters(m), three.group.member_parameters(m)
        assert all(torch.equal(one[name], other[name]) for name in one)
    if "uneven" in case:
        assert len({row[4] for row in heard.metrics if row[3] == "train/length"}) > 1
    # Replicas differ, members learned, every adviser was followed, trust has learned and has its say
    a, b = two.group.member_parameters(0), two.group.member_parameters(two.N)
    assert not any(torch.equal(a[name], b[name]) for name in a if name != "log_ent_coef")
    names = {row[3] for row in heard.metrics}
    assert any(name.startswith("loss/") for name in names)
    if config.advice.sharing == "advice":
        assert {row["adviser"] for _, row in heard.advice if row["chosen"]} == set(two.names)
        assert len(heard.advice) % (M * K) == 0
        column = {"td": "trust_td", "in-context": "in_context"}.get(config.advice.trust, "trust_attention")
        values = [row[column] for _, row in heard.advice[-M * K :] if column in row]
        assert len(set(values)) > M
        assert config.advice.trust == "td" or "trust/loss" in names
