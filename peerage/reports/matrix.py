"""A matrix of askers and advisers over time with a slider, from arrays to HTML.

    choices = matrix.Column("choices", "share of choices (%)", shares, share=True)  # [V, T, A, K]
    html = matrix.listeners(steps, askers, advisers, [choices], views=["mean of 3 replicas"], title="At each step")

Without the script, and in print, it shows the last step. A page with it needs `STYLE` and `SCRIPT`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np

from peerage.reports import page
from peerage.reports.plot_scales import finite
from peerage.text import short

INVERT_TEXT_FROM = 0.74
"""From this strength of a cell's colour its text is inverted; the contrast is then at least 4.4:1 everywhere."""
CORNER = "asks \\ advises"
"""The head of the column of askers."""
SNAPSHOTS = 4
"""Number of matrices side by side where there is no slider."""
UPRIGHT_FROM = (6, 14)
"""With more advisers than this, or names longer than this, column heads are vertical."""
EXPONENT_FROM = 1e7
"""Larger numbers are written as 1.0e+07, so that a diverging critic does not widen the matrix."""

STYLE = """
:root { --more: 0 74 134; --less: 133 54 0; --ink: #000; --turned: #fff; }
@media screen and (prefers-color-scheme: dark) { :root { --more: 84 153 211; --less: 220 122 61; --ink: #fff;
  --turned: #000; } }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .9rem; margin: .6rem 0; }
.controls label { display: flex; align-items: center; gap: .4rem; font-size: .9rem; max-width: 100%; }
.controls select, .controls button { font: inherit; font-size: .93rem; color: var(--text); background: var(--back);
  border: 1px solid var(--dim); border-radius: 6px; padding: .3rem .6rem; min-height: 2.4rem; max-width: 100%;
  min-width: 0; }
.controls button { min-width: 5.2rem; cursor: pointer; }
.controls .time { flex: 1 1 14rem; min-width: 0; } .controls input { flex: 1; min-width: 0; height: 2.4rem;
  accent-color: var(--accent); }
.heat .scroll { border: 0; margin: 0; max-height: min(38rem, 85vh); overflow: auto; }
.heat table { width: auto; border-collapse: separate; border-spacing: 2px; }
.heat th, .heat td { border: 0; padding: .35rem .4rem; font-weight: 400; font-size: .85rem; }
.heat caption { padding: .2rem 0 .4rem; } .heat thead th { text-align: center; max-width: 9rem;
  overflow-wrap: break-word; line-height: 1.2; } .heat thead th:first-child { min-width: 4.6rem; }
.heat tbody th { position: sticky; left: 0; z-index: 1; background: var(--card); text-align: left; color: var(--dim); }
.heat thead th { position: sticky; top: 0; z-index: 2; background: var(--card); }
.heat td { --w: 0; min-width: 3.7rem; height: 2.3rem; text-align: center; border-radius: 4px; color: var(--ink);
  background: rgb(var(--more) / var(--w)); box-shadow: inset 0 0 0 1px var(--line); }
.heat td.less { background: rgb(var(--less) / var(--w)); } .heat td.turned { color: var(--turned); }
.heat td.itself { box-shadow: inset 0 0 0 2px var(--dim); }
.many thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  vertical-align: top; white-space: nowrap; max-width: none; } .heat .many td { min-width: 2.7rem; }
.moments { display: none; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .6rem; }
.moments table { width: 100%; } .heat .moments td { height: 1.6rem; }
.heat .moments th, .heat .moments td { min-width: 0; padding: .1rem .15rem; font-size: .72rem; }
.heat .moments thead th:first-child { min-width: 0; font-size: 0; }
@media (max-width: 34rem) { .heat th, .heat td { padding: .3rem .15rem; font-size: .78rem; }
  .heat td { min-width: 2.9rem; } .heat .many td { min-width: 2.1rem; } }
@media (scripting: none) { .moments { display: grid; } }
@media (forced-colors: active) { .heat td { forced-color-adjust: none; } }
@media print { .controls { display: none; } .moments { display: grid; grid-template-columns: 1fr 1fr; }
  .heat .scroll { max-height: none; overflow: visible; } .heat th { position: static !important; }
  .heat table { width: 100%; } .heat td { min-width: 0; border-radius: 0; } .heat .many td { min-width: 0; }
  .moments > * { min-width: 0; } }
"""

SCRIPT = """
/* The slider, the button and the two lists above the matrix. */
"use strict";
for (const box of document.querySelectorAll(".matrix")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const part = (name) => box.querySelector("[name=" + name + "]");
  const [time, play, what, who] = ["time", "play", "what", "who"].map(part);
  const caption = box.querySelector(".now caption");
  const cells = [...box.querySelectorAll(".now tbody td")];
  const last = data.steps.length - 1;
  let clock = null;
  const draw = () => {
    const column = data.columns[what ? Number(what.value) : 0], t = Number(time.value);
    const start = ((who ? Number(who.value) : 0) * data.steps.length + t) * cells.length;
    cells.forEach((cell, k) => {
      const value = column.values[start + k], empty = value === null;
      const raw = empty ? 0 : column.low < 0 && column.high > 0
        ? value / Math.max(-column.low, column.high) : (value - column.low) / ((column.high - column.low) || 1);
      const strength = Math.min(1, Math.abs(raw));
      const weight = raw < 0 && !(column.low < 0 && column.high > 0) ? 0 : strength;
      cell.textContent = empty ? "–" : (Math.abs(value) < EXPONENT_FROM ? value.toFixed(column.digits)
        : value.toExponential(1).replace(/e.(.)$/, "e+0$1")).replace("-", "−");
      cell.style.setProperty("--w", weight.toFixed(2));
      cell.classList.toggle("less", weight > 0 && raw < 0);
      cell.classList.toggle("turned", weight >= INVERT_TEXT_FROM);
    });
    const step = data.steps[t].toLocaleString("en-US");
    time.setAttribute("aria-valuetext", "step " + step);
    caption.textContent = column.title + ", step " + step;
  };
  const stop = () => { clearInterval(clock); clock = null; play.textContent = "▶ Play"; };
  play.addEventListener("click", () => {
    if (clock !== null) { stop(); return; }
    if (Number(time.value) === last) time.value = 0;
    play.textContent = "❚❚ Pause";
    draw();
    clock = setInterval(() => {
      time.value = Number(time.value) + 1;
      draw();
      if (Number(time.value) >= last) stop();
    }, Math.max(60, Math.min(250, 6000 / data.steps.length)));
  });
  time.addEventListener("input", () => { stop(); draw(); });
  for (const list of [what, who]) if (list) list.addEventListener("change", draw);
  let before = last;
  addEventListener("beforeprint", () => { before = time.value; stop(); time.value = last; draw(); });
  addEventListener("afterprint", () => { time.value = before; draw(); });
  box.querySelector(".controls").hidden = false;
  time.value = last;
  draw();
}
""".replace("INVERT_TEXT_FROM", str(INVERT_TEXT_FROM)).replace("EXPONENT_FROM", str(EXPONENT_FROM))


@dataclass(frozen=True)
class Column:
    """One quantity that the matrix can show."""

    name: str
    """Its name in the list."""
    title: str
    """Its title above the matrix."""
    values: np.ndarray
    """`[V, T, A, K]`: views, steps, askers, advisers. NaN, infinite values and values beyond
    `plot_scales.DIVERGED` are missing."""
    share: bool = False
    """Whether it is a percentage, which is coloured from 0 to `full`."""
    full: float = 100.0
    """The percentage of full colour."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", finite(self.values))

    @cached_property
    def scale(self) -> tuple[float, float]:
        """The values of no and of full colour; with values of both signs zero has no colour.

        If initial values (200) are far from the learned ones, they are ignored.
        """
        if self.share:
            return 0.0, self.full
        known = self.values[np.isfinite(self.values)]
        late = self.values[:, self.values.shape[1] // 5 :]
        late = late[np.isfinite(late)]
        if not len(known):
            return 0.0, 1.0
        low, high = float(known.min()), float(known.max())
        if len(late) and high - low > 5 * (late.max() - late.min()) > 0:
            low, high = float(late.min()), float(late.max())
        return low, high

    @cached_property
    def digits(self) -> int:
        """Decimals: about two significant digits of the range of the scale."""
        low, high = self.scale
        span = high - low
        return min(3, max(0, 1 - math.floor(math.log10(span)))) if 0 < span < math.inf else 2


def listeners(
    steps: Sequence[int],
    askers: Sequence[str],
    advisers: Sequence[str],
    columns: Sequence[Column],
    *,
    views: Sequence[str],
    title: str,
    caption: str = "",
    corner: str = CORNER,
) -> str:
    """The figure: controls, the matrix of the last step, and four steps of the first column for print.

    `views` names the entries of the first dimension of the columns' values, such as a mean and single replicas;
    `corner` says what rows and columns are.
    """
    if not columns or not len(steps):
        return ""
    values = {
        "steps": [int(step) for step in steps],
        "columns": [
            {
                "title": column.title,
                "low": page.rounded(column.scale[0]),
                "high": page.rounded(column.scale[1]),
                "digits": column.digits,
                "values": [_rounded(v, column) for v in column.values.reshape(-1).tolist()],
            }
            for column in columns
        ],
    }
    first = columns[0]
    moments = ""
    if len(steps) >= 2 * SNAPSHOTS and len(askers) <= 16 and not _upright(advisers):
        places = [len(steps) * k // SNAPSHOTS - 1 for k in range(1, SNAPSHOTS + 1)]
        tables = [_table(first, 0, t, int(steps[t]), askers, advisers, corner) for t in places]
        moments = f'<div class="moments" aria-hidden="true">{"".join(tables)}</div>'
    note = page.paragraph(caption)
    return (
        f'<figure class="heat matrix"><h3>{escape(title)}</h3>'
        f"{_controls(len(steps), [column.name for column in columns], views)}"
        f'<div class="now">{_table(first, 0, len(steps) - 1, int(steps[-1]), askers, advisers, corner)}</div>{moments}'
        f"<figcaption>{note}</figcaption>{page.data(values)}</figure>"
    )


def _controls(steps: int, names: Sequence[str], views: Sequence[str]) -> str:
    """The controls, hidden until the script activates them."""
    lists = ""
    for label, name, texts in (("Show", "what", names), ("of", "who", views)):
        if len(texts) > 1:
            options = "".join(f'<option value="{k}">{escape(text)}</option>' for k, text in enumerate(texts))
            lists += f'<label>{label} <select name="{name}">{options}</select></label>'
    last = steps - 1
    slider = f'<input type="range" name="time" min="0" max="{last}" value="{last}" step="1">'
    return (
        f'<div class="controls" hidden>{lists}<button type="button" name="play">▶ Play</button>'
        f'<label class="time">Time {slider}</label></div>'
    )


def _table(
    column: Column, view: int, t: int, step: int, askers: Sequence[str], advisers: Sequence[str], corner: str
) -> str:
    """The matrix of one step as a table, with a row per asker."""
    head = "".join(f'<th scope="col" title="{escape(name)}">{escape(short(name))}</th>' for name in advisers)
    rows = []
    for a, asker in enumerate(askers):
        cells = [_cell(float(column.values[view, t, a, k]), column, asker == name) for k, name in enumerate(advisers)]
        rows.append(f'<tr><th scope="row">{escape(short(asker))}</th>{"".join(cells)}</tr>')
    title = escape(f"{column.title}, step {step:,}")
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(column.title)}">'
        f'<table{" class=many" if _upright(advisers) else ""}>'
        f'<caption>{title}</caption><thead><tr><th scope="col">{escape(corner)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _upright(advisers: Sequence[str]) -> bool:
    """Whether column heads are vertical."""
    return len(advisers) > UPRIGHT_FROM[0] or max(map(len, advisers)) > UPRIGHT_FROM[1]


def _cell(value: float, column: Column, itself: bool) -> str:
    """A cell, drawn as the script does."""
    low, high = column.scale
    weight, less = 0.0, False
    if math.isfinite(value):
        both = low < 0 < high
        raw = value / max(-low, high) if both else (value - low) / ((high - low) or 1.0)
        weight, less = (0.0, False) if raw < 0 and not both else (min(1.0, abs(raw)), raw < 0)
    text = f"{value:.{column.digits}f}" if abs(value) < EXPONENT_FROM else f"{value:.1e}"
    text = text.replace("-", "−") if math.isfinite(value) else "–"
    marks = {"itself": itself, "less": less and weight > 0, "turned": weight >= INVERT_TEXT_FROM}
    kind = " ".join(name for name, there in marks.items() if there)
    return f'<td{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} style="--w:{weight:.2f}">{escape(text)}</td>'


def _rounded(value: float, column: Column) -> float | int | None:
    """A value with the decimals that are shown."""
    if not math.isfinite(value):
        return None
    value = round(value, column.digits) + 0.0
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
