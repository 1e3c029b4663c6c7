// The table of targets.

const separateCoefficients = dimensions <= 4;
const anyJudged = report.answers.some((answer) => answer.judged.some((rate) => rate !== null));
const order = { column: null, descending: false };

const rateOf = (pair) => (pair ? pair[0] / pair[1] : -1);

/** The columns: heading, the value to sort by, the cell, and whether the best values come first. */
function targetColumns() {
  const columns = [{
    heading: "target",
    value: (answer) => answer.index,
    cell: (answer) => el("td", { class: "target" }, el("button", { type: "button", class: "row-button", disabled: !answer.point,
      "aria-label": `Pin the best point for ${targetWords(answer)}`, click: (event) => { event.stopPropagation(); pinAnswer(answer); } },
    answer.wanted.map((want, domain) => el("span", { class: "want" }, el("span", { class: "want-domain" }, report.domains[domain].name), chip(want, want === "base" ? "as base" : levelName(want)))))),
  }];
  if (separateCoefficients) {
    axes.forEach((axis, k) => columns.push({
      heading: axis.name,
      group: "coefficients",
      kind: "number",
      value: (answer) => (answer.point ? answer.point[k] : -Infinity),
      cell: (answer) => el("td", { class: "number" }, answer.point ? decimal(answer.point[k]) : "–"),
    }));
  } else {
    columns.push({
      heading: "coefficients",
      value: (answer) => (answer.point ? answer.point.reduce((sum, value) => sum + value * value, 0) : -1),
      cell: (answer) => el("td", { class: "point" }, answer.point ? nonZeroWords(answer.point) : "–"),
    });
  }
  report.domains.forEach((domain, index) => columns.push({
    heading: domain.name,
    group: "rate of the wanted level",
    best: true,
    value: (answer) => rateOf(answer.rates[index]),
    cell: (answer) => el("td", { class: "rate" }, rateBar(answer.rates[index], answer.wanted[index]),
      anyJudged ? judgedWords(answer.judged[index]) : null),
  }));
  columns.push({
    heading: report.aggregate,
    kind: "number",
    best: true,
    value: (answer) => answer.aggregate ?? -1,
    cell: (answer) => el("td", { class: "number strong" }, answer.aggregate === null ? "–" : percent(answer.aggregate)),
  }, {
    heading: "achieved",
    kind: "mark",
    best: true,
    value: (answer) => Number(answer.achieved),
    cell: (answer) => answer.achieved === null
      ? el("td", { class: "mark" }, "–", el("span", { class: "unseen" }, " not measured"))
      : el("td", { class: answer.achieved ? "mark yes" : "mark no" }, answer.achieved ? "✓" : "✗", el("span", { class: "unseen" }, answer.achieved ? " yes" : " no")),
  });
  return columns;
}

function nonZeroWords(point) {
  const moved = point.map((value, k) => (value === 0 ? null : `${axes[k].name}\u00a0${decimal(value)}`)).filter(Boolean);
  return moved.length === 0 ? "all 0" : `${moved.join(", ")}${moved.length < dimensions ? "; others 0" : ""}`;
}

/** A rate as a bar with the whisker of its interval and its numbers. */
function rateBar(pair, want) {
  if (!pair) return el("span", { class: "fine" }, want === "any" ? "free" : "–");
  const [count, n] = pair;
  const [low, high] = wilson(count, n);
  const level = typeof want === "number" ? want : null;
  const fill = styled(el("i", { class: "fill", "data-level": level === null ? undefined : String(level) }), {
    width: `${(count / Math.max(1, n)) * 100}%`,
    background: level === null ? "var(--muted)" : levelColour(level),
  });
  const whisker = styled(el("i", { class: "whisker" }), { left: `${low * 100}%`, width: `${(high - low) * 100}%` });
  return el("div", {},
    el("span", { class: "rate-number" }, percent(count / Math.max(1, n))),
    el("span", { class: "fine" }, ` ${count}/${n}, ${Math.round(low * 100)}–${percent(high)}`),
    el("div", { class: "rate-bar", "aria-hidden": "true" }, fill, whisker));
}

function judgedWords(pair) {
  if (!pair) return null;
  const [low, high] = wilson(pair[0], pair[1]);
  return el("span", { class: "fine judged" }, `judged ${percent(pair[0] / Math.max(1, pair[1]))} (${pair[0]}/${pair[1]}, ${Math.round(low * 100)}–${percent(high)})`);
}

function pinAnswer(answer) {
  if (answer.point) pinPoint(answer.point, { target: answer.index });
}

function buildTargets() {
  const holder = byId("target-table");
  const answers = report.answers.map((answer, index) => ({ ...answer, index }));
  if (answers.length === 0) {
    holder.replaceChildren(el("p", { class: "notice" }, "No target has been answered yet."));
    return;
  }
  const columns = targetColumns();
  const sorted = answers.slice();
  if (order.column !== null) {
    const { value } = columns[order.column];
    sorted.sort((a, b) => (value(a) - value(b)) * (order.descending ? -1 : 1) || a.index - b.index);
  }
  const head = el("tr", {}, columns.map((column, index) => {
    const sort = order.column !== index ? "none" : order.descending ? "descending" : "ascending";
    const arrow = { none: "", ascending: " ▲", descending: " ▼" }[sort];
    return el("th", { scope: "col", class: column.kind, "aria-sort": sort }, el("button", { type: "button", click: () => sortBy(index, column) },
      column.heading, el("span", { "aria-hidden": "true" }, arrow)));
  }));
  const rows = sorted.map((answer) => el("tr", {
    class: [answer.achieved ? "" : "missed", samePoint(answer.point, view.pin) && answer.index === view.target ? "chosen" : ""].join(" "),
    click: () => pinAnswer(answer),
  }, columns.map((column) => column.cell(answer))));
  holder.replaceChildren(el("table", { class: "targets" },
    el("caption", { class: "unseen" }, "Targets with their best coefficients"),
    el("thead", {}, groupRow(columns), head), el("tbody", {}, rows)));
}

/** The headings over the headings: which columns are coefficients, which are rates. */
function groupRow(columns) {
  const groups = [];
  for (const { group = "" } of columns) {
    if (groups.length > 0 && groups[groups.length - 1].group === group) groups[groups.length - 1].span += 1;
    else groups.push({ group, span: 1 });
  }
  return el("tr", { class: "group" }, groups.map(({ group, span }) => (group === ""
    ? el("td", { colspan: String(span) })
    : el("th", { colspan: String(span), scope: "colgroup" }, group))));
}

function sortBy(index, column) {
  if (order.column === index) order.descending = !order.descending;
  else Object.assign(order, { column: index, descending: Boolean(column.best) });
  buildTargets();
  byId("target-table").querySelectorAll("thead button")[index]?.focus();
}

function startTargets() {
  const several = report.answers.some((answer) => answer.rates.some((rate) => rate !== null));
  byId("targets-explain").replaceChildren(several
    ? `For every target the point that serves it best, chosen on the search queries. The rates are those of the wanted levels on the ${report.reported} queries, with counts and 95 % intervals${anyJudged ? "; below them the judge’s verdicts on generated responses" : ""}. The ${report.aggregate} over domains sums a row up; a target is achieved when the wanted level dominates in every domain. Click a heading to sort, a row to pin its point.`
    : "");
  whenChanged(["pin", "target"], () => {
    // A rebuilt table would take the focus away from the button that was just pressed.
    const pressed = document.activeElement?.getAttribute("aria-label");
    buildTargets();
    if (pressed) [...byId("target-table").querySelectorAll(".row-button")].find((button) => button.getAttribute("aria-label") === pressed)?.focus();
  });
}
