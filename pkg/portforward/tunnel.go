package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/spdystream"
	corev1 "k8s.io/api/core/v1"

	"github.com/devloop/devloop/pkg/event"
)

const (
	pingPeriod   = 5 * time.Second        // keeps proxies from closing a quiet tunnel, and shows whether anybody is there
	silentAfter  = 2 * time.Second        // without an answer, a tunnel gets no new connections
	deadAfter    = 2 * time.Minute        // without an answer, it is closed: longer than an API server hangs on a busy machine
	resetTimeout = 5 * time.Second        // for a reset to be sent; a tunnel that takes longer is stuck for all of its streams
	replyCheck   = 250 * time.Millisecond // how late the loss of a tunnel is seen by who waits for a reply
	verdictWait  = time.Second            // for the error stream to end after the data stream did; it does so at once
	cutWait      = 50 * time.Millisecond  // for the library to say that an end was a reset: it tells the end first, on another goroutine
	cutCheck     = 2 * time.Millisecond
	stallTime    = 50 * time.Millisecond // a write that takes longer stalls its tunnel
)

var (
	errTunnelLost = errors.New("the tunnel to the pod was lost")
	errRefused    = errors.New("the pod refused the connection")
	errSilent     = errors.New("nothing comes back from the pod's node")
)

// tunnel is one wire to a pod with many streams on it. SPDY as used here has no flow control: a stream whose client does
// not read stops all others of its tunnel, sooner or later.
type tunnel struct {
	wire    *wire
	conn    *spdystream.Connection
	group   *sync.WaitGroup // of the goroutines that the tunnel and its streams start
	bugs    event.Stage     // panics are reported to it
	silence func()          // called when the other end has fallen silent
	request atomic.Int64    // numbers the pairs of streams

	mu   sync.Mutex
	open map[*stream]struct{}

	// What follows belongs to the goroutine that runs the pod's tunnels.
	streams   int
	idleSince time.Time
	closing   bool
}

// newTunnel starts a tunnel on a connection, which it owns from now on. Lost is called once, when that is closed; silence may
// be called now and then.
func newTunnel(c net.Conn, group *sync.WaitGroup, bugs event.Stage,
	lost func(*tunnel), silence func()) (*tunnel, error) {
	w := &wire{Conn: c, made: time.Now()}
	conn, err := spdystream.NewConnection(w, false)
	if err != nil {
		_ = w.Close() // the error that counts is the one above
		return nil, err
	}
	t := &tunnel{wire: w, conn: conn, group: group, bugs: bugs, silence: silence, open: map[*stream]struct{}{},
		idleSince: time.Now()}
	group.Go(func() {
		_ = t.guarded(func() { conn.Serve(func(s *spdystream.Stream) { _ = s.Refuse() }) }) // pods open no streams
		t.close()
		lost(t)
	})
	group.Go(func() { _ = t.guarded(t.watch) })
	return t, nil
}

// watch pings the other end, and closes the tunnel when it has been silent for too long.
func (t *tunnel) watch() {
	tick := time.NewTicker(pingPeriod)
	defer tick.Stop()
	late := time.NewTimer(0) // for the answer to the last ping
	defer late.Stop()
	answered := make(chan struct{}, 1)
	answered <- struct{}{}
	for {
		select {
		case <-t.conn.CloseChan():
			return
		case <-late.C:
			if t.wire.silent(silentAfter) {
				t.silence()
			}
			continue
		case <-tick.C:
			late.Reset(silentAfter + time.Millisecond)
		}
		if t.wire.silent(deadAfter) {
			t.close()
		}
		select {
		case <-answered:
			t.wire.ask()
			t.group.Go(func() {
				// Silence is seen on the wire, since the library may be late to see the answer.
				_ = t.guarded(func() { _, _ = t.conn.Ping() })
				answered <- struct{}{}
			})
		default:
		}
	}
}

// guarded closes the tunnel if work panics: what it carries is tried by another one.
func (t *tunnel) guarded(work func()) (broken error) {
	if broken = t.bugs.Contain("tunnel", work); broken != nil {
		t.close()
	}
	return broken
}

func (t *tunnel) close() { _ = t.wire.Close() } // nobody can do anything about an error

func (t *tunnel) lost() bool {
	select {
	case <-t.conn.CloseChan():
		return true
	default:
		return false
	}
}

// healthy reports whether the tunnel can take a connection: no stream holds up the others, and the other end answers.
func (t *tunnel) healthy() bool {
	if t.closing || t.lost() || t.wire.silent(silentAfter) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.open {
		if s.toPod.slow() || s.toClient.slow() {
			return false
		}
	}
	return true
}

// wire is the connection under a tunnel. It knows whether the other end is alive, by a clock that nobody can set.
type wire struct {
	net.Conn
	closing sync.Once
	made    time.Time

	// Nanoseconds after made; 0 is never.
	asked   atomic.Int64 // the oldest question without an answer
	heard   atomic.Int64 // bytes came
	reading atomic.Bool  // bytes are waited for
}

func (w *wire) Read(p []byte) (int, error) {
	w.reading.Store(true)
	n, err := w.Conn.Read(p)
	w.heard.Store(int64(time.Since(w.made)))
	w.reading.Store(false)
	return n, err
}

// Close may be called again: the library keeps a goroutine for a second where that is an error.
func (w *wire) Close() (err error) {
	w.closing.Do(func() { err = w.Conn.Close() })
	return err
}

// ask says that the other end has been sent something that it has to answer.
func (w *wire) ask() {
	if asked := w.asked.Load(); asked <= w.heard.Load() {
		w.asked.CompareAndSwap(asked, int64(time.Since(w.made)))
	}
}

// silent reports whether the other end has owed an answer for that long. If nobody reads, it may have answered.
func (w *wire) silent(long time.Duration) bool {
	asked := w.asked.Load()
	return asked > w.heard.Load() && w.reading.Load() && int64(time.Since(w.made))-asked > int64(long)
}

// stream is one connection inside a tunnel: a data stream, and an error stream on which the node tells what went wrong.
type stream struct {
	tunnel *tunnel
	data   *spdystream.Stream
	errs   *spdystream.Stream

	sent       atomic.Bool // a byte of the client was given to the tunnel
	halfClosed atomic.Bool
	resetting  atomic.Bool
	reset      chan struct{} // closed when the reset is through
	told       chan struct{} // closed when the node has said all
	message    string        // what it said; read after told

	toPod, toClient stopwatch
}

// openStream makes a pair of streams to a port of the pod. When it fails, no byte can have reached the pod. When ctx ends
// earlier, what still comes is thrown away.
func (t *tunnel) openStream(ctx context.Context, port int) (*stream, error) {
	s := &stream{tunnel: t, reset: make(chan struct{}), told: make(chan struct{})}
	made := make(chan error)
	t.group.Go(func() {
		var err error
		if broken := t.guarded(func() { err = s.create(port) }); broken != nil {
			err = broken
		}
		if err != nil {
			close(s.told)
		} else {
			t.group.Go(func() { _ = t.guarded(s.listen) })
		}
		select {
		case made <- err:
		case <-ctx.Done():
			s.abandon()
		}
	})
	select {
	case err := <-made:
		if err != nil {
			s.abandon()
			return nil, err
		}
		t.mu.Lock()
		t.open[s] = struct{}{}
		t.mu.Unlock()
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// create sends both requests before it waits for either, so that a connection costs one round trip.
func (s *stream) create(port int) error {
	t := s.tunnel
	guard := time.AfterFunc(deadAfter, t.close)
	defer guard.Stop()
	t.wire.ask()
	headers := func(kind string, id int64) http.Header {
		h := http.Header{}
		h.Set(corev1.StreamType, kind)
		h.Set(corev1.PortHeader, strconv.Itoa(port))
		h.Set(corev1.PortForwardRequestIDHeader, strconv.FormatInt(id, 10))
		return h
	}
	id := t.request.Add(1)
	var err, dataErr error
	if s.errs, err = t.conn.CreateStream(headers(corev1.StreamTypeError, id), nil, false); err != nil {
		t.close() // it cannot be written to
		return fmt.Errorf("error stream: %w", err)
	}
	if s.data, dataErr = t.conn.CreateStream(headers(corev1.StreamTypeData, id), nil, false); dataErr != nil {
		t.close()
		dataErr = fmt.Errorf("data stream: %w", dataErr)
	}
	// Each stream that was asked for is waited for, since the library stops where nobody takes a refusal from it.
	err = t.reply(s.errs)
	if dataErr == nil {
		dataErr = t.reply(s.data)
	}
	if err = errors.Join(err, dataErr); err != nil {
		return err
	}
	return s.errs.Close() // only the node speaks there
}

// reply waits for the other end to accept a stream. The library does not end this wait with the tunnel, hence the look.
func (t *tunnel) reply(s *spdystream.Stream) error {
	for {
		err := s.WaitTimeout(replyCheck)
		if !errors.Is(err, spdystream.ErrTimeout) {
			return err
		}
		if t.lost() {
			return errTunnelLost
		}
	}
}

// listen keeps what the node says on the error stream, until it has said all.
func (s *stream) listen() {
	defer close(s.told)
	text, _ := io.ReadAll(io.LimitReader(s.errs, 4096))
	s.message = strings.TrimSpace(string(text))
	_, _ = io.Copy(io.Discard, s.errs)
}

// halfClose tells the pod that the client will say no more.
func (s *stream) halfClose() {
	s.halfClosed.Store(true)
	_ = s.data.Close()
}

// abandon ends both directions for both sides, once. It may be called by any goroutine; all but the first do not wait.
func (s *stream) abandon() {
	if !s.resetting.CompareAndSwap(false, true) {
		return
	}
	guard := time.AfterFunc(resetTimeout, s.tunnel.close)
	defer guard.Stop()
	defer close(s.reset)
	for _, one := range []*spdystream.Stream{s.data, s.errs} {
		if one == nil {
			continue
		}
		finished := one.IsFinished() // then Reset tells only this side
		_ = one.Reset()
		if finished && one == s.data {
			_ = one.Cancel()
		}
	}
	s.tunnel.mu.Lock()
	delete(s.tunnel.open, s)
	s.tunnel.mu.Unlock()
}

// verdict says how a stream ended whose data has ended: nil if the pod closed it, errRefused if no byte can
// have reached the pod, or what went wrong. The library shows all of these as the same end of file.
func (s *stream) verdict() error {
	lost := s.tunnel.lost() // asked first: what ended before the tunnel did is whole
	timer := time.NewTimer(verdictWait)
	defer timer.Stop()
	select {
	case <-s.told:
		if refused(s.message) {
			return fmt.Errorf("%w: %s", errRefused, s.message)
		}
		if s.message != "" {
			return errors.New(s.message)
		}
	case <-timer.C:
	}
	switch {
	case lost:
		return errTunnelLost
	case s.cut():
		return errors.New("the node cut the connection to the pod")
	}
	return nil
}

// cut reports whether a reset ended the data. A stream that the client has half-closed looks the same at its end as one that was reset.
func (s *stream) cut() bool {
	for since := time.Now(); ; {
		finished := s.data.IsFinished() // asked first: closing makes a stream finished, too
		if s.halfClosed.Load() {
			return false
		}
		if finished || time.Since(since) > cutWait {
			return finished
		}
		<-time.After(cutCheck)
	}
}

// refusals are the words with which nodes say that they could not connect to the pod's port: containerd and cri-o ("failed to
// connect to", "failed to dial"), cri-dockerd through socat ("Connection refused"), and all of them where the pod's sandbox is not there.
var refusals = []string{
	"connection refused", "failed to connect to", "failed to dial",
	"network namespace for sandbox", "failed to statfs", "not running", "not found",
}

// refused reports whether a node's message tells of a connection that was never made.
func refused(message string) bool {
	message = strings.ToLower(message)
	for _, words := range refusals {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// stopwatch times one write at a time; its zero value is at rest.
type stopwatch struct{ since atomic.Pointer[time.Time] }

func (w *stopwatch) start() {
	now := time.Now()
	w.since.Store(&now)
}
func (w *stopwatch) stop() { w.since.Store(nil) }
func (w *stopwatch) slow() bool {
	since := w.since.Load()
	return since != nil && time.Since(*since) > stallTime
}
