"""Evaluations: actors with and without memory, members with different tasks, and the group together."""

from __future__ import annotations

import io
import itertools
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pandas
import pytest
import torch
from rich.console import Console

import peerage
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.check import check
from peerage.config.perturbations import parse_cases
from peerage.envs import success
from peerage.envs.make import EnvMaker, make_env
from peerage.errors import UserError
from peerage.evaluation import evaluate
from peerage.evaluation.actors import Evaluations, TogetherActor, sharing_copy
from peerage.evaluation.alone import GroupActor
from peerage.evaluation.evaluate import SEED, Actor, Evaluator, episode_seeds
from peerage.evaluation.perturbed import evaluate_perturbed
from peerage.runs import CsvLog, RunFolder, read_evaluations
from peerage.runs.checkpoint import load_latest
from peerage.runs.display import Display
from peerage.runs.listeners import RunInfo
from peerage.runs.loggers import ScalarLog
from peerage.statistics.compare import compare

pytestmark = pytest.mark.usefixtures("no_reports")

SMALL = Config(
    env="Room-v6",
    n_peers=2,
    replicas=2,
    advisers=("expert", "random"),
    total_timesteps=300,
    learner=LearnerConfig(learning_starts=(50,), batch_size=(8,), net_arch=((8,),), train_freq=(4,)),
    run=RunConfig(eval_freq=100, n_eval_episodes=2, verbose=0, log_freq=50, eval_modes=("alone", "together")),
    threads=1,
)


# --- actors -----------------------------------------------------------------------------------------------------


class Guess(gymnasium.Env):
    """Pays 1 for one of five actions, which the observation does not show; 6 to 12 steps."""

    observation_space = gymnasium.spaces.Box(0, 99, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(5)

    def __init__(self, right):
        self.right = right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(6, 13))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), float(action == self.right), False, self.left == 0, {}


class Remembers(Actor):
    """Tries one action after the other and repeats the first one that pays; forgets it when the episode ends."""

    def begin(self, n):
        self.action = np.zeros(n, np.int64)

    def act(self, obs):
        assert len(obs) == len(self.action)
        return self.action

    def observe(self, rewards, done):
        self.action = np.where(done, 0, np.where(rewards > 0, self.action, (self.action + 1) % 5))


class InTurn(Remembers):
    parallel = False


def lengths(seeds) -> list[int]:
    env = Guess(0)
    found = []
    for seed in seeds:
        env.reset(seed=seed)
        found.append(env.left)
    return found


def test_an_actor_with_a_memory_in_a_batch_and_one_by_one():
    """Members with different tasks. All episodes of all members at once, the episodes of a member one after the other,
    and separate evaluations of the members give the same result, which follows from the seeds: the length of the
    episode minus the number of wrong guesses."""
    makers = [EnvMaker(Guess, {"right": right}) for right in (3, 0, 4)]
    together = Evaluator(makers, [range(5, 9)] * len(makers))
    rows = together.run(Remembers())
    expected = lengths([5, 6, 7, 8])
    assert [(m, e, episode.length, episode.return_) for m, e, episode in rows] == [
        (m, e, expected[e], expected[e] - right) for m, right in enumerate((3, 0, 4)) for e in range(4)
    ]
    assert len(set(expected)) > 1
    in_turn = together.run(InTurn())
    assert [(m, e, episode[1:]) for m, e, episode in in_turn] == [(m, e, episode[1:]) for m, e, episode in rows]
    for m, maker in enumerate(makers):
        alone = Evaluator([maker], [range(5, 9)]).run(Remembers())
        assert [(e, episode[1:]) for _, e, episode in alone] == [(e, x[1:]) for k, e, x in rows if k == m]
    assert together.run(Remembers()) == rows  # a second evaluation starts with the same seeds


def test_what_an_actor_observes():
    heard = []

    class Recorder(Actor):
        def begin(self, n):
            heard.append(n)

        def act(self, obs):
            assert obs.dtype == np.float32 and obs.shape == (4, 1)
            return np.zeros(4, np.int64)

        def observe(self, rewards, done):
            heard.append((rewards.tolist(), done.tolist()))

    Evaluator([EnvMaker(Guess, {"right": right}) for right in (0, 1)], [[5, 6]] * 2).run(Recorder())
    ends = lengths([5, 6]) * 2
    assert heard[0] == 4 and len(heard) == 1 + max(ends)
    for k, (rewards, done) in enumerate(heard[1:], start=1):
        # Rows whose episodes are over do not step: no reward, and not done a second time
        assert rewards == [float(row < 2 and k <= ends[row]) for row in range(4)]
        assert done == [k == end for end in ends]


def evaluator_of(trainer) -> Evaluator:
    """Of two episodes, as in `SMALL`."""
    return Evaluator(trainer.evaluation_makers, episode_seeds(trainer.config, 2))


def test_members_alone_play_as_one_by_one(begin):
    """One forward for all members and episodes chooses the actions that every member chooses by itself."""
    config = replace(SMALL, env="LunarLander-v3", env_args={"max_episode_steps": 60}, advisers=())
    trainer = begin(config, steps=120)
    found = evaluator_of(trainer).run(GroupActor(trainer.group))
    assert [(m, e) for m, e, _ in found] == [(m, e) for m in range(4) for e in range(2)]
    env = make_env(config.env, config.env_args)
    for m, e, episode in found:
        total, length, done = 0.0, 0, False
        obs, _ = env.reset(seed=episode_seeds(config, 2)[m][e])
        while not done:
            actions = trainer.group.mode(torch.as_tensor(obs).expand(4, 1, -1))
            obs, reward, terminated, truncated, _ = env.step(int(actions[m, 0, 0]))
            total, length, done = total + reward, length + 1, terminated or truncated
        assert (episode.length, episode.return_) == (length, pytest.approx(total))


def test_success_of_an_evaluation_by_last_step_or_by_any():
    class Passes(Actor):
        """Walks to the goal of a hallway, and away from it afterwards."""

        def begin(self, n):
            self.action = np.zeros(n, np.int64)

        def act(self, obs):
            return self.action

        def observe(self, rewards, done):
            self.action[rewards > 0] = 1

    makers = [EnvMaker("Hallway-v0")]
    found = {rule: Evaluator(makers, [[1]] * len(makers), success=rule).run(Passes())[0][2] for rule in ("last", "any")}
    assert found["last"].success is False and found["any"].success is True
    assert found["last"][:3] == found["any"][:3]


class Endless(Guess):
    """Never ends and pays 1 a step. Reports success in its steps only if a step has it."""

    def __init__(self, success=None):
        self.success, self.right = success, 0

    def step(self, action):
        info = {} if self.success is None else {"is_success": self.success}
        return np.zeros(1, np.float32), 1.0, False, False, info


def limited_endless():
    return gymnasium.wrappers.TimeLimit(Endless(), 40)


@pytest.mark.parametrize("actor", [Remembers, InTurn])
def test_episodes_that_do_not_end_are_truncated(actor, monkeypatch):
    """By default only in an environment without a time limit; a given limit applies to every environment."""
    monkeypatch.setattr(evaluate, "MAX_STEPS", 30)
    for maker, max_steps, length in (
        (Endless, None, 30), (Endless, 12, 12), (limited_endless, None, 40), (limited_endless, 12, 12),
        (limited_endless, 90, 40),
    ):  # fmt: skip
        evaluator = Evaluator([EnvMaker(maker)], [[1, 2]], max_steps=max_steps)
        found = [(e.length, e.return_) for _, _, e in evaluator.run(actor(), 70)]
        assert found == [(length, length)] * 2
        assert bool(evaluator.note) == (length != 40)
    evaluator = Evaluator([EnvMaker(Endless)], [[1, 2]])
    evaluator.run(actor())
    what = "an evaluation episode of Endless did not end and was truncated after 30 steps"
    assert evaluator.note == f"{what} (--max-eval-steps sets this limit)"


def test_a_run_without_ends_is_trained_resumed_and_evaluated(tmp_path, monkeypatch, capsys):
    """Both modes; the run reports truncated episodes once; the limit can be changed on resuming."""
    settings = {"n_peers": 2, "total_timesteps": 90, "eval_freq": 30, "n_eval_episodes": 1, "verbose": 1, "threads": 1,
                "checkpoint_freq": 30, "eval_modes": ("alone", "together"), "net_arch": (8,), "max_eval_steps": 20,
                "learning_starts": 10, "log_dir": str(tmp_path)}  # fmt: skip
    whole = peerage.train(Endless, exp_name="whole", **settings)
    assert set(whole.evaluations["length"]) == {20} and len(whole.evaluations) == 4 * 2 * 2
    assert capsys.readouterr().out.count("truncated after 20 steps") == 1
    run = evaluate.Evaluator.run

    def stop(self, actor, trained, stop):
        if trained == 60:
            raise KeyboardInterrupt
        return run(self, actor, trained, stop)

    monkeypatch.setattr(evaluate.Evaluator, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        peerage.train(Endless, exp_name="cut", **settings)
    monkeypatch.setattr(evaluate.Evaluator, "run", run)
    peerage.resume(peerage.load(tmp_path / "cut", env=Endless))
    for name in ("metrics.csv", "advice.csv", "evaluations.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole.folder / name).read_bytes(), name
    monkeypatch.setattr(evaluate.Evaluator, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        peerage.train(Endless, exp_name="cut", overwrite=True, **settings)
    monkeypatch.setattr(evaluate.Evaluator, "run", run)
    peerage.resume(peerage.load(tmp_path / "cut", env=Endless), max_eval_steps=9)
    table = peerage.load(tmp_path / "cut").evaluations
    assert table.groupby("step")["length"].max().tolist() == [20, 20, 9, 9]
    evaluated = evaluate_perturbed(whole.folder, parse_cases(["observation_noise=0.1"]), 1, env=Endless, max_steps=7)
    assert {row.clean for row in evaluated.rows} == {7.0}


# --- success that is known in some episodes only ------------------------------------------------------------------


class SometimesTold(Guess):
    """Reports success in the last step of its longer episodes only."""

    def __init__(self, value=True):
        super().__init__(0)
        self.value = value

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.tells = self.left > 9
        return found

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"is_success": self.value} if truncated and self.tells else {}


def test_success_known_in_some_episodes_is_unknown_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # with reports
    settings = {"n_peers": 2, "total_timesteps": 60, "eval_freq": 30, "n_eval_episodes": 4, "threads": 1,
                "net_arch": (8,), "use_tensorboard": True, "log_dir": str(tmp_path), "learning_starts": 10}  # fmt: skip
    run = peerage.train(SometimesTold, exp_name="some", **settings)
    known = run.evaluations["success"].notna()
    assert 0 < known.sum() < len(known) and (run.evaluations["success"][known] == 1).all()
    line = "the environment reported success in "
    assert capsys.readouterr().out.count(line) == 1
    page = (run.folder / "report.html").read_text()
    assert "the success rate is unknown" in page and "Success in evaluations" not in page
    assert not (run.folder / "figures" / "evaluation_success.png").exists()
    events = b"".join(path.read_bytes() for path in (run.folder / "tensorboard").iterdir())
    assert b"evaluation/return/replica-0/member-0" in events and b"evaluation/success" not in events
    with pytest.raises(UserError, match=r"reports success in \d+ of 24 evaluation episodes only, so that its rate is"):
        compare([str(run.folder)], metric="success")
    row = evaluate_perturbed(run.folder, parse_cases(["observation_noise=0.1"]), 4, env=SometimesTold).rows[0]
    assert row.clean_success is None and row.perturbed_success is None


def test_scalars_of_success_stop_at_the_first_unknown_one_also_after_a_resume(tmp_path):
    class Log(ScalarLog):
        def scalars(self, step, values):
            found.append([name for name in values if "success" in name])

    def rows(*successes):
        return [(0, "member-0", e, 1.0, 9, success, "alone") for e, success in enumerate(successes)]

    found, name = [], "evaluation/success/replica-0/member-0"
    log, table = Log(), CsvLog(tmp_path)
    for step, successes in enumerate([(1.0, 0.0), (1.0, None), (1.0, 1.0)]):
        log.on_evaluations(step, rows(*successes))
        table.on_evaluations(step, rows(*successes))
    assert found == [[name], [], []]
    resumed = Log()
    resumed.on_start(RunInfo(tmp_path, "Room-v6", ("dqn",), ("member-0",), ("member-0",), 1, 9, 2, {}, resumed=True))
    resumed.on_evaluations(3, rows(1.0, 1.0))
    assert found[-1] == []


@pytest.mark.parametrize("value", [0.7, 2, "yes", np.array([True])])
def test_another_value_of_success_is_unknown_and_gives_one_warning(value, monkeypatch):
    monkeypatch.setattr(success, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [success.success_of({"is_success": value}) for _ in range(3)] == [None] * 3
        assert success.success_of({"success": None}) is None and success.success_of({}) is None
        assert success.success_of({"success": value, "is_success": np.True_}) is True
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 2 and texts[0].startswith(f"the environment reports info['is_success'] = {value!r}: success")
    assert "info['success']" in texts[1]
    for known in (True, False, 1, 0, 1.0, np.float32(0), np.array(1)):
        assert success.success_of({"success": known}) is bool(known)


def test_an_evaluation_can_be_stopped():
    for actor in (Remembers(), InTurn()):
        answers = iter([False, False, True])
        evaluator = Evaluator([EnvMaker(Guess, {"right": 0})], [[1, 2]])
        assert evaluator.run(actor, 0, lambda answers=answers: next(answers)) is None
        assert len(evaluator.run(actor)) == 2


# --- together ---------------------------------------------------------------------------------------------------

CASES = {
    "td": {"advice": AdviceConfig(trust="td")},
    "deferred": {"advice": AdviceConfig(trust="td"), "learner": replace(SMALL.learner, train_freq=(7,))},
    "in-context": {"advice": AdviceConfig(trust="in-context", byzantine_members=("1:random",))},
    "hybrid": {"advice": AdviceConfig(trust="hybrid"), "advisers": ("noise:expert", "turncoat")},
    "transformer": {"advice": AdviceConfig(trust="transformer", follow_across_episodes=True), "replicas": 1},
    "dropped": {"perturb": {"dropped_advice": 0.4, "action_noise": 0.1}, "advisers": ("convert", "colluding:a")},
    "uniform": {"advice": AdviceConfig(choice="uniform", switch_ratio=1), "n_epochs": 6, "epoch_length": 50},
    "sac": {"env": "Pendulum-v1", "advisers": ("random", "constant"), "n_peers": 3,
            "learner": replace(SMALL.learner, algorithm=("sac", "td3", "sac"), use_sde=(True, False, False))},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_training_is_the_same_with_and_without_evaluations_together(case, tmp_path, same):
    """Every bit of the metrics, of the advice, of the evaluations alone, and of the final state: networks, trust,
    buffers, generators."""
    config = replace(SMALL, **CASES[case])
    alone = replace(config, run=replace(config.run, eval_modes=("alone",)))
    one = peerage.train(config=config, log_dir=str(tmp_path), exp_name="one").folder
    two = peerage.train(config=alone, log_dir=str(tmp_path), exp_name="two").folder
    for name in ("metrics.csv", "advice.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert read_evaluations(one).equals(read_evaluations(two))
    both = read_evaluations(one, mode=None)
    members = config.n_peers * config.replicas
    assert both.groupby("mode").size().tolist() == [4 * 2 * members] * 2
    (_, a, _), (_, b, _) = load_latest(one), load_latest(two)
    for state in (a, b):
        state["runner"].pop("offsets")  # evaluations.csv has other lengths
    same(a, b)


def test_advice_of_an_expert_increases_the_return_of_episodes_together(tmp_path):
    """Its follower reaches every goal together with it from the first step on, and alone it does not."""
    config = replace(SMALL, n_peers=1, replicas=3, advisers=("expert",), total_timesteps=100,
                     advice=AdviceConfig(only_follow_others=True))  # fmt: skip
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run")
    assert list(run.evaluations.columns)[-2:] == ["mode", "target"]
    lines = (run.folder / "evaluations.csv").read_text().splitlines()
    assert lines[0] == "step,replica,member,episode,return,length,success,mode,target"
    assert [line.rsplit(",", 2)[1] for line in lines[1:7]] == ["alone"] * 6
    assert [line.rsplit(",", 2)[1] for line in lines[7:13]] == ["together"] * 6
    by_mode = run.evaluations.groupby("mode")
    assert by_mode["success"].mean()["together"] == 1 > by_mode["success"].mean()["alone"]
    together = by_mode["return"].mean()["together"]
    assert together > by_mode["return"].mean()["alone"] + 10
    # The episodes are those of the evaluation alone: the expert reaches the goals that the seeds give
    env, best = make_env("Room-v6", {}), []
    for seed in (seed for seeds in episode_seeds(config, 2) for seed in seeds):
        obs, _ = env.reset(seed=seed)
        distance = 5 * (abs(obs[0] - obs[2]) + abs(obs[1] - obs[3]))
        best.append(50 - (distance - 1) - 0.001 * (distance - 1))
    rows = run.evaluations[run.evaluations["mode"] == "together"]
    assert rows["return"].tolist() == pytest.approx(best * 2, abs=1e-4)


@pytest.mark.parametrize("sharing", ["none", "dropped"])
def test_without_advice_together_is_alone(sharing, tmp_path):
    """Without sharing, and with all advice dropped."""
    quiet = {"advice": AdviceConfig(sharing="none"), "advisers": ()} if sharing == "none" else {}
    config = replace(SMALL, **quiet, perturb={} if quiet else {"dropped_advice": 1.0})
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run")
    modes = [read_evaluations(run.folder, mode).drop(columns="mode") for mode in ("alone", "together")]
    assert len(modes[0]) == 4 * 8 and modes[0].equals(modes[1])


def test_a_resumed_run_evaluates_as_an_uninterrupted_one(tmp_path, monkeypatch):
    config = replace(SMALL, run=replace(SMALL.run, checkpoint_freq=150))
    whole = peerage.train(config=config, log_dir=str(tmp_path), exp_name="whole").folder
    rows = evaluate.Evaluator.run

    def fail(self, actor, trained, stop):
        if trained == 200 and not actor.parallel:
            raise RuntimeError("power cut")
        return rows(self, actor, trained, stop)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(evaluate.Evaluator, "run", fail)
        peerage.train(config=config, log_dir=str(tmp_path), exp_name="run")
    assert read_evaluations(tmp_path / "run", None)["step"].max() == 100  # no half evaluation
    again = peerage.resume(tmp_path / "run").folder
    for name in ("metrics.csv", "advice.csv", "evaluations.csv"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


class Clock:
    """An adviser that records every step that it observes; the record belongs to the class, so that copies share it."""

    stateless = False
    told: list[int]

    def at(self, step):
        type(self).told.append(step)

    def suggest(self, obs, asker, episode_start, rng):
        return rng.integers(4, size=len(obs))


def test_the_step_does_not_advance_in_an_evaluation_together(begin):
    """Advisers with a clock, schedules of choices and the environments are those of the last step of training."""
    Clock.told = []
    config = replace(SMALL, advisers=(), replicas=1, total_timesteps=60)
    trainer = begin(config, steps=40, advisers=[Clock()])
    assert Clock.told == list(range(1, 41))
    members, modes = trainer.names[: trainer.N], ("alone", "together")
    evaluations = Evaluations(evaluator_of(trainer), trainer.group, trainer.sharing, members, modes)
    assert len(evaluations.rows(trainer.step)) == 8
    assert set(Clock.told[40:]) == {40} and len(Clock.told) == 40 + 2 * 50  # two episodes of 50 steps
    trainer.advance()
    assert Clock.told[-1] == 41


def test_the_last_evaluation_is_one_with_advice_even_if_advice_ends_with_the_run(tmp_path):
    config = replace(SMALL, n_peers=1, replicas=1, advisers=("expert",), total_timesteps=100, epoch_length=50,
                     advice=AdviceConfig(only_follow_others=True, max_peer_epochs=2))  # fmt: skip
    run = peerage.train(config=config, log_dir=str(tmp_path), exp_name="run")
    last = run.evaluations[(run.evaluations["mode"] == "together") & (run.evaluations["step"] == 100)]
    assert last["success"].tolist() == [1, 1]


def test_a_copy_of_the_advice_shares_the_members_and_nothing_else(begin):
    trainer = begin(SMALL, steps=60)
    copied = sharing_copy(trainer.sharing, trainer.group)
    assert copied.group is trainer.group and copied.signals
    for name, signal in copied.signals.items():
        assert signal is not trainer.sharing.signals[name] and signal.group is trainer.group
    counts, queries = trainer.sharing.counts.copy(), trainer.sharing.queries.copy()
    assert len(evaluator_of(trainer).run(TogetherActor(trainer.group, copied, trainer.step))) == 8
    assert (copied.counts.sum(axis=1) == counts.sum(axis=1) + 2 * 50 / 10).all()  # chosen every ten steps
    assert (trainer.sharing.counts == counts).all() and (trainer.sharing.queries == queries).all()


def test_an_adviser_that_cannot_be_copied_is_named(tmp_path):
    class Stubborn:
        copies = itertools.count()

        def __deepcopy__(self, memo):
            if next(self.copies) >= 2:  # after the copies of the replicas
                raise TypeError("cannot pickle a network connection")
            return Stubborn()

        def suggest(self, obs, asker, episode_start, rng):
            return np.zeros(len(obs), np.int64)

    with pytest.raises(UserError, match=r"needs advisers and trust that can be copied: .*network connection"):
        peerage.train(config=SMALL, advisers=[Stubborn()], log_dir=str(tmp_path))


def test_evaluate_plays_alone_regardless_of_the_modes_of_the_run(tmp_path):
    run = peerage.train(config=replace(SMALL, total_timesteps=100), log_dir=str(tmp_path), exp_name="run")
    table = run.evaluate(2)
    last = run.evaluations[(run.evaluations["step"] == 100) & (run.evaluations["mode"] == "alone")]
    pandas.testing.assert_frame_equal(table, last.reset_index(drop=True), rtol=1e-6)  # columns, types and order, too
    some = run.evaluate(1, seed=5, members=[1], max_eval_steps=7)
    assert some["length"].tolist() == [7, 7]
    assert some[["replica", "member", "episode"]].values.tolist() == [[0, "member-1", 0], [1, "member-1", 0]]
    assert run.config.env == "Room-v6" and run.config.learner.gamma == (0.99,)  # resolved, with all defaults


# --- tables and settings ----------------------------------------------------------------------------------------

ROWS = [(0, "member-0", 0, 1.5, 9, 1.0, "alone"), (0, "member-0", 0, 7.0, 9, 0.0, "together")]


def test_readers_take_the_episodes_alone(tmp_path):
    log = CsvLog(tmp_path)
    log.on_evaluations(100, ROWS)
    assert read_evaluations(tmp_path)["return"].tolist() == [1.5]
    assert read_evaluations(tmp_path, "together")["return"].tolist() == [7.0]
    assert read_evaluations(tmp_path, None)["mode"].tolist() == ["alone", "together"]
    path = tmp_path / "evaluations.csv"
    path.write_text(path.read_text().replace("together", "apart"))
    with pytest.raises(UserError, match=r"evaluations\.csv is damaged: mode at step 100 is 'apart', not"):
        read_evaluations(tmp_path)


def test_a_table_from_before_the_column_is_read_and_continued(tmp_path):
    old = "step,replica,member,episode,return,length,success\n0,0,member-0,0,1.5,9,1\n"
    (tmp_path / "evaluations.csv").write_text(old)
    assert read_evaluations(tmp_path)["mode"].tolist() == ["alone"]
    log = CsvLog(tmp_path)
    offsets = log.offsets()
    log.on_evaluations(100, ROWS[:1])
    assert (tmp_path / "evaluations.csv").read_text() == old + "100,0,member-0,0,1.5,9,1\n"
    log.truncate(offsets)
    log.on_evaluations(200, ROWS[:1])
    assert read_evaluations(tmp_path)["step"].tolist() == [0, 200]
    log.truncate(None)  # from the beginning: with the new header
    log.on_evaluations(0, ROWS)
    assert read_evaluations(tmp_path, None)["mode"].tolist() == ["alone", "together"]


def test_scalars_and_the_display_keep_the_modes_apart():
    found = {}

    class Log(ScalarLog):
        def scalars(self, step, values):
            found.update(values)

    Log().on_evaluations(100, ROWS)
    assert found["evaluation/return/replica-0/member-0"] == 1.5
    assert found["evaluation_together/return/replica-0/member-0"] == 7.0
    out = Console(file=io.StringIO(), color_system=None)
    display = Display(1, out)
    display.on_start(RunInfo(None, "Room-v6", ("dqn",), ("member-0",), ("member-0",), 1, 1000, 0, {}))
    display.on_evaluations(100, ROWS)
    assert display.returns == {"member-0": 1.5}
    assert "step 100: evaluation 1.500, together 7.000" in out.file.getvalue().splitlines()


@pytest.mark.parametrize("modes", [(), ("together",), ("alone", "alone")])
def test_modes_that_are_refused(modes):
    with pytest.raises(UserError, match="--eval-modes must be alone, with or without together and test"):
        check(replace(SMALL, run=replace(SMALL.run, eval_modes=modes)))


def test_success_of_a_training_by_any_step(tmp_path):
    """The random walk of an untrained member passes the goal of a small room more often than it ends on it."""
    found = {}
    for rule in ("last", "any"):
        run = replace(SMALL.run, success=rule)
        config = replace(SMALL, env="Room-v3", n_peers=1, replicas=4, advisers=(), run=run, total_timesteps=100)
        table = peerage.train(config=config, log_dir=str(tmp_path), exp_name=rule).evaluations
        found[rule] = table["success"]
        assert table[(table["success"] == 1) & (table["return"] < 0)].empty  # a success has been paid
        if rule == "any":
            assert ((table["return"] > 0) == (table["success"] == 1)).all()
    assert (found["any"] >= found["last"]).all()


def test_each_replica_has_its_own_start_states():
    """Members of a replica have the same, and so have runs with the same seed; replicas and seeds have others."""
    config = Config(n_peers=2, replicas=2)
    first, again, second, third = episode_seeds(config, 2)
    assert first == again == [SEED, SEED + 1] and second == third and second[0] % 1000 == SEED % 1000
    many = [replace(config, seed=seed, n_peers=1, replicas=9) for seed in range(5)]
    every = [seeds[0] for one in many for seeds in episode_seeds(one, 2)]
    assert len(set(every)) == 45 and max(every) < 2**31
    shared = replace(config, seed=3, run=replace(config.run, eval_starts="shared"))
    assert episode_seeds(shared, 2) == [first] * 4


def test_runs_of_earlier_versions_keep_their_start_states(tmp_path):
    (tmp_path / "config.yaml").write_text("env: Room-v6\nrun: {eval_freq: 10}\n")
    assert RunFolder(tmp_path).resolved().run.eval_starts == "shared"
    assert Config().run.eval_starts == "by-replica"
