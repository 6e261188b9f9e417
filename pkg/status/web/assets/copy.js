// What can be copied. Any button with data-copy copies that text, one with data-copy-from what the element with this id says.
import { byId, h, set, svg } from "./dom.js";

const drawing = () => svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false", class: "copy-sign" },
  svg("rect", { x: 5.5, y: 5.5, width: 8, height: 8, rx: 1.5 }), svg("path", { d: "M3.5 10.5h-1v-8h8v1" }), svg("path", { class: "done", d: "M7.4 9.6 9 11.2l2.8-3.4" }));

// copyButton is a small button that copies text, or nothing yet; what is what it is: "the address".
export function copyButton(what, text = "") {
  const button = h("button", { class: "copy plain", type: "button", "aria-label": `Copy ${what}`, title: `Copy ${what}` }, drawing());
  offer(button, text);
  return button;
}

// offer sets what a button copies; without a text there is no button.
export function offer(button, text) {
  button.hidden = !text;
  set(button, "data-copy", text || null);
}

// A command follows a colon, or stands at the start or after a comma, and goes up to the next one. Of devloop's own, only those that are
// nothing but a command are: "devloop delete removes it" is a sentence.
const command = new RegExp("(?:^|[:;,] (?:or |then: )?)" +
  "((?:kubectl|minikube|docker|helm|kind|k3d) [a-z][^;,\\n]*|devloop [a-z]+(?: (?:stop|--[a-z-]+(?:=\\S+)?))*(?=[;,)]|$))", "m");

// commandOf is the command that a hint tells to run, "" if there is none.
export const commandOf = (hint) => command.exec(hint ?? "")?.[1].trim() ?? "";

// copy puts a text on the clipboard. Browsers give the page their own interface for that only if the address is of this machine.
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // not allowed: the old way may be
    }
  }
  const focused = document.activeElement;
  const area = h("textarea", { class: "unseen", "aria-hidden": "true", readonly: "" });
  area.value = text;
  (focused?.closest("dialog") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus({ preventScroll: true });
  return done;
}

// pressed copies for a button, and shows for a while how that went.
export async function pressed(button, text) {
  const done = await copy(text);
  const { label } = button.dataset;
  button.dataset.copied = done ? "yes" : "no";
  if (label) {
    button.textContent = done ? "Copied" : "Not allowed by the browser";
  }
  byId("announce").textContent = done ? "Copied" : "The browser did not allow to copy";
  clearTimeout(button.back);
  button.back = setTimeout(() => {
    delete button.dataset.copied;
    if (label) {
      button.textContent = label;
    }
  }, 1500);
}

document.addEventListener("click", (e) => {
  const button = e.target.closest?.("button[data-copy], button[data-copy-from]");
  if (button) {
    pressed(button, button.dataset.copy ?? byId(button.dataset.copyFrom).textContent);
  }
});
