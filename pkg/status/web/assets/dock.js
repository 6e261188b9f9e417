// The dock: the log at the bottom of the window. How high it is, and whether it is open, outlive a reload.
import { byId, say, set } from "./dom.js";
import { count } from "./format.js";

const stored = "devloop-dock"; // of this address
const least = 140; // pixels of an open one
const above = 200; // pixels that are left for what is above it
const step = 24; // of a key

const dock = byId("log-dock");
const handle = byId("dock-handle");
const toggle = byId("dock-toggle");
const alarms = byId("dock-alarms");

let { height, open, closed } = before();
let errors = 0; // that came while it was closed

// before returns how the dock was. Whoever had this port before may have left anything in its place.
function before() {
  try {
    const was = JSON.parse(localStorage.getItem(stored) ?? "{}");
    return { height: Number.isFinite(was.height) ? was.height : 0, open: was.open !== false, closed: Number(was.closed) || 0 };
  } catch {
    return { height: 0, open: true, closed: 0 };
  }
}

const most = () => Math.max(least, window.innerHeight - above);

function show() {
  const root = document.documentElement;
  root.classList.toggle("dock-closed", !open);
  if (height > 0) {
    root.style.setProperty("--dock-open", `${Math.round(height)}px`); // the style sheet keeps it within the window
  }
  set(toggle, "aria-expanded", String(open));
  say(byId("dock-word"), open ? "Hide" : "Show");
  handle.hidden = !open;
  set(handle, "aria-valuemin", least);
  set(handle, "aria-valuemax", most());
  set(handle, "aria-valuenow", Math.round(dock.getBoundingClientRect().height));
  showErrors();
}

function showErrors() {
  alarms.hidden = open || errors === 0;
  say(alarms, `✕ ${count(errors, "error")}`);
  set(toggle, "aria-label", open ? "Hide the log" : `Show the log${errors > 0 ? `: ${count(errors, "error")} since it was hidden` : ""}`);
}

function keep() {
  localStorage.setItem(stored, JSON.stringify({ height, open, closed }));
  show();
}

// opened opens the dock: somebody wants to see something in it.
export function opened() {
  if (!open) {
    turn();
  }
}

export function turn() {
  open = !open;
  closed = open ? 0 : Date.now();
  errors = 0;
  keep();
}

// line counts the errors that come while the dock is closed.
export function line(event) {
  if (!open && event.level === "error" && Date.parse(event.time) >= closed) {
    errors++;
    showErrors();
  }
}

function resize(to) {
  height = Math.min(most(), Math.max(least, to));
  show();
}

toggle.addEventListener("click", turn);
alarms.addEventListener("click", turn);

handle.addEventListener("pointerdown", (e) => {
  if (e.button !== 0) {
    return;
  }
  e.preventDefault();
  handle.focus({ preventScroll: true });
  handle.setPointerCapture(e.pointerId);
  const from = e.clientY + dock.getBoundingClientRect().height;
  const move = (at) => resize(from - at.clientY);
  const end = () => {
    handle.removeEventListener("pointermove", move);
    keep();
  };
  handle.addEventListener("pointermove", move);
  handle.addEventListener("lostpointercapture", end, { once: true });
});

handle.addEventListener("keydown", (e) => {
  const now = dock.getBoundingClientRect().height;
  const to = { ArrowUp: now + step, ArrowDown: now - step, PageUp: now + 5 * step, PageDown: now - 5 * step, Home: least, End: most() }[e.key];
  if (to !== undefined && !e.ctrlKey && !e.altKey && !e.metaKey) {
    e.preventDefault();
    resize(to);
    keep();
  } else if (e.key === "Enter") {
    turn();
    toggle.focus();
  }
});

window.addEventListener("resize", show);
show();
