"""Environments that change under way, the presets of the open questions, and the arithmetic of their script."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
from gymnasium.utils.env_checker import check_env

import peerage
from benchmarks import open_numbers as numbers
from benchmarks import open_questions as script
from peerage.api import with_settings
from peerage.config import Config
from peerage.config.file import load, validate
from peerage.config.presets import preset_names
from peerage.envs.changing import Changing
from peerage.envs.make import check_env_id, make_env
from peerage.envs.vector import EnvGroup, EnvMaker
from peerage.errors import UserError
from peerage.evaluation.alone import GroupActor
from peerage.evaluation.evaluate import Evaluator, episode_seeds
from peerage.training.restore import restore
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")

OPEN = [name for name in preset_names() if name.startswith("open-")]
GOALS = {"goals": "left", "change_at": 5, "change": {"goals": "right"}}


# --- environments that change ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, change",
    [
        ("Room-v21", {"goals": "right", "reward_at": "opposite"}),
        ("CartPole-v1", {"length": 0.1, "reward_scale": -1}),
        ("LunarLander-v3", {"gravity": -5, "enable_wind": True}),
        ("HalfCheetah-v5", {"forward_reward_weight": -1, "gravity": -5, "damping_scale": 2.0}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # about wrappers and unbounded observations
def test_gymnasium_accepts_it(env_id, change):
    env = make_env(env_id, {"change_at": 10_000, "change": change})
    check_env(env, skip_render_check=True)
    env.steps = 10_000
    check_env(env, skip_render_check=True)
    assert env.changed
    env.close()


def test_the_goals_move_at_the_step():
    env = make_env("Room-v6", GOALS)
    assert isinstance(env, Changing) and check_env_id("Room-v6", GOALS).id == "Room-v6"

    def sides(n: int, seed: int) -> list[bool]:
        env.reset(seed=seed)
        return [2 * env.unwrapped.goal_x < 5 for _ in range(n) if env.reset()]

    assert all(sides(60, 0))
    env.reset(seed=1)
    ends = [env.step(0)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]  # the episode ends with the fifth step
    assert env.steps == 5 and env.changed
    assert not any(sides(60, 0))
    env.reset()
    assert not any(env.step(0)[3] for _ in range(49)) and env.step(0)[3]  # once only; then the horizon of 50
    # A given goal is kept, and the distribution of drawn goals is that of Room given the side
    assert env.reset(options={"goal": (0, 2)})[0].tolist()[2:] == pytest.approx([0, 0.4])
    env.steps = 0
    seen = {(env.unwrapped.goal_x, env.unwrapped.goal_y) for _ in range(2000) if env.reset()}
    assert seen == {(x, y) for x in range(3) for y in range(6) if (x == 0 and y < 5) or y in (0, 5)}


def test_the_rewarded_cell_by_hand():
    env = make_env("Room-v6", {"change_at": 2, "change": {"reward_at": "opposite", "reward_scale": 10}})
    env.reset(seed=0, options={"goal": (4, 5)})
    env.step(0)
    assert env.step(2)[1] == pytest.approx(-0.001)  # still the old scale
    obs, _ = env.reset(options={"goal": (4, 5)})
    np.testing.assert_allclose(obs, [0.6, 0.6, 0.8, 1.0], rtol=1e-6)  # shown as before; 5 - (4, 5) = (1, 0) pays
    rewards = [env.step(action)[1] for action in (0, 2, 2, 1, 1, 1, 3, 3, 3, 3, 3)]
    assert rewards == pytest.approx([-0.01] * 10 + [10])  # (4, 5) on the way pays nothing


def test_cartpole_by_hand():
    """Upright at rest, pushed to the right with 10 N: x'' and theta'' of Gymnasium's equations."""
    env = make_env("CartPole-v1", {"change_at": 1, "change": {"length": 0.25, "masspole": 1.0}})
    for length, mass in ((0.5, 0.1), (0.25, 1.0)):
        env.reset(seed=0)
        env.unwrapped.state = (0.0, 0.0, 0.0, 0.0)
        obs = env.step(1)[0]
        temp = 10 / (1 + mass)
        spin = -temp / (length * (4 / 3 - mass / (1 + mass)))
        push = temp - mass * length * spin / (1 + mass)
        np.testing.assert_allclose(obs, [0, 0.02 * push, 0, 0.02 * spin], rtol=1e-5)
    env.steps = 0
    env.reset()
    assert (env.unwrapped.length, env.unwrapped.polemass_length) == (0.5, 0.05)  # and back
    assert make_env("CartPole-v1", {"length": 1.0}).unwrapped.polemass_length == pytest.approx(0.1)


def test_physics_of_mujoco_and_box2d():
    env = make_env("Hopper-v5", {"change_at": 1, "change": {"gravity": -3.0, "damping_scale": 2.0, "mass_scale": 0.5}})
    model = env.unwrapped.model
    damping, masses = model.dof_damping.copy(), model.body_mass.copy()
    assert damping.any() and model.opt.gravity.tolist() == [0, 0, -9.81]
    env.reset(seed=0)
    env.step(env.action_space.low)
    env.reset()
    assert model.opt.gravity.tolist() == [0, 0, -3.0]
    assert (model.dof_damping == 2 * damping).all() and (model.body_mass == masses / 2).all()
    env.steps = 0
    env.reset()
    assert (model.dof_damping == damping).all() and model.opt.gravity[2] == -9.81
    lander = make_env("LunarLander-v3", {"gravity": -8.0, "change_at": 1, "change": {"gravity": -2.0}})
    lander.reset(seed=0)
    assert lander.unwrapped.world.gravity.y == -8
    lander.step(0)
    lander.reset()
    assert lander.unwrapped.world.gravity.y == -2


@pytest.mark.parametrize(
    "env_id, env_args, message",
    [
        ("Room-v6", {"change_at": 5}, "must be given together; add change="),
        ("Room-v6", {"change": {"goals": "left"}}, "must be given together; add change_at="),
        ("Room-v6", {"change_at": 0, "change": {"goals": "left"}}, "change_at must be a whole number of steps"),
        ("Room-v6", {"change_at": 1.5, "change": {"goals": "left"}}, "not 1.5"),
        ("Room-v6", {"change_at": 5, "change": "goals"}, "change must be a mapping"),
        ("Room-v6", {"change_at": 5, "change": {}}, "change must be a mapping"),
        ("Room-v6", {"change_at": 5, "change": {"goal": "left"}}, "parameter 'goal' (did you mean 'goals'?): use"),
        ("Room-v6", {"change_at": 5, "change": {"length": 7}}, "has no adjustable parameter 'length'"),
        ("Room-v6", {"goals": "up"}, "goals must be any, left, right, not 'up'"),
        ("Room-v6", {"gravity": 3}, "has no adjustable parameter 'gravity'"),
        ("CartPole-v1", {"length": 0}, "length must be above 0, not 0"),
        ("CartPole-v1", {"length": True}, "length must be a number, not True"),
        ("CartPole-v1", {"goals": "left"}, "has no adjustable parameter 'goals'"),
        ("LunarLander-v3", {"change_at": 5, "change": {"gravity": 5}}, "gravity must be between -12 and 0, not 5"),
        ("LunarLander-v3", {"change_at": 5, "change": {"enable_wind": 1}}, "enable_wind must be true or false"),
        ("LunarLander-v3", {"change_at": 5, "change": {"continuous": True}}, "no adjustable parameter 'continuous'"),
        ("HalfCheetah-v5", {"change_at": 5, "change": {"reward_scale": math.nan}}, "reward_scale must be a number"),
    ],
)
def test_invalid_changes_are_refused(env_id, env_args, message):
    with pytest.raises(UserError) as caught:
        check_env_id(env_id, env_args)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(env_id)


class Own(gymnasium.Env):
    """A user's, with arguments that have our names."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, change_at=0, wind=1.0):
        self.change_at, self.wind = change_at, wind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.full(1, self.wind, np.float32), 1.0, False, False, {}


def test_a_custom_environment():
    assert not isinstance(make_env(Own, {"change_at": 7}), Changing)  # its own argument
    env = Changing(Own(), {}, 2, {"wind": 3, "reward_scale": 0.5}, frozenset({"wind"}))
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(2)]
    env.reset()
    steps.append(env.step(0))
    assert [(s[0].item(), s[1], s[3]) for s in steps] == [(1, 1, False), (1, 1, True), (3, 0.5, False)]


def test_the_same_bits_again_and_after_a_resume():
    def trace(group: EnvGroup, n: int) -> np.ndarray:
        return np.array([group.step(np.array([i % 4, i % 3])).obs for i in range(n)])

    args = {**GOALS, "max_episode_steps": 3, "change_at": 7}
    makers = [EnvMaker("Room-v21", args)] * 2
    one, two = EnvGroup(makers, [3, 4], keep=True), EnvGroup(makers, [3, 4])
    assert (one.reset() == two.reset()).all() and (trace(one, 6) == trace(two, 6)).all()  # after two whole episodes
    trace(one, 2)  # in the middle of the last episode before the change
    resumed = EnvGroup(makers, [8, 9], keep=True)
    _, anew = resumed.restore(one.state(), 8)
    assert not anew and (trace(resumed, 7) == trace(one, 7)).all()
    assert [env.steps for env in resumed.envs] == [15, 15] and (one.reset()[:, 2] >= 0.5).all()
    resumed.set_clock(6, running=False)
    resumed.reset()
    trace(resumed, 30)
    assert resumed.envs[0].steps == 6 and (resumed.reset()[:, 2] < 0.5).all()


# --- trainings ------------------------------------------------------------------------------------------------


SMALL = {"total_timesteps": 40, "replicas": 1, "n_peers": 2, "buffer_size": (50,), "batch_size": (4,)}


def evaluator_of(trainer: Trainer) -> Evaluator:
    """The evaluator of the training, as its runner has one."""
    return Evaluator(trainer.evaluation_makers, episode_seeds(trainer.config, trainer.config.run.n_eval_episodes))


def goals_of(trainer: Trainer, evaluator: Evaluator) -> list[bool]:
    """Whether the goals of training and of an evaluation now are all on the left; each side must agree in itself."""
    seen = [env.unwrapped.goal_x < 10 for env in trainer.envs.envs]
    evaluator.run(GroupActor(trainer.group), trainer.step)
    evaluated = [env.unwrapped.goal_x < 10 for env in evaluator.envs[True].envs]
    assert len(set(evaluated)) == len(set(seen)) == 1
    return [seen[0], evaluated[0]]


def room(change_at: int = 20) -> Config:
    settings = {"env": "Room-v21", "env_args": {**GOALS, "change_at": change_at, "max_episode_steps": 8}}
    return with_settings(Config(), {**SMALL, **settings, "log_freq": 5, "eval_freq": 10, "n_eval_episodes": 6})


def test_trains_and_evaluates_on_the_right_task():
    trainer = Trainer(room())
    evaluator = evaluator_of(trainer)
    trainer.begin()
    sides = {}
    while trainer.step < 40:
        trainer.advance()
        sides[trainer.step] = goals_of(trainer, evaluator)
    assert all(sides[step] == [True, True] for step in range(1, 20))
    assert all(sides[step] == [False, False] for step in range(20, 41))
    trainer.close()
    evaluator.close()


def test_a_resumed_run_continues_with_the_task_of_its_step(tmp_path):
    settings = {"log_dir": str(tmp_path), "verbose": 0, "eval_freq": 0, "learning_starts": (4,)}
    before = peerage.train(config=room(), exp_name="before", total_timesteps=16, **settings).folder
    after = peerage.train(config=room(), exp_name="after", total_timesteps=24, **settings).folder
    trainer = restore(before).trainer
    evaluator = evaluator_of(trainer)
    assert trainer.step == 16 and goals_of(trainer, evaluator) == [True, True]
    for step in range(17, 24):  # its environments are new, and know how many steps were made
        trainer.advance()
        assert goals_of(trainer, evaluator) == [step < 20] * 2
    trainer.close()
    trainer = restore(after).trainer
    assert goals_of(trainer, evaluator) == [False, False]
    trainer.close()
    evaluator.close()


def test_a_frozen_member_among_novices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"total_timesteps": 40, "eval_freq": 20, "log_freq": 20, "verbose": 0, "learning_starts": (4,)}
    folder = peerage.train(config="open-pretrain-room", **small).folder
    assert folder == script.PRETRAIN.folder
    words = script.Experiment("frozen-members-room", False).settings(3, 1.0)
    paths = tuple(words[words.index("--load-paths") + 1 :])
    run = peerage.train(config="open-frozen-members-room", load_paths=paths, exp_name="run", replicas=2, **small)
    trainer = restore(run.folder).trainer
    assert (~trainer.group.active()).tolist() == [True, False, False, False] * 2
    trainer.close()
    found = numbers.read(run.folder)
    assert [p.label for p in found] == [""] and found[0].curve.shape == (3, 2)
    novices = run.evaluations[run.evaluations["member"] != "member-0"]
    expected = novices[novices["step"] == 40].groupby("replica")["return"].mean()
    assert found[0].end == pytest.approx(expected.to_numpy())
    asked = run.metrics[(run.metrics["name"] == "advice/queries") & (run.metrics["member"] != "member-0")]
    assert found[0].queries == pytest.approx(asked.groupby("replica")["value"].sum().to_numpy() / 120)


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.filterwarnings("ignore")
def test_presets_are_built_and_stepped(name):
    short = {"total_timesteps": 12, "replicas": 1, "learning_starts": (2,), "batch_size": (2,)}
    trainer = Trainer(validate(with_settings(load(name), short)))
    trainer.begin()
    while trainer.step < 12:
        result = trainer.advance()
    assert np.isfinite(result.obs).all() and trainer.group.metrics()
    assert type(trainer.sharing).__name__ == ("NoSharing" if "pretrain" in name else "Advice")
    trainer.close()


def test_presets_cover_the_questions():
    assert {f"open-{e.preset}" for e in script.EXPERIMENTS} | {"open-pretrain-room"} == set(OPEN)
    for name in OPEN:
        config = load(name)
        assert (config.steps % config.run.eval_freq, config.run.eval_freq % config.run.log_freq) == (0, 0)
        assert config.advice.trust == Config().advice.trust and config.advice.choice == Config().advice.choice
        if "change_at" in config.env_args:  # an evaluation falls on it
            assert config.env_args["change_at"] % config.run.eval_freq == 0
    assert [load(f"open-size-cartpole-{n}").n_peers for n in script.SIZES] == [2, 4, 8, 16, 32]


# --- the arithmetic -------------------------------------------------------------------------------------------


def advice(rows: list[tuple[int, int, str, str, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["step", "replica", "asker", "adviser", "chosen"])


def test_share_of_better_advisers_by_hand():
    a, b = "member-0", "member-1"
    level = pd.DataFrame(
        [(0, 0, a, 1.0), (0, 0, b, 2.0), (10, 0, a, 5.0), (10, 0, b, 2.0), (0, 1, a, 3.0), (0, 1, b, 3.0)],
        columns=["step", "replica", "member", "value"],
    )
    rows = advice(
        [
            # Steps 1 to 10 go by the evaluation at 0: b is better than a. a chose it 3 of 4 times; b only itself
            (10, 0, a, a, 1), (10, 0, a, b, 3), (10, 0, b, a, 0), (10, 0, b, b, 4),
            # Steps 11 to 20 go by the one at 10: a is better than b, who chose it 2 of 8 times
            (20, 0, a, a, 6), (20, 0, a, b, 2), (20, 0, b, a, 2), (20, 0, b, b, 6),
            # Replica 1: equal, so no adviser is better; replica 2 made no choices
            (10, 1, a, b, 5), (10, 1, b, a, 5), (10, 2, a, b, 0),
        ]
    )  # fmt: skip
    found = numbers.better_share(rows, level, n_advisers=2)
    assert found.loc[0, "better"] == pytest.approx((3 + 2) / 24)
    assert found.loc[0, "uniform"] == pytest.approx((4 / 2 + 8 / 2) / 24)  # one of two is better, in a's 4 and in b's 8
    assert found.loc[1].tolist() == [0, 0] and found.loc[2].isna().all()


def test_choices_of_an_expert_by_hand():
    config = with_settings(Config(), {"n_peers": 2, "advisers": ("expert", "random")})
    chosen = [("member-0", "expert", 3), ("member-0", "member-1", 1), ("member-1", "random", 4)]
    rows = advice([(10, 0, *row) for row in chosen])
    metrics = pd.DataFrame(
        [(10, 0, "member-0", "advice/right", 0.75), (10, 0, "member-1", "advice/right", 0.0),
         (10, 0, "member-0", "advice/wrong", 0.0), (10, 0, "member-1", "advice/wrong", 0.0)],
        columns=["step", "replica", "member", "name", "value"],
    )  # fmt: skip
    found = numbers.expert_share(rows, metrics, config)
    assert found.loc[0].tolist() == [3 / 8, 1 / 4]


def test_kinds_of_members():
    settings = {"n_peers": 4, "algorithm": ("sac", "sac", "td3", "td3")}
    assert numbers.kinds(with_settings(Config(), settings)) == {
        "": ["member-0", "member-1", "member-2", "member-3"],
        "sac": ["member-0", "member-1"],
        "td3": ["member-2", "member-3"],
    }
    nets = {"n_peers": 3, "net_arch": ((16,), (16,), (128, 128)), "load_paths": ("x:0", "none", "none")}
    assert numbers.kinds(with_settings(Config(), nets)) == {
        "": ["member-1", "member-2"], "16": ["member-1"], "128,128": ["member-2"]
    }  # fmt: skip
    frozen = {"n_peers": 2, "load_paths": ("x:0", "none")}
    assert numbers.kinds(with_settings(Config(), frozen)) == {"": ["member-1"]}


def part(better: list[float], uniform: list[float], curve: dict[int, list[float]] | None = None) -> numbers.Part:
    frame = pd.DataFrame.from_dict(curve or {10: [1.0, 2.0, 3.0]}, orient="index")
    return numbers.Part("", 30, frame, np.array(better), np.array(uniform), np.ones(3), change_at=20)


def test_moments_of_a_change():
    curve = {0: [0.0] * 3, 10: [1.0] * 3, 20: [2.0] * 3, 30: [3.0, 4.0, 5.0]}
    assert [m.tolist() for m in part([1], [1], curve).moments(True)] == [[1] * 3, [2] * 3, [3, 4, 5]]
    assert [m.tolist() for m in part([1], [1], curve).moments(False)] == [[3, 4, 5]]


def test_sentences():
    base, apart = np.array([1.0, 20.0, 5.0]), np.array([9.0, 10.0, 11.0])
    # 9, 10, 11: deviation 1, so 10 ± 4.303 / √3 = 10 ± 2.48, and as much as the IQM's calibration errs
    line = script.verdict("x", base + apart, base)
    assert re.fullmatch(r"x: perhaps better than single agents, \+10\.0 \[7\.5\d+, 12\.5\]\.", line)
    assert script.verdict("x", base - apart, base).startswith("x: perhaps worse than single agents, −10.0")
    # -1, 2, 5: deviation 3, so 2 ± 7.45
    line = script.verdict("x", base + 3 * apart - 28, base)
    assert re.fullmatch(r"x: no significant difference from single agents, \+2\.000 \[−5\.4\d+, 9\.4\d+\]\.", line)
    assert script.verdict("x", base, base) == "x: the group and single agents are the same in every replica."
    assert "too few for an interval" in script.verdict("x", base[:2] + 5, base[:2])
    more = script.about_trust("x", part([0.5, 0.6, 0.7], [0.3, 0.4, 0.5]))
    assert more.endswith("20.0 [20.0, 20.0] points: more than with uniform choices.")
    assert script.about_trust("x", part([0.1, 0.1, 0.1], [0.3, 0.4, 0.5])).endswith("less than with uniform choices.")
    assert "no significant difference" in script.about_trust("x", part([0.1, 0.4, 0.7], [0.4, 0.4, 0.4]))
    assert "no choices were made" in script.about_trust("x", part([np.nan, 0.1, 0.1], [0.3, 0.4, 0.5]))


def test_settings_of_the_script():
    change = script.Experiment("change-goals-room", False).settings(5, 0.1)
    assert change[:6] == ["--config", "open-change-goals-room", "--replicas", "5", "--total-timesteps", "2000"]
    assert change[6:] == ["--eval-freq", "200", "--log-freq", "50", "--env-args", "change_at=1000"]
    single = script.Experiment("frozen-expert-lunarlander", False).counterpart
    assert single.single and single.settings(3, 1.0)[-3:] == ["--sharing", "none", "--advisers"]
    sizes = {script.Experiment(f"size-cartpole-{n}", False).counterpart for n in script.SIZES}
    assert [e.name for e in sizes] == ["size-cartpole-single"]
    assert len({e.name for e in script.EXPERIMENTS}) == len(script.EXPERIMENTS) == 15 + 3 + 2 * 11


@pytest.mark.long
def test_from_runs_to_the_page(tmp_path, monkeypatch, capsys):
    """Two tiny runs in separate processes, skipped the second time; then a table and the page of their question."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(script.__file__).parents[1]))
    monkeypatch.setitem(script.QUESTIONS, "change", ("What if it changes?", ("change-reward-room",)))
    script.read.cache_clear()
    with pytest.raises(SystemExit, match="no group and its baseline"):
        script.main(["table"])
    run = ["run", "--only", "change-reward-room*", "--replicas", "3", "--scale", "0.06"]
    script.main(run)
    assert capsys.readouterr().out == "change-reward-room: trained\nchange-reward-room-single: trained\n"
    config = load(script.FOLDER / "change-reward-room" / "config.yaml")
    assert (config.steps, config.run.eval_freq) == (1200, 120)
    assert config.env_args == {"change_at": 600, "change": {"reward_at": "opposite"}}
    single = load(script.FOLDER / "change-reward-room-single" / "config.yaml")
    assert single.advice.sharing == "none" and single.env_args == config.env_args
    script.main(run)
    assert capsys.readouterr().out.count("already done") == 2
    script.main(["table"])
    out = capsys.readouterr().out
    assert "| change-reward-room | " in out and out.count("\n- change-reward-room: ") == 2
    script.main(["page"])
    page = script.PAGE.read_text()
    assert "](open-questions-change.png)" in page and "3 replicas, 2 runs" in page
    assert (script.PAGE.parent / "open-questions-change.png").stat().st_size > 5000
    script.main(["page"])
    assert script.PAGE.read_text() == page
    script.read.cache_clear()


def test_a_missing_run():
    command = [sys.executable, "-m", "benchmarks.open_questions", "run", "--only", "size-chess-2"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(script.__file__).parents[1])
    assert ended.returncode == 2 and "no run matches size-chess-2" in ended.stderr
