// What all parts of the page make elements with. Data gets into the page as text only: nothing here takes HTML.

const inSVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// h makes an element with attributes and children (elements or text).
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// svg is h for drawings.
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(inSVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// say sets a text if it is another one: selections in it, and what a screen reader has read, stay.
export function say(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

// set sets an attribute, or takes it away if there is no value.
export function set(node, name, value) {
  if (value === undefined || value === null || value === false) {
    node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value);
  }
}

const made = new WeakMap(); // parent → its children by key

// keep makes the children of parent those of items: each made once and updated from then on, so that focus and hover stay where they are.
// Other children stay before them.
export function keep(parent, items, keyOf, make, update) {
  const old = made.get(parent) ?? new Map();
  const next = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, node] of old) {
    if (!next.has(key)) {
      old.delete(key);
      node.remove();
    }
  }
  let place = old.values().next().value ?? null;
  for (const [key, item] of next) {
    const node = old.get(key) ?? make(item);
    next.set(key, node);
    update(node, item);
    if (node === place) {
      place = node.nextSibling;
    } else {
      parent.insertBefore(node, place);
    }
  }
  made.set(parent, next);
}

const marks = {
  __proto__: null, // so that no word but these is in it
  // Each outcome and health has a shape of its own: nobody has to tell colours apart.
  good: ["circle", "M4.6 8.3 7 10.6 11.5 5.6"],
  bad: ["square", "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6"],
  warn: ["triangle", "M8 6.2v3.4M8 11.6v.2"],
  busy: ["ring", ""],
  idle: ["hollow", ""],
  passed: ["hollow", "M5 8h6M8.6 5.6 11 8l-2.4 2.4"],
  end: ["hollow", "M5.5 5.5h5v5h-5z"],
};

const shapes = {
  circle: () => svg("circle", { cx: 8, cy: 8, r: 7.5, class: "body" }),
  square: () => svg("rect", { x: 0.8, y: 0.8, width: 14.4, height: 14.4, rx: 3.5, class: "body" }),
  triangle: () => svg("path", { d: "M8 1 15.6 14.6H.4z", class: "body", "stroke-linejoin": "round" }),
  ring: () => svg("path", { d: "M8 1.8a6.2 6.2 0 1 1-6.2 6.2", class: "outline turning" }),
  hollow: () => svg("circle", { cx: 8, cy: 8, r: 6.6, class: "outline" }),
};

// mark draws one of the marks, and an idle one for what is none.
export function mark(kind) {
  const name = kind in marks ? kind : "idle";
  const [shape, sign] = marks[name];
  const drawing = svg("svg", { class: `sign ${name}`, viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" }, shapes[shape]());
  if (sign) {
    drawing.append(svg("path", { d: sign, class: shape === "hollow" ? "inner" : "cut" }));
  }
  return drawing;
}

// markAs lets node hold that mark, drawn anew only if it is another one.
export function markAs(node, kind) {
  if (node.dataset.mark !== kind) {
    node.dataset.mark = kind;
    node.replaceChildren(mark(kind));
  }
}

const outcomeMarks = { __proto__: null, running: "busy", succeeded: "good", failed: "bad", superseded: "passed", interrupted: "end" };

// outcomeMark is the mark of an outcome; runs of another devloop may have outcomes that this one does not know.
export const outcomeMark = (outcome) => outcomeMarks[outcome] ?? "idle";
