//go:build e2e

// What goes wrong with the node and its API server, once for all who look: clients of a forward, a
// connection that is open, a release in the middle of its upgrade, and who follows what pods print.
package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

// hang is how long the API server does not answer. By then those who ask it have met their
// deadlines: the forward's tunnels (2 and 5 s), the stages of a run (10 s), a forward that holds as
// long as it does by default (30 s), client-go, which gives up a silent connection (see below), and
// in soak Helm's requests (60 s), too.
func hang() time.Duration {
	if soaking() {
		return 75 * time.Second
	}
	return 35 * time.Second
}

func TestFaults(t *testing.T) {
	if !soaking() { // 15 s instead of 45
		t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "10")
		t.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "5")
	}
	cluster, node := kubernetesClient(t), onlyNode(t)
	w := newWeb(t, cluster)
	d := w.start(t)
	printed := startPrinting(t, cluster)
	d.await(t, 0, ready)

	killed := beginUpgrade(t, cluster)
	step(t, "the API server is killed, and starts again", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			open := dial(t, w.echo)
			echoes(t, open, 3)
			mend := fault(t, node, "kill kube-apiserver")
			moment := time.Now()
			_ = open.SetReadDeadline(moment.Add(longEnough))
			if n, err := open.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the open connection is not cut, though what carried it has ended: %d bytes, %v", n, err)
			}
			mend()
			return inFlight(moment)
		})
		printed.onceEach(t)
	})

	hung := beginUpgrade(t, cluster)
	step(t, "the API server hangs, and goes on", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			open, pod, mark := dial(t, w.echo), w.servers(t)[0].Name, d.mark()
			echoes(t, open, 3)
			mend := fault(t, node, "pause kube-apiserver")
			ends := time.Now().Add(hang())
			d.await(t, mark, onForward(w.port, isUnreachable))
			_, err := io.WriteString(open, "meanwhile\n")
			must(t, err)
			pass(t, time.Until(ends))
			mend()
			hears(t, open, "meanwhile\n")
			echoes(t, open, 3)
			if names := w.alone(t, 1); names[0] != pod {
				t.Errorf("pod %s has become %v", pod, names)
			}
			return none // who was held, and who had asked before, is answered
		})
		printed.onceEach(t)
	})

	step(t, "the node falls silent for a moment", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			open, mark := dial(t, w.echo), d.mark()
			echoes(t, open, 3)
			mend := fault(t, node, "network off")
			d.await(t, mark, onForward(w.port, isUnreachable))
			mend()
			echoes(t, open, 3)
			return none
		})
		printed.onceEach(t)
	})

	step(t, "the controllers hang, and go on", func(t *testing.T) {
		mend := fault(t, node, "pause kube-controller-manager")
		for _, pod := range w.servers(t) {
			kubectl(t, "delete", "pod", "--namespace", w.name, pod.Name)
		}
		c := d.again(t) // the deployment's status still says that its pod is available
		c.happens(t, on(event.RolloutComplete, event.Started))
		pass(t, 2*time.Second)
		if c.counts(on(event.RolloutComplete)) > 0 {
			t.Error("the rollout is complete without a pod")
		}
		mend()
		c.arrives(t)
		w.alone(t, 1)
	})

	step(t, "all ends well", func(t *testing.T) {
		for name, end := range map[string]func(*testing.T){
			"the upgrade that was under way when the API server was killed": killed.heals,
			"the upgrade that was under way when the API server hung":       hung.heals,
			"the forward":           d.stop,
			"the pods that printed": printed.stop,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				end(t)
			})
		}
	})
}

// printing is a devloop whose pods print numbered lines by themselves, and who follows them in a
// second terminal.
type printing struct {
	*devloop
	logs *devloop
	pods []string
}

func startPrinting(t *testing.T, cluster kubernetes.Interface) *printing {
	t.Helper()
	p := newProject(t, "deploy/printing")
	d := p.start(t)
	d.await(t, 0, ready)
	found := &printing{devloop: d, logs: p.start(t, "logs")}
	pods, err := cluster.CoreV1().Pods(p.name).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, pod := range pods.Items {
		found.pods = append(found.pods, pod.Name)
	}
	return found
}

// onceEach checks that all lines that were printed until now came, and none twice.
func (p *printing) onceEach(t *testing.T) {
	t.Helper()
	from := func(pod string) expectation { return on(event.PodLog).with("pod", "^"+pod+"$") }
	for _, pod := range p.pods {
		var last int
		_, err := fmt.Sscanf(kubectl(t, "logs", "--namespace", p.name, pod, "--tail=1"), "line %d", &last)
		must(t, err)
		p.logs.await(t, 0, from(pod).with("line", fmt.Sprintf("^line %d$", last)))
		times := map[string]int{}
		for _, one := range p.logs.log(0) {
			if from(pod).met(one) {
				times[one.field("line")]++
			}
		}
		var wrong []string
		for i := range last {
			if n := times[fmt.Sprintf("line %d", i)]; n != 1 {
				wrong = append(wrong, fmt.Sprintf("%d times line %d", n, i))
			}
		}
		if wrong != nil {
			t.Errorf("of %d lines of pod %s there are %s", last, pod, strings.Join(wrong, ", "))
		}
	}
	if n := p.count(0, on(event.PodLog)); n != 0 {
		t.Errorf("the terminal shows %d lines, and was not asked to", n)
	}
}
