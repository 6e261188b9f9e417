//go:build e2e

// devloop killed at any moment: what is left half-way heals without hands.
package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func testKilled(t *testing.T, cluster kubernetes.Interface) {
	kills := 6
	if soaking() {
		kills = 20
	}
	p := newProject(t, "deploy/kill")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	run := func(turn int) []string {
		set := "--set=releases[%s].set.turn=%d"
		return []string{fmt.Sprintf(set, "one", turn), fmt.Sprintf(set, "two", turn)}
	}
	lines := 1000 // that a run says which writes both releases, at the least
	heal := func(turn int) {
		t.Helper()
		if d := p.once(t, 0, run(turn)...); d.count(0, on(event.ReleaseApplied)) == 2 {
			lines = min(lines, d.mark())
		}
	}
	heal(0)

	for turn, killed := 1, 0; killed < kills; turn++ {
		if turn%4 == 3 { // some are first installs
			p.remove(t)
		}
		// A moment is a number of lines, which does not depend on the machine, and a while in
		// which Helm writes. The last lines come all at once.
		moment, while := random.IntN(lines*2/3), time.Duration(random.Int64N(int64(2*time.Second)))
		d := p.start(t, append([]string{"run"}, run(turn)...)...)
		over := func() bool { return d.count(0, ready) == 1 }
		eventually(t, "devloop has said enough to be killed", func() bool { return d.mark() > moment || over() })
		pass(t, while)
		if d.kill(t); over() {
			continue
		}
		killed++
		said := d.log(0)
		next := turn
		if turn%2 == 0 { // somebody has saved since
			next += 100
		}
		heal(next)
		t.Logf("turn %d: killed when it had said: %s", turn, said[len(said)-1])
		checkWhole(t, cluster, p.name, next)
		if t.Failed() {
			return
		}
	}
	p.remove(t)
}

// checkWhole checks that both releases are of that turn, and that nothing of another one is left
// but Helm's records.
func checkWhole(t *testing.T, cluster kubernetes.Interface, namespace string, turn int) {
	t.Helper()
	statuses := records(t, cluster, namespace)
	var names []string
	for _, release := range []string{"one", "two"} {
		if strings.Contains(statuses[release], "pending") || !strings.HasSuffix(statuses[release], "deployed") {
			t.Errorf("turn %d: Helm's records of release %s: %s", turn, release, statuses[release])
		}
	}
	maps, err := cluster.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, found := range maps.Items {
		if found.Name != "kube-root-ca.crt" {
			names = append(names, found.Name)
		}
	}
	notHelms := metav1.ListOptions{LabelSelector: "owner!=helm"}
	secrets, err := cluster.CoreV1().Secrets(namespace).List(t.Context(), notHelms)
	must(t, err)
	for _, found := range secrets.Items {
		names = append(names, found.Name)
	}
	things := kubectl(t, "get", "things."+namespace+".test", "--namespace", namespace,
		"--output", "jsonpath={.items[*].metadata.name}")
	names = append(names, strings.Fields(things)...)
	roles, err := cluster.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, found := range roles.Items {
		if name, ours := strings.CutPrefix(found.Name, namespace+"-"); ours {
			names = append(names, name)
		}
	}
	want := strings.TrimSpace(strings.Repeat(fmt.Sprintf("one-%[1]d two-%[1]d ", turn), 4))
	if got := strings.Join(names, " "); got != want {
		t.Errorf("turn %d: config maps, secrets, things and cluster roles are %q, not %q", turn, got, want)
	}
}
