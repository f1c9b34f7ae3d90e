"""The dependence of the final return on each hyper-parameter."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from peerage.api import with_settings
from peerage.config import Config
from peerage.config.file import to_dict, validate
from peerage.envs.vector import Episode
from peerage.errors import UserError
from peerage.runs.folder import RunFolder
from peerage.runs.tables import CsvLog
from peerage.statistics.sensitivity import _by_value, _FinishedRun, axis_of, sensitivity


def written(folder, returns, done=True, **settings) -> str:
    """A run of one member whose replicas end with `returns`; the first evaluation has other returns."""
    plain = {"env": "Room-v6", "n_peers": 1, "replicas": len(returns), "n_eval_episodes": 2}
    config = validate(with_settings(Config(), {**plain, **settings}))
    made = RunFolder.create(folder.parent, folder.name, folder.name, to_dict(config))
    log = CsvLog(made.path)
    for step, offset in ((10, 50.0), (20, 0.0)):
        episodes = [Episode(0, value + offset + d, 5, None) for value in returns for d in (-1, 1)]
        rows = [(k // 2, "member-0", k % 2, e.return_, e.length, None, "alone") for k, e in enumerate(episodes)]
        log.on_evaluations(step, rows)
    log.close()
    if done:
        made.finish("DONE", "finished", 20)
    made.unlock()
    return folder.name


def manifest(folder, runs) -> None:
    lines = [{"env": "Room-v6", "folder": name, "axes": axes} for name, axes in runs]
    (folder / "sweep.yaml").write_text(json.dumps({"name": "mine", "runs": lines}))


def test_sensitivity_by_hand(tmp_path):
    runs = [
        (written(tmp_path / "a", [1, 2, 3]), {"gamma": 0.9, "tau": 1}),
        (written(tmp_path / "b", [4, 5, 9]), {"gamma": 0.99, "tau": 1}),
        (written(tmp_path / "c", [3, 3, 3]), {"gamma": 0.9, "tau": 0.5}),
        (written(tmp_path / "d", [6, 7, 8]), {"gamma": 0.99, "tau": 0.5}),
        (written(tmp_path / "e", [9], done=False), {"gamma": 0.5, "tau": 0.5}),
        ("missing", {"gamma": 0.1, "tau": 1}),
    ]
    manifest(tmp_path, runs)
    found = sensitivity(tmp_path)
    gamma, tau = found.axes
    # The three replicas at gamma 0.9: 2, 2.5, 3 (over both tau); at 0.99: 5, 6, 8.5. So 3, 3.5, 5.5 apart: 4, and
    # squares about it 1 + 0.25 + 2.25. At tau 1: 2.5, 3.5, 6; at 0.5: 4.5, 5, 5.5. So 2, 1.5, -0.5 apart: 1, and 3.5
    assert (gamma.name, gamma.effect, tau.effect) == ("gamma", pytest.approx(4), pytest.approx(1))
    assert gamma.paired and tau.paired and gamma.replicas == tau.replicas == 3  # six and twelve runs' rows
    half = stats.t.ppf(0.975, 2) * math.sqrt(3.5 / 2 / 3)  # of two values: the paired t-interval, 3.29
    assert (gamma.low, gamma.high) == pytest.approx((4 - half, 4 + half))
    assert (tau.low, tau.high) == pytest.approx((1 - half, 1 + half))
    # Between: 3 replicas (2^2 + 2^2), 3 (0.5^2 + 0.5^2); within: 3.5 / 2
    assert gamma.eta_squared == pytest.approx(24 / 25.75) and tau.eta_squared == pytest.approx(1.5 / 3.25)
    assert gamma.chance == tau.chance == pytest.approx(1 / 3)
    assert (gamma.best.value, gamma.best.replicas, gamma.best.mean) == (0.99, 3, pytest.approx(6.5))
    half = stats.t.ppf(0.975, 2) * np.std([5, 6, 8.5], ddof=1) / math.sqrt(3)
    assert (gamma.best.low, gamma.best.high) == pytest.approx((6.5 - half, 6.5 + half))
    assert tau.best is None and tau.levels[0].value == 0.5
    assert len(found.notes) == 2 and "not finished" in found.notes[0] and "missing" in found.notes[1]
    assert [(line["hyper-parameter"], line["best"]) for line in found.records()] == [
        ("gamma", "0.99"),
        ("tau", "not significant"),
    ]
    assert found.table()["return"][0] == pytest.approx(6.5)
    assert found.records()[0]["return"] == pytest.approx(6.5) and found.records()[1]["return"] is None


def of(*samples, seeds=None):
    """An axis whose values have these returns; each with a separate seed, or with `seeds`."""
    named = enumerate(samples)
    seeds = seeds or range(len(samples))
    return axis_of("x", "y", [(k, {(seeds[k], r): v for r, v in enumerate(sample)}) for k, sample in named])


def test_different_seeds_at_every_value():
    found = of([1, 2, 3], [5, 6, 7, 6], [3, 3, 6])
    # Means 2, 6, 4, of all ten 4.2: between 3 2.2^2 + 4 1.8^2 + 3 0.2^2 = 27.6; within 2 + 2 + 6
    assert not found.paired and found.replicas == 10 and found.effect == pytest.approx(4)
    assert found.eta_squared == pytest.approx(27.6 / 37.6) and found.chance == pytest.approx(2 / 9)
    theirs = stats.tukey_hsd([1, 2, 3], [5, 6, 7, 6], [3, 3, 6]).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low[1, 0], theirs.high[1, 0]), rel=1e-6)
    assert found.verdict == "1"
    # The same numbers with paired replicas: their common part does not count as noise
    apart, same = of([1, 20, 40], [2, 22, 41]), of([1, 20, 40], [2, 22, 41], seeds=[0, 0])
    assert apart.verdict == "not significant" and apart.eta_squared < 0.01 and apart.chance == pytest.approx(1 / 5)
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 1], ddof=1) / math.sqrt(3)
    assert same.low == pytest.approx(4 / 3 - half) and same.chance == pytest.approx(1 / 3)
    # One replica is missing at the other value: not paired
    assert not of([1, 20, 40], [2, 22, 41, 60], seeds=[0, 0]).paired


def test_reasons_for_no_best_value():
    for samples, told, eta in [
        (([1, 2, 3], [1, 2, 3]), "no difference", None),
        (([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]), "no difference", 0),  # equal means up to rounding
        (([1, 2], [3, 5]), "too few replicas", 6.25 / 6.5),  # 2 and 3 apart: 4 x 1.25^2, and (0.5^2 + 0.5^2) / 2
        (([1.0], [2.0]), "too few replicas", 1),
        (([1, 2, 3], [4, 5, 6]), "no variance", 1),  # a constant difference of 3
        (([1, 2, 9], [4, 5, 6]), "not significant", None),
    ]:
        found = of(*samples, seeds=[0, 0])
        assert found.verdict == told and found.best is None
        assert not found.low or found.low < 0 < found.high
        if eta is not None:
            assert found.eta_squared == pytest.approx(eta, abs=1e-12)
    assert math.isnan(of([1, 2, 3], [1, 2, 3], seeds=[0, 0]).eta_squared)


def test_repeated_replicas_change_nothing(tmp_path):
    """Three seeds, two values of `a`, four of `b`, which has no effect: the same result as with one value of `b`."""
    rng, folders = np.random.default_rng(0), {}
    for many in (1, 4):
        (tmp_path / str(many)).mkdir()
        folders[many] = []
    for a in (0, 1):
        for seed in range(3):
            value = float(rng.normal(10, 3))
            for b in range(4):
                for many in (1, 4) if b == 0 else (4,):
                    name = written(tmp_path / str(many) / f"{a}{b}{seed}", [value], seed=seed)
                    folders[many].append((name, {"a": a, "b": b}))
    for many, runs in folders.items():
        manifest(tmp_path / str(many), runs)
    (alone,), both = sensitivity(tmp_path / "1").axes, sensitivity(tmp_path / "4").axes
    assert both[0] == alone and alone.replicas == 3 and alone.chance == pytest.approx(1 / 3)
    assert (both[1].name, both[1].verdict, both[1].effect) == ("b", "no difference", 0)
    line = sensitivity(tmp_path / "4").records()[1]
    assert (line["eta squared"], line["low"], line["return"]) == (None, None, None)


@pytest.mark.parametrize("paired", [True, False])
def test_expected_eta_squared_of_a_parameter_without_effect(paired):
    """`a` (three values) has no effect, `b` (two) has one, and the seeds differ: eta squared of `a` is on average the
    value that is reported as chance, and `a` has a best value in one of twenty sweeps."""
    rng, etas, named, n = np.random.default_rng(1), [], 0, 3000
    for _ in range(n):
        of_seed, runs = rng.normal(0, 3, 12), []
        for a in range(3):
            units = range(4) if paired else range(4 * a, 4 * a + 3 + a // 2)  # 3, 3 and 4 replicas
            itself = {k: of_seed[k] + rng.normal() for k in units}
            runs += [_FinishedRun({"a": a, "b": b}, {(k, 0): itself[k] + 5 * b for k in units}) for b in (0, 1)]
        found = axis_of("x", "a", _by_value("a", runs))
        assert found.paired == paired and found.chance == pytest.approx(1 / 4 if paired else 2 / 9)
        etas.append(found.eta_squared)
        named += found.best is not None
    assert abs(np.mean(etas) - found.chance) < 4 * np.std(etas) / math.sqrt(n)
    assert abs(named / n - 0.05) < 4 * math.sqrt(0.05 * 0.95 / n)


def test_sensitivity_of_run_folders(tmp_path):
    for name, returns, settings in [
        ("a", [1, 2], {"gamma": 0.9, "net_arch": ((16,),)}),
        ("b", [1, 2], {"gamma": 0.99, "net_arch": ((32,),), "seed": 3}),
        ("c", [7, 8], {"env": "Room-v21", "gamma": 0.9}),
    ]:
        written(tmp_path / name, returns, **settings)
    found, names = sensitivity([tmp_path / name for name in "abc"]), ("gamma", "net_arch")
    assert {(axis.env, axis.name) for axis in found.axes} == {("Room-v6", f"learner.{x}") for x in names}
    assert all(axis.effect == axis.eta_squared == 0 and axis.low is None and not axis.best for axis in found.axes)
    assert all(not axis.paired and axis.replicas == 4 for axis in found.axes)  # the seed is not an axis
    assert len(found.notes) == 1 and "always change together" in found.notes[0]
    with pytest.raises(UserError, match="nothing to compare"):
        sensitivity([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(UserError, match="no sweep"):
        sensitivity(tmp_path)
    (tmp_path / "sweep.yaml").write_text('{"runs": [{"folder": "a"}]}')
    with pytest.raises(UserError, match="manifest"):
        sensitivity(tmp_path)
