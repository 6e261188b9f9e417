package web

// This file is how changes get to who watches: as server-sent events. Nothing is queued for a reader. Each one has a goroutine that looks at
// the board when something changed, and knows up to which line it has told: a reader that is slow holds nothing up, and misses at most
// lines that the board no longer has, which it is told.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
)

// reader is the other end of a stream, and what it has been told.
type reader struct {
	board *status.Board
	boot  string
	seq   uint64 // of the last line
	tail  int    // at most so many lines the next time
	out   bytes.Buffer

	state []byte // the last one
	runs  string // which was the last of them
}

// stream tells all that the page shows.
func (s *Site) stream(w http.ResponseWriter, r *http.Request) {
	from := s.reader(r, firstLines)
	fmt.Fprintf(&from.out, "retry: %d\n", retry.Milliseconds())
	s.tell(w, r, from, true, func() {
		from.tellState()
		from.tellLines("")
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
	s.tell(w, r, from, follow, func() { from.tellLines(query.Get("stage")) })
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
		from.write("reset", "", []byte("{}")) // what it has is of another process
		return from
	}
	if seq > 0 && !r.URL.Query().Has("tail") {
		from.tail = math.MaxInt // it misses all of them
	}
	from.seq = seq
	return from
}

// tell calls more whenever something changed, until the reader has gone, or the Site: then once more, so that the last words are heard.
func (s *Site) tell(w http.ResponseWriter, r *http.Request, to *reader, follow bool, more func()) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	connection := http.NewResponseController(w)
	_ = connection.SetWriteDeadline(time.Time{}) // a server's limit is for answers that end

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

	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		over := ctx.Err() != nil
		changed := s.board.Changed() // before looking: what comes after the look is not missed
		more()
		if _, err := to.out.WriteTo(w); err != nil {
			return
		}
		if err := connection.Flush(); err != nil || !follow || over {
			return
		}
		select {
		case <-time.After(pace):
		case <-ctx.Done():
		}
		select {
		case <-changed:
		case <-beat.C:
			to.out.WriteString(": still here\n\n")
		case <-ctx.Done():
		}
	}
}

// tellState tells the State, without the runs that ended, and these apart: they are most of it, and change only when one ends.
func (to *reader) tellState() {
	state := to.board.State()
	body, err := json.Marshal(struct {
		status.State
		Runs any `json:"runs,omitempty"` // stands before that of State
	}{State: state})
	if err == nil && !bytes.Equal(body, to.state) {
		to.state = body
		now, _ := json.Marshal(time.Now()) // by which the page knows how far its clock is off
		to.write("state", to.id(), fmt.Appendf(nil, `{"now":%s,"state":%s}`, now, body))
	}

	newest := strconv.Itoa(len(state.Runs))
	if n := len(state.Runs); n > 0 {
		last := state.Runs[n-1]
		newest = fmt.Sprint(last.Number, last.Started)
	}
	if newest == to.runs {
		return
	}
	to.runs = newest
	if body, err := json.Marshal(append([]status.Run{}, state.Runs...)); err == nil {
		to.write("runs", "", body)
	}
}

// tellLines tells the lines since the last one, of one stage if it is named.
func (to *reader) tellLines(stage string) {
	tail := to.tail
	to.tail = math.MaxInt // from now on, all that come
	lines, missed := to.board.Lines(to.seq, math.MaxInt)
	if len(lines) == 0 {
		return
	}
	if to.seq > 0 && missed > 0 {
		to.write("gap", "", fmt.Appendf(nil, `{"lines":%d}`, missed))
	}
	to.seq = lines[len(lines)-1].Seq
	wanted := lines[:0]
	for _, line := range lines {
		if stage == "" || line.Event.Stage == stage {
			wanted = append(wanted, line)
		}
	}
	for _, line := range wanted[max(0, len(wanted)-tail):] {
		if body, err := json.Marshal(line.Event); err == nil { // one that cannot be told must not keep the others back
			to.write("line", fmt.Sprintf("%s-%d", to.boot, line.Seq), body)
		}
	}
}

// id names the last line that was told.
func (to *reader) id() string { return fmt.Sprintf("%s-%d", to.boot, to.seq) }

// write adds one event. JSON has no line breaks of its own.
func (to *reader) write(kind, id string, data []byte) {
	if id != "" {
		fmt.Fprintf(&to.out, "id: %s\n", id)
	}
	fmt.Fprintf(&to.out, "event: %s\ndata: %s\n\n", kind, data)
}
