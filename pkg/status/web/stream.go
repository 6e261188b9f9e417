package web

// This file is how changes get to who watches: as server-sent events. Nothing is queued for a
// reader. Each one has a goroutine that looks at the board when something changed, takes some lines
// at a time, and knows which one it sent last: a reader that is slow holds nothing up and costs
// little, and misses at most lines that the board no longer has, whose number it is sent. The
// connection of one that takes nothing for a while is closed.

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
	pace       = 100 * time.Millisecond // between two looks at the board: faster than people see, and it makes one write of many lines
	heartbeat  = 15 * time.Second       // without it, no side notices that the other one is gone
	firstLines = 2000                   // of the log, for a page that has none
	goodbye    = 500 * time.Millisecond // for the last words of a stream
	retry      = time.Second            // after which a browser connects again

	streams     = 16               // readers of one server at the same time
	patience    = 10 * time.Second // with a reader that takes nothing
	linesAtOnce = 64               // lines that are taken at a time
	buffer      = 16 << 10         // bytes, of what is written at a time
)

// reader is the other end of a stream, and what it has been told.
type reader struct {
	board *status.Board
	boot  string
	seq   uint64 // of the last line
	tail  int    // at first, at most so many lines
	reset bool   // what it has is of another process
	begun bool   // what it is not sent from now on, it misses
	out   *bufio.Writer

	state []byte // the last one
	runs  string // which was the last of them
}

// stream tells all that the page shows.
func (s *Site) stream(w http.ResponseWriter, r *http.Request) {
	from := s.reader(r, firstLines)
	s.tell(w, r, from, true, func() error {
		return cmp.Or(from.tellState(), from.tellLines(""))
	})
}

// events tells lines of the log alone: the newest of them (tail), those behind one (after), of one stage, and with follow those that come.
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
	s.tell(w, r, from, follow, func() error { return from.tellLines(query.Get("stage")) })
}

// reader returns one that knows what the request says: a browser that connects again sends the last id in a header.
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

// tell calls more whenever something changed, until the reader has gone, or the Site: then once more, so that the last words are heard.
func (s *Site) tell(w http.ResponseWriter, r *http.Request, to *reader, follow bool, more func() error) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	connection := http.NewResponseController(w)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ended, cancel)() //nolint:contextcheck // the Site's end, besides the request's
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = connection.SetWriteDeadline(time.Now().Add(goodbye)) // a write that a stalled reader holds up ends then
	})
	defer func() {
		if !stop() {
			<-cut
		}
	}()

	to.out = bufio.NewWriterSize(patient{ctx, w, connection, s.patience}, buffer)
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
		case <-time.After(pace):
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

// patient writes to a reader that has so much time for each write: a server's limit is for answers
// that end.
type patient struct {
	// ctx is of the stream: when it ends, the time for its last words has been set.
	ctx      context.Context //nolint:containedctx // see above
	out      io.Writer
	reader   *http.ResponseController
	patience time.Duration
}

func (p patient) Write(data []byte) (int, error) {
	_ = p.reader.SetWriteDeadline(time.Now().Add(p.patience))
	if p.ctx.Err() != nil {
		_ = p.reader.SetWriteDeadline(time.Now().Add(goodbye))
	}
	return p.out.Write(data)
}

// limited lets so many be at it at the same time.
func limited(slots chan struct{}, next http.HandlerFunc) http.HandlerFunc {
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

// tellState tells the State, without the runs that ended, and these apart: they are most of it, and change only when one ends.
func (to *reader) tellState() error {
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

// tellLines tells the lines since the last one, of one stage if it is named, and how many are no
// longer there.
func (to *reader) tellLines(stage string) error {
	if !to.begun && to.tail < math.MaxInt {
		to.seq = max(to.seq, to.board.Newest(to.tail, stage))
	}
	misses := to.begun || to.seq > 0 && to.tail == math.MaxInt // else it never had those before
	to.begun = true
	first, last := to.seq, to.board.Newest(0, "")
	lines, missed := to.board.Lines(first, linesAtOnce)
	if misses && missed > 0 {
		if err := to.gap(missed); err != nil {
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
		lines, _ = to.board.Lines(to.seq, linesAtOnce)
	}
	if gone := to.seq - first - there; gone > missed { // while the others were sent
		return to.gap(gone - missed)
	}
	return nil
}

func (to *reader) gap(lines uint64) error {
	return to.write("gap", "", fmt.Appendf(nil, `{"lines":%d}`, lines))
}

// id names the last line that was told.
func (to *reader) id() string { return fmt.Sprintf("%s-%d", to.boot, to.seq) }

// write writes one event. JSON has no line breaks of its own.
func (to *reader) write(kind, id string, data []byte) error {
	if id != "" {
		id = "id: " + id + "\n"
	}
	_, err := fmt.Fprintf(to.out, "%sevent: %s\ndata: %s\n\n", id, kind, data)
	return err
}
