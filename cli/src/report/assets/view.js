// What the reader looks at: the page's one piece of changing state, who is told of changes, and small helpers.

const opening = {
  layer: report.layer,
  /** "dominant", a level's index, or "target". */
  metric: "dominant",
  /** The coefficients on the maps' axes. */
  x: 0,
  y: Math.min(1, dimensions - 1),
  /** The coefficient whose slices the strip shows. */
  cut: Math.min(2, dimensions - 1),
  /** Per coefficient, the position in its shown values that maps are cut at. */
  at: axes.map((axis) => axis.zero),
  /** The cell under the pointer as [x position, y position]. */
  hover: null,
  /** Ticks of the pinned point. */
  pin: null,
  /** The answer whose aggregate the metric "target" shows. */
  target: report.answers.findIndex((answer) => answer.point !== null),
};
const view = { ...opening };

const listeners = [];

/** Calls `listener` after every change of one of the `names` (and of "theme", which everything drawn follows). */
function whenChanged(names, listener) {
  listeners.push({ names: new Set([...names, "theme"]), listener });
}

/** Changes the view and tells everyone concerned once. */
function show(change) {
  Object.assign(view, change);
  announce(Object.keys(change));
}

function announce(names) {
  for (const { names: wanted, listener } of listeners) {
    if (names.some((name) => wanted.has(name))) listener();
  }
}

function currentLayer() {
  return layers[view.layer] ?? null;
}

/** Pins a point and, where it lies on the drawn values, moves the maps' slice to it. */
function pinPoint(ticks, more = {}) {
  const at = view.at.slice();
  ticks.forEach((value, k) => {
    const position = axes[k].positionOf.get(axes[k].indexOf.get(value));
    if (position !== undefined && k !== view.x && k !== view.y) at[k] = position;
  });
  show({ pin: ticks, at, ...more });
}

/** Value indices of a map's cell: the slice with two coefficients set. */
function cellIndices(i, j) {
  return axes.map((axis, k) => axis.shown[k === view.x ? i : k === view.y ? j : view.at[k]]);
}

function cellTicks(i, j) {
  return cellIndices(i, j).map((index, k) => axes[k].values[index]);
}

const byId = (id) => document.getElementById(id);
const svgNamespace = byId("svg-root").namespaceURI;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  // append() makes text nodes of strings: text of a sweep never becomes markup.
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element; attributes that are functions listen to the event of that name. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(svgNamespace, tag), attributes, children);
}

/** Sets styles through the object model, which the page's content security policy allows. */
function styled(node, styles) {
  Object.assign(node.style, styles);
  return node;
}

/** A level's name with its colour; words such as "unclear" have none. */
function chip(level, text = levelName(level)) {
  const known = typeof level === "number";
  const dot = known ? styled(el("i", { class: "dot", "data-level": level }), { background: levelColour(level) }) : null;
  return el("span", { class: known ? "chip" : "chip plain" }, dot, text);
}

function recolourChips() {
  for (const node of document.querySelectorAll("[data-level]")) {
    const colour = levelColour(Number(node.dataset.level));
    if (node instanceof SVGElement) node.style.color = colour; else node.style.background = colour;
  }
}

/** A group of radio buttons that looks like one segmented control. */
function segmented(legend, options, chosen, choose) {
  const name = `choice-${legend.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return el("fieldset", { class: "segmented" }, el("legend", {}, legend), options.map(({ value, label }) =>
    el("label", {},
      el("input", { type: "radio", name, value: String(value), checked: value === chosen, change: () => choose(value) }),
      el("span", {}, label))));
}

function select(label, options, chosen, choose) {
  const field = el("select", { change: () => choose(options[field.selectedIndex].value) }, options.map((option) =>
    el("option", { selected: option.value === chosen }, option.label)));
  return el("label", { class: "field" }, el("span", {}, label), " ", field);
}

const tooltip = byId("tooltip");

/** Shows `content` next to a place of the window, inside the window. */
function showTooltip(content, x, y) {
  tooltip.replaceChildren(...content);
  tooltip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const left = x + 18 + width > innerWidth ? Math.max(4, x - width - 18) : x + 18;
  const top = Math.min(Math.max(4, y - height / 2), Math.max(4, innerHeight - height - 4));
  styled(tooltip, { left: `${left}px`, top: `${top}px` });
}

function hideTooltip() {
  tooltip.hidden = true;
}

/** Every domain's rates at a point, as a small table; `marked` is the domain in focus. */
function ratesTable(layer, row, marked) {
  const head = el("tr", {}, el("th", { scope: "col" }, layer ? sampleSize(layer) : ""),
    report.levels.map((_, level) => el("th", { scope: "col" }, chip(level))));
  const rows = report.domains.map((domain, index) => {
    const tally = layer ? layer.tally(row, index) : null;
    const best = tally ? dominantLevel(tally) : -1;
    const cells = report.levels.map((_, level) => el("td", { class: level === best ? "best" : null },
      tally ? percent(tally.at[level] / tally.n) : "–"));
    return el("tr", { class: index === marked ? "marked" : null }, el("th", { scope: "row" }, domain.name), cells);
  });
  return el("table", { class: "rates" }, el("thead", {}, head), el("tbody", {}, rows));
}

function pointTooltip(ticks, row, marked) {
  const layer = currentLayer();
  const answer = report.answers[view.target];
  const result = view.metric === "target" && layer && answer ? answerAt(layer, answer.wanted, row) : null;
  return [
    el("p", { class: "where" }, pointWords(ticks)),
    layer && layerHas(layer, row) ? ratesTable(layer, row, marked) : el("p", {}, "not measured"),
    result ? el("p", {}, `${report.aggregate} for the target ${percent(result.value)}${result.achieved ? " – achieved" : ""}`) : "",
  ];
}

function layerHas(layer, row) {
  return report.domains.some((_, domain) => layer.tally(row, domain) !== null);
}

/** Says something to readers of the screen that cannot see it. */
function speak(text) {
  byId("spoken").textContent = text;
}
