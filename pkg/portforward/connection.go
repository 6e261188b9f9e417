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

	// certainAfter is when a dial that no refusal was heard of counts as made: the node dials its own loopback, and tells
	// a refusal one round trip later.
	certainAfter = 250 * time.Millisecond

	// linger is how long a client may go on talking after the answer has ended. Closing at once would make the kernel
	// reset the connection, and the client could lose the end of the answer.
	linger = time.Second
)

const (
	heldTooLong = "held connection closed, no pod answered in time"
	podRefuses  = "pod refuses connections, trying again"
)

var errClientGone = errors.New("the client is gone")

// connection is one client's connection from its first to its last byte.
type connection struct {
	spec   Spec
	client *net.TCPConn
	pods   *pods
	voice  *voice
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

	hold, release := context.WithTimeout(ctx, c.spec.Hold)
	defer release()
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		open, err := c.try(ctx, hold)
		if open {
			c.finish(filled, err)
			return
		}
		if errors.Is(err, errRefused) {
			c.voice.trouble(podRefuses, err)
		}
		if hold.Err() != nil || !sleep(hold, pause) {
			if ctx.Err() == nil {
				c.voice.trouble(heldTooLong, err, "after", c.spec.Hold)
			}
			return
		}
	}
}

// try makes one attempt. Open says that the connection is used up: bytes of it may have been read. Otherwise the pod has
// seen none, and the attempt may be made again.
func (c *connection) try(ctx, hold context.Context) (open bool, err error) {
	tunnels, err := c.pods.pick(hold)
	if err != nil {
		return false, err
	}
	s, err := tunnels.open(hold)
	if err != nil {
		return false, err
	}
	defer tunnels.release(s)
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
	p := make([]byte, 32<<10)
	for {
		n, err := c.said.next(attempt, p)
		if n > 0 {
			s.sent.Store(true)
			s.toPod.start()
			_, err = s.data.Write(p[:n])
			s.toPod.stop()
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
	p := make([]byte, 32<<10)
	for {
		n, err := s.data.Read(p)
		if n > 0 {
			if !answered {
				answered = true
				c.said.settle()
				c.voice.over(podRefuses, heldTooLong)
			}
			s.toClient.start()
			_, err := c.client.Write(p[:n])
			s.toClient.stop()
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
