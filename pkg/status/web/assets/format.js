// How figures read.

export function seconds(s) {
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 0.995) return `${s.toFixed(2)} s`;
  if (s < 99.95) return `${s.toFixed(1)} s`;
  return age(s);
}

export function age(s) {
  s = Math.max(0, Math.round(s));
  if (s < 100) return `${s} s`;
  if (s < 3600) return s % 60 && s < 600 ? `${Math.floor(s / 60)} m ${s % 60} s` : `${Math.floor(s / 60)} m`;
  if (s < 86400) return s < 36000 && s % 3600 >= 60 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m` : `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

// ago is how long ago something was, roughly: what is looked at all day should not tick.
export function ago(time, now) {
  const s = (now - time) / 1000;
  return `${age(s < 100 ? s : s < 36000 ? s - (s % 60) : s).replace(/ 0 s$/, "")} ago`;
}

export function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 999.5 || unit === "GB") return unit === "B" || n >= 99.95 ? `${Math.round(n)} ${unit}` : `${n.toFixed(1)} ${unit}`;
    n /= 1000;
  }
}

const two = (n) => String(n).padStart(2, "0");

export function clock(time, fine) {
  const t = new Date(time);
  const text = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  return fine ? `${text}.${String(t.getMilliseconds()).padStart(3, "0")}` : text;
}

// date has the day, too, if it is not today.
export function date(time) {
  const t = new Date(time);
  const day = t.toDateString() === new Date().toDateString() ? "" : t.toLocaleDateString(undefined, { month: "short", day: "numeric" }) + ", ";
  return day + clock(time);
}

// short is what people need of a digest or a hash.
export const short = (id) => id.replace(/^.*@/, "").replace(/^[a-z-]+:\/\//, "").replace(/^sha256:/, "").slice(0, 12);

// brief is what people need of a reference or an ID: no registry, no repository if it is that of image, and of a hash its beginning.
export function brief(ref, image = "") {
  const name = ref.replace(/^.*\//, "");
  const colon = name.lastIndexOf(":");
  if (colon < 0 || /@|^sha256:/.test(name)) {
    return short(ref);
  }
  const tag = name.slice(colon + 1);
  const shortTag = /^[0-9a-f]{13,}$/.test(tag) ? tag.slice(0, 12) : tag;
  return name.slice(0, colon) === image ? shortTag : `${name.slice(0, colon)}:${shortTag}`;
}

// middle leaves out the middle of a long name: those of workers differ at their ends.
export const middle = (name, most = 36) => (name.length > most ? `${name.slice(0, most / 2 - 1)}…${name.slice(-most / 2)}` : name);

// listed joins names as people do.
export const listed = (names) => (names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names.join(""));

// count says how many of something there are.
export const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// loopback is a URL of a page on this machine, and "" for all else: only such data becomes a link.
export function loopback(text) {
  if (!URL.canParse(text ?? "")) {
    return "";
  }
  const url = new URL(text);
  const here = ["localhost", "[::1]"].includes(url.hostname) || /^127\.\d+\.\d+\.\d+$/.test(url.hostname);
  return here && /^https?:$/.test(url.protocol) && !url.username && !url.password ? url.href : "";
}

// address is how a forward reads, and where its link leads, "" if a browser cannot show what answers.
export function address(forward) {
  const href = loopback(forward.url);
  return { href, text: href ? new URL(href).host + new URL(href).pathname.replace(/\/$/, "") : forward.local };
}
