// What the analysis says of the dataset: its words, its shares beside what chance gives, where the schedule changes.

import { byId, count, element } from "./dom.js";
import { page } from "./shown.js";

const WIDTH = 220;
const HEIGHT = 20;

// name: of the number; chance: of the one that it must be compared with.
const SHARES = [
  {
    name: "drop_share",
    means: "curves with a drop",
    chance: "expected_false_share",
    of: "smooth curves with this noise",
  },
  { name: "grand_mean_drop_share", means: "seeds in which the mean of all tokens has a drop" },
  { name: "stable_share", means: "drops that half of the checkpoints show too" },
  { name: "common_share", means: "drops that all tokens share" },
  {
    name: "schedule_change_share",
    means: "drops where the schedule changes",
    chance: "schedule_change_chance",
    of: "drops spread evenly",
  },
  { name: "fall_share_in_drops", means: "of the fall of all curves, in drops" },
  {
    name: "single_r2",
    means: "variance that one sigmoid per token explains",
    chance: "single_r2_of_smooth_curves",
    of: "of smooth curves",
  },
];

const percent = (share) => (share < 0.0995 ? (100 * share).toFixed(1) : (100 * share).toFixed(0));

// "10 % (7.6 to 13)", as analyze writes it.
function inWords(value, [low, high]) {
  if (value === null) return "not measured";
  return `${percent(value)} %${low === null ? "" : ` (${percent(low)} to ${percent(high)})`}`;
}

let drawn = null;
export function drawFindings(found) {
  const { problem, paragraphs, numbers, seeds } = found;
  const root = byId("findings");
  // What is there stays, as the reader has unfolded it.
  const all = JSON.stringify([found, page.state.committed.length]);
  if (all === drawn) return;
  drawn = all;
  if (!paragraphs) {
    const why = problem ? `The analysis cannot be read: ${problem}. ` : "";
    const need = page.state.committed.length
      ? `${why}Which tokens are learned in a drop, and what chance alone would give, says: `
      : "No seeds yet. When some are committed, this says which tokens are learned in a drop: ";
    return root.replaceChildren(
      element("p", { class: "need" }, need, element("code", {}, `discreteness analyze ${page.dataset.uri}`)),
    );
  }
  const [[lead, ...first], ...others] = paragraphs;
  const later = page.state.committed.length - seeds;
  root.replaceChildren(
    element(
      "div",
      { class: "words" },
      element("p", { class: "lead" }, lead),
      folded("Means, how drops hold, one sigmoid, the onset", first, matchMedia("(min-width: 901px)").matches),
      folded(`${others.length > 1 ? "Across seeds, and what" : "What"} this does not show`, others.flat(), false),
      element(
        "p",
        { class: "hint" },
        `discreteness analyze, of ${count(seeds)} seed${seeds === 1 ? "" : "s"}` +
          (later > 0 ? `; ${count(later)} came later: run it again.` : "."),
      ),
    ),
    shares(numbers),
  );
}

const folded = (summary, parts, open) =>
  element("details", { open }, element("summary", {}, summary), ...parts.map((part) => element("p", {}, part)));

function shares(numbers) {
  const rows = SHARES.filter(({ name }) => numbers[name] !== null).map(({ name, means, chance, of }) => {
    const found = [numbers[name], numbers.intervals[name]];
    const null_ = chance && numbers[chance] !== null ? [numbers[chance], numbers.intervals[chance]] : null;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, means),
      element("td", {}, inWords(...found)),
      element("td", { class: "by-chance" }, null_ ? inWords(...null_) : "", null_ ? element("small", {}, of) : ""),
      element("td", { class: "dots" }, dots(found, null_)),
    );
  });
  return element(
    "table",
    { class: "shares" },
    element("caption", {}, "Shares, with 95 % intervals, beside what chance gives"),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...["", "found", "by chance"].map((head) => element("th", { scope: "col" }, head)),
        scaleHead(),
      ),
    ),
    element("tbody", {}, ...rows),
  );
}

const at = (share) => 4 + Math.max(0, Math.min(1, share)) * (WIDTH - 8);

function scaleHead() {
  const ticks = [0, 0.5, 1].map((share) =>
    element("text", { x: at(share), y: 13, class: ["tick-start", "tick", "tick-end"][2 * share] }, `${100 * share} %`),
  );
  return element(
    "th",
    { scope: "col", class: "dots", "aria-label": "on a scale from 0 to 100 %" },
    element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}` }, ...ticks),
  );
}

// Found: a filled dot with its interval; by chance: a hollow one below it.
function dots(found, chance) {
  const mark = ([value, [low, high]], y, which) => {
    const looks = { class: ["of-found", "of-chance"][which] };
    return [
      ...(low === null ? [] : [element("line", { x1: at(low), x2: at(high), y1: y, y2: y, ...looks })]),
      element("circle", { cx: at(value), cy: y, r: 3.2, ...looks }),
    ];
  };
  return element(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
    ...[0, 0.5, 1].map((share) => element("line", { x1: at(share), x2: at(share), y1: 0, y2: HEIGHT, class: "grid" })),
    ...mark(found, chance ? 6 : 10, 0),
    ...(chance ? mark(chance, 14, 1) : []),
  );
}
