package status

import (
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// keptLines is how many lines of the log can be looked at again: some minutes of a talkative platform, a few megabytes.
const keptLines = 5000

// Board holds the State and the last lines of the log, for whoever wants to look while events come. It is safe for concurrent use.
type Board struct {
	mu      sync.Mutex
	state   State
	lines   []Line // a ring: the line with number n is at n % keptLines
	last    uint64 // number of the newest line, 0 if there is none
	changed chan struct{}
	watched bool // somebody waits for changed
}

// Line is an event that is in the log, and its number; the first one has number 1.
type Line struct {
	Seq   uint64
	Event event.Event
}

// NewBoard returns a Board; history are the runs of earlier processes.
func NewBoard(history []Run) *Board {
	return &Board{state: New(history), changed: make(chan struct{})}
}

// Sink is the Board's event.Sink. It does not block.
func (b *Board) Sink(e event.Event) { b.take(e) }

func (b *Board) take(e event.Event) event.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = b.state.After(e)
	e = b.state.told(e)
	if e.Phase != event.Progress {
		b.last++
		line := Line{b.last, e}
		if len(b.lines) < keptLines {
			b.lines = append(b.lines, line)
		} else {
			b.lines[(b.last-1)%keptLines] = line
		}
	}
	if b.watched {
		close(b.changed)
		b.changed, b.watched = make(chan struct{}), false
	}
	return e
}

// Before returns a Sink that shows an event to the Board first and hands it on. The end of a run takes along where its time went: total,
// since the first change that asked for it, and stages, both in seconds.
func (b *Board) Before(next event.Sink) event.Sink {
	return func(e event.Event) {
		next(b.take(e))
	}
}

// State returns what is known now.
func (b *Board) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// Lines returns those behind number after that are still there, the oldest first; if there are more than most, the newest of them.
func (b *Board) Lines(after uint64, most int) []Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := b.last - uint64(len(b.lines))
	from := max(after, oldest)
	if from >= b.last || most <= 0 {
		return nil
	}
	if b.last-from > uint64(most) {
		from = b.last - uint64(most)
	}
	lines := make([]Line, 0, b.last-from)
	for n := from; n < b.last; n++ {
		lines = append(lines, b.lines[n%keptLines])
	}
	return lines
}

// Changed returns a channel that is closed with the next event.
func (b *Board) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched = true
	return b.changed
}
