package deploy

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	before := []document{documentOf("# Source: demo/a\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: one\n", "demo",
		""),
		documentOf("kind: Secret\nmetadata: {name: s}\nstringData: {password: one}\n", "demo", ""),
		documentOf("kind: Pod\nmetadata: {name: gone}\n", "demo", "")}
	after := []document{documentOf("# Source: demo/b\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: two\n", "demo",
		""),
		documentOf("kind: Secret\nmetadata: {name: s}\nstringData: {password: two}\n", "demo", ""),
		documentOf("kind: Job\nmetadata: {name: new}\n", "demo", "hook ")}
	got := unifiedDiff(before, after)
	for _, line := range []string{"-  x: one", "+  x: two", "--- ConfigMap demo/a", "+++ hook Job demo/new", "-kind: Pod",
		"+  password: hidden"} {
		if !strings.Contains(got, line+"\n") && !strings.Contains(got, "\n"+line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	if strings.Contains(got, "password: one") || strings.Contains(got, "password: two") {
		t.Errorf("a secret is shown:\n%s", got)
	}
	if unifiedDiff(before, before) != "" {
		t.Error("equal lists differ")
	}
}

// With kubectl apply, an annotation holds the values, too.
func TestDiffHidesWhatKubectlRemembers(t *testing.T) {
	got := documentOf("kind: Secret\nmetadata:\n  name: s\n  annotations:\n    more: x\n"+
		"    kubectl.kubernetes.io/last-applied-configuration: '{\"data\":{\"password\":\"c2VjcmV0\"}}'\n", "demo", "").text
	if strings.Contains(got, "c2VjcmV0") || !strings.Contains(got, "more: x") {
		t.Errorf("the secret is shown as\n%s", got)
	}
}

func TestDiffDeletesNoDefinitions(t *testing.T) {
	namespace := func(name, label string) []document {
		return documentsOf("apiVersion: v1\nkind: Namespace\nmetadata: {name: "+name+", labels: {a: "+label+"}}\n", "one")
	}
	before, after := append(namespace("kept", "old"), namespace("left", "old")...), namespace("kept", "new")
	got := unifiedDiff(withoutStaying(before, after), after)
	if !strings.Contains(got, "old") || strings.Contains(got, "left") {
		t.Errorf("a namespace that leaves the release stays, but the diff is\n%s", got)
	}
}
