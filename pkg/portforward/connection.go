package portforward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	retryMin = 20 * time.Millisecond  // between attempts of one connection; a pod that is about to listen takes about this long
	retryMax = 100 * time.Millisecond // so that a pod which becomes ready meanwhile is seen in time

	// acceptMin is how long the first attempt waits for the node to accept a connection, which takes some milliseconds. Each
	// attempt after a silent one waits twice as long, for machines that are that busy.
	acceptMin = 2 * time.Second

	// certainAfter is when a dial that no refusal was heard of counts as made: the node dials its own loopback, and tells
	// a refusal one round trip later; with cri-dockerd it starts two processes for it.
	certainAfter = 100 * time.Millisecond

	// linger is how long a client may go on talking after the answer has ended. Closing at once would make the kernel
	// reset the connection, and the client could lose the end of the answer.
	linger = time.Second
)

var errClientGone = errors.New("the client is gone")

// refusedHint is for a pod that does not come to listen: who forwards a port reaches the pod by its loopback address alone.
const refusedHint = "if it does not pass: the pod's server has to listen on 127.0.0.1 or on all addresses, not only on the pod's own"

// connection is one client's connection from its first to its last byte.
type connection struct {
	hold   time.Duration
	client *net.TCPConn
	pods   *pods
	status *status
	said   *replay
}

// carry holds the connection until a pod takes it, carries bytes both ways, and closes it. When ctx ends, the
// connection is closed: at once and cleanly if it was held, by a reset if it was open, since its answer is not whole.
func (c *connection) carry(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	filled := make(chan struct{})
	var held atomic.Bool   // no pod has it, nor is one being tried
	var silent atomic.Bool // the client has said all, and that was a while ago
	held.Store(true)
	var watching sync.WaitGroup
	watching.Go(func() {
		var err error
		broken := c.status.bugs.Contain("connection", func() {
			defer close(filled)
			err = c.said.fill(c.client)
		})
		if broken != nil {
			err = broken
		}
		if !errors.Is(err, io.EOF) {
			cancel(errClientGone)
			return
		}
		// It may have closed only its half; but one that waits for a pod in vain is mostly gone.
		if sleep(ctx, linger) {
			silent.Store(true)
			if held.Load() {
				cancel(errClientGone)
			}
		}
	})
	defer watching.Wait()
	defer cancel(nil)
	defer func() { _ = c.client.Close() }()
	defer c.said.close()

	in := &c.status.held
	move := func(to *atomic.Int64) {
		in.Add(-1)
		in = to
		in.Add(1)
		held.Store(in == &c.status.held)
	}
	c.status.arrived()
	defer func() { in.Add(-1) }()
	hold, release := context.WithTimeout(ctx, c.hold)
	defer release()
	pause, patience := retryMin, acceptMin
	var quiet *podTunnels // from whose node nothing came back
	for {
		pod, s, err := c.reach(ctx, hold, patience)
		if err == nil {
			move(&c.status.open)
			open := true
			broken := c.status.bugs.Contain("connection", func() { open, err = c.join(ctx, pod, s) })
			if broken != nil {
				err = broken
				s.abandon()
			}
			pod.release(s)
			if open {
				c.finish(filled, err)
				return
			}
			move(&c.status.held)
			if silent.Load() {
				return
			}
		}
		switch {
		case errors.Is(err, errRefused):
			c.status.trouble(podRefuses, pod.to.pod, event.WithHint(err, refusedHint), "pod", event.Name(pod.to.pod))
		case !errors.Is(err, errSilent):
		case quiet == pod:
			patience *= 2
		default:
			quiet, patience = pod, acceptMin
		}
		if hold.Err() != nil || !sleep(hold, pause) {
			if ctx.Err() == nil {
				c.status.trouble(heldTooLong, "", err, "after", c.hold)
				c.finish(filled, nil)
			}
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// reach opens a stream to a ready pod. It waits for one as long as hold does; a ready one is tried in any case.
func (c *connection) reach(ctx, hold context.Context, patience time.Duration) (*podTunnels, *stream, error) {
	pod, err := c.pods.pick(hold)
	if err != nil {
		return nil, nil, err
	}
	until, _ := hold.Deadline()
	s, err := pod.open(ctx, min(patience, max(acceptMin, time.Until(until))))
	return pod, s, err
}

// join carries bytes until the pod's answer has ended. Open says that the connection is used up: bytes of it may have been read. Otherwise
// the pod has seen none, and it may be tried again.
func (c *connection) join(ctx context.Context, pod *podTunnels, s *stream) (open bool, err error) {
	cut := context.AfterFunc(ctx, func() {
		_ = c.client.SetLinger(0) // a reset: who reads an answer must not take this for its end
		_ = c.client.Close()
		s.abandon()
	})
	defer cut()
	attempt := c.said.begin()
	certain := time.AfterFunc(certainAfter, func() { c.said.hurry(attempt) })
	defer certain.Stop()
	answered, err := c.talk(s, attempt, pod.to.pod)

	unread := errors.Is(err, errRefused) || !s.sent.Load() // by the pod
	if err != nil && !answered && unread && c.said.again() && ctx.Err() == nil {
		return false, err
	}
	return true, err
}

// talk carries bytes both ways until the answer has ended. The stream is abandoned when it returns,
// also by a panic of either direction.
func (c *connection) talk(s *stream, attempt int, pod string) (answered bool, err error) {
	asked := make(chan error, 1)
	go func() {
		broken := event.Guard(func() error {
			c.ask(s, attempt)
			return nil
		})
		if broken != nil {
			s.abandon() // which ends the answer
		}
		asked <- broken
	}()
	defer func() {
		c.said.interrupt()
		s.abandon()
		if broken := <-asked; broken != nil {
			panic(broken)
		}
	}()
	if answered, err = c.answer(s, pod); err == nil {
		err = s.verdict()
	}
	return answered, err
}

// ask sends the pod what the client says, until the client ends or the attempt does.
func (c *connection) ask(s *stream, attempt int) {
	send := func(p []byte) {
		s.sent.Store(true)
		s.toPod.start()
		_, _ = s.data.Write(p) // the tunnel's loss shows in the answer
		s.toPod.stop()
		c.status.sent.Add(int64(len(p)))
	}
	var p []byte
	for n := 0; ; {
		p = roomy(p, n)
		var err error
		n, err = c.said.next(attempt, p, send)
		switch {
		case err == nil:
			send(p[:n])
		case errors.Is(err, io.EOF):
			s.halfClose()
			return
		default:
			return
		}
	}
}

// answer sends the client what the pod says, until the pod ends (no error) or the client is gone.
func (c *connection) answer(s *stream, pod string) (answered bool, err error) {
	var p []byte
	for n := 0; ; {
		p = roomy(p, n)
		var err error
		n, err = s.data.Read(p)
		if n > 0 {
			if !answered {
				answered = true
				c.said.settle()
				c.status.over(podRefuses, pod)
				c.status.over(heldTooLong, "")
			}
			s.toClient.start()
			_, err := c.client.Write(p[:n])
			s.toClient.stop()
			c.status.received.Add(int64(n))
			if err != nil {
				return answered, errClientGone
			}
		}
		if err != nil {
			return answered, nil
		}
	}
}

// finish closes a connection that a pod had: with an end if the answer is whole, with a reset if it was cut.
func (c *connection) finish(filled <-chan struct{}, err error) {
	if err != nil {
		_ = c.client.SetLinger(0)
		return
	}
	_ = c.client.CloseWrite()
	_ = c.client.SetReadDeadline(time.Now().Add(linger))
	c.said.close()
	<-filled
	_, _ = io.Copy(io.Discard, c.client)
}
