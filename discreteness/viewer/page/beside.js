// A second dataset, laid over the first: `discreteness view A B`. Its answers are below /beside.

import { byId } from "./dom.js";
import { page, shown } from "./shown.js";

// Entries of the chart, each followed by its twin in the second dataset.
export function withTwins(entries) {
  const { beside } = page.dataset;
  if (!beside || !shown.beside) return entries;
  return entries.flatMap((entry) => [entry, { doc_id: beside.documents[entry.doc_id], token: entry.token, beside: true, of: entry.doc_id }]);
}

export const pathOf = ({ doc_id, token, beside }) =>
  `${beside ? "/beside" : ""}/api/documents/${doc_id}/tokens/${token}`;

export const isSame = (one, other) =>
  one.doc_id === other.doc_id && one.token === other.token && Boolean(one.beside) === Boolean(other.beside);

// Of an entry: the document of the first dataset, which has the same name and tokens.
export const documentOf = ({ doc_id, of }) => page.dataset.documents.find((one) => one.doc_id === (of ?? doc_id));

export const datasetOf = ({ beside }) => (beside ? page.dataset.beside.name : page.dataset.name);

// Button and header, once; onChange: the second dataset was switched on or off.
export function startBeside(onChange) {
  const { beside, name } = page.dataset;
  const button = byId("beside");
  button.hidden = !beside;
  if (!beside) return;
  byId("dataset").textContent = `${name} and ${beside.name}`;
  button.textContent = beside.name;
  button.title = ["the second dataset's curves", ...(beside.left_out.length ? [`not compared: ${beside.left_out.join("; ")}`] : [])].join("; ");
  byId("copy").textContent = `Text and overview: ${name}. Curves of ${beside.name} lie over them.${beside.left_out.length ? ` Not compared: ${beside.left_out.join("; ")}.` : ""}`;
  byId("copy").hidden = false;
  button.addEventListener("click", () => {
    shown.beside = !shown.beside;
    onChange();
  });
}
