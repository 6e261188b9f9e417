//go:build e2e

// What people see: the page in a real browser, and devloop status, logs and events in a second
// terminal.
package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/devloop/devloop/pkg/event"
)

const secret = "the-s3cret-of-small"

func TestPage(t *testing.T) {
	t.Parallel()
	node := onlyNode(t)
	p := newProject(t, "small")
	nonce := unique()
	dockerfile := p.read(t, "Dockerfile")
	p.write(t, "index.html", "at first "+nonce+"\n")
	p.edit(t, "devloop.yaml", "    set: {", "    secretValues: [password]\n"+
		"    hooks: { before: [{ command: [echo, the password is "+secret+"] }] }\n    set: { password: "+secret+",")

	d := p.start(t, "--page-port", "0")
	address := d.await(t, 0, on(event.PageServed)).field("url")
	b := openBrowser(t, address)
	if _, log := p.call(t, 0, "status", "--wait", "healthy", "--timeout", longEnough.String()); log != "" {
		t.Errorf("while it waits it says %q", log)
	}
	b.await(t, "#health-word", "ready")
	for _, part := range []string{"#images-card > summary", "#run-details > summary", "[data-row=small] .opens"} {
		b.do(t, "click", "selector", part) // what is not asked for is not shown
	}
	image := "[data-testid=image][data-image=" + p.name + "]"
	built := on(event.ImageBuilt).with("image", "^"+p.name+":")
	first := d.await(t, 0, built).field("image")
	tag := strings.TrimPrefix(first, p.name+":")
	pods := func(t *testing.T) (names []string) { // two, when those before them have gone
		t.Helper()
		eventually(t, "two pods are there", func() bool {
			names = strings.Fields(kubectl(t, "get", "pods", "-n", p.name, "-o", "jsonpath={.items[*].metadata.name}"))
			return len(names) == 2
		})
		return names
	}

	a11y := func(t *testing.T) []any {
		t.Helper()
		b.do(t, "fill", "selector", "#log-search", "text", nonce) // it looks at each line of the log: a few will do
		b.await(t, "#log", nonce)
		return b.do(t, "a11y").([]any)
	}

	step(t, "what runs, at a glance", func(t *testing.T) {
		pods := pods(t)
		b.await(t, image, tag[:12])
		id := kubectl(t, "get", "pod", "-n", p.name, pods[0], "-o", "jsonpath={.status.containerStatuses[0].imageID}")
		chain, _ := b.do(t, "property", "selector", image, "name", "outerHTML").(string) // the names are in the tooltips
		for _, want := range append(pods, node, strings.TrimPrefix(id, "sha256:")[:12]+"</p>") {
			if !strings.Contains(chain, want) {
				t.Errorf("the chain of the image does not name %s:\n%s", want, chain)
			}
		}
		var state struct {
			Images []struct {
				Nodes []struct{ Node, Digest, ID string }
			}
			Pods []struct {
				Name, Release string
				Ready         bool
				Containers    []struct{ ImageID string }
			}
			Releases []struct {
				Name, State string
				Revision    int
			}
			Forwards []struct{ Local, State string }
		}
		out, _ := p.call(t, 0, "status", "--json")
		must(t, json.Unmarshal([]byte(out), &state))
		if len(state.Images) != 1 || len(state.Images[0].Nodes) != 1 || state.Images[0].Nodes[0].Node != node ||
			state.Images[0].Nodes[0].ID != id || state.Images[0].Nodes[0].Digest == "" {
			t.Errorf("images: %+v", state.Images)
		}
		if len(state.Pods) != 2 || !state.Pods[0].Ready || state.Pods[0].Release != "small" ||
			state.Pods[0].Containers[0].ImageID != id {
			t.Errorf("pods: %+v, and Kubernetes says %s", state.Pods, id)
		}
		if len(state.Releases) != 1 || state.Releases[0].State != "deployed" ||
			len(state.Forwards) != 1 || state.Forwards[0].State != "ready" {
			t.Errorf("releases %+v, forwards %+v", state.Releases, state.Forwards)
		}
		for _, pod := range pods {
			b.await(t, "[data-testid=pod-table]", pod)
		}
		row := "[data-row=small]"
		b.await(t, row+" .ready", "2/2")
		b.await(t, row+" .image", "ok everywhere")
		b.await(t, row+" .change", "devloop started")
		href := b.do(t, "attribute", "selector", row+" .addresses a", "name", "href")
		if want := fmt.Sprintf("http://localhost:%d/", p.port); href != want {
			t.Errorf("the address of the release links to %v, not %s", href, want)
		}
		out, _ = p.call(t, 0, "status")
		for _, want := range append([]string{p.name + ` on .*: healthy\n`, regexp.QuoteMeta(address), p.name + ` +on node +` +
			tag,
			`small +` + p.name + ` +1 +deployed`,
			fmt.Sprintf(`http://localhost:%d +service %s/small +ready`, p.port, p.name), `start +succeeded after `}, pods...) {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("devloop status does not say %q:\n%s", want, out)
			}
		}
	})

	step(t, "the waterfall grows, and a reload in the middle loses nothing", func(t *testing.T) {
		// A step that goes on until it is told to end.
		gate := "gate-" + nonce
		p.write(t, "Dockerfile", dockerfile+`RUN trap "exit 0" TERM; sleep infinity & wait # `+gate+"\n")
		const running = "#waterfall tbody tr.step[data-outcome=running]"
		names := func() (names []string) {
			for _, name := range b.do(t, "texts", "selector", "#waterfall tbody .name").([]any) {
				names = append(names, name.(string))
			}
			return names
		}
		bar := func() any {
			return b.do(t, "evaluate", "script", `document.querySelector("`+running+` .bar").getBoundingClientRect().width /
				document.querySelector("#axis").getBoundingClientRect().width`)
		}
		took := func() any { return b.do(t, "text", "selector", running+" .number") }
		b.await(t, "#run-outcome", "under way")
		b.await(t, running, gate)
		width, time := bar(), took()
		eventually(t, "the step's bar and its time grow", func() bool { return bar() != width && took() != time })
		before := names()
		b.do(t, "reload")
		b.await(t, running, gate)
		after := names()
		for _, name := range before {
			if !slices.Contains(after, name) {
				t.Errorf("the reload has lost %q: %q became %q", name, before, after)
			}
		}
		eventually(t, "the step has ended", func() bool {
			_, err := command(t.Context(), os.Environ(), "pkill", "-f", gate)
			return err != nil // nothing of that name runs
		})
		b.await(t, "#run-outcome", "succeeded")
		b.await(t, "#health-word", "ready")
		text, _ := b.do(t, "text", "selector", "#waterfall").(string)
		for _, stage := range []string{"settle", "hash", "build", "helm", "rollout", "answer", "proof"} {
			if !strings.Contains(text, stage) {
				t.Errorf("the waterfall has no %s:\n%s", stage, text)
			}
		}
		if runs := b.count(t, "[data-run]"); runs != 2 {
			t.Errorf("%d runs in the chart, not 2", runs)
		}
	})

	step(t, "a broken build is red, with its reason", func(t *testing.T) {
		p.write(t, "Dockerfile", dockerfile+"RUN echo so says the build "+nonce+" && false\n")
		b.await(t, "#health-word", "failed")
		b.await(t, "#run-error", "RUN echo so says the build")
		b.await(t, "#run-output", "so says the build "+nonce)
		b.await(t, "#run-hint", "what ran keeps running")
		if b.count(t, "#waterfall tbody tr[data-outcome=failed]") == 0 {
			t.Error("no row of the waterfall has failed")
		}
		red, _ := b.do(t, "evaluate", "script", `(() => {
			const [r, g, b] = getComputedStyle(document.querySelector("#health-word")).color.match(/\d+/g).map(Number);
			return r > g + 40 && r > b + 40 })()`).(bool)
		if !red {
			t.Error("it is not red")
		}
		_, log := p.call(t, 1, "status", "--wait", "healthy", "--timeout", "10s")
		if !strings.Contains(log, "not healthy within 10s, but failed: ") {
			t.Errorf("devloop status said %q", log)
		}
		metrics := askPage(t, address, "metrics")
		for _, want := range []string{
			`devloop_runs_total{outcome="failed"} 1`,
			`devloop_stage_seconds_count{stage="build"} 2`,
			`devloop_forward_state{local="` + local(p.port) + `",state="ready",target="service ` + p.name + `/small"} 1`,
		} {
			if !strings.Contains(metrics, want+"\n") {
				t.Errorf("the metrics do not say %s:\n%s", want, metrics)
			}
		}
		p.write(t, "Dockerfile", dockerfile)
		b.await(t, "#health-word", "ready")
	})

	step(t, "rebuild and pause", func(t *testing.T) {
		c := d.next()
		b.do(t, "click", "selector", "#rebuild")
		c.arrives(t)
		b.do(t, "press", "key", "p")
		b.await(t, "#pause", "Resume")
		if out, _ := p.call(t, 0, "status"); !strings.Contains(out, ": healthy, paused\n") {
			t.Errorf("devloop status:\n%s", out)
		}
		c = d.save(t, "index.html", "while paused "+nonce+"\n")
		pass(t, time.Second)
		b.do(t, "click", "selector", "#pause")
		c.arrives(t)
		resumed, begun := c.happens(t, on(event.Resumed)), c.happens(t, on(event.RunStarts))
		if begun.Time.Before(resumed.Time) {
			t.Errorf("a run began while it was paused: %s, %s", begun, resumed)
		}
		p.awaitPage(t, "while paused "+nonce)
	})

	step(t, "one release, and its address", func(t *testing.T) {
		c := d.next()
		b.do(t, "click", "selector", "[data-release=small]")
		if got := c.happens(t, on(event.RunNarrowed)).field("releases"); !strings.Contains(got, "small") {
			t.Errorf("a run of %s", got)
		}
		c.arrives(t)
		b.await(t, "#run-why", "only small")
		b.await(t, "#health-word", "ready")
		response, err := http.DefaultClient.Do(pageRequest(t, http.MethodPost, address, "api/rebuild/smal"))
		must(t, err)
		why, _ := io.ReadAll(response.Body)
		if _ = response.Body.Close(); response.StatusCode != http.StatusNotFound ||
			!strings.Contains(string(why), "there are: small") {
			t.Errorf("a release that is not there: %s %s", response.Status, why)
		}
		link, _ := b.do(t, "property", "selector", "[data-row=small] .addresses a", "name", "href").(string)
		response, err = http.Get(link)
		must(t, err)
		if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", link, response.Status)
		}
	})

	step(t, "in Firefox, too", func(t *testing.T) {
		f := openBrowser(t, address, "--firefox")
		f.await(t, "#health-word", "ready")
		f.await(t, "[data-row=small] .image", "ok everywhere")
		c := d.next()
		f.do(t, "click", "selector", "#rebuild")
		c.arrives(t)
		f.await(t, "#run-outcome", "succeeded")
		f.do(t, "fill", "selector", "#log-search", "text", "ready in")
		f.await(t, "#log mark", "ready in")
		if errors := f.do(t, "console_errors").([]any); len(errors) > 0 {
			t.Errorf("Firefox complains: %v", errors)
		}
	})

	step(t, "a chain that breaks, until it is whole again", func(t *testing.T) {
		now := kubectl(t, "get", "deploy", "-n", p.name, "small", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
		proof := image + " [data-testid=proof]"
		b.await(t, proof, "proven")
		kubectl(t, "set", "image", "-n", p.name, "deploy/small", "page="+first)
		b.await(t, "#health-word", "degraded")
		b.await(t, "#chain-error", " runs "+first+", not "+now)
		b.await(t, "#chain-hint", "kubectl delete pod")
		b.await(t, proof, "chain broken")
		b.await(t, image, "should be "+strings.TrimPrefix(now, p.name+":")[:12])
		if found := a11y(t); len(found) > 0 {
			t.Error(found...)
		}
		if metrics := askPage(t, address, "metrics"); !strings.Contains(metrics, "\ndevloop_chain_whole 0\n") {
			t.Errorf("the metrics are\n%s", metrics)
		}
		kubectl(t, "set", "image", "-n", p.name, "deploy/small", "page="+now)
		b.await(t, "#health-word", "ready")
		b.await(t, proof, "proven")
		b.do(t, "wait_gone", "selector", "#chain-error")
	})

	step(t, "the search finds a line that a pod printed", func(t *testing.T) {
		for i, pod := range pods(t) {
			kubectl(t, "exec", "-n", p.name, pod, "--", "sh", "-c",
				fmt.Sprintf(`for i in 1 2 3; do echo pod=%d-line=$i-%s > /proc/1/fd/1; done`, i, nonce))
		}
		want := "pod=1-line=2-" + nonce
		b.do(t, "fill", "selector", "#log-search", "text", want)
		b.await(t, "#log mark", want)
		if n := b.count(t, "#log .entry"); n != 1 {
			t.Errorf("the search leaves %d lines", n)
		}
		b.do(t, "fill", "selector", "#log-search", "text", "")
		if strings.Contains(d.text(), want) {
			t.Error("the terminal shows it, and was not asked to")
		}
	})

	step(t, "a container that dies says its last words", func(t *testing.T) {
		pod, mark := pods(t)[0], d.mark()
		// In the background, since the shell ends with its container.
		kubectl(t, "exec", "-n", p.name, pod, "--", "sh", "-c", "echo farewell "+nonce+` > /proc/1/fd/1
{ sleep 1; for p in /proc/[0-9]*; do case $(tr '\0' ' ' < $p/cmdline) in 'python3 -m'*) kill -9 ${p#/proc/};; esac; `+
			`done; } > /dev/null 2>&1 &`)
		d.await(t, mark, on(event.ContainerDied).with("pod", pod).with("output", "farewell "+nonce))
	})

	step(t, "every line is as the schema says, and none shows a secret", func(t *testing.T) {
		schema, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "..", "pkg", "event", "schema.json"))
		must(t, err)
		out, _ := p.call(t, 0, "events", "--log-format", "json", "--verbose", "--follow=false")
		n := 0
		for line := range strings.Lines(out) {
			n++
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(line))
			if err == nil {
				err = schema.Validate(value)
			}
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		if n < 50 {
			t.Errorf("%d lines", n)
		}
		state := askPage(t, address, "api/state")
		page, _ := b.do(t, "evaluate", "script", "document.documentElement.outerHTML").(string)
		views := map[string]string{"devloop events": out, "the state": state, "the page": page, "the log": d.text()}
		for name, view := range views {
			if strings.Contains(view, secret) {
				t.Errorf("%s shows the secret:\n%s", name, view)
			}
		}
		if !strings.Contains(out, "the password is •••") {
			t.Errorf("what the command said is not there:\n%s", out)
		}
	})

	step(t, "at three sizes, by day and by night", func(t *testing.T) {
		for _, size := range [][2]int{{1440, 900}, {820, 1100}, {375, 812}} {
			for _, dark := range []bool{false, true} {
				path := filepath.Join(t.TempDir(), "page.png")
				b.do(t, "screenshot", "path", path, "width", size[0], "height", size[1], "dark", dark)
				if found := a11y(t); len(found) > 0 {
					t.Errorf("%v, dark %v: %v", size, dark, found)
				}
				wide, _ := b.do(t, "evaluate", "script", "document.documentElement.scrollWidth - innerWidth").(float64)
				if wide > 0 {
					t.Errorf("%v: it is %v pixels too wide", size, wide)
				}
			}
		}
		if errors := b.do(t, "console_errors").([]any); len(errors) > 0 {
			t.Errorf("the browser complains: %v", errors)
		}
	})

	step(t, "another page and another user may do nothing", func(t *testing.T) {
		for _, headers := range []map[string]string{{"Host": "devloop.example:80"}, {"Origin": "http://example.com"}, {}} {
			request := pageRequest(t, http.MethodPost, address, "api/rebuild")
			if len(headers) == 0 { // a stranger
				request.Header.Del("Authorization")
			}
			for name, value := range headers {
				request.Header.Set(name, value)
			}
			if host := headers["Host"]; host != "" {
				request.Host = host
			}
			response, err := http.DefaultClient.Do(request)
			must(t, err)
			_ = response.Body.Close()
			if response.StatusCode != http.StatusForbidden && response.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%v: %s", headers, response.Status)
			}
		}
	})

	step(t, "the end is seen, and the runs are known to the next devloop", func(t *testing.T) {
		d.stop(t)
		b.await(t, "#link", "reconnecting")
		p.call(t, 3, "status")
		at, err := url.Parse(address)
		must(t, err)
		addNonsense(t, p)
		d := p.start(t, "--page-port", at.Port(), "-q")
		d.await(t, 0, ready)
		b.await(t, "#link", "devloop was restarted: open the address in its log")
		out, _ := p.call(t, 0, "status")
		b.do(t, "console_errors") // that the page was refused is one
		b.do(t, "goto", "url", regexp.MustCompile(`http://\S+/\?token=\S+`).FindString(out))
		b.await(t, "#runs-note", "runs")
		if n := b.count(t, "[data-outcome=postponed]"); n != 1 {
			t.Errorf("a run with an outcome of another devloop is there %d times", n)
		}
		if errors := b.do(t, "console_errors").([]any); len(errors) > 0 {
			t.Errorf("the browser complains: %v", errors)
		}
		out, _ = p.call(t, 0, "status", "--json")
		var state struct{ Runs []struct{ Outcome string } }
		must(t, json.Unmarshal([]byte(out), &state))
		if len(state.Runs) < 5 || !strings.Contains(out, `"outcome": "failed"`) {
			t.Errorf("the runs before are not known:\n%s", out)
		}
		if n := d.count(0, ready); n != d.mark() {
			t.Errorf("quiet as it is, it said\n%s", d.text())
		}
		d.stop(t)
	})
}

// pageRequest is a request of a program that has the token of the page's address.
func pageRequest(t *testing.T, method, address, path string) *http.Request {
	t.Helper()
	at, err := url.Parse(address)
	must(t, err)
	token := at.Query().Get("token")
	if token == "" {
		t.Fatalf("there is no token in %s", address)
	}
	at.Path, at.RawQuery = "/"+path, ""
	request, err := http.NewRequestWithContext(t.Context(), method, at.String(), nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	return request
}

// askPage returns what the page says at a path.
func askPage(t *testing.T, address, path string) string {
	t.Helper()
	response, err := (&http.Client{Timeout: longEnough}).Do(pageRequest(t, http.MethodGet, address, path))
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", path, response.Status, body)
	}
	return string(body)
}

// addNonsense adds to the runs of a project one that a newer devloop may have written.
func addNonsense(t *testing.T, p *project) {
	t.Helper()
	state := ""
	for _, entry := range p.env { // the last one counts
		if value, ok := strings.CutPrefix(entry, "XDG_STATE_HOME="); ok {
			state = value
		}
	}
	files, err := filepath.Glob(filepath.Join(state, "devloop", "runs", "*.jsonl"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("the runs are in %v", files)
	}
	file, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer func() { _ = file.Close() }()
	_, err = fmt.Fprintf(file, `{"number":99,"why":"change","started":%q,"outcome":"postponed","seconds":1.5,`+
		`"stages":[{"name":"teleport","seconds":1}],`+
		`"spans":[{"stage":"teleport","name":"image teleported","started":%[1]q,"seconds":1,"outcome":"postponed"}]}`+"\n",
		time.Now().Format(time.RFC3339))
	must(t, err)
}

// browser is a page in Chromium or Firefox.
type browser struct {
	stdin  io.Writer
	stdout *bufio.Scanner
	log    strings.Builder
}

func openBrowser(t *testing.T, url string, flags ...string) *browser {
	t.Helper()
	b := &browser{}
	args := slices.Concat([]string{filepath.Join("testdata", "page.py")}, flags, []string{url})
	cmd := exec.Command(setting(t, "DEVLOOP_TEST_BROWSER"), args...)
	cmd.Stderr = &b.log
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close() // which is how it is told to end
		ended := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		ended.Stop()
	})
	b.stdin, b.stdout = stdin, bufio.NewScanner(stdout)
	b.stdout.Buffer(nil, 16<<20)
	b.answer(t, "open")
	return b
}

// do has the browser do something, and returns what it says to it; arguments are names and values.
func (b *browser) do(t *testing.T, what string, args ...any) any {
	t.Helper()
	command := map[string]any{"do": what}
	for i := 0; i < len(args); i += 2 {
		command[args[i].(string)] = args[i+1]
	}
	line, err := json.Marshal(command)
	if err == nil {
		_, err = b.stdin.Write(append(line, '\n'))
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", what, err, &b.log)
	}
	return b.answer(t, fmt.Sprint(command))
}

func (b *browser) answer(t *testing.T, to string) any {
	t.Helper()
	if !b.stdout.Scan() {
		t.Fatalf("the browser ended: %v\n%s", b.stdout.Err(), &b.log)
	}
	var said struct {
		Done, Failed, Error string
		Value               any
	}
	if err := json.Unmarshal(b.stdout.Bytes(), &said); err != nil {
		t.Fatalf("%s: %v", b.stdout.Text(), err)
	}
	if said.Failed != "" {
		t.Fatalf("%s: %s", to, said.Error)
	}
	return said.Value
}

// await waits until an element has a text.
func (b *browser) await(t *testing.T, selector, text string) {
	t.Helper()
	b.do(t, "wait_text", "selector", selector, "text", text)
}

func (b *browser) count(t *testing.T, selector string) int {
	t.Helper()
	n, _ := b.do(t, "count", "selector", selector).(float64)
	return int(n)
}
