// The tokens of all documents, asked for once: what is searched, and the words before a token.

import { getJson } from "./api.js";
import { page } from "./shown.js";

const CONTEXT = 8;

let asked = null;
// doc_id -> tokens of the document, BOS first, as text.js shows them.
export function allWords() {
  asked ??= load().catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

async function load() {
  const { documents } = await getJson("/api/words");
  return new Map(page.dataset.documents.map(({ doc_id }, at) => [doc_id, tokensOf(documents[at])]));
}

function tokensOf({ texts, answers, unknown, bytes }) {
  const [answer, strange] = [new Set(answers), new Set(unknown)];
  return texts.map((text, at) => ({ text, answer: answer.has(at), known: !strange.has(at), bytes: bytes[at] }));
}

// The tokens before one, and itself as the last.
export const contextOf = (tokens, token) => tokens.slice(Math.max(1, token - CONTEXT), token + 1);
