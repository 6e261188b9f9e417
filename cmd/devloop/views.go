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
	asking  asking   // of questions to the session
	say     event.Stage
	page    *url.URL // with the token that lets in; nil without one
	site    *web.Site
	servers []*http.Server
	serving sync.WaitGroup
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
	listener, err := listenLocally(ctx, p.config)
	switch {
	case errors.Is(err, errAnother):
		return v, console.EnvironmentError{Err: err}
	case err != nil:
		v.say.Warn("devloop status, logs and events will not find this devloop", err)
	default:
		v.serve(listener, v.site.Local(v.questions()))
	}
	if d.page {
		listener, err := listenForPage(ctx, p.config, d.pagePort)
		if err != nil {
			return v, err
		}
		address := listener.Addr().(*net.TCPAddr)
		v.serve(listener, v.site.Handler(address.Port))
		v.page = v.site.Address(address.String())
		p.secrets.Hide(v.site.Token()) // but for the line of the log that shows the address
	}
	v.serving.Go(func() {
		err := v.say.Guard("keep the last runs", func() error { return p.history.Follow(keeping, p.board) })
		if err != nil {
			v.say.Warn("the last runs will not be known after this devloop", err)
		}
	})
	return v, nil
}

// asking lets others ask questions of a session for as long as there is one.
type asking struct {
	mu      sync.Mutex
	session *session        // nil while there is none
	ended   context.Context //nolint:containedctx // of the session
	end     context.CancelFunc
	under   sync.WaitGroup // questions
}

// of begins it. The returned function ends it, and waits for the answers that are under way.
func (a *asking) of(s *session) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session = s
	a.ended, a.end = context.WithCancel(context.Background())
	return func() {
		a.mu.Lock()
		a.session = nil
		a.end()
		a.mu.Unlock()
		a.under.Wait()
	}
}

// question is one that answer finds the answer to.
func (a *asking) question(answer func(s *session, ctx context.Context) (any, error)) web.Question {
	return func(ctx context.Context) (any, error) {
		a.mu.Lock()
		s, ended := a.session, a.ended
		if s == nil {
			a.mu.Unlock()
			return nil, errors.New("devloop is only starting, or ending")
		}
		a.under.Add(1)
		a.mu.Unlock()
		defer a.under.Done()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(ended, cancel)() //nolint:contextcheck // with the session, too
		found, err := answer(s, ctx)
		return found, s.secrets.Error(err)
	}
}

// questions are what other commands ask this devloop, by their names.
func (v *views) questions() map[string]web.Question {
	return map[string]web.Question{"chain": v.asking.question((*session).chain), "libraries": v.asking.question((*session).imageLibraries)}
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

// serve answers on listener until close. What reads or writes slowly, or says nothing, is let go:
// streams and questions set times of their own.
func (v *views) serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: headerBytes}
	server.ErrorLog = log.New(detail{v.say}, "", 0)
	v.servers = append(v.servers, server)
	v.serving.Go(func() {
		err := v.say.Guard("serve", func() error { return server.Serve(netutil.LimitListener(listener, connections)) })
		if !errors.Is(err, http.ErrServerClosed) {
			v.say.Warn("devloop no longer answers at "+listener.Addr().String(), err)
		}
	})
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // for the last answers
	defer cancel()
	for _, server := range v.servers {
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	}
	v.end()
	v.serving.Wait()
}

// listenForPage opens the page's address. A port that somebody asked for is that one or none.
func listenForPage(ctx context.Context, c *config.Config, port int) (net.Listener, error) {
	byFlag := port >= 0
	if !byFlag {
		port = c.Page.Port
	}
	open := func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	if port != 0 {
		listener, err := open(port)
		switch hint := "give the page another port, or leave it out: --page=false"; {
		case err != nil && byFlag:
			return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("--page-port: %w", err), hint)}
		case err != nil:
			return nil, c.Wrong("page.port", err.Error(), hint)
		}
		return listener, nil
	}
	listener, err := open(usualPagePort)
	if errors.Is(err, syscall.EADDRINUSE) {
		listener, err = open(0)
	}
	if err != nil {
		return nil, console.EnvironmentError{Err: fmt.Errorf("page: %w", err)}
	}
	return listener, nil
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

// listenLocally opens the socket of this devloop. One that nobody listens on was left by a devloop that was killed.
func listenLocally(ctx context.Context, c *config.Config) (net.Listener, error) {
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
	path := filepath.Join(dir, projectID(c)+".sock")
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
