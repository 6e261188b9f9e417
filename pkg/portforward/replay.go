package portforward

import (
	"errors"
	"io"
	"sync"
)

const (
	// replayLimit bounds what is kept of a waiting client's first bytes: enough for a request and
	// its headers.
	replayLimit = 64 << 10 // bytes
	// attemptLimit is the bound during an attempt, so that an upload need not wait until it is
	// certain that the pod takes it.
	attemptLimit = 4 << 20 // bytes
	// bufferMin and bufferMax bound the buffers that connections are copied through.
	bufferMin, bufferMax = 2 << 10, 64 << 10 // bytes
)

var errAttemptOver = errors.New("the attempt is over")

// replayBuffer is a bounded pipe from a client to a pod. Each attempt to reach a pod reads it from
// the start, until it is committed. TCP's flow control holds back a client that sends more than
// fits.
type replayBuffer struct {
	mu        sync.Mutex
	changed   *sync.Cond
	kept      []byte       // from the first byte that may be read again
	read      int          // bytes of kept that the current attempt has read
	attempt   int          // the current one
	end       error        // how the client's side ended: io.EOF or a read error
	committed bool         // nothing will be read again
	limit     int          // of kept, in bytes
	mayCommit bool         // commit if kept is full, instead of waiting
	direct    func([]byte) // takes the client's bytes without a copy in kept
	closed    bool
}

func newReplayBuffer() *replayBuffer {
	r := &replayBuffer{limit: replayLimit}
	r.changed = sync.NewCond(&r.mu)
	return r
}

// fill reads the client until its side ends, which it returns, or until close.
func (r *replayBuffer) fill(client io.Reader) error {
	var p []byte
	for n := 0; ; {
		p = growBuffer(p, n)
		var err error
		n, err = client.Read(p)
		if !r.add(p[:n], err) {
			return io.ErrClosedPipe
		}
		if err != nil {
			return err
		}
	}
}

// growBuffer returns the buffer for the next read: a larger one if the last read filled it. It
// starts small, since thousands of connections may wait that have sent little.
func growBuffer(buffer []byte, filled int) []byte {
	switch {
	case cap(buffer) == 0:
		return make([]byte, bufferMin)
	case filled >= cap(buffer) && filled < bufferMax:
		return make([]byte, min(4*filled, bufferMax))
	}
	return buffer[:cap(buffer)]
}

// add takes bytes from the client, and how its side ended. It reports whether the buffer is still
// open.
func (r *replayBuffer) add(p []byte, end error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(p) > 0 && !r.closed {
		if direct := r.direct; direct != nil {
			r.mu.Unlock()
			direct(p)
			r.mu.Lock()
			break
		}
		if r.committed {
			r.kept = r.kept[:copy(r.kept, r.kept[r.read:])]
			r.read = 0
		}
		room := min(len(p), r.limit-len(r.kept))
		switch {
		case room > 0:
			r.kept = append(r.kept, p[:room]...)
			p = p[room:]
			r.changed.Broadcast()
		case r.mayCommit && !r.committed:
			r.committed, r.limit = true, replayLimit
		default:
			r.changed.Wait()
		}
	}
	r.end = end
	r.changed.Broadcast()
	return !r.closed
}

// startAttempt makes next begin again at the first byte. It returns the attempt's number.
func (r *replayBuffer) startAttempt() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.read = 0
	r.mayCommit = false
	r.limit = attemptLimit
	r.changed.Broadcast()
	return r.attempt
}

// next waits for bytes that the attempt has not read yet. After the last of them it returns how the
// client's side ended. Once everything is committed and read, the client's bytes go to direct and
// next waits for the end.
func (r *replayBuffer) next(attempt int, p []byte, direct func([]byte)) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.direct = nil }()
	for {
		switch {
		case r.attempt != attempt || r.closed:
			return 0, errAttemptOver
		case r.read < len(r.kept):
			n := copy(p, r.kept[r.read:])
			r.read += n
			r.changed.Broadcast()
			return n, nil
		case r.end != nil:
			return 0, r.end
		case r.committed:
			r.kept, r.read, r.direct = nil, 0, direct
			r.changed.Broadcast()
		}
		r.changed.Wait()
	}
}

// endAttempt makes next return.
func (r *replayBuffer) endAttempt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.limit = replayLimit
	r.changed.Broadcast()
}

// commit declares that nothing will be read again: what was read is dropped.
func (r *replayBuffer) commit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committed, r.limit = true, replayLimit
	r.changed.Broadcast()
}

// commitWhenFull declares that the attempt has most likely succeeded: a client that sends more than
// fits no longer waits for certainty.
func (r *replayBuffer) commitWhenFull(attempt int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attempt == attempt {
		r.mayCommit = true
		r.changed.Broadcast()
	}
}

// replayable reports whether everything that the client sent can still be read again.
func (r *replayBuffer) replayable() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.committed
}

// close ends fill and next, and drops what the client still sends.
func (r *replayBuffer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.changed.Broadcast()
}
