package portforward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// exclusive is how many connections get a tunnel of their own, so that none holds up another.
	// Most pods have no more at a time.
	exclusive = 8
	// perTunnel is how many connections share a tunnel beyond that: few, since one that stalls can
	// hold up the others. The library hands streams to five workers by number, so up to five share
	// none.
	perTunnel = 4

	// stuckAfter is how long connections wait without any getting a tunnel before more than the
	// exclusive tunnels are dialled. Where answers are short, a place is free sooner than a tunnel
	// is dialled, and a tunnel costs a megabyte.
	stuckAfter = 50 * time.Millisecond

	maxDials    = 8 // at a time, to spare an API server that comes back
	dialTimeout = 5 * time.Second
	idleAfter   = 15 * time.Second // how long a tunnel beyond the spare one is kept for the next burst

	redialMin   = 50 * time.Millisecond  // pause after a failed dial; it doubles
	redialMax   = 500 * time.Millisecond // its limit while connections wait
	redialSpare = 5 * time.Second        // its limit while none does

	recheckInterval = 50 * time.Millisecond // how late it is noticed that a stalled tunnel has room again
)

var errPodGone = errors.New("the pod is gone")

// tunnelPool holds the tunnels to one pod. Until the pod is retired, one with room is dialled
// ahead, so that a new connection costs one round trip.
type tunnelPool struct {
	backend backend
	dialer  *dialer
	status  *status
	group   *sync.WaitGroup
	hasRoom atomic.Bool // a connection would get a tunnel at once
	used    bool        // the pod has been ready; belongs to pods.run

	actions chan func()   // for run to call
	retired chan struct{} // closed when the pod takes no new connections
	done    chan struct{} // closed when run has ended

	// The rest belongs to run.
	tunnels      []*tunnel
	queue        []tunnelRequest // oldest first
	dialling     int
	retiring     bool
	lastGrant    time.Time
	lastLoss     time.Time // of a tunnel
	failures     int       // of dials, in a row
	failingSince time.Time
	lastFailure  time.Time
	recheck      *time.Timer // fires at recheckAt, for what changes without an action
	recheckAt    time.Time   // zero if it is not due
}

// tunnelRequest is a connection that waits for a tunnel with room. It takes the grant until ctx
// ends.
type tunnelRequest struct {
	ctx   context.Context
	grant chan<- grant
}

type grant struct {
	tunnel *tunnel
	err    error
}

func newTunnelPool(b backend, d *dialer, s *status, group *sync.WaitGroup) *tunnelPool {
	return &tunnelPool{backend: b, dialer: d, status: s, group: group,
		actions: make(chan func()), retired: make(chan struct{}), done: make(chan struct{})}
}

// open opens a stream to the pod's port. If it fails, no byte has reached the pod. The caller ends
// the stream with release.
func (p *tunnelPool) open(ctx context.Context, timeout time.Duration) (*stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errSilent)
	defer cancel()
	grants := make(chan grant)
	select {
	case p.actions <- func() { p.enqueue(tunnelRequest{ctx, grants}) }:
	case <-p.done:
		return nil, errPodGone
	case <-ctx.Done():
		return nil, p.noTunnel(ctx)
	}
	select {
	case g := <-grants:
		if g.err != nil {
			return nil, g.err
		}
		s, err := g.tunnel.openStream(ctx, p.backend.port)
		if err != nil {
			p.giveBack(g.tunnel)
		}
		return s, err
	case <-ctx.Done():
		return nil, p.noTunnel(ctx)
	}
}

// noTunnel is the error after ctx has ended without a tunnel.
func (p *tunnelPool) noTunnel(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, errSilent) {
		return err
	}
	return fmt.Errorf("there is no tunnel to pod %s yet", p.backend.pod)
}

// release ends a stream and frees its place.
func (p *tunnelPool) release(s *stream) {
	s.abandon()
	<-s.reset
	p.giveBack(s.tunnel)
}

func (p *tunnelPool) giveBack(t *tunnel) {
	p.do(func() {
		t.streams--
		if t.streams == 0 {
			t.idleSince = time.Now()
			if p.retiring {
				p.close(t)
			}
		}
	})
}

// do has run call action, and reports false if run has ended.
func (p *tunnelPool) do(action func()) bool {
	select {
	case p.actions <- action:
		return true
	case <-p.done:
		return false
	}
}

// run serves the pod until it is retired and its last tunnel is closed, or until ctx ends and all
// of them are.
func (p *tunnelPool) run(ctx context.Context) {
	defer close(p.done)
	p.recheck = time.NewTimer(recheckInterval)
	defer p.recheck.Stop()
	idle := time.NewTicker(idleAfter)
	defer idle.Stop()
	retired, ended := p.retired, ctx.Done()
	for {
		best, healthy := p.grantTunnels()
		p.dialMore(ctx, p.wantedDials(best, healthy))
		if p.retiring && len(p.tunnels) == 0 && p.dialling == 0 {
			return
		}
		select {
		case action := <-p.actions:
			action()
		case <-p.recheck.C:
			p.recheckAt = time.Time{}
			p.queue = slices.DeleteFunc(p.queue, func(r tunnelRequest) bool { return r.ctx.Err() != nil })
		case <-idle.C:
			if time.Since(p.lastLoss) >= idleAfter { // one restart may cut many tunnels: it is reported once
				p.status.resolved(tunnelLost, p.backend.pod)
			}
			p.closeTunnels(func(t *tunnel) bool {
				return t != best && t.streams == 0 && time.Since(t.idleSince) >= idleAfter
			})
		case <-retired:
			retired = nil
			p.retire(errPodGone)
			p.closeTunnels(func(t *tunnel) bool { return t.streams == 0 })
		case <-ended:
			retired, ended = nil, nil
			p.retire(context.Cause(ctx))
			p.closeTunnels(func(*tunnel) bool { return true })
		}
	}
}

// enqueue takes a connection that wants a tunnel.
func (p *tunnelPool) enqueue(r tunnelRequest) {
	p.queue = append(p.queue, r)
	if p.retiring {
		p.refuse(errPodGone)
	}
}

// grantTunnels gives waiting connections places in tunnels with room. It returns what leastUsed
// does after that.
func (p *tunnelPool) grantTunnels() (best *tunnel, healthy int) {
	best, healthy = leastUsed(p.tunnels)
	served := 0
	for ; best != nil && served < len(p.queue); served++ {
		select {
		case p.queue[served].grant <- grant{tunnel: best}:
			best.streams++
			p.lastGrant = time.Now()
			best, healthy = leastUsed(p.tunnels)
		case <-p.queue[served].ctx.Done():
		}
	}
	p.queue = slices.Delete(p.queue, 0, served)
	p.hasRoom.Store(best != nil)
	if best != nil && p.failures > 0 { // a new tunnel, or one that answers again
		p.failures = 0
		p.status.dialSucceeded(p.backend.pod)
	}
	return best, healthy
}

// refuse fails the waiting connections.
func (p *tunnelPool) refuse(err error) {
	for _, r := range p.queue {
		select {
		case r.grant <- grant{err: err}:
		case <-r.ctx.Done():
		}
	}
	p.queue = nil
}

// dialMore dials until as many dials as wanted are under way, or plans when to.
func (p *tunnelPool) dialMore(ctx context.Context, wanted int) {
	pause := time.Until(p.lastFailure.Add(redialPause(p.failures, len(p.queue) > 0)))
	for ; pause <= 0 && p.dialling < min(wanted, maxDials); p.dialling++ {
		p.group.Go(func() { p.dial(ctx) })
	}
	switch {
	case len(p.queue) > 0:
		p.recheckIn(recheckInterval)
	case !p.retiring && p.dialling < wanted:
		p.recheckIn(pause)
	case p.failures > 0:
		p.recheckIn(redialMax)
	}
}

// wantedDials is how many dials should be under way: for waiting connections, or for a spare
// tunnel.
func (p *tunnelPool) wantedDials(best *tunnel, healthy int) int {
	switch {
	case len(p.queue) > 0 && (healthy < exclusive || time.Since(p.lastGrant) > stuckAfter):
		return (len(p.queue) + perTunnel - 1) / perTunnel
	case len(p.queue) == 0 && !p.retiring && (best == nil || best.streams > 0 && healthy < exclusive):
		return 1
	}
	return 0
}

// recheckIn makes run wake up in d, or earlier if that is planned.
func (p *tunnelPool) recheckIn(d time.Duration) {
	if at := time.Now().Add(d); p.recheckAt.IsZero() || at.Before(p.recheckAt) {
		p.recheckAt = at
		p.recheck.Reset(d)
	}
}

// redialPause is the time between a failed dial and the next one.
func redialPause(failures int, awaited bool) time.Duration {
	switch {
	case failures == 0:
		return 0
	case awaited:
		return min(redialMin<<min(failures-1, 10), redialMax)
	}
	return min(redialMin<<min(failures-1, 10), redialSpare)
}

// dial opens a tunnel and hands it to run.
func (p *tunnelPool) dial(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var t *tunnel
	var err error
	bug := p.status.bugs.Recover("dial", func() {
		var conn net.Conn
		if conn, err = p.dialer.dial(ctx, p.backend.pod); err == nil {
			t, err = newTunnel(conn, p)
		}
	})
	err = cmp.Or(bug, err)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the API server opened no tunnel to pod %s within %s", p.backend.pod, dialTimeout)
	}
	if !p.do(func() { p.dialled(t, err, began) }) && t != nil { // run has panicked
		t.close()
	}
}

// dialled takes the outcome of a dial.
func (p *tunnelPool) dialled(t *tunnel, err error, began time.Time) {
	p.dialling--
	if err != nil {
		p.refuse(err)
		if p.failures++; p.failures == 1 {
			p.failingSince = began
		}
		p.lastFailure = time.Now()
		if !p.retiring {
			p.status.dialFailed(p.backend.pod, p.lastFailure.Sub(p.failingSince), err)
		}
		return
	}
	if !t.isLost() { // else lost may have been called already
		p.tunnels = append(p.tunnels, t)
	}
	if p.retiring {
		p.close(t)
	}
}

// lost takes a tunnel away that has ended.
func (p *tunnelPool) lost(t *tunnel) {
	p.tunnels = slices.DeleteFunc(p.tunnels, func(other *tunnel) bool { return other == t })
	if !p.retiring && !t.closing && p.status.hasPod(p.backend.pod) {
		p.lastLoss = time.Now()
		p.status.warnOnce(tunnelLost, p.backend.pod, errTunnelLost, "pod", event.Name(p.backend.pod))
	}
}

// retire stops taking connections.
func (p *tunnelPool) retire(err error) {
	p.retiring = true
	p.refuse(err)
}

func (p *tunnelPool) closeTunnels(which func(*tunnel) bool) {
	for _, t := range p.tunnels {
		if which(t) {
			p.close(t)
		}
	}
}

func (p *tunnelPool) close(t *tunnel) {
	t.closing = true
	p.group.Go(t.close) // takes a second if a write is stuck
}

// leastUsed is the tunnel for the next connection, nil if none has room: the one with the fewest
// connections, and of these the first, so that later ones become idle and are closed. healthy
// counts those that are neither stalled nor silent.
func leastUsed(tunnels []*tunnel) (best *tunnel, healthy int) {
	for _, t := range tunnels {
		if !t.healthy() {
			continue
		}
		healthy++
		if t.streams < perTunnel && (best == nil || t.streams < best.streams) {
			best = t
		}
	}
	return best, healthy
}
