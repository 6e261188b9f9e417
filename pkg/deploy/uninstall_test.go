package deploy

import (
	"slices"
	"testing"

	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/devloop/devloop/pkg/kube"
)

func TestSweepDeletesOnlyWhatTheReleaseMade(t *testing.T) {
	l := cluster(t, permits{}, of("ConfigMap", "ours", ofRelease("web")), of("ConfigMap", "theirs", ofRelease("other")),
		of("ConfigMap", "bare"),
		of("ConfigMap", "next", ofRelease("web")), of("ConfigMap", "kept", annotated(kube.AnnotationRelease, "web",
			kube.AnnotationReleaseNamespace, "demo", helmkube.ResourcePolicyAnno, helmkube.KeepPolicy)),
		of("CustomResourceDefinition", "things.example.test", ofRelease("web")))
	manifest := ""
	for _, o := range []string{"ours", "theirs", "bare", "next", "kept", "gone"} {
		manifest += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + o + "}\n"
	}
	manifest += "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " +
		"things.example.test}\n"
	manifest += "---\napiVersion: unknown/v1\nkind: Unknown\nmetadata: {name: ours}\n"
	next := []object{{kind: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, namespace: "demo", name: "next"}}
	err := l.sweep(t.Context(), Release{Name: "web", Namespace: "demo"}, []*release.Release{{Manifest: manifest},
		{Manifest: manifest}}, next)
	if got := deletions(l.dynamic.Actions()); err != nil || !slices.Equal(got, []string{"demo/ours UID uid-ours"}) {
		t.Errorf("deleted %q, %v", got, err)
	}
}

func TestHooksObjectsAreDeletedIfTheHookMadeThem(t *testing.T) {
	l := cluster(t, permits{}, of("ConfigMap", "marked", annotated(kube.AnnotationHook, "pre-install", annotationHookOf,
		"demo/web")),
		of("ConfigMap", "of-another", annotated(kube.AnnotationHook, "pre-install", annotationHookOf, "demo/other")),
		of("ConfigMap", "of-an-earlier-devloop", annotated(kube.AnnotationHook, "pre-install")), of("ConfigMap", "by-hand"))
	var hooks []*release.Hook
	for _, name := range []string{"marked", "of-another", "of-an-earlier-devloop", "by-hand"} {
		hook := &release.Hook{Manifest: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n"}
		hook.LastRun.StartedAt.Time = metav1.Now().Time
		hooks = append(hooks, hook)
	}
	err := l.removeHooks(t.Context(), Release{Name: "web", Namespace: "demo"}, []*release.Release{{Hooks: hooks}},
		func(*release.Hook) bool { return true })
	want := []string{"demo/marked UID uid-marked", "demo/of-an-earlier-devloop UID uid-of-an-earlier-devloop"}
	if got := deletions(l.dynamic.Actions()); err != nil || !slices.Equal(got, want) {
		t.Errorf("deleted %q, %v", got, err)
	}
}
