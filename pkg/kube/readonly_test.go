package kube

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReadOnlyContext(t *testing.T) {
	sent := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent++
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}`))
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "config")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: \"" + server.URL + "\"}}]\n" +
		"contexts: [{name: a, context: {cluster: a}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", file)
	cluster, err := OpenCluster("a")
	if err != nil {
		t.Fatal(err)
	}
	isReadOnly := true
	ctx, namespaces := ReadOnly(t.Context(), func() bool { return isReadOnly }), cluster.Client.CoreV1().Namespaces()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "demo"}}

	if _, err := namespaces.Create(ctx, namespace, metav1.CreateOptions{}); !errors.Is(err, errReadOnly) || sent != 0 {
		t.Errorf("a creation: %v, and %d requests were sent", err, sent)
	}
	if err := namespaces.Delete(ctx, "demo", metav1.DeleteOptions{}); !errors.Is(err, errReadOnly) || sent != 0 {
		t.Errorf("a deletion: %v, and %d requests were sent", err, sent)
	}
	_, err = namespaces.Get(ctx, "demo", metav1.GetOptions{})
	_, dryRunErr := namespaces.Create(ctx, namespace, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || dryRunErr != nil || sent != 2 {
		t.Errorf("a question: %v; a dry run: %v; %d requests were sent", err, dryRunErr, sent)
	}
	isReadOnly = false
	if _, err := namespaces.Create(ctx, namespace, metav1.CreateOptions{}); err != nil || sent != 3 {
		t.Errorf("later: %v, and %d requests were sent", err, sent)
	}
}
