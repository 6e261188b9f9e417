//go:build e2e

// What people see: the page in a real browser, and devloop status, logs and events in a second terminal.
package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	secret = "the-s3cret-of-small"
	// seen is how long the page may take to show what devloop knows, and shown what a small build has to come before.
	seen  = 10 * time.Second
	shown = 90 * time.Second
)

func TestPage(t *testing.T) {
	kubernetesClient(t)
	node := onlyNode(t)
	p := newProject(t, "small")
	nonce := strconv.FormatInt(time.Now().UnixNano(), 36)
	p.env = append(p.env, "XDG_RUNTIME_DIR="+t.TempDir())
	content, err := os.ReadFile(filepath.Join(p.dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	dockerfile := string(content)
	p.write(t, "index.html", "at first "+nonce+"\n")
	p.edit(t, "devloop.yaml", "    set: {", "    secretValues: [password]\n    hooks: { before: [{ command: [echo, the password is "+secret+"] }] }\n    set: { password: "+secret+",")

	d := p.start(t, "--verbose", "--page-port", "0")
	url := d.says(t, 0, `INFO devloop: page url=(\S+)`)[1]
	b := openBrowser(t, url)
	client := &http.Client{Timeout: seen}
	if _, log := p.call(t, 0, "status", "--wait", "healthy", "--timeout", "5m"); log != "" {
		t.Errorf("while it waits it says %q", log)
	}
	b.await("#health-word", "healthy")

	part := func(name string, do func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			b.t = t
			do(t)
		})
	}

	part("what runs, at a glance", func(t *testing.T) {
		tag := d.says(t, 0, `image built .* image=page:(\w+) id`)[1]
		pods := strings.Fields(kubectl(t, "get", "pods", "-n", "small", "-o", "jsonpath={.items[*].metadata.name}"))
		b.await("[data-image=page]", tag[:12])
		id := kubectl(t, "get", "pod", "-n", "small", pods[0], "-o", "jsonpath={.status.containerStatuses[0].imageID}")
		chain, _ := b.do("property", "selector", "[data-image=page]", "name", "outerHTML").(string) // the names are in the tooltips
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
		if err := json.Unmarshal([]byte(out), &state); err != nil {
			t.Fatal(err)
		}
		if len(state.Images) != 1 || len(state.Images[0].Nodes) != 1 || state.Images[0].Nodes[0].Node != node || state.Images[0].Nodes[0].ID != id || state.Images[0].Nodes[0].Digest == "" {
			t.Errorf("images: %+v", state.Images)
		}
		if len(state.Pods) != 2 || !state.Pods[0].Ready || state.Pods[0].Release != "small" || state.Pods[0].Containers[0].ImageID != id {
			t.Errorf("pods: %+v, and Kubernetes says %s", state.Pods, id)
		}
		if len(state.Releases) != 1 || state.Releases[0].State != "deployed" || len(state.Forwards) != 1 || state.Forwards[0].State != "ready" {
			t.Errorf("releases %+v, forwards %+v", state.Releases, state.Forwards)
		}
		for _, pod := range pods {
			b.await("[data-testid=pod-table]", pod)
		}
		out, _ = p.call(t, 0, "status")
		for _, want := range append([]string{"small on ", ": healthy\n", url, "page   on node  " + tag, "small    small      1         deployed", "127.0.0.1:8002  service small/small  ready", "start  succeeded after "}, pods...) {
			if !strings.Contains(out, want) {
				t.Errorf("devloop status does not say %q:\n%s", want, out)
			}
		}
	})

	part("the waterfall grows, and a reload in the middle loses nothing", func(t *testing.T) {
		p.write(t, "Dockerfile", dockerfile+"RUN sleep 8 # "+nonce+"\n")
		b.await("#run-outcome", "under way")
		const step = "#waterfall tbody tr.step[data-outcome=running]"
		b.await(step, "RUN sleep 8")
		width := func() float64 {
			w, _ := b.do("evaluate", "script", `document.querySelector("`+step+` .bar").getBoundingClientRect().width / document.querySelector("#waterfall").getBoundingClientRect().width`).(float64)
			return w
		}
		took := func() string { text, _ := b.do("text", "selector", step).(string); return text }
		before, first, rows := took(), width(), b.count("#waterfall tbody tr")
		eventually(t, "the step's time grows", func() bool { return took() != before })
		b.do("reload")
		b.await(step, "RUN sleep 8")
		if again := b.count("#waterfall tbody tr"); again < rows {
			t.Errorf("%d rows became %d", rows, again)
		}
		t.Logf("the bar was %.2f and is %.2f of the width", first, width())
		b.await("#run-outcome", "succeeded")
		b.await("#health-word", "healthy")
		text, _ := b.do("text", "selector", "#waterfall").(string)
		for _, stage := range []string{"settle", "hash", "build", "helm", "rollout", "answer", "proof"} {
			if !strings.Contains(text, stage) {
				t.Errorf("the waterfall has no %s:\n%s", stage, text)
			}
		}
		if runs := b.count("[data-run]"); runs < 2 {
			t.Errorf("%d runs in the chart", runs)
		}
	})

	part("a broken build is red, with its reason", func(t *testing.T) {
		p.write(t, "Dockerfile", dockerfile+"RUN echo so says the build "+nonce+" && false\n")
		b.await("#health-word", "failed")
		b.await("#run-error", "RUN echo so says the build")
		b.await("#run-output", "so says the build "+nonce)
		b.await("#run-hint", "what ran keeps running")
		if b.count("#waterfall tbody tr[data-outcome=failed]") == 0 {
			t.Error("no row of the waterfall has failed")
		}
		red, _ := b.do("evaluate", "script", `(() => { const [r, g, b] = getComputedStyle(document.querySelector("#health-word")).color.match(/\d+/g).map(Number); return r > g + 40 && r > b + 40 })()`).(bool)
		if !red {
			t.Error("it is not red")
		}
		if _, log := p.call(t, 1, "status", "--wait", "healthy", "--timeout", "500ms"); !strings.Contains(log, "not healthy within 500ms, but failed: ") {
			t.Errorf("devloop status said %q", log)
		}
		if metrics, err := get(client, url+"metrics"); err != nil || !strings.Contains(metrics, `devloop_runs_total{outcome="failed"} 1`+"\n") || !strings.Contains(metrics, `devloop_forward_state{local="127.0.0.1:8002",state="ready",target="service small/small"} 1`+"\n") ||
			!strings.Contains(metrics, `devloop_stage_seconds_count{stage="build"} 2`+"\n") {
			t.Errorf("%v: the metrics are\n%s", err, metrics)
		}
		p.write(t, "Dockerfile", dockerfile)
		b.await("#health-word", "healthy")
	})

	part("rebuild and pause", func(t *testing.T) {
		mark := d.mark()
		b.do("click", "selector", "#rebuild")
		d.await(t, mark, ready)
		b.do("press", "key", "p")
		b.await("#pause", "Resume")
		if out, _ := p.call(t, 0, "status"); !strings.Contains(out, ": healthy, paused\n") {
			t.Errorf("devloop status:\n%s", out)
		}
		mark = d.mark()
		p.write(t, "index.html", "while paused "+nonce+"\n")
		pass(t, rest)
		if d.count(mark, building) != 0 {
			t.Error("built while it was paused")
		}
		b.do("click", "selector", "#pause")
		d.await(t, mark, ready)
		p.awaitPage(t, "while paused "+nonce)
	})

	part("a chain that breaks, until it is whole again", func(t *testing.T) {
		now := kubectl(t, "get", "deploy", "-n", "small", "small", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
		older := d.says(t, 0, `image built .* image=(page:\w+) id`)[1]
		const proof = "[data-image=page] [data-testid=proof]"
		b.await(proof, "proven")
		kubectl(t, "set", "image", "-n", "small", "deploy/small", "page="+older)
		b.await("#health-word", "degraded")
		b.await("#chain-error", " runs "+older+", not "+now)
		b.await("#chain-hint", "kubectl delete pod")
		b.await(proof, "chain broken")
		b.await("[data-image=page]", "should be "+strings.TrimPrefix(now, "page:")[:12])
		if found := b.do("a11y").([]any); len(found) > 0 {
			t.Error(found...)
		}
		if metrics, err := get(client, url+"metrics"); err != nil || !strings.Contains(metrics, "\ndevloop_chain_whole 0\n") {
			t.Errorf("%v: the metrics are\n%s", err, metrics)
		}
		kubectl(t, "set", "image", "-n", "small", "deploy/small", "page="+now)
		b.await("#health-word", "healthy")
		b.await(proof, "proven")
		b.do("wait_gone", "selector", "#chain-error")
	})

	part("logs of the pods, once each, while the API server restarts", func(t *testing.T) {
		// The pods print by themselves: a connection to them that is open now is cut, as the API server carries it.
		const each, lines = 100, 200
		var pods []string
		eventually(t, "the pods before them have gone", func() bool {
			pods = strings.Fields(kubectl(t, "get", "pods", "-n", "small", "-o", "jsonpath={.items[*].metadata.name}"))
			return len(pods) == lines/each
		})
		for i, pod := range pods {
			kubectl(t, "exec", "-n", "small", pod, "--", "sh", "-c", fmt.Sprintf(
				`{ i=%d; while [ $i -lt %d ]; do printf 'n=%%04d-%s\n' $i; i=$((i+1)); sleep 0.05; done; } > /proc/1/fd/1 2> /dev/null < /dev/null &`, i*each, (i+1)*each, nonce))
		}
		script(t, "restart", node, "kube-apiserver")
		numbers := regexp.MustCompile(`n=(\d{4})-` + nonce)
		said := func() []string {
			out, _ := p.call(t, 0, "logs", "small", "--tail", "5000", "--follow=false")
			var all []string
			for _, match := range numbers.FindAllStringSubmatch(out, -1) {
				all = append(all, match[1])
			}
			return all
		}
		eventually(t, "all lines are there", func() bool { return len(said()) >= lines })
		pass(t, rest)
		got := said()
		slices.Sort(got)
		if once := slices.Compact(slices.Clone(got)); len(once) != lines || len(got) != lines {
			t.Errorf("%d lines, %d of them different, of %d", len(got), len(once), lines)
		}
		if n := d.count(0, `n=\d{4}-`+nonce); n != 0 {
			t.Errorf("the terminal shows %d of them, and was not asked to", n)
		}
		b.do("fill", "selector", "#log-search", "text", "n=0123-"+nonce)
		b.await("#log mark", "n=0123-"+nonce)
		if n := b.count("#log .entry"); n != 1 {
			t.Errorf("the search leaves %d lines", n)
		}
		b.do("fill", "selector", "#log-search", "text", "")
	})

	part("a container that dies says its last words", func(t *testing.T) {
		pods := strings.Fields(kubectl(t, "get", "pods", "-n", "small", "-o", "jsonpath={.items[*].metadata.name}"))
		mark := d.mark()
		kubectl(t, "exec", "-n", "small", pods[0], "--", "sh", "-c", "echo farewell "+nonce+` > /proc/1/fd/1
for p in /proc/[0-9]*; do case $(tr '\0' ' ' < $p/cmdline) in 'python3 -m'*) kill -9 ${p#/proc/};; esac; done`)
		d.wait(mark, `container died pod=`+pods[0], time.Minute)
		d.wait(mark, `farewell `+nonce, time.Minute)
	})

	part("every line is as the schema says, and none shows a secret", func(t *testing.T) {
		schema, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "..", "pkg", "event", "schema.json"))
		if err != nil {
			t.Fatal(err)
		}
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
		state, err := get(client, url+"api/state")
		if err != nil {
			t.Fatal(err)
		}
		page, _ := b.do("evaluate", "script", "document.documentElement.outerHTML").(string)
		for name, view := range map[string]string{"devloop events": out, "the state": state, "the page": page, "the log": strings.Join(d.log(0), "\n")} {
			if strings.Contains(view, secret) {
				t.Errorf("%s shows the secret:\n%s", name, view)
			}
		}
		if !strings.Contains(out, "the password is •••") {
			t.Errorf("what the command said is not there:\n%s", out)
		}
	})

	part("at three sizes, by day and by night", func(t *testing.T) {
		for _, size := range [][2]int{{1440, 900}, {820, 1100}, {375, 812}} {
			for _, dark := range []bool{false, true} {
				path := filepath.Join(t.TempDir(), "page.png")
				b.do("screenshot", "path", path, "width", size[0], "height", size[1], "dark", dark)
				if found := b.do("a11y").([]any); len(found) > 0 {
					t.Errorf("%v, dark %v: %v", size, dark, found)
				}
				if wide, _ := b.do("evaluate", "script", "document.documentElement.scrollWidth - innerWidth").(float64); wide > 0 {
					t.Errorf("%v: it is %v pixels too wide", size, wide)
				}
			}
		}
		if errors := b.do("console_errors").([]any); len(errors) > 0 {
			t.Errorf("the browser complains: %v", errors)
		}
	})

	part("another page may do nothing", func(t *testing.T) {
		for _, headers := range []map[string]string{{"Host": "devloop.example:80"}, {"Origin": "http://example.com"}, {}} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"api/rebuild", nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range headers {
				request.Header.Set(name, value)
			}
			if host := headers["Host"]; host != "" {
				request.Host = host
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusForbidden && response.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%v: %s", headers, response.Status)
			}
		}
	})

	part("the end is seen, and the runs are known to the next devloop", func(t *testing.T) {
		d.stop(t)
		b.await("#link", "reconnecting")
		p.call(t, 3, "status")
		d := p.start(t, "--page-port", "0", "-q")
		d.says(t, 0, `ready in`)
		out, _ := p.call(t, 0, "status", "--json")
		var state struct{ Runs []struct{ Outcome string } }
		if err := json.Unmarshal([]byte(out), &state); err != nil || len(state.Runs) < 5 || !strings.Contains(out, `"outcome": "failed"`) {
			t.Errorf("%v: %d runs", err, len(state.Runs))
		}
		if lines := d.log(0); slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(line, "ready in") }) {
			t.Errorf("quiet as it is, it said\n%s", strings.Join(lines, "\n"))
		}
		d.stop(t)
	})
}

// browser is a page in Chromium.
type browser struct {
	t      *testing.T
	stdin  io.Writer
	stdout *bufio.Scanner
	log    strings.Builder
}

func openBrowser(t *testing.T, url string) *browser {
	t.Helper()
	b := &browser{t: t}
	cmd := exec.Command(setting(t, "DEVLOOP_TEST_BROWSER"), filepath.Join("testdata", "page.py"), url)
	cmd.Stderr = &b.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which is how it is told to end
		ended := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		ended.Stop()
	})
	b.stdin, b.stdout = stdin, bufio.NewScanner(stdout)
	b.stdout.Buffer(nil, 16<<20)
	b.answer("open")
	return b
}

// do has the browser do something, and returns what it says to it; arguments are names and values.
func (b *browser) do(what string, args ...any) any {
	b.t.Helper()
	command := map[string]any{"do": what}
	for i := 0; i < len(args); i += 2 {
		command[args[i].(string)] = args[i+1]
	}
	line, err := json.Marshal(command)
	if err == nil {
		_, err = b.stdin.Write(append(line, '\n'))
	}
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", what, err, &b.log)
	}
	return b.answer(fmt.Sprint(command))
}

func (b *browser) answer(to string) any {
	b.t.Helper()
	if !b.stdout.Scan() {
		b.t.Fatalf("the browser ended: %v\n%s", b.stdout.Err(), &b.log)
	}
	var said struct {
		Done, Failed, Error string
		Value               any
	}
	if err := json.Unmarshal(b.stdout.Bytes(), &said); err != nil {
		b.t.Fatalf("%s: %v", b.stdout.Text(), err)
	}
	if said.Failed != "" {
		b.t.Fatalf("%s: %s", to, said.Error)
	}
	return said.Value
}

// await waits until an element has a text.
func (b *browser) await(selector, text string) {
	b.t.Helper()
	b.do("wait_text", "selector", selector, "text", text, "timeout", shown.Seconds())
}

func (b *browser) count(selector string) int {
	b.t.Helper()
	n, _ := b.do("count", "selector", selector).(float64)
	return int(n)
}
