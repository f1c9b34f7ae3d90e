"""report.html: its numbers, its content security policy, and its behaviour in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chromium import PROGRAM, Browser
from test_runs import make_info, make_run

from peerage.config import AdviceConfig, Config, LearnerConfig
from peerage.config.file import to_dict
from peerage.errors import UserError
from peerage.learners.defaults import resolve
from peerage.reports import advice_figures, charts, encoder_attention, matrix, over_time, page, plots, provenance
from peerage.reports.drawing import adviser_colour
from peerage.reports.figures import make_figures
from peerage.reports.plot_scales import Axes, Look, Series, height, label, shades, ticks
from peerage.reports.report import _followed_most, _listening, render, write_report
from peerage.runs import CsvLog, RunFolder
from peerage.runs.display import Display
from peerage.runs.disturbances import disturbances
from peerage.statistics import summaries

# --- the frame ------------------------------------------------------------------------------------


def policy(text: str) -> dict[str, list[str]]:
    """The content security policy of a page: directive -> sources."""
    content = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    return {words[0]: words[1:] for words in map(str.split, unescape(content).split(";"))}


def test_the_policy_names_every_script_by_its_hash_and_allows_nothing_else():
    text = page.render("t", ["<p>x</p>"], [plots.STYLE], [plots.SCRIPT, matrix.SCRIPT])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    assert len(scripts) == 3
    assert policy(text) == {
        "default-src": ["'none'"],
        "script-src": [f"'sha256-{code}'" for code in hashes],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:"],
        "media-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert not re.search(r"https?:|url\(|import\(|fetch|eval|innerHTML|Function\(", text)


def test_contents_list_the_sections_and_text_is_escaped():
    sections = [page.Section(name, "<p>x</p>") for name in ("One <b>", "Two", "Three")]
    text = page.render("a<b", ["", *sections])
    assert "<title>a&lt;b · Peerage</title>" in text
    links = re.findall(r'<a href="#([^"]*)">([^<]*)</a>', text)
    assert links == [("one-b", "One &lt;b&gt;"), ("two", "Two"), ("three", "Three")]
    assert all(f'<section id="{name}"' in text for name, _ in links)
    assert "<nav" not in page.render("t", sections[:2])


def test_json_cannot_close_its_element():
    evil = "</script><script>alert(1)</script><!-- & \u2028"
    text = page.data({"name": evil, "values": [1, None]})
    assert text.count("<") == text.count(">") == 2  # of its own two tags
    inside = re.fullmatch(r'<script type="application/json">(.*)</script>', text)[1]
    assert json.loads(inside) == {"name": evil, "values": [1, None]}
    with pytest.raises(ValueError):
        page.data(math.nan)


def test_tables_name_their_rows_and_columns():
    text = page.table(["a", "b<"], [["x", "1&"]], caption="c")
    assert '<th scope="col">a</th><th scope="col">b&lt;</th>' in text
    assert '<tr><th scope="row">x</th><td>1&amp;</td></tr>' in text and "<caption>c</caption>" in text


# --- charts ---------------------------------------------------------------------------------------


def test_ticks_labels_and_shades():
    assert ticks(0.0, 50_000.0) == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    assert ticks(-0.21, 0.2) == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2])
    assert [label(v, 0.1) for v in (-0.2, -1e-17, 0.1)] == ["−0.2", "0.0", "0.1"]
    assert label(-1500.0, 500.0) == "−1,500" and label(2e9, 1e9) == "2e+09"
    axes = Axes((0.0, 10.0), (1.0, 100.0), log=True)
    assert axes.up([1.0, 10.0, 100.0]).tolist() == [0, 0.5, 1]
    assert axes.yticks() == [(0.0, "1"), (0.5, "10"), (1.0, "100")]
    assert shades("#ffffff")[1] == "#ffffff" and shades("#000000")[0] == "#000000"
    assert shades("#ffffff")[0] == "#8c8c8c"  # white moved 45% to black: 3.4 to 1 on white; 40% (#999999): 2.8 to 1


def test_the_y_axis_fits_lines_before_bands():
    steps, line = [0, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 10]
    narrow = Series("a", steps, line, [v - 1 for v in line], [v + 1 for v in line])
    assert height([narrow], (0, 5), Look()) == pytest.approx((-1 - 0.06 * 12, 11 + 0.06 * 12))
    wide = Series("a", steps, line, [-1000] * 6, [1000] * 6)
    assert height([wide], (0, 5), Look()) == pytest.approx((-7.5 - 0.06 * 25, 17.5 + 0.06 * 25))
    started = Series("a", steps, [200, 200, 3, 2, 1, 2])
    assert height([started], (0, 5), Look(skip_start=True))[1] == pytest.approx(3 + 0.06 * 2)
    assert height([started], (0, 5), Look())[1] > 200
    assert height([narrow], (0, 5), Look(ylim=(0.0, None), reference=(30.0, "r")))[0] == 0.0
    flat = Series("a", steps, [5.0] * 6)
    assert height([flat], (0, 5), Look()) == (4.5, 5.5)


def paths(html: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="[^"]*\b{kind}\b[^"]*"[^>]* d="([^"]*)"', html)


def chart_data(html: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', html)]


def test_a_curve_by_hand():
    look = Look(ylim=(0.0, 10.0))
    line = Series("a<b", [0, 50, 100], [0.0, math.nan, 5.0], [0.0, math.nan, 2.5], [0.0, math.nan, 10.0])
    dot = Series("c", [100], [7.5], colour="#0072B2", dash=True)
    html = plots.curves([line, dot], "y", "T", caption="C", look=look)
    # The chart is 4000 units wide and high; the origin is the upper left corner.
    assert paths(html, "line") == ["M0 4000L4000 2000", "M4000 1000h0"]
    assert paths(html, "band") == ["M0 4000L4000 3000L4000 0L0 4000Z"]
    assert "a&lt;b" in html and "a<b" not in html and 'class="s line dash point"' in html
    (data,) = chart_data(html)
    assert data["grids"] == [[0, 50, 100], [100]] and data["y"] == [0, 10] and data["x"] == [0, 100]
    assert data["series"][0]["e"] == [0, None, 5] and data["series"][0]["h"] == [0, None, 10]
    assert data["series"][1] == {"name": "c", "colours": ["#0072b2", shades("#0072B2")[1]], "e": [7.5], "grid": 1}
    assert "At the end: a&lt;b 5.000 (2.500 to 10.0), c 7.500." in html
    assert plots.curves([Series("x", [1, 2], [math.nan, math.nan])], "y", "T") == ""


def test_a_line_through_few_values_has_a_dot_at_each():
    few = Series("a", [0, 50, 75, 100], [0.0, math.nan, 10.0, 5.0])
    many = Series("b", range(plots.DOTS + 1), [1.0] * (plots.DOTS + 1))
    look = Look(ylim=(0.0, 10.0))
    assert paths(plots.curves([few], "y", "T", look=look), "dot") == ["M0 4000h0M3000 0h0M4000 2000h0"]
    assert paths(plots.curves([many], "y", "T"), "dot") == []


def test_areas_have_gaps_for_missing_values():
    gap = math.nan
    shares = [gap, 100.0, gap, gap, 50.0]
    html = plots.areas({"p": [Series("a", [20, 40, 60, 80, 100], shares)]}, "y", "T")
    # The value at 40 starts at 20, and that at 100 at 80.
    assert paths(html, "area") == ["M800 0L1600 0L1600 4000L800 4000ZM3200 2000L4000 2000L4000 4000L3200 4000Z"]
    assert chart_data(html)[0]["series"][0]["e"] == [None, 100, None, None, 50]


def test_areas_are_stacked():
    html = plots.areas({"p": [Series("a", [50, 100], [25, 50]), Series("b", [50, 100], [75, 50])]}, "y", "T")
    assert paths(html, "area") == [
        "M0 3000L2000 3000L4000 2000L4000 4000L2000 4000L0 4000Z",
        "M0 0L2000 0L4000 0L4000 2000L2000 3000L0 3000Z",
    ]


def test_intervals_leave_out_missing_values():
    rows = [("b − a", 5.0, 0.0, 10.0), ("c", 1.0, math.nan, math.nan), ("d", math.nan, 0.0, 1.0)]
    html = plots.intervals(rows, "difference", "T")
    assert html.count('class="dot"') == 2 and html.count('class="bar"') == 1 and "5.000 (0.000 to 10.0)" in html
    # From -0.6 to 10.6: 0 is at 5.36%, and the interval is 10/11.2 of the width.
    assert 'class="zero" style="left:5.36%"' in html and "left:5.36%;width:89.29%" in html
    assert plots.intervals(rows[2:], "difference", "T") == ""


def test_panels_share_a_scale_unless_it_is_separate():
    panels = {"one": [Series("a", [0, 1], [0, 1])], "two": [Series("a", [0, 1], [0, 100])]}
    looks = Look(), Look(separate_scales=True)
    shared, apart = (chart_data(plots.multiples(panels, "y", "T", look=look)) for look in looks)
    assert shared[0]["y"] == shared[1]["y"] and apart[0]["y"] != apart[1]["y"] == shared[1]["y"]
    legend = plots.multiples(panels, "y", "T", look=Look(reference=(0.5, "half"))).count("<li>")
    assert legend == 2  # a once, and the reference


# --- from the files to the numbers ----------------------------------------------------------------


def test_thinning_keeps_rows_and_the_last_step():
    frame = pd.DataFrame({"step": np.repeat(np.arange(1, 11) * 10, 2), "value": np.arange(20)})
    thinned = summaries.thin(frame, 4)
    # Groups of three from the end: 10 | 20..40 | 50..70 | 80..100
    assert thinned["step"].drop_duplicates().tolist() == [10, 40, 70, 100]
    assert thinned.groupby("step")["value"].count().tolist() == [2, 6, 6, 6]
    assert summaries.thin(frame, 10) is frame


def advice_by_hand() -> pd.DataFrame:
    """Two replicas, one asker, two advisers, two steps."""
    rows = [
        (10, 0, "member-0", "member-0", 1, 0.5),
        (10, 0, "member-0", "expert", 3, -2.0),
        (10, 1, "member-0", "member-0", 0, 1.5),
        (10, 1, "member-0", "expert", 0, 2.0),
        (20, 0, "member-0", "member-0", 2, 1.0),
        (20, 0, "member-0", "expert", 2, math.nan),
        (20, 1, "member-0", "member-0", 4, 3.0),
        (20, 1, "member-0", "expert", 0, 4.0),
    ]
    frame = pd.DataFrame(rows, columns=["step", "replica", "asker", "adviser", "chosen", "score"])
    names = ("trust_td", "trust_attention", "agent_value", "critic", "confidence", "omega", "in_context")
    return frame.assign(**dict.fromkeys(names, math.nan))


def test_the_matrix_by_hand():
    html = charts.listeners(advice_by_hand())
    (data,) = chart_data(html)
    choices, score = data["columns"]
    assert data["steps"] == [10, 20]
    # mean, replica 0, replica 1; in each both steps; in each (itself, expert). Replica 1 made no choice at step 10.
    assert choices["values"] == [25, 75, 75, 25, 25, 75, 50, 50, None, None, 100, 0]
    assert score["values"] == [1, 0, 2, 4, 0.5, -2, 1, None, 1.5, 2, 3, 4] and (score["low"], score["high"]) == (-2, 4)
    shown = re.search(r"<tbody>(.*?)</tbody>", html, re.S)[1]
    assert re.findall(r"<td([^>]*)>([^<]*)</td>", shown) == [
        (' class="itself turned" style="--w:0.75"', "75"),
        (' style="--w:0.25"', "25"),
    ]
    assert "mean of 2 replicas" in html and "replica 1" in html and "each of 2 advisers 50%" in html


def test_steps_without_choices_are_gaps():
    silent = advice_by_hand().assign(step=lambda frame: frame["step"] + 20)
    before = [silent.assign(step=step, chosen=0, score=math.nan) for step in (10, 20)]
    advice = pd.concat([*(frame.drop_duplicates(["replica", "adviser"]) for frame in before), silent])
    (data,) = chart_data(charts.listeners(advice))
    assert data["steps"] == [30, 40] and data["columns"][0]["values"][:4] == [25, 75, 75, 25]
    html = charts.shares(advice)
    (data,) = chart_data(html)
    assert data["grids"] == [[10, 20, 30, 40]] and data["series"][0]["e"] == [None, None, 25, 75]
    # 20 to 30 to 40 of 40 steps: from the middle on
    assert paths(html, "area")[0] == "M2000 3000L3000 3000L4000 1000L4000 4000L3000 4000L2000 4000Z"
    assert "without choices" in html and "without choices" not in charts.shares(advice_by_hand())


def test_advisers_with_the_same_colour_get_different_ones():
    names = {"member-0": "mentor", "expert": "rotemn"}  # registered names with the same letters
    assert adviser_colour("mentor") == adviser_colour("rotemn")
    advice = advice_by_hand().replace({"adviser": names})
    for html in (charts.shares(advice), charts.signals(advice), charts.traces(advice)):
        colours = {tuple(line["colours"]) for data in chart_data(html) for line in data["series"]}
        assert len(colours) == 2


def test_colours_of_both_signs_and_of_initial_values():
    values = np.array([200.0, 1.0, -3.0, 0.0, 1.5, -1.5]).reshape(1, 6, 1, 1)
    column = matrix.Column("x", "x", values)
    assert column.scale == (-3.0, 1.5) and column.digits == 1
    cells = [matrix._cell(float(v), column, False) for v in values.ravel()]
    assert '--w:1.00">200.0' in cells[0] and 'class="less turned" style="--w:1.00">−3.0' in cells[2]
    assert '--w:0.00">0.0' in cells[3] and 'class="less" style="--w:0.50">−1.5' in cells[5]
    assert matrix.Column("x", "x", np.full((1, 3, 1, 1), 7.0)).scale == (7.0, 7.0)
    assert matrix.Column("x", "x", values * math.nan).scale == (0.0, 1.0)
    assert ">–<" in matrix._cell(math.nan, column, False)
    assert ">−3.0e+09<" in matrix._cell(-3e9, column, False)
    assert np.isnan(matrix.Column("x", "x", np.array([math.inf, 1e308]).reshape(1, 1, 1, 2)).values).all()


def test_large_groups_are_pooled_and_stay_small(tmp_path):
    path = make_run(tmp_path, 24, replicas=2, steps=1_000_000, rows=130)
    text = render(RunFolder.open(path))
    assert len(text.encode()) < 800_000 and "Each point is the mean of" not in text
    data = next(data for data in chart_data(text) if "columns" in data)
    # 24 askers; self, other members, expert and adversary; choices and four signals
    assert len(data["columns"]) == 5
    views = len(data["columns"][0]["values"]) / (len(data["steps"]) * 24 * 4)
    assert views == 3 and over_time.MATRIX_STEPS[0] <= len(data["steps"]) <= over_time.MATRIX_STEPS[1]
    assert all(len(data["grids"][0]) <= charts.POINTS for data in chart_data(text) if data.get("grids"))
    assert "Members are pooled into two advisers" in text
    assert "data:image" not in text


def test_a_failed_write_changes_nothing(tmp_path):
    path = make_run(tmp_path, 1, (), 1, rows=1)
    (path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html must be a regular file.*restore it"):
        write_report(path)
    assert not (path / "figures").exists()
    (path / "report.html").rmdir()
    (path / "figures").write_text("x")
    with pytest.raises(UserError, match=r"figures must be a folder.*restore it"):
        write_report(path)
    assert not (path / "report.html").exists()


# --- the summary ----------------------------------------------------------------------------------


def cards(text: str) -> list[tuple[str, str]]:
    """The cards at the top of a page: headline and explanation of each."""
    return re.findall(r'<div class="fact"><b>([^<]*)</b><span>([^<]*)</span></div>', text)


def evaluated(log_dir: Path, values: dict[tuple[int, str], float]) -> Path:
    """A run with one evaluation: (replica, member) -> return."""
    run = RunFolder.create(log_dir, "r", "r", {"env": "Room-v6", "n_peers": 2, "learner": {"algorithm": ["dqn"]}})
    log = CsvLog(run.path)
    log.on_evaluations(100, [(r, m, 0, value, 9, None, "alone") for (r, m), value in values.items()])
    log.close()
    return run.path


def test_the_best_member_is_a_single_member(tmp_path):
    # Means over replicas would be 50 and 51: that of member-1 is higher, but member-0 of replica 1 is the best.
    values = {(0, "member-0"): 10.0, (0, "member-1"): 40.0, (1, "member-0"): 90.0, (1, "member-1"): 62.0}
    (_, card) = cards(render(RunFolder.open(evaluated(tmp_path, values))))
    assert card == (
        "replica 1, member-0",
        "best single member at the end, mean return 90.0; the worst is replica 0, member-0 with 10.0; "
        "the mean difference of best and worst within a replica is 29.0",  # (30 + 28) / 2
    )


def test_the_best_member_with_one_replica(tmp_path):
    path = evaluated(tmp_path, {(0, "member-0"): 10.0, (0, "member-1"): 40.0})
    (_, card) = cards(render(RunFolder.open(path)))
    assert card == ("member-1", "best member at the end, mean return 40.0; the worst is member-0 with 10.0")
    alone = render(RunFolder.open(evaluated(tmp_path / "alone", {(0, "member-0"): 10.0})))
    assert len(cards(alone)) == 1 and "1 DQN member trained on Room-v6 for 100 steps.<" in alone
    several = evaluated(tmp_path / "several", {(0, "member-0"): 10.0, (1, "member-0"): 12.0})
    assert "apart" not in cards(render(RunFolder.open(several)))[1][1]


def test_the_adviser_that_is_followed_most_is_a_single_one():
    """Every member follows itself most, although the other members together get more choices."""
    members = [f"member-{i}" for i in range(4)]
    own = {m: {other: 40 if other == m else 20 for other in members} for m in members}
    rows = [(10, 0, m, other, n) for m, each in own.items() for other, n in each.items()]
    advice = pd.DataFrame(rows, columns=["step", "replica", "asker", "adviser", "chosen"])
    what = "share of choices in the last fifth of the run; random choice would give 25%"
    assert _followed_most(advice) == [("themselves: 40%", f"the single adviser that members follow most: {what}")]
    assert "the members followed one of 3 other members in 60% and themselves in 40% of" in _listening(advice)
    led = advice.assign(chosen=[80 if other == "member-2" else 10 for other in advice["adviser"]])
    (card,) = _followed_most(led[led["asker"] != "member-2"])
    assert card == ("member-2: 73%", f"the single adviser that the other members follow most: {what}")


def test_the_figure_of_scores_averages_the_rows_of_the_log():
    """The score of a single choice oscillates; a point of the figure is the mean of neighbouring rows."""
    steps = np.arange(1, 241)
    parts = [
        pd.DataFrame({"step": steps, "replica": 0, "asker": "member-0", "adviser": name, "chosen": 1,
                      "score": mean + (-1.0) ** steps})
        for name, mean in (("member-0", 2.0), ("expert", 3.0))
    ]  # fmt: skip
    draft = advice_figures.trust_over_time(pd.concat(parts))
    (axes,) = draft.figure.axes
    assert [len(line.get_ydata()) for line in axes.lines] == [24, 24]
    assert [float(line.get_ydata().mean()) for line in axes.lines] == [2.0, 3.0]
    assert all(np.ptp(line.get_ydata()) < 1e-9 for line in axes.lines)
    assert "10 rows of the log for each point" in draft.caption


HARD = {
    "perturb": {"observation_noise": 0.05, "mass_scale": [0.8, 1.2], "dropped_advice": 0.25, "action_noise": 0.0},
    "advice": {"byzantine_members": ["1:sign-flip", "2:noise:0.3"]},
    "advisers": ["expert", "sign-flip:expert", "colluding:a", "colluding:a", "turncoat", "noise:0.5:expert"],
}
SAID = [
    "perturbed in training, not in evaluations: observation_noise=0.05 mass_scale=0.8..1.2",
    "advice dropped: 25% of the suggestions do not reach the member that chooses",
    "Byzantine members, which give others false advice: member-1 (sign-flip) and member-2 (noise:0.3)",
    "adversarial advisers: sign-flip:expert, colluding:a and colluding:a-2",
    "advisers that are adversarial at some times or in some places: turncoat",
    "advisers disturbed by noise: noise:0.5:expert",
]


def test_the_report_names_disturbances(tmp_path):
    fixed = ("expert", "sign-flip:expert", "colluding:a", "colluding:a-2", "turncoat", "noise:0.5:expert")
    path = make_run(tmp_path, 3, fixed, replicas=1, rows=2)
    run = RunFolder.open(path)
    assert "Perturbed" not in render(run) and "dropped" not in render(run) and "Byzantine" not in render(run)
    run.write_config({**run.config(), **HARD})
    head = unescape(render(run).split("<section")[0])
    for line in SAID:
        assert f"{line[0].upper()}{line[1:]}." in head


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_names_disturbances(terminal):
    import io

    from rich.console import Console

    out = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
    info = make_info(None, 3, ("expert", "adversary"))
    plain, hard = (Display(1, out) for _ in range(2))
    plain.on_start(info)
    plain.on_end("DONE", "")
    assert "adversarial advisers: adversary" in out.file.getvalue() and "dropped" not in out.file.getvalue()
    hard.on_start(replace(info, config={**info.config, **HARD}))
    hard.on_end("DONE", "")
    said = " ".join(out.file.getvalue().split())
    assert "; ".join(SAID[:3]) + "; adversarial advisers: adversary" in said


def test_adversarial_advisers():
    def said(*names: str) -> list[str]:
        return disturbances({}, ["member-0", *names])

    assert said("expert", "expert-2", "random", "constant:1", "checkpoint:adversary:0", "sign-flip:adversary") == []
    assert said("adversary-2", "negated:expert-3", "colluding", "sign-flip:checkpoint:a:0") == [
        "adversarial advisers: adversary-2, negated:expert-3, colluding and sign-flip:checkpoint:a:0"
    ]
    places = "advisers that are adversarial at some times or in some places:"
    assert said("convert", "regional:a-2", "sign-flip:turncoat") == [
        f"{places} convert, regional:a-2 and sign-flip:turncoat"
    ]


@pytest.mark.parametrize("value", [3, [1], {"gravity": {}}, {"x y": 1}, {"dropped_advice": "x"}, {1: 2}])
def test_disturbances_of_an_invalid_configuration(value):
    config = {"perturb": value, "env_args": {"perturb": value}, "advice": {"byzantine_members": [value, "1"]}}
    assert all(isinstance(line, str) for line in disturbances(config, [""]))


def test_a_perturbed_environment_is_a_disturbance():
    assert disturbances({"env_args": {"perturb": {"action_delay": 2}}}, []) == [
        "perturbed environment, in training and evaluations: action_delay=2"
    ]


# --- interrupted ----------------------------------------------------------------------------------

SMALL = ["train", "--env", "Room-v6", "--n-peers", "1", "--sharing", "none", "--total-timesteps", "50", "--eval-freq"]
SMALL += ["50", "--learning-starts", "20", "--net-arch", "8", "--n-eval-episodes", "1", "--verbose", "0"]


def test_ctrl_c_while_the_report_is_drawn(tmp_path, monkeypatch, capsys):
    from peerage import session
    from peerage.cli import main

    def interrupted(folder: Path) -> Path:
        raise KeyboardInterrupt

    path = tmp_path / "a run"
    says = f"the training is finished, but its report is not: run `peerage report '{path}'`"
    with monkeypatch.context() as patch:
        patch.setattr(session, "write_report", interrupted)
        assert main([*SMALL, "--log-dir", str(tmp_path), "--exp-name", "a run"]) == 130
        assert capsys.readouterr().err.splitlines()[-1] == f"peerage: interrupted; {says}"
        assert RunFolder.open(path).status()[0] == "DONE" and not (path / "report.html").exists()
        assert main(["resume", str(path)]) == 130
        assert capsys.readouterr().err == f"peerage: interrupted; {says}\n"
    assert main(["report", str(path)]) == 0 and (path / "report.html").exists()


# --- settings and machine -------------------------------------------------------------------------


def test_settings_that_differ_from_the_defaults():
    given = Config(
        env="Room-v21",
        n_peers=2,
        advisers=("expert",),
        total_timesteps=1000,
        learner=LearnerConfig(gamma=(0.9,), learning_rate=(1e-3, 2e-3)),
        advice=AdviceConfig(choice="paper", lr=0.95),
    )
    rows = provenance.non_default_settings(to_dict(resolve(given, discrete=True)))
    assert rows == [
        ["n_peers", "2", "4"],
        ["advisers", "expert", "none"],
        ["total_timesteps", "1000", "100000"],
        ["learner.learning_rate", "[0.001, 0.002]", "0.0005"],
        ["learner.gamma", "0.9", "0.99"],
        ["advice.choice", "paper", "standardised"],
        ["advice.lr", "0.95", "0.001"],
    ]
    other = Config(advice=AdviceConfig(trust="td"))
    rows = provenance.non_default_settings(to_dict(resolve(other, discrete=False)))
    assert rows == [["advice.trust", "td", "in-context"]]


STRANGE = [{"n_peers": 10**15}, {"learner": 3}, {"x": 1}, {"env": {}}, {"advice": {"choice": []}}]


@pytest.mark.parametrize("data", STRANGE)
def test_settings_of_an_invalid_configuration(tmp_path, data):
    assert provenance.non_default_settings(data) is None
    run = RunFolder.create(tmp_path, "r", "x", data)
    assert "does not know all" in provenance.settings(run) and "config.yaml" in provenance.settings(run)


def test_resumes_are_listed(tmp_path):
    run = RunFolder.open(make_run(tmp_path, 1, (), 1, rows=1))
    assert "Resumes from a checkpoint" not in provenance.machine(run)
    now = {"versions": {"torch": "9"}, "cpu": "Z<80", "device": "cuda", "threads": 3}
    run.note_resume(4000, now, ["torch 8, now 9"])
    html = provenance.machine(run)
    assert '<th scope="row" class="text">4,000</th><td class="text">cuda on Z&lt;80</td>' in html
    assert "torch 8, now 9" in html and "Resumes from a checkpoint" in html
    for strange in ('{"versions": [], "git": 3, "hardware": "x", "resumed": [1, {"step": "x"}]}', "[]", "{"):
        (run.path / "environment.json").write_text(strange)
        assert provenance.machine(run) and provenance.reproduce(run, "r")


def test_the_command_to_repeat_a_run_is_quoted(tmp_path):
    import shlex

    run = RunFolder.create(tmp_path / "a b;c", "it's", "x", {})
    command = unescape(re.search(r"<pre>(.*?)</pre>", provenance.reproduce(run, "it's"), re.S)[1])
    assert shlex.split(command)[2:] == ["--config", f"{run.path}/config.yaml", "--exp-name", "it's-again"]


# --- in a browser ---------------------------------------------------------------------------------

in_browser = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium to open the page with")
EVIL = "</script><img src=x onerror=window.hurt=1><script>window.hurt=1</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    fixed = ("expert", "adversary", "checkpoint:/a/very/long/path/to/some/other/run:3")
    return write_report(make_run(tmp_path_factory.mktemp("report"), 4, fixed, replicas=3))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A run whose texts contain markup and whose names are long."""
    config = {"env": EVIL, "learner": {"algorithm": [EVIL]}, "n_peers": EVIL, "perturb": {EVIL: EVIL}}
    config |= {"advice": {"byzantine_members": [EVIL, f"{EVIL}:{'x' * 300}"]}}
    run = RunFolder.create(tmp_path_factory.mktemp("hostile"), "a&b" + "x" * 180, "x", config)
    run.write_command(["peerage", EVIL])
    run.write_environment(EVIL, EVIL * 5)
    run.note_resume(1, {"device": EVIL, "threads": EVIL}, [EVIL])
    log = CsvLog(run.path)
    for step in range(1, 12):
        log.on_metrics(step, [(0, "member-0", "train/return", float(step))])
        log.on_evaluations(step, [(0, "member-0", 0, 1.0, 1, None, "alone")])
        rows = [("member-0", 1), (EVIL, step), ("n" * 300, 2), ("constructor", 2), ("__proto__", 2)]
        log.on_advice(
            step, [{"replica": 0, "asker": "member-0", "adviser": a, "chosen": c, "score": c} for a, c in rows]
        )
    log.close()
    run.finish("FAILED", EVIL, 1)
    return write_report(run.path)


WIDTHS = [(360, {}), (380, {"dark": True}), (740, {"media": "print"}), (1200, {}), (1200, {"dark": True})]


@in_browser
@pytest.mark.parametrize("name", ["report", "hostile"])
@pytest.mark.parametrize("width, how", WIDTHS)
def test_the_page_fits_without_errors_or_requests(browser, request, name, width, how):
    path = request.getfixturevalue(name)
    browser.open(path, width, **how)
    for part in range(browser.run("document.querySelectorAll('details').length")):
        browser.run(f"void (document.querySelectorAll('details')[{part}].open = true)")
    assert browser.run("document.scrollingElement.scrollWidth") <= browser.run("innerWidth")
    assert browser.complaints() == [] and browser.requests() == [path.resolve().as_uri()]
    assert browser.run("typeof window.hurt") == "undefined"
    assert browser.run("document.querySelectorAll('img').length") == 0
    colours = browser.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert (colours == ["rgb(21, 24, 28)", "rgb(230, 232, 234)"]) == bool(how.get("dark"))


@in_browser
def test_other_scripts_do_not_run(browser, report, tmp_path):
    copy = tmp_path / "copy.html"
    copy.write_text(report.read_text().replace("</main>", "<script>window.hurt = 1</script></main>"))
    browser.open(copy)
    assert browser.run("typeof window.hurt") == "undefined"
    assert len(browser.complaints()) == 1 and "Content Security Policy" in browser.complaints()[0]
    copy.write_text(report.read_text().replace("</main>", '<img src="https://example.org/x.png"></main>'))
    browser.open(copy)
    assert "Content Security Policy" in browser.complaints()[0]


CELLS = "[...document.querySelectorAll('.now tbody td')].map((cell) => cell.textContent)"
CAPTION = "document.querySelector('.now caption').textContent"


def choose(browser: Browser, name: str, value: int) -> None:
    event = "input" if name == "time" else "change"
    browser.run(
        f"(() => {{ const part = document.querySelector('[name={name}]'); part.value = {value};"
        f"part.dispatchEvent(new Event('{event}')); }})()"
    )


@in_browser
def test_the_slider_moves_the_matrix(browser, report):
    text = report.read_text()
    static = re.findall(r"<td[^>]*>([^<]*)</td>", re.search(r'<div class="now">(.*?)</table>', text, re.S)[1])
    advice = pd.read_csv(report.parent / "advice.csv")
    data = next(data for data in chart_data(text) if "columns" in data)
    browser.open(report)
    last = browser.run(CELLS)
    assert last == static and browser.run(CAPTION) == "share of choices (%), step 10,000"
    choose(browser, "time", 0)
    first = browser.run(CELLS)
    assert first != last and browser.run(CAPTION) == f"share of choices (%), step {data['steps'][0]:,}"
    assert browser.run("document.querySelector('[name=time]').getAttribute('aria-valuetext')") == "step 500"
    # One replica, as in the file: 50 choices in a row of the log
    choose(browser, "who", 2)
    rows = advice[(advice["step"] == 500) & (advice["replica"] == 1) & (advice["asker"] == "member-2")]
    assert browser.run(CELLS)[14:21] == [str(2 * chosen) for chosen in rows["chosen"]]
    choose(browser, "what", 1)
    scores = [f"{round(score, 1) + 0.0:.1f}".replace("-", "−") for score in rows["score"]]
    assert browser.run(CELLS)[14:21] == scores
    assert browser.run(CAPTION).startswith("score, step 500")
    assert browser.complaints() == []


@in_browser
def test_play_stops_at_the_end(browser, report):
    browser.open(report)
    button = "document.querySelector('[name=play]')"
    at = "document.querySelector('[name=time]').value"
    assert browser.run(f"({button}.click(), {button}.textContent + {at})").endswith("Pause0")  # before the first move
    browser.run(
        "new Promise((done) => { const look = setInterval(() => {"
        f"if ({button}.textContent.includes('Play')) {{ clearInterval(look); done(); }} }}, 50); }})"
    )
    assert browser.run("document.querySelector('[name=time]').value") == "19"
    assert "step 10,000" in browser.run(CAPTION)


@in_browser
def test_keyboard_and_touch_read_a_chart(browser, report):
    browser.open(report, 380)
    plot = "document.querySelector('.plot')"
    browser.run(f"{plot}.focus()")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=key)
    tip = browser.run(f"{plot}.querySelector('.tip').innerText")
    evaluations = pd.read_csv(report.parent / "evaluations.csv")
    mean = evaluations[evaluations["step"] == 10_000].groupby("member")["return"].mean()
    assert tip.startswith("step 10,000") and f"{mean['member-3']:.1f}" in tip and f"mean\n{mean.mean():.1f} (" in tip
    assert browser.run(f"{plot}.querySelector('.tip').getAttribute('role')") == "status"
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert browser.run(f"{plot}.querySelector('.tip').hidden")
    x, y = browser.run(
        f"(() => {{ {plot}.scrollIntoView({{ block: 'center' }}); const box = {plot}.querySelector('.field')"
        ".getBoundingClientRect(); return [box.left + 0.1 * box.width, box.top + 50]; })()"
    )
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert browser.run(f"{plot}.querySelector('.tip').innerText").startswith("step 1,000\n")
    assert browser.run("document.scrollingElement.scrollWidth") <= 380 and browser.complaints() == []


@in_browser
def test_without_scripts_and_in_print(browser, report):
    hidden = "getComputedStyle(document.querySelector('.controls')).display === 'none'"
    moments = "getComputedStyle(document.querySelector('.moments')).display"
    browser.open(report, script=False)
    assert browser.run(hidden) and browser.run(CAPTION) == "share of choices (%), step 10,000"
    browser.open(report)
    assert not browser.run(hidden)
    choose(browser, "time", 0)
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("[...document.querySelectorAll('details')].every((part) => part.open)")
    assert "step 10,000" in browser.run(CAPTION)
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert not browser.run("[...document.querySelectorAll('details')].some((part) => part.open)")
    assert "step 500" in browser.run(CAPTION)
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    small = report.parent.parent
    other = write_report(make_run(small, 2, ("expert", "adversary"), replicas=2, name="small"))
    browser.open(other)
    assert browser.run(moments) == "none"
    browser.open(other, 740, media="print")
    assert browser.run(hidden) and browser.run(moments) == "grid"
    assert browser.run("document.querySelectorAll('.moments table').length") == matrix.SNAPSHOTS
    fits = "[...document.querySelectorAll('.heat .scroll')].every((box) => box.scrollWidth <= box.clientWidth)"
    assert browser.run(fits)
    browser.open(other, 400)  # four advisers, and their names, on a phone
    assert browser.run(fits)


def test_evaluations_on_the_test_split_have_curves(tmp_path):
    run = make_run(tmp_path, rows=3)
    assert "Test return" not in render(RunFolder.open(run))
    path = run / "evaluations.csv"
    head, *lines = path.read_text().splitlines()
    test = [line.replace(",,alone", ",1,test") for line in lines]
    path.write_text("\n".join([head, *lines, *test]) + "\n")
    html = render(RunFolder.open(run))
    assert "Test return" in html and "Success on the test split" in html and "Success in evaluations" not in html
    names = {drawn.path.stem for drawn in make_figures(run)}
    assert {"evaluation_return", "test_return", "test_success"} <= names and "evaluation_success" not in names


def test_the_attention_of_critics_is_a_matrix_over_time():
    """Two members and two replicas: percent of CLS, of the own encoder and of the other's."""
    weights = {(0, 0): (0.2, 0.3, 0.5), (0, 1): (0.1, 0.8, 0.1), (1, 0): (0.4, 0.5, 0.1), (1, 1): (0.3, 0.2, 0.5)}
    rows = [
        (step, r, f"member-{m}", f"fedformer/attention_{token}", share if step == 20 else 1 / 3)
        for step in (10, 20)
        for (r, m), shares in weights.items()
        for token, share in zip(("cls", "0", "1"), shares)
    ]
    metrics = pd.DataFrame(rows, columns=["step", "replica", "member", "name", "value"])
    html = encoder_attention.over_time(metrics)
    (data,) = chart_data(html)
    (column,) = data["columns"]
    assert data["steps"] == [10, 20] and (column["low"], column["high"]) == (0, 80)
    mean = np.array(column["values"]).reshape(3, 2, 2, 3)  # views, steps, members, tokens: members first
    np.testing.assert_allclose(mean[0, 1], [[40, 30, 30], [50, 30, 20]], atol=0.5)
    np.testing.assert_allclose(mean[1, 1], [[30, 50, 20], [80, 10, 10]], atol=0.5)
    assert "33.3%" in html and "critics of" in html and "mean of 2 replicas" in html
    draft = encoder_attention.over_time_figure(metrics)
    first, last = (np.asarray(axes.images[0].get_array()) for axes in draft.figure.axes[:2])
    np.testing.assert_allclose(first, 100 / 3)
    np.testing.assert_allclose(last, [[40, 30, 30], [50, 30, 20]])
    none = metrics.assign(name="loss/critic")
    assert encoder_attention.over_time(none) == "" and encoder_attention.over_time_figure(none) is None
