// Notifications of the browser when a run fails, and when that is mended: for those who asked, and only while they look elsewhere.
import { byId, say, set } from "./dom.js";

const stored = "devloop-notify"; // of this address, so of all tabs of this page
const patience = 400; // milliseconds for another tab to say that it is looked at, or that it has told it

const button = byId("notify");
const problem = byId("notify-problem");
const told = new Set(); // what another tab has told, or its user has seen
const channel = new BroadcastChannel(stored);

channel.addEventListener("message", (e) => told.add(e.data));

const known = "Notification" in window;
const wanted = () => known && Notification.permission === "granted" && localStorage.getItem(stored) === "yes";
const looking = () => document.visibilityState === "visible" && document.hasFocus();

function showButton() {
  button.hidden = !known;
  set(button, "aria-pressed", String(wanted()));
  say(byId("notify-word"), wanted() ? "Notifies" : "Notify");
  button.title = wanted() ? "A run that fails, and one that mends it, notifies you while you look elsewhere: press to end that"
    : "Have the browser notify you when a run fails, and when that is mended, while you look elsewhere";
}

button.addEventListener("click", async () => {
  const on = !wanted();
  const permission = on ? await Notification.requestPermission() : Notification.permission;
  localStorage.setItem(stored, on && permission === "granted" ? "yes" : "no");
  problem.hidden = !on || permission === "granted";
  say(problem, problem.hidden ? "" : permission === "denied" ? "The browser does not let this page notify: allow it in the settings of this address." : "The browser was not given leave to notify.");
  showButton();
});
window.addEventListener("storage", showButton); // another tab was asked

let failure = null; // of the last run that ended, "" if it succeeded, null before any has

// show takes the run under way, or the last one. A failure is told once: trying again with the same result is no news.
export function show(run, project) {
  if (run?.outcome !== "failed" && run?.outcome !== "succeeded") {
    failure ??= run ? "" : null; // the page saw it begin, or on its way: its failure is news
    return;
  }
  const now = run.outcome === "failed" ? run.error || "failed" : "";
  const before = failure;
  failure = now;
  if (before === null || before === now) {
    return;
  }
  const key = `${run.started} ${run.number} ${run.outcome}`;
  if (looking()) {
    channel.postMessage(key);
  } else if (wanted()) {
    setTimeout(() => notify(key, now ? `${project}: run ${run.number} failed` : `${project}: mended by run ${run.number}`, now.split("\n")[0]), patience);
  }
}

function notify(key, title, body) {
  if (told.has(key) || !wanted()) {
    return;
  }
  told.add(key);
  channel.postMessage(key);
  const note = new Notification(title, { body, tag: key }); // with the same tag, two tabs at once show one
  note.addEventListener("click", () => {
    window.focus();
    note.close();
  });
}

showButton();
