// paths of the server -> JSON, or frames (see frames.py): named Float32Array and Int32Array views of one buffer.

import { embeddedFrame, embeddedJson, isEmbedded } from "./embedded.js";

export class ServerError extends Error {}

const TYPES = { float32: Float32Array, int32: Int32Array };

const AGAIN_MS = 300;

// Browsers end requests, to this machine too, when a network comes or goes: so a second try.
async function get(path) {
  const answer = () => fetch(`.${path}`); // from this page on: a proxy may show it below a path of its own
  const again = () => new Promise((resolve) => setTimeout(resolve, AGAIN_MS)).then(answer);
  let response;
  try {
    response = await answer().catch(again);
  } catch {
    throw new ServerError("the viewer does not answer: is `discreteness view` still running?");
  }
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch {
    /* not one of our own errors */
  }
  throw new ServerError(message);
}

// In a static page the answers are there already.
const there = (answer) => {
  if (answer) return answer;
  throw new ServerError("This page is a copy and does not have that.");
};

export const getJson = async (path) => (isEmbedded ? there(await embeddedJson(path)) : (await get(path)).json());

export const getFrame = async (path) =>
  isEmbedded ? there(await embeddedFrame(path, frameOf)) : frameOf(await (await get(path)).arrayBuffer());

function frameOf(buffer) {
  const headBytes = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headBytes)));
  const frame = { ...head.meta };
  for (const [name, { dtype, shape, offset }] of Object.entries(head.arrays)) {
    const length = shape.reduce((product, size) => product * size, 1);
    frame[name] = new TYPES[dtype](buffer, 4 + headBytes + offset, length);
  }
  return frame;
}
