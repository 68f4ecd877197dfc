// a value on a scale -> a background and an ink that can be read on it, in light and dark.

const RAMPS = {
  heat: ["#fbfaf7", "#fdeccb", "#fbc98d", "#f2935f", "#d95a5a", "#a22f66", "#5d1a63"],
  time: ["#fde725", "#90d743", "#35b779", "#21918c", "#31688e", "#443983", "#440154"],
  sharp: ["#f4f7fb", "#d3e3f1", "#9fc8e2", "#5ba3cf", "#2b7bba", "#0b5394", "#07305f"],
  spread: ["#f7f5fa", "#e0dced", "#c3bddc", "#a195c6", "#7f6aae", "#5d3c94", "#3c1173"],
};
const DARK_RAMPS = {
  heat: ["#17181c", "#36203f", "#642560", "#a1375f", "#dc6350", "#f8a763", "#fde6b3"],
  time: RAMPS.time,
  sharp: ["#17191d", "#14283e", "#164267", "#216a9c", "#4797c8", "#8cc3e4", "#d6ecfa"],
  spread: ["#18171c", "#2a2140", "#443069", "#674f95", "#9179bd", "#bda9db", "#e9def7"],
};
const SHADES = 128;

// What tokens can be colored by. `steps`: the scale is logarithmic in training steps.
export const KINDS = {
  loss: { ramp: "heat", label: "loss (nats)" },
  deviation: { ramp: "spread", label: "standard deviation over seeds (nats)" },
  time: { ramp: "time", label: "learned at step", steps: true },
  sharpness: { ramp: "sharp", label: "octaves of steps it takes" },
  "time-spread": { ramp: "spread", label: "spread of learning time (octaves)" },
};

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function palette(anchors) {
  const stops = anchors.map(channels);
  return Array.from({ length: SHADES }, (_, shade) => {
    const place = (shade / (SHADES - 1)) * (stops.length - 1);
    const left = Math.min(Math.floor(place), stops.length - 2);
    const rgb = stops[left].map((from, at) => Math.round(from + (place - left) * (stops[left + 1][at] - from)));
    const light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140;
    return { rgb, css: `rgb(${rgb.join(" ")})`, ink: light ? "#14161a" : "#f6f6f2" };
  });
}

export const isDark = () =>
  document.documentElement.dataset.theme === "dark" ||
  (document.documentElement.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

// low, high: the values at the ends. `shade(value)`: {rgb, css, ink}, or null where there is no value; `place(value)`:
// how far along the scale it is, from 0 to 1.
export function scaleOf(kind, low, high) {
  const { ramp, steps, label } = KINDS[kind];
  const shades = palette((isDark() ? DARK_RAMPS : RAMPS)[ramp]);
  if (kind === "sharpness") shades.reverse();
  const along = steps ? (value) => Math.log1p(value) : (value) => value;
  const from = along(low);
  const span = along(high) - from || 1;
  const place = (value) => Math.max(0, Math.min(1, (along(value) - from) / span));
  const shade = (value) => (Number.isFinite(value) ? shades[Math.round(place(value) * (SHADES - 1))] : null);
  return { low, high, label, shades, shade, place };
}

// A color for every seed, and always the same: hues a golden angle apart, so that neighbours differ.
export const seedColor = (seed) => `hsl(${(seed * 137.508) % 360} 65% ${isDark() ? 65 : 42}%)`;

export const CURVE_COLORS = ["--curve-1", "--curve-2", "--curve-3", "--curve-4", "--curve-5", "--curve-6"];
