// The heat maps: a panel per domain over the same slice, their controls, and the saved picture.

const mapsExist = dimensions >= 2;
let panels = [];

function buildPanels() {
  const kinds = report.domains.map((_, domain) => ({ domain }));
  if (view.metric === "target") kinds.push({ target: true });
  panels = kinds.map((panel) => {
    const title = el("figcaption", {});
    const canvas = el("canvas", {
      tabindex: "0",
      role: "application",
      "aria-roledescription": "heat map",
      pointermove: (event) => pointAtCell(event, panel),
      pointerdown: (event) => pointAtCell(event, panel),
      pointerleave: () => { hideTooltip(); show({ hover: null }); },
      click: (event) => { const cell = cellUnder(event, panel); if (cell) pinPoint(cellTicks(...cell)); },
      keydown: (event) => moveCell(event, panel),
      blur: () => { if (view.hover) show({ hover: null }); },
    });
    return Object.assign(panel, { title, canvas, figure: el("figure", { class: "panel" }, title, canvas) });
  });
  byId("panels").replaceChildren(...panels.map((panel) => panel.figure));
}

function drawPanels() {
  if (!mapsExist) return;
  for (const panel of panels) {
    panel.title.replaceChildren(panelTitle(panel));
    panel.geometry = mapGeometry(panel.figure.clientWidth, devicePixelRatio || 1);
    styled(panel.title, { paddingLeft: `${panel.geometry.left}px` });
    const pen = sharpCanvas(panel.canvas, panel.geometry.width, panel.geometry.height);
    drawMap(pen, panel.geometry, panel, theme.name, true);
    panel.canvas.setAttribute("aria-label",
      `${panelTitle(panel)}: ${axes[view.x].title} across, ${axes[view.y].title} up${sliceWords() ? `, at ${sliceWords()}` : ""}. Arrow keys move, Enter pins a point.`);
  }
}

function drawMapLegend() {
  if (!mapsExist) return;
  const holder = byId("map-legend");
  let [caption, canvas] = holder.children;
  if (!canvas) {
    caption = el("p", { class: "caption" });
    canvas = el("canvas", { role: "img" });
    holder.replaceChildren(caption, canvas);
  }
  const layer = currentLayer();
  const slice = sliceWords();
  const parts = [slice ? `Slice at ${slice}` : "All points", layer && `${layerName(layer)}, ${sampleSize(layer)} per domain`];
  caption.replaceChildren(`${parts.filter(Boolean).join("; ")}.`);
  const width = holder.clientWidth;
  // Measured on the old bitmap, then drawn on one of the right height.
  const height = drawLegend(canvas.getContext("2d"), width, theme.name);
  drawLegend(sharpCanvas(canvas, width, height), width, theme.name);
  canvas.setAttribute("aria-label", `Legend: ${legendEntries().map((entry) => entry.label).join(", ")}`);
}

function cellUnder(event, panel) {
  const { left, top, cw, ch, nx, ny } = panel.geometry;
  const bounds = panel.canvas.getBoundingClientRect();
  const i = Math.floor((event.clientX - bounds.left - left) / cw);
  const j = ny - 1 - Math.floor((event.clientY - bounds.top - top) / ch);
  return i >= 0 && i < nx && j >= 0 && j < ny ? [i, j] : null;
}

function pointAtCell(event, panel) {
  const cell = cellUnder(event, panel);
  if (!cell) {
    hideTooltip();
    if (view.hover) show({ hover: null });
    return;
  }
  if (!view.hover || view.hover[0] !== cell[0] || view.hover[1] !== cell[1]) show({ hover: cell });
  const row = rowOfPoint(cellIndices(...cell));
  showTooltip(pointTooltip(cellTicks(...cell), row, panel.domain), event.clientX, event.clientY);
}

const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function moveCell(event, panel) {
  const { nx, ny } = panel.geometry;
  const [i, j] = view.hover ?? [axes[view.x].zero, axes[view.y].zero];
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    pinPoint(cellTicks(i, j));
    return;
  }
  if (event.key === "Escape") { show({ hover: null }); return; }
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  const next = view.hover ? [Math.min(nx - 1, Math.max(0, i + step[0])), Math.min(ny - 1, Math.max(0, j + step[1]))] : [i, j];
  show({ hover: next });
  speak(`${pointWords(cellTicks(...next))}: ${spokenCell(panel, rowOfPoint(cellIndices(...next)))}`);
}

function spokenCell(panel, row) {
  const layer = currentLayer();
  if (panel.target) {
    const result = layer && answerAt(layer, report.answers[view.target].wanted, row);
    return result ? `${percent(result.value)}${result.achieved ? ", achieved" : ""}` : "not measured";
  }
  const tally = layer?.tally(row, panel.domain);
  if (!tally) return "not measured";
  return report.levels.map((name, level) => `${name} ${percent(tally.at[level] / tally.n)}`).join(", ");
}

// ---- controls ----

function buildMapControls() {
  const metrics = [{ value: "dominant", label: "dominant level" },
    ...report.levels.map((name, level) => ({ value: level, label: name }))];
  if (view.target >= 0) metrics.push({ value: "target", label: "a target" });
  const targets = el("span", { id: "target-choice" });
  const sliders = el("div", { class: "sliders", id: "sliders" });
  byId("map-controls").replaceChildren(
    segmented("Show", metrics, view.metric, (metric) => show({ metric })), targets, axesControl() ?? "",
    el("button", { type: "button", class: "quiet push", click: savePicture }, "Save as PNG"), sliders);
  buildTargetChoice();
  buildSliders();
}

function buildTargetChoice() {
  const holder = byId("target-choice");
  if (view.metric !== "target") { holder.replaceChildren(); return; }
  const options = report.answers.map((answer, index) => ({ value: index, label: targetWords(answer) }));
  holder.replaceChildren(select("Target", options, view.target, (target) => show({ target })));
}

function targetWords(answer) {
  return answer.wanted.map((want, domain) => `${report.domains[domain].name}=${levelName(want)}`).join(", ");
}

/** With three coefficients one is cut along; with more, any two are drawn and the others cut. */
function axesControl() {
  if (dimensions === 2) return null;
  const names = axes.map((axis, k) => ({ value: k, label: axis.title }));
  if (dimensions === 3) {
    return segmented("Cut along", names, view.cut, (cut) => {
      const [x, y] = [0, 1, 2].filter((k) => k !== cut);
      show({ cut, x, y, hover: null });
    });
  }
  const choose = (which, other) => (k) => {
    const change = { [which]: k, hover: null };
    if (view[other] === k) change[other] = view[which];
    const drawn = { x: view.x, y: view.y, ...change };
    if (view.cut === drawn.x || view.cut === drawn.y) change.cut = axes.findIndex((_, c) => c !== drawn.x && c !== drawn.y);
    show(change);
    byId("axes-choice").replaceWith(axesControl());
  };
  return el("span", { id: "axes-choice", class: "pair" },
    select("Across", names, view.x, choose("x", "y")), select("Up", names, view.y, choose("y", "x")));
}

let playing = null;

function stopPlaying() {
  if (playing) { clearInterval(playing.timer); playing.button.textContent = "▶"; playing = null; }
}

function buildSliders() {
  stopPlaying();
  const rows = axes.flatMap((axis, k) => {
    if (k === view.x || k === view.y) return [];
    const output = el("output", {});
    const input = el("input", {
      type: "range", min: "0", max: String(axis.shown.length - 1), step: "1", value: String(view.at[k]),
      "aria-label": `Cut at ${axis.title}`, "data-axis": String(k),
      input: () => { stopPlaying(); moveSlice(k, Number(input.value)); },
    });
    const button = el("button", { type: "button", class: "quiet", "aria-label": `Play through ${axis.name}`,
      click: () => play(k, button) }, "▶");
    return [el("div", { class: "slider" }, el("span", { class: "slider-name" }, axis.title, " =\u00a0", output), button,
      el("span", { class: "tick" }, decimal(axis.values[axis.shown[0]])), input,
      el("span", { class: "tick" }, decimal(axis.values[axis.shown[axis.shown.length - 1]])))];
  });
  byId("sliders").replaceChildren(...rows);
  byId("sliders").classList.toggle("many", rows.length > 1);
  updateSliders();
}

function moveSlice(k, position) {
  const at = view.at.slice();
  at[k] = position;
  show({ at, cut: k });
}

function play(k, button) {
  const mine = playing?.button === button;
  stopPlaying();
  if (mine) return;
  button.textContent = "❚❚";
  playing = { button, timer: setInterval(() => moveSlice(k, (view.at[k] + 1) % axes[k].shown.length), 220) };
}

function updateSliders() {
  for (const input of byId("sliders").querySelectorAll("input")) {
    const k = Number(input.dataset.axis);
    const value = decimal(axes[k].values[axes[k].shown[view.at[k]]]);
    input.value = String(view.at[k]);
    input.setAttribute("aria-valuetext", value);
    input.closest(".slider").querySelector("output").textContent = value;
  }
}

/** Saves the panels with their legend as a picture for a paper: light, three pixels for one. */
function savePicture() {
  const [panelWidth, gap, scale] = [340, 16, 3];
  const geometry = mapGeometry(panelWidth, scale);
  const columns = Math.min(panels.length, 4);
  const lines = Math.ceil(panels.length / columns);
  const width = columns * panelWidth + (columns - 1) * gap + 2 * gap;
  const canvas = document.createElement("canvas");
  const legendHeight = drawLegend(canvas.getContext("2d"), width - 2 * gap, "light");
  const lineHeight = geometry.height + 34;
  const height = gap + lines * lineHeight + legendHeight + 40;
  const pen = sharpCanvas(canvas, width, height, scale);
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, width, height);
  panels.forEach((panel, index) => {
    pen.save();
    pen.translate(gap + (index % columns) * (panelWidth + gap), gap + Math.floor(index / columns) * lineHeight);
    pen.fillStyle = palette("light").ink;
    pen.font = `600 15px ${fontFamily}`;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(panelTitle(panel), geometry.left, 10);
    pen.translate(0, 24);
    drawMap(pen, geometry, panel, "light", false);
    pen.restore();
  });
  pen.translate(gap + 8, gap + lines * lineHeight);
  pen.font = `12px ${fontFamily}`;
  pen.fillStyle = palette("light").muted;
  pen.textAlign = "left";
  pen.textBaseline = "top";
  pen.fillText(byId("map-legend").querySelector(".caption").textContent, 0, 0);
  pen.translate(0, 24);
  drawLegend(pen, width - 2 * gap - 8, "light");
  canvas.toBlob((blob) => {
    const address = URL.createObjectURL(blob);
    el("a", { href: address, download: `${report.name}-maps.png` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  });
}

function startMaps() {
  if (!mapsExist) {
    byId("map-controls").remove();
    byId("panels").remove();
    byId("map-legend").remove();
    return;
  }
  buildMapControls();
  buildPanels();
  whenChanged(["metric"], () => { buildPanels(); buildTargetChoice(); });
  whenChanged(["target"], buildTargetChoice);
  whenChanged(["x", "y"], buildSliders);
  whenChanged(["at"], updateSliders);
  whenChanged(["layer", "metric", "target", "x", "y", "at", "pin", "hover", "size"], drawPanels);
  whenChanged(["layer", "metric", "target", "x", "y", "at", "pin", "size"], drawMapLegend);
}
