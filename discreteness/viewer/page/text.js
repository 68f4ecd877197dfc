// The text of a document: every token is a box that is colored, marked and chosen.

import { element } from "./dom.js";

// What a reader sees: spaces as dots, newlines as arrows before the break, and nothing that is invisible or that turns
// the line around; a token that is not a whole character as its bytes.
export function visibleParts({ text, bytes }) {
  if (bytes) return [{ mark: true, text: `⟨${bytes.match(/../g).join(" ")}⟩` }];
  return Array.from(text, (character) => {
    if (character === " ") return { mark: true, text: "·" };
    if (character === "\n") return { mark: true, text: "↵\n" };
    if (character === "\t") return { mark: true, text: "⇥\t" };
    if (/[\p{C}\p{Zl}\p{Zp}]/u.test(character)) {
      return { mark: true, text: `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩` };
    }
    return { mark: false, text: character };
  });
}

export const visibleText = (token) =>
  visibleParts(token)
    .map((part) => part.text.replace("\n", ""))
    .join("");

export function tokenContent(token, breaks = true) {
  return visibleParts(token).map(({ mark, text }) => {
    const shown = breaks ? text : text.replace("\n", "");
    return mark ? element("span", { class: "mark" }, shown) : shown;
  });
}

// A line break inside a box would draw it as two: one at its end stands behind it.
const breaksAtEnd = ({ text, bytes }) => (!bytes && /^[^\n]*(\n+)$/.exec(text)?.[1]) || "";

export class TextView {
  constructor(root, onToken) {
    this.root = root;
    this.boxes = [];
    root.addEventListener("click", (event) => {
      const box = event.target.closest("[data-token]");
      if (box) onToken(Number(box.dataset.token), event.shiftKey || event.ctrlKey || event.metaKey);
    });
  }

  setTokens(tokens) {
    this.tokens = tokens;
    this.shades = new Array(tokens.length).fill(null);
    this.boxes = tokens.slice(1).map((token, index) =>
      element(
        "span",
        {
          class: ["token", token.answer && "answer", !token.known && "unknown"].filter(Boolean).join(" "),
          "data-token": index + 1,
        },
        ...tokenContent(token, !breaksAtEnd(token)),
      ),
    );
    // The first token has no loss. It is a beginning-of-text token, or with some tokenizers the first word.
    const first = /^<[^\s<>]+>$/.test(tokens[0].text) ? ["⟨bos⟩"] : tokenContent(tokens[0], true);
    this.root.replaceChildren(
      element("span", { class: "bos", title: "beginning of the document: no loss" }, ...first),
      ...this.boxes.flatMap((box, index) => {
        const token = tokens[index + 1];
        return [...(/^\s/.test(token.text) ? [element("wbr")] : []), box, breaksAtEnd(token)];
      }),
    );
  }

  // values: one per token from token 1 on, in a strided array; only boxes whose shade changes are touched.
  paint(scale, values, offset = 0, stride = 1) {
    for (let index = 0; index < this.boxes.length; index++) {
      const shade = scale && values ? scale.shade(values[offset + index * stride]) : null;
      if (shade === this.shades[index]) continue;
      this.shades[index] = shade;
      this.boxes[index].style.backgroundColor = shade ? shade.css : "";
      this.boxes[index].style.color = shade ? shade.ink : "";
    }
  }

  // Tokens that the search found, and those whose drops all tokens share.
  markFound(tokens) {
    this.boxes.forEach((box, at) => box.classList.toggle("found", tokens.has(at + 1)));
  }

  markCommon(tokens) {
    this.boxes.forEach((box, at) => box.classList.toggle("common", tokens.has(at + 1)));
  }

  choose(chosen, compared) {
    for (const box of this.root.querySelectorAll(".chosen, .compared")) box.classList.remove("chosen", "compared");
    for (const token of compared) this.boxes[token - 1]?.classList.add("compared");
    const box = this.boxes[chosen - 1];
    box?.classList.add("chosen");
    box?.scrollIntoView({ block: "nearest" });
  }
}
