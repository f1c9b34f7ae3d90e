"""The YAML reader is strict, forgives nothing in silence, and answers every mistake with one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig, with_settings
from peerage.config.file import MAX_BYTES, dump, from_dict, load, to_dict, validate
from peerage.config.flags import train_flags
from peerage.config.plain_yaml import parse
from peerage.errors import UserError
from peerage.runs.folder import HEADER


def read(text: str) -> Config:
    return validate(from_dict(parse(text, "test.yaml")))


def error(text: str) -> str:
    with pytest.raises(UserError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


FULL = replace(
    Config(),
    env="Room-v21",
    env_args={"name": "1e-3", "yes": "no", "deep": {"list": [1, 2.5, None, True, "ü\n'"]}},
    n_peers=2,
    advisers=("negated:expert", "checkpoint:runs/a:1", "constant:1"),
    total_timesteps=1000,
    learner=LearnerConfig(
        learning_rate=(1e-3, 5e-324),
        net_arch=((64, 64), (256,)),
        use_sde=(True, False),
        ent_coef=("auto_0.1", "0.2"),
        load_paths=("none", "zip:0"),
    ),
    advice=AdviceConfig(temperature=(0.1, 2.0), lr=0.001, max_peer_epochs=0),
    run=RunConfig(exp_name="010", log_dir="2024-01-01"),
)


def test_empty_is_default() -> None:
    assert read("") == Config()
    assert read("learner:\nadvice: {}\n") == Config()


def test_the_file_of_an_old_run_keeps_its_meaning(tmp_path: Path) -> None:
    """Version 0.1 evaluated all replicas on the same start states, and its config.yaml has no `eval_starts`."""
    path = tmp_path / "config.yaml"
    new = dump(replace(Config(), learner=LearnerConfig(algorithm=("dqn",))))
    old = new.replace("  eval_starts: by-replica\n", "")
    for text, starts in ((HEADER + old, "shared"), (HEADER + new, "by-replica"), (old, "by-replica")):
        path.write_text(text)
        assert load(path).run.eval_starts == load(tmp_path).run.eval_starts == starts
    assert old != new


@pytest.mark.parametrize("config", [Config(), FULL])
def test_round_trip(config: Config) -> None:
    assert validate(config) == config
    assert read(dump(config)) == config
    # YAML 1.1 tools read the same values; text is quoted if it looks like another type
    assert from_dict(yaml.safe_load(dump(config))) == config


def test_order_is_that_of_the_tree() -> None:
    assert list(parse(dump(Config()), "x")) == list(to_dict(Config()))
    assert dump(read("seed: 1\nenv: Room-v21\n")) == dump(read("env: Room-v21\nseed: 1\n"))


@pytest.mark.parametrize("text", ["1e-3", "1.e-3", "1.0e-3", "0.001", "+1E-3", ".001", "[1e-3]"])
def test_exponents_are_numbers(text: str) -> None:
    assert read(f"learner: {{learning_rate: {text}}}").learner.learning_rate == (0.001,)


def test_scalars_for_tuples() -> None:
    learner = read("n_peers: 2\nlearner: {net_arch: [150, 200], ent_coef: 0.1, use_sde: true}").learner
    assert (learner.net_arch, learner.ent_coef, learner.use_sde) == (((150, 200),), ("0.1",), (True,))
    assert read("n_peers: 2\nlearner: {net_arch: [[64, 64], [256, 256]]}").learner.net_arch == (
        (64, 64),
        (256, 256),
    )
    assert read("learner: {net_arch: 64}").learner.net_arch == ((64,),)
    assert read("advisers: expert").advisers == ("expert",)
    assert validate(replace(Config(), learner=LearnerConfig(gamma=0.5))).learner.gamma == (0.5,)  # type: ignore[arg-type]


def test_yaml_12_words() -> None:
    """`no`, octal, sexagesimal and dates are YAML 1.1's surprises."""
    assert read("total_timesteps: 010\nrun: {exp_name: 2024-01-01}") == replace(
        Config(), total_timesteps=10, run=RunConfig(exp_name="2024-01-01")
    )
    assert read("total_timesteps: 1e6").total_timesteps == 1_000_000
    assert "true or false" in error("advice: {use_trust: no}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("n_peer: 3", ["'n_peer'", "'n_peers'"]),
        ("learner: {lerning_rate: 1}", ["'learner.lerning_rate'", "'learner.learning_rate'"]),
        ("learning_rate: 1", ["'learning_rate'", "'learner.learning_rate'"]),
        ("advice: {gamma: 1}", ["'advice.gamma'", "'learner.gamma'"]),
        ("1: 2", ["'1'"]),
        ("n_peers: three", ["n_peers", "whole number", "'three'"]),
        ("n_peers: 2.5", ["n_peers", "whole number", "2.5"]),
        ("n_peers: true", ["n_peers", "whole number", "True"]),
        ("n_peers: [1]", ["n_peers", "whole number"]),
        ("seed: 99999999999999999999", ["seed", "bits"]),
        ("seed: 1e300", ["seed", "bits"]),
        ("env: 3", ["env", "text"]),
        ("env: ''", ["--env"]),
        ("learner: 3", ["learner", "mapping"]),
        ("- a", ["configuration", "mapping"]),
        ("env_args: 3", ["env_args", "mapping"]),
        ("env_args: {a: {2: 1}}", ["env_args.a", "2"]),
        ("env_args: {a: .nan}", ["env_args.a", "finite"]),
        ("learner: {gamma: .nan}", ["learner.gamma", "finite"]),
        ("advice: {init_trust_values: .inf}", ["advice.init_trust_values", "finite"]),
        ("advice: {choice: papr}", ["advice.choice", "'paper'"]),
        ("advice: {trust: hybird}", ["advice.trust", "hybrid"]),
        ("learner: {algorithm: [dqn, sac, sac, sac]}", ["--algorithm"]),
        ("a: 1\na: 2", ["duplicate", "line 2"]),
        ("env: [", ["line"]),
        ("env: &a x\nadvisers: *a", ["tags and aliases"]),
        ("env: !!python/object/apply:os.system [ls]", ["tags and aliases"]),
        ("env: !!int ''", ["tags and aliases"]),
        ("env: a\n---\nenv: b", ["document"]),
        ("? [a]\n: b", ["key"]),
        ("env: " + "[" * 5000, ["deep"]),
        ("seed: " + "1" * 5000, ["digits"]),
        # ranges
        ("n_peers: 0", ["--n-peers", "[1, 64]", "0"]),
        ("n_peers: 65", ["--n-peers"]),
        ("replicas: 0", ["--replicas", "[1, 10000]"]),
        ("total_timesteps: -1", ["--total-timesteps"]),
        ("n_epochs: -1", ["--n-epochs"]),
        ("learner: {gamma: 1.1}", ["--gamma", "[0, 1]", "1.1"]),
        ("learner: {tau: 0}", ["--tau", "(0, 1]"]),
        ("learner: {learning_rate: 0}", ["--learning-rate", "above 0"]),
        ("learner: {batch_size: 0}", ["--batch-size"]),
        ("learner: {net_arch: [64, 0]}", ["--net-arch"]),
        ("learner: {net_arch: [[]]}", ["--net-arch", "layer"]),
        ("learner: {gamma: [0.9, 0.8]}", ["--gamma", "2 values", "4 members"]),
        ("advice: {temperature: [1, 2, 3]}", ["--temperature", "3 values"]),
        ("advice: {temperature: 0}", ["--temperature", "1e-6"]),
        ("advice: {epsilon: 2}", ["--epsilon"]),
        ("advice: {follow_steps: 0}", ["--follow-steps"]),
        ("advice: {lr: 0}", ["--trust-lr"]),
        ("run: {verbose: 3}", ["--verbose"]),
        ("run: {exp_name: ../x}", ["--exp-name"]),
        ("run: {exp_name: '..'}", ["--exp-name"]),
        ("run: {log_dir: ''}", ["--log-dir"]),
        ("device: gpu", ["--device"]),
        ("learner: {ent_coef: auto_-1}", ["--ent-coef"]),
        ("learner: {ent_coef: nan}", ["--ent-coef"]),
        ("learner: {load_paths: ''}", ["--load-paths"]),
        ("learner: {load_paths: 'run:x'}", ["--load-paths", "member"]),
        ("advisers: expert\nadvice: {sharing: none}", ["--advisers", "--sharing none"]),
    ],
)
def test_refused(text: str, parts: list[str]) -> None:
    message = error(text)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "text", ["", "negated:", "negated", "checkpoint:", "checkpoint::0", "constant:x", "random:1"]
)
def test_malformed_advisers(text: str) -> None:
    assert "--advisers" in error(f"advisers: ['{text}']")


def test_good_advisers() -> None:
    names = ["expert", "adversary", "random", "constant", "constant:-0.5", "negated:negated:expert", "my_own"]
    assert read(f"advisers: {[*names, 'checkpoint:a/b', 'checkpoint:a/b:3', 'negated:checkpoint:a:0']}")


def test_values_of_python_are_checked_too() -> None:
    for config in (
        replace(Config(), seed="1"),  # type: ignore[arg-type]
        replace(Config(), env_args={"a": object()}),
        replace(Config(), learner=LearnerConfig(gamma=(float("nan"),))),
    ):
        with pytest.raises(UserError):
            validate(config)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(FULL), encoding="utf-8")
    assert load(path) == load(tmp_path) == FULL
    assert load(path, base=replace(Config(), seed=9)).seed == 0
    path.write_text("seed: 3", encoding="utf-8")
    assert load(path, base=FULL) == replace(FULL, seed=3)
    path.write_text("sed: 3", encoding="utf-8")
    with pytest.raises(UserError, match=r"config.yaml: unknown key 'sed' \(did you mean 'seed'"):
        load(path)
    path.write_bytes(b"env: \xff")
    with pytest.raises(UserError, match="cannot read"):
        load(path)
    path.write_text("#" * (MAX_BYTES + 1), encoding="utf-8")
    with pytest.raises(UserError, match="larger"):
        load(path)
    for source in (tmp_path / "none.yaml", "peer-hoper", "", "a\0b", "x" * 5000):
        with pytest.raises(UserError):
            load(source)


def test_every_field_is_explained() -> None:
    assert [flag.name for flag in train_flags() if not flag.setting.doc] == []


NASTY = [": ", "[", "]", "{", "}", "!!int ", "&a ", "*a", "- ", "'", '"', "\t", "\n", "? ", "1e999", ".nan"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_files_give_user_errors_only(data: st.DataObject) -> None:
    text = dump(FULL)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(NASTY) | st.text(max_size=4)) + text[end:]
    try:
        config = read(text)
    except UserError:
        return
    assert read(dump(config)) == config


PUBLISHED = """
# configs/default.yaml
env_name: "CartPole-v1"
total_timesteps: 100000
eval_freq: 10000
n_eval_episodes: 10

ppo:
  learning_rate: 3.0e-4
  gamma: 0.99
  clip_ratio: 0.2

attention:
  n_heads: 8
  d_model: 128
  n_layers: 2
  dropout: 0.1
"""


def test_the_file_of_the_published_attention_ppo_loads() -> None:
    config, preset = read(PUBLISHED), load("seed-attention")
    assert (config.env, config.steps, config.learner, config.attention, config.run) == (
        *(preset.env, preset.steps, preset.learner, preset.attention, preset.run),
    )
    assert read("ppo:\n  clip_ratio: 0.3\n").learner.net == ()  # without a section of the network, the default
    assert read("sac: {gamma: 0.5}\nattention: {d_model: 8}").learner.net == ()  # sac has no choice of networks
    assert read("env_name: Room-v3\nverbose: 0\nrun: {eval_freq: 7}").run == RunConfig(verbose=0, eval_freq=7)
    assert "learner.n_head" in error("ppo: {n_head: 1}")
    assert "ppo, learner" in error("ppo: {gamma: 0.5}\nlearner: {gamma: 0.5}")
    assert "dqn, ppo" in error("ppo: {gamma: 0.5}\ndqn: {gamma: 0.5}")
    assert "env_name and env" in error("env_name: Room-v3\nenv: Room-v3")
    assert "ppo: expected a mapping" in error("ppo: 3")
    assert "run.eval_freq" in error("eval_freq: 10000")  # not in a file of Peerage


def test_clip_ratio_is_another_name_of_clip_range() -> None:
    assert read("learner: {algorithm: ppo, clip_ratio: 0.3}").learner.clip_range == (0.3,)
    assert {"--clip-range", "--clip-ratio"} <= set(next(f for f in train_flags() if f.name == "clip_range").options)
    assert validate(with_settings(Config(), {"clip_ratio": 0.3})).learner.clip_range == (0.3,)
    assert "--clip-range" in error("learner: {algorithm: ppo, clip_ratio: 0}")
