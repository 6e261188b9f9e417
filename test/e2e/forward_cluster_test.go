//go:build e2e

// The project that the forward's tests stand on, and what they do to it in the cluster.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// What the forward says of its state.
const (
	isReady       = "forward ready"
	podLeft       = "pod gets no new connections"
	isWaiting     = "no ready pod, new connections wait"
	isUnreachable = "ready pod cannot be reached, new connections wait"
)

// web is a copy of testdata/forward/web: a deployment of that name, and forwards to it.
type web struct {
	*project
	cluster              kubernetes.Interface
	hasty, echo, endless int // ports besides the project's own, as its devloop.yaml names them
}

func newWeb(t *testing.T, cluster kubernetes.Interface) *web {
	t.Helper()
	w := &web{newProject(t, "forward/web"), cluster, freePort(t), freePort(t), freePort(t)}
	w.fill(t, "$HASTY", w.hasty, "$ECHO", w.echo, "$ENDLESS", w.endless)
	// Without the version, so that the image is the same in every state of the repository.
	_, err := command(t.Context(), append(os.Environ(), "CGO_ENABLED=0"), "go", "build", "-trimpath", "-buildvcs=false",
		"-o", filepath.Join(w.dir, "server"), "./testdata/forward/server")
	must(t, err)
	return w
}

// fill replaces further placeholders in the project's devloop.yaml.
func (p *project) fill(t *testing.T, pairs ...any) {
	t.Helper()
	var words []string
	for _, word := range pairs {
		words = append(words, fmt.Sprint(word))
	}
	p.write(t, "devloop.yaml", strings.NewReplacer(words...).Replace(p.read(t, "devloop.yaml")))
}

// onForward is an event about the forward at a local port.
func onForward(port int, message string) expectation {
	return on(message).with("local", fmt.Sprintf(":%d$", port))
}

// patch changes the deployment; complete waits for what it asks for.
func (w *web) patch(t *testing.T, patch string) {
	t.Helper()
	_, err := w.cluster.AppsV1().Deployments(w.name).
		Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

func (w *web) scale(t *testing.T, replicas int) {
	t.Helper()
	w.patch(t, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
}

func (w *web) setImage(t *testing.T, image string) {
	t.Helper()
	w.patch(t, fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"server","image":%q}]}}}}`, image))
}

// rollout replaces the pods by others that do the same.
func (w *web) rollout(t *testing.T) {
	t.Helper()
	w.patch(t, fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rollout":%q}}}}}`, unique()))
	w.complete(t)
}

// complete waits until the deployment has all of its pods in their newest form, and no others but
// terminating ones.
func (w *web) complete(t *testing.T) {
	t.Helper()
	eventually(t, "deployment web is complete", func() bool {
		d, err := w.cluster.AppsV1().Deployments(w.name).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil { // the API server may just have come back
			return false
		}
		want, s := *d.Spec.Replicas, d.Status
		return s.ObservedGeneration >= d.Generation &&
			s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want
	})
}

// servers returns the pods that exist, terminating ones too.
func (w *web) servers(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := w.cluster.CoreV1().Pods(w.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	must(t, err)
	return list.Items
}

// alone waits until no pods but replicas are left, and returns their names.
func (w *web) alone(t *testing.T, replicas int) (names []string) {
	t.Helper()
	w.complete(t)
	eventually(t, fmt.Sprintf("there are %d pods, and no terminating ones", replicas), func() bool {
		names = nil
		for _, pod := range w.servers(t) {
			names = append(names, pod.Name)
		}
		return len(names) == replicas
	})
	return names
}

// tell asks a pod through the API server, so that it is this pod that hears it.
func (w *web) tell(t *testing.T, pod, path string) {
	t.Helper()
	_, err := w.cluster.CoreV1().Pods(w.name).ProxyGet("http", pod, "8080", path, nil).DoRaw(t.Context())
	must(t, err)
}

// killServer ends the server of a pod by SIGKILL, inside of the node.
func (w *web) killServer(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	t.Log(script(t, "exec", pod.Spec.NodeName, "bash", "-euc", `
		for process in /proc/[0-9]*; do
		  if grep -qs "pod$0" "$process/cgroup" && [ "$(cat "$process/comm")" = server ]; then
		    kill -KILL "${process#/proc/}"
		    echo "killed process ${process#/proc/}"
		    exit
		  fi
		done
		echo "pod $0 has no process" >&2
		exit 1`, string(pod.UID)))
}

// under does something to what is behind the forward while clients ask, before it and after it,
// too: nothing may break but what is excused.
func (w *web) under(t *testing.T, do func(t *testing.T) (excused func(outcome) bool)) {
	t.Helper()
	w.alone(t, 1)
	l := startLoad(t, clients, local(w.port), "/")
	l.answer(t, clients)
	excused := do(t)
	w.complete(t)
	l.answer(t, 2*clients)
	l.finish(t, excused)
}

// footprint is what a devloop takes of the machine. Its memory is what it has for itself: pages of
// the program's own file, which the kernel keeps as long as it likes, are not counted.
type footprint struct{ megabytes, descriptors, threads int }

func (f footprint) String() string {
	return fmt.Sprintf("%d MB, %d descriptors, %d threads", f.megabytes, f.descriptors, f.threads)
}

func (d *devloop) footprint(t *testing.T) footprint {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", d.cmd.Process.Pid)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	must(t, err)
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	must(t, err)
	number := func(key string) int {
		_, rest, _ := strings.Cut(string(status), "\n"+key+":")
		n, err := strconv.Atoi(strings.Fields(rest + " none")[0])
		must(t, err)
		return n
	}
	return footprint{megabytes: number("RssAnon") / 1024, descriptors: len(open), threads: number("Threads")}
}

// settle waits until a devloop takes no more than it did, but for some slack: a tunnel that nobody
// uses is kept for a moment, the heap of a busy time goes back to the system after that, and Go's
// own cleaning comes every two minutes.
func (d *devloop) settle(t *testing.T, before footprint) {
	t.Helper()
	eventually(t, "devloop takes as much as before, which was "+before.String(), func() bool {
		now := d.footprint(t)
		return now.megabytes <= before.megabytes+40 &&
			now.descriptors <= before.descriptors+8 && now.threads <= before.threads+16
	})
}
