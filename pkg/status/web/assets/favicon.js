// How devloop stands, in the browser's tab: its icon and its title. Each state has a shape of its own: nobody has to tell colours apart.
import { byId } from "./dom.js";

// Readable on tabs of both themes.
const icons = {
  starting: "<circle cx='8' cy='8' r='6' fill='none' stroke='#8a94a3' stroke-width='2.5'/>",
  working: "<path d='M8 2a6 6 0 1 1-6 6' fill='none' stroke='#4f74e8' stroke-width='3' stroke-linecap='round'/>",
  healthy: "<circle cx='8' cy='8' r='7.5' fill='#1f9d61'/><path d='M4.6 8.3 7 10.6 11.5 5.6' fill='none' stroke='#fff' stroke-width='2'/>",
  failed: "<rect x='.8' y='.8' width='14.4' height='14.4' rx='3.5' fill='#d83a40'/><path d='M5 5l6 6M11 5l-6 6' stroke='#fff' stroke-width='2'/>",
  degraded: "<path d='M8 1 15.6 14.6H.4z' fill='#c98511'/><path d='M8 6v4M8 11.5v1' stroke='#fff' stroke-width='2'/>",
  ending: "<circle cx='8' cy='8' r='6' fill='none' stroke='#8a94a3' stroke-width='2'/><rect x='5.5' y='5.5' width='5' height='5' fill='#8a94a3'/>",
  // Nothing is known of the cluster, or of devloop: a ring that is crossed out.
  away: "<circle cx='8' cy='8' r='6' fill='none' stroke='#c98511' stroke-width='2.5' stroke-dasharray='3 2'/><path d='M2 14 14 2' stroke='#c98511' stroke-width='2.5'/>",
  lost: "<circle cx='8' cy='8' r='6' fill='none' stroke='#8a94a3' stroke-width='2.5' stroke-dasharray='3 2'/><path d='M2 14 14 2' stroke='#8a94a3' stroke-width='2.5'/>",
};

const signs = { starting: "○", working: "◌", healthy: "✓", failed: "✕", degraded: "▲", ending: "■", away: "⊘", lost: "…" };
const words = { healthy: "ready", away: "cluster away" };

let project = "devloop";

// show shows the state of devloop.
export function show(state) {
  project = state.project || "devloop";
  paint(state.away ? "away" : state.health in icons ? state.health : "starting");
}

// lost shows that nothing comes any more: word says why.
export function lost(word) {
  paint("lost", word);
}

function paint(kind, word = words[kind] ?? kind) {
  document.title = `${signs[kind]} ${word} · ${project}`;
  const icon = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>${icons[kind]}</svg>`)}`;
  if (byId("favicon").href !== icon) {
    byId("favicon").href = icon;
  }
  byId("favicon").dataset.kind = kind;
}
