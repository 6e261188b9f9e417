// Package web is what devloop shows in a browser, and says to other commands: one page, the State and the log as JSON, and the few things
// that may be asked of the loop.
//
// Where to look: site.go the routes, guard.go who may ask, stream.go how changes get to who watches, metrics.go the figures, assets the
// page itself. It holds nothing that it was not told by the stream: a reload in the middle of a run loses nothing.
package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

//go:embed assets
var assets embed.FS

// Actions are what may be asked of the loop. They must not block.
type Actions struct {
	Rebuild func()
	Pause   func(paused bool)
}

// Question is something that is found out when it is asked, and no earlier. The answer becomes JSON; an error is told as it is.
type Question func(ctx context.Context) (any, error)

// Site is the page of one devloop. Its handlers may be used by several servers.
type Site struct {
	board   *status.Board
	metrics *Metrics
	actions Actions
	say     event.Stage

	token string // lets in who comes over TCP
	// path is of the page: a server at another port of the same host, which is sent the cookies of
	// all, does not know this one's path.
	path  string
	boot  string // sets the numbers of this process's lines apart from those of an earlier one
	ended context.Context
	end   context.CancelFunc

	patience time.Duration // with a reader of a stream that takes nothing
}

// New returns the Site of what is on the board; metrics may be nil. What goes wrong in a handler is
// reported to say.
func New(board *status.Board, metrics *Metrics, actions Actions, say event.Stage) *Site {
	s := &Site{board: board, metrics: metrics, actions: actions, say: say, token: rand.Text(),
		path: "/" + rand.Text() + "/", boot: rand.Text()[:8], patience: patience}
	s.ended, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends all streams, which would otherwise last as long as their readers: http.Server.Shutdown waits for them.
func (s *Site) Close() { s.end() }

// Handler serves browsers, on a loopback listener with this port, and whoever else shows the token.
// Metrics without names are for everybody.
func (s *Site) Handler(port int) http.Handler {
	public := map[string]http.Handler{}
	if s.metrics != nil {
		public[metricsPath] = s.metrics.Handler(false)
	}
	return s.safely(s.guard(port, bodiless(s.routes()), public))
}

// Local serves who may open a socket that belongs to the user alone. Each of the questions is there as /api/ask/ and its name.
func (s *Site) Local(questions map[string]Question) http.Handler {
	mux := s.routes()
	for name, question := range questions {
		mux.HandleFunc("GET /api/ask/"+name, func(w http.ResponseWriter, r *http.Request) {
			found, err := question(r.Context())
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			writeJSON(w, found)
		})
	}
	return s.safely(bodiless(mux))
}

// safely reports a handler that panics, answers that it did, and goes on.
func (s *Site) safely(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(s.path, "/"))
		out := &response{ResponseWriter: w}
		err := s.say.Guard("answer "+path, func() error {
			next.ServeHTTP(out, r)
			return nil
		})
		if err == nil {
			return
		}
		s.say.Warn("a request was not answered", err, "path", path)
		if out.begun { // half of it must not be taken for all
			panic(http.ErrAbortHandler) // which ends the connection, and of which net/http says nothing
		}
		http.Error(w, err.Error()+"; "+event.Hint(err), http.StatusInternalServerError)
	})
}

// response knows whether it has begun.
type response struct {
	http.ResponseWriter
	begun bool
}

func (r *response) WriteHeader(code int) {
	r.begun = true
	r.ResponseWriter.WriteHeader(code)
}

func (r *response) Write(data []byte) (int, error) {
	r.begun = true
	return r.ResponseWriter.Write(data)
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// bodiless refuses requests with a body, which nothing here takes.
func bodiless(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			refuse(w, http.StatusRequestEntityTooLarge, "devloop takes no request with a body")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Site) routes() *http.ServeMux {
	mux := http.NewServeMux()
	files, _ := fs.ReadDir(assets, "assets") // embedded: it is there
	for _, file := range files {
		at := "/" + file.Name()
		if at == "/index.html" {
			at = "/{$}"
		}
		mux.Handle("GET "+at, asset(file.Name()))
	}
	mux.HandleFunc("GET /api/state", s.state)
	slots := make(chan struct{}, streams)
	mux.HandleFunc("GET /api/stream", limited(slots, s.stream))
	mux.HandleFunc("GET /api/events", limited(slots, s.events))
	mux.HandleFunc("POST /api/rebuild", act(func() { s.actions.Rebuild() }))
	mux.HandleFunc("POST /api/pause", act(func() { s.actions.Pause(true) }))
	mux.HandleFunc("POST /api/resume", act(func() { s.actions.Pause(false) }))
	if s.metrics != nil {
		mux.Handle("GET "+metricsPath, s.metrics.Handler(true))
	}
	return mux
}

const metricsPath = "/metrics"

func act(action func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		action()
		w.WriteHeader(http.StatusNoContent)
	}
}

// asset serves an embedded file. Browsers ask each time whether it is still the same: a newer devloop may have the same address.
func asset(name string) http.Handler {
	content, _ := assets.ReadFile(path.Join("assets", name)) // embedded: it is there
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(content))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	})
}

func (s *Site) state(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.board.State()) }

func writeJSON(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n'))
}
