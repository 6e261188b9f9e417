// The waterfall of a run: a table, a row for each span, whose bars stand on one axis.
import { byId, h, keep, say, set } from "./dom.js";
import { bytes, clock, seconds } from "./format.js";
import { now } from "./stream.js";
import { tip } from "./tip.js";

export const stages = ["settle", "hash", "sync", "build", "load", "verify", "helm", "rollout", "answer", "proof"];

// drawnAs is the stage whose colour something has: other for those of another devloop that this one does not have.
export const drawnAs = (stage) => (stages.includes(stage) ? stage : "other");

const fewMinor = 8; // more rows of no interest than that are not shown until they are asked for

const table = byId("waterfall");
const axis = byId("axis");
const more = byId("waterfall-more");
let all = false;
let shown = null;

more.addEventListener("click", () => {
  all = !all;
  show(shown);
});

new ResizeObserver(() => show(shown)).observe(axis); // a narrow axis has fewer ticks

// label is what a row is called: a step by its text, all else by what it is done to.
const label = (row) => (row.kind === "step" ? row.name : row.about || row.name);

// brief leaves out of a step what stands before the command, and is long.
const brief = (text) => text.replace(/ --(mount|security|network)=\S+/g, "");

// nested puts the steps of an image, and the pods of a rollout, behind the row that they are parts of.
function nested(rows) {
  const parts = rows.filter((row) => row.kind);
  const whole = rows.filter((row) => !row.kind);
  const of = (part) => whole.find((row) => row.about === part.about) ?? whole.at(-1);
  return [...parts.filter((part) => !of(part)), ...whole.flatMap((row) => [row, ...parts.filter((part) => of(part) === row)])];
}

// parts are the stages of a run, shrunk to its length (seconds), since stages overlap, and how long they took.
export function parts(run) {
  const known = run.stages.filter((stage) => stage.seconds > 0);
  const sum = known.reduce((n, stage) => n + stage.seconds, 0);
  const by = sum > run.seconds ? run.seconds / sum : 1;
  const list = known.map((stage) => ({ name: stage.name, took: stage.seconds, seconds: stage.seconds * by }));
  return sum < run.seconds ? [...list, { name: "other", seconds: run.seconds - sum }] : list;
}

// nice returns the smallest of the round numbers that is no less than n.
export function nice(n, steps = [1, 1.5, 2, 3, 4, 5, 6, 8, 10]) {
  const power = 10 ** Math.floor(Math.log10(Math.max(n, 0.001)));
  return steps.map((s) => s * power).find((s) => s >= n * 0.9999) ?? 10 * power;
}

// show shows a run, as it is now.
export function show(run) {
  shown = run;
  const spans = run?.spans ?? [];
  table.hidden = spans.length === 0;
  more.hidden = true;
  if (table.hidden) {
    return;
  }
  const start = Date.parse(run.started);
  const live = run.outcome === "running";
  const sinceStart = (now() - start) / 1000;
  const rows = spans.map((span) => {
    const from = Math.max(0, (Date.parse(span.started) - start) / 1000 || 0);
    return { ...span, from, took: span.outcome === "running" ? Math.max(0, sinceStart - from) : span.seconds };
  });
  const end = Math.max(live ? nice(sinceStart) : run.seconds, ...rows.map((row) => row.from + row.took), 0.001);
  ticks(end);

  const minor = (row) => row.kind && row.outcome === "succeeded" && (row.cached || row.took < 0.02 * end);
  const many = rows.filter(minor).length;
  more.hidden = many <= fewMinor;
  say(more, all ? `Hide the ${many} cached and short steps` : `Show ${many} cached and short steps`);
  const wanted = more.hidden || all ? rows : rows.filter((row) => !minor(row));

  const groups = [...stages, "other"].map((stage) => ({ stage, rows: nested(wanted.filter((row) => drawnAs(row.stage) === stage)) })).filter((group) => group.rows.length > 0);
  keep(table, groups, (group) => group.stage, (group) => h("tbody", { class: `s-${group.stage}` }), (body, group) => {
    keep(body, group.rows, (row) => `${row.name} ${row.about} ${row.started}`, make, (node, row) => update(node, row, end));
    for (const node of body.rows) {
      const first = node === body.rows[0];
      node.classList.toggle("first", first);
      say(node.parts.stage, first ? group.stage : "");
    }
  });
  const top = table.querySelector("tbody tr");
  if (top && !table.querySelector("tbody tr[tabindex='0']")) { // there is none while all are of no interest
    top.tabIndex = 0;
  }
}

function ticks(end) {
  const step = nice(end / (axis.clientWidth < 320 ? 3 : 6), [1, 2, 5, 10]);
  const at = [];
  for (let n = 0; n * step <= end * 1.0001; n++) {
    at.push(n * step);
  }
  table.style.setProperty("--step", `${(100 * step) / end}%`);
  keep(axis, at, String, () => h("span", { class: "tick", "aria-hidden": "true" }), (node, t) => {
    say(node, t === 0 ? "0" : `${+t.toFixed(3)} s`);
    node.style.left = `${(100 * t) / end}%`;
    node.classList.toggle("last", t / end > 0.94);
  });
}

function make() {
  const parts = {
    stage: h("span", { class: "stage" }), name: h("span", { class: "name" }), size: h("span", { class: "size" }),
    bar: h("span", { class: "bar" }), when: h("span", { class: "unseen" }), took: h("span"),
  };
  const node = h("tr", { tabindex: -1 },
    h("th", { scope: "row" }, h("span", { class: "cell" }, parts.stage, parts.name, parts.size)),
    h("td", { class: "track" }, h("span", { class: "grid" }, parts.bar), parts.when),
    h("td", { class: "number" }, parts.took));
  node.parts = parts;
  tip(node, () => tell(node.row));
  return node;
}

function update(node, row, end) {
  const { name, size, bar, when, took } = node.parts;
  node.row = row;
  node.className = `${row.outcome} ${row.kind ?? ""} ${row.cached ? "cached" : ""}`;
  say(name, brief(label(row)));
  say(size, row.bytes ? bytes(row.bytes) : "");
  say(when, `${row.kind === "step" ? row.about : row.name}, from ${seconds(row.from)} to ${row.outcome === "running" ? "now" : seconds(row.from + row.took)}, ${row.cached ? "cached" : row.outcome}`);
  say(took, row.cached ? "cached" : seconds(row.took));
  bar.style.left = `${(100 * row.from) / end}%`;
  bar.style.width = `${(100 * row.took) / end}%`;
  set(node, "data-outcome", row.outcome);
}

function tell(row) {
  const under = row.outcome === "running";
  return {
    title: label(row),
    rows: [
      [row.stage, row.kind === "step" ? `step of ${row.about}` : row.name],
      ["outcome", row.cached ? "cached" : row.outcome],
      ["from", `${row.from.toFixed(3)} s (${clock(row.started, true)})`],
      ["to", under ? "under way" : `${(row.from + row.took).toFixed(3)} s`],
      ["took", `${row.took.toFixed(3)} s`],
      ["moved", row.bytes ? bytes(row.bytes) : ""],
      ["error", row.error],
    ],
  };
}

// One row is in the tab order; the arrow keys lead to the others.
table.addEventListener("keydown", (e) => {
  const rows = [...table.querySelectorAll("tbody tr")];
  const at = rows.indexOf(e.target);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[e.key];
  if (at < 0 || e.ctrlKey || e.altKey || e.metaKey || !rows[next]) {
    return;
  }
  e.preventDefault();
  rows[at].tabIndex = -1;
  rows[next].tabIndex = 0;
  rows[next].focus();
});
