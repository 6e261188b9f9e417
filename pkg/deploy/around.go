package deploy

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// Around are commands around all releases of one Apply.
type Around struct {
	Before []Command // run before the first release that differs is written
	After  []Command // run once all releases are up, if any was written
}

// around is the state of one Apply.
type around struct {
	Around
	once sync.Once
	err  error // of the commands before

	beginning func() error // does its work once, before the first write
	begun     atomic.Bool  // requests may write, see kube.ReadOnly
	notBegun  error        // why beginning has failed
	giveUp    func()       // makes beginning fail, unless it has returned: a release has failed before

	releases []Release // of the Apply
	brought  sync.Once // see bringForward
}

// newAround returns the state of an Apply, and the context for its releases.
func (d *Deployer) newAround(
	ctx context.Context, stage event.Stage, commands Around, releases []Release, begin func(context.Context) error,
) (*around, context.Context) {
	a := &around{Around: commands, releases: releases}
	waiting, end := context.WithCancelCause(ctx)
	a.giveUp = func() { end(errNotBegun) }
	a.beginning = sync.OnceValue(func() error {
		if a.notBegun = cmp.Or(begin(waiting), context.Cause(waiting)); a.notBegun == nil {
			a.begun.Store(true)
			a.notBegun = markBusy(d.ensureNamespaces(ctx, stage, releases))
		}
		return a.notBegun
	})
	return a, kube.ReadOnly(ctx, func() bool { return !a.begun.Load() })
}

// begin is called before whatever a release writes or runs. It returns when the Apply may write,
// and has made the namespaces that the releases ask for. That takes its time: the error is errMoved
// if it took longer than preparedFor.
func (a *around) begin() error {
	asked := time.Now().Round(0) // by the wall clock, which goes on while a laptop sleeps
	if a.beginning() != nil {
		return errNotBegun
	}
	if time.Since(asked) > preparedFor {
		return errMoved
	}
	return nil
}

// errNotBegun is the error of a release that was not written because something before the first
// write has failed, which is reported by itself.
var errNotBegun = errors.New("something before the first write has failed")

// beforeAll runs the commands before all releases, if that was not done yet.
func (d *Deployer) beforeAll(ctx context.Context, stage event.Stage, a *around) error {
	err := errNotBegun
	a.once.Do(func() {
		a.err = err // in case of a panic
		a.err = d.runAll(ctx, stage, Release{}, "before", a.Before)
		err = a.err
	})
	if a.err == nil {
		return nil
	}
	return err
}

// afterAll runs the commands after all releases if they are due, which the last revisions of the
// releases tell: also if the devloop that wrote them was ended before.
func (d *Deployer) afterAll(
	ctx context.Context, sink event.Sink, a *around, releases []Release, lasts []revision, timeout time.Duration,
) error {
	var due []int
	for i, last := range lasts {
		if last.labels[labelAfterAll] == labelDue {
			due = append(due, i)
		}
	}
	if len(due) == 0 || len(a.After) == 0 {
		return nil
	}
	if err := d.Wait(ctx, sink, releases, nil, timeout); err != nil {
		return err
	}
	if err := d.runAll(ctx, sink.Stage("deploy"), Release{}, "after", a.After); err != nil {
		return err
	}
	for _, i := range due {
		if err := d.setLabel(ctx, releases[i], lasts[i].version, labelAfterAll, nil); err != nil {
			return err
		}
	}
	return nil
}
