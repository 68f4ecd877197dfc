// The panel of the chosen token and those it is compared with: chart, histogram, numbers, and files to keep.

import { getFrame, getJson } from "./api.js";
import { drawBars, roundTicks } from "./bars.js";
import { datasetOf, documentOf, isSame, pathOf, withTwins } from "./beside.js";
import { CURVE_COLORS } from "./colors.js";
import { CurvesChart } from "./curves.js";
import { byId, count, download, downloadCsv, element, number } from "./dom.js";
import { fittedCurves } from "./fits.js";
import { ask } from "./notices.js";
import { scheduleInWords } from "./schedule.js";
import { page, remember, shown } from "./shown.js";
import { chartSvg, pngOf } from "./picture.js";
import { histogram, median } from "./statistics.js";
import { tokenContent, visibleText } from "./text.js";

const HISTOGRAM_BINS = 30;

let panel = []; // chart entries: the chosen token, then the compared ones
let actions; // {chooseInChart(seed or null, index), unpin(entry)}
export const chart = new CurvesChart(byId("chart"), {
  onClick: (seed, index) => actions.chooseInChart(seed, index),
  onHover: readOut,
  onZoom: (range) => {
    shown.range = range;
    remember();
  },
});

export function startPanel(given) {
  actions = given;
  byId("log").addEventListener("click", () => {
    shown.log = !shown.log;
    drawPanel();
    remember();
  });
  byId("fits").addEventListener("click", () => {
    shown.fits = !shown.fits;
    drawPanel();
    remember();
    loadFits();
  });
  byId("by-seed").addEventListener("click", () => {
    shown.bySeed = !shown.bySeed;
    drawPanel();
    remember();
  });
  byId("zoom-in").addEventListener("click", () => chart.move(0.6));
  byId("zoom-out").addEventListener("click", () => chart.move(1 / 0.6));
  byId("zoom-all").addEventListener("click", () => chart.zoomTo(null));
  byId("csv").addEventListener("click", saveCsv);
  byId("png").addEventListener("click", async () => download(`${fileName()}.png`, await pngOf(picture())));
  byId("svg").addEventListener("click", () =>
    download(`${fileName()}.svg`, new Blob([picture().text], { type: "image/svg+xml" })),
  );
}

export function bringForward() {
  if (!panel.length) return;
  chart.bringForward(shown.seed);
  readOut(null);
}

export async function loadPanel(again = false) {
  const { document, token } = shown;
  if (token === null) return;
  const wanted = withTwins([
    { doc_id: document.doc_id, token },
    ...shown.compared.filter((one) => one.doc_id !== document.doc_id || one.token !== token),
  ]);
  const entries = await ask("token", () =>
    Promise.all(
      wanted.map(async (one) => {
        const before = again ? null : panel.find((entry) => isSame(entry, one));
        const curves = before?.curves ?? (await getFrame(pathOf(one)));
        const { doc_id } = documentOf(one);
        const words =
          doc_id === document.doc_id
            ? page.tokens
            : (before?.words ?? (await getJson(`/api/documents/${doc_id}/tokens`)).tokens);
        return { ...one, curves, words, fits: before?.fits };
      }),
    ),
  );
  if (!entries || shown.document !== document || shown.token !== token) return;
  panel = entries.map((entry, at) => ({ ...entry, color: CURVE_COLORS[at % CURVE_COLORS.length] }));
  drawPanel();
  requestAnimationFrame(() =>
    setTimeout(() => {
      if (performance.getEntriesByName("choose").length) {
        performance.measure("click-to-drawn", "choose");
        performance.clearMarks("choose");
      }
    }),
  );
  await loadFits();
}

async function loadFits() {
  if (!shown.fits) return;
  const entries = panel;
  const loaded = await ask("token-fits", () =>
    Promise.all(
      entries.map(async (entry) => {
        if (!entry.curves.num_committed) return;
        if (entry.fits) return;
        const fits = await getFrame(`${pathOf(entry)}/fits`);
        entry.fits = { ...fits, fitted: fittedCurves(fits, page.dataset.steps) };
      }),
    ),
  );
  if (loaded && entries === panel) drawPanel();
}

const nameOf = (entry) => documentOf(entry).name;

// With the dataset, where there are two.
const fullName = (entry) => (page.dataset.beside ? `${datasetOf(entry)}: ${nameOf(entry)}` : nameOf(entry));

export function drawPanel() {
  if (!panel.length) return;
  const [first] = panel;
  const { token, curves } = first;
  const start = Math.max(1, token - 6);
  byId("token-title").replaceChildren(
    element("small", {}, ...first.words.slice(start, token).flatMap((word) => tokenContent(word, false))),
    ...tokenContent(first.words[token], false),
    element("small", {}, `   token ${token} of ${nameOf(first)}${first.words[token].answer ? " · answer" : ""}`),
  );
  for (const [name, pressed] of [
    ["log", shown.log],
    ["fits", shown.fits],
    ["by-seed", shown.bySeed],
    ["beside", shown.beside],
  ])
    byId(name).setAttribute("aria-pressed", pressed);
  drawChips();
  chart.show(
    page.dataset.steps,
    panel.map((entry) => ({ ...entry, fits: shown.fits ? entry.fits : null })),
    { log: shown.log, range: shown.range, seed: shown.seed, index: shown.index, bySeed: shown.bySeed },
  );
  byId("schedule-here").textContent = page.changes.length ? `Dashed: the schedule changes (${scheduleInWords()}).` : "";
  drawHistogram(first);
  drawNumbers(first);
  readOut(null);
  byId("chart").dataset.seeds = curves.seeds.length;
}

function drawChips() {
  const chips = panel.length > 1 || shown.compared.length ? panel : [];
  byId("chips").replaceChildren(
    ...chips.map((entry) => {
      const pinned = shown.compared.some((one) => isSame(one, entry));
      const item = element(
        "li",
        {},
        element("span", {}, `${visibleText(entry.words[entry.token])}  ${fullName(entry)}:${entry.token}`),
      );
      item.style.setProperty("--chip", `var(${entry.color})`);
      if (pinned)
        item.append(
          element("button", { type: "button", "aria-label": "remove", onclick: () => actions.unpin(entry) }, "×"),
        );
      return item;
    }),
  );
}

function finals({ curves: { losses, num_committed } }) {
  const steps = page.dataset.steps.length;
  return Array.from({ length: num_committed }, (_, row) => losses[(row + 1) * steps - 1]);
}

function drawHistogram(entry) {
  const ends = finals(entry);
  byId("histogram-title").textContent = ends.length
    ? `Final loss of ${count(ends.length)} seed${ends.length === 1 ? "" : "s"}`
    : "";
  if (!ends.length) return byId("histogram").replaceChildren();
  const top = Math.max(...ends, 0.1) * 1.001;
  const { counts, edges } = histogram(ends, HISTOGRAM_BINS, 0, top);
  drawBars(byId("histogram"), {
    edges,
    counts,
    axis: "loss after the last step (nats)",
    unit: "seeds",
    ticks: roundTicks(top).map((at) => ({ at, label: number(at, 2) })),
    least: 1,
    title: (bin) => `${number(edges[bin])} to ${number(edges[bin + 1])} nats: ${counts[bin]} seeds`,
  });
}

function drawNumbers(entry) {
  const ends = finals(entry);
  const rows = [
    [
      "seeds",
      `${count(entry.curves.num_committed)} committed, ${count(entry.curves.seeds.length - entry.curves.num_committed)} in training`,
    ],
  ];
  if (ends.length) {
    rows.push([
      "final loss",
      `median ${number(median(ends))}, ${number(Math.min(...ends))} to ${number(Math.max(...ends))} nats`,
    ]);
    const percents = ends.map((loss) => 100 * Math.exp(-loss));
    rows.push(["final probability", `median ${number(median(percents))} %`]);
  }
  for (const twin of panel.slice(1, 2).filter(({ beside }) => beside)) {
    const others = finals(twin);
    if (others.length)
      rows.push([
        `final loss in ${datasetOf(twin)}`,
        `median ${number(median(others))}, ${number(Math.min(...others))} to ${number(Math.max(...others))} nats in ${count(others.length)} seed${others.length === 1 ? "" : "s"}`,
      ]);
  }
  if (shown.fits && entry.fits) {
    const { time, width, is_drop, delta_bic } = entry.fits;
    const ofDrops = (list) => list.filter((_, row) => is_drop[row]);
    rows.push(["learned in a drop", `by ${count(ofDrops(time).length)} of ${count(time.length)} seeds`]);
    if (ofDrops(time).length)
      rows.push([
        "those: median",
        `step ${number(median(ofDrops(time)))}, ${number(median(ofDrops(width)))} octaves wide, ΔBIC ${number(median(ofDrops(delta_bic)))}`,
      ]);
  }
  byId("numbers").replaceChildren(
    ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

function readOut(at) {
  const parts = [];
  if (at && panel.length) {
    parts.push(`step ${count(page.dataset.steps[at.index])}`);
    for (const {
      curves: { mean, low, high },
    } of panel) {
      parts.push(
        `mean ${number(mean[at.index])} (80 % of seeds: ${number(low[at.index])} to ${number(high[at.index])})`,
      );
    }
    if (at.seed !== undefined) {
      const { losses } = panel[at.token].curves;
      parts.push(`seed ${at.seed}: ${number(losses[at.row * page.dataset.steps.length + at.index])}`);
    }
  } else if (shown.seed !== null) parts.push(`seed ${shown.seed} is brought forward`);
  byId("readout").textContent = parts.join(" · ");
}

const fileName = () => `${page.dataset.name}-${panel[0] ? `${nameOf(panel[0])}-${panel[0].token}` : ""}`;

// Nine digits tell every float32 from its neighbours; JavaScript would write it as the double that it is.
const exact = (value) => Number(value.toPrecision(9));

function saveCsv() {
  const seeds = [...new Set(panel.flatMap(({ curves }) => [...curves.seeds]))].sort((a, b) => a - b);
  const two = Boolean(page.dataset.beside);
  const table = [[...(two ? ["dataset"] : []), "doc_id", "document", "token_index", "token", "step", ...seeds.map((seed) => `seed_${seed}`)]];
  const steps = page.dataset.steps.length;
  for (const entry of panel) {
    const { doc_id, token, curves } = entry;
    const rows = seeds.map((seed) => curves.seeds.indexOf(seed));
    page.dataset.steps.forEach((step, index) => {
      const losses = rows.map((row) =>
        row < 0 || Number.isNaN(curves.losses[row * steps + index]) ? "" : exact(curves.losses[row * steps + index]),
      );
      table.push([...(two ? [datasetOf(entry)] : []), doc_id, nameOf(entry), token, entry.words[token].text, step, ...losses]);
    });
  }
  downloadCsv(`${fileName()}.csv`, table);
}

function picture() {
  const entries = panel.map(({ words, token, curves, color, ...entry }) => ({
    label: `${visibleText(words[token])}  ${fullName(entry)}:${token}, ${count(curves.seeds.length)} seeds, their mean, and 80 % of them`,
    color,
  }));
  return chartSvg(chart, { title: `${page.dataset.name}: loss of ${panel.length > 1 ? "tokens" : "one token"}`, entries });
}
