"""The four CSV files of a run folder: written line by line during the training, read as DataFrames.

Numbers are written with nine significant digits (`%.9g`): float32 values come back bit for bit, float64
values (returns, seconds) to nine digits. None and NaN are empty cells.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from peerage.errors import UserError
from peerage.runs import advice_columns
from peerage.runs.listeners import AdviceRow, EvaluationRow, Listener, MetricRow
from peerage.text import short

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: dict[str, dict[str, str]] = {
    "metrics.csv": {"step": "int", "replica": "int", "member": "str", "name": "str", "value": "float"},
    "evaluations.csv": {
        "step": "int",
        "replica": "int",
        "member": "str",
        "episode": "int",
        "return": "float",
        "length": "int",
        "success": "float",
        "mode": "str",
        "target": "float",
    },
    "advice.csv": advice_columns.COLUMNS,
    "timing.csv": {"step": "int", "seconds": "float", "member_steps_per_second": "float"},
}
"""File -> its columns in order, with their types."""
MODES = ("alone", "together", "test", "targets")
"""The modes of evaluations."""
_DTYPES: dict[str, str] = {"int": "int64", "float": "float64", "str": "object"}
EMPTY = ["", "nan", "NaN", "NAN"]
"""Cells without a number: empty ones, as written here, and what other programs write."""


def _cell(value: Any) -> str:
    """One CSV cell: `%.9g` for numbers that are not whole Python or numpy integers."""
    if value is None:
        return ""
    if isinstance(value, str):
        # A line break in a name would break the row for programs that read line by line.
        return value.replace("\r", " ").replace("\n", " ")
    if isinstance(value, bool):
        return str(int(value))
    if hasattr(value, "__index__"):
        return str(int(value))
    number = float(value)
    return "" if math.isnan(number) else f"{number:.9g}"


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def check_offsets(folder: Path, offsets: Mapping[str, int]) -> None:
    """UserError if a file is shorter than its offset, or if the offset lies within a line: then the files do not belong
    to the checkpoint that has these offsets. Changes nothing."""
    for name in COLUMNS:
        length = offsets.get(name)
        try:
            with (folder / name).open("rb") as file:
                file.seek(max(0, (length or 0) - 1))
                fits = length is not None and length > 0 and file.read(1) == b"\n"
        except (FileNotFoundError, OverflowError, ValueError):  # or an offset that no file can have
            fits = False
        if not fits:
            raise UserError(
                f"{folder / name} does not fit the checkpoint: it was changed or cut after the checkpoint was "
                "written; restore it, or train again"
            )


class CsvLog(Listener):
    """Appends to the CSV files of a run folder; every batch of rows is one write.

    A missing file gets its header line; existing files are appended to (a resume calls `truncate` first).
    An OSError, such as that of a full disk, ends the training: see `Listeners`.
    """

    essential = True

    def __init__(self, folder: Path | str, further: Iterable[str] = ()) -> None:
        """`further`: columns of advice.csv after those that every run has."""
        self.folder = Path(folder)
        self._files: dict[str, BinaryIO] = {}
        self._columns = {name: list(columns) for name, columns in COLUMNS.items()}
        self._columns["advice.csv"] += further
        for name in COLUMNS:
            # Unbuffered: a batch is one write of complete lines, so that readers never see half a line.
            self._files[name] = open(self.folder / name, "ab", buffering=0)  # noqa: SIM115
            if self._files[name].tell() == 0:
                self._write(name, [self._columns[name]])
        # A run that was begun before the columns `mode` and `target` existed continues without them.
        with (self.folder / "evaluations.csv").open("rb") as file:
            self._evaluation_columns = file.readline().count(b",") + 1

    def _write(self, name: str, rows: Iterable[Iterable[Any]]) -> None:
        data = memoryview(_lines(rows))
        while data:  # an unbuffered write may be partial
            data = data[self._files[name].write(data) :]

    def on_metrics(self, step: int, rows: list[MetricRow]) -> None:
        self._write("metrics.csv", ((step, *row) for row in rows))

    def on_evaluations(self, step: int, rows: list[EvaluationRow]) -> None:
        complete = ((step, *row, *[None] * (len(COLUMNS["evaluations.csv"]) - 1 - len(row))) for row in rows)
        self._write("evaluations.csv", (row[: self._evaluation_columns] for row in complete))

    def on_advice(self, step: int, rows: list[AdviceRow]) -> None:
        names = self._columns["advice.csv"][1:]
        for row in rows:
            if unknown := set(row) - set(names):
                raise ValueError(
                    f"advice.csv has no column {sorted(unknown)[0]!r}: a kind of trust names its columns when it is "
                    "registered"
                )
        self._write("advice.csv", ((step, *(row.get(name) for name in names)) for row in rows))

    def on_timing(self, step: int, seconds: float, member_steps_per_second: float) -> None:
        self._write("timing.csv", [(step, seconds, member_steps_per_second)])

    def on_end(self, status: str, reason: str) -> None:
        self.close()

    def offsets(self) -> dict[str, int]:
        """The length of every file in bytes, after flushing it to the disk; a checkpoint stores them."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}

    def truncate(self, offsets: Mapping[str, int] | None) -> None:
        """Remove all lines written after `offsets` was taken, or with None all; the resumed run writes them again.

        Call `check_offsets` first.
        """
        if offsets is None:
            for name, file in self._files.items():
                file.truncate(0)
                self._write(name, [self._columns[name]])
            self._evaluation_columns = len(COLUMNS["evaluations.csv"])
            return
        for name, file in self._files.items():
            file.truncate(offsets[name])
            file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for file in self._files.values():
            file.close()


def has_rows(folder: Path | str) -> bool:
    """Whether any of the files holds more than its header."""
    for path in (Path(folder) / name for name in COLUMNS):
        if path.exists():
            with path.open("rb") as file:
                file.readline()
                if file.read(1):
                    return True
    return False


def _read(folder: Path | str, name: str) -> pd.DataFrame:
    """One file of a run folder; empty if it does not exist yet. An incomplete last line is left out.

    Raises UserError if `folder` does not exist or the file does not have this format.
    """
    import pandas as pd

    columns = dict(COLUMNS[name])
    path = Path(folder) / name
    if not path.parent.is_dir():
        raise UserError(f"there is no run folder {path.parent}")
    data = path.read_bytes() if path.exists() else b""
    data = data[: data.rfind(b"\n") + 1]
    if not data:
        data = _lines([columns])
    if name == "advice.csv":
        columns |= _further_columns(data)
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            dtype={column: _DTYPES[kind] for column, kind in columns.items()},
            # Only in columns of numbers: an adviser may be called "nan".
            keep_default_na=False,
            na_values={column: EMPTY for column, kind in columns.items() if kind == "float"},
            float_precision="round_trip",
        )
    except (ValueError, UnicodeError) as error:
        raise UserError(f"{path} is damaged: {_wrong_cell(data, columns) or error}") from error
    if name == "evaluations.csv":  # written before these columns existed
        for column, value in (("mode", "alone"), ("target", math.nan)):
            if column not in frame:
                frame[column] = value
    if list(frame.columns) != list(columns):
        raise UserError(f"{path} does not have the columns {','.join(columns)}")
    if "replica" in frame:
        # Every replica has rows, so a higher number is wrong; arrays of that size could exhaust the memory.
        wrong = frame[(frame["replica"] < 0) | (frame["replica"] >= len(frame))]
        if len(wrong):
            row = wrong.iloc[0]
            raise UserError(f"{path} is damaged: at step {row['step']} it has a replica {row['replica']}")
    return frame


def _further_columns(data: bytes) -> dict[str, str]:
    """The columns after those that every advice.csv has: numbers of a kind of trust, which need not be registered."""
    header = data.split(b"\n", 1)[0].decode(errors="replace").rstrip("\r").split(",")
    known = COLUMNS["advice.csv"]
    further = header[len(known) :] if header[: len(known)] == list(known) else []
    return {column: "float" for column in further if column.isidentifier()}


def _wrong_cell(data: bytes, columns: Mapping[str, str]) -> str | None:
    """A description of the first cell that should be a number and is not; None if there is none."""
    try:
        for row in csv.DictReader(io.StringIO(data.decode())):
            for column, kind in columns.items():
                cell = row.get(column)
                if kind == "str" or cell is None or (kind == "float" and cell in EMPTY):
                    continue
                try:
                    int(cell) if kind == "int" else float(cell)
                except ValueError:
                    return f"{column} at step {row['step']} is {short(cell)!r}, not a number"
    except (UnicodeError, csv.Error):
        pass
    return None


def read_metrics(folder: Path | str) -> pd.DataFrame:
    """metrics.csv: step, replica, member, name, value; the names are listed in docs/run-folder.md."""
    return _read(folder, "metrics.csv")


def read_evaluations(folder: Path | str, mode: str | None = "alone") -> pd.DataFrame:
    """evaluations.csv: step, replica, member, episode, return, length, success (NaN: the task defines none), mode,
    target (NaN: the member takes none).

    Only the episodes of `mode`: alone (each member by itself), together (the group with advice) or targets (each member
    by itself, for other target returns); None: all of them.
    """
    frame = _read(folder, "evaluations.csv")
    unknown = frame[~frame["mode"].isin(MODES)]
    if len(unknown):
        row = unknown.iloc[0]
        what = f"mode at step {row['step']} is {short(row['mode'])!r}, not {', '.join(MODES)}"
        raise UserError(f"{Path(folder) / 'evaluations.csv'} is damaged: {what}")
    return frame if mode is None else frame[frame["mode"] == mode].reset_index(drop=True)


def evaluation_table(step: int, rows: Iterable[EvaluationRow]) -> pd.DataFrame:
    """The rows of one evaluation with the columns and types of `read_evaluations`."""
    import pandas as pd

    columns = COLUMNS["evaluations.csv"]
    frame = pd.DataFrame([(step, *EvaluationRow(*row)) for row in rows], columns=list(columns))
    return frame.astype({name: _DTYPES[kind] for name, kind in columns.items()})


def read_advice(folder: Path | str) -> pd.DataFrame:
    """advice.csv: a row per replica, asker and adviser; see docs/run-folder.md for the columns."""
    return _read(folder, "advice.csv")


def read_timing(folder: Path | str) -> pd.DataFrame:
    """timing.csv: step, seconds, member_steps_per_second (wall clock)."""
    return _read(folder, "timing.csv")
