// Package control is how a running devloop is seen and asked from outside: its socket and its page,
// and the client through which other commands use the socket.
package control

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/devloop/devloop/pkg/event"
)

const (
	Connections = 64       // of the page and of the socket, each: a browser opens six
	HeaderBytes = 16 << 10 // of a request
)

// Server answers on several listeners.
type Server struct {
	say     event.Stage
	servers []*http.Server
	serving sync.WaitGroup
}

// NewServer returns a server that reports to say. Close it.
func NewServer(say event.Stage) *Server { return &Server{say: say} }

// Serve answers on listener until close. What reads or writes slowly, or says nothing, is let go:
// streams and questions set times of their own.
func (s *Server) Serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: HeaderBytes}
	server.ErrorLog = log.New(detail{s.say}, "", 0)
	s.servers = append(s.servers, server)
	s.serving.Go(func() {
		err := s.say.Guard("serve", func() error { return server.Serve(netutil.LimitListener(listener, Connections)) })
		if !errors.Is(err, http.ErrServerClosed) {
			s.say.Warn("devloop no longer answers at "+listener.Addr().String(), err)
		}
	})
}

// Close leaves a second for the last answers.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, server := range s.servers {
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	}
	s.serving.Wait()
}

// detail is where net/http writes what it has to say: standard error is the log's.
type detail struct{ say event.Stage }

func (d detail) Write(line []byte) (int, error) {
	d.say.Detail("server", "says", event.Printable(string(line)))
	return len(line), nil
}

// Request is what may be asked of the loop from outside.
type Request string

const (
	Run    Request = "run"
	Pause  Request = "pause"
	Resume Request = "resume"
)
