package control

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/pkg/status/web"
)

// ticket is the question for what lets a browser in.
const ticket = "ticket"

const (
	connections = 64       // of the page and of the socket, each: a browser opens six
	headerBytes = 16 << 10 // of a request
	usualPort   = 10360    // of the page, unless it is taken
)

// Request is what the user asks of the loop.
type Request struct {
	What    Action
	Release string // that a run is to be of, "" for all
}

// Action is a kind of request.
type Action string

// The actions.
const (
	Run    Action = "run"
	Pause  Action = "pause"
	Resume Action = "resume"
)

// Server serves a devloop's state, and passes on what users ask. Close it.
type Server struct {
	Questions

	requests chan Request
	site     *web.Site
	stage    event.Stage
	servers  []*http.Server
	serving  sync.WaitGroup
}

// NewServer returns a Server that listens nowhere yet. It reports failures to stage.
func NewServer(board *status.Board, metrics *web.Metrics, stage event.Stage) *Server {
	s := &Server{requests: make(chan Request, 8), stage: stage}
	s.site = web.New(board, metrics, web.Actions{
		Rebuild:        func() { s.request(Request{What: Run}) },
		RebuildRelease: func(name string) { s.request(Request{What: Run, Release: name}) },
		Pause: func(paused bool) {
			if paused {
				s.request(Request{What: Pause})
			} else {
				s.request(Request{What: Resume})
			}
		},
	}, stage)
	return s
}

// request drops what nobody takes: asking again and again has no effect.
func (s *Server) request(r Request) {
	select {
	case s.requests <- r:
	default:
	}
}

// Requests are what users ask of the loop.
func (s *Server) Requests() <-chan Request { return s.requests }

// ServeSocket serves other commands of this user. The name is that of the project, its file and its
// cluster. ErrAnotherRuns means that another devloop has it.
func (s *Server) ServeSocket(ctx context.Context, name string) error {
	listener, err := listenSocket(ctx, name)
	if err != nil {
		return err
	}
	s.Serve(listener, s.site.Local(map[string]web.Question{
		ticket:  func(context.Context) (any, error) { return s.site.Ticket(), nil },
		"chain": s.question("chain"), "libraries": s.question("libraries"), "images": s.question("images")}))
	return nil
}

// ServePage serves the page on a port of loopback; 0 is the usual one, or a free one where that is
// taken. The address has the token, which is all that a visitor needs.
func (s *Server) ServePage(ctx context.Context, port int) (address *url.URL, token string, err error) {
	listen := func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	var listener net.Listener
	if port != 0 {
		listener, err = listen(port)
	} else if listener, err = listen(usualPort); errors.Is(err, syscall.EADDRINUSE) {
		listener, err = listen(0)
	}
	if err != nil {
		return nil, "", err
	}
	at := listener.Addr().(*net.TCPAddr)
	s.Serve(listener, s.site.Handler(at.Port))
	return s.site.Address(at.String()), s.site.Token(), nil
}

// ForBrowser returns an address of the page that lets one browser in.
func (s *Server) ForBrowser(page *url.URL) (string, error) {
	return web.WithTicket(page.String(), s.site.Ticket())
}

// Serve answers on listener until Close. Slow and silent clients are cut off; streams and questions
// set limits of their own.
func (s *Server) Serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: headerBytes, ErrorLog: log.New(details{s.stage}, "", 0)}
	s.servers = append(s.servers, server)
	s.serving.Go(func() {
		err := s.stage.Guard("serve", func() error { return server.Serve(netutil.LimitListener(listener, connections)) })
		if !errors.Is(err, http.ErrServerClosed) {
			s.stage.Warn("devloop no longer answers at "+listener.Addr().String(), err)
		}
	})
}

// Close ends streams, and gives the last answers a second.
func (s *Server) Close() {
	s.site.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, server := range s.servers {
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	}
	s.serving.Wait()
}

// details sends what net/http logs, since standard error belongs to the console.
type details struct{ stage event.Stage }

func (d details) Write(line []byte) (int, error) {
	d.stage.Detail("server", "says", event.Printable(string(line)))
	return len(line), nil
}
