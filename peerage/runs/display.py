"""The progress of a training: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peerage.runs.disturbances import disturbances
from peerage.runs.hyperparameters import about_run
from peerage.runs.listeners import AdviceRow, EvaluationRow, Listener, MetricRow, RunInfo, is_member, role
from peerage.runs.pace import Pace
from peerage.text import count, duration, number, thousands

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

MAX_ROWS = 8
"""Largest number of member rows; the other members of a larger group share one row."""
MAX_FIXED = 4
"""Largest number of fixed advisers with their own columns."""
LIVE_SECONDS = 0.2
LINE_SECONDS = 5.0
UPDATE_SECONDS = 1.0
"""Without a terminal, an update that is expected to take this long is announced by a line."""


class Display(Listener):
    """Prints progress. verbose 0: nothing; 1: progress and evaluations; 2: all events."""

    def __init__(self, verbose: int = 1, console: Console | None = None) -> None:
        self.verbose = verbose
        self.console = console
        self.info: RunInfo | None = None
        self.step = 0
        self.message = ""
        self.target: float | None = None  # the first target return of that evaluation
        self.modes: dict[str, float] = {}  # mode of that evaluation, other than alone -> mean return
        self.evaluated_at = 0
        self.returns: dict[str, float] = {}  # member -> mean return of the last evaluation
        self.shares: dict[str, dict[str, float]] = {}  # asker -> adviser -> share of choices
        self._live: Live | None = None
        self._pace = Pace()
        self._shown_at = -math.inf

    # --- events -----------------------------------------------------------------------------------

    def on_start(self, info: RunInfo) -> None:
        self.info, self.step = info, info.start_step
        self._pace = Pace(info.cycle, info.stride, info.total_steps)
        if self.verbose < 1:
            return
        if self.console is None:
            from rich.console import Console

            class BrokenPipeConsole(Console):
                """Raises an error for a closed pipe (`| head`), where rich would end the program."""

                def on_broken_pipe(self) -> None:
                    self.quiet = True
                    raise BrokenPipeError("the output is closed")

            self.console = BrokenPipeConsole()
        if self.console.is_terminal:
            from rich.live import Live

            for line in about_run(info):
                self._print(line)

            # Without a refresh thread: `on_progress` draws.
            self._live = Live(self._view(), console=self.console, auto_refresh=False)
            self._live.start(refresh=True)
        else:
            self._print(_headline(info))
            for line in about_run(info):
                self._print(line)
            if disturbed := _disturbed(info):
                self._print(disturbed)
            if info.folder is not None:
                self._print(f"run folder: {info.folder}")

    def on_progress(self, step: int, seconds: float) -> None:
        self.step = step
        self._pace.add(seconds, step)
        if self.verbose < 1 or self.info is None:
            return
        # In a long run there are fewer lines, so that its log stays short.
        pause = LIVE_SECONDS if self._live else max(LINE_SECONDS, 0.01 * seconds)
        if self._shown_at == -math.inf and not self._live:
            self._shown_at = seconds
        elif seconds - self._shown_at >= pause or self._announces_update():
            self._shown_at = seconds
            if self._live:
                self._live.update(self._view(), refresh=True)
            else:
                self._print(self._progress_line())

    def on_evaluations(self, step: int, rows: list[EvaluationRow]) -> None:
        self.step = step
        rows = [EvaluationRow(*row) for row in rows]
        values: dict[str, list[float]] = {}
        modes: dict[str, list[float]] = {}
        others: dict[float, list[float]] = {}
        for row in rows:
            if row.mode == "alone":
                values.setdefault(row.member, []).append(row.return_)
            elif row.target is None or row.mode == "test":
                modes.setdefault(row.mode, []).append(row.return_)
            else:
                others.setdefault(row.target, []).append(row.return_)
        self.returns = {member: sum(v) / len(v) for member, v in values.items()}
        self.modes = {mode: sum(v) / len(v) for mode, v in modes.items()}
        self.target = next((row.target for row in rows if row.mode == "alone" and row.target is not None), None)
        self.evaluated_at = step
        if self._live is None and self.returns:
            mean = sum(self.returns.values()) / len(self.returns)
            parts = [f"{member} {number(value)}" for member, value in list(self.returns.items())[:MAX_ROWS]]
            if len(self.returns) > MAX_ROWS:
                parts.append(f"and {len(self.returns) - MAX_ROWS} more")
            detail = f" ({', '.join(parts)})" if len(self.returns) > 1 else ""
            detail += "".join(f", {mode} {number(value)}" for mode, value in self.modes.items())
            target = f" for target {number(self.target)}:" if self.target is not None else ""
            self._say(1, f"step {step:,}: evaluation{target} {number(mean)}{detail}")
        for other, found in others.items():
            self._say(1, f"step {step:,}: evaluation for target {number(other)}: {number(sum(found) / len(found))}")

    def on_advice(self, step: int, rows: list[AdviceRow]) -> None:
        counts: dict[tuple[int, str], dict[str, float]] = {}
        for row in rows:
            pair = counts.setdefault((row["replica"], row["asker"]), {})
            pair[row["adviser"]] = pair.get(row["adviser"], 0) + (row.get("chosen") or 0)
        # Mean over replicas of the share in each replica; replicas without choices are left out.
        sums: dict[str, dict[str, float]] = {}
        replicas: dict[str, int] = {}
        for (_, asker), chosen in counts.items():
            if total := sum(chosen.values()):
                replicas[asker] = replicas.get(asker, 0) + 1
                mean = sums.setdefault(asker, {})
                for adviser, times in chosen.items():
                    mean[adviser] = mean.get(adviser, 0.0) + times / total
        for asker, mean in sums.items():
            self.shares[asker] = {adviser: value / replicas[asker] for adviser, value in mean.items()}

    def on_metrics(self, step: int, rows: list[MetricRow]) -> None:
        if self.verbose >= 2:
            values: dict[str, list[float]] = {}
            for _, _, name, value in rows:
                if value is not None and not math.isnan(value):
                    values.setdefault(name, []).append(value)
            means = ", ".join(f"{name} {number(sum(v) / len(v))}" for name, v in values.items())
            self._say(2, f"step {step:,}: {means}")

    def on_timing(self, step: int, seconds: float, member_steps_per_second: float) -> None:
        self.step = step  # for the last line
        self._say(2, f"step {step:,}: {member_steps_per_second:,.0f} member-steps/s, {duration(seconds)}")

    def on_message(self, step: int, text: str) -> None:
        self.message = f"step {step:,}: {text}"
        if self._live is None or self.verbose >= 2:
            self._say(1, self.message)

    def on_end(self, status: str, reason: str) -> None:
        if self._live is not None:
            self._live.update(self._view(), refresh=True)
            self._live.stop()
            self._live = None
        elif self._pace.entries > 1:
            self._say(1, self._progress_line())
        if status == "FAILED":
            self._say(1, reason if reason == "interrupted" else status)  # the error says why
        else:
            self._say(1, f"{status}: {reason}" if reason else status)

    # --- output -----------------------------------------------------------------------------------

    def _say(self, verbose: int, text: str) -> None:
        if self.verbose >= verbose and self.info is not None:
            self._print(text)

    def _print(self, text: str) -> None:
        assert self.console is not None
        # soft_wrap: in a log file every event is one line.
        self.console.print(text, markup=False, highlight=False, soft_wrap=self._live is None)

    def _announces_update(self) -> bool:
        """Whether a long update is about to begin, during which nothing else is shown."""
        return self._pace.updating and self._pace.update_seconds >= (LIVE_SECONDS if self._live else UPDATE_SECONDS)

    def _speed(self) -> tuple[str, str]:
        """Member-steps per second, and time left, as text."""
        info, rate = self.info, self._pace.rate
        assert info is not None
        if rate is None:
            return "– member-steps/s", "– left"
        members = info.replicas * len(info.members)
        left = max(0, info.total_steps - self.step) / rate
        return f"{rate * members:,.0f} member-steps/s", f"{duration(left)} left"

    def _progress_line(self) -> str:
        assert self.info is not None
        share = self.step / max(1, self.info.total_steps)
        speed, left = self._speed()
        updating = ", updating the networks" if self._announces_update() else ""
        return f"step {self.step:,} of {self.info.total_steps:,} ({share:.0%}), {speed}, {left}{updating}"

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        info = self.info
        assert info is not None
        speed, left = self._speed()
        updating = "updating the networks, " if self._announces_update() else ""
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        share = self.step / max(1, info.total_steps)
        bar.add_row(
            ProgressBar(total=max(1, info.total_steps), completed=self.step),
            Text(f"{share:4.0%}  {thousands(self.step)}/{thousands(info.total_steps)} steps"),
        )
        parts: list[RenderableType] = [
            Text(_headline(info), style="bold", overflow="ellipsis", no_wrap=True),
            bar,
            Text(f"{updating}{speed}, {left}", style="dim", justify="right"),
        ]
        if disturbed := _disturbed(info):
            parts.insert(1, Text(disturbed, style="magenta"))
        if self.returns or self.shares:
            parts.append(self._members_table())
            parts.append(Text(self._caption(), style="dim"))
        if self.message:
            parts.append(Text(self.message, style="yellow"))
        return Group(*parts)

    def _members_table(self) -> Table:
        """A row per member: its last evaluation, and the advisers that it follows in percent of its choices."""
        from rich.table import Table
        from rich.text import Text

        info = self.info
        assert info is not None
        columns = self._columns()
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("member", no_wrap=True)
        table.add_column("return", justify="right", no_wrap=True)
        for label in columns:
            table.add_column(_short(label), justify="right", no_wrap=True, min_width=3)
        shown = info.members if len(info.members) <= MAX_ROWS else info.members[: MAX_ROWS - 1]
        for member in shown:
            value = self.returns.get(member)
            cells = [_heat(self._share([member], label)) for label in columns]
            table.add_row(member, "–" if value is None else number(value), *cells)
        if rest := info.members[len(shown) :]:
            known = [self.returns[member] for member in rest if member in self.returns]
            mean = number(sum(known) / len(known)) if known else "–"
            cells = [_heat(self._share(rest, label)) for label in columns]
            name = Text(f"{len(rest)} more", style="italic")
            table.add_row(name, mean, *cells)
        return table

    def _columns(self) -> list[str]:
        """The advisers in columns: all of them, in a large group self, other members and fixed advisers."""
        if not self.shares or self.info is None:
            return []
        fixed = [name for name in self.info.advisers if not is_member(name)]
        fixed = fixed[:MAX_FIXED] + (["other fixed"] if len(fixed) > MAX_FIXED else [])
        columns = [*self.info.members, *fixed]
        # The columns member and return take 20 of 80 characters.
        wide = sum(max(3, len(_short(label))) + 1 for label in columns) > 60
        if wide or len(self.info.members) > MAX_ROWS:
            columns = ["self", "other members", *fixed]
        return columns

    def _caption(self) -> str:
        parts = []
        if self.returns:
            target = f" for target {number(self.target)}" if self.target is not None else ""
            modes = "".join(f", {mode} {number(value)}" for mode, value in self.modes.items())
            parts.append(f"return: mean of the evaluation{target} at step {self.evaluated_at:,}{modes}")
        if self.shares:
            parts.append("columns: share of choices, %")
        return "; ".join(parts)

    def _share(self, askers: tuple[str, ...] | list[str], label: str) -> float | None:
        """The share of choices in a column, mean over the askers that chose; None if none did."""
        known = [asker for asker in askers if asker in self.shares]
        if not known:
            return None
        columns = self._columns()
        total = 0.0
        for asker in known:
            for adviser, share in self.shares[asker].items():
                place = adviser if adviser in columns else role(asker, adviser)
                if (place if place in columns else "other fixed") == label:
                    total += share
        return total / len(known)


def _headline(info: RunInfo) -> str:
    algorithms = "+".join(dict.fromkeys(info.algorithms))
    text = f"{info.env} · {algorithms} · {count(len(info.members), 'member')}"
    if fixed := [name for name in info.advisers if not is_member(name)]:
        text += f" + {', '.join(fixed[:MAX_FIXED])}" + (", …" if len(fixed) > MAX_FIXED else "")
    if info.replicas > 1:
        text += f" × {info.replicas} replicas"
    return text


def _disturbed(info: RunInfo) -> str:
    """A line about deliberate disturbances of the training; empty without any."""
    return "; ".join(disturbances(info.config, info.advisers))


def _short(label: str) -> str:
    """The short heading of a column: m0, self, others, expert."""
    if is_member(label):
        return "m" + label.removeprefix("member-")
    if label in ("other members", "other fixed"):
        return "others" if label == "other members" else "rest"
    return label if len(label) <= 9 else label[:8] + "…"


def _heat(share: float | None) -> Text:
    """A share as a number; the saturation of the background is the share."""
    from rich.text import Text

    if share is None:
        return Text("·", style="dim")
    # From dark slate to strong blue: white digits are readable on both.
    low, high = (38, 42, 51), (25, 110, 205)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high))
    return Text(f"{100 * share:3.0f}", style=f"white on rgb({red},{green},{blue})")
