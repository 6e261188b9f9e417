package session

import (
	"errors"
	"testing"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// A watcher that cannot be opened is an error before anything runs: Run, whose errors lead to a
// clean-up, is not reached.
func TestWatcherThatCannotBeOpened(t *testing.T) {
	s := &Session{options: Options{Sink: func(event.Event) {}}}
	s.config.Store(&config.Config{})
	err := s.OpenWatcher(watch.Mode("no such mode"))
	if !errors.As(err, new(console.EnvironmentError)) || s.watcher != nil {
		t.Errorf("error %v, watcher %v", err, s.watcher)
	}
}
