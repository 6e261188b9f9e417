// The last runs: a bar for each, made of its stages, to choose one by; a table of the same; and where the time goes.
import { byId, h, keep, mark, markAs, outcomeMark, say, set, svg } from "./dom.js";
import { count, date, seconds } from "./format.js";
import { keyOf, why, whyAndWhat } from "./run.js";
import { tip } from "./tip.js";
import { drawnAs, nice, parts, stages } from "./waterfall.js";

const slots = 50; // runs that fit: as many as devloop keeps
const height = 116;
const margin = { top: 20, right: 6, bottom: 20, left: 44 };

const box = byId("chart");
const inks = ["succeeded", "failed", "superseded", "interrupted"];
let drawing = null;
let runs = [];
let chosen = ""; // key of the run that is looked at
let choose = () => {};

byId("legend").append(
  ...stages.map((stage) => h("li", {}, h("span", { class: `swatch s-${stage}` }), stage)),
  ...inks.slice(1).map((outcome) => h("li", { class: outcome }, mark(outcomeMark(outcome)), outcome)));

// onChoose sets who is called with the chosen run.
export function onChoose(listener) {
  choose = listener;
}

// show shows the runs that ended; selected is the key of the one that is looked at.
export function show(all, selected) {
  runs = all;
  chosen = selected;
  say(byId("runs-note"), runs.length > 0 ? count(runs.length, "run") : "");
  byId("runs-empty").hidden = runs.length > 0;
  for (const part of [box, byId("runs-details")]) {
    part.hidden = runs.length === 0;
  }
  draw();
  list();
  medians();
}

new ResizeObserver(() => draw()).observe(box);

// top is where the axis ends. A first start takes minutes and a change seconds: bars beyond are cut, and show it.
function top() {
  const sorted = runs.map((run) => run.seconds).sort((a, b) => a - b);
  const median = sorted[sorted.length >> 1] ?? 1;
  return nice(Math.max(0.1, Math.min(sorted.at(-1) ?? 1, 4 * median)));
}

function draw() {
  const width = box.clientWidth;
  if (width === 0) {
    return;
  }
  const focused = drawing?.contains(document.activeElement);
  const slot = (width - margin.left - margin.right) / slots;
  const gap = slot > 10 ? 3 : 1;
  const end = top();
  const y = (s) => height - margin.bottom - (Math.min(s, end) / end) * (height - margin.top - margin.bottom);
  drawing = svg("svg", {
    width, height, role: "listbox", tabindex: 0, "aria-orientation": "horizontal", "aria-label": "Last runs, the newest last",
    "data-testid": "chart-bars",
  });
  for (const s of [0, end / 2, end]) {
    drawing.append(svg("line", { x1: margin.left, x2: width - margin.right, y1: y(s), y2: y(s), class: "rule", "aria-hidden": "true" }),
      svg("text", { x: margin.left - 8, y: y(s) + 4, class: "scale", "aria-hidden": "true" }, s === 0 ? "0" : `${+s.toFixed(3)} s`));
  }
  runs.forEach((run, i) => drawing.append(bar(run, margin.left + i * slot, slot, gap, y, end)));
  drawing.addEventListener("keydown", walk);
  drawing.addEventListener("focus", () => point(chosen || keyOf(runs.at(-1) ?? {})));
  box.replaceChildren(drawing);
  point(chosen);
  if (focused) {
    drawing.focus();
  }
}

const idOf = (run) => `bar-${runs.indexOf(run)}`;

function bar(run, x, slot, gap, y, end) {
  const node = svg("g", {
    id: idOf(run), role: "option", class: `run-bar ${run.outcome}`, "data-run": run.number, "data-outcome": run.outcome,
    "aria-selected": keyOf(run) === chosen, "aria-label": `Run ${run.number}, ${run.outcome}, ${seconds(run.seconds)}, ${why(run)}`,
  });
  const wide = slot - gap;
  const scale = Math.min(1, end / Math.max(run.seconds, 0.001));
  node.append(svg("rect", { x, y: 4, width: slot, height: height - 8, class: "hit" }));
  let from = 0;
  for (const part of parts(run)) {
    const to = from + part.seconds * scale;
    node.append(svg("rect", { x: x + gap / 2, y: y(to), width: wide, height: Math.max(0, y(from) - y(to)), class: `part s-${drawnAs(part.name)}` }));
    from = to;
  }
  if (run.seconds > end) {
    const at = y(end) + 10;
    node.append(svg("path", { d: `M${x} ${at + 4}l${slot / 2} -6l${slot / 2} 4`, class: "cut-off" }));
  }
  if (run.outcome !== "succeeded") {
    const size = Math.min(12, Math.max(7, wide));
    const sign = mark(outcomeMark(run.outcome));
    for (const [name, value] of Object.entries({ x: x + (slot - size) / 2, y: y(run.seconds) - size - 4, width: size, height: size })) {
      sign.setAttribute(name, value);
    }
    node.append(sign);
  }
  node.append(svg("path", { d: `M${x + slot / 2 - 4} ${height - 8}l4 -5l4 5z`, class: "pointer" }));
  node.addEventListener("click", () => choose(run));
  tip(node, () => ({
    title: `Run ${run.number}`,
    rows: [["outcome", run.outcome], ["why", whyAndWhat(run)], ["started", date(run.started)], ["took", `${run.seconds.toFixed(3)} s`],
      ...run.stages.map((stage) => [stage.name, `${stage.seconds.toFixed(3)} s`]), ["error", run.error]],
  }));
  return node;
}

// point marks the run with that key as the one that is looked at.
function point(key) {
  const run = runs.find((r) => keyOf(r) === key);
  set(drawing, "aria-activedescendant", run && idOf(run));
}

function walk(e) {
  const at = runs.findIndex((run) => keyOf(run) === chosen);
  const from = at < 0 ? runs.length - 1 : at;
  const next = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: runs.length - 1 }[e.key];
  if (next === undefined || e.ctrlKey || e.altKey || e.metaKey) {
    return;
  }
  e.preventDefault();
  if (runs[next]) {
    choose(runs[next]);
  }
}

function list() {
  const body = byId("runs-table").tBodies[0];
  keep(body, [...runs].reverse(), keyOf, (run) => {
    const sign = h("span");
    const outcome = h("td", { class: `outcome ${run.outcome}` }, sign, run.outcome);
    markAs(sign, outcomeMark(run.outcome));
    const pick = h("button", { class: "plain" }, `Run ${run.number}`);
    pick.addEventListener("click", () => choose(run));
    return h("tr", {}, h("th", { scope: "row" }, pick), h("td", {}, date(run.started)), h("td", {}, whyAndWhat(run)), outcome,
      h("td", { class: "number" }, seconds(run.seconds)),
      h("td", { class: "quiet" }, run.stages.map((stage) => `${stage.name} ${seconds(stage.seconds)}`).join(", ")));
  }, (node, run) => set(node, "aria-current", keyOf(run) === chosen));
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function medians() {
  const good = runs.filter((run) => run.outcome === "succeeded");
  byId("medians").hidden = good.length === 0;
  byId("medians-empty").hidden = good.length > 0;
  say(byId("medians-note"), good.length > 0 ? `median of ${count(good.length, "run")} that succeeded` : "");
  if (good.length === 0) {
    return;
  }
  const rows = stages.map((stage) => ({ stage, median: median(good.map((run) => run.stages.find((s) => s.name === stage)?.seconds ?? 0)) }));
  const longest = Math.max(...rows.map((row) => row.median), 0.001);
  rows.push({ stage: "all of it", median: median(good.map((run) => run.seconds)), whole: true });
  keep(byId("medians").tBodies[0], rows, (row) => row.stage, (row) => {
    const fill = h("span", { class: "fill" });
    const value = h("td", { class: "number" });
    const node = h("tr", { class: row.whole ? "whole" : `s-${row.stage}` }, h("th", { scope: "row" }, row.stage), h("td", {}, row.whole ? "" : fill), value);
    node.parts = { fill, value };
    return node;
  }, (node, row) => {
    node.parts.fill.style.width = `${(100 * row.median) / longest}%`;
    say(node.parts.value, row.median > 0 ? seconds(row.median) : "–");
  });
}
