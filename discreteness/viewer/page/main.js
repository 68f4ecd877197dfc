// address + server -> the page. Everything that is shown is in `shown` and, so that it can be linked to, in the address.

import { getFrame, getJson, ServerError } from "./api.js";
import { drawBars, histogram, roundTicks } from "./bars.js";
import { CURVE_COLORS, KINDS, scaleOf } from "./colors.js";
import { CurvesChart } from "./curves.js";
import { byId, count, download, element, number } from "./dom.js";
import { Overview } from "./overview.js";
import { TextView, tokenContent, visibleText } from "./text.js";

const POLL_MS = 1500;
const POLL_BUSY_MS = 400;
const PLAY_MS = 60;
const PLAY_FRAMES = 240;
const MAX_COMPARED = CURVE_COLORS.length - 1;
const HISTOGRAM_BINS = 30;

let experiment;
let state = { version: 0, committed: [], running: [], invalid: [], reading: {}, to_fit: 0, fit_error: null };
const shown = {
  view: "overview", document: null, token: null, index: null, color: "loss", seed: null, log: true, fits: false,
  compared: [], range: null,
};
let tokens = [];            // of the document that is shown, BOS first
let values = null;          // {doc_id, ...} numbers that color its text: mean, deviation, time, ...
let scale = null;
let panel = [];             // chart entries: the chosen token, then the compared ones
let playing = null;

const text = new TextView(byId("text"), (token, also) => (also ? pin(shown.document.doc_id, token) : choose(token)));
const chart = new CurvesChart(byId("chart"), { onSeed: keepSeed, onHover: readOut, onZoom: keepRange });
let overview;

// ---- the address

function addressOf() {
  const query = new URLSearchParams();
  if (shown.view === "document" && shown.document) {
    query.set("document", shown.document.name);
    if (shown.token) query.set("token", shown.token);
    if (shown.index !== null && shown.index !== experiment.steps.length - 1) query.set("step", experiment.steps[shown.index]);
    if (shown.color !== "loss") query.set("color", shown.color);
    if (shown.seed !== null) query.set("seed", shown.seed);
    if (!shown.log) query.set("steps", "linear");
    if (shown.fits) query.set("fits", "1");
    if (shown.compared.length) query.set("compare", shown.compared.map(({ doc_id, token }) => `${doc_id}.${token}`).join("_"));
    if (shown.range) query.set("zoom", shown.range.join("-"));
  }
  return query.size ? `?${query}` : "/";
}

let remembering = 0;
function remember(push = false) {
  clearTimeout(remembering);
  const write = () => history[push ? "pushState" : "replaceState"](null, "", addressOf());
  if (push) write();
  else remembering = setTimeout(write, 150);
}

// Whatever the address asks for is looked up among what exists; the rest is said and left out.
async function followAddress() {
  const query = new URLSearchParams(location.search);
  const unknown = [];
  const known = (name, found) => { if (found === undefined && query.has(name)) unknown.push(`${name} ${query.get(name)}`); return found; };
  const integer = (value) => (/^\d{1,9}$/.test(value ?? "") ? Number(value) : undefined);
  const document = known("document", experiment.documents.find(({ name }) => name === query.get("document")));
  const exists = (doc, token) => doc && token >= 1 && token <= doc.num_losses;
  Object.assign(shown, {
    view: document ? "document" : "overview",
    color: known("color", Object.hasOwn(KINDS, query.get("color") ?? "") ? query.get("color") : undefined) ?? "loss",
    seed: known("seed", integer(query.get("seed"))) ?? null,
    log: query.get("steps") !== "linear",
    fits: query.get("fits") === "1",
  });
  const token = known("token", exists(document, integer(query.get("token"))) ? integer(query.get("token")) : undefined) ?? null;
  const step = known("step", integer(query.get("step")));
  const index = step === undefined ? null : nearestStep(step);
  const zoom = /^(\d{1,9})-(\d{1,9})$/.exec(query.get("zoom") ?? "");
  shown.range = known("zoom", zoom && Number(zoom[1]) < Number(zoom[2]) ? [Number(zoom[1]), Number(zoom[2])] : undefined) ?? null;
  shown.compared = (query.get("compare") ?? "").split("_").filter(Boolean).slice(0, MAX_COMPARED).flatMap((entry) => {
    const [, doc_id, at] = /^(\d{1,9})\.(\d{1,9})$/.exec(entry) ?? [];
    const found = experiment.documents.find((one) => one.doc_id === Number(doc_id));
    if (exists(found, Number(at))) return [{ doc_id: found.doc_id, token: Number(at) }];
    unknown.push(`compare ${entry}`);
    return [];
  });
  if (unknown.length) notice("address", `The address asks for what is not here: ${unknown.join(", ").slice(0, 300)}`);
  if (document) await openDocument(document, { token, index, link: false });
  else showView("overview");
}

function nearestStep(step) {
  let nearest = 0;
  experiment.steps.forEach((one, index) => { if (Math.abs(one - step) <= Math.abs(experiment.steps[nearest] - step)) nearest = index; });
  return nearest;
}

// ---- what is said

const notices = new Map();
function notice(about, message) {
  if (message) notices.set(about, message);
  else notices.delete(about);
  byId("notice").textContent = [...notices.values()].join("\n");
  byId("notice").hidden = !notices.size;
}

// Runs what asks the server; an error is said on the page.
async function ask(about, task) {
  try {
    const result = await task();
    notice(about, "");
    return result;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice(about, error.message);
    return null;
  }
}

function drawState() {
  const { committed, running } = state;
  const training = running.map(({ seed, steps }) => `seed ${seed}: ${count(steps)} of ${count(experiment.steps.length)}`);
  byId("seeds").replaceChildren(`${count(committed.length)} seed${committed.length === 1 ? "" : "s"} · ${count(experiment.steps.length)} checkpoints`);
  if (running.length) {
    const more = training.length > 4 ? ` and ${training.length - 4} more` : "";
    byId("seeds").append(" · ", element("span", { class: "running" }, `in training: ${training.slice(0, 4).join(", ")}${more}`));
  }
  const invalid = state.invalid.map(({ file, reason }) => `${file}: ${reason}`);
  const more = invalid.length > 5 ? `\nand ${invalid.length - 5} more` : "";
  notice("invalid", invalid.length ? `Not counted:\n${invalid.slice(0, 5).join("\n")}${more}` : "");
  notice("fits", state.fit_error ? `No fits of ${state.fit_error}` : "");
  const seeds = [...committed, ...running.map(({ seed }) => seed)];
  const choice = byId("seed");
  if (choice.options.length !== seeds.length + 1) {
    choice.replaceChildren(element("option", { value: "" }, "all"), ...seeds.map((seed) => element("option", { value: seed }, seed)));
  }
  choice.value = shown.seed ?? "";
  const progress = shown.document && state.reading[shown.document.doc_id];
  byId("progress").textContent = progress ? `reading seed ${progress[0]} of ${progress[1]}` : "";
  byId("overview-progress").textContent = state.to_fit ? `${state.to_fit} parts to go` : "";
}

// ---- following

async function poll() {
  const before = state;
  try {
    state = await getJson("/api/state");
    notice("state", "");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice("state", error.message);
  }
  drawState();
  const grown = state.version !== before.version;
  const fitted = state.to_fit !== before.to_fit;
  if (shown.view === "overview" && (grown || fitted)) await drawOverview();
  if (shown.view === "document" && before.version) {
    if (grown) await Promise.all([loadValues(), loadPanel(true)]);
    else if (fitted && needsSteps() && !values?.time) await loadValues();
  }
}

async function follow() {
  if (!document.hidden) await poll();
  setTimeout(follow, state.to_fit || Object.keys(state.reading).length ? POLL_BUSY_MS : POLL_MS);
}

// ---- views

function showView(view) {
  shown.view = view;
  byId("overview").hidden = view !== "overview";
  byId("document").hidden = view !== "document";
  byId("view-overview").setAttribute("aria-current", view === "overview");
  byId("view-document").setAttribute("aria-current", view === "document");
  document.title = view === "document" && shown.document ? `${shown.document.name} · ${experiment.name}` : experiment.name;
  if (view === "overview") { play(false); drawOverview(); }
}

async function drawOverview() {
  const found = await ask("overview", () => getFrame("/api/overview"));
  if (found && shown.view === "overview") overview.draw(found);
}

async function openDocument(chosen, { token = null, index = null, link = true } = {}) {
  const other = shown.document?.doc_id !== chosen.doc_id;
  shown.document = chosen;
  shown.token = token;
  shown.index = index ?? (other || shown.index === null ? experiment.steps.length - 1 : shown.index);
  showView("document");
  byId("document-choice").value = chosen.doc_id;
  for (const button of byId("documents").children) {
    button.setAttribute("aria-current", Number(button.dataset.document) === chosen.doc_id);
  }
  byId("step").value = shown.index;
  byId("color").value = shown.color;
  byId("token-panel").hidden = token === null;
  if (link) remember(true);
  if (other) {
    values = null;
    const found = await ask("document", () => getJson(`/api/documents/${chosen.doc_id}/tokens`));
    if (!found || shown.document !== chosen) return;
    tokens = found.tokens;
    text.setTokens(tokens);
  }
  mark();
  const work = [values ? null : loadValues()];
  if (token !== null) work.push(loadPanel());
  await Promise.all(work);
}

// ---- the text

const needsSteps = () => ["time", "sharpness", "time-spread"].includes(shown.color);

async function loadValues() {
  const { document, seed, color } = shown;
  if (!state.committed.length && !state.running.length) { paint(); return; }
  const path = `/api/documents/${document.doc_id}`;
  const loaded = await ask("document", async () => {
    const found = { doc_id: document.doc_id };
    if (seed !== null && color === "loss") found.losses = (await getFrame(`${path}/seeds/${seed}`)).losses;
    else if (needsSteps()) {
      const { time, width, time_spread, num_seeds, analyzed } = await getFrame(`${path}/steps`);
      Object.assign(found, { time, sharpness: width, "time-spread": time_spread, num_seeds, analyzed });
    } else {
      const { mean, deviation, num_seeds } = await getFrame(`${path}/summary`);
      Object.assign(found, { losses: mean, deviation, num_seeds });
    }
    return found;
  });
  if (!loaded || loaded.doc_id !== shown.document.doc_id) return;
  values = { ...(values?.doc_id === loaded.doc_id ? values : {}), ...loaded };
  paint(true);
}

function paint(rescale = false) {
  const numbers = shown.color === "loss" ? values?.losses : values?.[shown.color];
  const timed = numbers && numbers.length > tokens.length - 1;
  byId("player").classList.toggle("still", !timed);
  byId("step-label").textContent = `step ${count(experiment.steps[shown.index])}`;
  if (!numbers) {
    text.paint(null);
    byId("legend").replaceChildren(needsSteps() && state.committed.length && !state.fit_error ? "fitting…" : "");
    return;
  }
  if (rescale || !scale || scale.kind !== shown.color) {
    let [low, high] = [Infinity, -Infinity];
    for (const one of numbers) { if (one < low) low = one; if (one > high) high = one; }
    if (shown.color !== "time") low = 0;
    if (shown.color === "time") [low, high] = [0, experiment.steps.at(-1)];
    scale = { ...scaleOf(shown.color, low, high > low ? high : low + 1), kind: shown.color };
    drawLegend();
  }
  const steps = experiment.steps.length;
  if (timed) text.paint(scale, numbers, shown.index, steps);
  else text.paint(scale, numbers);
}

function drawLegend() {
  const canvas = element("canvas", { width: scale.shades.length, height: 1 });
  const context = canvas.getContext("2d");
  scale.shades.forEach((shade, x) => { context.fillStyle = shade.css; context.fillRect(x, 0, 1, 1); });
  const { num_seeds } = values;
  const some = needsSteps() && num_seeds < state.committed.length ? "first " : "";
  const source = shown.color === "loss" && shown.seed !== null ? `seed ${shown.seed}` : `${some}${count(num_seeds)} seed${num_seeds === 1 ? "" : "s"}`;
  byId("legend").replaceChildren(number(scale.low), canvas, `${number(scale.high)} ${scale.label} · ${source}`);
}

function setStep(index) {
  shown.index = Math.max(0, Math.min(experiment.steps.length - 1, index));
  byId("step").value = shown.index;
  paint();
  remember();
}

function play(on) {
  clearInterval(playing);
  playing = null;
  byId("play").textContent = on ? "❚❚" : "▶";
  if (!on) return;
  if (shown.index >= experiment.steps.length - 1) setStep(0);
  const last = Math.log1p(experiment.steps.at(-1));
  let place = Math.log1p(experiment.steps[shown.index]);
  playing = setInterval(() => {
    place += last / PLAY_FRAMES;  // even in the logarithm of the step: early training is not over at once
    const step = Math.expm1(place);
    let index = shown.index;
    while (index + 1 < experiment.steps.length && experiment.steps[index + 1] <= step + 1e-6) index++;
    if (index !== shown.index) setStep(index);
    if (index >= experiment.steps.length - 1 || place >= last) { setStep(experiment.steps.length - 1); play(false); }
  }, PLAY_MS);
}

// ---- the chosen token

function choose(token) {
  performance.mark("choose", { startTime: window.event?.timeStamp ?? performance.now() });
  shown.token = token;
  byId("token-panel").hidden = false;
  mark();
  remember(true);
  return loadPanel();
}

function mark() {
  text.choose(shown.token, shown.compared.filter(({ doc_id }) => doc_id === shown.document.doc_id).map(({ token }) => token));
}

async function loadPanel(again = false) {
  const { document, token } = shown;
  if (token === null) return;
  const wanted = [{ doc_id: document.doc_id, token }, ...shown.compared.filter((one) => one.doc_id !== document.doc_id || one.token !== token)];
  const entries = await ask("token", () => Promise.all(wanted.map(async (one) => {
    const path = `/api/documents/${one.doc_id}/tokens/${one.token}`;
    const before = again ? null : panel.find((entry) => entry.doc_id === one.doc_id && entry.token === one.token);
    const curves = before?.curves ?? await getFrame(path);
    const words = one.doc_id === document.doc_id ? tokens : (before?.words ?? (await getJson(`/api/documents/${one.doc_id}/tokens`)).tokens);
    return { ...one, curves, words, fits: before?.fits };
  })));
  if (!entries || shown.document !== document || shown.token !== token) return;
  panel = entries.map((entry, at) => ({ ...entry, color: CURVE_COLORS[at] }));
  drawPanel();
  requestAnimationFrame(() => setTimeout(() => {
    if (performance.getEntriesByName("choose").length) {
      performance.measure("click-to-drawn", "choose");
      performance.clearMarks("choose");
    }
  }));
  await loadFits();
}

async function loadFits() {
  if (!shown.fits) return;
  const entries = panel;
  const loaded = await ask("token-fits", () => Promise.all(entries.map(async (entry) => {
    if (!entry.curves.num_committed) return;
    entry.fits ??= await getFrame(`/api/documents/${entry.doc_id}/tokens/${entry.token}/fits`);
  })));
  if (loaded && entries === panel) drawPanel();
}

const nameOf = ({ doc_id }) => experiment.documents.find((one) => one.doc_id === doc_id).name;

function drawPanel() {
  const [first] = panel;
  const { token, curves } = first;
  const start = Math.max(1, token - 6);
  byId("token-title").replaceChildren(
    element("small", {}, ...first.words.slice(start, token).flatMap(tokenContent)), ...tokenContent(first.words[token]),
    element("small", {}, `   token ${token} of ${nameOf(first)}${first.words[token].answer ? " · answer" : ""}`));
  for (const [name, pressed] of [["log", shown.log], ["fits", shown.fits]]) byId(name).setAttribute("aria-pressed", pressed);
  drawChips();
  chart.show(experiment.steps, panel.map((entry) => ({ ...entry, fits: shown.fits ? entry.fits : null })),
    { log: shown.log, range: shown.range, seed: shown.seed });
  drawHistogram(first);
  drawNumbers(first);
  readOut(null);
  byId("chart").dataset.seeds = curves.seeds.length;
}

function drawChips() {
  const chips = panel.length > 1 || shown.compared.length ? panel : [];
  byId("chips").replaceChildren(...chips.map((entry) => {
    const pinned = shown.compared.some((one) => one.doc_id === entry.doc_id && one.token === entry.token);
    const item = element("li", {}, element("span", {}, `${visibleText(entry.words[entry.token])}  ${nameOf(entry)}:${entry.token}`));
    item.style.setProperty("--chip", `var(${entry.color})`);
    if (pinned) item.append(element("button", { type: "button", "aria-label": "remove", onclick: () => unpin(entry) }, "×"));
    return item;
  }));
}

function finals({ curves: { losses, num_committed } }) {
  const steps = experiment.steps.length;
  return Array.from({ length: num_committed }, (_, row) => losses[(row + 1) * steps - 1]);
}

function drawHistogram(entry) {
  const ends = finals(entry);
  byId("histogram-title").textContent = ends.length ? `Final loss of ${count(ends.length)} seed${ends.length === 1 ? "" : "s"}` : "";
  if (!ends.length) return byId("histogram").replaceChildren();
  const top = Math.max(...ends, 0.1) * 1.001;
  const { counts, edges } = histogram(ends, HISTOGRAM_BINS, 0, top);
  drawBars(byId("histogram"), {
    edges, counts, axis: "loss after the last step (nats)",
    ticks: roundTicks(top).map((at) => ({ at, label: number(at, 2) })),
    title: (bin) => `${number(edges[bin])} to ${number(edges[bin + 1])} nats: ${counts[bin]} seeds`,
  });
}

function drawNumbers(entry) {
  const ends = finals(entry).sort((a, b) => a - b);
  const rows = [["seeds", `${count(entry.curves.num_committed)} committed, ${count(entry.curves.seeds.length - entry.curves.num_committed)} in training`]];
  if (ends.length) {
    rows.push(["final loss", `median ${number(ends[ends.length >> 1])}, ${number(ends[0])} to ${number(ends.at(-1))} nats`]);
    rows.push(["final probability", `median ${number(100 * Math.exp(-ends[ends.length >> 1]))} %`]);
  }
  if (shown.fits && entry.fits) {
    const { time, width, is_step, delta_bic } = entry.fits;
    const median = (list) => { const sorted = Array.from(list).sort((a, b) => a - b); return sorted[sorted.length >> 1]; };
    const stepping = (list) => list.filter((_, row) => is_step[row]);
    rows.push(["learned in a step", `by ${count(stepping(time).length)} of ${count(time.length)} seeds`]);
    if (stepping(time).length) rows.push(["those: median", `step ${number(median(stepping(time)))}, ${number(median(stepping(width)))} octaves wide, ΔBIC ${number(median(stepping(delta_bic)))}`]);
  }
  byId("numbers").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function readOut(at) {
  const parts = [];
  if (at && panel.length) {
    parts.push(`step ${count(experiment.steps[at.index])}`);
    for (const { curves: { mean, low, high } } of panel) {
      parts.push(`mean ${number(mean[at.index])} (80 % of seeds: ${number(low[at.index])} to ${number(high[at.index])})`);
    }
    if (at.seed !== undefined) {
      const { losses } = panel[at.token].curves;
      parts.push(`seed ${at.seed}: ${number(losses[at.row * experiment.steps.length + at.index])}`);
    }
  } else if (shown.seed !== null) parts.push(`seed ${shown.seed} is brought forward`);
  byId("readout").textContent = parts.join(" · ");
}

function keepRange(range) {
  shown.range = range;
  remember();
}

function keepSeed(seed) {
  shown.seed = seed === shown.seed ? null : seed;
  byId("seed").value = shown.seed ?? "";
  chart.bringForward(shown.seed);
  readOut(null);
  remember();
  if (shown.color === "loss" && shown.document) loadValues();
}

function pin(doc_id, token) {
  if (shown.token === null) return choose(token);
  if (shown.compared.some((one) => one.doc_id === doc_id && one.token === token)) return unpin({ doc_id, token });
  shown.compared = [...shown.compared, { doc_id, token }].slice(-MAX_COMPARED);
  mark();
  remember();
  return loadPanel();
}

function unpin({ doc_id, token }) {
  shown.compared = shown.compared.filter((one) => one.doc_id !== doc_id || one.token !== token);
  mark();
  remember();
  return loadPanel();
}

// ---- downloads

const fileName = () => `${experiment.name}-${panel[0] ? `${nameOf(panel[0])}-${panel[0].token}` : ""}`;

function saveCsv() {
  const seeds = [...new Set(panel.flatMap(({ curves }) => [...curves.seeds]))].sort((a, b) => a - b);
  const lines = [["doc_id", "token", "step", ...seeds.map((seed) => `seed_${seed}`)].join(",")];
  const steps = experiment.steps.length;
  for (const { doc_id, token, curves } of panel) {
    const rows = seeds.map((seed) => curves.seeds.indexOf(seed));
    experiment.steps.forEach((step, index) => {
      const losses = rows.map((row) => (row < 0 || Number.isNaN(curves.losses[row * steps + index]) ? "" : curves.losses[row * steps + index]));
      lines.push([doc_id, token, step, ...losses].join(","));
    });
  }
  download(`${fileName()}.csv`, new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
}

async function savePng() {
  const title = panel.map((entry) => `${visibleText(entry.words[entry.token])} (${nameOf(entry)}:${entry.token})`).join("   ");
  download(`${fileName()}.png`, await chart.picture(`${title} · ${count(panel[0].curves.seeds.length)} seeds`));
}

// ---- controls

const KEYS = {
  "← →": ["token before, after", null],
  "↑ ↓": ["document before, after", null],
  "space": ["play training", null],
  "[ ]": ["checkpoint before, after", null],
  "l": ["logarithmic or linear steps", () => byId("log").click()],
  "f": ["fits", () => byId("fits").click()],
  "c": ["keep the token for comparison", () => byId("compare").click()],
  "+ - 0": ["zoom in, out, all", null],
  "o": ["overview", () => byId("view-overview").click()],
  "d": ["document", () => byId("view-document").click()],
  "?": ["these keys", () => byId("help").showModal()],
};

function nextDocument(by) {
  const at = experiment.documents.indexOf(shown.document);
  const next = experiment.documents[at + by];
  if (next) openDocument(next);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.closest("select, input, textarea")) return;
  const pressing = event.target.closest("button, tr") && [" ", "Enter"].includes(event.key);
  if (pressing) return;
  const inDocument = shown.view === "document" && shown.document;
  const nextToken = (by) => {
    const next = (shown.token ?? (by > 0 ? 0 : 2)) + by;
    if (next >= 1 && next <= shown.document.num_losses) choose(next);
  };
  const actions = inDocument ? {
    ArrowRight: () => nextToken(1), ArrowLeft: () => nextToken(-1), ArrowDown: () => nextDocument(1), ArrowUp: () => nextDocument(-1),
    " ": () => play(playing === null), "[": () => setStep(shown.index - 1), "]": () => setStep(shown.index + 1),
    "+": () => byId("zoom-in").click(), "-": () => byId("zoom-out").click(), "0": () => byId("zoom-all").click(),
  } : {};
  const action = actions[event.key] ?? KEYS[event.key]?.[1];
  if (!action) return;
  event.preventDefault();
  action();
}

function control() {
  const on = (id, event, task) => byId(id).addEventListener(event, task);
  on("view-overview", "click", () => { showView("overview"); remember(true); });
  on("view-document", "click", () => openDocument(shown.document ?? experiment.documents[0], { token: shown.token }));
  on("document-choice", "change", (event) => openDocument(experiment.documents.find((one) => one.doc_id === Number(event.target.value))));
  on("color", "change", (event) => { shown.color = event.target.value; remember(); loadValues(); });
  on("seed", "change", (event) => {
    shown.seed = event.target.value === "" ? null : Number(event.target.value);
    if (panel.length) { chart.bringForward(shown.seed); readOut(null); }
    remember();
    loadValues();
  });
  on("step", "input", (event) => { play(false); setStep(Number(event.target.value)); });
  on("play", "click", () => play(playing === null));
  on("log", "click", () => { shown.log = !shown.log; drawPanel(); remember(); });
  on("fits", "click", () => { shown.fits = !shown.fits; drawPanel(); remember(); loadFits(); });
  on("compare", "click", () => { if (shown.token) pin(shown.document.doc_id, shown.token); });
  on("zoom-in", "click", () => chart.move(0.6));
  on("zoom-out", "click", () => chart.move(1 / 0.6));
  on("zoom-all", "click", () => chart.zoomTo(null));
  on("csv", "click", saveCsv);
  on("png", "click", savePng);
  on("help-open", "click", () => byId("help").showModal());
  on("theme", "change", (event) => { setTheme(event.target.value); });
  addEventListener("keydown", onKey);
  addEventListener("popstate", () => followAddress());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  byId("keys").replaceChildren(...Object.entries(KEYS).flatMap(([key, [meaning]]) => [element("dt", {}, key), element("dd", {}, meaning)]));
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").value = theme;
  localStorage.setItem("theme", theme);
  repaint();
}

function repaint() {
  if (!experiment) return;
  if (shown.view === "overview" && overview.found) overview.draw(overview.found);
  if (shown.document) paint(true);
  if (panel.length) drawPanel();
}

async function start() {
  const theme = localStorage.getItem("theme");
  if (["light", "dark"].includes(theme)) setTheme(theme);
  experiment = await ask("experiment", () => getJson("/api/experiment"));
  if (!experiment) return;
  byId("dataset").textContent = experiment.name;
  byId("dataset").title = `${experiment.uri} · track ${experiment.track} · identity ${experiment.identity_hash}`;
  byId("step").max = experiment.steps.length - 1;
  byId("documents").replaceChildren(...experiment.documents.map((one) => element("button", {
    type: "button", "data-document": one.doc_id, title: one.name, onclick: () => openDocument(one),
  }, element("span", {}, one.name.replace(/\.txt$/, "")), element("span", {}, one.num_losses))));
  byId("document-choice").replaceChildren(...experiment.documents.map((one) => element("option", { value: one.doc_id }, one.name)));
  overview = new Overview(experiment, (opened, token, step) => openDocument(opened, { token, index: step === null ? null : nearestStep(step) }));
  control();
  await poll();
  document.documentElement.dataset.ready = "yes";
  await followAddress();
  follow();
}

start();
