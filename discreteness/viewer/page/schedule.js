// Where the schedule changes: changes that are near each other as one mark, on the curves and in words.

import { count, cssColor } from "./dom.js";
import { getJson } from "./api.js";
import { ask } from "./notices.js";
import { page } from "./shown.js";

const NEAR_OCTAVES = 0.12;
const NAME_ROWS = 3;

export async function loadSchedule() {
  const found = await ask("schedule", () => getJson("/api/schedule"));
  if (found) page.changes = found.changes;
}

// [{step, label}]: the first step of changes that are close together, and all their names.
export function marks() {
  const found = [];
  for (const { step, what } of page.changes) {
    const last = found.at(-1);
    if (last && Math.log2((step + 1) / (last.step + 1)) < NEAR_OCTAVES) {
      if (!last.names.includes(what)) last.names.push(what);
    } else found.push({ step, names: [what] });
  }
  return found.map(({ step, names }) => ({ step, label: names.join(", ") }));
}

// "batch at 115 and 229, cooldown from 173 on"
export function scheduleInWords() {
  const steps = new Map();
  for (const { step, what } of page.changes) steps.set(what, [...(steps.get(what) ?? []), count(step)]);
  const listed = (some) => (some.length > 1 ? `${some.slice(0, -1).join(", ")} and ${some.at(-1)}` : some[0]);
  return Array.from(steps, ([what, some]) =>
    what === "cooldown" ? `cooldown from ${some.at(-1)} on` : `${what} at ${listed(some)}`,
  ).join(", ");
}

// The marks in view of a chart of uPlot: [{x, label}], x in pixels of its canvas. placeOf(step): on the chart's own axis.
export function marksOn(plot, placeOf) {
  const { left, width } = plot.bbox;
  return marks()
    .map(({ step, label }) => ({ x: plot.valToPos(placeOf(step), "x", true), label }))
    .filter(({ x }) => x >= left && x <= left + width);
}

// Dashed lines, below the curves.
export function drawMarks(plot, seen) {
  const { top, height } = plot.bbox;
  const context = plot.ctx;
  context.save();
  context.strokeStyle = cssColor("--muted");
  context.lineWidth = devicePixelRatio;
  context.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const { x } of seen) {
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
  }
  context.restore();
}

// Their names, above the curves: each in the first row where it does not run into another, on a ground of its own.
export function drawNames(plot, seen) {
  const { left, top, width } = plot.bbox;
  const context = plot.ctx;
  const pixel = devicePixelRatio;
  context.save();
  const free = new Array(NAME_ROWS).fill(left);
  Object.assign(context, { textAlign: "left", textBaseline: "alphabetic", font: `${11 * pixel}px system-ui` });
  Object.assign(context, { fillStyle: cssColor("--muted"), strokeStyle: cssColor("--paper"), lineWidth: 4 * pixel });
  context.setLineDash([]);
  for (const { x, label } of seen) {
    const long = context.measureText(label).width;
    const start = Math.min(x + 4 * pixel, left + width - long - 2 * pixel);
    const row = free.findIndex((end) => end <= start);
    if (row < 0) continue;
    const base = top + (11 + 13 * row) * pixel;
    context.strokeText(label, start, base);
    context.fillText(label, start, base);
    free[row] = start + long + 4 * pixel;
  }
  context.restore();
}
