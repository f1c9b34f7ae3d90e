"""What a user adds in a few lines: a learner without Q-function and replay buffer, an exchange, an adviser with memory.

Each class below uses public names only. Each is trained in a group, killed and resumed, and appears in the help, in
YAML and in the report. A kind of trust is in test_trust_methods.py.
"""

from __future__ import annotations

import inspect
import io
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transitions import transition

import peerage
from peerage import cli
from peerage.config.file import dump, from_dict, validate
from peerage.config.plain_yaml import parse
from peerage.config.tree import Config, settings, with_settings
from peerage.learners.base import Space
from peerage.learners.defaults import default_settings
from peerage.learners.group import Group
from peerage.runs.checkpoint import checkpoints, load_latest
from peerage.training.restore import restore
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")

# --- a learner: linear policy gradient (REINFORCE with a baseline, Williams 1992) ---


@dataclass(frozen=True)
class ReinforceSettings(peerage.LearnerSettings):
    horizon: int = 8
    """Steps between two updates."""


class Reinforce(peerage.Learner):
    noise_shape = ("uniform", 1)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights = torch.zeros(self.rows, self.space.obs_dim, self.space.n_actions)
        self.steps = []

    def suggest(self, obs, noise):
        p = (obs @ self.weights).softmax(dim=-1)
        chosen = p.argmax(-1, True) if noise is None else (p[..., :-1].cumsum(-1) < noise).sum(-1, True)
        return chosen.to(obs.dtype)

    def observe(self, transition):
        self.steps.append([transition.obs, transition.actions, transition.rewards])

    def learns(self, step):
        return step % self.settings[0].horizon == 0

    def learn(self, step):
        if self.learns(step):
            obs, actions, rewards = (torch.stack(x, dim=1) for x in zip(*self.steps))
            taken = torch.nn.functional.one_hot(actions[..., 0].long(), self.space.n_actions)
            slope = (taken - (obs @ self.weights).softmax(-1)) * (rewards - rewards.mean(1, True)).unsqueeze(-1)
            self.weights += self.settings[0].learning_rate * obs.mT @ slope
            self.steps = []

    def parameters(self):
        return {"policy": self.weights.flatten(1)}

    def state(self):
        return {**super().state(), "rollout": self.steps}

    def load_state(self, state):
        super().load_state(state)
        self.steps = state["rollout"]


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


# --- an exchange that brings its own critics: one linear Q-function in place of two networks ---


class OneCritic:
    def __init__(self, rows, space, net_arch, *, device="cpu", dtype=torch.float32):
        self.flat = torch.zeros(rows, space.obs_dim + space.act_dim + 1, device=device, dtype=dtype)
        self.grad = torch.zeros_like(self.flat)
        self.activations = rows
        self.heard = 0

    def __call__(self, obs_actions, *, grad=False, only_first=False):
        weights = self.flat.detach()
        if grad:
            weights.requires_grad_()
            weights.register_hook(self.grad.add_)
        q = (obs_actions @ weights[:, :-1].unsqueeze(-1)).squeeze(-1) + weights[:, -1:]
        return q.unsqueeze(1) if only_first else torch.stack([q, q], dim=1)

    def init_(self, generators):
        for row, rng in zip(self.flat, generators):
            row.copy_(torch.from_numpy(0.1 * rng.standard_normal(len(row))))

    def copy_(self, other):
        self.flat.copy_(other.flat)

    def lerp_(self, online, tau):
        self.flat.lerp_(online.flat, tau)


class Listen(peerage.Exchange):
    def after_learning(self, group, step):
        critic = group.stacks[0].learner.critic
        assert isinstance(critic, OneCritic)
        critic.flat.add_(0.1)


class Gauss(Reinforce):
    """A learner that samples with another kind of noise."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noise_shape = ("normal", 1)


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
def registered(registries):
    peerage.register_learner("reinforce", Reinforce, ReinforceSettings, actions=("discrete",), on_policy=True)
    peerage.register_learner("gauss", Gauss, peerage.LearnerSettings, actions=("discrete",))
    peerage.register_exchange("imitation", Imitation, ImitationSettings)
    peerage.register_exchange("listen", Listen, critic=OneCritic)


SETTINGS = dict(
    env="Room-v6", algorithm=("reinforce",), horizon=(7,), learning_rate=(0.05,), n_peers=3, replicas=2,
    total_timesteps=120, exchange=("imitation",), exchange_freq=25, imitation_share=0.25, eval_freq=60,
    env_args={"max_episode_steps": 60}, n_eval_episodes=1, log_freq=20, checkpoint_freq=40, verbose=0, device="cpu",
)  # fmt: skip


def train(place: Path, name: str, **changes) -> peerage.Run:
    settings = {**SETTINGS, **changes, "exp_name": name, "log_dir": str(place)}
    if "imitation" not in settings["exchange"]:
        del settings["imitation_share"]
    if not settings["exchange"]:
        del settings["exchange_freq"]
    return peerage.train(advisers=[Memory(), "expert"], **settings)


class Stop(Exception):
    pass


def stop_after(patched: pytest.MonkeyPatch, step: int) -> None:
    advance = Trainer.advance

    def advance_or_stop(self):
        if self.step == step:
            raise Stop
        return advance(self)

    patched.setattr(Trainer, "advance", advance_or_stop)


def tables(run: peerage.Run) -> dict[str, str]:
    return {name: (run.folder / name).read_text() for name in ("metrics.csv", "evaluations.csv", "advice.csv")}


@pytest.mark.parametrize("trust", ["td", "in-context", "hybrid"])
def test_registered_methods_train_in_a_group_and_resume_after_a_kill(tmp_path, monkeypatch, trust):
    """Trust needs neither replay buffers nor Q-functions."""
    more = {"follow_steps": 3, "trust_buffer_size": 40}
    if trust == "hybrid":
        more |= {"sequence_length": 6, "attention_update_freq": 10, "attention_batch_size": 4}
    whole = train(tmp_path, "whole", trust=trust, **more)
    trained = whole.metrics[whole.metrics["name"] == "exchanges"]
    assert trained["value"].max() == 4.0  # after steps 25, 50, 75 and 100
    assert set(whole.advice["adviser"]) == {"member-0", "member-1", "member-2", "memory", "expert"}
    if trust == "td":
        report = whole.report().read_text()
        assert "reinforce" in report and "imitation" in report

    with monkeypatch.context() as patched:
        stop_after(patched, 93)
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
    for word in ("--horizon", "reinforce: Steps between two updates", "--imitation-share", "imitation,listen}"):
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
        ({"env": "Pendulum-v1"}, "does not fit Pendulum-v1, whose actions are Box: use algorithm with one of ppo"),
        ({"use_critic": True}, "use_critic=True needs Q-functions, but reinforce has none"),
        ({"n_peers": 1}, "exchange needs at least two members"),
        ({"algorithm": ("reinforce", "gauss", "gauss")}, "need normal and uniform random numbers cannot share a group"),
        ({"exchange": ("average", "average")}, "exchange names the same exchange twice"),
        ({"exchange": ("averag",)}, "average"),
    ],
)
def test_unsupported_combinations_give_a_one_line_error(tmp_path, changes, message):
    with pytest.raises(peerage.UserError, match=message):
        train(tmp_path, "none", **changes)
    assert not list(tmp_path.iterdir())


def test_a_name_belongs_to_one_class():
    peerage.register_learner("reinforce", Reinforce, ReinforceSettings, actions=("discrete",), on_policy=True)
    with pytest.raises(ValueError, match="the name 'reinforce' belongs to another algorithm"):
        peerage.register_learner("reinforce", Gauss)
    with pytest.raises(ValueError, match="two words"):
        peerage.register_exchange("two words", Imitation)
    with pytest.raises(ValueError, match="actions of the learner 'odd' must be discrete, box or both"):
        peerage.register_learner("odd", Gauss, actions=("text",))


def test_unknown_arguments_of_a_registration_are_refused():
    for register in (peerage.register_learner, peerage.register_trust, peerage.register_exchange):
        with pytest.raises(ValueError, match="'other' has an unknown argument 'colums': known are "):
            register("other", Imitation, colums={})


def test_the_state_of_a_learner_includes_that_of_its_base_class(tmp_path):
    """Refused when the first checkpoint is written, not when the run is resumed."""

    class Forgetful(Reinforce):
        def state(self):
            return {"rollout": self.steps}

    peerage.register_learner("forgetful", Forgetful, ReinforceSettings, actions=("discrete",))
    with pytest.raises(peerage.UserError, match="state of the learner Forgetful lacks parameters"):
        train(tmp_path, "forgetful", algorithm=("forgetful",), trust="td")


@pytest.mark.parametrize("part", ["advice", "run", "n_peers", "context", "not a name"])
def test_a_part_of_the_configuration_belongs_to_one_method(part):
    with pytest.raises(ValueError, match="choose another `part` for 'other'"):
        peerage.register_exchange("other", Imitation, ImitationSettings, part=part)


def test_settings_with_the_name_of_another_setting_get_a_prefix():
    """Peerage's own settings keep their keys, so that registering a method changes no existing command."""

    @dataclass(frozen=True)
    class Clashing:
        n_epochs: int = 3
        learning_rate: float = 0.5
        context_length: int = 9
        own: int = 1

    before = {key: (s.part, s.name) for key, s in settings().items()}
    peerage.register_exchange("clash", Imitation, Clashing)
    after = {key: (s.part, s.name) for key, s in settings().items()}
    assert {key: after[key] for key in before} == before
    assert {key for key in after if key not in before} == {
        "clash_n_epochs", "clash_learning_rate", "clash_context_length", "own"
    }  # fmt: skip
    config = with_settings(Config(), {"clash_n_epochs": 8, "n_epochs": 2})
    assert config.clash.n_epochs == 8 and config.n_epochs == 2
    assert from_dict(parse(dump(config), "test")) == config


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_an_exchange_can_bring_other_critics(tmp_path, monkeypatch, same, algorithm):
    """SAC and TD3 train with a critic that is not two networks, and resume bit for bit."""
    config = {
        "env": "Pendulum-v1", "n_peers": 2, "algorithm": (algorithm,), "exchange": ("listen",), "exchange_freq": 25,
        "trust": "td", "use_critic": True, "learning_starts": (10,), "batch_size": (8,), "net_arch": ((8,),),
        "total_timesteps": 90, "checkpoint_freq": 40, "eval_freq": 0, "log_dir": str(tmp_path), "verbose": 0,
        "device": "cpu",
    }  # fmt: skip
    whole = peerage.train(**config, exp_name="whole")
    with monkeypatch.context() as patched:
        stop_after(patched, 67)
        with pytest.raises(Stop):
            peerage.train(**config, exp_name="killed")
    resumed = peerage.resume(tmp_path / "killed")
    (_, state, _), (_, again, _) = load_latest(whole.folder), load_latest(resumed.folder)
    for found in (state, again):
        found["runner"].pop("offsets")  # timing.csv has other lengths
    same(state, again)
    assert whole.advice["critic"].notna().any()


def test_only_sac_and_td3_take_other_critics(tmp_path):
    with pytest.raises(peerage.UserError, match=r"exchange=.listen. replaces the critics of SAC and TD3; dqn cannot"):
        train(tmp_path, "none", algorithm=("dqn",), exchange=("listen",), horizon=(), trust="td")
    assert not list(tmp_path.iterdir())


def test_a_registered_learner_can_be_a_checkpoint_adviser(tmp_path):
    """It acts in the new run as in the old one."""
    old = train(tmp_path, "old", exchange=(), trust="td").folder
    settings = {name: value for name, value in SETTINGS.items() if "exchange" not in name and "imitation" not in name}
    new = peerage.train(**{**settings, "n_peers": 1}, advisers=[f"checkpoint:{old}:1"], trust="td",
                        exp_name="new", log_dir=str(tmp_path))  # fmt: skip
    trained = restore(old, "policies").trainer.group.stacks[0].learner.weights
    adviser = restore(new.folder, "company").trainer.sharing.fixed_advisers.advisers[0].adviser
    assert torch.equal(adviser.learner.weights[0], trained[1]) and trained[1].any()
    assert (new.advice["adviser"] != "member-0").any()


def test_members_of_other_kinds_share_a_group(tmp_path):
    """A member with replay buffer and Q-function in a group with one without: no critic term, everything else
    unchanged."""
    run = train(tmp_path, "mixed", algorithm=("reinforce", "dqn", "reinforce"), exchange=(), learning_starts=(5,),
                batch_size=(4,), net_arch=((8,),), trust="td")  # fmt: skip
    assert run.advice["critic"].isna().all() and run.advice["trust_td"].notna().any()


def test_the_classes_are_short():
    """Each is written in under 30 lines, without blank ones."""
    for kinds in ((Reinforce,), (Imitation, ImitationSettings), (Memory,)):
        lines = [line for kind in kinds for line in inspect.getsource(kind).splitlines() if line.strip()]
        assert len(lines) < 30, kinds


def test_settings_of_a_subclass_decide_the_stack():
    assert replace(ReinforceSettings(), horizon=3).stack_key != ReinforceSettings().stack_key


def test_own_steps_are_those_in_which_a_member_followed_itself():
    """By number of the member in its group, which is not the row in a stack of mixed groups."""
    settings = [ReinforceSettings(algorithm="reinforce", net_arch=(4,)), default_settings("dqn")]
    group = Group([settings[0], settings[1], settings[0]], 2, 0, Space(3, 1, 4), 10)
    learner = next(stack.learner for stack in group.stacks if isinstance(stack.learner, Reinforce))  # members 0 and 2
    step = transition(torch.zeros(4, 3), followed=[0, 1, 3, 2])
    assert learner.own_steps(step).tolist() == [True, False, False, True]
