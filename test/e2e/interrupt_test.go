//go:build e2e

// Ctrl+C in the middle of everything that takes its time: nothing is left, and what must not be
// cut off comes to its end.
package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func TestInterrupt(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)
	for _, story := range []struct {
		name string
		test func(*testing.T, kubernetes.Interface)
	}{
		{"a build in the node", func(t *testing.T, c kubernetes.Interface) { testInterruptBuild(t, c, "node") }},
		{"a build by Docker", func(t *testing.T, c kubernetes.Interface) { testInterruptBuild(t, c, "host") }},
		{"an image on its way to the node", testInterruptLoad},
		{"a canary", testInterruptCanary},
		{"a command of the user's", testInterruptCommand},
		{"Helm's first write", func(t *testing.T, c kubernetes.Interface) { testInterruptWrite(t, c, "pre-install") }},
		{"Helm's second write", func(t *testing.T, c kubernetes.Interface) { testInterruptWrite(t, c, "pre-upgrade") }},
		{"a rollout", testInterruptRollout},
		{"a clean-up, by a second one", testInterruptCleanup},
		{"a hook that never ends, by a second one", testInterruptHook},
		{"a command that ends by itself", testInterruptRun},
	} {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			story.test(t, cluster)
		})
	}
}

// newInterrupted is a project that Ctrl+C has to leave nothing of: its temporary files are in a
// folder of their own.
func newInterrupted(t *testing.T) *project {
	t.Helper()
	p := newProject(t, "deploy/interrupt")
	temporary := t.TempDir()
	p.env = append(p.env, "TMPDIR="+temporary)
	t.Cleanup(func() {
		if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
			t.Errorf("temporary files left: %v (%v)", left, err)
		}
	})
	return p
}

// addImage gives the project an image of this Dockerfile.
func (p *project) addImage(t *testing.T, dockerfile string) {
	t.Helper()
	p.write(t, "Dockerfile", dockerfile)
	p.append(t, "devloop.yaml", "images: { "+p.name+": { context: . } }\n")
}

// leavesNothing waits until devloop, which was told to end, has ended well, and checks that it left
// nothing.
func (d *devloop) leavesNothing(t *testing.T, cluster kubernetes.Interface) {
	t.Helper()
	if code := d.exit(t); code != 0 {
		t.Errorf("devloop ended with exit code %d", code)
	}
	d.only(t, on(event.RunComplete, event.Interrupted))
	d.only(t, on("nothing left behind"))
	d.leftNothingHere(t)
	d.noCanary(t, cluster)
	d.gone(t)
}

// leftNothingHere checks this machine: the port, and what was started.
func (d *devloop) leftNothingHere(t *testing.T) {
	t.Helper()
	if listens(d.port) {
		t.Error("the port is still open")
	}
	eventually(t, "what it started has gone", func() bool { return !runs(d.sleep()) })
}

func testInterruptBuild(t *testing.T, cluster kubernetes.Interface, where string) {
	p := newInterrupted(t)
	p.addImage(t, "FROM python:3.11-slim\nRUN "+p.sleep()+"\n")
	p.append(t, "devloop.yaml", "buildIn: "+where+"\n")
	d := p.start(t)
	eventually(t, "the build's command runs", func() bool { return runs(p.sleep()) })
	d.signal(t, syscall.SIGINT)
	d.leavesNothing(t, cluster)
}

func testInterruptLoad(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.addImage(t, "FROM python:3.11-slim\nRUN head --bytes 200M /dev/urandom > /random\n")
	p.append(t, "devloop.yaml", "buildIn: host\n")
	d := p.start(t)
	d.await(t, 0, on(event.ImageLoaded, event.Started))
	d.signal(t, syscall.SIGINT)
	d.leavesNothing(t, cluster)
	images := script(t, "exec", onlyNode(t), "ctr", "--namespace", "k8s.io", "images", "ls", "--quiet")
	if loaded, there := d.count(0, on(event.ImageLoaded)) == 1, strings.Contains(images, p.name); loaded != there {
		t.Errorf("it says that the image was loaded: %t, and the node has it: %t", loaded, there)
	}
}

func testInterruptCanary(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.addImage(t, "FROM python:3.11-slim\n")
	p.append(t, "devloop.yaml", fmt.Sprintf("verify: [{ image: %s, timeout: 1h, command: [sh, -c, %s; true] }]\n",
		p.name, p.sleep()))
	d := p.start(t)
	eventually(t, "the canary's command runs", func() bool { return runs(p.sleep()) })
	d.signal(t, syscall.SIGINT)
	d.leavesNothing(t, cluster)
}

func testInterruptCommand(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.edit(t, "devloop.yaml", "chart: workload", fmt.Sprintf(`chart: workload
    hooks: { before: [{ command: [sh, -c, "trap '' TERM; %s; true"] }] }`, p.sleep()))
	d := p.start(t)
	eventually(t, "the command runs", func() bool { return runs(p.sleep()) })
	d.signal(t, syscall.SIGINT)
	d.leavesNothing(t, cluster)
}

// testInterruptWrite: Helm's write comes to its end, with its hook, before what it made is removed.
func testInterruptWrite(t *testing.T, cluster kubernetes.Interface, hook string) {
	p := newInterrupted(t)
	p.edit(t, "devloop.yaml", "hooks: []", `hooks: [{ "on": `+hook+`, run: "until [ -e /tmp/go ]; do sleep 0.2; done" }]`)
	d := p.start(t)
	mark := 0
	if hook == "pre-upgrade" {
		d.await(t, 0, ready)
		mark = d.replace(t, "devloop.yaml", `ready: "true"`, `ready: test -d /tmp`).since
	}
	pod := p.awaitPod(t, cluster, webHook)
	d.signal(t, syscall.SIGINT)
	d.await(t, mark, onRelease("web", "waiting for Helm's write to end"))
	execLast(t, p.name, pod, "touch", "/tmp/go")
	d.leavesNothing(t, cluster)
	wrote := d.await(t, mark, onRelease("web", event.ReleaseApplied))
	if removed := d.only(t, onRelease("web", event.ReleaseUninstalled, event.Started)); removed.Time.Before(wrote.Time) {
		t.Errorf("it was removed at %s, and written until %s", removed.Time, wrote.Time)
	}
}

func testInterruptRollout(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.edit(t, "devloop.yaml", `ready: "true"`, `ready: "false"`)
	d := p.start(t)
	d.await(t, 0, on(event.RolloutComplete, event.Started))
	p.awaitPod(t, cluster, "app=web")
	d.signal(t, syscall.SIGTERM) // is as good as Ctrl+C
	d.leavesNothing(t, cluster)
	d.only(t, on(event.RolloutComplete, event.Interrupted))
}

// testInterruptCleanup: the second Ctrl+C does not wait for the clean-up.
func testInterruptCleanup(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.edit(t, "devloop.yaml", "objects: []", `objects:
        - apiVersion: coordination.k8s.io/v1
          kind: Lease
          metadata: { name: held, finalizers: [interrupt.test/nobody] }`)
	p.append(t, "devloop.yaml", "cleanup: { before: [leases.coordination.k8s.io] }\n")
	d := p.start(t)
	d.await(t, 0, ready)
	d.signal(t, syscall.SIGINT)
	d.await(t, 0, on("objects deleted", event.Started)) // which lasts, because of the finalizer
	d.leavesAtOnce(t, cluster, "deployed")
	kubectl(t, "patch", "lease", "held", "--namespace", p.name,
		"--type=merge", "--patch", `{"metadata":{"finalizers":null}}`)
	p.remove(t)
}

// testInterruptHook: the second Ctrl+C does not wait for a hook that never ends either.
func testInterruptHook(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.edit(t, "devloop.yaml", "hooks: []", `hooks: [{ "on": pre-install, run: sleep infinity }]`)
	d := p.start(t)
	p.awaitPod(t, cluster, webHook)
	d.signal(t, syscall.SIGINT)
	d.await(t, 0, onRelease("web", "waiting for Helm's write to end"))
	d.leavesAtOnce(t, cluster, "pending-install")
	p.remove(t)
}

// leavesAtOnce is the second Ctrl+C: what was deployed is there still, and devloop says so.
func (d *devloop) leavesAtOnce(t *testing.T, cluster kubernetes.Interface, status string) {
	t.Helper()
	if code := d.interrupt(t); code != 130 {
		t.Errorf("after the second Ctrl+C the exit code is %d", code)
	}
	left := fmt.Sprintf("still there: release %[1]s/web, namespace %[1]s\ndevloop delete removes it", d.name)
	d.only(t, on("devloop ends", event.Failed).with("code", "^130$").because(left))
	d.leftNothingHere(t)
	if got := records(t, cluster, d.name)["web"]; got != status {
		t.Errorf("Helm's records: %q", got)
	}
}

// testInterruptRun: what devloop run has deployed stays, also if it is interrupted.
func testInterruptRun(t *testing.T, cluster kubernetes.Interface) {
	p := newInterrupted(t)
	p.edit(t, "devloop.yaml", `ready: "true"`, `ready: "false"`)
	d := p.start(t, "run")
	d.await(t, 0, on(event.RolloutComplete, event.Started))
	p.awaitPod(t, cluster, "app=web")
	if code := d.interrupt(t); code != 130 {
		t.Errorf("the exit code is %d", code)
	}
	stays := "interrupted\nwhat was deployed stays; devloop delete removes it"
	d.only(t, on("devloop ends", event.Failed).because(stays))
	d.leftNothingHere(t)
	if got := records(t, cluster, p.name)["web"]; got != "deployed" {
		t.Errorf("Helm's records: %q", got)
	}
	p.remove(t)
}
