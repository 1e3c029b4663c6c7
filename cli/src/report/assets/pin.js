// The numbers of the pinned point.

/** The shares of a domain's queries at each level, as one bar with its counts. */
function shareBar(tally) {
  const bar = el("div", { class: "share", "aria-hidden": "true" });
  report.levels.forEach((name, level) => {
    if (tally.at[level] === 0) return;
    const part = el("i", { "data-level": String(level), title: `${name} ${tally.at[level]}/${tally.n}` });
    bar.append(styled(part, { width: `${(tally.at[level] / tally.n) * 100}%`, background: levelColour(level) }));
  });
  return bar;
}

function countWords(layer, tally) {
  const words = report.levels.map((name, level) => `${name} ${tally.at[level]}`);
  if (layer.reading === "judgement") {
    if (tally.at[levelCount]) words.push(`unclear ${tally.at[levelCount]}`);
    if (tally.at[levelCount + 1]) words.push(`refused ${tally.at[levelCount + 1]}`);
  }
  return `${words.join(" · ")} of ${tally.n}`;
}

function pinnedLayer(layer, row) {
  const rows = report.domains.map((domain, index) => {
    const tally = layer.tally(row, index);
    const best = tally ? dominantLevel(tally) : -1;
    const interval = best >= 0 ? wilson(tally.at[best], tally.n) : null;
    return el("tr", {},
      el("th", { scope: "row" }, domain.name),
      el("td", { class: "bar-cell" }, tally ? shareBar(tally) : "not measured",
        tally && el("span", { class: "fine" }, countWords(layer, tally))),
      el("td", {}, best >= 0 ? chip(best) : tally ? "tie" : ""),
      el("td", { class: "number" }, best >= 0 ? percent(tally.at[best] / tally.n) : "",
        interval && el("span", { class: "fine" }, `${percent(interval[0])} – ${percent(interval[1])}`)));
  });
  return el("div", { class: "pin-layer" }, el("table", { class: "pinned" },
    el("caption", {}, layerName(layer)),
    el("thead", { class: "unseen" }, el("tr", {}, ["domain", "queries at each level", "dominant", "rate, 95 % interval"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows)));
}

function drawPin() {
  const holder = byId("pin");
  if (!view.pin) {
    holder.replaceChildren(el("p", { class: "hint" }, "Click a cell, a curve or a row of the table to pin its point and see its numbers here."));
    return;
  }
  const row = rowOfTicks(view.pin);
  const current = currentLayer();
  const alike = layers.filter((layer) => layer.reading === "judgement"
    || (layer.reading === current?.reading && layer.normalisation === current?.normalisation));
  const shown = alike.filter((layer) => row >= 0 && layerHas(layer, row));
  const best = report.answers.filter((answer) => samePoint(answer.point, view.pin));
  const replies = report.responses.filter((response) => samePoint(response.point, view.pin)).length;
  holder.replaceChildren(
    el("div", { class: "pin-head" },
      el("h3", {}, pointWords(view.pin)),
      replies > 0 && el("button", { type: "button", click: () => {
        chooseResponses({ point: pointText(view.pin), domain: -1 });
        byId("responses").scrollIntoView({ behavior: "smooth" });
      } }, `${replies} response${replies === 1 ? "" : "s"}`),
      el("button", { type: "button", class: "quiet", click: () => show({ pin: null }) }, "Unpin")),
    mapsExist && !inSlice(view.pin) ? el("p", { class: "fine" }, "Outside the slice shown (dashed ring). ",
      el("button", { type: "button", class: "link", click: () => pinPoint(view.pin) }, "Go to its slice")) : "",
    best.length > 0 ? el("p", { class: "fine" }, "Best for ", best.slice(0, 6).map(targetWords).join("; "), best.length > 6 ? ` and ${best.length - 6} more` : "", ".") : "",
    shown.length > 0 ? el("div", { class: "pin-layers" }, shown.map((layer) => pinnedLayer(layer, row))) : el("p", {}, "This point was not measured."),
    el("p", { class: "fine" }, "What the model says there: ",
      el("code", {}, `avsweep sample ${report.name} --point=${pointText(view.pin)}`)));
}

function startPin() {
  whenChanged(["pin", "layer", "at", "x", "y"], drawPin);
}
