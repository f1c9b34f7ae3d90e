"""Comparisons of runs with a known result, of identical runs, and of damaged folders."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import peerage
from peerage.cli import main
from peerage.config import AdviceConfig, Config, LearnerConfig, RunConfig
from peerage.config.file import to_dict
from peerage.config.plain_yaml import to_yaml
from peerage.errors import UserError
from peerage.learners.defaults import resolve
from peerage.runs.folder import HEADER, RunFolder
from peerage.runs.tables import CsvLog
from peerage.statistics import samples
from peerage.statistics.compare import compare
from peerage.statistics.formats import as_json, as_latex, as_text

STEPS = (0, 100, 200, 300)


def make(
    folder: Path,
    final: list[float],
    *,
    members: int = 2,
    environment: dict | None = None,
    done: bool = True,
    steps: tuple[int, ...] = STEPS,
    success: list[float] | None = None,
    **changes,
) -> Path:
    """A run folder whose replica r has a learning curve that rises in equal steps from 0 to `final[r]`; its members are
    1 above and 1 below that, their two episodes 2 above and 2 below. `success`: of every episode of replica r."""
    advice = AdviceConfig(trust=changes.pop("trust", "td"))
    run = RunConfig(n_eval_episodes=2)
    config = Config(env="Room-v6", n_peers=members, replicas=len(final), total_timesteps=300, advice=advice, run=run)
    config = replace(config, **changes)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(HEADER + to_yaml(to_dict(config)))
    described = {"versions": {"torch": "2.13.0", "mujoco": "3.3.0"}, "hardware": {"cpu": "a", "device": "cpu"}}
    (folder / "environment.json").write_text(json.dumps({**described, **(environment or {})}))
    log, members, episodes = CsvLog(folder), config.n_peers, config.run.n_eval_episodes
    around = np.linspace(-2, 2, episodes) if episodes > 1 else [0.0]
    for step in steps:
        rows = []
        for r, top in enumerate(final):
            for m in range(members):
                middle = top * step / steps[-1] + (m - (members - 1) / 2) * 2
                for e, x in enumerate(around):
                    rows.append((r, f"member-{m}", e, middle + x, 10, success and success[r], "alone"))
        log.on_evaluations(step, rows)
    log.close()
    if done:
        (folder / "DONE").write_text('{"why": "finished", "step": 300, "when": ""}')
    return folder


@pytest.fixture
def ab(tmp_path):
    """B is significantly better by 20."""
    a = make(tmp_path / "a", [10, 11, 12, 13, 14])
    b = make(tmp_path / "b", [30, 31, 32, 33, 34], trust="in-context", seed=5)
    return [str(a), str(b)]


def test_stability_and_convergence(tmp_path, capsys):
    """The late evaluations are those at 250 and 300: 5/6 of the last value and the last value, with the mean 11/12; 90%
    of the way to it is 0.825 of the last value."""
    steps = (0, 100, 200, 250, 300)
    other = {"seed": 5, "trust": "in-context"}
    made = [make(tmp_path / "a", [12, 24, 36], steps=steps), make(tmp_path / "b", [0, 0, 0], steps=steps, **other)]
    sides = [str(run) for run in made]
    a, b = compare(sides, stability=True).tasks[0].rows
    assert a.late_spread.estimate == pytest.approx(24 / 6 / math.sqrt(2)) and a.convergence == (3, 250.0)
    assert b.late_spread.estimate == 0 and b.convergence == (0, math.inf)
    assert a.late_spread.low >= 0
    plain = compare(sides).tasks[0].rows[0]
    assert plain.late_spread is None and plain.convergence is None
    assert main(["compare", *sides, "--stability", "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out
    assert "late spread" in printed and "250 (3 of 3)" in printed and "never (0 of 3)" in printed
    assert any("converged at" in path.read_text() for path in (tmp_path / "page").glob("*.html"))
    sparse = [str(make(tmp_path / name, [12, 24, 36])) for name in "cd"]  # at 0, 100, 200 and 300
    assert compare(sparse, stability=True).tasks[0].rows[0].late_spread is None  # a single late evaluation
    assert main(["compare", *sparse, "--stability", "--out", str(tmp_path / "page")]) == 0
    assert "but there is 1 from step 225 on: train with --eval-freq 75 or less" in capsys.readouterr().out
    assert not any("--stability" in line for line in compare(sparse).warnings)
    frequent = [str(make(tmp_path / name, [12, 24, 36], steps=(0, 75, 150, 225, 300))) for name in "ef"]
    assert compare(frequent, stability=True).tasks[0].rows[0].late_spread is not None


def test_a_known_answer(ab):
    found = compare(ab, threshold=9.0, target=40.0)
    assert found.warnings == () and found.overall == ()
    (task,) = found.tasks
    a, b = task.rows
    assert (task.name, task.step, a.side, b.side, a.replicas) == ("Room-v6", 300, "a", "b", 5)
    assert [a.mean.estimate, a.iqm.estimate, a.median] == pytest.approx([12, 12, 12])
    assert b.gap.estimate == pytest.approx(8)  # 40 - 32
    # area of a straight line from 0 to the end: half the height
    assert a.area.estimate == pytest.approx(6) and b.area.estimate == pytest.approx(16)
    # a reaches 9 with 10 * 300 / 300 only at the end; b with 30 * 100 / 300 = 10 after 100 steps
    assert a.threshold == (5, 300.0) and b.threshold == (5, 100.0)
    half = 2.7764451 * math.sqrt(2.5 / 5)  # t(0.975, 4 degrees of freedom), sd^2 = 2.5
    assert (a.mean.low, a.mean.high) == pytest.approx((12 - half, 12 + half))
    (v,) = task.versus
    assert v.winner == "b" and v.difference.estimate == pytest.approx(20) and v.improvement.estimate == 1.0
    assert v.p < 1e-4
    # t test of 5 against 5 with sd 1.58: differences of means of 3.2 are seen in 4 of 5 cases; of IQMs a bit more
    assert 1.0 < v.detectable / (1.5811 * math.sqrt(2 / 5) * 3.206) < 1.2
    assert v.verdict.startswith("b beats a on IQM by 20.0 [")
    assert "probability of improvement 1.00" in v.verdict and v.verdict.endswith("; 5 replicas each")


def test_the_losing_side_and_the_area(ab):
    found = compare(ab[::-1], measure="area")
    (v,) = found.tasks[0].versus
    assert v.winner == "b" and v.b == "a" and v.difference.estimate == pytest.approx(-10)
    assert v.verdict.startswith("b beats a on IQM of the mean return up to step 300 by 10.0 [")
    assert "improvement 1.00" in v.verdict
    there, back = (compare(words).tasks[0].versus[0].verdict for words in (ab, ab[::-1]))
    assert there == back and there.startswith("b beats a on IQM by 20.0 [1")  # independent of the order
    text = as_text(found)
    assert "worse" in text and "area under the learning curve" in text


def test_identical_runs(tmp_path):
    a, b = (make(tmp_path / name, [1, 5, 2, 9, 4]) for name in "ab")
    (v,) = compare([str(a), str(b)]).tasks[0].versus
    assert v.winner is None and v.verdict == "b and a have identical results: no difference"
    assert v.improvement.estimate == 0.5 and v.difference.estimate == 0
    (line,) = compare([str(a), str(b)]).warnings
    assert line == "b and a have the same settings and seed: not independent samples"


def test_runs_without_a_common_task_or_step_are_refused(tmp_path):
    """Different tasks, and evaluations with only step 0 in common."""
    a = make(tmp_path / "a", [1, 2, 3], env="Room-v6")
    b = make(tmp_path / "b", [1, 2, 3], env="CartPole-v1")
    with pytest.raises(UserError, match="no two of these runs have the same task: environments differ"):
        compare([str(a), str(b)])
    c = make(tmp_path / "c", [1, 2, 3], env="Room-v6", trust="in-context", steps=(0, 150, 250))
    with pytest.raises(UserError, match="a and c have only step 0 in common"):
        compare([str(a), str(c)])


def test_noise_is_not_significant(tmp_path):
    rng = np.random.default_rng(0)
    a = make(tmp_path / "a", list(rng.normal(10, 3, 6)))
    b = make(tmp_path / "b", list(rng.normal(10, 3, 6)), trust="in-context")
    (v,) = compare([str(a), str(b)]).tasks[0].versus
    assert v.winner is None and v.verdict.startswith("no significant difference between b and a")


def test_too_few_replicas(tmp_path):
    a, b = make(tmp_path / "a", [1, 2, 3]), make(tmp_path / "b", [21, 22, 23], trust="in-context")
    (v,) = compare([str(a), str(b)]).tasks[0].versus
    # Separated samples, so the t test decides: variances 1, t = 20 / √(2/3) with 4 degrees of freedom
    assert v.winner == "b" and v.p == pytest.approx(1.7e-5, rel=0.2)
    c, d = make(tmp_path / "c", [1]), make(tmp_path / "d", [21, 22], trust="in-context")
    (v,) = compare([str(c), str(d)]).tasks[0].versus
    assert v.winner is None and "1 and 2 replicas are too few for a test" in v.verdict
    assert math.isnan(v.difference.low)


def test_seeds_are_pooled_and_copies_are_not(tmp_path):
    for seed in range(4):
        make(tmp_path / f"td-seed{seed}", [10 + seed], seed=seed)
        make(tmp_path / f"ic-seed{seed}", [20 + seed], seed=seed, trust="in-context")
    found = compare([str(tmp_path / "td-*"), str(tmp_path / "ic-*")])
    a, b = found.tasks[0].rows
    assert (a.side, a.replicas, b.side, b.replicas) == ("td", 4, "ic", 4)
    assert found.tasks[0].sides[0].seeds == tuple((s, 0) for s in range(4))
    assert found.differences == {"advice.trust": {"td": "td", "ic": "in-context"}}
    (pairs,) = compare([str(tmp_path / "td-*"), str(tmp_path / "ic-*")], paired=True).tasks[0].versus
    # Every pair differs by exactly 10, so there is no t; two of 16 exchanges of pairs are as extreme
    assert pairs.paired and pairs.winner is None and pairs.p == pytest.approx(2 / 16)
    assert pairs.verdict == "no significant difference between ic and td: +10.0 [–]; p = .125; 4 replicas each"
    again = make(tmp_path / "again", [10], seed=0)  # the same seed: a copy, not a fifth replica
    assert [row.replicas for row in compare([str(tmp_path / "td-*"), str(again)]).tasks[0].rows] == [4, 1]
    with pytest.raises(UserError, match=r"again .* has no partner for seed 1, replica 0 and 2 more of td \(4 repl"):
        compare([str(tmp_path / "td-*"), str(again)], paired=True)
    with pytest.raises(UserError, match="nothing to compare 4 runs with the same settings with"):
        compare([str(tmp_path / "td-*")])


def test_several_comparisons_are_corrected(tmp_path):
    """A difference that is significant in one test is not in one of twenty."""
    a = make(tmp_path / "a", [10, 11, 12, 13, 14])
    b = make(tmp_path / "b", [13.1, 14.1, 15.1, 16.1, 17.1], trust="in-context")
    (v,) = compare([str(a), str(b)]).tasks[0].versus
    assert v.winner == "b" and 0.01 < v.p < 0.05
    words = [str(a), str(b)]
    for k in range(19):
        rng = np.random.default_rng(k)
        words.append(str(make(tmp_path / f"c{k}", list(rng.permutation([10, 11, 12, 13, 14.0])), seed=k, threads=1,
                              epoch_length=k + 1)))  # fmt: skip
    many = {v.b: v for v in compare(words).tasks[0].versus}
    assert many["b"].winner is None and many["b"].p == pytest.approx(min(1, 20 * v.p))
    assert "is ahead of" in many["b"].verdict and "after Holm's correction for 20 comparisons" in many["b"].verdict


def test_warnings_about_differences(tmp_path):
    a = make(tmp_path / "a", [1, 2, 3], env="Hopper-v4")
    b = make(
        tmp_path / "b",
        [1, 2, 4],
        env="Hopper-v5",
        total_timesteps=400,
        run=RunConfig(n_eval_episodes=3),
        environment={
            "versions": {"torch": "2.12.0", "mujoco": "3.2.0"},
            "hardware": {"cpu": "b", "device": "cpu"},
            "resumed": [{"step": 90, "different": ["torch 2.12.0, now 2.13.0"]}],
        },
        done=False,
        steps=(0, 100, 200),
    )
    (b / "FAILED").write_text('{"why": "disk full", "step": 200, "when": ""}')
    warnings = "\n".join(compare([str(a), str(b)], across_tasks=True).warnings)
    for words in (
        f"{b} failed (disk full): its last evaluation is at step 200",
        "environments differ (a: Hopper-v4, b: Hopper-v5)",
        "budgets differ (a: 300, b: 400): schedules depend on the length of a run",
        "last evaluations differ (a: 300, b: 200): compared at the last common step",
        "numbers of evaluation episodes differ (a: 2, b: 3)",
        "versions of mujoco differ (a: 3.3.0, b: 3.2.0): trajectories may differ",
        "versions of torch differ",
        "processors differ (a: a, b: b)",
        "b was resumed under other conditions at step 90: torch 2.12.0, now 2.13.0",
    ):
        assert words in warnings, words
    c = make(tmp_path / "c", [1, 2, 3], env="Hopper-v4", trust="in-context")
    found = compare([str(a), str(b), str(c)])  # two share a task, and the third is alone
    assert [t.name for t in found.tasks] == ["Hopper-v4"]
    assert "b is the only side on Hopper-v5: not compared" in found.warnings


def test_several_environments(tmp_path):
    words = []
    for env, gain in (("Room-v6", 20), ("CartPole-v1", -20), ("Acrobot-v1", 0)):
        for trust, more in (("td", 0), ("in-context", gain)):
            values = [more + x for x in (10.0, 12.0, 14.0, 16.0, 18.0)]
            words.append(str(make(tmp_path / trust / env, values, env=env, trust=trust)))
    text = as_text(compare(words))
    assert text.count("reference") == 3
    sweep = {"name": "s", "runs": []}
    for word in words:
        path = Path(word)
        axes = {"trust": path.parent.name}
        sweep["runs"].append({"folder": f"{path.parent.name}/{path.name}", "env": path.name, "axes": axes, "seed": 0})
    sweep["runs"].append({"folder": "not/yet", "env": "Room-v6", "axes": {"trust": "hybrid"}, "seed": 0})
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    found = compare([str(tmp_path)])
    assert [row.side for row in found.tasks[0].rows] == ["trust=td", "trust=in-context"]
    assert found.warnings == (f"{tmp_path}: 1 of 7 runs are not done; `peerage sweep` continues it",)
    assert len(found.overall) == 1
    assert found.overall[0].startswith("trust=in-context against trust=td: better on 1, worse on 1 of 3 environments")
    assert found.overall[0].endswith("0.50")


@pytest.mark.parametrize(
    "spoil, words",
    [
        ("missing", "there is no run folder"),
        ("empty", "is not a run folder: it has no config.yaml"),
        ("foreign", "was not written by Peerage"),
        ("no evaluations", "has no evaluations: nothing to compare"),
        ("damaged csv", "does not have the columns"),
        ("damaged config", "config.yaml"),
        ("half", "no evaluation is complete yet"),
        ("manifest", "is not the manifest of a sweep"),
        ("pattern", "no run matches"),
    ],
)
def test_broken_folders_are_named(tmp_path, ab, capsys, spoil, words):
    bad = tmp_path / "bad"
    if spoil not in ("missing", "empty", "foreign", "manifest", "pattern"):
        make(bad, [1, 2, 3])
    match spoil:
        case "empty":
            bad.mkdir()
        case "foreign":
            bad.mkdir()
            (bad / "config.yaml").write_text("env: mine\n")
        case "no evaluations":
            (bad / "evaluations.csv").unlink()
        case "damaged csv":
            (bad / "evaluations.csv").write_bytes(b"step,replica\n1,2\n")
        case "damaged config":
            (bad / "config.yaml").write_text(HEADER + "n_peers: [\n")
        case "half":
            lines = (bad / "evaluations.csv").read_text().splitlines()
            (bad / "evaluations.csv").write_text("\n".join(lines[:4]) + "\n")
        case "manifest":
            bad.mkdir()
            (bad / "sweep.yaml").write_text("runs: 3\n")
    word = str(bad / "x*") if spoil == "pattern" else str(bad)
    assert main(["compare", ab[0], word]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and "bad" in said


def test_the_command_line(tmp_path, ab, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *ab]) == 0
    out = capsys.readouterr().out
    assert "b beats a on IQM by 20.0" in out and "advice.trust: td (a); in-context (b)" in out
    (folder,) = (tmp_path / "comparisons").iterdir()
    assert folder.name.startswith("a-vs-b-")
    assert out.endswith(f"page:    {folder.relative_to(tmp_path) / 'comparison.html'}\n")
    assert sorted(p.name for p in folder.iterdir()) == [
        "Room-v6.png", "comparison.html", "comparison.json", "table.tex",
    ]  # fmt: skip
    page, pictures = (folder / "comparison.html").read_bytes(), (folder / "Room-v6.png").read_bytes()
    assert main(["compare", *ab]) == 0  # written again with the same bytes
    assert (folder / "comparison.html").read_bytes() == page and (folder / "Room-v6.png").read_bytes() == pictures
    assert b"b beats a on IQM" in page and b"http" not in page.replace(b"http-equiv", b"")
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", *ab, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"][0]["versus"][0]["difference"]["estimate"] == pytest.approx(20)
    assert main(["compare", *ab, "--latex"]) == 0
    assert r"$\mathbf{32.0}$" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    assert main(["compare", *ab, "--out", str(mine)]) == 2 and (mine / "thesis.tex").exists()
    assert "is not a comparison" in capsys.readouterr().err
    assert main(["compare", *ab, "--threshold", "nan"]) == 2
    assert main(["compare", *ab, "--metric", "success"]) == 2
    assert "reports no success" in capsys.readouterr().err


def test_names_are_escaped_everywhere(tmp_path):
    name = "<b>_&_50%$x$"
    a = make(tmp_path / name, [1, 2, 3])
    b = make(tmp_path / "b", [1, 2, 3], trust="in-context")
    found = compare([str(a), str(b)])
    assert r"\textless{}b\textgreater{}\_\&\_50\%\$x\$" in as_latex(found)
    assert json.loads(as_json(found))["tasks"][0]["rows"][0]["side"] == name
    from peerage.reports.comparison_page import render

    assert "<b>_&amp;_50%$x$" not in render(found, []) and "&lt;b&gt;_&amp;_50%$x$" in render(found, [])


def test_runs_that_are_pooled():
    config = to_dict(Config())
    same = {**config, "seed": 3, "replicas": 9, "threads": 2, "run": {}}
    assert samples.replica_key(config) == samples.replica_key(same)
    same = {**config, "total_timesteps": 100_000}  # 100 epochs of 1,000
    assert samples.replica_key(config) == samples.replica_key(same)
    for name, value in (("n_peers", 3), ("env", "Room-v6"), ("total_timesteps", 7)):
        assert samples.replica_key(config) != samples.replica_key({**config, name: value})


def test_runs_of_earlier_versions_are_pooled_with_new_ones(tmp_path):
    learner = resolve(Config(n_peers=2), discrete=True).learner
    make(tmp_path / "new", [10, 11, 12], learner=learner, seed=3)
    make(tmp_path / "other", [20, 21, 22], learner=replace(learner, gamma=(0.9,)))
    config = RunFolder(make(tmp_path / "old", [13, 14, 15], learner=learner, seed=6)).config()
    for part, name in (("learner", "init_from"), ("learner", "normalize_obs"), ("run", "eval_starts")):
        del config[part][name]
    RunFolder(tmp_path / "old").write_config(config)
    found = compare([str(tmp_path / name) for name in ("new", "old", "other")])
    assert [row.replicas for row in found.tasks[0].rows] == [6, 3] and list(found.differences) == ["learner.gamma"]
    assert any("start states of evaluations differ" in line for line in found.warnings)


def test_real_runs(tmp_path, monkeypatch):
    """From training to the page, on the command line."""
    monkeypatch.chdir(tmp_path)  # outside any checkout, whose commit might change
    learner = LearnerConfig(learning_starts=(10,), batch_size=(4,), net_arch=((4,),))
    run = RunConfig(eval_freq=30, n_eval_episodes=1, log_freq=30, verbose=0, log_dir=str(tmp_path))
    config = Config(env="Room-v6", n_peers=2, replicas=3, total_timesteps=60, learner=learner, run=run)
    for name, seed in (("one", 0), ("two", 1)):
        peerage.train(config=config, exp_name=name, seed=seed)
    peerage.train(config=config, exp_name="alone", sharing="none")
    words = [str(tmp_path / name) for name in ("one", "two", "alone")]
    found = compare(words)
    assert [(r.side, r.replicas) for r in found.tasks[0].rows] == [("one", 6), ("alone", 3)]
    assert "advice.sharing" in found.differences and found.warnings == ()


def test_offline_and_online_runs_are_compared_at_their_last_evaluations(tmp_path, capsys):
    """Gradient steps and environment steps have no common scale; only step 0 is common here."""
    bc = make(tmp_path / "bc", [30, 31, 32], data="mine-v0", data_fingerprint="0f", total_timesteps=50, steps=(0, 50),
              learner=LearnerConfig(algorithm=("bc",)))  # fmt: skip
    cp = make(tmp_path / "cp", [10, 11, 12])
    words = [str(bc), str(cp)]
    (task,) = (found := compare(words)).tasks
    assert found.measure == "last" and [row.mean.estimate for row in task.rows] == pytest.approx([31, 11])
    assert [row.final.estimate for row in task.rows] == pytest.approx([31, 11])
    kinds = "steps of bc are gradient steps, those of cp are environment steps"
    assert "data" in found.differences and "data_fingerprint" not in found.differences
    assert found.warnings[0] == kinds and not any("budgets" in line for line in found.warnings)
    assert main(["compare", *words, "--out", str(tmp_path / "page")]) == 0
    printed, html = capsys.readouterr().out, (tmp_path / "page" / "comparison.html").read_text()
    assert "return at the last evaluation of each run" in printed and "50 (gradient)" in printed
    assert f"S{kinds[1:]}." in html and "NaN" not in as_json(found) and "NaN" not in html
    for flags in (["--measure", "area"], ["--measure", "final"], ["--threshold", "5"], ["--stability"]):
        assert main(["compare", *words, *flags]) == 2
        flag = " ".join(flags).removesuffix(" 5")
        assert f"{flag} needs steps of one kind, but {kinds}" in capsys.readouterr().err
    other = str(make(tmp_path / "other", [20, 21, 22], total_timesteps=50, steps=(0, 50), trust="hybrid"))
    assert main(["compare", words[1], other]) == 2 and "or use --measure last" in capsys.readouterr().err
    found = compare([words[1], other], measure="last")
    assert [row.iqm.estimate for row in found.tasks[0].rows] == pytest.approx([11, 21])
    with pytest.raises(UserError, match="--threshold needs common steps"):
        compare([words[1], other], measure="last", threshold=3)
