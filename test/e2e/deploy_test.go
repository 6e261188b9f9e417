//go:build e2e

// Releases on a real cluster: what is written and what is not, in which order, by whose right, and
// how all of it ends.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func TestDeploy(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)
	// The longest first: test/e2e/run lets six of them run at once.
	for _, part := range []struct {
		name string
		test func(*testing.T, kubernetes.Interface)
	}{
		{"killed at any moment", testKilled},
		{"cleaning up", testCleanup},
		{"each failure says why, early", testFailures},
		{"a save mends what failed", testMend},
		{"on failure: rollback, keep", testRollback},
		{"what cannot be written ends before the write", testWrites},
		{"changed by hand", testDrift},
		{"only what differs is written", testExact},
		{"a release whose pods crash is not written again", testExactCrashing},
		{"what is not devloop's to remove stays", testKept},
		{"hooks", testHooks},
		{"whose release it is", testOwner},
		{"order", testOrder},
		{"mistakes are found before anything is written", testMistakes},
		{"diff and render", testDiff},
		{"what has been running is not watched again", testRunning},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t, cluster)
		})
	}
}

func testOrder(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/order")
	d := p.once(t, 1)

	var begun, ended []time.Time
	for _, name := range []string{"one", "two", "three"} {
		begun = append(begun, d.only(t, onRelease(name, event.ReleaseApplied, event.Started)).Time)
		ended = append(ended, d.only(t, onRelease(name, event.ReleaseApplied)).Time)
	}
	last, first := slices.MaxFunc(begun, time.Time.Compare), slices.MinFunc(ended, time.Time.Compare)
	if !last.Before(first) {
		t.Errorf("the last of three releases was begun at %s, when the first one was done at %s", last, first)
	}
	up := d.only(t, onRelease("one", event.RolloutComplete)).Time
	if begun := d.only(t, onRelease("after", event.ReleaseApplied, event.Started)).Time; begun.Before(up) {
		t.Errorf("the release that depends on one was applied at %s, one was up at %s", begun, up)
	}
	for left, missing := range map[string]string{"left-out": "broken", "left-out-too": "left-out"} {
		d.only(t, onRelease(left, leftOut).with("depends on", "^"+missing+"$"))
	}
	want := map[string]string{}
	for _, release := range []string{"one", "two", "three", "after", "broken"} {
		want[release] = "deployed"
	}
	if got := records(t, cluster, p.name); !reflect.DeepEqual(got, want) {
		t.Errorf("Helm's records: %v", got)
	}
	p.remove(t)
}

func testRollback(t *testing.T, cluster kubernetes.Interface) {
	const crash = "echo this one fails; exit 1; "
	p := newProject(t, "deploy/rollback")
	back, keep := p.port, freePort(t)
	p.edit(t, "devloop.yaml", "local: 8006", fmt.Sprintf("local: %d", keep))
	serve := func(pages ...string) {
		t.Helper()
		for i, port := range []int{back, keep} {
			if got, err := get("http://" + local(port) + "/"); strings.TrimSpace(got) != pages[i] {
				t.Errorf("port %d serves %q (%v), not %s", port, got, err, pages[i])
			}
		}
	}
	applied := func(release, revision string) expectation {
		return onRelease(release, event.ReleaseApplied).with("revision", "^"+revision+"$")
	}
	crashes := func(release string) string {
		return `deployment ` + p.name + `/` + release + `: container main of pod .*CrashLoopBackOff`
	}
	d := p.start(t)
	d.await(t, 0, ready)
	serve("one", "one")

	c := d.replace(t, "back.yaml", "mkdir", crash+"mkdir")
	c.happens(t, applied("back", "2"))
	serve("one", "one")
	c.fails(t, `(?s)`+crashes("back")+`.*\nthis one fails\n.*rolled back to revision 1\b`)
	c.happens(t, onRelease("back", event.ReleaseRolledBack).with("revision", "^1$"))
	serve("one", "one")
	d.replace(t, "back.yaml", crash, "").arrives(t) // as it was
	d.replace(t, "back.yaml", "echo one", "echo two").arrives(t)
	serve("two", "one")

	c = d.replace(t, "keep.yaml", "mkdir", crash+"mkdir")
	c.happens(t, applied("keep", "2"))
	serve("two", "one")
	c.fails(t, crashes("keep"))
	serve("two", "one")
	const page = "mkdir /tmp/www; cd /tmp/www; echo "
	d.replace(t, "keep.yaml", crash+page+"one", page+"two").arrives(t)
	serve("two", "two")

	// Taken back, it is what it was, and yet somebody else's revision: it is written once more.
	want := map[string]string{
		"back": "superseded superseded superseded superseded deployed", "keep": "superseded superseded deployed",
	}
	if got := records(t, cluster, p.name); !reflect.DeepEqual(got, want) {
		t.Errorf("Helm's records: %v", got)
	}
	d.stop(t)
	p.gone(t)
}

func testHooks(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/hooks")
	kubeconfig, temporary := filepath.Join(t.TempDir(), "kubeconfig"), t.TempDir()
	content, err := os.ReadFile(setting(t, "KUBECONFIG"))
	must(t, err)
	must(t, os.WriteFile(kubeconfig, content, 0o600))
	p.env = append(p.env, "KUBECONFIG="+kubeconfig, "TMPDIR="+temporary)

	// noted checks which commands have run, and what each saw: the release's ready replicas.
	noted := func(when string, want ...string) {
		t.Helper()
		got, _ := os.ReadFile(filepath.Join(p.dir, "notes")) // none where none has run
		_ = os.Remove(filepath.Join(p.dir, "notes"))
		text := ""
		for _, line := range want {
			name, replicas, _ := strings.Cut(line, " ")
			text += fmt.Sprintf("%s hooked %s %s\n", name, p.name, replicas)
		}
		if string(got) != text {
			t.Errorf("%s: %q", when, got)
		}
	}

	d := p.start(t)
	d.await(t, 0, ready)
	noted("the first time", "before-1", "before-2", "after-1 1", "after-2 1")
	d.again(t).arrives(t)
	noted("nothing had changed")

	for _, args := range []string{
		"set-cluster bogus --server=https://127.0.0.1:1", "set-context bogus --cluster=bogus", "use-context bogus",
	} {
		kubectl(t, append([]string{"--kubeconfig", kubeconfig, "config"}, strings.Fields(args)...)...)
	}
	c := d.replace(t, "devloop.yaml", "value: first", "value: second")
	c.happens(t, onRelease("hooked", event.ReleaseApplied).with("revision", "^2$"))
	c.arrives(t)
	noted("another context was selected, and a file saved", "before-1 1", "before-2 1", "after-1 1", "after-2 1")

	p.write(t, "fail-after-1", "")
	c = d.replace(t, "devloop.yaml", "value: second", "value: third")
	c.fails(t, `release `+p.name+`/hooked: command after it: ./note after-1: exit status 9\nafter-1 gives up`)
	noted("a command after it failed", "before-1 1", "before-2 1", "after-1 1")
	must(t, os.Remove(filepath.Join(p.dir, "fail-after-1")))
	d.again(t).arrives(t)
	noted("it failed the last time", "after-1 1", "after-2 1")
	d.again(t).arrives(t)
	noted("nothing had changed again")
	if got := records(t, cluster, p.name)["hooked"]; got != "superseded superseded deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	d.stop(t)
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("left of the commands' kubeconfigs: %v (%v)", left, err)
	}
	p.gone(t)
}

func testOwner(t *testing.T, cluster kubernetes.Interface) {
	notMadeFor := func(p *project) string { return `not made by devloop for the project \"` + p.name + `\"` }
	first, second := newProject(t, "deploy/owner"), newProject(t, "deploy/owner")
	second.edit(t, "devloop.yaml", "namespace: "+second.name, "namespace: "+first.name)
	first.call(t, 0, "run")

	elsewhere := *first // another user, or another machine: with a state folder of its own
	elsewhere.env = append(slices.Clone(first.env), "XDG_STATE_HOME="+t.TempDir())
	elsewhere.call(t, 0, "run") // nothing differs
	const unknown = "was made by a devloop of another user or machine"
	if _, log := elsewhere.call(t, 1, "run", "--set=releases[contested].set.turn=1"); !strings.Contains(log, unknown) {
		t.Errorf("it does not say that it %s:\n%s", unknown, log)
	}
	if _, log := elsewhere.call(t, 0, "delete"); strings.Contains(log, "uninstalled") {
		t.Errorf("it removed another user's release:\n%s", log)
	}

	_, log := second.call(t, 1, "run")
	for _, want := range []string{
		"release " + first.name + "/contested is there already and was " + notMadeFor(second),
		"--adopt", "helm uninstall contested -n " + first.name,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("refused, it does not say %s:\n%s", want, log)
		}
	}
	if _, log := second.call(t, 0, "delete"); strings.Contains(log, "uninstalled") {
		t.Errorf("it removed what is not its own:\n%s", log)
	}
	if got := records(t, cluster, first.name)["contested"]; got != "deployed" {
		t.Errorf("Helm's records, after it was refused: %q", got)
	}

	_, log = second.call(t, 0, "run", "--adopt")
	if !strings.Contains(log, "release taken over, it will be removed with the others run=1 release=contested") {
		t.Error(log)
	}
	if _, log := first.call(t, 1, "run"); !strings.Contains(log, notMadeFor(first)) {
		t.Error(log)
	}
	if _, log := first.call(t, 0, "delete"); strings.Contains(log, "uninstalled") ||
		!strings.Contains(log, "namespace kept, it is not empty namespace="+first.name) {
		t.Errorf("the release is another one's by now:\n%s", log)
	}
	second.call(t, 0, "run") // it is its own without --adopt, too

	d := second.start(t)
	d.await(t, 0, ready)
	for command, busy := range map[string]string{
		"run":    fmt.Sprintf("a devloop runs for this devloop.yaml already (pid %d, ", d.cmd.Process.Pid),
		"delete": fmt.Sprintf("another devloop (pid %d) is working on project %q", d.cmd.Process.Pid, second.name),
	} {
		if _, log := second.call(t, 3, command); !strings.Contains(log, busy) {
			t.Errorf("while one runs, %s says:\n%s", command, log)
		}
	}
	d.stop(t)
	if got := records(t, cluster, first.name); len(got) != 0 {
		t.Errorf("releases left: %v", got)
	}
	first.remove(t) // the namespace is the first one's
}

func testDiff(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/diff")
	release := "release " + p.name + "/shown, "
	compares := func(differs int, want ...string) string {
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
	compares(1, release+"revision 0: would be applied, it is not there yet\n",
		"+kind: Deployment\n", "+  password: hidden, sha256 ")
	p.gone(t) // a namespace that nobody has asked for
	p.call(t, 0, "run")
	before := inventory(t, p.name)

	if out := compares(0); out != release+"revision 1: unchanged, nothing differs\n" {
		t.Errorf("nothing differs, and diff says:\n%s", out)
	}
	changes := [][2]string{
		{"nobody-sees-the-first", "nobody-sees-the-second"},
		{"data: { text: first }", "data: { text: second }"},
		{"run: echo first", "run: echo second"},
	}
	for _, change := range changes {
		p.edit(t, "devloop.yaml", change[0], change[1])
	}
	out := compares(1, release+"revision 1: would be applied, its chart, its values, its images or its commands differ\n",
		"--- ConfigMap "+p.name+"/shown\n", "-  text: first\n", "+  text: second\n",
		"-  password: hidden, sha256 ", "+  password: hidden, sha256 ",
		"--- hook Job", " "+p.name+"/shown-hook0\n", "echo second")
	if strings.Contains(out, "Deployment") {
		t.Errorf("diff shows an object that does not differ:\n%s", out)
	}

	out, _ = p.call(t, 0, "render", "shown")
	for _, want := range []string{
		"# Source: workload/templates/workload.yaml\n", "kind: Deployment\n", "text: second\n",
		"nobody-sees-the-second", "echo second",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("render does not print %q:\n%s", want, out)
		}
	}
	p.call(t, 2, "render", "not-there")

	compare(t, "diff and render changed something", inventory(t, p.name), before)
	if got := records(t, cluster, p.name)["shown"]; got != "deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	for _, change := range changes {
		p.edit(t, "devloop.yaml", change[1], change[0])
	}
	kubectl(t, "delete", "configmap", "-n", p.name, "shown")
	compares(1, release+"revision 1: would be reverted, others have changed it\nmissing: configmap/shown\n",
		"--- ConfigMap "+p.name+"/shown\n", "+  text: first\n")
	p.remove(t)
}

// testRunning: a container without a probe has to run for 3 s before it counts as up. The node
// tells how long it has been running already.
func testRunning(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/running")
	const watched = 3 * time.Second
	if took := p.once(t, 0).only(t, on(event.RolloutComplete)).Took; took < watched {
		t.Errorf("a container that has just started counts as up after %s", took)
	}
	pods, err := cluster.CoreV1().Pods(p.name).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(pods.Items) != 1 || pods.Items[0].Status.ContainerStatuses[0].State.Running == nil {
		t.Fatalf("pods: %v", pods.Items)
	}
	began := pods.Items[0].Status.ContainerStatuses[0].State.Running.StartedAt
	eventually(t, "that its node has seen it run", func() bool {
		lease, err := cluster.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), pods.Items[0].Spec.NodeName,
			metav1.GetOptions{})
		if apierrors.IsNotFound(err) { // the node has just started
			return false
		}
		must(t, err)
		return lease.Spec.RenewTime.Sub(began.Time) > watched+time.Second
	})
	if took := p.once(t, 0).only(t, on(event.RolloutComplete)).Took; took >= watched {
		t.Errorf("a container that has been running for long counts as up after %s", took)
	}
	p.remove(t)
}

const leftOut = "release skipped, one that it depends on is not up"

// once is devloop run, which has ended with this exit code.
func (p *project) once(t *testing.T, code int, args ...string) *devloop {
	t.Helper()
	d := p.start(t, append([]string{"run"}, args...)...)
	if got := d.exit(t); got != code {
		t.Fatalf("devloop run: exit code %d, not %d", got, code)
	}
	return d
}

// onRelease is an event about a release.
func onRelease(release, message string, phases ...event.Phase) expectation {
	return on(message, phases...).with("release", "^"+regexp.QuoteMeta(release)+"$")
}

// only returns the one event that is as expected.
func (d *devloop) only(t *testing.T, e expectation) line {
	t.Helper()
	if n := d.count(0, e); n != 1 {
		t.Fatalf("%d lines say %s", n, e)
	}
	return d.await(t, 0, e)
}
