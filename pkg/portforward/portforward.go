// Package portforward keeps a local address open for the life of the process, whatever happens to
// the pods behind it.
//
// The listener is bound once, before anything is deployed, and closed last. A connection that
// arrives while no pod is ready waits. New connections go to a ready pod; open ones stay with their
// pod until either side ends them. Bytes that a pod may have read are never sent twice.
//
// To follow a connection from accept to pod, read portforward.go (listeners and shutdown),
// connection.go (one client's connection), replay.go (its first bytes, kept for another attempt),
// pods.go and target.go (which pods are ready), pool.go (the tunnels to one pod), tunnel.go and
// stream.go (one tunnel and the connections in it), dial.go (how a tunnel is opened).
//
// Some limits come from the runtimes. SPDY has no flow control, so a client that does not read can
// stop those that share its tunnel (pool.go keeps them few). After one direction ends, containerd
// ends the other one second later, and cri-dockerd (which runs socat) half a second later. So a
// client that half-closes (`echo | nc -N`) gets what the pod answers within that time, and a server
// that ends its answer by closing is seen to end that much late. HTTP clients do not half-close. A
// client that has half-closed and still waits for a pod counts as gone after a second. Only TCP is
// forwarded.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
)

const (
	acceptPause     = 50 * time.Millisecond // after an accept that failed, say for lack of file descriptors
	acceptWarnAgain = time.Minute           // after that long without a failure, the next one is reported

	// resetGrace is how long connections may take to reset their streams at shutdown. A tunnel
	// whose other end does not read could delay that forever.
	resetGrace = time.Second
)

// Spec is one forward, as devloop.yaml asks for it.
type Spec struct {
	Target Target
	Bind   string        // IP address, or Localhost (also if empty): 127.0.0.1 and, where the machine has it, ::1
	Local  int           // port; 0 picks a free one
	Hold   time.Duration // how long a connection waits for a ready pod; 0 closes it at once
	// Gateway tells by the labels of what selects the target's pods whether it leads to a Dask
	// Gateway. It is called without labels before the object is known. May be nil.
	Gateway func(labels map[string]string) bool
}

// Forward is a bound local address. The caller of Listen owns it and ends it through Serve's
// context or Close.
type Forward struct {
	spec      Spec
	listeners []*net.TCPListener
	status    *status

	hold atomic.Int64 // a time.Duration, see SetHold

	// What is known of the target, for Address.
	checked, http, gateway atomic.Bool
}

// Listen binds the local address. The kernel queues connections until Serve accepts them. If the
// port is taken, the error is a *TakenError; no other port is tried.
func Listen(ctx context.Context, spec Spec, sink event.Sink) (*Forward, error) {
	listeners, err := listen(ctx, spec.Bind, spec.Local)
	if err != nil {
		return nil, explain(err)
	}
	f := &Forward{spec: spec, listeners: listeners}
	f.SetHold(spec.Hold)
	f.status = newStatus(sink.Stage("forward"), f.Address)
	f.found(nil)
	return f, nil
}

// Addr is the local address, with the port that was picked if Spec left it open. Of two loopback
// addresses it is 127.0.0.1.
func (f *Forward) Addr() *net.TCPAddr { return f.listeners[0].Addr().(*net.TCPAddr) }

// SetHold sets how long connections that are made from now on wait for a ready pod.
func (f *Forward) SetHold(hold time.Duration) { f.hold.Store(int64(hold)) }

// Target is what the forward leads to.
func (f *Forward) Target() Target { return f.spec.Target }

// Close closes the listeners. Only a Forward that is never served needs it.
func (f *Forward) Close() error {
	var errs []error
	for _, l := range f.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Cluster returns how to reach the API server now: a restart may change its port and certificates.
// The result is not modified.
type Cluster func(context.Context) (*rest.Config, error)

// Serve forwards connections until ctx ends, and returns nil then. It may be called once. When it
// returns, all its goroutines have ended. It fails only if the target is invalid or a listener
// breaks; trouble with the cluster is reported and waited out.
func (f *Forward) Serve(ctx context.Context, cluster Cluster, client kubernetes.Interface) error {
	defer func() { _ = f.Close() }() // the process's end closes them at the latest
	dialer := &dialer{cluster: cluster, namespace: f.spec.Target.Namespace}

	// Connections need tunnels. So listeners end with ctx, connections after them, tunnels last.
	listening, stopListening := context.WithCancelCause(ctx)
	defer stopListening(nil)
	connected, closeConnections := context.WithCancel(context.WithoutCancel(ctx))
	defer closeConnections()
	tunnelling, closeTunnels := context.WithCancel(context.WithoutCancel(ctx))
	defer closeTunnels()
	var listeners, connections, tunnels sync.WaitGroup

	stage := f.status.stage
	pods := newPods(f.spec.Target, client, dialer, f.status)
	pods.found = f.found
	tunnels.Go(func() {
		stage.Supervise(tunnelling, "pods", func(ctx context.Context) {
			if err := pods.run(ctx, &tunnels); err != nil {
				stopListening(err)
			}
		})
	})
	tunnels.Go(func() { stage.Supervise(tunnelling, "counts", f.status.reportCounts) })
	serve := func(client *net.TCPConn) {
		c := &connection{client: client, hold: time.Duration(f.hold.Load()), pods: pods, status: f.status,
			replay: newReplayBuffer()}
		connections.Go(func() { _ = f.status.bugs.Recover("connection", func() { c.serve(connected) }) })
	}
	for _, listener := range f.listeners {
		listeners.Go(func() {
			stage.Supervise(listening, "listener", func(ctx context.Context) {
				if err := f.accept(ctx, listener, serve); err != nil {
					stopListening(err)
				}
			})
		})
	}

	listeners.Wait()
	closeConnections()
	late := time.AfterFunc(resetGrace, closeTunnels)
	connections.Wait()
	late.Stop()
	closeTunnels()
	tunnels.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(listening)
}

// accept passes connections to serve until ctx ends (no error) or the listener breaks. It closes
// the listener.
func (f *Forward) accept(ctx context.Context, listener *net.TCPListener, serve func(*net.TCPConn)) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var failed time.Time
	for {
		client, err := listener.AcceptTCP()
		switch {
		case err == nil:
			if time.Since(failed) > acceptWarnAgain {
				f.status.resolved(cannotAccept, "")
			}
			serve(client)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("forward %s: %w", listener.Addr(), err)
		default: // a connection that ended before it was accepted, or too many open files: both pass
			failed = time.Now()
			f.status.warnOnce(cannotAccept, "", err)
			sleep(ctx, acceptPause)
		}
	}
}

// sleep waits for d and reports whether ctx lasted that long.
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
