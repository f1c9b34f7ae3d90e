"""Self-contained HTML pages: style, tables, collapsible parts, and a strict content security policy.

    sections = [page.Section("Learning", chart), page.Section("Members", page.table(head, rows))]
    text = page.render("my run", [page.facts(cells), *sections], [plots.STYLE], [plots.SCRIPT])

All functions take data and return HTML. Text from a run is never treated as markup: all functions escape their
arguments except `Section`, `details` and `render`, which take HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --dim: #575d65; --back: #f4f5f7; --card: #fff;
  --line: #dcdfe4; --accent: #005a9c; --bad: #b3380a; --good: #14713d;
  --shade: rgb(0 0 0 / .22); }
@media screen and (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --dim: #a7aeb6; --back: #15181c;
  --card: #1e2227; --line: #383e46; --accent: #78bdf2; --bad: #f58a5c; --good: #67c78f; --shade: rgb(0 0 0 / .75); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .7rem; } h3 { font-size: 1rem; line-height: 1.35; margin: 0; }
p { margin: .4rem 0; overflow-wrap: anywhere; } .dim { color: var(--dim); font-size: .9rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: 1rem 0 0; list-style: none; }
nav a { display: inline-block; padding: .15rem 0; font-size: .93rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.fact, figure, .scroll, pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.fact { padding: .7rem .9rem; } .fact b { display: block; font-size: 1.35rem; color: var(--accent);
  overflow-wrap: anywhere; }
.fact span { display: block; color: var(--dim); font-size: .87rem; line-height: 1.4; }
.state { border-left: 4px solid var(--dim); padding-left: .8rem; }
.state.failed { border-color: var(--bad); } .state.done { border-color: var(--good); }
figure { margin: 0 0 1rem; padding: .8rem .9rem; }
figure > img, video { display: block; max-width: 100%; }
figcaption { color: var(--dim); font-size: .9rem; line-height: 1.45; margin-top: .6rem; overflow-wrap: anywhere; }
/* A shadow at a side with hidden content; the cover over it scrolls with the content. */
.scroll { overflow-x: auto; margin: .5rem 0; background: linear-gradient(90deg, var(--card) 40%, transparent) 0 / 2rem
  local, linear-gradient(270deg, var(--card) 40%, transparent) 100% / 2rem local, linear-gradient(90deg, var(--shade),
  transparent) 0 / .7rem, linear-gradient(270deg, var(--shade), transparent) 100% / .7rem, var(--card);
  background-repeat: no-repeat; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .5rem .7rem; color: var(--dim); font-size: .9rem; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
table { font-size: .93rem; } th { font-weight: 600; } thead th { color: var(--dim); vertical-align: bottom;
  white-space: normal; line-height: 1.3; }
th:first-child, td.text, th.text { text-align: left; }
td.text, th.text { white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
th.text:first-child { min-width: 7.8rem; }
th.name { white-space: normal; min-width: 10rem; line-height: 1.3; font-weight: 400; }
pre { padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; line-height: 1.45;
  margin: .4rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
@media (max-width: 34rem) { body { padding: 1rem .6rem 3rem; } figure { padding: .6rem; }
  th, td { padding: .35rem .5rem; } .scroll { font-size: .93rem; } td.text, th.text { font-size: .82rem; } }
@media print { body { padding: 0; max-width: none; background: #fff; font-size: 10pt; } nav { display: none; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  figure, .fact, tr { break-inside: avoid; } h2, h3, summary { break-after: avoid; }
  .scroll { overflow: visible; background: none; } table { font-size: 8pt; }
  th, td { white-space: normal; padding: .2rem .3rem; }
  th.name { min-width: 7rem; }
  tbody th:not(.text, .name) { white-space: nowrap; }
  details::details-content { content-visibility: visible; display: block; height: auto; } }
"""

SCRIPT = """
/* Open all collapsed parts for printing, and close them afterwards. */
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of opened) part.open = false; });
})();
"""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, linked from the table of contents."""

    title: str
    html: str


def render(
    title: str, parts: Iterable[str | Section], styles: Iterable[str] = (), scripts: Iterable[str] = ()
) -> str:
    """A complete page: HTML and sections in order, with the styles and scripts that they need.

    The table of contents is placed before the first section. `scripts` must not contain `</script`. The content
    security policy allows these scripts only, by their hashes, and no requests.
    """
    shown = [part for part in parts if part != ""]
    sections = [part for part in shown if isinstance(part, Section)]
    body, listed = [], False
    for part in shown:
        if isinstance(part, Section):
            if not listed and len(sections) > 2:
                body.append(_contents(sections))
            listed = True
            name, head = _anchor(part.title), escape(part.title)
            body.append(f'<section id="{name}" aria-label="{head}">\n<h2>{head}</h2>\n{part.html}\n</section>')
        else:
            body.append(part)
    codes = [SCRIPT, *scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in codes)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # No requests and no other scripts, whatever the names in the run contain.
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)} · Peerage</title>\n<style>{''.join((STYLE, *styles))}</style></head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n"
        + "".join(f"<script>{code}</script>\n" for code in codes)
        + "</body></html>\n"
    )


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(f'<li><a href="#{_anchor(part.title)}">{escape(part.title)}</a></li>' for part in sections)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"


# --- parts of a page ------------------------------------------------------------------------------


def facts(cells: Sequence[tuple[str, str]]) -> str:
    """Cards side by side, each with a headline and an explanation."""
    cards = [f'<div class="fact"><b>{escape(b)}</b><span>{escape(text)}</span></div>' for b, text in cells]
    return f'<div class="facts">{"".join(cards)}</div>' if cards else ""


def paragraph(text: str, dim: bool = False) -> str:
    """A paragraph of plain text; `dim`: smaller and grey, for details."""
    kind = ' class="dim"' if dim else ""
    return f"<p{kind}>{escape(text)}</p>" if text else ""


def state(text: str, kind: str = "") -> str:
    """A highlighted line; `kind`: done, failed or empty."""
    return f'<p class="state {escape(kind)}">{escape(text)}</p>'


def code(text: str) -> str:
    """Preformatted text, for commands and files."""
    return f"<pre>{escape(text)}</pre>"


def details(summary: str, html: str) -> str:
    """A part that is collapsed until it is opened, and open in print."""
    return f"<details><summary>{escape(summary)}</summary>\n{html}\n</details>"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    text: bool = False,
    wrap: bool = False,
) -> str:
    """A table whose first column names its rows, and which scrolls sideways on a narrow screen.

    `text`: columns are left-aligned and wrap; otherwise they hold numbers. `wrap`: the first column holds long names
    and wraps, so that a phone shows the numbers too.
    """
    kind = ' class="text"' if text else ""
    first = ' class="name"' if wrap else kind
    top = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell in head)
    body = []
    for row in rows:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell in row[1:])
        body.append(f'<tr><th scope="row"{first}>{escape(row[0])}</th>{cells}</tr>\n')
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    # A scrolling box must be focusable to be scrolled by keyboard.
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption or "table: " + ", ".join(head))}">'
        f"<table>{above}<thead><tr>{top}</tr></thead><tbody>\n{''.join(body)}</tbody></table></div>"
    )


def data(value: Any) -> str:
    """A script element with JSON for the page's scripts, escaped so that no text in it can close the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json">{text}</script>'


def rounded(value: float, digits: int = 4) -> float | int | None:
    """A number for `data` with this many significant digits; None if it is not finite."""
    value = float(value)
    if not math.isfinite(value):
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
