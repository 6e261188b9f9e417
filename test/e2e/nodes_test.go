//go:build e2e

// A cluster of two nodes with the docker runtime, and the faults that test/cluster can make.
package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	smallPage = "http://127.0.0.1:8002/"
	// smallRun is for one run of testdata/small, of a few seconds, on a busy machine.
	smallRun = time.Minute
)

func TestNodes(t *testing.T) {
	const name, worker = "nodes", "nodes-m02"
	startCluster(t, name, "--runtime", "docker", "--nodes", "2", "--bare")
	cluster := kubernetesClient(t)
	p := newProject(t, "small")
	nonce := strconv.FormatInt(time.Now().UnixNano(), 36)

	d := p.start(t, "--verbose")
	image := d.says(t, 0, `image loaded.* image=(page:\w+)`)[1]
	d.await(t, 0, ready)
	p.awaitPage(t, "first")

	t.Run("both nodes are ready, hold the image and run it", func(t *testing.T) {
		nodes, err := cluster.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes.Items) != 2 {
			t.Fatalf("the cluster has %d nodes", len(nodes.Items))
		}
		for _, node := range nodes.Items {
			if !nodeReady(node) {
				t.Errorf("node %s is not ready", node.Name)
			}
			if out := nodeDocker(t, node, "image", "inspect", "--format", "{{.RepoTags}}", image); !strings.Contains(out, image) {
				t.Errorf("node %s: %s", node.Name, out)
			}
		}
		if pods := p.pods(t, cluster); len(pods) != 2 || pods[name] == "" || pods[worker] == "" {
			t.Errorf("the pods, by node: %v", pods)
		}
	})

	t.Run("pods reach each other across nodes through their service", func(t *testing.T) {
		pods := p.pods(t, cluster)
		for _, from := range pods {
			awaitReach(t, from, pods)
		}
	})

	save := func(content string) (mark int) {
		t.Helper()
		mark = d.mark()
		p.write(t, "index.html", content+" "+nonce+"\n")
		return mark
	}
	arrives := func(t *testing.T, content string) {
		t.Helper()
		d.wait(save(content), runComplete, smallRun)
		p.awaitPage(t, content+" "+nonce)
	}

	t.Run("a save arrives on both nodes", func(t *testing.T) { arrives(t, "second") })

	t.Run("an API server that hangs, ends, comes back", func(t *testing.T) {
		script(t, "pause", name, "kube-apiserver")
		if err := ask(t, cluster, 2*time.Second); !os.IsTimeout(err) {
			t.Errorf("asked while it hangs: %v", err)
		}
		script(t, "unpause", name, "kube-apiserver")
		if err := ask(t, cluster, 10*time.Second); err != nil {
			t.Error(err)
		}
		script(t, "kill", name, "kube-apiserver")
		if err := ask(t, cluster, 10*time.Second); err == nil || os.IsTimeout(err) {
			t.Errorf("asked while it is gone: %v", err)
		}
		script(t, "restart", name, "kube-apiserver")
		if err := ask(t, cluster, 10*time.Second); err != nil {
			t.Error(err)
		}
		arrives(t, "after the API server")
	})

	t.Run("a node without network", func(t *testing.T) {
		script(t, "network", name, "off")
		if err := ask(t, cluster, 2*time.Second); err == nil {
			t.Error("the API server answers")
		}
		script(t, "network", name, "on")
		if err := ask(t, cluster, 10*time.Second); err != nil {
			t.Error(err)
		}
		arrives(t, "after the network")
	})

	t.Run("a worker that falls silent is left before and after the cluster notices", func(t *testing.T) {
		always := startProbe(t, smallPage)
		script(t, "network", worker, "off")
		begin := time.Now()
		gone := p.pods(t, cluster)[worker]
		eventually(t, "the cluster notices", func() bool {
			pod, err := cluster.CoreV1().Pods("small").Get(t.Context(), gone, metav1.GetOptions{})
			return err == nil && !takesConnections(pod)
		})
		t.Logf("the cluster noticed after %s", time.Since(begin).Round(time.Second))
		left := d.says(t, d.mark()-5, `pod gets no new connections.*`)
		t.Log(left[0])
		script(t, "network", worker, "on")
		eventually(t, "the pod is ready again", func() bool {
			pod, err := cluster.CoreV1().Pods("small").Get(t.Context(), gone, metav1.GetOptions{})
			return err == nil && takesConnections(pod)
		})
		always.stop()
		// A request that the pod was answering when the cable was pulled cannot be asked again.
		always.checkBroken(t, 0, 2)
	})

	t.Run("a worker with a full disk", func(t *testing.T) {
		script(t, "disk", worker, "full")
		// More than what the containers of the save before leave behind when they are removed, which is free again.
		mark := save(strings.Repeat("no room\n", 4<<20))
		d.wait(mark, runFailed+`.*node `+worker+`.*no space left on device.*hint="make room on the node`, smallRun)
		script(t, "disk", worker, "free")
		arrives(t, "room again")
	})

	t.Run("Ctrl+C leaves nothing but images", func(t *testing.T) {
		d.stop(t)
		if pods := p.pods(t, cluster); len(pods) != 0 {
			t.Errorf("pods left: %v", pods)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:8002")
		if err != nil {
			t.Fatalf("the port is still taken: %v", err)
		}
		_ = listener.Close()
	})
}

// awaitReach waits until a pod has got an answer from each of the pods through their service. Each node's kube-proxy learns of
// a ready pod by itself, a moment after the pod is ready, and refuses connections until then.
func awaitReach(t *testing.T, from string, pods map[string]string) {
	t.Helper()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(30 * time.Second)
	missing := maps.Clone(pods)
	for {
		out := kubectl(t, "exec", "-n", "small", from, "--", "python3", "-c", `
from urllib.request import urlopen
for _ in range(20):
    try: print(urlopen("http://small/hostname", timeout=5).read().decode().strip())
    except OSError as e: print(e)`)
		maps.DeleteFunc(missing, func(_, to string) bool { return strings.Contains(out, to) })
		if len(missing) == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("pod %s got no answer from %v, by node; it said at last:\n%s", from, missing, out)
		}
	}
}

func nodeReady(node corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// nodeDocker asks a node's Docker daemon the way "minikube docker-env" has it: with TLS and the certificates in minikube's folder.
func nodeDocker(t *testing.T, node corev1.Node, args ...string) string {
	t.Helper()
	certificates := filepath.Join(setting(t, "MINIKUBE_HOME"), ".minikube", "certs")
	env := append(os.Environ(), "DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH="+certificates,
		fmt.Sprintf("DOCKER_HOST=tcp://%s:2376", node.Status.Addresses[0].Address))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := command(ctx, env, "docker", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
