// The map of all documents over training: mean losses as colors, read off by pointer and by keys, with axis and scale.

import { placeOf, stepTicks } from "./axis.js";
import { scaleOf } from "./colors.js";
import { byId, count, element, number } from "./dom.js";
import { page } from "./shown.js";

const ROW_PX = 18;
const HEAT_PX = 900;
const AXIS_PX = 34;

export class HeatMap {
  // onOpen(document, step or null)
  constructor(onOpen) {
    this.onOpen = onOpen;
    const { documents, steps } = page.dataset;
    this.steps = steps;
    this.columns = Array.from({ length: HEAT_PX }, (_, x) => this.indexAt(x / (HEAT_PX - 1)));
    this.canvas = element("canvas", {
      width: HEAT_PX,
      height: documents.length,
      tabindex: 0,
      role: "img",
      "aria-label": "mean loss of each document at each step; arrow keys read it out, Enter opens the document",
    });
    this.canvas.style.height = `${documents.length * ROW_PX}px`;
    this.cursor = element("div", { class: "cursor", hidden: true });
    this.axis = element("div", { class: "heat-axis" });
    this.scaleKey = element("p", { class: "scale" });
    this.readout = element("p", { class: "readout", role: "status" });
    const names = documents.map((document) =>
      element(
        "button",
        { type: "button", title: document.name, onclick: () => this.onOpen(document, null) },
        document.name,
      ),
    );
    const map = element("div", { class: "map" }, this.canvas, this.cursor);
    byId("heatmap").replaceChildren(
      element("div", { class: "rows" }, element("div", { class: "names" }, ...names), map),
      this.axis,
      element("div", { class: "below" }, this.scaleKey, this.readout),
    );
    this.listen();
  }

  // The last checkpoint before a place between 0 and 1 of log(step + 1).
  indexAt(share) {
    const wanted = Math.expm1(share * (Math.log1p(this.steps.at(-1)) || 1)) + 1e-9;
    let index = 0;
    while (index + 1 < this.steps.length && this.steps[index + 1] <= wanted) index++;
    return index;
  }

  draw({ heat, num_mean_seeds }) {
    const { documents } = page.dataset;
    const { steps, canvas } = this;
    this.heat = heat;
    const first = num_mean_seeds < page.state.committed.length ? "the first " : "";
    byId("heat-hint").textContent = num_mean_seeds
      ? `Mean loss of ${first}${count(num_mean_seeds)} seed${num_mean_seeds === 1 ? "" : "s"}; a click opens the document at that step.`
      : "No seeds yet.";
    let most = -Infinity;
    for (const value of heat) if (value > most) most = value;
    this.measured = most > -Infinity;
    this.scale = scaleOf("loss", 0, this.measured ? most : 1);
    const context = canvas.getContext("2d");
    const image = context.createImageData(HEAT_PX, documents.length);
    documents.forEach((_, row) =>
      this.columns.forEach((index, x) => {
        const shade = this.scale.shade(heat[row * steps.length + index]);
        image.data.set(shade ? [...shade.rgb, 255] : [0, 0, 0, 0], (row * HEAT_PX + x) * 4);
      }),
    );
    context.putImageData(image, 0, 0);
    this.drawAxis();
    this.drawScale();
    this.read(this.at ?? null);
  }

  drawAxis() {
    const last = this.steps.at(-1);
    const box = byId("heatmap").getBoundingClientRect();
    const { left, width } = this.canvas.getBoundingClientRect();
    const ticks = stepTicks(last, Math.max(width, 100));
    const [start, whole] = [left - box.left, Math.max(box.width, 1)];
    const parts = ticks.flatMap(({ place, label }) => {
      const x = start + place * width;
      return [
        element("line", { x1: x, x2: x, y1: 0, y2: 4, class: "axis" }),
        element(
          "text",
          { x, y: 15, class: ["tick-start", "tick", "tick-end"][place === 0 ? 0 : place === 1 ? 2 : 1] },
          label,
        ),
      ];
    });
    for (const { step } of page.changes) {
      const x = start + placeOf(step, last) * width;
      parts.push(element("path", { d: `M${x} 0l-4 7h8z`, class: "schedule-mark" }));
    }
    parts.push(element("text", { x: start + width / 2, y: 30, class: "tick" }, "step (logarithmic)"));
    this.axis.replaceChildren(element("svg", { viewBox: `0 0 ${whole} ${AXIS_PX}`, "aria-hidden": "true" }, ...parts));
  }

  drawScale() {
    const bar = element("span", { class: "color-bar" });
    bar.style.background = `linear-gradient(to right, ${this.scale.shades.map(({ css }) => css).join()})`;
    this.pointer = element("span", { class: "pointer", hidden: true });
    bar.append(this.pointer);
    this.scaleKey.replaceChildren(...(this.measured ? ["0", bar, `${number(this.scale.high)} nats`] : []));
    if (this.heat.some(Number.isNaN)) this.scaleKey.append(element("span", { class: "swatch" }), "not measured");
  }

  // ---- reading off

  // at: {row, index} or null
  read(at) {
    const { documents } = page.dataset;
    const { steps, canvas, cursor, heat } = this;
    this.at = at;
    cursor.hidden = this.pointer.hidden = !at;
    if (!at) {
      const color = this.measured ? `; color: 0 to ${number(this.scale.high)} nats` : "";
      this.readout.textContent = `step 0 to ${count(steps.at(-1))}, logarithmic${color}`;
      return;
    }
    const { row, index } = at;
    const loss = heat[row * steps.length + index];
    this.readout.textContent = `${documents[row].name} · step ${count(steps[index])} · ${Number.isFinite(loss) ? `${number(loss)} nats` : "not measured"}`;
    const [from, to] = [index, Math.min(index + 1, steps.length - 1)].map(
      (one) => placeOf(steps[one], steps.at(-1)) * canvas.clientWidth,
    );
    cursor.style.left = `${Math.min(from, canvas.clientWidth - 4)}px`;
    cursor.style.width = `${Math.max(4, to - from)}px`;
    cursor.style.top = `${row * ROW_PX}px`;
    this.pointer.hidden = !Number.isFinite(loss);
    this.pointer.style.left = `${(100 * loss) / this.scale.high}%`;
  }

  listen() {
    const { canvas } = this;
    const { documents } = page.dataset;
    const place = (event) => ({
      row: Math.max(0, Math.min(documents.length - 1, Math.floor(event.offsetY / ROW_PX))),
      index: this.indexAt(Math.max(0, Math.min(1, event.offsetX / canvas.clientWidth))),
    });
    const open = ({ row, index }) => this.onOpen(documents[row], this.steps[index]);
    canvas.addEventListener("pointermove", (event) => this.heat && this.read(place(event)));
    canvas.addEventListener("pointerleave", () => this.heat && this.read(null));
    canvas.addEventListener("blur", () => this.heat && this.read(null));
    canvas.addEventListener("click", (event) => open(place(event)));
    canvas.addEventListener("keydown", (event) => {
      const now = this.at ?? { row: 0, index: this.steps.length - 1 };
      const keys = {
        ArrowUp: { row: now.row - 1 },
        ArrowDown: { row: now.row + 1 },
        ArrowLeft: { index: now.index - 1 },
        ArrowRight: { index: now.index + 1 },
        Home: { index: 0 },
        End: { index: this.steps.length - 1 },
      };
      if (!this.heat || (!keys[event.key] && event.key !== "Enter")) return;
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Enter") return open(now);
      const next = this.at ? { ...now, ...keys[event.key] } : now;
      this.read({
        row: Math.max(0, Math.min(documents.length - 1, next.row)),
        index: Math.max(0, Math.min(this.steps.length - 1, next.index)),
      });
      this.cursor.scrollIntoView({ block: "nearest" });
    });
  }
}
