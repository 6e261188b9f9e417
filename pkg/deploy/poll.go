package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// until asks again and again what is still waited for, until nothing is or ctx ends. A request that fails is asked again.
func (d *Deployer) until(ctx context.Context, ask func() (left string, err error)) error {
	for {
		left, err := ask()
		if left == "" && err == nil {
			return nil
		}
		if waitErr := sleep(ctx, pollInterval); waitErr != nil {
			if left != "" {
				return fmt.Errorf("%s: %w", left, waitErr)
			}
			return errors.Join(waitErr, err)
		}
	}
}

// pollInterval is how often a rollout is looked at: small beside the second that the fastest pod takes.
const pollInterval = 200 * time.Millisecond

// While it is young it is looked at twice as often, since somebody waits for the most common case.
const youngRollout = 5 * time.Second

const youngPollInterval = pollInterval / 2

// sleep waits, but not beyond the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
