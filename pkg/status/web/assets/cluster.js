// What runs, and how it is reached: releases, local ports, pods.
import { byId, h, keep, markAs, say, set } from "./dom.js";
import { age, brief, bytes, count } from "./format.js";
import { now } from "./stream.js";

let wantLog = () => {};

// onLog sets who is called with the pod whose log is wanted.
export function onLog(listener) {
  wantLog = listener;
}

export function show(state) {
  releases(state.releases ?? []);
  forwards(state.forwards ?? []);
  old(state.oldClusters ?? []);
  pods(state.pods ?? []);
}

// rows is a list of things of one line: a mark, a name with a note below, and what there is to say at the end.
function rows(id, items, keyOf, describe) {
  byId(`${id}-empty`).hidden = items.length > 0;
  keep(byId(id), items, keyOf, () => {
    const parts = { sign: h("span"), name: h("p", { class: "title" }), note: h("p", { class: "quiet" }), word: h("p", { class: "word" }), more: h("p", { class: "quiet" }), error: h("p", { class: "error" }) };
    const node = h("li", {}, parts.sign, h("div", { class: "grow" }, parts.name, parts.note, parts.error), h("div", { class: "end" }, parts.word, parts.more));
    node.parts = parts;
    return node;
  }, (node, item) => {
    const row = describe(item);
    markAs(node.parts.sign, row.mark);
    for (const part of ["name", "note", "word", "more", "error"]) {
      say(node.parts[part], row[part] ?? "");
    }
    node.parts.error.hidden = !row.error;
    node.dataset.state = row.word;
  });
}

const releaseMarks = { applying: "busy", deployed: "good", failed: "bad", "rolled back": "warn", removed: "end" };

function releases(items) {
  rows("releases", items, (r) => `${r.namespace}/${r.name}`, (r) => ({
    mark: releaseMarks[r.state] ?? "idle", name: r.name, note: [`in ${r.namespace}`, r.chart?.replace(/^.*\//, "")].filter(Boolean).join(" · "),
    word: r.state || "not looked at yet", more: r.revision ? `revision ${r.revision}` : "", error: r.error,
  }));
}

const forwardMarks = { ready: "good", waiting: "busy", unreachable: "bad" };

function forwards(items) {
  rows("forwards", items, (f) => `${f.local} ${f.target}`, (f) => ({
    mark: forwardMarks[f.state] ?? "idle", name: `${f.local} → ${f.target}`,
    note: [(f.pods ?? []).length > 1 ? count(f.pods.length, "pod") : f.pods?.[0] ?? "", `${f.open} open`, f.held ? `${f.held} held` : ""].filter(Boolean).join(" · "),
    word: f.state, more: `↑ ${bytes(f.sent)}  ↓ ${bytes(f.received)}`, error: f.state === "ready" ? "" : f.reason,
  }));
}

// old shows the Dask clusters that still run an older image. Stopping them is for a terminal: whoever started them may be at work.
function old(items) {
  byId("old-card").hidden = items.length === 0;
  say(byId("old-note"), items.length > 0 ? `${count(items.length, "cluster")} still ${items.length === 1 ? "runs" : "run"} an older image` : "");
  keep(byId("old").tBodies[0], items, (c) => `${c.namespace}.${c.name}`, (c) => {
    const parts = { owner: h("td", { class: "owner" }), image: h("td", { class: "image" }), workers: h("span"), unit: h("span", { class: "unit" }), age: h("td", { class: "number quiet age" }) };
    const node = h("tr", { "data-testid": "old-cluster" }, h("th", { scope: "row" }, `${c.namespace}.${c.name}`), parts.owner, parts.image, h("td", { class: "number" }, parts.workers, parts.unit), parts.age);
    node.parts = parts;
    return node;
  }, (node, c) => {
    node.since = Date.parse(c.since);
    say(node.parts.owner, c.owner ?? "");
    say(node.parts.image, brief(c.image));
    set(node.parts.image, "title", c.image);
    say(node.parts.workers, String(c.workers));
    say(node.parts.unit, c.workers === 1 ? " worker" : " workers");
    aged(node);
  });
}

const aged = (node) => say(node.parts.age, age((now() - node.since) / 1000));

const podMark = (pod) => {
  if (pod.phase === "Failed") return "bad";
  if (pod.phase === "Succeeded") return "good";
  if (pod.phase === "Ending") return "end";
  if (pod.phase === "Unknown") return "idle"; // the cluster is away
  if (pod.ready) return "good";
  return pod.reason && /(BackOff|Err|Crash|Failed|Killed|Invalid)/i.test(pod.reason) ? "bad" : "busy";
};

const podWord = (pod) => (pod.phase === "Running" ? (pod.ready ? "ready" : "not ready") : pod.phase.toLowerCase());

function pods(items) {
  byId("pods-empty").hidden = items.length > 0;
  byId("pods").hidden = items.length === 0;
  const known = items.filter((pod) => pod.phase !== "Unknown");
  say(byId("pods-note"), known.length > 0 ? `${known.filter((pod) => pod.ready).length} of ${items.length} ready` : "");
  const groups = new Map(); // those of releases first
  for (const pod of [...items].sort((a, b) => Number(!a.release) - Number(!b.release))) {
    const key = pod.release ? `release ${pod.release}` : `group ${pod.group ?? ""}`;
    groups.set(key, [...(groups.get(key) ?? []), pod]);
  }
  keep(byId("pods"), [...groups.entries()], ([key]) => key, ([, [pod]]) => {
    const note = h("span", { class: "quiet" }, pod.release ? "" : pod.group ? " started by a user" : "");
    return h("tbody", {}, h("tr", { class: "group" }, h("th", { scope: "rowgroup", colspan: 5 }, pod.release || pod.group || "Others", note)));
  }, (body, [, own]) => {
    keep(body, own, (pod) => `${pod.namespace}/${pod.name}`, makePod, updatePod);
  });
}

function makePod(pod) {
  const name = h("button", { class: "plain", title: `${pod.namespace}/${pod.name}: show its log` }, pod.name);
  name.addEventListener("click", () => wantLog(pod.name));
  const parts = { sign: h("span"), word: h("span"), reason: h("span", { class: "reason" }), restarts: h("td", { class: "number restarts" }), node: h("td", { class: "node quiet" }), age: h("td", { class: "number quiet" }) };
  const node = h("tr", { "data-testid": "pod" }, h("th", { scope: "row" }, name), h("td", { class: "how" }, h("span", { class: "state" }, parts.sign, parts.word), parts.reason), parts.restarts, parts.node, parts.age);
  node.parts = parts;
  return node;
}

function updatePod(node, pod) {
  node.pod = pod;
  node.dataset.pod = pod.name;
  node.className = podMark(pod);
  markAs(node.parts.sign, podMark(pod));
  say(node.parts.word, podWord(pod));
  say(node.parts.reason, pod.reason ?? "");
  say(node.parts.restarts, String(pod.restarts));
  node.parts.restarts.classList.toggle("many", pod.restarts > 0);
  say(node.parts.node, pod.node ?? "");
  say(node.parts.age, age((now() - Date.parse(pod.created)) / 1000));
}

// tick brings up to date what moves with time alone.
export function tick() {
  [...byId("old").tBodies[0].rows].forEach(aged);
  for (const node of byId("pods").querySelectorAll("tr[data-pod]")) {
    say(node.parts.age, age((now() - Date.parse(node.pod.created)) / 1000));
  }
}
