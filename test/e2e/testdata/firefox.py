"""Firefox, as Debian has it, driven by WebDriver BiDi: what page.py needs of a page, and no more.

Playwright drives only builds of Firefox of its own; Firefox itself speaks BiDi.
"""
import base64
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

# It asks no other machine for anything.
PREFERENCES = {
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.policy.dataSubmissionPolicyBypassNotification": True,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "remote.prefs.recommended": True,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.enabled": False,
}

KEYS = {"Control": "\ue009", "Enter": "\ue007", "Escape": "\ue00c", "ArrowUp": "\ue013", "ArrowDown": "\ue015", "ArrowLeft": "\ue012", "ArrowRight": "\ue014",
        "PageUp": "\ue00e", "PageDown": "\ue00f", "Home": "\ue011", "End": "\ue010", "Tab": "\ue004"}


class Failed(Exception):
    """Firefox did not do what it was asked for."""


class Firefox:
    def __init__(self, binary, patience):
        self.patience = patience  # seconds for every wait
        self.profile = tempfile.TemporaryDirectory(prefix="devloop-firefox-", ignore_cleanup_errors=True)
        Path(self.profile.name, "user.js").write_text(
            "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items()))
        self.process = subprocess.Popen(
            [binary, "--headless", "--no-remote", "--profile", self.profile.name, "--remote-debugging-port", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        address = next((m[1] for line in self.process.stderr if (m := re.search(r"WebDriver BiDi listening on (\S+)", line))), None)
        if not address:
            raise Failed("Firefox ended as it began")
        self.errors, self.asked = [], 0
        self.socket = connect(f"{address}/session", max_size=None, open_timeout=60)
        self.ask("session.new", capabilities={})
        self.tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]
        self.ask("session.subscribe", events=["log.entryAdded"])
        # What it prints must not fill the pipe.
        self.rest = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def close(self):
        self.socket.close()
        for process in (self.process, self.rest):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self.profile.cleanup()

    def ask(self, method, **params):
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv(timeout=self.patience))
            if said.get("method") == "log.entryAdded" and said["params"]["level"] == "error":
                self.errors.append(said["params"]["text"])
            if said.get("id") == self.asked:
                if said["type"] == "error":
                    raise Failed(f"{method}: {said['message']}")
                return said["result"]

    def evaluate(self, script, *args):
        """The value of an expression, which may be a promise; or of a function of JSON values."""
        call = f"({script})(...{json.dumps(args)})" if args else f"({script})"
        answer = self.ask("script.evaluate", expression=f"Promise.resolve({call}).then(value => JSON.stringify(value) ?? 'null')",
                          target={"context": self.tab}, awaitPromise=True)
        if answer["type"] == "exception":
            raise Failed(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    def until(self, what, script, *args):
        end = time.monotonic() + self.patience
        while not self.evaluate(script, *args):
            if time.monotonic() > end:
                raise Failed(f"{what}: not within {self.patience} s")
            time.sleep(0.1)

    def goto(self, url):
        self.ask("browsingContext.navigate", context=self.tab, url=url, wait="complete")

    def reload(self):
        self.ask("browsingContext.reload", context=self.tab, wait="complete")

    def wait_text(self, selector, text):
        self.until(f"{selector} has {text!r}", "(s, text) => document.querySelector(s)?.textContent.replace(/\\s+/g, ' ').includes(text)", selector, text)

    def wait_gone(self, selector):
        self.until(f"{selector} is gone", "(s) => !document.querySelector(s)?.checkVisibility({visibilityProperty: true})", selector)

    def text(self, selector):
        return self.evaluate("(s) => document.querySelector(s).innerText", selector)

    def texts(self, selector):
        return self.evaluate("(s) => [...document.querySelectorAll(s)].map(node => node.innerText)", selector)

    def count(self, selector):
        return self.evaluate("(s) => document.querySelectorAll(s).length", selector)

    def visible(self, selector):
        return self.evaluate("(s) => document.querySelector(s)?.checkVisibility({visibilityProperty: true}) ?? false", selector)

    def attribute(self, selector, name):
        return self.evaluate("(s, name) => document.querySelector(s).getAttribute(name)", selector, name)

    def property(self, selector, name):
        return self.evaluate("(s, name) => document.querySelector(s)[name]", selector, name)

    def act(self, kind, *actions, **more):
        self.ask("input.performActions", context=self.tab, actions=[{"type": kind, "id": kind, "actions": list(actions), **more}])

    def click(self, selector):
        self.until(f"{selector} can be clicked", "(s) => { const n = document.querySelector(s); return n?.checkVisibility({visibilityProperty: true}) && !n.disabled }", selector)
        x, y = self.evaluate("""(s) => {
            const node = document.querySelector(s);
            node.scrollIntoView({block: 'center'});
            const box = node.getBoundingClientRect();
            return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)];
        }""", selector)
        self.act("pointer", {"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0})

    def focus(self, selector):
        self.evaluate("(s) => document.querySelector(s).focus()", selector)

    def press(self, key, selector=None):
        if selector:
            self.focus(selector)
        keys = [KEYS.get(one, one) for one in (key.split("+") if len(key) > 1 else [key])]
        self.act("key", *({"type": "keyDown", "value": one} for one in keys), *({"type": "keyUp", "value": one} for one in reversed(keys)))

    def fill(self, selector, text):
        self.evaluate("""(s, text) => {
            const node = document.querySelector(s);
            node.focus();
            node.value = text;
            node.dispatchEvent(new Event('input', {bubbles: true}));
        }""", selector, text)

    def select(self, selector, value):
        self.evaluate("""(s, value) => {
            const node = document.querySelector(s);
            node.value = value;
            node.dispatchEvent(new Event('change', {bubbles: true}));
        }""", selector, value)

    def size(self, width, height):
        self.ask("browsingContext.setViewport", context=self.tab, viewport={"width": width, "height": height})

    def screenshot(self, path, width=1440, height=900, full=False):
        self.size(width, height)
        data = self.ask("browsingContext.captureScreenshot", context=self.tab, origin="document" if full else "viewport")["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def grant_notifications(self):
        self.ask("permissions.setPermission", descriptor={"name": "notifications"}, state="granted", origin=self.evaluate("location.origin"))

    def console_errors(self):
        self.evaluate("1")  # those that are on their way
        errors, self.errors = self.errors, []
        return errors

    def a11y(self):
        import axe_playwright_python
        axe = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
        self.evaluate(f"(() => {{ {axe}\n }})()")
        return self.evaluate("axe.run()")["violations"]
