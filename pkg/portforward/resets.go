package portforward

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// Sizes of frames in bytes, as in section 2.2 of SPDY/3.1.
const (
	frameHeader = 8
	resetFrame  = frameHeader + 8 // the stream, and a status
)

// isReset is how a frame begins that resets a stream: a control frame of version 3 and type 3.
var isReset = []byte{0x80, 3, 0, 3}

// resets follows the frames that arrive on a wire, and knows which streams the other end has reset.
// The library shows a reset as an end of file, as if the answer were complete.
type resets struct {
	head []byte // of the frame that is arriving
	skip int    // bytes until the next frame

	mu      sync.Mutex
	streams map[uint32]bool // those that are still in use
}

// follow takes the next bytes that have arrived. One goroutine calls it, before the library has
// them.
func (r *resets) follow(p []byte) {
	for len(p) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(p))
			r.skip, p = r.skip-n, p[n:]
			continue
		}
		r.head, p = append(r.head, p[0]), p[1:]
		if len(r.head) < frameHeader {
			continue
		}
		length := int(binary.BigEndian.Uint32(r.head[4:]) & 0xffffff) // below the flags
		switch {
		case !bytes.HasPrefix(r.head, isReset) || length != resetFrame-frameHeader:
			r.skip = length
		case len(r.head) < resetFrame:
			continue
		default:
			r.add(binary.BigEndian.Uint32(r.head[frameHeader:]) & 0x7fffffff)
		}
		r.head = r.head[:0]
	}
}

func (r *resets) add(stream uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.streams == nil {
		r.streams = map[uint32]bool{}
	}
	r.streams[stream] = true
}

func (r *resets) has(stream uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.streams[stream]
}

// forget is for a stream that is no longer in use.
func (r *resets) forget(stream uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, stream)
}
