// Drawing heat maps and their legend: functions of the view, a theme and a place on a canvas. They serve the page
// and the picture that is saved from it.

/** What one panel shows: a domain's rates, or the aggregate of the chosen target. */
function cellColour(layer, panel, row, themeName) {
  if (panel.target) {
    const answer = report.answers[view.target];
    const result = answer ? answerAt(layer, answer.wanted, row) : null;
    return result && ramp("target", themeName)[Math.round(result.value * RAMP_STEPS)];
  }
  const tally = layer.tally(row, panel.domain);
  if (!tally) return null;
  const level = shownLevel(layer, panel.domain);
  if (level !== null) return ramp(level, themeName)[Math.round((tally.at[level] / tally.n) * RAMP_STEPS)];
  const best = dominantLevel(tally);
  if (best < 0) return rgbOf(palette(themeName).tie);
  return ramp(best, themeName)[dominantStep(tally.at[best] / tally.n)];
}

/** The level whose rate a domain's map shows; null where the map shows the dominant level. */
function shownLevel(layer, domain) {
  if (typeof view.metric === "number") return view.metric;
  if (view.metric === "dominant") return null;
  const want = report.answers[view.target]?.wanted[domain];
  const level = want === "base" && layer ? baseLevel(layer, domain) : want;
  return typeof level === "number" && level >= 0 ? level : null;
}

/** Where a map's cells lie in a figure of this width; cells are whole device pixels wide, so that no seams show. */
function mapGeometry(width, ratio) {
  const [nx, ny] = [axes[view.x].shown.length, axes[view.y].shown.length];
  const longest = Math.max(...axes[view.y].shown.map((index) => decimal(axes[view.y].values[index]).length));
  const [left, right, top, bottom] = [Math.max(50, 24 + longest * 6.5), 8, 8, 44];
  const snap = (length, count) => {
    const cell = Math.floor((length * ratio) / count) / ratio;
    return cell * ratio >= 2 ? cell * count : length;
  };
  const w = snap(Math.max(60, width - left - right), nx);
  const h = snap(w * Math.min(1.25, Math.max(0.5, ny / nx)), ny);
  return { nx, ny, left, top, w, h, cw: w / nx, ch: h / ny, width, height: top + h + bottom };
}

/** At most `most` positions of an axis to label: the zero among them, evenly spaced, the ends where they fit. */
function tickPositions(axis, most) {
  const last = axis.shown.length - 1;
  if (last === 0) return [0];
  const fits = (stride) => last % stride === 0 && axis.zero % stride === 0;
  const least = Math.max(1, Math.ceil(last / (most - 1)));
  let stride = least;
  while (stride <= least * 2 && stride < last && !fits(stride)) stride += 1;
  if (!fits(stride)) stride = least;
  const positions = [];
  for (let i = axis.zero % stride; i <= last; i += stride) positions.push(i);
  return positions;
}

/** The position of a value along an axis, between its neighbours where it is none of the shown ones. */
function placeOf(axis, ticks) {
  const exact = axis.positionOf.get(axis.indexOf.get(ticks));
  if (exact !== undefined) return exact;
  const values = axis.shown.map((index) => axis.values[index]);
  const above = values.findIndex((value) => value > ticks);
  if (above < 0) return values.length - 1;
  if (above === 0) return 0;
  return above - 1 + (ticks - values[above - 1]) / (values[above] - values[above - 1]);
}

/** Whether a point lies in the slice that the maps show. */
function inSlice(ticks) {
  return axes.every((axis, k) => k === view.x || k === view.y || ticks[k] === axis.values[axis.shown[view.at[k]]]);
}

/**
 * One slice as a canvas of a pixel a cell, see-through where nothing was measured; `cutAt` is a position along the
 * cut coefficient, which is left where the view has it when that is undefined.
 */
function sliceTile(layer, panel, themeName, cutAt) {
  const [nx, ny] = [axes[view.x].shown.length, axes[view.y].shown.length];
  const tile = el("canvas", { width: String(nx), height: String(ny) });
  const pen = tile.getContext("2d");
  const image = pen.createImageData(nx, ny);
  for (let j = 0; j < ny; j += 1) {
    for (let i = 0; i < nx; i += 1) {
      const indices = cellIndices(i, j);
      if (cutAt !== undefined) indices[view.cut] = axes[view.cut].shown[cutAt];
      const row = rowOfPoint(indices);
      const colour = row >= 0 ? cellColour(layer, panel, row, themeName) : null;
      if (colour) image.data.set([...colour, 255], ((ny - 1 - j) * nx + i) * 4);
    }
  }
  pen.putImageData(image, 0, 0);
  return tile;
}

/** The slice's cells (numbered row by row from below) at which the chosen target is achieved. */
function achievedCells(layer, nx, ny) {
  const cells = new Set();
  const { wanted } = report.answers[view.target];
  for (let j = 0; j < ny; j += 1) {
    for (let i = 0; i < nx; i += 1) {
      if (answerAt(layer, wanted, rowOfPoint(cellIndices(i, j)))?.achieved) cells.add(j * nx + i);
    }
  }
  return cells;
}

function drawMap(pen, geometry, panel, themeName, live) {
  const colours = palette(themeName);
  const { nx, ny, left, top, w, h } = geometry;
  const layer = currentLayer();
  pen.fillStyle = hatch(pen, themeName);
  pen.fillRect(left, top, w, h);
  // Drawn as one image: rectangles side by side would show seams in print.
  pen.imageSmoothingEnabled = false;
  if (layer) pen.drawImage(sliceTile(layer, panel, themeName), left, top, w, h);
  if (layer && panel.target) outline(pen, geometry, achievedCells(layer, nx, ny), colours);
  pen.strokeStyle = colours.rule;
  pen.lineWidth = 1;
  pen.strokeRect(left - 0.5, top - 0.5, w + 1, h + 1);
  drawMapAxes(pen, geometry, colours);
  drawMarks(pen, geometry, colours, live);
}

/** A line around the cells of a set. */
function outline(pen, { nx, ny, left, top, cw, ch }, cells, colours) {
  if (cells.size === 0) return;
  pen.beginPath();
  for (const cell of cells) {
    const [i, j] = [cell % nx, Math.floor(cell / nx)];
    const [x, y] = [left + i * cw, top + (ny - 1 - j) * ch];
    const open = (di, dj) => i + di < 0 || i + di >= nx || j + dj < 0 || j + dj >= ny || !cells.has((j + dj) * nx + i + di);
    const edge = (x0, y0, x1, y1) => { pen.moveTo(x0, y0); pen.lineTo(x1, y1); };
    if (open(-1, 0)) edge(x, y, x, y + ch);
    if (open(1, 0)) edge(x + cw, y, x + cw, y + ch);
    if (open(0, 1)) edge(x, y, x + cw, y);
    if (open(0, -1)) edge(x, y + ch, x + cw, y + ch);
  }
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 1.5;
  pen.stroke();
}

const fontFamily = getComputedStyle(document.body).fontFamily;

function drawMapAxes(pen, { nx, ny, left, top, w, h, cw, ch }, colours) {
  const [across, up] = [axes[view.x], axes[view.y]];
  pen.font = `11px ${fontFamily}`;
  pen.fillStyle = colours.muted;
  pen.strokeStyle = colours.muted;
  pen.lineWidth = 1;
  const value = (axis, position) => decimal(axis.values[axis.shown[position]]);
  pen.textAlign = "center";
  pen.textBaseline = "top";
  pen.beginPath();
  for (const i of tickPositions(across, Math.max(2, Math.min(7, Math.floor(w / 52))))) {
    const x = left + (i + 0.5) * cw;
    pen.moveTo(x, top + h + 1);
    pen.lineTo(x, top + h + 5);
    pen.fillText(value(across, i), x, top + h + 8);
  }
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const j of tickPositions(up, Math.max(2, Math.min(7, Math.floor(h / 30))))) {
    const y = top + (ny - 0.5 - j) * ch;
    pen.moveTo(left - 1, y);
    pen.lineTo(left - 5, y);
    pen.fillText(value(up, j), left - 8, y);
  }
  pen.stroke();
  pen.font = `600 12px ${fontFamily}`;
  pen.fillStyle = colours.ink;
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  pen.fillText(across.title, left + w / 2, top + h + 38, w + 40);
  pen.save();
  pen.translate(13, top + h / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(up.title, 0, 0, h + 20);
  pen.restore();
}

/** A stroke with a halo of the background's colour, to be seen on any cell. */
function haloed(pen, colours, path, width = 1.5) {
  for (const [style, thickness] of [[colours.background, width + 2.2], [colours.ink, width]]) {
    pen.strokeStyle = style;
    pen.lineWidth = thickness;
    pen.beginPath();
    path();
    pen.stroke();
  }
}

function drawDot(pen, colours, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = colours.background;
  pen.fill();
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 1.3;
  pen.stroke();
}

function plus(pen, x, y, size) {
  pen.moveTo(x - size, y);
  pen.lineTo(x + size, y);
  pen.moveTo(x, y - size);
  pen.lineTo(x, y + size);
}

function drawMarks(pen, { nx, ny, left, top, w, h, cw, ch }, colours, live) {
  const x = (ticks) => left + (placeOf(axes[view.x], ticks[view.x]) + 0.5) * cw;
  const y = (ticks) => top + (ny - 0.5 - placeOf(axes[view.y], ticks[view.y])) * ch;
  const small = Math.max(2.2, Math.min(4, cw * 0.28));
  const seen = new Set();
  for (const { point } of report.answers) {
    if (!point || !inSlice(point) || seen.has(pointText(point))) continue;
    seen.add(pointText(point));
    drawDot(pen, colours, x(point), y(point), small);
  }
  const origin = axes.map(() => 0);
  if (inSlice(origin) && axes.every((axis) => axis.positionOf.has(axis.indexOf.get(0)))) {
    haloed(pen, colours, () => plus(pen, x(origin), y(origin), small + 1.5));
  }
  if (view.pin) {
    pen.setLineDash(inSlice(view.pin) ? [] : [2.5, 2.5]);
    haloed(pen, colours, () => pen.arc(x(view.pin), y(view.pin), small + 4, 0, 2 * Math.PI), 2);
    pen.setLineDash([]);
  }
  if (live && view.hover) {
    const [i, j] = view.hover;
    if (i >= nx || j >= ny) return;
    const [cx, cy] = [left + i * cw, top + (ny - 1 - j) * ch];
    pen.globalAlpha = 0.55;
    haloed(pen, colours, () => {
      pen.moveTo(left, cy + ch / 2);
      pen.lineTo(cx, cy + ch / 2);
      pen.moveTo(cx + cw, cy + ch / 2);
      pen.lineTo(left + w, cy + ch / 2);
      pen.moveTo(cx + cw / 2, top);
      pen.lineTo(cx + cw / 2, cy);
      pen.moveTo(cx + cw / 2, cy + ch);
      pen.lineTo(cx + cw / 2, top + h);
    }, 1);
    pen.globalAlpha = 1;
    haloed(pen, colours, () => pen.rect(cx, cy, cw, ch), 1.6);
  }
}

/** The bars and marks that the legend explains, for the present metric. */
function legendEntries() {
  const layer = currentLayer();
  const bar = (label, which, from, low) => ({ label, which, from, low, high: percent(1) });
  const rates = (level) => bar(report.levels[level], level, 0, percent(0));
  const dominant = report.levels.map((name, level) => bar(name, level, dominantStep(0), percent(1 / levelCount)));
  const extras = [{ swatch: "hatch", label: "not measured" }];
  let bars = [];
  if (typeof view.metric === "number") bars = [rates(view.metric)];
  else if (view.metric === "target") {
    const wanted = new Set(report.domains.map((_, domain) => shownLevel(layer, domain)));
    bars = [...wanted].filter((level) => level !== null).sort().map(rates);
    bars.push(bar(`${report.aggregate} over domains`, "target", 0, percent(0)));
    extras.unshift({ swatch: "outline", label: "target achieved" });
  } else {
    bars = dominant;
    extras.unshift({ swatch: "tie", label: "tie" });
  }
  extras.push({ swatch: "plus", label: "base model" });
  if (report.answers.some((answer) => answer.point)) extras.push({ swatch: "circle", label: "best for a target" });
  if (view.pin) extras.push({ swatch: "ring", label: "pinned point" });
  return [...bars, ...extras];
}

/** Draws the legend from the left, in as many lines as the width asks for; returns its height. */
function drawLegend(pen, width, themeName) {
  const colours = palette(themeName);
  const lines = [];
  let used = Infinity;
  for (const entry of legendEntries()) {
    pen.font = `12px ${fontFamily}`;
    const label = pen.measureText(entry.label).width;
    const room = entry.which === undefined ? label + 38 : Math.max(LEGEND_BAR, label) + 22;
    if (used + room > width + 22) { lines.push([]); used = 0; }
    lines[lines.length - 1].push({ ...entry, x: used });
    used += room;
  }
  let y = 0;
  for (const line of lines) {
    const bars = line.some((entry) => entry.which !== undefined);
    for (const entry of line) {
      if (entry.which === undefined) {
        drawSwatch(pen, entry.swatch, entry.x, y + (bars ? 14 : 2), colours, themeName);
        writeLegend(pen, entry.label, entry.x + 22, y + (bars ? 22 : 10), colours.ink, 12);
      } else {
        drawLegendBar(pen, entry, y, colours, themeName);
      }
    }
    y += bars ? 44 : 24;
  }
  return y;
}

const LEGEND_BAR = 96;

function writeLegend(pen, text, x, y, colour, size, align = "left") {
  pen.font = `${size}px ${fontFamily}`;
  pen.fillStyle = colour;
  pen.textBaseline = "middle";
  pen.textAlign = align;
  pen.fillText(text, x, y);
}

function drawLegendBar(pen, { label, which, from, low, high, x }, y, colours, themeName) {
  writeLegend(pen, label, x, y + 7, colours.ink, 12);
  const colourAt = ramp(which, themeName);
  for (let step = 0; step < LEGEND_BAR; step += 1) {
    pen.fillStyle = css(colourAt[Math.round(from + ((RAMP_STEPS - from) * step) / (LEGEND_BAR - 1))]);
    pen.fillRect(x + step, y + 17, 1, 9);
  }
  writeLegend(pen, low, x, y + 34, colours.muted, 10.5);
  writeLegend(pen, high, x + LEGEND_BAR, y + 34, colours.muted, 10.5, "right");
}

function drawSwatch(pen, kind, x, y, colours, themeName) {
  const [cx, cy] = [x + 8, y + 8];
  if (kind === "hatch" || kind === "tie") {
    pen.fillStyle = kind === "tie" ? colours.tie : hatch(pen, themeName);
    pen.fillRect(x, y, 16, 16);
  }
  if (kind === "hatch") {
    pen.strokeStyle = colours.rule;
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, y + 0.5, 15, 15);
  }
  if (kind === "outline") {
    pen.fillStyle = css(ramp("target", themeName)[60]);
    pen.fillRect(x + 1, y + 1, 14, 14);
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    pen.strokeRect(x + 1, y + 1, 14, 14);
  }
  if (kind === "plus") haloed(pen, colours, () => plus(pen, cx, cy, 5));
  if (kind === "circle") drawDot(pen, colours, cx, cy, 4);
  if (kind === "ring") haloed(pen, colours, () => pen.arc(cx, cy, 7, 0, 2 * Math.PI), 2);
}

/** The slice in words: "gamma = 0". */
function sliceWords() {
  const fixed = axes.map((axis, k) => (k === view.x || k === view.y ? null : `${axis.name}\u00a0=\u00a0${decimal(axis.values[axis.shown[view.at[k]]])}`));
  return fixed.filter((words) => words !== null).join(", ");
}

function panelTitle(panel) {
  if (panel.target) return `${report.aggregate} over domains`;
  const level = view.metric === "target" ? shownLevel(currentLayer(), panel.domain) : null;
  const name = report.domains[panel.domain].name;
  return level === null ? name : `${name} – ${report.levels[level]}`;
}

/** Makes a canvas as large as asked for, sharp on this screen, and returns its pen in CSS pixels. */
function sharpCanvas(canvas, width, height, ratio = devicePixelRatio || 1) {
  const [pixelsWide, pixelsHigh] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixelsWide || canvas.height !== pixelsHigh) {
    canvas.width = pixelsWide;
    canvas.height = pixelsHigh;
    styled(canvas, { width: `${width}px`, height: `${height}px` });
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}
