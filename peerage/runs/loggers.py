"""Listeners for TensorBoard and Weights & Biases. Their packages are optional and imported when a logger is created."""

from __future__ import annotations

import math
import os
import platform
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peerage.errors import UserError
from peerage.runs.advice_columns import signal_titles
from peerage.runs.concentration import entropy, gini
from peerage.runs.listeners import AdviceRow, EvaluationRow, Listener, MetricRow, RunInfo, role
from peerage.runs.tables import read_evaluations

PAIRS = 16
"""Up to this many advisers in a group, score and choices are logged for every pair; beyond, for self, other members
and each fixed adviser."""
SIGNAL_PAIRS = 64
"""Up to this many pairs of asker and adviser in a group, the signals behind the score are logged for every pair."""


class ScalarLog(Listener):
    """Turns the log of a training into scalars with a name and a step, which a subclass stores.

    `figures`: a function from a run folder to the PNG files of its figures, which are logged at the end of the run.
    """

    def __init__(self, figures: Callable[[Path], list[Path]] | None = None) -> None:
        self._draw_figures = figures
        self.info: RunInfo | None = None
        self._unknown_success: set[str] = set()  # modes with an episode that did not report success

    def on_start(self, info: RunInfo) -> None:
        self.info = info
        if info.resumed and info.folder is not None:
            before = read_evaluations(info.folder, mode=None)
            self._unknown_success = set(before["mode"][before["success"].isna()])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Store named values of one step."""
        raise NotImplementedError

    def on_metrics(self, step: int, rows: list[MetricRow]) -> None:
        self.scalars(
            step, {f"{name}/replica-{replica}/{member}": value for replica, member, name, value in rows}
        )

    def on_evaluations(self, step: int, rows: list[EvaluationRow]) -> None:
        lists: dict[str, list[float]] = {}
        self._unknown_success |= {row[6] for row in rows if row[5] is None}
        for replica, member, _, total, length, success, mode, *target in rows:
            head = "evaluation" if mode == "alone" else f"evaluation_{mode}"
            if mode == "targets":
                head += f"/{target[0]:g}"
            for name, value in (("return", total), ("length", length), ("success", success)):
                if value is not None and (name != "success" or mode not in self._unknown_success):
                    lists.setdefault(f"{head}/{name}/replica-{replica}/{member}", []).append(value)
        self.scalars(step, {name: sum(values) / len(values) for name, values in lists.items()})

    def on_advice(self, step: int, rows: list[AdviceRow]) -> None:
        large = len({row["adviser"] for row in rows}) > PAIRS
        # All replicas have the same pairs.
        many = len({(row["asker"], row["adviser"]) for row in rows}) > SIGNAL_PAIRS
        chosen: dict[str, float] = {}
        counts: dict[str, list[float]] = {}
        means: dict[str, list[float]] = {}
        signals = signal_titles({column for row in rows for column in row})
        for row in rows:
            group = role(row["asker"], row["adviser"])
            asker = f"replica-{row['replica']}/{row['asker']}"
            place = f"{asker}/{group if large else row['adviser']}"
            name = f"advice_chosen/{place}"
            chosen[name] = chosen.get(name, 0) + (row.get("chosen") or 0)
            counts.setdefault(asker, []).append(row.get("chosen") or 0)
            if row.get("score") is not None:
                means.setdefault(f"advice_score/{place}", []).append(row["score"])
            place = f"{asker}/{group if many else row['adviser']}"
            for column in signals:
                if row.get(column) is not None:
                    means.setdefault(f"advice_{column}/{place}", []).append(row[column])
        measures = {f"advice_{f.__name__}/{asker}": f(n) for asker, n in counts.items() for f in (entropy, gini)}
        known = {name: value for name, value in measures.items() if not math.isnan(value)}
        self.scalars(step, chosen | known | {name: sum(values) / len(values) for name, values in means.items()})

    def on_timing(self, step: int, seconds: float, member_steps_per_second: float) -> None:
        self.scalars(
            step, {"timing/seconds": seconds, "timing/member_steps_per_second": member_steps_per_second}
        )

    def figures(self) -> list[Path]:
        """PNG files of the run's figures; none without a run folder or a function that draws them."""
        if self._draw_figures is None or self.info is None or self.info.folder is None:
            return []
        return self._draw_figures(self.info.folder)


class TensorBoardLog(ScalarLog):
    """Event files in `<run folder>/tensorboard`. Needs the package tensorboard, not torch's wrapper of it."""

    def __init__(self, folder: Path | str, figures: Callable[[Path], list[Path]] | None = None) -> None:
        super().__init__(figures)
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise UserError('--use-tensorboard needs: pip install "peerage[tensorboard]"') from error
        self._event, self._summary, self._session = Event, Summary, SessionLog
        self._record_writer = RecordWriter
        self.folder = Path(folder) / "tensorboard"
        self._file: Path | None = None

    def on_start(self, info: RunInfo) -> None:
        super().on_start(info)
        self.folder.mkdir(exist_ok=True)
        self._file = self.folder / f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        if info.resumed:
            # Tells TensorBoard to discard what the run logged after the checkpoint.
            start = self._session(status=self._session.START)
            self._write(self._event(step=info.start_step + 1, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        value = self._summary.Value
        items = [value(tag=tag, simple_value=number) for tag, number in values.items() if number is not None]
        self._add(step, items)

    def on_message(self, step: int, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._add(step, [self._summary.Value(tag="messages", metadata=plugin, tensor=tensor)])

    def on_end(self, status: str, reason: str) -> None:
        if self._file is None:
            return
        items = []
        for path in self.figures():
            data = path.read_bytes()
            width, height = struct.unpack(">II", data[16:24])  # from the PNG's header
            image = self._summary.Image(height=height, width=width, colorspace=4, encoded_image_string=data)
            items.append(self._summary.Value(tag=f"figures/{path.stem}", image=image))
        self._add(self._last, items)

    _last = 0

    def _add(self, step: int, items: list[Any]) -> None:
        self._last = step
        summary = self._summary(value=items)
        self._write(self._event(step=step, wall_time=time.time(), summary=summary))

    def _write(self, event: Any) -> None:
        """Write synchronously: TensorBoard's own writer has a thread that prints a traceback when it fails."""
        assert self._file is not None
        with self._file.open("ab") as file:
            self._record_writer(file).write(event.SerializeToString())


class WandbLog(ScalarLog):
    """A run at Weights & Biases, or in `<run folder>/wandb` with WANDB_MODE=offline.

    A resumed training continues the same W&B run. `step` is logged as a value and used as the x axis of all others, so
    that a resumed run can log a step again.
    """

    def __init__(self, project: str, figures: Callable[[Path], list[Path]] | None = None) -> None:
        super().__init__(figures)
        try:
            import wandb
        except ImportError as error:
            raise UserError('--use-wandb needs: pip install "peerage[wandb]"') from error
        self._wandb = wandb
        self.project = project
        self._run: Any = None

    def on_start(self, info: RunInfo) -> None:
        super().on_start(info)
        name = None if info.folder is None else info.folder.resolve().name
        run_id = None
        if info.folder is not None:
            note = info.folder / "wandb_run.txt"
            if info.resumed and note.exists():
                run_id = note.read_text(encoding="utf-8").strip() or None
        self._run = self._wandb.init(
            project=self.project,
            name=name,
            dir=None if info.folder is None else str(info.folder),
            config=info.config,
            id=run_id,
            resume="allow" if run_id else None,
            settings=self._wandb.Settings(console="off", quiet=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if info.folder is not None:
            (info.folder / "wandb_run.txt").write_text(f"{self._run.id}\n", encoding="utf-8")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        if known:
            self._run.log({"step": step, **known})

    def on_message(self, step: int, text: str) -> None:
        self._run.alert(title=f"step {step}", text=text)

    def on_end(self, status: str, reason: str) -> None:
        if self._run is None:
            return
        try:
            images = {f"figures/{path.stem}": self._wandb.Image(str(path)) for path in self.figures()}
            self._run.log(images)
            self._run.summary.update({"status": status, "reason": reason})
        finally:
            self._run.finish(exit_code=1 if status == "FAILED" else 0)
