// The chart of all seeds of some tokens: thin lines, mean, band; zoom, pan, hover, one seed brought forward.
// uPlot does axes, scales, zoom, band and mean; the thin lines are drawn here, from the full data at every zoom,
// two points (minimum and maximum) for each column of pixels.

import { seedColor } from "./colors.js";
import { cssColor } from "./dom.js";
import { drawMarks, drawNames, marksOn } from "./schedule.js";

const HEIGHT = 340;
const NEAR_PX = 24;

export class CurvesChart {
  // onClick(seed or null, index): near a line or not, at this step. onHover({token, row, index} or null).
  // onZoom([from, to] or null): steps.
  constructor(root, { onClick, onHover, onZoom }) {
    Object.assign(this, { root, onClick, onHover, onZoom });
    this.tokens = [];
    this.log = true;
    this.seed = null;
    this.range = null;
    this.front = document.createElement("canvas");
    this.front.className = "front";
    this.stepLine = document.createElement("div");
    this.stepLine.className = "step-line";
    new ResizeObserver(() => {
      if (this.plot && root.clientWidth && root.clientWidth !== this.plot.width) {
        this.plot.setSize({ width: root.clientWidth, height: HEIGHT });
        this.drawFront();
      }
    }).observe(root);
  }

  // tokens: [{label, color (a CSS variable), curves: {seeds, losses, mean, low, high, num_committed}, fits}]
  // index: of the step that is marked. bySeed: lines have the colors of their seeds.
  show(steps, tokens, { log, range, seed, index, bySeed }) {
    Object.assign(this, { steps, tokens, log, seed, index, bySeed, hovered: null });
    this.range = range;
    this.plot?.destroy();
    this.xs = Float64Array.from(steps, (step) => (log ? step + 1 : step));
    const ink = cssColor("--muted");
    const grid = { stroke: cssColor("--grid"), width: 1 };
    const axis = {
      stroke: ink,
      grid,
      ticks: grid,
      font: "11px system-ui",
      labelFont: "12px system-ui",
      labelSize: 18,
      labelGap: 0,
    };
    const series = [{}];
    const data = [this.xs];
    const bands = [];
    tokens.forEach(({ color, curves }) => {
      const stroke = cssColor(color);
      bands.push({ series: [series.length + 1, series.length], fill: stroke + "2b" });
      series.push(
        { stroke: "transparent", points: { show: false } },
        { stroke: "transparent", points: { show: false } },
        { stroke, width: 2.5, points: { show: false } },
      );
      data.push(curves.low, curves.high, curves.mean);
    });
    const options = {
      width: this.root.clientWidth || 600,
      height: HEIGHT,
      legend: { show: false },
      scales: {
        x: { time: false, distr: log ? 3 : 1, range: (_, low, high) => this.clamp(low, high) },
        y: { range: (plot) => this.losses(plot) },
      },
      axes: [
        { ...axis, label: log ? "updates + 1" : "updates", size: 34 },
        { ...axis, label: "loss (nats)", size: 46 },
      ],
      cursor: {
        points: { show: false },
        y: false,
        drag: { x: true, y: false, dist: 4 },
        bind: {
          mousedown: (_, __, handle) => (event) => {
            if (!event.shiftKey) handle(event);
          },
          dblclick: () => () => this.zoomTo(null),
        },
      },
      series,
      bands,
      hooks: {
        drawAxes: [
          (plot) => {
            this.marks = marksOn(plot, (step) => (this.log ? step + 1 : step));
            this.root.dataset.marks = this.marks.length;
            drawMarks(plot, this.marks);
            this.drawLines(plot);
          },
        ],
        setCursor: [(plot) => this.hover(plot)],
        setScale: [
          (_, key) => {
            if (key === "x") this.zoomed();
          },
        ],
        setSelect: [
          () => {
            this.dragged = true;
          },
        ],
        draw: [(plot) => drawNames(plot, this.marks), () => this.drawFront()],
      },
    };
    this.plot = new uPlot(options, data, this.root);
    this.plot.over.append(this.front, this.stepLine);
    this.listen(this.plot.over);
    if (range) this.zoomTo(range);
    this.drawFront();
  }

  // ---- what is in view

  whole() {
    return [this.xs[0], this.xs[this.xs.length - 1]];
  }

  clamp(low, high) {
    const [first, last] = this.whole();
    if (!(high > low)) return [first, last > first ? last : first + 1];
    return [Math.max(first, low), Math.min(last, high)];
  }

  // Loss axis: what the visible part of every curve spans, from 0 unless all is far above it.
  losses(plot) {
    const [first, last] = plot.series[0].idxs;
    let [low, high] = [Infinity, -Infinity];
    for (const {
      curves: { losses, seeds },
    } of this.tokens) {
      for (let row = 0; row < seeds.length; row++) {
        const start = row * this.steps.length;
        for (let at = start + first; at <= start + last; at++) {
          const loss = losses[at];
          if (loss < low) low = loss;
          if (loss > high) high = loss;
        }
      }
    }
    if (!(high >= low)) return [0, 1];
    const margin = 0.04 * (high - low) + 1e-6;
    return [low < 0.5 * high ? Math.min(0, low) : low - margin, high + margin];
  }

  // from, to: steps, or null for all of them
  zoomTo(range) {
    const [low, high] = range ? range.map((step) => (this.log ? step + 1 : step)) : this.whole();
    this.plot.setScale("x", { min: low, max: high });
  }

  zoomed() {
    const { min, max } = this.plot?.scales.x ?? {};
    if (min == null) return;
    const [first, last] = this.whole();
    const all = min <= first && max >= last;
    this.range = all ? null : [min, max].map((x) => Math.max(0, Math.round(this.log ? x - 1 : x)));
    this.onZoom(this.range);
  }

  // factor below 1 zooms in around a place between 0 and 1; shift moves by a share of what is seen
  move(factor, around = 0.5, shift = 0) {
    const there = this.log ? Math.log : (x) => x;
    const back = this.log ? Math.exp : (x) => x;
    const { min, max } = this.plot.scales.x;
    const [first, last] = this.whole().map(there);
    const [low, high] = [there(min), there(max)];
    const span = Math.min((high - low) * factor, last - first);
    let start = low + (high - low - span) * around + shift * span;
    start = Math.max(first, Math.min(last - span, start));
    this.plot.setScale("x", { min: back(start), max: back(start + span) });
  }

  listen(over) {
    over.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.move(event.deltaY > 0 ? 1.25 : 0.8, event.offsetX / over.clientWidth);
      },
      { passive: false },
    );
    over.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (!(event.shiftKey || event.pointerType === "touch")) return;
      let from = event.clientX;
      const pan = (moved) => {
        this.move(1, 0.5, (from - moved.clientX) / over.clientWidth);
        this.dragged ||= moved.clientX !== from;
        from = moved.clientX;
      };
      const done = () => {
        removeEventListener("pointermove", pan);
        removeEventListener("pointerup", done);
      };
      addEventListener("pointermove", pan);
      addEventListener("pointerup", done);
    });
    over.addEventListener("click", () => {
      if (!this.dragged && this.plot.cursor.idx != null) this.onClick(this.hovered?.seed ?? null, this.plot.cursor.idx);
    });
  }

  // ---- lines

  // Runs of steps that share a column of pixels: [first, last + 1, ...], one step on each side beyond the view.
  columns(plot) {
    const [first, last] = plot.series[0].idxs;
    const [from, to] = [Math.max(0, first - 1), Math.min(this.xs.length - 1, last + 1)];
    const runs = [];
    const places = [];
    let column = NaN;
    for (let at = from; at <= to; at++) {
      const place = plot.valToPos(this.xs[at], "x", true);
      if (Math.floor(place) === column) {
        runs[runs.length - 1] = at + 1;
      } else {
        runs.push(at, at + 1);
        places.push(place);
        column = Math.floor(place);
      }
    }
    return { runs, places };
  }

  trace(context, losses, start, { runs, places }, zero, perNat) {
    let down = false;
    const point = (place, loss) => {
      if (down) context.lineTo(place, zero + loss * perNat);
      else context.moveTo(place, zero + loss * perNat);
      down = true;
    };
    for (let run = 0; run < places.length; run++) {
      let lowest = -1,
        highest = -1;
      for (let at = start + runs[2 * run]; at < start + runs[2 * run + 1]; at++) {
        if (Number.isNaN(losses[at])) continue;
        if (lowest < 0 || losses[at] < losses[lowest]) lowest = at;
        if (highest < 0 || losses[at] > losses[highest]) highest = at;
      }
      if (lowest < 0) down = false;
      else if (lowest === highest) point(places[run], losses[lowest]);
      else {
        point(places[run], losses[Math.min(lowest, highest)]);
        point(places[run], losses[Math.max(lowest, highest)]);
      }
    }
  }

  drawLines(plot) {
    const context = plot.ctx;
    const { left, top, width, height } = plot.bbox;
    const zero = plot.valToPos(0, "y", true);
    const perNat = plot.valToPos(1, "y", true) - zero;
    const columns = this.columns(plot);
    let drawn = 0;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.lineWidth = Math.max(1, devicePixelRatio * (this.bySeed ? 1.5 : 0.75));
    context.lineJoin = "bevel";
    for (const { color, curves } of this.tokens) {
      const alpha = this.opacityOf(curves);
      for (let row = 0; row < curves.seeds.length; row++) {
        const running = row >= curves.num_committed;
        context.strokeStyle = this.strokeOf(curves.seeds[row], color);
        context.globalAlpha = running ? 0.9 : alpha;
        context.setLineDash(running ? [5, 3] : []);
        context.beginPath();
        this.trace(context, curves.losses, row * this.steps.length, columns, zero, perNat);
        context.stroke();
        drawn++;
      }
    }
    context.restore();
    this.root.dataset.curves = drawn;
  }

  // ---- the seed brought forward, fits

  hover(plot) {
    const { idx, top, left } = plot.cursor;
    let nearest = null;
    if (idx != null && left >= 0 && top >= 0) {
      let distance = NEAR_PX;
      this.tokens.forEach(({ curves }, token) => {
        for (let row = 0; row < curves.seeds.length; row++) {
          const away = Math.abs(plot.valToPos(curves.losses[row * this.steps.length + idx], "y") - top);
          if (away < distance) {
            distance = away;
            nearest = { token, row, seed: curves.seeds[row] };
          }
        }
      });
    }
    const changed = nearest?.seed !== this.hovered?.seed || nearest?.token !== this.hovered?.token;
    this.hovered = nearest;
    this.onHover(idx == null || left < 0 ? null : { ...(nearest ?? {}), index: idx });
    if (changed) this.drawFront();
  }

  strokeOf(seed, color) {
    return this.bySeed ? seedColor(seed) : cssColor(color);
  }

  // Many lines are drawn thinly, so that what they have in common is seen.
  opacityOf({ seeds }) {
    return Math.max(0.1, Math.min(0.7, (this.bySeed ? 40 : 14) / seeds.length));
  }

  markStep(index) {
    this.index = index;
    if (this.plot) this.placeStep();
  }

  bringForward(seed) {
    this.seed = seed;
    this.drawFront();
  }

  drawFront() {
    const { plot, front } = this;
    if (!plot) return;
    const { left, top, width, height } = plot.bbox;
    Object.assign(front, { width, height });
    Object.assign(front.style, { width: `${width / devicePixelRatio}px`, height: `${height / devicePixelRatio}px` });
    const context = front.getContext("2d");
    context.translate(-left, -top);
    context.lineJoin = "round";
    const columns = this.columns(plot);
    const zero = plot.valToPos(0, "y", true);
    const perNat = plot.valToPos(1, "y", true) - zero;
    const forward = this.hovered?.seed ?? this.seed;
    this.placeStep();
    for (const { color, curves, fits } of this.tokens) {
      const row = forward == null ? -1 : curves.seeds.indexOf(forward);
      if (fits) this.drawFits(context, curves, fits, row, columns, zero, perNat);
      if (row < 0) continue;
      for (const [style, thick] of [
        [cssColor("--paper"), 5],
        [this.bySeed ? seedColor(forward) : cssColor("--ink"), 2.2],
      ]) {
        context.strokeStyle = style;
        context.lineWidth = thick * devicePixelRatio;
        context.setLineDash([]);
        context.beginPath();
        this.trace(context, curves.losses, row * this.steps.length, columns, zero, perNat);
        context.stroke();
      }
      if (fits) this.drawFit(context, fits, row, columns, zero, perNat, 1, 2.5);
    }
    this.root.dataset.forward = forward ?? "";
  }

  // The line at the step that the text shows.
  placeStep() {
    if (this.index == null) return;
    const place = this.plot.valToPos(this.xs[this.index], "x");
    this.stepLine.style.left = `${place}px`;
    this.stepLine.hidden = !(place >= 0 && place <= this.plot.over.clientWidth);
    this.root.dataset.step = this.steps[this.index];
  }

  // A mark at the foot of the chart for the learning time of each seed with a drop, and the fits as faint lines.
  drawFits(context, curves, fits, forward, columns, zero, perNat) {
    const foot = this.plot.bbox.top + this.plot.bbox.height;
    const rows = fits.time.length;
    context.strokeStyle = cssColor("--fit");
    for (let row = 0; row < rows; row++) {
      if (!fits.is_drop[row]) continue;
      const place = this.plot.valToPos(this.log ? fits.time[row] + 1 : fits.time[row], "x", true);
      context.globalAlpha = Math.max(0.25, Math.min(1, 40 / rows));
      context.lineWidth = devicePixelRatio;
      context.setLineDash([]);
      context.beginPath();
      context.moveTo(place, foot);
      context.lineTo(place, foot - 12 * devicePixelRatio);
      context.stroke();
      if (forward < 0)
        this.drawFit(context, fits, row, columns, zero, perNat, Math.max(0.08, Math.min(0.8, 6 / rows)), 1);
    }
    context.globalAlpha = 1;
    this.root.dataset.fits = rows;
  }

  drawFit(context, fits, row, columns, zero, perNat, alpha, thick) {
    if (row >= fits.time.length) return;
    context.strokeStyle = cssColor("--fit");
    context.globalAlpha = alpha;
    context.lineWidth = thick * devicePixelRatio;
    context.setLineDash([]);
    context.beginPath();
    this.trace(context, fits.fitted, row * this.steps.length, columns, zero, perNat);
    context.stroke();
    context.globalAlpha = 1;
  }
}
