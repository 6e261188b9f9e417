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
	// apart is how many connections get a tunnel of their own, so that none holds up another; most have no more at a time.
	apart = 8
	// perTunnel is how many share one beyond that. One that stalls can hold up the others (see tunnel), so it
	// is few; and the library hands streams to five workers by number, so up to five do not share one.
	perTunnel = 4

	// stuckAfter is for how long no waiting connection was taken before more than a few tunnels are dialled: where answers are
	// short, a place is free again sooner than a tunnel is made, and a tunnel costs a megabyte.
	stuckAfter = 50 * time.Millisecond

	maxDials    = 8 // at a time: as many as an API server that comes back should be met with
	dialTimeout = 5 * time.Second
	idleAfter   = 15 * time.Second // a tunnel beyond the spare one is kept for the next burst this long

	redialMin = 50 * time.Millisecond  // after a dial that failed, while connections wait; it doubles
	redialMax = 500 * time.Millisecond // the longest that a connection waits for nothing when the pod can be reached again
	sparePace = 5 * time.Second        // the same for a tunnel that nobody waits for

	lookPeriod = 50 * time.Millisecond // how late it is seen that a tunnel can take a waiting connection again
)

var errPodGone = errors.New("the pod is gone")

// podTunnels are the tunnels to one pod. Until the pod is retired there is one with room, dialled ahead, so that a new
// connection costs one round trip. One goroutine, run, owns all of it.
type podTunnels struct {
	to     backend
	dialer *dialer
	status *status
	group  *sync.WaitGroup
	room   atomic.Bool // a connection would get a tunnel at once
	used   bool        // the pod has been ready; belongs to pods.run

	wanted   chan wish
	dialled  chan dialled
	released chan *tunnel
	lost     chan *tunnel
	silent   chan struct{} // one of the tunnels is, since a moment ago
	retired  chan struct{} // closed when the pod takes no new connections
	done     chan struct{}
}

// wish is a connection that waits for a tunnel with room; it takes the grant until ctx ends.
type wish struct {
	ctx   context.Context
	grant chan grant
}

type grant struct {
	tunnel *tunnel
	err    error
}

type dialled struct {
	tunnel *tunnel
	err    error
	began  time.Time
}

func newPodTunnels(to backend, d *dialer, s *status, group *sync.WaitGroup) *podTunnels {
	return &podTunnels{
		to: to, dialer: d, status: s, group: group,
		wanted: make(chan wish), dialled: make(chan dialled), released: make(chan *tunnel), lost: make(chan *tunnel), silent: make(chan struct{}, 1),
		retired: make(chan struct{}), done: make(chan struct{}),
	}
}

// open opens a stream to the pod's port, or gives up after patience. When it fails, no byte can have reached the pod. Who got a stream gives it
// back by release.
func (p *podTunnels) open(ctx context.Context, patience time.Duration) (*stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	w := wish{ctx, make(chan grant)}
	select {
	case p.wanted <- w:
	case <-p.done:
		return nil, errPodGone
	case <-ctx.Done():
		return nil, p.noTunnel(ctx)
	}
	select {
	case g := <-w.grant:
		if g.err != nil {
			return nil, g.err
		}
		s, err := g.tunnel.openStream(ctx, p.to.port)
		if err != nil {
			p.giveBack(g.tunnel)
		}
		return s, err
	case <-ctx.Done():
		return nil, p.noTunnel(ctx)
	}
}

// noTunnel is the error of who has waited for a tunnel in vain.
func (p *podTunnels) noTunnel(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, errSilent) {
		return err
	}
	return fmt.Errorf("there is no tunnel to pod %s yet", p.to.pod)
}

// release ends a stream and frees its place.
func (p *podTunnels) release(s *stream) {
	s.abandon()
	<-s.reset
	p.giveBack(s.tunnel)
}

func (p *podTunnels) giveBack(t *tunnel) {
	select {
	case p.released <- t:
	case <-p.done:
	}
}

// run serves the pod until it is retired and its last tunnel is closed, or ctx ends and all of them are.
func (p *podTunnels) run(ctx context.Context) {
	defer close(p.done)
	var (
		tunnels  []*tunnel
		waiting  []wish
		dialling int
		taken    time.Time // when a connection got a tunnel last
		loss     time.Time // when a tunnel was lost last
		failures int       // dials in a row
		failing  time.Time // when the first of them began
		failed   time.Time // when the last of them ended
		ready    = true
		retired  = p.retired
		ended    = ctx.Done()

		look = time.NewTimer(lookPeriod) // what has changed without a word
		idle = time.NewTimer(idleAfter)
	)
	defer look.Stop()
	defer idle.Stop()
	var looks time.Time // when look fires, zero if it does not: news that keep coming must not push it back
	lookIn := func(d time.Duration) {
		if at := time.Now().Add(d); looks.IsZero() || at.Before(looks) {
			looks = at
			look.Reset(d)
		}
	}
	shut := func(t *tunnel) {
		t.closing = true
		p.group.Go(t.close) // which takes a second if a write is stuck
	}
	for {
		best, healthy := pick(tunnels)
		served := 0
		for ; best != nil && served < len(waiting); served++ {
			select {
			case waiting[served].grant <- grant{tunnel: best}:
				best.streams++
				taken = time.Now()
				best, healthy = pick(tunnels)
			case <-waiting[served].ctx.Done():
			}
		}
		clear(waiting[:served])
		waiting = waiting[served:]
		p.room.Store(best != nil)
		if best != nil && failures > 0 { // dialled, or no longer silent
			failures = 0
			p.status.reached(p.to.pod, 0, nil)
		}
		wanted := 0
		if healthy < apart || time.Since(taken) > stuckAfter {
			wanted = (len(waiting) + perTunnel - 1) / perTunnel
		}
		if spare := best == nil || best.streams > 0 && healthy < apart; len(waiting) == 0 && ready && spare {
			wanted = 1
		}
		pause := time.Until(failed.Add(pace(failures, len(waiting) > 0)))
		for ; pause <= 0 && dialling < min(wanted, maxDials); dialling++ {
			p.group.Go(func() { p.dial(ctx) })
		}
		switch {
		case len(waiting) > 0:
			lookIn(lookPeriod)
		case ready && dialling < wanted:
			lookIn(pause)
		case failures > 0:
			lookIn(redialMax)
		}
		if !ready && len(tunnels) == 0 && dialling == 0 {
			return
		}

		select {
		case w := <-p.wanted:
			if !ready {
				refuse([]wish{w}, errPodGone)
				continue
			}
			waiting = append(waiting, w)
		case d := <-p.dialled:
			dialling--
			switch {
			case d.err != nil:
				refuse(waiting, d.err)
				waiting = nil
				if failures++; failures == 1 {
					failing = d.began
				}
				failed = time.Now()
				if ready {
					p.status.reached(p.to.pod, failed.Sub(failing), d.err)
				}
			default:
				if !d.tunnel.lost() { // else its loss may have been told already
					tunnels = append(tunnels, d.tunnel)
				}
				if !ready {
					shut(d.tunnel)
				}
			}
		case t := <-p.released:
			t.streams--
			if t.streams > 0 {
				continue
			}
			t.idleSince = time.Now()
			if !ready {
				shut(t)
			}
		case <-look.C:
			looks = time.Time{}
			waiting = slices.DeleteFunc(waiting, func(w wish) bool { return w.ctx.Err() != nil })
		case <-p.silent:
		case <-idle.C:
			if time.Since(loss) >= idleAfter { // else all of a pod's tunnels that one restart cuts would be told of
				p.status.over(tunnelLost, p.to.pod)
			}
			for _, t := range tunnels {
				if t != best && t.streams == 0 && time.Since(t.idleSince) >= idleAfter {
					shut(t)
				}
			}
			idle.Reset(idleAfter)
		case t := <-p.lost:
			tunnels = slices.DeleteFunc(tunnels, func(other *tunnel) bool { return other == t })
			if ready && !t.closing && p.status.leads(p.to.pod) {
				loss = time.Now()
				p.status.trouble(tunnelLost, p.to.pod, errTunnelLost, "pod", event.Name(p.to.pod))
			}
		case <-retired:
			ready, retired = false, nil
			refuse(waiting, errPodGone)
			waiting = nil
			for _, t := range tunnels {
				if t.streams == 0 {
					shut(t)
				}
			}
		case <-ended:
			ready, retired, ended = false, nil, nil
			refuse(waiting, context.Cause(ctx))
			waiting = nil
			for _, t := range tunnels {
				shut(t)
			}
		}
	}
}

// pace is how long after a failed dial the next one is made.
func pace(failures int, waitedFor bool) time.Duration {
	switch {
	case failures == 0:
		return 0
	case waitedFor:
		return min(redialMin<<min(failures-1, 10), redialMax)
	}
	return min(redialMin<<min(failures-1, 10), sparePace)
}

// dial makes a tunnel. The goroutine of run owns it, and takes every result.
func (p *podTunnels) dial(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var t *tunnel
	var err error
	broken := p.status.bugs.Contain("dial", func() {
		var wire net.Conn
		if wire, err = p.dialer.dial(ctx, p.to.pod); err == nil {
			t, err = newTunnel(wire, p.group, p.status.bugs, p.lose, p.fallSilent)
		}
	})
	err = cmp.Or(broken, err)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the API server gives no way to pod %s within %s", p.to.pod, dialTimeout)
	}
	select {
	case p.dialled <- dialled{t, err, began}:
	case <-p.done: // by a panic
		if t != nil {
			t.close()
		}
	}
}

// lose is called with each tunnel that is lost.
func (p *podTunnels) lose(t *tunnel) {
	select {
	case p.lost <- t:
	case <-p.done:
	}
}

// fallSilent is called when the other end of a tunnel has fallen silent.
func (p *podTunnels) fallSilent() {
	select {
	case p.silent <- struct{}{}:
	default: // one is waiting to be heard
	}
}

// pick is the tunnel for the next connection, nil if all are full: the one with the fewest, and of these the first, so that late ones
// stay empty and are closed. Healthy is how many there are at all.
func pick(tunnels []*tunnel) (best *tunnel, healthy int) {
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

func refuse(waiting []wish, err error) {
	for _, w := range waiting {
		select {
		case w.grant <- grant{err: err}:
		case <-w.ctx.Done():
		}
	}
}
