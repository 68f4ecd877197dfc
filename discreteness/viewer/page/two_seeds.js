// Learning times of two seeds, laid against each other: a point per token that both learn in a drop.

import { getFrame } from "./api.js";
import { byId, count, element, number } from "./dom.js";
import { ask } from "./notices.js";
import { page } from "./shown.js";
import { median } from "./statistics.js";

const SIZE = 420;
const MARGIN = { left: 54, right: 12, top: 10, bottom: 44 };
const NEAR_ERRORS = 2;
const MANY = 300; // points, which are drawn smaller

// Tokens that have a drop in both: [{doc_id, token, times: [a, b], errors: [a, b]}].
export function inBoth(first, second) {
  const places = new Map(Array.from(second.token, (token, at) => [`${second.doc_id[at]}.${token}`, at]));
  return Array.from(first.token).flatMap((token, at) => {
    const other = places.get(`${first.doc_id[at]}.${token}`);
    if (other === undefined) return [];
    return [
      {
        doc_id: first.doc_id[at],
        token,
        times: [first.time[at], second.time[other]],
        errors: [first.error[at], second.error[other]],
      },
    ];
  });
}

// Octaves of step + 1 between the two times.
export const apart = ({ times: [a, b] }) => Math.abs(Math.log2((a + 1) / (b + 1)));

// Whether the times are as near as their errors allow.
const agree = (one) => apart(one) <= NEAR_ERRORS * Math.hypot(...one.errors);

export class TwoSeeds {
  // onOpen(document, token)
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.choices = [byId("first-seed"), byId("second-seed")];
    for (const choice of this.choices) choice.addEventListener("change", () => this.load());
  }

  async load() {
    const { committed } = page.state;
    byId("two-seeds").hidden = committed.length < 2;
    if (committed.length < 2) return;
    this.choices.forEach((choice, at) => {
      if (choice.dataset.seeds === committed.join()) return;
      const before = choice.value;
      choice.dataset.seeds = committed.join();
      choice.replaceChildren(...committed.map((seed) => element("option", { value: seed }, seed)));
      choice.value = committed.includes(Number(before)) && before !== "" ? before : committed[at];
    });
    const seeds = this.choices.map((choice) => Number(choice.value));
    const found = await ask("two-seeds", () => Promise.all(seeds.map((seed) => getFrame(`/api/seeds/${seed}/drops`))));
    if (!found || this.choices.some((choice, at) => Number(choice.value) !== seeds[at])) return;
    this.draw(seeds, found);
  }

  draw(seeds, [first, second]) {
    if (!first.analyzed || !second.analyzed) {
      byId("two-seeds-hint").textContent = "Times of single seeds come from discreteness analyze, which has not been run on both.";
      return byId("two-seeds-chart").replaceChildren();
    }
    const points = inBoth(first, second);
    const share = Math.round((100 * points.filter(agree).length) / points.length);
    byId("two-seeds-hint").textContent = points.length
      ? `${count(points.length)} tokens have a drop in both (${count(first.token.length)} in seed ${seeds[0]}, ${count(second.token.length)} in seed ${seeds[1]}); its times are ${number(median(points.map(apart)))} octaves apart in the median, and in ${share} % of the tokens not further than two standard errors of their difference. Bars: one standard error. On the line, both learn it at the same step. A click opens the token.`
      : "No token has a drop in both.";
    byId("two-seeds-chart").replaceChildren(this.chart(seeds, points));
  }

  chart(seeds, points) {
    const last = Math.log1p(page.dataset.steps.at(-1));
    const inner = SIZE - MARGIN.left - MARGIN.right;
    const share = (time) => Math.max(0, Math.min(1, Math.log1p(Math.max(0, time)) / last));
    const x = (time) => MARGIN.left + share(time) * inner;
    const y = (time) => MARGIN.top + (1 - share(time)) * inner;
    const base = MARGIN.top + inner;
    const ends = (time, error) => [-error, error].map((octaves) => (time + 1) * 2 ** octaves - 1);
    const bars = points
      .filter(({ errors }) => errors.every(Number.isFinite))
      .flatMap(({ times: [a, b], errors }) => {
        const [[left, right], [low, high]] = [ends(a, errors[0]), ends(b, errors[1])];
        return [`M${x(left)} ${y(b)}H${x(right)}`, `M${x(a)} ${y(low)}V${y(high)}`];
      });
    const ticks = [0, 1, 10, 100, 1000, 10000].filter((step) => step <= page.dataset.steps.at(-1));
    const names = new Map(page.dataset.documents.map((document) => [document.doc_id, document]));
    return element(
      "svg",
      { viewBox: `0 0 ${SIZE} ${base + MARGIN.bottom}`, role: "img", "aria-label": `learning times of seeds ${seeds.join(" and ")}` },
      element("path", { d: `M${MARGIN.left} ${MARGIN.top}V${base}H${MARGIN.left + inner}`, class: "diagonal" }),
      ...ticks.flatMap((step) => [
        element("text", { x: x(step), y: base + 16, class: "tick" }, count(step)),
        element("text", { x: MARGIN.left - 18, y: y(step) + 4, class: "tick" }, count(step)),
      ]),
      element("text", { x: MARGIN.left + inner / 2, y: base + 36, class: "tick" }, `step, seed ${seeds[0]}`),
      element("text", { transform: `translate(12 ${MARGIN.top + inner / 2}) rotate(-90)`, class: "tick" }, `step, seed ${seeds[1]}`),
      element("path", { d: bars.join(""), class: "errors" }),
      ...points.map((one) => this.point(names.get(one.doc_id), one, seeds, { cx: x(one.times[0]), cy: y(one.times[1]), r: points.length > MANY ? 1.8 : 3 })),
      element("path", { d: `M${x(0)} ${y(0)}L${MARGIN.left + inner} ${MARGIN.top}`, class: "equal" }),
    );
  }

  point(document, { token, times }, seeds, place) {
    const said = `${document.name}:${token}, at step ${number(times[0])} in seed ${seeds[0]}, ${number(times[1])} in seed ${seeds[1]}`;
    const open = () => this.onOpen(document, token);
    return element("circle", { ...place, class: "point", onclick: open }, element("title", {}, said));
  }
}
