"""Sweeps: files, plans, and training that repeats and loses nothing."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peerage import cli
from peerage.cli import main
from peerage.config import Config, with_settings
from peerage.config.file import from_dict, load, to_dict, validate
from peerage.config.plain_yaml import parse
from peerage.config.presets import preset_names
from peerage.errors import UserError
from peerage.processor import cpu_model
from peerage.runs.folder import RunFolder
from peerage.runs.progress import completed_steps, timing
from peerage.runs.tables import read_metrics
from peerage.statistics.samples import read_sides
from peerage.statistics.sources import find_runs
from peerage.sweeps.drive import _Driver, _slots, run
from peerage.sweeps.file import describe, sweep_names
from peerage.sweeps.launch import Ended, LocalLauncher, Task, cores
from peerage.sweeps.plan import plan_sweep
from peerage.sweeps.progress import Progress
from peerage.sweeps.state import Speeds, inspect_run, total_duration
from peerage.sweeps.work import work
from peerage.text import duration
from peerage.training.parameters import parameter_count

ROOT = Path(__file__).parent.parent
TINY = """
common:
  n_peers: 2
  total_timesteps: 40
  learner: {net_arch: [8], batch_size: 4, learning_starts: 8, train_freq: 4, gradient_steps: 1}
  run: {eval_freq: 20, log_freq: 20, n_eval_episodes: 1}
environments: [Room-v6]
"""


def write(folder: Path, text: str, name: str = "tiny") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def planned(folder: Path, text: str):
    return plan_sweep(write(folder, text), log_dir=str(folder / "runs")).runs


class Here:
    """A launcher that trains in this process, one run after the other."""

    slots = 1

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._ended: list[Ended] = []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        try:
            self._ended.append(Ended(task.name, 0, work(task)))
        except UserError as error:
            self._ended.append(Ended(task.name, 2, str(error)))

    def poll(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def unreported(monkeypatch):
    """Disable reports, here and in workers: they take longer than these trainings."""
    monkeypatch.setattr("peerage.session.write_report", lambda folder: None)
    monkeypatch.setenv("MPLBACKEND", "none")  # an invalid backend, with which matplotlib cannot draw


def files(folder: Path) -> dict[str, int]:
    """All files and folders with their modification times."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def results(folder: Path) -> dict[str, bytes]:
    """The files that are equal for two trainings with one seed: the tables and the tensors of the last checkpoint."""
    tables = [folder / f"{name}.csv" for name in ("metrics", "evaluations", "advice")]
    last = sorted(folder.glob("checkpoints/*/state.safetensors"))[-1]
    return {path.name: path.read_bytes() for path in (*tables, last)}


# --- built-in sweeps ----------------------------------------------------------------------------------------


def test_the_ablation_is_its_presets():
    sweep = plan_sweep("ablation")
    assert len(sweep.runs) == 4 * 2 * 7 and sweep.where == Path("experiments/ablation")
    presets = {name for name in preset_names() if name.startswith("ablation-")}
    for planned_run in sweep.runs:
        family = planned_run.name.split("_")[0]
        name = f"ablation-{family}-{planned_run.axes['values']}-{planned_run.axes['signals']}"
        presets.remove(name)
        expected = replace(load(name), replicas=5, threads=1, run=planned_run.config.run)
        assert planned_run.config == expected
        assert planned_run.config.run.eval_freq == 10_000 and planned_run.resolved.steps == 1_000_000
        # The authors' commands, in numbers
        c = planned_run.resolved
        cheetah, hops = family == "halfcheetah", family in ("ant", "hopper", "walker2d")
        assert c.env_args == ({"terminate_when_unhealthy": False} if hops else {}) and hops != cheetah
        assert (c.n_peers, c.epoch_length, c.learner.algorithm) == (4, 10_000, ("sac",))
        assert c.learner.learning_rate == ((7.3e-4 if cheetah else 3e-4),)
        assert c.learner.learning_starts == ((10_000 if cheetah else 100),)
        assert (c.learner.net_arch, c.learner.buffer_size) == (((150, 200),), (1_000_000,))
        assert (c.learner.batch_size, c.learner.gamma, c.learner.tau) == ((256,), (0.99,), (0.02,))
        assert c.learner.train_freq == c.learner.gradient_steps == (8,)
        assert (c.learner.use_sde, c.learner.log_std_init, c.learner.ent_coef) == ((True,), (-3,), ("auto",))
        a, signals = c.advice, planned_run.axes["signals"].split("-")
        assert [a.use_agent_values, a.use_trust, a.use_critic] == [x in signals for x in ("agent", "trust", "critic")]
        assert a.use_advantage == (planned_run.axes["values"] == "advantage") and a.sample_with_noise
        assert (a.trust, a.choice, a.follow_steps, a.switch_ratio) == ("td", "paper", 10, 0)
        assert (a.temperature, a.temperature_decay, a.lr, a.trust_buffer_size) == ((1.0,), (0.0,), 0.001, 1000)
        assert a.init_trust_values == a.init_agent_values == 200 and c.run.n_eval_episodes == 10
    assert not presets
    # What the others are compared with
    assert sweep.runs[0].axes == {"values": "advantage", "signals": "agent-trust-critic"}
    assert {r.env for r in sweep.runs} == {"HalfCheetah-v4", "Ant-v4", "Hopper-v4", "Walker2d-v4"}


def test_group_sizes_and_quick():
    sizes = plan_sweep("group-size").runs
    assert [r.axes for r in sizes] == [{"n_peers": n} for n in (2, 4, 8, 10)]
    for r in sizes:
        assert r.config.n_peers == r.axes["n_peers"] and r.resolved.steps == 600_000 and r.env == "Hopper-v4"
        advice = r.config.advice
        assert (advice.use_agent_values, advice.use_trust, advice.use_critic) == (True, True, True)
        assert not advice.use_advantage and r.config.replicas == 5
    quick = plan_sweep("quick").runs
    assert [(r.env, r.axes["sharing"]) for r in quick] == [
        ("Room-v6", "none"), ("Room-v6", "advice"), ("CartPole-v1", "none"), ("CartPole-v1", "advice"),
    ]  # fmt: skip
    assert all(r.config.advice.sharing == r.axes["sharing"] and r.config.replicas == 5 for r in quick)
    studies = ["attention-memory", "attention-settings", "attention-study"]
    assert sweep_names() == ["ablation", *studies, "group-size", "quick"]
    assert all(describe(name) and "\n" not in describe(name) for name in sweep_names())


@pytest.mark.parametrize("name", ["attention-study", "attention-memory"])
def test_networks_of_the_attention_studies_have_equal_numbers_of_parameters(name):
    by_env = {}
    for r in plan_sweep(name).runs:
        learner = r.config.learner
        assert (learner.algorithm, r.config.advice.sharing, r.config.replicas) == (("ppo",), "none", 10)
        by_env.setdefault(r.env, {})[r.axes["net"]] = parameter_count(r.config)
    assert len(by_env) == (7 if name == "attention-study" else 3)
    for counts in by_env.values():
        assert list(counts)[:2] == ["mlp", "attention"]
        assert max(counts.values()) <= 1.05 * min(counts.values()), counts


def test_the_numbers_of_parameters_are_those_of_the_networks():
    common = {"env": "Pendulum-v1", "n_peers": 2, "net_arch": ((8,), (4, 4))}
    ppo = validate(with_settings(Config(), {**common, "algorithm": "ppo", "sharing": "none", "normalize_obs": True}))

    def mlp(*sizes):
        return sum(a * b + b for a, b in itertools.pairwise(sizes))

    assert parameter_count(ppo) == 2 * (mlp(3, 8, 1) + 1)  # actor and critic; each stores a log standard deviation
    assert parameter_count(ppo, 1) == 2 * (mlp(3, 4, 4, 1) + 1)
    td3 = validate(with_settings(Config(), {**common, "algorithm": "td3"}))
    assert parameter_count(td3) == mlp(3, 8, 1) + 2 * mlp(4, 8, 1)  # without target networks


# --- the format ---------------------------------------------------------------------------------------------


def test_settings_by_name_or_nested(tmp_path):
    nested = planned(tmp_path, TINY)[0].config
    flat = "common: {n_peers: 2, total_timesteps: 40, net_arch: [8], batch_size: 4, learning_starts: 8, train_freq: 4, "
    flat += "gradient_steps: 1, eval_freq: 20, log_freq: 20, n_eval_episodes: 1}\nenvironments: [Room-v6]\n"
    assert planned(tmp_path, flat)[0].config == nested
    assert nested.learner.net_arch == ((8,),) and nested.run.eval_freq == 20 and nested.threads == 1


def test_the_product_of_axes_and_seeds(tmp_path):
    text = TINY + """
axes:
  use_critic: [true, false]
  learning_rate: [1e-3, [5e-4, 0.002]]
  speeds:
    slow: {epsilon: 0.2, learner: {batch_size: 2}}
    fast: {}
seeds: [3, 5]
exclude:
  - {use_critic: false, speeds: fast}
  - {learning_rate: [1e-3], use_critic: true, speeds: slow}
replicas: 2
"""
    runs = planned(tmp_path, text)
    assert [r.name for r in runs] == [
        f"Room-v6_use_critic={critic}_learning_rate={lr}_{speeds}_seed{seed}"
        for seed in (3, 5)
        for critic, lr, speeds in [
            ("true", "0.001", "fast"),
            ("true", "0.0005,0.002", "slow"),
            ("true", "0.0005,0.002", "fast"),
            ("false", "0.001", "slow"),
            ("false", "0.0005,0.002", "slow"),
        ]
    ]
    second = runs[1]
    assert second.axes == {"use_critic": True, "learning_rate": [5e-4, 0.002], "speeds": "slow"} and second.seed == 3
    config = second.config
    assert (config.learner.learning_rate, config.learner.batch_size) == ((5e-4, 0.002), (2,))
    assert (config.advice.use_critic, config.advice.epsilon, config.seed, config.replicas) == (True, 0.2, 3, 2)
    assert runs[2].config.learner.batch_size == (4,) and runs[2].config.advice.epsilon is None
    assert (config.run.exp_name, config.run.log_dir) == (second.name, str(tmp_path / "runs"))


def test_bases_and_overrides(tmp_path):
    (tmp_path / "mine-small.yaml").write_text("env: Room-v6\nn_peers: 2\nenv_args: {goals: left}\nseed: 7\n")
    (tmp_path / "mine-large.yaml").write_text("env: Room-v21\nn_peers: 3\nn_epochs: 2\n")
    text = "base: mine-{environment}.yaml\nenvironments: {small: {gamma: 0.5}, large: {env_args: {goals: right}}}\n"
    text += "axes: {size: {any: {}, more: {env_args: {change_at: 9, change: {goals: left}}}}}\n"
    text += "common: {total_timesteps: 40, learning_starts: 8}\n"
    runs = {r.name: r for r in planned(tmp_path, text)}
    assert list(runs) == ["small_any_seed7", "small_more_seed7", "large_any_seed0", "large_more_seed0"]
    more = runs["small_more_seed7"].config
    assert more.env_args == {"goals": "left", "change_at": 9, "change": {"goals": "left"}}
    assert more.learner.gamma == (0.5,) and more.n_peers == 2 and more.steps == 40
    assert runs["large_any_seed0"].config.n_peers == 3
    sweep = plan_sweep(write(tmp_path, text), settings={"n_epochs": 5, "gamma": (0.9,)})  # like flags
    assert {r.config.steps for r in sweep.runs} == {5000} and {r.config.learner.gamma for r in sweep.runs} == {(0.9,)}
    assert parse(sweep.manifest(), "")["asked"]["overrides"] == {"n_epochs": 5, "gamma": [0.9]}


def test_environments_with_the_same_id_have_names(tmp_path):
    text = "environments: {left: {env: Room-v6, env_args: {goals: left}}, all: {env: Room-v6}, other: {env: Room-v21}}"
    assert [r.env for r in planned(tmp_path, text)] == ["left", "all", "Room-v21"]


WRONG = {
    "axis: {n_peers: [2]}": "unknown key 'axis' (did you mean 'axes'?)",
    "n_peers: 2": "unknown key 'n_peers' (settings belong under `common`: `n_peers: ...`)",
    "common: {n_pears: 2}": "common: 'n_pears' is not a setting (did you mean 'n_peers'?)",
    "common: {learner: {n_peers: 2}}": "common: unknown setting 'learner.n_peers'",
    "common: {gamma: 1, learner: {gamma: 1}}": "common: gamma is given twice",
    "common: {n_peers: two}": "common.n_peers: expected a whole number, got 'two'",
    "common: {n_peers: 100}": "--n-peers must be in [1, 64], got 100",
    "common: [1]": "common: expected settings, got [1]",
    "common: {seed: 1}": "common: seed cannot be set here: `seeds` lists the seeds",
    "common: {run: {overwrite: true}}": "overwrite cannot be set here",
    "axes: {exp_name: [a]}": "runs are named after the axes",
    "axes: {log_dir: [a]}": "`where` sets the folder of the runs",
    "axes: {seed: [1]}": "axes.seed: `seeds` lists them",
    "axes: {env: [Room-v6]}": "axes.env: `environments` lists them",
    "axes: {learning_rat: [1]}": "'learning_rat' is not a setting or a name in the braces of `base` (did you mean",
    "axes: {learning_rate: 1}": "axes.learning_rate: expected a list of values",
    "axes: {learning_rate: []}": "axes.learning_rate: is empty",
    "axes: {learning_rate: [1e-3, 0.001]}": "axes.learning_rate: learning_rate=0.001 is given twice",
    "axes: {learning_rate: [low]}": "axes.learning_rate: expected a number, got 'low'",
    "axes: {sharing: [advise]}": "expected one of advice, none, got 'advise' (did you mean 'advice'?)",
    "axes: {env_args: [{goals: left}]}": "axes.env_args: give each a name",
    "axes: {a: {x: {gamma: 1}}, b: {y: {gamma: 1}}}": "axes.b and a both set gamma",
    "axes: {a: {x: {gama: 1}}}": "axes.a.x: 'gama' is not a setting (did you mean 'gamma'?)",
    "axes: {a: {1: {}}}": "axes.a: a name must be text, got 1",
    "axes: {gamma: [0.9]}\nenvironments: {x: {gamma: 1}}": "axes.gamma and environments both set gamma",
    "axes: [a]": "axes: expected names with their values",
    "environments: Room-v6": "environments: expected a list of ids",
    "environments: [Room-v6, Room-v6]": "environments: Room-v6 is given twice",
    "environments: [Rom-v6]": "unknown environment 'Rom-v6' (did you mean 'Room-v6'?)",
    "environments: []": "environments: is empty",
    "base: peer-hoper": "base: neither a file nor a preset: 'peer-hoper' (did you mean 'peer-hopper'?)",
    "base: peer-{env}\nenvironments: [hopper]": "base: {env} is not an axis",
    "base: peer-{environmen}\nenvironments: [hopper]": "{environmen} is not an axis (did you mean 'environment'?)",
    "base: {setting}-hopper": "line 2: expected <block end>, but found '<scalar>'",
    "base: peer-{x}\naxes: {x: [1.5]}": "axes.x: expected words or whole numbers",
    "seeds: 3": "seeds: expected a list of whole numbers, got 3",
    "seeds: [1, 1]": "seeds: expected different numbers of at least 0",
    "seeds: [-1]": "seeds: expected different numbers of at least 0",
    "seeds: [true]": "seeds: expected a whole number, got True",
    "replicas: 1.5": "replicas: expected a whole number",
    "replicas: 2\ncommon: {replicas: 3}": "replicas are given here and in `common`",
    "exclude: {sharing: none}": "exclude: expected a list of combinations",
    "exclude: [{sharin: none}]\naxes: {sharing: [none]}": "there is no axis 'sharin' (did you mean 'sharing'?)",
    "exclude: [{sharing: non}]\naxes: {sharing: [none]}": "exclude.sharing: 'non' is not one of the values",
    "exclude: [{sharing: none}]\naxes: {sharing: [none]}": "exclude: no combination is left",
    "axes: {sharing: [advice, none], use_critic: [true, false]}": "are the same training; remove one with `exclude`",
    "axes: {trust: [td, in-context], context_length: [50, 60]}": "are the same training",
    "axes: {a: {x: {}, X: {gamma: 0.5}}}": "two runs would have the name Room-v6_X_seed0",
    "name: ../elsewhere": "name: '../elsewhere' is not a valid folder name",
    "common: {perturb: {gravity: 3}}": "Room-v6_seed0: there is no perturbation 'gravity'",
    "name: [a]": "name: expected text, got ['a']",
    "where: ''": "where: expected text",
    'where: "a\\0b"': "where: expected text",
    "title: {a: 1}": "title: expected text",
    "name: !!python/object:os.system x": "tags and aliases are not supported",
    "common: &a {gamma: 1}\naxes: {x: {b: *a}}": "tags and aliases are not supported",
    "common: {}\ncommon: {}": "duplicate key 'common'",
    "[1, 2]": "expected a mapping with name, title, base, where",
    "axes: " + "[" * 3000 + "]" * 3000: "nested too deeply",
    "axes: {" + ", ".join(f"x{k}: {{a: {{}}, b: {{}}}}" for k in range(40)) + "}": "runs are too many: at most 10,000",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:50].replace("\n", " "))
def test_wrong_files(tmp_path, text):
    env = "" if "environments" in text or text.startswith("[") else "environments: [Room-v6]\n"
    with pytest.raises(UserError) as error:
        planned(tmp_path, text if text.startswith("[") else env + text)
    assert WRONG[text] in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "tiny.yaml")) and not (tmp_path / "runs").exists()


def test_wrong_names(tmp_path):
    with pytest.raises(UserError, match=r"neither a file nor a built-in sweep: 'quik' \(did you mean 'quick'\?\)"):
        plan_sweep("quik")
    with pytest.raises(UserError, match="neither a file nor a built-in sweep"):
        plan_sweep(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        plan_sweep(str(tmp_path / "binary.yaml"))
    with pytest.raises(UserError, match="larger than"):
        plan_sweep(write(tmp_path, "#" * 1_000_001))
    with pytest.raises(UserError, match=r"axes\.gamma sets gamma"):
        plan_sweep(write(tmp_path, "axes: {gamma: [0.5]}"), settings={"gamma": 0.9})
    with pytest.raises(UserError, match=r"axes\.learning_rate sets learning_rate: remove --learning-rate"):
        plan_sweep(write(tmp_path, "axes: {learning_rate: [0.5]}"), settings={"learning_rate": 0.9})
    with pytest.raises(UserError, match="`environments` lists the environments: remove --env"):
        plan_sweep("quick", settings={"env": "Room-v21"})
    without = write(tmp_path, "axes: {gamma: [0.5]}")
    assert [r.name for r in plan_sweep(without, settings={"env": "Room-v6"}).runs] == ["Room-v6_gamma=0.5_seed0"]
    with pytest.raises(UserError, match="overrides: exp_name cannot be set here"):
        plan_sweep("quick", settings={"exp_name": "x"})


def test_names_are_valid_unique_and_stable(tmp_path):
    odd = ["a/b", "a:b", "../../x", "ä", "x" * 300, "sp ace", "-rf"]
    text = "environments: [Room-v6]\naxes:\n  odd:\n" + "".join(
        f"    {json.dumps(name, ensure_ascii=False)}: {{gamma: {0.1 + k / 100:.2f}}}\n" for k, name in enumerate(odd)
    )
    names = [r.name for r in planned(tmp_path, text)]
    assert len(set(names)) == len(odd) and all(len(name) < 160 for name in names)
    for name in names:
        RunFolder.plan(tmp_path / "runs", name, name)  # raises for an invalid name of a folder
        assert not set(name) & set('/\\:*?"<>| ') and name.startswith("Room-v6_")
    shorter = "environments: [Room-v6]\naxes: {odd: {'a:b': {gamma: 0.5}}}"
    assert planned(tmp_path, shorter)[0].name == names[1]  # independent of the other runs


def test_the_documentation_s_file_makes_the_documentation_s_folders(tmp_path):
    blocks = (ROOT / "docs" / "sweeps.md").read_text().split("```")[1::2]
    file = next(block for block in blocks if "exclude:" in block).removeprefix("yaml\n")
    tree = next(block for block in blocks if "experiments/mine/" in block).split()
    sweep = plan_sweep(write(tmp_path, file, "mine"))
    assert [f"{sweep.where}/", "sweep.yaml", *(f"{r.name}/" for r in sweep.runs)] == tree


# --- states and expected times ------------------------------------------------------------------------------


def pretend(folder: Path, config, rows: str, cpu: str | None = None) -> None:
    """An artificial run folder with `rows` of timing.csv."""
    made = RunFolder.create(folder.parent, folder.name, folder.name, to_dict(config))
    made.unlock()
    (folder / "timing.csv").write_text("step,seconds,member_steps_per_second\n" + rows)
    (folder / "environment.json").write_text(json.dumps({"hardware": {"cpu": cpu or cpu_model()}}))


def test_seconds_of_a_run(tmp_path):
    (tmp_path / "timing.csv").write_text(
        "step,seconds,member_steps_per_second\n100,5.0,1\n200,9.0,1\n300,2.5,1\n400,6.0,1\n500,7."
    )
    # Resumed after 200; the last line is incomplete
    assert timing(tmp_path) == [(100, 5.0), (200, 9.0), (300, 9.0 + 2.5), (400, 9.0 + 6.0)]
    assert completed_steps(tmp_path) == 400
    assert timing(tmp_path / "nowhere") == [] and completed_steps(tmp_path / "nowhere") == 0


def test_seconds_of_a_run_with_lost_rows(tmp_path):
    (tmp_path / "timing.csv").write_text(
        "step,seconds,member_steps_per_second\n100,5.0,1\n200,9.0,1\n400,20.0,1\n500,24.0,1\n600,30.0,1\n"
    )
    # 400 is from another process than 200, and its 20 seconds are all its own; the third process began after 500. One
    # had begun after 450 before, from where nothing is left: the one that began after 200 had an older checkpoint
    resumed = [{"step": step} for step in (450, 200, 500)] + ["odd", {"step": None}]
    (tmp_path / "environment.json").write_text(json.dumps({"resumed": resumed}))
    assert timing(tmp_path) == [(100, 5.0), (200, 9.0), (400, 29.0), (500, 33.0), (600, 63.0)]


def test_total_duration():
    assert total_duration([4, 3, 2, 1], 1) == 10
    assert total_duration([4, 3, 2, 1], 2) == 5  # 4 + 1 and 3 + 2 at the same time
    assert total_duration([1, 1, 5], 2) == 6 and total_duration([], 3) == 0


def test_dry_run(tmp_path, capsys):
    text = TINY.replace("total_timesteps: 40", "total_timesteps: 2000")
    text += "axes: {sharing: [advice, none]}\nseeds: [0, 1]\n"
    source, where = write(tmp_path, text), tmp_path / "runs"
    before = files(tmp_path)
    assert run(source, dry_run=True, log_dir=str(where), jobs=1) == 0
    assert files(tmp_path) == before
    out = capsys.readouterr().out
    assert out.count("train ") == 4 and out.count("unknown: use --measure") == 4 and "about" not in out
    assert "the time of 4 runs is unknown" in out and "4 runs: 4 to train; 1 at the same time" in out

    runs = plan_sweep(source, log_dir=str(where)).runs
    pretend(where / runs[0].name, runs[0].resolved, "500,10.0,1\n1000,50.0,1\n")  # advice, seed 0: half of it
    before = files(tmp_path)
    assert run(source, dry_run=True, log_dir=str(where), jobs=1) == 0
    assert files(tmp_path) == before
    lines = capsys.readouterr().out.splitlines()
    unfinished = "from 1 unfinished run of this kind"
    assert lines[1].split(maxsplit=3)[1:] == ["resume", "2,000", f"from 50%; about 0:00:50, {unfinished}"]
    assert lines[3].split(maxsplit=3)[3] == f"about 0:01:40, {unfinished}"  # advice, seed 1: 2,000 x 50 / 1,000 s
    assert lines[2].endswith("unknown: use --measure") and lines[4].endswith("unknown: use --measure")
    assert lines[-1] == "training time: at least about 0:02:30"

    pretend(tmp_path / "beside", runs[1].resolved, "100,1.0,1\n")  # none: 0.01 s
    (tmp_path / "beside" / "DONE").write_text("{}")
    pretend(tmp_path / "other-machine", runs[1].resolved, "100,999.0,1\n", cpu="Z80")
    often = replace(runs[1].resolved, run=replace(runs[1].resolved.run, eval_freq=1))
    pretend(tmp_path / "other-kind", often, "100,999.0,1\n")
    assert run(source, dry_run=True, log_dir=str(where), jobs=1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("about 0:00:20, from 1 finished run of this kind")
    assert lines[-1] == "training time: about 0:03:10"


def test_the_expected_time_of_runs_of_another_size(tmp_path, capsys):
    """Runs with other numbers of members and replicas and other evaluations, also of another sweep, have been timed."""
    source = write(tmp_path, TINY + "axes: {batch_size: [4, 6]}\nreplicas: 2\n")
    runs = plan_sweep(source, log_dir=str(tmp_path / "runs")).runs
    dqn = runs[0].resolved
    small = replace(dqn, n_peers=1, replicas=1, run=replace(dqn.run, eval_freq=7))
    pretend(tmp_path / "other-sweep" / "small", small, "100,10.0,1\n")  # 0.1 s for a step of a member
    assert run(source, dry_run=True, log_dir=str(tmp_path / "runs"), jobs=1) == 0
    lines = capsys.readouterr().out.splitlines()
    seconds = 0.1 * dqn.steps * dqn.n_peers * dqn.replicas
    assert lines[1].endswith(f"about {duration(seconds)}, from 1 unfinished run of another size")
    assert lines[2].endswith("unknown: use --measure")
    speeds = Speeds()
    speeds.add_run(small, tmp_path / "other-sweep" / "small")
    assert not speeds.known(dqn)  # --measure still times it
    wide = replace(dqn, learner=replace(dqn.learner, net_arch=((256, 256),)))
    assert speeds.remaining_seconds(wide, 0) is None and speeds.basis(wide) == ""


def test_the_basis_of_an_estimate(tmp_path):
    first = planned(tmp_path, TINY + "replicas: 2\n")[0].resolved
    config = replace(first, learner=replace(first.learner, learning_starts=(8, 100)), total_timesteps=1000)
    speeds, names = Speeds(), ("random", "early", "later")
    assert speeds.remaining_seconds(config, 0) is None and speeds.basis(config) == ""
    speeds.add_measurement(config, 300, {"step": 0.5, "evaluation": 2.0})
    assert speeds.remaining_seconds(config, 0) == 500 + 51 * 2 and speeds.basis(config) == "from 300 timed steps"
    rows = ("50,1.0,1\n100,2.0,1\n", "50,1.0,1\n100,2.0,1\n200,12.0,1\n", "200,70.0,1\n")
    for name, text in zip(names, rows):
        pretend(tmp_path / name, config, text)
        speeds.add_run(config, tmp_path / name)
        if name == "random":  # learning has not begun, so it does not count
            assert speeds.basis(config) == "from 300 timed steps"
    # 100 steps in 10 s and 200 in 70 s; the first row of the last one is after learning has begun
    assert speeds.remaining_seconds(config, 400) == pytest.approx(600 * 80 / 300)
    (tmp_path / "later" / "DONE").write_text("{}")
    speeds.add_run(config, tmp_path / "later")
    assert speeds.basis(config) == "from 1 finished and 1 unfinished runs of this kind"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_next_to_a_sweep_is_not_read(tmp_path):
    """Reading it would block."""
    odd, opened = tmp_path / "odd", []
    odd.mkdir()
    (odd / "timing.csv").write_text("")
    os.mkfifo(odd / "config.yaml")

    def write_nothing() -> None:
        os.close(os.open(odd / "config.yaml", os.O_WRONLY))  # ends a blocked reader
        opened.append(True)

    thread = threading.Thread(target=write_nothing)
    thread.start()
    try:
        assert run(write(tmp_path, TINY), dry_run=True, log_dir=str(tmp_path / "runs")) == 0
        assert not opened
    finally:
        reader = os.open(odd / "config.yaml", os.O_RDONLY | os.O_NONBLOCK)
        thread.join()
        os.close(reader)


def test_progress_lines(tmp_path):
    source, where = write(tmp_path, TINY + "axes: {sharing: [advice, none]}\nseeds: [0, 1]\n"), tmp_path / "runs"
    sweep = plan_sweep(source, log_dir=str(where))
    first, second = sweep.runs[:2]
    states = {run.name: inspect_run(run, sweep.folder(run)) for run in sweep.runs}
    driver = _Driver(sweep, states, Here(), Progress(1), [])
    driver.running = {first.name: (first, 0.0), second.name: (second, 0.0)}
    driver.waiting = list(sweep.runs[2:])
    pretend(where / first.name, first.resolved, "20,30.0,1\n")
    pretend(where / second.name, second.resolved, "")
    assert driver._lines() == [
        f"{first.name}: 50%; time left: about 0:00:30, from 1 unfinished run of this kind",
        f"{second.name}: 0%; time left: unknown",
        "0 of 4 runs done, at least 0:01:30 left",  # the rest of the first run and one complete run
    ]


def test_a_dry_run_merges_gymnasiums_warnings():
    words = [sys.executable, "-m", "peerage", "sweep", "group-size", "--dry-run"]
    said = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert (said.returncode, said.stderr) == (0, "") and said.stdout.count("Hopper-v4:") == 1
    about = "Gymnasium has newer versions of Hopper-v4: results of different versions are not comparable"
    assert said.stdout.splitlines()[0] == about


def test_measuring(tmp_path, capsys):
    source = write(tmp_path, TINY + "seeds: [0, 1]\n")
    before = files(tmp_path)
    assert run(source, dry_run=True, measure=True, log_dir=str(tmp_path / "runs")) == 0
    assert files(tmp_path) == before
    out = capsys.readouterr().out
    assert out.count("timing 300 steps") == 1 and "unknown" not in out  # both seeds are of one kind
    assert out.count(", from 300 timed steps\n") == 2
    assert out.splitlines()[-1].startswith("training time: about 0:00:0")


def test_differences(tmp_path):
    first = planned(tmp_path, TINY)[0]
    folder = tmp_path / "runs" / first.name
    assert inspect_run(first, folder).status == "train"
    there = replace(first.resolved, device="cpu", run=replace(first.resolved.run, checkpoint_freq=1, verbose=2))
    pretend(folder, there, "20,1.0,1\n")
    state = inspect_run(first, folder)
    assert (state.status, state.step) == ("resume", 20)  # the settings that differ do not change the training
    (folder / "DONE").write_text("{}")
    assert inspect_run(first, folder).status == "done"
    (folder / "DONE").rename(folder / "STOPPED")  # by a callback
    assert inspect_run(first, folder).status == "done"
    (folder / "STOPPED").rename(folder / "DONE")
    (folder / "DONE").write_text('{"step": 20}')  # killed just after it was extended from 20 steps
    assert inspect_run(first, folder).status == "resume"
    (folder / "DONE").write_text("{}")
    RunFolder(folder).write_config(to_dict(replace(there, n_peers=3, seed=9)))
    state = inspect_run(first, folder)
    assert state.status == "differs"
    assert state.detail == "n_peers is 3 there and 2 in the sweep; seed is 9 there and 0 in the sweep"
    (folder / "config.yaml").write_text("learner: {gama: 1}")
    assert inspect_run(first, folder).status == "differs" and "gama" in inspect_run(first, folder).detail
    (folder / "config.yaml").unlink()
    assert inspect_run(first, folder).status == "differs" and "is not a run" in inspect_run(first, folder).detail


def test_runs_of_earlier_versions_belong_to_a_sweep(tmp_path):
    """Their config.yaml lacks the settings that are new. These have the defaults of the members' learners."""
    learner = "learner: {algorithm: [sac, td3], learning_starts: 8}\nenvironments: [Pendulum-v1]\n"
    for text in (TINY, f"common:\n  n_peers: 2\n  total_timesteps: 40\n  {learner}"):
        (first,) = planned(tmp_path, text)
        folder = tmp_path / "runs" / first.name
        pretend(folder, first.resolved, "20,1.0,1\n")
        config = RunFolder(folder).config()
        new = [("learner", name) for name in ("init_from", "normalize_obs", "normalize_reward", "tau", "action_noise")]
        for part, name in (*new, ("run", "eval_starts"), ("run", "max_eval_steps"), ("run", "callback")):
            del config[part][name]
        RunFolder(folder).write_config(config)
        found = RunFolder(folder).resolved()
        assert found.learner == first.resolved.learner and found.run.eval_starts == "shared"
        assert (inspect_run(first, folder).status, inspect_run(first, folder).detail) == ("resume", "")
        # Start states that config.yaml names are another setting
        config["run"]["eval_starts"] = "shared"
        RunFolder(folder).write_config(config)
        assert inspect_run(first, folder).detail == "run.eval_starts is 'shared' there and 'by-replica' in the sweep"


def test_slots():
    here = len(cores())
    assert _slots(None, 1) == (here, "") and _slots(1, 1) == (1, "") and _slots(None, here) == (1, "")
    assert _slots(None, here + 1) == (1, "")
    most, note = _slots(here + 5, 1)
    assert most == here and f"--jobs {here + 5} is more than" in note
    with pytest.raises(UserError, match="--jobs must be at least 1"):
        _slots(0, 1)


# --- real sweeps --------------------------------------------------------------------------------------------


def test_an_axis_has_the_public_name_of_a_setting(tmp_path):
    source = write(tmp_path, TINY + "axes: {trust_lr: [0.1, 0.5]}\n")
    runs = plan_sweep(source).runs
    assert [(run.axes, run.config.advice.lr) for run in runs] == [({"trust_lr": 0.1}, 0.1), ({"trust_lr": 0.5}, 0.5)]
    with pytest.raises(UserError, match=r"axes.trust_lr sets lr: remove --trust-lr"):
        plan_sweep(source, settings={"lr": 0.3})


def test_only_missing_runs_are_trained(tmp_path, capsys, one_thread, unreported):
    where = tmp_path / "runs"
    text = TINY + "name: kept\naxes: {gamma: [0.9, 0.8]}\n"
    here = Here()
    assert run(write(tmp_path, text), log_dir=str(where), launcher=here) == 0
    names = [f"Room-v6_gamma={gamma}_seed0" for gamma in (0.9, 0.8)]
    assert [task.name for task in here.tasks] == names
    manifest = parse((where / "sweep.yaml").read_text(), "sweep.yaml")
    assert manifest["name"] == "kept" and manifest["asked"] == parse(text, "")
    assert manifest["runs"] == [
        {"folder": names[0], "env": "Room-v6", "axes": {"gamma": 0.9}, "seed": 0},
        {"folder": names[1], "env": "Room-v6", "axes": {"gamma": 0.8}, "seed": 0},
    ]
    for name in names:
        config = from_dict(RunFolder.open(where / name).config())
        assert RunFolder(where / name).status()[0] == "DONE" and config.threads == 1
        assert (where / name / "command.txt").read_text().startswith("peerage sweep ")
    assert "all 2 runs are done" in capsys.readouterr().out

    before = {name: files(where / name) for name in names}
    wider = text.replace("[0.9, 0.8]", "[0.9, 0.7, 0.8]")
    again = Here()
    assert run(write(tmp_path, wider), log_dir=str(where), verbose=0, launcher=again) == 0
    assert [task.name for task in again.tasks] == ["Room-v6_gamma=0.7_seed0"]
    assert {name: files(where / name) for name in names} == before
    assert capsys.readouterr() == ("", "")

    longer = wider.replace("total_timesteps: 40", "total_timesteps: 60")
    trained = files(where)
    source, grown, words = write(tmp_path, longer), Here(), ["--log-dir", str(where)]
    for more in ([], ["--dry-run"], ["--dry-run", "--json"]):  # once, before anything runs
        assert main(["sweep", source, *words, *more]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith(f"peerage: 3 runs would be extended, such as {names[0]} from 40 ")
        assert "to 60 steps" in said.err and "exploration decays over 0.1 of the steps" in said.err
        assert "--stretch-schedules" in said.err and said.err.count("\n") == 1
    assert files(where) == trained
    run(source, log_dir=str(where), dry_run=True, stretch_schedules=True)
    assert "resume               60  from 67%; extended from 40 steps" in capsys.readouterr().out
    assert run(source, log_dir=str(where), verbose=0, launcher=grown, stretch_schedules=True) == 0
    assert all(task.resume for task in grown.tasks) and len(grown.tasks) == 3
    assert completed_steps(where / names[0]) == 60 and RunFolder(where / names[0]).status()[1]["step"] == 60
    shorter = text.replace("total_timesteps: 40", "total_timesteps: 20")
    assert run(write(tmp_path, shorter), log_dir=str(where), verbose=0, launcher=Here()) == 1
    assert "left unchanged: total_timesteps is 60 there and 20 in the sweep" in capsys.readouterr().err
    with pytest.raises(UserError, match="contains the sweep 'kept': use another `where` or --log-dir"):
        run(write(tmp_path, text.replace("kept", "other")), log_dir=str(where))
    with pytest.raises(UserError, match="--measure needs --dry-run"):
        run(write(tmp_path, text), log_dir=str(where), measure=True)
    with pytest.raises(UserError, match="is a run, and a sweep needs its own folder"):
        run(write(tmp_path, text), log_dir=str(where / names[0]))


def test_missing_replicas_are_separate_runs(tmp_path, capsys, one_thread, unreported):
    """They are pooled with the others. A second growth adds only what the first one did not."""
    where, name = tmp_path / "runs", "Room-v6_gamma=0.9_seed0"
    text = TINY + "axes: {gamma: [0.9]}\nreplicas: N\n"

    def trained(replicas: int) -> list[str]:
        here = Here()
        source = write(tmp_path, text.replace("N", str(replicas)))
        assert run(source, log_dir=str(where), verbose=0, launcher=here) == 0
        return [task.name for task in here.tasks]

    assert trained(2) == [name]
    before = files(where / name)
    run(write(tmp_path, text.replace("N", "3")), log_dir=str(where), dry_run=True)
    assert f"{name} has 2 of 3 replicas: {name}_replicas2-2 has the others" in capsys.readouterr().out
    assert trained(3) == [f"{name}_replicas2-2"] and trained(3) == []
    assert trained(5) == [f"{name}_replicas3-4"] and trained(5) == []
    assert files(where / name) == before
    [side], _ = read_sides(find_runs([str(where)]))
    assert side.seeds == ((0, 0), (0, 1), (2 * 1_000_003, 0), (3 * 1_000_003, 0), (3 * 1_000_003, 1))
    learned = [read_metrics(where / folder) for folder in (name, f"{name}_replicas2-2", f"{name}_replicas3-4")]
    q = [m[(m["name"] == "q/mean") & (m["member"] == "member-0") & (m["step"] == 40)]["value"] for m in learned]
    assert len({value for some in q for value in some}) == 5
    assert load(where / f"{name}_replicas3-4").n_peers == 2


def test_equal_trainings_are_named(tmp_path):
    text = TINY + "axes: {buffer_size: [30, 40, 1000, 5000], gamma: [0.9, 0.8]}\n"
    sweep = plan_sweep(write(tmp_path, text), log_dir=str(tmp_path / "runs"))
    assert sweep.notes == (
        "Room-v6_buffer_size=40_gamma=0.9_seed0 and Room-v6_buffer_size=1000_gamma=0.9_seed0 are the same training "
        "(3 more pairs): buffer_size cannot be more than the 40 steps of a run; remove one value",
    )
    text = TINY.replace("learning_starts: 8", "learning_starts: 40")
    with pytest.raises(UserError, match="no member would learn in 40 steps"):
        planned(tmp_path, text)


@pytest.mark.long
def test_a_failing_run(tmp_path, capsys):
    """In parallel processes."""
    good = TINY + "axes: {who: {bad: {load_paths: [TMP/absent.zip, none]}, good: {}}}\n".replace("TMP", str(tmp_path))
    where = tmp_path / "runs"
    assert run(write(tmp_path, good), log_dir=str(where), jobs=min(2, len(cores()))) == 1
    out = capsys.readouterr().out
    assert "Room-v6_bad_seed0: failed: " in out and "absent.zip" in out and "Room-v6_good_seed0: done in" in out
    assert "1 of 2 runs are done, 1 is not" in out
    assert RunFolder(where / "Room-v6_good_seed0").status()[0] == "DONE" and not (where / "Room-v6_bad_seed0").exists()
    assert (where / "Room-v6_good_seed0" / "report.html").exists()


def test_two_sweeps_and_two_trainings_of_one_folder(tmp_path, capsys, one_thread, unreported):
    source, where = write(tmp_path, TINY), tmp_path / "runs"
    where.mkdir()
    with RunFolder(where), pytest.raises(UserError, match="is being trained by process"):
        run(source, log_dir=str(where), launcher=Here())
    only = plan_sweep(source, log_dir=str(where)).runs[0]
    folder = where / only.name
    pretend(folder, only.resolved, "")
    held = RunFolder(folder)
    held.lock()
    state = inspect_run(only, folder)
    assert state.status == "elsewhere" and f"process {os.getpid()} " in state.detail

    class UnlockedLater(Here):
        """The other training ends at the third poll."""

        polls = 0

        def poll(self) -> list[Ended]:
            self.polls += 1
            if self.polls == 3:
                assert not self.tasks  # the sweep has waited
                held.unlock()
            return super().poll()

    here = UnlockedLater()
    assert run(source, log_dir=str(where), launcher=here) == 0
    assert len(here.tasks) == 1 and here.tasks[0].resume
    assert "1 run: 1 trained by another process" in capsys.readouterr().out


def test_ctrl_c_while_planning(tmp_path, capsys):
    """Before any worker runs and signals are handled."""
    where, main = tmp_path / "runs", threading.get_ident()
    where.mkdir()
    (where / "sweep.yaml").write_text("name: other")  # trains nothing even if the signal is missed
    asked = ["sweep", write(tmp_path, f"{TINY}seeds: {list(range(500))}"), "--log-dir", str(where)]

    def interrupt() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            frame = sys._current_frames()[main]
            while frame is not None and frame.f_code.co_name != "plan_sweep":
                frame = frame.f_back
            if frame is not None:
                return os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.main(asked) == 130
    thread.join()
    assert capsys.readouterr().err == f"peerage: interrupted; `{shlex.join(['peerage', *asked])}` continues\n"


def test_a_sweep_with_a_closed_output(tmp_path, monkeypatch, capsys, one_thread, unreported):
    """`| head -1`: everything is trained, and errors are printed on stderr."""
    text, (read, written) = TINY + "axes: {gamma: [0.9, 0.8]}\n", os.pipe()
    where = tmp_path / "runs"
    other = plan_sweep(write(tmp_path, text), log_dir=str(where)).runs[0]
    pretend(where / other.name, replace(other.resolved, seed=7), "")
    os.close(read)
    with os.fdopen(written, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        with pytest.raises(BrokenPipeError):
            print("x", flush=True)
        assert run(write(tmp_path, text), log_dir=str(where), launcher=Here()) == 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), written)  # as `peerage` does, before Python flushes it
    assert RunFolder(where / "Room-v6_gamma=0.8_seed0").status()[0] == "DONE"
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{other.name}: differs from the sweep") and said[-1].startswith("1 of 2 runs are done")


LONG = """
name: long
common:
  n_peers: 2
  learner: {net_arch: [16], batch_size: 8, learning_starts: 20, train_freq: 4, gradient_steps: 1}
  run: {eval_freq: 500, log_freq: 50, n_eval_episodes: 1, checkpoint_freq: 50}
environments: [Room-v6]
axes:
  which:
    first: {total_timesteps: 40}
    second: {total_timesteps: 900}
    third: {total_timesteps: 60}
"""


def begin(source: str, where: Path, output: Any = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    code = f"from peerage.sweeps.drive import run\nraise SystemExit(run({source!r}, log_dir={str(where)!r}, jobs=1))"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=output, stderr=subprocess.STDOUT,
        start_new_session=True, env={**os.environ, **environment},
    )  # fmt: skip


def wait_for(folder: Path, step: int) -> int:
    """Wait until a run has a checkpoint of this step or a later one; returns the process that trains it."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        steps = [int(path.name[5:]) for path in folder.glob("checkpoints/step_*")]
        if steps and max(steps) >= step:
            assert not (folder / "DONE").exists(), "too late to interrupt it"
            return int((folder / ".lock").read_text().split()[1])
        time.sleep(0.002)
    raise AssertionError(f"{folder} has not reached step {step}")


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups")
def test_a_killed_sweep_is_continued(tmp_path, capsys, one_thread, unreported):
    """Three runs in sequence, the first done. The second is killed with the sweep (SIGKILL), then its sweep is killed,
    then it gets SIGTERM. A last call finishes it and trains the third. The results are those of an uninterrupted sweep,
    and the first run is not changed."""
    where, whole = tmp_path / "killed", tmp_path / "whole"
    first, second, third = (where / f"Room-v6_{name}_seed0" for name in ("first", "second", "third"))
    alone = write(tmp_path, LONG + "exclude: [{which: [second, third]}]\n", "alone")
    assert run(alone, log_dir=str(where), verbose=0, launcher=Here()) == 0
    source, before = write(tmp_path, LONG), files(first)

    sweep = begin(source, where)
    worker = wait_for(second, 100)
    assert worker != sweep.pid
    if sys.platform == "linux":
        assert b"OMP_NUM_THREADS=1\0" in Path(f"/proc/{worker}/environ").read_bytes()
    os.killpg(sweep.pid, signal.SIGKILL)
    os.killpg(worker, signal.SIGKILL)
    assert sweep.wait(120) == -signal.SIGKILL
    assert not (second / "DONE").exists() and not third.exists()

    sweep = begin(source, where)
    sweep.stdout.close()  # `| head -1`
    wait_for(second, 250)
    os.killpg(sweep.pid, signal.SIGKILL)  # the worker, in its own session, writes a checkpoint
    sweep.wait(120)

    # Begun while the worker still runs, for which it waits. Workers that print on stderr, as warnings do, do no harm.
    # Into a file: the imports would fill a pipe that is not read.
    with (tmp_path / "output").open("w+") as output:
        sweep = begin(source, where, output, PYTHONPROFILEIMPORTTIME="1")
        wait_for(second, 400)
        os.killpg(sweep.pid, signal.SIGTERM)
        sweep.wait(120)
        output.seek(0)
        said = output.read()
    assert sweep.returncode == 128 + signal.SIGTERM
    assert f"SIGTERM: 1 of 3 runs are done; `peerage sweep {source} --log-dir {where}` continues" in said
    assert f"{second.name}: interrupted" in said and RunFolder(second).status()[0] == "FAILED"
    assert not third.exists()

    here = Here()
    assert run(source, log_dir=str(where), launcher=here) == 0
    said = capsys.readouterr().out
    assert "all 3 runs are done" in said and [task.name for task in here.tasks] == [second.name, third.name]
    assert "3 runs: 1 done, 1 to resume, 1 to train" in said and first.name not in said
    assert files(first) == before
    resumed = [entry["step"] for entry in RunFolder(second).environment()["resumed"]]
    assert len(resumed) == 3 and 100 <= resumed[0] <= 250 <= resumed[1] <= 400 <= resumed[2] < 900
    assert len((second / "command.txt").read_text().splitlines()) == 4
    assert "resumed" not in RunFolder(third).environment()

    alone = write(tmp_path, LONG + "exclude: [{which: [first, third]}]\n", "alone")
    assert run(alone, log_dir=str(whole), verbose=0, launcher=Here()) == 0
    mine = results(second)
    assert len(mine) == 4 and mine == results(whole / second.name)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups")
def test_ctrl_c_while_the_workers_start(tmp_path, unreported):
    """Before a worker handles signals, at different stages of its imports, with output on stderr. No run counts as
    failed, and nothing is left that would disturb the next call."""
    source, where = write(tmp_path, TINY), tmp_path / "runs"
    for pause in (0, 0.4):
        sweep = begin(source, where, PYTHONPROFILEIMPORTTIME="1")
        assert "Room-v6_seed0: started\n" in sweep.stdout
        time.sleep(pause)
        os.killpg(sweep.pid, signal.SIGINT)  # as Ctrl-C does
        lines = sweep.communicate(timeout=120)[0].splitlines()
        assert sweep.returncode == 128 + signal.SIGINT
        assert [line for line in lines if not line.startswith("import time:")] == [
            "SIGINT: 1 run to write a checkpoint; a second signal ends the sweep immediately",
            "Room-v6_seed0: interrupted",
            f"SIGINT: 0 of 1 runs are done; `peerage sweep {source} --log-dir {where}` continues",
        ]
        assert [path.name for path in where.iterdir() if not path.name.startswith(".")] == ["sweep.yaml"]
    assert run(source, log_dir=str(where), verbose=0, launcher=Here()) == 0


def test_a_worker_that_ctrl_c_ends(tmp_path, capsys):
    """Ctrl-C also reaches a worker that does not have its own session yet. The run does not count as failed."""

    class Keyboard(Here):
        def submit(self, task: Task) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            self._ended.append(Ended(task.name, -signal.SIGINT, "ended by signal 2"))

    assert run(write(tmp_path, TINY), log_dir=str(tmp_path / "runs"), launcher=Keyboard()) == 128 + signal.SIGINT
    said = capsys.readouterr().out
    assert "Room-v6_seed0: interrupted\n" in said and "failed" not in said


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups")
def test_a_second_signal_does_not_wait(tmp_path):
    """The worker is suspended, so that it cannot write its checkpoint."""
    source, where = write(tmp_path, LONG.replace("    first: {total_timesteps: 40}\n", "")), tmp_path / "runs"
    sweep = begin(source, where)
    worker = wait_for(where / "Room-v6_second_seed0", 100)
    os.kill(worker, signal.SIGSTOP)
    os.kill(sweep.pid, signal.SIGINT)
    time.sleep(0.5)
    assert sweep.poll() is None
    os.kill(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 128 + signal.SIGINT
    assert "SIGINT: 1 run to write a checkpoint; a second signal ends the sweep immediately" in said
    assert "not waiting for 1 checkpoint" in said
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_killed_worker(tmp_path):
    """A run whose worker is killed counts as failed, with a reason."""
    first = planned(tmp_path, TINY)[0]
    launcher = LocalLauncher(1, 1)
    launcher.submit(Task(first.name, str(tmp_path / "runs" / first.name), to_dict(first.config), False, 1))
    os.kill(launcher._running[0].popen.pid, signal.SIGKILL)
    while not (ended := launcher.poll()):
        time.sleep(0.02)
    assert ended == [Ended(first.name, -signal.SIGKILL, "ended by signal 9")]
    launcher.close()


def test_an_unknown_adviser_is_refused_when_planning(tmp_path, capsys):
    """Without starting a process."""
    source = write(tmp_path, "name: s\ncommon: {advisers: [expert]}\nenvironments: [Room-v6, CartPole-v1]\n")
    assert cli.main(["sweep", str(source), "--log-dir", str(tmp_path / "runs")]) == 2
    assert "there is no expert for CartPole-v1" in capsys.readouterr().err and not (tmp_path / "runs").exists()
