// Errors and other news: one place on the page, each as long as it holds.

import { ServerError } from "./api.js";
import { byId } from "./dom.js";

const notices = new Map();
export function notice(about, message) {
  if (message) notices.set(about, message);
  else notices.delete(about);
  byId("notice").textContent = [...notices.values()].join("\n");
  byId("notice").hidden = !notices.size;
}

// Runs what asks the server; an error is said on the page.
export async function ask(about, task) {
  try {
    const result = await task();
    notice(about, "");
    return result;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    notice(about, error.message);
    return null;
  }
}
