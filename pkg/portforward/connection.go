package portforward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	retryMin = 20 * time.Millisecond  // between attempts; a pod that is about to listen takes about this long
	retryMax = 100 * time.Millisecond // so that a pod that becomes ready meanwhile is noticed soon

	// acceptTimeout is how long the first attempt waits for the node to accept a connection, which
	// takes some milliseconds. It doubles after each attempt that timed out, for very busy
	// machines.
	acceptTimeout = 2 * time.Second

	// refusalTime is when a connection that was not refused counts as made. The node dials its own
	// loopback and reports a refusal one round trip later; cri-dockerd starts two processes for it.
	refusalTime = 100 * time.Millisecond

	// halfCloseGrace is how long a client that has closed its side may still wait for a pod.
	halfCloseGrace = time.Second

	// drainTimeout is how long a client may go on sending after the answer has ended. Closing at
	// once would make the kernel reset the connection, and the client could lose the end of the
	// answer.
	drainTimeout = time.Second
)

var (
	errClientGone = errors.New("the client is gone")
	errNotServed  = errors.New("the connection ended before a pod took it")
)

const refusedHint = "if it does not pass: the pod's server has to listen on 127.0.0.1 or on all addresses, " +
	"not only on the pod's own"

// connection is one client's connection, from accept to close.
type connection struct {
	client *net.TCPConn
	hold   time.Duration // how long it waits for a pod
	pods   *pods
	status *status
	replay *replayBuffer
}

// serve waits for a pod, copies bytes both ways, and closes the connection. If ctx ends first, a
// waiting connection is closed cleanly. An open one is reset, because its answer is incomplete.
func (c *connection) serve(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	waiting, stopWaiting := context.WithCancelCause(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		if err := c.readClient(); !errors.Is(err, io.EOF) {
			cancel(errClientGone)
		} else if sleep(ctx, halfCloseGrace) { // it may have closed only its side, but is most likely gone
			stopWaiting(errClientGone)
		}
	})
	defer reading.Wait()
	defer cancel(nil)
	defer stopWaiting(nil)
	defer func() { _ = c.client.Close() }()
	defer c.replay.close()

	switch err := c.forward(ctx, waiting); {
	case err == nil:
		_ = c.client.CloseWrite()
		_ = c.client.SetReadDeadline(time.Now().Add(drainTimeout))
		c.replay.close()
		cancel(nil)
		reading.Wait()
		_, _ = io.Copy(io.Discard, c.client)
	case !errors.Is(err, errNotServed):
		_ = c.client.SetLinger(0) // a reset: an incomplete answer must not look complete
	}
}

// readClient reads what the client sends until its side ends, and returns how.
func (c *connection) readClient() (err error) {
	bug := c.status.bugs.Recover("connection", func() { err = c.replay.fill(c.client) })
	if bug != nil {
		return bug
	}
	return err
}

// forward tries ready pods until one takes the connection. It returns nil after a complete answer,
// and if no pod answered within the hold time: the client then sees a clean end. waiting ends with
// ctx, and when the client stops waiting for a pod.
func (c *connection) forward(ctx, waiting context.Context) error {
	c.status.waiting.Add(1)
	defer c.status.waiting.Add(-1)
	hold, release := context.WithTimeout(waiting, c.hold)
	defer release()
	timeout := acceptTimeout
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		pool, s, err := c.openStream(waiting, hold, timeout)
		if err == nil {
			var retry bool
			if retry, err = c.attempt(ctx, pool, s); !retry {
				return err
			}
		}
		switch {
		case errors.Is(err, errRefused):
			pod := pool.backend.pod
			c.status.warnOnce(podRefuses, pod, event.WithHint(err, refusedHint), "pod", event.Name(pod))
		case errors.Is(err, errSilent):
			timeout *= 2
		}
		if hold.Err() == nil && sleep(hold, pause) {
			continue
		}
		if waiting.Err() != nil {
			return errNotServed
		}
		c.status.warnOnce(heldTooLong, "", err, "after", c.hold)
		return nil
	}
}

// openStream opens a stream to a ready pod. It waits for one until hold ends; a pod that is ready
// already is tried in any case.
func (c *connection) openStream(ctx, hold context.Context, timeout time.Duration) (*tunnelPool, *stream, error) {
	pool, err := c.pods.pick(hold)
	if err != nil {
		return nil, nil, err
	}
	deadline, _ := hold.Deadline()
	s, err := pool.open(ctx, min(timeout, max(acceptTimeout, time.Until(deadline))))
	return pool, s, err
}

// attempt copies bytes until the pod's answer ends. retry reports that the pod has read nothing of
// the connection, so that another attempt is safe.
func (c *connection) attempt(ctx context.Context, pool *tunnelPool, s *stream) (retry bool, err error) {
	c.status.waiting.Add(-1)
	c.status.open.Add(1)
	defer c.status.waiting.Add(1)
	defer c.status.open.Add(-1)
	defer pool.release(s)
	stop := context.AfterFunc(ctx, func() {
		_ = c.client.SetLinger(0)
		_ = c.client.Close()
		s.abandon()
	})
	defer stop()
	attempt := c.replay.startAttempt()
	accepted := time.AfterFunc(refusalTime, func() { c.replay.commitWhenFull(attempt) })
	defer accepted.Stop()

	var answered bool
	bug := c.status.bugs.Recover("connection", func() { answered, err = c.relay(s, attempt, pool.backend.pod) })
	if bug != nil {
		return false, bug
	}
	unread := errors.Is(err, errRefused) || !s.sent.Load()
	return err != nil && !answered && unread && c.replay.replayable() && ctx.Err() == nil, err
}

// relay copies bytes both ways until the pod's answer ends. It abandons the stream, also if either
// direction panics.
func (c *connection) relay(s *stream, attempt int, pod string) (answered bool, err error) {
	sending := make(chan error, 1)
	go func() {
		bug := event.Guard(func() error {
			c.copyToPod(s, attempt)
			return nil
		})
		if bug != nil {
			s.abandon() // which ends the answer
		}
		sending <- bug
	}()
	defer func() {
		c.replay.endAttempt()
		s.abandon()
		if bug := <-sending; bug != nil {
			panic(bug)
		}
	}()
	if answered, err = c.copyToClient(s, pod); err == nil {
		err = s.outcome()
	}
	return answered, err
}

// copyToPod sends the pod what the client sends, until the client's side or the attempt ends.
func (c *connection) copyToPod(s *stream, attempt int) {
	send := func(p []byte) {
		s.write(p)
		c.status.sent.Add(int64(len(p)))
	}
	var p []byte
	for n := 0; ; {
		p = growBuffer(p, n)
		var err error
		n, err = c.replay.next(attempt, p, send)
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

// copyToClient sends the client what the pod sends, until the pod's side ends (no error) or the
// client is gone.
func (c *connection) copyToClient(s *stream, pod string) (answered bool, err error) {
	var p []byte
	for n := 0; ; {
		p = growBuffer(p, n)
		var end error
		n, end = s.data.Read(p)
		if n > 0 && !answered {
			answered = true
			c.replay.commit()
			c.status.resolved(podRefuses, pod)
			c.status.resolved(heldTooLong, "")
		}
		if n > 0 {
			s.toClient.start()
			_, err := c.client.Write(p[:n])
			s.toClient.stop()
			c.status.received.Add(int64(n))
			if err != nil {
				return answered, errClientGone
			}
		}
		if end != nil {
			return answered, nil
		}
	}
}
