// The convergence: what the search expected still to lose, against evaluations.

const progress = { width: 660, height: 230, left: 46, right: 14, top: 12, bottom: 34 };

function buildConvergence() {
  const { steps, targets } = report.convergence ?? { steps: [], targets: 0 };
  if (steps.length === 0) {
    byId("convergence").remove();
    byId("nav-convergence").remove();
    return;
  }
  const last = steps[steps.length - 1];
  byId("convergence-explain").textContent = `By how much the grid’s best is expected to be better than the best measured point, as the search could tell after so many evaluations: on average over ${targets} targets, for the worst of them, and the largest of the targets’ 95 % bounds, each taken alone. After ${grouped(last.evaluations)} evaluations the best point of ${last.certain} of ${targets} targets is known with at least 95 % probability.`;
  const { width, height, left, right, top, bottom } = progress;
  const most = Math.max(0.02, ...steps.flatMap((step) => [step.bound, step.worst]));
  const x = (evaluations) => left + (evaluations / last.evaluations) * (width - left - right);
  const y = (regret) => top + (1 - regret / most) * (height - top - bottom);
  const round = (number) => number.toFixed(1);
  const frame = svg("g", { class: "frame" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const at = y(share * most);
    frame.append(svg("line", { x1: left, x2: width - right, y1: at, y2: at }));
    frame.append(svg("text", { x: left - 6, y: at + 3.5, "text-anchor": "end" }, (share * most).toFixed(most < 0.1 ? 3 : 2)));
  }
  const ticks = steps.length <= 6 ? steps : [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => steps[Math.round(share * (steps.length - 1))]);
  for (const step of ticks) {
    frame.append(svg("text", { x: x(step.evaluations), y: height - bottom + 15, "text-anchor": "middle" }, grouped(step.evaluations)));
  }
  frame.append(svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, "evaluations"));
  const lines = [["bound", "2 3"], ["worst", "6 3"], ["mean", ""]].map(([name, dash]) =>
    svg("path", {
      class: "line", d: `M${steps.map((step) => `${round(x(step.evaluations))},${round(y(step[name]))}`).join("L")}`, "stroke-dasharray": dash,
    }));
  const guide = svg("line", { class: "guide", y1: top, y2: height - bottom, visibility: "hidden" });
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", class: "convergence-picture",
    "aria-label": `Expected regret from ${steps[0].mean.toFixed(3)} after ${steps[0].evaluations} evaluations to ${last.mean.toFixed(3)} after ${last.evaluations}`,
    pointermove: (event) => {
      const bounds = drawing.getBoundingClientRect();
      const place = ((event.clientX - bounds.left) / bounds.width) * width;
      const step = steps.reduce((best, next) => (Math.abs(x(next.evaluations) - place) < Math.abs(x(best.evaluations) - place) ? next : best));
      for (const end of ["x1", "x2"]) guide.setAttribute(end, x(step.evaluations));
      guide.setAttribute("visibility", "visible");
      showTooltip([el("strong", {}, `${grouped(step.evaluations)} evaluations`),
        el("div", {}, `expected regret ${step.mean.toFixed(3)} on average, ${step.worst.toFixed(3)} at worst`),
        el("div", {}, `at most ${step.bound.toFixed(3)} with 95 % probability`),
        el("div", {}, `${step.certain} of ${targets} targets settled`)], event.clientX, event.clientY);
    },
    pointerleave: () => { guide.setAttribute("visibility", "hidden"); hideTooltip(); },
  }, frame, svg("g", { class: "curve convergence-lines" }, lines), guide);
  byId("convergence-picture").replaceChildren(drawing);
  byId("convergence-legend").replaceChildren(el("p", { class: "line-keys" }, [["mean over targets", ""], ["worst target", "6 3"], ["bound, 95 %", "2 3"]].map(([name, dash]) =>
    el("span", {}, svg("svg", { viewBox: "0 0 30 12", class: "line-key", "aria-hidden": "true" },
      svg("line", { class: "line", x1: 0, x2: 30, y1: 6, y2: 6, "stroke-dasharray": dash })), " ", name))));
}
