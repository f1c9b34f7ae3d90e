"""What the environment of a run is: its name, its fingerprint, and the refusal of another one in its place."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch

import peerage
from peerage import session
from peerage.cli import main
from peerage.config import Config, LearnerConfig, RunConfig
from peerage.config.file import dump, to_dict
from peerage.config.plain_yaml import parse
from peerage.envs import trial
from peerage.envs.make import check_env_id, make_env
from peerage.envs.names import imported, recorded_name
from peerage.envs.trial import describe_space, described_space
from peerage.errors import UserError
from peerage.runs.callbacks import load_callbacks
from peerage.runs.environment import difference
from peerage.runs.folder import RunFolder
from peerage.runs.listeners import Listener
from peerage.runs.tables import read_evaluations
from peerage.sharing.advisers import make_adviser
from peerage.statistics.compare import compare
from peerage.statistics.formats import as_text

SOURCE = """
import gymnasium

def make_env(factor={factor}):
    env = gymnasium.make("Pendulum-v1", max_episode_steps=20)
    return gymnasium.wrappers.TransformReward(env, lambda reward: factor * reward)
"""


class Stop(Listener):
    """As Ctrl-C, once a row of metrics is that far."""

    def on_metrics(self, step, rows):
        if step >= 30:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The current folder is an empty one, and nothing draws reports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "write_report", lambda folder: folder)
    monkeypatch.setattr(sys, "path", list(sys.path))


def write_module(name: str, factor: float) -> None:
    """The module `name` in the current folder; a second call replaces it, as in a new process."""
    Path(f"{name}.py").write_text(SOURCE.format(factor=factor))
    sys.modules.pop(name, None)
    shutil.rmtree("__pycache__", ignore_errors=True)
    importlib.invalidate_caches()


def small(env: str = "Pendulum-v1", **changes) -> Config:
    learner = LearnerConfig(
        learning_starts=(10,), batch_size=(4,), net_arch=((4,),), train_freq=(4,), gradient_steps=(1,),
    )  # fmt: skip
    run = RunConfig(eval_freq=60, n_eval_episodes=1, log_freq=10, checkpoint_freq=20, verbose=0, log_dir=".")
    base = Config(env=env, n_peers=1, total_timesteps=60, learner=learner, run=run, threads=1)
    return replace(base, **changes)


def environment_of(run: str) -> dict:
    return json.loads(Path(run, "environment.json").read_text())


def config_of(run: str) -> dict:
    return parse(Path(run, "config.yaml").read_text(), run)


def returns(run: str) -> list[float]:
    return read_evaluations(Path(run))["return"].tolist()


# --- functions as environments -------------------------------------------------------------------------------


def test_a_function_of_a_module_is_used_by_every_command(capsys):
    write_module("scaled", 100.0)
    flags = ["--config", "scaled.yaml", "--verbose", "0"]
    Path("scaled.yaml").write_text(dump(small("scaled:make_env")))
    for name, listeners in (("whole", []), ("stopped", [Stop()])):
        try:
            peerage.train("scaled:make_env", config=small(), exp_name=name, listeners=listeners)
        except KeyboardInterrupt:
            assert name == "stopped"
    assert main(["train", *flags, "--exp-name", "flags"]) == 0
    assert main(["resume", "stopped", "--verbose", "0"]) == 0
    assert main(["train", "--config", "whole", "--exp-name", "again", "--verbose", "0"]) == 0
    for name in ("stopped", "flags", "again"):
        for table in ("evaluations.csv", "metrics.csv"):
            assert Path(name, table).read_bytes() == Path("whole", table).read_bytes(), (name, table)
        assert config_of(name)["env"] == "scaled:make_env"

    peerage.train(config=small(env_args={"max_episode_steps": 20}), exp_name="bare")
    assert returns("whole")[0] == pytest.approx(100 * returns("bare")[0])  # before learning
    evaluated = peerage.load("whole").evaluate(1)
    assert evaluated.equals(peerage.load("stopped").evaluate(1))
    assert evaluated["return"][0] == pytest.approx(returns("whole")[-1])
    assert environment_of("whole")["fingerprint"]["wrappers"] == ["TransformReward", "TimeLimit", "PendulumEnv"]
    capsys.readouterr()

    # The module is changed: this is another environment
    write_module("scaled", 1.0)
    shutil.copytree("stopped", "changed")
    Path("changed", "DONE").unlink()
    for command, status in (("resume", 2), ("evaluate", 0)):
        assert main([command, "changed"]) == status
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.count("is not the environment that changed was trained on") == 1
        assert "another reward in step 1 with the same seed" in said
        assert ("restore its code" in said) == (command == "resume")
    for use in (lambda run: run.policy(0), lambda run: run.evaluate(1)):
        with pytest.warns(UserWarning, match="is not the environment that changed was trained on"):
            use(peerage.load("changed"))

    # A module that is not there any more
    Path("scaled.py").unlink()
    sys.modules.pop("scaled")
    assert main(["resume", "changed"]) == 2
    assert "No module named 'scaled'; run this command in the folder of scaled" in capsys.readouterr().err


def test_other_versions_of_the_package_of_an_environment_explain_other_steps(monkeypatch):
    """The installed packages are a real one, with another name than its module, and its update."""
    monkeypatch.syspath_prepend(Path("site-packages"))

    def install(version: str, factor: float) -> None:
        shutil.rmtree("site-packages", ignore_errors=True)
        about = Path("site-packages", f"Scaled_Envs-{version}.dist-info")
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Scaled-Envs\nVersion: {version}\n")
        (about / "top_level.txt").write_text("scaled_pendulum\n")
        with monkeypatch.context() as patch:
            patch.chdir("site-packages")
            write_module("scaled_pendulum", factor)
            text = Path("scaled_pendulum.py").read_text()
            Path("scaled_pendulum.py").write_text(text.replace("):", ") -> gymnasium.Env:", 1))
        trial._package.cache_clear()  # as in a new process

    install("1.0", 1.0)
    with pytest.raises(KeyboardInterrupt):
        peerage.train("scaled_pendulum:make_env", config=small(), exp_name="run", listeners=[Stop()])
    packages = environment_of("run")["fingerprint"]["packages"]
    assert packages == {"Scaled-Envs": "1.0", "gymnasium": gym.__version__}
    install("1.0", 2.0)
    with pytest.raises(UserError, match="another reward in step 1"):
        peerage.resume("run")
    environment = environment_of("run")
    environment["versions"]["numpy"] = "1.0"
    for change in ("package", "numpy"):
        shutil.copytree("run", change)
    Path("numpy/environment.json").write_text(json.dumps(environment))
    peerage.resume("numpy")
    install("2.0", 2.0)
    peerage.resume("package")
    environment = environment_of("run")
    del environment["fingerprint"]["packages"]  # as earlier versions, which did not record them
    Path("run/environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match="another reward in step 1"):
        peerage.resume("run")


def test_a_function_without_a_name_is_not_replaced_by_its_inner_environment(capsys):
    def scaled():
        return gym.wrappers.TransformReward(gym.make("Pendulum-v1", max_episode_steps=20), lambda reward: 100 * reward)

    def bare():
        return gym.make("Pendulum-v1", max_episode_steps=20)

    whole = peerage.train(scaled, config=small(), exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(scaled, config=small(), exp_name="run", listeners=[Stop()])
    assert config_of("run")["env"] == "<scaled>"
    for words in (["resume", "run"], ["evaluate", "run"], ["train", "--config", "run", "--exp-name", "new"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "is the Python function 'scaled'" in said and "env=..." in said
    assert not Path("new").exists()
    with pytest.raises(UserError, match=r"wrappers: TransformReward > .* before, TimeLimit > PendulumEnv now.*same"):
        peerage.resume(peerage.load("run", env=bare))
    peerage.resume(peerage.load("run", env=scaled))
    assert Path("run/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    # The spaces for an export come from environment.json
    assert main(["export", "run"]) == 0
    exported = sb3.SAC.load("run/export/member-0-replica-0.zip", device="cpu")
    assert exported.observation_space == bare().observation_space and exported.action_space == bare().action_space
    Path("run/export/member-0-replica-0.zip").unlink()
    environment = Path("run/environment.json").read_text()
    for edited in ("{}", environment.replace('"low"', '"lo"'), environment.replace("3\n", "3000000000\n")):
        assert edited != environment
        Path("run/environment.json").write_text(edited)
        assert main(["export", "run"]) == 2 and "does not describe the spaces of <scaled>" in capsys.readouterr().err
    Path("run/environment.json").write_text(environment)
    # An evaluation on another environment that is given explicitly is allowed, with a message
    with pytest.warns(UserWarning, match="is not the environment that run was trained on"):
        _, other = session.evaluate_run("run", 1, env=bare)
    assert other[0][3] == pytest.approx(whole.evaluate(1)["return"][0] / 100)


class Own(gym.Env):
    """Ends after five steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.count += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), self.count == 5, False, {}

    class Inner(gym.Env):
        pass


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(3, start=-1), gym.spaces.Box(-0.4, 0.4, (2,), np.float64)], ids=["discrete", "box"]
)
def test_the_space_contains_the_actions_of_a_policy(space):
    class Strict(Own):
        action_space = space

        def step(self, action):
            assert self.action_space.contains(action if isinstance(action, int) else np.asarray(action)), action
            return super().step(np.ravel(action)[0])

    config = small()
    config = replace(config, run=replace(config.run, eval_freq=20), n_peers=2, advisers=("random",))
    run = peerage.train(Strict, config=config, exp_name="run")
    policy, rng = run.policy(1), np.random.default_rng(0)
    actions = [policy(1e4 * rng.normal(size=2)) for _ in range(50)]  # where the policy is at the ends of the box
    assert all(action in space for action in actions)
    if isinstance(space, gym.spaces.Discrete):
        obs = np.ones(2, np.float32)
        index = int(policy.group.mode(torch.as_tensor(obs).expand(2, 1, 2))[1, 0, 0])
        assert policy(obs) == index - 1 and {type(action) for action in actions} == {int}
    else:
        assert np.abs(actions).max() == pytest.approx(0.4)


def test_recorded_names():
    here = __name__
    assert recorded_name("Room-v6") == "Room-v6" and recorded_name("a:Room-v6") == "a:Room-v6"
    assert recorded_name(Own) == f"{here}:Own" and imported(f"{here}:Own") is Own
    assert recorded_name(Own.Inner) == f"{here}:Own.Inner" and imported(f"{here}:Own.Inner") is Own.Inner
    assert recorded_name(lambda: Own()) == "<lambda>"
    assert recorded_name(Own().reset) == "<reset>"  # a method of an object

    class Local(Own):
        pass

    assert recorded_name(Local) == "<Local>"
    assert imported("Room-v6") == "Room-v6" and imported("peerage.envs:Room-v6") == "peerage.envs:Room-v6"
    assert imported("peerage.envs:Room") == "peerage.envs:Room"  # Gymnasium takes the newest version
    with pytest.raises(UserError, match=r"unknown environment 'peerage\.envs:Roo'"):
        imported("peerage.envs:Roo")
    assert check_env_id(f"{here}:Own", {}).id == f"{here}:Own"


def test_the_name_of_a_function_is_found_without_paths_and_patterns_again():
    """It is resolved for every environment that is built, and such steps take longer than building a small one."""
    write_module("plain", 1.0)
    called: list[str] = []

    def note(frame, event, arg):
        called.append(frame.f_globals.get("__name__", ""))

    def modules_of_calls() -> set[str]:
        called.clear()
        sys.setprofile(note)
        try:
            imported("plain:make_env")
        finally:
            sys.setprofile(None)
        return set(called)

    assert {"pathlib", "peerage.envs.names"} <= {name.partition("._")[0] for name in modules_of_calls()}
    again = modules_of_calls()
    assert "peerage.envs.names" in again and not {"pathlib", "re"} & {name.partition(".")[0] for name in again}


@pytest.mark.parametrize(
    "name, args",
    [
        ("test_identity:os.system", {"command": "touch owned"}),
        ("test_identity:shutil.copytree", {"src": ".", "dst": "owned"}),
        ("peerage.runs.folder:write_atomically", {"path": "owned", "content": "x"}),
        ("torch:load", {"f": "owned"}),
        ("peerage.envs.make:UserError", {}),
        ("test_identity:SOURCE", {}),
    ],
)
def test_a_name_in_a_configuration_cannot_call_any_function(name, args):
    with pytest.raises(UserError, match=r"is not an environment|unknown environment") as caught:
        make_env(name, args)
    assert "\n" not in str(caught.value) and not Path("owned").exists()


def test_names_with_mistakes_are_refused_in_one_line():
    Path("broken.py").write_text("x = 1 / 0\n")
    Path("typed.py").write_text("def make_env():\n    raise KeyError('height')\n")
    for name, message in (
        ("broken:make_env", "cannot be imported: ZeroDivisionError: division by zero (broken.py, line 1)"),
        ("typed:make_envs", "unknown environment 'typed:make_envs' (did you mean 'make_env'?): typed has no such"),
        ("typed:make_env", "typed:make_env could not be built: KeyError: 'height' (typed.py, line 2)"),
        (":make_env", "cannot be imported"),
        ("typed:", "unknown environment 'typed:'"),
        ("<x>", "is the Python function 'x', which cannot be imported by name"),
    ):
        with pytest.raises(UserError) as caught:
            make_env(name, {})
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_modules_of_the_standard_library_are_not_imported(monkeypatch):
    """Importing some of them has effects: `this` prints, `antigravity` opens a browser."""
    Path("this.py").write_text("")  # an own module cannot be meant, because the standard library comes first
    monkeypatch.delitem(sys.modules, "this", raising=False)
    for name in ("this:foo", "os:system", "builtins:exec", "multiprocessing.dummy:Pool", "this:Room-v6"):
        module = name.partition(":")[0].partition(".")[0]
        with pytest.raises(UserError, match=f"{name} cannot be imported: {module} is a module of the standard library"):
            make_env(name, {})
    with pytest.raises(UserError, match=r"--callback this:x cannot be imported: .* this is a module of the standard"):
        load_callbacks(["this:x"])
    assert "this" not in sys.modules
    with pytest.raises(UserError, match="is a program"):
        make_env("peerage.__main__:x", {})


def test_the_current_folder_has_modules_unless_it_is_a_run(monkeypatch, tmp_path):
    Path("config.yaml").write_text("env: Pendulum-v1\n")  # a configuration of the user, not that of a run
    write_module("beside", 1.0)
    make_env("beside:make_env", {}).close()
    assert sys.path[-1] == str(tmp_path)  # installed packages come first
    run = tmp_path / "run"
    RunFolder.create(tmp_path, "run", "run", to_dict(small())).unlock()
    monkeypatch.chdir(run)
    write_module("inside", 1.0)
    rule = "modules of the current folder are not imported, because it is a run folder"
    for _ in ("config.yaml", "environment.json"):  # environment.json marks a run whose config.yaml was rewritten
        with pytest.raises(UserError, match=f"No module named 'inside'; {rule}: run this command in another folder"):
            make_env("inside:make_env", {})
        with pytest.raises(UserError, match=rule):
            load_callbacks(["inside:Stop"])
        (run / "config.yaml").write_text(dump(small()))
        (run / "environment.json").write_text("{}")


# --- fingerprints ---------------------------------------------------------------------------------------------


class Noise(gym.Env):
    """Draws from `source` in every reset and step."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, source: str = "numpy", seeds: bool = True) -> None:
        self.source, self.seeds = source, seeds

    def reset(self, *, seed=None, options=None):
        if self.seeds:
            super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        obs = self._obs()
        return obs, float(obs[0]), bool(obs[0] > 0.9), False, {}

    def _obs(self):
        match self.source:
            case "numpy":
                return np.random.uniform(-1, 1, 1).astype(np.float32)  # noqa: NPY002
            case "random":
                return np.array([random.uniform(-1, 1)], np.float32)
            case "space":
                return self.observation_space.sample()
            case "own":
                return self.np_random.uniform(-1, 1, 1).astype(np.float32)
            case "fresh":
                return np.random.default_rng().uniform(-1, 1, 1).astype(np.float32)
        raise AssertionError


@pytest.mark.parametrize(
    "source, seeds, repeats, own_random",
    [
        ("own", True, True, set()),
        ("own", False, True, {"reset"}),
        ("numpy", True, True, {"reset", "numpy"}),
        ("numpy", False, True, {"reset", "numpy"}),
        ("random", True, True, {"reset", "random"}),
        ("space", False, True, {"reset", "spaces"}),
        ("fresh", True, False, set()),
    ],
)
def test_a_trial_detects_the_source_of_random_numbers(source, seeds, repeats, own_random):
    numpy, python = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    spec = check_env_id(Noise, {"source": source, "seeds": seeds})
    assert (spec.repeats, spec.own_random) == (repeats, own_random)
    assert (spec.fingerprint["steps"] is not None) == repeats
    again = check_env_id(Noise, {"source": source, "seeds": seeds})
    assert dict(again.fingerprint) == dict(spec.fingerprint)
    assert np.random.get_state()[1].tolist() == numpy and random.getstate() == python  # noqa: NPY002


class Coins(gym.Env):
    """Draws its observations from a space of spaces."""

    observation_space = gym.spaces.Tuple((gym.spaces.MultiBinary(8), gym.spaces.MultiDiscrete([9, 9])))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


def test_only_the_sources_that_an_environment_uses_are_its_own(monkeypatch):
    def coins():
        return gym.wrappers.FlattenObservation(Coins())

    spec = check_env_id(coins, {})
    assert spec.repeats and spec.own_random == {"reset", "spaces"}
    first, second = (make_env(coins, {}, own_random=spec.own_random) for _ in range(2))
    pairs = [(first.reset(seed=3)[0], second.reset(seed=3)[0])]
    pairs += [(first.step(0)[0], second.step(0)[0]) for _ in range(5)]  # in turns, with spaces of one class
    assert all(np.array_equal(a, b) for a, b in pairs) and not np.array_equal(pairs[0][0], pairs[1][0])
    calls: list[str] = []
    for module, name in ((random, "getstate"), (np.random, "get_state")):
        known = getattr(module, name)

        def counted(*args, known=known, name=name, **more):
            calls.append(name)
            return known(*args, **more)

        monkeypatch.setattr(module, name, counted)
    for source, states in (("random", ["getstate"] * 2), ("numpy", ["get_state"] * 2), ("space", []), ("own", [])):
        args = {"source": source, "seeds": False}
        env = make_env(Noise, args, own_random=check_env_id(Noise, args).own_random)
        env.reset(seed=0)
        calls.clear()
        env.step(0)
        assert calls == states, source


def test_environments_without_seeds_of_their_own_repeat_and_resume(tmp_path):
    """Two replicas, whose environments draw from the same global generator in turns."""
    kinds = [("numpy", False), ("random", True), ("space", False)]
    for k, (source, seeds) in enumerate(kinds):
        config = small(f"{__name__}:Noise", env_args={"source": source, "seeds": seeds}, replicas=2)
        config = replace(config, run=replace(config.run, eval_freq=30))
        peerage.train(config=config, exp_name=f"one-{k}")
        np.random.seed(k)  # noqa: NPY002  # what the process has drawn before makes no difference
        with pytest.raises(KeyboardInterrupt):
            peerage.train(config=config, exp_name=f"two-{k}", listeners=[Stop()])
        random.seed(k)
        peerage.resume(f"two-{k}")
        for table in ("metrics.csv", "evaluations.csv"):
            assert Path(f"one-{k}", table).read_bytes() == Path(f"two-{k}", table).read_bytes(), (source, table)


def test_remarks_at_the_start():
    class Heard(Listener):
        def __init__(self):
            self.text = []

        def on_message(self, step, text):
            self.text.append(text)

    heard = Heard()
    peerage.train(Own, config=small("unused"), exp_name="a", listeners=[heard])
    assert any("Own has no time limit: if its episodes may never end, add one with gymnasium" in t for t in heard.text)
    assert not any("with the same seed" in text for text in heard.text)
    heard.text.clear()
    peerage.train(
        lambda: gym.wrappers.TimeLimit(Noise("fresh"), 9), config=small(), exp_name="b", listeners=[heard]
    )
    assert any("two episodes of <lambda> with the same seed and actions differ" in text for text in heard.text)
    assert not any("time limit" in text for text in heard.text)


def test_differences_of_fingerprints():
    plain = dict(check_env_id("Pendulum-v1", {}).fingerprint)
    assert difference(plain, json.loads(json.dumps(plain))) == ""
    for env, args, message in (
        ("Pendulum-v1", {"g": 9.0}, "arguments: {} before, {'g': 9.0} now"),
        ("Pendulum-v1", {"max_episode_steps": 9}, "max episode steps: 200 before, 9 now"),
        ("MountainCarContinuous-v0", {}, "id: Pendulum-v1 before, MountainCarContinuous-v0 now"),
        ("Pendulum-v1", {"reward_scale": 100}, "wrappers: TimeLimit > PendulumEnv before, Changing > TimeLimit"),
    ):
        found = difference(plain, dict(check_env_id(env, args).fingerprint))
        assert found.startswith(message), found
    steps = [list(row) for row in plain["steps"]]
    steps[3][1] *= 1 + 1e-5
    assert difference(plain, {**plain, "steps": steps}) == ""  # the rounding of another machine
    steps[3][1] *= 1.1
    assert difference(plain, {**plain, "steps": steps}).startswith("another observation in step 3")
    assert difference(plain, {**plain, "steps": steps}, steps=False) == ""
    for edited in ({}, None, [], {**plain, "steps": "x"}, {**plain, "steps": [["a"]]}, {"steps": None}):
        assert difference(edited, plain) == ""


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(0, 255, (27,), np.uint8),
        gym.spaces.Box(np.array([-np.inf, -1.0, 0.0]), np.array([1.0, 2.0, np.inf]), dtype=np.float64),
        gym.spaces.Box(-0.4, 0.4, (2,), np.float32),
        gym.spaces.Discrete(3, start=-1),
    ],
    ids=["bytes", "unbounded", "float32", "discrete"],
)
def test_a_space_is_restored_from_its_description(space):
    assert described_space(json.loads(json.dumps(describe_space(space)))) == space


def test_a_run_without_a_fingerprint_resumes():
    with pytest.raises(KeyboardInterrupt):
        peerage.train(Own, config=small(), exp_name="run", listeners=[Stop()])
    environment = environment_of("run")
    del environment["fingerprint"]
    Path("run/environment.json").write_text(json.dumps(environment))
    peerage.resume("run")
    assert Path("run/DONE").exists()


# --- other runs -----------------------------------------------------------------------------------------------


def test_comparisons_distinguish_environments_with_the_same_name():
    def maker(factor):
        def scaled():
            env = gym.make("Pendulum-v1", max_episode_steps=20)
            return gym.wrappers.TransformReward(env, lambda reward: factor * reward)

        return scaled

    for name, factor, seed in (("a", 1, 0), ("b", 1, 1), ("c", 100, 2), ("d", 100, 3)):
        peerage.train(maker(factor), config=small(seed=seed), exp_name=name)
    with pytest.raises(UserError, match=r"a and c have the same settings but different environments .* not replicas"):
        compare(["a", "b", "c", "d"])
    found = compare(["a", "b", "c", "d"], across_tasks=True)
    sides = [side for task in found.tasks for side in task.sides]
    assert [[run.name for run in side.runs] for side in sides] == [["a", "b"], ["c", "d"]]
    lines = [line for line in found.warnings if "different environments with the name <scaled>" in line]
    assert len(lines) == 1 and "another reward in step 1" in lines[0] and "not comparable" in lines[0]
    assert lines[0] in as_text(found)
    # Other versions of the simulators explain other rewards: all four are one side
    for name in "cd":
        environment = environment_of(name)
        environment["versions"]["gymnasium"] = "0.1"
        Path(name, "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match="nothing to compare 4 runs with the same settings with"):
        compare(["a", "b", "c", "d"])


@pytest.mark.parametrize("old", [False, True])
def test_a_trained_member_needs_the_bounds_of_its_actions(old):
    peerage.train(config=small("Pendulum-v1"), exp_name="run")
    if old:
        environment = environment_of("run")
        del environment["fingerprint"]
        Path("run/environment.json").write_text(json.dumps(environment))

    def rescaled():
        return gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))

    message = r"run was trained with actions bounded by \[-2\.\] to \[2\.\]; this environment has bounds \[-1\.\] to"
    with pytest.raises(UserError, match=message):
        make_adviser("checkpoint:run", check_env_id(rescaled, {}))
    with pytest.raises(UserError, match=message):
        peerage.train(rescaled, config=small(), load_paths="run", exp_name="new")
    assert not Path("new").exists()


def test_a_trained_member_of_another_environment_gives_a_warning(recwarn):
    peerage.train(config=small("Pendulum-v1"), exp_name="run")
    make_adviser("checkpoint:run", check_env_id("Pendulum-v1", {}))
    assert not [w for w in recwarn if "trained on" in str(w.message)]
    with pytest.warns(UserWarning, match=r"^run was trained on another environment \(arguments: {} before, {'g': 5.0}"):
        make_adviser("checkpoint:run", check_env_id("Pendulum-v1", {"g": 5.0}))
    with pytest.warns(UserWarning, match="run was trained on another environment"):
        peerage.train(config=small(env_args={"g": 5.0}), load_paths="run", exp_name="new")
