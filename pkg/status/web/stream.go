package web

// Changes reach readers as server-sent events. Nothing is queued for a reader: each has a goroutine
// that looks at the board when something changed, takes a few lines at a time, and knows which one
// it sent last. A slow reader delays nothing and costs little; it misses lines that the board no
// longer has, and is sent their number. A reader that takes nothing for a while is disconnected.

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/status"
)

const (
	minInterval = 100 * time.Millisecond // between two looks at the board: many lines make one write
	heartbeat   = 15 * time.Second       // by which each side notices that the other one is gone
	firstLines  = 2000                   // lines of the log for a page that has none
	lastWrite   = 500 * time.Millisecond // time for the last write to a stream
	retry       = time.Second            // after which a browser reconnects

	maxStreams   = 16               // of one server at the same time
	writeTimeout = 10 * time.Second // after which a reader is disconnected
	batchLines   = 64               // taken from the board at a time
	buffer       = 16 << 10         // bytes of a write
)

// reader is the other end of a stream, and what it was sent.
type reader struct {
	board *status.Board
	boot  string
	seq   uint64 // of the last line
	tail  int    // most lines at first
	reset bool   // it has lines of another process
	begun bool   // lines that are gone from now on are missing
	out   *bufio.Writer

	state []byte // the last one
	runs  string // identifies the last one
}

// stream sends all that the page shows.
func (s *Site) stream(w http.ResponseWriter, r *http.Request) {
	from := s.reader(r, firstLines)
	s.serve(w, r, from, true, func() error {
		return cmp.Or(from.sendState(), from.sendLines(""))
	})
}

// events sends lines of the log alone: the newest (tail), those after one (after), those of one
// stage, and with follow those that are still to come.
func (s *Site) events(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	tail := math.MaxInt
	if text := query.Get("tail"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			http.Error(w, fmt.Sprintf("tail is a number of lines, not %q", text), http.StatusBadRequest)
			return
		}
		tail = n
	}
	follow := false
	if text := query.Get("follow"); text != "" {
		var err error
		if follow, err = strconv.ParseBool(text); err != nil {
			http.Error(w, fmt.Sprintf("follow is 0 or 1, not %q", text), http.StatusBadRequest)
			return
		}
	}
	from := s.reader(r, tail)
	s.serve(w, r, from, follow, func() error { return from.sendLines(query.Get("stage")) })
}

// reader returns the reader that a request describes. A browser that reconnects sends its last id
// in a header.
func (s *Site) reader(r *http.Request, tail int) *reader {
	from := &reader{board: s.board, boot: s.boot, tail: tail}
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("after")
	}
	if last == "" {
		return from
	}
	boot, number, _ := strings.Cut(last, "-")
	seq, err := strconv.ParseUint(number, 10, 64)
	if boot != s.boot || err != nil {
		from.reset = true
		return from
	}
	if seq > 0 && !r.URL.Query().Has("tail") {
		from.tail = math.MaxInt // it misses all of them
	}
	from.seq = seq
	return from
}

// serve calls more whenever something changed, until the reader is gone or the Site closes, and
// then once more for the last lines.
func (s *Site) serve(w http.ResponseWriter, r *http.Request, to *reader, follow bool, more func() error) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	connection := http.NewResponseController(w)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ended, cancel)() //nolint:contextcheck // the Site's end, besides the request's
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = connection.SetWriteDeadline(time.Now().Add(lastWrite)) // a write that a stalled reader holds up ends then
	})
	defer func() {
		if !stop() {
			<-cut
		}
	}()

	to.out = bufio.NewWriterSize(timedWriter{ctx, w, connection, s.writeTimeout}, buffer)
	_, _ = fmt.Fprintf(to.out, "retry: %d\n", retry.Milliseconds()) // Flush returns errors
	if to.reset {
		_ = to.write("reset", "", []byte("{}"))
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		over := ctx.Err() != nil
		changed := s.board.Changed() // before looking: what comes after the look is not missed
		if cmp.Or(more(), to.out.Flush(), connection.Flush()) != nil || !follow || over {
			return
		}
		select {
		case <-time.After(minInterval):
		case <-ctx.Done():
		}
		select {
		case <-changed:
		case <-beat.C:
			_, _ = to.out.WriteString(": still here\n\n")
		case <-ctx.Done():
		}
	}
}

// timedWriter writes to a reader that has so much time for each write: a server's limit is for
// answers that end.
type timedWriter struct {
	// ctx is of the stream: when it ends, the time for its last words has been set.
	ctx     context.Context //nolint:containedctx // see above
	out     io.Writer
	reader  *http.ResponseController
	timeout time.Duration
}

func (p timedWriter) Write(data []byte) (int, error) {
	_ = p.reader.SetWriteDeadline(time.Now().Add(p.timeout))
	if p.ctx.Err() != nil {
		_ = p.reader.SetWriteDeadline(time.Now().Add(lastWrite))
	}
	return p.out.Write(data)
}

// withLimit refuses requests while all slots are in use.
func withLimit(slots chan struct{}, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next(w, r)
		default:
			w.Header().Set("Retry-After", "2")
			refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d readers follow this devloop, which is as many "+
				"as it serves: close some of the tabs with its page, or of devloop logs and events", cap(slots)))
		}
	}
}

// sendState sends the State without the runs that ended, and these apart: they are most of it, and
// rarely change.
func (to *reader) sendState() error {
	state := to.board.State()
	body, err := json.Marshal(struct {
		status.State
		Runs any `json:"runs,omitempty"` // stands before that of State
	}{State: state})
	if err == nil && !bytes.Equal(body, to.state) {
		to.state = body
		now, _ := json.Marshal(time.Now()) // by which the page knows how far its clock is off
		if err := to.write("state", to.id(), fmt.Appendf(nil, `{"now":%s,"state":%s}`, now, body)); err != nil {
			return err
		}
	}

	newest := strconv.Itoa(len(state.Runs))
	if n := len(state.Runs); n > 0 {
		last := state.Runs[n-1]
		newest = fmt.Sprint(last.Number, last.Started)
	}
	if newest == to.runs {
		return nil
	}
	to.runs = newest
	body, err = json.Marshal(append([]status.Run{}, state.Runs...))
	if err != nil {
		return nil //nolint:nilerr // what cannot be encoded must not keep the rest back
	}
	return to.write("runs", "", body)
}

// sendLines sends the lines since the last one, of one stage if it is named, and how many are gone.
func (to *reader) sendLines(stage string) error {
	if !to.begun && to.tail < math.MaxInt {
		to.seq = max(to.seq, to.board.Newest(to.tail, stage))
	}
	misses := to.begun || to.seq > 0 && to.tail == math.MaxInt // else it never had those before
	to.begun = true
	first, last := to.seq, to.board.Newest(0, "")
	lines, missed := to.board.Lines(first, batchLines)
	if misses && missed > 0 {
		if err := to.sendGap(missed); err != nil {
			return err
		}
	}
	there := uint64(0)
	for len(lines) > 0 {
		for _, line := range lines {
			to.seq = line.Seq
			if stage != "" && line.Event.Stage != stage {
				continue
			}
			body, err := json.Marshal(line.Event)
			if err != nil { // one that cannot be encoded must not keep the others back
				continue
			}
			if err := to.write("line", to.id(), body); err != nil {
				return err
			}
		}
		if there += uint64(len(lines)); to.seq >= last {
			break
		}
		lines, _ = to.board.Lines(to.seq, batchLines)
	}
	if gone := to.seq - first - there; gone > missed { // while the others were sent
		return to.sendGap(gone - missed)
	}
	return nil
}

func (to *reader) sendGap(lines uint64) error {
	return to.write("gap", "", fmt.Appendf(nil, `{"lines":%d}`, lines))
}

// id identifies the last line that was sent.
func (to *reader) id() string { return fmt.Sprintf("%s-%d", to.boot, to.seq) }

// write writes one event. JSON has no line breaks of its own.
func (to *reader) write(kind, id string, data []byte) error {
	if id != "" {
		id = "id: " + id + "\n"
	}
	_, err := fmt.Fprintf(to.out, "%sevent: %s\ndata: %s\n\n", id, kind, data)
	return err
}
