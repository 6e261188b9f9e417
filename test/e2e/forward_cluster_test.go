//go:build e2e

// What the forward's tests do to the cluster, and what they see of it and of devloop's process.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

const (
	forwardNamespace = "forward"
)

// newForwardProject is a copy of testdata/forward/project with the server, built here.
func newForwardProject(t *testing.T) *project {
	t.Helper()
	p := newProject(t, "forward/project")
	// Without the version, so that the image is the same in every state of the repository.
	_, err := command(t.Context(), append(os.Environ(), "CGO_ENABLED=0"), "go", "build", "-trimpath", "-buildvcs=false",
		"-o", filepath.Join(p.dir, "server"), "./testdata/forward/server")
	must(t, err)
	return p
}

// web is the deployment behind the forward.
type web struct {
	t       *testing.T
	cluster kubernetes.Interface
}

// change patches the deployment; complete waits for what it asks for.
func (w *web) change(patch string) {
	w.t.Helper()
	_, err := w.cluster.AppsV1().Deployments(forwardNamespace).Patch(w.t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *web) scale(replicas int) {
	w.t.Helper()
	w.change(fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
}

// rollout replaces the pods by others that do the same.
func (w *web) rollout() {
	w.t.Helper()
	w.change(fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rollout":"%d"}}}}}`, time.Now().UnixNano()))
	w.complete()
}

// complete waits until the deployment has all of its pods in their newest form, and no others but terminating ones.
func (w *web) complete() {
	w.t.Helper()
	eventually(w.t, settled, "deployment web is complete", func() bool {
		d, err := w.cluster.AppsV1().Deployments(forwardNamespace).Get(w.t.Context(), "web", metav1.GetOptions{})
		if err != nil { // the API server may just have come back
			return false
		}
		want, s := *d.Spec.Replicas, d.Status
		return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want
	})
}

// pods returns those that exist, terminating ones too.
func (w *web) pods() []corev1.Pod {
	w.t.Helper()
	list, err := w.cluster.CoreV1().Pods(forwardNamespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// alone waits until no pods but replicas are left, and returns their names.
func (w *web) alone(replicas int) []string {
	w.t.Helper()
	w.complete()
	var names []string
	eventually(w.t, settled, fmt.Sprintf("there are %d pods, and no terminating ones", replicas), func() bool {
		names = w.podNames()
		return len(names) == replicas
	})
	return names
}

func (w *web) podNames() (names []string) {
	w.t.Helper()
	for _, pod := range w.pods() {
		names = append(names, pod.Name)
	}
	return names
}

// tell asks a pod through the API server, so that it is this pod that hears it.
func (w *web) tell(pod, path string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	if _, err := w.cluster.CoreV1().Pods(forwardNamespace).ProxyGet("http", pod, "8080", path, nil).DoRaw(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// kill ends the server of a pod by SIGKILL, inside of the node.
func (w *web) kill(node string, pod corev1.Pod) {
	w.t.Helper()
	w.t.Log(script(w.t, "exec", node, "bash", "-euc", `
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

// watcher notes when the API server told what of the pods.
type watcher struct {
	mu    sync.Mutex
	news  []change
	grown chan struct{} // closed and replaced when news grow
}

// change is whether a pod takes connections, and since when the test knows.
type change struct {
	pod   string
	ready bool
	at    time.Time
}

// watch tells of changes from now on. It begins with what a list saw: an API server whose etcd is too old to tell how far it is
// cannot begin by itself.
func (w *web) watch() *watcher {
	w.t.Helper()
	pods := w.cluster.CoreV1().Pods(forwardNamespace)
	list, err := pods.List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	watching, err := pods.Watch(w.t.Context(), metav1.ListOptions{LabelSelector: "app=web", ResourceVersion: list.ResourceVersion})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(watching.Stop)
	seen := &watcher{grown: make(chan struct{})}
	go func() {
		for event := range watching.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok { // else the watch ended, and news are waited for in vain
				seen.note(pod.Name, event.Type != watch.Deleted && takesConnections(pod))
			}
		}
	}()
	return seen
}

func (s *watcher) note(pod string, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = append(s.news, change{pod, ready, time.Now()})
	close(s.grown)
	s.grown = make(chan struct{})
}

// mark is the number of news so far, to look only at what comes after.
func (s *watcher) mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.news)
}

// await returns the first news from number from on that a pod, or with "" any pod, is ready, or is not.
func (s *watcher) await(t *testing.T, from int, pod string, ready bool) change {
	t.Helper()
	deadline := time.After(settled)
	for {
		s.mu.Lock()
		grown, news := s.grown, s.news[from:]
		s.mu.Unlock()
		for _, c := range news {
			if (pod == "" || c.pod == pod) && c.ready == ready {
				return c
			}
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("the API server did not tell within %s that pod %s is ready: %t", settled, pod, ready)
		}
	}
}

// footprint is what devloop's process takes of the machine. Its memory is what it has for itself: pages of the program's own file, which
// the kernel keeps as long as it likes, are not counted.
type footprint struct {
	megabytes, descriptors, threads int
	resident                        int // megabytes, with the program's file
}

func (f footprint) String() string {
	return fmt.Sprintf("%d MB (%d with the program's file), %d descriptors, %d threads", f.megabytes, f.resident, f.descriptors, f.threads)
}

func (d *devloop) footprint() footprint {
	d.t.Helper()
	proc := fmt.Sprintf("/proc/%d", d.cmd.Process.Pid)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		d.t.Fatal(err)
	}
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		d.t.Fatal(err)
	}
	number := func(key string) int {
		_, rest, _ := strings.Cut(string(status), "\n"+key+":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			d.t.Fatalf("%s/status has no %s", proc, key)
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil {
			d.t.Fatal(err)
		}
		return n
	}
	return footprint{megabytes: number("RssAnon") / 1024, resident: number("VmRSS") / 1024, descriptors: len(open), threads: number("Threads")}
}
