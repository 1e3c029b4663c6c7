// The report's numbers: unpacking, looking points up, rates and their text.

const report = JSON.parse(document.getElementById("report-data").textContent);
const dimensions = report.coefficients.length;
const levelCount = report.levels.length;
const TICKS_PER_UNIT = 10000;

/** Unsigned integers from {width, data}; little-endian, as every browser's typed arrays are. */
function unpack(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  if (packed.width === 1) return bytes;
  return packed.width === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
}

// Each coefficient: `values` (ticks), `shown` (indices of the values that are drawn), `zero` (position in `shown`
// of the value nearest to the base model's), `indexOf` (ticks → index in `values`), `title` for axes.
const axes = report.coefficients.map((coefficient) => {
  const values = coefficient.values;
  const shown = coefficient.axis ?? values.map((_, index) => index);
  let zero = 0;
  shown.forEach((value, position) => {
    if (Math.abs(values[value]) < Math.abs(values[shown[zero]])) zero = position;
  });
  const title = coefficient.vector === coefficient.name || coefficient.vector === ""
    ? coefficient.name
    : `${coefficient.name} · ${coefficient.vector}`;
  return {
    ...coefficient,
    shown,
    zero,
    title,
    indexOf: new Map(values.map((value, index) => [value, index])),
    positionOf: new Map(shown.map((value, position) => [value, position])),
  };
});

const pointCoordinates = unpack(report.points);

/** A table from a point's value indices to its row: dense while that is small, else hashed. */
const rowOfPoint = (() => {
  const strides = new Array(dimensions).fill(1);
  for (let k = dimensions - 2; k >= 0; k -= 1) strides[k] = strides[k + 1] * axes[k + 1].values.length;
  const size = strides[0] * axes[0].values.length;
  const dense = size <= 4e6 ? new Int32Array(size).fill(-1) : null;
  const hashed = new Map();
  const keyOf = (indices, at) => {
    if (size > Number.MAX_SAFE_INTEGER) return Array.prototype.slice.call(indices, at, at + dimensions).join();
    let key = 0;
    for (let k = 0; k < dimensions; k += 1) key += indices[at + k] * strides[k];
    return key;
  };
  for (let row = 0; row < report.count; row += 1) {
    const key = keyOf(pointCoordinates, row * dimensions);
    if (dense) dense[key] = row; else hashed.set(key, row);
  }
  return (indices) => {
    const key = keyOf(indices, 0);
    return (dense ? dense[key] : hashed.get(key)) ?? -1;
  };
})();

/** The row of a point given in ticks; -1 when it was not measured. */
function rowOfTicks(ticks) {
  const indices = ticks.map((value, k) => axes[k].indexOf.get(value));
  return indices.includes(undefined) ? -1 : rowOfPoint(indices);
}

/** A point's ticks from its row. */
function ticksOfRow(row) {
  return axes.map((axis, k) => axis.values[pointCoordinates[row * dimensions + k]]);
}

const layers = report.layers.map((layer) => {
  const columns = levelCount + (layer.reading === "judgement" ? 2 : 0);
  const asked = unpack(layer.asked);
  const counts = unpack(layer.counts);
  const domains = report.domains.length;
  const rowsHere = asked.length / domains;
  let place = null;
  if (layer.rows) {
    place = new Int32Array(report.count).fill(-1);
    unpack(layer.rows).forEach((row, index) => { place[row] = index; });
  }
  const largest = report.domains.map((_, domain) => {
    let most = 0;
    for (let i = domain; i < asked.length; i += domains) most = Math.max(most, asked[i]);
    return most;
  });
  return {
    ...layer,
    rowsHere,
    largest,
    /** {n, at} with `at[level]` the queries at a level (judged: then unclear, refused); null if not measured. */
    tally(row, domain) {
      const index = row < 0 ? -1 : place ? place[row] : row;
      if (index < 0) return null;
      const n = asked[index * domains + domain];
      const start = (index * domains + domain) * columns;
      return n === 0 ? null : { n, at: counts.subarray(start, start + columns) };
    },
  };
});

/** The level that more queries are at than at any other; -1 on a tie or without results. */
function dominantLevel(tally) {
  let best = -1;
  let tied = false;
  for (let level = 0; level < levelCount; level += 1) {
    if (best < 0 || tally.at[level] > tally.at[best]) { best = level; tied = false; }
    else if (tally.at[level] === tally.at[best]) tied = true;
  }
  return tied || tally.at[best] === 0 ? -1 : best;
}

/** The 95 % score interval of `count` in `n` (Wilson, JASA 22, 1927). */
function wilson(count, n) {
  if (n === 0) return [0, 1];
  const z = 1.959963984540054;
  const p = count / n;
  const scale = 1 + (z * z) / n;
  const centre = (p + (z * z) / (2 * n)) / scale;
  const half = (z / scale) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

const aggregates = {
  min: (rates) => Math.min(1, ...rates),
  mean: (rates) => (rates.length ? rates.reduce((sum, rate) => sum + rate, 0) / rates.length : 1),
  product: (rates) => rates.reduce((product, rate) => product * rate, 1),
};

/**
 * How well a point answers a target in a layer: {value, achieved}, null where a domain was not measured.
 * A domain that shall stay as the base is compared with the level that dominates at the origin.
 */
function answerAt(layer, wanted, row) {
  const rates = [];
  let achieved = true;
  for (let domain = 0; domain < wanted.length; domain += 1) {
    const want = wanted[domain] === "base" ? baseLevel(layer, domain) : wanted[domain];
    if (want === "any") continue;
    const tally = layer.tally(row, domain);
    if (!tally || want < 0) return null;
    rates.push(tally.at[want] / tally.n);
    achieved = achieved && dominantLevel(tally) === want;
  }
  return { value: aggregates[report.aggregate](rates), achieved };
}

function baseLevel(layer, domain) {
  const tally = layer.tally(rowOfTicks(axes.map(() => 0)), domain);
  return tally ? dominantLevel(tally) : -1;
}

/** Ticks as the shortest decimal: 4000 → "0.4". A true minus by default; "-" for the command line. */
function decimal(ticks, minus = "\u2212") {
  const text = String(Math.abs(ticks) / TICKS_PER_UNIT);
  return ticks < 0 ? minus + text : text;
}

/** A point as the command line reads it. */
function pointText(ticks) {
  return ticks.map((value) => decimal(value, "-")).join(",");
}

/** "alpha = 0.4, beta = −1" */
function pointWords(ticks) {
  return ticks.map((value, k) => `${axes[k].name}\u00a0=\u00a0${decimal(value)}`).join(", ");
}

function percent(rate) {
  return `${Math.round(rate * 100)}\u00a0%`;
}

function grouped(number) {
  return number.toLocaleString("en-US");
}

function samePoint(a, b) {
  return a !== null && b !== null && a.length === b.length && a.every((value, k) => value === b[k]);
}

/** The name of a verdict or wanted level that may also be a word. */
function levelName(level) {
  return typeof level === "number" ? report.levels[level] : level;
}

function layerName(layer) {
  const readings = { mean: "likelihood, mean per token", sum: "likelihood, sum", per_byte: "likelihood, per byte" };
  const reading = layer.reading === "judgement" ? "judged responses" : readings[layer.normalisation];
  return `${reading} – ${layer.set} queries`;
}

/** "n = 40", or "n = 18 to 20" where the domains differ. */
function sampleSize(layer) {
  const [low, high] = [Math.min(...layer.largest), Math.max(...layer.largest)];
  return low === high ? `n\u00a0=\u00a0${low}` : `n\u00a0=\u00a0${low}\u00a0to\u00a0${high}`;
}
