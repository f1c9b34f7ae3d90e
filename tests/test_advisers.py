"""Fixed advisers: the base class, objects of the user, their inputs, their memory and their names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import peerage
from peerage.api import with_settings
from peerage.config import AdviceConfig, Config
from peerage.config.adviser_words import FORMS, AdviserWord, parse_adviser
from peerage.envs.make import check_env_id, make_env
from peerage.errors import UserError
from peerage.learners.transition import HostTransition
from peerage.runs.listeners import Listener
from peerage.sharing import advisers as built_in
from peerage.sharing.adviser import as_adviser, overrides
from peerage.sharing.advisers import adviser_copies, make_adviser, register_adviser
from peerage.sharing.byzantine import Negated, Noisy
from peerage.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_reports")

ROOM = check_env_id("Room-v6", {})


def room(**settings) -> Config:
    """Two learners on Room-v6 with small networks; whom a member follows is drawn uniformly."""
    base = {"env": "Room-v6", "n_peers": 2, "learning_starts": 0, "train_freq": 4, "verbose": 0, "threads": 1}
    small = {"net_arch": ((16,),), "buffer_size": 500, "batch_size": 8, "total_timesteps": 300, "eval_freq": 0}
    return with_settings(Config(), base | small | {"choice": "uniform", "log_freq": 50} | settings)


class Remembers(peerage.Adviser):
    """Keeps the sum of the rewards and the number of steps of each asker; its suggestions depend on both."""

    def __init__(self) -> None:
        self.memory: dict[str, list[float]] = {}  # row -> steps, sum of rewards, number of episodes
        self.asked: list[np.ndarray] = []
        self.told: list[tuple[HostTransition, np.ndarray]] = []

    def suggest(self, obs, rows, first, rng):
        self.asked.append(rows)
        sums = [sum(self.memory.get(str(row), [0.0])) for row in rows]
        return np.floor(np.abs(sums)).astype(int) % 4

    def observe(self, transition, rows):
        self.told.append((transition, rows))
        for row, reward, first in zip(rows.tolist(), transition.rewards.tolist(), transition.first.tolist()):
            steps, total, episodes = self.memory.get(str(row), [0, 0.0, 0])
            self.memory[str(row)] = [steps + 1, total + reward, episodes + first]

    def state(self):
        return self.memory

    def load_state(self, state):
        self.memory = {row: list(values) for row, values in state.items()}


class RemembersForAll(Remembers):
    shared = True


class Forgets(Remembers):
    """Does not restore its memory."""

    def load_state(self, state):
        pass


class Answers:
    """Gives the same answer every time: a number for each asker, or an object as it is."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def suggest(self, obs, rows, first, rng):
        return np.full(len(obs), self.answer) if np.isscalar(self.answer) else self.answer


# --- what an adviser is told ------------------------------------------------------------------------------------


def test_an_adviser_observes_every_step_of_its_askers_regardless_of_the_followed_adviser(begin):
    trainer = begin(room(replicas=3, learning_starts=20, follow_steps=3), advisers=[Remembers(), "random", "expert"])
    column = trainer.N  # Remembers is the first adviser after the members
    copies = [fixed.adviser for fixed in trainer.sharing.fixed_advisers.advisers[:3]]
    assert len({id(copy) for copy in copies}) == 3 and all(isinstance(copy, Remembers) for copy in copies)
    obs, first, others, asked = trainer.host_obs.copy(), np.ones(trainer.group.M, bool), 0, 0
    for step in range(1, 121):
        result = trainer.advance()
        for r, adviser in enumerate(copies):
            transition, rows = adviser.told[-1]
            assert len(adviser.told) == step and rows.tolist() == [2 * r, 2 * r + 1]
            np.testing.assert_array_equal(transition.obs, obs[rows])
            np.testing.assert_array_equal(transition.rewards, result.reward[rows])
            np.testing.assert_array_equal(transition.next_obs, result.next_obs[rows])
            np.testing.assert_array_equal(transition.terminated, result.terminated[rows])
            np.testing.assert_array_equal(transition.done, result.done[rows])
            np.testing.assert_array_equal(transition.truncated, (result.done & ~result.terminated)[rows])
            np.testing.assert_array_equal(transition.first, first[rows])
            np.testing.assert_array_equal(transition.followed, trainer.sharing.followed[rows])
            np.testing.assert_array_equal(transition.chose, trainer.sharing.chose[rows])
            assert transition.actions.shape == (2, 1)
            others += (transition.followed != column).sum()
            asked += (transition.followed == column).sum()
        obs, first = result.obs.copy(), result.done
    assert others > 200 and asked > 100
    for r, adviser in enumerate(copies):  # not asked during random steps, but it observed them
        assert len(adviser.asked) <= 100 and {int(row) for rows in adviser.asked for row in rows} <= {2 * r, 2 * r + 1}
        assert [adviser.memory[str(row)][0] for row in (2 * r, 2 * r + 1)] == [120, 120]
        assert [adviser.memory[str(row)][2] for row in (2 * r, 2 * r + 1)] == [3, 3]  # episodes of 50 steps


def test_the_actions_that_an_adviser_observes_are_those_of_the_environment(begin):
    config = room(env="Pendulum-v1", algorithm="sac", learning_starts=10)
    trainer = begin(config, steps=40, advisers=[Remembers(), Answers(50.0)])
    actions = np.concatenate([t.actions for t, _ in trainer.sharing.fixed_advisers.advisers[0].adviser.told])
    followed = np.concatenate([t.followed for t, _ in trainer.sharing.fixed_advisers.advisers[0].adviser.told])
    assert actions.shape == (80, 1) and (np.abs(actions) <= 2).all()
    assert (followed == 3).any() and (actions[followed == 3] == 2).all()  # clipped to the box


def test_one_object_with_memory_can_serve_all_replicas(begin):
    config = room(replicas=3)
    apart = begin(config, steps=100, advisers=[Remembers(), "random"])
    together = begin(config, steps=100, advisers=[RemembersForAll(), "random"])
    [shared] = [f.adviser for f in together.sharing.fixed_advisers.advisers if isinstance(f.adviser, Remembers)]
    assert len(shared.told) == 100 and all(rows.tolist() == list(range(6)) for _, rows in shared.told)
    assert shared.asked[0].tolist() == list(range(6))  # all members choose in the first step: one call for all
    copies = [f.adviser for f in apart.sharing.fixed_advisers.advisers if isinstance(f.adviser, Remembers)]
    assert [rows.tolist() for copy in copies for rows in copy.asked[:1]] == [[0, 1], [2, 3], [4, 5]]
    # Neither draws, so the members did the same
    assert shared.memory == {row: values for copy in copies for row, values in copy.memory.items()}
    np.testing.assert_array_equal(apart.sharing.counts, together.sharing.counts)


def test_copies_are_made_only_where_they_are_needed():
    given = [Remembers(), RemembersForAll(), "expert", "random", Answers(0)]
    for_replicas = adviser_copies(given, ROOM, 3)
    assert [len({id(copy) for copy in copies}) for copies in for_replicas] == [3, 1, 1, 3, 3]
    assert not any(copy is given[k] for k in (0, 1) for copy in for_replicas[k])  # the user's object stays as it is


def test_an_adviser_without_observe_receives_no_steps(begin):
    class Waits(peerage.Adviser):
        def suggest(self, obs, rows, first, rng):
            return np.zeros(len(obs), int)

    for given in (Waits(), Answers(0)):
        assert not any(overrides(as_adviser(given), hook) for hook in ("observe", "at", "role", "begin", "state"))
    trainer = begin(room(), advisers=[Waits(), "constant:1"])
    assert trainer.sharing.fixed_advisers._with_memory == [] and not trainer.sharing.fixed_advisers.has_roles


def test_an_adviser_inside_another_observes_steps_and_keeps_its_state():
    actions = ROOM.action_space
    for wrap in (lambda inner: Negated(inner, "Room-v6", actions), lambda inner: Noisy(inner, actions, 0.1)):
        outer = wrap(Remembers())
        rows = np.array([3])
        step = HostTransition(*[np.ones((1, 4))] * 2, np.ones(1), np.ones((1, 4)), *[np.ones(1, bool)] * 6)
        outer.observe(step, rows)
        assert outer.inner.told == [(step, rows)] and outer.state() == {"3": [1, 1.0, True]}
        again = wrap(Remembers())
        again.load_state(json.loads(json.dumps(outer.state())))
        assert again.inner.memory == outer.inner.memory
        assert not overrides(wrap(make_adviser("constant", ROOM)), "observe")


# --- interruption -----------------------------------------------------------------------------------------------


class Stop(Listener):
    """Interrupts the training at its first row of metrics at or after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_metrics(self, step, rows):
        if step >= self.step:
            raise KeyboardInterrupt


def plain_remembers() -> object:
    """`Remembers` as an object that is not an `Adviser`."""
    body = {name: getattr(Remembers, name) for name in ("__init__", "suggest", "observe", "state", "load_state")}
    return type("PlainRemembers", (), body)()


def test_a_resumed_run_restores_the_memory_of_an_adviser(tmp_path):
    config = room(replicas=2, checkpoint_freq=70, log_dir=str(tmp_path))
    makers = (Remembers, RemembersForAll, plain_remembers)
    whole = peerage.train(config=config, advisers=[make() for make in makers], exp_name="whole")
    with pytest.raises(KeyboardInterrupt):
        peerage.train(config=config, advisers=[make() for make in makers], exp_name="run", listeners=[Stop(100)])
    run = peerage.resume(peerage.load(tmp_path / "run", advisers=[make() for make in makers]))
    for name in ("metrics.csv", "advice.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_actions_of_members_depend_on_the_memory(begin):
    """Otherwise the comparison above could not fail."""
    trainer, found = begin(room(), steps=90, advisers=[Remembers()]), []
    for make in (Remembers, RemembersForAll, Forgets):
        other = begin(room(), advisers=[make()])
        other.load_state(trainer.state())
        found.append(b"".join(other.advance().next_obs.tobytes() for _ in range(60)))
    expected = b"".join(trainer.advance().next_obs.tobytes() for _ in range(60))
    assert [observations == expected for observations in found] == [True, True, False]


# --- objects and classes of the user ----------------------------------------------------------------------------


class Says:
    """An object with `suggest`, `state` and `load_state`, which is not an `Adviser`."""

    name = "says"

    def __init__(self) -> None:
        self.told = []

    def suggest(self, obs, asker, episode_start, rng):
        assert obs.shape == (len(asker), 4) and episode_start.dtype == bool
        self.told += asker.tolist()
        return [2] * len(obs)

    def state(self):
        return {"told": self.told}

    def load_state(self, state):
        self.told = list(state["told"])


def test_custom_environment_and_adviser(tmp_path):
    run = peerage.train(
        lambda: make_env("Room-v6", {}), advisers=[Says(), "random", "random"], n_peers=2, total_timesteps=200,
        learning_starts=10, log_freq=100, eval_freq=0, log_dir=str(tmp_path), verbose=0,
    )  # fmt: skip
    assert set(run.advice["adviser"]) == {"member-0", "member-1", "says", "random", "random-2"}
    policy, obs = run.policy(1), np.random.default_rng(0).random((7, 4), np.float32)
    assert policy(obs).tolist() == [policy(each) for each in obs] and isinstance(policy(obs[0]), int)
    for wrong in (obs[:, :3], obs[None], np.float32(0)):
        with pytest.raises(UserError, match=r"must have shape \[4\], or \[B, 4\] for a batch, got \["):
            policy(wrong)
    assert (run.folder / "report.html").exists()


def test_the_rows_of_askers_are_those_among_all_members(begin):
    trainer = begin(room(replicas=3), steps=60, advisers=[Says()])
    told = [set(fixed.adviser.state()["told"]) for fixed in trainer.sharing.fixed_advisers.advisers]
    assert told == [{0, 1}, {2, 3}, {4, 5}]


def test_every_method_of_an_object_is_called(begin):
    class All(Answers):
        calls: list[str] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__(1)

        def begin(self, rng, total_steps):
            self.calls.append(f"begin {total_steps}")

        def at(self, step):
            self.calls.append(f"at {step}")

        def role(self, obs):
            return np.ones(len(obs), int)

        def observe(self, transition, rows):
            self.calls.append(f"observe {rows.tolist()}")

    trainer = begin(room(follow_steps=1, n_peers=1), steps=20, advisers=[All()])
    assert All.calls == ["begin 300", *[call for n in range(1, 21) for call in (f"at {n}", "observe [0]")]]
    assert trainer.sharing.fixed_advisers.has_roles
    assert trainer.sharing.roles[0, 1] == trainer.sharing.counts[0, 1] > 0


class WithoutSuggest(peerage.Adviser):
    pass


class OtherParameters:
    def suggest(self, obs):
        return obs


@pytest.mark.parametrize(
    "given, says",
    [
        (object(), r"is not an adviser: it has no method suggest\(obs, rows, first, rng\)"),
        (lambda obs, rows, first, rng: rows, "is not an adviser"),
        (WithoutSuggest(), "is not an adviser"),
        (Remembers, r"an adviser is an object, not a class: pass Remembers\(\), not Remembers"),
        (OtherParameters(), r"adviser OtherParameters: suggest must take \(obs, rows, first, rng\)"),
    ],
)
def test_objects_that_are_not_advisers_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        adviser_copies([given], ROOM, 1)


def test_a_registered_factory_may_return_any_object(monkeypatch, begin):
    monkeypatch.setattr(built_in, "_registered", {})
    register_adviser("says", lambda spec: Says())
    register_adviser("remembers", lambda spec: Remembers())
    assert begin(room(advisers=("says", "noise:remembers")), steps=30).names[2:] == ["says", "noise:remembers"]
    for name in ("expert", "regional", "", "a:b", "member-7"):
        with pytest.raises(ValueError, match="cannot be an adviser's name"):
            register_adviser(name, lambda spec: Says())


# --- answers and failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [7, 0.5, np.nan, np.zeros((1, 3)), "left", None])
def test_an_adviser_with_an_invalid_answer_is_named(tmp_path, answer):
    with pytest.raises(UserError, match="adviser Answers"):
        peerage.train(config=room(log_dir=str(tmp_path)), advisers=[Answers(answer)])


def test_the_shape_of_an_answer(begin):
    """`[B, act]`, or `[B]` where an action is one number; nothing is reshaped."""
    box = {"algorithm": "sac", "n_peers": 3}
    cases = [
        ({"n_peers": 3}, [(3,), (3, 1)], [(1, 3), (4,), ()]),
        ({**box, "env": "Pendulum-v1"}, [(3,), (3, 1)], [(1, 3), (1,), (), (3, 1, 1)]),
        ({**box, "env": "LunarLanderContinuous-v3"}, [(3, 2)], [(2, 3), (6,), (3,), (1, 3, 2), (3, 3)]),
    ]
    for settings, good, bad in cases:
        for shape in good:
            begin(room(**settings), steps=1, advisers=[Answers(np.zeros(shape))])
        for shape in bad:
            with pytest.raises(UserError, match=r"must return 3 actions of shape \[3") as error:
                begin(room(**settings), steps=1, advisers=[Answers(np.zeros(shape))])
            assert ("or [3]" in str(error.value)) == ((3,) in good)
            assert str(error.value).endswith(f"got shape {list(shape)}")
    with pytest.raises(UserError, match=r"must return 3 actions of shape \[3, 1\] or \[3\], got array\(\['left'"):
        begin(room(n_peers=3), steps=1, advisers=[Answers("left")])


def test_suggestions_outside_the_box_are_clipped(begin):
    config = room(env="Pendulum-v1", algorithm="sac", choice="standardised", trust="td")
    trainer = begin(config, steps=60, advisers=[Answers(50.0)])
    recent = trainer.group.recent_transitions(torch.arange(60).expand(trainer.group.M, -1))
    followed = recent.actions[recent.followed == 2]
    assert len(followed) and (followed == 2.0).all()  # Pendulum's largest torque
    assert trainer.group.stacks[0].learner.replay.data[:, :60].abs().max() < 20


@pytest.mark.parametrize("method", ["begin", "at", "suggest", "role", "observe", "state", "load_state"])
def test_an_adviser_that_fails_is_named_with_the_method_and_the_step(begin, method):
    def fails(self, *arguments):
        raise RuntimeError("out of\nadvice")

    kind = type("Fails", (Remembers,), {method: fails})

    step = 0 if method == "begin" else 1
    with pytest.raises(UserError, match=f"adviser Fails failed in {method}, step {step}: RuntimeError: out of advice"):
        trainer = begin(room(replicas=8), steps=1, advisers=[kind()])  # some member follows it in the first step
        trainer.sharing.load_state(trainer.sharing.state())


# --- names ------------------------------------------------------------------------------------------------------


def test_every_built_in_kind_can_be_built():
    assert built_in._KINDS.keys() == FORMS.keys()


def test_names_are_parsed():
    expert = AdviserWord("expert", "expert")
    assert parse_adviser("expert") == expert
    assert parse_adviser("noise:0.25:expert") == AdviserWord("noise:0.25:expert", "noise", "", 0.25, expert)
    assert parse_adviser("noise:sign-flip:expert") == AdviserWord(
        "noise:sign-flip:expert", "noise", "", 0.5, AdviserWord("sign-flip:expert", "sign-flip", "", None, expert)
    )
    assert parse_adviser("constant:-1.5").number == -1.5 and parse_adviser("constant").number is None
    assert parse_adviser("checkpoint:runs/a:3").argument == "runs/a:3"
    assert parse_adviser("noise:2:checkpoint:runs/a:3").inner == parse_adviser("checkpoint:runs/a:3")
    assert (parse_adviser("regional:b").argument, parse_adviser("colluding:x-1").argument) == ("b", "x-1")
    assert parse_adviser("my_own") == AdviserWord("my_own", "my_own")  # it may be registered


@pytest.mark.parametrize(
    "name, says",
    [
        ("expert:", "write expert$"),
        ("turncoat:2", "write turncoat$"),
        ("constant:", "write constant or constant:NUMBER"),
        ("constant:inf", "write constant or constant:NUMBER"),
        ("regional:c", "write regional:a or regional:b"),
        ("noise:0.5:", "write noise:ADVISER or noise:SCALE:ADVISER"),
        ("noise:-1:expert", "not the name of an adviser"),
        ("colluding:", "write colluding or colluding:NAME"),
        ("checkpoint:run:x", "a member's number must follow the last colon, got 'x'"),
        ("negated:" * 17 + "expert", "nested too deeply"),
        ("-x", "not the name of an adviser: use expert, adversary"),
    ],
)
def test_malformed_names(name, says):
    with pytest.raises(UserError, match=f"^--advisers .*{says}"):
        parse_adviser(name, f"--advisers {name!r}")
    with pytest.raises(UserError, match=says):
        make_adviser(name, ROOM)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r"unknown adviser 'expertt' \(did you mean 'expert'\?\): use one of expert, "):
        make_adviser("expertt", ROOM)
    with pytest.raises(UserError, match="unknown adviser 'advrsary'"):
        make_adviser("negated:advrsary", ROOM)


def test_only_following_others_needs_another_adviser():
    """Advisers that are objects count: the configuration alone does not know them."""
    config = Config(env="Room-v6", n_peers=1, advice=AdviceConfig(only_follow_others=True), total_timesteps=20)
    with pytest.raises(UserError, match="--only-follow-others needs another adviser"):
        Trainer(config)
    Trainer(config, advisers=[Says()]).close()
