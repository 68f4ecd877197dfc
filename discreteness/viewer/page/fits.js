// parameters of a token's fits -> the fitted curve of each seed, as Fits.curve of discreteness/analysis/fits.py has it.

const SPAN = 2 * Math.log(9); // of a logistic function's argument, from 90 % of its height to 10 %

// base, origin: one per seed; times, widths, falls: a few terms per seed, NaN where it needs fewer.
// Returns Float32Array [seeds, steps].
export function fittedCurves({ base, origin, times, widths, falls }, steps) {
  const terms = times.length / base.length;
  const curves = new Float32Array(base.length * steps.length);
  for (let seed = 0; seed < base.length; seed++) {
    const octaves = (step) => Math.log2(1 + step / origin[seed]);
    const used = Array.from({ length: terms }, (_, term) => seed * terms + term).filter((at) => times[at] >= 0 || times[at] < 0);
    steps.forEach((step, at) => {
      let loss = base[seed];
      for (const term of used) {
        const place = (octaves(step) - octaves(times[term])) / widths[term];
        loss += falls[term] * (0.5 - 0.5 * Math.tanh(0.5 * SPAN * place));
      }
      curves[seed * steps.length + at] = loss;
    });
  }
  return curves;
}
