// Where the schedule changes: changes that are near each other as one mark, on the curves and in words.

import { count, cssColor } from "./dom.js";
import { getJson } from "./api.js";
import { ask } from "./notices.js";
import { page } from "./shown.js";

const NEAR_OCTAVES = 0.12;
const LETTER_PX = 6.6;
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

// Dashed lines on a chart of uPlot, with names at the top where there is room.
export function drawMarks(plot, placeOf) {
  const context = plot.ctx;
  const { left, top, width, height } = plot.bbox;
  const pixel = devicePixelRatio;
  context.save();
  context.strokeStyle = context.fillStyle = cssColor("--muted");
  context.lineWidth = pixel;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.font = `${11 * pixel}px system-ui`;
  const free = new Array(NAME_ROWS).fill(left);
  let drawn = 0;
  for (const { step, label } of marks()) {
    const x = plot.valToPos(placeOf(step), "x", true);
    if (x < left || x > left + width) continue;
    context.setLineDash([2 * pixel, 3 * pixel]);
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
    drawn++;
    const long = LETTER_PX * label.length * pixel;
    const start = Math.min(x + 3 * pixel, left + width - long);
    const row = free.findIndex((end) => end <= start);
    if (row < 0) continue;
    context.fillText(label, start, top + (11 + 13 * row) * pixel);
    free[row] = start + long + 4 * pixel;
  }
  context.restore();
  return drawn;
}
