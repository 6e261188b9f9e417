package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// Whether a run is retried depends on what an error is. A file that cannot be read is no failure of
// the network, though syscall.Errno implements net.Error.
func TestTransient(t *testing.T) {
	dir := t.TempDir()
	lock := filepath.Join(dir, ".#values.yaml") // Emacs'
	if err := os.Symlink("user@host.1:2", lock); err != nil {
		t.Fatal(err)
	}
	_, dangling := files.Read(lock, 1)
	_, missing := os.Open(filepath.Join(dir, "none"))
	answer := func(status int) error {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(s.Close)
		client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.CoreV1().Pods("a").Create(t.Context(), nil, metav1.CreateOptions{})
		return fmt.Errorf("release a: %w", err)
	}
	for name, test := range map[string]struct {
		err    error
		passes bool
	}{
		"a link to nothing":      {dangling, false},
		"a missing file":         {missing, false},
		"one without permission": {&os.PathError{Op: "open", Path: "/a", Err: syscall.EACCES}, false},
		"a full disk":            {&os.PathError{Op: "write", Path: "/a", Err: syscall.ENOSPC}, false},
		"an answer 500":          {answer(500), true},
		"an answer 503":          {answer(503), true},
		"an answer 504":          {answer(504), true},
		"an answer 429":          {answer(429), true},
		"an answer 404":          {answer(404), false},
		"one of several":         {errors.Join(errors.New("b"), answer(503)), true},
		"a server that starts":   {apierrors.NewForbidden(pods, "a", errors.New(startingUp)), true},
		"a quota":                {apierrors.NewForbidden(pods, "a", errors.New("exceeded quota")), false},
		"a chart that names it":  {errors.New("chart x: " + unreachable[0]), false},
		"a pod that printed it":  {errors.New("pod a-1: " + unreachable[0]), false},
		"an expired certificate": {errors.New("x509: certificate has expired"), false},
	} {
		if got := event.IsTransient(markBusy(test.err)); got != test.passes {
			t.Errorf("%s: %t (%v)", name, got, test.err)
		}
	}
}

// Helm makes text of some errors.
func TestTransientOfHelm(t *testing.T) {
	refused := errors.New("Get \"https://192.0.2.1\": dial tcp 192.0.2.1:8443: connect: connection refused")
	for name, test := range map[string]struct {
		err    error
		passes bool
	}{
		"the API server is away": {errors.New("pre-upgrade hooks failed: " + refused.Error()), true},
		"Helm's list of one":     {errors.New("1 error occurred:\n\t* Get \"https://192.0.2.1\": i/o timeout\n\n"), true},
		"late": {errors.New("hooks failed: " +
			fmt.Errorf("Get %q: %w", "https://192.0.2.1", context.DeadlineExceeded).Error()), true},
		"a hook that takes too long": {errors.New("timed out waiting for the condition"), false},
		"a failed hook":              {errors.New("job failed: BackoffLimitExceeded"), false},
	} {
		marked := markHelm(test.err)
		report := event.WithHint(fmt.Errorf("%w\n%s", withoutListFrame(marked), "first try: connection refused"), "fix it")
		if got := event.IsTransient(errors.Join(report, nil)); got != test.passes {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestTransientDownloads(t *testing.T) {
	serve := func(handle http.HandlerFunc) string {
		s := httptest.NewServer(handle)
		t.Cleanup(s.Close)
		return s.URL
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	unknown := httptest.NewTLSServer(nil)
	t.Cleanup(unknown.Close)
	for name, test := range map[string]struct {
		url    string
		passes bool
	}{
		"nothing listens": {gone.URL, true},
		"busy": {serve(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}), true},
		"cut off": {serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("x"))
		}), true},
		"not there":       {serve(http.NotFound), false},
		"its certificate": {unknown.URL, false},
	} {
		_, err := download(t.Context(), test.url, "")
		if err == nil || event.IsTransient(err) != test.passes {
			t.Errorf("%s: %t (%v)", name, event.IsTransient(err), err)
		}
	}
	for status, passes := range map[int]bool{http.StatusBadGateway: true, http.StatusTooManyRequests: true,
		http.StatusNotFound: false} {
		registry := serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		_, err := pullChart(t.Context(), "oci"+strings.TrimPrefix(registry, "http")+"/demo:1.0.0")
		if err == nil || event.IsTransient(err) != passes {
			t.Errorf("a registry that answers %d: %t (%v)", status, event.IsTransient(err), err)
		}
	}
}

// What doctor looks at is asked for as it would be downloaded.
func TestReachable(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	settings := filepath.Join(t.TempDir(), "repositories.yaml")
	t.Setenv("HELM_REPOSITORY_CONFIG", settings)
	if err := Reachable(t.Context(), s.URL+"/index.yaml", s.URL); err == nil {
		t.Error("without a login")
	}
	text := "repositories: [{name: ours, url: " + s.URL + ", username: me, password: secret}]\n"
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Reachable(t.Context(), s.URL+"/index.yaml", s.URL); err != nil {
		t.Error(err)
	}
}
