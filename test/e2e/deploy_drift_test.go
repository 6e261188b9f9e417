//go:build e2e

// What somebody has done by hand to the objects of a release: it is shown, reverted by the next run
// without a new revision, and told. What controllers do stays.
package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/kube"
)

const (
	reverted      = "changed by hand, reverted"
	revertedOther = "changed by another program, reverted"
	recreated     = "object was missing, recreated"
)

func testDrift(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/drift")
	d := p.start(t)
	d.await(t, 0, ready)
	byHand := func(args ...string) {
		t.Helper()
		kubectl(t, append(args, "--namespace", p.name)...)
	}
	has := func(object, path, want string) {
		t.Helper()
		got := kubectl(t, "get", object, "--namespace", p.name, "--output", "jsonpath="+path)
		if got != want {
			t.Errorf("%s has %q, not %q", object, got, want)
		}
	}
	// The deployment's own status is of no use here: it may count pods that are being deleted.
	isUp := func() {
		t.Helper()
		pods, err := cluster.CoreV1().Pods(p.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
			env := pod.Spec.Containers[0].Env
			return pod.DeletionTimestamp == nil && kube.IsReady(&pod) && len(env) == 1 && env[0].Value == "info"
		}) {
			t.Errorf("no pod of deployment web is up: %v", pods.Items)
		}
	}
	quiet := func(after string) {
		t.Helper()
		c := d.again(t)
		c.arrives(t)
		for _, message := range []string{reverted, revertedOther, recreated} {
			if c.counts(on(message)) > 0 {
				t.Errorf("after %s:\n%s", after, c.happens(t, on(message)))
			}
		}
		if out, _ := p.call(t, 0, "diff", "--exit-code"); !strings.HasSuffix(out, "unchanged, nothing differs\n") {
			t.Errorf("after %s, diff says\n%s", after, out)
		}
	}
	told := func(object, changes string) func(change) {
		return func(c change) {
			t.Helper()
			c.happens(t, onRelease("changed", reverted).with("object", "^"+object+"$").
				with("changes", "^"+regexp.QuoteMeta(changes)+"$").with("by", "^kubectl"))
		}
	}
	thing := "things." + p.name + ".test/thing" // other projects have things, too
	const main = ".spec.template.spec.containers[main]"
	password := kubectl(t, "get", "secret", "random", "-n", p.name, "-o", "jsonpath={.data.password}")

	quiet("nothing")
	eventually(t, "the autoscaler scales", func() bool {
		return kubectl(t, "get", "deployment", "scaled", "-n", p.name, "-o", "jsonpath={.spec.replicas}") == "2"
	})
	byHand("rollout", "restart", "deployment/web")
	byHand("rollout", "status", "deployment/web")
	byHand("scale", "deployment/scaled", "--replicas=3") // the autoscaler's, whoever writes it
	quiet("what an autoscaler and a restart have changed")

	byHand("patch", "configmap", "settings", "--type=merge", "--patch",
		`{"data":{"text":"two","more":"x","hidden":"nobody-sees-this-either"}}`)
	byHand("patch", "secret", "random", "--type=merge", "--patch", `{"data":{"password":"bm9ib2R5LXNlZXM="}}`)
	byHand("patch", thing, "--type=merge", "--patch", `{"first":"two"}`)
	byHand("label", "service", "web", "by/hand=x")
	byHand("patch", "service", "web", "--type=merge", "--patch", `{"spec":{"type":"NodePort"}}`)
	byHand("scale", "deployment/web", "--replicas=2")
	byHand("set", "env", "deployment/web", "LEVEL=debug", "NEW=x")
	byHand("set", "image", "deployment/web", "main=nobody.test/has-this:1")
	out, _ := p.call(t, 1, "diff", "--exit-code")
	for _, want := range []string{
		"revision 1: would be reverted, others have changed it\n",
		"changed by hand: configmap/settings .data.hidden changed, .data.more added, .data.text one → two (kubectl-patch, ",
		"changed by hand: secret/random .data.password changed (", "changed by hand: thing/thing .first one → two (",
		"-  text: two\n", "+  text: one\n", "-  password: hidden", "+  password: hidden",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("diff does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "nobody-sees") || strings.Contains(out, "bm9ib2R5") {
		t.Errorf("diff shows a secret:\n%s", out)
	}
	c := d.again(t)
	c.arrives(t)
	for _, happens := range []func(change){
		told("configmap/settings", ".data.hidden changed, .data.more added, .data.text one → two"),
		told("secret/random", ".data.password changed"),
		told("thing/thing", ".first one → two"),
		told("service/web", ".metadata.labels[by/hand] added, .spec.externalTrafficPolicy added, "+
			".spec.type ClusterIP → NodePort"),
		told("deployment/web", fmt.Sprintf(".spec.replicas 1 → 2, %s.env[LEVEL].value info → debug, %[1]s.env[NEW] added, "+
			"%[1]s.image ghcr.io/dask/dask-gateway-server:2024.1.0 → nobody.test/has-this:1", main)),
	} {
		happens(c)
	}
	has("configmap/settings", "{.data}", `{"hidden":"nobody-sees-this","text":"one"}`)
	has("secret/random", "{.data.password}", password)
	has(thing, "{.first}", "one")
	has("service/web", "{.spec.type} {.metadata.labels}", `ClusterIP {"app.kubernetes.io/managed-by":"Helm"}`)
	has("deployment/web", "{.spec.replicas} {.spec.template.spec.containers[0].env}",
		`1 [{"name":"LEVEL","value":"info"}]`)
	isUp()
	quiet("all was reverted")

	byHand("delete", "secret", "random")
	byHand("delete", "deployment", "web", "--cascade=foreground")
	kubectl(t, "delete", "crd", "things."+p.name+".test")
	c = d.again(t)
	c.arrives(t)
	for _, object := range []string{"secret/random", "deployment/web", "thing/thing"} {
		c.happens(t, onRelease("changed", recreated).with("object", "^"+object+"$"))
	}
	has("secret/random", "{.data.password}", password) // of the record, not of a new render
	has(thing, "{.first}", "one")
	isUp()
	quiet("all that was deleted was recreated")
	if got := records(t, cluster, p.name)["changed"]; got != "deployed" {
		t.Errorf("Helm's records: %s", got)
	}

	// An upgrade puts back what was changed, too, and what the chart does not name.
	byHand("set", "env", "deployment/web", "NEW=x")
	byHand("patch", "configmap", "settings", "--type=merge", "--patch", `{"data":{"text":"two","more":"x"}}`)
	c = d.replace(t, "devloop.yaml", "level: info", "level: debug")
	c.arrives(t)
	told("configmap/settings", ".data.more added, .data.text one → two")(c)
	told("deployment/web", main+".env[NEW] added")(c)
	has("configmap/settings", "{.data}", `{"hidden":"nobody-sees-this","text":"one"}`)
	has("deployment/web", "{.spec.template.spec.containers[0].env}", `[{"name":"LEVEL","value":"debug"}]`)
	quiet("an upgrade")
	if got := records(t, cluster, p.name)["changed"]; got != "superseded deployed" {
		t.Errorf("Helm's records: %s", got)
	}

	// What is not the release's any more is not written.
	byHand("delete", "configmap", "settings")
	byHand("create", "configmap", "settings", "--from-literal=text=mine")
	d.again(t).fails(t, `revert configmap/settings: it differs from what was applied \(.*\), `+
		`and is no longer marked as the release's`)
	has("configmap/settings", "{.data.text}", "mine")
	byHand("delete", "configmap", "settings")
	d.again(t).arrives(t)
	d.stop(t)
	p.remove(t)
}
