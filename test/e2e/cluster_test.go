//go:build e2e

// What the cluster and the host's Docker say, without devloop.
package e2e

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// removeImages takes away at the end what devloop built in this test beyond the platform as it is in the repository, whose
// images make the next run faster.
func removeImages(t *testing.T, d *devloop) {
	t.Cleanup(func() {
		built := regexp.MustCompile(`run=(\d+) image=(\w+:\w+) id=`)
		for _, line := range d.log(0) {
			if match := built.FindStringSubmatch(line); match != nil && match[1] != "1" {
				if _, err := command(context.Background(), os.Environ(), "docker", "image", "rm", match[2]); err != nil {
					t.Log(err)
				}
			}
		}
	})
}

// nothingLeft checks that the cluster, the port and the process table are as before.
func nothingLeft(t *testing.T, cluster kubernetes.Interface) {
	t.Helper()
	if left := revisions(t, cluster); len(left) != 0 {
		t.Errorf("releases left: %v", left)
	}
	_, err := cluster.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("namespace %s is left (%v)", namespace, err)
	}
	pods, err := cluster.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name in (dask-gateway, dask-session)"})
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
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200 // tests look often, and what they see is timed
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// kubectl runs the real one.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := command(ctx, os.Environ(), "kubectl", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// layers returns the IDs of an image's layers in Docker.
func layers(t *testing.T, image string) []string {
	t.Helper()
	out, err := command(t.Context(), os.Environ(), "docker", "image", "inspect", "--format", `{{range .RootFS.Layers}}{{println .}}{{end}}`, image)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

// revisions returns the newest revision of each Helm release in the platform's namespace, by Helm's own records.
func revisions(t *testing.T, cluster kubernetes.Interface) map[string]int {
	t.Helper()
	secrets, err := cluster.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, secret := range secrets.Items {
		var revision int
		if err := json.Unmarshal([]byte(secret.Labels["version"]), &revision); err != nil {
			t.Fatal(err)
		}
		found[secret.Labels["name"]] = max(found[secret.Labels["name"]], revision)
	}
	return found
}

// podNames returns the names of the platform's pods, sorted.
func podNames(t *testing.T, cluster kubernetes.Interface) []string {
	t.Helper()
	pods, err := cluster.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=Helm"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pod := range pods.Items {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

// daskPods returns the running pods of Dask clusters, and checks their number and that they run image.
func daskPods(t *testing.T, cluster kubernetes.Interface, image string, want int) []corev1.Pod {
	t.Helper()
	pods, err := cluster.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component in (dask-scheduler, dask-worker)"})
	if err != nil {
		t.Fatal(err)
	}
	var running []corev1.Pod
	for _, pod := range pods.Items {
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		running = append(running, pod)
		if got := pod.Spec.Containers[0].Image; got != image {
			t.Errorf("pod %s runs %s, not %s", pod.Name, got, image)
		}
	}
	if len(running) != want {
		t.Errorf("%d Dask pods run, not %d", len(running), want)
	}
	return running
}
