// The run that is looked at: the current one, or one that was chosen in the chart.
import { byId, markAs, outcomeMark, say } from "./dom.js";
import { bytes, date, seconds } from "./format.js";
import { now } from "./stream.js";
import * as waterfall from "./waterfall.js";

const outcome = byId("run-outcome");
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
  stages: list(run.stages).map((stage) => ({ name: text(stage.name), seconds: figure(stage.seconds) })),
  spans: list(run.spans).map((span) => ({
    ...span, stage: text(span.stage), name: text(span.name), about: text(span.about), outcome: text(span.outcome) || "unknown", seconds: figure(span.seconds), bytes: figure(span.bytes),
  })),
});

// why says what a run was for.
export const why = (run) => (run.why === "change" && run.files ? run.files : run.why) || "";

// show shows a run, or none; chosen if it is another than the current one.
export function show(run, chosen) {
  shown = run;
  byId("run-back").hidden = !chosen;
  byId("run-empty").hidden = Boolean(run);
  outcome.hidden = !run;
  say(byId("run-title"), run ? `Run ${run.number}` : "Run");
  say(byId("run-why"), run ? [why(run), date(run.started), run.bytes ? `${bytes(run.bytes)} moved` : ""].filter(Boolean).join(" · ") : "");
  failure(run);
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

function failure(run) {
  byId("run-failure").hidden = !run?.error;
  for (const part of ["error", "hint", "output"]) {
    const node = byId(`run-${part}`);
    node.hidden = !run?.[part];
    say(node, run?.[part] ?? "");
  }
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (shown?.outcome === "running") {
    refresh();
  }
}

function refresh() {
  const took = shown?.outcome === "running" ? Math.max(0, (now() - Date.parse(shown.started)) / 1000) : shown?.seconds;
  say(byId("run-time"), shown ? seconds(took) : "");
  waterfall.show(shown);
}
