"""What a user adds in a few lines: a learner without Q-function and replay buffer, an exchange, an adviser with memory.

Each class below uses public names only. Each is trained in a group, killed and resumed, and appears in the help, in
YAML and in the report. A kind of trust is in test_trust_methods.py.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import peerage
from peerage import cli
from peerage.config.file import dump, from_dict, validate
from peerage.config.methods import EXCHANGES, LEARNERS
from peerage.config.plain_yaml import parse
from peerage.runs.checkpoint import checkpoints

# --- a learner: linear policy gradient (REINFORCE with a baseline, Williams 1992) ---


@dataclass(frozen=True)
class ReinforceSettings(peerage.LearnerSettings):
    horizon: int = 8
    """Steps between two updates."""


class Reinforce(peerage.Learner):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noise_shape = ("uniform", 1)
        self.weights = torch.zeros(self.rows, self.space.obs_dim * self.space.n_actions)
        self.steps = []

    def logits(self, obs):
        return obs @ self.weights.view(self.rows, self.space.obs_dim, -1)

    def suggest(self, obs, noise):
        p = self.logits(obs).softmax(dim=-1)
        chosen = p.argmax(-1) if noise is None else (p.cumsum(-1) < noise).sum(-1).clamp(max=p.shape[-1] - 1)
        return chosen.unsqueeze(-1).to(obs.dtype)

    def observe(self, transition):
        self.steps.append((transition.obs, transition.actions, transition.rewards))

    def learns(self, step):
        return step % self.settings[0].horizon == 0

    def learn(self, step):
        if self.learns(step):
            obs, actions, rewards = (torch.stack(x, dim=1) for x in zip(*self.steps))
            taken = torch.nn.functional.one_hot(actions[..., 0].long(), self.space.n_actions)
            slope = (taken - self.logits(obs).softmax(-1)) * (rewards - rewards.mean(1, keepdim=True)).unsqueeze(-1)
            self.weights += self.settings[0].learning_rate * (obs.transpose(1, 2) @ slope).flatten(1)
            self.steps = []

    def parameters(self):
        return {"policy": self.weights}

    def state(self):
        return {**super().state(), "pending": [list(step) for step in self.steps]}

    def load_state(self, state):
        super().load_state(state)
        self.steps = [tuple(step) for step in state["pending"]]


# --- an exchange: members copy the member that has earned most ---


@dataclass(frozen=True)
class ImitationSettings:
    """Copy a part of the best member's parameters."""

    imitation_share: float = 0.5
    """Share of the way to the parameters of the best member."""


class Imitation(peerage.Exchange):
    exchanges = 0

    def after_learning(self, group, step):
        self.exchanges += 1
        age = torch.arange(group.recent.size).expand(group.M, -1)
        earned = group.recent_transitions(age).rewards.sum(dim=1).view(group.R, group.N)
        best = (torch.arange(group.R) * group.N + earned.argmax(dim=1)).repeat_interleave(group.N)
        for values in group.stacks[0].learner.parameters().values():
            values.lerp_(values[best], self.settings.imitation_share)

    def metrics(self):
        return [(r, i, "exchanges", float(self.exchanges)) for r in range(self.group.R) for i in range(self.group.N)]

    def state(self):
        return {"exchanges": self.exchanges}

    def load_state(self, state):
        self.exchanges = state["exchanges"]


# --- an adviser with memory: repeats the action that earned its asker most ---


class Memory(peerage.Adviser):
    def __init__(self):
        self.earned = {}

    def observe(self, transition, rows):
        for row, action, reward in zip(rows.tolist(), transition.actions[:, 0].tolist(), transition.rewards.tolist()):
            mine = self.earned.setdefault(str(row), {})
            mine[str(int(action))] = mine.get(str(int(action)), 0.0) + reward

    def suggest(self, obs, rows, first, rng):
        mine = [self.earned.get(str(row), {}) for row in rows.tolist()]
        return np.array([int(max(earned, key=earned.get, default="0")) for earned in mine])

    def state(self):
        return {"earned": self.earned}

    def load_state(self, state):
        self.earned = state["earned"]


# ---


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(LEARNERS, "methods", dict(LEARNERS.methods))
    monkeypatch.setattr(EXCHANGES, "methods", dict(EXCHANGES.methods))
    peerage.register_learner("reinforce", Reinforce, ReinforceSettings, actions=("discrete",), on_policy=True)
    peerage.register_exchange("imitation", Imitation, ImitationSettings)


SETTINGS = dict(
    env="Room-v6", algorithm=("reinforce",), horizon=(5,), learning_rate=(0.05,), n_peers=3, replicas=2,
    total_timesteps=120, exchange=("imitation",), exchange_freq=25, imitation_share=0.25, eval_freq=60,
    n_eval_episodes=1, log_freq=20, checkpoint_freq=40, verbose=0, device="cpu",
)  # fmt: skip


def train(place: Path, name: str, **changes) -> peerage.Run:
    settings = {**SETTINGS, **changes, "exp_name": name, "log_dir": str(place)}
    return peerage.train(advisers=[Memory(), "expert"], **settings)


class Stop(Exception):
    pass


def tables(run: peerage.Run) -> dict[str, str]:
    return {name: (run.folder / name).read_text() for name in ("metrics.csv", "evaluations.csv", "advice.csv")}


@pytest.mark.parametrize("trust", ["td", "in-context", "hybrid"])
def test_they_train_in_a_group_and_survive_kill_and_resume(tmp_path, monkeypatch, trust):
    """Trust needs neither replay buffers nor Q-functions."""
    more = {"follow_steps": 3, "trust_buffer_size": 40}
    if trust == "hybrid":
        more |= {"sequence_length": 6, "attention_update_freq": 10, "attention_batch_size": 4}
    whole = train(tmp_path, "whole", trust=trust, **more)
    trained = whole.metrics[whole.metrics["name"] == "exchanges"]
    assert trained["value"].max() == 4.0  # after steps 25, 50, 75 and 100
    assert set(whole.advice["adviser"]) == {"member-0", "member-1", "member-2", "memory", "expert"}
    report = (whole.folder / "report.html").read_text()
    assert "reinforce" in report and "imitation" in report

    from peerage.training.trainer import Trainer

    advance, made = Trainer.advance, []

    def stops(self, **kwargs):
        if self.step == 93:
            raise Stop
        made.append(self.step)
        return advance(self, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", stops)
        with pytest.raises(Stop):
            train(tmp_path, "killed", trust=trust, **more)
    killed = peerage.load(tmp_path / "killed", advisers=[Memory(), "expert"])
    assert len(checkpoints(killed.folder)) == 2
    resumed = peerage.resume(killed)
    assert tables(resumed) == tables(whole)
    for member in range(3):
        obs = np.random.default_rng(member).random((20, 4), np.float32)
        assert [whole.policy(member)(o) for o in obs] == [resumed.policy(member)(o) for o in obs]


def test_the_toy_learner_learns(tmp_path):
    """Otherwise the tests above would show little."""
    run = peerage.train(
        "Room-v3", algorithm=("reinforce",), sharing="none", n_peers=2, replicas=2, horizon=(20,),
        learning_rate=(0.3,), total_timesteps=4000, eval_freq=2000, log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip
    returns = run.metrics[run.metrics["name"] == "train/return"].groupby("step")["value"].mean()
    assert returns.iloc[-2:].mean() > returns.iloc[:2].mean() + 1


def test_they_appear_in_the_help_and_in_yaml(tmp_path):
    with redirect_stdout(io.StringIO()) as out:
        assert cli.main(["train", "--help"]) == 0
    text = " ".join(out.getvalue().split())
    for word in ("--horizon", "reinforce: Steps between two updates", "--imitation-share", "imitation}"):
        assert word in text, word
    config = validate(
        from_dict(parse("learner: {algorithm: reinforce, horizon: 7}\nexchange: imitation\n"
                        "imitation: {imitation_share: 0.75}\n", "test"))
    )  # fmt: skip
    assert config.learner.horizon == (7,) and config.imitation.imitation_share == 0.75
    assert from_dict(parse(dump(config), "test")) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "Pendulum-v1"}, "reinforce does not fit Pendulum-v1, whose actions are Box: use --algorithm sac"),
        ({"use_critic": True}, "--use-critic needs Q-functions, but reinforce has none"),
        ({"n_peers": 1}, "--exchange needs at least two members"),
        ({"exchange": ("average", "average")}, "--exchange names the same exchange twice"),
        ({"exchange": ("averag",)}, "average"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, changes, message):
    with pytest.raises(peerage.UserError, match=message):
        train(tmp_path, "none", **changes)
    assert not list(tmp_path.iterdir())


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="reinforce"):
        peerage.register_learner("reinforce", Reinforce)
    with pytest.raises(ValueError, match="two words"):
        peerage.register_exchange("two words", Imitation)


def test_members_of_other_kinds_share_a_group(tmp_path):
    """A member with replay buffer and Q-function beside one without: no critic term, everything else as always."""
    run = train(tmp_path, "mixed", algorithm=("reinforce", "dqn", "reinforce"), exchange=(), learning_starts=(5,),
                batch_size=(4,), net_arch=((8,),), trust="td")  # fmt: skip
    assert run.advice["critic"].isna().all() and run.advice["trust_td"].notna().any()


def test_the_classes_are_short():
    """Each of the three is written in under 30 lines, settings included, but for blank ones."""
    import inspect

    for kinds in ((Imitation, ImitationSettings), (Memory,)):
        lines = [line for kind in kinds for line in inspect.getsource(kind).splitlines() if line.strip()]
        assert len(lines) < 30, kinds
    assert replace(ReinforceSettings(), horizon=3).stack_key != ReinforceSettings().stack_key
