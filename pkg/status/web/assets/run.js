// The run that is looked at: the current one, or one that was chosen in the chart.
import { byId, h, keep, markAs, outcomeMark, say } from "./dom.js";
import { bytes, date, seconds } from "./format.js";
import { now } from "./stream.js";
import * as waterfall from "./waterfall.js";

const outcome = byId("run-outcome");
const details = byId("run-details");
const word = { __proto__: null, running: "under way" };
let shown = null;

// keyOf tells runs apart: their numbers begin anew with each devloop.
export const keyOf = (run) => `${run.started} ${run.number}`;

const figure = (n) => (Number.isFinite(n) && n >= 0 ? n : 0);
const text = (value) => (typeof value === "string" ? value : "");
const list = (value) => (Array.isArray(value) ? value.filter((item) => item && typeof item === "object") : []);

// whole is a run as all parts of the page may take it: those of earlier processes were written by another devloop, older or newer.
export const whole = (run) => ({
  ...run, outcome: text(run.outcome) || "unknown", seconds: figure(run.seconds), bytes: figure(run.bytes),
  why: text(run.why), files: text(run.files), error: text(run.error), hint: text(run.hint), output: text(run.output),
  releases: Array.isArray(run.releases) ? run.releases.map(text).filter(Boolean) : [],
  changes: list(run.changes).map((change) => ({ file: text(change.file), more: figure(change.more), lines: list(change.lines) })),
  stages: list(run.stages).map((stage) => ({ name: text(stage.name), seconds: figure(stage.seconds) })),
  spans: list(run.spans).map((span) => ({
    ...span, stage: text(span.stage), name: text(span.name), about: text(span.about), outcome: text(span.outcome) || "unknown", seconds: figure(span.seconds), bytes: figure(span.bytes),
  })),
});

const signs = { __proto__: null, added: "+", removed: "−" };

// lineChange is what happened to a package, or to a path of values: "+ tabulate 0.9.0".
function lineChange({ name, before, after, change }) {
  const versions = signs[change] ? [after || before] : before || after ? [before, "→", after] : [];
  return [signs[change] ?? "~", name, ...versions].map(text).filter(Boolean).join(" ");
}

const causes = { __proto__: null, start: "devloop started", asked: "asked for", retry: "tried again" };

// why says what a run was for.
export const why = (run) => [reason(run), run.releases.length > 0 ? `only ${run.releases.join(", ")}` : ""].filter(Boolean).join(" · ");

const reason = (run) => (run.why === "change" && run.files ? run.files : causes[run.why] ?? run.why) || "";

// changes says what changed in the files that devloop understands.
export const changes = (run) => run.changes.flatMap(({ lines, more }) => [...lines.map(lineChange), more ? `… ${more} more` : ""]).filter(Boolean).join(", ");

// whyAndWhat says what a run was for, and what changed.
export const whyAndWhat = (run) => [why(run), changes(run)].filter(Boolean).join("  ");

// show shows a run, or none; chosen if it is another than the current one.
export function show(run, chosen) {
  shown = run;
  byId("run-back").hidden = !chosen;
  byId("run-empty").hidden = Boolean(run);
  outcome.hidden = !run;
  say(byId("run-title"), run ? `Run ${run.number}` : "Run");
  say(byId("run-why"), run ? whyAndWhat(run) : "");
  say(byId("run-started"), run ? [date(run.started), run.bytes ? `${bytes(run.bytes)} moved` : ""].filter(Boolean).join(" · ") : "");
  details.hidden = !run?.spans.length;
  if (run) {
    outcome.className = `badge ${run.outcome}`;
    badge(run.outcome);
  }
  refresh();
}

function badge(name) {
  if (outcome.dataset.name === name) {
    return;
  }
  outcome.dataset.name = name;
  const sign = document.createElement("span");
  markAs(sign, outcomeMark(name));
  outcome.replaceChildren(sign, word[name] ?? name);
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (shown?.outcome === "running") {
    refresh();
  }
}

function refresh() {
  const running = shown?.outcome === "running";
  const took = running ? Math.max(0, (now() - Date.parse(shown.started)) / 1000) : shown?.seconds;
  say(byId("run-time"), shown ? seconds(took) : "");
  stages(shown ? waterfall.parts(running ? { stages: underWay(shown), seconds: took } : shown) : []);
  if (details.open) {
    waterfall.show(shown);
  }
}

// underWay adds up how long each stage of a run that is under way has taken: as devloop does at its end, but without looking for overlaps.
function underWay(run) {
  const took = new Map();
  for (const span of run.spans.filter((one) => !one.kind)) {
    const from = Date.parse(span.started);
    took.set(span.stage, (took.get(span.stage) ?? 0) + (span.outcome === "running" ? Math.max(0, (now() - from) / 1000) : span.seconds));
  }
  return [...took].map(([name, took]) => ({ name, seconds: took }));
}

// stages shows the run as one bar, and its stages in words.
function stages(parts) {
  const sum = parts.reduce((n, part) => n + part.seconds, 0) || 1;
  byId("run-stages").hidden = parts.length === 0;
  keep(byId("run-stages"), parts, (part) => part.name, (part) => h("span", { class: `s-${waterfall.drawnAs(part.name)}` }), (node, part) => {
    node.style.width = `${(100 * part.seconds) / sum}%`;
  });
  keep(byId("run-legend"), parts.filter((part) => part.name !== "other"), (part) => part.name, (part) => {
    const took = h("span");
    const node = h("li", {}, h("span", { class: `swatch s-${waterfall.drawnAs(part.name)}` }), part.name, took);
    node.took = took;
    return node;
  }, (node, part) => say(node.took, seconds(part.took)));
}

details.addEventListener("toggle", refresh);
