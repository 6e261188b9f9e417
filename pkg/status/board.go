package status

import (
	"cmp"
	"slices"
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// How many lines of the log can be looked at again: some minutes of talkative pods, hours of devloop's own, a few megabytes. They are kept
// apart, so that pods that print a lot do not drive away why a run has failed.
const (
	keptOfPods = 5000
	keptOfOwn  = 3000
)

// Board holds the State and the last lines of the log, for whoever wants to look while events come. It is safe for concurrent use.
type Board struct {
	mu      sync.Mutex
	state   State
	own     ring   // lines of the log
	pods    ring   // and those that pods printed
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
		if e.Message == event.PodLog {
			b.pods.add(Line{b.last, e}, keptOfPods)
		} else {
			b.own.add(Line{b.last, e}, keptOfOwn)
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

// Lines returns those behind number after that are still there, the oldest first, and how many are not; if there are more than most, the newest of them.
func (b *Board) Lines(after uint64, most int) (lines []Line, missed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if after >= b.last {
		return nil, 0
	}
	lines = slices.Concat(b.own.behind(after), b.pods.behind(after))
	slices.SortFunc(lines, func(x, y Line) int { return cmp.Compare(x.Seq, y.Seq) })
	missed = b.last - after - uint64(len(lines))
	return lines[max(0, len(lines)-max(0, most)):], missed
}

// ring keeps the newest lines of a sort.
type ring struct {
	lines []Line
	next  int // place of the next one, which is that of the oldest when the ring is full
}

func (r *ring) add(line Line, most int) {
	if len(r.lines) < most {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % most
}

// behind returns the lines with greater numbers, oldest first.
func (r *ring) behind(after uint64) []Line {
	tail := func(part []Line) []Line {
		at, _ := slices.BinarySearchFunc(part, after+1, func(line Line, seq uint64) int { return cmp.Compare(line.Seq, seq) })
		return part[at:]
	}
	return slices.Concat(tail(r.lines[r.next:]), tail(r.lines[:r.next]))
}

// Changed returns a channel that is closed with the next event.
func (b *Board) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched = true
	return b.changed
}
