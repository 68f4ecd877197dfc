// names, attributes, children -> elements. Text only ever becomes text nodes.

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "rect", "path", "line", "text", "title", "g", "clipPath", "circle"]);

export function element(name, attributes = {}, ...children) {
  const made = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const count = (value) => value.toLocaleString("en");

// Rounded to this many digits, large ones to a whole number: never with a positive exponent.
export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 10 ** digits - 0.5) return count(Math.round(value));
  return value
    .toPrecision(digits)
    .replace(/(\.\d*?)0+$/, "$1")
    .replace(/\.$/, "");
}

export function download(name, content) {
  const url = URL.createObjectURL(content);
  const link = element("a", { href: url, download: name.replace(/[^\w.-]+/g, "_") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Rows of numbers and texts; a text that means something in CSV is quoted.
export function downloadCsv(name, rows) {
  const field = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => row.map(field).join(",") + "\n");
  download(name, new Blob(lines, { type: "text/csv" }));
}
