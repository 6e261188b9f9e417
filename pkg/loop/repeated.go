package loop

// A run that is tried again and again reports a thing once.

import (
	"fmt"
	"regexp"
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// repeated marks events of a run that an earlier try has sent already.
type repeated struct {
	mu   sync.Mutex
	seen map[string]bool
}

// varies is what differs between tries that fail in the same way: numbers, and names that were made
// up.
var varies = regexp.MustCompile(`[0-9a-f]{16,}|-[bcdfghjklmnpqrstvwxz2456789]{5,10}\b|[0-9]+`) // the second as Kubernetes makes up names of pods

func newRepeated() *repeated { return &repeated{seen: map[string]bool{}} }

// sink returns the Sink of the next try.
func (t *repeated) sink(to event.Sink) event.Sink {
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
