// Package portforward keeps a local address open for the life of the process, whatever happens to the pods behind it.
//
// The rule: the listener is bound once, before anything is deployed, and closed last. A connection that arrives
// while no pod is ready is held. New connections go to a ready pod; those already open stay with their pod until they
// or it end. Bytes that a pod may have read are never sent twice.
//
// The parts, from the outside in:
//
//	forward.go     the listener, and the order in which everything ends
//	connection.go  one client's connection: hold it, find a pod, carry bytes, try again where that is safe
//	replay.go      what the client said first, kept until it need not be said again
//	pods.go        which pods are ready now
//	tunnels.go     the tunnels to one pod: how many, which of them takes the next connection
//	tunnel.go      one tunnel and its streams
//	dial.go        how a tunnel is made
//
// Limits that come from the runtimes, not from here: containerd ends the other direction 1 s after one direction
// ended. So a client that half-closes (`echo | nc -N`) gets what the pod answers within that second, and a server
// that ends its answer by closing is seen to end up to 1 s late. HTTP clients do not half-close. Only TCP is carried.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
)

const (
	acceptPause = 50 * time.Millisecond // when the process is out of file descriptors
	farewell    = time.Second           // for streams to say goodbye to the pod before their tunnels are closed
)

const cannotAccept = "connections cannot be accepted, trying again"

// Spec is one forward, as devloop.yaml asks for it.
type Spec struct {
	Namespace string // either may not exist yet
	Service   string
	Port      int           // of the service; the pod's own port follows from the service and the pod, as in the cluster
	Local     int           // port on 127.0.0.1; 0 picks a free one
	Hold      time.Duration // how long a connection waits for a ready pod; 0 closes it at once
}

// Forward is a bound local address. It belongs to who called Listen, who ends it by Serve's context or by Close.
type Forward struct {
	spec     Spec
	listener *net.TCPListener
}

// Listen binds the local address at once; the kernel queues connections until Serve takes them. If the port is taken, the
// error names who holds it and carries a hint; no other port is tried.
func Listen(ctx context.Context, spec Spec) (*Forward, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.Local))
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		who, hint := holder(spec.Local)
		return nil, event.WithHint(fmt.Errorf("local port %d is taken by %s", spec.Local, who), hint)
	}
	if err != nil {
		return nil, fmt.Errorf("local port %d for service %s/%s: %w", spec.Local, spec.Namespace, spec.Service, err)
	}
	return &Forward{spec: spec, listener: listener.(*net.TCPListener)}, nil
}

// Addr is the local address, with the port that was picked if Spec left it open.
func (f *Forward) Addr() net.Addr { return f.listener.Addr() }

// Close closes the listener. Only a Forward that is never served needs it.
func (f *Forward) Close() error { return f.listener.Close() }

// Serve carries connections until ctx ends, and returns nil then; it may be called once. Connections are closed after the
// listener, tunnels after connections, and every goroutine that it started has ended when it returns. The only
// error is that of a listener that broke: whatever the cluster does is waited out, and told to sink.
//
// The config is the one that client was made from; it is not changed.
func (f *Forward) Serve(ctx context.Context, config *rest.Config, client kubernetes.Interface, sink event.Sink) error {
	defer f.listener.Close()
	dialer, err := newDialer(config, f.spec.Namespace)
	if err != nil {
		return err
	}
	defer dialer.close()
	voice := newVoice(sink.For("forward"), "local", f.Addr().String())

	// Connections use tunnels, so each has a life of its own: they end in this order.
	carrying, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	tunnelling, closeTunnels := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	defer closeTunnels()
	var connections, tunnels sync.WaitGroup

	pods := newPods(f.spec, client, dialer, voice)
	tunnels.Go(func() { pods.run(tunnelling, &tunnels) })

	err = f.accept(ctx, voice, func(client *net.TCPConn) {
		c := &connection{spec: f.spec, client: client, pods: pods, voice: voice, said: newReplay()}
		connections.Go(func() { c.carry(carrying) })
	})

	hangUp()
	late := time.AfterFunc(farewell, closeTunnels) // a tunnel whose other end does not read could hold a goodbye for ever
	connections.Wait()
	late.Stop()
	closeTunnels()
	tunnels.Wait()
	return err
}

// accept takes connections until ctx ends (no error), or the listener breaks; the listener is closed then.
func (f *Forward) accept(ctx context.Context, voice *voice, take func(*net.TCPConn)) error {
	defer f.listener.Close()
	stop := context.AfterFunc(ctx, func() { f.listener.Close() })
	defer stop()
	for {
		client, err := f.listener.AcceptTCP()
		switch {
		case err == nil:
			voice.over(cannotAccept)
			take(client)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("forward %s: %w", f.Addr(), err)
		default: // a connection that ended before it was accepted, or too many open files: both pass
			voice.trouble(cannotAccept, err)
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
