"""Stable-Baselines3's zips as members, members as its zips, and malicious files."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from transitions import transition

from peerage.config import Config, LearnerConfig
from peerage.config import file as configfile
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.interop.pretrained import load_members, load_policy, parse_spec
from peerage.interop.sb3 import read_zip, sb3_views, to_learner
from peerage.interop.sb3_export import export_member
from peerage.interop.single import space_of
from peerage.learners.defaults import member_settings, resolve
from peerage.learners.group import Group
from peerage.runs import checkpoint
from peerage.sharing.advisers import make_adviser

OBS = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
DISCRETE = gym.spaces.Discrete(4)
BOX = gym.spaces.Box(np.array([-2, -0.5], np.float32), np.array([2, 1.5], np.float32))
KINDS = ["dqn", "sac", "sac-sde", "td3", "ppo", "ppo-box"]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Stub(gym.Env):
    def __init__(self, observation_space=OBS, action_space=BOX):
        self.observation_space, self.action_space = observation_space, action_space


def space_for(kind):
    return DISCRETE if kind in ("dqn", "ppo") else BOX


def sb3_model(kind, action_space=None, **kwargs):
    """An untrained model, all of whose parameters (targets too) are random and differ."""
    name, _, way = kind.partition("-")
    policy = {"net_arch": [16, 12]} | kwargs.pop("policy_kwargs", {})
    if way == "sde":
        kwargs["use_sde"] = True
    env = Stub(action_space=action_space or space_for(kind))
    algorithm = getattr(sb3, name.upper())
    model = algorithm("MlpPolicy", env, policy_kwargs=policy, device="cpu", **kwargs)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def saved(tmp_path, kind, **kwargs):
    model = sb3_model(kind, **kwargs)
    path = tmp_path / f"{kind}.zip"
    model.save(path)
    return model, path


def observations(n=64, dim=5):
    return RNG.normal(size=(n, dim)).astype(np.float32)


def rewritten(path, **entries):
    """The zip with some entries replaced; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("_pth", ".pth"): value for name, value in entries.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)
    return path


def json_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("data"))


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Stable-Baselines3 to Peerage -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_zip_has_the_actions_and_values_of_stable_baselines3(tmp_path, kind):
    model, path = saved(tmp_path, kind)
    policy = read_zip(path)
    assert (policy.algorithm, policy.net_arch) == (kind.split("-")[0], (16, 12))
    assert policy.use_sde == (kind == "sac-sde")
    learner = to_learner(policy, OBS, space_for(kind))
    obs = observations()
    theirs, _ = model.predict(obs, deterministic=True)
    ours = learner.suggest(torch.as_tensor(obs)[None], None)[0]
    with torch.no_grad():
        if kind == "dqn":
            assert np.array_equal(ours[:, 0].numpy().astype(int), theirs)
            q = model.q_net(torch.as_tensor(obs))
            assert torch.allclose(learner.q(torch.as_tensor(obs)[None])[0], q, atol=1e-6)
            target = model.q_net_target(torch.as_tensor(obs))
            assert torch.allclose(learner.q_target(torch.as_tensor(obs)[None])[0], target, atol=1e-6)
        elif kind.startswith("ppo"):
            if kind == "ppo":
                assert np.array_equal(ours[:, 0].numpy().astype(int), theirs)
            else:  # Stable-Baselines3 clips
                assert np.allclose(np.clip(ours.numpy(), BOX.low, BOX.high), theirs, atol=1e-6)
                assert not np.allclose(ours.numpy(), theirs)
            values = model.policy.predict_values(torch.as_tensor(obs))
            assert torch.allclose(learner.state_value(torch.as_tensor(obs)[None])[0], values[:, 0], atol=1e-5)
        else:
            assert np.allclose(ours.numpy(), theirs, atol=1e-6)
            actions = np.stack([BOX.sample() for _ in obs])
            scaled = torch.as_tensor(model.policy.scale_action(actions))
            both = torch.cat(model.critic(torch.as_tensor(obs), scaled), dim=1)
            mine = learner.critic(torch.cat((torch.as_tensor(obs), scaled), dim=1)[None])[0]
            assert torch.allclose(mine, both.T, atol=1e-5)  # the first one first: TD3's actor learns from it
            q = both.min(dim=1).values
            mine = learner.action_value(torch.as_tensor(obs)[None], torch.as_tensor(actions)[None])[0]
            assert torch.allclose(mine, q, atol=1e-5)


def test_every_parameter_of_a_zip_is_loaded(tmp_path):
    for kind in KINDS:
        model, path = saved(tmp_path, kind)
        learner = to_learner(read_zip(path), OBS, space_for(kind))
        state, views = model.policy.state_dict(), sb3_views(learner, 0)
        assert state.keys() == views.keys()
        assert all(torch.equal(state[name], views[name]) for name in state)


@pytest.mark.parametrize("ent_coef", ["auto_0.2", 0.3])
def test_the_entropy_coefficient_is_loaded(tmp_path, ent_coef):
    _, path = saved(tmp_path, "sac", ent_coef=ent_coef, gamma=0.9)
    policy = read_zip(path)
    learner = to_learner(policy, OBS, BOX)
    assert learner.log_ent_coef.exp().item() == pytest.approx(float(str(ent_coef).removeprefix("auto_")))
    assert learner.settings[0].gamma == 0.9


def test_networks_without_hidden_layers(tmp_path):
    for kind in KINDS:
        model, path = saved(tmp_path, kind, policy_kwargs={"net_arch": []})
        learner = to_learner(read_zip(path), OBS, space_for(kind))
        obs = observations()
        ours = learner.suggest(torch.as_tensor(obs)[None], None)[0].numpy()
        if kind == "ppo-box":
            ours = np.clip(ours, BOX.low, BOX.high)
        assert np.allclose(ours.squeeze(), model.predict(obs, deterministic=True)[0].squeeze(), atol=1e-6)


# --- what is refused ------------------------------------------------------------------------------------


def test_other_algorithms_and_networks_are_refused(tmp_path):
    _, path = saved(tmp_path, "dqn")
    torch.save({"features.weight": torch.ones(2, 2)}, blob := io.BytesIO())
    rewritten(path, policy_pth=blob.getvalue())
    assert "DQN, SAC, TD3 or PPO" in refusal(read_zip, path)
    _, path = saved(tmp_path, "ppo", policy_kwargs={"activation_fn": torch.nn.ReLU})
    assert "ReLU" in refusal(read_zip, path) and "Tanh'> is supported" in refusal(read_zip, path)
    _, path = saved(tmp_path, "ppo", policy_kwargs={"net_arch": {"pi": [16], "vf": [12]}})
    assert "in the critics" in refusal(read_zip, path)
    _, path = saved(tmp_path, "ppo-box", use_sde=True)
    assert "default MlpPolicy" in refusal(to_learner, read_zip(path), OBS, BOX)
    _, path = saved(tmp_path, "sac", policy_kwargs={"activation_fn": torch.nn.Tanh})
    assert "Tanh" in refusal(read_zip, path)
    _, path = saved(tmp_path, "sac", policy_kwargs={"activation_fn": torch.nn.ReLU})
    read_zip(path)
    _, path = saved(tmp_path, "td3", policy_kwargs={"n_critics": 1})
    assert "n_critics" in refusal(read_zip, path)
    _, path = saved(tmp_path, "sac", policy_kwargs={"net_arch": {"pi": [16], "qf": [12]}})
    assert "in the critics" in refusal(read_zip, path)
    _, path = saved(tmp_path, "sac-sde", policy_kwargs={"clip_mean": 1.0})
    assert "clip_mean" in refusal(read_zip, path)

    class Doubled(sb3.common.torch_layers.FlattenExtractor):
        def forward(self, x):
            return 2 * super().forward(x)

    _, path = saved(tmp_path, "dqn", policy_kwargs={"features_extractor_class": Doubled})
    assert "features_extractor_class" in refusal(read_zip, path)


def test_another_policy_class_is_refused(tmp_path):
    _, path = saved(tmp_path, "dqn")
    data = json_of(path)
    data["policy_class"]["__module__"] = "mine"
    rewritten(path, data=json.dumps(data))
    assert "policy class" in refusal(read_zip, path)
    del data["policy_kwargs"]
    data["policy_class"]["__module__"] = "stable_baselines3.dqn.policies"
    assert "policy_kwargs" in refusal(read_zip, rewritten(path, data=json.dumps(data)))


def test_other_spaces_are_refused_by_name(tmp_path):
    _, path = saved(tmp_path, "sac")
    policy = read_zip(path)
    message = refusal(to_learner, policy, gym.spaces.Box(-1, 1, (7,)), BOX)
    assert "5 observations and Box(2)" in message and "7 observations" in message
    assert "4 discrete" in refusal(to_learner, policy, OBS, DISCRETE)
    assert "Box(3)" in refusal(to_learner, policy, OBS, gym.spaces.Box(-1, 1, (3,)))
    assert "bounded" in refusal(to_learner, policy, OBS, gym.spaces.Box(-1, 1, (2,)))
    assert "flat" in refusal(to_learner, policy, gym.spaces.Box(0, 1, (3, 3)), BOX)
    _, path = saved(tmp_path, "dqn")
    assert "2 discrete" in refusal(to_learner, read_zip(path), OBS, gym.spaces.Discrete(2))


def test_extra_and_missing_parameters_are_refused(tmp_path):
    _, path = saved(tmp_path, "dqn")
    whole = read_zip(path).tensors
    for tensors in (
        {k: v for k, v in whole.items() if k != "q_net_target.q_net.0.bias"},
        whole | {"q_net.extra\n": torch.zeros(2)},
        whole | {"q_net.q_net.2.weight": torch.zeros(3, 3)},
        {"q_net.q_net.0.weight": torch.zeros(())},
    ):
        blob = io.BytesIO()
        torch.save(tensors, blob)
        rewritten(path, policy_pth=blob.getvalue())
        refusal(lambda: to_learner(read_zip(path), OBS, DISCRETE))


def test_files_that_are_not_models_are_refused(tmp_path):
    _, path = saved(tmp_path, "sac")
    whole = path.read_bytes()
    bad = tmp_path / "bad.zip"
    for cut in (0, 10, len(whole) // 2, len(whole) - 10):
        bad.write_bytes(whole[:cut])
        assert "zip" in refusal(read_zip, bad)
    for start in range(0, len(whole), 2003):  # flip bits all over: either refused or without effect
        bad.write_bytes(whole[:start] + bytes([whole[start] ^ 0xFF]) + whole[start + 1 :])
        try:
            to_learner(read_zip(bad), OBS, BOX)
        except UserError as error:
            assert "\n" not in str(error)
    refusal(read_zip, tmp_path)
    assert "no file" in refusal(read_zip, tmp_path / "none.zip")
    for entries in ({"data": None}, {"policy_pth": None}, {"data": b"[1]"}, {"data": b"[" * 100_000}):
        path.write_bytes(whole)
        refusal(read_zip, rewritten(path, **entries))
    for blob in (b"", b"\x80\x02.", pickle.dumps({})):
        path.write_bytes(whole)
        assert "policy.pth" in refusal(read_zip, rewritten(path, policy_pth=blob))


def test_files_that_claim_huge_sizes_are_refused(tmp_path, monkeypatch):
    _, path = saved(tmp_path, "dqn")
    good = read_zip(path).tensors
    blob = io.BytesIO()  # a few bytes that claim to be a tensor of 4 TB
    torch.save(good | {"q_net.q_net.0.weight": torch.zeros(1).expand(10**6, 10**6)}, blob)
    assert len(blob.getvalue()) < 10_000
    refusal(read_zip, rewritten(path, policy_pth=blob.getvalue()))
    nan = io.BytesIO()
    torch.save(good | {"q_net.q_net.0.bias": torch.full((16,), math.nan)}, nan)
    assert "finite" in refusal(read_zip, rewritten(path, policy_pth=nan.getvalue()))
    monkeypatch.setattr("peerage.interop.sb3.MAX_JSON_BYTES", 1000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b" " * 100_000)
    assert "larger" in refusal(read_zip, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("data", b"{}")
    assert "unsupported compression" in refusal(read_zip, path)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"{sys.executable} -c \"open('{self.mark}', 'w')\"",)


def test_a_hostile_zip_can_do_nothing(tmp_path):
    mark = tmp_path / "mark"
    evil = pickle.dumps(Evil(mark))
    pickle.loads(evil)
    assert mark.exists()  # unpickling it has an effect
    mark.unlink()

    model, path = saved(tmp_path, "sac")
    data, whole = json_of(path), path.read_bytes()
    text = base64.b64encode(evil).decode()
    for key, value in data.items():
        data[key] = (value if isinstance(value, dict) else {":type:": "x"}) | {":serialized:": text}
    rewritten(path, data=json.dumps(data))
    obs = observations()
    learner = to_learner(read_zip(path), OBS, BOX)  # the weights are sound, so it loads
    ours = learner.suggest(torch.as_tensor(obs)[None], None)[0].numpy()
    assert np.allclose(ours, model.predict(obs, deterministic=True)[0], atol=1e-6)
    load_policy(str(path), OBS, BOX)

    blobs = [evil]
    for content in (Evil(mark), {"x": Evil(mark)}, model.policy.state_dict() | {"x": Evil(mark)}):
        for new_format in (True, False):
            blob = io.BytesIO()
            torch.save(content, blob, _use_new_zipfile_serialization=new_format)
            blobs.append(blob.getvalue())
    for blob in blobs:
        for entry in ("policy_pth", "pytorch_variables_pth"):
            path.write_bytes(whole)
            refusal(read_zip, rewritten(path, **{entry: blob}))
    assert not mark.exists()


# --- runs of ours ---------------------------------------------------------------------------------------


def make_run(path: Path, env="Pendulum-v1", n=3, replicas=2, **learner) -> Group:
    """A run folder as after a training, and the group in it. Targets and coefficients are not initial values."""
    config = Config(env=env, n_peers=n, replicas=replicas, total_timesteps=50)
    spec = check_env_id(env, {})
    config = resolve(replace(config, learner=LearnerConfig(**learner)), spec.discrete)
    space = space_of(spec.observation_space, spec.action_space)
    group = Group(member_settings(config, spec.discrete), replicas, 5, space, 50)
    for stack in group.stacks:
        for name, values in stack.learner.parameters().items():
            values.add_((1.0 if name == "log_ent_coef" else 0.2) * torch.randn_like(values))
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(configfile.dump(config))
    checkpoint.save(path, 50, {"trainer": {"step": 50, "group": group.state()}})
    return group


MIXED = {"algorithm": ("sac", "td3", "sac"), "net_arch": ((16, 12), (8,), (16, 12))}


def spaces_of(env):
    spec = check_env_id(env, {})
    return spec.observation_space, spec.action_space


@pytest.mark.parametrize("kind", ["dqn", "mixed", "sac-sde"])
def test_a_member_of_a_run_acts_as_in_its_group(tmp_path, kind):
    env = "Room-v6" if kind == "dqn" else "Pendulum-v1"
    learner = {"dqn": {}, "mixed": MIXED, "sac-sde": {"use_sde": (True,), "net_arch": ((8, 8),)}}[kind]
    group = make_run(tmp_path / "run", env, **learner)
    obs = torch.as_tensor(observations(dim=group.space.obs_dim))
    all_actions = group.mode(obs.expand(group.M, -1, -1))
    for member in range(3):
        policy, discrete = load_policy(f"{tmp_path / 'run'}:{member}", *spaces_of(env))
        assert discrete == (kind == "dqn")
        assert torch.allclose(policy.suggest(obs[None], None)[0], all_actions[member], atol=1e-6)
    adviser = make_adviser(f"checkpoint:{tmp_path / 'run'}:1", check_env_id(env, {}))
    said = adviser.suggest(obs.numpy(), np.zeros(64, int), np.zeros(64, bool), np.random.default_rng(0))
    assert np.allclose(said.reshape(64, -1), all_actions[1].numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["dqn", "mixed", "sac-sde"])
def test_an_export_loads_in_stable_baselines3_and_in_peerage(tmp_path, kind):
    env = "Room-v6" if kind == "dqn" else "Pendulum-v1"
    learner = {"dqn": {}, "mixed": MIXED, "sac-sde": {"use_sde": (True,), "net_arch": ((8, 8),)}}[kind]
    if kind != "dqn":
        learner = learner | {"gamma": (0.9, 0.95, 0.97), "ent_coef": ("auto", "auto", "auto_0.1")}
    run = tmp_path / "run"
    group = make_run(run, env, **learner)
    obs = torch.as_tensor(observations(dim=group.space.obs_dim))
    all_actions = group.mode(obs.expand(group.M, -1, -1))
    for replica, member in ((0, 0), (1, 1), (1, 2)):
        path = export_member(run, member, replica)
        assert path == run / "export" / f"member-{member}-replica-{replica}.zip"
        settings = group.settings[member]
        model = getattr(sb3, settings.algorithm.upper()).load(path, device="cpu")
        theirs, _ = model.predict(obs.numpy(), deterministic=True)
        ours = all_actions[replica * 3 + member].numpy()
        if kind == "dqn":
            assert np.array_equal(theirs, ours[:, 0].astype(int))
        else:
            assert np.allclose(theirs, ours, atol=1e-6)
        for name in ("gamma", "tau", "learning_rate", "batch_size", "buffer_size", "learning_starts"):
            assert getattr(model, name) == getattr(settings, name)
        assert model.num_timesteps == 50
        back = to_learner(read_zip(path), *spaces_of(env))
        stack = next(s for s in group.stacks if member in s.positions)
        row = stack.index.tolist().index(replica * 3 + member)
        sent, came = stack.learner.parameters(), back.parameters()
        assert sent.keys() == came.keys() and all(torch.equal(sent[k][row], came[k][0]) for k in sent)


def test_an_export_continues_to_learn_in_stable_baselines3(tmp_path):
    make_run(tmp_path / "run", n=1, replicas=1, net_arch=((8,),), batch_size=(4,), learning_starts=(4,))
    path = export_member(tmp_path / "run", 0, out=tmp_path / "mine")
    assert path == tmp_path / "mine.zip"
    sb3.SAC.load(path, env=gym.make("Pendulum-v1"), device="cpu", buffer_size=100).learn(20)


@pytest.mark.parametrize(("n_steps", "n_envs", "batch_size"), [(6, 2, 4), (4, 1, 1), (1, 4, 2)])
@pytest.mark.filterwarnings("error")
def test_an_export_of_ppo_learns_without_warnings(tmp_path, n_steps, n_envs, batch_size):
    rollout = {"n_steps": (n_steps,), "n_envs": (n_envs,), "batch_size": (batch_size,), "net_arch": ((8,),)}
    make_run(tmp_path / "run", "CartPole-v1", 1, 1, algorithm=("ppo",), update_epochs=(1,), **rollout)
    model = sb3.PPO.load(export_member(tmp_path / "run", 0), env=gym.make("CartPole-v1"), device="cpu")
    assert model.n_steps % model.batch_size == 0 and model.normalize_advantage == (batch_size > 1)
    model.learn(2 * model.n_steps)


def test_export_refuses_missing_members_and_existing_files(tmp_path, monkeypatch):
    run = tmp_path / "run"
    make_run(run, n=2)
    assert "no member 2" in refusal(export_member, run, 2)
    assert "no replica 5" in refusal(export_member, run, 0, 5)
    assert "config.yaml" in refusal(export_member, tmp_path, 0)
    export_member(run, 0)
    assert "exists" in refusal(export_member, run, 0)
    assert "written" in refusal(export_member, run, 0, 0, run / "config.yaml" / "x.zip")
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert "peerage[sb3]" in refusal(export_member, run, 1)


def test_names_of_trained_members(tmp_path, monkeypatch):
    assert parse_spec("a/run") == (Path("a/run"), 0, "")
    assert parse_spec("a/run:12") == (Path("a/run"), 12, "")
    assert parse_spec("a/run:12@best") == (Path("a/run"), 12, "best")
    assert parse_spec("me@home/run@500") == (Path("me@home/run"), 0, "500")
    assert parse_spec("me@home/run@5h") == (Path("me@home/run@5h"), 0, "")
    assert parse_spec("a:b") == (Path("a:b"), 0, "")
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()
    Path("run@5").mkdir()
    assert parse_spec("run:1") == (Path("run:1"), 0, "")
    assert parse_spec("run@5") == (Path("run@5"), 0, "")
    assert parse_spec("run:1@5") == (Path("run:1"), 0, "5")
    refusal(parse_spec, "")
    for spec in ("nowhere", "nowhere:2", "x" * 5000, "a\0b"):
        assert "no trained member" in refusal(load_policy, spec, OBS, BOX)
    _, path = saved(tmp_path, "sac")
    assert "remove :1" in refusal(load_policy, f"{path}:1", OBS, BOX)
    assert "remove @best" in refusal(load_policy, f"{path}@best", OBS, BOX)


def test_a_run_of_another_shape_is_named(tmp_path):
    run = tmp_path / "run"
    make_run(run, "Room-v6", net_arch=((32, 31),))
    message = refusal(load_policy, f"{run}", *spaces_of("LunarLander-v3"))
    assert "Room-v6 with 4 observations and 4 discrete" in message and "8 observations" in message
    assert "Box(1)" in refusal(load_policy, f"{run}", *spaces_of("Pendulum-v1"))
    # 4 x 32 + 4 x (31 + 1) parameters are as many as 5 x 32 + 3 x (31 + 1)
    message = refusal(load_policy, f"{run}", gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(3))
    assert "5 observations" in message
    assert "no member 3" in refusal(load_policy, f"{run}:3", *spaces_of("Room-v6"))
    config = configfile.load(run / "config.yaml")
    for net_arch, n in ((((16,),), 3), (((32, 31),), 2)):
        changed = replace(config, n_peers=n, learner=replace(config.learner, net_arch=net_arch))
        (run / "config.yaml").write_text(configfile.dump(changed))
        assert "does not fit its config.yaml" in refusal(load_policy, f"{run}", *spaces_of("Room-v6"))


# --- pretrained members in a group ----------------------------------------------------------------------


def fresh_group(env, load_paths, replicas=2, **learner):
    config = Config(env=env, n_peers=len(load_paths), replicas=replicas, total_timesteps=50)
    spec = check_env_id(env, {})
    learner |= {"load_paths": tuple(map(str, load_paths)), "learning_starts": (2,), "batch_size": (4,)}
    settings = member_settings(replace(config, learner=LearnerConfig(**learner)), spec.discrete)
    space = space_of(spec.observation_space, spec.action_space)
    return Group(settings, replicas, 1, space, 50), spec


def test_loaded_members_are_in_every_replica_and_do_not_learn(tmp_path):
    run, zipped = tmp_path / "run", tmp_path / "export.zip"
    source = make_run(run, **MIXED)
    export_member(run, 1, 1, zipped)
    paths = [f"{run}:2", "none", zipped]
    group, spec = fresh_group("Pendulum-v1", paths, **(MIXED | {"algorithm": ("sac", "sac", "td3"),
        "net_arch": ((16, 12), (16, 12), (8,))}))  # fmt: skip
    load_members(group, spec.observation_space, spec.action_space)
    assert group.active().tolist() == [False, True, False] * 2
    obs = torch.as_tensor(observations(dim=3))
    theirs = source.mode(obs.expand(source.M, -1, -1))

    def check():
        ours = group.mode(obs.expand(group.M, -1, -1))
        for replica in range(2):
            assert torch.allclose(ours[3 * replica], theirs[2], atol=1e-6)
            assert torch.allclose(ours[3 * replica + 2], theirs[3 + 1], atol=1e-6)
        return ours[1]

    before = check()
    sac = source.stacks[0].learner
    assert torch.equal(group.stacks[0].learner.log_ent_coef[0], sac.log_ent_coef[1])
    for step in range(1, 10):
        group.observe(transition(torch.randn(group.M, 3), torch.rand(group.M, 1), torch.rand(group.M)))
        group.learn(step)
    assert not torch.allclose(check(), before)


def test_a_loaded_member_must_fit_its_place(tmp_path):
    run = tmp_path / "run"
    make_run(run, **MIXED)
    group, spec = fresh_group("Pendulum-v1", [f"{run}:1"])
    message = refusal(load_members, group, spec.observation_space, spec.action_space)
    assert "--algorithm td3" in message and "sac" in message
    group, spec = fresh_group("Pendulum-v1", ["none", f"{run}:0"])
    message = refusal(load_members, group, spec.observation_space, spec.action_space)
    assert "member 1" in message and "256,256" in message and "--net-arch 16,12" in message
    group, spec = fresh_group("Pendulum-v1", [run], net_arch=((16, 12),), use_sde=(True,))
    assert "--no-use-sde" in refusal(load_members, group, spec.observation_space, spec.action_space)
    group, spec = fresh_group("Room-v6", [run])
    message = refusal(load_members, group, spec.observation_space, spec.action_space)
    assert "Pendulum-v1 with 3 observations" in message
