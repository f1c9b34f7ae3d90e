"""The page about offline learning: its numbers are those of the runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from test_compare import make

import peerage
from benchmarks import offline_results as results
from benchmarks import offline_runs as script
from peerage.config.flags import Parser, add_flags, override, train_flags
from peerage.config.tree import Config
from peerage.offline.episodes import Episode
from peerage.offline.trajectories import trajectories


def test_the_flags_of_all_steps_are_valid() -> None:
    for step in script.everything(script.FULL):
        if not isinstance(step, script.Dataset):
            flags = step.task.flags if isinstance(step, script.Expert) else ""
            flags = script.METHODS[step.method][1] if isinstance(step, script.Experiment) else flags
            flags = script.NOVICES[step.task.name][0] if isinstance(step, script.Novices) else flags
            words = [word for word in flags.split() if word != "--config" and not word.startswith("ppo-")]
            parser = Parser(prog="peerage train")
            add_flags(parser, train_flags())
            override(Config(), vars(parser.parse(words)))
    names = [step.name for step in script.everything(script.FULL)]
    assert len(names) == len(set(names)) and "cartpole-mixed-bc10" in names and "hopper-expert-td3bc" in names
    assert "cartpole-mixed-td3bc" not in names and "cartpole-novices-dt" in names
    assert names.index("cartpole-novices-dt") > names.index("cartpole-mixed-dt")


def test_the_page_of_small_runs(tmp_path) -> None:
    """One dataset, one real run of two replicas on it, and a run by hand beside it."""
    size = script.Size(tmp_path, replicas=2, episodes=5, step_share=0.001, eval_episodes=1, flags="--batch-size 8")
    task = script.TASKS["cartpole"]
    dataset = script.Dataset(task, "mixed", size)
    data = peerage.collect("random", dataset.folder, env="CartPole-v1", episodes=5)
    real = script.Experiment(dataset, "bc10", size)
    assert real.make() == (True, "cartpole-mixed-bc10: trained")
    assert real.make() == (True, "cartpole-mixed-bc10: already done")
    make(script.Experiment(dataset, "bc", size).folder, [10.0, 30.0])
    make(script.Novices(task, "each-other", size).folder, [10.0, 30.0])
    make(script.Novices(task, "dt", size).folder, [50.0, 60.0])
    results.page(size, tmp_path / "docs")
    text = (tmp_path / "docs" / "offline.md").read_text()
    best = np.sort(data.returns)[-1]
    achieved = results.final(real)
    assert f"5 episodes, {data.steps} steps" in text and f"mean return of the best tenth {best:,.0f}." in text
    assert f"| 10%-BC | 2 | 20 | {results.interval(achieved)} | {results.interval(100 * achieved / best)} |" in text
    assert f"| behaviour cloning | 2 | 20 | {results.interval(np.array([10.0, 30.0]))} |" in text
    assert "Return at the end, 10%-BC against behaviour cloning: " in text
    assert f"| each other | 2 | 300 | {results.interval(np.array([10.0, 30.0]))} |" in text
    assert "Area under the curve, each other and a Decision Transformer against each other: +17.5 [" in text
    assert "Achieved return by target" not in text and "the expert" not in text.split("<!--")[1]
    (tmp_path / "docs" / "offline.md").write_text(text + "\nMore text.\n")
    results.page(size, tmp_path / "docs")
    assert (tmp_path / "docs" / "offline.md").read_text() == text + "\nMore text.\n"
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["offline.md"]


def test_calibration_by_hand(tmp_path) -> None:
    rewards = [np.array([value]) for value in (0.0, 50.0, 100.0)]
    data = trajectories([Episode(np.zeros((2, 1)), np.zeros((1, 1)), reward, True) for reward in rewards])
    achieved = pd.DataFrame({0: [10.0, 40.0, 90.0, 60.0], 1: [30.0, 60.0, 90.0, 60.0]}, index=[0.0, 50.0, 100.0, 120.0])
    lines = results.calibration({"dt": achieved}, data)
    assert lines[3].startswith("| target | 0 | 50 | 100 | 120 | correlation |")
    # Within the data: means 20, 50, 90 for the targets 0, 50, 100; errors 20, 0, 10
    assert lines[5].endswith(f"| {np.corrcoef([0, 50, 100], [20, 50, 90])[0, 1]:.2f} | 10 |")
    assert "| 90 [90, 90] |" in lines[5] and "| 60 [60, 60] |" in lines[5]


def test_the_best_tenth() -> None:
    one = np.zeros((2, 1)), np.zeros((1, 1))
    data = trajectories([Episode(*one, np.array([float(k)]), True) for k in range(20)])
    assert results.top_decile(data) == 18.5
    assert results.top_decile(data.select([3])) == 3
