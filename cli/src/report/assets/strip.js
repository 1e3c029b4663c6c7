// The strip: every slice of the cut coefficient in miniature, a row per domain; choosing one moves the slider.

let strips = [];

function buildStrip() {
  const holder = byId("strip");
  if (!mapsExist || dimensions < 3 || !currentLayer()) { holder.replaceChildren(); strips = []; return; }
  strips = panels.map((panel) => {
    const name = el("span", { class: "strip-name" });
    const canvas = el("canvas", { role: "img", click: (event) => chooseSlice(event, canvas) });
    return { panel, name, canvas, row: el("div", { class: "strip-row" }, name, canvas) };
  });
  holder.replaceChildren(el("figure", { class: "strip" }, el("figcaption", {}), strips.map((strip) => strip.row)));
}

/** Slices of a strip: all of them, or evenly chosen ones where they would be too small to see. */
function stripLayout(width) {
  const axis = axes[view.cut];
  const [nx, ny] = [axes[view.x].shown.length, axes[view.y].shown.length];
  const least = 4;
  const most = Math.max(2, Math.floor((width + least) / (26 + least)));
  const stride = Math.ceil(axis.shown.length / most);
  const positions = [];
  for (let i = axis.zero % stride; i < axis.shown.length; i += stride) positions.push(i);
  const ratio = devicePixelRatio || 1;
  const snap = (length, count) => (length * ratio >= count ? (Math.floor((length * ratio) / count) * count) / ratio : length);
  const size = snap(Math.min(84, (width + least) / positions.length - least), nx);
  const high = snap(size * Math.min(1.25, Math.max(0.5, ny / nx)), ny);
  // What whole cells leave over goes between the slices.
  const gap = Math.min(12, (width - size * positions.length) / Math.max(1, positions.length - 1));
  return { gap, positions, size, high };
}

function drawStrip() {
  const layer = currentLayer();
  if (strips.length === 0 || !layer) return;
  const axis = axes[view.cut];
  byId("strip").querySelector("figcaption").replaceChildren(
    `Every slice along ${axis.title}; click one to enlarge it above.`);
  const colours = palette();
  const tiles = currentTiles();
  for (const { panel, name, canvas, row } of strips) {
    name.replaceChildren(panelTitle(panel));
    const layout = stripLayout(row.clientWidth);
    const { gap, positions, size, high } = layout;
    const pen = sharpCanvas(canvas, row.clientWidth, high + 20);
    pen.imageSmoothingEnabled = false;
    positions.forEach((position, index) => {
      const x = index * (size + gap);
      pen.fillStyle = hatch(pen);
      pen.fillRect(x, 2, size, high);
      pen.drawImage(tileOf(tiles, layer, panel, position), x, 2, size, high);
      const current = position === view.at[view.cut];
      pen.strokeStyle = current ? colours.ink : colours.rule;
      pen.lineWidth = current ? 2 : 1;
      pen.strokeRect(x + 0.5, 2.5, size - 1, high - 1);
      const nth = Math.max(1, Math.ceil(34 / (size + gap)));
      if (current || (position - axis.zero) % (nth * (positions[1] - positions[0] || 1)) === 0) {
        pen.font = `${current ? "600 " : ""}10.5px ${fontFamily}`;
        pen.fillStyle = current ? colours.ink : colours.muted;
        pen.textAlign = "center";
        pen.textBaseline = "top";
        pen.fillText(decimal(axis.values[axis.shown[position]]), x + size / 2, high + 6);
      }
    });
    canvas.layout = layout;
    canvas.setAttribute("aria-label", `${panelTitle(panel)}: ${positions.length} slices along ${axis.title}`);
  }
}

// Drawn slices by panel and position, for as long as nothing but the cut itself changes: moving the slider would
// otherwise look at every point of the space again.
let tileCache = { key: "", tiles: new Map() };

function currentTiles() {
  const elsewhere = view.at.map((position, k) => (k === view.x || k === view.y || k === view.cut ? "" : position));
  const key = [theme.name, view.layer, view.metric, view.target, view.x, view.y, view.cut, ...elsewhere].join(" ");
  if (tileCache.key !== key) tileCache = { key, tiles: new Map() };
  return tileCache.tiles;
}

function tileOf(tiles, layer, panel, position) {
  const name = `${panel.target ? "target" : panel.domain} ${position}`;
  if (!tiles.has(name)) {
    tiles.set(name, sliceTile(layer, panel, theme.name, position));
  }
  return tiles.get(name);
}

function chooseSlice(event, canvas) {
  const { positions, size, gap } = canvas.layout;
  const index = Math.floor((event.clientX - canvas.getBoundingClientRect().left) / (size + gap));
  if (positions[index] !== undefined) { stopPlaying(); moveSlice(view.cut, positions[index]); }
}

function startStrip() {
  buildStrip();
  whenChanged(["metric"], buildStrip);
  whenChanged(["layer", "metric", "target", "x", "y", "at", "cut", "size"], drawStrip);
}
