// What a static page says of itself: of when it is, and what was left out for its size.

import { byId, count } from "./dom.js";

export function sayCopy({ copy }) {
  if (!copy) return;
  const { day, seeds, shown, left_out, fits } = copy;
  const parts = [`A copy of ${day}, without a server.`];
  parts.push(left_out.length ? `Left out for its size: ${left_out.join(", ")}.` : "Nothing is left out.");
  if (shown < seeds) {
    parts.push(
      `Means, spreads and bands are over all ${count(seeds)} seeds; lines, final losses and fits are of the ${count(shown)} seeds that are here.`,
    );
  }
  if (!fits) {
    parts.push("There are no fits of single curves, since discreteness analyze had not been run.");
    byId("fits").disabled = true;
  }
  byId("copy").textContent = parts.join(" ");
  byId("copy").hidden = false;
}
