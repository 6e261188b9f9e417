//go:build e2e

// A cluster of two nodes with the docker runtime.
package e2e

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
)

func TestNodes(t *testing.T) {
	const name, worker = "nodes", "nodes-m02"
	startCluster(t, name, "--runtime", "docker", "--nodes", "2", "--grace", "20", "--bare")
	cluster := kubernetesClient(t)
	p := newProject(t, "small")
	d := p.start(t)
	image := d.await(t, 0, p.loaded()).field("image")
	d.await(t, 0, ready)
	p.awaitPage(t, "first")

	step(t, "both nodes are ready, hold the image and run it", func(t *testing.T) {
		nodes, err := cluster.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		must(t, err)
		if len(nodes.Items) != 2 {
			t.Fatalf("the cluster has %d nodes", len(nodes.Items))
		}
		for _, node := range nodes.Items {
			if !nodeReady(node) {
				t.Errorf("node %s is not ready", node.Name)
			}
			env := append(os.Environ(), dockerEnv(t, node)...)
			_, err := command(t.Context(), env, "docker", "image", "inspect", image)
			must(t, err)
		}
		if pods := p.podByNode(t, cluster); len(pods) != 2 || pods[name] == "" || pods[worker] == "" {
			t.Errorf("the pods, by node: %v", pods)
		}
	})

	step(t, "pods reach each other across nodes through their service", func(t *testing.T) {
		pods := p.podByNode(t, cluster)
		for _, from := range pods {
			p.awaitReach(t, from, pods)
		}
	})

	step(t, "a save arrives on both nodes", func(t *testing.T) {
		c := d.next()
		saved := p.page(t, "second")
		c.arrives(t)
		p.awaitPage(t, saved)
		if pods := p.podByNode(t, cluster); len(pods) != 2 || pods[name] == "" || pods[worker] == "" {
			t.Errorf("the pods, by node: %v", pods)
		}
	})

	step(t, "a worker that falls silent is left before and after the cluster notices", func(t *testing.T) {
		pods := p.podByNode(t, cluster)
		l := startLoad(t, clients, local(p.port), "/hostname")
		l.answer(t, 200)
		mark := d.mark()
		mend := fault(t, worker, "network off")
		silent := time.Now()
		left := d.await(t, mark, onForward(p.port, podLeft).with("pods", "^"+pods[name]+"$"))
		t.Logf("the cluster noticed after %s", left.Time.Sub(silent).Round(time.Second))
		l.answer(t, 200)
		mend()
		again := d.await(t, mark, onForward(p.port, isReady).with("pods", pods[worker])).Time
		eventually(t, "the worker's pod answers again", func() bool {
			return slices.ContainsFunc(l.sofar(), func(o outcome) bool { return o.begin.After(again) && o.body == pods[worker] })
		})
		// A request that the pod was answering when the cable was pulled cannot be asked again.
		l.finish(t, inFlight(silent))

		before := 0
		for _, o := range l.sofar() {
			if o.begin.After(silent) && o.end.Before(left.Time) {
				before++
			}
		}
		if t.Logf("%d connections were answered before the cluster noticed", before); before == 0 {
			t.Error("nothing was answered until the cluster noticed")
		}
	})

	step(t, "a worker with a full disk", func(t *testing.T) {
		free := fault(t, worker, "disk full")
		// More than what the containers of the save before leave behind when they are removed,
		// which is free again.
		c := d.save(t, "index.html", strings.Repeat("no room\n", 4<<20))
		c.fails(t, `(?s)node `+worker+`.*no space left on device.*make room on the node`)
		free()
		c = d.next()
		saved := p.page(t, "room again")
		c.arrives(t)
		p.awaitPage(t, saved)
	})

	step(t, "files are synced into the pods of both nodes", func(t *testing.T) {
		d.replace(t, "devloop.yaml", "context: . }", "context: ., sync: [{ from: index.html }] }").arrives(t)
		pods := p.podByNode(t, cluster)
		held := func(pod string) string {
			return kubectl(t, "exec", "--namespace", p.name, pod, "--", "cat", "index.html")
		}
		c := d.save(t, "index.html", "synced\n")
		same(t, "containers", "2", c.happens(t, on(event.FilesSynced)).field("containers"))
		c.arrives(t)
		for _, pod := range pods {
			same(t, "what "+pod+" holds", "synced\n", held(pod))
		}

		free := fault(t, worker, "disk full")
		// What tar says depends on how many bytes were free. The image has no room on the node either.
		d.save(t, "index.html", strings.Repeat("no room\n", 4<<20)).fails(t, `(?i)no space left on device|wrote only`)
		same(t, "what the pod without room holds", "synced\n", held(pods[worker]))
		free()
		d.save(t, "index.html", "synced again\n").arrives(t)
		for _, pod := range pods {
			same(t, "what "+pod+" holds", "synced again\n", held(pod))
		}
		same(t, "the pods", pods, p.podByNode(t, cluster))
	})

	step(t, "Ctrl+C leaves nothing but images", func(t *testing.T) {
		d.stop(t)
		if pods := p.podByNode(t, cluster); len(pods) != 0 {
			t.Errorf("pods left: %v", pods)
		}
		if listens(p.port) {
			t.Error("the port is still open")
		}
	})
}

// awaitReach waits until a pod has got an answer from each of the pods through their service. Each
// node's kube-proxy learns of a ready pod by itself, a moment after the pod is ready, and refuses
// connections until then.
func (p *project) awaitReach(t *testing.T, from string, pods map[string]string) {
	t.Helper()
	missing := maps.Clone(pods)
	eventually(t, "pod "+from+" gets an answer from each pod", func() bool {
		out := kubectl(t, "exec", "-n", p.name, from, "--", "python3", "-c", `
from urllib.request import urlopen
for _ in range(20):
    try: print(urlopen("http://small/hostname", timeout=5).read().decode().strip())
    except OSError as e: print(e)`)
		maps.DeleteFunc(missing, func(_, to string) bool { return strings.Contains(out, to) })
		return len(missing) == 0
	})
}

func nodeReady(node corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
