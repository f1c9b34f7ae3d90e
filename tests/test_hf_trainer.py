"""Training with Hugging Face's Trainer, beside our own loop."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_data import balance, swing, write_dataset

from peerage.errors import UserError
from peerage.interop import hf_trainer
from peerage.interop.hf_dt import read_hf
from peerage.learners.base import Space
from peerage.learners.dt import DT
from peerage.learners.dt_settings import DTSettings
from peerage.learners.streams import StreamKey
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.trajectories import load_data

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 20
GPT = GPTSettings(context_length=5, d_model=16, n_layers=2, dropout=0.0, max_ep_len=40)


@pytest.mark.parametrize(
    ("env", "policy", "anneal"), [("CartPole-v1", balance, False), ("Pendulum-v1", swing, True)]
)
def test_our_loop_equals_the_trainer(tmp_path, env, policy, anneal):
    """20 steps without dropout, with weight decay (of embeddings, not of biases and LayerNorms), warm-up and clipping,
    in float64."""
    pytest.importorskip("accelerate")
    data = load_data(write_dataset(tmp_path / "data-v0", env, policy, 4, max_episode_steps=30))
    settings = DTSettings(
        "dt", net_settings=GPT, batch_size=8, learning_rate=1e-3, weight_decay=0.1, warmup_ratio=0.2, anneal_lr=anneal
    )
    folder = hf_trainer.train_hf(
        data, tmp_path / "model", steps=STEPS, settings=settings, seed=3, dtype=torch.float64
    )
    low, high = (None, None) if data.source.n_actions else (data.source.low, data.source.high)
    space = Space(data.obs.shape[1], 1, data.source.n_actions, low, high)
    learner = DT([settings], [StreamKey(3, 0, 0)], space, STEPS, data=data, dtype=torch.float64)
    start = learner.net.flat.clone()
    for step in range(1, STEPS + 1):
        learner.learn(step)
    model = read_hf(folder)
    assert (learner.net.flat - start).abs().max() > 1e-3
    torch.testing.assert_close(model.net.flat, learner.net.flat.float(), rtol=1e-6, atol=1e-7)
    assert model.preprocessing.state() == learner.conditioned(1).preprocessing.state() and model.env == env
    with pytest.raises(UserError, match="exists already"):
        hf_trainer.train_hf(data, folder, steps=1)
    unknown = replace(data, source=replace(data.source, low=np.float32([-np.inf]), high=np.float32([1]), n_actions=0))
    with pytest.raises(UserError, match="does not describe the bounds"):
        hf_trainer.train_hf(unknown, tmp_path / "other", steps=1)


def test_the_extra_is_named_if_it_is_missing(tmp_path, monkeypatch):
    data = load_data(write_dataset(tmp_path / "data-v0", "CartPole-v1", balance, 1, max_episode_steps=10))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers, which is not installed: pip install \"peerage\[hf\]\""):
        hf_trainer.train_hf(data, tmp_path / "model", steps=1)
