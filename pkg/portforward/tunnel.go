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
)

const (
	pingPeriod   = 10 * time.Second // keeps proxies from closing a quiet tunnel; client-go's own period
	openTimeout  = 10 * time.Second // for a pair of streams; a tunnel that takes longer is dead
	resetTimeout = 5 * time.Second  // for a reset to be sent; a tunnel that takes longer is stuck for all of its streams
	replyCheck   = 250 * time.Millisecond
	verdictWait  = time.Second            // for the error stream to end after the data stream did; it does so at once
	stallTime    = 200 * time.Millisecond // a write that takes longer stalls its tunnel
)

var (
	errTunnelLost = errors.New("the tunnel to the pod was lost")
	errRefused    = errors.New("the pod refused the connection")
)

// tunnel is one wire to a pod with many streams on it. SPDY as used here has no flow control: a stream whose client does
// not read stops all others of its tunnel, sooner or later.
type tunnel struct {
	wire    net.Conn
	conn    *spdystream.Connection
	group   *sync.WaitGroup // of the goroutines that the tunnel and its streams start
	request atomic.Int64    // numbers the pairs of streams

	mu   sync.Mutex
	open map[*stream]struct{}

	// What follows belongs to the goroutine that runs the pod's tunnels.
	streams   int
	idleSince time.Time
	closing   bool
}

// newTunnel starts a tunnel on a wire, which it owns from now on; lost is called once, when the wire is closed.
func newTunnel(wire net.Conn, group *sync.WaitGroup, lost func(*tunnel)) (*tunnel, error) {
	wire = &closedOnce{Conn: wire}
	conn, err := spdystream.NewConnection(wire, false)
	if err != nil {
		wire.Close()
		return nil, err
	}
	t := &tunnel{wire: wire, conn: conn, group: group, open: map[*stream]struct{}{}, idleSince: time.Now()}
	group.Go(func() {
		conn.Serve(func(s *spdystream.Stream) { _ = s.Refuse() }) // pods open no streams
		wire.Close()
		lost(t)
	})
	group.Go(t.ping)
	return t, nil
}

// closedOnce is a connection that may be closed again: the library keeps a goroutine for a second where that is an error.
type closedOnce struct {
	net.Conn
	once sync.Once
}

func (c *closedOnce) Close() (err error) {
	c.once.Do(func() { err = c.Conn.Close() })
	return err
}

func (t *tunnel) ping() {
	tick := time.NewTicker(pingPeriod)
	defer tick.Stop()
	for {
		select {
		case <-t.conn.CloseChan():
			return
		case <-tick.C:
			_, _ = t.conn.Ping() // what is lost shows on the wire itself
		}
	}
}

func (t *tunnel) close() { t.wire.Close() }

func (t *tunnel) lost() bool {
	select {
	case <-t.conn.CloseChan():
		return true
	default:
		return false
	}
}

// stalled reports whether a stream holds up the others.
func (t *tunnel) stalled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.open {
		if s.toPod.slow() || s.toClient.slow() {
			return true
		}
	}
	return false
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
		err := s.create(port)
		if err != nil {
			close(s.told)
		} else {
			t.group.Go(s.listen)
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
	guard := time.AfterFunc(openTimeout, t.close)
	defer guard.Stop()
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
	cut := !s.halfClosed.Load() && s.data.IsFinished()
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
	case cut:
		return errors.New("the node cut the connection to the pod")
	}
	return nil
}

// refusals are the words with which nodes say that they could not connect to the pod's port: containerd and cri-o ("failed to
// connect to", "failed to dial"), cri-dockerd through socat ("Connection refused"), and all of them where the pod's sandbox is not there.
var refusals = []string{
	"connection refused", "failed to connect to", "failed to dial",
	"network namespace for sandbox", "not running", "not found",
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
type stopwatch struct{ since atomic.Int64 }

func (w *stopwatch) start() { w.since.Store(time.Now().UnixNano()) }
func (w *stopwatch) stop()  { w.since.Store(0) }
func (w *stopwatch) slow() bool {
	since := w.since.Load()
	return since != 0 && time.Since(time.Unix(0, since)) > stallTime
}
