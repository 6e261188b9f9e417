package console

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// logBacklog is how many events may wait for a slow terminal; beyond it events are dropped and counted, since nothing may hold up the loop.
const logBacklog = 4096

// dropInterval is how often it is told at most.
const dropInterval = time.Second

// Logger turns events into lines, on a goroutine of its own. Close it to see the last of them.
type Logger struct {
	printer *Printer
	events  chan event.Event
	dropped atomic.Int64
	done    sync.WaitGroup
	broken  sync.Once // a line could not be printed
}

func NewLogger(p *Printer) *Logger {
	l := &Logger{printer: p, events: make(chan event.Event, logBacklog)}
	l.done.Go(func() {
		var told time.Time
		for e := range l.events {
			l.print(e)
			if time.Since(told) < dropInterval {
				continue
			}
			if n := l.dropped.Swap(0); n > 0 {
				told = time.Now()
				l.print(event.Event{Time: told, Stage: "log", Phase: event.Warned,
					Message: "the terminal is too slow, lines were dropped", Fields: []any{"lines", n}})
			}
		}
	})
	return l
}

// print prints an event, whatever becomes of it: a line that panics is lost, and a plain one says
// so.
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

// Sink is l's event.Sink. It must not be called after close.
func (l *Logger) Sink(e event.Event) {
	if e.Message == event.PodLog { // pods may print a lot: half of the room is devloop's own
		if !l.printer.ShownPods.Load().Shows(e) {
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

func (l *Logger) Close() {
	close(l.events)
	l.done.Wait()
}
