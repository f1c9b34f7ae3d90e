"""The figures of a run, drawn from its CSV files alone: the same files give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from peerage.reports import advice_figures
from peerage.reports.drawing import Draft, common_style, curve, png
from peerage.runs import tables
from peerage.runs.folder import write_atomically
from peerage.statistics import summaries


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
    evaluations, metrics = tables.read_evaluations(folder), tables.read_metrics(folder)
    advice = tables.read_advice(folder)
    makers: list[Callable[[], Draft | None]] = [
        lambda: evaluation_return(evaluations),
        lambda: evaluation_success(evaluations),
        lambda: training_return(metrics),
        *advice_figures.makers(metrics, advice),
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


# --- learning curves ------------------------------------------------------------------------------


def evaluation_return(evaluations: pd.DataFrame) -> Draft | None:
    """Return of evaluation episodes over steps."""
    values = summaries.member_values(evaluations, "return")
    return curve("evaluation_return", "Evaluation return", "return of greedy episodes", values)


def evaluation_success(evaluations: pd.DataFrame) -> Draft | None:
    """Success rate of evaluation episodes, if every episode reported success."""
    values = summaries.success_values(evaluations)
    what = "share of episodes with success"
    return curve("evaluation_success", "Success in evaluations", what, values, within=(0, 1))


def training_return(metrics: pd.DataFrame) -> Draft | None:
    """Return of training episodes."""
    values = summaries.metric(metrics, "train/return")
    return curve("training_return", "Training return", "return while training", values)
