// The stream of what happens: connects again by itself, and goes on behind the last line that it got.

let offset = 0; // of devloop's clock from this one's

// now is the time by devloop's clock, in milliseconds.
export const now = () => Date.now() + offset;

// connect calls to.state, to.runs, to.line and to.gap with what comes, to.connected and to.lost with how the stream is, and to.locked when
// another devloop answers than before, which lets nobody in who has not opened its own address.
export function connect(to) {
  let last = "";
  const open = () => {
    const source = new EventSource("api/stream" + (last ? `?after=${encodeURIComponent(last)}` : ""));
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
    source.addEventListener("open", () => {
      fresh = true;
      to.connected();
    });
    source.addEventListener("error", () => {
      to.lost();
      if (source.readyState === EventSource.CLOSED) {
        ask(); // something else was answered than a stream: the browser has given up, and does not say what it was
      }
    });
  };
  const again = () => setTimeout(open, 2000);
  const ask = () => fetch("api/state", { method: "HEAD" }).then((answer) => (answer.status === 403 ? to.locked() : again()), again);
  open();
}
