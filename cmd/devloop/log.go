// The log: events as lines for people, by charmbracelet/log.
package main

import (
	"io"
	stdlog "log"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/charmbracelet/log"
	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/event"
)

// logBacklog is how many events may wait for a slow terminal; beyond it events are dropped and counted, since nothing may hold up the loop.
const logBacklog = 4096

// logger turns events into lines, on a goroutine of its own. Close it to see the last of them.
type logger struct {
	events  chan event.Event
	dropped atomic.Int64
	done    sync.WaitGroup
}

func newLogger(w io.Writer, verbose bool) *logger {
	level := log.InfoLevel
	if verbose {
		level = log.DebugLevel
	}
	out := log.NewWithOptions(w, log.Options{Level: level, ReportTimestamp: true, TimeFormat: "15:04:05.000"})
	// Libraries that log by themselves would write between our lines.
	klog.SetLogger(logr.Discard())
	stdlog.SetOutput(io.Discard)

	l := &logger{events: make(chan event.Event, logBacklog)}
	l.done.Go(func() {
		for e := range l.events {
			print(out, e)
			if n := l.dropped.Swap(0); n > 0 {
				out.Warn("the terminal is too slow, lines were dropped", "lines", n)
			}
		}
	})
	return l
}

// sink is l's event.Sink. It must not be called after close.
func (l *logger) sink(e event.Event) {
	select {
	case l.events <- e:
	default:
		l.dropped.Add(1)
	}
}

func (l *logger) close() {
	close(l.events)
	l.done.Wait()
}

// errorLength is how much of an error a line shows, in bytes: an API server that refuses a patch repeats all of it.
const errorLength = 1500

// shorten keeps the beginning, which says what failed, and the end, which says why.
func shorten(message string) string {
	if len(message) <= errorLength {
		return message
	}
	return strings.ToValidUTF8(message[:errorLength/3]+" … "+message[len(message)-2*errorLength/3:], "")
}

// print writes one event. An error is shown where the whole run failed, not again for each step on the way up.
func print(out *log.Logger, e event.Event) {
	var level log.Level
	switch e.Phase {
	case event.Noted, event.Succeeded:
		level = log.InfoLevel
	case event.Warned:
		level = log.WarnLevel
	case event.Failed:
		level = log.DebugLevel
		if e.Stage == "loop" {
			level = log.ErrorLevel
		}
	default:
		level = log.DebugLevel
	}
	message := e.Message
	switch {
	case e.Phase == event.Failed && e.Stage == "loop":
		message = "run failed, what ran keeps running"
	case e.Phase == event.Superseded && e.Stage == "loop":
		level, message = log.InfoLevel, "run superseded by a newer change"
	case e.Phase == event.Interrupted && e.Stage == "loop":
		level, message = log.InfoLevel, "run stopped"
	case e.Phase == event.Started || e.Phase == event.Failed || e.Phase == event.Superseded || e.Phase == event.Interrupted:
		message += ": " + string(e.Phase)
	}
	fields := make([]any, 0, len(e.Fields)+8)
	if e.Run > 0 {
		fields = append(fields, "run", e.Run)
	}
	fields = append(fields, e.Fields...)
	if e.Took > 0 {
		fields = append(fields, "took", e.Took.Round(time.Millisecond))
	}
	if e.Err != nil && e.Phase != event.Superseded && e.Phase != event.Interrupted {
		fields = append(fields, "err", shorten(e.Err.Error()))
		if hint := event.Hint(e.Err); hint != "" {
			fields = append(fields, "hint", hint)
		}
	}
	out.WithPrefix(e.Stage).Log(level, message, fields...)
}
