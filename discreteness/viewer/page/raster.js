// The raster of a document: a row per token, its loss over training as colors, the time of its drop as a mark.

import { getFrame, getJson } from "./api.js";
import { isDark, scaleOf } from "./colors.js";
import { byId, count, element, number } from "./dom.js";
import { ask } from "./notices.js";
import { page, remember, shown } from "./shown.js";
import { visibleText } from "./text.js";

const ROW_PX = 14;
const KEY_PX = 12; // by which an arrow key moves

export class Raster {
  // onOpen(token or null, index of a step)
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.canvas = byId("raster-canvas");
    this.at = { row: 0, column: 0 };
    new ResizeObserver(() => {
      if (this.canvas.clientWidth && this.canvas.clientWidth !== this.canvas.width) this.draw();
    }).observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.read(this.placeOf(event)));
    this.canvas.addEventListener("click", (event) => this.open(this.placeOf(event)));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    byId("raster-order").addEventListener("change", (event) => {
      shown.order = event.target.value;
      remember();
      this.draw();
    });
  }

  async load() {
    const { document, seed } = shown;
    const path = `/api/documents/${document.doc_id}`;
    const found = await ask("raster", async () => {
      const { tokens } = document.doc_id === this.document?.doc_id ? this : await getTokens(document);
      const { losses, mean } = await getFrame(seed === null ? `${path}/summary` : `${path}/seeds/${seed}`);
      const { time, num_seeds } = await getFrame(`${path}/drops`);
      return { tokens, losses: losses ?? mean, times: time ?? null, num_seeds };
    });
    if (!found || shown.document !== document || shown.seed !== seed) return;
    Object.assign(this, { document, seed }, found);
    this.draw();
  }

  draw() {
    if (!this.losses) return;
    const { steps } = page.dataset;
    const { losses, times } = this;
    byId("raster-order").value = shown.order;
    this.rows = Array.from({ length: losses.length / steps.length }, (_, row) => row);
    const last = (row) => (Number.isFinite(times?.[row]) ? times[row] : Infinity);
    if (shown.order === "time") this.rows.sort((a, b) => last(a) - last(b) || a - b);
    const finite = losses.filter(Number.isFinite);
    this.scale = scaleOf("loss", 0, finite.length ? finite.reduce((a, b) => Math.max(a, b)) : 1);
    this.span = Math.log1p(steps.at(-1)) || 1;
    // Columns are equal parts of log(step + 1), one per pixel of the screen.
    this.width = Math.max(50, this.canvas.clientWidth);
    this.columns = Array.from({ length: this.width }, (_, x) => this.indexAt(x));
    this.paint();
    this.label();
    this.sayHint();
    this.drawLegend();
    this.read(null);
  }

  // The last checkpoint before a column.
  indexAt(column) {
    const { steps } = page.dataset;
    const wanted = Math.expm1((column / (this.width - 1)) * this.span) + 1e-9;
    let index = 0;
    while (index + 1 < steps.length && steps[index + 1] <= wanted) index++;
    return index;
  }

  paint() {
    const { canvas, rows, columns, losses, scale, width } = this;
    const steps = page.dataset.steps.length;
    Object.assign(canvas, { width, height: rows.length * ROW_PX });
    canvas.style.height = `${rows.length * ROW_PX}px`;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, rows.length * ROW_PX);
    rows.forEach((token, row) => {
      const start = row * ROW_PX * width * 4;
      columns.forEach((index, x) => {
        const shade = scale.shade(losses[token * steps + index]);
        if (shade) image.data.set([...shade.rgb, 255], start + x * 4);
      });
      // A row is the same from top to bottom, but for a line of paper that parts it from the next.
      const line = image.data.subarray(start, start + width * 4);
      for (let y = 1; y < ROW_PX - 1; y++) image.data.set(line, start + y * width * 4);
    });
    context.putImageData(image, 0, 0);
    this.markDrops(context);
  }

  markDrops(context) {
    let marked = 0;
    this.rows.forEach((token, row) => {
      const time = this.times?.[token];
      if (!Number.isFinite(time)) return;
      const x = (Math.log1p(time) / this.span) * (this.width - 1);
      context.fillStyle = isDark() ? "#000" : "#fff";
      context.fillRect(x - 2, row * ROW_PX, 4, ROW_PX - 1);
      context.fillStyle = isDark() ? "#fff" : "#000";
      context.fillRect(x - 1, row * ROW_PX, 2, ROW_PX - 1);
      marked++;
    });
    byId("raster").dataset.marked = marked;
  }

  label() {
    byId("raster-names").replaceChildren(
      ...this.rows.map((token) =>
        element("li", { title: `token ${token + 1}` }, visibleText(this.tokens[token + 1])),
      ),
    );
    const powers = [0, 1, 10, 100, 1000, 10000].filter((step) => step <= page.dataset.steps.at(-1));
    byId("raster-steps").replaceChildren(
      ...powers.map((step) => {
        const tick = element("span", {}, count(step));
        tick.style.left = `${(100 * Math.log1p(step)) / this.span}%`;
        return tick;
      }),
    );
  }

  sayHint() {
    const { seed, times, num_seeds, rows } = this;
    const losses = seed === null ? "their mean loss over all seeds" : `their loss in seed ${seed}`;
    const learned = times?.filter(Number.isFinite).length ?? 0;
    const marks = times
      ? `The mark is the median time of a token's drop over ${count(num_seeds)} seed${num_seeds === 1 ? "" : "s"}: ${count(learned)} tokens have one.`
      : "Times of drops are not known yet.";
    byId("raster-hint").textContent =
      `${count(rows.length)} tokens, ${losses}. ${marks} A click opens the token.`;
  }

  drawLegend() {
    const { low, high, shades } = this.scale;
    const bar = element("canvas", { width: shades.length, height: 1 });
    const context = bar.getContext("2d");
    shades.forEach(({ css }, x) => {
      context.fillStyle = css;
      context.fillRect(x, 0, 1, 1);
    });
    byId("raster-legend").replaceChildren(number(low), bar, `${number(high)} nats`);
  }

  placeOf(event) {
    return {
      row: Math.max(0, Math.min(this.rows.length - 1, Math.floor(event.offsetY / ROW_PX))),
      column: Math.max(0, Math.min(this.width - 1, Math.round((event.offsetX / this.canvas.clientWidth) * (this.width - 1)))),
    };
  }

  read(at) {
    if (at) this.at = at;
    const { row, column } = this.at;
    const token = this.rows[Math.min(row, this.rows.length - 1)];
    const index = this.columns[Math.min(column, this.width - 1)];
    const time = this.times?.[token];
    byId("raster-readout").textContent = [
      `token ${token + 1} ${visibleText(this.tokens[token + 1])}`,
      `step ${count(page.dataset.steps[index])}`,
      `${number(this.losses[token * page.dataset.steps.length + index])} nats`,
      Number.isFinite(time) ? `drop at ${number(time)}` : "no drop",
    ].join(" · ");
  }

  open({ row, column }) {
    this.onOpen(this.rows[row] + 1, this.columns[column]);
  }

  onKey(event) {
    const moves = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, KEY_PX], ArrowLeft: [0, -KEY_PX] };
    if (event.key === "Enter") return this.open(this.at);
    if (!moves[event.key]) return;
    event.preventDefault();
    const [down, right] = moves[event.key];
    const within = (value, most) => Math.max(0, Math.min(most, value));
    this.read({
      row: within(this.at.row + down, this.rows.length - 1),
      column: within(this.at.column + right, this.width - 1),
    });
  }
}

const getTokens = async (document) => getJson(`/api/documents/${document.doc_id}/tokens`);
