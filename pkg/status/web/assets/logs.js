// The log: what devloop says and what pods print, to search and to filter. It stays smooth at hundreds of lines a second: lines wait for the
// next frame, are added in one go, and stand in chunks that the browser need not lay out while they are out of sight.
import { byId, h, say, set } from "./dom.js";
import { bytes, clock, count, middle, seconds } from "./format.js";

const most = 5000; // lines that are kept
const chunk = 250; // lines that come and go together
const tints = 8;
const levels = { __proto__: null, debug: 0, info: 1, warn: 2, error: 3 };
const stored = "devloop-log-filters"; // of this tab: they outlive a reload

const view = byId("log");
const search = byId("log-search");
const source = byId("log-source");
const level = byId("log-level");
const newest = byId("log-newest");

let entries = []; // all that are kept, the oldest first
let fresh = 0; // of these, the newest ones that wait for the next frame
let shown = 0; // lines in the view
let unseen = 0; // that came since the user scrolled up
let following = true;
let scheduled = false;
let pattern = null; // what is searched for
const sources = new Set();

// add adds an event of the log.
export function add(event) {
  entries.push(entry(event));
  fresh++;
  if (entries.length > most) {
    entries = entries.slice(chunk - most);
    fresh = Math.min(fresh, entries.length);
  }
  schedule();
}

// gap says that devloop no longer had some of the lines.
export function gap(lines) {
  add({ time: new Date().toISOString(), level: "warn", stage: "page", msg: `${count(lines, "line")} came too fast to be shown` });
}

// only shows what one pod prints.
export function only(pod) {
  remember(`pod:${pod}`);
  source.value = `pod:${pod}`;
  refilter();
}

// ofRun is the newest lines of a run that ended, as text: what devloop said of it, and what went wrong elsewhere meanwhile. What programs
// printed is left out.
export function ofRun(run, most) {
  const began = Date.parse(run.started) - 1000; // runs of another devloop have the same numbers
  const ended = Date.parse(run.started) + 1000 * (run.seconds + 1);
  return entries.filter((e) => Date.parse(e.time) >= began && Date.parse(e.time) <= ended
    && (e.run === run.number ? e.level !== "debug" : !e.run && levels[e.level] >= levels.warn))
    .slice(-most).map((e) => `${clock(e.time, true)} ${e.level.padEnd(5)} ${e.from} ${e.parts.filter(([kind]) => kind !== "output").map(([, text]) => text).join(" ")}`);
}

export function focusSearch() {
  search.focus();
  search.select();
}

// leaveSearch empties the search that has the focus, and then leaves it; it reports whether there was one.
export function leaveSearch() {
  if (document.activeElement !== search) {
    return false;
  }
  if (search.value) {
    search.value = "";
    refilter();
  } else {
    search.blur();
  }
  return true;
}

const colours = /\x1b\[[0-9;?]*[ -/]*[@-~]/g; // of programs that take their output for a terminal

const ends = { __proto__: null, succeeded: "ready in", failed: "failed after", superseded: "superseded by a newer change after", interrupted: "stopped after" };

// Fields whose values say by themselves what they are.
const selfEvident = new Set(["release", "image", "object", "file", "files", "why", "reason", "step", "local", "target", "url", "command", "state", "path"]);

// entry is what is shown of an event: parts are pieces of text with their class.
function entry(event) {
  const fields = event.fields ?? {};
  const pod = event.stage === "pod" ? fields.pod : "";
  const ofPod = pod && event.msg === "log";
  const parts = [];
  if (ofPod) {
    parts.push(["", String(fields.line ?? "").replace(colours, "")]);
  } else if (event.msg === "run complete" && event.phase in ends && fields.stages) {
    const where = Object.entries(fields.stages).filter(([, took]) => took >= 0.05).map(([name, took]) => `${name} ${took.toFixed(1)}`);
    parts.push(["", `${ends[event.phase]} ${seconds(fields.total)}`], ["dim", where.join(", ")]);
    parts.push(["error", event.err ?? ""], ["hint", event.hint ? `→ ${event.hint}` : ""]);
  } else {
    const pairs = Object.entries(fields).filter(([key, value]) => key !== "output" && key !== "links" && !(key === "pod" && pod) && value !== "" && value !== null);
    parts.push(["", event.phase === "started" ? `${event.msg} …` : event.msg]);
    parts.push(["dim", pairs.map(([key, value]) => (selfEvident.has(key) ? plain(key, value) : `${key}=${plain(key, value)}`)).join(" ")]);
    parts.push(["dim", event.took ? `in ${seconds(event.took)}` : ""]);
    parts.push(["error", event.err ?? ""], ["hint", event.hint ? `→ ${event.hint}` : ""], ["output", String(fields.output ?? "").replace(colours, "")]);
  }
  const apart = ofPod && fields.container && !pod.includes(fields.container); // else the pod's name says it
  const from = pod ? pod + (apart ? `/${fields.container}` : "") : event.stage;
  const said = parts.filter(([, text]) => text);
  return {
    time: event.time, run: event.run, from, parts: said,
    source: pod ? `pod:${pod}` : `stage:${event.stage}`,
    level: ofPod && fields.level in levels ? fields.level : event.level,
    text: `${from} ${said.map(([, text]) => text).join(" ")}`,
  };
}

// plain is a field's value as people read it.
function plain(key, value) {
  if (key === "bytes") {
    return bytes(value);
  }
  if (Array.isArray(value)) {
    return value.map((one) => plain("", one)).join(", ");
  }
  if (key === "" && typeof value === "object") { // one of a list: what it is, without the names of its parts
    return Object.values(value).map((part) => plain("", part)).join(" ");
  }
  if (typeof value === "object") {
    return Object.entries(value).map(([name, part]) => `${name}:${part}`).join(",");
  }
  return String(value);
}

function schedule() {
  if (!scheduled) {
    scheduled = true;
    requestAnimationFrame(flush);
  }
}

function flush() {
  scheduled = false;
  const came = entries.slice(entries.length - fresh);
  fresh = 0;
  came.forEach((e) => remember(e.source));
  append(came.filter(matches));
}

function append(lines) {
  let last = view.lastElementChild;
  let rows = [];
  for (const line of lines) {
    if (!last || last.childElementCount + rows.length >= chunk) {
      last?.append(...rows);
      rows = [];
      last = h("div", { class: "chunk" });
      view.append(last);
    }
    rows.push(row(line));
  }
  last?.append(...rows);
  shown += lines.length;
  while (shown > most) {
    shown -= view.firstElementChild.childElementCount;
    view.firstElementChild.remove();
  }
  tell(lines.length);
}

// tell says how much there is, and keeps the newest in sight.
function tell(came) {
  byId("log-empty").hidden = shown > 0;
  say(byId("log-empty"), entries.length > 0 ? "No line matches." : "Nothing to show yet.");
  say(byId("log-count"), unfiltered() ? count(shown, "line") : `${shown.toLocaleString("en")} of ${count(entries.length, "line")}`);
  if (following) {
    view.scrollTop = view.scrollHeight;
  } else {
    unseen += came;
  }
  newest.hidden = following;
  say(newest, unseen > 0 ? `↓ ${count(unseen, "new line")}` : "↓ Newest lines");
}

// tint is the colour of a source: the same as long as its name is.
function tint(name) {
  let sum = 0;
  for (const letter of name) {
    sum = (sum * 31 + letter.codePointAt(0)) % 8191;
  }
  return sum % tints;
}

function row(line) {
  const tinted = line.source.startsWith("pod:") ? `tint-${tint(line.from)}` : "own";
  const from = h("span", { class: `from ${tinted}`, title: line.from }, ...(pattern ? marked(line.from, 0, line) : [middle(line.from)]));
  const what = h("span", { class: "what" });
  let at = line.from.length + 1;
  for (const [kind, text] of line.parts) {
    what.append(h("span", kind ? { class: kind } : {}, ...marked(text, at, line)), " ");
    at += text.length + 1;
  }
  const alarm = line.level === "error" ? "✕" : line.level === "warn" ? "▲" : "";
  const sign = h("span", { class: "alarm" }, alarm, h("span", { class: "unseen" }, alarm ? line.level : ""));
  return h("div", { class: `entry ${line.level}`, "data-level": line.level }, h("time", {}, clock(line.time, true)), sign, from, what);
}

// marked cuts a piece of a line's text, which begins at a place in it, where the search matches.
function marked(text, at, line) {
  if (!pattern) {
    return [text];
  }
  const nodes = [];
  let done = 0;
  for (const match of line.text.matchAll(pattern)) {
    const from = Math.max(done, match.index - at);
    const to = Math.min(text.length, match.index + match[0].length - at);
    if (from < to) {
      nodes.push(text.slice(done, from), h("mark", {}, text.slice(from, to)));
      done = to;
    }
  }
  return [...nodes, text.slice(done)];
}

function matches(line) {
  const wanted = source.value;
  return (levels[line.level] ?? levels.info) >= (levels[level.value] ?? levels.debug)
    && (wanted === "" || wanted === line.source || wanted === "stage:" && line.source.startsWith("stage:") || wanted === "pod:" && line.source.startsWith("pod:"))
    && (!pattern || line.text.search(pattern) >= 0);
}

const unfiltered = () => !pattern && source.value === "" && level.value === "debug";

// refilter shows of all lines those that are wanted now.
function refilter() {
  pattern = patternOf(search.value);
  sessionStorage.setItem(stored, JSON.stringify([search.value, source.value, level.value]));
  view.replaceChildren();
  shown = unseen = fresh = 0;
  following = true;
  append(entries.filter(matches));
}

// patternOf is what a search means: a text, or /a regular expression/. One that is not whole yet is taken as text.
function patternOf(text) {
  const expression = /^\/(.+)\/$/.exec(text);
  let found = null;
  let wrong = false;
  try {
    found = expression && new RegExp(expression[1], "gi");
  } catch {
    wrong = true;
  }
  set(search, "aria-invalid", wrong);
  return found ?? (text ? new RegExp(text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "gi") : null);
}

const groups = [["Everything", ""], ["devloop", "stage:"], ["All pods", "pod:"]];
const stageGroup = h("optgroup", { label: "devloop" });
const podGroup = h("optgroup", { label: "Pods" });

source.append(...groups.map(([text, value]) => h("option", { value }, text)), stageGroup, podGroup);

// remember adds a source to those that can be chosen.
function remember(name) {
  if (sources.has(name)) {
    return;
  }
  sources.add(name);
  const [kind, text] = [name.slice(0, name.indexOf(":")), name.slice(name.indexOf(":") + 1)];
  const group = kind === "pod" ? podGroup : stageGroup;
  const next = [...group.children].find((option) => option.textContent > text);
  group.insertBefore(h("option", { value: name }, text), next ?? null);
}

let typing = 0;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refilter, 80);
});
source.addEventListener("change", refilter);
level.addEventListener("change", refilter);

view.addEventListener("scroll", () => {
  const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 8;
  if (atEnd !== following) {
    following = atEnd;
    unseen = 0;
    tell(0);
  }
}, { passive: true });

new ResizeObserver(() => following && tell(0)).observe(view); // the dock is resized, or was closed

newest.addEventListener("click", () => {
  following = true;
  unseen = 0;
  tell(0);
  view.focus({ preventScroll: true });
});

// before returns the filters of before a reload. Whoever had this port before may have left anything in their place.
function before() {
  try {
    return JSON.parse(sessionStorage.getItem(stored) ?? "[]").map(String);
  } catch {
    return [];
  }
}

const [text = "", from = "", least = ""] = before();
if (text || from || least) {
  search.value = text;
  if (from && !groups.some(([, value]) => value === from)) {
    remember(from);
  }
  source.value = from;
  level.value = least in levels ? least : "debug";
  pattern = patternOf(text);
}
