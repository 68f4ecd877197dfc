// The overview of all documents: heat map of losses over training, spectrum of learning times, the sharpest drops.

import { drawBars } from "./bars.js";
import { scaleOf } from "./colors.js";
import { byId, count, downloadCsv, element, number } from "./dom.js";
import { page } from "./shown.js";
import { tokenContent } from "./text.js";

const ROW_PX = 18;
const HEAT_PX = 900;

export class Overview {
  // onOpen(document, token or null, step or null)
  constructor(dataset, onOpen) {
    Object.assign(this, { dataset, onOpen });
    byId("seeds-differ").textContent = `Seeds: ${dataset.seeds_differ}.`;
    byId("table-csv").addEventListener("click", () => this.saveTable());
  }

  draw(found) {
    this.found = found;
    this.drawHeat(found);
    this.drawSpectrum(found);
    this.drawTable(found);
  }

  // Columns are equal parts of log(step + 1), each shows the last checkpoint before it.
  drawHeat({ heat, num_mean_seeds }) {
    const { documents, steps } = this.dataset;
    const first = num_mean_seeds < page.state.committed.length ? "the first " : "";
    byId("heat-hint").textContent =
      `Mean loss of ${first}${count(num_mean_seeds)} seed${num_mean_seeds === 1 ? "" : "s"}; a click opens the document at that step.`;
    const finite = heat.filter(Number.isFinite);
    const scale = scaleOf("loss", 0, finite.length ? finite.reduce((a, b) => Math.max(a, b)) : 1);
    const canvas = element("canvas", {
      width: HEAT_PX,
      height: documents.length,
      "aria-label": "mean loss of each document at each step",
      role: "img",
    });
    const context = canvas.getContext("2d");
    const image = context.createImageData(HEAT_PX, documents.length);
    const last = Math.log1p(steps.at(-1)) || 1;
    const stepAt = (share) => {
      const wanted = Math.expm1(share * last) + 1e-9;
      let index = 0;
      while (index + 1 < steps.length && steps[index + 1] <= wanted) index++;
      return index;
    };
    const columns = Array.from({ length: HEAT_PX }, (_, x) => stepAt(x / (HEAT_PX - 1)));
    documents.forEach((_, row) =>
      columns.forEach((index, x) => {
        const shade = scale.shade(heat[row * steps.length + index]);
        image.data.set(shade ? [...shade.rgb, 255] : [0, 0, 0, 0], (row * HEAT_PX + x) * 4);
      }),
    );
    context.putImageData(image, 0, 0);
    canvas.style.height = `${documents.length * ROW_PX}px`;
    const readout = element("p", { class: "readout", role: "status" });
    const place = (event) => {
      const row = Math.min(documents.length - 1, Math.floor(event.offsetY / ROW_PX));
      return { row, index: stepAt(Math.max(0, Math.min(1, event.offsetX / canvas.clientWidth))) };
    };
    canvas.addEventListener("mousemove", (event) => {
      const { row, index } = place(event);
      readout.textContent = `${documents[row].name} · step ${count(steps[index])} · ${number(heat[row * steps.length + index])} nats`;
    });
    canvas.addEventListener("click", (event) => {
      const { row, index } = place(event);
      this.onOpen(documents[row], null, steps[index]);
    });
    const names = documents.map((document) =>
      element(
        "button",
        { type: "button", title: document.name, onclick: () => this.onOpen(document, null, null) },
        document.name,
      ),
    );
    const rows = element("div", { class: "rows" }, element("div", { class: "names" }, ...names), canvas);
    byId("heatmap").replaceChildren(rows, readout);
    readout.textContent = `step 0 to ${count(steps.at(-1))}, logarithmic; color: 0 to ${number(scale.high)} nats`;
  }

  drawSpectrum({ edges, by_drops, measured, num_fitted, num_seeds, analyzed }) {
    const all = num_seeds >= page.state.committed.length;
    const sample = `the first ${count(num_seeds)} seeds (discreteness analyze fits all)`;
    const source = analyzed || all ? `${count(num_seeds)} seeds` : sample;
    byId("spectrum-hint").textContent = num_fitted
      ? `Bars: nats per octave that the mean loss loses in drops. Line: all that it loses. ${num_fitted} of ${this.dataset.documents.length} documents, ${source}.`
      : "";
    if (!num_fitted) return byId("spectrum").replaceChildren();
    const middle = (bin) => (edges[bin] + edges[bin + 1]) / 2;
    const step = (octave) => count(Math.round(2 ** octave - 1));
    const most = Math.max(...by_drops, ...measured);
    drawBars(byId("spectrum"), {
      edges: Array.from(edges),
      counts: Array.from(by_drops),
      most,
      ticks: Array.from(edges)
        .filter((edge) => Number.isInteger(edge))
        .map((at) => ({ at, label: step(at) })),
      title: (bin) =>
        `steps ${step(edges[bin])} to ${step(edges[bin + 1])}: ${number(by_drops[bin])} of ${number(measured[bin])} nats per octave`,
      axis: "step (logarithmic)",
      line: Array.from(measured, (value, bin) => ({ at: middle(bin), value })),
    });
  }

  drawTable({ tokens, num_fitted }) {
    byId("table-hint").textContent = num_fitted
      ? "By nats per octave of the drop, times the share of seeds with a drop."
      : "";
    const heads = ["token", "document", "step", "octaves wide", "nats", "seeds", "octaves between seeds"];
    const names = new Map(this.dataset.documents.map((document) => [document.doc_id, document]));
    const rows = tokens.map((entry) => {
      const document = names.get(entry.doc_id);
      const open = () => this.onOpen(document, entry.token, null);
      const before = entry.context.slice(0, -1).flatMap((token) => tokenContent(token, false));
      return element(
        "tr",
        {
          tabindex: 0,
          onclick: open,
          onkeydown: (event) => {
            if (event.key === "Enter") open();
          },
        },
        element(
          "td",
          { class: "context" },
          ...before.slice(-40),
          element("b", {}, ...tokenContent(entry.context.at(-1), false)),
        ),
        element("td", {}, `${document.name}:${entry.token}`),
        element("td", {}, number(entry.time)),
        element("td", {}, number(entry.width, 2)),
        element("td", {}, number(entry.fall, 2)),
        element("td", {}, `${Math.round(100 * entry.drop_share)} %`),
        element("td", {}, number(entry.time_spread ?? NaN, 2)),
      );
    });
    byId("table").replaceChildren(
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", {}, head)))),
      element("tbody", {}, ...rows),
    );
  }

  saveTable() {
    const values = ["drop_share", "time", "width", "fall", "time_spread", "steepness"];
    const names = new Map(this.dataset.documents.map((document) => [document.doc_id, document.name]));
    const rows = (this.found?.tokens ?? []).map((entry) => [
      entry.doc_id,
      names.get(entry.doc_id),
      entry.token,
      entry.context.at(-1).text,
      ...values.map((name) => entry[name] ?? ""),
    ]);
    downloadCsv("sharpest_drops.csv", [["doc_id", "document", "token_index", "token", ...values], ...rows]);
  }
}
