package deploy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// writeLog is what one write of a release has changed so far, for the error if it fails.
type writeLog struct {
	mu   sync.Mutex
	done []logEntry
	open []string // objects that were not written
}

// logEntry is what was done to one object, or by a command: "changed", "deployment/web".
type logEntry struct{ verb, object string }

// add records a change that the API server has confirmed.
func (w *writeLog) add(verb, object string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, logEntry{verb, object})
}

// count returns how many changes have that verb.
func (w *writeLog) count(verb string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.done {
		if c.verb == verb {
			n++
		}
	}
	return n
}

// leave records objects that were to be written and were not.
func (w *writeLog) leave(objects ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = append(w.open, objects...)
}

// explain adds to an error what was written before it.
func (w *writeLog) explain(err error) error {
	if err == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	hint := event.Hint(err)
	if len(w.done) == 0 {
		if hint == "" {
			return err
		}
		return event.WithHint(err, hint+unwritten)
	}
	var verbs, parts []string
	for _, c := range w.done {
		if !slices.Contains(verbs, c.verb) {
			verbs = append(verbs, c.verb)
		}
	}
	for _, verb := range verbs {
		var objects []string
		for _, c := range w.done {
			if c.verb == verb {
				objects = append(objects, c.object)
			}
		}
		parts = append(parts, verb+" "+abbreviate(objects))
	}
	err = fmt.Errorf("%w\nbefore that, devloop %s", err, strings.Join(parts, "; "))
	if len(w.open) > 0 {
		err = fmt.Errorf("%w\nnot written: %s", err, abbreviate(w.open))
	}
	return event.WithHint(err, hint)
}

// unwritten ends the hint of an error before which nothing of a release was written in the run.
const unwritten = "; nothing of the release was written"
