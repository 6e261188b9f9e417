package deploy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// TestBeginAgain: an Apply that may write only long after it has looked has to look again, and one
// with a failure before that writes nothing.
func TestBeginAgain(t *testing.T) {
	begins := func(t *testing.T, wait time.Duration) *around {
		t.Helper()
		a, _ := new(Deployer).newAround(t.Context(), event.Stage{}, Around{}, nil, func(ctx context.Context) error {
			select {
			case <-time.After(wait):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		return a
	}
	synctest.Test(t, func(t *testing.T) {
		a := begins(t, preparedFor-time.Second)
		if err := a.begin(); err != nil {
			t.Errorf("within its time: %v", err)
		}
		a.giveUp()
		if err := a.begin(); err != nil {
			t.Errorf("a release that begins after another has failed: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := begins(t, preparedFor+time.Second)
		if err := a.begin(); !errors.Is(err, errMoved) {
			t.Errorf("too late: %v", err)
		}
		if err := a.begin(); err != nil {
			t.Errorf("once it has looked again: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := begins(t, time.Hour)
		started := time.Now()
		time.AfterFunc(time.Second, a.giveUp)
		if err := a.begin(); !errors.Is(err, errNotBegun) || time.Since(started) > time.Second {
			t.Errorf("after a failure: %v, after %s", err, time.Since(started))
		}
	})
}
