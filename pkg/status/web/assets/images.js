// What of devloop.yaml's images runs where: the hash of the inputs → the image → the nodes that hold it → the pods that use it.
import { byId, h, keep, markAs, say } from "./dom.js";
import { age, bytes, count, short } from "./format.js";
import { now } from "./stream.js";

const list = byId("images");
const marks = { building: "busy", loading: "busy", "on node": "good", failed: "bad" };
let shown = [];

// uses says how a container's image stands to one of devloop's: "same", "other" (another tag of it) or "". Pods name an image with or without
// registry and docker.io/library.
function uses(image, ref) {
  const name = ref.replace(/@.*$/, "");
  const colon = name.lastIndexOf(":") > name.lastIndexOf("/") ? name.lastIndexOf(":") : name.length;
  const repository = name.slice(0, colon);
  if (repository !== image.name && !repository.endsWith(`/${image.name}`)) {
    return "";
  }
  return name.slice(colon + 1) === image.tag ? "same" : "other";
}

export function show(images, pods) {
  shown = images;
  byId("images-empty").hidden = images.length > 0;
  keep(list, images, (image) => image.name, make, (node, image) => update(node, image, pods));
}

function link(title) {
  const value = h("p", { class: "value" });
  const note = h("p", { class: "note quiet" });
  return { value, note, node: h("li", {}, h("h4", {}, title), value, note) };
}

function make(image) {
  const parts = {
    sign: h("span"), name: h("h3", {}, image.name), state: h("span", { class: "quiet" }), inputs: link("inputs"), image: link("image"), nodes: link("node"), pods: link("pods"),
    progress: h("div", { class: "progress" }), bar: h("progress"), step: h("p", { class: "step" }), figures: h("p", { class: "quiet number" }),
    error: h("p", { class: "error" }),
  };
  parts.bar.setAttribute("aria-label", `Building ${image.name}`);
  parts.progress.append(parts.bar, h("div", { class: "below" }, parts.step, parts.figures));
  const node = h("li", { "data-testid": "image", "data-image": image.name },
    h("div", { class: "title" }, parts.sign, parts.name, parts.state),
    h("ol", { class: "chain" }, ...[parts.inputs, parts.image, parts.nodes, parts.pods].map((part) => part.node)),
    parts.progress, parts.error);
  node.parts = parts;
  return node;
}

function update(node, image, pods) {
  const { sign, state, inputs, image: built, nodes, pods: used, progress, bar, step, error } = node.parts;
  node.dataset.state = image.state;
  markAs(sign, marks[image.state] ?? "idle");
  say(state, image.state || "not looked at yet");

  chain(inputs, image.tag ? short(image.tag) : "", "", image.tag);
  const held = [...new Set((image.nodes ?? []).map((n) => n.id))];
  const digests = [...new Set((image.nodes ?? []).map((n) => n.digest))];
  const id = image.id || (digests.length === 1 ? digests[0] : ""); // what was found was not built: its ID is that of the nodes
  chain(built, short(id), image.on ? `found on ${image.on === "node" ? "the node" : "this machine"}` : "", id);
  chain(nodes, (image.nodes ?? []).map((n) => n.node).join(", "), held.map(short).join(", "),
    (image.nodes ?? []).map((n) => `${n.node}: ${n.digest}, which pods call ${n.id}`).join("\n"));

  const of = (how) => pods.filter((pod) => (pod.containers ?? []).some((c) => uses(image, c.image) === how));
  const same = of("same");
  const other = of("other").filter((pod) => !same.includes(pod));
  const running = [...new Set(same.flatMap((pod) => pod.containers).filter((c) => c.imageID && uses(image, c.image) === "same").map((c) => short(c.imageID)))];
  chain(used, same.length > 0 ? count(same.length, "pod") : "", other.length > 0 ? `${count(other.length, "pod")} on another tag` : running.join(", "),
    [...same.map((pod) => pod.name), ...other.map((pod) => `${pod.name} (another tag)`)].join("\n"));
  used.node.classList.toggle("old", other.length > 0);

  progress.hidden = image.state !== "building" && image.state !== "loading";
  if (image.state === "building" && image.total) {
    bar.max = image.total;
    bar.value = image.done ?? 0;
  } else {
    bar.removeAttribute("value");
  }
  say(step, image.state === "loading" ? "to the node" : image.step ?? "");
  error.hidden = !image.error;
  say(error, image.error ?? "");
  node.image = image;
  timed(node);
}

function chain(part, value, note, title) {
  part.node.classList.toggle("none", !value);
  say(part.value, value || "–");
  say(part.note, note);
  part.value.title = title ?? "";
}

function timed(node) {
  const { state, step = "", done = 0, total, since, bytes: moved } = node.image;
  const parts = state === "loading" ? [moved ? bytes(moved) : ""] : [total ? `step ${Math.min(done + 1, total)} of ${total}` : ""];
  if (since && (step || state === "loading")) {
    parts.push(age((now() - Date.parse(since)) / 1000));
  }
  say(node.parts.figures, parts.filter(Boolean).join(" · "));
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (shown.some((image) => image.since)) {
    [...list.children].forEach(timed);
  }
}
