"""The page of results: its statements follow from the runs, and nothing is written if runs are missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_compare import make

from benchmarks import results_numbers as numbers
from benchmarks import results_page as script
from benchmarks import results_trials, trust_lies
from benchmarks.results_numbers import RETURN, Trial
from benchmarks.results_trials import Question
from peerage.config import LearnerConfig
from peerage.config.file import load, validate
from peerage.config.flags import Parser, add_flags, override, train_flags
from peerage.errors import UserError
from peerage.learners.defaults import resolve_advice
from peerage.runs.tables import CsvLog
from peerage.statistics.compare import compare

GIT = {"git": {"commit": "0123456789abcdef", "modified": False}, "versions": {"torch": "2.13.0"},
       "hardware": {"cpu": "a", "cores": 2, "device": "cpu"}}  # fmt: skip


def run(folder: Path, final: list[float], **changes) -> Path:
    """A run whose replicas end at `final`, and the command that made it."""
    make(folder, final, environment=GIT, **changes)
    (folder / "command.txt").write_text(f"peerage train --exp-name {folder.name}\n")
    return folder


def question(trial: Trial, title: str = "Is it better?") -> Question:
    return Question(title, "longer.md", (trial,))


@pytest.fixture
def trial(tmp_path):
    """`up` is better by 20 and `down` worse by 8 than the reference; `like` shows no significant difference."""
    ways = {
        run(tmp_path / "first", [10, 11, 12, 13, 14], trust="td"): "first",
        run(tmp_path / "up", [31, 30, 32, 34, 33], trust="in-context"): "up",
        run(tmp_path / "down", [3, 2, 4, 6, 5], trust="hybrid"): "down",
        run(tmp_path / "like", [9, 11, 12, 14, 16], trust="transformer"): "like",
    }
    return Trial("one", "Room-v6, here", "python -m benchmarks.make", ways)


def part(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of the tables of results."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines if line[0] not in (" --- ", " environment ")]


# --- a known answer -------------------------------------------------------------------------------------------


def test_a_known_answer(trial):
    text, found = script.page([question(trial)])
    by = {f.way: f for f in found}
    # IQMs of the middle three of five: 12, 32, 4, and of 9, 11, 12, 14, 16: 37 / 3
    assert [by[w].iqm.estimate for w in trial.ways.values()] == pytest.approx([12, 32, 4, 37 / 3])
    assert [f.verdict for f in found] == ["reference", "**better**", "**worse**", "no significant difference"]
    assert by["up"].against.improvement.estimate == 1 and by["down"].against.improvement.estimate == 0
    works, failed = part(text, "What works"), part(text, "What did not work")
    unknown = part(text, "What is not known")
    better = "- Room-v6, here, return alone at the end: **better** than first: up (+20.0 ["
    worse = "- **Is it better?** Room-v6, here, return alone at the end: **worse** than first: down (−8.000 ["
    assert works.count("\n- ") == failed.count("\n- ") == 1 and better in works and worse in failed
    assert "significantly better in any of" not in text
    assert "| return alone at the end | 1 | 0 | 1 | 0 | 1 |" in text.split("## What works")[0]
    assert unknown.strip() == "None."
    section = part(text, "Is it better?")
    works, rest = section.split("**What does not work or is not known**")
    assert "up (+20.0" in works and "down" not in works and "down (−8.000" in rest.split("| environment")[0]
    cells = {row[1]: row for row in rows(section)}
    assert list(cells) == ["first", "up", "down", "like"]
    assert cells["up"][:4] == ["Room-v6, here", "up", "5", "300"] and cells["up"][4].startswith("32.0 [")
    assert cells["first"][5:] == ["", "", "reference"] and cells["like"][5].startswith("0.333 [")
    assert "over all 3 comparisons" in " ".join(text.split()) and "verdicts of 3 comparisons:" in text
    assert "peerage train --exp-name up\n" in section
    assert f"peerage compare {' '.join(map(str, trial.ways))} --paired\n" in section
    assert "[longer.md](longer.md)" in section
    assert "- Commit: 0123456 (4 runs)" in text and "a, 2 cores; trained on cpu (4 runs)" in text


def test_the_numbers_are_those_of_compare(trial):
    found, doubts = numbers.findings(trial)
    whole = compare([str(folder) for folder in trial.ways], paired=True)
    (task,) = whole.tasks
    assert [f.iqm for f in found] == [row.iqm for row in task.rows] and found[0].against is None
    pairs = [f.against for f in found[1:]]
    assert [(p.difference, p.improvement) for p in pairs] == [(v.difference, v.improvement) for v in task.versus]
    assert numbers.tests.holm([p.p for p in pairs]) == [v.p for v in task.versus]
    assert [f.verdict.strip("*") for f in numbers.judged(found)[1:]] == [
        "better" if v.winner == v.b else "worse" if v.winner else "no significant difference" for v in task.versus
    ]
    assert doubts == list(whole.warnings)


def test_no_statement_without_a_difference(tmp_path):
    ways = {run(tmp_path / "a", [1.0, 5, 2, 9, 4]): "a", run(tmp_path / "b", [2.0, 4, 3, 8, 5], trust="hybrid"): "b"}
    text, found = script.page([question(Trial("one", "Room-v6", "make", ways))])
    assert part(text, "What works").strip() == "No method is significantly better."
    assert part(text, "What did not work").startswith("\nNo method is worse than its reference.")
    assert part(text, "What is not known").strip() == (
        "- **Is it better?** Return alone at the end: no method is significantly better than a on Room-v6 "
        "(1 comparison)."
    )
    assert "**What works" not in text and found[1].verdict == "no significant difference"


def test_one_of_many_comparisons_is_only_perhaps(tmp_path):
    """The p of the pairs is .027, by hand below: significant as a single comparison, not as one of two."""
    base, up = [10.0, 11, 12], [12.0, 14.5, 15.5]
    ways = {run(tmp_path / "a", base): "a", run(tmp_path / "b", up, trust="hybrid"): "b"}
    alone = numbers.judged(numbers.findings(Trial("one", "Room-v6", "make", ways))[0])
    # gaps 2, 3.5, 3.5: mean 3, variance 0.75, t = 3 / sqrt(0.75 / 3) = 6; of two degrees of freedom p is
    # 1 - t / sqrt(2 + t^2)
    assert alone[1].against.p == pytest.approx(1 - 6 / 38**0.5) and alone[1].verdict == "**better**"
    ways[run(tmp_path / "c", [10.5, 11, 11.5], trust="transformer")] = "c"
    text, found = script.page([question(Trial("one", "Room-v6", "make", ways))])
    assert [f.verdict for f in found] == ["reference", "perhaps better", "no significant difference"]
    assert part(text, "What works").strip() == "No method is significantly better."
    assert "(2 comparisons; perhaps b on Room-v6)" in part(text, "What is not known")
    assert "perhaps better than a: b (+3.000" in part(text, "Is it better?")


def test_perhaps_worse_is_in_the_summary(tmp_path):
    ways = {run(tmp_path / "a", [12.0, 14.5, 15.5]): "a", run(tmp_path / "b", [10.0, 11, 12], trust="hybrid"): "b",
            run(tmp_path / "c", [12.5, 14.5, 15], trust="transformer"): "c"}  # fmt: skip
    text, found = script.page([question(Trial("one", "Room-v6", "make", ways))])
    assert [f.verdict for f in found] == ["reference", "perhaps worse", "no significant difference"]
    said = "- **Is it better?** Room-v6, return alone at the end: perhaps worse than a: b (−3.000 ["
    assert said in part(text, "What did not work")
    assert "| return alone at the end | 0 | 0 | 1 | 1 | 0 |" in text
    assert "no method is significantly better than a on Room-v6 (1 comparison)" in part(text, "What is not known")
    vain = "\n- **No method is significantly better in any of the 2 comparisons of the return alone at the end.**\n"
    assert vain in part(text, "What did not work")


def test_pairs_are_compared(tmp_path):
    """Two methods with widely spread replicas, each 1 to 1.2 above its pair: not significant without pairing."""
    ways = {run(tmp_path / "a", [0.0, 50, 100]): "a", run(tmp_path / "b", [1.0, 51.1, 101.2], trust="hybrid"): "b"}
    (_, b), _ = numbers.findings(Trial("one", "Room-v6", "make", ways))
    # gaps 1, 1.1, 1.2: 1.1 +- 4.303 * 0.1 / sqrt(3)
    assert (b.against.difference.low, b.against.difference.high) == pytest.approx((0.852, 1.348), abs=0.002)
    assert b.verdict == "perhaps better"
    unpaired = {**ways, run(tmp_path / "c", [0.0, 50, 100], trust="transformer", seed=3): "c"}
    with pytest.raises(UserError, match="has no partner for seed"):
        numbers.findings(Trial("one", "Room-v6", "make", unpaired))


def test_a_verdict_depends_on_p():
    def verdict(low: float, high: float, p: float, n: int = 5, known: bool = False) -> str:
        between = numbers.Interval((low + high) / 2, low, high, 0.95, "", n)
        return numbers.Against(between, between, p).verdict(known)

    assert verdict(1, 3, 0.04) == "perhaps better" and verdict(1, 3, 0.04, known=True) == "**better**"
    assert verdict(-3, -1, 0.04) == "perhaps worse" and verdict(-3, -1, 0.04, known=True) == "**worse**"
    assert verdict(-1, 3, 0.06) == verdict(2, 2, numbers.math.nan) == "no significant difference"
    assert verdict(0, 0, numbers.math.nan) == "the same" and verdict(1, 3, 0.04, n=2) == "too few replicas"


def test_holm_is_over_the_whole_page(tmp_path):
    def two(name: str, final: list[float]) -> Question:
        a, b = run(tmp_path / f"{name}-a", [10.0, 11, 12]), run(tmp_path / f"{name}-b", final, trust="hybrid")
        ways = {a: "a", b: "b"}
        return question(Trial(name, f"Room-v6, {name}", "make", ways), f"And {name}?")

    first = two("first", [12.0, 14.5, 15.5])
    assert script.page([first])[1][1].known
    second = two("second", [10.5, 11, 11.5])
    text, found = script.page([first, second])
    assert not any(f.known for f in found)
    assert "**And second?**" in part(text, "What is not known")


def test_two_replicas_give_no_verdict(tmp_path):
    ways = {run(tmp_path / "a", [1.0, 2]): "a", run(tmp_path / "b", [91.0, 92], trust="hybrid"): "b"}
    text, found = script.page([question(Trial("one", "Room-v6", "make", ways))])
    assert found[1].verdict == "too few replicas" and not found[1].known
    assert part(text, "What works").strip() == "No method is significantly better."


# --- other measures -------------------------------------------------------------------------------------------


def probe(folder: Path, right: list[float], trust: str, choices: int = 10) -> Path:
    """A run of 3,000 steps in which replica r chooses rightly never in the first 1,000 steps and with the share
    `right[r]` in the last 2,000, in which its last replica makes `choices` for each adviser at every row."""
    run(folder, [1.0, 2, 3], members=1, trust=trust, total_timesteps=3000, steps=(0, 3000))
    log = CsvLog(folder)
    for step in (1000, 2000, 3000):
        for r, chosen in enumerate((10, 10, choices if step > 1000 else 10)):
            row = {"replica": r, "asker": "member-0", "chosen": chosen}
            log.on_advice(step, [{**row, "adviser": "expert"}, {**row, "adviser": "member-0"}])
        shares = [right[r] if step > 1000 else 0.0 for r in range(3)]
        log.on_metrics(step, [(r, "member-0", "advice/right", share) for r, share in enumerate(shares)])
        log.on_metrics(step, [(r, "member-0", "advice/wrong", 0.0) for r in range(3)])
        log.on_metrics(step, [(r, "member-0", "advice/queries", 5.0) for r in range(3)])
    log.close()
    return folder


def test_right_choices(tmp_path):
    lot, good = probe(tmp_path / "lot", [0.2, 0.21, 0.22], "td"), probe(tmp_path / "good", [0.8, 0.82, 0.84], "hybrid")
    trial = Trial("one", "Room-v6", "make", {lot: "lot", good: "good"}, (numbers.LATE, RETURN))
    text, found = script.page([question(trial)])
    assert [f.iqm.estimate for f in found if f.measure == numbers.LATE] == pytest.approx([21, 82])
    works = part(text, "What works")
    assert "**better** than lot: good (+61.0 [" in works and works.count("\n- ") == 1
    assert "Return alone at the end: no method is significantly better than lot" in part(text, "What is not known")
    tables = rows(part(text, "Is it better?"))
    assert [row[-1] for row in tables] == ["reference", "**better**", "reference", "the same"]


def test_members_that_do_not_learn_do_not_count(tmp_path):
    """Of two members, 1 below and 1 above their replica's mean, the lower one is frozen."""
    frozen = LearnerConfig(load_paths=("expert:0", "none"))
    ways = {
        run(tmp_path / "a", [10, 11, 12], learner=frozen): "a",
        run(tmp_path / "b", [30, 31, 33], learner=frozen, trust="hybrid"): "b",
    }
    found, _ = numbers.findings(Trial("one", "Room-v6", "make", ways, (RETURN, numbers.LEARNERS)))
    assert [f.iqm.estimate for f in found] == pytest.approx([11, 94 / 3, 12, 97 / 3])


def test_a_measure_that_a_replica_does_not_have(tmp_path):
    a, b = probe(tmp_path / "a", [0.2, 0.3, 0.4], "td"), probe(tmp_path / "b", [0.2, 0.3, 0.4], "hybrid", choices=0)
    with pytest.raises(UserError, match=r"/b: a replica has no % of right choices"):
        numbers.findings(Trial("one", "Room-v6", "make", {a: "a", b: "b"}, (numbers.LATE,)))


def test_no_spread_and_no_difference_is_the_same(tmp_path):
    ways = {run(tmp_path / "a", [-200.0] * 3): "a", run(tmp_path / "b", [-200.0] * 3, trust="hybrid"): "b"}
    assert numbers.findings(Trial("one", "Room-v6", "make", ways))[0][1].verdict == "the same"


# --- what is missing or not meant -----------------------------------------------------------------------------


def test_missing_runs_are_named_and_nothing_is_written(trial, tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    monkeypatch.setattr(script, "DOCS", docs)
    monkeypatch.setattr(script, "QUESTIONS", (question(trial),))
    script.main(["--write-docs"])
    assert sorted(p.name for p in docs.iterdir()) == ["comparisons.md", "overview.png"]
    before = {p.name: p.read_bytes() for p in docs.iterdir()}
    (tmp_path / "down" / "DONE").unlink()
    with pytest.raises(SystemExit) as ended:
        script.main(["--write-docs"])
    assert str(ended.value).splitlines() == [
        f"{tmp_path / 'down'} is missing: python -m benchmarks.make down",
        "1 of 4 runs are missing: nothing is written",
    ]
    assert {p.name: p.read_bytes() for p in docs.iterdir()} == before


def test_excluded_trials_are_listed(trial, tmp_path):
    gone = Trial("gone", "LunarLander-v3", "make gone", {tmp_path / "x": "old", tmp_path / "y": "new"})
    both = Question("Is it better?", "longer.md", (trial, gone))
    with pytest.raises(UserError, match="x is missing: make gone x"):
        script.page([both])
    text, found = script.page([both], ["gone"])
    assert text.count("left out, without runs of this version: 1 of 2.") == 1
    assert {f.trial.name for f in found} == {"one"}
    assert "Not included: LunarLander-v3 (old; new). `make gone x y` trains the runs." in text


def test_runs_that_do_not_form_a_trial_are_refused(tmp_path):
    ways = {run(tmp_path / "a", [1.0, 2, 3]): "a", run(tmp_path / "b", [4.0, 5, 6], trust="hybrid"): "b"}
    more = {**ways, run(tmp_path / "c", [4.0, 5, 6], env="CartPole-v1"): "c"}
    with pytest.raises(UserError, match="not 3 methods on one task"):
        numbers.findings(Trial("one", "Room-v6", "make", more))
    more = {**ways, run(tmp_path / "d", [4.0, 5, 6], seed=5): "d"}  # replicas of a
    with pytest.raises(UserError, match="has no partner for seed"):
        numbers.findings(Trial("one", "Room-v6", "make", more))


def test_every_trial_has_a_unique_name_and_a_page():
    names = [trial.name for q in results_trials.QUESTIONS for trial in q.trials]
    assert len(set(names)) == len(names) > 20
    for q in results_trials.QUESTIONS:
        assert (script.DOCS / q.page).is_file()
        for trial in q.trials:
            assert len(trial.ways) > 1 and set(trial.measures) <= {RETURN, *numbers.MEASURES}


def test_flags_of_the_runs_with_wrong_and_missing_advice():
    """The commands of benchmarks/trust_lies.py as `peerage train` reads them; every way that is compared has one."""
    parser = Parser(prog="x")
    parser.add_argument("--config")
    add_flags(parser, train_flags())
    told = {}
    for experiment in trust_lies.EXPERIMENTS:
        given = vars(parser.parse(experiment.settings(4)))
        config = validate(override(load(given.pop("config")), given))
        advice = resolve_advice(config.advice)
        told[experiment.name] = (config.advisers, config.perturb.get("dropped_advice"), advice.choice, advice.trust)
        assert (config.env, config.n_peers, config.replicas, config.steps) == ("Room-v6", 2, 4, trust_lies.STEPS)
    three = ("expert", *["colluding:a"] * 3)
    assert told["liars-uniform"][:3] == (three, None, "uniform")
    assert told["silence-td"] == (three, 0.5, "standardised", "td")
    assert told["honest-in-context"] == (("expert",), None, "standardised", "in-context")
    ways = {f.name for q in results_trials.QUESTIONS for t in q.trials for f in t.ways if f.parent == trust_lies.FOLDER}
    assert ways == set(told) and len(told) == 8


# --- the page in the docs -------------------------------------------------------------------------------------


def test_the_page_in_the_docs_agrees_with_its_tables():
    """Verdicts agree with the intervals in the same row, and the summary lists all results that the tables call better,
    worse or perhaps worse."""
    text = (script.DOCS / script.PAGE).read_text(encoding="utf-8")
    head = {"better": part(text, "What works"), "worse": part(text, "What did not work")}
    claims = 0
    for environment, way, *_, difference, _, verdict in rows(text.split("## How to read")[1]):
        if verdict == "reference":
            assert not difference
            continue
        found = re.findall(r"[−\d.,]*\d", difference)
        _, low, high = (float(x.replace("−", "-").replace(",", "")) for x in found)
        side = "better" if low > 0 else "worse" if high < 0 else ""
        assert verdict in ("no significant difference", "the same") or (side and side in verdict), (environment, way)
        if verdict.startswith("**") or verdict == "perhaps worse":
            claims += 1
            said = f"{way} ({'+' if low > 0 else ''}{difference})"
            mine = [line for line in head[side].splitlines() if f"{environment}, " in line and verdict in line]
            assert any(said in line for line in mine), said
    assert claims == sum(section.count("])") for section in head.values()) > 0


def test_the_open_questions_agree_with_the_page():
    """Of every question in both, the same differences with the same intervals, and the same sides of them."""
    page = (script.DOCS / script.PAGE).read_text(encoding="utf-8")
    longer = (script.DOCS / "open-questions.md").read_text(encoding="utf-8")
    compared = 0
    for q in results_trials.QUESTIONS:
        if q.page != "open-questions.md":
            continue
        found = [row for row in rows(part(page, q.title)) if row[-1] != "reference"]
        if len(found) < sum(len(trial.ways) - 1 for trial in q.trials):  # some runs are missing
            continue
        cells = iter(found)
        for trial in q.trials:
            for folder in list(trial.ways)[1:]:
                difference, _, verdict = next(cells)[5:]
                (sentence,) = [x for x in longer.splitlines() if x.startswith(f"- {folder.name}: ") and "agents" in x]
                word = verdict.strip("*").removeprefix("perhaps ")
                assert word in sentence, (folder, sentence, verdict)
                assert word == "the same" or difference in sentence, (folder, sentence, difference)
                compared += 1
    assert compared > 0
