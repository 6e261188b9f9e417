package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/spdystream"
	corev1 "k8s.io/api/core/v1"
)

const (
	resetTimeout = 5 * time.Second        // to send a reset; a tunnel that takes longer is stuck for all its streams
	replyCheck   = 250 * time.Millisecond // how late the loss of a tunnel is noticed while a reply is awaited
	errorWait    = time.Second            // for the error stream to end after the data stream did, usually at once

	errorLength = 4096 // how much of the node's error is kept, in bytes
)

// stream is one connection in a tunnel: a data stream, and an error stream for the node's error.
type stream struct {
	tunnel *tunnel
	data   *spdystream.Stream
	errs   *spdystream.Stream

	sent       atomic.Bool // the client's bytes may have left
	halfClosed atomic.Bool
	resetting  atomic.Bool
	reset      chan struct{} // closed after the reset
	errsEnded  chan struct{} // closed when nodeError is complete
	nodeError  string

	toPod, toClient stopwatch
}

// openStream opens a stream to a port of the pod. If it fails, no byte has reached the pod. If ctx
// ends first, what still arrives is dropped.
func (t *tunnel) openStream(ctx context.Context, port int) (*stream, error) {
	s := &stream{tunnel: t, reset: make(chan struct{}), errsEnded: make(chan struct{})}
	created := make(chan error)
	t.pool.group.Go(func() {
		var err error
		if bug := t.contain(func() { err = s.create(port) }); bug != nil {
			err = bug
		}
		if err != nil {
			close(s.errsEnded)
		} else {
			t.pool.group.Go(func() { _ = t.contain(s.readError) })
		}
		select {
		case created <- err:
		case <-ctx.Done():
			s.abandon()
		}
	})
	select {
	case err := <-created:
		if err != nil {
			s.abandon()
			return nil, err
		}
		t.mu.Lock()
		t.open[s] = struct{}{}
		t.mu.Unlock()
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// create requests both streams before it waits for either, so that a connection costs one round
// trip.
func (s *stream) create(port int) error {
	t := s.tunnel
	guard := time.AfterFunc(deadAfter, t.close)
	defer guard.Stop()
	t.wire.expectAnswer()
	id := strconv.FormatInt(t.request.Add(1), 10)
	request := func(kind string) (*spdystream.Stream, error) {
		h := http.Header{}
		h.Set(corev1.StreamType, kind)
		h.Set(corev1.PortHeader, strconv.Itoa(port))
		h.Set(corev1.PortForwardRequestIDHeader, id)
		one, err := t.conn.CreateStream(h, nil, false)
		if err != nil {
			t.close() // it cannot be written to
			return nil, fmt.Errorf("%s stream: %w", kind, err)
		}
		return one, nil
	}
	var err, dataErr error
	if s.errs, err = request(corev1.StreamTypeError); err != nil {
		return err
	}
	s.data, dataErr = request(corev1.StreamTypeData)
	// The library blocks if a refusal is not read, so each request's reply is awaited.
	err = t.reply(s.errs)
	if dataErr == nil {
		dataErr = t.reply(s.data)
	}
	if err = errors.Join(err, dataErr); err != nil {
		return err
	}
	return s.errs.Close() // only the node writes there
}

// reply waits for the other end to accept a stream. The library does not end this wait with the
// tunnel.
func (t *tunnel) reply(s *spdystream.Stream) error {
	for {
		err := s.WaitTimeout(replyCheck)
		if !errors.Is(err, spdystream.ErrTimeout) {
			return err
		}
		if t.isLost() {
			return errTunnelLost
		}
	}
}

// readError reads the error stream to its end.
func (s *stream) readError() {
	defer close(s.errsEnded)
	text, _ := io.ReadAll(io.LimitReader(s.errs, errorLength))
	s.nodeError = strings.TrimSpace(string(text))
	_, _ = io.Copy(io.Discard, s.errs)
}

// write sends bytes to the pod. The answer shows if the tunnel is lost.
func (s *stream) write(p []byte) {
	s.sent.Store(true)
	s.toPod.start()
	_, _ = s.data.Write(p)
	s.toPod.stop()
}

// halfClose tells the pod that the client sends no more.
func (s *stream) halfClose() {
	s.halfClosed.Store(true)
	_ = s.data.Close()
}

// abandon ends both directions for both sides, once. Any goroutine may call it; only the first call
// waits.
func (s *stream) abandon() {
	if !s.resetting.CompareAndSwap(false, true) {
		return
	}
	guard := time.AfterFunc(resetTimeout, s.tunnel.close)
	defer guard.Stop()
	defer close(s.reset)
	for _, one := range []*spdystream.Stream{s.data, s.errs} {
		if one == nil {
			continue
		}
		finished := one.IsFinished() // then Reset does not reach the other side
		_ = one.Reset()
		if finished && one == s.data {
			_ = one.Cancel()
		}
		s.tunnel.wire.resets.forget(one.Identifier())
	}
	s.tunnel.mu.Lock()
	delete(s.tunnel.open, s)
	s.tunnel.mu.Unlock()
}

// outcome says how a stream ended whose data has ended: nil if the pod closed it, errRefused if no
// byte has reached the pod, or what went wrong. The library shows all of these as an end of file.
func (s *stream) outcome() error {
	lost := s.tunnel.isLost() // first: data that ended before the tunnel did is complete
	timer := time.NewTimer(errorWait)
	defer timer.Stop()
	select {
	case <-s.errsEnded:
		if isRefusal(s.nodeError) {
			return fmt.Errorf("%w: %s", errRefused, s.nodeError)
		}
		if s.nodeError != "" {
			return errors.New(s.nodeError)
		}
	case <-timer.C:
	}
	switch {
	case lost:
		return errTunnelLost
	case !s.halfClosed.Load() && s.tunnel.wire.resets.has(s.data.Identifier()):
		return errors.New("the node cut the connection to the pod")
	}
	return nil
}

// refusals are how nodes say that they could not connect to the pod's port: containerd and CRI-O
// ("failed to connect to", "failed to dial"), cri-dockerd through socat ("Connection refused"), and
// all of them if the pod's sandbox is gone.
var refusals = []string{
	"connection refused", "failed to connect to", "failed to dial",
	"network namespace for sandbox", "failed to statfs", "not running", "not found",
}

// isRefusal reports whether the node's error is about a connection that was never made.
func isRefusal(nodeError string) bool {
	nodeError = strings.ToLower(nodeError)
	return slices.ContainsFunc(refusals, func(text string) bool { return strings.Contains(nodeError, text) })
}
