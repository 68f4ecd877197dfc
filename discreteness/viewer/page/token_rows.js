// The table of tokens without its drawing: its columns, which rows pass the filters, and in which order.

import { number } from "./dom.js";

export const COMMON = 0.5; // share of a token's drops from which on it counts as common

const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)} %` : "–");

// name: of the array that the server gives, or how rows are compared. down: the order that is wanted first.
export const COLUMNS = [
  { name: "word", label: "token", means: "the token after those before it", down: false },
  { name: "document", label: "document", means: "document and place of the token", down: false },
  {
    name: "time",
    label: "step",
    means: "median over seeds of the update at which it drops",
    down: false,
    show: number,
  },
  {
    name: "width",
    label: "octaves wide",
    means: "from 10 % to 90 % of the drop",
    down: false,
    show: (v) => number(v, 2),
  },
  { name: "fall", label: "nats", means: "height of the drop", down: true, show: (v) => number(v, 2) },
  { name: "drop_share", label: "seeds", means: "share of the seeds with a drop", down: true, show: percent },
  {
    name: "time_spread",
    label: "octaves between seeds",
    means: "standard deviation over seeds of the time of the drop",
    down: true,
    show: (v) => number(v, 2),
  },
  {
    name: "common_share",
    label: "common",
    means: "share of its drops that are gone when what all tokens share is taken out",
    down: true,
    show: percent,
  },
  { name: "evidence", label: "evidence", means: "median ΔBIC of its drops", down: true, show: (v) => number(v, 2) },
  { name: "final_loss", label: "final loss", means: "mean over seeds, nats", down: true, show: number },
  {
    name: "steepness",
    label: "nats per octave",
    means: "of the drop, times the share of seeds with one",
    down: true,
    show: (v) => number(v, 2),
  },
];
export const SAVED = [
  "drop_share",
  "time",
  "width",
  "fall",
  "time_spread",
  "steepness",
  "common_share",
  "evidence",
  "final_loss",
];

const has = ({ drop_share }, row) => drop_share[row] > 0;
// Which tokens: by their drops.
export const DROPS = {
  some: { label: "with a drop", words: "tokens with a drop", passes: has },
  own: {
    label: "with a drop of their own",
    words: "tokens with a drop of their own",
    passes: (found, row) => has(found, row) && found.common_share[row] < COMMON,
  },
  common: {
    label: "with a common drop",
    words: "tokens with a drop that all share",
    passes: (found, row) => found.common_share[row] >= COMMON,
  },
  none: { label: "without a drop", words: "tokens without a drop", passes: (found, row) => !has(found, row) },
  all: { label: "all", words: "tokens", passes: () => true },
};

// What is wanted as long as the reader says nothing else.
export const fresh = () => ({
  sort: "steepness",
  down: true,
  documents: "",
  category: "",
  drops: "some",
  answers: false,
  evidence: null,
});

// found: the frame of /api/drops; words: doc_id -> tokens; documents: doc_id -> document; wanted: as `fresh` has it.
// Returns the places of the rows in the frame.
export function rowsThatPass(found, words, documents, wanted) {
  const part = wanted.documents.toLowerCase();
  const pass = new Map(
    Array.from(documents.values(), ({ doc_id, name, category }) => [
      doc_id,
      (!wanted.category || category === wanted.category) && name.toLowerCase().includes(part),
    ]),
  );
  const rows = [];
  for (let row = 0; row < found.doc_id.length; row++) {
    if (!pass.get(found.doc_id[row]) || !DROPS[wanted.drops].passes(found, row)) continue;
    if (wanted.evidence !== null && !(found.evidence[row] >= wanted.evidence)) continue;
    if (wanted.answers && !words.get(found.doc_id[row])[found.token[row]].answer) continue;
    rows.push(row);
  }
  const sign = wanted.down ? -1 : 1;
  const texts = {
    word: (row) => words.get(found.doc_id[row])[found.token[row]].text,
    document: (row) => documents.get(found.doc_id[row]).name,
  }[wanted.sort];
  return rows.sort(texts ? byText(rows, texts, sign) : byNumber(found[wanted.sort], sign));
}

// What is alike stays in the order of the documents.
function byText(rows, textOf, sign) {
  const texts = new Map(rows.map((row) => [row, textOf(row)]));
  const { compare } = new Intl.Collator("en");
  return (a, b) => sign * compare(texts.get(a), texts.get(b)) || a - b;
}

// What is not measured comes last in both orders.
const byNumber = (values, sign) => (a, b) =>
  Number.isNaN(values[a]) - Number.isNaN(values[b]) || sign * (values[a] - values[b]) || a - b;
