// Tooltips: one element for all, shown for what is hovered or focused. They repeat exactly what the page says roughly, and hold nothing to click.
import { byId, h } from "./dom.js";

const tips = new WeakMap(); // element → what says it

// tip gives node a tooltip: tell returns its title and rows of label and value.
export function tip(node, tell) {
  node.setAttribute("data-tip", "");
  tips.set(node, tell);
}

const box = byId("tip");
let shown = null;

function show(node, x, y) {
  const { title, rows } = tips.get(node)();
  box.replaceChildren(h("p", {}, title), h("dl", {}, ...rows.filter(([, value]) => value).map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))));
  box.hidden = false;
  shown = node;
  const { width, height } = box.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  box.style.left = `${Math.max(8, Math.min(x + 14, room - width - 8))}px`;
  box.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
}

export function hide() {
  box.hidden = true;
  shown = null;
}

const tipped = (target) => target instanceof Element && target.closest("[data-tip]");

document.addEventListener("pointermove", (e) => {
  const node = tipped(e.target);
  if (node) {
    show(node, e.clientX, e.clientY);
  } else if (shown && !shown.contains(document.activeElement)) {
    hide();
  }
});
document.addEventListener("focusin", (e) => {
  const node = tipped(e.target);
  if (node && node.matches(":focus-visible")) {
    const { left, bottom } = node.getBoundingClientRect();
    show(node, left, bottom - 14);
  } else {
    hide();
  }
});
document.addEventListener("scroll", hide, { capture: true, passive: true });
