// Where else than in the terminal one can see how it all stands: the page, and a socket for devloop status, logs and events.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status/web"
)

// usualPagePort is the page's, unless somebody has it.
const usualPagePort = 10360

// views are what is served. They are closed after everything else: how the end goes is worth a look, too.
type views struct {
	asked   chan ask // for the loop
	asking  questions
	say     event.Stage
	page    *url.URL // with the token that lets in; nil without one
	site    *web.Site
	server  *server
	keeping sync.WaitGroup // of the last runs
	end     context.CancelFunc
}

// openViews opens the page and the socket. A page that was asked for at a port that is taken is an error; all else is told, and lived without.
func (p *process) openViews(ctx context.Context, d devOptions) (v *views, err error) {
	v = &views{asked: make(chan ask, 8)}
	defer func() { //nolint:contextcheck // ctx may have ended
		if err != nil {
			v.close()
		}
	}()
	metrics := web.NewMetrics(p.board)
	p.sink = p.before(metrics.Before(p.log.Sink))
	v.say = p.sink.For("devloop")
	v.server = newServer(v.say)
	v.site = web.New(p.board, metrics, web.Actions{
		Rebuild: func() { v.ask(askRun) },
		Pause: func(paused bool) {
			if paused {
				v.ask(askPause)
			} else {
				v.ask(askResume)
			}
		},
	}, v.say)
	keeping, end := context.WithCancel(context.WithoutCancel(ctx))
	v.end = end
	listener, err := listenSocket(ctx, projectID(p.config))
	switch {
	case errors.Is(err, errAnother):
		return v, console.EnvironmentError{Err: err}
	case err != nil:
		v.say.Warn("devloop status, logs and events will not find this devloop", err)
	default:
		v.server.serve(listener, v.site.Local(map[string]web.Question{
			"chain": v.asking.question("chain"), "libraries": v.asking.question("libraries")}))
	}
	if d.page {
		listener, err := openPage(ctx, p.config, d.pagePort)
		if err != nil {
			return v, err
		}
		address := listener.Addr().(*net.TCPAddr)
		v.server.serve(listener, v.site.Handler(address.Port))
		v.page = v.site.Address(address.String())
		p.secrets.Hide(v.site.Token()) // but for the line of the log that shows the address
	}
	v.keeping.Go(func() {
		err := v.say.Guard("keep the last runs", func() error { return p.history.Follow(keeping, p.board) })
		if err != nil {
			v.say.Warn("the last runs will not be known after this devloop", err)
		}
	})
	return v, nil
}

// questions are what other commands ask this devloop, for as long as somebody answers them.
type questions struct {
	mu      sync.Mutex
	answers map[string]web.Question // nil while nobody answers
	ended   context.Context         //nolint:containedctx // of the answers
	end     context.CancelFunc
	under   sync.WaitGroup // that are being answered
}

// answer begins to answer. The returned function ends that, and waits for the answers that are under way.
func (q *questions) answer(answers map[string]web.Question) (end func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answers = answers
	q.ended, q.end = context.WithCancel(context.Background())
	return func() {
		q.mu.Lock()
		q.answers = nil
		q.end()
		q.mu.Unlock()
		q.under.Wait()
	}
}

// question is the one of a name.
func (q *questions) question(name string) web.Question {
	return func(ctx context.Context) (any, error) {
		q.mu.Lock()
		answer, ended := q.answers[name], q.ended
		if answer == nil {
			q.mu.Unlock()
			return nil, errors.New("devloop is only starting, or ending")
		}
		q.under.Add(1)
		q.mu.Unlock()
		defer q.under.Done()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(ended, cancel)() //nolint:contextcheck // with the answers, too
		return answer(ctx)
	}
}

// ask does not block: who asks again and again while nobody listens gets no more by it.
func (v *views) ask(what ask) {
	select {
	case v.asked <- what:
	default:
	}
}

const (
	connections = 64       // of the page and of the socket, each: a browser opens six
	headerBytes = 16 << 10 // of a request
)

// server answers on several listeners.
type server struct {
	say     event.Stage
	servers []*http.Server
	serving sync.WaitGroup
}

// newServer returns a server that reports to say. Close it.
func newServer(say event.Stage) *server { return &server{say: say} }

// serve answers on listener until close. What reads or writes slowly, or says nothing, is let go:
// streams and questions set times of their own.
func (s *server) serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: headerBytes}
	server.ErrorLog = log.New(detail{s.say}, "", 0)
	s.servers = append(s.servers, server)
	s.serving.Go(func() {
		err := s.say.Guard("serve", func() error { return server.Serve(netutil.LimitListener(listener, connections)) })
		if !errors.Is(err, http.ErrServerClosed) {
			s.say.Warn("devloop no longer answers at "+listener.Addr().String(), err)
		}
	})
}

// close leaves a second for the last answers.
func (s *server) close() {
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

// close ends what is served, and waits for it.
func (v *views) close() {
	v.site.Close()
	v.server.close()
	v.end()
	v.keeping.Wait()
}

// openPage opens the page's address. A port that somebody asked for is that one or none.
func openPage(ctx context.Context, c *config.Config, flag int) (net.Listener, error) {
	const hint = "give the page another port, or leave it out: --page=false"
	switch {
	case flag >= 0:
		listener, err := listenPage(ctx, flag)
		if err != nil {
			return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("--page-port: %w", err), hint)}
		}
		return listener, nil
	case c.Page.Port != 0:
		listener, err := listenPage(ctx, c.Page.Port)
		if err != nil {
			return nil, c.Wrong("page.port", err.Error(), hint)
		}
		return listener, nil
	}
	listener, err := listenPage(ctx, 0)
	if err != nil {
		return nil, console.EnvironmentError{Err: fmt.Errorf("page: %w", err)}
	}
	return listener, nil
}

// listenPage opens the page's address on loopback. Port 0 is the usual one, or a free one where that
// is taken.
func listenPage(ctx context.Context, port int) (net.Listener, error) {
	open := func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	if port != 0 {
		return open(port)
	}
	listener, err := open(usualPagePort)
	if errors.Is(err, syscall.EADDRINUSE) {
		return open(0)
	}
	return listener, err
}

// socketDir is where the sockets of this user's devloops are, whether it is there or not; nobody
// else may look into it.
func socketDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "devloop-"+strconv.Itoa(os.Getuid()))
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) { // the standard says to ignore others
		dir = filepath.Join(runtime, "devloop")
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return dir, nil
	}
	if err != nil {
		return "", err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(owner.Uid) != os.Getuid() {
		return "", event.WithHint(fmt.Errorf("%s is not a folder that is this user's alone", dir), "remove it, or set XDG_RUNTIME_DIR")
	}
	return dir, nil
}

// errAnother is for the second devloop of a project, file and cluster.
var errAnother = event.WithHint(errors.New("another devloop runs for this devloop.yaml"), "it is in another terminal: devloop status")

// listenSocket opens the socket of this devloop. One that nobody listens on was left by a devloop that
// was killed. The name is that of the project, its file and its cluster.
func listenSocket(ctx context.Context, name string) (net.Listener, error) {
	dir, err := socketDir()
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		_, err = socketDir() // somebody else may have been faster to make it
	}
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".sock")
	if connection, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = connection.Close()
		return nil, errAnother
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path) // its folder is closed to others already
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
