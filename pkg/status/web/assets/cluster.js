// What runs: a row a release, which opens to its pods, with its addresses, its last change and its image.
import { copyButton } from "./copy.js";
import { byId, h, keep, markAs, say, set } from "./dom.js";
import { address, ago, bytes, count } from "./format.js";
import { ask } from "./header.js";
import * as images from "./images.js";
import { counts, makePods, podMark, showPods } from "./pods.js";
import { changes, why } from "./run.js";
import { now } from "./stream.js";

const table = byId("releases");
const columns = table.tHead.rows[0].cells.length;

let applied = new Map(); // release → when a run that ended changed it last, and that run
const led = new Map(); // what an address leads to → the release whose pods answered there last

// runs sets the runs that ended.
export function runs(list) {
  applied = list.reduce(withApplied, new Map());
}

// withApplied adds the releases that a run has changed.
function withApplied(known, run) {
  for (const span of run.spans) {
    if (span.stage === "helm" && span.name.startsWith("release ") && span.outcome === "succeeded") {
      known.set(span.about, { run, at: Date.parse(span.started) + 1000 * span.seconds });
    }
  }
  return known;
}

const keyOf = (release) => `${release.namespace}/${release.name}`;

// show shows what of the State runs; run is the current one.
export function show(state, run) {
  const releases = state.releases ?? [];
  const clusters = new Set((state.clusters ?? []).filter((c) => !c.ended).flatMap((c) => [c.name, `${c.namespace}.${c.name}`]));
  const rows = new Map(releases.map((release) => [keyOf(release), { key: keyOf(release), name: release.name, release, pods: [], forwards: [] }]));
  const other = (key, name) => rows.get(key) ?? rows.set(key, { key, name, pods: [], forwards: [] }).get(key);
  for (const pod of state.pods ?? []) {
    const release = releaseOf(pod, releases);
    if (release) {
      rows.get(keyOf(release)).pods.push(pod);
    } else if (!clusters.has(pod.group)) { // else it is with its cluster
      other(` ${pod.group ?? ""}`, pod.group || "Other pods").pods.push(pod);
    }
  }
  for (const forward of state.forwards ?? []) {
    const key = ownerOf(forward, [...rows.values()]);
    (rows.get(key) ?? other(" forwards", "Other addresses")).forwards.push(forward);
  }
  const changed = run ? withApplied(new Map(applied), run) : applied;
  const several = new Set(releases.map((release) => release.namespace)).size > 1;

  byId("releases-empty").hidden = rows.size > 0;
  table.hidden = rows.size === 0;
  say(byId("releases-empty"), state.file ? "devloop.yaml names no release." : "No release is known yet.");
  note([...rows.values()], releases);
  keep(table, [...rows.values()], (row) => row.key, make, (node, row) => update(node, row, { away: state.away, change: changed.get(row.name), several }));
}

function note(rows, releases) {
  const pods = rows.flatMap((row) => row.pods).filter(counts);
  const known = pods.filter((pod) => pod.phase !== "Unknown");
  say(byId("releases-note"), [releases.length > 0 ? count(releases.length, "release") : "", known.length > 0 ? `${known.filter((pod) => pod.ready).length} of ${count(known.length, "pod")} ready` : ""]
    .filter(Boolean).join(" · "));
}

// releaseOf finds the release of a pod, which knows only its name: of those with the same one, it is that in the pod's namespace.
function releaseOf(pod, releases) {
  const named = releases.filter((release) => pod.release && release.name === pod.release);
  return named.find((release) => release.namespace === pod.namespace) ?? named[0];
}

// ownerOf finds the row of a forward: that of the pods that it leads to, or led to; before that, the one whose name its target has.
function ownerOf(forward, rows) {
  const pods = new Set(forward.pods ?? []);
  const leads = rows.find((row) => row.pods.some((pod) => pods.has(pod.name)));
  if (leads) {
    led.set(forward.target, leads.key);
    return leads.key;
  }
  const [namespace, name = ""] = forward.target.split(" ").at(-1).split("/");
  const alike = rows.filter(({ release }) => release?.namespace === namespace && `-${name}-`.includes(`-${release.name}-`));
  return led.get(forward.target) ?? alike.sort((a, b) => b.name.length - a.name.length)[0]?.key;
}

function make(row) {
  const id = `pods-of-${row.key.replace(/\W/g, "-")}`;
  const parts = {
    name: h("span", { class: "title" }), space: h("span", { class: "quiet space" }),
    sign: h("span"), word: h("span"), reasons: h("ul", { class: "reasons" }),
    ready: h("button", { class: "plain opens", "aria-expanded": "false", "aria-controls": id }),
    addresses: h("ul"), ago: h("span", { class: "ago" }), what: h("span", { class: "quiet" }),
    imageSign: h("span"), imageWord: h("span"),
    pods: makePods(`Pods of ${row.name}`), forwards: h("ul", { class: "forwards quiet" }),
  };
  const cells = [
    h("th", { scope: "row" }, parts.name, parts.space),
    h("td", { class: "how" }, h("span", { class: "state" }, parts.sign, parts.word)),
    h("td", { class: "ready", "data-label": "Pods ready" }, parts.ready),
    h("td", { class: "addresses", "data-label": "Address" }, parts.addresses),
    h("td", { class: "change", "data-label": "Last change" }, parts.ago, " ", parts.what),
    h("td", { class: "image", "data-label": "Image" }, h("span", { class: "state" }, parts.imageSign), parts.imageWord),
    h("td", { class: "actions" }, ...(row.release ? [runButton(row.release.name)] : [])),
  ];
  const why = h("tr", { class: "inner" }, h("td", { colspan: columns }, parts.reasons));
  const more = h("tr", { class: "inner", id }, h("td", { colspan: columns }, parts.pods, parts.forwards));
  more.hidden = true;
  const node = h("tbody", { "data-row": row.name }, h("tr", {}, ...cells), why, more);
  node.parts = { ...parts, why, more };
  parts.ready.addEventListener("click", () => {
    more.hidden = !more.hidden;
    set(parts.ready, "aria-expanded", String(!more.hidden));
    inner(node);
  });
  return node;
}

// runButton asks for a run of a release, and of those that it depends on.
function runButton(name) {
  const button = h("button", { class: "run-release", "data-release": name, "aria-label": `Run ${name}`, title: `Run ${name} and what it depends on; all releases if files changed since the last run that succeeded` }, "Run");
  button.addEventListener("click", () => ask(`rebuild/${encodeURIComponent(name)}`));
  return button;
}

function update(node, row, { away, change, several }) {
  const { parts } = node;
  node.row = row;
  node.change = row.release ? change : undefined;
  const { mark, word, reason, title } = standing(row, away);
  markAs(parts.sign, mark);
  parts.sign.hidden = !word;
  say(parts.name, row.name);
  say(parts.space, several && row.release ? `in ${row.release.namespace}` : "");
  say(parts.word, word);
  set(parts.word.parentNode, "title", title ? `${title}: ${word}` : null);
  node.dataset.state = row.release?.state ?? "";
  node.dataset.mark = mark;

  const counted = row.pods.filter(counts);
  const known = !away && counted.length > 0;
  parts.ready.hidden = row.pods.length === 0 && row.forwards.length === 0;
  say(parts.ready, known ? `${counted.filter((pod) => pod.ready).length}/${counted.length}` : away && counted.length > 0 ? `?/${counted.length}` : "–");
  set(parts.ready, "aria-label", `${row.name}: ${parts.ready.textContent} pods ready`);

  keep(parts.addresses, row.forwards, (f) => `${f.local} ${f.target} ${f.url ?? ""}`, makeAddress, updateAddress);
  const image = away ? { mark: "", word: "unknown" } : row.release ? images.verdict(row.pods, row.forwards) : { mark: "", word: "" };
  markAs(parts.imageSign, image.mark);
  parts.imageSign.hidden = !image.mark;
  say(parts.imageWord, image.word);
  set(parts.imageWord, "title", image.title || null);
  node.dataset.image = image.mark;
  const reasons = [reason, image.reason].filter(Boolean);
  parts.why.hidden = reasons.length === 0;
  keep(parts.reasons, reasons, String, (text) => h("li", {}, text), () => {});
  inner(node);
  aged(node);
}

const releaseMarks = { __proto__: null, applying: "busy", failed: "bad", "rolled back": "warn", removed: "end" };

// standing says in a word how it stands with a release and its pods, and why.
function standing({ release, pods }, away) {
  if (away) {
    return { mark: "idle", word: "unknown" };
  }
  if (release && release.state !== "deployed") {
    return { mark: releaseMarks[release.state] ?? "idle", word: release.state || "not looked at yet", reason: release.error };
  }
  const waiting = pods.filter((pod) => counts(pod) && !pod.ready);
  const worst = waiting.find((pod) => podMark(pod) === "bad") ?? waiting[0];
  if (!worst) {
    return { mark: release || pods.length > 0 ? "good" : "idle", word: release || pods.length > 0 ? "ready" : "" };
  }
  if (podMark(worst) === "bad") {
    return { mark: "bad", word: "failing", reason: `${worst.name}: ${worst.reason}` };
  }
  return { mark: "busy", word: worst.reason || "not ready", title: worst.name }; // as each new pod for a while: no row of its own
}

function makeAddress(forward) {
  const { href, text } = address(forward);
  const parts = { word: h("span", { class: "waits" }) };
  const node = h("li", { "data-local": forward.local }, href ? h("a", { href, target: "_blank", rel: "noopener" }, text) : h("span", {}, text),
    copyButton(`the address ${text}`, href || text), " ", parts.word);
  node.parts = parts;
  return node;
}

function updateAddress(node, forward) {
  say(node.parts.word, forward.state === "ready" ? "" : forward.state);
  set(node, "title", [forward.target, forward.state === "ready" ? "" : forward.reason].filter(Boolean).join(": "));
}

// inner shows what is below a row, if that is open.
function inner({ parts, row }) {
  if (parts.more.hidden) {
    return;
  }
  parts.pods.hidden = row.pods.length === 0;
  showPods(parts.pods, row.pods);
  keep(parts.forwards, row.forwards, (f) => `${f.local} ${f.target}`, () => h("li"), (node, f) => {
    say(node, [`${f.local} → ${f.target}`, f.state, f.state === "ready" ? "" : f.reason, `${f.open} open`, f.held ? `${f.held} held` : "", `↑ ${bytes(f.sent)} ↓ ${bytes(f.received)}`].filter(Boolean).join(" · "));
  });
}

// aged says how long ago a release was changed.
function aged({ parts, row, change }) {
  if (!row.release) {
    return;
  }
  const applying = row.release.state === "applying";
  say(parts.ago, applying ? "now" : change ? ago(change.at, now()) : row.release.state ? "before the runs below" : "–");
  say(parts.what, change ? changes(change.run) || why(change.run) : "");
  set(parts.what, "title", change ? [why(change.run), changes(change.run)].filter(Boolean).join(": ") : null);
}

// tick brings up to date what moves with time alone.
export const tick = () => [...table.tBodies].forEach(aged);
