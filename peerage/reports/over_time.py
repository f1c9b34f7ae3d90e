"""Rows of askers and advisers of a run as a matrix with a slider: whom members follow, trust or attend to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from peerage.reports import matrix
from peerage.statistics import summaries

MATRIX_NUMBERS = 90_000
"""Largest number of values in the matrix, about 5 bytes each."""
MATRIX_STEPS = (12, 50)
"""Smallest and largest number of steps that the matrix shows."""


class OverTime:
    """The axes of a matrix of `columns` quantities, as in `matrix.Column`: views, steps, askers, advisers.

    `source` has step, replica, asker, adviser and values. Views are the mean over replicas and, if the page stays
    small, every replica. Neighbouring steps of long runs are merged: `self.source`.
    """

    def __init__(self, source: pd.DataFrame, advisers: Sequence[str], columns: int) -> None:
        self.advisers = advisers
        self.askers = sorted(set(source["asker"]), key=summaries.natural)
        self.replicas = sorted(set(source["replica"]))
        a_moment = len(self.askers) * len(advisers) * columns
        most = MATRIX_NUMBERS // (a_moment * MATRIX_STEPS[0]) - 1
        self.one_by_one = 1 < len(self.replicas) <= most
        views = 1 + len(self.replicas) if self.one_by_one else 1
        steps = max(MATRIX_STEPS[0], min(MATRIX_STEPS[1], MATRIX_NUMBERS // (a_moment * views)))
        self.source = summaries.thin(source, steps)
        self.steps = np.unique(self.source["step"].to_numpy())

    def array(self, values: pd.Series) -> np.ndarray:
        """`[V, T, A, K]` from a series with index (replica, step, asker, adviser)."""
        keys: list[Any] = [self.replicas, self.steps, self.askers, self.advisers]
        full = values.reindex(pd.MultiIndex.from_product(keys)).to_numpy(dtype=float)
        full = full.reshape([len(key) for key in keys])
        mean = summaries.spread(np.moveaxis(full, 0, -1)).mean[None]
        return np.concatenate([mean, full]) if self.one_by_one else mean

    def draw(self, columns: Sequence[matrix.Column], title: str, caption: str, corner: str = matrix.CORNER) -> str:
        """The figure as HTML; a sentence about replicas is added to the caption."""
        replicas = len(self.replicas)
        if replicas > 1:
            caption += " The matrix is the mean over replicas" + (", or a single one." if self.one_by_one else ".")
        views = ["one replica" if replicas == 1 else f"mean of {replicas} replicas"]
        if self.one_by_one:
            views += [f"replica {r}" for r in self.replicas]
        steps = self.steps.tolist()
        return matrix.listeners(
            steps, self.askers, self.advisers, columns, views=views, title=title, caption=caption, corner=corner
        )
