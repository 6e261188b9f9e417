package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
)

// What is cut off may pass. That a file or a program is missing does not.
func TestTransientErrorsOfTheConnection(t *testing.T) {
	serve := func(handle http.HandlerFunc) string {
		s := httptest.NewServer(handle)
		t.Cleanup(s.Close)
		return s.URL
	}
	cut := func(beforeThat string) string {
		return serve(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = fmt.Fprint(conn, beforeThat)
				_ = conn.Close()
			}
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "https://" + listener.Addr().String()
	_ = listener.Close()
	silent := serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	noPlugin := &clientcmdapi.ExecConfig{Command: filepath.Join(t.TempDir(), "none"),
		APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode}

	for name, test := range map[string]struct {
		config rest.Config
		ctx    context.Context //nolint:containedctx // of the request
		passes bool
	}{
		"nothing listens":           {rest.Config{Host: closed}, t.Context(), true},
		"cut off before it answers": {rest.Config{Host: cut("")}, t.Context(), true},
		"cut off in its answer": {rest.Config{Host: cut("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" +
			"Content-Length: 100\r\n\r\n{")}, t.Context(), true},
		"no answer in time":     {rest.Config{Host: silent}, t.Context(), true},
		"the request is ended":  {rest.Config{Host: silent}, canceled, false},
		"no credentials plugin": {rest.Config{Host: silent, ExecProvider: noPlugin}, t.Context(), false},
		"refused":               {rest.Config{Host: serve(http.NotFound)}, t.Context(), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.config.WrapTransport = newNetwork
			inner, err := rest.TransportFor(&test.config)
			if err != nil {
				t.Fatal(err)
			}
			client, err := kubernetes.NewForConfig(&rest.Config{Host: test.config.Host, Transport: bounded{inner, time.Second}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.CoreV1().Pods("a").Create(test.ctx, nil, metav1.CreateOptions{}) // not sent twice
			if err == nil || event.IsTransient(err) != test.passes {
				t.Errorf("%t: %v", event.IsTransient(err), err)
			}
		})
	}

	_, missing := os.Open(filepath.Join(t.TempDir(), "none"))
	if errors.As(missing, new(net.Error)) == event.IsTransient(missing) {
		t.Error("a missing file looks like a failure of the network, and must not be taken for one")
	}
}

// A GET whose connection ends is sent again by client-go, though the error is wrapped.
func TestGetIsRepeated(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = conn.Close()
			}
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`))
	}))
	t.Cleanup(s.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL, Transport: newNetwork(http.DefaultTransport)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), "a", metav1.GetOptions{}); err != nil || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}
