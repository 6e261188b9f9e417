//go:build e2e

// devloop killed at any moment, and an API server that hangs: what is left half-way heals without hands.
package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// kills is how often devloop is killed.
const kills = 20

func testKilled(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/kill")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	run := func(turn int) []string {
		return []string{"run", fmt.Sprintf("--set=releases[one].set.turn=%d", turn), fmt.Sprintf("--set=releases[two].set.turn=%d", turn)}
	}
	whole := time.Hour // what a run takes that writes both releases, at best
	heal := func(turn int) (took time.Duration) {
		t.Helper()
		begin := time.Now()
		_, log := p.call(t, 0, run(turn)...)
		if took = time.Since(begin); strings.Count(log, applied) == 2 {
			whole = min(whole, took)
		}
		return took
	}
	heal(-1)
	heal(0)

	killed := 0
	for turn := 1; turn <= kills; turn++ {
		if turn%5 == 1 { // some are first installs
			p.remove(t)
		}
		moment := time.Duration(random.Int64N(int64(whole)))
		d := p.start(t, append(run(turn), "--verbose")...)
		select {
		case <-d.done:
		case <-time.After(moment):
			if err := d.cmd.Process.Kill(); err == nil {
				killed++
			}
			<-d.done
		}
		last := "nothing"
		if lines := d.log(0); len(lines) > 0 {
			last = lines[len(lines)-1]
		}
		next := turn
		if turn%2 == 0 { // somebody has saved since
			next += 100
		}
		t.Logf("turn %d: killed after %s, when it had said: %s; healed within %s", turn, moment.Round(time.Millisecond), last, heal(next).Round(time.Millisecond))
		checkWhole(t, cluster, next)
		if t.Failed() {
			return
		}
	}
	if killed < kills/2 {
		t.Errorf("it was killed %d times only", killed)
	}
	p.remove(t)
	for _, line := range inventory(t) {
		if strings.Contains(line, " kill/") || strings.Contains(line, " /kill") || strings.Contains(line, "kill.test") {
			t.Errorf("left: %s", line)
		}
	}
}

// checkWhole checks that both releases are of that turn, and that nothing of another one is left but Helm's records.
func checkWhole(t *testing.T, cluster kubernetes.Interface, turn int) {
	t.Helper()
	const namespace = "kill"
	statuses := records(t, cluster, namespace)
	var names []string
	for _, release := range []string{"one", "two"} {
		if strings.Contains(statuses[release], "pending") || !strings.HasSuffix(statuses[release], "deployed") {
			t.Errorf("turn %d: Helm's records of release %s: %s", turn, release, statuses[release])
		}
	}
	maps, err := cluster.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range maps.Items {
		if found.Name != "kube-root-ca.crt" {
			names = append(names, found.Name)
		}
	}
	secrets, err := cluster.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner!=helm"})
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range secrets.Items {
		names = append(names, found.Name)
	}
	names = append(names, strings.Fields(kubectl(t, "get", "things.kill.test", "--namespace", namespace, "--output", "jsonpath={.items[*].metadata.name}"))...)
	roles, err := cluster.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range roles.Items {
		if name, ours := strings.CutPrefix(found.Name, "kill-"); ours {
			names = append(names, name)
		}
	}
	want := strings.TrimSpace(strings.Repeat(fmt.Sprintf("one-%[1]d two-%[1]d ", turn), 4))
	if got := strings.Join(names, " "); got != want {
		t.Errorf("turn %d: config maps, secrets, things and cluster roles are %q, not %q", turn, got, want)
	}
}
