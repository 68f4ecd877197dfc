// The answers that a static page has in itself (static_page.py), in place of a server.

const elements = new Map(
  Array.from(document.querySelectorAll("script[data-path]"), (holder) => [holder.dataset.path, holder]),
);
export const isEmbedded = elements.size > 0;

async function unpacked(holder) {
  const letters = atob(holder.textContent);
  const packed = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  const unzipped = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unzipped).arrayBuffer();
}

// Unpacked once, and then kept: the documents that are looked at again.
const buffers = new Map();
function bufferOf(path) {
  if (!elements.has(path)) return null;
  if (!buffers.has(path)) buffers.set(path, unpacked(elements.get(path)));
  return buffers.get(path);
}

export async function embeddedJson(path) {
  const buffer = await bufferOf(path);
  return buffer && JSON.parse(new TextDecoder().decode(buffer));
}

const TOKEN = /^(.*)\/tokens\/(\d+)(\/fits)?$/;
const SEED = /^(.*)\/seeds\/(\d+)$/;

// read: buffer -> frame. A token and a seed are parts of their document's frame; null: it is not in this page.
export async function embeddedFrame(path, read) {
  const whole = await bufferOf(path);
  if (whole) return read(whole);
  const [, ofToken, token, fits] = TOKEN.exec(path) ?? [];
  const [, ofSeed, seed] = SEED.exec(path) ?? [];
  const found = await bufferOf(`${ofToken ?? ofSeed}/${fits ? "fits" : "curves"}`);
  if (!found) return null;
  const { committed } = await embeddedJson("/api/state");
  const { steps } = await embeddedJson("/api/dataset");
  const frame = read(found);
  const tokens = fits ? frame.base.length / committed.length : frame.mean.length / steps.length;
  if (ofSeed) return { seed: Number(seed), losses: ofOneSeed(frame.losses, committed.indexOf(Number(seed)), committed.length, steps.length) };
  const part = {};
  for (const [name, values] of Object.entries(frame)) {
    const size = values.length / tokens;
    part[name] = values.subarray((token - 1) * size, token * size);
  }
  return fits ? part : { ...part, seeds: Int32Array.from(committed), num_committed: committed.length };
}

// [tokens, seeds, steps] -> [tokens, steps]
function ofOneSeed(losses, row, seeds, steps) {
  const tokens = losses.length / seeds / steps;
  const found = new Float32Array(tokens * steps);
  for (let token = 0; token < tokens; token++) {
    const start = (token * seeds + row) * steps;
    found.set(losses.subarray(start, start + steps), token * steps);
  }
  return found;
}
