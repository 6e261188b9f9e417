//go:build e2e

// Releases on a real cluster: what is written and what is not, in which order, by whose right, and how all of it ends.
package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestDeploy(t *testing.T) {
	cluster := kubernetesClient(t)
	before := inventory(t)
	t.Run("side by side", func(t *testing.T) { // the longest first: test/e2e/run lets four of them run at once
		for _, part := range []struct {
			name string
			test func(*testing.T, kubernetes.Interface)
		}{
			{"killed at any moment", testKilled},
			{"cleaning up", testCleanup},
			{"each failure says why, early", testFailures},
			{"a save mends what failed", testMend},
			{"on failure: rollback, keep", testRollback},
			{"only what differs is written", testExact},
			{"a release whose pods crash is not written again", testExactCrashing},
			{"hooks", testHooks},
			{"whose release it is", testOwner},
			{"order", testOrder},
			{"mistakes are found before anything is written", testMistakes},
			{"diff and render", testDiff},
		} {
			t.Run(part.name, func(t *testing.T) {
				t.Parallel()
				part.test(t, cluster)
			})
		}
	})
	t.Run("an API server that hangs during an upgrade", func(t *testing.T) { testFrozen(t, cluster) })
	if !t.Failed() {
		compare(t, "after all", inventory(t), before)
	}
}

func testOrder(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/order")
	story := p.story(t, 1, "run")

	names := []string{"one", "two", "three"}
	var begun, ended []time.Time
	alone := 0.0 // seconds that they would take one after the other
	for _, name := range names {
		begun = append(begun, story.line(t, "release applied", "started", name).Time)
		applied := story.line(t, "release applied", "succeeded", name)
		ended = append(ended, applied.Time)
		alone += applied.Took
	}
	if last, first := slices.MaxFunc(begun, time.Time.Compare), slices.MinFunc(ended, time.Time.Compare); !last.Before(first) {
		t.Errorf("the last of %v was begun at %s, when the first one was done at %s", names, last, first)
	}
	if took := slices.MaxFunc(ended, time.Time.Compare).Sub(slices.MinFunc(begun, time.Time.Compare)).Seconds(); took > alone/2 {
		t.Errorf("three releases took %.1f s side by side, and %.1f s if one had waited for the other", took, alone)
	}
	up := story.line(t, "rollout complete", "succeeded", "one").Time
	if applied := story.line(t, "release applied", "started", "after").Time; applied.Before(up) {
		t.Errorf("the release that depends on one was applied at %s, one was up at %s", applied, up)
	}
	for left, missing := range map[string]string{"left-out": "broken", "left-out-too": "left-out"} {
		if said := story.line(t, "release left out, what it depends on is not up", "noted", left); said.Fields["depends on"] != missing {
			t.Errorf("release %s was left out because of %v", left, said.Fields["depends on"])
		}
	}
	want := map[string]string{"one": "deployed", "two": "deployed", "three": "deployed", "after": "deployed", "broken": "deployed"}
	if got := records(t, cluster, "order"); !reflect.DeepEqual(got, want) {
		t.Errorf("Helm's records: %v", got)
	}
	p.remove(t)
}

func testRollback(t *testing.T, cluster kubernetes.Interface) {
	const back, keep = "http://127.0.0.1:8005/", "http://127.0.0.1:8006/"
	const crash = "echo this one fails; exit 1; "
	p := newProject(t, "deploy/rollback")
	client := &http.Client{Timeout: smallRun, Transport: &http.Transport{DisableKeepAlives: true}}
	serve := func(pages ...string) {
		t.Helper()
		for i, url := range []string{back, keep} {
			if got, err := get(client, url); strings.TrimSpace(got) != pages[i] {
				t.Errorf("%s serves %q (%v), not %s", url, got, err, pages[i])
			}
		}
	}
	d := p.start(t)
	save := func(file, old, new, then string) (mark int) {
		t.Helper()
		mark = d.mark()
		p.edit(t, file, old, new)
		d.wait(mark, then, afterTwice)
		return mark
	}
	d.await(t, 0, ready)
	serve("one", "one")

	mark := save("back.yaml", "mkdir", crash+"mkdir", `release applied .*release=back revision=2`)
	serve("one", "one")
	d.await(t, mark, failed)
	for _, line := range []string{`release rolled back .*release=back revision=1`, `│ deployment rollback/back: container main of pod .*CrashLoopBackOff`, `│ this one fails`, `│ rolled back to revision 1$`} {
		d.wait(mark, line, smallRun)
	}
	serve("one", "one")
	save("back.yaml", crash, "", runComplete) // as it was
	save("back.yaml", "echo one", "echo two", runComplete)
	serve("two", "one")

	mark = save("keep.yaml", "mkdir", crash+"mkdir", `release applied .*release=keep revision=2`)
	serve("two", "one")
	d.await(t, mark, failed)
	d.says(t, mark, `│ deployment rollback/keep: container main of pod .*CrashLoopBackOff`)
	serve("two", "one")
	save("keep.yaml", crash+"mkdir /tmp/www; cd /tmp/www; echo one", "mkdir /tmp/www; cd /tmp/www; echo two", runComplete)
	serve("two", "two")

	// Taken back, it is what it was, and yet somebody else's revision: it is written once more.
	want := map[string]string{"back": "superseded superseded superseded superseded deployed", "keep": "superseded superseded deployed"}
	if got := records(t, cluster, "rollback"); !reflect.DeepEqual(got, want) {
		t.Errorf("Helm's records: %v", got)
	}
	d.stop(t)
	p.remove(t)
}

func testHooks(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/hooks")
	kubeconfig, temporary := filepath.Join(t.TempDir(), "kubeconfig"), t.TempDir()
	content, err := os.ReadFile(setting(t, "KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kubeconfig, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, "KUBECONFIG="+kubeconfig, "TMPDIR="+temporary)
	notes := func() string {
		text, _ := os.ReadFile(filepath.Join(p.dir, "notes"))
		_ = os.Remove(filepath.Join(p.dir, "notes"))
		return string(text)
	}
	const (
		before = "before-1 hooked hooks 1\nbefore-2 hooked hooks 1\n"
		after  = "after-1 hooked hooks 1\nafter-2 hooked hooks 1\n"
	)
	again := func(d *devloop) {
		t.Helper()
		mark := d.mark()
		must(t, d.cmd.Process.Signal(syscall.SIGHUP))
		d.await(t, mark, ready)
	}

	d := p.start(t)
	d.await(t, 0, ready)
	if got := notes(); got != "before-1 hooked hooks \nbefore-2 hooked hooks \n"+after {
		t.Errorf("the first time: %q", got)
	}
	again(d)
	if got := notes(); got != "" {
		t.Errorf("nothing had changed: %q", got)
	}

	for _, args := range [][]string{{"set-cluster", "bogus", "--server=https://127.0.0.1:1"}, {"set-context", "bogus", "--cluster=bogus"}, {"use-context", "bogus"}} {
		kubectl(t, append([]string{"--kubeconfig", kubeconfig, "config"}, args...)...)
	}
	mark := d.mark()
	p.edit(t, "devloop.yaml", "value: first", "value: second")
	d.says(t, mark, `release applied .*release=hooked revision=2`)
	d.await(t, mark, ready)
	if got := notes(); got != before+after {
		t.Errorf("another context was selected, and a file saved: %q", got)
	}

	p.write(t, "fail-after-1", "")
	mark = d.mark()
	p.edit(t, "devloop.yaml", "value: second", "value: third")
	d.await(t, mark, failed)
	d.says(t, mark, `release hooks/hooked: command after it: ./note after-1: exit status 9`)
	d.says(t, mark, `│ after-1 gives up`)
	if got := notes(); got != before+"after-1 hooked hooks 1\n" {
		t.Errorf("a command after it failed: %q", got)
	}
	if err := os.Remove(filepath.Join(p.dir, "fail-after-1")); err != nil {
		t.Fatal(err)
	}
	again(d)
	if got := notes(); got != after {
		t.Errorf("it failed the last time: %q", got)
	}
	again(d)
	if got := notes(); got != "" {
		t.Errorf("nothing had changed again: %q", got)
	}
	if got := records(t, cluster, "hooks")["hooked"]; got != "superseded superseded deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	d.stop(t)
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("left of the commands' kubeconfigs: %v (%v)", left, err)
	}
}

func testOwner(t *testing.T, cluster kubernetes.Interface) {
	first, second := newProject(t, "deploy/owner"), newProject(t, "deploy/owner")
	second.edit(t, "devloop.yaml", "name: owner", "name: pretender")
	first.call(t, 0, "run")

	_, log := second.call(t, 1, "run")
	for _, want := range []string{`release owner/contested is there already and was not made by devloop for the project \"pretender\"`, "--adopt", "helm uninstall contested -n owner"} {
		if !strings.Contains(log, want) {
			t.Errorf("refused, it does not say %s:\n%s", want, log)
		}
	}
	if _, log := second.call(t, 0, "delete"); strings.Contains(log, "uninstalled") {
		t.Errorf("it removed what is not its own:\n%s", log)
	}
	if got := records(t, cluster, "owner")["contested"]; got != "deployed" {
		t.Errorf("Helm's records, after it was refused: %q", got)
	}

	_, log = second.call(t, 0, "run", "--adopt")
	if !strings.Contains(log, "release taken over, it will be removed with the others run=1 release=contested") {
		t.Error(log)
	}
	if _, log := first.call(t, 1, "run"); !strings.Contains(log, `not made by devloop for the project \"owner\"`) {
		t.Error(log)
	}
	if _, log := first.call(t, 0, "delete"); strings.Contains(log, "uninstalled") || !strings.Contains(log, "namespace kept, it is not empty namespace=owner") {
		t.Errorf("the release is another one's by now:\n%s", log)
	}
	second.call(t, 0, "run") // it is its own without --adopt, too

	d := second.start(t)
	d.await(t, 0, ready)
	for _, command := range []string{"run", "delete"} {
		if _, log := second.call(t, 3, command); !strings.Contains(log, fmt.Sprintf(`another devloop (pid %d) is working on project "pretender"`, d.cmd.Process.Pid)) {
			t.Errorf("while one runs, %s says:\n%s", command, log)
		}
	}
	d.stop(t)
	if got := records(t, cluster, "owner"); len(got) != 0 {
		t.Errorf("releases left: %v", got)
	}
	first.remove(t) // the namespace is the first one's
}

func testDiff(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/diff")
	compares := func(t *testing.T, differs int, want ...string) string {
		t.Helper()
		p.call(t, differs, "diff", "--exit-code")
		out, _ := p.call(t, 0, "diff")
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("diff does not say %q:\n%s", text, out)
			}
		}
		if strings.Contains(out, "nobody-sees") {
			t.Errorf("diff shows what is in a secret:\n%s", out)
		}
		return out
	}
	compares(t, 1, "release diff/shown, revision 0: would be applied, it is not there yet\n", "+kind: Deployment\n", "+  password: hidden, sha256 ")
	if got := kubectl(t, "get", "namespace", "diff", "--ignore-not-found"); got != "" {
		t.Errorf("there is a namespace that nobody has asked for: %s", got)
	}
	p.call(t, 0, "run")
	before := inventory(t, "diff")

	if out := compares(t, 0); out != "release diff/shown, revision 1: unchanged, nothing differs\n" {
		t.Errorf("nothing differs, and diff says:\n%s", out)
	}
	p.edit(t, "devloop.yaml", "nobody-sees-the-first", "nobody-sees-the-second")
	p.edit(t, "devloop.yaml", "data: { text: first }", "data: { text: second }")
	p.edit(t, "devloop.yaml", "run: echo first", "run: echo second")
	out := compares(t, 1, "release diff/shown, revision 1: would be applied, its chart, its values or its commands differ\n",
		"--- ConfigMap diff/shown\n", "-  text: first\n", "+  text: second\n", "-  password: hidden, sha256 ", "+  password: hidden, sha256 ", "--- hook Job", " diff/shown-hook0\n", "echo second")
	if strings.Contains(out, "Deployment") {
		t.Errorf("diff shows an object that does not differ:\n%s", out)
	}

	out, _ = p.call(t, 0, "render", "shown")
	for _, want := range []string{"# Source: workload/templates/workload.yaml\n", "kind: Deployment\n", "text: second\n", "nobody-sees-the-second", "echo second"} {
		if !strings.Contains(out, want) {
			t.Errorf("render does not print %q:\n%s", want, out)
		}
	}
	p.call(t, 2, "render", "not-there")

	compare(t, "diff and render changed something", inventory(t, "diff"), before)
	if got := records(t, cluster, "diff")["shown"]; got != "deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	p.edit(t, "devloop.yaml", "nobody-sees-the-second", "nobody-sees-the-first")
	p.edit(t, "devloop.yaml", "data: { text: second }", "data: { text: first }")
	p.edit(t, "devloop.yaml", "run: echo second", "run: echo first")
	kubectl(t, "delete", "configmap", "-n", "diff", "shown")
	compares(t, 1, "release diff/shown, revision 1: would be applied, configmap/shown is missing\n")
	p.remove(t)
}

// said is a line of devloop's log in JSON.
type said struct {
	Time                                time.Time
	Level, Stage, Phase, Msg, Err, Hint string
	Took                                float64
	Fields                              map[string]any
}

func (s said) String() string {
	return fmt.Sprintf("\n%s %s: %s: %s %v %.3f s %s", s.Time.Format("15:04:05.000"), s.Stage, s.Msg, s.Phase, s.Fields, s.Took, s.Err)
}

type story []said

// story runs a command of devloop to its end, checks the exit code, and returns all that it logged.
func (p *project) story(t *testing.T, code int, args ...string) story {
	t.Helper()
	_, log := p.call(t, code, append(args, "--verbose", "--log-format", "json")...)
	var all story
	for line := range strings.Lines(log) {
		var one said
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, one)
	}
	return all
}

// line returns the only line that says so of a release.
func (s story) line(t *testing.T, message, phase, release string) said {
	t.Helper()
	var found story
	for _, one := range s {
		if one.Msg == message && one.Phase == phase && one.Fields["release"] == release {
			found = append(found, one)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d lines say of release %s %q, %s:\n%v", len(found), release, message, phase, s)
	}
	return found[0]
}
