// A failure as text for an issue: what devloop this is, where it runs, what went wrong, and what was said meanwhile. Secrets are hidden in all
// that devloop sends; its own address, which lets in, is not.
import { commandOf, offer, pressed } from "./copy.js";
import { byId } from "./dom.js";
import { seconds } from "./format.js";
import * as logs from "./logs.js";

const most = 40; // lines of the log

let shown = null; // the run that is looked at
let state = {};

// know keeps what is known of devloop.
export function know(now) {
  state = now;
}

// show is told which run is looked at.
export function show(run) {
  shown = run;
  offer(byId("copy-hint"), commandOf(run?.hint));
}

const block = (text) => {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}text\n${text.trimEnd()}\n${fence}`;
};

// textOf is the failure of a run as Markdown.
export function textOf(run, from) {
  const token = /[?&]token=([^&\s]+)/.exec(from.page ?? "")?.[1];
  const on = [from.tool && `${from.tool} cluster`, from.away ? `cluster ${from.away.state}` : ""].filter(Boolean).join(", ");
  const changed = (run.changes ?? []).flatMap((file) => (file.lines ?? []).map((line) => `${file.file}: ${[line.name, line.before, line.after && `→ ${line.after}`].filter(Boolean).join(" ")}`));
  const lines = logs.ofRun(run, most);
  const parts = [
    `**devloop ${from.version || "(unknown version)"}** on ${[from.system || navigator.platform, on].filter(Boolean).join(", ")}`,
    `Run ${run.number} (${[run.why, run.files].filter(Boolean).join(": ")}) failed after ${seconds(run.seconds)}:`,
    block(run.error || "no error was told"),
    run.hint ? `Hint: ${run.hint}` : "",
    run.output ? `The step that failed printed:\n\n${block(run.output)}` : "",
    changed.length > 0 ? `Changed:\n\n${block(changed.join("\n"))}` : "",
    lines.length > 0 ? `<details><summary>Log of that run</summary>\n\n${block(lines.join("\n"))}\n\n</details>` : "",
  ];
  const text = parts.filter(Boolean).join("\n\n") + "\n";
  return (token ? text.replaceAll(token, "•••") : text).replace(/([?&]token=)[^&\s•]+/g, "$1•••");
}

byId("copy-issue").addEventListener("click", (e) => pressed(e.currentTarget, textOf(shown, state)));
