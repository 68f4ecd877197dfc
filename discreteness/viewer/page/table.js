// The table of tokens: every token's drop, sorted by a column, filtered, a page of rows at a time.

import { byCategory } from "./documents.js";
import { byId, count, downloadCsv, element } from "./dom.js";
import { keepInAddress, page, remember } from "./shown.js";
import { tokenContent } from "./text.js";
import { COLUMNS, DROPS, fresh, rowsThatPass, SAVED } from "./token_rows.js";
import { contextOf } from "./words.js";

const ROWS = 60;
export class TokenTable {
  // onOpen(document, token)
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.wanted = fresh();
    this.most = ROWS;
    this.documents = new Map(page.dataset.documents.map((one) => [one.doc_id, one]));
    byId("table-category").append(
      ...Array.from(byCategory(page.dataset.documents).keys(), (one) => element("option", { value: one }, one)),
    );
    byId("table-drops").append(
      ...Object.entries(DROPS).map(([value, { label }]) => element("option", { value }, label)),
    );
    this.drawHead();
    keepInAddress({ write: (query) => this.write(query), read: (query, unknown) => this.read(query, unknown) });
    const on = (id, event, name, value) =>
      byId(id).addEventListener(event, ({ target }) => this.want({ [name]: value(target) }));
    on("table-documents", "input", "documents", (target) => target.value);
    on("table-category", "change", "category", (target) => target.value);
    on("table-drops", "change", "drops", (target) => target.value);
    on("table-answers", "change", "answers", (target) => target.checked);
    on("table-evidence", "input", "evidence", (target) => (target.value === "" ? null : Number(target.value)));
    byId("table-reset").addEventListener("click", () => this.want(fresh()));
    byId("table-more").addEventListener("click", () => this.draw((this.most += 5 * ROWS)));
    byId("table-csv").addEventListener("click", () => this.save());
  }

  // ---- what is wanted

  want(changes) {
    Object.assign(this.wanted, changes);
    this.most = ROWS;
    remember();
    this.drawControls();
    this.draw();
  }

  write(query) {
    const { sort, down, documents, category, drops, answers, evidence } = this.wanted;
    if (sort !== "steepness" || !down) query.set("sort", `${down ? "-" : ""}${sort}`);
    if (documents) query.set("documents", documents);
    if (category) query.set("category", category);
    if (drops !== "some") query.set("drops", drops);
    if (answers) query.set("answers", "1");
    if (evidence !== null) query.set("evidence", evidence);
  }

  read(query, unknown) {
    const among = (name, allowed) => {
      const asked = query.get(name) ?? "";
      if (!asked || allowed(asked)) return asked;
      unknown.push(`${name} ${asked}`);
      return "";
    };
    const sort = among("sort", (asked) => COLUMNS.some(({ name }) => name === asked.replace(/^-/, "")));
    const evidence = among("evidence", (asked) => /^\d{1,7}(\.\d{1,3})?$/.test(asked));
    this.wanted = {
      ...fresh(),
      ...(sort && { sort: sort.replace(/^-/, ""), down: sort.startsWith("-") }),
      documents: (query.get("documents") ?? "").slice(0, 200),
      category: among("category", (asked) => byCategory(page.dataset.documents).has(asked)),
      drops: among("drops", (asked) => Object.hasOwn(DROPS, asked)) || "some",
      answers: query.get("answers") === "1",
      evidence: evidence === "" ? null : Number(evidence),
    };
    this.drawControls();
    this.draw();
  }

  drawControls() {
    const { sort, down, documents, category, drops, answers, evidence } = this.wanted;
    if (byId("table-documents").value !== documents) byId("table-documents").value = documents;
    byId("table-category").value = category;
    byId("table-drops").value = drops;
    byId("table-answers").checked = answers;
    if (byId("table-evidence").valueAsNumber !== evidence) byId("table-evidence").value = evidence ?? "";
    const plain = JSON.stringify(this.wanted) === JSON.stringify(fresh());
    byId("table-reset").disabled = plain;
    for (const head of this.heads) {
      const sorted = head.dataset.column === sort;
      head.setAttribute("aria-sort", sorted ? (down ? "descending" : "ascending") : "none");
    }
  }

  // ---- what is there

  // found: the frame of /api/drops; words: doc_id -> tokens
  show(found, words) {
    Object.assign(this, { found, words });
    for (const value of ["own", "common"]) {
      const known = found.analyzed;
      const choice = byId("table-drops").querySelector(`[value=${value}]`);
      choice.disabled = !known;
      choice.textContent = DROPS[value].label + (known ? "" : " (after discreteness analyze)");
    }
    this.drawControls();
    this.draw();
  }

  rows() {
    return rowsThatPass(this.found, this.words, this.documents, this.wanted);
  }

  // ---- drawing

  drawHead() {
    this.heads = COLUMNS.map(({ name, label, means, down }) =>
      element(
        "th",
        { scope: "col", "data-column": name, title: means },
        element(
          "button",
          {
            type: "button",
            onclick: () => this.want({ sort: name, down: this.wanted.sort === name ? !this.wanted.down : down }),
          },
          label,
        ),
      ),
    );
    this.body = element("tbody");
    byId("table").replaceChildren(element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    byId("table").addEventListener("keydown", (event) => {
      const row = event.target.closest("tbody tr");
      const next = { ArrowDown: row?.nextSibling, ArrowUp: row?.previousSibling }[event.key];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
  }

  draw() {
    const { found } = this;
    if (!found) return;
    const rows = this.rows();
    const focused = document.activeElement?.closest("tbody tr")?.dataset.row;
    this.body.replaceChildren(...rows.slice(0, this.most).map((row) => this.drawRow(row)));
    this.body.querySelector(`[data-row="${focused}"]`)?.focus();
    const total = page.dataset.documents.reduce((sum, one) => sum + one.num_losses, 0);
    const fitted =
      page.dataset.documents.length > found.num_fitted
        ? `; ${count(found.doc_id.length)} of ${count(total)} tokens are fitted so far`
        : `, of ${count(total)} in all`;
    byId("table-count").textContent = found.num_fitted
      ? `${count(Math.min(rows.length, this.most))} of ${count(rows.length)} ${DROPS[this.wanted.drops].words}${this.filters()}${fitted}`
      : "";
    byId("table-more").hidden = rows.length <= this.most;
    byId("table-none").hidden = rows.length > 0 || !found.num_fitted;
  }

  filters() {
    const { documents, category, answers, evidence } = this.wanted;
    return documents || category || answers || evidence !== null ? " that pass the filters" : "";
  }

  drawRow(row) {
    const { found, words } = this;
    const document = this.documents.get(found.doc_id[row]);
    const token = found.token[row];
    const context = contextOf(words.get(document.doc_id), token);
    const open = () => this.onOpen(document, token);
    const numbers = COLUMNS.filter(({ show }) => show).map(({ name, show }) =>
      element("td", { class: "number" }, show(found[name][row])),
    );
    return element(
      "tr",
      {
        tabindex: 0,
        "data-row": row,
        onclick: open,
        onkeydown: (event) => {
          if (event.key === "Enter") open();
        },
      },
      element(
        "td",
        { class: "context" },
        element(
          "bdi",
          {},
          ...context.slice(0, -1).flatMap((one) => tokenContent(one, false)),
          element("b", {}, ...tokenContent(context.at(-1), false)),
        ),
      ),
      element("td", {}, `${document.name}:${token}`),
      ...numbers,
    );
  }

  // All rows that pass, not only those on the page.
  save() {
    if (!this.found) return;
    const { found, words } = this;
    const rows = this.rows().map((row) => {
      const document = this.documents.get(found.doc_id[row]);
      const token = words.get(document.doc_id)[found.token[row]];
      const values = SAVED.map((name) =>
        Number.isNaN(found[name][row]) ? "" : Number(found[name][row].toPrecision(9)),
      );
      return [
        document.doc_id,
        document.name,
        document.category,
        found.token[row],
        token.text,
        Number(token.answer),
        ...values,
      ];
    });
    const head = ["doc_id", "document", "category", "token_index", "token", "answer", ...SAVED];
    downloadCsv("tokens.csv", [head, ...rows]);
  }
}
