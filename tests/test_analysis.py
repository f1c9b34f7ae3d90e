"""The analysis of a run folder: measures against numbers computed by hand, and undefined measures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_runs import make_run

from peerage.cli import main
from peerage.errors import UserError
from peerage.runs import CsvLog, RunFolder, tables
from peerage.runs.concentration import entropy, gini
from peerage.statistics import advice_log, measures
from peerage.statistics.analysis import analyse
from peerage.statistics.measures import kendall, movement, spearman, trust_shares

nan = math.nan


# --- measures -------------------------------------------------------------------------------------


def test_gini_of_counts():
    # Pairs differ by 1, 2, 3, 1, 2, 1 = 10, twice; 2 K Σ = 80.
    assert gini([4, 2, 1, 3]) == pytest.approx(20 / 80)
    assert gini([5, 5, 5]) == 0
    assert gini([0, 0, 0, 8]) == pytest.approx(3 / 4)
    assert gini([1, 3]) == pytest.approx(1 / 4) == gini([10, 30])
    assert gini([1, nan, 3]) == pytest.approx(1 / 4)  # a missing adviser
    assert math.isnan(gini([0, 0])) and math.isnan(gini([7])) and math.isnan(gini([]))
    with pytest.raises(ValueError, match="negative"):
        gini([-1, 2])


def test_trust_shares_hold_for_negative_trust():
    # (−3, −1): mean −2, standard deviation 1, so e^−1 : e^1.
    shares = trust_shares([-3.0, -1.0])
    assert shares[1] == pytest.approx(math.e / (math.e + 1 / math.e)) and shares.sum() == pytest.approx(1)
    trust = np.array([-5.0, -1.0, 0.0, 7.0])
    assert trust_shares(trust) == pytest.approx(trust_shares(30 * trust - 1000))
    assert trust_shares([-2.0, -2.0, -2.0]).tolist() == pytest.approx([1 / 3] * 3)
    assert trust_shares([0.1, 0.1, 0.1]).tolist() == pytest.approx([1 / 3] * 3)  # not exactly equal to their mean
    # Half of it to each of two: G = (e − 1/e) / (2 (e + 1/e)).
    assert gini(shares) == pytest.approx(math.tanh(1) / 2)


def test_entropy_of_choices():
    # Shares 1/4, 1/4, 1/2: (1/4) 2 ln 4 + (1/2) ln 2 = 1.5 ln 2.
    assert entropy([1, 1, 2]) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert entropy([3, 3, 3, 3]) == pytest.approx(1) and entropy([0, 9, 0]) == 0
    assert entropy([1, 1, 0, 0]) == pytest.approx(0.5)
    assert math.isnan(entropy([5])) and math.isnan(entropy([0, 0])) and math.isnan(entropy([]))


def test_rank_correlation_with_negative_trust_ties_and_gaps():
    # Ranks 1 2 3 4 and 1 3 2 4: 1 − 6·2 / (4·15).
    assert spearman([-5.0, -1.0, 0.5, 9.0], [10, 20, 15, 40]) == pytest.approx(0.8)
    assert spearman([-1, -2, -3], [1, 2, 3]) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 and 1 2 3: 1.5 / sqrt(1.5 · 2).
    assert spearman([-7, -7, 0], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3))
    assert spearman([-5, nan, -1, 0.5, 9], [10, 99, 20, 15, 40]) == pytest.approx(0.8)
    assert math.isnan(spearman([1, 2], [1, 2]))  # would always be ±1
    assert math.isnan(spearman([1, 2, 3], [4, 4, 4])) and math.isnan(spearman([2, 2, 2], [1, 2, 3]))


def test_correlation_over_time_ignores_common_growth():
    # Both grow by 100, but at each step trust and performance are opposed.
    pairs = [([1, 2, 3], [3, 2, 1]), ([101, 102, 103], [103, 102, 101])]
    assert measures.pooled_spearman(pairs) == pytest.approx(-1)
    assert np.corrcoef(np.ravel([p[0] for p in pairs]), np.ravel([p[1] for p in pairs]))[0, 1] > 0.99
    # Ranks about their mean: (−1, 0, 1)(−1, 0, 1) = 2, then (−1, 0, 1)(−1, 1, 0) = 1, so 3 / sqrt(4 · 4). Two
    # advisers do not count, nor does trust that is equal for all.
    pairs = [([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [2, 3, 2.5]), ([1, 2], [2, 1]), ([200] * 3, [1, 2, 3])]
    assert measures.pooled_spearman(pairs) == pytest.approx(3 / 4)
    assert math.isnan(measures.pooled_spearman([]))


def test_rank_stability():
    # −3 < −2 < −1 becomes −3 < −1 < −2: two pairs keep their order, one swaps.
    assert kendall([-3, -2, -1], [-3, -1, -2]) == pytest.approx(1 / 3)
    # (1, 1, 2) and (1, 2, 3): two pairs agree, one is tied in the first: 2 / sqrt(2 · 3).
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))
    assert math.isnan(kendall([1], [1])) and math.isnan(kendall([200, 200], [1, 2]))
    rows = [[200, 200, 200], [-3, -2, -1], [-3, -1, -2], [-3, -1, -2]]
    assert measures.rank_stability(rows) == pytest.approx((1 / 3 + 1) / 2)
    assert math.isnan(measures.rank_stability([[1, 2]])) and math.isnan(measures.rank_stability(np.empty((0, 3))))


def test_ranks_agree_with_scipy():
    rng = np.random.default_rng(0)
    for size in (3, 5, 16):
        for _ in range(10):
            x, y = rng.integers(-4, 4, (2, size)).astype(float)
            if np.ptp(x) and np.ptp(y):
                assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
                assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_movement_is_relative_to_the_spread_over_advisers():
    rows = np.array([[-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    # Spreads sqrt(8/3) and sqrt(2/3), their mean 1.5 sqrt(2/3); moves 1, 0, 1.
    expected = [1 / (1.5 * math.sqrt(2 / 3)), 0, 1 / (1.5 * math.sqrt(2 / 3))]
    assert movement(rows) == pytest.approx(expected)
    for changed in (-rows, 50 * rows, rows - 1000):
        assert movement(changed) == pytest.approx(expected)
    # Initial values are equal for all: the jump away from them does not count.
    assert movement(np.vstack([[200.0] * 3, [200.0] * 3, rows])) == pytest.approx(expected)
    assert movement([[-1, 1], [-1, 1], [-1, 1]]).tolist() == [0, 0]
    assert np.isnan(movement([[1.0], [2.0]])).all() and np.isnan(movement([[1.0, 2.0]])).all()
    assert np.isnan(movement([[5, 5], [6, 6]])).all() and len(movement(np.empty((0, 3)))) == 3
    # The third adviser has no value in the first row: only its change from row 2 to row 3 counts.
    late = [[0, 2, nan], [0, 2, 1], [0, 2, 4]]
    s1, s2 = np.std([0, 2, 1]), np.std([0, 2, 4])
    assert movement(late)[2] == pytest.approx(3 / ((s1 + s2) / 2))


def test_moving_average_counts_episodes():
    # Rows of 1, 2 and 2 episodes. The last 3 episodes at the end: two of 5, one of 2.
    average = measures.moving_average([1.0, 2.0, 5.0], [1, 2, 2], 3)
    assert average == pytest.approx([1.0, 5 / 3, 4.0])
    assert measures.moving_average([], [], 10).tolist() == []


# --- a run ----------------------------------------------------------------------------------------


def write(folder: Path, advice: list[dict[str, Any]], metrics=(), evaluations=()) -> Path:
    """A run folder from rows: advice with its step, metrics and evaluations as the files have them."""
    run = RunFolder.create(folder, "run", "x", {"env": "Room-v21"})
    run.unlock()
    log = CsvLog(run.path)
    for row in advice:
        log.on_advice(row["step"], [{key: value for key, value in row.items() if key != "step"}])
    for step, *rest in metrics:
        log.on_metrics(step, [tuple(rest)])
    for step, *rest in evaluations:
        log.on_evaluations(step, [(*rest, "alone")])
    log.close()
    return run.path


NAMES = ("member-0", "member-1", "member-2", "expert")


def rows_of(value: Callable[[int, int, str, str], dict[str, Any]], steps=(100, 200), replicas=2, names=NAMES):
    """A row for every step, replica, asker and adviser; `value` gives the columns."""
    askers = [name for name in names if name.startswith("member-")]
    return [
        {"step": s, "replica": r, "asker": i, "adviser": j, "chosen": 0, **value(s, r, i, j)}
        for s in steps
        for r in range(replicas)
        for i in askers
        for j in names
    ]


def performance(replicas: int = 2):
    """member-0 is best, member-2 worst; two episodes each. Returns before the last fifth differ."""
    pairs = [(r, k) for r in range(replicas) for k in range(3)]
    late = [(200, r, f"member-{k}", e, 30.0 - 10 * k + e, 9, None) for r, k in pairs for e in (0, 1)]
    return [(100, r, f"member-{k}", 0, 10.0 * k, 9, None) for r, k in pairs] + late


def test_correlation_of_trust_and_performance(tmp_path):
    # Trust falls with the member's number, below zero; in replica 1 member-1 alone has the opposite order.
    def value(s, r, i, j):
        order = -10.0 - NAMES.index(j)
        wrong = r == 1 and i == "member-1"
        return {"trust_td": (-1 if wrong else 1) * order if s == 200 else 200.0, "score": 1.0}

    path = write(tmp_path, rows_of(value), evaluations=performance())
    found = analyse(path)
    m = found.measures["correlation"]
    assert found.trust == "trust_td"
    assert m.values.tolist() == [[pytest.approx(1)] * 3, [pytest.approx(x) for x in (1, -1, 1)]]
    assert float(m.overall().mean) == pytest.approx((1 + 1 / 3) / 2) and m.overall().kind == "min–max"
    assert float(m.of("member-1").mean) == pytest.approx(0)
    # At step 100 all trust was 200: only step 200 counts.
    assert found.measures["correlation_over_time"].values == pytest.approx(m.values)
    # The expert has the least trust and the highest return: ranks 4 3 2 1 and 3 2 1 4, so 1 − 6 (1 + 1 + 1 + 9) / 60.
    given = analyse(path, returns={"expert": 86.0}).measures["correlation"]
    assert given.values[0, 0] == pytest.approx(-0.2)


def test_the_latest_row_up_to_an_evaluation_counts(tmp_path):
    def value(s, r, i, j):
        return {"trust_td": float(NAMES.index(j)) * (1 if s == 150 else -1)}

    path = write(tmp_path, rows_of(value, steps=(150, 201)), evaluations=performance())
    # The evaluation at 100 has no trust yet; at 200 the row of 150 (trust against performance) is the latest.
    assert analyse(path).measures["correlation_over_time"].values[0, 0] == pytest.approx(-1)
    assert analyse(path).measures["correlation"].values[0, 0] == pytest.approx(1)


def test_too_few_known_performances_are_named(tmp_path):
    names = ("member-0", "member-1", "expert", "adversary")
    path = write(tmp_path, rows_of(lambda s, r, i, j: {"trust_td": 1.0}, names=names), evaluations=performance())
    found = analyse(path)
    m = found.measures["correlation"]
    assert np.isnan(m.values).all() and "needs 3 advisers with known performance, there are 2" in m.undefined
    assert "(unknown: expert and adversary)" in found.table()
    assert found.to_dict()["measures"]["correlation"]["overall"]["mean"] is None
    equal = analyse(path, {"expert": 1.0}).measures["correlation"]
    assert equal.undefined == "trust or performance is the same for all advisers"
    for returns in ({"member-0": 1.0}, {"nobody": 1.0}, {"expert": nan}):
        with pytest.raises(UserError, match="its fixed advisers are expert and adversary"):
            analyse(path, returns)


def test_the_column_of_trust():
    one = pd.DataFrame({"step": [1, 1], "replica": 0, "asker": "member-0", "adviser": ["member-0", "expert"]})
    blank = one.assign(**{name: nan for name in tables.COLUMNS["advice.csv"] if name not in one})
    assert advice_log.trust_in_use(blank)[0] == ""
    td = blank.assign(score=[1.0, 2.0], trust_td=[-4.0, 2.0])
    assert advice_log.trust_in_use(td)[0] == "trust_td"
    # norm(td) = (−1, 0.5), norm(attention) = (0.2, −1), ω = 0.25.
    hybrid = td.assign(trust_attention=[0.1, -0.5], confidence=0.5, omega=0.25)
    name, _, values = advice_log.trust_in_use(hybrid)
    assert name == "hybrid" and values.tolist() == pytest.approx([0.25 * 0.2 - 0.75, -0.25 + 0.75 * 0.5])
    # A row without attention is TD trust alone for any ω; all zeros stay zeros.
    second = td.assign(step=2, confidence=0.5, omega=0.25)
    both = pd.concat([hybrid, second], ignore_index=True)
    assert advice_log.trust_in_use(both).values.tolist()[2:] == pytest.approx([-1, 0.5])
    zeros = hybrid.assign(trust_td=0.0, trust_attention=0.0)
    assert advice_log.trust_in_use(zeros).values.tolist() == [0, 0]
    assert advice_log.trust_in_use(hybrid.assign(omega=nan))[0] == "trust_attention"
    assert advice_log.trust_in_use(blank.assign(score=1.0, in_context=[nan, 3.0]))[0] == "in_context"
    assert advice_log.trust_in_use(blank.assign(score=1.0, agent_value=2.0))[0] == "score"


def test_choices_are_counted_per_asker(tmp_path):
    names = ("member-0", "member-1", "expert")
    chosen = {  # asker: choices of member-0, member-1, expert, in each of two rows
        "member-0": (1, 0, 3),
        "member-1": (0, 4, 0),
    }
    path = write(
        tmp_path, rows_of(lambda s, r, i, j: {"chosen": chosen[i][names.index(j)]}, replicas=1, names=names)
    )
    found = analyse(path)
    m = found.measures
    assert found.counts.loc["member-0"].tolist() == [2, 0, 6]
    assert found.shares.loc["member-0"].tolist() == [0.25, 0, 0.75]
    assert m["follow_gap"].values.tolist() == [[0.75, 1.0]]
    # Shares averaged over askers: 1/8, 1/2, 3/8.
    assert found.differences.to_numpy().tolist() == [[0, -0.375, -0.25], [0.375, 0, 0.125], [0.25, -0.125, 0]]
    # (0, 2, 6): pairs 2 + 6 + 4 = 12, twice, over 2·3·8; (0, 0, 8): 2/3; together (2, 8, 6): 6 + 4 + 2.
    assert m["gini_choices"].values[0] == pytest.approx([0.5, 2 / 3])
    assert m["gini_choices_all"].values[0] == pytest.approx([24 / 96])
    by_hand = (0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / math.log(3)
    assert m["entropy"].values[0] == pytest.approx([by_hand, 0])
    assert found.entropies.index.tolist() == [100, 200]
    assert found.entropies["member-0"].tolist() == pytest.approx([by_hand] * 2)
    assert m["gini_trust"].undefined == "no trust was computed" and "Not defined" in found.table()


def test_late_entropy_is_of_the_last_fifth(tmp_path):
    # Ten rows: always itself up to 80, then alternately.
    def value(s, r, i, j):
        return {"chosen": int(j == ("expert" if s == 100 else "member-0"))}

    names = ("member-0", "expert")
    path = write(tmp_path, rows_of(value, steps=range(10, 101, 10), replicas=1, names=names))
    found = analyse(path)
    assert found.measures["entropy_late"].values[0, 0] == pytest.approx(1)
    assert found.measures["entropy"].values[0, 0] == pytest.approx(entropy([9, 1]))
    assert found.entropies["member-0"].tolist() == [0] * 10 and found.entropies.index[-1] == 100


def test_stability_leaves_out_the_start(tmp_path):
    # Steps 10 … 100; up to 20 values jump, then member-0's trust changes by 1 per row and member-1's does not.
    def value(s, r, i, j):
        if s <= 20:
            return {"trust_td": 1000.0 * s * (j == "member-0") + 7}
        return {"trust_td": -5.0 - (s // 10) % 2 if j == "member-0" else -9.5}

    names = ("member-0", "member-1")
    path = write(tmp_path, rows_of(value, steps=range(10, 101, 10), replicas=1, names=names))
    found = analyse(path)
    # Distances 3.5 and 4.5 in turn: spreads (half of it) 1.75 and 2.25, their mean 2; a move of 1 is half of it.
    assert found.moves.loc["member-0"].tolist() == pytest.approx([0.5, 0])
    assert found.measures["movement"].values[0].tolist() == pytest.approx([0.25, 0.25])
    assert found.measures["rank_stability"].values[0].tolist() == [1, 1]


def test_returns_first_last_and_recent(tmp_path):
    rows = []
    for step, value, episodes in ((10, 1.0, 2), (20, 3.0, 2), (60, 5.0, 30), (90, 8.0, 10), (100, 10.0, 5)):
        rows += [(step, 0, "member-0", "train/return", value), (step, 0, "member-0", "train/episodes", episodes)]
    m = analyse(write(tmp_path, [], metrics=rows)).measures
    got = {key: float(x.values[0, 0]) for key, x in m.items()}
    assert got["return_mean"] == pytest.approx((2 + 6 + 150 + 80 + 50) / 49)
    assert got["return_last_10"] == pytest.approx((5 * 10 + 5 * 8) / 10)
    assert got["return_last_50"] == pytest.approx(got["return_mean"])  # only 49 so far
    assert got["return_first"] == pytest.approx(2) and got["return_last"] == pytest.approx(130 / 15)
    assert got["improvement"] == pytest.approx(130 / 15 - 2)
    assert "first fifth" in m["return_first"].title


def test_long_runs_compare_100k_steps(tmp_path):
    rows = [(k * 50_000, 0, "member-0", "train/return", float(k)) for k in range(1, 5)]
    m = analyse(write(tmp_path, [], metrics=rows)).measures
    # Of 200,000 steps the first rows are 1 and 2, the last 3 and 4; no episode counts, so rows count alike.
    assert m["return_first"].values[0, 0] == 1.5 and m["return_last"].values[0, 0] == 3.5
    assert "100k steps" in m["improvement"].title


def test_logged_metrics_are_reported(tmp_path):
    rows = [(s, 0, "member-1", "advice/right", s / 100) for s in (10, 50, 90, 100)]
    rows += [(100, 0, "member-1", "trust/loss", 0.5), (100, 0, "member-1", "trust/omega", 0.2)]
    m = analyse(write(tmp_path, [], metrics=rows)).measures
    assert m["right_whole_run"].values[0, 0] == pytest.approx(0.625) and m["right"].values[0, 0] == pytest.approx(0.95)
    assert m["trust_loss"].values[0, 0] == 0.5 and m["omega"].askers == ("member-1",) and "wrong" not in m


@pytest.mark.filterwarnings("error")
def test_intervals_are_over_the_replicas_that_have_a_value(tmp_path):
    names = ("member-0", "expert")
    counts = [(4, 0), (2, 2), (1, 3), (0, 0)]  # replica 3 made no choice
    path = write(
        tmp_path, rows_of(lambda s, r, i, j: {"chosen": counts[r][names.index(j)]}, replicas=4, names=names)
    )
    gap = analyse(path).measures["follow_gap"].overall()
    # 1, 0, 0.5: mean 0.5, standard deviation 0.5, t(2) = 4.303.
    assert float(gap.mean) == 0.5 and gap.replicas == 3 and gap.kind == "95% t-interval"
    assert float(gap.high) == pytest.approx(0.5 + 4.303 * 0.5 / math.sqrt(3), rel=1e-3)


@pytest.mark.filterwarnings("error")
def test_one_adviser_and_an_empty_run(tmp_path):
    rows = rows_of(lambda s, r, i, j: {"chosen": 5, "trust_td": -1.0}, names=("member-0",))
    found = analyse(write(tmp_path / "one", rows))
    for key in ("gini_choices", "gini_choices_all", "gini_trust", "entropy", "follow_gap"):
        assert found.measures[key].undefined == "there is a single adviser"
    assert found.measures["correlation"].undefined and found.measures["movement"].undefined
    empty = analyse(write(tmp_path / "empty", []))
    assert empty.measures == {} and empty.advisers == () and "nothing to analyse yet" in empty.table()
    json.dumps(empty.to_dict(), allow_nan=False)
    (tmp_path / "no-run").mkdir()
    for path in (tmp_path / "no-run", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="run"):
            analyse(path)


@pytest.mark.filterwarnings("error")
def test_a_run_as_json_and_as_a_table(tmp_path):
    found = analyse(make_run(tmp_path, 3, ("expert",)), {"expert": 86})
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["trust"] == "trust_td" and data["replicas"] == 3 and data["advisers"][-1] == "expert"
    entry = data["measures"]["gini_choices"]
    assert entry["overall"]["interval"] == "95% t-interval" and len(entry["values"]) == 3
    assert entry["overall"]["low"] < entry["overall"]["mean"] < entry["overall"]["high"]
    assert set(entry["by_asker"]) == {"member-0", "member-1", "member-2"}
    assert data["counts"]["member-0"]["expert"] == int(found.counts.loc["member-0", "expert"])
    assert len(data["entropies"]) == 10  # one per window
    lines = found.table().splitlines()
    assert lines[0] == "run: 3 askers, 4 advisers, 3 replicas, 10,000 steps"
    assert max(map(len, lines[:-2])) <= 110 and "member-2" in lines[2]
    # In the artificial run members improve and the expert is trusted most.
    assert data["measures"]["improvement"]["overall"]["low"] > 0
    wide = analyse(make_run(tmp_path, 6, (), replicas=1, rows=4, name="wide"))
    assert "lowest and highest asker" in wide.table() and "member-5" not in wide.table()


def test_the_report_command_prints_the_table_of_runs_with_advice(tmp_path, capsys):
    listens = make_run(tmp_path, 2, ("expert",), replicas=2, rows=4, name="listens")
    silent = make_run(tmp_path, 1, (), replicas=1, rows=2, name="silent")
    itself = write(tmp_path / "itself", rows_of(lambda s, r, i, j: {"chosen": 5, "score": 1.0}, names=("member-0",)))
    assert main(["report", *map(str, (silent, listens, itself))]) == 0
    places = {run: f"figures: {run / 'figures'}\nreport:  {run / 'report.html'}\n" for run in (silent, listens, itself)}
    table = analyse(listens).table()
    assert "Gini of choices" in table
    assert capsys.readouterr().out == f"{places[silent]}{places[listens]}\n{table}\n{places[itself]}"
    assert all((run / "report.html").is_file() for run in places)
