// The stream of what happens: connects again by itself, and goes on behind the last line that it got.

let offset = 0; // of devloop's clock from this one's

// now is the time by devloop's clock, in milliseconds.
export const now = () => Date.now() + offset;

// connect calls to.state, to.runs, to.line and to.gap with what comes, to.connected and to.lost with how the stream is, and to.reset when
// another devloop answers than before.
export function connect(to) {
  let last = "";
  const open = () => {
    const source = new EventSource("/api/stream" + (last ? `?after=${encodeURIComponent(last)}` : ""));
    let fresh = true;
    const on = (kind, handle) =>
      source.addEventListener(kind, (message) => {
        last = message.lastEventId;
        handle(JSON.parse(message.data));
      });
    on("state", (message) => {
      const seen = Date.parse(message.now) - Date.now();
      offset = fresh ? seen : Math.max(offset, seen); // a message that was late makes it look smaller than it is
      fresh = false;
      to.state(message.state);
    });
    on("runs", to.runs);
    on("line", to.line);
    on("gap", to.gap);
    on("reset", to.reset);
    source.addEventListener("open", () => {
      fresh = true;
      to.connected();
    });
    source.addEventListener("error", () => {
      to.lost();
      if (source.readyState === EventSource.CLOSED) {
        setTimeout(open, 2000); // something else answered: the browser has given up
      }
    });
  };
  open();
}
