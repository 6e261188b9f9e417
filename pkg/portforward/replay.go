package portforward

import (
	"errors"
	"io"
	"sync"
)

const (
	// replayLimit bounds what is kept of a client's first words while it is held: a request with its headers fits.
	replayLimit = 64 << 10 // bytes
	// attemptLimit is the bound during an attempt, so that an upload need not wait until it is certain to have arrived.
	attemptLimit = 4 << 20 // bytes
)

// errInterrupted ends a wait for the client's next bytes because the attempt that waits is over.
var errInterrupted = errors.New("the attempt ended")

// replay is a pipe of bounded size from a client to a stream that can be read again from its start, by the next
// attempt, until it is settled. A client that says more than fits waits: it is told by TCP's own flow control.
type replay struct {
	mu      sync.Mutex
	change  *sync.Cond
	kept    []byte // what the client said, from the first byte that may be needed
	read    int    // how much of kept the current attempt has taken
	attempt int
	end     error // how the client ended: io.EOF, or what broke
	settled bool  // nothing will be read again
	limit   int   // of kept, in bytes
	patient bool  // while kept is full, wait for certainty instead of settling
	closed  bool
	through func([]byte)
}

func newReplay() *replay {
	r := &replay{limit: replayLimit, patient: true}
	r.change = sync.NewCond(&r.mu)
	return r
}

// fill reads the client until it ends, or close. It returns how the client ended.
func (r *replay) fill(client io.Reader) error {
	var chunk []byte
	for n := 0; ; {
		chunk = roomy(chunk, n)
		var err error
		n, err = client.Read(chunk)
		if !r.add(chunk[:n], err) {
			return io.ErrClosedPipe
		}
		if err != nil {
			return err
		}
	}
}

// roomy returns the buffer for the next read: a larger one, up to 64 KiB, if the last read filled it. Thousands of connections may be
// held that have said little.
func roomy(buffer []byte, filled int) []byte {
	switch {
	case cap(buffer) == 0:
		return make([]byte, 2<<10)
	case filled >= cap(buffer) && filled < 64<<10:
		return make([]byte, min(4*filled, 64<<10))
	}
	return buffer[:cap(buffer)]
}

// add takes what the client said, and how it ended.
func (r *replay) add(p []byte, end error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(p) > 0 && !r.closed {
		if r.through != nil {
			through := r.through
			r.mu.Unlock()
			through(p)
			r.mu.Lock()
			break
		}
		if r.settled { // what was read is not needed any more
			r.kept = r.kept[:copy(r.kept, r.kept[r.read:])]
			r.read = 0
		}
		room := min(len(p), r.limit-len(r.kept))
		if room <= 0 {
			if !r.settled && !r.patient {
				r.settled, r.limit = true, replayLimit
				continue
			}
			r.change.Wait()
			continue
		}
		r.kept = append(r.kept, p[:room]...)
		p = p[room:]
		r.change.Broadcast()
	}
	r.end = end
	r.change.Broadcast()
	return !r.closed
}

// begin starts an attempt: everything that was kept is read again. The attempt is named by the result.
func (r *replay) begin() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.read = 0
	r.patient = true
	r.limit = attemptLimit
	r.change.Broadcast()
	return r.attempt
}

// next waits for bytes that the attempt has not had yet. After the last of them it returns how the client ended. Once it is settled and all
// was read, what the client says goes through without a stop here, while next waits for the end.
func (r *replay) next(attempt int, p []byte, through func([]byte)) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.through = nil }()
	for {
		switch {
		case r.attempt != attempt || r.closed:
			return 0, errInterrupted
		case r.read < len(r.kept):
			n := copy(p, r.kept[r.read:])
			r.read += n
			r.change.Broadcast()
			return n, nil
		case r.end != nil:
			return 0, r.end
		case r.settled:
			r.kept, r.read, r.through = nil, 0, through
			r.change.Broadcast()
		}
		r.change.Wait()
	}
}

// interrupt ends the attempt's wait.
func (r *replay) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.limit = replayLimit
	r.change.Broadcast()
}

// settle says that nothing will be read again; the pipe then lets go of what was read.
func (r *replay) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled, r.limit = true, replayLimit
	r.change.Broadcast()
}

// hurry says that the outcome is as good as certain: a client that says more than fits waits no longer, and settles it.
func (r *replay) hurry(attempt int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attempt == attempt {
		r.patient = false
		r.change.Broadcast()
	}
}

// again reports whether everything that the client said is still here to be read again.
func (r *replay) again() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.settled
}

// close releases everyone who waits; what the client still says is dropped.
func (r *replay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.change.Broadcast()
}
