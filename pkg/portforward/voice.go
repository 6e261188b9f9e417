package portforward

import (
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// voice tells changes of state, not occurrences: a trouble that many connections meet is told once, until it is over.
type voice struct {
	stage event.Stage
	about []any // fields that every event carries

	mu   sync.Mutex
	told map[string]bool
}

func newVoice(stage event.Stage, about ...any) *voice {
	return &voice{stage: stage, about: about, told: map[string]bool{}}
}

func (v *voice) note(message string, fields ...any) {
	v.stage.Note(message, append(fields, v.about...)...)
}

// trouble warns, unless this message was told and is not over.
func (v *voice) trouble(message string, err error, fields ...any) {
	v.mu.Lock()
	told := v.told[message]
	v.told[message] = true
	v.mu.Unlock()
	if !told {
		v.stage.Warn(message, err, append(fields, v.about...)...)
	}
}

// over makes a trouble worth telling again.
func (v *voice) over(messages ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range messages {
		delete(v.told, m)
	}
}
