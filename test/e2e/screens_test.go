//go:build e2e

package e2e

import (
	"bufio"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The pages of made-up devloops (test/page), in Chromium and in Firefox: what is seen first, what
// stays, what can be copied, and who is notified. It needs no cluster.
func TestScreens(t *testing.T) {
	t.Parallel()
	pages := madeUpPages(t, "ready", "one", "dozen", "many", "working", "failed", "broken", "away", "hostile", "mended")
	for name, flags := range map[string][]string{"Chromium": nil, "Firefox": {"--firefox"}} {
		t.Run(name, func(t *testing.T) {
			b := openBrowser(t, pages["ready"], flags...)
			step(t, "status first", func(t *testing.T) { statusFirst(t, b) })
			step(t, "the icon shows the state", func(t *testing.T) { icons(t, b, pages) })
			step(t, "the dock stays", func(t *testing.T) { dockStays(t, b, pages["mended"]) })
			step(t, "a failure can be copied", func(t *testing.T) { copies(t, b, pages["mended"]) })
			step(t, "a failure and its end notify those who asked", func(t *testing.T) { notifies(t, b) })
			step(t, "few and many, at all sizes", func(t *testing.T) { sizes(t, b, pages, flags == nil) })
		})
	}
}

// madeUpPages returns the addresses of situations in test/page.
func madeUpPages(t *testing.T, names ...string) map[string]string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "page")
	_, err := command(t.Context(), os.Environ(), "go", "build", "-o", program, "../page")
	must(t, err)
	cmd := exec.Command(program, names...)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	pages := map[string]string{}
	for lines := bufio.NewScanner(stdout); len(pages) < len(names) && lines.Scan(); {
		name, address, _ := strings.Cut(lines.Text(), " ")
		pages[name] = strings.TrimSpace(address)
	}
	if len(pages) < len(names) {
		t.Fatalf("of %v, there are only %v", names, pages)
	}
	return pages
}

// outside finds which of the elements are not to be seen between the window's top and the dock.
const outside = `(() => {
	const end = document.querySelector("#log-dock").getBoundingClientRect();
	const seen = (box) => box.height > 0 && box.top >= 0 && box.bottom <= end.top + 1; // browsers round
	const boxes = SELECTORS.map((s) => [s, document.querySelector(s).getBoundingClientRect()]);
	return boxes.filter(([, box]) => !seen(box)).map(([s, box]) => s + " " + box.top + "–" + box.bottom)
		.concat(end.bottom === innerHeight ? [] : ["the dock ends at " + end.bottom]);
})()`

func statusFirst(t *testing.T, b *browser) {
	b.do(t, "size", "width", 1440, "height", 900)
	b.await(t, "#health-word", "ready")
	b.await(t, "#clusters", "4b1f0e8c")
	first := `["#health-word", "#releases", "#clusters", "#run-title", "#run-stages"]`
	if out := b.do(t, "evaluate", "script", strings.Replace(outside, "SELECTORS", first, 1)).([]any); len(out) > 0 {
		t.Errorf("not in the first screen: %v", out)
	}
	for selector, want := range map[string]string{
		"[data-row=gateway]": "ok for new clusters", "[data-row=client]": "ok everywhere",
		"[data-row=gateway] a": "localhost:8001", "[data-row=web] .ready": "2/2",
		`[data-cluster$="4b1f0e8c"]`: "2 workers wait", "#clusters-gone-word": "last words", "#reason": "proven ",
	} {
		b.await(t, selector, want)
	}
	links := b.do(t, "evaluate", "script", `[...document.querySelectorAll("main a")].map((a) => a.href + " " + a.rel)`)
	for _, link := range links.([]any) {
		if !regexp.MustCompile(`^http://localhost:\d+/\S* noopener$`).MatchString(link.(string)) {
			t.Errorf("a link leads to %s", link)
		}
	}
	if len(links.([]any)) < 4 {
		t.Errorf("links: %v", links)
	}
}

func icons(t *testing.T, b *browser, pages map[string]string) {
	seen := map[string]string{}
	for situation, want := range map[string]string{
		"ready": "✓ ready · shop", "working": "◌ working · shop", "failed": "✕ failed · shop",
		"away": "⊘ cluster away · shop", "broken": "▲ degraded · shop",
	} {
		b.do(t, "goto", "url", pages[situation])
		eventually(t, "the title of "+situation, func() bool {
			return b.do(t, "evaluate", "script", "document.title") == want
		})
		icon, _ := b.do(t, "attribute", "selector", "#favicon", "name", "href").(string)
		shape := regexp.MustCompile(`%23[0-9a-f]+`).ReplaceAllString(icon, "") // without its colours
		if other := seen[shape]; other != "" {
			t.Errorf("the icon of %s has the shape of that of %s", situation, other)
		}
		seen[shape] = situation
	}
}

func dockStays(t *testing.T, b *browser, page string) {
	b.do(t, "goto", "url", page)
	b.await(t, "#log", "Dask cluster")
	height := func() float64 {
		h, _ := b.do(t, "evaluate", "script", `document.querySelector("#log-dock").getBoundingClientRect().height`).(float64)
		return h
	}
	b.do(t, "evaluate", "script", "scrollTo(0, 99999)")
	if out := b.do(t, "evaluate", "script", strings.Replace(outside, "SELECTORS", `["footer"]`, 1)).([]any); len(out) > 0 {
		t.Errorf("at the end of the page: %v", out)
	}
	b.do(t, "press", "key", "Home", "selector", "#dock-handle")
	least := height()
	b.do(t, "press", "key", "PageUp", "selector", "#dock-handle")
	higher := height()
	if higher <= least {
		t.Errorf("keys make it %v high, and then %v", least, higher)
	}
	b.do(t, "reload")
	b.await(t, "#log", "Dask cluster")
	if again := height(); again != higher {
		t.Errorf("after a reload it is %v high, not %v", again, higher)
	}

	b.do(t, "evaluate", "script", `document.querySelector("#log").scrollTop = 0`)
	b.await(t, "#log-newest", "Newest lines")
	b.do(t, "click", "selector", "#rebuild")
	b.await(t, "#health-word", "failed")
	b.await(t, "#log-newest", "new lines")
	b.do(t, "click", "selector", "#log-newest")
	b.do(t, "wait_gone", "selector", "#log-newest")

	b.do(t, "press", "key", "l")
	b.do(t, "wait_gone", "selector", "#log")
	if closed := height(); closed >= least {
		t.Errorf("hidden, it is %v high", closed)
	}
	b.do(t, "click", "selector", "#rebuild")
	b.await(t, "#health-word", "ready")
	b.do(t, "click", "selector", "[data-release=web]")
	b.await(t, "#health-word", "failed")
	b.await(t, "#dock-alarms", "1 error")
	b.do(t, "press", "key", "/")
	b.do(t, "wait_gone", "selector", "#dock-alarms")
	if open := height(); open != higher {
		t.Errorf("shown again, it is %v high, not %v", open, higher)
	}
	b.do(t, "press", "key", "Escape")
}

// copies has a failure copied, and pasted into the search.
func copies(t *testing.T, b *browser, page string) {
	pasted := func(t *testing.T, what string) string {
		t.Helper()
		b.do(t, "click", "selector", what)
		b.await(t, what, "Copied")
		b.do(t, "fill", "selector", "#log-search", "text", "")
		b.do(t, "press", "key", "Control+v", "selector", "#log-search")
		text, _ := b.do(t, "property", "selector", "#log-search", "name", "value").(string)
		b.do(t, "fill", "selector", "#log-search", "text", "")
		return text
	}
	issue := pasted(t, "#copy-issue")
	for _, want := range []string{"**devloop v0.9.0** on linux/amd64, minikube cluster", "CrashLoopBackOff",
		"Hint: look at its log", "error loop failed after"} {
		if !strings.Contains(issue, want) {
			t.Errorf("the text for an issue does not say %q:\n%s", want, issue)
		}
	}
	for range 2 { // by the clipboard's own interface, and where a browser gives none
		if got := pasted(t, "#copy-hint"); got != "kubectl logs -n shop web-667d4b9c5d-9xkgf" {
			t.Errorf("the command is %q", got)
		}
		b.do(t, "wait_text", "selector", "#copy-hint", "text", "Copy the command")
		b.do(t, "evaluate", "script", `Object.defineProperty(navigator, "clipboard", { value: undefined }) && 1`)
	}
	at, err := url.Parse(page)
	must(t, err)
	text, _ := b.do(t, "evaluate", "script", `(async () => {
		const { textOf } = await import("./issue.js");
		const state = await (await fetch("api/state")).json();
		const output = "token " + state.page.split("token=")[1];
		return textOf({ ...state.run, error: "seen at " + state.page, output }, state);
	})()`).(string)
	token := at.Query().Get("token")
	if token == "" || strings.Contains(text, token) || !strings.Contains(text, "seen at http") {
		t.Errorf("the text for an issue lets in:\n%s", text)
	}
	commands := map[string]string{
		"start it: minikube start -p dev; then devloop": "minikube start -p dev", "devloop delete removes it": "",
		"stop them: devloop clusters stop --stale": "devloop clusters stop --stale", "a tunnel, as kubectl proxy has it": "",
	}
	for hint, want := range commands {
		got := b.do(t, "evaluate", "script", `import("./copy.js").then((m) => m.commandOf("`+hint+`"))`)
		if got != want {
			t.Errorf("of %q the command is %q, not %q", hint, got, want)
		}
	}
}

// notifies: the page is not looked at, and what it tells the browser to show is remembered.
func notifies(t *testing.T, b *browser) {
	b.do(t, "grant_notifications")
	b.do(t, "evaluate", "script", `(() => {
		window.notified = [];
		window.Notification = class extends Notification {
			constructor(title, options) { super(title, options); window.notified.push(title) }
		};
		window.focused = false;
		document.hasFocus = () => window.focused;
	})()`)
	run := func(t *testing.T, then string) string {
		t.Helper()
		b.do(t, "click", "selector", "#rebuild")
		b.await(t, "#health-word", then)
		b.do(t, "evaluate", "script", "new Promise((done) => setTimeout(done, 1000))") // longer than notify.js waits
		titles, _ := b.do(t, "evaluate", "script", "notified.splice(0).join()").(string)
		return regexp.MustCompile(` \d+`).ReplaceAllString(titles, "")
	}
	if got := run(t, "ready"); got != "" {
		t.Errorf("nobody asked, and it notifies: %s", got)
	}
	b.do(t, "click", "selector", "#notify")
	b.await(t, "#notify", "Notifies")
	if got := run(t, "failed"); got != "shop: run failed" {
		t.Errorf("a failure: %q", got)
	}
	if got := run(t, "ready"); got != "shop: mended by run" {
		t.Errorf("its end: %q", got)
	}
	b.do(t, "evaluate", "script", "window.focused = true")
	if got := run(t, "failed"); got != "" {
		t.Errorf("the page is looked at, and it notifies: %s", got)
	}
	b.do(t, "evaluate", "script", `(() => {
		window.focused = false;
		const other = new BroadcastChannel("devloop-notify"); // another tab, which tells of all
		window.tells = true;
		window.told = (async () => {
			while (tells) {
				const { run } = await (await fetch("api/state")).json();
				other.postMessage(run.started + " " + run.number + " " + run.outcome);
				await new Promise((done) => setTimeout(done, 50));
			}
		})();
		return true; // it goes on
	})()`)
	if got := run(t, "ready"); got != "" {
		t.Errorf("another tab has told it, and it notifies: %s", got)
	}
	b.do(t, "click", "selector", "#notify")
	// A request that a reload breaks off is an error in Firefox.
	b.do(t, "evaluate", "script", "(tells = false, told)")
	b.do(t, "reload")
}

// sizes: nothing is too wide or hard to read. The second browser looks at less.
func sizes(t *testing.T, b *browser, pages map[string]string, all bool) {
	shapes := [][2]int{{1440, 900}, {820, 1100}, {390, 844}}
	situations := []string{"one", "dozen", "many", "failed", "hostile"}
	if !all {
		situations = []string{"many"}
	}
	for _, situation := range situations {
		b.do(t, "goto", "url", pages[situation])
		b.await(t, "#link", "live")
		for _, size := range shapes {
			for _, dark := range []bool{false, true} {
				if !all && dark {
					continue // Firefox has no such setting to emulate
				}
				if all {
					b.do(t, "media", "dark", dark)
				}
				b.do(t, "size", "width", size[0], "height", size[1])
				if found := b.do(t, "a11y").([]any); len(found) > 0 {
					t.Errorf("%s at %v, dark %v: %v", situation, size, dark, found)
				}
				wide, _ := b.do(t, "evaluate", "script", "document.documentElement.scrollWidth - innerWidth").(float64)
				if wide > 0 {
					t.Errorf("%s at %v is %v pixels too wide", situation, size, wide)
				}
			}
		}
	}
	if errors := b.do(t, "console_errors").([]any); len(errors) > 0 {
		t.Errorf("the browser complains: %v", errors)
	}
}
