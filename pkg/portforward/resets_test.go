package portforward

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/moby/spdystream/spdy"
)

// The frames are those that the library writes, and arrive in pieces of any size.
func TestResets(t *testing.T) {
	var wire bytes.Buffer
	framer, err := spdy.NewFramer(&wire, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range []spdy.Frame{
		&spdy.SynReplyFrame{StreamId: 1, Headers: http.Header{"A": {"b"}}},
		&spdy.DataFrame{StreamId: 3, Data: []byte("\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x05")},
		&spdy.RstStreamFrame{StreamId: 7, Status: spdy.Cancel},
		&spdy.PingFrame{Id: 9},
		&spdy.DataFrame{StreamId: 11, Flags: spdy.DataFlagFin},
		&spdy.RstStreamFrame{StreamId: 1 << 30, Status: spdy.ProtocolError},
		&spdy.GoAwayFrame{},
	} {
		if err := framer.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
	}
	for size := 1; size <= wire.Len(); size++ {
		var r resets
		for rest := wire.Bytes(); len(rest) > 0; {
			n := min(size, len(rest))
			r.follow(rest[:n])
			rest = rest[n:]
		}
		for _, id := range []uint32{1, 3, 5, 9, 11} {
			if r.has(id) {
				t.Errorf("in pieces of %d bytes: stream %d was reset", size, id)
			}
		}
		if !r.has(7) || !r.has(1<<30) {
			t.Errorf("in pieces of %d bytes: the resets were not seen", size)
		}
		if r.forget(7); r.has(7) {
			t.Error("a stream is not forgotten")
		}
	}
}
