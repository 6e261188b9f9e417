package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/test/proxy"
)

// apiServer answers what Connect and verify ask, to requests with the token. It does so below a
// path, too, as behind a reverse proxy.
func apiServer(t *testing.T, uid, token string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(path string, what any) {
		handle := func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+token {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(what) // the client says what is wrong
		}
		mux.HandleFunc("GET "+path, handle)
		mux.HandleFunc("GET /proxied"+path, handle)
	}
	answer("/api/v1/namespaces/kube-system", &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: types.UID(uid)},
	})
	answer("/version", map[string]string{"gitVersion": "v1.34.3"})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

// writeKubeconfig writes a kubeconfig, and the server's certificate to a file that it names.
func writeKubeconfig(t *testing.T, path string, s *httptest.Server, below, token string) {
	t.Helper()
	ca := filepath.Join(filepath.Dir(path), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["minikube"] = &clientcmdapi.Cluster{Server: s.URL + below, CertificateAuthority: ca}
	c.AuthInfos["minikube"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["minikube"] = &clientcmdapi.Context{Cluster: "minikube", AuthInfo: "minikube"}
	c.CurrentContext = "minikube"
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
}

// Connect is ConnectTo for a context, without a look at its machines.
func Connect(ctx context.Context, kubeContext string) (*Cluster, error) {
	target, err := ReadContext(kubeContext)
	if err != nil {
		return nil, err
	}
	return ConnectTo(ctx, target, nil)
}

func TestConnectionFollowsTheKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	first := apiServer(t, "one", "old")
	writeKubeconfig(t, path, first, "/proxied", "old")
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := cluster.Client.CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	before, err := cluster.CurrentConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	// Another context is selected: nothing changes, not even the connections.
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if same, err := cluster.CurrentConfig(t.Context()); err != nil || same != before {
		t.Errorf("a new endpoint without a change (%v)", err)
	}

	// A restart: another port, another certificate, another token. The old server is still there,
	// and knows nothing of it.
	restarted := apiServer(t, "one", "new")
	writeKubeconfig(t, path, restarted, "", "new")
	if err := ask(); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	if now, err := cluster.CurrentConfig(t.Context()); err != nil || now == before || now.Host != restarted.URL {
		t.Errorf("after the restart: %v (%v)", now, err)
	}

	// While the file cannot be read, and while nothing answers yet, the last endpoint counts.
	if err := os.WriteFile(path, []byte("clusters: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Errorf("half written: %v", err)
	}
	starting := apiServer(t, "one", "new")
	starting.Close()
	writeKubeconfig(t, path, starting, "", "new")
	if err := ask(); err != nil {
		t.Errorf("while the new one starts: %v", err)
	}

	// The same name, but another cluster: nothing may be done there.
	writeKubeconfig(t, path, apiServer(t, "two", "new"), "", "new")
	if err := ask(); !errors.Is(err, ErrOtherCluster) || !strings.Contains(err.Error(), `kube context "minikube"`) {
		t.Errorf("another cluster: %v", err)
	}
	if _, err := cluster.CurrentConfig(t.Context()); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("another cluster: %v", err)
	}
	writeKubeconfig(t, path, restarted, "", "new")
	if err := ask(); err != nil {
		t.Errorf("back at the first: %v", err)
	}
}

// "minikube delete" and "minikube start" may give another cluster the same address, and a
// certificate authority that knows the old credentials. Nothing may reach it, also while it starts
// and cannot yet say which one it is.
func TestConnectionLeavesAnotherClusterAtTheSameAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	var now atomic.Pointer[http.Handler]
	serve := func(h http.Handler) { now.Store(&h) }
	serve(apiServer(t, "one", "token").Config.Handler)
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*now.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	writeKubeconfig(t, path, front, "", "token")
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var written atomic.Int32
	other := apiServer(t, "two", "token").Config.Handler
	starting := false
	serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			written.Add(1)
		case starting:
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		other.ServeHTTP(w, r)
	}))
	for _, starting = range []bool{true, false} {
		writeKubeconfig(t, path, front, "", fmt.Sprintf("token of a cluster that is starting: %t", starting))
		for range 3 {
			namespaces := cluster.Client.CoreV1().Namespaces()
			if _, err := namespaces.Create(t.Context(), &corev1.Namespace{}, metav1.CreateOptions{}); err == nil {
				t.Error("the other cluster was written to")
			}
		}
	}
	if n := written.Load(); n > 0 {
		t.Errorf("%d requests reached the other cluster", n)
	}
}

func TestConnectionThroughAProxy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	server := apiServer(t, "one", "token")
	var tunnels atomic.Int32
	proxyURL := proxy.Start(t, func(host string) string {
		tunnels.Add(1)
		return host
	})
	write := func() {
		writeKubeconfig(t, path, server, "", "token")
		c, err := clientcmd.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c.Clusters["minikube"].ProxyURL = proxyURL
		if err := clientcmd.WriteToFile(*c, path); err != nil {
			t.Fatal(err)
		}
	}
	write()
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	before, err := cluster.CurrentConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if now, err := cluster.CurrentConfig(t.Context()); err != nil || now != before {
		t.Errorf("a new endpoint without a change (%v)", err)
	}
	if tunnels.Load() == 0 {
		t.Error("the proxy was not asked")
	}
}

// hanging passes requests to next, but delays those of a path until release is closed.
type hanging struct {
	path    string
	next    http.Handler
	asked   chan struct{} // receives one for each delayed request
	release chan struct{}
	waiting atomic.Bool // requests are delayed at all
}

func (h *hanging) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.waiting.Load() && r.URL.Path == h.path {
		h.asked <- struct{}{}
		<-h.release
	}
	h.next.ServeHTTP(w, r)
}

func newHanging(path string, next http.Handler) *hanging {
	return &hanging{path: path, next: next, asked: make(chan struct{}, 100), release: make(chan struct{})}
}

// A run that is superseded while the cluster's identity is verified fails no other request, least
// of all a Helm write.
func TestVerificationOutlivesItsRequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	front := newHanging("/api/v1/namespaces/kube-system", apiServer(t, "one", "old").Config.Handler)
	server := httptest.NewTLSServer(front)
	t.Cleanup(server.Close)
	writeKubeconfig(t, path, server, "", "old")
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	front.next = apiServer(t, "one", "another").Config.Handler
	front.waiting.Store(true)
	writeKubeconfig(t, path, server, "", "another")

	run, supersede := context.WithCancelCause(t.Context())
	first, write, left := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	ask := func(ctx context.Context, result chan error) {
		_, err := discovery.ToDiscoveryInterfaceWithContext(cluster.Client.Discovery()).ServerVersionWithContext(ctx)
		result <- err
	}
	go ask(run, first)
	<-front.asked // the run's request starts the verification
	go ask(t.Context(), write)
	supersede(event.ErrSuperseded)
	if err := <-first; !errors.Is(err, event.ErrSuperseded) && !errors.Is(err, context.Canceled) {
		t.Errorf("the run's request ends with %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	go ask(short, left)
	if err := <-left; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request that cannot wait ends with %v", err)
	}
	close(front.release)
	if err := <-write; err != nil {
		t.Errorf("the Helm write fails: %v", err)
	}
	if now, err := cluster.CurrentConfig(t.Context()); err != nil || now.BearerToken != "another" {
		t.Errorf("the connection has %v (%v)", now, err)
	}
}

func TestClusterWithoutAnIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	writeKubeconfig(t, path, apiServer(t, "", "a"), "", "a")
	if _, err := Connect(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no UID") {
		t.Errorf("%v", err)
	}
}

// The same for discovery, whose answer all requests share.
func TestDiscoveryOutlivesItsRequest(t *testing.T) {
	type object = map[string]any
	mux := http.NewServeMux()
	answer := func(path string, what any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(what)
		})
	}
	answer("/version", object{"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
	answer("/api", object{"kind": "APIVersions", "versions": []string{}})
	v1 := object{"groupVersion": "example.test/v1", "version": "v1"}
	answer("/apis", object{"kind": "APIGroupList", "apiVersion": "v1",
		"groups": []object{{"name": "example.test", "versions": []object{v1}, "preferredVersion": v1}}})
	answer("/apis/example.test/v1", object{"kind": "APIResourceList", "groupVersion": "example.test/v1",
		"resources": []object{{"name": "things", "kind": "Thing", "namespaced": true, "verbs": []string{"get"}}}})
	front := newHanging("/apis/example.test/v1", mux)
	front.waiting.Store(true)
	server := httptest.NewServer(front)
	t.Cleanup(server.Close)
	plain, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.RESTClient().(*rest.RESTClient).Client.CloseIdleConnections)
	cached := memory.NewMemCacheClient(plain)
	cluster := &Cluster{Discovery: cached, Mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached)}

	run, supersede := context.WithCancelCause(t.Context())
	first, write := make(chan error, 1), make(chan error, 1)
	ask := func(ctx context.Context, result chan error) {
		able, err := cluster.Capabilities(ctx)
		if err == nil && !able.APIVersions.Has("example.test/v1/Thing") {
			err = fmt.Errorf("it knows %v", able.APIVersions)
		}
		result <- err
	}
	go ask(run, first)
	<-front.asked
	go ask(t.Context(), write)
	supersede(event.ErrSuperseded)
	if err := <-first; !errors.Is(err, event.ErrSuperseded) {
		t.Errorf("the run's question ends with %v", err)
	}
	close(front.release)
	if err := <-write; err != nil {
		t.Errorf("the Helm write gets: %v", err)
	}
	go ask(t.Context(), write)
	if err := <-write; err != nil {
		t.Errorf("a later request gets: %v", err)
	}
}

// A hook reaches the verified cluster, though its context leads elsewhere by now.
func TestKubeconfigOfTheVerifiedCluster(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	known := apiServer(t, "one", "old")
	writeKubeconfig(t, path, known, "", "old")
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	silent := newHanging("/api/v1/namespaces/kube-system", http.NotFoundHandler())
	silent.waiting.Store(true)
	elsewhere := httptest.NewTLSServer(silent)
	t.Cleanup(elsewhere.Close)
	t.Cleanup(func() { close(silent.release) })
	writeKubeconfig(t, path, elsewhere, "", "another")

	runtime := t.TempDir()
	file, remove, err := cluster.WriteKubeconfig(t.Context(), func() (string, error) { return runtime, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		known.URL: true, "token: old": true, "certificate-authority-data": true, elsewhere.URL: false,
	} {
		if got := strings.Contains(string(content), text); got != want {
			t.Errorf("%q is in it: %t\n%s", text, got, content)
		}
	}
}
