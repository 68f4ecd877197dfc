// words + a query -> where it stands, document after document. A query without a capital letter ignores case.

const decoder = () => new TextDecoder("utf-8");

// The text of tokens (BOS first) and where each token ends in it. A character that is cut into several tokens belongs to
// the last one of them.
function textOf(tokens) {
  const ends = new Int32Array(tokens.length);
  const parts = [];
  let length = 0;
  let cut = decoder();
  tokens.forEach(({ text, bytes }, at) => {
    if (at > 0) {
      const part = bytes
        ? cut.decode(
            Uint8Array.from(bytes.match(/../g), (hex) => parseInt(hex, 16)),
            { stream: true },
          )
        : text;
      if (!bytes) cut = decoder();
      parts.push(part);
      length += part.length;
    }
    ends[at] = length;
  });
  return { text: parts.join(""), ends };
}

const texts = new WeakMap();
function keptText(tokens) {
  if (!texts.has(tokens)) texts.set(tokens, textOf(tokens));
  return texts.get(tokens);
}

// The token in which the character at a place is.
function tokenAt(ends, place) {
  let [low, high] = [1, ends.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > place) high = middle;
    else low = middle + 1;
  }
  return low;
}

// [{token, last}]: first and last token of each match. whole: only runs of whole tokens that spell just the query.
export function placesIn(tokens, query, whole) {
  const { text, ends } = keptText(tokens);
  const pattern = new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), /\p{Lu}/u.test(query) ? "gu" : "giu");
  const found = [];
  for (const { 0: match, index } of text.matchAll(pattern)) {
    const token = tokenAt(ends, index);
    const end = index + match.length;
    const last = tokenAt(ends, end - 1);
    if (!whole || (ends[token - 1] === index && ends[last] === end)) found.push({ token, last });
  }
  return found;
}

// [{document, places}] of the documents that have any.
export function search(documents, words, query, whole) {
  if (!query) return [];
  return documents
    .map((document) => ({ document, places: placesIn(words.get(document.doc_id), query, whole) }))
    .filter(({ places }) => places.length);
}
