package console

import (
	"slices"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// Lend gives the terminal to a program elsewhere, such as a shell in a pod, until use returns.
// Meanwhile all keys are for that program, and the log waits.
func (k *Keyboard) Lend(use func(*RawTerminal) error) error {
	k.setLent(true, nil)
	k.restore()
	k.printer.pause()
	defer func() {
		k.setLent(false, nil)
		k.printer.resume()
		k.read()
	}()
	raw, err := OpenRawTerminal(k.in, k.out)
	if err != nil {
		return err
	}
	defer raw.Close()
	k.setLent(true, raw)
	return use(raw)
}

func (k *Keyboard) setLent(lent bool, to *RawTerminal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lent, k.raw = lent, to
}

// takeAgain restores the modes of a terminal that is lent, after devloop was stopped. It reports
// whether the terminal is.
func (k *Keyboard) takeAgain() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.raw != nil && InForeground(k.in) {
		k.raw.again()
	}
	return k.lent
}

// waiting is what is to be written once the terminal is free.
type waiting struct {
	lines   []func()
	dropped int
}

// keep keeps what writes an event. Of too many, the oldest are dropped.
func (w *waiting) keep(e event.Event, show func()) {
	switch {
	case show == nil:
		return
	case e.Message == event.PodLog && len(w.lines) > logBacklog/2: // half of the room is devloop's own
		w.dropped++
		return
	case len(w.lines) >= logBacklog:
		w.lines = w.lines[1:]
		w.dropped++
	}
	w.lines = append(w.lines, show)
}

// pause keeps what is printed, but for the log file, until resume.
func (p *Printer) pause() {
	p.locked(func() {
		if p.live != nil {
			p.live.clear()
			p.live.paused = true
		}
		p.waiting = &waiting{}
	})
}

// resume prints what was kept.
func (p *Printer) resume() {
	p.locked(func() {
		w := p.waiting
		p.waiting = nil
		if p.live != nil {
			p.live.paused = false
			defer p.live.redraw()
		}
		if w.dropped > 0 {
			lost := event.Event{Time: time.Now(), Stage: "log", Phase: event.Warned,
				Message: "the terminal was in use, lines were dropped", Fields: []any{"lines", w.dropped}}
			w.lines = slices.Insert(w.lines, 0, p.prepare(lost))
		}
		for _, show := range w.lines {
			show()
		}
	})
}
