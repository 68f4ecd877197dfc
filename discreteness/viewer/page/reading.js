// The colors of the text read off: the scale with what else the text shows, and the value of one token in words.

import { byId, element, number } from "./dom.js";
import { visibleText } from "./text.js";

// A value in words, and what it means that there is none.
const WORDS = {
  loss: { says: (value) => `loss ${number(value)} nats`, none: "not measured" },
  deviation: { says: (value) => `standard deviation ${number(value)} nats`, none: "not measured in two seeds" },
  time: { says: (value) => `learned at step ${number(value)}`, none: "no drop" },
  sharpness: { says: (value) => `its drop takes ${number(value)} octaves`, none: "no drop" },
  "time-spread": { says: (value) => `${number(value)} octaves between seeds`, none: "no drop that two seeds share" },
};

let scale = null;
let valueOf = null; // token -> its value, or null as long as there are no values
let kind = "loss";
let tokens = [];
let chosen = null;

// given: {scale, kind, valueOf, tokens, common}; source: of which seeds; scale null: nothing is measured.
export function drawLegend(given, source) {
  ({ scale, kind, valueOf, tokens } = given);
  byId("legend").replaceChildren(...(scale ? scaleParts(source) : [`nothing measured · ${source}`]));
  byId("legend-keys").replaceChildren(...keys(given.common));
  readToken(null);
}

// What is said as long as there is no scale, and why.
export function noLegend(words) {
  scale = valueOf = null;
  byId("legend").replaceChildren(words);
  byId("legend-keys").replaceChildren();
  byId("reading").replaceChildren();
}

function scaleParts(source) {
  const canvas = element("canvas", { width: scale.shades.length, height: 1 });
  const context = canvas.getContext("2d");
  scale.shades.forEach((shade, x) => {
    context.fillStyle = shade.css;
    context.fillRect(x, 0, 1, 1);
  });
  const bar = element("span", { class: "color-bar" }, canvas, element("span", { class: "pointer", hidden: true }));
  return [number(scale.low), bar, `${number(scale.high)} ${scale.label} · ${source}`];
}

function keys(common) {
  const values = tokens.slice(1).map((_, at) => valueOf(at + 1));
  const parts = [];
  const key = (looks, means) => parts.push(element("span", {}, looks, ` ${means}`));
  if (values.some((value) => !Number.isFinite(value))) key(element("span", { class: "swatch" }), WORDS[kind].none);
  if (common) key(element("span", { class: "sample-common" }, "a"), "a drop that all tokens share");
  if (tokens.some(({ answer }) => answer)) key(element("span", { class: "sample-answer" }, "a"), "answer");
  if (tokens.some(({ known }, at) => at && !known))
    key(element("span", { class: "sample-unknown" }, "a"), "no row of its own");
  return parts;
}

// token: the one under the pointer; null: the chosen one.
export function readToken(token) {
  const one = token ?? chosen;
  const value = one !== null && tokens[one] && valueOf ? valueOf(one) : null;
  const pointer = byId("legend").querySelector(".pointer");
  if (pointer) {
    pointer.hidden = !Number.isFinite(value) || value === null;
    if (!pointer.hidden) pointer.style.left = `${100 * scale.place(value)}%`;
  }
  if (value === null) return byId("reading").replaceChildren(hint());
  const { answer, known } = tokens[one];
  const words = [
    `token ${one}`,
    Number.isFinite(value) ? WORDS[kind].says(value) : WORDS[kind].none,
    ...(answer ? ["answer"] : []),
    ...(known ? [] : ["no row of its own"]),
  ];
  byId("reading").replaceChildren(element("b", {}, visibleText(tokens[one])), ` ${words.join(" · ")}`);
}

export function readChosen(token) {
  chosen = token;
  readToken(null);
}

const hint = () => "Point at a token to read its value; click it, or press →, to see its curves.";
