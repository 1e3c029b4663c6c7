// The curves: each coefficient varied alone through the base model, with 95 % Wilson bands.

const curve = { width: 320, height: 190, left: 40, right: 12, top: 10, bottom: 30 };
const dashes = ["5 3", "1.5 3", ""];

/** Dashes set the levels apart without colour: lowest dashed, highest solid, dots between. */
function dashOf(level) {
  if (level === levelCount - 1) return "";
  return level === 0 ? dashes[0] : dashes[1];
}

/** Value indices of the point on coefficient `k`'s line at a position; the others stay at the base or next to it. */
function lineIndices(k, position) {
  return axes.map((axis, other) => axis.shown[other === k ? position : axis.zero]);
}

function lineTicks(k, position) {
  return lineIndices(k, position).map((index, c) => axes[c].values[index]);
}

function buildCurves() {
  const layer = currentLayer();
  const holder = byId("curve-rows");
  if (!layer) { holder.replaceChildren(); return; }
  const moved = axes.filter((axis) => axis.values[axis.shown[axis.zero]] !== 0);
  const rows = axes.map((axis, k) => {
    const others = moved.filter((other) => other !== axis).map((other) => `${other.name} = ${decimal(other.values[other.shown[other.zero]])}`);
    const rest = dimensions === 1 ? "" : others.length === 0 ? ", the others at 0" : `, with ${others.join(", ")}${others.length < dimensions - 1 ? ", the others at 0" : ""}`;
    return el("figure", { class: "curve-row" },
      el("figcaption", {}, el("strong", {}, axis.title), rest),
      el("div", { class: "facets" }, report.domains.map((_, domain) => facet(layer, k, domain))));
  });
  holder.replaceChildren(...rows);
}

function facet(layer, k, domain) {
  const axis = axes[k];
  const { width, height, left, right, top, bottom } = curve;
  const values = axis.shown.map((index) => axis.values[index]);
  const [first, last] = [values[0], values[values.length - 1]];
  const x = (ticks) => left + (last === first ? 0.5 : (ticks - first) / (last - first)) * (width - left - right);
  const y = (rate) => top + (1 - rate) * (height - top - bottom);
  const tallies = values.map((_, position) => layer.tally(rowOfPoint(lineIndices(k, position)), domain));
  const measured = tallies.filter((tally) => tally !== null);
  const name = report.domains[domain].name;
  const frame = svg("g", { class: "frame" });
  for (const rate of [0, 0.25, 0.5, 0.75, 1]) {
    frame.append(svg("line", { x1: left, x2: width - right, y1: y(rate), y2: y(rate) }));
    if (rate * 2 === Math.round(rate * 2)) frame.append(svg("text", { x: left - 6, y: y(rate) + 3.5, "text-anchor": "end" }, percent(rate)));
  }
  for (const position of tickPositions(axis, 5)) {
    frame.append(svg("text", { x: x(values[position]), y: height - bottom + 15, "text-anchor": "middle" }, decimal(values[position])));
  }
  if (first < 0 && last > 0) frame.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: top, y2: height - bottom }));
  const lines = report.levels.map((_, level) => levelLine(tallies, values, level, x, y));
  const guide = svg("line", { class: "guide", y1: top, y2: height - bottom, visibility: "hidden" });
  const empty = measured.length === 0 && svg("text", { class: "empty", x: (width + left) / 2, y: height / 2, "text-anchor": "middle" }, "not measured along this line");
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${name} along ${axis.title}: ${curveWords(tallies, values)}`,
    pointermove: (event) => {
      const position = nearest(event, drawing, values, x);
      guideAt(k, x(values[position]));
      showTooltip(pointTooltip(lineTicks(k, position), rowOfPoint(lineIndices(k, position)), domain), event.clientX, event.clientY);
    },
    pointerleave: () => { guideAt(k, null); hideTooltip(); },
    click: (event) => pinPoint(lineTicks(k, nearest(event, drawing, values, x))),
  }, frame, lines, guide, empty);
  drawing.dataset.line = String(k);
  const sizes = measured.map((tally) => tally.n);
  const n = sizes.length === 0 ? "" : Math.min(...sizes) === Math.max(...sizes) ? `n\u00a0=\u00a0${sizes[0]}` : `n\u00a0=\u00a0${Math.min(...sizes)}–${Math.max(...sizes)}`;
  return el("div", { class: "facet" }, el("p", { class: "facet-title" }, name, " ", el("span", { class: "fine" }, n)), drawing);
}

/** A level's band, line and dots; values that were not measured are bridged by a faint line without a band. */
function levelLine(tallies, values, level, x, y) {
  const group = svg("g", { class: "curve", "data-level": String(level) });
  group.style.color = levelColour(level);
  const runs = [];
  let previous = false;
  tallies.forEach((tally, position) => {
    if (tally && !previous) runs.push([]);
    if (tally) runs[runs.length - 1].push(position);
    previous = tally !== null;
  });
  const round = (number) => number.toFixed(1);
  const known = runs.flat().map((position) => `${round(x(values[position]))},${round(y(tallies[position].at[level] / tallies[position].n))}`);
  if (runs.length > 1) group.append(svg("path", { class: "bridge", d: `M${known.join("L")}` }));
  for (const run of runs) {
    const bounds = run.map((position) => wilson(tallies[position].at[level], tallies[position].n));
    const at = (position, rate) => `${round(x(values[position]))},${round(y(rate))}`;
    const upper = run.map((position, index) => at(position, bounds[index][1]));
    const lower = run.map((position, index) => at(position, bounds[index][0])).reverse();
    const middle = run.map((position) => at(position, tallies[position].at[level] / tallies[position].n));
    if (run.length > 1) {
      group.append(svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
      group.append(svg("path", { class: "line", d: `M${middle.join("L")}`, "stroke-dasharray": dashOf(level) }));
    } else {
      group.append(svg("line", { class: "whisker", x1: x(values[run[0]]), x2: x(values[run[0]]), y1: y(bounds[0][0]), y2: y(bounds[0][1]) }));
    }
    if (run.length === 1 || values.length <= 31) {
      for (const place of middle) {
        const [cx, cy] = place.split(",");
        group.append(svg("circle", { cx, cy, r: run.length === 1 ? 3 : 1.9 }));
      }
    }
  }
  return group;
}

function curveWords(tallies, values) {
  const runs = [];
  tallies.forEach((tally, position) => {
    if (!tally) return;
    const best = dominantLevel(tally);
    const name = best < 0 ? "tie" : report.levels[best];
    const last = runs[runs.length - 1];
    if (last?.name === name) last.to = values[position]; else runs.push({ name, from: values[position], to: values[position] });
  });
  return runs.map((run) => `${run.name} dominates from ${decimal(run.from)} to ${decimal(run.to)}`).join("; ") || "not measured";
}

function nearest(event, drawing, values, x) {
  const bounds = drawing.getBoundingClientRect();
  const place = ((event.clientX - bounds.left) / bounds.width) * curve.width;
  let best = 0;
  values.forEach((value, position) => {
    if (Math.abs(x(value) - place) < Math.abs(x(values[best]) - place)) best = position;
  });
  return best;
}

/** The same value marked in all facets of a coefficient. */
function guideAt(k, place) {
  for (const guide of document.querySelectorAll(`svg[data-line="${k}"] .guide`)) {
    guide.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place !== null) { guide.setAttribute("x1", place); guide.setAttribute("x2", place); }
  }
}

function buildCurveLegend() {
  byId("curve-legend").replaceChildren(el("p", { class: "line-keys" }, report.levels.map((name, level) => {
    const key = svg("svg", { viewBox: "0 0 30 12", class: "line-key", "aria-hidden": "true", "data-level": String(level) },
      svg("rect", { class: "band", x: 0, y: 1, width: 30, height: 10 }),
      svg("line", { class: "line", x1: 0, x2: 30, y1: 6, y2: 6, "stroke-dasharray": dashOf(level) }));
    key.style.color = levelColour(level);
    return el("span", {}, key, " ", name);
  }), el("span", { class: "fine" }, "bands: 95 % Wilson intervals")));
}

function startCurves() {
  buildCurveLegend();
  whenChanged(["layer"], buildCurves);
}
