package console

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// logBacklog is how many events may wait for a slow terminal. More are dropped and counted: the
	// loop must not wait.
	logBacklog = 4096
	// dropInterval is the least time between reports of dropped events.
	dropInterval = time.Second
)

// Logger prints events on a goroutine of its own. Close it to see the last of them.
type Logger struct {
	printer *Printer
	events  chan event.Event
	dropped atomic.Int64
	done    sync.WaitGroup
	broken  sync.Once // an event could not be printed
}

// NewLogger returns a Logger that prints to p.
func NewLogger(p *Printer) *Logger {
	l := &Logger{printer: p, events: make(chan event.Event, logBacklog)}
	l.done.Go(func() {
		var reported time.Time
		for e := range l.events {
			l.print(e)
			if time.Since(reported) < dropInterval {
				continue
			}
			if n := l.dropped.Swap(0); n > 0 {
				reported = time.Now()
				l.print(event.Event{Time: reported, Stage: "log", Phase: event.Warned,
					Message: "the terminal is too slow, lines were dropped", Fields: []any{"lines", n}})
			}
		}
	})
	return l
}

// print loses an event whose printing panics. The first such panic is reported.
func (l *Logger) print(e event.Event) {
	err := event.Guard(func() error {
		l.printer.Print(e)
		return nil
	})
	if err != nil {
		l.broken.Do(func() {
			_, _ = fmt.Fprintf(os.Stderr, "devloop: %q cannot be shown: %q\n  → %s\n", e.Message, err, event.Hint(err))
		})
	}
}

// Sink is an event.Sink. It must not be called after Close.
func (l *Logger) Sink(e event.Event) {
	if e.Message == event.PodLog { // pods may print a lot: half of the room is devloop's own
		if !l.printer.podFilter.Load().Shows(e) {
			return
		}
		if len(l.events) > logBacklog/2 {
			l.dropped.Add(1)
			return
		}
	}
	select {
	case l.events <- e:
	default:
		l.dropped.Add(1)
	}
}

// Close waits until all events are printed.
func (l *Logger) Close() {
	close(l.events)
	l.done.Wait()
}
