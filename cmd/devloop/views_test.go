package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status"
)

// shown is a devloop that has only views.
type shown struct {
	*process
	t     *testing.T
	views *views
	file  string // devloop.yaml
	out   *strings.Builder
}

// show opens the views of a devloop.yaml, with what the options say; they are closed when the test
// ends.
func show(t *testing.T, yaml string, o *options, d devOptions) *shown {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	dir := t.TempDir()
	for name, value := range map[string]string{"XDG_RUNTIME_DIR": filepath.Join(dir, "run"),
		"XDG_STATE_HOME": filepath.Join(dir, "state"), "KUBECONFIG": filepath.Join(dir, "kubeconfig")} {
		t.Setenv(name, value)
	}
	file := filepath.Join(dir, "demo", "devloop.yaml")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755),
		os.WriteFile(file, []byte("apiVersion: devloop/v1\nname: demo\n"+yaml), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := &shown{t: t, file: file, out: &strings.Builder{}}
	o.printer, o.files = console.NewPrinter(s.out), []string{file}
	o.printer.Configure(console.FormatText, o.verbose, o.quiet)
	if o.logFile != "" {
		if err := o.printer.OpenFile(o.logFile, console.FormatJSON, o.verbose); err != nil {
			t.Fatal(err)
		}
	}
	ctx, p, err := o.begin(t.Context(), make(chan struct{}, 1))
	if err != nil {
		t.Fatal(err)
	}
	s.process = p
	s.views, err = p.openViews(ctx, d)
	if err != nil {
		p.end()
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func (s *shown) close() {
	if s.views != nil {
		s.views.close()
		s.end()
		s.views = nil
	}
}

// call runs another devloop, as in a second terminal.
func (s *shown) call(args ...string) (code int, out, said string) {
	s.t.Helper()
	return s.callHere(append([]string{"-f", s.file}, args...)...)
}

// callHere is call in this folder, with nothing that says which devloop is meant.
func (s *shown) callHere(args ...string) (code int, out, said string) {
	s.t.Helper()
	var stdout bytes.Buffer
	var stderr strings.Builder
	o := &options{printer: console.NewPrinter(&stderr)}
	root := newRootCommand(o)
	root.SetOut(&stdout)
	root.SetArgs(args)
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	err := root.ExecuteContext(ctx)
	if err != nil {
		o.printer.PrintError(err, exitCode(err))
	}
	return exitCode(err), stdout.String(), stderr.String()
}

// run reports a run that ends in a phase.
func (s *shown) run(n int, phase event.Phase, err error) {
	sink := s.sink.InRun(n)
	sink(event.Event{Time: time.Now(), Stage: "loop", Phase: event.Detailed, Message: event.RunStarts,
		Payload: event.RunStart{Why: "start"}})
	sink(event.Event{Time: time.Now(), Stage: "loop", Phase: phase, Message: event.RunComplete, Err: err,
		Took: time.Millisecond})
}

func TestStatusOfAnotherTerminal(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	if code, out, _ := s.call("status"); code != 0 || !strings.Contains(out, "demo on -: starting") {
		t.Errorf("%d: %s", code, out)
	}
	s.sink(event.Event{Time: time.Now(), Stage: "loop", Phase: event.Noted, Message: event.DevloopStarted,
		Payload: event.DevloopStart{Project: "demo", Cluster: "minikube", Folder: event.Name(s.config.Dir)}})
	s.run(1, event.Failed, errors.New("a broken build\nwith a second line"))
	if code, out, said := s.call("status", "--wait", "healthy", "--timeout", "200ms"); code != 1 ||
		!strings.Contains(out, "demo on minikube: failed: a broken build\n") ||
		!strings.Contains(said, "not healthy within 200ms, but failed: a broken build") {
		t.Errorf("%d: %s%s", code, out, said)
	}
	go s.run(2, event.Succeeded, nil)
	if code, out, said := s.call("status", "--wait", "healthy", "--timeout", "20s"); code != 0 ||
		!strings.Contains(out, "demo on minikube: healthy\n") {
		t.Errorf("%d: %s%s", code, out, said)
	}
	code, out, _ := s.call("status", "--json")
	var state status.State
	if err := json.Unmarshal([]byte(out), &state); err != nil || code != 0 || state.Health != status.Healthy ||
		len(state.Runs) != 2 || state.Runs[0].Error != "a broken build\nwith a second line" {
		t.Errorf("%d, %v: %s", code, err, out)
	}
	if code, _, said := s.call("status", "--kube-context", "other"); code != 3 ||
		!strings.Contains(said, "others do: "+s.file+" (demo) on minikube") {
		t.Errorf("%d: %s", code, said)
	}

	// Its devloop.yaml may be broken meanwhile.
	if err := os.WriteFile(s.file, []byte("apiVersion: nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := s.call("status"); code != 0 || !strings.Contains(out, "healthy") {
		t.Errorf("%d: %s", code, out)
	}

	// A second one for the same has no socket, and takes none away.
	second := control.NewServer(s.board, nil, event.Stage{})
	defer second.Close()
	if err := second.ServeSocket(t.Context(), projectID(s.config)); err == nil ||
		!strings.Contains(err.Error(), "another devloop runs for this") {
		t.Errorf("a second socket: %v", err)
	}
	sockets, err := filepath.Glob(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "devloop", "*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatal(sockets, err)
	}
	if info, err := os.Stat(sockets[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	s.close()
	if code, _, _ := s.call("status"); code != 3 {
		t.Errorf("when it has ended: %d", code)
	}
	// One that was killed leaves its socket, which is no obstacle.
	if err := os.WriteFile(sockets[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, said := s.call("status"); code != 3 {
		t.Errorf("with a dead socket: %d: %s", code, said)
	}
	if err := second.ServeSocket(t.Context(), projectID(s.config)); err != nil {
		t.Fatal(err)
	}
}

// TestWhichDevloopIsMeant: that of the file here, of the nearest folder above, or the only one.
func TestWhichDevloopIsMeant(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	check := func(dir string, want int, args ...string) {
		t.Helper()
		t.Chdir(dir)
		if code, out, said := s.callHere(append(args, "status")...); code != want || code == 0 &&
			!strings.HasPrefix(out, "demo on ") {
			t.Errorf("in %s with %q: %d: %s%s", dir, args, code, out, said)
		}
	}
	below, elsewhere, other := filepath.Join(s.config.Dir, "a", "b"), t.TempDir(), t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.MkdirAll(below, 0o755), os.Symlink(s.config.Dir, link),
		os.WriteFile(filepath.Join(other, "devloop.yaml"), []byte("apiVersion: devloop/v1\nname: other\n"), 0o600),
		os.WriteFile(filepath.Join(s.config.Dir, "second.yaml"), []byte("apiVersion: devloop/v1\nname: second\n"),
			0o600)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.config.Dir, link, below, elsewhere} {
		check(dir, 0)
	}
	check(other, 3) // of whose file none runs
	check(s.config.Dir, 3, "-f", "second.yaml")
	check(elsewhere, 3, "-f", "devloop.yml")
	check(elsewhere, 3, "--kube-context", "other")
}

func TestLogsAndEvents(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	s.sink.Stage("build").Note(event.BuildingImage, event.Build{Image: event.Image{Name: "worker", Ref: "worker:1"}})
	s.sink.Stage("build").Detail("a detail")
	for _, e := range []event.Event{podLine("web-1", "info", "hello"), podLine("web-2", "error", "oh no"),
		podLine("db-1", "warn", "hm")} {
		s.sink(e)
	}
	s.sink.Stage(event.PodStage).Warn(event.ContainerDied, nil, event.ContainerDeath{ContainerRef: container("web-2"),
		Reason: "exit code 1", Output: "oh no"})
	s.run(1, event.Succeeded, nil)
	for _, test := range []struct {
		args      []string
		want, not []string
	}{
		{[]string{"events"}, []string{"INFO build: building image image=worker:1", "WARN pod: container died",
			"INFO loop: ready in 0.00 s run=1"}, []string{"hello", "a detail"}},
		{[]string{"events", "-v"}, []string{"a detail"}, []string{"hello"}},
		{[]string{"events", "-q"}, []string{"ready in"}, []string{"building"}},
		{[]string{"events", "--tail", "1", "-v"}, []string{"ready in"}, []string{"building"}},
		{[]string{"events", "--log-format", "json"}, []string{`"msg":"building image","fields":{"image":"worker:1"}`}, nil},
		{[]string{"logs"}, []string{"INFO web-1: hello", "ERRO web-2: oh no", "WARN db-1/web: hm", "container died"},
			[]string{"building"}},
		{[]string{"logs", "^web", "x(y)|web-2/"}, []string{"hello", "oh no", "container died"}, []string{"hm"}},
		{[]string{"logs", "--level", "warn"}, []string{"oh no", "hm"}, []string{"hello"}},
		{[]string{"logs", "web-1"}, []string{"hello"}, []string{"died"}},
		{[]string{"logs", "web-1/web"}, []string{"hello"}, []string{"died"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, out, said := s.call(append(test.args, "--follow=false")...)
			if code != 0 {
				t.Errorf("%d: %s", code, said)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			for _, not := range test.not {
				if strings.Contains(out, not) {
					t.Errorf("%q in\n%s", not, out)
				}
			}
		})
	}

	// What no pod matches is an error, after the lines of those that another expression matches.
	s.sink.Stage(event.PodStage).Note(event.PodChanged, event.Pod{PodRef: container("web-3").PodRef})
	for _, args := range [][]string{{"logs", "nosuch"}, {"logs", "^web", "nosuch", "--level", "error"}} {
		code, out, said := s.call(append(args, "--follow=false")...)
		if code != exitInput || said != "devloop: no pod matches \"nosuch\"\n  → there are: web-3\n" ||
			strings.Contains(out, "oh no") != (len(args) > 2) {
			t.Errorf("%v: %d: %s%s", args, code, out, said)
		}
	}

	// Followed, it goes on until that devloop ends.
	done := make(chan string, 1)
	go func() {
		code, out, said := s.call("events", "--tail", "0")
		if code != 0 {
			out = said
		}
		done <- out
	}()
	waiting := exec.CommandContext(t.Context(), "devloop", "-f", s.file, "logs", "nosuch")
	var said strings.Builder
	if waiting.Stderr = &said; waiting.Start() != nil {
		t.Fatal("it does not start")
	}
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		s.sink.Stage("build").Note("still going", "n", n)
		if n == 200 { // long after it has begun to listen
			s.close()
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("too slow")
		}
	}
	select {
	case out := <-done:
		if !strings.Contains(out, "still going n=200") {
			t.Errorf("it ended with\n%s", out)
		}
	case <-deadline:
		t.Fatal("it goes on")
	}
	const waits = `WARN logs: waiting for a pod err="no pod matches \"nosuch\"" hint="there are: web-3"`
	if err := waiting.Wait(); err != nil || strings.Count(said.String(), waits) != 1 {
		t.Errorf("it waits, and says %q (%v)", said.String(), err)
	}
}

func TestAskedFromThePage(t *testing.T) {
	s := show(t, "", &options{}, devOptions{page: true, pagePort: 0})
	page := s.openPage()
	ask := func(path string) (status int) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, page.address+"api/"+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Devloop-Page", "1")
		request.AddCookie(page.cookie)
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	for i, path := range []string{"rebuild", "pause", "resume"} {
		status := ask(path)
		if asked := <-s.views.Requests(); status != http.StatusNoContent ||
			asked.What != []control.Action{control.Run, control.Pause, control.Resume}[i] {
			t.Errorf("%s: %d, %s", path, status, asked)
		}
	}
	if status := ask("rebuild/nothing"); status != http.StatusNotFound {
		t.Errorf("a release that is not there: %d", status)
	}
	for range 20 { // while nothing takes them
		if status := ask("rebuild"); status != http.StatusNoContent {
			t.Errorf("rebuild: %d", status)
		}
	}
	s.run(1, event.Succeeded, nil)
	for _, want := range []string{`devloop_runs_total{outcome="succeeded"} 1`, `devloop_runs_total{outcome="failed"} 0`,
		"devloop_healthy 1", `devloop_run_seconds_count 1`} {
		if metrics := page.get(t, "metrics"); !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
}

// openedPage is the page as a browser has it that has opened the address in the log.
type openedPage struct {
	address string // without the token
	cookie  *http.Cookie
}

func (s *shown) openPage() openedPage {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.views.page.String(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	at, err := response.Location()
	if err != nil || len(response.Cookies()) != 1 {
		s.t.Fatalf("%s: %s, %v", s.views.page, response.Status, err)
	}
	return openedPage{at.String(), response.Cookies()[0]}
}

func (p openedPage) get(t *testing.T, path string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.AddCookie(p.cookie)
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The current context may have changed since devloop was started. A command is for a pod of that
// devloop, not for one of the same name in another cluster.
func TestExecOnAnotherCluster(t *testing.T) {
	s := show(t, "", &options{}, devOptions{})
	s.sink.Stage("loop").Note(event.DevloopStarted, event.DevloopStart{Cluster: "minikube"})
	if err := os.WriteFile(os.Getenv("KUBECONFIG"), []byte("apiVersion: v1\nkind: Config\ncurrent-context: other\n"+
		"clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n"+
		"contexts: [{name: other, context: {cluster: c}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"exec", "web", "--", "true"}, {"shell", "web"}} {
		code, _, said := s.call(args...)
		if code != exitInput || !strings.Contains(said, "works on the cluster of context minikube, and context other") {
			t.Errorf("%v: %d, %s", args, code, said)
		}
	}
	target, err := kube.ReadContext("other")
	if err != nil || s.worksOn(status.State{Cluster: target.Context}) != nil || s.worksOn(status.State{}) != nil {
		t.Errorf("the same cluster, or none yet, is refused: %v", err)
	}
}

// All users of the machine can read the command line of a browser: the address in it has no token,
// and lets in once.
func TestAddressForABrowser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "opened")
	script := filepath.Join(t.TempDir(), "browser")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1\" > '"+file+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BROWSER", script)
	s := show(t, "", &options{}, devOptions{page: true, pagePort: 0})
	s.sink.Stage("devloop").Note(event.PageServed, event.Page{URL: event.Name(s.views.page.String())})
	keys := &keyActions{views: s.views, stage: s.sink.Stage("devloop")}
	for name, open := range map[string]func(){
		"the command": func() {
			if code, out, log := s.call("open"); code != 0 || out != s.views.page.String()+"\n" {
				t.Errorf("devloop open: %d, %s%s", code, out, log)
			}
		},
		"the key": func() { keys.openPage(t.Context()) },
	} {
		open()
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, code := range []int{http.StatusSeeOther, http.StatusForbidden} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSpace(string(got)), nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != code {
				t.Errorf("%s: %s answers %d, not %d", name, got, response.StatusCode, code)
			}
		}
	}
}

// The page's address, with its token, is in the log and in devloop status; where else the token
// turns up, it is taken out.
func TestAddressOfThePage(t *testing.T) {
	dir := t.TempDir()
	logFile := filepath.Join(dir, "dev.log")
	s := show(t, "", &options{logFile: logFile}, devOptions{page: true, pagePort: 0})
	address, token := s.views.page.String(), s.views.page.Query().Get("token")
	s.sink.Stage("devloop").Note(event.PageServed, event.Page{URL: event.Name(s.views.page.String())})
	s.sink.Stage("build").Warn("a program has looked into the log", errors.New("found "+token), "text", address)
	_, status, _ := s.call("status")
	_, events, _ := s.call("events", "--follow=false")
	s.close()
	if err := s.printer.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, view := range map[string]string{"the terminal": s.out.String(), "the file": string(file),
		"devloop status": status, "devloop events": events} {
		if strings.Count(view, address) != 1 || strings.Count(view, token) != 1 {
			t.Errorf("%s does not show the address once, and the token nowhere else:\n%s", name, view)
		}
	}
	if info, err := os.Stat(logFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the log: %v, %v", info.Mode(), err)
	}
}

// TestNoViewShowsASecret looks for secrets wherever something is shown or kept.
func TestNoViewShowsASecret(t *testing.T) {
	const fromEnv, fromFile, fromKubeconfig, fromValues = "env-s3cret", "file-s3cret", "kube-s3cret", "value-s3cret"
	t.Setenv("INDEX_TOKEN", fromEnv)
	dir := t.TempDir()
	pip := filepath.Join(dir, "pip.conf")
	logFile := filepath.Join(dir, "dev.log")
	if err := errors.Join(os.WriteFile(pip, []byte("[global]\npassword = "+fromFile+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	o := &options{verbose: true, logFile: logFile}
	yaml := "images: { web: { context: " + dir + ", secrets: { pip.conf: { file: " + pip +
		" }, token: { env: INDEX_TOKEN } } } }\n"
	s := show(t, yaml, o, devOptions{page: true, pagePort: 0})
	if err := os.WriteFile(os.Getenv("KUBECONFIG"),
		[]byte(`{"users": [{"name": "u", "user": {"token": "`+fromKubeconfig+`"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	session.HideSecrets(s.secrets, s.config) // as each reading of devloop.yaml does
	s.secrets.Hide(fromValues)               // as the deployer does when it has merged values

	all := strings.Join([]string{fromEnv, fromFile, fromKubeconfig, fromValues}, " and ")
	s.printer.SetPodFilter(&console.PodFilter{})
	s.sink(podLine("web-1", "info", all))
	s.sink.Stage("build").Note(event.BuildStepFailed, event.Instruction{
		Image: event.Image{Name: "web"}, Step: "RUN echo " + all, Output: all})
	s.sink.Stage("deploy").Detail("a detail", "list", []string{all}, "value", all)
	broken := event.WithHint(errors.Join(errors.New(all), console.EnvironmentError{Err: errors.New(all)}), all)
	s.sink.Stage("node").Warn("a warning", broken)
	s.run(1, event.Failed, broken)
	s.printer.PrintError(broken, 1)

	views := map[string]string{}
	page := s.openPage()
	for _, path := range []string{"", "api/state", "api/events", "metrics"} {
		views["/"+path] = page.get(t, path)
	}
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"events", "-v", "--follow=false"},
		{"logs", "--follow=false"}} {
		_, out, said := s.call(args...)
		views["devloop "+strings.Join(args, " ")] = out + said
	}
	s.close()
	views["the terminal"] = s.out.String()
	if err := s.printer.Close(); err != nil {
		t.Fatal(err)
	}
	files := []string{logFile}
	if err := filepath.WalkDir(os.Getenv("XDG_STATE_HOME"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	}); err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		views[filepath.Base(file)] = string(content)
	}
	for name, view := range views {
		if strings.Contains(view, "s3cret") {
			t.Errorf("%s shows a secret:\n%s", name, view)
		}
		if name != "/" && name != "/metrics" && !strings.Contains(view, event.Hidden) {
			t.Errorf("%s does not show that something is hidden:\n%s", name, view)
		}
	}
}

// The error about a path of secretValues that is missing names its place.
func TestSecretValueThatIsNowhere(t *testing.T) {
	dir := t.TempDir()
	chart := filepath.Join(dir, "chart")
	if err := errors.Join(os.Mkdir(chart, 0o755),
		os.WriteFile(filepath.Join(chart, "Chart.yaml"), []byte("apiVersion: v2\nname: x\nversion: 1.0.0\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "devloop.yaml"),
			[]byte("apiVersion: devloop/v1\nname: demo\nreleases:\n"+
				"- name: web\n  chart: chart\n  namespace: ns\n  secretValues: [a.b, c]\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Source{Files: []string{filepath.Join(dir, "devloop.yaml")}})
	if err != nil {
		t.Fatal(err)
	}
	err = session.LocateError(c, event.WithHint(&deploy.ValueError{Release: "web", In: "secretValues[1]",
		Path: []string{"c"}, Message: "it is nowhere"}, "fix it"))
	if !strings.HasSuffix(err.Error(), "devloop.yaml:7:23: releases[0].secretValues[1]: value c: it is nowhere") ||
		event.Hint(err) != "fix it" {
		t.Errorf("%v, %s", err, event.Hint(err))
	}
}

// What panics beside the loop is one line of the log, and ends nothing else.
func TestPanicBesideTheLoop(t *testing.T) {
	s := show(t, "", &options{}, devOptions{page: true, pagePort: 0})
	s.views.Serve(panics{}, nil)
	for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		if _, out, _ := s.call("events", "--follow=false"); strings.Contains(out, "no longer answers at nowhere") {
			if !strings.Contains(out, "internal error in devloop: oh no") || !strings.Contains(out, "please report it") {
				t.Errorf("it reports:\n%s", out)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not reported")
		}
	}
	if page := s.openPage(); !strings.Contains(page.get(t, ""), "<title>") {
		t.Error("the page is gone")
	}
}

// panics is a listener that does.
type panics struct{ net.Listener }

func (panics) Accept() (net.Conn, error) { panic("oh no") }
func (panics) Addr() net.Addr            { return nowhere{} }
func (panics) Close() error              { return nil }

type nowhere struct{}

func (nowhere) Network() string { return "" }
func (nowhere) String() string  { return "nowhere" }

func podLine(pod event.Name, level event.Level, line string) event.Event {
	return event.Event{Time: time.Now(), Stage: event.PodStage, Phase: event.Noted, Message: event.PodLog,
		Payload: event.LogLine{ContainerRef: container(pod), Level: level, Line: line}}
}

func container(pod event.Name) event.ContainerRef {
	return event.ContainerRef{PodRef: event.PodRef{Pod: pod, Namespace: "ns"}, Container: "web"}
}

// Other commands ask a devloop that runs before they call its port taken by a stranger.
func TestCommandsBesideDevloop(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	port := listener.Addr().(*net.TCPAddr).Port
	forwards := fmt.Sprintf("forwards: [{ service: web, namespace: demo, port: 80, local: %d }]\n", port)
	s := show(t, forwards, &options{}, devOptions{})
	pid := os.Getpid()
	if _, out, _ := s.call("doctor"); !strings.Contains(out,
		fmt.Sprintf("ok    ports          1 local port held by devloop itself (pid %d, starting)\n", pid)) {
		t.Errorf("doctor: %s", out)
	}
	if code, _, said := s.call("run"); code != 3 ||
		!strings.Contains(said, fmt.Sprintf("a devloop runs for this devloop.yaml already (pid %d, starting)", pid)) ||
		strings.Contains(said, "kill") {
		t.Errorf("run: %d: %s", code, said)
	}
	if code, _, said := s.call(); code != 3 || !strings.Contains(said, fmt.Sprintf("(pid %d", pid)) {
		t.Errorf("devloop: %d: %s", code, said)
	}

	other := filepath.Join(t.TempDir(), "devloop.yaml")
	if err := os.WriteFile(other, []byte("apiVersion: devloop/v1\nname: other\n"+forwards), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("local port %d is taken by the devloop of project demo in %s (pid %d", port, s.config.Dir, pid)
	s.sink(event.Event{Time: time.Now(), Stage: "loop", Phase: event.Noted, Message: event.DevloopStarted,
		Payload: event.DevloopStart{Project: "demo", Cluster: "minikube", Folder: event.Name(s.config.Dir)}})
	if code, _, said := s.callHere("run", "-f", other); code != 2 || !strings.Contains(said, want) ||
		strings.Contains(said, "kill") {
		t.Errorf("another project: %d: %s", code, said)
	}
}
