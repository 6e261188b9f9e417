package status

import (
	"sort"
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// How many lines of the log are kept: some minutes of talkative pods, hours of devloop's own, a few
// megabytes. They are kept apart, so that pods that print a lot do not push out why a run failed.
const (
	keptPodLines = 5000
	keptOwnLines = 3000
)

// Board holds the State and the last lines of the log while events come. It is safe for concurrent
// use.
type Board struct {
	mu      sync.Mutex
	state   State
	own     ring   // lines of the log
	pods    ring   // and those that pods printed
	last    uint64 // number of the newest line, 0 if there is none
	changed chan struct{}
	watched bool // a reader waits for changed
}

// Line is an event of the log, and its number, which counts from 1.
type Line struct {
	Seq   uint64
	Event event.Event
}

// NewBoard returns a Board; history are the runs of earlier processes.
func NewBoard(history []Run) *Board {
	return &Board{state: New(history), changed: make(chan struct{})}
}

// Sink is the Board's event.Sink. It does not block.
func (b *Board) Sink(e event.Event) { b.record(e) }

func (b *Board) record(e event.Event) event.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = b.state.After(e)
	if run := b.state.Run; e.Message == event.RunComplete && run != nil && run.Number == e.Run &&
		run.Outcome != Running {
		e.Payload = run.end()
	}
	if e.Phase != event.Progress {
		b.last++
		if e.Message == event.PodLog {
			b.pods.add(Line{b.last, e}, keptPodLines)
		} else {
			b.own.add(Line{b.last, e}, keptOwnLines)
		}
	}
	if b.watched {
		close(b.changed)
		b.changed, b.watched = make(chan struct{}), false
	}
	return e
}

// Record returns a Sink that shows an event to the Board and then hands it on. The end of a run
// gets an event.RunEnd.
func (b *Board) Record(next event.Sink) event.Sink {
	return func(e event.Event) {
		next(b.record(e))
	}
}

// State returns what is known now.
func (b *Board) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// Lines returns up to most of the lines after number after, and how many of those after it are no
// longer kept. Readers take a few at a time: what a slow one holds stays in memory.
func (b *Board) Lines(after uint64, most int) (lines []Line, missed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if after >= b.last {
		return nil, 0
	}
	own, pods := b.own.behind(after), b.pods.behind(after)
	missed = b.last - after - uint64(len(b.own.lines)-own+len(b.pods.lines)-pods)
	for len(lines) < most {
		switch o, p := b.own.at(own), b.pods.at(pods); {
		case o == nil && p == nil:
			return lines, missed
		case p == nil || o != nil && o.Seq < p.Seq:
			lines = append(lines, *o)
			own++
		default:
			lines = append(lines, *p)
			pods++
		}
	}
	return lines, missed
}

// Newest returns the number after which there are the newest lines of a stage, or of all for "",
// up to most of them.
func (b *Board) Newest(most int, stage string) (after uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	own, pods := len(b.own.lines)-1, len(b.pods.lines)-1
	for after = b.last; most > 0; {
		line, o, p := (*Line)(nil), b.own.at(own), b.pods.at(pods)
		switch {
		case o == nil && p == nil:
			return after
		case p == nil || o != nil && o.Seq > p.Seq:
			line = o
			own--
		default:
			line = p
			pods--
		}
		if stage == "" || line.Event.Stage == stage {
			after = line.Seq - 1
			most--
		}
	}
	return after
}

// ring keeps the newest lines of a kind.
type ring struct {
	lines []Line
	next  int // index of the next one; in a full ring, of the oldest
}

func (r *ring) add(line Line, most int) {
	if len(r.lines) < most {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % most
}

// at returns the i-th oldest line, nil if there are fewer.
func (r *ring) at(i int) *Line {
	if i < 0 || i >= len(r.lines) {
		return nil
	}
	return &r.lines[(r.next+i)%len(r.lines)]
}

// behind returns the index of the first line with a greater number.
func (r *ring) behind(after uint64) int {
	return sort.Search(len(r.lines), func(i int) bool { return r.at(i).Seq > after })
}

// Changed returns a channel that is closed with the next event.
func (b *Board) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched = true
	return b.changed
}
