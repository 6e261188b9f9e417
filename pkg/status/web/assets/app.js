// The page: what comes by the stream is given to the parts that show it. Nothing is asked for otherwise, so what is seen is what devloop knows.
import { byId } from "./dom.js";
import { seconds } from "./format.js";
import * as chart from "./chart.js";
import * as cluster from "./cluster.js";
import * as dask from "./dask.js";
import * as dock from "./dock.js";
import * as favicon from "./favicon.js";
import * as header from "./header.js";
import * as images from "./images.js";
import * as issue from "./issue.js";
import * as libraries from "./libraries.js";
import * as logs from "./logs.js";
import * as notify from "./notify.js";
import * as pods from "./pods.js";
import * as run from "./run.js";
import * as stream from "./stream.js";
import * as tip from "./tip.js";

let latest = null; // State
let current = null; // the run under way, or the last one
let runs = []; // that ended
let chosen = ""; // key of the one of them that is looked at, "" for the current one
let announced = null; // key of the run whose outcome was announced last, null before the first message

function show() {
  const other = runs.find((r) => run.keyOf(r) === chosen);
  if (!other) {
    chosen = "";
  }
  run.show(other ?? current, Boolean(other));
  header.trouble("chosen", other ?? null); // that of the current run stands first on the page
}

function choose(next) {
  chosen = current && next && run.keyOf(next) === run.keyOf(current) ? "" : next ? run.keyOf(next) : "";
  show();
  chart.show(runs, chosen || (next ? run.keyOf(next) : ""));
}

// announce says once how a run ended.
function announce() {
  const ended = current && current.outcome !== "running" ? run.keyOf(current) : "";
  if (ended && announced !== null && ended !== announced) {
    header.announce(`Run ${current.number} ${current.outcome} after ${seconds(current.seconds)}`);
  }
  announced = ended || (announced ?? "");
}

stream.connect({
  connected: () => header.connected(true),
  lost() {
    header.connected(false);
    favicon.lost("lost");
  },
  locked() {
    header.locked();
    favicon.lost("ended");
  },
  line(event) {
    logs.add(event);
    dock.line(event);
  },
  gap: (missed) => logs.gap(missed.lines),
  runs(list) {
    runs = list.map(run.whole);
    cluster.runs(runs);
    if (latest) {
      cluster.show(latest, current); // when a release was changed last
    }
    show();
    chart.show(runs, chosen);
  },
  state(state) {
    latest = state;
    current = state.run ? run.whole(state.run) : null;
    header.show(state, current);
    favicon.show(state);
    issue.know(state);
    issue.show(current);
    show();
    notify.show(current, state.project);
    announce();
    images.show(state.images ?? [], state.pods ?? [], state.chain);
    libraries.show(state.libraries);
    cluster.show(state, current);
    dask.show(state);
  },
});

chart.onChoose(choose);
pods.onLog((pod) => {
  dock.opened();
  logs.only(pod);
});

setInterval(run.tick, 250);
setInterval(() => {
  [header, images, libraries, cluster, dask, pods].forEach((part) => part.tick());
}, 1000);

// What was opened stays so over a reload.
for (const node of document.querySelectorAll("details[id]")) {
  node.open = sessionStorage.getItem(`devloop-open-${node.id}`) === "yes";
  node.addEventListener("toggle", () => sessionStorage.setItem(`devloop-open-${node.id}`, node.open ? "yes" : "no"));
}

byId("run-back").addEventListener("click", () => choose(null));

const help = byId("help");
byId("keys").addEventListener("click", () => help.showModal());
byId("help-close").addEventListener("click", () => help.close());

const keys = {
  r: () => byId("rebuild").click(),
  p: () => byId("pause").click(),
  l: dock.turn,
  "/": () => {
    dock.opened();
    logs.focusSearch();
  },
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey || help.open) {
    return;
  }
  if (e.key === "Escape") {
    tip.hide();
    if (!logs.leaveSearch()) {
      choose(null);
    }
  } else if (keys[e.key] && !e.repeat && !e.target.closest("input, select, textarea")) {
    e.preventDefault();
    keys[e.key]();
  }
});
