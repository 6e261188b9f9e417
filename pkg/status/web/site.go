// Package web serves devloop's page in a browser, its State and log as JSON, its metrics, and the
// few actions that a user may ask of the loop.
//
// Where to look: site.go has the routes, guard.go who may ask, stream.go how changes reach readers,
// metrics.go the metrics, assets the page itself. The page knows only what the stream sends: a
// reload in the middle of a run loses nothing.
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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

//go:embed assets
var assets embed.FS

// Actions are what a user may ask of the loop. They must not block.
type Actions struct {
	Rebuild        func()
	RebuildRelease func(name string)
	Pause          func(paused bool)
}

// Question finds something out when it is asked. The answer becomes JSON, an error its text.
type Question func(ctx context.Context) (any, error)

// Site is the page of one devloop. Its handlers may be used by several servers.
type Site struct {
	board   *status.Board
	metrics *Metrics
	actions Actions
	stage   event.Stage

	token string // that requests over TCP have to show
	// path is the page's, and random: a server at another port of the same host gets the cookies of
	// all ports, and must not know it.
	path  string
	boot  string // identifies this process in the numbers of lines
	ended context.Context
	end   context.CancelFunc

	writeTimeout time.Duration // for a write to a reader of a stream

	mu      sync.Mutex
	tickets map[string]time.Time // that nobody has used yet, and when they end
}

// New returns the Site of a board; metrics may be nil. Handlers report failures to stage.
func New(board *status.Board, metrics *Metrics, actions Actions, stage event.Stage) *Site {
	s := &Site{board: board, metrics: metrics, actions: actions, stage: stage, token: rand.Text(),
		path: "/" + rand.Text() + "/", boot: rand.Text()[:8], writeTimeout: writeTimeout,
		tickets: map[string]time.Time{}}
	s.ended, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends all streams: http.Server.Shutdown would wait for their readers.
func (s *Site) Close() { s.end() }

// Handler serves browsers and other clients with the token, on a loopback listener with this port.
// Metrics without names need no token.
func (s *Site) Handler(port int) http.Handler {
	public := map[string]http.Handler{}
	if s.metrics != nil {
		public[metricsPath] = s.metrics.Handler(false)
	}
	return s.recovering(s.guard(port, withoutBody(s.routes()), public))
}

// Local serves a socket that only the user may open. A question is at /api/ask/ and its name.
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
	return s.recovering(withoutBody(mux))
}

// recovering reports a handler that panics, answers that it did, and goes on.
func (s *Site) recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(s.path, "/"))
		out := &response{ResponseWriter: w}
		err := s.stage.Guard("answer "+path, func() error {
			next.ServeHTTP(out, r)
			return nil
		})
		if err == nil {
			return
		}
		s.stage.Warn("a request was not answered", err, "path", path)
		if out.begun { // a client must not take half of it for all
			panic(http.ErrAbortHandler) // net/http ends the connection and logs nothing
		}
		http.Error(w, err.Error()+"; "+event.Hint(err), http.StatusInternalServerError)
	})
}

// response knows whether its header was written.
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

// withoutBody refuses requests with a body: no route takes one.
func withoutBody(next http.Handler) http.Handler {
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
	slots := make(chan struct{}, maxStreams)
	mux.HandleFunc("GET /api/stream", withLimit(slots, s.stream))
	mux.HandleFunc("GET /api/events", withLimit(slots, s.events))
	mux.HandleFunc("POST /api/rebuild", act(func() { s.actions.Rebuild() }))
	mux.HandleFunc("POST /api/rebuild/{release}", s.rebuildRelease)
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

// rebuildRelease asks for a run of one release of devloop.yaml.
func (s *Site) rebuildRelease(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("release")
	var known []string
	for _, release := range s.board.State().Releases {
		known = append(known, release.Name)
	}
	if !slices.Contains(known, name) {
		there := "there are none"
		if len(known) > 0 {
			there = "there are: " + strings.Join(known, ", ")
		}
		http.Error(w, fmt.Sprintf("no release is called %.64q; %s", name, there), http.StatusNotFound)
		return
	}
	s.actions.RebuildRelease(name)
	w.WriteHeader(http.StatusNoContent)
}

// asset serves an embedded file. Browsers revalidate it each time: a newer devloop may have the
// same address.
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
