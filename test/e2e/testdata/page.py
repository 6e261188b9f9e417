"""Somebody who looks at devloop's page, in a real browser. Does what it is told by lines of JSON, and answers each with one.

Usage: page.py [--firefox] URL, with what ../browser.txt names installed. The browser is Chromium: $CHROMIUM, or /usr/bin/chromium; or Firefox:
$FIREFOX, or /usr/bin/firefox-esr, which has no offline, hover and media, and prefers light.

A command is {"do": NAME, ...}, an answer {"done": NAME, "value": ...} or {"failed": NAME, "error": ...}. The first answer, without a
command, says that the page is open. The commands and what they take:

    goto url              reload                 lose the connection and find it again: offline on (true or false)
    wait_text selector text                      until the element has that text
    wait_gone selector                           until it is not there, or not to be seen
    text selector         texts selector         count selector         visible selector
    attribute selector name                      property selector name
    click selector        hover selector         focus selector         press key [selector]
    fill selector text    select selector value
    evaluate script                              the value of an expression
    media dark reduced_motion                    what the user prefers
    size width height     screenshot path [width height dark full]
    grant_notifications                          as a user allows them when asked
    console_errors                               those since the last time, what the policy blocked and failed requests among them
    a11y                                         what axe-core has to say against the page: rule, impact, elements
    quit
"""
import argparse
import json
import os
import sys

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, expect, sync_playwright

from firefox import Failed, Firefox

LONG_ENOUGH = 8 * 60 * 1000  # for every wait: how fast the page is, is not measured here

parser = argparse.ArgumentParser()
parser.add_argument("--firefox", action="store_true")
parser.add_argument("url")
args = parser.parse_args()


def say(**what):
    print(json.dumps(what), flush=True)


class User:
    def __init__(self, browser):
        self.page = browser.new_page(viewport={"width": 1440, "height": 900})
        self.page.set_default_timeout(LONG_ENOUGH)
        self.errors = []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(args.url)

    def one(self, selector):
        return self.page.locator(selector).first

    def goto(self, url):
        self.page.goto(url)

    def reload(self):
        self.page.reload()

    def offline(self, on):
        self.page.context.set_offline(on)

    def wait_text(self, selector, text):
        expect(self.one(selector)).to_contain_text(text)

    def wait_gone(self, selector):
        expect(self.one(selector)).to_be_hidden()

    def text(self, selector):
        return self.one(selector).inner_text()

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()

    def count(self, selector):
        return self.page.locator(selector).count()

    def visible(self, selector):
        return self.one(selector).is_visible()

    def attribute(self, selector, name):
        return self.one(selector).get_attribute(name)

    def property(self, selector, name):
        return self.one(selector).evaluate("(node, name) => node[name]", name)

    def click(self, selector):
        self.one(selector).click()

    def hover(self, selector):
        self.one(selector).hover()

    def focus(self, selector):
        self.one(selector).focus()

    def press(self, key, selector=None):
        if selector:
            self.one(selector).press(key)
        else:
            self.page.keyboard.press(key)

    def fill(self, selector, text):
        self.one(selector).fill(text)

    def select(self, selector, value):
        self.one(selector).select_option(value)

    def evaluate(self, script):
        return self.page.evaluate(script)

    def media(self, dark=False, reduced_motion=False):
        self.page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce" if reduced_motion else "no-preference")

    def size(self, width, height):
        self.page.set_viewport_size({"width": width, "height": height})

    def screenshot(self, path, width=1440, height=900, dark=False, full=False):
        self.size(width, height)
        self.media(dark)
        self.page.screenshot(path=path, full_page=full)

    def grant_notifications(self):
        self.page.context.grant_permissions(["notifications"])

    def console_errors(self):
        errors, self.errors = self.errors, []
        return errors

    def a11y(self):
        return Axe().run(self.page).response["violations"]


def violations(found):
    return [{"rule": v["id"], "impact": v["impact"], "help": v["help"], "elements": [node["html"][:200] for node in v["nodes"]]} for v in found]


def obey(user):
    say(done="open", value=user.evaluate("document.title"))
    while line := sys.stdin.readline():
        command = json.loads(line)
        name = command.pop("do")
        if name == "quit":
            break
        try:
            value = getattr(user, name)(**command)
            say(done=name, value=violations(value) if name == "a11y" else value)
        except (AssertionError, AttributeError, Error, Failed, TimeoutError, TypeError) as error:
            say(failed=name, error=str(error))


if args.firefox:
    user = Firefox(os.environ.get("FIREFOX", "/usr/bin/firefox-esr"), LONG_ENOUGH / 1000)
    try:
        user.goto(args.url)
        obey(user)
    finally:
        user.close()
    sys.exit()

expect.set_options(timeout=LONG_ENOUGH)
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"] if os.getuid() == 0 else [])
    obey(User(browser))
    browser.close()
