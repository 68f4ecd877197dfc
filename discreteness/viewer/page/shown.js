// What is shown: the one place that knows it. The address says the same, so that every view can be linked to.

import { CURVE_COLORS, KINDS } from "./colors.js";

export const MAX_COMPARED = CURVE_COLORS.length - 1;

// What the server said: the dataset, its seeds (`state`), the tokens of the document that is shown, BOS first, and where
// the schedule changes, [{step, what}].
export const page = {
  dataset: null,
  state: { version: 0, committed: [], running: [], invalid: [], reading: {}, to_fit: 0, fitted: 0, fit_error: null },
  tokens: [],
  changes: [],
};

// What the reader chose. index: of the step among all; range: [from, to] in steps, or null for all of them.
export const shown = {
  view: "overview",
  document: null,
  token: null,
  index: null,
  color: "loss",
  seed: null,
  log: true,
  fits: false,
  bySeed: false,
  beside: true,
  order: "text",
  compared: [],
  range: null,
};

// Parts of the page that have more to keep in the address: {write(query), read(query, unknown)}.
const kept = [];
export const keepInAddress = (part) => kept.push(part);

function addressOf() {
  const query = new URLSearchParams();
  if (shown.view !== "overview" && shown.document) {
    if (shown.view === "raster") query.set("view", "raster");
    if (shown.order !== "text") query.set("rows", shown.order);
    query.set("document", shown.document.name);
    if (shown.token) query.set("token", shown.token);
    if (shown.index !== null && shown.index !== page.dataset.steps.length - 1)
      query.set("step", page.dataset.steps[shown.index]);
    if (shown.color !== "loss") query.set("color", shown.color);
    if (shown.seed !== null) query.set("seed", shown.seed);
    if (!shown.log) query.set("steps", "linear");
    if (shown.fits) query.set("fits", "1");
    if (shown.bySeed) query.set("lines", "seed");
    if (!shown.beside) query.set("beside", "0");
    if (shown.compared.length)
      query.set("compare", shown.compared.map(({ doc_id, token }) => `${doc_id}.${token}`).join("_"));
    if (shown.range) query.set("zoom", shown.range.join("-"));
  }
  for (const part of kept) part.write(query);
  return query.size ? `?${query}` : location.pathname;
}

let remembering = 0;
export function remember(push = false) {
  clearTimeout(remembering);
  const write = () => history[push ? "pushState" : "replaceState"](null, "", addressOf());
  if (push) write();
  else remembering = setTimeout(write, 150);
}

// Whatever the address asks for is looked up among what exists; the rest is said and left out.
// Returns the document and where in it, and what was unknown.
export function readAddress() {
  const query = new URLSearchParams(location.search);
  const unknown = [];
  const known = (name, found) => {
    if (found === undefined && query.has(name)) unknown.push(`${name} ${query.get(name)}`);
    return found;
  };
  const integer = (value) => (/^\d{1,9}$/.test(value ?? "") ? Number(value) : undefined);
  const document = known(
    "document",
    page.dataset.documents.find(({ name }) => name === query.get("document")),
  );
  const exists = (doc, token) => doc && token >= 1 && token <= doc.num_losses;
  const seeds = [...page.state.committed, ...page.state.running.map(({ seed }) => seed)];
  const seed = integer(query.get("seed"));
  Object.assign(shown, {
    color: known("color", Object.hasOwn(KINDS, query.get("color") ?? "") ? query.get("color") : undefined) ?? "loss",
    seed: known("seed", seeds.includes(seed) ? seed : undefined) ?? null,
    log: query.get("steps") !== "linear",
    fits: query.get("fits") === "1",
    bySeed: query.get("lines") === "seed",
    beside: query.get("beside") !== "0",
    order: query.get("rows") === "time" ? "time" : "text",
  });
  const token =
    known("token", exists(document, integer(query.get("token"))) ? integer(query.get("token")) : undefined) ?? null;
  const step = known("step", integer(query.get("step")));
  const index = step === undefined ? null : nearestStep(step);
  const zoom = /^(\d{1,9})-(\d{1,9})$/.exec(query.get("zoom") ?? "");
  shown.range =
    known("zoom", zoom && Number(zoom[1]) < Number(zoom[2]) ? [Number(zoom[1]), Number(zoom[2])] : undefined) ?? null;
  shown.compared = (query.get("compare") ?? "")
    .split("_")
    .filter(Boolean)
    .slice(0, MAX_COMPARED)
    .flatMap((entry) => {
      const [, doc_id, at] = /^(\d{1,9})\.(\d{1,9})$/.exec(entry) ?? [];
      const found = page.dataset.documents.find((one) => one.doc_id === Number(doc_id));
      if (exists(found, Number(at))) return [{ doc_id: found.doc_id, token: Number(at) }];
      unknown.push(`compare ${entry}`);
      return [];
    });
  for (const part of kept) part.read(query, unknown);
  return { document, token, index, unknown, asRaster: query.get("view") === "raster" };
}

export function nearestStep(step) {
  let nearest = 0;
  page.dataset.steps.forEach((one, index) => {
    if (Math.abs(one - step) <= Math.abs(page.dataset.steps[nearest] - step)) nearest = index;
  });
  return nearest;
}
