// The page around the figures, and its start.

function fillHeader() {
  const parts = [
    `${grouped(report.count)} point${report.count === 1 ? "" : "s"} of a model with ${dimensions} coefficient${dimensions === 1 ? "" : "s"}`,
    `${report.domains.length} domain${report.domains.length === 1 ? "" : "s"}: ${report.domains.map((domain) => domain.name).join(", ")}`,
    `levels ${report.levels.join(" < ")}`,
  ];
  byId("lede").textContent = `${parts.join(" · ")}. As of ${report.generated}.`;
  const answered = report.answers.filter((answer) => answer.point);
  const achieved = report.answers.filter((answer) => answer.achieved).length;
  const figures = [[grouped(report.count), "points measured"]];
  if (report.answers.length > 0) figures.push([`${achieved} of ${report.answers.length}`, "targets achieved"]);
  if (answered.length > 0) {
    const values = answered.map((answer) => answer.aggregate ?? 0).sort((a, b) => a - b);
    const middle = Math.floor(values.length / 2);
    const median = values.length % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
    const sums = { min: "weakest domain’s rate", mean: "mean rate over domains", product: "product of the domains’ rates" };
    figures.push([percent(median), `${sums[report.aggregate]}, median target`]);
  }
  if (report.responses.length > 0) figures.push([grouped(report.responses.length), "example responses"]);
  byId("figures").replaceChildren(...figures.map(([number, words]) => el("div", {}, el("strong", {}, number), el("span", {}, words))));
  byId("fact-list").replaceChildren(...[...report.facts, ["Report", `${report.generated}, avsweep ${report.version}`]].map(([label, value]) =>
    el("div", {}, el("dt", {}, label), el("dd", {}, value))));
}

function fillExplanations() {
  const nothing = layers.length === 0;
  if (nothing) {
    byId("maps-explain").textContent = "Nothing has been measured yet: the figures fill as results arrive.";
    byId("curves-explain").textContent = "Nothing has been measured yet.";
    byId("curve-legend").remove();
    return;
  }
  byId("curves-explain").textContent = dimensions === 1
    ? "The share of each domain’s queries at each level along the coefficient."
    : "The share of each domain’s queries at each level when one coefficient moves and the others stay where the base model has them. Click to pin a point.";
  if (!mapsExist) {
    byId("maps-title").textContent = "Pinned point";
    byId("maps-explain").textContent = "With one coefficient there is no map to draw; its curves follow below.";
    byId("nav-maps").remove();
    return;
  }
  byId("maps-explain").replaceChildren(el("strong", {}, "How to read this. "),
    "Each cell is one merged model: base plus the vectors, weighted by the coefficients on the axes. Its colour says at which level the model answers a domain’s queries – the hue names the level, the depth how many of the queries are at it. The maps show the same slice for every domain, so one place in all of them is one model.",
    dimensions > 2 ? " Move the slider to cut the space elsewhere." : "");
}

function buildLayerChoice() {
  const field = byId("layer");
  if (layers.length < 2) { byId("layer-field").hidden = true; return; }
  field.replaceChildren(...layers.map((layer, index) => el("option", { selected: index === view.layer },
    `${layerName(layer)} (${grouped(layer.rowsHere)} point${layer.rowsHere === 1 ? "" : "s"})`)));
  field.addEventListener("change", () => show({ layer: field.selectedIndex }));
}

function setTheme(name) {
  theme.name = name;
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  recolourChips();
  announce(["theme"]);
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => { if (!theme.chosen) setTheme(dark.matches ? "dark" : "light"); });
  byId("theme").addEventListener("click", () => { theme.chosen = true; setTheme(theme.name === "dark" ? "light" : "dark"); });
  // Paper is white.
  let before = null;
  addEventListener("beforeprint", () => { before = theme.name; setTheme("light"); });
  addEventListener("afterprint", () => { if (before) setTheme(before); });
}

function watchSize() {
  let width = innerWidth;
  let waiting = false;
  addEventListener("resize", () => {
    if (waiting || innerWidth === width) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; width = innerWidth; announce(["size"]); });
  });
}

fillHeader();
fillExplanations();
buildLayerChoice();
startTheme();
if (layers.length > 0) {
  startMaps();
  startStrip();
  startPin();
  startCurves();
} else {
  for (const id of ["map-controls", "panels", "map-legend", "strip", "pin"]) byId(id).remove();
}
startTargets();
buildConvergence();
buildResponses();
setTheme(theme.name);
watchSize();
