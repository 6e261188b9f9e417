package kube

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestReadContextReturnsTheProxy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	write := func(proxy string) {
		t.Helper()
		text := "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n" +
			"clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'" + proxy + "}}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for proxy, want := range map[string]string{
		"":                                       "",
		", proxy-url: 'socks5://127.0.0.1:1080'": "socks5://127.0.0.1:1080",
		", proxy-url: 'http://me:password@proxy.lan:3128'": "http://me:xxxxx@proxy.lan:3128",
	} {
		write(proxy)
		got, err := ReadContext("")
		from := ""
		if want != "" {
			from = proxyURL
		}
		if want := (Target{"c", "https://192.0.2.1:6443", want, from}); err != nil || got != want {
			t.Errorf("%q: %+v, %v", proxy, got, err)
		}
	}
	write(", proxy-url: '://'")
	if got, err := ReadContext(""); err == nil || !strings.Contains(err.Error(), `kube context "c": proxy: `) {
		t.Errorf("%+v, %v", got, err)
	}
}

// The target that was read is connected to: another server that has the name by now gets no
// request.
func TestConnectToRefusesAnotherServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	writeKubeconfig(t, path, apiServer(t, "one", "token"), "", "token")
	target, err := ReadContext("")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := ConnectTo(t.Context(), target, nil)
	if err != nil || cluster.UID != "one" || cluster.Context != "minikube" || cluster.Server != target.Server {
		t.Errorf("%+v, %v", cluster, err)
	}
	asked := false
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(other.Close)
	writeKubeconfig(t, path, other, "", "token")
	cluster, err = ConnectTo(t.Context(), target, nil)
	if err == nil || !strings.Contains(err.Error(), "start it again") || asked {
		t.Errorf("%+v, %v, asked: %t", cluster, err, asked)
	}
	writeKubeconfig(t, path, apiServer(t, "one", "token"), "", "token")
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if target, err = ReadContext(""); err != nil {
		t.Fatal(err)
	}
	config.Clusters["minikube"].ProxyURL = other.URL
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	if cluster, err := ConnectTo(t.Context(), target, nil); err == nil || asked {
		t.Errorf("now behind a proxy: %+v, %v, asked: %t", cluster, err, asked)
	}
}
