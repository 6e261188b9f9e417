package portforward

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

const (
	retryMin = 20 * time.Millisecond  // between attempts of one connection; a pod that is about to listen takes about this long
	retryMax = 100 * time.Millisecond // so that a pod which becomes ready meanwhile is seen in time

	// acceptMin is how long the first attempt waits for the node to accept a connection, which takes some milliseconds. Each
	// attempt after a silent one waits twice as long, for machines that are that busy.
	acceptMin = 2 * time.Second

	// certainAfter is when a dial that no refusal was heard of counts as made: the node dials its own loopback, and tells
	// a refusal one round trip later.
	certainAfter = 250 * time.Millisecond

	// linger is how long a client may go on talking after the answer has ended. Closing at once would make the kernel
	// reset the connection, and the client could lose the end of the answer.
	linger = time.Second
)

var errClientGone = errors.New("the client is gone")

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
	defer cancel(nil)
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		if err := c.said.fill(c.client); !errors.Is(err, io.EOF) {
			cancel(errClientGone)
		}
	}()
	defer func() { <-filled }()
	defer func() { _ = c.client.Close() }()
	defer c.said.close()

	c.status.held.Add(1)
	defer c.status.held.Add(-1)
	hold, release := context.WithTimeout(ctx, c.hold)
	defer release()
	pause, patience := retryMin, acceptMin
	for {
		open, err := c.try(ctx, hold, patience)
		if open {
			c.finish(filled, err)
			return
		}
		switch {
		case errors.Is(err, errRefused):
			c.status.trouble(podRefuses, err)
		case errors.Is(err, errSilent):
			patience *= 2
		}
		if hold.Err() != nil || !sleep(hold, pause) {
			if ctx.Err() == nil {
				c.status.trouble(heldTooLong, err, "after", c.hold)
			}
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// try makes one attempt. Open says that the connection is used up: bytes of it may have been read. Otherwise the pod has
// seen none, and the attempt may be made again.
func (c *connection) try(ctx, hold context.Context, patience time.Duration) (open bool, err error) {
	tunnels, err := c.pods.pick(hold)
	if err != nil {
		return false, err
	}
	s, err := tunnels.open(ctx, patience)
	if err != nil {
		return false, err
	}
	defer tunnels.release(s)
	c.status.held.Add(-1)
	c.status.open.Add(1)
	defer c.status.held.Add(1)
	defer c.status.open.Add(-1)
	return c.join(ctx, s)
}

// join carries bytes until the pod's answer has ended.
func (c *connection) join(ctx context.Context, s *stream) (open bool, err error) {
	cut := context.AfterFunc(ctx, func() {
		_ = c.client.SetLinger(0) // a reset: who reads an answer must not take this for its end
		_ = c.client.Close()
		s.abandon()
	})
	defer cut()
	attempt := c.said.begin()
	certain := time.AfterFunc(certainAfter, func() { c.said.hurry(attempt) })
	defer certain.Stop()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c.ask(s, attempt)
	}()

	answered, err := c.answer(s)
	if err == nil {
		err = s.verdict()
	}
	c.said.interrupt()
	s.abandon()
	<-asked

	unread := errors.Is(err, errRefused) || !s.sent.Load() // by the pod
	if err != nil && !answered && unread && c.said.again() && ctx.Err() == nil {
		return false, err
	}
	return true, err
}

// ask sends the pod what the client says, until the client ends or the attempt does.
func (c *connection) ask(s *stream, attempt int) {
	var p []byte
	for n := 0; ; {
		p = roomy(p, n)
		var err error
		n, err = c.said.next(attempt, p)
		if n > 0 {
			s.sent.Store(true)
			s.toPod.start()
			_, err = s.data.Write(p[:n])
			s.toPod.stop()
			c.status.sent.Add(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF):
			s.halfClose()
			return
		case err != nil: // the tunnel's loss shows in the answer, too
			return
		}
	}
}

// answer sends the client what the pod says, until the pod ends (no error) or the client is gone.
func (c *connection) answer(s *stream) (answered bool, err error) {
	var p []byte
	for n := 0; ; {
		p = roomy(p, n)
		var err error
		n, err = s.data.Read(p)
		if n > 0 {
			if !answered {
				answered = true
				c.said.settle()
				c.status.over(podRefuses, heldTooLong)
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
