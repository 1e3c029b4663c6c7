// Example responses, filtered by point, domain and verdict.

const CARDS_AT_ONCE = 24;
const filter = { point: "", domain: -1, label: "", shown: CARDS_AT_ONCE };

const responsePoints = (() => {
  const labels = new Map();
  for (const response of report.responses) {
    const key = pointText(response.point);
    if (!labels.has(key)) labels.set(key, response.label ? `${key} – ${response.label}` : key);
  }
  return [...labels].map(([value, label]) => ({ value, label }));
})();

function chooseResponses(change) {
  Object.assign(filter, { shown: CARDS_AT_ONCE }, change);
  buildResponses();
}

function buildResponses() {
  const verdicts = [...new Set(report.responses.map((response) => response.verdict).filter((verdict) => verdict !== null))];
  const controls = byId("response-controls");
  if (report.responses.length === 0) {
    controls.replaceChildren();
    byId("response-cards").replaceChildren(el("p", { class: "notice" }, "No responses were generated, or none is stored yet."));
    return;
  }
  controls.replaceChildren(
    select("Point", [{ value: "", label: "all points" }, ...responsePoints], filter.point, (point) => chooseResponses({ point })),
    select("Domain", [{ value: -1, label: "all domains" }, ...report.domains.map((domain, value) => ({ value, label: domain.name }))], filter.domain, (domain) => chooseResponses({ domain })),
    verdicts.length > 1 ? select("Judged", [{ value: "", label: "any label" }, ...verdicts.map((value) => ({ value, label: levelName(value) }))], filter.label, (label) => chooseResponses({ label })) : "");
  const matching = report.responses.filter((response) => (filter.point === "" || pointText(response.point) === filter.point)
    && (filter.domain < 0 || response.domain === filter.domain)
    && (filter.label === "" || response.verdict === filter.label));
  const cards = matching.slice(0, filter.shown).map(responseCard);
  if (matching.length === 0) cards.push(el("p", { class: "notice" }, "No response matches."));
  if (matching.length > filter.shown) {
    cards.push(el("button", { type: "button", class: "more", click: () => chooseResponses({ shown: filter.shown + 2 * CARDS_AT_ONCE }) },
      `Show more (${grouped(matching.length - filter.shown)} left)`));
  }
  byId("response-cards").replaceChildren(...cards);
}

function responseCard(response) {
  const confidence = response.confidence === null ? "" : ` (${response.confidence.toFixed(2)})`;
  return el("article", { class: "card" },
    el("header", {},
      el("span", { class: "card-domain" }, report.domains[response.domain]?.name ?? ""),
      el("span", { class: "fine" }, response.id)),
    el("p", { class: "question" }, response.question),
    el("p", { class: "answer" }, response.text === "" ? el("em", {}, "(empty response)") : response.text),
    el("footer", {},
      response.verdict === null ? null : el("span", { title: response.reason }, el("span", { class: "fine" }, "judged "), chip(response.verdict), el("span", { class: "fine" }, confidence)),
      response.likelihood === null ? null : el("span", {}, el("span", { class: "fine" }, "likelihood "), chip(response.likelihood)),
      el("button", { type: "button", class: "link", title: response.label, click: () => {
        pinPoint(response.point);
        byId("pin").scrollIntoView({ behavior: "smooth", block: "center" });
      } }, pointText(response.point))));
}
