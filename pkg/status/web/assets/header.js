// What is always in sight: whose devloop it is, how it stands, and what can be asked of it.
import { commandOf, offer } from "./copy.js";
import { byId, markAs, say } from "./dom.js";
import { ago, clock, count, date } from "./format.js";
import { whyAndWhat } from "./run.js";
import { now } from "./stream.js";

const healthMarks = { starting: "idle", working: "busy", healthy: "good", failed: "bad", degraded: "warn", ending: "end" };

const rebuild = byId("rebuild");
const pause = byId("pause");
let paused = false;
let announced = ""; // the health that was last announced

// first is the first line.
const first = (text = "") => text.split("\n")[0];

const words = { __proto__: null, healthy: "ready" };

// word is how it stands, in a word or two.
const word = (state) => (state.away ? `cluster ${state.away.state}` : words[state.health] ?? (state.health || "starting"));

// underWay is what a run does just now: build worker 3/7.
function underWay({ run, images }) {
  return (run?.spans ?? []).filter((span) => span.outcome === "running" && !span.kind).map((span) => {
    const image = (images ?? []).find((one) => one.name === span.about && one.total && span.stage === "build");
    return [span.stage, span.about, image && `${image.done ?? 0}/${image.total}`].filter(Boolean).join(" ");
  }).join(" · ");
}

// reason is what there is to say beside the word.
function reason(state) {
  if (state.away) {
    return first(state.away.hint || state.away.reason);
  }
  return first(state.reason) || (state.health === "healthy" ? proven(state) : underWay(state));
}

// proven is what was looked at, and what still differs.
function proven({ chain, libraries, oldClusters }) {
  const differ = libraries?.differences?.length ?? 0;
  const old = oldClusters?.length ?? 0;
  return [
    chain && !chain.error && !chain.outdated ? `proven ${ago(Date.parse(chain.checked), now())}` : "",
    libraries && !libraries.outdated ? (differ ? `▲ ${differ} of ${count(libraries.libraries, "library differs", "libraries differ")}` : `${count(libraries.libraries, "library", "libraries")} the same`) : "",
    old ? `▲ ${count(old, "Dask cluster runs", "Dask clusters run")} an older image` : "",
  ].filter(Boolean).join(" · ");
}

let shown = null;

// show shows the State's head, and what went wrong; run is the current one.
export function show(state, run) {
  const health = state.health || "starting";
  shown = state;
  paused = state.paused;
  say(byId("project"), state.project || "devloop");
  say(byId("cluster"), [state.cluster, state.part && `only ${state.part.join(", ")}`].filter(Boolean).join(" · "));
  say(byId("folder"), state.folder || "");
  say(byId("since"), state.project ? `since ${date(state.started)}` : "");
  byId("health").dataset.health = health;
  markAs(byId("health-mark"), healthMarks[health] ?? "idle");
  say(byId("health-word"), word(state));
  byId("reason").title = state.reason ?? "";
  tick();
  offer(byId("copy-away-hint"), commandOf(state.away?.hint));
  offer(byId("copy-chain-hint"), commandOf(state.chain?.hint));
  trouble("away", state.away && { error: state.away.reason, hint: state.away.hint });
  trouble("chain", state.chain?.error ? state.chain : null);
  trouble("run", state.health === "failed" ? run : null);
  say(byId("run-cause"), run ? `Run ${run.number} · ${whyAndWhat(run)}` : "");
  say(byId("pause-word"), paused ? "Resume" : "Pause");
  document.body.classList.toggle("paused", paused);

  if (announced && announced !== health) {
    announce(`${state.project} is ${words[health] ?? health}${state.reason ? `: ${first(state.reason)}` : ""}`);
  }
  announced = health;
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (!shown) {
    return;
  }
  say(byId("reason"), [paused ? "paused: changes wait" : "", reason(shown)].filter(Boolean).join(" · "));
  if (shown.chain?.error) {
    say(byId("chain-checked"), `checked ${ago(Date.parse(shown.chain.checked), now())}`);
  }
}

// trouble shows what went wrong, and what to do, in the box of that name, and hides that if nothing did.
export function trouble(name, wrong) {
  const box = byId(name === "away" ? name : `${name}-failure`);
  box.hidden = !wrong?.error;
  for (const part of ["error", "hint", "output"]) {
    const node = byId(`${name}-${part}`);
    if (node) {
      node.hidden = !wrong?.[part];
      if (node.textContent !== (wrong?.[part] ?? "")) {
        node.textContent = wrong?.[part] ?? "";
        node.scrollTop = node.scrollHeight; // what went wrong stands last
      }
    }
  }
}

let news = []; // of one message: a run that ends changes the health, too

// announce speaks to those who do not see the page.
export function announce(text) {
  news.push(text);
  setTimeout(() => {
    if (news.length > 0) {
      byId("announce").textContent = news.join(". ");
      news = [];
    }
  });
}

// connected shows how the stream is.
export function connected(yes) {
  if (!yes && document.body.classList.contains("stale")) {
    return; // it tries again and again: what is shown is from when it was lost
  }
  document.body.classList.remove("connecting");
  document.body.classList.toggle("stale", !yes);
  rebuild.disabled = pause.disabled = !yes;
  say(byId("link"), yes ? "live" : `reconnecting… this is from ${clock(Date.now())}`);
}

// locked says that devloop no longer knows this page: what is shown is from the devloop before, and nothing comes any more.
export function locked() {
  connected(false);
  say(byId("link"), "devloop was restarted: open the address in its log");
}

// ask asks devloop to do something, and says why not if it does not.
export async function ask(action) {
  const refused = byId("refused");
  try {
    const answer = await fetch(`api/${action}`, { method: "POST", headers: { "X-Devloop-Page": "1" } });
    refused.hidden = answer.ok;
    say(refused, answer.ok ? "" : await answer.text());
  } catch {
    refused.hidden = false;
    say(refused, "devloop does not answer");
  }
}

rebuild.addEventListener("click", () => ask("rebuild"));
pause.addEventListener("click", () => ask(paused ? "resume" : "pause"));
