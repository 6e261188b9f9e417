// The clusters that users of a Dask Gateway started: whose they are, what their workers wait for, and the last words of those that are gone.
// Stopping them is for a terminal: whoever started them may be at work.
import { copyButton } from "./copy.js";
import { byId, h, keep, markAs, say, set } from "./dom.js";
import { age, count, loopback } from "./format.js";
import { makePods, showPods } from "./pods.js";
import { now } from "./stream.js";

const few = 5; // more clusters than that are not shown until they are asked for

const table = byId("clusters");
const more = byId("clusters-more");
const gone = byId("gone");
const columns = table.tHead.rows[0].cells.length;
let all = false;
let shown = null;

more.addEventListener("click", () => {
  all = !all;
  show(shown);
});

const nameOf = (cluster) => `${cluster.namespace}.${cluster.name}`;

// title shows a cluster's name: of the long ones that gateways make, the first letters, as devloop clusters does.
function title(cluster) {
  const name = nameOf(cluster);
  if (cluster.name.length <= 20) {
    return [h("span", { class: "title" }, name)];
  }
  const short = `${cluster.namespace}.${cluster.name.slice(0, 8)}`;
  return [h("span", { class: "title", title: name, "aria-hidden": "true" }, short), h("span", { class: "unseen" }, name), copyButton(`the name ${name}`, name)];
}

export function show(state) {
  shown = state;
  const known = state.clusters ?? [];
  const names = new Set(known.map(nameOf));
  const old = (state.oldClusters ?? []).filter((c) => !names.has(nameOf(c))).map((c) => ({ ...c, old: true }));
  const live = [...known.filter((c) => !c.ended), ...old];
  const ended = known.filter((c) => c.ended).reverse();
  byId("clusters-card").hidden = live.length === 0 && ended.length === 0;
  if (byId("clusters-card").hidden) {
    return;
  }
  const waiting = live.filter((c) => c.reason).length;
  const outdated = live.filter((c) => c.old).length;
  say(byId("clusters-note"), state.away ? "as they were" : [live.length > 0 ? `${live.length} ${live.length === 1 ? "runs" : "run"}` : "none runs", waiting ? `${waiting} ${waiting === 1 ? "waits" : "wait"}` : "",
    outdated ? `${outdated} with an older image` : ""].filter(Boolean).join(" · "));
  byId("clusters-old").hidden = outdated === 0;
  table.hidden = live.length === 0;
  more.hidden = live.length <= few;
  say(more, all ? `Show the first ${few}` : `Show all ${live.length}`);
  set(more, "aria-expanded", String(all));
  const first = all ? live : [...live.filter((c) => c.reason), ...live.filter((c) => !c.reason)].slice(0, few);
  keep(table, first, nameOf, make, (node, c) => update(node, c, state));

  byId("clusters-gone").hidden = ended.length === 0;
  say(byId("clusters-gone-word"), `${count(ended.length, "cluster is gone", "clusters are gone")}: the last words of ${ended.length === 1 ? "its scheduler" : "their schedulers"}`);
  keep(gone, ended, (c) => `${nameOf(c)} ${c.ended}`, (c) => {
    const note = h("span", { class: "quiet" });
    const node = h("li", {}, h("p", {}, ...title(c), note), h("pre", { tabindex: 0, "aria-label": `Last lines of the scheduler of ${nameOf(c)}` }, c.output || "It printed nothing."));
    node.note = note;
    return node;
  }, (node, c) => {
    node.cluster = c;
    agedEnd(node);
  });
}

function make(c) {
  const id = `pods-of-cluster-${nameOf(c).replace(/\W/g, "-")}`;
  const parts = {
    owner: h("td", { class: "owner", "data-label": "Owner" }), sign: h("span"), workers: h("button", { class: "plain opens", "aria-expanded": "false", "aria-controls": id }),
    imageSign: h("span"), image: h("span"), dashboard: h("td", { class: "dashboard" }), age: h("td", { class: "number quiet age", "data-label": "Age" }),
    reason: h("p", { class: "reason" }), hint: h("p", { class: "hint quiet" }), pods: makePods(`Pods of ${nameOf(c)}`),
    waits: h("tr", { class: "inner waits" }), more: h("tr", { class: "inner", id }),
  };
  parts.waits.append(h("td", { colspan: columns }, parts.reason, parts.hint));
  parts.more.append(h("td", { colspan: columns }, parts.pods));
  parts.more.hidden = true;
  const node = h("tbody", { "data-testid": "dask-cluster", "data-cluster": nameOf(c) },
    h("tr", {}, h("th", { scope: "row" }, ...title(c)), parts.owner, h("td", { class: "workers", "data-label": "Workers" }, h("span", { class: "state" }, parts.sign), parts.workers),
      h("td", { class: "image", "data-label": "Image" }, h("span", { class: "state" }, parts.imageSign), parts.image), parts.dashboard, parts.age),
    parts.waits, parts.more);
  node.parts = parts;
  parts.workers.addEventListener("click", () => {
    parts.more.hidden = !parts.more.hidden;
    set(parts.workers, "aria-expanded", String(!parts.more.hidden));
    inner(node);
  });
  return node;
}

function update(node, c, { pods, away }) {
  const { parts } = node;
  node.cluster = c;
  node.pods = (pods ?? []).filter((pod) => !pod.release && [c.name, nameOf(c)].includes(pod.group));
  const up = c.phase === "Running" || !c.phase;
  const enough = (c.running ?? 0) >= (c.wanted ?? 0);
  markAs(parts.sign, away ? "idle" : c.reason ? "warn" : up && enough ? "good" : "busy");
  const pending = Math.max(0, (c.wanted ?? 0) - (c.running ?? 0));
  const workers = c.wanted || c.running ? `${c.running ?? 0}/${c.wanted ?? 0}` : c.phase ? "0" : String(c.workers ?? 0);
  say(parts.workers, [workers, pending ? `${pending} pending` : "", up ? "" : c.phase.toLowerCase()].filter(Boolean).join(" · "));
  parts.workers.disabled = node.pods.length === 0;
  set(parts.workers, "aria-label", `${nameOf(c)}: ${parts.workers.textContent} workers`);
  say(parts.owner, c.owner ?? "");
  markAs(parts.imageSign, c.old ? "warn" : "good");
  say(parts.image, c.old ? "older" : "current");
  set(parts.image, "title", c.image);
  say(parts.reason, c.reason ?? "");
  say(parts.hint, c.hint ?? "");
  parts.hint.hidden = !c.hint;
  parts.waits.hidden = !c.reason;
  dashboard(parts.dashboard, c);
  inner(node);
  aged(node);
}

// dashboard links to it: only what is on this machine becomes a link.
function dashboard(cell, c) {
  const href = loopback(c.dashboard);
  if (cell.dataset.href === href) {
    return;
  }
  cell.dataset.href = href;
  cell.replaceChildren(...(href ? [h("a", { href, target: "_blank", rel: "noopener", "aria-label": `Dashboard of ${nameOf(c)}` }, "dashboard"), copyButton(`the address of the dashboard of ${nameOf(c)}`, href)]
    : [h("span", { class: "quiet" }, "–")]));
}

function inner({ parts, pods }) {
  if (!parts.more.hidden) {
    showPods(parts.pods, pods);
  }
}

const aged = (node) => say(node.parts.age, age((now() - Date.parse(node.cluster.since)) / 1000));

const agedEnd = ({ note, cluster }) => say(note, [cluster.owner ? ` of ${cluster.owner}` : "", `gone for ${age((now() - Date.parse(cluster.ended)) / 1000)}`].filter(Boolean).join(" · "));

// tick brings up to date what moves with time alone.
export function tick() {
  [...table.tBodies].forEach(aged);
  [...gone.children].forEach(agedEnd);
}
