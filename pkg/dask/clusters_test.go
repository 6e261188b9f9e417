package dask

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/kube"
)

// fixedMapper is a RESTMapper that needs no discovery.
type fixedMapper struct{ *meta.DefaultRESTMapper }

func (fixedMapper) Reset() {}

func TestClusterThatDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		version := schema.GroupVersion{Group: "gateway.dask.org", Version: "v1alpha1"}
		mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{version})
		mapper.Add(version.WithKind("DaskCluster"), meta.RESTScopeNamespace)
		object := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": version.String(), "kind": "DaskCluster", "metadata": map[string]any{"namespace": "demo", "name": "a"}}}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "dask-scheduler-a",
			Labels: map[string]string{LabelCluster: "a"}}}
		cluster := &kube.Cluster{Client: fake.NewClientset(pod), Mapper: fixedMapper{mapper},
			Dynamic: dynamicfake.NewSimpleDynamicClient(runtime.NewScheme(), object)}
		err := StopCluster(t.Context(), cluster, "demo", "a")
		const want = "stop Dask cluster demo/a: its pods dask-scheduler-a: still there after 40s"
		if err == nil || err.Error() != want {
			t.Errorf("it ends with %v, not %s", err, want)
		}
		if err := cluster.Client.CoreV1().Pods("demo").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := StopCluster(t.Context(), cluster, "demo", "a"); err != nil {
			t.Errorf("once its pods are gone: %v", err)
		}
		if err := StopCluster(t.Context(), cluster, "demo", "gone"); err != nil {
			t.Errorf("one that is gone: %v", err)
		}
		now, err := cluster.Dynamic.Resource(version.WithResource("daskclusters")).Namespace("demo").Get(t.Context(), "a",
			metav1.GetOptions{})
		if active, set, _ := unstructured.NestedBool(now.Object, "spec", "active"); err != nil || active || !set {
			t.Errorf("its gateway is not told to stop it: %v, %v", now, err)
		}
	})
}
