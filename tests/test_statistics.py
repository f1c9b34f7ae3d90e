"""Statistics of replicas: every function against numbers computed by hand, intervals against their nominal coverage,
estimates and bootstraps against rliable."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from peerage.statistics import intervals, measures, permutation
from peerage.statistics import tests as st

inf, nan = math.inf, math.nan
STATISTICS: tuple[st.Statistic, ...] = ("iqm", "mean", "median", "optimality_gap")


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def limits(found: st.Interval) -> tuple[float, float]:
    return found.low, found.high


# --- point estimates ------------------------------------------------------------------------------


def test_point_estimates():
    assert st.mean([1, 2, 6]) == 3 and st.median([1, 6, 2]) == 2
    assert st.iqm([1, 2, 3, 10, -50]) == 2  # 1, 2, 3 remain
    assert st.iqm([1, 2, 6]) == 3  # no value is trimmed
    assert st.iqm([8, 1, 2, 3, 4, 5, 6, 100]) == 4.5  # 3, 4, 5, 6
    assert st.optimality_gap([0.5, 1.5, 0.9], 1.0) == pytest.approx(1 - 2.4 / 3)
    assert st.optimality_gap([3, 4], 2) == 0
    tasks = [[0, 10], [2, 30], [4, 50], [6, 70]]
    # All eight values together: 4, 6, 10, 30 remain. Means of the tasks: 3 and 40.
    assert st.iqm(tasks) == 12.5 and st.median(tasks) == 21.5 and st.mean(tasks) == 21.5
    three = [[1, 5, 90], [3, 7, 10]]
    assert st.median(three) == 6  # of 2, 6, 50


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 20])
def test_iqm_is_scipys_trimmed_mean(n: int):
    x = rng(n).standard_normal((n, 3))
    assert st.iqm(x) == pytest.approx(stats.trim_mean(x, 0.25, axis=None), rel=1e-12)
    assert st.iqm(x[:, 0]) == pytest.approx(stats.trim_mean(x[:, 0], 0.25), rel=1e-12)


def test_infinite_values():
    # A replica did not reach the threshold.
    assert st.iqm([1, 2, 3, 4, inf]) == 3 and st.median([1, 2, inf]) == 2 and st.mean([1, inf]) == inf
    assert st.iqm([1, 2, 3, inf, inf]) == inf


# --- intervals ------------------------------------------------------------------------------------


def test_interval_of_the_mean():
    # s² = 2.5, standard error √(2.5 / 5), t(4) = 2.776445.
    found = st.interval([1, 2, 3, 4, 5], "mean")
    assert (found.estimate, found.level, found.method, found.n) == (3.0, 0.95, "t", 5)
    assert limits(found) == pytest.approx((3 - 2.776445 * 0.5**0.5, 3 + 2.776445 * 0.5**0.5), abs=1e-6)
    # t(4) = 2.131847 at 90%.
    assert st.interval([1, 2, 3, 4, 5], "mean", level=0.9).high == pytest.approx(3 + 2.131847 * 0.5**0.5)


@pytest.mark.parametrize(
    ("statistic", "n", "expected"),
    # Variances and covariances of normal order statistics (Sarhan and Greenberg 1956), of 5: of the second .3115, of
    # the third .2868, of 2 and 3 .2084, of 2 and 4 .1499. Of 4: .3605 and .2359 in the middle.
    [
        ("iqm", 4, 4 * (0.3605 + 0.2359) / 2),
        ("iqm", 5, 5 * (2 * 0.3115 + 0.2868 + 4 * 0.2084 + 2 * 0.1499) / 9),
        ("median", 5, 5 * 0.2868),
    ],
)
def test_calibration_finds_the_variance_of_the_iqm(statistic: st.Statistic, n: int, expected: float):
    # A variance from 200,000 samples is known to within √(2 / 200,000) = 0.3%.
    assert intervals.calibration(statistic, n, 0.95, 0)[0] == pytest.approx(expected, rel=0.012)


def test_calibration_without_trimming_is_students_t():
    assert intervals.calibration("iqm", 3, 0.95, 0) == (1, 1)


def test_interval_of_the_iqm():
    k, q = intervals.calibration("iqm", 5, 0.95, 0)
    # Winsorised 2, 2, 3, 4, 4: Yuen's 4 / (3 · 2) = 0.667 is more than k s² / n = 1.135 · 0.5.
    found = st.interval([1, 2, 3, 4, 5])
    half = 2.776445 * q * (4 / 6) ** 0.5
    assert found.method == "calibrated t" and limits(found) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    # Four of five the same: Winsorised they are all 1 and Yuen's is 0, but s² = 0.2.
    found = st.interval([1, 1, 1, 1, 0])
    half = 2.776445 * q * (k * 0.2 / 5) ** 0.5
    assert found.estimate == 1 and limits(found) == pytest.approx((1 - half, 1 + half), abs=1e-6)


def test_interval_of_the_median_and_the_optimality_gap():
    k, q = intervals.calibration("median", 5, 0.95, 0)
    half = 2.776445 * q * (k * 2.5 / 5) ** 0.5
    assert limits(st.interval([1, 2, 3, 4, 5], "median")) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    # Of 0, 1, 1: s² = 1/3, t(2) = 4.302653; the gap is not below 0.
    found = st.interval([0, 5, 1], "optimality_gap", target=1.0)
    assert found.estimate == pytest.approx(1 / 3) and found.low == 0
    assert found.high == pytest.approx(1 / 3 + 4.302653 / 3, abs=1e-6)
    assert limits(st.interval([3, 4, 5], "optimality_gap", target=2)) == (0, 0)


def test_interval_with_infinite_values():
    # Winsorised 2, 2, 3, 4, 4; h = 3; t(2) = 4.302653: Tukey and McLaughlin's trimmed t.
    found = st.interval([inf, 1, 4, 3, 2])
    assert found.method == "trimmed t" and found.estimate == 3
    assert limits(found) == pytest.approx((3 - 4.302653 * (4 / 6) ** 0.5, 3 + 4.302653 * (4 / 6) ** 0.5), abs=1e-6)
    for x, statistic in (([1, 2, 3, inf, inf], "iqm"), ([1, 2, inf], "mean"), ([1, 2, inf], "median")):
        assert all(map(math.isnan, limits(st.interval(x, statistic))))  # type: ignore[arg-type]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_intervals_of_tiny_samples(statistic: st.Statistic):
    one = st.interval([0.5], statistic, target=1.0)
    assert one.n == 1 and math.isnan(one.low) and math.isnan(one.high) and not one.excludes(1e9)
    assert one.estimate == 0.5
    same = st.interval([0.5, 0.5, 0.5], statistic, target=1.0)
    assert (same.low, same.estimate, same.high) == (0.5, 0.5, 0.5)
    two = st.interval([0.25, 0.5], statistic, target=1.0)
    assert two.low < two.estimate < two.high


@pytest.mark.parametrize("statistic", ["iqm", "mean", "median"])
def test_intervals_are_equivariant(statistic: st.Statistic):
    x = rng(3).random(6)
    found, moved = st.interval(x, statistic), st.interval(1000 * x - 7, statistic)
    expected = [1000 * v - 7 for v in (found.estimate, found.low, found.high)]
    assert [moved.estimate, moved.low, moved.high] == pytest.approx(expected)
    turned = st.interval(-x, statistic)
    assert limits(turned) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_band_is_the_interval_of_each_column(statistic: st.Statistic):
    x = rng(4).random((5, 6))
    x[:, 2], x[0, 3], x[1, 4] = 0.25, inf, nan
    found = st.band(x, statistic, target=0.7)
    for column in (0, 1, 2, 3, 5):
        one = st.interval(x[:, column], statistic, target=0.7)
        expected = (one.estimate, one.low, one.high)
        assert tuple(v[column] for v in found) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert all(np.isnan(v[4]) for v in found)


def test_the_same_seed_gives_the_same_bits():
    x = rng(5).random(7)

    def everything(seed: int) -> list[Any]:
        intervals.calibration.cache_clear()
        st._detectable_iqm.cache_clear()
        return [
            st.interval(x, seed=seed),
            st.difference(rng(7).random(9), rng(8).random(9), seed=seed),  # 48,620 divisions: random ones
            st.percentile_interval(x, "iqm", seed=seed, resamples=500),
            st.smallest_detectable_difference(7, 7, 1.0, statistic="iqm", seed=seed),
        ]

    first = everything(1)
    assert first == everything(1)
    assert all(one != other for one, other in zip(first, everything(2)))


# --- coverage -------------------------------------------------------------------------------------
# Of 20,000 intervals that hold it with probability .95 a share within ± 4 √(.95 · .05 / 20,000) = .0062 does.


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("statistic", ["mean", "iqm", "median"])
def test_coverage_of_normal_data(statistic: st.Statistic, n: int):
    x = rng(n).standard_normal((20_000, n))
    assert coverage.held(*coverage.reported(x, statistic), 0.0) == pytest.approx(0.95, abs=0.0062)


def test_a_wrong_interval_is_detected():
    x = rng(5).standard_normal((20_000, 5))
    plain = coverage.held(*coverage.trimmed_t(x), 0.0)
    assert plain == pytest.approx(0.937, abs=0.0065) and abs(plain - 0.95) > 0.0062
    # The percentile bootstrap, as the issue quotes it: .85 of means, .91 of IQMs; ours draws exact means of 1,000.
    boots = coverage.bootstraps(x[:2000])
    assert 0.80 < coverage.held(*boots["mean, percentile"], 0.0) < 0.88
    assert 0.86 < coverage.held(*boots["iqm, percentile"], 0.0) < 0.93


@pytest.mark.parametrize("n", [5, 10])
def test_coverage_of_skewed_data(n: int):
    x = np.exp(rng(n).standard_normal((20_000, n)))
    covered = coverage.held(*coverage.reported(x, "iqm"), coverage.truth("lognormal", "iqm"))
    assert 0.93 < covered < 0.97
    # Not of the mean: with five numbers no interval covers it, because it depends on the tail.
    assert 0.79 < coverage.held(*coverage.reported(x, "mean"), coverage.truth("lognormal", "mean")) < 0.86


# The coverage of differences of means, from 4,000,000 samples; where it is not 95%, docs/statistics.md says so. B
# varies `scale` times as much as A; of pairs, b = a + another.
DIFFERENCES = [
    ("normal", 5, 5, 2, False, 0.9506),
    ("normal", 10, 10, 2, False, 0.9499),
    ("normal", 5, 5, 1, True, 0.9501),
    ("normal", 3, 10, 1, False, 0.9357),
    ("normal", 10, 3, 2, False, 0.9279),
    ("uniform", 5, 5, 1, False, 0.9525),
    ("uniform", 10, 10, 1, True, 0.9460),
    ("uniform", 3, 10, 1, False, 0.9057),
]


@pytest.mark.parametrize(("distribution", "n_a", "n_b", "scale", "paired", "expected"), DIFFERENCES)
def test_coverage_of_differences_of_means(
    distribution: str, n_a: int, n_b: int, scale: float, paired: bool, expected: float
):
    # 100,000 samples: ± 4 √(.95 · .05 / 100,000) = .0028.
    of, draw = coverage.DISTRIBUTIONS[distribution], rng(9)
    a, b = of(draw.standard_normal((100_000, n_a))), of(draw.standard_normal((100_000, n_b)))
    b = a + b if paired else scale * b
    value = (1 if paired else scale - 1) * coverage.truth(distribution, "mean")
    found = coverage.held(*intervals.differences(b, a, "mean", paired=paired)[1:], value)
    assert found == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(("n", "p"), [(4, 0.5), (5, 0.5), (5, 0.75), (5, 0.95), (10, 0.75)])
def test_coverage_of_the_probability_of_improvement(n: int, p: float):
    a, b = rng(11).standard_normal((8000, n)), rng(12).standard_normal((8000, n)) + stats.norm.ppf(p) * 2**0.5
    held = np.mean([not found.excludes(p) for found in coverage.by_u(b, a)])
    assert 0.935 < held < 0.985  # with few possible values the coverage is discrete


# --- differences ----------------------------------------------------------------------------------

A, B = [1.0, 2.0, 4.0, 7.0, 9.0], [3.0, 8.0, 9.0, 14.0, 20.0]


def test_difference_of_means_is_welchs_and_students():
    found = st.difference(B, A, "mean")
    low, high = stats.ttest_ind(B, A, equal_var=False).confidence_interval()
    assert found.estimate == pytest.approx(6.2) and limits(found) == pytest.approx((low, high))
    assert found.method == "Welch t" and found.n == 5
    paired = st.difference(B, A, "mean", paired=True)
    assert limits(paired) == pytest.approx(tuple(stats.ttest_rel(B, A).confidence_interval()))
    assert paired.high - paired.low < found.high - found.low and paired.method == "paired t"


def test_calibrated_t_of_a_difference_of_iqms():
    k, q = intervals.calibration("iqm", 5, 0.95, 0)
    # a: Winsorised 2 2 4 7 7, mean 4.4, Σ² = 5.76 · 2 + 0.16 + 6.76 · 2 = 25.2; Yuen 4.2; s² = 45.2 / 4 = 11.3.
    # b: Winsorised 8 8 9 14 14, mean 10.6, Σ² = 6.76 · 2 + 2.56 + 11.56 · 2 = 39.2; Yuen 6.5333; s² = 166.8 / 4 = 41.7.
    va, vb = q**2 * max(25.2 / 6, k * 11.3 / 5), q**2 * max(39.2 / 6, k * 41.7 / 5)
    df = (va + vb) ** 2 / (va**2 / 4 + vb**2 / 4)
    half = stats.t.ppf(0.975, df) * (va + vb) ** 0.5
    b, a = np.array(B), np.array(A)
    found = [float(v) for v in intervals.differences(b, a, "iqm")]
    assert found == pytest.approx([6, 6 - half, 6 + half])
    p = 2 * stats.t.sf(6 / (va + vb) ** 0.5, df)
    assert float(intervals.calibrated_p(b, a)) == pytest.approx(p) == float(intervals.calibrated_p(a, b))
    # Pairs. Winsorised differences 6 6 5 7 7: mean 6.2, Σ² = 2.8, Yuen 0.4667; differences 2 6 5 7 11: s² = 42.8 / 4.
    half = 2.776445 * q * max(2.8 / 6, k * 10.7 / 5) ** 0.5
    found = [float(v) for v in intervals.differences(b, a, "iqm", paired=True)]
    assert found == pytest.approx([6, 6 - half, 6 + half], abs=1e-5)
    assert math.isnan(intervals.calibrated_p(np.ones(3), np.zeros(3)))  # without spread


def test_difference_of_iqms_is_what_the_permutation_test_does_not_reject():
    found = st.difference(B, A)
    assert found.estimate == pytest.approx(31 / 3 - 13 / 3) and found.method == "permutation"
    assert limits(st.difference(A, B)) == pytest.approx((-found.high, -found.low))
    b6, a6 = [*B, 11.0], [*A, 5.0]
    paired = st.difference(b6, a6, paired=True)
    assert paired.method == "paired permutation"
    for low_or_high, b, a, is_paired in [
        *((edge, B, A, False) for edge in limits(found)),
        *((edge, b6, a6, True) for edge in limits(paired)),
    ]:
        beside = [st.permutation_p(np.array(b) - low_or_high * f, a, paired=is_paired) for f in (0.99, 1.01)]
        assert min(beside) < 0.05 <= max(beside)


@pytest.mark.parametrize(
    ("n_b", "n_a", "paired"), [(3, 3, False), (4, 4, False), (5, 5, False), (3, 12, False), (7, 7, True)]
)
def test_the_interval_excludes_zero_exactly_if_p_is_below_the_level(n_b: int, n_a: int, paired: bool):
    decided = []
    for k in range(30):
        b, a = np.round(rng(k).standard_normal(n_b) + k / 10, 1), np.round(rng(k + 50).standard_normal(n_a), 1)
        p = st.permutation_p(b, a, paired=paired)
        assert st.difference(b, a, paired=paired).excludes(0.0) == (p < 0.05)
        decided.append(p < 0.05)
    assert any(decided) and not all(decided)


def test_difference_with_an_infinite_value_is_yuens():
    # Yuen's test does not depend on the size of a trimmed value, as long as it is finite.
    a, b = [1, 2, 4, 7, inf], [3, 8, 9, 14, inf]
    theirs = stats.ttest_ind([*b[:4], 1e9], [*a[:4], 1e9], equal_var=False, trim=0.25)
    found = st.difference(b, a)
    assert found.method == "Welch trimmed t"
    assert limits(found) == pytest.approx(tuple(theirs.confidence_interval()))
    assert st.permutation_p([1, 2, inf, inf, inf], [1, 2, 3, 4, 5]) > 0.05  # an infinite IQM has a p value


def test_difference_of_equal_samples():
    x = rng(13).random(5)
    for paired in (False, True):
        found = st.difference(x, x, paired=paired)
        assert found.estimate == 0 and not found.excludes(0.0)
    # Rounding is not a difference: means of 0.1 over 3 and 5 replicas differ in the last bit.
    assert limits(st.difference([0.1] * 3, [0.1] * 5, "mean")) == (0, 0)
    # Three equal values a side say nothing about the spread, five do.
    assert math.isnan(st.difference([2.0] * 3, [1.0] * 3).low)
    assert st.difference([2.0] * 5, [1.0] * 5).excludes(0.0) and not st.difference([2.0] * 5, [1.0] * 5).excludes(1.0)
    both = st.difference([1, inf, inf], [2, inf, inf], "mean")
    assert math.isnan(both.estimate) and math.isnan(both.low)
    with pytest.raises(ValueError, match="must have equal sizes"):
        st.difference([1, 2, 3], [1, 2], paired=True)


# --- probability of improvement -------------------------------------------------------------------


def test_probability_of_improvement():
    assert st.probability_of_improvement([1, 3], [0, 2]).estimate == 0.75  # of four pairs, only 1 < 2
    assert st.probability_of_improvement([1, 2], [1, 0]).estimate == 3.5 / 4
    assert st.probability_of_improvement([1, inf], [0, inf]).estimate == 2.5 / 4
    # One each, N = 0: (1 − θ)² = z² θ (1 − θ), so θ = 1 / (1 + z²).
    assert st.newcombe(1.0, 1, 1) == pytest.approx((1 / (1 + 1.959964**2), 1.0), abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.04, 0.5, 0.72, 1.0])
def test_newcombes_limits_solve_his_equation(share: float):
    low, high = st.newcombe(share, 5, 5)
    assert 0 <= low <= share <= high <= 1 and high - low > 0.3
    assert (low, high) == pytest.approx(tuple(1 - v for v in reversed(st.newcombe(1 - share, 5, 5))), abs=1e-9)
    for p in {low, high} - {0.0, 1.0}:
        variance = p * (1 - p) * (1 + 4 * (1 - p) / (2 - p) + 4 * p / (1 + p)) / 25
        assert (p - share) ** 2 == pytest.approx(1.959964**2 * variance, abs=1e-6)


def test_improvement_never_contradicts_the_exact_test():
    # Three per side cannot reach .05: Newcombe's low limit is .501, the reported one .5.
    assert st.newcombe(1.0, 3, 3)[0] > 0.5
    found = st.probability_of_improvement([4, 5, 6], [1, 2, 3])
    assert found.estimate == 1 and not found.excludes(0.5)
    assert st.probability_of_improvement([4, 5, 6, 7], [0, 1, 2, 3]).excludes(0.5)


# --- tests ----------------------------------------------------------------------------------------


def scipys_permutation_test(b: Any, a: Any, paired: bool) -> float:
    """The same statistic in `scipy.stats.permutation_test`, without ties and with all divisions."""
    b, a = np.asarray(b, float), np.asarray(a, float)
    n = len(a) + len(b)
    pooled = intervals.winsorised_squares(np.concatenate([b, a])) * n * (1 / len(b) + 1 / len(a))
    if paired:
        pooled = np.mean((b - a) ** 2) / len(b)

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        x, y = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
        gap = stats.trim_mean(x, 0.25, axis=-1) - stats.trim_mean(y, 0.25, axis=-1)
        parts = [intervals.winsorised_squares(v) for v in (x, y)]
        spread = intervals.winsorised_squares(x, y) if paired else sum(parts)
        return np.abs(gap) / np.sqrt(spread + pooled / 4)

    kind = "samples" if paired else "independent"
    found = stats.permutation_test(
        (b, a), statistic, permutation_type=kind, vectorized=True, n_resamples=np.inf, alternative="greater"
    )
    return float(found.pvalue)


@pytest.mark.parametrize(("n_b", "n_a", "paired"), [(5, 5, False), (3, 9, False), (6, 7, False), (8, 8, True)])
def test_permutation_p_is_scipys(n_b: int, n_a: int, paired: bool):
    for seed in range(3):
        b, a = rng(seed).random(n_b) + 0.2, rng(seed + 70).random(n_a)
        theirs = scipys_permutation_test(b, a, paired)
        # Divisions that differ only in trimmed values tie for scipy; Peerage orders these by the means.
        assert theirs - 0.1 < st.permutation_p(b, a, paired=paired) <= theirs


def test_permutation_p_by_hand():
    # Ten values, 252 divisions. Two of them, the observed one and its mirror image, separate 0 from 1.
    assert st.permutation_p([1.0] * 5, [0.0] * 5) == pytest.approx(2 / 252) == st.permutation_p([0.0] * 5, [1.0] * 5)
    assert st.permutation_p([1, 1, 1, 1, 2], [1, 1, 1, 1, 2]) == 1
    # One of the 2^6 exchanges of pairs and its mirror image leave all differences on one side.
    assert st.permutation_p([1.0] * 6, [0.0] * 6, paired=True) == pytest.approx(2 / 64)
    # Three a side reach at most 2 / 20. If they are separated, the t test decides: means 2 and 5, variances 1,
    # t = 3 / √(2/3) with 4 degrees of freedom, p = .021; without spread there is no t.
    assert st.permutation_p([4, 5, 6], [1, 2, 3]) == pytest.approx(2 * stats.t.sf(3.674235, 4), rel=0.05)
    assert st.permutation_p([4, 5, 6], [1, 2, 4.5]) > 0.1
    assert st.permutation_p([1] * 3, [0] * 3) == pytest.approx(0.1)
    # Five clearly separated values a side: the t test's p is smaller than 2 / 252, and Holm's correction can use it.
    assert st.permutation_p([100, 101, 102, 103, 104], [1, 2, 3, 4, 5]) < 1e-6
    assert math.isnan(st.permutation_p([1], [2, 3]))
    with pytest.raises(ValueError, match="must have equal sizes"):
        st.permutation_p([1, 2, 3], [1, 2], paired=True)


@pytest.mark.parametrize(("n_b", "n_a"), [(3, 3), (4, 4), (5, 5), (10, 10), (3, 20)])
@pytest.mark.parametrize("distribution", ["normal", "success", "beta(.3, .3)", "one in eight fails"])
def test_false_alarms_are_at_most_the_level(distribution: str, n_b: int, n_a: int):
    samples, of = 1500, coverage.DISTRIBUTIONS[distribution]
    b, a = coverage.independent(rng(30), samples, n_b, n_a)
    share = np.mean(permutation.p_values(of(b), of(a), divisions=300) < 0.05)
    assert share < 0.05 + 3 * (0.05 * 0.95 / samples) ** 0.5  # .067


@pytest.mark.parametrize("n", [3, 4, 5, 8])
@pytest.mark.parametrize("distribution", ["normal", "two heaps", "one in eight fails", "success"])
def test_false_alarms_of_pairs_are_at_most_the_level(distribution: str, n: int):
    samples, of = 1500, coverage.DISTRIBUTIONS[distribution]
    b, a = coverage.pairs(rng(32), samples, n, 0.5)
    share = np.mean(permutation.p_values(of(b), of(a), paired=True) < 0.05)
    assert share < 0.05 + 3 * (0.05 * 0.95 / samples) ** 0.5


def test_power_grows_with_replicas_although_one_in_eight_fails():
    """B is better by 40 with a deviation of 15, and one replica in eight of both sides collapses."""
    of, shift = coverage.DISTRIBUTIONS["one in eight fails"], 40 / 15
    found = []
    for n in (5, 10, 20):
        b, a = coverage.independent(rng(31), 300, n, n)
        found.append(np.mean(permutation.p_values(of(b) + shift, of(a), divisions=400) < 0.05))
    # Yuen's test finds 47, 76 and 95%; four standard errors of a share of .5 in 300 are .115.
    assert found[0] > 0.47 and found[1] > 0.72 and found[2] > 0.9 and found == sorted(found)


def test_mann_whitney():
    # Twenty divisions of six values, two of them this extreme.
    found = st.mann_whitney([4, 5, 6], [1, 2, 3])
    assert (found.p, found.statistic, found.smallest_p) == (pytest.approx(0.1), 9, pytest.approx(0.1))
    assert st.mann_whitney([4, 5, 6, 7], [0, 1, 2, 3]).p == pytest.approx(2 / 70)
    assert st.mann_whitney([1], [2]).p == 1 == st.mann_whitney([1], [2]).smallest_p
    assert st.mann_whitney([3, 3, 3], [3, 3]).p == 1
    assert st.mann_whitney([inf, inf, 5], [1, 2, 3]).statistic == 9
    assert st.mann_whitney(np.zeros(30), np.zeros(30)).p == 1


@pytest.mark.parametrize(("n_b", "n_a"), [(3, 5), (5, 5), (2, 9), (10, 12)])
def test_mann_whitney_is_scipys_exact_one(n_b: int, n_a: int):
    b, a = rng(n_b).random(n_b) + 0.3, rng(n_a + 50).random(n_a)
    theirs = stats.mannwhitneyu(b, a, method="exact")
    found = st.mann_whitney(b, a)
    assert (found.p, found.statistic) == (pytest.approx(theirs.pvalue), theirs.statistic)


def test_mann_whitney_is_exact_with_ties():
    b, a = [3, 3, 2, 5], [1, 3, 2, 1, 1]
    ranks = stats.rankdata(b + a)
    sums = [sum(ranks[list(one)]) for one in itertools.combinations(range(9), 4)]
    far = [abs(s - 20) >= abs(sum(ranks[:4]) - 20) for s in sums]
    assert len(far) == 126 and st.mann_whitney(b, a).p == pytest.approx(np.mean(far))


def test_mann_whitney_of_many_is_the_normal_approximation():
    b, a = np.round(rng(14).random(40) + 0.1, 1), np.round(rng(15).random(30), 1)
    assert st.mann_whitney(b, a).p == pytest.approx(stats.mannwhitneyu(b, a, method="asymptotic").pvalue)


def test_holm():
    # In order .005 · 4, .01 · 3, .03 · 2, then .04 · 1, which may not be below what came before.
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.5, 0.9]) == [1.0, 1.0] and st.holm([]) == []
    assert st.holm([nan, 0.02, 0.04]) == pytest.approx([nan, 0.04, 0.04], nan_ok=True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.holm([1.2])


# --- what n can show ------------------------------------------------------------------------------


# Found by simulation, 20,000 to 200,000 samples: a power of 80% to within .3 points, a difference to within .5%.


@pytest.mark.parametrize(("n", "effect"), [(393.4, 0.2), (63.8, 0.5), (25.5, 0.8), (16.7, 1.0)])
def test_smallest_detectable_difference_is_cohens(n: float, effect: float):
    # The sample sizes for a power of .80 at .05, two-sided (R's power.t.test; Cohen 1988, section 2.4, has the
    # next whole numbers): a whole number in its place moves the difference by the root of their ratio.
    whole = round(n)
    found = st.smallest_detectable_difference(whole, whole, 1.0)
    assert found == pytest.approx(effect * (n / whole) ** 0.5, rel=0.008)


@pytest.mark.parametrize("n", [2, 3, 5, 34])
def test_smallest_detectable_difference_of_pairs_is_the_noncentral_t(n: int):
    # The paired t test's power is exactly that of the noncentral t, whatever the correlation.
    found = st.smallest_detectable_difference(n, n, 3.0, paired=True) / 3
    critical, nc = stats.t.ppf(0.975, n - 1), found * n**0.5
    power = stats.nct.sf(critical, n - 1, nc)
    assert power == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 3), (5, 5), (3, 10), (20, 3)])
def test_smallest_detectable_difference_is_found_as_often_as_promised(n_a: int, n_b: int):
    power = 0.7
    found = st.smallest_detectable_difference(n_a, n_b, 2.0, power=power)
    a, b = 2 * rng(16).standard_normal((50_000, n_a)), found + 2 * rng(17).standard_normal((50_000, n_b))
    # ± 4 standard errors of either simulation.
    assert np.mean(stats.ttest_ind(b, a, axis=1, equal_var=False).pvalue < 0.05) == pytest.approx(power, abs=0.01)


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 3), (5, 5), (3, 20)])
def test_smallest_detectable_difference_of_iqms_is_found_as_often_as_promised(n_a: int, n_b: int):
    found = st.smallest_detectable_difference(n_a, n_b, 2.0, power=0.7, statistic="iqm")
    a, b = 2 * rng(16).standard_normal((1500, n_a)), found + 2 * rng(17).standard_normal((1500, n_b))
    # Four standard errors of both simulations, of 500 and 1,500 samples: .094.
    assert np.mean(permutation.p_values(b, a, divisions=500) < 0.05) == pytest.approx(0.7, abs=0.094)


def test_smallest_detectable_difference_of_invalid_arguments():
    assert st.smallest_detectable_difference(1, 5, 1.0) == inf and st.smallest_detectable_difference(5, 5, 0.0) == 0
    assert st.smallest_detectable_difference(2, 2, 1.0, level=0.99, power=0.99) > 20
    for wrong in ({"power": 0.4}, {"power": 1.0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            st.smallest_detectable_difference(5, 5, 1.0, **wrong)
    with pytest.raises(ValueError, match="standard deviation"):
        st.smallest_detectable_difference(5, 5, nan)
    with pytest.raises(ValueError, match="equal sizes"):
        st.smallest_detectable_difference(5, 6, 1.0, paired=True)
    with pytest.raises(ValueError, match="got 'median'"):
        st.smallest_detectable_difference(5, 5, 1.0, statistic="median")  # type: ignore[arg-type]


# --- profiles and curves --------------------------------------------------------------------------


def test_performance_profile():
    share, low, high = st.performance_profile([1, 2, 3, 4, 5], [0, 2, 5])
    assert share.tolist() == [1.0, 0.6, 0.0]  # 2 is not above 2
    # Clopper and Pearson: all five with probability p^5 = .025; three of five: from tables.
    assert low == pytest.approx([0.025**0.2, 0.1466, 0.0], abs=1e-4)
    assert high == pytest.approx([1.0, 0.9473, 1 - 0.025**0.2], abs=1e-4)
    assert np.isnan(st.performance_profile([1], [0])[1]).all()
    with pytest.raises(ValueError, match="thresholds must not be NaN"):
        st.performance_profile([1, 2], [nan])


def test_late_spread_and_convergence():
    steps = [0, 10, 20, 30, 35, 40]  # late: 30, 35 and 40
    curves = [[0, 5, 9, 8, 10, 12], [4, 4, 4, 4, 4, 4], [0, 9, 0, 9, 10, 11], [10, 8, 6, 4, 2, 0]]
    assert measures.is_late(steps).tolist() == [False, False, False, True, True, True]
    np.testing.assert_allclose(measures.late_spread(steps, curves), [2, 0, 1, 2])
    # 90% of the way to the late means 10, 4, 10 and 2; a curve that does not rise does not converge
    assert measures.convergence_steps(steps, curves).tolist() == [20, inf, 10, inf]
    assert np.isnan(measures.late_spread([0, 10], [[1, 2]])).all()


def test_steps_to_threshold():
    curves = [[0, 5, 3, 9], [1, 2, 3, 4], [nan, 5, 0, 0], [7, 0, 0, 0]]
    assert st.steps_to_threshold([0, 10, 20, 40], curves, 5).tolist() == [10, inf, 10, 0]
    with pytest.raises(ValueError, match="increasing"):
        st.steps_to_threshold([0, 10, 10, 40], curves, 5)
    with pytest.raises(ValueError, match="curves must have"):
        st.steps_to_threshold([0, 10], curves, 5)


def test_area_under_curve():
    # (0 + 4) / 2 · 10 + 4 · 30 = 140 of 40 steps; a constant is its own mean.
    found = st.area_under_curve([100, 110, 140], [[0, 4, 4], [2, 2, 2], [nan, 1, 1]])
    assert found == pytest.approx([3.5, 2, nan], nan_ok=True)
    assert st.area_under_curve([5], [[3], [4]]).tolist() == [3, 4]


# --- what has no meaning --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda x: st.iqm(x),
        lambda x: st.interval(x),
        lambda x: st.percentile_interval(x, "mean"),
        lambda x: st.difference(x, [1, 2]),
        lambda x: st.probability_of_improvement([1, 2], x),
        lambda x: st.permutation_p(x, [1, 2]),
        lambda x: st.mann_whitney([1, 2], x),
        lambda x: st.performance_profile(x, [0]),
    ],
)
def test_invalid_samples(call: Any):
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        call([1, nan, 2])
    with pytest.raises(ValueError, match=r"\[n\]"):
        call([])
    with pytest.raises(ValueError, match=r"\[n\]"):
        call(np.zeros((2, 2, 2)))


def test_invalid_arguments():
    with pytest.raises(ValueError, match="no statistic 'mode'"):
        st.interval([1, 2], "mode")  # type: ignore[arg-type]
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level"):
            st.interval([1, 2], level=level)
        with pytest.raises(ValueError, match="level"):
            st.probability_of_improvement([1, 2], [1, 2], level=level)
    with pytest.raises(ValueError, match="needs a target"):
        st.interval([1, 2], "optimality_gap")
    with pytest.raises(ValueError, match="no statistic 'optimality_gap'"):
        st.difference([1, 2], [3, 4], "optimality_gap")  # type: ignore[arg-type]
    for call in (st.interval, st.permutation_p, st.probability_of_improvement, st.performance_profile):
        with pytest.raises(ValueError, match=r"shape \[n\]"):
            call([[1, 2], [3, 4]], *([] if call is st.interval else [[1, 2]]))  # type: ignore[operator]
    with pytest.raises(ValueError, match="replicas, steps"):
        st.band([1, 2, 3])


# --- the percentile bootstrap, and rliable --------------------------------------------------------


def test_percentile_interval_of_two_replicas():
    # Resamples of (0, 1): 0, .5, .5, 1, so a 40% interval reaches from .3 to .7 of the sorted: both .5; a 95% one to
    # the ends.
    assert limits(st.percentile_interval([0, 1], "mean", level=0.4)) == (0.5, 0.5)
    assert limits(st.percentile_interval([0, 1], "mean")) == (0, 1)
    # Each task by itself: of two tasks the mean is 0, .25, ... with 1, 4, 6, 4, 1 sixteenths. (Together: 0, .5, 1.)
    assert limits(st.percentile_interval([[0, 0], [1, 1]], "mean", level=0.5)) == (0.25, 0.75)
    # Of three, all are the smallest in 1/27 of the resamples, and the largest is among them in 19/27.
    assert limits(st.percentile_interval([1, 2, inf], "mean")) == (1, inf)


def test_resampling_needs_little_memory():
    x = rng(18).random((100, 50))
    tracemalloc.start()
    found = st.percentile_interval(x, "iqm", resamples=4000)  # 20 million numbers, 160 MB in one piece
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < found.estimate < found.high and peak < 100e6


def test_agreement_with_rliable():
    pytest.importorskip("rliable")
    from rliable import library, metrics

    x, y = rng(19).random((10, 3)), rng(20).random((8, 3)) * 1.2
    theirs = {
        "mean": metrics.aggregate_mean,
        "median": metrics.aggregate_median,
        "iqm": metrics.aggregate_iqm,
        "optimality_gap": lambda s: metrics.aggregate_optimality_gap(s, gamma=0.8),
    }
    ours = {"mean": st.mean, "median": st.median, "iqm": st.iqm, "optimality_gap": lambda s: st.optimality_gap(s, 0.8)}
    names = list(theirs)
    for data in (x, y, x[:, :1]):
        for name in names:
            assert ours[name](data) == pytest.approx(theirs[name](data), rel=1e-12)
    one = st.probability_of_improvement(y[:, 0], x[:, 0]).estimate
    assert one == pytest.approx(metrics.probability_of_improvement(y[:, :1], x[:, :1]))

    np.random.seed(0)  # noqa: NPY002 (rliable draws from the global stream, whatever it is given)
    _, found = library.get_interval_estimates(
        {"x": x}, lambda s: np.array([theirs[name](s) for name in names]), reps=4000
    )
    for column, name in enumerate(names):
        one = st.percentile_interval(x, name, target=0.8)  # type: ignore[arg-type]
        # A 2.5% quantile of B resamples is known to within √(.025 · .975 / B) / 0.0584 standard deviations of the
        # resampled statistic: .042 of theirs, .027 of ours; a quarter of the width is one such deviation.
        tolerance = 4 * math.hypot(0.042, 0.027) * (one.high - one.low) / 3.92
        assert limits(one) == pytest.approx(tuple(found["x"][:, column]), abs=tolerance)

    tau = np.linspace(0, 1, 5)
    profiles, _ = library.create_performance_profile({"x": x[:, :1]}, tau, reps=10)
    assert st.performance_profile(x[:, 0], tau)[0] == pytest.approx(profiles["x"])


# --- the page -------------------------------------------------------------------------------------


def test_the_tables_of_coverage():
    row = next(coverage.one_sample(400, 100, sizes=(5,)))
    assert row[:2] == ["normal", "5"] and 90 < float(row[2].strip("*")) < 99 and 70 < float(row[3]) < 93
    assert coverage.truth("lognormal", "mean") == pytest.approx(1.6487, abs=1e-4)
    # The mean of the middle half of e^Z: 2 (Φ(.6745 − 1) − Φ(−.6745 − 1)) √e.
    middle = 2 * (stats.norm.cdf(0.67449 - 1) - stats.norm.cdf(-0.67449 - 1)) * math.exp(0.5)
    assert coverage.truth("lognormal", "iqm") == pytest.approx(middle, abs=1e-4)
    # The middle half of two heaps: between the quantiles .25 and .75, of which .05 are failures around 0.
    generator = rng(21)
    heaps = (generator.random(400_000) < 0.7) + 0.1 * generator.standard_normal(400_000)
    assert coverage.truth("two heaps", "iqm") == pytest.approx(st.iqm(heaps), abs=0.005)
    assert coverage.truth("two heaps", "mean") == pytest.approx(0.7, abs=1e-4)
    drawn = coverage.DISTRIBUTIONS["two heaps"](generator.standard_normal(400_000))
    assert np.quantile(drawn, [0.1, 0.2, 0.5, 0.9]) == pytest.approx(np.quantile(heaps, [0.1, 0.2, 0.5, 0.9]), abs=0.02)
    for bounded in ("uniform", "beta(.3, .3)", "three levels", "success"):
        assert coverage.truth(bounded, "iqm") == pytest.approx(0.5) == coverage.truth(bounded, "mean")
    levels = coverage.DISTRIBUTIONS["three levels"](stats.norm.ppf([0.3, 0.5, 0.7]))
    assert levels.tolist() == [0, 0.5, 1]
    assert coverage.DISTRIBUTIONS["beta(.3, .3)"](stats.norm.ppf(0.2)) == pytest.approx(stats.beta.ppf(0.2, 0.3, 0.3))
    page = f"before {coverage.BEGIN} old {coverage.END} after"
    assert coverage.into_docs(page, "new\n") == f"before {coverage.BEGIN}\n\nnew\n\n{coverage.END} after"
    with pytest.raises(SystemExit, match="markers"):
        coverage.into_docs("nothing", "new")
    assert coverage.BEGIN in coverage.DOCS.read_text(encoding="utf-8")
