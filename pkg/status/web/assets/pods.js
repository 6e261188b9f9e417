// Pods in a table of their own, below what they belong to.
import { h, keep, markAs, say } from "./dom.js";
import { age } from "./format.js";
import { now } from "./stream.js";

let wantLog = () => {};

// onLog sets who is called with the pod whose log is wanted.
export function onLog(listener) {
  wantLog = listener;
}

const alarming = /(BackOff|Err|Crash|Failed|Killed|Invalid)/i;

export const podMark = (pod) => {
  if (pod.phase === "Failed") return "bad";
  if (pod.phase === "Succeeded") return "good";
  if (pod.phase === "Ending") return "end";
  if (pod.phase === "Unknown") return "idle"; // the cluster is away
  if (pod.ready) return "good";
  return alarming.test(pod.reason ?? "") ? "bad" : "busy";
};

const podWord = (pod) => (pod.phase === "Running" ? (pod.ready ? "ready" : "not ready") : pod.phase.toLowerCase());

// counts reports whether a pod is one of those that should be ready: those that have ended, or are ending, are not.
export const counts = (pod) => !["Succeeded", "Failed", "Ending"].includes(pod.phase);

// makePods makes a table for showPods.
export function makePods(label) {
  const head = ["Pod", "State", "Restarts", "Node", "Age"].map((text, i) => h("th", { scope: "col", class: ["", "", "number", "node", "number"][i] }, text));
  return h("table", { class: "pods", "data-testid": "pod-table" }, h("caption", { class: "unseen" }, label), h("thead", {}, h("tr", {}, ...head)), h("tbody"));
}

export function showPods(table, pods) {
  keep(table.tBodies[0], pods, (pod) => `${pod.namespace}/${pod.name}`, makePod, updatePod);
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
  aged(node);
}

const aged = (node) => say(node.parts.age, age((now() - Date.parse(node.pod.created)) / 1000));

// tick brings up to date what moves with time alone.
export const tick = () => document.querySelectorAll("tr[data-pod]").forEach(aged);
