package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// node returns one with a boot ID.
func node(name, boot string) corev1.Node {
	status := corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: boot}}
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status}
}

// listed is a NodeLister with an answer. It counts how often it is asked.
type listed struct {
	nodes []corev1.Node
	more  bool
	asked int
}

func (l *listed) List(context.Context, metav1.ListOptions) (*corev1.NodeList, error) {
	l.asked++
	list := &corev1.NodeList{Items: l.nodes}
	if l.more {
		list.Continue = "more"
	}
	return list, nil
}

func TestOwn(t *testing.T) {
	const elsewhere = "0fd5b8d3-0000-0000-0000-000000000000"
	here := bootID()
	if runtime.GOOS == "linux" && here == "" {
		t.Fatal("this kernel has no boot ID")
	}
	one := func(name, boot string) listed { return listed{nodes: []corev1.Node{node(name, boot)}} }
	tunnel := Target{Context: "prod-eu-admin", Server: "http://127.0.0.1:47101"}
	for name, test := range map[string]struct {
		target Target
		served Grounds
		nodes  listed
		want   Grounds
		says   string
	}{
		"a profile": {target: tunnel, served: Grounds{Minikube, "minikube"}, want: Grounds{Minikube, "minikube"}},
		"a profile behind a proxy": {
			target: Target{Context: "minikube", Server: "https://192.168.39.7:8443", Proxy: "http://proxy:3128"},
			served: Grounds{Minikube, "minikube"}, says: "requests to it go through the proxy http://proxy:3128"},
		"this kernel behind a proxy": {
			target: Target{Context: "x", Server: "https://127.0.0.1:1", Proxy: "socks5://127.0.0.1:1080"},
			nodes:  one("a", here), says: "through the proxy socks5://127.0.0.1:1080"},
		"this kernel": {target: tunnel, nodes: one("a", here+"\n"), want: Grounds{BootID, "node a"}},
		"this kernel, beyond loopback": {target: Target{Context: "x", Server: "https://192.0.2.1:6443"},
			nodes: listed{nodes: []corev1.Node{node("a", here), node("b", here)}},
			want:  Grounds{BootID, "all 2 nodes"}},
		"a tunnel": {target: tunnel, nodes: one("ip-10-0-0-1", elsewhere),
			says: `node "ip-10-0-0-1" does not run on this machine's kernel`},
		"one node of two": {target: tunnel, says: `node "b" does not run`,
			nodes: listed{nodes: []corev1.Node{node("a", here), node("b", elsewhere)}}},
		"no boot ID": {target: tunnel, nodes: one("a", ""), says: `node "a" does not run`},
		"no nodes":   {target: tunnel, says: "it has no nodes"},
		"more than it has": {target: tunnel, says: "it has more than 100 nodes",
			nodes: listed{nodes: []corev1.Node{node("a", here)}, more: true}},
		"minikube's name": {target: Target{Context: "minikube", Server: "https://127.0.0.1:47101"},
			nodes: one("minikube", elsewhere), says: `node "minikube" does not run`},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS != "linux" && test.want.Basis == BootID {
				t.Skip("only Linux has a boot ID")
			}
			got, err := ProveOwn(t.Context(), test.target, test.served, &test.nodes)
			var notLocal *NotLocalError
			which := fmt.Sprintf("%q at %s", test.target.Context, test.target.Server)
			switch {
			case test.says == "":
				if err != nil || got != test.want {
					t.Errorf("%v, %v", got, err)
				}
			case got != Grounds{} || !errors.As(err, &notLocal) || !strings.Contains(err.Error(), test.says):
				t.Errorf("%v, %v", got, err)
			case notLocal.Target != test.target || !strings.Contains(err.Error(), which):
				t.Errorf("it does not say which: %v", err)
			}
			if (test.served != Grounds{} || test.target.Proxy != "") && test.nodes.asked > 0 {
				t.Error("the cluster was asked for nothing")
			}
		})
	}
}

func TestDesktop(t *testing.T) {
	for _, test := range []struct {
		context, server, nodes, system string
		want                           string
	}{
		{"docker-desktop", "https://kubernetes.docker.internal:6443", "docker-desktop", "darwin", "Docker Desktop"},
		{"docker-desktop", "https://127.0.0.1:6443/", "docker-desktop", "linux", "Docker Desktop"},
		{"docker-desktop", "https://127.0.0.1:53111", "desktop-control-plane desktop-worker desktop-worker2", "darwin",
			"Docker Desktop"},
		{"rancher-desktop", "https://127.0.0.1:6443", "lima-rancher-desktop", "darwin", "Rancher Desktop"},
		{"orbstack", "https://127.0.0.1:26443", "orbstack", "darwin", "OrbStack"},
		{"colima", "https://127.0.0.1:6443", "colima", "darwin", "Colima"},
		{"colima-work", "https://127.0.0.1:54321", "colima-work", "linux", "Colima"},

		{"docker-desktop", "https://127.0.0.1:6443", "ip-10-0-0-1", "darwin", ""},
		{"docker-desktop", "https://127.0.0.1:6443", "docker-desktop ip-10-0-0-1", "darwin", ""},
		{"docker-desktop", "https://127.0.0.1:47101", "docker-desktop", "darwin", ""},
		{"docker-desktop", "https://192.0.2.1:6443", "docker-desktop", "darwin", ""},
		{"docker-desktop", "https://127.0.0.1:6443/prod", "docker-desktop", "darwin", ""},
		{"prod", "https://127.0.0.1:6443", "docker-desktop", "darwin", ""},
		{"orbstack", "https://127.0.0.1:26443", "orbstack", "linux", ""}, // there is none for it
		{"orbstack", "https://127.0.0.1:6443", "orbstack", "darwin", ""},
		{"colima-work", "https://127.0.0.1:6443", "colima", "darwin", ""},
		{"xcolima", "https://127.0.0.1:6443", "xcolima", "darwin", ""},
	} {
		var nodes []corev1.Node
		for _, name := range strings.Fields(test.nodes) {
			nodes = append(nodes, node(name, "of a virtual machine"))
		}
		if got := desktop(Target{Context: test.context, Server: test.server}, nodes, test.system); got != test.want {
			t.Errorf("%s at %s with %s on %s: %q", test.context, test.server, test.nodes, test.system, got)
		}
	}
}

// What a real API server may answer, through client-go.
func TestOwnAsksTheCluster(t *testing.T) {
	answer, status := "", http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1/nodes" || r.URL.Query().Get("limit") != "100" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (Grounds, error) {
		return ProveOwn(t.Context(), Target{Context: "x", Server: server.URL}, Grounds{}, client.CoreV1().Nodes())
	}
	if here := bootID(); here != "" {
		answer = fmt.Sprintf(`{"kind": "NodeList", "apiVersion": "v1",
			"items": [{"metadata": {"name": "a"}, "status": {"nodeInfo": {"bootID": %q}}}]}`, here)
		if got, err := ask(); err != nil || got != (Grounds{BootID, "node a"}) {
			t.Errorf("%v, %v", got, err)
		}
		t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
		if got, err := ask(); err == nil || !strings.Contains(err.Error(), "runs in a pod") {
			t.Errorf("in a pod: %v, %v", got, err)
		}
		t.Setenv("KUBERNETES_SERVICE_HOST", "")
	}
	answer, status = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
		"message": "nodes is forbidden", "code": 403}`, http.StatusForbidden
	got, err := ask()
	if got != (Grounds{}) || !errors.As(err, new(*NotLocalError)) ||
		!strings.Contains(err.Error(), "its nodes cannot be read: nodes is forbidden") {
		t.Errorf("%v, %v", got, err)
	}
}

func TestGroundsInWords(t *testing.T) {
	for want, grounds := range map[string]Grounds{
		"the minikube profile minikube":            {Minikube, "minikube"},
		"the kind cluster dev":                     {Kind, "dev"},
		"the k3d cluster team":                     {K3d, "team"},
		"the cluster of OrbStack":                  {Desktop, "OrbStack"},
		"runs on this machine's kernel: node a":    {BootID, "node a"},
		"allowed by --allow-context":               {Flag, "--allow-context"},
		"allowed by /settings/devloop/config.yaml": {Settings, "/settings/devloop/config.yaml"},
		"allowed for this folder on 2026-11-29":    {Answer, "2026-11-29"},
	} {
		if got := grounds.String(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
