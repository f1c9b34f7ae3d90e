"""The figures of a run, drawn from its CSV files alone: the same files give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from peerage.reports import advice_figures, encoder_attention
from peerage.reports.drawing import Draft, common_style, curve, legend, new_figure, png
from peerage.reports.heatmaps import capital
from peerage.runs import tables
from peerage.runs.folder import RunFolder, as_mapping, write_atomically
from peerage.statistics import summaries
from peerage.statistics.calibration import Calibration, calibration, histogram


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    path: Path
    title: str
    caption: str
    section: str = "Learning"


def make_figures(folder: Path | str) -> list[Drawn]:
    """Draw all figures for which the run has data into `figures/*.png`; other PNG files there are removed.

    Raises UserError if the folder is missing or its CSV files are damaged.
    """
    evaluations, test = tables.read_evaluations(folder), tables.read_evaluations(folder, "test")
    metrics, advice = tables.read_metrics(folder), tables.read_advice(folder)
    makers: list[Callable[[], Draft | None]] = [
        lambda: evaluation_return(evaluations),
        lambda: evaluation_success(evaluations),
        lambda: evaluation_return(test, "test"),
        lambda: evaluation_success(test, "test"),
        lambda: training_return(metrics),
        lambda: target_returns(run_calibration(folder)),
        *advice_figures.makers(metrics, advice),
        lambda: encoder_attention.over_time_figure(metrics),
    ]
    target = Path(folder) / "figures"
    target.mkdir(exist_ok=True)
    drawn: list[Drawn] = []
    with common_style():
        for make in makers:
            if (draft := make()) is not None:
                path = target / f"{draft.name}.png"
                write_atomically(path, png(draft.figure))
                drawn.append(Drawn(path, draft.title, draft.caption, draft.section))
    for old in set(target.glob("*.png")) - {item.path for item in drawn}:
        old.unlink()
    return drawn


def fresh_figures(folder: Path | str) -> list[Path]:
    """Paths of the figures; they are drawn again if a CSV file is newer."""
    folder = Path(folder)
    found = sorted((folder / "figures").glob("*.png"))
    data = [folder / name for name in tables.COLUMNS if (folder / name).exists()]
    newest = max((path.stat().st_mtime_ns for path in data), default=0)
    if found and min(path.stat().st_mtime_ns for path in found) >= newest:
        return found
    return [item.path for item in make_figures(folder)]


def run_calibration(folder: Path | str) -> Calibration | None:
    """Achieved returns for each target return of a run; None for a run without several targets."""
    data = as_mapping(RunFolder.open(folder).environment().get("data"))
    return calibration(tables.read_evaluations(folder, mode=None), data.get("returns", ()))


# --- learning curves ------------------------------------------------------------------------------


def evaluation_return(evaluations: pd.DataFrame, split: str = "evaluation") -> Draft | None:
    """Return of evaluation episodes over steps; `split`: `test` for those on the test split."""
    values = summaries.member_values(evaluations, "return")
    where = " on the test split" if split == "test" else ""
    return curve(f"{split}_return", f"{capital(split)} return", f"return of greedy episodes{where}", values)


def evaluation_success(evaluations: pd.DataFrame, split: str = "evaluation") -> Draft | None:
    """Success rate of evaluation episodes, if every episode reported success; `split` as of `evaluation_return`."""
    values = summaries.success_values(evaluations)
    where = "on the test split" if split == "test" else "in evaluations"
    what = "share of episodes with success"
    return curve(f"{split}_success", f"Success {where}", what, values, within=(0, 1))


def training_return(metrics: pd.DataFrame) -> Draft | None:
    """Return of training episodes."""
    values = summaries.metric(metrics, "train/return")
    return curve("training_return", "Training return", "return while training", values)


def target_returns(found: Calibration | None) -> Draft | None:
    """Achieved return against target return, above a histogram of the returns of the data."""
    if found is None:
        return None
    figure = new_figure(4.8)
    axes = figure.subplots()
    targets, result = found.targets, found.spread
    if len(found.returns):
        edges, shares = histogram(found.returns)
        below = axes.twinx()
        bars = below.bar(edges[:-1], shares, np.diff(edges), align="edge", color="#9BB4C7", alpha=0.5)
        bars.set_label("returns of the data")
        below.set_ylim(0, 4 * max(shares))  # the lower quarter
        below.axis("off")
        axes.set_zorder(below.get_zorder() + 1)
        axes.patch.set_visible(False)
    axes.plot(targets, targets, color="#888888", ls=":", lw=1.5, label="achieved = target")
    if result.kind:
        errors = np.abs(np.stack([result.low, result.high]) - result.mean)
        label = f"mean, {result.kind} over {result.replicas} replicas"
        axes.errorbar(targets, result.mean, errors, color="#0072B2", marker="o", lw=2, capsize=4, label=label)
    else:
        axes.plot(targets, result.mean, color="#0072B2", marker="o", lw=2, label="mean over members and episodes")
    axes.set_xlabel("target return")
    axes.set_ylabel("achieved return")
    axes.set_title("Achieved and target return", loc="left", fontweight="bold")
    handles, labels = axes.get_legend_handles_labels()
    if len(found.returns):
        handles, labels = ([*own, *more] for own, more in zip((handles, labels), below.get_legend_handles_labels()))
    legend(figure, handles, labels)
    caption = f"Achieved return for each target return, after {found.step:,} steps."
    return Draft("target_returns", "Achieved and target return", caption, figure)
