package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
)

// away returns the error of a Ping.
func away(t *testing.T, c *Cluster) *AwayError {
	t.Helper()
	var found *AwayError
	if err := c.Ping(t.Context()); !errors.As(err, &found) {
		t.Fatalf("%v", err)
	}
	return found
}

// TestAnotherClusterInItsPlace: its API server has the same address and certificate, as after a
// virtual machine was recreated.
func TestAnotherClusterInItsPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	uid := "one"
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/version" {
			_, _ = w.Write([]byte(`{"gitVersion":"v1.34.3"}`))
			return
		}
		_ = json.NewEncoder(w).Encode(&corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: types.UID(uid)}})
	}))
	t.Cleanup(s.Close)
	writeKubeconfig(t, path, s, "", "token")
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	uid = "two"
	found := away(t, cluster)
	if found.State != event.ClusterReplaced || event.IsTransient(found) ||
		!errors.Is(found, ErrOtherCluster) || !strings.HasPrefix(found.Hint(), "start devloop again") {
		t.Errorf("%+v", found)
	}
	if _, err := cluster.CurrentConfig(t.Context()); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("the forwards would go there: %v", err)
	}
	_, err = cluster.Client.CoreV1().Pods("a").List(t.Context(), metav1.ListOptions{})
	if !errors.Is(err, ErrOtherCluster) {
		t.Errorf("it is still asked: %v", err)
	}
}

// TestWhatTheMachinesSay: the state is theirs, if they have one, and else the error's.
func TestWhatTheMachinesSay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	s := apiServer(t, "one", "token")
	writeKubeconfig(t, path, s, "", "token")
	cluster, err := Connect(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	const silent = `kube context "minikube": its API server https://127.0.0.1:`
	for _, test := range []struct {
		seen           event.Cluster
		state          event.ClusterState
		prefix, suffix string
		hint           string
		mayReturn      bool
	}{
		{event.Cluster{State: event.ClusterStopped, Reason: "it is stopped", Hint: "minikube start"},
			event.ClusterStopped, `kube context "minikube": it is stopped`, "", "minikube start", true},
		{event.Cluster{State: event.ClusterPaused, Reason: "it is paused", Hint: "minikube unpause"},
			event.ClusterPaused, `kube context "minikube": it is paused`, "", "minikube unpause", true},
		{event.Cluster{State: event.ClusterDeleted, Reason: "it is deleted", Hint: "minikube start makes a new one"},
			event.ClusterDeleted, `kube context "minikube": it is deleted`, "", "minikube start makes a new one", false},
		{event.Cluster{Reason: "node n runs, its API server does not", Hint: "minikube logs"},
			event.ClusterUnreachable, silent, "connection refused; node n runs, its API server does not", "minikube logs", true},
		{event.Cluster{}, event.ClusterUnreachable, silent, "connection refused",
			"see whether it runs, or choose another context: --kube-context", true},
	} {
		cluster.Machines = func(context.Context) event.Cluster { return test.seen }
		err := cluster.Ping(t.Context())
		var found *AwayError
		if !errors.As(err, &found) || found.State != test.state || event.IsTransient(err) != test.mayReturn ||
			event.Hint(err) != test.hint || !strings.HasPrefix(err.Error(), test.prefix) ||
			!strings.HasSuffix(err.Error(), test.suffix) {
			t.Errorf("%+v: %v (%s)", test.seen, err, event.Hint(err))
		}
	}
	select {
	case <-cluster.Trouble():
	default:
		t.Error("nobody learns that requests get no answer")
	}
}

// certificate returns a certificate that is its own authority.
func certificate(t *testing.T, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-time.Hour), NotAfter: until, IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	made, err := x509.CreateCertificate(rand.Reader, &of, &of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{made}, PrivateKey: key}
}

// TestWhatTheErrorSays: of an API server that cannot be used, a hint names what was looked at.
func TestWhatTheErrorSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	connect := func() error {
		_, err := Connect(t.Context(), "")
		return err
	}
	check := func(what string, err error, text, hint string) {
		t.Helper()
		var found *AwayError
		if !errors.As(err, &found) || found.State != event.ClusterUnreachable || !strings.Contains(err.Error(), text) ||
			!strings.Contains(event.Hint(err), hint) {
			t.Errorf("%s: %v (%s)", what, err, event.Hint(err))
		}
	}
	s := apiServer(t, "one", "token")
	writeKubeconfig(t, path, s, "", "another")
	check("another token", connect(), "refuses the kubeconfig's credentials", "log in again")

	writeKubeconfig(t, path, s, "", "token")
	changed := func(change func(server *string, proxy *string)) {
		t.Helper()
		config, err := clientcmd.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cluster := config.Clusters["minikube"]
		change(&cluster.Server, &cluster.ProxyURL)
		if err := clientcmd.WriteToFile(*config, path); err != nil {
			t.Fatal(err)
		}
	}
	changed(func(server, _ *string) { *server = "https://no-such-host.invalid:8443" })
	check("no such host", connect(), "no-such-host.invalid", "")

	changed(func(server, proxy *string) { *server, *proxy = "https://192.0.2.1:8443", "http://127.0.0.1:1" })
	check("a proxy of the kubeconfig", connect(),
		"go through the proxy http://127.0.0.1:1, by proxy-url in the kubeconfig", "remove proxy-url")

	expired := httptest.NewUnstartedServer(http.NotFoundHandler())
	made := certificate(t, time.Now().Add(-48*time.Hour))
	expired.TLS = &tls.Config{Certificates: []tls.Certificate{made}}
	expired.StartTLS()
	t.Cleanup(expired.Close)
	writeKubeconfig(t, path, expired, "", "token")
	check("an old certificate", connect(), "expired on "+time.Now().Add(-48*time.Hour).UTC().Format(time.DateOnly),
		"this machine's clock")

	other := httptest.NewUnstartedServer(http.NotFoundHandler())
	other.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(time.Hour))}}
	other.StartTLS()
	t.Cleanup(other.Close)
	writeKubeconfig(t, path, s, "", "token")
	changed(func(server, _ *string) { *server = other.URL })
	check("another authority", connect(), "is not signed by the kubeconfig's authority", "write the kubeconfig again")

	early := httptest.NewUnstartedServer(http.NotFoundHandler())
	early.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(48*time.Hour))}}
	early.StartTLS()
	t.Cleanup(early.Close)
	writeKubeconfig(t, path, early, "", "token")
	check("a clock that is late", connect(), "is valid only from", "this machine's clock says")

	writeKubeconfig(t, path, s, "", "token")
	changed(func(server, _ *string) { *server = strings.Replace(*server, "127.0.0.1", "localhost", 1) })
	check("another name", connect(), "is for another name: ", "tls-server-name")

	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	writeKubeconfig(t, path, s, "", "token")
	changed(func(server, _ *string) { *server = strings.Replace(plain.URL, "http://", "https://", 1) })
	check("no HTTPS", connect(), "does not speak HTTPS", "another program")

	strict := httptest.NewUnstartedServer(http.NotFoundHandler())
	strict.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}
	strict.StartTLS()
	t.Cleanup(strict.Close)
	writeKubeconfig(t, path, strict, "", "token")
	check("no client certificate", connect(), "refuses the connection: tls: certificate required", "log in again")

	forbidding := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
			"message": "namespaces \"kube-system\" is forbidden"}`))
	}))
	t.Cleanup(forbidding.Close)
	writeKubeconfig(t, path, forbidding, "", "token")
	check("no right", connect(), `answers: namespaces "kube-system" is forbidden`, "have the context's user allowed")
}

// TestNoCredentials: an API server that was not asked is not said to be silent.
func TestNoCredentials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", path)
	writeKubeconfig(t, path, apiServer(t, "one", "token"), "", "token")
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Token = ""
		user.Exec = &clientcmdapi.ExecConfig{Command: "no-such-login", APIVersion: "client.authentication.k8s.io/v1",
			InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
	}
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	_, err = Connect(t.Context(), "")
	if err == nil || !strings.Contains(err.Error(), "was not asked: getting credentials: ") ||
		!strings.HasSuffix(event.Hint(err), "gives the kubeconfig's credentials: no-such-login") {
		t.Errorf("%v (%s)", err, event.Hint(err))
	}
}

// TestProxyHint: what the environment says is read once in a process, so only the words are tested.
func TestProxyHint(t *testing.T) {
	t.Setenv("NO_PROXY", "localhost,10.0.0.0/8")
	c := &Cluster{Server: "https://192.168.49.2:8443",
		target: Target{Server: "https://192.168.49.2:8443", Proxy: "http://proxy.lan:3128", ProxyFrom: "HTTPS_PROXY"}}
	found := c.unreachable(event.Transient(errors.New("Bad Gateway")))
	const reason = "its API server https://192.168.49.2:8443 does not answer: Bad Gateway; requests to it go through " +
		"the proxy http://proxy.lan:3128, by HTTPS_PROXY"
	const hint = "if it is reached without the proxy, add it to NO_PROXY: " +
		"export NO_PROXY=localhost,10.0.0.0/8,192.168.49.2"
	if found.Reason != reason || found.Hint != hint {
		t.Errorf("%+v", found)
	}
}
