// What was told before: a run that is tried again and again says a thing once.
package loop

import (
	"fmt"
	"regexp"
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// told knows the events of a run and of its repetitions.
type told struct {
	mu   sync.Mutex
	seen map[string]bool
}

// varies is what differs between tries that fail in the same way: numbers, and names that were made up.
var varies = regexp.MustCompile(`[0-9a-f]{16,}|-[bcdfghjklmnpqrstvwxz2456789]{5,10}\b|[0-9]+`) // the second as Kubernetes makes up names of pods

func newTold() *told { return &told{seen: map[string]bool{}} }

// sink returns one for the next try: what it tells as an earlier one did is marked as repeated.
func (t *told) sink(to event.Sink) event.Sink {
	repeats := len(t.seen) > 0
	return func(e event.Event) {
		key := varies.ReplaceAllString(fmt.Sprint(e.Stage, e.Phase, e.Message, e.Fields, e.Err), "#")
		t.mu.Lock()
		e.Repeated = repeats && t.seen[key]
		t.seen[key] = true
		t.mu.Unlock()
		to(e)
	}
}
