// What of devloop.yaml's images runs where: the hash of the inputs → the image → the nodes that hold it → the pods that use it → the synced files
// in them → what new Dask clusters get. Once the chain was checked for what an image is now, its links are shown; before that, what can be put together from the rest.
import { copyButton, offer } from "./copy.js";
import { byId, h, keep, mark, markAs, say, set } from "./dom.js";
import { age, brief, bytes, count, short } from "./format.js";
import { now } from "./stream.js";

const card = byId("images-card");
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
  { place: "files", title: "files", verb: "holds", maybe: true },
  { place: "gateway", title: "gateway", verb: "gives", maybe: true },
];

let shown = [];
let pods = [];
let chain = null; // as it was checked last

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

// current are an image's links if they are about what it is now: those of what it was before a change say nothing of it. Files may have been synced
// into an older image.
function current(links, image) {
  const inputs = links.find((link) => link.place === "inputs");
  return !inputs || [inputs.is, inputs.want, inputs.syncedInto].includes(image.tag) ? links : [];
}

// isBroken leaves out pods that are older because nothing replaces them.
const isBroken = (link) => link.want && !link.older;

export function show(images, allPods, newest) {
  [shown, pods, chain] = [images, allPods, newest ?? null];
  card.hidden = images.length === 0;
  const { mark: kind, word } = verdict(null);
  say(byId("images-note"), [images.length > 0 ? count(images.length, "image") : "", kind ? word : ""].filter(Boolean).join(" · "));
  if (!card.open) {
    return; // nobody sees it
  }
  const there = new Set((chain?.links ?? []).map((link) => link.place));
  const wanted = places.filter(({ place, maybe }) => !maybe || there.has(place));
  set(list, "data-places", wanted.length);
  keep(list, images, (image) => image.name, make, (node, image) => update(node, image, wanted));
  aged();
}

card.addEventListener("toggle", () => show(shown, pods, chain));

const doing = { __proto__: null, building: "building", loading: "loading" };

const portOf = (address) => /:(\d+)(?:\/|$)/.exec(address ?? "")?.[1];

// verdict says in a few words whether the images of some pods, or all images (null), are what they should be wherever they are. Where a gateway
// answers at one of the forwards, the images that it gives to new Dask clusters are among them.
export function verdict(own, forwards = []) {
  const given = new Set((chain?.links ?? []).filter((link) => link.place === "gateway" && forwards.some((f) => portOf(f.local) === portOf(link.name))).map((link) => link.image));
  const runs = (image) => own.some((pod) => (pod.containers ?? []).some((c) => uses(image, c.image)));
  const used = own ? shown.filter((image) => runs(image) || given.has(image.name)) : shown;
  if (used.length === 0) {
    return { mark: "", word: "–", title: "none of the images that devloop.yaml names" };
  }
  const failed = used.find((image) => image.state === "failed");
  if (failed) {
    return { mark: "bad", word: `${failed.name} was not built`, title: failed.error };
  }
  const busy = used.find((image) => image.state in doing);
  if (busy) {
    return { mark: "busy", word: [doing[busy.state], busy.name, busy.state === "building" && busy.total ? `${busy.done ?? 0}/${busy.total}` : ""].filter(Boolean).join(" ") };
  }
  const names = own && new Set(own.map((pod) => `${pod.namespace}/${pod.name}`));
  const all = used.map((image) => current((chain?.links ?? []).filter((link) => link.image === image.name), image));
  const broken = all.flat().filter((link) => isBroken(link) && (!names || !inPod(link) || names.has(podOf(link))));
  if (broken.length > 0) {
    return { mark: "bad", word: `broken at ${whereOf(broken[0])}`, reason: told(broken[0]), title: broken.map((link) => `${link.place} ${differs(link)}`).join("\n") };
  }
  if (chain?.outdated || all.some((links) => links.length === 0) || chain?.error && !chain.links.some(isBroken)) {
    return { mark: "idle", word: "not proven yet" };
  }
  return { mark: "good", word: own && !used.some(runs) ? "ok for new clusters" : "ok everywhere", title: used.map((image) => `${image.name}:${image.tag}`).join("\n") };
}

const inPod = (link) => link.place === "pod" || link.place === "files";
const whereOf = (link) => [link.place === "files" ? "files in" : link.place, inPod(link) ? podOf(link).split("/").at(-1) : link.name].filter(Boolean).join(" ");

// files says which synced files of a container differ from the disk: the first ones.
function files(link) {
  const named = (link.differ ?? []).slice(0, namedWhere);
  const left = (link.differ ?? []).length - named.length + (link.more ?? 0);
  return left > 0 ? [...named, `and ${left} more`] : named;
}

const differs = (link) => (files(link).length > 0 ? `${link.name}: ${files(link).join(", ")}` : `${named(link)}, should be ${link.want}`);

// told says what is where the chain is broken, and what should be.
function told(link) {
  if (link.place === "files") {
    return `${link.image}: ${podOf(link).split("/").at(-1)} holds other files: ${files(link).join(", ") || "they are not known"}`;
  }
  const [is, want] = apart(link.is, link.want, link.image);
  const { verb = "has" } = places.find(({ place }) => place === link.place) ?? {};
  return `${link.image}: ${whereOf(link)} ${verb} ${is}, should be ${want}`;
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
    sign: h("span"), name: h("h3", {}, image.name), copy: copyButton(`the reference of ${image.name}`), state: h("span", { class: "quiet" }), proof: h("span", { class: "proof quiet", "data-testid": "proof" }),
    boxes: new Map(places.map((each) => [each.place, box(each)])),
    progress: h("div", { class: "progress" }), bar: h("progress"), step: h("p", { class: "step" }), figures: h("p", { class: "quiet number" }),
    error: h("p", { class: "error" }),
  };
  parts.bar.setAttribute("aria-label", `Building ${image.name}`);
  parts.progress.append(parts.bar, h("div", { class: "below" }, parts.step, parts.figures));
  const node = h("li", { "data-testid": "image", "data-image": image.name },
    h("div", { class: "title" }, parts.sign, parts.name, parts.copy, parts.state, parts.proof),
    h("ol", { class: "chain" }, ...[...parts.boxes.values()].map((part) => part.node)),
    parts.progress, parts.error);
  node.parts = parts;
  return node;
}

function update(node, image, wanted) {
  const { sign, state, boxes, progress, bar, step, error } = node.parts;
  const of = (chain?.links ?? []).filter((link) => link.image === image.name);
  const links = current(of, image);
  const broken = links.some(isBroken);
  // An error that no link explains is about all images: none of them is proven.
  const proven = !chain?.outdated && links.length > 0 && !broken && (!chain.error || chain.links.some(isBroken));
  offer(node.parts.copy, image.tag ? `${image.name}:${image.tag}` : "");
  node.dataset.state = image.state;
  node.proof = broken ? "broken" : proven ? "whole" : "";
  set(node, "data-chain", node.proof || null);
  markAs(sign, broken ? "bad" : marks[image.state] ?? "idle");
  say(state, [image.state || "not looked at yet", image.synced ? `+ files of run ${image.synced.run}` : "", image.synced?.renewed ? "· rollout pending: r" : ""].filter(Boolean).join(" "));
  set(state, "title", image.synced?.renewed ? `${image.name}:${image.synced.renewed} holds the files, and new pods get it; a run (r) replaces those that run` : null);

  for (const each of places) {
    const part = boxes.get(each.place);
    const own = links.filter((link) => link.place === each.place);
    const said = (own.length > 0 ? linked : computed)[each.place]?.(image, own) ?? {};
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
function using(image) {
  const of = (how) => pods.filter((pod) => (pod.containers ?? []).some((c) => uses(image, c.image) === how));
  const same = of("same");
  return { same, other: of("other").filter((pod) => !same.includes(pod)) };
}

// older are pods on another tag of an image, without those that hold its synced files.
const older = (image, other) => {
  const right = new Set((chain?.links ?? []).filter((link) => link.image === image.name && link.place === "files" && !link.want).map(podOf));
  return other.filter((pod) => !right.has(`${pod.namespace}/${pod.name}`));
};

const onAnother = (other) => (other.length > 0 ? `${count(other.length, "pod")} on another tag` : "");
const titleOfOthers = (other) => other.map((pod) => `${pod.name} (another tag)`);

// linked says what is at each place by the chain's links.
const linked = {
  inputs: (image, [link]) => ({
    value: short(link.is), note: link.syncedInto ? `${short(link.syncedInto)} + files` : "",
    title: link.syncedInto ? `${link.is}: ${image.name}:${link.syncedInto} with the synced files` : link.is,
  }),
  build: (image, [link]) => ({ value: short(link.is), note: found(image), title: link.is }),
  registry: (image, links) => ({ value: short(links[0].is), note: links[0].name ?? "", title: links.map(named).join("\n") }),
  node: (image, links) => ({
    value: links.map((link) => link.name).join(", "), note: unique(links.map((link) => short(link.is))).join(", "), title: links.map(named).join("\n"),
  }),
  pod: (image, links) => {
    const other = older(image, using(image).other);
    return {
      value: count(unique(links.map(podOf)).length, "pod"), note: onAnother(other) || unique(links.map((link) => brief(link.is, image.name))).join(", "), old: other.length > 0,
      title: [...links.map(named), ...titleOfOthers(other)].join("\n"),
    };
  },
  files: (image, links) => {
    const held = links.filter((link) => link.name);
    return { value: held.length > 0 ? count(held.length, "container") : "", note: links.length > 0 ? short(links[0].is) : "", title: links.map(named).join("\n") };
  },
  gateway: (image, links) => ({ value: brief(links[0].is, image.name), note: "for new clusters", title: links.map(named).join("\n") }),
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
  pod: (image) => {
    const { same, other } = using(image);
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
  const names = unique(broken.map((link) => (inPod(link) ? podOf(link) : link.name)).filter(Boolean));
  const other = broken[0].place === "files" ? files(broken[0]) : [];
  say(part.value, other.length > 0 ? "other files" : `${verb} ${is}`);
  say(part.note, "");
  say(part.want, other.length > 0 ? other.map((file) => file.replace(/^.*\//, "")).join("\n") : `should be ${want}`);
  say(part.where, [...names.slice(0, namedWhere), names.length > namedWhere ? `and ${names.length - namedWhere} more` : ""].filter(Boolean).join("\n"));
  set(part.value, "title", broken.map(differs).join("\n"));
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
  if (!chain) {
    return;
  }
  const ago = `${age((now() - Date.parse(chain.checked)) / 1000)} ago`;
  for (const { proof, parts } of list.children) {
    say(parts.proof, proof === "whole" ? `proven ${ago}` : proof === "broken" ? "chain broken" : "");
  }
}

// tick brings up to date what moves with time alone.
export function tick() {
  if (!card.open) {
    return;
  }
  if (shown.some((image) => image.since)) {
    [...list.children].forEach(timed);
  }
  aged();
}
