//go:build e2e

// Clusters for tests: how they start, what they and this machine's Docker say without devloop, and
// their faults.
package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/devloop/devloop/pkg/event"
)

const (
	namespace = "dask-gateway" // of the platform
	gateway   = "http://127.0.0.1:8001"
)

// removeImages removes, at the end, the images that d built after its first run. Those of the first
// run are the repository's own, and make the next test faster.
func removeImages(t *testing.T, d *devloop) {
	t.Cleanup(func() {
		for _, line := range d.log(0) {
			if on(event.ImageBuilt).met(line) && line.Run != 1 {
				docker(t, "image", "rm", line.field("image"))
			}
		}
	})
}

// nothingLeft checks that of the platform no release, namespace or pod is left, and that its port
// is free.
func nothingLeft(t *testing.T, cluster kubernetes.Interface) {
	t.Helper()
	if left := revisions(t, cluster); len(left) != 0 {
		t.Errorf("releases left: %v", left)
	}
	_, err := cluster.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("namespace %s is left (%v)", namespace, err)
	}
	pods, err := cluster.CoreV1().Pods("").List(t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/name in (dask-gateway, dask-session)"})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("pods left: %d (%v)", len(pods.Items), err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:8001")
	if err != nil {
		t.Errorf("the port is still taken: %v", err)
	} else {
		_ = listener.Close()
	}
}

func kubernetesClient(t *testing.T) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", setting(t, "KUBECONFIG"))
	must(t, err)
	config.QPS, config.Burst = 100, 200 // tests look often, and what they see is timed
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

// kubectl runs the real one.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	out, err := command(ctx, os.Environ(), "kubectl", args...)
	must(t, err)
	return out
}

// execLast runs a command that ends the container in which it runs, and that may be killed with it.
func execLast(t *testing.T, namespace, pod string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	args = append([]string{"exec", "--namespace", namespace, pod, "--"}, args...)
	_, err := command(ctx, os.Environ(), "kubectl", args...)
	if err != nil && !strings.Contains(err.Error(), "exit code 137") { // SIGKILL
		t.Fatal(err)
	}
}

// layers returns the IDs of an image's layers in Docker.
func layers(t *testing.T, image string) []string {
	t.Helper()
	const format = `{{range .RootFS.Layers}}{{println .}}{{end}}`
	out, err := command(t.Context(), os.Environ(), "docker", "image", "inspect", "--format", format, image)
	must(t, err)
	return strings.Fields(out)
}

// revisions returns the newest revision of each Helm release in the platform's namespace.
func revisions(t *testing.T, cluster kubernetes.Interface) map[string]int {
	t.Helper()
	found := map[string]int{}
	for name, records := range helmRecords(t, cluster, namespace) {
		found[name] = records[len(records)-1].version
	}
	return found
}

// podNames returns the names of the platform's pods, sorted.
func podNames(t *testing.T, cluster kubernetes.Interface) []string {
	t.Helper()
	pods, err := cluster.CoreV1().Pods(namespace).List(t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=Helm"})
	must(t, err)
	var names []string
	for _, pod := range pods.Items {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

// daskPods waits until so many pods of Dask clusters run, checks that they run image, and returns
// them.
func daskPods(t *testing.T, cluster kubernetes.Interface, image string, want int) (running []corev1.Pod) {
	t.Helper()
	selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/component in (dask-scheduler, dask-worker)"}
	eventually(t, fmt.Sprintf("%d Dask pods run", want), func() bool {
		pods, err := cluster.CoreV1().Pods(namespace).List(t.Context(), selector)
		must(t, err)
		running = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
			return pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil
		})
		return len(running) == want
	})
	for _, pod := range running {
		if got := pod.Spec.Containers[0].Image; got != image {
			t.Errorf("pod %s runs %s, not %s", pod.Name, got, image)
		}
	}
	return running
}

// onlyNode returns the name of the cluster's node, to which the faults are done.
func onlyNode(t *testing.T) string {
	t.Helper()
	nodes, err := kubernetesClient(t).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(nodes.Items) != 1 {
		t.Fatalf("the cluster has %d nodes", len(nodes.Items))
	}
	return nodes.Items[0].Name
}

// script runs test/cluster/cluster.
func script(t *testing.T, args ...string) string {
	t.Helper()
	// Not the test's context, which has ended when things are taken down.
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute) // what it needs may have to be built
	defer cancel()
	out, err := command(ctx, os.Environ(), filepath.Join("..", "cluster", "cluster"), args...)
	must(t, err)
	return out
}

// startCluster brings a cluster up for the time of the test, and makes it the one that the test,
// and what it starts, sees.
func startCluster(t *testing.T, name string, options ...string) {
	t.Helper()
	t.Cleanup(func() { script(t, "down", name) })
	t.Log(script(t, append([]string{"up", name}, options...)...))
	const three = `printf '%s\n' "$KUBECONFIG" "$MINIKUBE_HOME" "$PATH"`
	out, err := command(t.Context(), os.Environ(), "bash", "-c", script(t, "env", name)+"\n"+three)
	must(t, err)
	for i, value := range strings.Split(strings.TrimSpace(out), "\n") {
		t.Setenv([]string{"KUBECONFIG", "MINIKUBE_HOME", "PATH"}[i], value)
	}
}

// repairs undo faults; see test/cluster/cluster.
var repairs = map[string]string{"pause": "unpause", "kill": "restart", "network": "network", "disk": "disk"}

// fault breaks something of a node, as in "kill kube-apiserver" or "network off", and returns what
// mends it. At the latest it is mended when t ends: a step's t, when the step does.
func fault(t *testing.T, node, what string) (mend func()) {
	t.Helper()
	kind, of, _ := strings.Cut(what, " ")
	undo := of
	switch of {
	case "off":
		undo = "on"
	case "full":
		undo = "free"
	}
	mend = once(func() { script(t, repairs[kind], node, undo) })
	t.Cleanup(mend)
	script(t, kind, node, of)
	return mend
}

// dockerFault takes this machine's Docker away, and returns what brings it back, as fault does.
func dockerFault(t *testing.T) (mend func()) {
	t.Helper()
	mend = once(func() { script(t, "docker") })
	t.Cleanup(mend)
	script(t, "docker-down")
	return mend
}

// once is sync.OnceFunc for what may end the test: whoever comes second does nothing.
func once(do func()) func() {
	var done bool
	return func() {
		if !done {
			done = true
			do()
		}
	}
}

// podByNode returns, by node, the name of a pod of testdata/small: of two on a node, one of them.
func (p *project) podByNode(t *testing.T, cluster kubernetes.Interface) map[string]string {
	t.Helper()
	pods, err := cluster.CoreV1().Pods(p.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=small"})
	must(t, err)
	found := map[string]string{}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil {
			found[pod.Spec.NodeName] = pod.Name
		}
	}
	return found
}

// takesConnections tells whether a pod is ready and not terminating.
func takesConnections(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// records returns the statuses of each release's revisions in a namespace, the oldest first.
func records(t *testing.T, cluster kubernetes.Interface, namespace string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name, records := range helmRecords(t, cluster, namespace) {
		for _, r := range records {
			found[name] = strings.TrimSpace(found[name] + " " + r.status)
		}
	}
	return found
}

// helmRecord is Helm's record of a revision.
type helmRecord struct {
	version int
	status  string
}

// helmRecords returns those of each release in a namespace, the oldest first.
func helmRecords(t *testing.T, cluster kubernetes.Interface, namespace string) map[string][]helmRecord {
	t.Helper()
	secrets, err := cluster.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	must(t, err)
	found := map[string][]helmRecord{}
	for _, secret := range secrets.Items {
		version, err := strconv.Atoi(secret.Labels["version"])
		must(t, err)
		name := secret.Labels["name"]
		found[name] = append(found[name], helmRecord{version, secret.Labels["status"]})
		slices.SortFunc(found[name], func(a, b helmRecord) int { return cmp.Compare(a.version, b.version) })
	}
	return found
}

// inventory lists what there is: everything in the namespaces, or in all of them, and what belongs
// to none.
func inventory(t *testing.T, namespaces ...string) []string {
	t.Helper()
	const (
		within = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,jobs,persistentvolumeclaims,ingresses"
		beyond = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,persistentvolumes"
		names  = `jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}`
	)
	var found string
	for _, namespace := range namespaces {
		found += kubectl(t, "get", within, "--namespace", namespace, "--output", names)
	}
	if len(namespaces) == 0 {
		found = kubectl(t, "get", within, "--all-namespaces", "--output", names)
		found += kubectl(t, "get", beyond, "--output", names)
	}
	lines := strings.Split(strings.TrimSpace(found), "\n")
	slices.Sort(lines)
	return lines
}

// gone checks that nothing in the cluster has the project's name.
func (p *project) gone(t *testing.T) {
	t.Helper()
	for _, line := range inventory(t) {
		if strings.Contains(line, p.name) {
			t.Errorf("left: %s", line)
		}
	}
}

// compare checks that two inventories are the same.
func compare(t *testing.T, when string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: there is %s", when, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: there is no %s", when, line)
		}
	}
}

// awaitPod waits until a pod with this label runs, and returns its name.
func (p *project) awaitPod(t *testing.T, cluster kubernetes.Interface, label string) (name string) {
	t.Helper()
	running := metav1.ListOptions{LabelSelector: label, FieldSelector: "status.phase=Running"}
	eventually(t, "a pod runs: "+label, func() bool {
		pods, err := cluster.CoreV1().Pods(p.name).List(t.Context(), running)
		if err != nil || len(pods.Items) != 1 {
			return false
		}
		name = pods.Items[0].Name
		return true
	})
	return name
}
