// What is always in sight: whose devloop it is, how it stands, and what can be asked of it.
import { byId, markAs, say } from "./dom.js";
import { clock, date } from "./format.js";

const healthMarks = { starting: "idle", working: "busy", healthy: "good", failed: "bad", degraded: "warn", ending: "end" };

// What the icon in the browser's tab is made of: as the marks, and readable on tabs of both themes.
const icons = {
  starting: "<circle cx='8' cy='8' r='6' fill='none' stroke='#8a94a3' stroke-width='2.5'/>",
  working: "<path d='M8 2a6 6 0 1 1-6 6' fill='none' stroke='#4f74e8' stroke-width='3' stroke-linecap='round'/>",
  healthy: "<circle cx='8' cy='8' r='7.5' fill='#1f9d61'/><path d='M4.6 8.3 7 10.6 11.5 5.6' fill='none' stroke='#fff' stroke-width='2'/>",
  failed: "<rect x='.8' y='.8' width='14.4' height='14.4' rx='3.5' fill='#d83a40'/><path d='M5 5l6 6M11 5l-6 6' stroke='#fff' stroke-width='2'/>",
  degraded: "<path d='M8 1 15.6 14.6H.4z' fill='#c98511'/><path d='M8 6v4M8 11.5v1' stroke='#fff' stroke-width='2'/>",
  ending: "<circle cx='8' cy='8' r='6' fill='none' stroke='#8a94a3' stroke-width='2'/><rect x='5.5' y='5.5' width='5' height='5' fill='#8a94a3'/>",
};

const signs = { starting: "○", working: "◌", healthy: "✓", failed: "✕", degraded: "▲", ending: "■" };

const rebuild = byId("rebuild");
const pause = byId("pause");
let paused = false;
let announced = ""; // the health that was last announced

// first is the first line.
const first = (text = "") => text.split("\n")[0];

// underWay is what a run does just now.
const underWay = (run) =>
  (run?.spans ?? []).filter((span) => span.outcome === "running" && !span.kind).map((span) => `${span.stage} ${span.about ?? ""}`.trim()).join(" · ");

// show shows the State's head.
export function show(state) {
  const health = state.health || "starting";
  paused = state.paused;
  say(byId("project"), state.project || "devloop");
  say(byId("cluster"), [state.cluster, state.part && `only ${state.part.join(", ")}`].filter(Boolean).join(" · "));
  say(byId("folder"), state.folder || "");
  say(byId("since"), state.project ? `since ${date(state.started)}` : "");
  byId("health").dataset.health = health;
  markAs(byId("health-mark"), healthMarks[health] ?? "idle");
  say(byId("health-word"), health);
  say(byId("reason"), [paused ? "paused: changes wait" : "", first(state.reason) || underWay(state.run)].filter(Boolean).join(" · "));
  byId("reason").title = state.reason ?? "";
  say(byId("pause-word"), paused ? "Resume" : "Pause");
  document.body.classList.toggle("paused", paused);

  document.title = `${signs[health] ?? ""} ${health} · ${state.project || "devloop"}`;
  const icon = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>${icons[health] ?? icons.starting}</svg>`)}`;
  if (byId("favicon").href !== icon) {
    byId("favicon").href = icon;
  }
  if (announced && announced !== health) {
    announce(`${state.project} is ${health}${state.reason ? `: ${first(state.reason)}` : ""}`);
  }
  announced = health;
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
  if (!yes) {
    document.title = `… lost · ${byId("project").textContent}`;
  }
  say(byId("link"), yes ? "live" : `reconnecting… this is from ${clock(Date.now())}`);
}

// locked says that devloop no longer knows this page: what is shown is from the devloop before, and nothing comes any more.
export function locked() {
  connected(false);
  document.title = `ended · ${byId("project").textContent}`;
  say(byId("link"), "devloop was restarted: open the address in its log");
}

async function ask(action) {
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
