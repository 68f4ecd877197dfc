// counts between edges -> a bar chart as SVG, with an axis; optionally a line over it.

import { element } from "./dom.js";

const HEIGHT = 150;
const MARGIN = { left: 8, right: 8, top: 10, bottom: 30 };

// edges: one more than counts. ticks: [{at, label}] in the edges' unit. line: [{at, value}] in the counts' unit.
// most: what the full height stands for.
export function drawBars(root, { edges, counts, ticks, title, axis, line, most = Math.max(...counts, 1e-12) }) {
  const width = Math.max(260, root.clientWidth || 640); // drawn at its size on the screen, so that words keep theirs
  const inner = width - MARGIN.left - MARGIN.right;
  const base = HEIGHT - MARGIN.bottom;
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const x = (value) => MARGIN.left + ((value - low) / (high - low || 1)) * inner;
  const y = (share) => base - share * (base - MARGIN.top);
  const bars = counts.map((amount, bin) =>
    element(
      "rect",
      {
        x: x(edges[bin]) + 0.5,
        width: Math.max(0.5, x(edges[bin + 1]) - x(edges[bin]) - 1),
        y: y(amount / most),
        height: base - y(amount / most),
        class: "bar",
      },
      element("title", {}, title(bin)),
    ),
  );
  const parts = [element("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: base, y2: base, class: "axis" })];
  for (const { at, label } of ticks) {
    parts.push(element("text", { x: x(at), y: base + 13, class: "tick" }, label));
  }
  parts.push(element("text", { x: width / 2, y: HEIGHT - 3, class: "tick" }, axis));
  if (line?.length) {
    const path = line.map(
      ({ at, value }, index) => `${index ? "L" : "M"}${x(at).toFixed(1)} ${y(Math.max(0, value) / most).toFixed(1)}`,
    );
    parts.push(element("path", { d: path.join(""), class: "over" }));
  }
  root.replaceChildren(
    element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": axis }, ...bars, ...parts),
  );
}

// Round values from 0 to `top`, about five of them.
export function roundTicks(top) {
  const rough = top / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  return Array.from({ length: Math.floor(top / unit) + 1 }, (_, index) => index * unit);
}
