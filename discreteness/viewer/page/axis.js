// steps -> ticks of a logarithmic axis: round steps, and how far along the axis each is.

import { count } from "./dom.js";

const TICK_PX = 44;

export const placeOf = (step, last) => Math.log1p(step) / (Math.log1p(last) || 1);

// [{step, place, label}], place from 0 to 1: 0, the last step, and of 1, 3, 10, 30, ... those that have room on `width` px.
export function stepTicks(last, width) {
  const round = [];
  for (let power = 1; power < last; power *= 10) round.push(power, 3 * power);
  const room = TICK_PX / width;
  const ticks = [0, last];
  for (const step of round) {
    const place = placeOf(step, last);
    if (step < last && ticks.every((other) => Math.abs(placeOf(other, last) - place) >= room)) ticks.push(step);
  }
  return [...new Set(ticks)]
    .sort((a, b) => a - b)
    .map((step) => ({ step, place: placeOf(step, last), label: count(step) }));
}
