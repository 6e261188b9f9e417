// Package portforward keeps a local address open for the life of the process, whatever happens to the pods behind it.
//
// The rule: the listener is bound once, before anything is deployed, and closed last. A connection that arrives
// while no pod is ready is held. New connections go to a ready pod; those already open stay with their pod until they
// or it end. Bytes that a pod may have read are never sent twice.
//
// The parts, from the outside in:
//
//	forward.go     the listeners, and the order in which everything ends
//	listen.go      the local addresses, and who holds one that is taken (holder.go)
//	status.go      what the forward is doing, told when it changes
//	connection.go  one client's connection: hold it, find a pod, carry bytes, try again where that is safe
//	replay.go      what the client said first, kept until it need not be said again
//	target.go      what a forward leads to: which pods, and which of their ports
//	pods.go        which of them are ready now
//	tunnels.go     the tunnels to one pod: how many, which of them takes the next connection
//	tunnel.go      one tunnel and its streams
//	dial.go        how a tunnel is made
//
// Limits that come from the runtimes, not from here: SPDY has no flow control, so a client that does not read can stop those who share
// its tunnel (see tunnels.go for how few these are); containerd ends the other direction 1 s after one direction
// ended, and cri-dockerd (the docker runtime), which runs socat, half a second after. So a client that half-closes (`echo | nc -N`)
// gets what the pod answers within that time, and a server that ends its answer by closing is seen to end that much late. HTTP
// clients do not half-close. One that has half-closed and waits for a pod in vain counts as gone after a second. Only TCP is carried.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
)

const (
	acceptPause = 50 * time.Millisecond // when the process is out of file descriptors
	acceptCalm  = time.Minute           // after which that is over
	farewell    = time.Second           // for streams to say goodbye to the pod before their tunnels are closed

	// crowd is how many connections at a time take memory worth giving back, some ten megabytes, and aftermath how long after they have
	// gone that is done: Go by itself takes minutes, and collecting garbage at once would stop those who come next.
	crowd     = 500
	aftermath = 15 * time.Second
)

// Spec is one forward, as devloop.yaml asks for it.
type Spec struct {
	Target Target
	Bind   string        // IP address, or Localhost (also if empty): 127.0.0.1 and, where the machine has it, ::1
	Local  int           // port; 0 picks a free one
	Hold   time.Duration // how long a connection waits for a ready pod; 0 closes it at once
}

// Forward is a bound local address. It belongs to who called Listen, who ends it by Serve's context or by Close.
type Forward struct {
	spec      Spec
	listeners []*net.TCPListener
	status    *status
}

// Listen binds the local address at once; the kernel queues connections until Serve takes them. If the port is taken, the
// error names who holds it and carries a hint; no other port is tried. What happens is told to sink.
func Listen(ctx context.Context, spec Spec, sink event.Sink) (*Forward, error) {
	listeners, err := listen(ctx, spec.Bind, spec.Local)
	if err != nil {
		return nil, explain(err)
	}
	f := &Forward{spec: spec, listeners: listeners}
	f.status = newStatus(sink.For("forward"), "target", event.Name(spec.Target.String()),
		"local", event.Name(f.Addr().String()))
	return f, nil
}

// Addr is the local address, with the port that was picked if Spec left it open; of two loopback addresses it is 127.0.0.1.
func (f *Forward) Addr() *net.TCPAddr { return f.listeners[0].Addr().(*net.TCPAddr) }

// Target is what the forward leads to.
func (f *Forward) Target() Target { return f.spec.Target }

// Status is what the forward is doing now.
func (f *Forward) Status() Status { return f.status.now() }

// Close closes the listener. Only a Forward that is never served needs it.
func (f *Forward) Close() error {
	var errs []error
	for _, l := range f.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Cluster says how its API server is reached now: a restart may change the port and the certificates. What it returns is not changed.
type Cluster func(context.Context) (*rest.Config, error)

// Serve carries connections until ctx ends, and returns nil then; it may be called once. Connections are closed after the
// listener, tunnels after connections, and every goroutine that it started has ended when it returns. The only
// errors are of a target that cannot be and of a listener that broke: whatever the cluster does is waited out, and told.
func (f *Forward) Serve(ctx context.Context, cluster Cluster, client kubernetes.Interface) error {
	defer func() { _ = f.Close() }() // ends with the process at the latest
	dialer := &dialer{cluster: cluster, namespace: f.spec.Target.Namespace}
	defer dialer.close()

	// Connections use tunnels, so each has a life of its own: they end in this order.
	carrying, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	tunnelling, closeTunnels := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	defer closeTunnels()
	accepting, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	var accepts, connections, tunnels sync.WaitGroup

	pods := newPods(f.spec.Target, client, dialer, f.status)
	say := f.status.stage
	keep := func(what string, work func(context.Context)) {
		tunnels.Go(func() { say.Keep(tunnelling, what, work) })
	}
	keep("pods", func(ctx context.Context) {
		if err := pods.run(ctx, &tunnels); err != nil {
			refuse(err)
		}
	})
	keep("memory", f.giveBack)
	keep("counts", f.status.tellCounts)
	for _, listener := range f.listeners {
		take := func(client *net.TCPConn) {
			c := &connection{hold: f.spec.Hold, client: client, pods: pods, status: f.status, said: newReplay()}
			connections.Go(func() { _ = f.status.bugs.Contain("connection", func() { c.carry(carrying) }) })
		}
		accepts.Go(func() {
			say.Keep(accepting, "listener", func(ctx context.Context) {
				if err := f.accept(ctx, listener, take); err != nil {
					refuse(err)
				}
			})
		})
	}
	accepts.Wait()

	hangUp()
	late := time.AfterFunc(farewell, closeTunnels) // a tunnel whose other end does not read could hold a goodbye for ever
	connections.Wait()
	late.Stop()
	closeTunnels()
	tunnels.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(accepting)
}

// giveBack returns to the system what a crowd of connections took.
func (f *Forward) giveBack(ctx context.Context) {
	before := int64(0)
	for sleep(ctx, aftermath) {
		now := max(f.status.most.Swap(0), f.status.held.Load()+f.status.open.Load())
		if before >= crowd && now < before/4 {
			debug.FreeOSMemory()
			before = 0
		}
		before = max(before, now)
	}
}

// accept takes connections until ctx ends (no error), or the listener breaks; the listener is closed then.
func (f *Forward) accept(ctx context.Context, listener *net.TCPListener, take func(*net.TCPConn)) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var failed time.Time
	for {
		client, err := listener.AcceptTCP()
		switch {
		case err == nil:
			if time.Since(failed) > acceptCalm {
				f.status.over(cannotAccept, "")
			}
			take(client)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("forward %s: %w", listener.Addr(), err)
		default: // a connection that ended before it was accepted, or too many open files: both pass
			failed = time.Now()
			f.status.trouble(cannotAccept, "", err)
			sleep(ctx, acceptPause)
		}
	}
}

// sleep waits for d or for ctx to end, and says whether it was d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
