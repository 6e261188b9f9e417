// Whether the images and this machine's environment hold the same Python libraries, and which differ.
import { byId, h, keep, markAs, say, set } from "./dom.js";
import { age, count, listed } from "./format.js";
import { now } from "./stream.js";

const few = 12; // more differences than that are not shown until they are asked for

const table = byId("libraries");
const more = byId("libraries-more");
let all = false;
let shown = null;

more.addEventListener("click", () => {
  all = !all;
  rows();
});

// show shows how they were compared last.
export function show(libraries) {
  if (shown?.compared === libraries?.compared && shown?.outdated === libraries?.outdated) {
    return; // most of what changes is something else
  }
  shown = libraries ?? null;
  byId("libraries-card").hidden = !shown;
  if (!shown) {
    return;
  }
  const places = shown.places ?? [];
  const differ = shown.differences?.length ?? 0;
  const where = listed(places);
  markAs(byId("libraries-mark"), shown.outdated ? "idle" : differ > 0 ? "warn" : "good");
  say(byId("libraries-word"), differ > 0
    ? `${differ} of ${count(shown.libraries, "library", "libraries")} ${differ === 1 ? "differs" : "differ"} between ${where}`
    : `${count(shown.libraries, "library is", "libraries are")} the same in ${where}`);
  keep(table.tHead.rows[0], places, (place) => place, (place) => h("th", { scope: "col" }, place), () => {});
  rows();
  tick();
}

function rows() {
  const places = shown.places ?? [];
  const differences = shown.differences ?? [];
  table.hidden = differences.length === 0;
  more.hidden = differences.length <= few;
  say(more, all ? `Show the first ${few}` : `Show all ${differences.length}`);
  set(more, "aria-expanded", String(all));
  keep(table.tBodies[0], all ? differences : differences.slice(0, few), (d) => d.library,
    (d) => h("tr", { "data-library": d.library }, h("th", { scope: "row" }, d.library)),
    (row, d) => {
      const versions = places.map((place, i) => d.versions?.[i] ?? "");
      const common = most(versions.filter(Boolean)); // where a library is missing, that differs
      keep(row, places, (place) => place, () => {
        const parts = { value: h("span"), note: h("span", { class: "unseen" }) };
        const cell = h("td", {}, parts.value, parts.note);
        cell.parts = parts;
        return cell;
      }, (cell, place) => {
        const version = versions[places.indexOf(place)];
        cell.classList.toggle("differs", version !== common);
        say(cell.parts.value, version || "–");
        say(cell.parts.note, [version ? "" : "missing", version === common ? "" : "differs"].filter(Boolean).join(", "));
      });
    });
}

// most is what is there most often, of several the first.
function most(items) {
  const times = new Map();
  for (const item of items) {
    times.set(item, (times.get(item) ?? 0) + 1);
  }
  const top = Math.max(...times.values());
  return [...times.keys()].find((item) => times.get(item) === top);
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (shown) {
    say(byId("libraries-note"), `compared ${age((now() - Date.parse(shown.compared)) / 1000)} ago${shown.outdated ? ", with the images before" : ""}`);
  }
}
