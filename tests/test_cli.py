"""The console script: help, errors of one line, and the precedence of flags over files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import peerage
from peerage import session
from peerage.api import python_names
from peerage.cli import COMMANDS, main
from peerage.config import Config
from peerage.config.file import dump, from_dict, load
from peerage.config.flags import _assignments, train_flags
from peerage.config.presets import preset_names
from peerage.errors import UserError
from peerage.manual import page
from peerage.runs.listeners import EvaluationRow

ROOT = Path(__file__).parent.parent


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `peerage train ...` up to the check of the configuration in its environment, and returns the
    configuration."""
    seen: list[tuple[Config, list[str]]] = []

    def run_training(config: Config, command: list[str], given: list[str], **known: Any) -> Path:
        seen.append((config, command))
        return Path("experiments/it")

    monkeypatch.setattr("peerage.commands.actions.train.check_training", lambda config, given: None)
    monkeypatch.setattr(session, "run_training", run_training)

    def call(*words: str) -> Config:
        assert main(["train", *words]) == 0
        config, command = seen[-1]
        assert command == ["peerage", "train", *words]
        return config

    return call


def test_help_is_a_manual(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("environment and group", "learners", "advice", "run", "EXAMPLES", "(default: 10)"):
        assert part in text
    assert all(flag.option in text for flag in train_flags())
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS) and "EXAMPLES" in text
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("peerage ")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("trian", ["'trian'", "'train'"]),
        ("--verson", ["'--version'"]),
        ("compare a b", ["no run folder a"]),
        ("compare", ["the following arguments are required: RUN; see `peerage compare --help`"]),
        ("train --normalize-obs yes", ["--normalize-obs takes no value, got 'yes': write --normalize-obs or --"]),
        ("train --normalize-obs=yes", ["--normalize-obs takes no value, got 'yes'"]),
        ("train --n-peers 2 3", ["--n-peers takes one value, got '3', too"]),
        ("train --gamma", ["--gamma needs at least one value"]),
        ("train --seed", ["--seed needs a value"]),
        ("export . --to onnx", ["--to: expected one of", "sb3", "got 'onnx'"]),
        ("compare . --jsn", ["unknown flag '--jsn'"]),
        ("sweep x.yaml", ["x.yaml"]),
        ("train --trust tdd", ["--trust", "td"]),
        ("train --sequence-length 201", ["--sequence-length", "[2, 200]", "201"]),
        ("train --warmup-steps 0", ["--warmup-steps", "at least 1"]),
        ("train --context-hide-identity 2", ["--context-hide-identity", "[0, 1]"]),
        ("train --lerning-rate 1", ["'--lerning-rate'", "'--learning-rate'"]),
        ("train --learning 1", ["'--learning'"]),  # no abbreviations
        ("train foo", ["foo"]),
        ("train -x", ["-x"]),
        ("train --gamma", ["--gamma"]),
        ("train --gamma x", ["--gamma", "number", "'x'"]),
        ("train --gamma nan", ["--gamma"]),
        ("train --gamma 2", ["--gamma", "[0, 1]"]),
        ("train --n-peers 0", ["--n-peers"]),
        ("train --batch-size 1.5", ["--batch-size", "whole number"]),
        ("train --net-arch 64,x", ["--net-arch"]),
        ("train --net-arch 64 64 64", ["--net-arch 64 64 64: write 64,64,64 for 3 layers", "64, 64, 64, for"]),
        ("train --n-peers 2 --net-arch 64 32", ["write 64,32 for 2 layers, or 64, 32, for one layer in each member"]),
        ("train --trust none", ["--no-use-trust", "--sharing none"]),
        ("train --n-peers 2 --net-arch 64, 64", ["write 64,64 for 2 layers, or 64, 64, for one layer in each member"]),
        ("train --net-arch 64,8 64 64,8", ["--net-arch", "3 values", "4 members"]),
        ("train --env-args a", ["--env-args", "name=value"]),
        ("train --env-args a=[", ["--env-args a"]),
        ("train --env-args a=!!python/name:os.system", ["--env-args a"]),
        ("train --advisers negated:", ["--advisers"]),
        ("train --choice papr", ["'paper'"]),
        ("train --use-trust=false", ["--use-trust"]),
        ("train --config no-such", ["no-such"]),
        ("train --config peer-hoper", ["'peer-hopper'"]),
        ("train --exp-name a/b", ["--exp-name"]),
        ("resume", ["RUN"]),
        ("resume no-such", ["no-such", "run folder"]),
        ("resume no-such --gamma 1", ["--gamma"]),
        ("evaluate no-such", ["no-such"]),
        ("evaluate no-such --episodes 0", ["--episodes"]),
        ("report no-such", ["no-such"]),
        ("export no-such --member -1", ["--member"]),
        ("export no-such --to zip", ["--to"]),
        ("presets no-such", ["no-such"]),
        ("envs x", ["x"]),
    ],
)
def test_invalid_command_lines(words: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split(" ")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("peerage: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert all(part in err for part in parts), err


def test_flags(train: Any) -> None:
    words = """
        --env Room-v21 --n-peers 2 --advisers expert adversary --replicas 3 --seed 7
        --env-args terminate_when_unhealthy=false size=3 name=x --device cpu --total-timesteps 1e6
        --algorithm sac td3 --learning-rate 1e-3 5e-4 --net-arch 150,200 64,64 --use-sde --ent-coef 0.1
        --log-std-init -1.5e0 --no-use-trust --no-use-critic --use-advantage --lr 0.95 --temperature 2
        --max-peer-epochs 4 --no-sample-with-noise --verbose 0 --use-wandb --wandb-project p
    """
    config = train(*words.split())
    assert (config.env, config.n_peers, config.replicas, config.seed) == ("Room-v21", 2, 3, 7)
    assert config.advisers == ("expert", "adversary") and config.total_timesteps == 1_000_000
    assert config.env_args == {"terminate_when_unhealthy": False, "size": 3, "name": "x"}
    assert config.learner.learning_rate == (1e-3, 5e-4) and config.learner.net_arch == ((150, 200), (64, 64))
    assert config.learner.use_sde == (True,) and config.learner.ent_coef == ("0.1",)
    assert config.learner.algorithm == ("sac", "td3") and config.learner.log_std_init == (-1.5,)
    advice = config.advice
    assert (advice.use_trust, advice.use_agent_values, advice.use_critic) == (False, None, False)
    assert (advice.use_advantage, advice.lr, advice.temperature) == (True, 0.95, (2.0,))
    assert not advice.sample_with_noise and advice.max_peer_epochs == 4
    assert (config.run.verbose, config.run.use_wandb, config.run.wandb_project) == (0, True, "p")


def test_no_flags_give_the_default(train: Any) -> None:
    assert train() == Config()


def test_flags_override_config(train: Any, tmp_path: Path) -> None:
    config = train("--config", "peer-ant", "--gamma", "0.5", "--env-args", "x=1", "--no-use-advantage")
    assert config.env == "Ant-v4" and config.learner.gamma == (0.5,) and config.learner.tau == (0.02,)
    assert config.env_args == {"terminate_when_unhealthy": False, "x": 1}
    assert not config.advice.use_advantage and config.advice.use_trust
    path = tmp_path / "config.yaml"
    path.write_text(dump(train("--total-timesteps", "70", "--advisers", "expert", "--max-peer-epochs", "3")))
    assert train("--config", str(tmp_path)).steps == 70
    assert train("--config", str(path), "--n-epochs", "2", "--epoch-length", "10").steps == 20
    assert train("--config", str(path), "--n-epochs", "2", "--total-timesteps", "5").steps == 5
    assert train("--config", str(path), "--advisers").advisers == ()
    assert train("--config", str(path), "--max-peer-epochs", "none").advice.max_peer_epochs is None


def test_train_prints_the_output_files(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train()
    out = capsys.readouterr().out
    assert "experiments/it/figures" in out and "experiments/it/report.html" in out
    train("--verbose", "0")
    assert capsys.readouterr().out == ""


def test_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(error: BaseException) -> Any:
        def run_training(config: Config, command: list[str], given: list[str], **known: Any) -> Path:
            raise error

        return run_training

    monkeypatch.setattr(session, "run_training", failing(KeyboardInterrupt()))
    assert main(["train"]) == 130
    monkeypatch.setattr(session, "run_training", failing(UserError("two\nlines")))
    assert main(["train"]) == 2
    assert capsys.readouterr().err.endswith("peerage: two lines\n")


def test_other_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("")
    run = str(tmp_path)
    calls: list[Any] = []
    rows = [EvaluationRow(0, "member-0", 0, 1.234, 10, None, "alone")]
    rows += [EvaluationRow(0, "member-1", 10, 2.0, 9, 1.0, "alone")]
    monkeypatch.setattr(session, "resume", lambda run, **overrides: calls.append((run, overrides)))
    monkeypatch.setattr(session, "evaluate_run", lambda *a, which, **_: calls.append((*a, which)) or (500, rows))
    assert main(["resume", run, "--checkpoint-freq", "9", "--verbose", "0"]) == 0
    command = ["peerage", "resume", run, "--checkpoint-freq", "9", "--verbose", "0"]
    length = {"total_timesteps": None, "stretch_schedules": False}
    assert calls.pop() == (tmp_path, {"command": command, **length, "checkpoint_freq": 9, "verbose": 0})
    assert main(["resume", run, "--checkpoint-freq", "-9"]) == 2

    assert main(["evaluate", run, "--episodes", "3", "--members", "0", "1"]) == 0
    assert calls.pop() == (tmp_path, 3, None, [0, 1], "")
    assert capsys.readouterr().out.splitlines() == [
        "replica  member    episode  return  length  success  mode",
        "0        member-0  0        1.23    10               alone",
        "0        member-1  10       2.00    9       1.00     alone",
        "",
        "replica  member    mean return  episodes",
        "0        member-0  1.23         1",
        "0        member-1  2.00         1",
        "",
        "mean over members: 1.617; one replica, so there is no interval",
    ]
    rows += [EvaluationRow(1, "member-0", 0, 3.234, 10, None, "alone")]
    rows += [EvaluationRow(1, "member-1", 10, 4.0, 9, 1.0, "alone")]
    assert main(["evaluate", run, "--episodes", "3"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "mean over members and 2 replicas: 2.617 [1.617, 3.617], min–max"

    monkeypatch.setattr(
        "peerage.commands.actions.export.export_member", lambda *a: calls.append(a) or "out.zip"
    )
    assert main(["export", run, "--member", "2", "--to", "sb3", "--out", "x.zip"]) == 0
    assert calls[-1] == (tmp_path, 2, 0, Path("x.zip"), "")


def test_a_printed_preset_is_a_config_file(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["presets", "early-advice-ant"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    mine, named = train("--config", str(path)), train("--config", "early-advice-ant")
    assert named.run.exp_name == "early-advice-ant-seed-0"  # runs of presets are named after them
    assert mine == replace(named, run=replace(named.run, exp_name=None))
    assert train("--config", "early-advice-ant", "--exp-name", "x").run.exp_name == "x"
    assert train("--config", "early-advice-ant", "--exp-name", "none").run.exp_name is None
    assert train("--n-peers", "2", "--net-arch", "64,", "32,").learner.net_arch == ((64,), (32,))


def test_the_help_has_the_defaults_of_every_learner(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # lines break after a hyphen
    rates = "bc 0.0003, dqn 0.0005, dt 0.0001, ddt 0.0001, ppo 0.0003, rvs 0.0003, sac 0.0003, td3 0.0003, td3bc 0.0003"
    assert f"(default: {rates}; in Stable-Baselines3: dqn 0.0001, td3 0.001)" in text
    widths = "bc 256,256, dqn 64,64, ppo 64,64, rvs 256,256, sac 256,256, td3 256,256, td3bc 256,256"
    assert f"(default: {widths}; in Stable-Baselines3: td3 400,300)" in text
    assert "Discount factor. (default: dqn 0.99, dt 1, ddt 1, ppo 0.99, sac 0.99," in text and "(default: off)" in text
    assert main(["resume", "--help"]) == 0 and main(["sweep", "--help"]) == 0


def test_tables_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that prints a table prints the same numbers with --json, and nothing else."""

    def data(*words: str) -> Any:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert data("envs")[0].keys() == {"id", "obs", "actions", "horizon", "expert", "adversary", "note"}
    assert [row["name"] for row in data("presets")] == preset_names()
    assert data("presets", "peer-room-v21")["env"] == "Room-v21"
    assert "quick" in [row["sweep"] for row in data("sweep")]
    settings = ["--env", "Room-v3", "--n-peers", "2", "--n-eval-episodes", "2", "--verbose", "0", "--threads", "1"]
    settings += ["--total-timesteps", "60", "--log-dir", str(tmp_path), "--net-arch", "8"]
    settings += ["--learning-starts", "10"]
    assert main(["train", *settings, "--exp-name", "a"]) == main(["train", *settings, "--exp-name", "b"]) == 0
    capsys.readouterr()
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    found = data("evaluate", a, "--episodes", "3", "--members", "1")
    assert (found["run"], found["step"], found["notes"]) == (a, 60, ["after 60 of 60 steps"])
    assert [row["episode"] for row in found["episodes"]] == [0, 1, 2]
    mean = sum(row["return"] for row in found["episodes"]) / 3
    assert found["members"] == [{"replica": 0, "member": "member-1", "mean return": mean, "episodes": 3}]
    found = data("evaluate", a, "--episodes", "1", "--perturb", "action_noise=0,1")
    assert [row["case"] for row in found["rows"]] == ["clean", "action_noise=1"]
    assert len(found["members"]) == 4 and found["interval"] is None
    (found,) = data("report", a)
    assert found["analysis"]["advisers"] == ["member-0", "member-1"] and Path(found["report"]).is_file()
    assert data("compare", a, b)["tasks"][0]["rows"][0]["replicas"] == 1
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "common: {n_peers: 2, n_epochs: 1}\nenvironments: {Room-v3: {env: Room-v3}}\naxes: {sharing: [advice, none]}\n"
        "replicas: 1\n"
    )
    found = data("sweep", str(plan), "--dry-run", "--log-dir", str(tmp_path / "sweep"))
    assert [(row["state"], row["steps"], row["seconds"]) for row in found["runs"]] == [("train", 1000, None)] * 2
    assert main(["sweep", str(plan), "--json"]) == 2
    assert "--json needs --dry-run" in capsys.readouterr().err


def test_errors_in_python_name_settings_as_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        peerage.train("Room-v3", n_peers=1, only_follow_others=True)
    expected = "only_follow_others=True needs another adviser: use n_peers=2 or more, or add advisers"
    assert str(caught.value) == expected
    assert main(["train", "--env", "Room-v3", "--n-peers", "1", "--only-follow-others"]) == 2
    flags = "--only-follow-others needs another adviser: use --n-peers 2 or more, or add --advisers"
    assert capsys.readouterr().err == f"peerage: {flags}\n"
    assert python_names(flags) == expected
    for text, named in (
        ("--choice uniform and --no-use-trust: remove one", 'choice="uniform" and use_trust=False: remove one'),
        ("--epsilon --self-share and --epsilon 0.5.", "epsilon self_share and epsilon=0.5."),
        ("set --net-arch 16,12 (--trust in-context)", 'set net_arch=(16, 12) (trust="in-context")'),
        ("add --data NAME|PATH (or --env ID)", 'add data="NAME" (or env="ID")'),
        ("add --advised, --json or --no-such; x--lr, `peerage train --help`", None),
    ):
        assert python_names(text) == (named or text)


def test_the_start_of_a_run_shows_the_members_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env", "Pendulum-v1", "--n-peers", "3", "--algorithm", "sac", "td3", "sac", "--learning-rate", "1e-3"]
    words += ["--total-timesteps", "3", "--learning-starts", "1", "--eval-freq", "0", "--log-dir", str(tmp_path)]
    assert main(["train", *words, "--exp-name", "shown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("member-0 and member-2: sac, learning_rate 0.001, gamma 0.99, net_arch 256,256, ")
    assert lines[2].startswith("member-1: td3, learning_rate 0.001, ") and lines[2].endswith("action_noise 0.1")
    assert main(["train", *words, "--exp-name", "silent", "--verbose", "0"]) == 0
    assert capsys.readouterr().out == ""


def test_the_step_size_of_trust_is_not_taken_for_the_learning_rate(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--trust-lr` is the documented spelling, `--lr` that of published commands; the start of a run shows it."""
    for option in ("--trust-lr", "--lr"):
        assert train("--trust", "td", option, "0.5").advice.lr == 0.5
    assert main(["train", "--help"]) == 0
    assert "--trust-lr X, --lr X" in " ".join(capsys.readouterr().out.split())
    assert from_dict({"advice": {"trust_lr": 0.5}}).advice.lr == 0.5
    monkeypatch.undo()
    more: dict[str, Any] = {"n_peers": 2, "total_timesteps": 12, "learning_starts": 1, "eval_freq": 0}
    more |= {"log_dir": str(tmp_path), "net_arch": (4,)}
    peerage.train("Room-v3", trust="td", trust_lr=0.25, exp_name="td", **more)
    assert "\nadvice: choice standardised, trust td, trust_lr 0.25\n" in capsys.readouterr().out
    peerage.train("Room-v3", exp_name="default", **more)
    out = capsys.readouterr().out
    assert "\nadvice: choice standardised, trust in-context\n" in out and "imitation_weight" not in out
    peerage.train("Room-v3", imitate="trusted", exp_name="imitate", **more)
    out = capsys.readouterr().out
    assert "\nadvice: choice standardised, trust in-context, imitate trusted, self_share 0.5\n" in out
    assert ", imitation_weight 1," in out
    with pytest.raises(UserError, match=r"^trust_lr has no effect.* the learners is learning_rate$"):
        peerage.train("Room-v3", lr=0.25, exp_name="refused", **more)
    assert not (tmp_path / "refused").exists()


def test_documentation_is_up_to_date() -> None:
    """`make docs` generates the page."""
    assert (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8") == page()


def test_environment_arguments() -> None:
    words = [
        "a=1e-3",
        "b=true",
        "c=5",
        "d=-2.5",
        "e=[1, 2e3]",
        "f=text",
        "g='7'",
        "h=a=b",
        "i=null",
        "j=1.5E+2",
    ]
    assert _assignments(words, "--env-args") == {
        "a": 0.001, "b": True, "c": 5, "d": -2.5, "e": [1, 2000.0], "f": "text", "g": "7", "h": "a=b",
        "i": None, "j": 150.0,
    }  # fmt: skip
    for bad in ("a", "=1", "a b=1", "a=", "a=[1", "a=!!python/name:os.system"):
        with pytest.raises(UserError) as caught:
            _assignments([bad], "--env-args")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="twice"):
        _assignments(["a=1", "a=2"], "--env-args")
    # 2020-01-01 is text, as in YAML 1.2; keys that cannot be arguments are refused
    assert _assignments(["a=2020-01-01"], "--env-args") == {"a": "2020-01-01"}
    assert main(["train", "--env-args", "a={1: 2}"]) == 2


PUBLISHED = (
    "--n-peers 4 --total-timesteps 500000 --epoch-length 1000 --use-trust --use-agent-values --temperature 1.0 "
    "--lr 0.95 --use-phase-aware --attention-lr 1e-5 --attention-update-freq 20 --sequence-length 50 "
    "--warmup-steps 500000 --exp-name x --use-wandb --wandb-project p --seed 1 --verbose 1"
)


@pytest.mark.parametrize(
    "env", ["LunarLander-v3", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Room-v6", "Room-v21", "Room-v27", "Room-v33"]
)
def test_the_published_commands_mean_the_published_settings(train: Any, tmp_path: Path, env: str) -> None:
    """The flags of the published code give the same experiment as the preset."""
    config = train(*f"--env {env} {PUBLISHED} --log-dir {tmp_path}".split())
    name = env.lower() if env.startswith("Room") else env.split("-")[0].lower()
    expected = load(f"seed-hybrid-{name}")
    assert (config.env, config.steps, config.n_peers) == (env, expected.steps, 4)
    for part in ("learner", "advice", "trust_transformer"):
        assert getattr(config, part) == getattr(expected, part)
    assert config.advice.trust == "hybrid" and config.advice.choice == "paper" and config.advice.lr == (0.95)


def test_flags_that_select_trust(train: Any) -> None:
    assert train("--sequence-length", "20").advice.trust == "hybrid"
    house = Config()
    assert train("--env", "Room-v21").advice == house.advice
    assert train("--warmup-steps", "9", "--trust", "transformer").learner == house.learner
    assert train("--config", "seed-td-ant", "--trust", "hybrid", "--sequence-length", "9").advice.lr == 0.95
    assert train("--warmup-steps", "9", "--lr", "0.5", "--batch-size", "7").advice.lr == 0.5  # flags override it


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--sequence-length 20 --trust td", ["--sequence-length", "transformer or hybrid", "td"]),
        ("--attention-lr 1e-4 --choice standardised", ["--attention-lr", "in-context"]),
        ("--config peer-room-v21 --attention-lr 1e-4", ["--attention-lr"]),
        ("--context-lr 1e-4 --trust td", ["--context-lr", "in-context"]),
        ("--context-lr 1e-4 --sharing none", ["--context-lr", "--sharing none"]),
        ("--env LunarLander-v3 --ent-coef 0.1", ["--ent-coef", "dqn"]),
        ("--env Room-v3 --batch-size 65 --buffer-size 64", ["--batch-size 65", "--buffer-size"]),
        ("--env Room-v3 --lr 1e-3", ["--trust-lr has no effect with --trust in-context", "--learning-rate"]),
        ("--env Room-v3 --lr 1e-3 --sharing none", ["--trust-lr", "--sharing none", "--learning-rate"]),
        ("--env Room-v3 --trust-lr 1e-3 --n-peers 1", ["--trust-lr", "single member", "--learning-rate"]),
        ("--env Room-v3 --lr 1e-3 --choice uniform", ["--trust-lr", "--choice uniform", "--learning-rate"]),
        ("--env Room-v3 --init-agent-values 0 --no-use-trust --no-use-agent-values", ["--init-agent-values"]),
        ("--env Pendulum-v1 --exploration-fraction 0.1", ["--exploration-fraction", "sac"]),
        ("--env Pendulum-v1 --algorithm td3 --use-sde", ["--use-sde", "td3"]),
    ],
)
def test_flags_without_effect_are_refused(words: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts)


def test_a_flag_for_one_of_the_members_is_accepted(train: Any) -> None:
    train("--env", "Pendulum-v1", "--n-peers", "2", "--algorithm", "sac", "td3", "--use-sde", "--action-noise", "0.2")
