// Colours: the levels' hues, ramps for rates, and the two themes of everything drawn on a canvas.
//
// Two or three levels take red, (yellow,) blue of clearly different lightness, after the idea of Paul Tol's
// high-contrast scheme: they stay apart with every common colour-vision deficiency and in greyscale print. More
// levels take hues between them, in order.

const themes = {
  light: {
    background: "#fdfdfb", ink: "#1d2129", muted: "#636a75", rule: "#d9dbdf", grid: "#e8e9ec",
    zero: "#f4f3ee", hatch: "#d5d7db", empty: "#fafafa", tie: "#a3a7ad",
    solid: ["#bb5566", "#cf7a3c", "#bf8c12", "#4a9a8c", "#004488"],
    middle: ["#dc95a2", "#ecaf86", "#ecca6c", "#92cabf", "#78a6d3"],
    deep: ["#96304a", "#b0561a", "#ad7a05", "#1f7568", "#003670"],
    target: ["#b9a0cf", "#4c2a70"],
  },
  dark: {
    background: "#14171c", ink: "#e9ebee", muted: "#9aa2ae", rule: "#333943", grid: "#262b33",
    zero: "#1e232a", hatch: "#343b45", empty: "#171a1f", tie: "#767d88",
    solid: ["#f08a9c", "#f0a070", "#e6bd4a", "#6cc4b2", "#6cb0f2"],
    middle: ["#733645", "#74462a", "#6f571a", "#28615a", "#28517e"],
    deep: ["#ec8093", "#ee9a66", "#e8be48", "#62c0ae", "#66aef4"],
    target: ["#5f4685", "#d2b8f3"],
  },
};

const theme = { name: document.documentElement.dataset.theme, chosen: false };

function palette(name = theme.name) {
  return themes[name];
}

function rgbOf(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

const toLinear = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const fromLinear = (v) => {
  const c = v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055;
  return Math.round(Math.min(1, Math.max(0, c)) * 255);
};

// Björn Ottosson's OKLab (2020): mixing there keeps lightness even, which mixing in sRGB does not.
function toLab(hex) {
  const [r, g, b] = rgbOf(hex).map(toLinear);
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    fromLinear(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    fromLinear(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    fromLinear(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

/** The colour at `t` in [0, 1] along evenly spaced stops, as [r, g, b]. */
function along(stops, t) {
  if (stops.length === 1) return rgbOf(stops[0]);
  const place = Math.min(1, Math.max(0, t)) * (stops.length - 1);
  const index = Math.min(stops.length - 2, Math.floor(place));
  const [from, to] = [toLab(stops[index]), toLab(stops[index + 1])];
  return fromLab(from.map((value, k) => value + (to[k] - value) * (place - index)));
}

function css([r, g, b]) {
  return `rgb(${r}, ${g}, ${b})`;
}

/** A level's colour for lines, bars and dots. */
function levelColour(level, name = theme.name) {
  return css(along(palette(name).solid, level / (levelCount - 1)));
}

const hexOf = (rgb) => `#${rgb.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
const RAMP_STEPS = 100;
const ramps = new Map();

/** RAMP_STEPS + 1 colours [r, g, b] from rate 0 to rate 1; `which` is a level or "target". */
function ramp(which, name = theme.name) {
  const key = `${name} ${which}`;
  if (!ramps.has(key)) {
    const colours = palette(name);
    const stops = which === "target"
      ? [colours.zero, ...colours.target]
      : [colours.zero, ...[colours.middle, colours.deep].map((hues) => hexOf(along(hues, which / (levelCount - 1))))];
    ramps.set(key, Array.from({ length: RAMP_STEPS + 1 }, (_, step) => along(stops, step / RAMP_STEPS)));
  }
  return ramps.get(key);
}

/** Where a dominant level's rate lies in its ramp: from the least that can dominate to all queries. */
function dominantStep(rate) {
  const least = 1 / levelCount;
  return Math.round((0.22 + 0.78 * Math.min(1, Math.max(0, (rate - least) / (1 - least)))) * RAMP_STEPS);
}

const hatches = new Map();

/** The fill of what was not measured. */
function hatch(context, name = theme.name) {
  if (!hatches.has(name)) {
    const size = 8;
    const tile = document.createElement("canvas");
    tile.width = size;
    tile.height = size;
    const pen = tile.getContext("2d");
    pen.fillStyle = palette(name).empty;
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = palette(name).hatch;
    pen.lineWidth = 1.2;
    for (const shift of [-size, 0, size]) {
      pen.beginPath();
      pen.moveTo(shift - 1, size + 1);
      pen.lineTo(shift + size + 1, -1);
      pen.stroke();
    }
    hatches.set(name, tile);
  }
  return context.createPattern(hatches.get(name), "repeat");
}
