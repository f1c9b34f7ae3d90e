"""What `benchmarks.golden` counts as a difference. It trains nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.golden import RUNS, Comparison, array_difference, chosen, relative_difference

ROW = {"step": "100", "replica": "0", "member": "member-0", "name": "q/mean", "value": "1"}


def compared(a, b, tolerance=0.0, file="metrics.csv") -> Comparison:
    found = Comparison(tolerance)
    found.tables(file, a, b)
    return found


def test_a_run_comes_after_the_run_that_it_needs():
    names = [run.name for run in RUNS]
    assert len(set(names)) == len(names)
    assert all(not run.needs or run.needs in names[:i] for i, run in enumerate(RUNS))
    assert [run.name for run in chosen(["room-pretrained"])] == ["room-none", "room-pretrained"]
    assert chosen([]) == RUNS


def test_equal_tables_in_another_order():
    rows = [ROW, {**ROW, "step": "200"}]
    assert str(compared(rows, rows[::-1])) == "same"


def test_a_cell_that_differs():
    a, b = [ROW, {**ROW, "step": "200"}], [ROW, {**ROW, "step": "200", "value": "1.001"}]
    line = "1 of 2 rows differ, first 200 0 member-0 q/mean value: 1 and 1.001, largest relative difference 0.001"
    assert line in str(compared(a, b))
    assert str(compared(a, b, 0.01)) == "same within 0.01"


def test_columns_and_metrics_that_only_one_side_has():
    a, b = [ROW], [{**ROW, "mode": "greedy"}, {**ROW, "name": "new", "mode": ""}]
    assert compared(a, b).notes == ["metrics.csv: columns only in B: mode", "metrics.csv: metrics only in B: new"]
    assert not compared(a, b).differences
    assert compared(b, a).differences == ["metrics.csv: columns only in A: mode", "metrics.csv: metrics only in A: new"]


def test_rows_that_only_one_side_has():
    found = compared([ROW], [ROW, {**ROW, "step": "200"}])
    assert found.differences == ["metrics.csv: 1 rows only in B, first 200 0 member-0 q/mean"]


def test_relative_differences():
    assert relative_difference("2", "1") == 0.5
    assert relative_difference("", "1") == relative_difference("inf", "1") == np.inf
    assert array_difference(np.ones(3), np.ones(3)) == 0
    assert array_difference(np.array([0.0, 4.0]), np.array([1.0, 4.0])) == 0.25
    assert array_difference(np.array([0, 4]), np.array([1, 4])) == np.inf


@pytest.mark.parametrize(
    "b, expected",
    [
        ({"x": [1, 2, 3, 4]}, "same"),
        ({"y": [1, 2, 3, 4]}, "same; note: tensors: 1 have another key or shape and the same bytes"),
        ({"y": [3, 4], "z": [1, 2]}, "same; note: tensors: 1 in A and 2 in B hold the same values in another layout"),
        ({"y": [3, 4]}, "same; note: tensors: 1 only in A and 1 only in B were not compared, such as x, y"),
        ({"x": [1, 2, 3, 5]}, "DIFFERS: tensors: 1 of 1 differ, first x, largest relative difference 0.25"),
    ],
)
def test_tensors(b, expected):
    found = Comparison()
    found.states({"x": np.float32([1, 2, 3, 4])}, {key: np.float32(x) for key, x in b.items()})
    assert str(found) == expected
