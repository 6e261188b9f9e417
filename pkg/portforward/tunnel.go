package portforward

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/spdystream"
)

const (
	pingPeriod  = 5 * time.Second // keeps proxies from closing a quiet tunnel, and shows whether the other end lives
	silentAfter = 2 * time.Second // without an answer, a tunnel gets no new connections
	deadAfter   = 2 * time.Minute // without an answer, it is closed: longer than an API server hangs on a busy machine
	stallTime   = 50 * time.Millisecond
)

var (
	errTunnelLost = errors.New("the tunnel to the pod was lost")
	errRefused    = errors.New("the pod refused the connection")
	errSilent     = errors.New("nothing comes back from the pod's node")
)

// tunnel is a connection to a pod that carries many streams. Without flow control, a stream whose
// client does not read stops the others sooner or later.
type tunnel struct {
	pool    *tunnelPool
	wire    *wire
	conn    *spdystream.Connection
	request atomic.Int64 // the number of the last pair of streams

	mu   sync.Mutex
	open map[*stream]struct{}

	// The rest belongs to the pool's run.
	streams   int
	idleSince time.Time
	closing   bool
}

// newTunnel starts a tunnel on a connection, which it owns from now on, and tells the pool when it
// is lost.
func newTunnel(c net.Conn, pool *tunnelPool) (*tunnel, error) {
	w := &wire{Conn: c, made: time.Now()}
	conn, err := spdystream.NewConnection(w, false)
	if err != nil {
		_ = w.Close() // the error that counts is the one above
		return nil, err
	}
	t := &tunnel{pool: pool, wire: w, conn: conn, open: map[*stream]struct{}{}, idleSince: time.Now()}
	pool.group.Go(func() {
		_ = t.contain(func() { conn.Serve(func(s *spdystream.Stream) { _ = s.Refuse() }) }) // pods open no streams
		t.close()
		pool.do(func() { pool.lost(t) })
	})
	pool.group.Go(func() { _ = t.contain(t.ping) })
	return t, nil
}

// ping pings the other end. It wakes the pool if no answer comes soon, and closes the tunnel after
// a long silence.
func (t *tunnel) ping() {
	tick := time.NewTicker(pingPeriod)
	defer tick.Stop()
	overdue := time.NewTimer(0)
	defer overdue.Stop()
	pinging := make(chan struct{}, 1)
	for {
		select {
		case <-t.conn.CloseChan():
			return
		case <-overdue.C:
			if t.wire.silent(silentAfter) {
				t.pool.do(func() {})
			}
			continue
		case <-tick.C:
			overdue.Reset(silentAfter + time.Millisecond)
		}
		if t.wire.silent(deadAfter) {
			t.close()
		}
		select {
		case pinging <- struct{}{}:
			t.wire.expectAnswer()
			t.pool.group.Go(func() {
				_ = t.contain(func() { _, _ = t.conn.Ping() }) // the wire sees the answer before the library does
				<-pinging
			})
		default: // the last ping has no answer yet
		}
	}
}

// contain closes the tunnel if work panics. Its connections are tried again elsewhere.
func (t *tunnel) contain(work func()) error {
	bug := t.pool.status.bugs.Recover("tunnel", work)
	if bug != nil {
		t.close()
	}
	return bug
}

func (t *tunnel) close() { _ = t.wire.Close() } // an error changes nothing

func (t *tunnel) isLost() bool {
	select {
	case <-t.conn.CloseChan():
		return true
	default:
		return false
	}
}

// healthy reports whether the tunnel can take a connection: no stream holds up the others, and the
// other end answers.
func (t *tunnel) healthy() bool {
	if t.closing || t.isLost() || t.wire.silent(silentAfter) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.open {
		if s.toPod.stalled() || s.toClient.stalled() {
			return false
		}
	}
	return true
}

// wire is the network connection under a tunnel. It tracks whether the other end is alive, by the
// monotonic clock.
type wire struct {
	net.Conn
	closing sync.Once
	made    time.Time
	resets  resets

	// Nanoseconds after made; 0 is never.
	asked   atomic.Int64 // when the oldest unanswered message was sent
	heard   atomic.Int64 // when bytes last arrived
	reading atomic.Bool  // a Read is waiting for bytes
}

func (w *wire) Read(p []byte) (int, error) {
	w.reading.Store(true)
	n, err := w.Conn.Read(p)
	w.resets.follow(p[:n])
	w.heard.Store(int64(time.Since(w.made)))
	w.reading.Store(false)
	return n, err
}

// Close may be called again. A second close that fails would keep a goroutine of the library for a
// second.
func (w *wire) Close() (err error) {
	w.closing.Do(func() { err = w.Conn.Close() })
	return err
}

// expectAnswer notes that a message that has to be answered is sent now.
func (w *wire) expectAnswer() {
	if asked := w.asked.Load(); asked <= w.heard.Load() {
		w.asked.CompareAndSwap(asked, int64(time.Since(w.made)))
	}
}

// silent reports whether an answer is overdue by d. While nothing reads, it may have arrived.
func (w *wire) silent(d time.Duration) bool {
	asked := w.asked.Load()
	return asked > w.heard.Load() && w.reading.Load() && int64(time.Since(w.made))-asked > int64(d)
}

// stopwatch times one write at a time.
type stopwatch struct{ started atomic.Pointer[time.Time] }

func (w *stopwatch) start() {
	now := time.Now()
	w.started.Store(&now)
}

func (w *stopwatch) stop() { w.started.Store(nil) }

// stalled reports whether a write takes so long that it stalls its tunnel.
func (w *stopwatch) stalled() bool {
	started := w.started.Load()
	return started != nil && time.Since(*started) > stallTime
}
