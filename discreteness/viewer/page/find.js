// The box that finds tokens and texts in all documents: what it found, grouped by document, and the keys to go there.

import { byId, count, element } from "./dom.js";
import { ask } from "./notices.js";
import { search } from "./search.js";
import { keepInAddress, page, remember, shown } from "./shown.js";
import { tokenContent } from "./text.js";
import { allWords, contextOf } from "./words.js";

const PER_DOCUMENT = 4;
const MOST = 120;
const NAMES = 6;
const AFTER = 6; // tokens shown behind a match

const find = { query: "", whole: false };
let results = []; // [{document, places}]
let all = new Set(); // doc_ids of which every place is shown
let active = -1;
let onOpen; // (document, token or null)
let onFound; // (): the text marks what was found in it

// Places of the query in the document that is shown: [{token, last}].
export const placesHere = () => results.find(({ document }) => document === shown.document)?.places ?? [];

export function startFind(given) {
  ({ onOpen, onFound } = given);
  const box = byId("find");
  keepInAddress({ write, read });
  box.addEventListener("input", () => {
    find.query = box.value;
    all = new Set();
    remember();
    run();
  });
  byId("find-whole").addEventListener("change", (event) => {
    find.whole = event.target.checked;
    remember();
    run();
    box.focus();
  });
  box.addEventListener("focus", () => run());
  box.addEventListener("keydown", onKey);
  byId("search").addEventListener("focusout", (event) => {
    if (!byId("search").contains(event.relatedTarget)) close();
  });
  // Pressing on a result must not take the focus from the box, which would close the list before the click.
  byId("found-list").addEventListener("pointerdown", (event) => event.preventDefault());
}

function write(query) {
  if (find.query) query.set("find", find.query);
  if (find.query && find.whole) query.set("whole", "1");
}

function read(query) {
  find.query = (query.get("find") ?? "").slice(0, 200);
  find.whole = query.get("whole") === "1";
  byId("find").value = find.query;
  byId("find-whole").checked = find.whole;
  run(false);
}

async function run(opens = true) {
  const { query, whole } = find;
  const words = query && (await ask("words", allWords));
  if (query !== find.query || whole !== find.whole) return;
  results = words ? search(page.dataset.documents, words, query, whole) : [];
  onFound();
  if (!opens || !query) return close();
  if (words) draw(words);
}

function close() {
  byId("found").hidden = true;
  byId("find").setAttribute("aria-expanded", "false");
  byId("find").removeAttribute("aria-activedescendant");
  active = -1;
}

// ---- what was found

const total = () => results.reduce((sum, { places }) => sum + places.length, 0);

function draw(words) {
  const needle = find.query.toLowerCase();
  const named = page.dataset.documents.filter(({ name }) => name.toLowerCase().includes(needle)).slice(0, NAMES);
  const groups = [];
  if (named.length)
    groups.push(
      group(
        "documents by name",
        named.map((one) => option([one.name], () => go(one, null))),
      ),
    );
  let left = MOST;
  for (const { document, places } of results) {
    if (left <= 0) break;
    const some = places.slice(0, all.has(document.doc_id) ? left : Math.min(left, PER_DOCUMENT));
    left -= some.length;
    const options = some.map((place) =>
      option(line(words.get(document.doc_id), place), () => go(document, place.token)),
    );
    if (some.length < places.length && left > 0)
      options.push(
        option([`${count(places.length - some.length)} more in ${document.name}`], () => more(document, words)),
      );
    groups.push(group(document.name, options, places.length));
  }
  byId("found-list").replaceChildren(...groups);
  const shownOnes = MOST - Math.max(0, left);
  const most = left <= 0 && shownOnes < total() ? `, the first ${count(shownOnes)} shown` : "";
  byId("found-count").textContent = total()
    ? `${count(total())} in ${count(results.length)} document${results.length === 1 ? "" : "s"}${most}`
    : "not found in any text";
  byId("found").hidden = false;
  byId("find").setAttribute("aria-expanded", "true");
  options().forEach((one, at) => {
    one.id = `found-${at}`;
  });
  activate(options().length ? 0 : -1);
}

const group = (name, options, places) =>
  element(
    "div",
    { role: "group", "aria-label": name },
    element(
      "div",
      { class: "group-name", "aria-hidden": "true" },
      element("span", {}, name),
      places ? count(places) : "",
    ),
    ...options,
  );

const option = (content, chosen) =>
  element("div", { role: "option", "aria-selected": "false", class: "option", onclick: chosen }, ...content);

function line(tokens, { token, last }) {
  const part = (some) => some.flatMap((one) => tokenContent(one, false));
  return [
    element("span", { class: "before" }, element("bdi", {}, ...part(contextOf(tokens, token).slice(0, -1)))),
    element("b", {}, ...part(tokens.slice(token, last + 1))),
    element("span", {}, ...part(tokens.slice(last + 1, last + 1 + AFTER))),
    element("small", {}, count(token)),
  ];
}

function more(document, words) {
  const at = active;
  all.add(document.doc_id);
  draw(words);
  activate(at);
}

function go(document, token) {
  close();
  onOpen(document, token);
  byId("text").focus({ preventScroll: true });
}

// ---- keys

const options = () => byId("found-list").querySelectorAll(".option");

function activate(at) {
  const list = options();
  list[active]?.setAttribute("aria-selected", "false");
  active = list.length ? Math.max(0, Math.min(list.length - 1, at)) : -1;
  const one = list[active];
  if (!one) return byId("find").removeAttribute("aria-activedescendant");
  one.setAttribute("aria-selected", "true");
  one.scrollIntoView({ block: "nearest" });
  byId("find").setAttribute("aria-activedescendant", one.id);
}

function onKey(event) {
  const open = !byId("found").hidden;
  const keys = {
    ArrowDown: () => (open ? activate(active + 1) : run()),
    ArrowUp: () => activate(active - 1),
    Enter: () => options()[active]?.click(),
    Escape: () => (open ? close() : event.target.blur()),
  };
  if (!keys[event.key] || event.isComposing) return;
  event.preventDefault();
  if (open || event.key !== "Enter") keys[event.key]();
}
