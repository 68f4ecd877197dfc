// counts between edges -> a bar chart as SVG with both axes; optionally a line, what chance gives, and marks. The bar
// under the pointer, or chosen by the arrow keys, is read out below.

import { element, number } from "./dom.js";

const HEIGHT = 190;
const MARGIN = { left: 46, right: 10, top: 24, bottom: 34 };
const NAME_ROWS = 3;
const NAME_PX = 13;
const LETTER_PX = 6.6;

// edges: one more than counts. ticks: [{at, label}] in the edges' unit. line: [{at, value}] in the counts' unit.
// chance: {low, high}, one per bar. marks: [{at, label}]. most: what the full height stands for. title(bin): what a bar
// says; axis, unit: what the two axes are; least: what two ticks of the counts are apart at least.
export function drawBars(root, given) {
  const { edges, counts, ticks, title, axis, unit, line, chance, marks = [], least = 0 } = given;
  const { most = Math.max(...counts, 1e-12) } = given;
  const names = marks.length ? NAME_ROWS * NAME_PX : 0;
  const height = HEIGHT + names;
  const top = MARGIN.top + names;
  const width = Math.max(260, root.clientWidth || 640); // drawn at its size on the screen, so that words keep theirs
  const inner = width - MARGIN.left - MARGIN.right;
  const base = height - MARGIN.bottom;
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const x = (value) => MARGIN.left + ((value - low) / (high - low || 1)) * inner;
  const y = (value) => base - (Math.min(Math.max(0, value), most) / most) * (base - top);
  const bars = counts.map((amount, bin) =>
    element(
      "rect",
      {
        x: x(edges[bin]) + 0.5,
        width: Math.max(0.5, x(edges[bin + 1]) - x(edges[bin]) - 1),
        y: y(amount),
        height: base - y(amount),
        class: "bar",
      },
      element("title", {}, title(bin)),
    ),
  );
  const parts = [element("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: base, y2: base, class: "axis" })];
  const grid = roundTicks(most, least).map((at) =>
    element(
      "g",
      {},
      element("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(at), y2: y(at), class: "grid" }),
      element("text", { x: MARGIN.left - 5, y: y(at) + 4, class: "tick-y" }, number(at, 2)),
    ),
  );
  parts.push(element("text", { x: 2, y: top - 12, class: "tick-start" }, unit));
  for (const { at, label } of ticks) {
    parts.push(element("text", { x: x(at), y: base + 14, class: "tick" }, label));
  }
  parts.push(element("text", { x: MARGIN.left + inner / 2, y: height - 4, class: "tick" }, axis));
  if (chance) {
    const middle = (bin) => (x(edges[bin]) + x(edges[bin + 1])) / 2;
    counts.forEach((_, bin) => {
      const [from, to] = [y(chance.low[bin]), y(chance.high[bin])];
      const half = Math.min(5, (x(edges[bin + 1]) - x(edges[bin])) / 3);
      const d = `M${middle(bin)} ${from}V${to}M${middle(bin) - half} ${to}h${2 * half}M${middle(bin) - half} ${from}h${2 * half}`;
      parts.push(element("path", { d, class: "chance" }));
    });
  }
  if (line?.length) {
    const path = line.map(({ at, value }, index) => `${index ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
    parts.push(element("path", { d: path.join(""), class: "over" }));
  }
  parts.push(...drawMarks(marks, x, base, width));
  const svg = element(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      tabindex: 0,
      "aria-label": `${unit}, by ${axis}; arrow keys read out the bars`,
    },
    ...grid,
    ...bars,
    ...parts,
  );
  const readout = element("p", { class: "readout", role: "status" });
  readBars(svg, bars, (bin) => {
    bars.forEach((bar, at) => bar.classList.toggle("read", at === bin));
    readout.textContent = bin === null ? "" : title(bin);
  });
  root.replaceChildren(svg, readout);
}

// A dashed line with its name above, in the first row where it does not run into another; without where there is none.
function drawMarks(marks, x, base, width) {
  const free = new Array(NAME_ROWS).fill(MARGIN.left + 70);
  return marks.flatMap(({ at, label }) => {
    const place = x(at);
    const line = element("line", { x1: place, x2: place, y1: MARGIN.top, y2: base, class: "schedule" });
    const start = Math.min(place - 3, width - LETTER_PX * label.length);
    const row = free.findIndex((end) => end <= start);
    if (row < 0) return [line];
    free[row] = start + LETTER_PX * label.length + 6;
    line.setAttribute("y1", (row + 1) * NAME_PX + 3);
    return [line, element("text", { x: start, y: (row + 1) * NAME_PX, class: "tick-start" }, label)];
  });
}

// read(bin or null), by pointer and by keys
function readBars(svg, bars, read) {
  let now = null;
  const to = (bin) => read((now = bin));
  svg.addEventListener("pointermove", (event) => {
    const place = event.clientX;
    const bin = bars.findIndex((bar) => {
      const { left, right } = bar.getBoundingClientRect();
      return place >= left - 1 && place <= right + 1;
    });
    to(bin < 0 ? null : bin);
  });
  svg.addEventListener("pointerleave", () => to(null));
  svg.addEventListener("blur", () => to(null));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    to(Math.max(0, Math.min(bars.length - 1, (now ?? (by > 0 ? -1 : bars.length)) + by)));
  });
}

// Round values from 0 to `top`, about five of them, at least `least` apart.
export function roundTicks(top, least = 0) {
  const rough = Math.max(top / 5, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) * power;
  return Array.from({ length: Math.floor(top / unit + 1e-9) + 1 }, (_, index) => index * unit);
}
