"""Makes the pictures of the documentation: brings the platform up, starts Dask clusters, saves files, and looks.

Usage: pictures.py --work FOLDER --to FOLDER. test/pictures/run calls it, with a cluster and a Docker that devloop finds.
"""
import argparse
import json
import os
import pathlib
import subprocess
import time

from playwright.sync_api import expect, sync_playwright

import terminal

COLUMNS = 110
LONG_ENOUGH = 15 * 60  # seconds, for every wait
LARGEST = 500_000  # bytes of a picture

parser = argparse.ArgumentParser()
parser.add_argument("--work", type=pathlib.Path, required=True)
parser.add_argument("--to", type=pathlib.Path, required=True)
args = parser.parse_args()
project = args.work / "dask-platform"
devloop = os.environ["DEVLOOP_BIN"]
laptop = project / ".venv"
# What makes a terminal a plain one stays outside.
env = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
env |= {"VIRTUAL_ENV": str(laptop), "PATH": f"{laptop}/bin:{os.environ['PATH']}"}


def say(what):
    print(f"pictures: {what}", flush=True)


def ask(*command):
    return subprocess.run([devloop, *command], cwd=project, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


def status():
    return json.loads(ask("status", "--json"))


def until(what, is_so):
    end = time.monotonic() + LONG_ENOUGH
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {LONG_ENOUGH} s")
        time.sleep(0.2)


def save(name, old, new):
    """Saves a file as editors do, in one step, and returns when the run for it has ended."""
    text = (project / name).read_text()
    if old not in text:
        raise ValueError(f"{name} has no {old!r}")
    runs = len(status()["runs"])
    changed = args.work / "changed"
    changed.write_text(text.replace(old, new))
    changed.rename(project / name)
    until(f"a run for {name}", lambda: len(status()["runs"]) > runs and status().get("run", {}).get("outcome") != "running")


def healthy():
    ask("status", "--wait", "healthy", "--timeout", f"{LONG_ENOUGH}s")


def check(path):
    size = path.stat().st_size
    say(f"{path}: {size // 1000} kB")
    if size > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST} bytes")


def write(name, frames, title, columns=COLUMNS):
    path = args.to / name
    path.write_text(terminal.picture(frames, columns, title))
    check(path)


class Cluster:
    """A Dask cluster that a user has started from the laptop."""

    def __init__(self, user, workers):
        client = pathlib.Path(__file__).parent.parent / "e2e" / "testdata" / "client.py"
        self.process = subprocess.Popen(
            [laptop / "bin" / "python", client, "http://localhost:8001", "--user", user, "--workers", str(workers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "workers" in json.loads(line):
                return
        raise RuntimeError(f"the cluster of {user} has not come up")

def in_terminal(*command, columns=COLUMNS, rows=60):
    """What devloop shows in a second terminal, once it has ended."""
    second = terminal.Terminal([devloop, *command], columns, rows, cwd=project, env=env)
    second.wait(LONG_ENOUGH)
    return second.frames()[-1:]


class Page:
    def __init__(self, browser, url):
        self.page = browser.new_page(viewport={"width": 1440, "height": 900})
        self.page.set_default_timeout(LONG_ENOUGH * 1000)
        self.page.goto(url)

    def open(self, *selectors):
        for selector in selectors:
            self.page.locator(selector).evaluate("e => e.open = true")

    def take(self, name, at=None):
        """Takes a picture of the page, from its top or from an element on."""
        if at:
            self.page.locator(at).first.evaluate("e => scrollTo(0, e.getBoundingClientRect().top + scrollY - 90)")
        else:
            self.page.evaluate("scrollTo(0, 0)")
        self.page.evaluate("document.activeElement.blur()")
        path = args.to / name
        self.page.wait_for_timeout(1500)  # until what the last event changed is there
        self.page.screenshot(path=path)
        subprocess.run(["pngquant", "--quality=80-95", "--speed=1", "--strip", "--force", "--output", path, path], check=True)
        check(path)


def prepare():
    project.mkdir()
    ask("init", "--dask")
    with (project / "devloop.yaml").open("a") as config:
        config.write("buildIn: host # the node reaches no index of packages\nlocal: { sync: true }\n")
    with (project / "requirements.txt").open("a") as requirements:
        requirements.write(f"# {time.time()}: no earlier build is this one\n")
    (args.work / "venv").rename(laptop)


def tell(browser):
    say("devloop starts")
    first = terminal.Terminal([devloop], COLUMNS, 18, cwd=project, env=env)
    users = []
    try:
        until("devloop answers", lambda: subprocess.run([devloop, "status"], cwd=project, env=env, capture_output=True,
                                                        check=False).returncode == 0)
        healthy()
        until("the libraries are compared", lambda: status().get("libraries"))
        users.append(Cluster("ada", 1))
        time.sleep(3)

        say("a save")
        before, begun = status(), time.monotonic()
        save("requirements.txt", "loguru==0.7.2\n", "loguru==0.7.2\ntabulate==0.9.0\n")
        healthy()
        until("the libraries are compared", lambda: status()["libraries"]["compared"] > before["libraries"]["compared"])
        time.sleep(3)
        write("log.svg", first.frames(begun - 1), "requirements.txt is saved; seconds later the cluster runs it")

        users.append(Cluster("grace", 2))
        write("status.svg", in_terminal("status", columns=190), "devloop status", columns=190)
        write("pods.svg", in_terminal("logs", "--follow=false", "dask-scheduler|dask-worker|api", rows=24),
              "logs of pods, each with its color")
        page = Page(browser, status()["page"])
        page.take("page-run.png")
        page.page.locator("#releases .opens").first.click()
        page.page.locator("[data-testid=pod] button").first.click()
        page.take("page-log.png")
        page.page.locator("#releases .opens").first.click()
        page.page.locator("#log-source").select_option(index=0)
        page.open("#run-details")
        page.page.keyboard.press("l")
        page.take("page-steps.png", "#run-title")
        page.page.locator("#run-details").evaluate("e => e.open = false")
        page.page.keyboard.press("l")

        say("a save that fails")
        save("requirements.txt", "loguru==0.7.2", "loguru==99.99.99")
        page.take("page-failed.png")

        say("a pod with an older image, and other libraries on the laptop")
        (project / "devloop.yaml").write_text((project / "devloop.yaml").read_text().replace("local: { sync: true }\n", ""))
        subprocess.run([laptop / "bin" / "python", "-m", "pip", "install", "--quiet", "toolz==0.12.0", "loguru==0.7.1"],
                       check=True)
        save("requirements.txt", "loguru==99.99.99", "loguru==0.7.2")
        healthy()
        tag = next(image["tag"] for image in before["images"] if image["name"] == "daskclient")
        subprocess.run(["kubectl", "set", "image", "-n", "dask-gateway", "deploy/dask-session", f"session=daskclient:{tag}"],
                       check=True)
        until("the chain is broken", lambda: (status().get("chain") or {}).get("error"))
        until("the libraries are compared", lambda: status()["libraries"].get("differences"))
        page.open("#images-card", "#libraries-card")
        page.page.keyboard.press("l")
        page.take("page-proof.png", "#images-card")
    finally:
        for user in users:
            user.process.kill()
        first.press("\x03")
        first.wait(LONG_ENOUGH)


expect.set_options(timeout=LONG_ENOUGH * 1000)
prepare()
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium",
                                         args=["--no-sandbox"] if os.getuid() == 0 else [])
    tell(browser)
    browser.close()
