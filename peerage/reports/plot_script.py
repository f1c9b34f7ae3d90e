"""Style and script of the charts in `plots`, without libraries and without evaluation of text as code."""

STYLE = """
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: .6rem 1.2rem; }
.panel { min-width: 0; } .chart p.dim { margin: .1rem 0 .3rem; font-size: .85rem; line-height: 1.35; }
.chart h4 { font-size: .92rem; font-weight: 600; margin: .5rem 0 .1rem; overflow-wrap: anywhere; }
.plot { padding: .5rem 1rem 1.5rem 3.3rem; touch-action: pan-y; }
.field { position: relative; height: 17rem; } .panels .field { height: 9.5rem; }
/* Clipped slightly outside, so that dots and lines at the ends of the axes are complete. */
.field svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; clip-path: inset(-4px); }
.field > span { position: absolute; color: var(--dim); font-size: .76rem; line-height: 1; white-space: nowrap; }
.field > .y { right: 100%; margin-right: .4rem; transform: translateY(50%); }
.field > .x { top: 100%; margin-top: .45rem; transform: translateX(-50%); }
.xlabel { text-align: center; color: var(--dim); font-size: .78rem; line-height: 1.2; margin: .1rem 0 0; }
.s { --c: var(--l, var(--text)); } .main { --c: var(--text); }
@media screen and (prefers-color-scheme: dark) { .s { --c: var(--d, var(--text)); } }
.field path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.field .rule { stroke: var(--line); stroke-width: 1; } .field .reference { stroke: var(--dim); stroke-width: 1.5;
  stroke-dasharray: 2 4; }
.field .line { stroke: var(--c); stroke-width: 2; } .field .main { stroke-width: 2.6; }
.field .dash { stroke-dasharray: 7 4; } .field .thin { stroke-width: 1.1; opacity: .85; }
.field .unlabelled { opacity: .45; }
.field .band { fill: var(--c); opacity: .16; } .field .whisker { stroke: var(--c); stroke-width: 9; opacity: .22; }
.field .dot { stroke: var(--c); stroke-width: 6; stroke-linecap: round; }
.field .point { stroke-width: 8; stroke-linecap: round; opacity: 1; }
.field .area { fill: var(--c); stroke: var(--card); stroke-width: 1; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; padding: 0; margin: .7rem 0 0; list-style: none;
  font-size: .87rem; } .legend li { display: flex; align-items: center; gap: .4rem; overflow-wrap: anywhere; }
.key { flex: none; width: 1.5rem; border-top: 3px solid var(--c); } .key.thin { border-top-width: 2px; }
.key.dash { border-top-style: dashed; } .key.dot { border-top: 2px dotted var(--dim); }
.key.main { border-top-width: 4px; } .key.dot.main { border-top-width: 2px; }
.shares .key { width: .95rem; height: .95rem; border: 0; border-radius: 3px; background: var(--c); }
.cursor { position: absolute; top: 0; bottom: 0; border-left: 1px solid var(--text); pointer-events: none; }
.mark { position: absolute; width: 9px; height: 9px; margin: 0 0 -4.5px -4.5px; border-radius: 50%;
  background: var(--c); border: 1px solid var(--card); pointer-events: none; }
.tip { position: absolute; top: 0; z-index: 2; width: max-content; max-width: min(22rem, 92%); padding: .4rem .6rem;
  background: var(--card); border: 1px solid var(--dim); border-radius: 6px; font-size: .8rem; line-height: 1.4;
  pointer-events: none; box-shadow: 0 2px 8px rgb(0 0 0 / .18); } [hidden] { display: none !important; }
.tip div { display: flex; gap: .4rem; align-items: center; } .tip .key { width: .9rem; }
.tip span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.tip em { margin-left: auto; padding-left: .5rem; font-style: normal; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
/* On a phone, above the chart instead of over it. */
@media (max-width: 34rem) { .tip { left: -2.6rem !important; right: -.4rem !important; width: auto; max-width: none;
  top: auto; bottom: calc(100% + .4rem); } .plot { padding-left: 3rem; } }
.intervals table { font-size: .93rem; } .intervals th { white-space: normal; overflow-wrap: break-word; }
@media (max-width: 34rem) { .intervals tr { display: grid; grid-template-columns: 1fr auto; }
  .intervals thead { display: none; } .intervals .track { grid-column: 1 / -1; width: auto; }
  .intervals tr > :nth-child(3) { grid-row: 1; grid-column: 2; } }
.track { width: 55%; padding-left: 1rem; padding-right: 1rem; } .track div { position: relative; height: 1.4rem; }
.track i { position: absolute; } .track .bar { top: .6rem; height: .2rem; background: var(--accent); }
.track .dot { top: .35rem; width: .7rem; height: .7rem; margin-left: -.35rem; border-radius: 50%;
  background: var(--accent); } .track .zero { top: -.4rem; bottom: -.4rem; border-left: 1px dashed var(--dim); }
.ticks span { position: absolute; transform: translateX(-50%); font-size: .76rem; color: var(--dim); }
@media (forced-colors: active) { .field, .key, .track { forced-color-adjust: none; } }
@media print { .panels { grid-template-columns: 1fr 1fr; } .field { height: 14rem; } .panels .field { height: 7.5rem; }
  .tip, .cursor, .mark { display: none; } }
"""

SCRIPT = """
/* Show the values under the pointer or finger, or at the cursor that the arrow keys move. */
"use strict";
(() => {
  const show = (value, unit) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const digits = size >= 1000 ? 0 : size >= 10 ? 1 : unit === "%" ? 1 : 3;
    const text = size.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return (value < 0 ? "−" : "") + text + unit;
  };
  const nearest = (x, at) => {
    let low = 0, high = x.length - 1;
    while (high - low > 1) { const mid = (low + high) >> 1; if (x[mid] < at) low = mid; else high = mid; }
    return Math.abs(x[low] - at) <= Math.abs(x[high] - at) ? low : high;
  };
  const add = (parent, tag, kind, text) => {
    const made = document.createElement(tag);
    made.className = kind;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };
  const paint = (element, colours) => {
    if (!colours) { element.classList.add("main"); return; }
    element.style.setProperty("--l", colours[0]);
    element.style.setProperty("--d", colours[1]);
  };
  for (const plot of document.querySelectorAll(".plot")) {
    const data = JSON.parse(plot.querySelector("script").textContent);
    const field = plot.querySelector(".field");
    const grid = [...new Set(data.grids.flat())].sort((a, b) => a - b);
    if (!grid.length) continue;
    const [x0, x1] = data.x;
    const scale = data.log ? Math.log10 : (v) => v;
    const [y0, y1] = data.y.map(scale);
    let place = null, line = null, tip = null, marks = [];
    const build = () => {
      line = add(field, "div", "cursor");
      tip = add(field, "div", "tip");
      tip.setAttribute("role", "status");
      marks = data.stacked ? [] : data.series.map((s) => {
        const mark = add(field, "div", "s mark");
        paint(mark, s.colours);
        return mark;
      });
    };
    const hide = () => {
      place = null;
      if (tip) for (const part of [line, tip, ...marks]) part.hidden = true;
    };
    const move = (to) => {
      if (!tip) build();
      place = Math.max(0, Math.min(grid.length - 1, to));
      const at = grid[place], share = (at - x0) / (x1 - x0);
      line.hidden = tip.hidden = false;
      line.style.left = 100 * share + "%";
      tip.style.left = share < 0.5 ? "calc(" + 100 * share + "% + .6rem)" : "auto";
      tip.style.right = share < 0.5 ? "auto" : "calc(" + 100 * (1 - share) + "% + .6rem)";
      tip.textContent = "";
      add(tip, "strong", "", data.at + (Number.isInteger(at) ? at.toLocaleString("en-US") : show(at, "")));
      data.series.forEach((s, k) => {
        const x = data.grids[s.grid], i = nearest(x, at), value = s.e[i], row = add(tip, "div", "");
        paint(add(row, "i", "s key"), s.colours);
        add(row, "span", "", s.name);
        let text = show(value, data.unit);
        if (s.l && s.l[i] !== null) text += " (" + show(s.l[i], data.unit) + " to " + show(s.h[i], data.unit) + ")";
        add(row, "em", "", text);
        if (!marks.length) return;
        const up = value === null ? -1 : (scale(value) - y0) / (y1 - y0);
        marks[k].hidden = !(up >= 0 && up <= 1);
        marks[k].style.left = 100 * (x[i] - x0) / (x1 - x0) + "%";
        marks[k].style.bottom = 100 * up + "%";
      });
    };
    const point = (event) => {
      const box = field.getBoundingClientRect();
      move(nearest(grid, x0 + (event.clientX - box.left) / box.width * (x1 - x0)));
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const now = place === null ? grid.length : place;
      const far = Math.ceil(grid.length / 10);
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, PageUp: now - far, PageDown: now + far, Home: 0,
        End: grid.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined) return;
      event.preventDefault();
      move(to);
    });
  }
})();
"""
