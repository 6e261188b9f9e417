package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/release"

	"github.com/devloop/devloop/pkg/event"
)

// Apply makes the cluster hold the releases, and writes nothing where it does already. Releases are
// applied concurrently, each once its dependencies are up; timeout limits the wait for a rollout.
// A Helm write is never interrupted: a canceled ctx only keeps it from starting.
//
// Nothing is written before begin, which is called once, has returned nil: by then, each release
// that waits for no other one has been prepared as far as that goes. Unless that fails, begin is
// called also if there is nothing to write; its error is returned as it is.
func (d *Deployer) Apply(
	ctx context.Context, sink event.Sink, releases []Release, commands Around, timeout time.Duration,
	begin func(context.Context) error,
) error {
	stage := sink.Stage("deploy")
	defer d.forgetValidated()
	if err := d.cluster.Ping(ctx); err != nil {
		return markBusy(err)
	}
	type result struct {
		done    chan struct{}
		awaited bool // by other releases
		isUp    bool // once done is closed
	}
	results := map[string]*result{}
	for _, r := range releases {
		results[r.Name] = &result{done: make(chan struct{})}
	}
	for _, r := range releases {
		for _, name := range r.DependsOn {
			results[name].awaited = true
		}
	}
	all, ctx := d.newAround(ctx, stage, commands, releases, begin)
	if d.endingNamespace(ctx, releases) { // what is read of a release in it would be gone a moment later
		if err := all.beginning(); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	lasts := make([]revision, len(releases))
	errs := make([]error, len(releases))
	for i, r := range releases {
		group.Go(func() {
			result := results[r.Name]
			defer close(result.done)
			for _, name := range r.DependsOn {
				<-results[name].done
				if results[name].isUp {
					continue
				}
				if ctx.Err() == nil {
					stage.Note("release skipped, one that it depends on is not up", "release", event.Name(r.Name),
						"depends on", name)
				}
				return
			}
			errs[i] = markBusy(stage.Guard("release", func() (err error) {
				lasts[i], err = d.apply(ctx, sink, r, all, result.awaited, timeout)
				return err
			}))
			if result.isUp = errs[i] == nil; !result.isUp {
				all.giveUp()
			}
		})
	}
	group.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, errNotBegun) })
	if err := errors.Join(errs...); err != nil {
		if errors.Is(all.notBegun, errNotBegun) { // given up because of errs
			return err
		}
		return errors.Join(err, all.notBegun)
	}
	if err := all.beginning(); err != nil {
		return err
	}
	return markBusy(d.afterAll(ctx, sink, all, releases, lasts, timeout))
}

// apply applies one release, and returns its last revision, if it is ours. It waits for the rollout
// if other releases (awaited) or commands depend on it.
func (d *Deployer) apply(
	ctx context.Context, sink event.Sink, r Release, all *around, awaited bool, timeout time.Duration,
) (last revision, err error) {
	stage := sink.Stage("deploy")
	want, err := d.readInputs(ctx, stage, r)
	if err != nil {
		return last, err
	}
	want.around = all
	changed := false
	for try := 1; ; try++ {
		last, changed, err = d.change(ctx, stage, want)
		if err == nil && !changed { // its rollout needs the images, and it may change while they are built
			err = all.begin()
		}
		if !errors.Is(err, errMoved) || try == maxConflicts {
			break
		}
	}
	if err != nil {
		return last, err
	}
	if d.mayWrite(r, last) != nil { // which commands are due is its owner's business
		last.labels = nil
	}
	due := last.labels[labelAfter] == labelDue
	if !awaited && !due {
		return last, nil
	}
	if !changed {
		sink = nil // its rollout is awaited, but not news
	}
	if err := d.Wait(ctx, sink, []Release{r}, nil, timeout); err != nil || !due {
		return last, err
	}
	return last, d.after(ctx, stage, r, last)
}

// change writes a release unless the cluster holds it already, and returns its last revision. The
// error is errMoved if someone else writes it meanwhile.
func (d *Deployer) change(
	ctx context.Context, stage event.Stage, want desired,
) (last revision, changed bool, err error) {
	r := want.Release
	if last, err = d.last(ctx, r); err != nil {
		return last, false, err
	}
	refused := d.mayWrite(r, last)
	if refused == nil {
		if last, err = d.awaitOtherWriter(ctx, stage, r, last); err != nil {
			return last, false, err
		}
	}
	upToDate, err := d.upToDate(ctx, last, want)
	if err != nil {
		return last, false, err
	}
	var drifted []drift
	if upToDate || refused == nil && d.wasApplied(last) {
		if drifted, err = d.driftsBefore(ctx, stage, r, last, upToDate); err != nil {
			return last, false, err
		}
	}
	switch {
	case upToDate && len(drifted) == 0:
		if refused == nil && !d.owns(r, last) { // taken over
			if err := d.claim(ctx, stage, want, last); err != nil {
				return last, false, err
			}
		}
		stage.Detail(event.ReleaseUnchanged, r.payload(last.version))
		return last, false, nil
	case refused != nil:
		return last, false, refused
	case upToDate:
		if err := d.claim(ctx, stage, want, last); err != nil {
			return last, false, err
		}
		return last, true, d.restore(ctx, stage, r, last, drifted)
	}
	last, err = d.writeOver(ctx, stage, want, last, drifted)
	return last, true, err
}

// driftsBefore returns what others have changed in a release. If it is going to be written, an
// error is only reported: the write may mend what is wrong.
func (d *Deployer) driftsBefore(
	ctx context.Context, stage event.Stage, r Release, last revision, upToDate bool,
) ([]drift, error) {
	drifted, err := d.drifts(ctx, stage, r, last)
	if err == nil || upToDate {
		return drifted, err
	}
	stage.Detail("changes by hand could not be determined", "release", event.Name(r.Name), "reason", err.Error())
	return drifted, nil
}

// writeOver applies a release that differs and some of whose objects were changed by hand. Helm
// reverts what the new manifest sets; the rest is reverted afterwards.
func (d *Deployer) writeOver(ctx context.Context, stage event.Stage, want desired, last revision, drifted []drift,
) (revision, error) {
	changed := slices.DeleteFunc(drifted, func(f drift) bool { return len(f.changes) == 0 || f.unmarked })
	now, err := d.write(ctx, stage, want, last)
	if err != nil || len(changed) == 0 {
		return now, err
	}
	// A newer change does not keep the rest from being reverted: the next run would not know of it.
	ctx = context.WithoutCancel(ctx)
	left, err := d.driftsLeft(ctx, stage, want.Release, now, changed)
	if err == nil {
		_, err = d.revert(ctx, stage, want.Release, now, left)
	}
	if err == nil {
		d.report(ctx, stage, want.Release, now, d.withoutKept(ctx, changed))
	}
	return now, err
}

// mayWrite returns an error if the release belongs to someone else.
func (d *Deployer) mayWrite(r Release, last revision) error {
	switch {
	case !last.exists(), d.owns(r, last), d.options.Adopt:
		return nil
	case d.labelled(last):
		return event.WithHint(fmt.Errorf("release %s was made by a devloop of another user or machine: "+
			"devloop's state folder here does not know it", r.ID()),
			"take it over with --adopt, or give yours another name or namespace")
	}
	err := fmt.Errorf("release %s is there already and was not made by devloop for the project %q", r.ID(), d.project)
	return event.WithHint(err, fmt.Sprintf("take it over with --adopt, remove it (helm uninstall %s -n %s), "+
		"or give yours another name", r.Name, r.Namespace))
}

// write applies a release that differs, after the commands that precede it. An error says what was
// written before it.
func (d *Deployer) write(ctx context.Context, stage event.Stage, want desired, last revision) (revision, error) {
	w := &writeLog{}
	made, recreate, err := d.prepare(ctx, stage, &want, last, w)
	if err != nil {
		return last, w.explain(err)
	}
	r := want.Release
	for _, one := range made.set {
		stage.Detail("image set to what was built", "release", event.Name(r.Name), "object", event.Name(one.Object),
			"field", event.Name(one.Field), "image", event.Name(one.Built), "instead of", event.Name(one.Image))
	}
	var written *release.Release
	err = stage.Step(ctx, event.ReleaseApplied, func(ctx context.Context) ([]any, error) {
		stop := context.AfterFunc(ctx,
			func() { stage.Note("waiting for Helm's write to end", "release", event.Name(r.Name)) })
		defer stop()
		written, err = d.writeObjects(ctx, stage, want, made, recreate, w)
		if err != nil {
			return nil, w.explain(err)
		}
		return []any{r.payload(written.Version)}, nil
	}, r.payload(0))
	if err != nil {
		stopped := ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
		if r.Rollback && !stopped && !event.IsTransient(markBusy(err)) {
			err = d.rollback(stage, r, err) //nolint:contextcheck // a write is never interrupted
		}
		return last, err
	}
	now := revision{version: written.Version, status: written.Info.Status, labels: written.Labels}
	if !want.takesOver {
		return now, nil
	}
	// What kubectl has set in an object, and the release does not, Helm leaves there.
	found, err := d.drifts(ctx, stage, r, now)
	if err == nil && len(found) > 0 {
		err = d.restore(context.WithoutCancel(ctx), stage, r, now, found)
	}
	return now, err
}

// prepare does all that precedes the first write of a release: its commands, and a try of what is
// to be written. It returns what to write, and what to delete before that. What it has to write
// itself comes after want.around.begin.
func (d *Deployer) prepare(
	ctx context.Context, stage event.Stage, want *desired, last revision, w *writeLog,
) (made rendered, recreate []recreation, err error) {
	r := want.Release
	if last, err = d.runBefore(ctx, stage, want, last, w); err != nil {
		return made, nil, err
	}
	known, isKnown := d.takeValidated(want, last)
	if made = known.made; !isKnown {
		made, err = d.render(ctx, want, last)
	}
	if err != nil {
		return made, nil, err
	}
	wasMissing, err := d.bringMissing(ctx, stage, want, made, w)
	if err != nil {
		return made, nil, err
	}
	reports := event.Stage{} // Validate has reported unknown fields
	if !last.exists() {
		if err := d.awaitTerminating(ctx, stage, r, contentsOf(made.manifests)); err != nil {
			return made, nil, err
		}
		reports = stage // its namespace may be new
	}
	found := known.found
	if !isKnown || wasMissing {
		found, err = d.dryRun(ctx, reports, want, made)
	}
	if err == nil {
		err = d.mayTakeOver(r, found.foreign)
	}
	if err != nil {
		return made, nil, err
	}
	want.takesOver = found.kept || len(found.foreign) > 0
	if want.records, err = d.readRecords(ctx, r); err != nil {
		return made, nil, err
	}
	if err := d.claim(ctx, stage, *want, last); err != nil {
		return made, nil, err
	}
	d.noteTakeover(stage, r, found.foreign)
	return made, found.recreate, d.applyNamespaces(ctx, stage, r, made.definitions, w)
}

// runBefore runs the commands that precede a release, and returns its last revision after them.
func (d *Deployer) runBefore(
	ctx context.Context, stage event.Stage, want *desired, last revision, w *writeLog,
) (revision, error) {
	r := want.Release
	if len(want.around.Before)+len(r.Before) == 0 {
		return last, nil
	}
	if err := d.begin(ctx, *want, last); err != nil {
		return last, err
	}
	if err := d.beforeAll(ctx, stage, want.around); err != nil {
		return last, err
	}
	for _, command := range r.Before {
		if err := d.run(ctx, stage, r, "before", command); err != nil {
			return last, err
		}
		w.add("ran", strings.Join(command.Args, " "))
	}
	last, err := d.last(ctx, r)
	if err == nil {
		last, err = d.awaitOtherWriter(ctx, stage, r, last)
	}
	return last, err
}

// writeObjects writes a release that was claimed, its CRDs first.
func (d *Deployer) writeObjects(
	ctx context.Context, stage event.Stage, want desired, made rendered, recreate []recreation, w *writeLog,
) (*release.Release, error) {
	if err := d.applyCRDs(ctx, stage, want.Release, made.definitions, w); err != nil {
		return nil, err
	}
	if err := d.deleteToRecreate(ctx, stage, want.Release, recreate, w); err != nil {
		return nil, fmt.Errorf("release %s: %w", want.ID(), err)
	}
	written, err := d.helmWrite(ctx, stage, want, made, w)
	if err != nil {
		if event.Hint(err) == "" {
			err = event.WithHint(err, want.hintFix())
		}
		return nil, fmt.Errorf("release %s: %w", want.ID(), err)
	}
	return written, nil
}

// preparedFor is how long it counts what was read and tried for a release: templates look at the
// cluster, and objects get other owners.
const preparedFor = time.Minute

// errMoved is the error of a release that someone else has written since it was read, or may have:
// it was read more than preparedFor ago.
var errMoved = errors.New("the release has to be read again: another process may have written it meanwhile")

// begin waits until the release may be written. That takes its time: the error is errMoved if it
// took longer than preparedFor, or if last is not its last revision any more.
func (d *Deployer) begin(ctx context.Context, want desired, last revision) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := want.around.begin(); err != nil {
		return want.moved(err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	now, err := d.last(ctx, want.Release)
	if err == nil {
		err = d.mayWrite(want.Release, now)
	}
	if err != nil {
		return err
	}
	if now.version != last.version || now.status != last.status {
		return want.moved(errMoved)
	}
	return nil
}

// moved adds the release to errMoved.
func (want *desired) moved(err error) error {
	if !errors.Is(err, errMoved) {
		return err
	}
	return event.Transient(fmt.Errorf("release %s: %w", want.ID(), err))
}

// claim begins to write a release, and records that devloop may delete it.
func (d *Deployer) claim(ctx context.Context, stage event.Stage, want desired, last revision) error {
	if err := d.begin(ctx, want, last); err != nil {
		return err
	}
	if r := want.Release; last.exists() && !d.owns(r, last) {
		stage.Warn("release taken over, it will be removed with the others", nil, "release", event.Name(r.Name),
			"namespace", event.Name(r.Namespace))
	}
	return d.recordRelease(want.Release)
}

// after runs the commands that follow a release, once it is up, and then removes the mark that they
// are due.
func (d *Deployer) after(ctx context.Context, stage event.Stage, r Release, last revision) error {
	if err := d.runAll(ctx, stage, r, "after", r.After); err != nil {
		return err
	}
	return d.setLabel(ctx, r, last.version, labelAfter, nil)
}
