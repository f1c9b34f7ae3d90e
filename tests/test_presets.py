"""Every preset is a valid configuration, and holds what the papers' command lists say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig
from peerage.config.file import dump, from_dict, load, validate
from peerage.config.plain_yaml import parse, to_yaml
from peerage.config.presets import describe, preset, preset_groups, preset_names
from peerage.errors import UserError

PROBES = [name for name in preset_names() if name.startswith("probe-")]
OFFLINE = ["corl-dt", "seed-dt"]
SEED = [name for name in preset_names() if name.startswith("seed-") and name not in OFFLINE]
OPEN = [name for name in preset_names() if name.startswith("open-")]
PPO = [name for name in preset_names() if name.startswith(("ppo-", "attention-"))]
FED = [name for name in preset_names() if name.startswith("fedformer-")]
OTHERS = ("quick-lunarlander", *SEED, *PROBES, *OPEN, *PPO, *OFFLINE, *FED)
PAPER = [name for name in preset_names() if name not in OTHERS]
FAMILIES = ["halfcheetah", "ant", "hopper", "walker2d", "room-v21", "room-v27"]


@pytest.mark.parametrize("name", preset_names())
def test_loads(name: str) -> None:
    config = load(name)
    if name in OFFLINE:
        with pytest.raises(UserError, match="dt learns from a dataset: add --data"):
            validate(config)
        config = replace(config, data="halfcheetah-expert-v2")
    config = validate(config)
    assert from_dict(parse(dump(config), name)) == config
    assert from_dict(parse(to_yaml(preset(name)), name)) == from_dict(preset(name))
    assert describe(name) and "\n" not in describe(name)


def test_one_for_every_row() -> None:
    product = {f"{s}-{f}" for s in ("peer", "single", "random-advice", "early-advice") for f in FAMILIES}
    ablation = {name for name in PAPER if name.startswith("ablation-")}
    sizes = {f"group-size-hopper-{n}" for n in (2, 4, 8, 10)}
    adversarial = {"adversarial-room-v21", "adversarial-single-room-v21"}
    assert set(PAPER) == product | ablation | sizes | adversarial
    assert len(ablation) == 4 * 2 * 7
    assert len({dump(load(name)) for name in ablation}) == 56


def test_the_published_transformer_trust() -> None:
    for env in ("LunarLander-v3", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Room-v6", "Room-v21", "Room-v27", "Room-v33"):
        same = [name for name in SEED if load(name).env == env]
        assert [load(name).advice.trust for name in same] == ["td", "hybrid"]
        for config in map(load, same):
            assert (config.advice.lr, config.advice.trust_buffer_size, config.steps) == (0.95, 100, 500_000)
            dqn = not env.startswith(("Hopper", "Walker", "Ant"))
            assert config.learner.tau == ((1.0,) if dqn else (0.02,))
            assert config.learner.buffer_size == ((100_000,) if dqn else (1_000_000,))
            assert (config.n_peers, config.learner.learning_starts) == (4, (1000,) if dqn else (10_000,))
    hybrid = load("seed-hybrid-ant").trust_transformer
    assert (hybrid.use_phase_aware, hybrid.warmup_steps, hybrid.attention_lr) == (True, 500_000, 1e-5)


def test_probes() -> None:
    advisers = {
        "room-plain": ("expert", "adversary", "random"),
        "room-turncoat": ("turncoat", "convert"),
        "room-regional": ("regional:a", "regional:b", "adversary"),
        "lunarlander-plain": ("expert", "negated:expert", "random"),
        "lunarlander-turncoat": ("turncoat", "convert"),
        "lunarlander-regional": ("regional:a", "regional:b", "negated:expert"),
    }
    assert [f"probe-{name}" for name in advisers] == PROBES
    for name in PROBES:
        config = load(name)
        assert config.advisers == advisers[name.removeprefix("probe-")]
        assert (config.n_peers, config.replicas, config.steps) == (2, 5, 16_000)
        # The kind of trust is the default
        assert config.advice == AdviceConfig(sharing="advice", shuffle_advisers=True)
        assert config.run.log_freq == 250
        room = "room" in name
        assert config.env == ("Room-v21" if room else "LunarLander-v3")
        pace = {"train_freq": (4,), "gradient_steps": (1,)} if room else {}  # a gradient step in four steps
        assert config.learner == LearnerConfig(algorithm=("dqn",), **pace)


@pytest.mark.parametrize("name", PAPER)
def test_common_settings(name: str) -> None:
    config = load(name)
    learner, advice = config.learner, config.advice
    assert (learner.batch_size, learner.gamma, learner.tau) == ((256,), (0.99,), (0.02,))
    assert (learner.train_freq, learner.gradient_steps, learner.target_update_interval) == ((8,), (8,), (1,))
    assert (advice.temperature, advice.temperature_decay, advice.switch_ratio) == ((1.0,), (0.0,), 0)
    assert (advice.lr, advice.init_trust_values, advice.init_agent_values) == (0.001, 200.0, 200.0)
    assert (advice.trust_buffer_size, advice.trust_batch_size) == (1000, 10)
    assert advice.sample_with_noise and advice.follow_across_episodes and advice.epsilon == advice.self_share == 0
    assert (config.run.eval_freq, config.run.n_eval_episodes) == (10_000, 10)
    assert config.steps == (600_000 if name.startswith("group-size") else 1_000_000)
    early = name.startswith("early")
    assert (advice.choice, advice.follow_steps) == (("uniform", 1) if early else ("paper", 10))
    assert config.n_epochs * config.epoch_length == config.steps and config.total_timesteps is None
    if "room" in name:
        assert (learner.algorithm, learner.net_arch) == (("dqn",), ((256, 256),))
        assert learner.buffer_size == (300_000,)
        assert (learner.exploration_fraction, learner.exploration_final_eps) == ((0.1,), (0.05,))
        assert (learner.learning_rate, learner.learning_starts) == ((5e-4,), (100,))
    else:
        assert (learner.algorithm, learner.net_arch) == (("sac",), ((150, 200),))
        assert learner.buffer_size == (1_000_000,)
        assert (learner.use_sde, learner.log_std_init, learner.ent_coef) == ((True,), (-3.0,), ("auto",))
        cheetah = "halfcheetah" in name
        assert learner.learning_starts == ((10_000,) if cheetah else (100,))
        assert learner.learning_rate == ((7.3e-4,) if cheetah or name == "early-advice-ant" else (3e-4,))
        assert config.env_args == ({} if cheetah else {"terminate_when_unhealthy": False})


def signals(name: str) -> tuple[bool, bool, bool, bool]:
    advice = load(name).advice
    return advice.use_agent_values, advice.use_trust, advice.use_critic, advice.use_advantage


def test_settings() -> None:
    for family in FAMILIES:
        members = 2 if "room" in family else 4
        assert signals(f"peer-{family}") == (True, True, True, True)
        assert signals(f"random-advice-{family}") == (False, False, False, False)
        assert load(f"peer-{family}").n_peers == members
        single = load(f"single-{family}")
        assert (single.n_peers, single.advice.sharing, single.advisers) == (1, "none", ())
        early = load(f"early-advice-{family}")
        assert early.n_peers == members and early.advice.only_follow_others
        clock = (early.epoch_length, early.advice.max_peer_epochs)
        assert clock == ((100, 5000) if "room" in family else (10_000, 74))
    assert load("peer-room-v27").env == "Room-v27" and load("peer-walker2d").env == "Walker2d-v4"


def test_ablation_groups_and_adversary() -> None:
    assert signals("ablation-ant-none-agent") == (True, False, False, False)
    assert signals("ablation-ant-advantage-trust-critic") == (False, True, True, True)
    for n in (2, 4, 8, 10):
        assert load(f"group-size-hopper-{n}").n_peers == n
        assert signals(f"group-size-hopper-{n}") == (True, True, True, False)
    adversarial = load("adversarial-room-v21")
    assert (adversarial.env, adversarial.n_peers, adversarial.advisers) == ("Room-v21", 2, ("adversary",))
    assert dump(load("adversarial-single-room-v21")) == dump(load("single-room-v21"))


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean 'peer-hopper'"):
        preset("peer-hoper")


def test_callers_cannot_change_a_preset() -> None:
    preset("peer-ant")["learner"]["gamma"] = 0
    assert preset("peer-ant")["learner"]["gamma"] == 0.99


def test_attention() -> None:
    ours, plain, published = (load(name) for name in ("attention-cartpole", "ppo-cartpole", "seed-attention"))
    assert ours.learner == replace(plain.learner, net=("attention",)) and ours.attention == Config().attention
    assert (ours.env, ours.steps, ours.run) == (plain.env, plain.steps, plain.run)
    attention = published.attention
    assert (attention.n_heads, attention.d_model, attention.n_layers, attention.dropout) == (8, 128, 2, 0.1)
    learner = published.learner
    assert (learner.algorithm, learner.net, learner.clip_range) == (("ppo",), ("attention",), (0.2,))
    assert (learner.learning_rate, learner.gamma, published.steps) == ((3e-4,), (0.99,), 100_000)


def test_fedformer_presets() -> None:
    names = FED
    assert len(names) == 12
    for name in names:
        config = load(name)
        if name.endswith("-pooled"):
            continue
        assert (config.env, config.env_args, config.n_peers) == ("metaworld/reach-v3", {"goals": 5}, 5)
        assert (config.run.eval_modes, config.run.success) == (("alone", "test"), "any")
        method = {"sac": (), "fedavg": ("fedavg",)}.get(name.rsplit("-", 1)[1], ("fedformer",))
        assert config.exchange == method
    paper = load("fedformer-paper")
    learner = paper.learner
    assert (paper.steps, paper.exchange_freq) == (250 * 400, 400)  # epochs of 400 steps with 600 updates
    assert (learner.train_freq, learner.gradient_steps, learner.batch_size) == ((400,), (600,), (1200,))
    fed = paper.fedformer
    assert (fed.fedformer_width, fed.fedformer_heads, fed.fedformer_layers, fed.fedformer_hidden) == (400, 4, 2, 2048)
    assert fed.fedformer_dropout == 0.1 and load("fedformer-small").fedformer.fedformer_dropout == 0


@pytest.mark.parametrize("size", ["small", "paper", "code"])
def test_the_pooled_learner_has_goals_steps_and_updates_of_all_members(size) -> None:
    alone, pooled = load(f"fedformer-{size}-sac"), load(f"fedformer-{size}-pooled")
    assert (pooled.n_peers, pooled.env_args, pooled.exchange) == (1, {"goals": 5, "pooled": 5}, ())
    assert pooled.steps == 5 * alone.steps and pooled.run.eval_freq == 5 * alone.run.eval_freq
    assert pooled.run.n_eval_episodes == 5 * alone.run.n_eval_episodes
    starts = {config.learner.learning_starts[0] for config in (alone, pooled)}
    assert max(starts) + 1 in (5 * min(starts) + 1, 5 * (min(starts) + 1))
    assert replace(pooled.learner, learning_starts=alone.learner.learning_starts) == alone.learner


def test_presets_are_listed_by_system(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    group = {name: heading for heading, names in preset_groups().items() for name in names}
    assert list(group) == preset_names() and len(set(group.values())) == 9
    width, heading = max(map(len, group)), ""
    shown = {}
    for line in lines[:-2]:
        if line.startswith("  "):
            shown[line[2 : 2 + width].strip()] = heading
        else:
            heading = line or heading
    assert shown == group
    assert main(["presets", "--json"]) == 0
    assert [row["group"] for row in json.loads(capsys.readouterr().out)] == list(group.values())


def test_the_published_decision_transformers() -> None:
    """The published settings for half-cheetah: 16 steps an epoch of 1,000 episodes; and those of CORL."""
    seed, corl = map(load, sorted(OFFLINE, reverse=True))
    for config in (seed, corl):
        learner, gpt = config.learner, config.gpt
        assert (learner.algorithm, learner.weight_decay, learner.warmup_ratio) == (("dt",), (1e-4,), (0.1,))
        assert (learner.max_grad_norm, config.n_peers, config.data_fraction) == ((0.25,), 1, 1)
        assert (gpt.context_length, gpt.d_model, gpt.n_layers, gpt.n_heads, gpt.dropout) == (20, 128, 3, 1, 0.1)
    assert (seed.learner.batch_size, seed.learner.learning_rate, seed.learner.anneal_lr) == ((64,), (1e-4,), (True,))
    assert (seed.data_epochs, seed.total_timesteps) == (120, None)
    assert (corl.learner.batch_size, corl.learner.learning_rate, corl.steps) == ((4096,), (8e-4,), 100_000)
