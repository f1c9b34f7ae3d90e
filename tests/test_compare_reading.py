"""Comparisons of unusual runs: too few replicas, no spread, other evaluation steps, incomplete files, other versions,
equal names."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from test_compare import make

from peerage.cli import main
from peerage.config import RunConfig
from peerage.errors import UserError
from peerage.reports.comparison_page import render, write_comparison
from peerage.reports.report import write_report
from peerage.runs import tables
from peerage.statistics import summaries
from peerage.statistics.compare import compare
from peerage.statistics.formats import as_json, as_latex, as_text
from peerage.statistics.sources import by_axis, find_runs


def two(folder: Path, a: list[float], b: list[float], **changes) -> list[str]:
    """Sides a and b, which differ in their trust."""
    made = make(folder / "a", a, **changes), make(folder / "b", b, trust="hybrid", **changes)
    return [str(path) for path in made]


def edit(run: Path | str, old: str, new: str) -> None:
    """Replace the rows of evaluations.csv that match."""
    path = Path(run) / "evaluations.csv"
    text, hits = re.subn(f"(?m){old}", new, path.read_text())
    assert hits
    path.write_text(text)


# --- when there is a winner ---------------------------------------------------------------------------


def test_two_replicas_per_side_have_no_winner(tmp_path):
    found = compare(two(tmp_path, [1, 1.01], [90, 90.02]))
    (v,) = found.tasks[0].versus
    assert v.winner is None and v.higher is None and "are too few for a test" in v.verdict
    assert all(map(math.isnan, (v.difference.low, v.improvement.high, v.p, v.detectable)))
    assert v.difference.estimate == pytest.approx(89.005) and v.improvement.estimate == 1.0
    assert all(math.isnan(interval.low) for row in found.tasks[0].rows for interval in (row.iqm, row.mean, row.area))
    assert "no test" in as_text(found) and "mathbf" not in as_latex(found)
    html = render(found, [])
    assert "is better" not in html and 'class="bar"' not in html and "NaN" not in as_json(found)
    drawn = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', html)[0])["series"]
    assert all(value is None for line in drawn for key in "lh" for value in line.get(key) or [])
    single = compare(two(tmp_path / "single", [1], [90]))
    text, html = as_text(single), render(single, [])
    assert "one replica each is too few for a test" in text and "1.00 [" not in text and "1 replicas" not in text
    assert "no test, one replica" in html and "no significant difference" not in html
    few = make(tmp_path / "few", [1, 2], n_peers=3)
    many = make(tmp_path / "many", [11 + k for k in range(8)], n_peers=4)
    (v,) = compare([str(few), str(many)]).tasks[0].versus
    assert math.isnan(v.p) and v.winner is None


def test_a_failed_replica_does_not_decide(tmp_path):
    """One of ten replicas fails on both sides. The t interval of the means includes zero, the verdict is about IQMs."""
    a, b = [*range(10, 19), -300], [*range(20, 29), -300]
    (v,) = compare(two(tmp_path, [float(x) for x in a], [float(x) for x in b])).tasks[0].versus
    assert v.winner == "b" and v.p < 0.01 and v.difference.low > 0 and v.difference.estimate == pytest.approx(10)
    assert "b beats a on IQM by 10.0 [" in v.verdict and "; p < .001; 10 replicas each" in v.verdict


def test_samples_without_spread(tmp_path):
    """Two of 20 divisions of three and three values are as extreme, two of 252 of five and five."""
    three, five = two(tmp_path / "3", [0.0] * 3, [0.1] * 3), two(tmp_path / "5", [0.0] * 5, [0.1] * 5)
    (v,) = compare(three).tasks[0].versus
    assert v.winner is None and v.p == pytest.approx(0.1)
    assert v.verdict == "no significant difference between b and a: +0.100 [–]; p = .100; 3 replicas each"
    (v,) = compare(five).tasks[0].versus
    assert v.winner == "b" and v.p == pytest.approx(2 / 252) and "; p = .008; 5 replicas each" in v.verdict
    # Holm's correction multiplies the smallest of four p values by 4.
    words = [*five, *(str(make(tmp_path / f"c{k}", [0.0] * 5, n_peers=k)) for k in (3, 4, 5))]
    some = compare(words).tasks[0].versus
    assert [v.p for v in some] == pytest.approx([4 * 2 / 252, 1, 1, 1]) and some[0].winner == "b"


def test_comparisons_without_a_test_are_not_counted(tmp_path):
    """Holm's correction counts two comparisons; the other three have two replicas on one side."""
    words = [str(make(tmp_path / "a", [1, 2, 3, 4, 5]))]
    words += [str(make(tmp_path / f"b{k}", [4.0 + k, 5, 6, 7, 8], n_peers=3 + k)) for k in range(2)]
    words += [str(make(tmp_path / f"c{k}", [11.0, 12], n_peers=6 + k)) for k in range(3)]
    some = compare(words).tasks[0].versus
    assert not any(math.isnan(v.p) for v in some[:2]) and all(math.isnan(v.p) for v in some[2:])
    assert "after Holm's correction for 2 comparisons" in some[0].verdict


def test_length_has_no_winner(tmp_path):
    """Shorter episodes are better in some tasks and longer ones in others, so there is no winner."""
    words = two(tmp_path, [1] * 5, [1] * 5)
    edit(words[0], r",10,,alone,$", ",200,,alone,")
    edit(words[0], r"^(\d+,(\d),.*),200,,alone,$", r"\1,20\2,,alone,")
    edit(words[1], r"^(\d+,(\d),.*),10,,alone,$", r"\1,1\2,,alone,")
    found = compare(words, metric="length")
    (v,) = found.tasks[0].versus
    assert v.winner is None and v.higher == "a" and v.difference.estimate == pytest.approx(-190)
    assert v.verdict.startswith("a has longer episodes than b on IQM by 190.0 [")
    assert "probability of being longer 1.00 [" in v.verdict
    text, html = as_text(found), render(found, [])
    assert "shorter" in text and "P(longer)" in text and "a is longer" in html and "Probability of being longer" in html
    assert not re.search("better|worse|beats|improvement", text + html + as_latex(found))
    assert "mathbf" not in as_latex(found)
    assert compare(words[::-1], metric="length").tasks[0].versus[0].higher == "a"


def test_several_tasks_by_length(tmp_path):
    words = []
    for env in ("Room-v6", "CartPole-v1"):
        words += two(tmp_path / env, [1] * 5, [1] * 5, env=env)
        edit(words[-1], r"^(\d+,(\d),.*),10,,alone,$", r"\1,1\2,,alone,")  # 10 to 14 steps, and 10
    (line,) = compare(words, metric="length").overall
    # of five and five ties, and four of five above: (1/2 + 4) / 5
    assert line == "b against a: longer on 0, shorter on 0 of 2 environments; mean probability of being longer 0.90"


def test_power_of_pairs_is_that_of_their_differences(tmp_path):
    """Large differences between seeds, small ones within pairs: differences of 1, 1.2, … are tested."""
    a = [10.0, 20, 30, 40, 50]
    words = two(tmp_path, a, [x + 1 + 0.2 * k for k, x in enumerate(a)])
    (v,) = compare(words, paired=True).tasks[0].versus
    assert v.winner == "b" and 0.2 < v.detectable < 1.5  # their standard deviation is 0.316; that of b is 16
    (v,) = compare(words).tasks[0].versus
    assert v.winner is None and v.detectable > 20


def test_pairs_do_not_depend_on_the_order_of_runs(tmp_path):
    for name, trust, more in (("a", "td", 0.0), ("b", "hybrid", 1.0)):
        for seed in range(4):
            make(tmp_path / f"{name}-{seed}", [10.0 * seed + more + 0.1 * seed * more], seed=seed, trust=trust)
    words = [str(tmp_path / name) for name in ("a-0", "a-1", "a-2", "a-3", "b-3", "b-0", "b-2", "b-1")]
    task = compare(words, paired=True).tasks[0]
    assert task.sides[0].seeds == task.sides[1].seeds == ((0, 0), (1, 0), (2, 0), (3, 0))
    assert task.samples[1] - task.samples[0] == pytest.approx([1, 1.1, 1.2, 1.3])
    assert task.versus[0].winner == "b"


# --- what is on a table -------------------------------------------------------------------------------


def test_steps_to_a_threshold_are_those_of_half_the_replicas(tmp_path):
    """Curves rise in equal steps: 60 is at 20 after 100 of 300 steps, 30 after 200, and 3 never."""
    words = two(tmp_path, [3.0, 3.0, 30.0, 60.0], [3.0, 3.0, 3.0, 60.0])
    found = compare(words, threshold=20.0)
    assert [row.threshold for row in found.tasks[0].rows] == [(2, 200.0), (1, math.inf)]
    assert "200 (2 of 4)" in as_text(found) and "never (1 of 4)" in as_text(found)


@pytest.mark.parametrize("flag", ["threshold", "target"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_infinite_thresholds_are_refused(tmp_path, flag, value):
    with pytest.raises(UserError, match=f"--{flag} must be finite, got -?(nan|inf)"):
        compare(two(tmp_path, [1, 2, 3], [1, 2, 3]), **{flag: value})


def test_different_evaluation_steps(tmp_path):
    """Two curves that are at 10 from step 100 on: seen at 0, 150 and 300, or every 50 steps."""
    words = []
    for name, trust, steps in (("fine", "td", range(0, 301, 50)), ("coarse", "hybrid", range(0, 301, 150))):
        folder = make(tmp_path / name, [10.0 + k for k in range(5)], trust=trust, steps=tuple(steps))
        lines = (folder / "evaluations.csv").read_text().splitlines()
        level = [line.split(",") for line in lines[1:]]
        level = [[*c[:4], str(0 if int(c[0]) < 100 else 10 + int(c[1])), *c[5:]] for c in level]
        (folder / "evaluations.csv").write_text("\n".join([lines[0], *map(",".join, level)]) + "\n")
        words.append(str(folder))
    found = compare(words, measure="area", threshold=5.0)
    (v,) = found.tasks[0].versus
    # (0 + top) / 2 over the first half and top over the second: three quarters of the top, on both sides
    assert [row.iqm.estimate for row in found.tasks[0].rows] == pytest.approx([9, 9])
    assert v.winner is None and v.difference.estimate == pytest.approx(0)
    assert [row.threshold for row in found.tasks[0].rows] == [(5, 150.0), (5, 150.0)]
    assert found.warnings == (
        "the steps of the evaluations up to step 300 differ (number of evaluations: fine: 7, coarse: 3): area and "
        "steps to a threshold use the 3 common ones",
    )
    longer = make(tmp_path / "longer", [1, 2, 3], n_peers=3, steps=(0, 150, 300, 450))
    assert not any("evaluations up to" in line for line in compare([words[1], str(longer)]).warnings)


# --- what does not fit --------------------------------------------------------------------------------


def test_sides_with_the_same_name(tmp_path):
    old = make(tmp_path / "x" / "run", [1, 2, 3, 4, 5], env="Room-v6")
    new = make(tmp_path / "y" / "run", [21, 22, 23, 24, 25], env="Room-v21")
    found = compare([str(old), str(new)], across_tasks=True)
    (task,) = found.tasks
    assert [row.side for row in task.rows] == ["run (Room-v6)", "run (Room-v21)"]
    assert task.versus[0].winner == "run (Room-v21)"
    assert task.versus[0].verdict.startswith("run (Room-v21) beats run (Room-v6) on IQM by 20.0 [")
    assert found.differences == {"env": {"run (Room-v6)": "Room-v6", "run (Room-v21)": "Room-v21"}}
    assert found.warnings == (
        "environments differ (run (Room-v6): Room-v6, run (Room-v21): Room-v21): their returns are not comparable",
    )
    turned = compare([str(old), str(new)], reference="run (Room-v21)", across_tasks=True)
    assert [row.side for row in turned.tasks[0].rows] == ["run (Room-v21)", "run (Room-v6)"]
    other = make(tmp_path / "z" / "run", [1, 2, 3], env="Room-v6", env_args={"size": 9})
    (line,) = compare([str(old), str(other)], across_tasks=True).warnings
    assert line == (
        'environment arguments differ (run (Room-v6): {}, run (Room-v6 {"size": 9}): {"size": 9}): the tasks '
        "are different"
    )


def test_different_tasks_are_not_compared(tmp_path, capsys):
    """No verdict about runs with another version, other arguments or another fingerprint of an environment, unless
    the user asks for it."""
    five = [1.0, 2.0, 3.0, 4.0, 5.0]

    def run(name, fingerprint, **more):
        return str(make(tmp_path / name, five, environment={"fingerprint": fingerprint}, **more))

    first = run("first", {"arguments": {}, "max_episode_steps": 20}, seed=1)
    others = {
        "environments differ (first: Room-v6, version: Room-v21)": run("version", {}, env="Room-v21"),
        'environment arguments differ (first: {}, size: {"size": 9})': run(
            "size", {"arguments": {"size": 9}, "max_episode_steps": 20}, env_args={"size": 9}, seed=1
        ),
        "(max episode steps: 20 before, 30 now)": run(
            "limit", {"arguments": {}, "max_episode_steps": 30}, trust="hybrid"
        ),
    }
    for difference, other in others.items():
        assert main(["compare", first, other]) == 2
        said = capsys.readouterr().err
        assert said.startswith("peerage: no two of these runs have the same task: ") and said.count("\n") == 1
        assert difference in said and said.endswith("--across-tasks compares them all the same\n")
        assert main(["compare", first, other, "--across-tasks", "--out", str(tmp_path / "out")]) == 0
        out = capsys.readouterr().out
        assert difference in out and "no difference" in out
    (task,) = compare([first, str(tmp_path / "size")], by="env_args").tasks  # the user names the difference
    assert [row.side for row in task.rows] == ["env_args={}", 'env_args={"size": 9}']
    seed = run("first-2", {"arguments": {}, "max_episode_steps": 30}, seed=2)
    with pytest.raises(UserError, match=r"different environments with the name Room-v6 \(max.* are not replicas"):
        compare([first, seed, others["(max episode steps: 20 before, 30 now)"]])
    with pytest.raises(UserError, match="--by and --across-tasks cannot be combined"):
        compare([first, seed], by="env_args", across_tasks=True)


def test_warnings_about_differences_within_a_side(tmp_path):
    """Pooled runs have the same configuration, but possibly different protocols, machines or code."""
    for name, trust in (("a", "td"), ("b", "hybrid")):
        make(tmp_path / f"{name}1", [1, 2, 3], seed=1, trust=trust, run=RunConfig(n_eval_episodes=1))
        make(
            tmp_path / f"{name}2",
            [11, 12, 13],
            seed=2,
            trust=trust,
            run=RunConfig(n_eval_episodes=4),
            steps=(0, 50, 100, 200, 300),
            environment={"versions": {"torch": "2.13.0", "mujoco": "2.0"}, "hardware": {"cpu": "b", "device": "cpu"}},
        )
    found = compare([str(tmp_path / "a*"), str(tmp_path / "b*")])
    assert [(row.side, row.replicas) for row in found.tasks[0].rows] == [("a", 6), ("b", 6)]
    warnings = "\n".join(found.warnings)
    for words in (
        "numbers of evaluation episodes differ (a: 1 and 4, b: 1 and 4): the noise differs",
        "versions of mujoco differ (a: 3.3.0 and 2.0, b: 3.3.0 and 2.0)",
        "processors differ (a: a and b, b: a and b)",
        "the steps of the evaluations up to step 300 differ (number of evaluations: a: 4 and 5, b: 4 and 5)",
    ):
        assert words in warnings, words
    assert len(found.warnings) == 4


def test_warnings_about_different_commits(tmp_path):
    versions = {"torch": "2.13.0", "numpy": "2.4.0", "python": "3.11.7"}
    gits = [{"commit": "a" * 40, "modified": True}, {"commit": "a" * 40, "modified": False}, {"commit": "b" * 40}]
    words = []
    for name, git, python in zip("abc", gits, ("3.11.7", "3.11.7", "3.13.0")):
        environment = {"git": git, "versions": versions | {"python": python}}
        words.append(str(make(tmp_path / name, [1, 2, 3], n_peers=2 + len(words), environment=environment)))
    assert compare(words[:2]).warnings == (
        f"git commits differ (a: {'a' * 12} with changes, b: {'a' * 12}): the code is different",
    )
    told = compare(words[1:]).warnings
    assert told == (
        f"git commits differ (b: {'a' * 12}, c: {'b' * 12}): the code is different",
        "versions of python differ (b: 3.11.7, c: 3.13.0): usually a small effect",
    )


ODD = {
    "a list": [],
    "lists": {"versions": ["torch"], "hardware": [1], "git": [3], "resumed": 3},
    "texts": {"versions": "torch", "hardware": "cpu", "git": "abc", "resumed": "x"},
    "resumed": {"resumed": [3, {"different": 5}, {"different": [1, None], "step": "x"}, {"step": 1}]},
    "nulls": {"versions": None, "hardware": None, "git": {"commit": None}, "resumed": None},
    "nested": {"versions": {"torch": {"a": [1]}}, "git": {"commit": {"x": 1}, "modified": []}},
}


@pytest.mark.parametrize("kind", ODD)
def test_invalid_environment_json(tmp_path, kind):
    words = two(tmp_path, [1, 2, 3], [4, 5, 6])
    (Path(words[1]) / "environment.json").write_text(json.dumps(ODD[kind]))
    found = compare(words)
    assert found.tasks[0].versus[0].replicas == (3, 3)
    if kind == "resumed":
        assert "b was resumed under other conditions at step x: 1; None" in found.warnings
    differs = any("versions of torch differ (a: 2.13.0, b: " in line for line in found.warnings)
    unknown = "b: environment.json does not name the versions that it was trained with" in found.warnings
    assert differs == (kind == "nested") and unknown == (kind != "nested")


# --- what is half there -------------------------------------------------------------------------------


def test_an_incomplete_evaluation_is_left_out(tmp_path):
    """Otherwise the mean of replica 2 would be that of one member: 14 instead of 15 at step 300."""
    words = two(tmp_path, [11, 13, 15], [21, 23, 25])
    edit(words[0], r"^300,2,member-1,.*\n", "")
    found = compare(words)
    assert found.tasks[0].step == 200
    assert found.tasks[0].samples[0] == pytest.approx([11 * 2 / 3, 13 * 2 / 3, 15 * 2 / 3])
    assert f"{words[0]}: the evaluation at step 300 is not complete (10 rows of 12): left out" in found.warnings
    edit(words[0], r"^(200,0,member-0,1,.*\n)", r"\1\1")  # twice
    found = compare(words)
    assert found.tasks[0].step == 100
    assert f"{words[0]}: the evaluation at step 200 is not complete (13 rows of 12): left out" in found.warnings
    edit(words[1], r"^100,0,member-0,1,", "100,0,member-0,0,")  # an episode twice, another not at all
    with pytest.raises(UserError, match="a and b have only step 0 in common"):
        compare(words)


@pytest.mark.parametrize("cells, said", [("300,3,member-0", "member-0 in replica 3"), ("300,2,m-0", "m-0 in replica 2"),
                                         ("300,2,member-2", "member-2 in replica 2"),
                                         (f"300,2,member-{'9' * 5000}", "member-9+ in replica 2")])  # fmt: skip
def test_rows_of_unknown_members_are_named(tmp_path, cells, said):
    words = two(tmp_path, [1, 2, 3], [4, 5, 6])
    edit(words[0], r"^300,2,member-1,1,", f"{cells},1,")
    with pytest.raises(UserError, match=rf"a: evaluations\.csv has a row of {said} at step 300"):
        compare(words)


def test_a_huge_replica_number_is_refused_without_memory(tmp_path, capsys):
    (word, other) = two(tmp_path, [1, 2, 3], [4, 5, 6])
    edit(word, r"^300,2,member-1,1,", "300,999999999,member-1,1,")
    said = "evaluations.csv is damaged: at step 300 it has a replica 999999999"
    for command in (["compare", word, other], ["report", word]):
        assert main(command) == 2
        assert capsys.readouterr().err == f"peerage: {word}/{said}\n"
    with pytest.raises(UserError, match="it has a replica 999999999"):
        write_report(word)
    edit(word, "999999999", "-1")
    with pytest.raises(UserError, match="it has a replica -1"):
        tables.read_evaluations(word)


def test_nan_is_an_empty_cell(tmp_path):
    word = make(tmp_path / "a", [1, 2, 3], success=[1, 0, 1])
    for name in ("nan", "NaN", "NAN"):
        edit(word, r"^(200,1,member-0,1,.*),[^,]*,alone,$", rf"\1,{name},alone,")
        frame = tables.read_evaluations(word)
        assert frame["success"].isna().sum() == 1 and frame["success"].dtype == float
    edit(word, r"^200,1,member-0,1,[^,]*,", "200,1,member-0,1,ten,")
    with pytest.raises(UserError, match=r"evaluations\.csv is damaged: return at step 200 is 'ten', not a number$"):
        tables.read_evaluations(word)
    edit(word, ",ten,10,", ",1,10.5,")
    with pytest.raises(UserError, match=r"damaged: length at step 200 is '10\.5', not a number$"):
        tables.read_evaluations(word)


def test_an_unknown_setting_names_its_run(tmp_path):
    words = [*two(tmp_path, [1, 2, 3], [4, 5, 6]), str(make(tmp_path / "c", [1, 2, 3], n_peers=3))]
    path = Path(words[1]) / "config.yaml"
    path.write_text(path.read_text().replace("n_peers:", "n_peerz:"))
    said = rf"{re.escape(str(path))}: unknown key 'n_peerz'"
    with pytest.raises(UserError, match=said):
        compare(words)
    with pytest.raises(UserError, match=said):
        by_axis(find_runs(words), "n_peers")


def test_a_band_needs_all_replicas():
    """Without one of them it would be the band of another sample."""
    values = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
    result = summaries.spread(values)
    half = 4.3026527 / math.sqrt(3)  # t(0.975, 2 degrees of freedom); the standard deviation of 1, 2, 3 is 1
    assert result.mean.tolist() == [2, 2]
    assert [result.low[0], result.high[0]] == pytest.approx([2 - half, 2 + half])
    assert math.isnan(result.low[1]) and math.isnan(result.high[1])
    pair = summaries.spread(values[:, :2])
    assert (pair.low[0], pair.high[0]) == (1, 2) and math.isnan(pair.low[1]) and math.isnan(pair.high[1])


# --- where it is written ------------------------------------------------------------------------------


def test_links_are_replaced_and_not_followed(tmp_path):
    found = compare(two(tmp_path, [1, 2, 3], [4, 5, 6]))
    out = tmp_path / "out"
    write_comparison(found, out, [])
    names = ("Room-v6.png", "table.tex", "comparison.html", "comparison.json")
    for name in names:
        (tmp_path / f"mine-{name}").write_text((out / name).read_text() if name.endswith("json") else "mine")
        (out / name).unlink()
        (out / name).symlink_to(tmp_path / f"mine-{name}")
    kept = (tmp_path / "mine-comparison.json").read_text()
    write_comparison(compare(two(tmp_path / "more", [1, 2, 3], [4, 5, 7])), out, [])
    assert not any((out / name).is_symlink() for name in names)
    assert [(tmp_path / f"mine-{name}").read_text() for name in names] == ["mine"] * 3 + [kept]


@pytest.mark.parametrize("text", ['{"mine": 1}', "[1]", "no json", "\udcff", "[" * 100_000])
def test_another_comparison_json_is_not_replaced(tmp_path, text):
    found = compare(two(tmp_path, [1, 2, 3], [4, 5, 6]))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "comparison.json").write_bytes(text.encode(errors="surrogateescape"))
    (mine / "table.tex").write_text("my table")
    before = (mine / "comparison.json").read_bytes()
    with pytest.raises(UserError, match="is not a comparison: choose another --out"):
        write_comparison(found, mine, [])
    assert (mine / "table.tex").read_text() == "my table" and (mine / "comparison.json").read_bytes() == before


def test_rules_of_success_that_differ_are_named(tmp_path):
    words = two(tmp_path, [1, 2, 3], [4, 5, 6], success=[1, 0, 1])
    path = Path(words[1]) / "config.yaml"
    path.write_text(path.read_text().replace("  success: last", "  success: any"))
    lines = [line for line in compare(words, metric="success").warnings if "rules of success" in line]
    assert len(lines) == 1 and "last" in lines[0] and "any" in lines[0]
