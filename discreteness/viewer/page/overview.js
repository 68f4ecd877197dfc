// The overview of all documents: what the analysis says, losses over training, the spectrum of learning times, tokens.

import { getFrame, getJson } from "./api.js";
import { stepTicks } from "./axis.js";
import { drawBars } from "./bars.js";
import { byId, count, number } from "./dom.js";
import { drawFindings } from "./findings.js";
import { HeatMap } from "./heat.js";
import { page } from "./shown.js";
import { marks, scheduleInWords } from "./schedule.js";
import { TokenTable } from "./table.js";
import { allWords } from "./words.js";

// What the overview shows, asked for at once.
export const askOverview = () =>
  Promise.all([getFrame("/api/overview"), getFrame("/api/drops"), getJson("/api/findings"), allWords()]);

export class Overview {
  // onOpen(document, token or null, step or null)
  constructor(onOpen) {
    byId("seeds-differ").textContent = `Seeds: ${page.dataset.seeds_differ}.`;
    this.heat = new HeatMap((document, step) => onOpen(document, null, step));
    this.table = new TokenTable((document, token) => onOpen(document, token, null));
    this.width = 0;
    new ResizeObserver(() => {
      const width = byId("overview").clientWidth;
      if (width && this.width && width !== this.width) this.redraw();
      this.width = width;
    }).observe(byId("overview"));
  }

  // given: what askOverview gave
  draw(given) {
    this.given = given;
    const [, drops, findings, words] = given;
    drawFindings(findings);
    this.drawTable(drops, words, findings);
    this.redraw();
  }

  // What depends on the theme and on the width.
  redraw() {
    if (!this.given) return;
    this.heat.draw(this.given[0]);
    this.drawSpectrum(this.given[0]);
  }

  drawSpectrum({ edges, by_drops, measured, by_chance, chance_low, chance_high, num_fitted, num_seeds, analyzed }) {
    byId("spectrum-hint").textContent = num_fitted ? this.spectrumWords(num_fitted, num_seeds, analyzed) : "";
    if (!num_fitted) return byId("spectrum").replaceChildren();
    const middle = (bin) => (edges[bin] + edges[bin + 1]) / 2;
    const step = (octave) => count(Math.round(2 ** octave - 1));
    const near = (bin) =>
      marks()
        .filter(({ step: at }) => Math.log2(at + 1) >= edges[bin] && Math.log2(at + 1) < edges[bin + 1])
        .map(({ label }) => ` · ${label}`)
        .join("");
    drawBars(byId("spectrum"), {
      edges: Array.from(edges),
      counts: Array.from(by_drops),
      most: Math.max(...by_drops, ...measured, ...(chance_high ?? []), 1e-12),
      ticks: stepTicks(page.dataset.steps.at(-1), byId("spectrum").clientWidth - 60).map(({ step: at, label }) => ({
        at: Math.log2(at + 1),
        label,
      })),
      title: (bin) =>
        `steps ${step(edges[bin])} to ${step(edges[bin + 1])}: ${number(by_drops[bin])} of ${number(measured[bin])} nats per octave` +
        (by_chance
          ? `; by chance ${number(by_chance[bin])} (${number(chance_low[bin])} to ${number(chance_high[bin])})`
          : "") +
        near(bin),
      axis: "step (logarithmic)",
      unit: "nats per octave",
      line: Array.from(measured, (value, bin) => ({ at: middle(bin), value })),
      chance: by_chance && { low: chance_low, high: chance_high },
      marks: marks().map(({ step: at, label }) => ({ at: Math.log2(at + 1), label })),
    });
  }

  spectrumWords(num_fitted, num_seeds, analyzed) {
    const all = num_seeds >= page.state.committed.length;
    const sample = `the first ${count(num_seeds)} seeds (discreteness analyze fits all)`;
    const source = analyzed || all ? `${count(num_seeds)} seed${num_seeds === 1 ? "" : "s"}` : sample;
    const chance = analyzed ? " Brackets: what drops of smooth curves with this noise would hold." : "";
    const schedule = page.changes.length ? " Dashed: changes of the schedule." : "";
    return `Bars: nats per octave that the mean loss loses in drops. Line: all that it loses.${chance}${schedule} ${num_fitted} of ${page.dataset.documents.length} documents, ${source}.`;
  }

  drawTable(drops, words, { numbers }) {
    const { num_fitted } = drops;
    const percent = (share) => `${number(100 * share, 2)} %`;
    const chance = numbers
      ? ` Of all curves ${percent(numbers.drop_share)} have a drop; by chance ${percent(numbers.expected_false_share)} would.`
      : "";
    byId("table-hint").textContent = num_fitted
      ? `Numbers are of the drop that most seeds share. A click on a heading sorts, a click on a row opens its curves.${chance}`
      : page.state.committed.length
        ? ""
        : "No seed is committed yet.";
    byId("schedule").textContent = page.changes.length ? `Schedule: ${scheduleInWords()}.` : "";
    this.table.show(drops, words);
  }
}
