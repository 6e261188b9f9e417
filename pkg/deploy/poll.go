package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// until polls until ask returns neither what is left nor an error, or until ctx ends.
func (d *Deployer) until(ctx context.Context, ask func() (left string, err error)) error {
	for {
		left, err := ask()
		if left == "" && err == nil {
			return nil
		}
		if waitErr := sleep(ctx, pollInterval); waitErr != nil {
			if left != "" {
				waitErr = fmt.Errorf("%s: %w", left, waitErr)
			}
			if errors.Is(err, ctx.Err()) { // the question was cut off, too
				err = nil
			}
			return errors.Join(waitErr, err)
		}
	}
}

// pollInterval is how often something is asked for that is not watched: the fastest pod takes a
// second.
const pollInterval = 200 * time.Millisecond

// A young rollout is asked for twice as often, since most are complete by then.
const youngRollout = 5 * time.Second

const youngPollInterval = pollInterval / 2

// sleep returns the cause if ctx ends first.
func sleep(ctx context.Context, d time.Duration) error { return awaitChange(ctx, nil, d) }

// awaitChange returns after a token of changed, or after atMost. It returns the cause if ctx ends
// first.
func awaitChange(ctx context.Context, changed <-chan struct{}, atMost time.Duration) error {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
