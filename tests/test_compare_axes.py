"""Comparisons of a sweep by one of its axes and with a chosen reference; their output and page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from chromium import PROGRAM, Browser
from test_compare import make

from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig
from peerage.config.file import to_dict
from peerage.errors import UserError
from peerage.learners.defaults import resolve_advice
from peerage.reports.comparison_page import render, write_comparison
from peerage.statistics import sources
from peerage.statistics.compare import Comparison, compare
from peerage.statistics.formats import as_latex, as_text
from peerage.sweeps.state import differences

SEEDS = range(5)
GAIN = {("Room-v6", 2): 20.0, ("Room-v6", 4): 0.0, ("CartPole-v1", 2): -20.0, ("CartPole-v1", 4): 40.0}
"""The gain of td over hybrid in each task."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """trust x group on two environments; a run per seed s with return 10 + s, plus the gain of td."""
    folder = tmp_path_factory.mktemp("sweep")
    lines = []
    for seed in SEEDS:
        for (env, group), gain in GAIN.items():
            for trust, more in (("td", gain), ("hybrid", 0.0)):
                name = f"{env}_{trust}_{group}_{seed}"
                make(folder / name, [10.0 + seed + more], env=env, members=group, trust=trust, seed=seed)
                lines.append({"folder": name, "env": env, "axes": {"trust": trust, "group": group}, "seed": seed})
    (folder / "sweep.yaml").write_text(json.dumps({"name": "s", "runs": lines}))
    return str(folder)


# --- by an axis ---------------------------------------------------------------------------------------


def test_by_an_axis_with_all_other_settings_fixed(sweep):
    found = compare([sweep], by="trust", reference="trust=hybrid")
    assert [task.name for task in found.tasks] == [f"{env}, group={group}" for env, group in GAIN]
    for task, gain in zip(found.tasks, GAIN.values()):
        assert [row.side for row in task.rows] == ["trust=hybrid", "trust=td"]
        assert [row.replicas for row in task.rows] == [5, 5]
        (v,) = task.versus
        assert (v.a, v.b) == ("trust=hybrid", "trust=td") and v.difference.estimate == pytest.approx(gain)
        assert v.winner == {20.0: "trust=td", 40.0: "trust=td", 0.0: None, -20.0: "trust=hybrid"}[gain]
    assert found.tasks[0].versus[0].p < 0.05
    assert "after Holm's correction for 4 comparisons" in found.tasks[0].versus[0].verdict
    (line,) = found.overall
    assert line.startswith("trust=td against trust=hybrid: better on 2, worse on 1 of 4 tasks")
    assert found.differences == {"advice.trust": {"trust=hybrid": "hybrid", "trust=td": "td"}}
    assert found.warnings == ()


def test_by_the_other_axis(sweep):
    """Groups of 4 against groups of 2; the first value is the reference."""
    found = compare([sweep], by="group")
    assert [task.name for task in found.tasks] == [
        f"{env}, trust={trust}" for env in ("Room-v6", "CartPole-v1") for trust in ("td", "hybrid")
    ]
    first = found.tasks[0].versus[0]
    assert (first.a, first.b) == ("group=2", "group=4") and first.difference.estimate == pytest.approx(-20)


def test_a_sweep_without_an_axis(sweep):
    found = compare([sweep])
    assert [task.name for task in found.tasks] == ["Room-v6", "CartPole-v1"]
    assert [row.side for row in found.tasks[0].rows][:2] == ["trust=td, group=2", "trust=hybrid, group=2"]


def test_by_a_setting_of_runs_outside_a_sweep(sweep):
    words = [f"{sweep}/Room-v6_*"]
    found = compare(words, by="advice.trust")
    assert [task.name for task in found.tasks] == ["Room-v6, n_peers=2", "Room-v6, n_peers=4"]
    assert [row.side for row in found.tasks[0].rows] == ["advice.trust=hybrid", "advice.trust=td"]  # sorted by name
    with pytest.raises(UserError, match=r"'trust': there is no such axis.*: n_peers and advice.trust"):
        compare(words, by="trust")


def test_axes_that_are_refused(sweep, tmp_path):
    with pytest.raises(UserError, match=r"'grup': there is no such axis \(did you mean 'group'\?\).*: trust and group"):
        compare([sweep], by="grup")
    a = make(tmp_path / "a", [1, 2, 3])
    b = make(tmp_path / "b", [1, 2, 3], trust="hybrid", n_peers=3)
    with pytest.raises(UserError, match="no two of these runs differ only in it"):
        compare([str(a), str(b)], by="advice.trust")  # the number of members differs too
    c = make(tmp_path / "c", [1, 2, 3], env="CartPole-v1")
    with pytest.raises(UserError, match=r"c has no run with another value to compare with: remove it"):
        compare([str(a), str(b), str(c)], by="advice.trust")


def test_by_an_axis_versions_of_an_environment_are_different_tasks(tmp_path):
    """Without --by single sides of two versions of an environment are compared; with --by they are not."""
    words = [str(make(tmp_path / n, [1, 2, 3], n_peers=p, trust=t)) for n, p, t in (("a", 2, "td"), ("b", 3, "hybrid"))]
    assert len(compare(words).tasks) == 1
    with pytest.raises(UserError, match="differ only in it"):
        compare(words, by="n_peers")


# --- the reference ------------------------------------------------------------------------------------


def test_another_reference(sweep, tmp_path):
    words = [str(make(tmp_path / name, [top + x for x in range(5)], n_peers=peers, members=2))
             for name, top, peers in (("a", 10, 2), ("b", 30, 3), ("c", 20, 4))]  # fmt: skip
    found = compare(words, reference="c")
    assert [row.side for row in found.tasks[0].rows] == ["c", "a", "b"]
    assert [v.difference.estimate for v in found.tasks[0].versus] == pytest.approx([-10, 10])
    with pytest.raises(UserError, match=r"'C': there is no such side; the sides are 'a', 'b' and 'c'"):
        compare(words, reference="C")
    holds = compare([sweep], reference="trust=hybrid, group=4")
    assert [task.rows[0].side for task in holds.tasks] == ["trust=hybrid, group=4"] * 2


def test_a_task_without_the_reference_is_left_out_and_named(tmp_path):
    words = [str(make(tmp_path / env / name, [1, 2, 3], env=env, trust=trust, n_peers=peers, members=2))
             for env in ("Room-v6", "CartPole-v1") for name, trust, peers in (("a", "td", 2), ("b", "hybrid", 3))
             ]  # fmt: skip
    words.append(str(make(tmp_path / "only", [1, 2, 3], n_peers=4, members=2)))
    found = compare(words, reference="only")
    assert [task.name for task in found.tasks] == ["Room-v6"]
    assert found.warnings == ("the reference only has no runs on CartPole-v1: not compared",)


# --- what a metric can be -----------------------------------------------------------------------------


def test_intervals_of_success_are_limited(tmp_path):
    a = make(tmp_path / "a", [1] * 5, success=[0, 0, 0, 0, 0.5])
    b = make(tmp_path / "b", [1] * 5, success=[1, 1, 1, 1, 0.5], trust="hybrid")
    found = compare([str(a), str(b)], metric="success", target=1.0)
    low, high = found.tasks[0].rows
    # mean 0.9, standard deviation sqrt(0.2 / 4): t(0.975, 4 degrees of freedom) = 2.7764
    half = 2.7764451 * math.sqrt(0.05 / 5)
    assert 0.9 + half > 1 and (high.mean.low, high.mean.high) == pytest.approx((0.9 - half, 1.0))
    assert 0.1 - half < 0 and (low.mean.low, low.mean.high) == pytest.approx((0.0, 0.1 + half))
    assert low.gap.estimate == pytest.approx(0.9) and low.gap.high == 1.0  # limited to 1
    (v,) = found.tasks[0].versus
    assert v.difference.estimate == 1.0 and v.difference.high == 1.0 and 0 < v.difference.low < 1
    (turned,) = compare([str(b), str(a)], metric="success").tasks[0].versus
    assert turned.difference.low == -1.0
    texts = [as_text(found), as_latex(found)]
    assert not any(re.search(r"\[[-−]|, 1\.[1-9]", text) for text in texts), texts
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', render(found, []))[0])
    assert max(data["series"][1]["h"]) == 1 and min(data["series"][0]["l"]) == 0


def test_a_length_is_not_negative(tmp_path):
    folders = [make(tmp_path / "a", [1] * 3), make(tmp_path / "b", [1] * 3, trust="hybrid")]
    path = folders[0] / "evaluations.csv"
    lines = path.read_text().splitlines()
    # replicas of 1, 1 and 40 steps: mean 14, standard error 13; 14 - 4.3 x 13 is negative
    kept = [re.sub(r",10,,alone,$", f",{(1, 1, 40)[int(line.split(',')[1])]},,alone,", line) for line in lines[1:]]
    path.write_text("\n".join([lines[0], *kept]) + "\n")
    row = compare([str(f) for f in folders], metric="length").tasks[0].rows[0]
    assert row.mean.estimate == 14 and row.mean.low == 0 and row.mean.high == pytest.approx(14 + 13 * 4.3026527)


@pytest.mark.parametrize("cell, said", [("", "is not a number"), ("inf", "is ∞, out of its range")])
def test_invalid_values_are_named(tmp_path, capsys, cell, said):
    """They are not ignored: a mean over the other episodes would not be comparable."""
    a, b = make(tmp_path / "a", [1, 2, 3]), make(tmp_path / "b", [1, 2, 3], trust="hybrid")
    path = b / "evaluations.csv"
    text, hits = re.subn(r"(?m)^200,1,member-1,0,[^,]*,", f"200,1,member-1,0,{cell},", path.read_text())
    assert hits == 1
    path.write_text(text)
    assert main(["compare", str(a), str(b)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"peerage: {b}: the return of member-1 in replica 1 at step 200 {said}")
    assert err.endswith("train this run again or leave it out\n") and err.count("\n") == 1


def test_invalid_success_is_refused(tmp_path):
    a, b = make(tmp_path / "a", [1] * 3, success=[0.5] * 3), make(tmp_path / "b", [1] * 3, success=[2.0] * 3, n_peers=3)
    with pytest.raises(UserError, match=r"b: the success of member-0 in replica 0 at step 0 is 2\.000, out of"):
        compare([str(a), str(b)], metric="success")
    lines = (a / "evaluations.csv").read_text().splitlines()
    lines[3] = re.sub(r",[^,]*,alone,$", ",,alone,", lines[3])
    (a / "evaluations.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"a: .* reports success in \d+ of \d+ evaluation episodes only"):
        compare([str(a)], metric="success")


# --- what is printed ----------------------------------------------------------------------------------


def test_numbers_in_latex(tmp_path):
    """Minus signs in math mode, equal decimals in a column, no space after a comma."""
    a = make(tmp_path / "a_1", [-12.0] * 4)
    b = make(tmp_path / "50%", [4.0] * 4, trust="hybrid")
    lines = as_latex(compare([str(a), str(b)])).splitlines()
    assert lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")] == [
        r"Room-v6 & a\_1 & 4 & $-12.0$ & {\small $[-12.0, -12.0]$} & $-12.0$ & {\small $[-12.0, -12.0]$} & -- \\",
        r" & 50\% & 4 & $\mathbf{4.0}$ & {\small $[4.0, 4.0]$} & $4.0$ & {\small $[4.0, 4.0]$} & $1.00$ \\",
    ]
    c = make(tmp_path / "c", [-1234.0, -1234.0, -1234.0], n_peers=3)
    one = make(tmp_path / "one", [-0.4], n_peers=4)
    text = as_latex(compare([str(c), str(one)]))
    assert r"$-1{,}234$ & {\small $[-1{,}234, -1{,}234]$}" in text
    assert " & one & 1 & $0$ & -- & $0$ & -- & " in text  # decimals of the largest; no sign at zero
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") + line.count(r"\multicolumn{2}") == 7  # eight columns


def test_flags_that_cannot_be_combined(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, words in (
        (["--json", "--latex"], "--json and --latex cannot be combined"),
        (["--sensitivity", "--by", "trust"], "--sensitivity and --by cannot be combined"),
        (["--sensitivity", "--reference", "x"], "--sensitivity and --reference cannot be combined"),
    ):
        assert main(["compare", sweep, *flags]) == 2
        out, err = capsys.readouterr()
        assert out == "" and words in err and err.count("\n") == 1
    assert main(["compare", sweep, "--by", "trust", "--reference", "trust=hybrid"]) == 0
    out = capsys.readouterr().out
    assert "Room-v6, group=2: return at step 300" in out and "trust=td beats trust=hybrid" in out
    assert len(list((tmp_path / "comparisons").iterdir())) == 1
    assert main(["compare", sweep, "--by", "trust"]) == main(["compare", sweep, "--by", "trust", "--paired"]) == 0
    assert len(list((tmp_path / "comparisons").iterdir())) == 3  # none replaces another


# --- the page -----------------------------------------------------------------------------------------


def titles(found: Comparison) -> str:
    """The heading of the page as text."""
    return re.search(r"<h1>(.*?)</h1>", render(found, []))[1].replace("<wbr>", "")


def test_the_title_names_two_or_three_sides(tmp_path, sweep):
    words = [str(make(tmp_path / name, [1, 2, 3], n_peers=k, members=2)) for k, name in enumerate("abcd", start=2)]
    assert titles(compare(words[:2])) == "b against a"
    assert titles(compare(words[:3])) == "b and c against a"
    assert titles(compare(words[:3], reference="b")) == "a and c against b"
    assert titles(compare(words)) == "4 methods on Room-v6"
    assert titles(compare([sweep])) == "4 methods on Room-v6 and CartPole-v1"


def test_the_page_shows_the_compared_quantity(tmp_path):
    """Equal final returns, which one side reaches at once and the other at the end."""
    words = []
    for name, early, trust in (("slow", False, "td"), ("fast", True, "hybrid")):
        folder = make(tmp_path / name, [10.0, 20.0, 30.0, 40.0, 50.0], trust=trust)
        if early:
            path = folder / "evaluations.csv"
            lines = path.read_text().splitlines()
            top = {tuple(line.split(",")[1:4]): line.split(",")[4] for line in lines if line.startswith("300,")}
            cells = [line.split(",") for line in lines[1:]]
            level = [",".join([*c[:4], top[tuple(c[1:4])], *c[5:]]) for c in cells]
            path.write_text("\n".join([lines[0], *level]) + "\n")
        words.append(str(folder))
    final, area = compare(words), compare(words, measure="area")
    assert [row.iqm.estimate for row in final.tasks[0].rows] == pytest.approx([30, 30])
    # the mean of a straight line from 0 is half its end; of a level one its end
    assert [row.iqm.estimate for row in area.tasks[0].rows] == pytest.approx([15, 30])
    assert [row.final.estimate for row in area.tasks[0].rows] == pytest.approx([30, 30])
    assert np.stack(area.tasks[0].samples) == pytest.approx(np.array([[5, 10, 15, 20, 25], [10, 20, 30, 40, 50]]))
    for found, said, other in (
        (final, "return at step 300", "mean return up to step 300"),
        (area, "mean return up to step 300 (area under the learning curve)", "at step 300"),
    ):
        html = render(found, [])
        assert html.count(said) >= 5 and other not in html  # first line, table, three captions
        profile = html[html.index("<h3>Performance profile</h3>") :]
        assert f"Share of the replicas whose {said} is above" in profile
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', profile)[1])
        assert data["x"] == pytest.approx([10 if found is final else 5, 50])
    assert "$15.0$" in as_latex(area) and "$15.0$" not in as_latex(final)


def test_the_numbers_of_the_figures(tmp_path):
    """Middles of 12 and 22, whose outliers pull the means to 10 and 24: in all four figures."""
    a = make(tmp_path / "a", [0.0, 11.0, 12.0, 13.0, 14.0])
    b = make(tmp_path / "b", [12.0, 21.0, 22.0, 23.0, 42.0], trust="hybrid")
    figures = {part.partition("</h3>")[0]: part for part in render(compare([str(a), str(b)]), []).split("<h3>")[1:]}
    data = {name: re.findall(r'<script type="application/json">(.*?)</script>', html) for name, html in figures.items()}
    curves, profile = (json.loads(data[name][0])["series"] for name in ("Learning curves", "Performance profile"))
    assert [line["e"] for line in curves] == [[0, 4, 8, 12], pytest.approx([0, 22 / 3, 44 / 3, 22], rel=1e-3)]
    # 20 pairs of 25 with one of 21 to 42, all lost by a; 12 is above 0 and 11 and level with 12
    assert "<td>0.900 (" in figures["Probability of improvement"] and "<td>10.0 (" in figures["Differences"]
    for line, x in zip(profile, ([0, 11, 12, 13, 14], [12, 21, 22, 23, 42])):
        heights = np.linspace(0, 42, len(line["e"]))
        assert line["e"] == pytest.approx([np.mean(np.array(x) > height) for height in heights])
    assert profile[0]["e"][0] == 0.8 and profile[1]["e"][0] == 1 and profile[0]["e"][-1] == profile[1]["e"][-1] == 0


@pytest.mark.skipif(PROGRAM is None, reason="no browser")
def test_ten_sides_fit_a_printed_page(tmp_path):
    name = "a-very-long-name-of-a-run-which-goes-on-and-on"
    tops = [[10.0 + 3 * k + i for i in range(4)] for k in range(10)]
    words = [str(make(tmp_path / f"{name}-{k}", top, n_peers=2 + k)) for k, top in enumerate(tops)]
    path = write_comparison(compare(words, threshold=11, target=40), tmp_path / "out", ["peerage", "compare", *words])
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(path, 740, media="print")  # A4 and Letter without their margins
        assert browser.run("document.documentElement.scrollWidth") <= 740 and browser.complaints() == []
        assert browser.run("document.querySelectorAll('.scroll tr').length") > 10
    finally:
        browser.close()


@pytest.mark.skipif(PROGRAM is None, reason="no browser")
def test_names_do_not_wrap_within_words(tmp_path):
    names = ["experiment_with_in_context_trust", "a-third.one=this", "the_plain_baseline_of_them_all"]
    words = [str(make(tmp_path / name, [k, k + 1, k + 2], n_peers=k)) for k, name in enumerate(names, start=2)]
    path = write_comparison(compare(words, measure="area"), tmp_path / "out", ["peerage", "compare"])
    browser = Browser(tmp_path / "profile")
    # All letters of a word (between spaces, hyphens and signs of a name) are on one line
    torn = """[...document.querySelectorAll("h1, h2, h3, th, td, .fact *, figcaption, li, .xlabel")].flatMap((part) => {
      const words = [], range = document.createRange();
      const walk = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
      for (let node; (node = walk.nextNode());) for (const word of node.textContent.matchAll(/[\\p{L}\\p{N}]+/gu)) {
        range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) words.push(word[0]);
      }
      return words;
    })"""
    try:
        for width in (400, 1200):
            browser.open(path, width)
            assert browser.run("document.scrollingElement.scrollWidth") <= width and browser.complaints() == []
            assert browser.run(torn) == [], width
    finally:
        browser.close()


# --- settings -----------------------------------------------------------------------------------------


def test_settings_by_their_dotted_names():
    config = Config(device="cpu", learner=LearnerConfig(gamma=(0.9,)))
    data = to_dict(config)
    every, told = sources.dotted_settings(data), sources.compared_settings(data)
    assert every["n_peers"] == 4 and every["learner.gamma"] == told["learner.gamma"] == [0.9]
    assert every.keys() - told.keys() == {"device", "threads", *(f"run.{name}" for name in data["run"])}
    other = replace(config, device="cuda", learner=replace(config.learner, gamma=(0.5,)))
    other = replace(other, run=replace(other.run, eval_freq=7, log_dir="elsewhere"))
    assert differences(config, other) == [  # folder and device may differ
        "learner.gamma is 0.9 there and 0.5 in the sweep",
        f"run.eval_freq is {config.run.eval_freq} there and 7 in the sweep",
    ]


# --- what a newcomer asks first -----------------------------------------------------------------------


def test_the_value_of_an_axis_names_the_reference(sweep):
    whole, value = (compare([sweep], by="trust", reference=name) for name in ("trust=hybrid", "hybrid"))
    assert as_text(whole) == as_text(value) and value.tasks[0].sides[0].name == "trust=hybrid"


def test_derived_defaults_are_not_axes(tmp_path):
    """By default td uses a critic and agent values, and in-context trust does not: these derived settings are not axes.
    An explicit critic with in-context trust is a different setting."""
    for trust in ("td", "in-context"):
        for seed in range(3):
            advice = resolve_advice(AdviceConfig(trust=trust))
            assert advice.use_critic == (trust == "td")
            make(tmp_path / f"{trust}-{seed}", [10.0 + seed], seed=seed, advice=advice)
    words = [str(tmp_path / "td-*"), str(tmp_path / "in-context-*")]
    (task,) = compare(words, by="advice.trust").tasks
    assert [row.side for row in task.rows] == ["advice.trust=td", "advice.trust=in-context"]
    advice = resolve_advice(AdviceConfig(trust="in-context", use_critic=True))
    make(tmp_path / "in-context-9", [10.0], seed=9, advice=advice)
    axes = {name for run in sources.differing_settings(sorted(tmp_path.iterdir())) for name in run.axes}
    assert axes == {"advice.trust", "advice.use_critic"}


def test_the_detectable_difference_is_at_least_half_the_interval(tmp_path):
    """Two replicas at 0 and two at 10: the interval of IQMs is wider than what normal samples would show."""
    for side, trust in (("a", "td"), ("b", "hybrid")):
        for seed, value in enumerate([0.0, 10.0, 0.0, 10.0]):
            make(tmp_path / f"{side}-{seed}", [value], trust=trust, seed=seed)
    (v,) = compare([str(tmp_path / "a-*"), str(tmp_path / "b-*")]).tasks[0].versus
    assert v.detectable == pytest.approx((v.difference.high - v.difference.low) / 2) and v.detectable > 10


def test_runs_without_success_are_left_out(tmp_path):
    for trust in ("td", "hybrid"):
        for seed in range(3):
            make(tmp_path / f"room-{trust}-{seed}", [1.0], success=[0.5], trust=trust, seed=seed)
    make(tmp_path / "pole", [1.0], env="CartPole-v1")
    found = compare([str(tmp_path / "room-*"), str(tmp_path / "pole")], metric="success")
    assert [task.name for task in found.tasks] == ["Room-v6"]
    assert f"{tmp_path / 'pole'}: CartPole-v1 reports no success: left out" in found.warnings
    with pytest.raises(UserError, match=r"CartPole-v1 reports no success$"):
        compare([str(tmp_path / "pole")], metric="success")


def test_significant_verdicts_come_first(tmp_path):
    """Five sides of which only the last is better."""
    rates = [(1e-4, 0.0), (2e-4, 0.1), (3e-4, -0.1), (4e-4, 0.2), (5e-4, 90.0)]
    for k, (rate, more) in enumerate(rates):
        for seed in range(5):
            make(tmp_path / f"s{k}-{seed}", [seed + more], seed=seed, learner=LearnerConfig(learning_rate=(rate,)))
    found = compare([str(tmp_path / f"s{k}-*") for k in range(5)])
    assert [v.winner for v in found.tasks[0].versus] == [None, None, None, "s4"]
    html = render(found, ["peerage", "compare"])
    assert html.index("s4 is better") < html.index("s1: no significant difference")


def test_bold_sides_in_latex(tmp_path):
    for name, trust, value in (("r", "td", 1.0), ("x", "hybrid", 51.0), ("y", "transformer", 50.0)):
        for seed in range(5):
            make(tmp_path / f"{name}-{seed}", [value + seed], trust=trust, seed=seed)
    better = as_latex(compare([str(tmp_path / f"{name}-*") for name in "rxy"])).split(r"\midrule")[1]
    assert [r"\mathbf" in line for line in better.splitlines() if "&" in line] == [False, True, True]
    worse = as_latex(compare([str(tmp_path / f"{name}-*") for name in "xr"])).split(r"\midrule")[1]
    assert [r"\mathbf" in line for line in worse.splitlines() if "&" in line] == [True, False]


@pytest.mark.parametrize("flag", [["--metric", "success"], ["--measure", "area"], ["--paired"], ["--threshold", "3"]])
def test_flags_that_sensitivity_refuses(sweep, capsys, flag):
    assert main(["compare", sweep, "--sensitivity", *flag]) == 2
    assert f"--sensitivity and {flag[0]} cannot be combined" in capsys.readouterr().err
