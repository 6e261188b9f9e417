package portforward

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// perTunnel is how many connections share a tunnel. One that stalls can hold up the others (see tunnel), so it
	// is few; and the library hands streams to five workers by number, so up to five do not share one.
	perTunnel = 4

	dialTimeout = 10 * time.Second
	idleAfter   = time.Minute // a tunnel beyond the spare one is kept for the next burst this long

	redialMin = 250 * time.Millisecond // between attempts to have a spare tunnel; connections dial at once
	redialMax = 5 * time.Second
)

var errPodGone = errors.New("the pod is gone")

// Troubles that are told once until they are over.
const (
	tunnelLost   = "tunnel to the pod lost"
	tunnelFailed = "tunnel to the pod cannot be made, trying again"
)

// podTunnels are the tunnels to one pod. While the pod is ready there is one with room, dialled ahead, so that a new
// connection costs one round trip. One goroutine, run, owns all of it.
type podTunnels struct {
	pod    string
	port   int // of the pod
	dialer *dialer
	voice  *voice
	group  *sync.WaitGroup

	wanted   chan wish
	dialled  chan dialled
	released chan *tunnel
	lost     chan *tunnel
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
}

func newPodTunnels(pod string, port int, d *dialer, v *voice, group *sync.WaitGroup) *podTunnels {
	return &podTunnels{
		pod: pod, port: port, dialer: d, voice: v, group: group,
		wanted: make(chan wish), dialled: make(chan dialled), released: make(chan *tunnel), lost: make(chan *tunnel),
		retired: make(chan struct{}), done: make(chan struct{}),
	}
}

// open opens a stream to the pod's port. When it fails, no byte can have reached the pod. Who got a stream gives it back by release.
func (p *podTunnels) open(ctx context.Context) (*stream, error) {
	w := wish{ctx, make(chan grant)}
	select {
	case p.wanted <- w:
	case <-p.done:
		return nil, errPodGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case g := <-w.grant:
		if g.err != nil {
			return nil, g.err
		}
		s, err := g.tunnel.openStream(ctx, p.port)
		if err != nil {
			p.giveBack(g.tunnel)
		}
		return s, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
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
		retry    = redialMin
		redial   = time.NewTimer(0) // runs while a failed spare waits to be dialled again
		idle     = time.NewTimer(idleAfter)
		mayDial  = true
		ready    = true
		retired  = p.retired
		ended    = ctx.Done()
	)
	defer redial.Stop()
	defer idle.Stop()
	<-redial.C
	shut := func(t *tunnel) { t.closing = true; t.close() }
	for {
		waiting = slices.DeleteFunc(waiting, func(w wish) bool {
			t := withRoom(tunnels)
			if t == nil {
				return w.ctx.Err() != nil
			}
			select {
			case w.grant <- grant{tunnel: t}:
				t.streams++
			case <-w.ctx.Done():
			}
			return true
		})
		wanted := (len(waiting) + perTunnel - 1) / perTunnel
		if wanted == 0 && ready && mayDial && withRoom(tunnels) == nil {
			wanted = 1
		}
		for ; dialling < wanted; dialling++ {
			p.group.Go(func() { p.dial(ctx) })
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
				if ready {
					p.voice.trouble(tunnelFailed, d.err, "pod", p.pod)
				}
				mayDial = false
				redial.Reset(retry)
				retry = min(2*retry, redialMax)
			default:
				p.voice.over(tunnelFailed, tunnelLost)
				mayDial, retry = true, redialMin
				if !d.tunnel.lost() { // else its loss may have been told already
					tunnels = append(tunnels, d.tunnel)
				}
				if !ready {
					shut(d.tunnel)
				}
			}
		case <-redial.C:
			mayDial = true
		case t := <-p.released:
			t.streams--
			if t.streams > 0 {
				continue
			}
			t.idleSince = time.Now()
			if !ready {
				shut(t)
			}
			idle.Reset(idleAfter)
		case <-idle.C:
			spare := withRoom(tunnels)
			for _, t := range tunnels {
				if t != spare && t.streams == 0 && time.Since(t.idleSince) >= idleAfter {
					shut(t)
				}
			}
			idle.Reset(idleAfter)
		case t := <-p.lost:
			tunnels = slices.DeleteFunc(tunnels, func(other *tunnel) bool { return other == t })
			if ready && !t.closing {
				p.voice.trouble(tunnelLost, errTunnelLost, "pod", p.pod, "connections", t.streams)
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

// dial makes a tunnel. The goroutine of run owns it, and takes every result.
func (p *podTunnels) dial(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	wire, err := p.dialer.dial(ctx, p.pod)
	var t *tunnel
	if err == nil {
		t, err = newTunnel(wire, p.group, func(t *tunnel) {
			select {
			case p.lost <- t:
			case <-p.done:
			}
		})
	}
	p.dialled <- dialled{t, err}
}

// withRoom picks the first tunnel that can take a connection, so that late ones empty and are closed.
func withRoom(tunnels []*tunnel) *tunnel {
	for _, t := range tunnels {
		if t.streams < perTunnel && !t.closing && !t.lost() && !t.stalled() {
			return t
		}
	}
	return nil
}

func refuse(waiting []wish, err error) {
	for _, w := range waiting {
		select {
		case w.grant <- grant{err: err}:
		case <-w.ctx.Done():
		}
	}
}
