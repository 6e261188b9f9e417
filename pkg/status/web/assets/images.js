// What of devloop.yaml's images runs where: the hash of the inputs → the image → the nodes that hold it → the pods that use it → what new Dask
// clusters get. Once the chain was checked for what an image is now, its links are shown; before that, what can be put together from the rest.
import { byId, h, keep, mark, markAs, say, set } from "./dom.js";
import { age, brief, bytes, count, short } from "./format.js";
import { now } from "./stream.js";

const list = byId("images");
const marks = { building: "busy", loading: "busy", "on node": "good", failed: "bad" };
const namedWhere = 3; // places where the chain is broken that are named in full sight; all are on hover

// The places in the order of the chain: what they are called, and what is said of what is there. Not every platform has those that may be missing.
const places = [
  { place: "inputs", title: "inputs", verb: "is" },
  { place: "build", title: "image", verb: "is" },
  { place: "registry", title: "registry", verb: "holds", maybe: true },
  { place: "node", title: "node", verb: "holds" },
  { place: "pod", title: "pods", verb: "runs" },
  { place: "gateway", title: "gateway", verb: "gives", maybe: true },
];

let shown = [];
let checked = ""; // when the chain was checked last

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

// current are an image's links if they are about what it is now: those of what it was before a change say nothing of it.
function current(links, image) {
  const inputs = links.find((link) => link.place === "inputs");
  return !inputs || [inputs.is, inputs.want].includes(image.tag) ? links : [];
}

// isBroken leaves out pods that are older because nothing replaces them.
const isBroken = (link) => link.want && !link.older;

export function show(images, pods, chain) {
  shown = images;
  checked = chain?.checked ?? "";
  byId("images-empty").hidden = images.length > 0;

  const there = new Set((chain?.links ?? []).map((link) => link.place));
  const wanted = places.filter(({ place, maybe }) => !maybe || there.has(place));
  say(byId("images-note"), wanted.map(({ title }) => title).join(" → "));
  set(list, "data-places", wanted.length);
  keep(list, images, (image) => image.name, make, (node, image) => update(node, image, pods, chain, wanted));

  byId("chain-failure").hidden = !chain?.error;
  say(byId("chain-error"), chain?.error ?? "");
  say(byId("chain-hint"), chain?.hint ?? "");
  byId("chain-hint").hidden = !chain?.hint;
  aged();
}

function box({ place, title }) {
  const parts = {
    sign: h("span"), word: h("span"), value: h("p", { class: "value" }), note: h("p", { class: "note quiet" }), want: h("p", { class: "want" }), where: h("p", { class: "where" }),
  };
  const node = h("li", { "data-place": place }, h("h4", {}, parts.sign, title, parts.word), parts.value, parts.note, parts.want, parts.where);
  return { ...parts, node };
}

function make(image) {
  const parts = {
    sign: h("span"), name: h("h3", {}, image.name), state: h("span", { class: "quiet" }), proof: h("span", { class: "proof quiet", "data-testid": "proof" }),
    boxes: new Map(places.map((each) => [each.place, box(each)])),
    progress: h("div", { class: "progress" }), bar: h("progress"), step: h("p", { class: "step" }), figures: h("p", { class: "quiet number" }),
    error: h("p", { class: "error" }),
  };
  parts.bar.setAttribute("aria-label", `Building ${image.name}`);
  parts.progress.append(parts.bar, h("div", { class: "below" }, parts.step, parts.figures));
  const node = h("li", { "data-testid": "image", "data-image": image.name },
    h("div", { class: "title" }, parts.sign, parts.name, parts.state, parts.proof),
    h("ol", { class: "chain" }, ...[...parts.boxes.values()].map((part) => part.node)),
    parts.progress, parts.error);
  node.parts = parts;
  return node;
}

function update(node, image, pods, chain, wanted) {
  const { sign, state, boxes, progress, bar, step, error } = node.parts;
  const of = (chain?.links ?? []).filter((link) => link.image === image.name);
  const links = current(of, image);
  const broken = links.some(isBroken);
  // An error that no link explains is about all images: none of them is proven.
  const proven = links.length > 0 && !broken && (!chain.error || chain.links.some(isBroken));
  node.dataset.state = image.state;
  node.proof = broken ? "broken" : proven ? "whole" : "";
  set(node, "data-chain", node.proof || null);
  markAs(sign, broken ? "bad" : marks[image.state] ?? "idle");
  say(state, image.state || "not looked at yet");

  for (const each of places) {
    const part = boxes.get(each.place);
    const own = links.filter((link) => link.place === each.place);
    const said = (own.length > 0 ? linked : computed)[each.place]?.(image, pods, own) ?? {};
    part.node.hidden = !wanted.includes(each);
    part.node.classList.toggle("absent", Boolean(each.maybe) && !of.some((link) => link.place === each.place)); // its column is for other images
    fill(part, said, own, each.verb, image);
  }

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

const unique = (items) => [...new Set(items)];
const named = (link) => (link.name ? `${link.name}: ${link.is}` : link.is);
const found = (image) => (image.on ? `found on ${image.on === "node" ? "the node" : "this machine"}` : "");
const podOf = (link) => (link.name ?? "").split("/").slice(0, 2).join("/");

// using finds the pods that use an image, and those that use another tag of it.
function using(image, pods) {
  const of = (how) => pods.filter((pod) => (pod.containers ?? []).some((c) => uses(image, c.image) === how));
  const same = of("same");
  return { same, other: of("other").filter((pod) => !same.includes(pod)) };
}

const onAnother = (other) => (other.length > 0 ? `${count(other.length, "pod")} on another tag` : "");
const titleOfOthers = (other) => other.map((pod) => `${pod.name} (another tag)`);

// linked says what is at each place by the chain's links.
const linked = {
  inputs: (image, pods, [link]) => ({ value: short(link.is), title: link.is }),
  build: (image, pods, [link]) => ({ value: short(link.is), note: found(image), title: link.is }),
  registry: (image, pods, links) => ({ value: short(links[0].is), note: links[0].name ?? "", title: links.map(named).join("\n") }),
  node: (image, pods, links) => ({
    value: links.map((link) => link.name).join(", "), note: unique(links.map((link) => short(link.is))).join(", "), title: links.map(named).join("\n"),
  }),
  pod: (image, pods, links) => {
    const { other } = using(image, pods);
    return {
      value: count(unique(links.map(podOf)).length, "pod"), note: onAnother(other) || unique(links.map((link) => brief(link.is, image.name))).join(", "), old: other.length > 0,
      title: [...links.map(named), ...titleOfOthers(other)].join("\n"),
    };
  },
  gateway: (image, pods, links) => ({ value: brief(links[0].is, image.name), note: "for new clusters", title: links.map(named).join("\n") }),
};

// computed says it by what is known of images and pods.
const computed = {
  inputs: (image) => ({ value: image.tag ? short(image.tag) : "", title: image.tag }),
  build: (image) => {
    const digests = unique((image.nodes ?? []).map((n) => n.digest));
    const id = image.id || (digests.length === 1 ? digests[0] : ""); // what was found was not built: its ID is that of the nodes
    return { value: short(id), note: found(image), title: id };
  },
  node: (image) => ({
    value: (image.nodes ?? []).map((n) => n.node).join(", "), note: unique((image.nodes ?? []).map((n) => n.id)).map(short).join(", "),
    title: (image.nodes ?? []).map((n) => `${n.node}: ${n.digest}, which pods call ${n.id}`).join("\n"),
  }),
  pod: (image, pods) => {
    const { same, other } = using(image, pods);
    const running = unique(same.flatMap((pod) => pod.containers).filter((c) => c.imageID && uses(image, c.image) === "same").map((c) => short(c.imageID)));
    return {
      value: same.length > 0 ? count(same.length, "pod") : "", note: onAnother(other) || running.join(", "), old: other.length > 0,
      title: [...same.map((pod) => pod.name), ...titleOfOthers(other)].join("\n"),
    };
  },
};

// fill shows what is at a place, or, if the chain is broken there, what should be.
function fill(part, { value = "", note = "", title = "", old = false }, links, verb, image) {
  const broken = links.filter(isBroken);
  const bad = broken.length > 0;
  if (bad !== part.node.classList.contains("broken")) {
    part.node.classList.toggle("broken", bad);
    part.sign.replaceChildren(...(bad ? [mark("bad")] : []));
    say(part.word, bad ? " broken" : "");
  }
  part.node.classList.toggle("none", !bad && !value);
  part.node.classList.toggle("old", !bad && old);
  if (!bad) {
    say(part.value, value || "–");
    say(part.note, note);
    say(part.want, "");
    say(part.where, "");
    set(part.value, "title", title || null);
    return;
  }
  const [is, want] = apart(broken[0].is, broken[0].want, image.name);
  const names = unique(broken.map((link) => (link.place === "pod" ? podOf(link) : link.name)).filter(Boolean));
  say(part.value, `${verb} ${is}`);
  say(part.note, "");
  say(part.want, `should be ${want}`);
  say(part.where, [...names.slice(0, namedWhere), names.length > namedWhere ? `and ${names.length - namedWhere} more` : ""].filter(Boolean).join("\n"));
  set(part.value, "title", broken.map((link) => `${named(link)}, should be ${link.want}`).join("\n"));
}

// apart are two values, each as short as it can be while they still differ.
function apart(is, want, image) {
  const pair = [is, want].map((value) => brief(value, image) || "nothing");
  return pair[0] === pair[1] ? [is, want] : pair;
}

function timed(node) {
  const { state, step = "", done = 0, total, since, bytes: moved } = node.image;
  const parts = state === "loading" ? [moved ? bytes(moved) : ""] : [total ? `step ${Math.min(done + 1, total)} of ${total}` : ""];
  if (since && (step || state === "loading")) {
    parts.push(age((now() - Date.parse(since)) / 1000));
  }
  say(node.parts.figures, parts.filter(Boolean).join(" · "));
}

// aged says how long ago the chain was checked.
function aged() {
  if (!checked) {
    return;
  }
  const ago = `${age((now() - Date.parse(checked)) / 1000)} ago`;
  for (const { proof, parts } of list.children) {
    say(parts.proof, proof === "whole" ? `proven ${ago}` : proof === "broken" ? "chain broken" : "");
  }
  say(byId("chain-checked"), `checked ${ago}`);
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (shown.some((image) => image.since)) {
    [...list.children].forEach(timed);
  }
  aged();
}
