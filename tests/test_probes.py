"""The advisers that test trust (`turncoat`, `regional:a`, ...), and the statistics of the choices in their runs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import trust_counts as counts
from benchmarks import trust_probes
from benchmarks.trust_counts import Replica
from peerage.config.file import load, validate
from peerage.config.flags import Parser, add_flags, override, train_flags
from peerage.config.presets import preset_names
from peerage.envs import scripted
from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.learners.defaults import resolve_advice
from peerage.sharing.adviser import replica_generator
from peerage.sharing.advisers import make_adviser
from peerage.sharing.probes import Turning, turn_step
from peerage.training.trainer import Trainer

RNG = np.random.default_rng(0)
ROOM, LANDER = check_env_id("Room-v21", {}), check_env_id("LunarLander-v3", {})
CONTINUOUS = check_env_id("LunarLander-v3", {"continuous": True})
OBS = {
    "Room-v21": np.random.default_rng(1).integers(0, 21, (400, 4)).astype(np.float32) / np.float32(20),
    "LunarLander-v3": np.random.default_rng(1).normal(0, 0.5, (400, 8)).astype(np.float32),
}


def suggest(adviser, obs):
    b = len(obs)
    return adviser.suggest(obs, np.arange(b) % 2, np.zeros(b, bool), RNG)


def sides(spec):
    """What the expert and the adversary of an environment suggest for OBS."""
    expert = scripted.expert_for(spec.id, spec)(OBS[spec.id], RNG)
    if spec.id == "Room-v21":
        return expert, scripted.room_adversary(OBS[spec.id], RNG)
    return expert, scripted.opposite(spec.id, spec.action_space, expert)


# --- advisers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [ROOM, LANDER, CONTINUOUS])
def test_turncoat_and_convert_change_at_the_same_step(spec):
    obs, (good, bad) = OBS[spec.id], sides(spec)
    assert (good != bad).any()
    turncoat, convert = make_adviser("turncoat", spec), make_adviser("convert", spec)
    for adviser in (turncoat, convert):
        adviser.begin(replica_generator(7, 3, 2), 1000)
    turn = turncoat.turn
    assert turn == convert.turn == turn_step(replica_generator(7, 3, 2), 1000)
    for step in (1, turn - 1, turn, turn + 1, 1000):
        turncoat.at(step)
        convert.at(step)
        early = step < turn
        np.testing.assert_array_equal(suggest(turncoat, obs), good if early else bad)
        np.testing.assert_array_equal(suggest(convert, obs), bad if early else good)
        assert set(turncoat.role(obs)) == {1 if early else -1}
        assert set(convert.role(obs)) == {-1 if early else 1}


def test_the_step_of_the_change_is_uniform_between_40_and_60_percent():
    turns = np.array([turn_step(replica_generator(0, r, 2), 100) for r in range(4000)])
    # 40 to 60 steps come before it: the turn is one of the steps 41 to 61, each with the same probability
    steps, times = np.unique(turns, return_counts=True)
    assert steps.tolist() == list(range(41, 62))
    expected = 4000 / 21
    assert ((times - expected) ** 2 / expected).sum() < 45.3  # chi square with 20 degrees of freedom, p = 0.001
    replicas = {turn_step(replica_generator(0, r, 2), 16_000) for r in range(5)}
    assert len(replicas) == 5 and all(6401 <= turn <= 9601 for turn in replicas)
    assert turn_step(replica_generator(0, 0, 2), 16_000) != turn_step(replica_generator(1, 0, 2), 16_000)
    # Without an integer between 40% and 60%: the first one above 40%
    assert [turn_step(RNG, total) for total in (1, 2, 4)] == [2, 2, 3]


def test_the_step_of_the_change_is_part_of_the_state():
    before, after = make_adviser("negated:turncoat", ROOM), make_adviser("negated:turncoat", ROOM)
    before.begin(replica_generator(0, 0, 2), 1000)
    before.at(700)
    after.begin(replica_generator(9, 9, 2), 90_000)
    after.load_state(json.loads(json.dumps(before.state())))
    assert isinstance(after.inner, Turning) and after.inner == before.inner
    assert set(after.role(OBS["Room-v21"])) == {1}  # negated, after the turn
    with pytest.raises(RuntimeError, match="begin"):
        suggest(make_adviser("turncoat", ROOM), OBS["Room-v21"])


@pytest.mark.parametrize("spec", [ROOM, LANDER, CONTINUOUS])
def test_regional_is_an_expert_in_its_region_only(spec):
    obs, (good, bad) = OBS[spec.id], sides(spec)
    in_a = obs[:, 2] < 0.5 if spec.id == "Room-v21" else obs[:, 0] < 0
    a, b = make_adviser("regional:a", spec), make_adviser("regional:b", spec)
    assert 100 < in_a.sum() < 300 and a.stateless and b.stateless
    for adviser, here in ((a, in_a), (b, ~in_a)):
        actions = suggest(adviser, obs)
        np.testing.assert_array_equal(actions[here], good[here])
        np.testing.assert_array_equal(actions[~here], bad[~here])
        assert actions.dtype == good.dtype
        assert adviser.role(obs).tolist() == np.where(here, 1, -1).tolist()
        one_by_one = np.concatenate([suggest(adviser, row[None]) for row in obs[:50]])
        np.testing.assert_array_equal(one_by_one, actions[:50])
    edge = np.array([[0.5, 0.5, 0.5, 0], [0.5, 0.5, 0.45, 0]], np.float32)
    assert make_adviser("regional:a", ROOM).role(edge).tolist() == [-1, 1]


def test_roles_of_the_other_advisers(monkeypatch):
    obs = OBS["Room-v21"][:3]
    roles = {"expert": 1, "adversary": -1, "random": 0, "constant:1": 0, "negated:expert": -1, "negated:adversary": 1}
    roles |= {"negated:random": 0, "negated:negated:expert": 1}
    for name, role in roles.items():
        assert make_adviser(name, ROOM).role(obs).tolist() == [role] * 3, name
    where = make_adviser("regional:a", ROOM).role(obs)
    assert (make_adviser("negated:regional:a", ROOM).role(obs) == -where).all()

    def drawing(obs, rng):
        return rng.integers(4, size=len(obs))

    monkeypatch.setattr(scripted, "_experts", {"Room-v21": drawing})
    assert not make_adviser("regional:a", ROOM).stateless  # every replica needs its own generator


def test_environments_without_an_expert_and_malformed_names():
    cart = check_env_id("CartPole-v1", {})
    for name in ("turncoat", "convert", "regional:a"):
        with pytest.raises(UserError, match=r"for CartPole-v1; there is one for: Room, Marked.*, metaworld/TASK, "):
            make_adviser(name, cart)
    for name in ("regional:c", "regional", "regional:"):
        with pytest.raises(UserError, match="write regional:a or regional:b"):
            make_adviser(name, ROOM)
    with pytest.raises(UserError, match="write turncoat"):
        make_adviser("turncoat:2", ROOM)


def test_an_expert_without_regions(monkeypatch):
    cart = check_env_id("CartPole-v1", {})
    monkeypatch.setattr(scripted, "_experts", {"CartPole-v1": lambda obs, rng: (obs[:, 2] > 0).astype(np.int64)})
    with pytest.raises(UserError, match=r"there are no regions for CartPole-v1; .* for: Room, LunarLander") as caught:
        make_adviser("regional:b", cart)
    assert "\n" not in str(caught.value)
    turncoat = make_adviser("turncoat", cart)  # its adversary is the opposite of the expert
    turncoat.begin(replica_generator(0, 0, 2), 10)
    obs = np.array([[0, 0, 1, 0], [0, 0, -1, 0]], np.float32)
    assert suggest(turncoat, obs).tolist() == [1, 0]
    turncoat.at(10)
    assert suggest(turncoat, obs).tolist() == [0, 1]


# --- presets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("probe-")])
def test_a_preset_builds_and_steps(name):
    config = load(name)
    assert config.advice.shuffle_advisers and (config.n_peers, config.replicas, config.steps) == (2, 5, 16_000)
    short = replace(
        config,
        replicas=2,
        total_timesteps=200,
        learner=replace(config.learner, learning_starts=(20,), buffer_size=(1000,)),
        advice=replace(config.advice, choice="uniform"),
    )
    trainer = Trainer(validate(short))
    trainer.begin()
    for _ in range(200):
        trainer.advance()
    trainer.close()
    for r in (0, 1):  # the statistics reproduce the turn
        mine = [d.adviser for d in trainer.sharing.fixed_advisers.advisers if r * 2 in d.rows]
        turns = {adviser.turn for adviser in mine if isinstance(adviser, Turning)}
        expected = {turn_step(replica_generator(config.seed, r, 2), 200)}
        assert turns == (expected if name.endswith("turncoat") else set())
    shares: dict[str, list[float]] = {"advice/right": [], "advice/wrong": []}
    for _, _, metric, value in trainer.sharing.metrics():
        if metric in shares:
            shares[metric].append(value)
    # About 18 uniform choices of each learner, among two learners and two or three advisers
    for values in shares.values():
        assert len(values) == 4 and all(0 <= v <= 1 for v in values) and sum(values) > 0


TRUST = {  # of each variant: choice, trust, use_trust, use_critic, use_agent_values
    "uniform": ("uniform", "td", True, True, True),
    "paper": ("paper", "td", True, True, True),
    "td": ("standardised", "td", True, False, False),
    "critic": ("standardised", "td", False, True, False),
    "td-critic": ("standardised", "td", True, True, False),
    "hybrid": ("paper", "hybrid", True, True, True),
    "in-context": ("standardised", "in-context", True, False, False),
    "in-context-critic": ("standardised", "in-context", True, True, False),
}


def test_the_variants_are_flags_of_peerage_train():
    parser = Parser(prog="peerage train")
    parser.add_argument("--config")
    add_flags(parser, train_flags())
    assert len({e.name for e in trust_probes.EXPERIMENTS}) == 2 * 3 * 8
    for experiment in trust_probes.EXPERIMENTS:
        given = vars(parser.parse(experiment.settings(4, 9000)))
        config = validate(override(load(given.pop("config")), given))
        advice = resolve_advice(config.advice)
        told = (advice.choice, advice.trust, advice.use_trust, advice.use_critic, advice.use_agent_values)
        assert told == TRUST[experiment.variant], experiment.name
        assert (config.replicas, config.steps, advice.shuffle_advisers) == (4, 9000, True)
        assert config.env == trust_probes.ENVS[experiment.env] and len(config.advisers) in (2, 3)
        if experiment.variant == "hybrid":  # its warm-up is as long as the run
            assert (config.trust_transformer.warmup_steps, config.trust_transformer.use_phase_aware) == (9000, True)
            assert (advice.lr, advice.trust_buffer_size, advice.use_advantage) == (0.95, 100, False)


# --- numbers --------------------------------------------------------------------------------------------------

ADVICE = """step,replica,asker,adviser,chosen
100,0,member-0,member-0,2
100,0,member-0,expert,6
100,0,member-0,adversary,2
100,0,member-1,member-0,0
100,0,member-1,expert,0
100,0,member-1,adversary,0
200,0,member-0,member-0,0
200,0,member-0,expert,10
200,0,member-0,adversary,0
200,0,member-1,member-0,1
200,0,member-1,expert,1
200,0,member-1,adversary,2
"""
METRICS = """step,replica,member,name,value
100,0,member-0,advice/right,0.6
100,0,member-0,advice/wrong,0.2
200,0,member-0,advice/right,1
200,0,member-0,advice/wrong,0
200,0,member-1,advice/right,0.25
200,0,member-1,advice/wrong,0.5
100,0,member-0,train/return,10
100,0,member-0,train/episodes,3
200,0,member-0,train/return,50
200,0,member-0,train/episodes,1
200,0,member-1,train/return,40
200,0,member-1,train/episodes,2
"""


def frame(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_decisions_by_hand():
    counted = counts.decisions(frame(ADVICE), frame(METRICS))
    rows = {key: list(row) for key, row in zip(counted.index, counted.to_numpy())}
    assert rows[0, "member-0", 100] == pytest.approx([10, 6, 2])
    assert rows[0, "member-1", 100] == [0, 0, 0]  # no choices, no shares
    assert rows[0, "member-0", 200] == pytest.approx([10, 10, 0])
    assert rows[0, "member-1", 200] == pytest.approx([4, 1, 2])
    with pytest.raises(ValueError, match="no advice/right"):
        counts.decisions(frame(ADVICE), frame(METRICS).iloc[6:])


def replica(right, wrong, choices=None, *, every=250, **other) -> Replica:
    """One learner; `right`, `wrong` and `choices` (10 by default) are the counts of each row."""
    choices = [10] * len(right) if choices is None else choices
    curves = [np.array([[0, *np.cumsum(row)]], float) for row in (choices, right, wrong)]
    fields = {"episodes": [np.zeros((0, 3))], "alone": np.array([1.0]), "queries": 1.0} | other
    return Replica(np.arange(len(right) + 1) * every, *curves, **fields)


def test_share_by_hand():
    one = replica([0, 10, 5, 3], [10, 0, 5, 1])
    assert counts.share(one, "right", (250, 750)) == pytest.approx(15 / 20)
    assert counts.share(one, "wrong", (0, 1000)) == pytest.approx(16 / 40)
    # From the middle of the second row to the middle of the third: 5 of 5 and 2.5 of 5
    assert counts.share(one, "right", (375, 625)) == pytest.approx(7.5 / 10)
    assert np.isnan(counts.share(one, "right", (500, 1001))) and np.isnan(counts.share(one, "right", (-1, 500)))
    two = Replica(one.steps, *(np.array([a[0], b]) for a, b in [
        (one.choices, [0, 0, 0, 0, 20.0]), (one.right, [0, 0, 0, 0, 20.0]), (one.wrong, [0.0] * 5),
    ]), [], np.array([1.0]), 1.0)  # fmt: skip
    assert counts.share(two, "right", (0, 750)) == pytest.approx(0.5)  # a learner without choices has no share
    assert counts.share(two, "right", (0, 1000)) == pytest.approx((18 / 40 + 1) / 2)  # learners have equal weights


def test_the_row_that_contains_the_change():
    # 8 of 10 right until the turn after 1,100 steps, then none: the row has 8 * 100/250 = 3.2
    one = replica([8, 8, 8, 8, 3.2, 0, 0, 0], [0, 0, 0, 0, 6, 10, 10, 10])
    cut = counts.with_turn(one, 1101)
    assert cut.turn == 1101 and cut.steps.tolist() == [0, 250, 500, 750, 1000, 1100, 1250, 1500, 1750, 2000]
    assert counts.share(cut, "right", (1100, 1250)) == pytest.approx(0)
    assert counts.share(cut, "wrong", (1100, 1250)) == pytest.approx(1)  # 6 of the 6 choices after the turn
    assert counts.share(cut, "right", (1000, 1100)) == pytest.approx(0.8)
    assert counts.share(cut, "right", (0, 2000)) == counts.share(one, "right", (0, 2000))
    # The extrapolation of the steps before the turn is limited by the row's count: 2 right, not 3.2
    few = counts.with_turn(replica([8, 8, 8, 8, 2, 0], [0] * 6), 1101)
    assert counts.share(few, "right", (1000, 1100)) == pytest.approx(2 / 4)
    # A turn at the end of a row splits no row
    assert counts.with_turn(one, 1001).steps.tolist() == one.steps.tolist()


def test_reaction_by_hand():
    # Windows from the turn (after 500 steps): 500-1000 5 of 20, 750-1250 11 of 20 but 11 > 9, so it has reacted
    one = counts.with_turn(replica([9, 9, 1, 4, 7, 9], [1, 1, 9, 6, 3, 1]), 501)
    assert counts.reaction(one) == (750, False)
    # Exactly half is not more than half, and 1,000-1,500 is the first with more: 16 of 20
    half = counts.with_turn(replica([9, 9, 1, 3, 7, 9], [1, 1, 9, 6, 3, 1]), 501)
    assert counts.reaction(half) == (1000, False)
    never = counts.with_turn(replica([9, 9, 1, 2, 3, 4], [1, 1, 9, 6, 3, 1]), 501)
    assert counts.reaction(never) == (1000, True)
    assert trust_probes.reaction_cell([one, half, never]).startswith("917 [")  # (750 + 1,000 + 1,000) / 3
    assert trust_probes.reaction_cell([one, half, never]).endswith("at least: 1 of 3 not within the run")
    assert trust_probes.reaction_cell([never] * 3) == "not within the run (1000 steps and more)"
    assert trust_probes.reaction_cell([half] * 3) == "1000 [1000, 1000]"


def test_training_return_by_hand():
    rows = [counts.ended(frame(METRICS).query(f"member == 'member-{i}'")) for i in (0, 1)]
    assert rows[0].tolist() == [[100, 3, 10], [200, 1, 50]] and rows[1].tolist() == [[200, 2, 40]]
    one = replica([5, 5], [5, 5], every=100, episodes=rows)
    assert counts.training(one, (0, 200)) == pytest.approx(((3 * 10 + 50) / 4 + 40) / 2)  # (20 + 40) / 2
    assert counts.training(one, (0, 100)) == 10
    assert np.isnan(counts.training(one, (100, 300)))


def test_over_time_is_aligned_at_the_change():
    early = counts.with_turn(replica([10] * 4 + [0] * 4, [0] * 4 + [10] * 4), 1001)
    late = counts.with_turn(replica([10] * 5 + [0] * 3, [0] * 5 + [10] * 3), 1251)
    x, values = counts.over_time([early, late], lambda r, w: counts.share(r, "right", w), 250)
    assert x.tolist() == [-875, -625, -375, -125, 125, 375, 625]
    assert values.tolist() == [[1, 1]] * 4 + [[0, 0]] * 3
    x, values = counts.over_time([replica([10, 0], [0, 10])], lambda r, w: counts.share(r, "wrong", w), 500)
    assert x.tolist() == [250] and values.tolist() == [[0.5]]


def test_intervals():
    # 1, 2, 3: standard error 1 / sqrt 3, t(0.975, 2) = 4.3027
    assert trust_probes.interval([1, 2, 3]) == "2.0 [-0.5, 4.5]"
    assert trust_probes.interval([1, float("nan"), 3]) == "–"
    assert trust_probes.interval([0.01, -0.02, -0.02]) == "0.0 [-0.1, 0.0]"  # -0.01 -+ 0.043: no minus zero


# --- the script -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_from_training_to_page(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(trust_probes.Experiment, "root", tmp_path / "runs")
    monkeypatch.setattr(trust_probes, "PAGE", tmp_path / "docs" / "page.md")
    monkeypatch.setattr(trust_probes, "ENVS", {"room": "Room-v21"})
    experiment = trust_probes.Experiment("room", "turncoat", "td")
    monkeypatch.setattr(trust_probes, "EXPERIMENTS", [experiment])
    assert "--overwrite" not in experiment.command(3, 1500)
    assert trust_probes.train(experiment, 3, 1500) == (True, "room-turncoat-td: trained")
    assert trust_probes.train(experiment, 3, 1500) == (True, "room-turncoat-td: already done")
    assert "with 3 replicas of 1500 steps; remove" in trust_probes.train(experiment, 5, 16_000)[1]

    replicas = counts.read(experiment.folder)
    assert [r.turn for r in replicas] == [turn_step(replica_generator(0, i, 2), 1500) for i in range(3)]
    assert len({r.turn for r in replicas}) == 3
    for r in replicas:
        assert r.steps[0] == 0 and r.steps[-1] == 1500 and r.turn - 1 in r.steps
        assert (np.diff(r.choices) >= 0).all() and (r.right + r.wrong <= r.choices + 1e-6).all()
        assert r.choices.shape[0] == 2 and r.choices[:, -1].min() >= 100  # 1,000 steps with advice, each tenth
        # A choice asks 3 others, each of the 9 steps in between at most the followed one
        assert 0 < r.queries < (3 + 9) / 10 and len(r.alone) == 1

    trust_probes.page()
    text = (tmp_path / "docs" / "page.md").read_text()
    assert (tmp_path / "docs" / "transformer-trust-probes-room.png").exists()
    assert "<!-- probes-room -->" in text and "steps to react" in text and "| td |" in text
    trust_probes.page()
    assert (tmp_path / "docs" / "page.md").read_text() == text  # a second call changes nothing
    (experiment.folder / "DONE").unlink()
    with pytest.raises(SystemExit, match="nothing was written"):
        trust_probes.page()
    assert "room-turncoat-td" in capsys.readouterr().out
    assert "--overwrite" in experiment.command(3, 1500)  # an interrupted run starts again


def test_a_failed_run_is_reported(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(trust_probes.Experiment, "root", tmp_path)
    well, line = trust_probes.train(trust_probes.Experiment("room", "plain", "td"), 0, 100)
    assert not well and line.startswith("room-plain-td: peerage: --replicas must be") and "\n" not in line
