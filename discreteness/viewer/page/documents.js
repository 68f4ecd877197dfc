// The list of documents: folded by category, filtered by name; and the same as a choice where the screen is narrow.

import { byId, count, element } from "./dom.js";
import { keepInAddress, page, remember, shown } from "./shown.js";

const OPEN_UP_TO = 60; // documents: with more, only the category of the one that is shown is unfolded

let filter = "";
let onOpen;

// Category -> its documents, in the dataset's order.
export function byCategory(documents) {
  const categories = new Map();
  for (const one of documents) {
    if (!categories.has(one.category)) categories.set(one.category, []);
    categories.get(one.category).push(one);
  }
  return categories;
}

export function startDocuments(open) {
  onOpen = open;
  keepInAddress({
    write: (query) => filter && query.set("list", filter),
    read: (query) => {
      filter = (query.get("list") ?? "").slice(0, 200);
      byId("list-filter").value = filter;
      draw();
    },
  });
  byId("list-filter").addEventListener("input", (event) => {
    filter = event.target.value;
    remember();
    draw();
  });
  byId("document-choice").replaceChildren(
    ...Array.from(byCategory(page.dataset.documents), ([category, documents]) =>
      element(
        "optgroup",
        { label: category },
        ...documents.map((one) => element("option", { value: one.doc_id }, one.name)),
      ),
    ),
  );
  draw();
}

function draw() {
  const { documents } = page.dataset;
  const wanted = documents.filter(({ name, category }) =>
    `${category}/${name}`.toLowerCase().includes(filter.toLowerCase()),
  );
  const categories = byCategory(wanted);
  const unfolded = filter !== "" || documents.length <= OPEN_UP_TO;
  byId("document-list").replaceChildren(
    ...(categories.size > 1 || byCategory(documents).size > 1
      ? Array.from(categories, ([category, some]) => folded(category, some, unfolded))
      : wanted.map(button)),
  );
  byId("list-count").textContent =
    wanted.length < documents.length ? `${count(wanted.length)} of ${count(documents.length)} documents` : "";
  markDocument();
}

const folded = (category, documents, open) =>
  element(
    "details",
    { open },
    element("summary", {}, element("span", {}, category), element("span", {}, count(documents.length))),
    ...documents.map(button),
  );

const button = (one) =>
  element(
    "button",
    { type: "button", "data-document": one.doc_id, title: one.name, onclick: () => onOpen(one) },
    element("span", {}, one.name.replace(/\.txt$/, "")),
    element("span", {}, one.num_losses),
  );

// The one that is shown is marked, unfolded, and in view.
export function markDocument() {
  for (const one of byId("document-list").querySelectorAll("button")) {
    const current = Number(one.dataset.document) === shown.document?.doc_id;
    one.setAttribute("aria-current", current);
    if (!current) continue;
    one.closest("details")?.setAttribute("open", "");
    one.scrollIntoView({ block: "nearest" });
  }
  byId("document-choice").value = shown.document?.doc_id ?? "";
}
