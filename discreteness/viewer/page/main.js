// The page: views, the text and its colors, keys; it follows a dataset that grows.

import { getFrame, getJson, ServerError } from "./api.js";
import { startBeside } from "./beside.js";
import { scaleOf } from "./colors.js";
import { sayCopy } from "./copy.js";
import { markDocument, startDocuments } from "./documents.js";
import { byId, count, element } from "./dom.js";
import { isEmbedded } from "./embedded.js";
import { placesHere, startFind } from "./find.js";
import { ask, notice } from "./notices.js";
import { askOverview, Overview } from "./overview.js";
import { bringForward, chart, drawPanel, loadPanel, startPanel } from "./panel.js";
import { Raster } from "./raster.js";
import { drawLegend, noLegend, readChosen, readToken } from "./reading.js";
import { loadSchedule } from "./schedule.js";
import { MAX_COMPARED, nearestStep, page, readAddress, remember, shown } from "./shown.js";
import { TextView } from "./text.js";
import { COMMON } from "./token_rows.js";
import { TwoSeeds } from "./two_seeds.js";

const POLL_MS = 1500;
const POLL_BUSY_MS = 400;
const PLAY_MS = 60;
const PLAY_FRAMES = 240;

let values = null; // {color, seed, numbers, num_seeds}: what colors the text; no numbers as long as they are being made
let scale = null;
let playing = null;
let overview;
let raster;
let twoSeeds;
let textOf = null; // doc_id of the text that is on the page
const text = new TextView(byId("text"), (token, also) => (also ? pin(shown.document.doc_id, token) : choose(token)));

// ---- seeds

function drawState() {
  const { committed, running } = page.state;
  const training = running.map(
    ({ seed, steps }) => `seed ${seed}: ${count(steps)} of ${count(page.dataset.steps.length)}`,
  );
  byId("seeds").replaceChildren(
    `${count(committed.length)} seed${committed.length === 1 ? "" : "s"} · ${count(page.dataset.steps.length)} checkpoints`,
  );
  if (running.length) {
    const more = training.length > 4 ? ` and ${training.length - 4} more` : "";
    byId("seeds").append(
      " · ",
      element("span", { class: "running" }, `in training: ${training.slice(0, 4).join(", ")}${more}`),
    );
  }
  const invalid = page.state.invalid.map(({ file, reason }) => `${file}: ${reason}`);
  const more = invalid.length > 5 ? `\nand ${invalid.length - 5} more` : "";
  notice("invalid", invalid.length ? `Not counted:\n${invalid.slice(0, 5).join("\n")}${more}` : "");
  notice("fits", page.state.fit_error ? `No fits of ${page.state.fit_error}` : "");
  const seeds = [...committed, ...running.map(({ seed }) => seed)];
  const choice = byId("seed");
  const labels = seeds.map((seed) => (seed in page.state.names ? `${seed} · ${page.state.names[seed]}` : `${seed}`));
  if (choice.dataset.seeds !== labels.join()) {
    choice.dataset.seeds = labels.join();
    choice.replaceChildren(
      element("option", { value: "" }, "all"),
      ...seeds.map((seed, place) => element("option", { value: seed }, labels[place])),
    );
  }
  choice.value = shown.seed ?? "";
  const progress = shown.document && page.state.reading[shown.document.doc_id];
  const none = noSeeds() ? "No seeds yet: the page follows by itself when the first one trains." : "";
  byId("progress").textContent = progress ? `reading seed ${progress[0]} of ${progress[1]}` : none;
  byId("overview-progress").textContent = page.state.to_fit ? `${page.state.to_fit} parts to go` : none;
}

const noSeeds = () => !page.state.committed.length && !page.state.running.length;

// ---- following

async function look() {
  try {
    page.state = await getJson("/api/state");
    // Its files are looked for anew too; versions of both only grow.
    if (page.dataset.beside) page.state.version += (await getJson("/beside/api/state")).version;
    notice("state", "");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice("state", error.message);
  }
  drawState();
}

async function poll() {
  const before = page.state;
  await look();
  const grown = page.state.version !== before.version;
  const fitted = page.state.fitted !== before.fitted;
  if (grown) await loadSchedule();
  if (shown.view === "overview" && (grown || fitted)) await drawOverview();
  if (shown.view === "raster" && (grown || fitted)) await raster.load();
  if (shown.view === "document") {
    if (grown) await Promise.all([loadValues(), loadPanel(true)]);
    else if (fitted && !colorMoves()) await loadValues();
  }
}

async function follow() {
  if (!document.hidden) await poll();
  setTimeout(follow, page.state.to_fit || Object.keys(page.state.reading).length ? POLL_BUSY_MS : POLL_MS);
}

// ---- views

async function followAddress() {
  const { document, token, index, unknown, asRaster } = readAddress();
  const news = `The address asks for what is not here: ${unknown.join(", ").slice(0, 300)}`;
  notice("address", unknown.length ? news : "");
  if (document && asRaster) await openRaster(document, { token, index, link: false });
  else if (document) await openDocument(document, { token, index, link: false });
  else showView("overview");
}

function showView(view) {
  shown.view = view;
  byId("overview").hidden = view !== "overview";
  byId("document").hidden = view !== "document";
  byId("raster").hidden = view !== "raster";
  byId("view-overview").setAttribute("aria-current", view === "overview");
  byId("view-document").setAttribute("aria-current", view === "document");
  byId("view-raster").setAttribute("aria-current", view === "raster");
  document.title =
    view !== "overview" && shown.document ? `${shown.document.name} · ${page.dataset.name}` : page.dataset.name;
  if (view !== "document") play(false);
  if (view === "overview") drawOverview();
}

async function openRaster(chosen, { token = shown.token, index = null, link = true } = {}) {
  if (shown.document !== chosen) Object.assign(shown, { token, index: index ?? page.dataset.steps.length - 1 });
  shown.document = chosen;
  showView("raster");
  byId("raster-document").value = chosen.doc_id;
  if (link) remember(true);
  await raster.load();
}

async function drawOverview() {
  const found = await ask("overview", askOverview);
  if (found && shown.view === "overview") overview.draw(found);
  await twoSeeds.load();
}

async function openDocument(chosen, { token = null, index = null, link = true } = {}) {
  const other = textOf !== chosen.doc_id;
  shown.document = chosen;
  shown.token = token;
  shown.index = index ?? (other || shown.index === null ? page.dataset.steps.length - 1 : shown.index);
  showView("document");
  markDocument();
  byId("step").value = shown.index;
  byId("color").value = shown.color;
  byId("token-panel").hidden = token === null;
  byId("token-hint").hidden = token !== null;
  if (link) remember(true);
  if (other) {
    values = null;
    const found = await ask("document", () => getJson(`/api/documents/${chosen.doc_id}/tokens`));
    if (!found || shown.document !== chosen) return;
    page.tokens = found.tokens;
    textOf = chosen.doc_id;
    text.setTokens(page.tokens);
    markFound();
  }
  mark();
  const work = [loadValues()];
  if (token !== null) work.push(loadPanel());
  await Promise.all(work);
}

// ---- the text

// Whether the color depends on the step: learning times and what belongs to them are of all steps together.
const colorMoves = () => ["loss", "deviation"].includes(shown.color);

async function fetchValues() {
  const { document, color } = shown;
  const seed = color === "loss" ? shown.seed : null;
  const path = `/api/documents/${document.doc_id}`;
  if (!colorMoves()) {
    const { time, width, time_spread, common_share, num_seeds } = await getFrame(`${path}/drops`);
    const numbers = { time, sharpness: width, "time-spread": time_spread }[color];
    return { color, seed, numbers, common_share, num_seeds };
  }
  if (seed !== null) return { color, seed, numbers: (await getFrame(`${path}/seeds/${seed}`)).losses, num_seeds: 1 };
  const { mean, deviation, num_seeds } = await getFrame(`${path}/summary`);
  return { color, seed, numbers: color === "loss" ? mean : deviation, num_seeds };
}

let asked = 0;
async function loadValues() {
  const { document } = shown;
  const mine = ++asked;
  drawPlayer();
  if (noSeeds()) {
    paint();
    return;
  }
  const loaded = await ask("document", fetchValues);
  // Answers may overtake each other: only the last one asked for is what the reader chose.
  if (!loaded || mine !== asked || shown.document !== document) return;
  values = loaded;
  paint(true);
}

// Slider, button and keys are off where the color does not depend on the step.
function drawPlayer() {
  const moves = colorMoves();
  if (!moves) play(false);
  byId("play").disabled = byId("step").disabled = !moves;
  byId("player").title = moves ? "" : "this color is of all steps together; loss and its spread can be played";
  byId("step-label").textContent = moves ? `step ${count(page.dataset.steps[shown.index])}` : "all steps";
}

function paint(rescale = false) {
  drawPlayer();
  const numbers = values?.color === shown.color && values.numbers;
  if (!numbers) {
    text.paint(null);
    const fitting = !colorMoves() && page.state.committed.length && !page.state.fit_error;
    noLegend(fitting ? "fitting…" : page.state.committed.length || (colorMoves() && !noSeeds()) ? "" : "no seeds yet");
    return;
  }
  if (rescale) {
    scale = scaleTo(numbers);
    sayLegend();
  }
  if (colorMoves()) text.paint(scale, numbers, shown.index, page.dataset.steps.length);
  else text.paint(scale, numbers);
  readToken(null);
}

// From 0 to the last step, or to the largest number; null where there is none.
function scaleTo(numbers) {
  let high = -Infinity;
  for (const one of numbers) if (one > high) high = one;
  if (high === -Infinity) return null;
  if (shown.color === "time") high = page.dataset.steps.at(-1);
  return scaleOf(shown.color, 0, high > 0 ? high : 1);
}

function sayLegend() {
  const { seed, num_seeds, numbers, common_share } = values;
  const some = !colorMoves() && num_seeds < page.state.committed.length ? "first " : "";
  const source = seed !== null ? `seed ${seed}` : `${some}${count(num_seeds)} seed${num_seeds === 1 ? "" : "s"}`;
  const moves = colorMoves();
  const valueOf = (token) => numbers[moves ? (token - 1) * page.dataset.steps.length + shown.index : token - 1];
  const common = new Set(Array.from(common_share ?? [], (share, at) => (share >= COMMON ? at + 1 : 0)).filter(Boolean));
  text.markCommon(common);
  drawLegend({ scale, kind: shown.color, valueOf, tokens: page.tokens, common: common.size > 0 }, source);
}

function setStep(index) {
  shown.index = Math.max(0, Math.min(page.dataset.steps.length - 1, index));
  byId("step").value = shown.index;
  paint();
  chart.markStep(shown.index);
  remember();
}

function play(on) {
  clearInterval(playing);
  playing = null;
  byId("play").textContent = on ? "❚❚" : "▶";
  byId("reading").ariaLive = on ? "off" : "polite";
  if (!on) return;
  if (shown.index >= page.dataset.steps.length - 1) setStep(0);
  const last = Math.log1p(page.dataset.steps.at(-1));
  let place = Math.log1p(page.dataset.steps[shown.index]);
  playing = setInterval(() => {
    place += last / PLAY_FRAMES; // even in the logarithm of the step: early training is not over at once
    const step = Math.expm1(place);
    let index = shown.index;
    while (index + 1 < page.dataset.steps.length && page.dataset.steps[index + 1] <= step + 1e-6) index++;
    if (index !== shown.index) setStep(index);
    if (index >= page.dataset.steps.length - 1 || place >= last) {
      setStep(page.dataset.steps.length - 1);
      play(false);
    }
  }, PLAY_MS);
}

// ---- the chosen token

function choose(token) {
  performance.mark("choose", { startTime: window.event?.timeStamp ?? performance.now() });
  shown.token = token;
  byId("token-panel").hidden = false;
  byId("token-hint").hidden = true;
  mark();
  remember(true);
  return loadPanel();
}

const markFound = () => text.markFound(new Set(placesHere().flatMap(({ token, last }) => range(token, last))));
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

function mark() {
  text.choose(
    shown.token,
    shown.compared.filter(({ doc_id }) => doc_id === shown.document.doc_id).map(({ token }) => token),
  );
  readChosen(shown.token);
}

// A click in the chart: the text goes to that step, and the seed of a line that was meant stays in front.
function chooseInChart(seed, index) {
  play(false);
  if (colorMoves()) setStep(index);
  keepSeed(seed);
}

function keepSeed(seed) {
  shown.seed = seed === shown.seed ? null : seed;
  byId("seed").value = shown.seed ?? "";
  bringForward();
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

// ---- controls

const KEYS = {
  "← →": ["token before, after", null],
  "↑ ↓": ["document before, after", null],
  space: ["play training", null],
  "[ ]": ["checkpoint before, after", null],
  l: ["logarithmic or linear steps", () => byId("log").click()],
  f: ["fits", () => byId("fits").click()],
  s: ["a color per seed", () => byId("by-seed").click()],
  c: ["keep the token for comparison", () => byId("compare").click()],
  "+ - 0": ["zoom in, out, all", null],
  "/": ["find in all documents", () => byId("find").focus()],
  o: ["overview", () => byId("view-overview").click()],
  d: ["document", () => byId("view-document").click()],
  r: ["raster of all its tokens", () => byId("view-raster").click()],
  "?": ["these keys", () => byId("help").showModal()],
};

function nextDocument(by) {
  const at = page.dataset.documents.indexOf(shown.document);
  const next = page.dataset.documents[at + by];
  if (next) openDocument(next);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.closest("select, input, textarea")) return;
  const pressing = event.target.closest("button, summary, tr") && [" ", "Enter"].includes(event.key);
  if (pressing) return;
  const inDocument = shown.view === "document" && shown.document;
  const nextToken = (by) => {
    const next = (shown.token ?? (by > 0 ? 0 : 2)) + by;
    if (next >= 1 && next <= shown.document.num_losses) choose(next);
  };
  const actions = inDocument
    ? {
        ArrowRight: () => nextToken(1),
        ArrowLeft: () => nextToken(-1),
        ArrowDown: () => nextDocument(1),
        ArrowUp: () => nextDocument(-1),
        ...(colorMoves() && {
          " ": () => play(playing === null),
          "[": () => setStep(shown.index - 1),
          "]": () => setStep(shown.index + 1),
        }),
        "+": () => byId("zoom-in").click(),
        "-": () => byId("zoom-out").click(),
        0: () => byId("zoom-all").click(),
      }
    : {};
  const action = actions[event.key] ?? KEYS[event.key]?.[1];
  if (!action) return;
  event.preventDefault();
  action();
}

function control() {
  const on = (id, event, task) => byId(id).addEventListener(event, task);
  on("view-overview", "click", () => {
    showView("overview");
    remember(true);
  });
  on("view-document", "click", () =>
    openDocument(shown.document ?? page.dataset.documents[0], { token: shown.token }),
  );
  on("view-raster", "click", () => openRaster(shown.document ?? page.dataset.documents[0]));
  on("raster-document", "change", (event) =>
    openRaster(page.dataset.documents.find((one) => one.doc_id === Number(event.target.value)), { token: null }),
  );
  on("document-choice", "change", (event) =>
    openDocument(page.dataset.documents.find((one) => one.doc_id === Number(event.target.value))),
  );
  on("color", "change", (event) => {
    shown.color = event.target.value;
    remember();
    loadValues();
  });
  on("seed", "change", (event) => {
    shown.seed = event.target.value === "" ? null : Number(event.target.value);
    bringForward();
    remember();
    loadValues();
  });
  on("step", "input", (event) => {
    play(false);
    setStep(Number(event.target.value));
  });
  on("play", "click", () => play(playing === null));
  on("text", "pointerover", ({ target }) => readToken(Number(target.closest("[data-token]")?.dataset.token) || null));
  on("text", "pointerleave", () => readToken(null));
  on("compare", "click", () => {
    if (shown.token) pin(shown.document.doc_id, shown.token);
  });
  on("help-open", "click", () => byId("help").showModal());
  on("theme", "change", (event) => {
    setTheme(event.target.value);
  });
  addEventListener("keydown", onKey);
  addEventListener("popstate", () => followAddress());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  byId("keys").replaceChildren(
    ...Object.entries(KEYS).flatMap(([key, [meaning]]) => [element("dt", {}, key), element("dd", {}, meaning)]),
  );
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").value = theme;
  localStorage.setItem("theme", theme);
  repaint();
}

function repaint() {
  if (!page.dataset) return;
  if (shown.view === "overview") overview.redraw();
  if (shown.view === "raster") raster.draw();
  if (shown.document) paint(true);
  drawPanel();
}

async function start() {
  const theme = localStorage.getItem("theme");
  if (["light", "dark"].includes(theme)) setTheme(theme);
  page.dataset = await ask("dataset", () => getJson("/api/dataset"));
  if (!page.dataset) return;
  byId("dataset").textContent = page.dataset.name;
  byId("dataset").title =
    `${page.dataset.uri}${page.dataset.track && ` · track ${page.dataset.track}`} · identity ${page.dataset.identity_hash}`;
  sayCopy(page.dataset);
  startBeside(() => {
    remember();
    loadPanel();
  });
  byId("step").max = page.dataset.steps.length - 1;
  startDocuments(openDocument);
  startFind({
    onOpen: (opened, token) => openDocument(opened, { token }),
    onFound: markFound,
  });
  byId("raster-document").replaceChildren(
    ...page.dataset.documents.map((one) => element("option", { value: one.doc_id }, one.name)),
  );
  twoSeeds = new TwoSeeds((opened, token) => openDocument(opened, { token }));
  raster = new Raster((token, index) => openDocument(shown.document, { token, index }));
  overview = new Overview((opened, token, step) =>
    openDocument(opened, { token, index: step === null ? null : nearestStep(step) }),
  );
  startPanel({ chooseInChart, unpin });
  control();
  await Promise.all([look(), loadSchedule()]);
  document.documentElement.dataset.ready = "yes";
  await followAddress();
  if (!isEmbedded) follow();
}

start();
