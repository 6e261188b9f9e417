package loop

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/devloop/devloop/pkg/event"
)

// Job is a piece of work that may need others to be done first.
type Job struct {
	Name  string
	After []string // names of jobs that come before it; others are ignored
	Do    func() error
}

// RunJobs runs jobs in parallel, each after those that it needs. A job does not run if one of those
// failed: their error says all there is to say.
func RunJobs(jobs []Job) error {
	type outcome struct {
		done chan struct{}
		ok   bool
	}
	outcomes := map[string]*outcome{}
	errs := make([]error, len(jobs))
	var group sync.WaitGroup
	for i, job := range jobs {
		var needed []*outcome
		for _, name := range job.After {
			if other := outcomes[name]; other != nil {
				needed = append(needed, other)
			}
		}
		own := &outcome{done: make(chan struct{})}
		outcomes[job.Name] = own
		group.Go(func() {
			defer close(own.done)
			for _, other := range needed {
				if <-other.done; !other.ok {
					return
				}
			}
			errs[i] = job.Do()
			own.ok = errs[i] == nil
		})
	}
	group.Wait()
	return joinHinted(errs)
}

// joinHinted joins the errors that say what to do, or all of them if none does. Where two images
// share a step, BuildKit shows its output to one of the builds only: the other one only knows that
// the step failed.
func joinHinted(errs []error) error {
	hinted := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return event.Hint(err) == "" })
	if len(hinted) == 0 {
		hinted = errs
	}
	return errors.Join(hinted...)
}

// sideBySide does several works at the same time. The first that fails ends the others, and its
// error is returned once they have ended.
func sideBySide(ctx context.Context, works ...func(context.Context) error) (err error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	var first sync.Once
	var group sync.WaitGroup
	for _, work := range works {
		group.Go(func() {
			if failure := event.Guard(func() error { return work(ctx) }); failure != nil {
				first.Do(func() {
					err = failure
					end()
				})
			}
		})
	}
	group.Wait()
	return err
}
