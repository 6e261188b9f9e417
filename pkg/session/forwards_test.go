package session

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
)

// Whoever answers in the cluster may name any address: it is not asked.
func TestNoRedirectIsFollowed(t *testing.T) {
	var strayed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		strayed.Add(1)
		_, _ = w.Write([]byte(`{"cluster_options":[{"field":"image","default":"worker:1","spec":{"type":"string"}}]}`))
	}))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, code))
		defer server.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := untilAnswers(ctx, server.URL)
		if err == nil || !strings.Contains(err.Error(), "leads to "+elsewhere.URL) ||
			!strings.Contains(event.Hint(err), "redirect") {
			t.Errorf("%d: %v, %q", code, err, event.Hint(err))
		}
		if image, why, err := dask.DefaultImage(t.Context(), server.URL); err == nil || event.Hint(err) == "" || image != "" {
			t.Errorf("%d: the gateway says %q, %q, %v", code, image, why, err)
		}
	}
	if n := strayed.Load(); n > 0 {
		t.Errorf("another server was asked %d times", n)
	}
}

func TestAnswerWithoutEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(strings.Repeat("a", 1<<16))); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	if err := untilAnswers(t.Context(), server.URL); err != nil {
		t.Error(err)
	}
}

func TestNotReady(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := untilAnswers(ctx, server.URL); err == nil || !strings.Contains(err.Error(), "does not answer with 200") {
		t.Errorf("304 is an answer: %v", err)
	}
}

// TestForwardStaysOpen: an address is not closed for what an open forward can change.
func TestForwardStaysOpen(t *testing.T) {
	c := &config.Config{Forwards: []config.Forward{{Service: "web", Namespace: "apps", Port: "80", Hold: time.Second}}}
	f, err := bind(t.Context(), c, func(event.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.close() }()
	before := f.list[0].bound
	f.list[0].stop = func() { t.Error("it is stopped") }
	for _, changed := range []config.Forward{
		{Service: "web", Namespace: "apps", Port: "80", Hold: time.Minute},
		{Service: "web", Namespace: "apps", Port: "80", Hold: time.Minute, Ready: "/health"},
	} {
		if err := f.reconcile(&config.Config{Forwards: []config.Forward{changed}}); err != nil {
			t.Fatal(err)
		}
		if now := f.list[0]; now.bound != before || now.Forward != changed {
			t.Errorf("%+v is another forward, or has %+v", changed, now.Forward)
		}
	}
}
