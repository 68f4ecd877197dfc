// the chart of curves as it stands -> an SVG with title, axes and legend, and a PNG of it at twice the size.

import { roundTicks } from "./bars.js";
import { seedColor } from "./colors.js";
import { cssColor, element, number } from "./dom.js";

const MARGIN = { left: 52, right: 16, bottom: 44 };
const TITLE_PX = 30;
const ROW_PX = 18;
const PNG_SCALE = 2;
const MOST_SEEDS = 8; // that have a row of their own in the legend
const FONT = { "font-family": "system-ui, sans-serif", "font-size": 12 };

// entries: [{label, color (a CSS variable)}], one per token of the chart. Returns {text, width, height}.
export function chartSvg(chart, { title, entries }) {
  const { plot } = chart;
  const frame = frameOf(plot);
  const legend = legendOf(chart, entries);
  const top = TITLE_PX + legend.length * ROW_PX + 8;
  const [width, height] = [MARGIN.left + frame.width + MARGIN.right, top + frame.height + MARGIN.bottom];
  const svg = element(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`, ...FONT },
    element("title", {}, title),
    element("rect", { width, height, fill: cssColor("--paper") }),
    words(title, { x: 12, y: 20, "font-size": 14, "font-weight": 600, fill: cssColor("--ink") }),
    ...legend.flatMap((entry, row) => legendRow(entry, TITLE_PX + row * ROW_PX + 9)),
    element("g", { transform: `translate(${MARGIN.left} ${top})` }, ...axes(chart, frame), drawing(chart, frame)),
  );
  return { text: new XMLSerializer().serializeToString(svg), width, height };
}

export async function pngOf({ text, width, height }) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = element("canvas", { width: width * PNG_SCALE, height: height * PNG_SCALE });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

const words = (text, attributes) => element("text", attributes, text);

// The plot's inner part in CSS pixels, and where values are in it.
function frameOf(plot) {
  const { width, height, left, top } = plot.bbox;
  const ratio = devicePixelRatio;
  return {
    left,
    top,
    width: Math.round(width / ratio),
    height: Math.round(height / ratio),
    x: (value) => (plot.valToPos(value, "x", true) - left) / ratio,
    y: (value) => (plot.valToPos(value, "y", true) - top) / ratio,
  };
}

function legendOf(chart, entries) {
  const rows = entries.map(({ label, color }) => ({ label, stroke: cssColor(color), band: true }));
  if (chart.tokens.some(({ fits }) => fits)) {
    rows.push({ label: "fits; marks at the bottom: times of drops", stroke: cssColor("--fit") });
  }
  const seeds = chart.tokens[0].curves.seeds;
  if (chart.bySeed && seeds.length <= MOST_SEEDS) {
    rows.push(...Array.from(seeds, (seed) => ({ label: `seed ${seed}`, stroke: seedColor(seed) })));
  } else if (chart.bySeed) rows.push({ label: "a color per seed", stroke: seedColor(seeds[0]) });
  else if (chart.seed !== null) rows.push({ label: `seed ${chart.seed}`, stroke: cssColor("--ink") });
  return rows;
}

function legendRow({ label, stroke, band }, y) {
  const swatch = [element("line", { x1: 12, x2: 40, y1: y, y2: y, stroke, "stroke-width": 2.5 })];
  if (band) swatch.unshift(element("rect", { x: 12, y: y - 6, width: 28, height: 12, fill: stroke, opacity: 0.17 }));
  return [...swatch, words(label, { x: 48, y: y + 4, fill: cssColor("--ink") })];
}

// Steps of a logarithmic axis: 1, 2 and 5 times powers of ten, of the powers alone where these are many.
function stepTicks(chart, low, high) {
  const shift = chart.log ? 1 : 0;
  if (!chart.log) return roundTicks(high).filter((tick) => tick >= low);
  const decades = Array.from({ length: 8 }, (_, power) => 10 ** power);
  const factors = high / low > 1e3 ? [1] : [1, 2, 5];
  return decades.flatMap((power) => factors.map((factor) => factor * power)).filter((tick) => tick >= low && tick <= high + shift);
}

function axes(chart, { width, height, x, y }) {
  const { scales } = chart.plot;
  const [grid, muted] = [cssColor("--grid"), cssColor("--muted")];
  const parts = [];
  for (const tick of stepTicks(chart, scales.x.min, scales.x.max)) {
    parts.push(element("line", { x1: x(tick), x2: x(tick), y1: 0, y2: height, stroke: grid }));
    parts.push(words(number(tick, 4), { x: x(tick), y: height + 16, fill: muted, "text-anchor": "middle" }));
  }
  for (const tick of roundTicks(scales.y.max).filter((tick) => tick >= scales.y.min)) {
    parts.push(element("line", { x1: 0, x2: width, y1: y(tick), y2: y(tick), stroke: grid }));
    parts.push(words(number(tick), { x: -7, y: y(tick) + 4, fill: muted, "text-anchor": "end", "data-part": "loss" }));
  }
  const middle = { fill: muted, "text-anchor": "middle" };
  parts.push(words(chart.log ? "updates + 1" : "updates", { x: width / 2, y: height + 36, ...middle }));
  const turned = `translate(${14 - MARGIN.left} ${height / 2}) rotate(-90)`;
  parts.push(words("loss (nats)", { transform: turned, ...middle }));
  parts.push(element("rect", { width, height, fill: "none", stroke: grid }));
  return parts;
}

// What writes down a path, where the chart would draw one; canvas pixels become those of the frame.
class Pen {
  constructor({ left, top }) {
    Object.assign(this, { left, top, d: "" });
  }
  at(x, y) {
    return `${((x - this.left) / devicePixelRatio).toFixed(2)} ${((y - this.top) / devicePixelRatio).toFixed(2)}`;
  }
  moveTo(x, y) {
    this.d += `M${this.at(x, y)}`;
  }
  lineTo(x, y) {
    this.d += `L${this.at(x, y)}`;
  }
}

function drawing(chart, frame) {
  const { plot, steps, tokens } = chart;
  const columns = chart.columns(plot);
  const zero = plot.valToPos(0, "y", true);
  const perNat = plot.valToPos(1, "y", true) - zero;
  const path = (losses, row, attributes) => {
    const pen = new Pen(frame);
    chart.trace(pen, losses, row * steps.length, columns, zero, perNat);
    return element("path", { d: pen.d, fill: "none", "stroke-linejoin": "round", ...attributes });
  };
  const parts = [];
  for (const { curves, color } of tokens) {
    parts.push(bandOf(chart, frame, curves, cssColor(color)));
    const opacity = chart.opacityOf(curves);
    curves.seeds.forEach((seed, row) => {
      const dashes = row >= curves.num_committed ? { "stroke-dasharray": "5 3", opacity: 0.9 } : { opacity };
      parts.push(path(curves.losses, row, { "data-part": "seed", "data-seed": seed, stroke: chart.strokeOf(seed, color), "stroke-width": chart.bySeed ? 1.5 : 0.75, ...dashes }));
    });
  }
  for (const { curves, color } of tokens) {
    parts.push(path(curves.mean, 0, { "data-part": "mean", stroke: cssColor(color), "stroke-width": 2.5 }));
  }
  for (const { curves, fits } of tokens) {
    const forward = chart.seed === null ? -1 : curves.seeds.indexOf(chart.seed);
    if (forward >= 0) parts.push(path(curves.losses, forward, { "data-part": "forward", stroke: chart.bySeed ? seedColor(chart.seed) : cssColor("--ink"), "stroke-width": 2.2 }));
    if (fits) parts.push(...fitParts(chart, frame, fits, forward, path));
  }
  const clip = element("clipPath", { id: "frame" }, element("rect", { width: frame.width, height: frame.height }));
  return element("g", { "clip-path": "url(#frame)" }, clip, ...parts);
}

function bandOf(chart, { x, y }, { low, high }, fill) {
  const there = chart.steps.map((_, at) => at).filter((at) => Number.isFinite(low[at]) && Number.isFinite(high[at]));
  const point = (values) => (at) => `${x(chart.xs[at]).toFixed(2)} ${y(values[at]).toFixed(2)}`;
  const border = [...there.map(point(high)), ...there.reverse().map(point(low))];
  return element("path", { "data-part": "band", d: border.length ? `M${border.join("L")}Z` : "", fill, opacity: 0.17 });
}

function fitParts(chart, { height, x }, fits, forward, path) {
  const stroke = cssColor("--fit");
  const shown = forward < 0 ? Array.from(fits.time, (_, row) => row).filter((row) => fits.is_drop[row]) : [forward];
  const opacity = forward < 0 ? Math.max(0.08, Math.min(0.8, 6 / fits.time.length)) : 1;
  const marks = Array.from(fits.time).flatMap((time, row) => {
    if (!fits.is_drop[row]) return [];
    const place = x(chart.log ? time + 1 : time);
    return [element("line", { "data-part": "drop", x1: place, x2: place, y1: height - 12, y2: height, stroke })];
  });
  return [...marks, ...shown.map((row) => path(fits.fitted, row, { "data-part": "fit", stroke, opacity }))];
}
